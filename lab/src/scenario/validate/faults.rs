//! The faults of a scenario: what breaks, when, for how long, and whether it breaks anything at all.

mod members;

use std::time::Duration;

use crate::limits::machines::{CLOCK_DRIFTED_MIN, CLOCK_STEP_MAX, CLOCK_STEP_MIN};
use crate::limits::{FAULT_LASTS_MIN, FAULT_TIMES_MAX, FAULTS_MAX, PER_MILLION, PLANNED_DURATION_MAX};
use crate::scenario::mistake::Mistake;
use crate::scenario::parse::Path;
use crate::scenario::validate::fields::{Fields, Findings, Section, Value, items};
use crate::scenario::validate::nodes::Nodes;
use crate::scenario::validate::selectors::{ROLES, Selected, fits, selectors};
use crate::scenario::validate::{links, units};
use crate::scenario::{ClockError, Fault, FaultAction, MemberChange, RaftSettings, Selector};

const FAULT: Section = Section {
    name: "a fault",
    keys: &[
        "at",
        "for",
        "partition",
        "kill",
        "power_cut",
        "lose",
        "within",
        "restart",
        "restart_after",
        "add",
        "promote",
        "remove",
        "link",
        "pause",
        "suspend",
        "rollback",
        "by",
        "clock",
        "step",
        "drift",
        "every",
        "times",
    ],
    keys_later: &["clients", "disk", "nemesis"],
};

/// The kinds of fault, and the key that says how long each lasts, if it lasts.
const KINDS: [(&str, Option<&str>); 13] = [
    ("partition", Some("for")),
    ("kill", Some("restart_after")),
    ("power_cut", Some("restart_after")),
    ("lose", Some("within")),
    ("restart", Some("restart_after")),
    ("add", None),
    ("promote", None),
    ("remove", None),
    ("link", Some("for")),
    ("pause", Some("for")),
    ("suspend", Some("for")),
    ("rollback", Some("by")),
    ("clock", Some("for")),
];
const LASTS_KEYS: [&str; 4] = ["for", "restart_after", "by", "within"];
/// What can be wrong with a clock.
const CLOCK_KEYS: [&str; 2] = ["step", "drift"];

/// All faults, or none if one of them is wrong. `nodes` is `None` if their names are not known, and `raft` if that is wrong itself.
pub(super) fn faults(
    value: &Value<'_>,
    nodes: Option<&Nodes>,
    raft: Option<RaftSettings>,
    findings: &mut Findings,
) -> Option<Vec<Fault>> {
    let list = items(value, "faults", "a list", findings)?;
    if list.len() > FAULTS_MAX {
        findings.add(&value.path, Mistake::FaultCount { count: list.len() });
        return None;
    }
    let faults: Vec<_> = list.iter().map(|item| fault(item, nodes, findings)).collect();
    let faults: Vec<Fault> = faults.into_iter().collect::<Option<_>>()?;
    let is_rollback = |fault: &&Fault| matches!(fault.action, FaultAction::Rollback { .. });
    let out: u32 = faults.iter().filter(is_rollback).map(|fault| fault.times).sum();
    // Whoever was put back takes no part any more.
    if let Some(nodes_count) = nodes.map(|nodes| nodes.names.len())
        && out as usize * 2 >= nodes_count
        && out > 0
    {
        findings.add(&value.path, Mistake::Rollbacks { out, nodes_count });
        return None;
    }
    for (index, fault) in faults.iter().enumerate() {
        let FaultAction::Rollback { who: Selector::Node(node) } = fault.action else { continue };
        let comes_later =
            |other: &Fault| other.at >= fault.at && other.action.victim() == Some(Selector::Node(node));
        let is_hit_again = fault.times > 1
            || faults.iter().enumerate().any(|(other, later)| other != index && comes_later(later));
        if is_hit_again {
            let name = who(Selector::Node(node), nodes);
            findings.add(&list[index].path, Mistake::HitAfterRollback { name });
            return None;
        }
    }
    for (fault, item) in faults.iter().zip(&list) {
        let FaultAction::Lose { .. } = fault.action else { continue };
        let Some(RaftSettings { replace_after, .. }) = raft else { continue };
        if replace_after.is_none_or(|after| fault.lasts <= after) {
            findings.add(&item.path, Mistake::LostForGood { within: fault.lasts, replace_after });
            return None;
        }
    }
    if let Some((fault, item)) =
        saved_and_cut(&faults).and_then(|place| faults.get(place).zip(list.get(place)))
    {
        findings.add(&item.path, Mistake::SavedAndCut { kind: fault.action.key() });
        return None;
    }
    if let Some(nodes) = nodes
        && (faults.iter().any(|fault| fault.action.changes_members())
            || usize::from(nodes.joined_voters.unwrap_or(nodes.founders)) < nodes.names.len())
        && !members::are_possible(&faults, &list, nodes, findings)
    {
        return None;
    }
    Some(faults)
}

