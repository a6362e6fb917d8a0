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
    let voters = (0..nodes.founders).map(NodeIndex).collect();
    let spares = nodes.joined_voters.map(|voters| nodes.names.len() - usize::from(voters));
    let mut members = Members { names: &nodes.names, voters, spares, ..Members::default() };
    for (place, fault) in order {
        if let Some(mistake) = members.mistake(fault).or_else(|| members.nobody_votes()) {
            findings.add(&list[place].path, mistake);
            return false;
        }
    }
    true
}

/// Who belongs to the cluster, as far as that is known before a run.
#[derive(Default)]
struct Members<'a> {
    /// Those of all nodes.
    names: &'a [String],
    /// And all who have joined by themselves, since nobody knows which of them vote.
    voters: BTreeSet<NodeIndex>,
    /// Where nodes join by themselves: how many do not vote.
    spares: Option<usize>,
    learners: BTreeSet<NodeIndex>,
    gone: BTreeSet<NodeIndex>,
    /// Voters that have left by a role.
    anonymous: usize,
    /// Voters that were lost. A learner votes in the place of each; nobody knows which.
    losses: usize,
}

impl Members<'_> {
    fn name(&self, node: NodeIndex) -> String {
        self.names[node.position()].clone()
    }

    fn may_be_gone(&self, node: NodeIndex) -> bool {
        let may_vote = self.voters.contains(&node) || (self.losses > 0 && self.learners.contains(&node));
        self.anonymous > 0 && may_vote
    }

    fn nobody_votes(&self) -> Option<Mistake> {
        let left = self.voters.len() + self.losses - self.spares.unwrap_or(0);
        (left <= self.anonymous).then_some(Mistake::NobodyVotes { left, anonymous: self.anonymous })
    }

    /// Why a fault cannot be, if it cannot; otherwise it has happened.
    fn mistake(&mut self, fault: &Fault) -> Option<Mistake> {
        if let Some(Selector::Node(node)) = fault.action.victim()
            && self.may_be_gone(node)
        {
            return Some(Mistake::MayBeGone { name: self.name(node) });
        }
        match fault.action {
            ref action if action.changes_members() && fault.times > 1 => Some(Mistake::ChangedTwice),
            FaultAction::Members { change: MemberChange::Promote, who: Selector::Node(node) }
            | FaultAction::Lose { who: Selector::Node(node) }
                if self.spares.is_some() =>
            {
                Some(Mistake::JoinsByItself { kind: fault.action.key(), name: self.name(node) })
            }
            FaultAction::Members { change, who: Selector::Node(node) } => self.change(change, node),
            FaultAction::Members { .. } => {
                self.anonymous += 1;
                None
            }
            FaultAction::Lose { who } => self.lose(who),
            // Who has a majority depends on who is a member by then.
            FaultAction::Partition { .. } => Some(self.cut("partition")),
            FaultAction::Link { effect, .. } if effect.is_cut() => Some(self.cut("link with loss: 100%")),
            FaultAction::Rollback { .. } => Some(self.cut("rollback")),
            ref other => match other.victim() {
                Some(Selector::Node(node))
                    if !self.voters.contains(&node) && !self.learners.contains(&node) =>
                {
                    Some(Mistake::NoMember { name: self.name(node) })
                }
                _ => None,
            },
        }
    }

    /// Why a fault cannot be that leaves some without a majority.
    fn cut(&self, what: &'static str) -> Mistake {
        match self.spares {
            Some(1..) => Mistake::CutWhileLearning { what },
            _ => Mistake::CutWhileChanging { what },
        }
    }

    /// A change of one node's standing.
    fn change(&mut self, change: MemberChange, node: NodeIndex) -> Option<Mistake> {
        let name = self.name(node);
        match change {
            MemberChange::Add if self.voters.contains(&node) || self.learners.contains(&node) => {
                Some(Mistake::MemberAlready { name })
            }
            MemberChange::Add if self.gone.contains(&node) => Some(Mistake::MemberNoMore { name }),
            MemberChange::Add => {
                self.learners.insert(node);
                None
            }
            MemberChange::Promote if self.losses > 0 => Some(Mistake::MayVote { name }),
            MemberChange::Promote if self.learners.remove(&node) => {
                self.voters.insert(node);
                None
            }
            MemberChange::Promote => Some(Mistake::NoLearner { name }),
            MemberChange::Remove if self.voters.remove(&node) || self.learners.remove(&node) => {
                self.gone.insert(node);
                None
            }
            MemberChange::Remove => Some(Mistake::NoMember { name }),
        }
    }

    /// A loss, for which there has to be a learner.
    fn lose(&mut self, who: Selector) -> Option<Mistake> {
        if self.learners.len() + self.spares.unwrap_or(0) <= self.losses {
            return Some(Mistake::NobodyInstead);
        }
        match who {
            Selector::Node(node) if self.voters.remove(&node) => {
                self.gone.insert(node);
            }
            Selector::Node(node) => return Some(Mistake::NoVoter { name: self.name(node) }),
            _ => self.anonymous += 1,
        }
        self.losses += 1;
        None
    }
}
