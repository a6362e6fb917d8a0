//! Words that select nodes: names, zones, and the roles that nodes play when a fault is due.

use crate::scenario::Selector;
use crate::scenario::mistake::Mistake;
use crate::scenario::parse::Path;
use crate::scenario::validate::fields::{Findings, Value};
use crate::scenario::validate::nodes::Nodes;
use crate::scenario::validate::units;

/// What a node of a fault may be called besides its name.
pub(super) const ROLES: [&str; 4] = ["leader", "follower", "random", "rest"];

/// What one word of a fault selects.
pub(super) struct Selected {
    /// As it is written.
    pub(super) word: String,
    /// One, or all nodes of a zone.
    pub(super) selectors: Vec<Selector>,
    /// Whether the word is a zone's name.
    pub(super) is_zone: bool,
    /// Where it stands.
    pub(super) path: Path,
}

/// Reads a node's name, a zone's name or a role. `roles` are those that make sense here, for the message.
pub(super) fn selectors(
    value: &Value<'_>,
    key: &'static str,
    nodes: Option<&Nodes>,
    roles: &[&str],
    findings: &mut Findings,
) -> Option<Selected> {
    let word = units::text(value, key, findings)?;
    let role = match word {
        "leader" => Some(Selector::Leader),
        "follower" => Some(Selector::Follower),
        "random" => Some(Selector::Random),
        "rest" => Some(Selector::Rest),
        _ => None,
    };
    if let Some(role) = role {
        let path = value.path.clone();
        return Some(Selected { word: word.to_owned(), selectors: vec![role], is_zone: false, path });
    }
    if word == "clients" {
        findings.add(&value.path, Mistake::NotThereYet { what: "selector clients".to_owned() });
        return None;
    }
    // If the nodes' own list is wrong, that is the mistake, not this name.
    let nodes = nodes?;
    let Some(named) = nodes.named(word) else {
        findings.add(&value.path, nodes.unknown(word, roles));
        return None;
    };
    let selectors = named.into_iter().map(Selector::Node).collect();
    let path = value.path.clone();
    Some(Selected { word: word.to_owned(), selectors, is_zone: nodes.is_zone(word), path })
}

/// Whether the cluster has as many nodes as the selectors take.
pub(super) fn fits(
    value: &Value<'_>,
    members: &[Selector],
    nodes_count: usize,
    findings: &mut Findings,
) -> bool {
    let followers = members.iter().filter(|selector| **selector == Selector::Follower).count();
    let named = members.iter().filter(|selector| **selector != Selector::Rest).count();
    let has_rest = named < members.len();
    let mistake = if followers > nodes_count - 1 {
        Mistake::Followers { named: followers, nodes_count }
    } else if named > nodes_count {
        Mistake::Members { named, nodes_count }
    } else if has_rest && named == nodes_count {
        Mistake::RestEmpty { nodes_count }
    } else {
        return true;
    };
    findings.add(&value.path, mistake);
    false
}
