//! The nodes of a scenario: their names, and the zones that some of them are in.

use crate::limits::machines::MEMORY_MIB_DEFAULT;
use crate::limits::{NODE_NAME_BYTES_MAX, NODES_MAX};
use crate::scenario::NodeIndex;
use crate::scenario::mistake::{Mistake, NameOf};
use crate::scenario::parse::Raw;
use crate::scenario::validate::fields::{Fields, Findings, Section, Value, closest, items};
use crate::scenario::validate::units;

const NODES: Section =
    Section { name: "nodes", keys: &["count", "founders", "join", "voters", "memory"], keys_later: &[] };
const NODE: Section = Section { name: "a node", keys: &["id", "zone", "memory"], keys_later: &["role"] };

/// Words that select nodes, and names that the lab gives to its own parts.
const NAMES_RESERVED: [&str; 6] = ["leader", "follower", "random", "rest", "clients", "lab"];

/// The nodes of a scenario.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// Their names, none twice.
    pub(super) names: Vec<String>,
    /// As many; no zone has a node's name.
    pub(super) zones: Vec<Option<String>>,
    /// As many: the memory of each, in MiB.
    pub(super) memories_mib: Vec<u32>,
    /// How many of them, the first ones, found the cluster; all, where they join it by themselves.
    pub(super) founders: u16,
    /// Where they join by themselves: how many are to vote.
    pub(super) joined_voters: Option<u16>,
}

impl Nodes {
    /// The nodes that a word names: one by its own name, or all of a zone.
    pub(super) fn named(&self, word: &str) -> Option<Vec<NodeIndex>> {
        let is_meant = |(_, (name, zone)): &(u16, (&String, &Option<String>))| {
            *name == word || zone.as_deref() == Some(word)
        };
        let nodes: Vec<NodeIndex> = (0..)
            .zip(self.names.iter().zip(&self.zones))
            .filter(is_meant)
            .map(|(index, _)| NodeIndex(index))
            .collect();
        (!nodes.is_empty()).then_some(nodes)
    }

    /// Their positions, in order.
    pub(super) fn indexes(&self) -> impl Iterator<Item = NodeIndex> + use<> {
        (0..u16::try_from(self.names.len()).expect("at most NODES_MAX")).map(NodeIndex)
    }

    /// Whether a word is a zone's name.
    pub(super) fn is_zone(&self, word: &str) -> bool {
        self.zones.iter().flatten().any(|zone| zone == word)
    }

    /// What is said about a word that names nothing here. Names are listed as far as they fit on a line. n6 is no
    /// misspelling of n5.
    pub(super) fn unknown(&self, word: &str, roles: &[&str]) -> Mistake {
        let mut zones: Vec<&str> = self.zones.iter().flatten().map(String::as_str).collect();
        zones.sort_unstable();
        zones.dedup();
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let mut known = format!("nodes are {}", listed(&names));
        if !roles.is_empty() {
            known = format!("{known}; roles are {}", roles.join(", "));
        }
        if !zones.is_empty() {
            known = format!("{known}; zones are {}", listed(&zones));
        }
        let long = names.into_iter().chain(zones).filter(|name| name.len() > 3);
        let candidates: Vec<&str> = long.chain(roles.iter().copied()).collect();
        Mistake::UnknownNode {
            name: word.to_owned(),
            close: closest(word, &candidates).map(str::to_owned),
            known,
        }
    }
}

fn listed(names: &[&str]) -> String {
    const LISTED_MAX: usize = 7;
    let first = names[..names.len().min(LISTED_MAX)].join(", ");
    match names.last() {
        Some(last) if names.len() > LISTED_MAX => format!("{first} to {last}"),
        _ => first,
    }
}

/// Either a count, for nodes named n1, n2 and so on, or a list.
pub(super) fn nodes(value: &Value<'_>, findings: &mut Findings) -> Option<Nodes> {
    if matches!(value.raw, Raw::List(_)) {
        return node_list(value, findings);
    }
    let fields = Fields::open(value, "nodes", &NODES, findings)?;
    let count = fields.require("count", findings)?;
    let count = units::number(&count, "nodes.count", 1, NODES_MAX.into(), findings);
    let memory_mib = memory_mib(&fields, findings)?;
    let count = count?;
    let joined_voters = joined_voters(&fields, count, findings);
    let founders = fields
        .get("founders")
        .map_or(Some(count), |value| units::number(&value, "nodes.founders", 1, count, findings))?;
    let names: Vec<String> = (1..=count).map(|number| format!("n{number}")).collect();
    let founders = u16::try_from(founders).expect("at most NODES_MAX");
    Some(Nodes {
        zones: vec![None; names.len()],
        memories_mib: vec![memory_mib; names.len()],
        names,
        founders,
        joined_voters,
    })
}

