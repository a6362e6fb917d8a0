//! The faults of a scenario: what breaks, when, for how long, and whether it breaks anything at all.

use std::time::Duration;

use crate::limits::{FAULT_LASTS_MIN, FAULT_TIMES_MAX, FAULTS_MAX, PLANNED_DURATION_MAX};
use crate::scenario::mistake::Mistake;
use crate::scenario::parse::Path;
use crate::scenario::validate::fields::{Fields, Findings, Section, Value, closest, items};
use crate::scenario::validate::units;
use crate::scenario::{Fault, FaultAction, NodeIndex, Selector};

const FAULT: Section = Section {
    name: "a fault",
    keys: &["at", "for", "partition", "kill", "restart_after", "link", "every", "times"],
    keys_later: &["clients", "disk", "nemesis", "pause"],
};
const LINK: Section = Section {
    name: "link",
    keys: &["from", "to", "loss"],
    keys_later: &["between", "corrupt", "duplicate", "jitter", "latency"],
};

/// The kinds of fault, and the key that says how long each lasts.
const KINDS: [(&str, &str); 3] = [("partition", "for"), ("kill", "restart_after"), ("link", "for")];

/// All faults, or none if one of them is wrong. `nodes` is `None` if their names are not known.
pub(super) fn faults(
    value: &Value<'_>,
    nodes: Option<&[String]>,
    findings: &mut Findings,
) -> Option<Vec<Fault>> {
    let list = items(value, "faults", "a list", findings)?;
    if list.len() > FAULTS_MAX {
        findings.add(&value.path, Mistake::FaultCount { count: list.len() });
        return None;
    }
    let faults: Vec<_> = list.iter().map(|item| fault(item, nodes, findings)).collect();
    faults.into_iter().collect()
}

fn fault(value: &Value<'_>, nodes: Option<&[String]>, findings: &mut Findings) -> Option<Fault> {
    let fields = Fields::open(value, "a fault", &FAULT, findings)?;
    let at = fields.require("at", findings);
    let at =
        at.and_then(|value| units::duration(&value, "at", Duration::ZERO, PLANNED_DURATION_MAX, findings));
    let repeat = repeat(&fields, findings);
    let Some((kind, lasts_key)) = kind(&fields, &value.path, findings) else {
        // What it would have been is unknown, so nothing more can be said about its other keys.
        return None;
    };
    let misplaced = if lasts_key == "for" { "restart_after" } else { "for" };
    if let Some(path) = fields.key_path(misplaced) {
        findings.add(&path, Mistake::MisplacedKey { kind, key: misplaced, instead: lasts_key });
    }
    let lasts = if fields.key_path(misplaced).is_some() && fields.key_path(lasts_key).is_none() {
        None
    } else {
        fields.require(lasts_key, findings)
    };
    let lasts = lasts.and_then(|value| {
        units::duration(&value, lasts_key, FAULT_LASTS_MIN, PLANNED_DURATION_MAX, findings)
    });
    let body = fields.get(kind)?;
    let action = match kind {
        "partition" => partition(&body, nodes, findings),
        "kill" => one_node(&body, "kill", nodes, findings).map(|who| FaultAction::Kill { who }),
        _ => link(&body, nodes, findings),
    };
    let (every, times) = repeat?;
    Some(Fault { at: at?, action: action?, lasts: lasts?, times, every })
}

/// The kind of fault and the key that says how long it lasts.
fn kind(fields: &Fields<'_>, path: &Path, findings: &mut Findings) -> Option<(&'static str, &'static str)> {
    let mut first = None;
    let mut is_one = true;
    for key in fields.keys() {
        let Some(kind) = KINDS.iter().find(|(kind, _)| *kind == key) else {
            continue;
        };
        if let (Some((first, _)), Some(path)) = (first, fields.key_path(key)) {
            findings.add(&path, Mistake::FaultKindTwice { first, second: kind.0 });
            is_one = false;
        }
        first = first.or(Some(*kind));
    }
    let is_misspelt = KINDS.iter().any(|(kind, _)| fields.is_misspelt(kind));
    if first.is_none() && !is_misspelt && !fields.has_later {
        findings.add(path, Mistake::FaultKindMissing);
    }
    first.filter(|_| is_one)
}

/// `every` and `times`, which belong together.
fn repeat(fields: &Fields<'_>, findings: &mut Findings) -> Option<(Duration, u32)> {
    let (every, times) = (fields.get("every"), fields.get("times"));
    for (given, missing) in [("every", "times"), ("times", "every")] {
        if let (Some(path), None, false) =
            (fields.key_path(given), fields.get(missing), fields.is_misspelt(missing))
        {
            findings.add(&path, Mistake::Alone { given, missing });
        }
    }
    let is_alone = every.is_some() != times.is_some();
    let every = every.map_or(Some(Duration::ZERO), |value| {
        units::duration(&value, "every", FAULT_LASTS_MIN, PLANNED_DURATION_MAX, findings)
    });
    let times = times.map_or(Some(1), |value| units::number(&value, "times", 1, FAULT_TIMES_MAX, findings));
    if is_alone { None } else { Some((every?, times?)) }
}