/// The first fault that saves a machine, where others cut the power: no hypervisor saves one whose disk can lose it.
fn saved_and_cut(faults: &[Fault]) -> Option<usize> {
    let cuts_power = faults.iter().any(|fault| matches!(fault.action, FaultAction::PowerCut { .. }));
    faults.iter().position(|fault| cuts_power && fault.action.saves_machine())
}

fn fault(value: &Value<'_>, nodes: Option<&Nodes>, findings: &mut Findings) -> Option<Fault> {
    let fields = Fields::open(value, "a fault", &FAULT, findings)?;
    let at = fields.require("at", findings);
    let at =
        at.and_then(|value| units::duration(&value, "at", Duration::ZERO, PLANNED_DURATION_MAX, findings));
    let repeat = repeat(&fields, findings);
    let Some((kind, lasts_key)) = kind(&fields, &value.path, findings) else {
        // What it would have been is unknown, so nothing more can be said about its other keys.
        return None;
    };
    let mut is_misplaced = false;
    for key in LASTS_KEYS.into_iter().filter(|key| Some(*key) != lasts_key) {
        if let Some(path) = fields.key_path(key) {
            findings.add(
                &path,
                match lasts_key {
                    Some(instead) => Mistake::MisplacedKey { kind, key, instead },
                    None => Mistake::LastsNot { kind, key },
                },
            );
            is_misplaced = true;
        }
    }
    for key in CLOCK_KEYS.into_iter().filter(|_| kind != "clock") {
        if let Some(path) = fields.key_path(key) {
            findings.add(&path, Mistake::ClockKey { kind, key });
        }
    }
    let lasts = match lasts_key {
        None if is_misplaced => None,
        None => Some(Duration::ZERO),
        Some(key) if is_misplaced && fields.key_path(key).is_none() => None,
        Some(key) => fields
            .require(key, findings)
            .and_then(|value| units::duration(&value, key, FAULT_LASTS_MIN, PLANNED_DURATION_MAX, findings)),
    };
    let body = fields.get(kind)?;
    let action = match kind {
        "partition" => partition(&body, nodes, findings),
        "kill" => one_node(&body, "kill", nodes, findings).map(|who| FaultAction::Kill { who }),
        "power_cut" => one_node(&body, "power_cut", nodes, findings).map(|who| FaultAction::PowerCut { who }),
        "lose" => one_node(&body, "lose", nodes, findings).map(|who| FaultAction::Lose { who }),
        "restart" => one_node(&body, "restart", nodes, findings).map(|who| FaultAction::Restart { who }),
        "add" => members::named(&body, "add", nodes, findings)
            .map(|who| FaultAction::Members { change: MemberChange::Add, who }),
        "promote" => members::named(&body, "promote", nodes, findings)
            .map(|who| FaultAction::Members { change: MemberChange::Promote, who }),
        "remove" => one_node(&body, "remove", nodes, findings)
            .map(|who| FaultAction::Members { change: MemberChange::Remove, who }),
        "pause" => one_node(&body, "pause", nodes, findings).map(|who| FaultAction::Pause { who }),
        "suspend" => one_node(&body, "suspend", nodes, findings).map(|who| FaultAction::Suspend { who }),
        "rollback" => one_node(&body, "rollback", nodes, findings).map(|who| FaultAction::Rollback { who }),
        "clock" => {
            let who = one_node(&body, "clock", nodes, findings);
            let error = clock_error(&fields, &value.path, lasts, findings);
            who.zip(error).map(|(who, error)| FaultAction::Clock { who, error })
        }
        _ => links::fault(&body, nodes, lasts, findings),
    };
    let (every, times) = repeat?;
    Some(Fault { at: at?, action: action?, lasts: lasts?, times, every })
}

