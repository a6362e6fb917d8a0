//! Whether the changes of the members that a scenario asks for can be made, in the order in which they are due.

use std::collections::BTreeSet;

use crate::scenario::mistake::Mistake;
use crate::scenario::validate::fields::{Findings, Value};
use crate::scenario::validate::nodes::Nodes;
use crate::scenario::validate::selectors::{ROLES, selectors};
use crate::scenario::{Fault, FaultAction, MemberChange, NodeIndex, Selector};

/// Who is to come in or to vote: a node by its name, since nobody who plays a role is outside.
pub(super) fn named(
    value: &Value<'_>,
    key: &'static str,
    nodes: Option<&Nodes>,
    findings: &mut Findings,
) -> Option<Selector> {
    let named = selectors(value, key, nodes, &ROLES, findings)?;
    match named.selectors.as_slice() {
        [node @ Selector::Node(_)] if !named.is_zone => Some(*node),
        _ => {
            findings.add(&value.path, Mistake::ByName { key, word: named.word });
            None
        }
    }
}

/// Goes through the changes. Who leaves by a role is not known before the run, so only numbers are counted from there on.
pub(super) fn are_possible(
    faults: &[Fault],
    list: &[Value<'_>],
    nodes: &Nodes,
    findings: &mut Findings,
) -> bool {
    let mut order: Vec<(usize, &Fault)> = faults.iter().enumerate().collect();
    order.sort_by_key(|(place, fault)| (fault.at, *place));
    let mut voters: BTreeSet<NodeIndex> = (0..nodes.founders).map(NodeIndex).collect();
    let mut learners: BTreeSet<NodeIndex> = BTreeSet::new();
    let mut gone: BTreeSet<NodeIndex> = BTreeSet::new();
    // Voters that have left by a role.
    let mut anonymous = 0;
    let name = |node: NodeIndex| nodes.names[node.position()].clone();
    for (place, fault) in order {
        let may_be_gone = |node: NodeIndex| anonymous > 0 && voters.contains(&node);
        let mistake = match fault.action {
            ref action if matches!(action.victim(), Some(Selector::Node(node)) if may_be_gone(node)) => {
                let Some(Selector::Node(node)) = action.victim() else { unreachable!("it was just matched") };
                Some(Mistake::MayBeGone { name: name(node) })
            }
            FaultAction::Members { .. } if fault.times > 1 => Some(Mistake::ChangedTwice),
            FaultAction::Members { change, who: Selector::Node(node) } => match change {
                MemberChange::Add if voters.contains(&node) || learners.contains(&node) => {
                    Some(Mistake::MemberAlready { name: name(node) })
                }
                MemberChange::Add if gone.contains(&node) => Some(Mistake::MemberNoMore { name: name(node) }),
                MemberChange::Add => {
                    learners.insert(node);
                    None
                }
                MemberChange::Promote if learners.remove(&node) => {
                    voters.insert(node);
                    None
                }
                MemberChange::Promote => Some(Mistake::NoLearner { name: name(node) }),
                MemberChange::Remove if voters.remove(&node) || learners.remove(&node) => {
                    gone.insert(node);
                    None
                }
                MemberChange::Remove => Some(Mistake::NoMember { name: name(node) }),
            },
            FaultAction::Members { .. } => {
                anonymous += 1;
                None
            }
            // Who has a majority depends on who is a member by then.
            FaultAction::Partition { .. } => Some(Mistake::CutWhileChanging { what: "partition" }),
            FaultAction::Link { effect, .. } if effect.is_cut() => {
                Some(Mistake::CutWhileChanging { what: "link with loss: 100%" })
            }
            FaultAction::Rollback { .. } => Some(Mistake::CutWhileChanging { what: "rollback" }),
            ref other => match other.victim() {
                Some(Selector::Node(node)) if !voters.contains(&node) && !learners.contains(&node) => {
                    Some(Mistake::NoMember { name: name(node) })
                }
                _ => None,
            },
        };
        let mistake = mistake.or_else(|| {
            (voters.len() <= anonymous).then_some(Mistake::NobodyVotes { left: voters.len(), anonymous })
        });
        if let Some(mistake) = mistake {
            findings.add(&list[place].path, mistake);
            return false;
        }
    }
    true
}
