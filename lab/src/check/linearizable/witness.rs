//! The smallest set of operations that cannot be explained together.
//!
//! An operation outside the set is relaxed rather than forgotten: if it leaves a value that the set saw, it
//! may still have done so, within its own time or not at all, and whatever it expected is let go. So a conflict
//! holds whatever the other operations did, and it can only grow with the set; hence the smallest set is found
//! one member at a time, each by bisection.

use super::describe;
use super::register::{Interval, Register, Step, Value};
use super::search::{Found, search};
use super::violation::{Role, Violation, WitnessOperation};
use super::{Deadline, Exhausted};
use crate::history::{History, KeyIndex, ValueIndex};

/// By how much the search for the next member widens its window.
const WIDEN: usize = 4;

impl Violation {
    pub(super) fn new(history: &History, key: KeyIndex, conflict: &Conflict) -> Self {
        let text = |value: ValueIndex| history.value(value).to_owned();
        let operations = conflict.members.iter().map(|&(index, role)| {
            let operation = &history.operations[index as usize];
            WitnessOperation {
                id: operation.id,
                role,
                client: history.client(operation.client).to_owned(),
                node: history.node(operation.node).to_owned(),
                op: operation.op.map(text),
                call_ns: operation.call_ns,
                return_ns: operation.return_ns,
                outcome: operation.outcome.map(text),
            }
        });
        let operations: Vec<_> = operations.collect();
        let key = history.key(key).to_owned();
        Self {
            summary: describe::summary(&key, &operations),
            key,
            operations,
            is_minimal: conflict.is_minimal,
        }
    }
}

/// Operations of one key that cannot be explained together.
#[derive(Debug)]
pub(super) struct Conflict {
    /// Indices of operations in the history, by call.
    pub(super) members: Vec<(u32, Role)>,
    pub(super) is_minimal: bool,
}

impl Conflict {
    /// Finds the smallest conflict among the candidates, as far as the deadline lets it.
    pub(super) fn smallest(register: &Register, candidates: Vec<u32>, deadline: &Deadline) -> Self {
        let relevant = relevant(register, &candidates);
        let (members, is_minimal) = minimise(&relevant, candidates, deadline);
        let mut found: Vec<(u32, Role)> = members.iter().map(|&index| (index, Role::Conflict)).collect();
        for &member in &members {
            if let Some(source) = source(&relevant, member)
                && found.iter().all(|&(index, _)| index != source)
            {
                found.push((source, Role::Source));
            }
        }
        let interval = |index: u32| &register.intervals[index as usize];
        found.sort_by_key(|&(index, _)| (interval(index).call, index));
        let members = found.into_iter().map(|(index, role)| (interval(index).operation, role)).collect();
        Self { members, is_minimal }
    }
}

/// What was called before this interval returned: the interval itself first, then the latest calls first,
/// since what is close in time is easiest to follow.
pub(super) fn called_before(register: &Register, at: u32) -> Vec<u32> {
    let end = register.intervals[at as usize].ret;
    let before =
        (0_u32..).zip(&register.intervals).filter(|&(index, interval)| index != at && interval.call <= end);
    let mut before: Vec<u32> = before.map(|(index, _)| index).collect();
    before.sort_by_key(|&index| std::cmp::Reverse(register.intervals[index as usize].call));
    before.insert(0, at);
    before
}

/// Adds, for each operation of unknown outcome, one that saw its value and so proves that it happened.
pub(super) fn with_observers(register: &Register, conflict: Vec<u32>) -> Vec<u32> {
    let mut conflict = conflict;
    if conflict.iter().any(|&index| register.intervals[index as usize].optional) {
        let mut observer = vec![None; register.value_count as usize];
        for (index, interval) in (0_u32..).zip(&register.intervals) {
            if let Some(value) = interval.step.observes() {
                let known = &mut observer[value as usize];
                if known.is_none() || !interval.optional {
                    *known = Some(index);
                }
            }
        }
        let mut next = 0;
        while let Some(&index) = conflict.get(next) {
            next += 1;
            let interval = &register.intervals[index as usize];
            if interval.optional
                && let Some(value) = interval.step.creates()
                && let Some(observer) = observer[value as usize]
                && !conflict.contains(&observer)
            {
                conflict.push(observer);
            }
        }
    }
    conflict
        .sort_unstable_by_key(|&index| (std::cmp::Reverse(register.intervals[index as usize].call), index));
    conflict.dedup();
    conflict
}