/// How many are to vote of nodes that join by themselves, if they do; nothing if that is wrong.
fn joined_voters(fields: &Fields<'_>, count: u32, findings: &mut Findings) -> Option<u16> {
    let (join, voters) = (fields.get("join"), fields.get("voters"));
    for (given, missing) in [("join", "voters"), ("voters", "join")] {
        if let (Some(path), None, false) =
            (fields.key_path(given), fields.get(missing), fields.is_misspelt(missing))
        {
            findings.add(&path, Mistake::Alone { given, missing });
        }
    }
    if let (Some(_), Some(path)) = (&join, fields.key_path("founders")) {
        findings.add(&path, Mistake::FoundersWhoJoin);
        return None;
    }
    let join = join.map(|value| match units::text(&value, "nodes.join", findings)? {
        "ticket" => Some(()),
        other => {
            findings.add(&value.path, Mistake::Join { value: other.to_owned() });
            None
        }
    });
    let voters = voters.map(|value| units::number(&value, "nodes.voters", 1, count, findings));
    join.flatten()?;
    voters.flatten().map(|voters| u16::try_from(voters).expect("at most NODES_MAX"))
}

/// The memory that a map names, or the default.
fn memory_mib(fields: &Fields<'_>, findings: &mut Findings) -> Option<u32> {
    fields.get("memory").map_or(Some(MEMORY_MIB_DEFAULT), |value| units::memory_mib(&value, findings))
}

fn node_list(value: &Value<'_>, findings: &mut Findings) -> Option<Nodes> {
    let list = items(value, "nodes", "a map or a list", findings)?;
    if list.is_empty() || list.len() > NODES_MAX.into() {
        findings.add(&value.path, Mistake::NodeCount { count: list.len(), max: NODES_MAX });
        return None;
    }
    let mut nodes = Nodes::default();
    // Where each zone stands, to be compared with names that may follow.
    let mut zones = Vec::new();
    let mut is_whole = true;
    for item in &list {
        let Some(fields) = Fields::open(item, "a node", &NODE, findings) else {
            is_whole = false;
            continue;
        };
        let zone = fields.get("zone").map(|value| (name(&value, NameOf::Zone, findings), value.path));
        is_whole &= zone.as_ref().is_none_or(|(zone, _)| zone.is_some());
        let memory_mib = memory_mib(&fields, findings);
        is_whole &= memory_mib.is_some();
        let id = fields.require("id", findings);
        let Some((id, node)) = id.and_then(|id| Some((name(&id, NameOf::Node, findings)?, id))) else {
            is_whole = false;
            continue;
        };
        if nodes.names.contains(&id) {
            findings.add(&node.path, Mistake::NameTwice { of: NameOf::Node, name: id.clone() });
        }
        nodes.names.push(id);
        nodes.memories_mib.push(memory_mib.unwrap_or(MEMORY_MIB_DEFAULT));
        nodes.zones.push(zone.as_ref().and_then(|(zone, _)| zone.clone()));
        zones.extend(zone.and_then(|(zone, path)| Some((zone?, path))));
    }
    for (zone, path) in zones.into_iter().filter(|(zone, _)| nodes.names.contains(zone)) {
        findings.add(&path, Mistake::ZoneIsNode { name: zone });
        is_whole = false;
    }
    nodes.founders = u16::try_from(nodes.names.len()).expect("at most NODES_MAX");
    is_whole.then_some(nodes)
}

/// The name of a node, a zone or a network.
pub(super) fn name(value: &Value<'_>, of: NameOf, findings: &mut Findings) -> Option<String> {
    let key = match of {
        NameOf::Node => "nodes.id",
        NameOf::Zone => "nodes.zone",
        NameOf::Network => "networks.id",
    };
    let name = units::text(value, key, findings)?.to_owned();
    let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let begins = name.starts_with(|first: char| first.is_ascii_lowercase());
    let mistake = if !begins || name.len() > NODE_NAME_BYTES_MAX || !name.bytes().all(is_allowed) {
        Mistake::NodeName { of, value: name }
    } else if of != NameOf::Network && NAMES_RESERVED.contains(&name.as_str()) {
        Mistake::NodeNameReserved { of, value: name }
    } else {
        return Some(name);
    };
    findings.add(&value.path, mistake);
    None
}