fn partition(value: &Value<'_>, nodes: Option<&[String]>, findings: &mut Findings) -> Option<FaultAction> {
    let lists = items(value, "partition", "a list of groups, each a list of nodes", findings)?;
    if lists.len() < 2 {
        findings.add(&value.path, Mistake::GroupCount { groups_count: lists.len() });
    }
    let mut members: Vec<Selector> = Vec::new();
    let mut groups = Vec::new();
    let mut is_whole = lists.len() >= 2;
    for list in &lists {
        let Some(group) = items(list, "a group", "a list of nodes", findings) else {
            is_whole = false;
            continue;
        };
        if group.is_empty() {
            findings.add(&list.path, Mistake::GroupEmpty);
            is_whole = false;
        }
        let group: Vec<_> = group.iter().map(|item| member(item, &mut members, nodes, findings)).collect();
        let group: Option<Vec<_>> = group.into_iter().collect();
        is_whole &= group.is_some();
        groups.extend(group);
    }
    let is_possible = is_whole && nodes.is_none_or(|nodes| fits(value, &members, nodes.len(), findings));
    is_possible.then_some(FaultAction::Partition { groups })
}

/// One entry of a group; all but `follower` and `random` may stand only once in a partition.
fn member(
    value: &Value<'_>,
    members: &mut Vec<Selector>,
    nodes: Option<&[String]>,
    findings: &mut Findings,
) -> Option<Selector> {
    let selector = selector(value, "a group's member", nodes, findings)?;
    if !matches!(selector, Selector::Follower | Selector::Random) && members.contains(&selector) {
        let who = who(selector, nodes);
        findings.add(&value.path, Mistake::Overlap { who });
        return None;
    }
    members.push(selector);
    Some(selector)
}

/// Whether the cluster has as many nodes as the selectors take.
fn fits(value: &Value<'_>, members: &[Selector], nodes_count: usize, findings: &mut Findings) -> bool {
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

fn link(value: &Value<'_>, nodes: Option<&[String]>, findings: &mut Findings) -> Option<FaultAction> {
    let fields = Fields::open(value, "link", &LINK, findings)?;
    let from = fields.require("from", findings);
    let from = from.and_then(|value| one_node(&value, "link.from", nodes, findings));
    let to_value = fields.require("to", findings);
    let to = to_value.as_ref().and_then(|value| one_node(value, "link.to", nodes, findings));
    let loss = if fields.has_later { fields.get("loss") } else { fields.require("loss", findings) };
    if let Some(loss) = &loss
        && !units::is_all(loss, "link.loss", findings)?
    {
        findings.add(&loss.path, Mistake::NotThereYet { what: "link.loss other than 100%".to_owned() });
        return None;
    }
    let (from, to, _) = (from?, to?, loss?);
    let nodes_count = nodes.map_or(usize::MAX, <[String]>::len);
    if nodes_count < 2 {
        findings.add(&value.path, Mistake::LinkAlone { nodes_count });
        return None;
    }
    if from == to && !matches!(from, Selector::Follower | Selector::Random) {
        findings.add(&to_value?.path, Mistake::LinkToItself { who: who(to, nodes) });
        return None;
    }
    if from == Selector::Follower && to == Selector::Follower && nodes_count < 3 {
        findings.add(&value.path, Mistake::Followers { named: 2, nodes_count });
        return None;
    }
    Some(FaultAction::CutOneWay { from, to })
}

fn one_node(
    value: &Value<'_>,
    key: &'static str,
    nodes: Option<&[String]>,
    findings: &mut Findings,
) -> Option<Selector> {
    let selector = selector(value, key, nodes, findings)?;
    let mistake = match (selector, nodes) {
        (Selector::Rest, _) => Mistake::OneNode { key },
        (Selector::Follower, Some([_])) => Mistake::Followers { named: 1, nodes_count: 1 },
        _ => return Some(selector),
    };
    findings.add(&value.path, mistake);
    None
}

fn selector(
    value: &Value<'_>,
    key: &'static str,
    nodes: Option<&[String]>,
    findings: &mut Findings,
) -> Option<Selector> {
    let word = units::text(value, key, findings)?;
    let mistake = match word {
        "leader" => return Some(Selector::Leader),
        "follower" => return Some(Selector::Follower),
        "random" => return Some(Selector::Random),
        "rest" => return Some(Selector::Rest),
        "clients" => Mistake::NotThereYet { what: "selector clients".to_owned() },
        name => {
            // If the nodes' own list is wrong, that is the mistake, not this name.
            let nodes = nodes?;
            match nodes.iter().zip(0..).find(|(node, _)| *node == name) {
                Some((_, index)) => return Some(Selector::Node(NodeIndex(index))),
                None => unknown_node(name, nodes),
            }
        }
    };
    findings.add(&value.path, mistake);
    None
}

/// Names are listed as far as they fit on a line. n6 is no misspelling of n5.
fn unknown_node(name: &str, nodes: &[String]) -> Mistake {
    const LISTED_MAX: usize = 7;
    let mut listed = nodes[..nodes.len().min(LISTED_MAX)].join(", ");
    if let Some(last) = nodes.last().filter(|_| nodes.len() > LISTED_MAX) {
        listed = format!("{listed} to {last}");
    }
    let words = nodes.iter().map(String::as_str).filter(|node| node.len() > 3);
    let candidates: Vec<&str> = words.chain(["leader", "follower", "random", "rest"]).collect();
    Mistake::UnknownNode {
        name: name.to_owned(),
        close: closest(name, &candidates).map(str::to_owned),
        nodes: listed,
    }
}

fn who(selector: Selector, nodes: Option<&[String]>) -> String {
    match (selector, nodes) {
        (Selector::Node(node), Some(nodes)) => nodes[node.position()].clone(),
        _ => selector.to_string(),
    }
}
