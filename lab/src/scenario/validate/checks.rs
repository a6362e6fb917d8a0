//! The checks of a scenario, and whether there is anything for them to check.

use crate::limits::{PLANNED_DURATION_MAX, RECOVERS_WITHIN_MIN};
use crate::scenario::mistake::Mistake;
use crate::scenario::parse::{Path, Raw};
use crate::scenario::validate::fields::{
    Fields, Findings, Section, Value, closest, describe, items, wrong_type,
};
use crate::scenario::validate::units;
use crate::scenario::{Check, Fault, FaultAction, Selector, Workload};

const RECOVERS: Section = Section { name: "recovers", keys: &["within"], keys_later: &[] };
const CHECKS: [&str; 6] =
    ["linearizable", "durable", "raft", "recovers", "minority_refuses", "bounded_staleness"];

/// All checks, or none if one of them is wrong. `nodes` and `faults` are `None` if they are wrong themselves.
pub(super) fn checks(
    value: &Value<'_>,
    nodes: Option<&[String]>,
    workload: Option<&Workload>,
    faults: Option<&[Fault]>,
    findings: &mut Findings,
) -> Option<Vec<Check>> {
    let list = items(value, "checks", "a list", findings)?;
    if list.is_empty() {
        findings.add(&value.path, Mistake::NoChecks);
        return None;
    }
    let mut names: Vec<&'static str> = Vec::new();
    let mut checks = Vec::new();
    for item in &list {
        let Some((name, place, settings)) = named(item, findings) else {
            continue;
        };
        if names.contains(&name) {
            findings.add(&place, Mistake::CheckTwice { name });
            continue;
        }
        names.push(name);
        let Some(check) = check(name, &place, settings, findings) else {
            continue;
        };
        if let Some(mistake) = pointless(check, nodes, workload, faults) {
            findings.add(&place, mistake);
        }
        checks.push(check);
    }
    (checks.len() == list.len()).then_some(checks)
}

/// The check's name, the place of that name, and its settings if it has any.
fn named<'raw>(
    item: &Value<'raw>,
    findings: &mut Findings,
) -> Option<(&'static str, Path, Option<Value<'raw>>)> {
    let (word, place, settings) = match item.raw {
        Raw::Text(word) => (word, item.path.clone(), None),
        Raw::Map(pairs) => match pairs.as_slice() {
            [(Raw::Text(word), raw)] => {
                (word, item.path.key(0), Some(Value { raw, path: item.path.value(0) }))
            }
            [(key, _)] => {
                findings.add(&item.path.key(0), Mistake::KeyNotText { found: describe(key) });
                return None;
            }
            pairs => {
                findings.add(&item.path, Mistake::CheckMap { count: pairs.len() });
                return None;
            }
        },
        raw => {
            findings
                .add(&item.path, wrong_type("a check", "a name, or a map of a name and its settings", raw));
            return None;
        }
    };
    if let Some(name) = CHECKS.iter().find(|name| *name == word) {
        return Some((name, place, settings));
    }
    findings.add(&place, Mistake::UnknownCheck { name: word.clone(), close: closest(word, &CHECKS) });
    None
}

fn check(
    name: &'static str,
    place: &Path,
    settings: Option<Value<'_>>,
    findings: &mut Findings,
) -> Option<Check> {
    let mistake = match (name, settings) {
        ("linearizable", None) => return Some(Check::Linearizable),
        ("durable", None) => return Some(Check::Durable),
        ("raft", None) => return Some(Check::Raft),
        ("bounded_staleness", None) => return Some(Check::BoundedStaleness),
        ("linearizable" | "durable" | "raft" | "bounded_staleness", Some(_)) => {
            Mistake::CheckSettings { name }
        }
        ("recovers", Some(settings)) => return recovers(&settings, findings),
        ("recovers", None) => Mistake::CheckBare { name, example: "{ recovers: { within: 10s } }" },
        (_, None) => Mistake::CheckBare { name, example: "{ minority_refuses: true }" },
        (_, Some(Value { raw: Raw::Bool(true), .. })) => return Some(Check::MinorityRefuses),
        (_, Some(Value { raw, path })) => {
            findings.add(&path, Mistake::MinorityRefusesNotTrue { found: describe(raw) });
            return None;
        }
    };
    findings.add(place, mistake);
    None
}

fn recovers(settings: &Value<'_>, findings: &mut Findings) -> Option<Check> {
    let fields = Fields::open(settings, "recovers", &RECOVERS, findings)?;
    let within = fields.require("within", findings)?;
    let (min, max) = (RECOVERS_WITHIN_MIN, PLANNED_DURATION_MAX);
    let within = units::duration(&within, "recovers.within", min, max, findings)?;
    Some(Check::Recovers { within })
}

/// A check that can find nothing would pass whatever happens.
fn pointless(
    check: Check,
    nodes: Option<&[String]>,
    workload: Option<&Workload>,
    faults: Option<&[Fault]>,
) -> Option<Mistake> {
    let (nodes, workload, faults) = (nodes?, workload?, faults?);
    match check {
        Check::Linearizable | Check::Durable | Check::Raft => None,
        Check::BoundedStaleness if workload.max_staleness.is_none() => Some(Mistake::NothingStale),
        // A node whose clock is slow rightly takes a second for less than it is.
        Check::BoundedStaleness => {
            let drifts = |fault: &Fault| matches!(fault.action, FaultAction::Clock { .. });
            faults.iter().any(drifts).then_some(Mistake::StalenessByWrongClock)
        }
        Check::Recovers { .. } => faults.is_empty().then_some(Mistake::NothingToRecover),
        Check::MinorityRefuses => {
            let leaves_minority = |fault: &Fault| match &fault.action {
                FaultAction::Partition { groups } => has_minority(groups, nodes.len()),
                FaultAction::Link { .. }
                | FaultAction::Kill { .. }
                | FaultAction::PowerCut { .. }
                | FaultAction::Lose { .. }
                | FaultAction::Restart { .. }
                | FaultAction::Members { .. }
                | FaultAction::Pause { .. }
                | FaultAction::Suspend { .. }
                | FaultAction::Rollback { .. }
                | FaultAction::Clock { .. } => false,
            };
            (!faults.iter().any(leaves_minority)).then_some(Mistake::NoMinority)
        }
    }
}

/// Whether some group, even with every node that is in no group, is fewer than a majority.
fn has_minority(groups: &[Vec<Selector>], nodes_count: usize) -> bool {
    let selectors = || groups.iter().flatten();
    let named = selectors().filter(|selector| **selector != Selector::Rest).count();
    let has_rest = named < selectors().count();
    let rest = nodes_count.saturating_sub(named);
    let outside = if has_rest { 0 } else { rest };
    let size = |selector: &Selector| if *selector == Selector::Rest { rest } else { 1 };
    groups.iter().any(|group| group.iter().map(size).sum::<usize>() + outside < nodes_count / 2 + 1)
}