/// An interval and its index in the register.
type Indexed = (u32, Interval);

/// The candidates, and whatever leaves a value that one of them saw.
fn relevant(register: &Register, candidates: &[u32]) -> Vec<Indexed> {
    let mut is_candidate = vec![false; register.intervals.len()];
    let mut is_seen = vec![false; register.value_count as usize];
    for &index in candidates {
        is_candidate[index as usize] = true;
        if let Some(value) = register.intervals[index as usize].step.observes() {
            is_seen[value as usize] = true;
        }
    }
    (0_u32..)
        .zip(register.intervals.iter().copied())
        .filter(|&(index, interval)| {
            is_candidate[index as usize]
                || interval.step.creates().is_some_and(|value| is_seen[value as usize])
        })
        .collect()
}

/// The history in which only these members are as they were, and everything else is relaxed.
pub(super) fn relax(relevant: &[Indexed], members: &[u32]) -> Vec<Interval> {
    let is_member = |index: u32| members.binary_search(&index).is_ok();
    let seen = relevant.iter().filter(|&&(index, _)| is_member(index)).filter_map(|(_, i)| i.step.observes());
    let mut seen: Vec<Value> = seen.collect();
    seen.sort_unstable();
    let relaxed = relevant.iter().filter_map(|&(index, interval)| {
        if is_member(index) {
            return Some(interval);
        }
        let value = interval.step.creates().filter(|value| seen.binary_search(value).is_ok())?;
        Some(Interval { step: Step::Write(value), optional: true, ..interval })
    });
    relaxed.collect()
}

/// The smallest conflict within the candidates, and whether it is known to be. Insertion-based: the shortest
/// run of candidates that conflicts together with what is known ends in a necessary one.
fn minimise(relevant: &[Indexed], candidates: Vec<u32>, deadline: &Deadline) -> (Vec<u32>, bool) {
    let (mut known, mut rest): (Vec<u32>, Vec<u32>) = (Vec::new(), candidates);
    loop {
        let conflicts = |count: usize| -> Result<bool, Exhausted> {
            deadline.has_time()?;
            let mut members = [&known[..], &rest[..count]].concat();
            members.sort_unstable();
            match search(&relax(relevant, &members), deadline) {
                Found::Linearizable => Ok(false),
                Found::Conflict { .. } => Ok(true),
                Found::Unknown(reason) => Err(reason),
            }
        };
        match shortest(rest.len(), conflicts) {
            Ok(0) => return (known, true),
            Ok(count) => {
                rest.truncate(count);
                known.extend(rest.pop());
            }
            Err(enough) => {
                known.extend_from_slice(&rest[..enough]);
                return (known, false);
            }
        }
    }
}

/// The smallest count that conflicts, where `len` is known to; near the start first. `Err`: a count that
/// does, when the budget ended.
fn shortest(len: usize, conflicts: impl Fn(usize) -> Result<bool, Exhausted>) -> Result<usize, usize> {
    let (mut low, mut high) = (0, 0);
    loop {
        if high >= len {
            high = len;
            break;
        }
        if conflicts(high).map_err(|_| len)? {
            break;
        }
        low = high + 1;
        high = (high * WIDEN).max(1);
    }
    while low < high {
        let middle = low.midpoint(high);
        if conflicts(middle).map_err(|_| high)? {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(high)
}

/// The operation from which a member has its value: the last one called before the member returned, else the
/// first one called after.
fn source(relevant: &[Indexed], member: u32) -> Option<u32> {
    let &(_, observer) = relevant.iter().find(|&&(index, _)| index == member)?;
    let value = observer.step.observes()?;
    let creators =
        || relevant.iter().filter(|(index, i)| *index != member && i.step.creates() == Some(value));
    let before = creators().filter(|(_, creator)| creator.call <= observer.ret).max_by_key(|(_, i)| i.call);
    before.or_else(|| creators().min_by_key(|(_, i)| i.call)).map(|&(index, _)| index)
}