/// The kind of fault and the key that says how long it lasts, if it does.
fn kind(
    fields: &Fields<'_>,
    path: &Path,
    findings: &mut Findings,
) -> Option<(&'static str, Option<&'static str>)> {
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

/// What is wrong with a clock: `step` or `drift`.
fn clock_error(
    fields: &Fields<'_>,
    path: &Path,
    lasts: Option<Duration>,
    findings: &mut Findings,
) -> Option<ClockError> {
    match (fields.get("step"), fields.get("drift")) {
        (Some(value), None) => {
            let by_ms = units::signed_ms(&value, "step", CLOCK_STEP_MIN, CLOCK_STEP_MAX, findings)?;
            Some(ClockError::Step { by_ms })
        }
        (None, Some(value)) => {
            let per_million = units::signed_per_million(&value, "drift", findings)?;
            let gained = lasts? * per_million.unsigned_abs() / PER_MILLION;
            if gained < CLOCK_DRIFTED_MIN {
                findings.add(&value.path, Mistake::DriftSmall { lasts: lasts?, gained });
                return None;
            }
            Some(ClockError::Drift { per_million })
        }
        (None, None) => {
            if !CLOCK_KEYS.iter().any(|key| fields.is_misspelt(key)) {
                findings.add(path, Mistake::ClockErrors { count: 0 });
            }
            None
        }
        (Some(_), Some(_)) => {
            findings.add(path, Mistake::ClockErrors { count: 2 });
            None
        }
    }
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

fn partition(value: &Value<'_>, nodes: Option<&Nodes>, findings: &mut Findings) -> Option<FaultAction> {
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
        groups.extend(group.map(|group| group.concat()));
    }
    let is_possible =
        is_whole && nodes.is_none_or(|nodes| fits(value, &members, nodes.names.len(), findings));
    is_possible.then_some(FaultAction::Partition { groups })
}

/// One entry of a group; all but `follower` and `random` may stand only once in a partition.
fn member(
    value: &Value<'_>,
    members: &mut Vec<Selector>,
    nodes: Option<&Nodes>,
    findings: &mut Findings,
) -> Option<Vec<Selector>> {
    let Selected { selectors, .. } = selectors(value, "a group's member", nodes, &ROLES, findings)?;
    let is_taken = |selector: &&Selector| {
        !matches!(selector, Selector::Follower | Selector::Random) && members.contains(selector)
    };
    if let Some(taken) = selectors.iter().find(is_taken) {
        findings.add(&value.path, Mistake::Overlap { who: who(*taken, nodes) });
        return None;
    }
    members.extend(&selectors);
    Some(selectors)
}

/// One node: the victim.
fn one_node(
    value: &Value<'_>,
    key: &'static str,
    nodes: Option<&Nodes>,
    findings: &mut Findings,
) -> Option<Selector> {
    let end = selectors(value, key, nodes, &ROLES, findings)?;
    let mistake = match (end.selectors.as_slice(), nodes) {
        ([Selector::Rest], _) => Mistake::OneNode { key, word: end.word },
        _ if end.is_zone => Mistake::OneNode { key, word: end.word },
        ([Selector::Follower], Some(nodes)) if nodes.names.len() == 1 => {
            Mistake::Followers { named: 1, nodes_count: 1 }
        }
        (selectors, _) => return selectors.first().copied(),
    };
    findings.add(&value.path, mistake);
    None
}

fn who(selector: Selector, nodes: Option<&Nodes>) -> String {
    match (selector, nodes) {
        (Selector::Node(node), Some(nodes)) => nodes.names[node.position()].clone(),
        _ => selector.to_string(),
    }
}
