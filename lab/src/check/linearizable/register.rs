//! One key's operations as the checker sees them: intervals on a register.
//!
//! Whoever called, and whatever the values are called, does not matter here. What constrains nothing is
//! dropped on the way: refused operations, reads without an answer, and operations of unknown outcome whose
//! value nobody saw (Gibbons and Korach; taking them away leaves every order that explains the rest valid).

use std::collections::HashMap;

use super::BoundedReads;
use crate::history::{History, KeyIndex, Op, Operation, Outcome, ValueIndex};

/// A value of this key, numbered from 1 in the order of first appearance; [`ABSENT`] is 0.
pub(super) type Value = u32;

/// The key is not there.
pub(super) const ABSENT: Value = 0;

/// The return of an operation that may take effect at any later time.
pub(super) const FOREVER: u64 = u64::MAX;

/// What an operation does to the register when it takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Sees this value.
    Read(Value),
    /// Leaves this value. A delete leaves [`ABSENT`].
    Write(Value),
    /// Sees one value and leaves another one.
    Cas { from: Value, to: Value },
    /// No register can do this: a CAS that failed on the very value it expected.
    Never,
}

impl Step {
    /// The value that must be there just before.
    pub(super) fn observes(self) -> Option<Value> {
        match self {
            Self::Read(value) | Self::Cas { from: value, .. } => Some(value),
            Self::Write(_) | Self::Never => None,
        }
    }

    /// The value that is there just after.
    pub(super) fn creates(self) -> Option<Value> {
        match self {
            Self::Write(value) | Self::Cas { to: value, .. } => Some(value),
            Self::Read(_) | Self::Never => None,
        }
    }
}

/// An operation that takes effect at one instant between its call and its return, both included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interval {
    /// Nanoseconds since the start of the run, plus 1: the initial value has time 0 to itself.
    pub(super) call: u64,
    /// On the same clock, or [`FOREVER`].
    pub(super) ret: u64,
    pub(super) step: Step,
    /// It may also never take effect.
    pub(super) optional: bool,
    /// Index into [`History::operations`].
    pub(super) operation: u32,
}

/// The operations of one key that constrain each other.
#[derive(Debug)]
pub(super) struct Register {
    pub(super) intervals: Vec<Interval>,
    /// One more than the largest [`Value`].
    pub(super) value_count: u32,
    /// Each value has at most one operation that creates it, and nothing makes the key absent again.
    pub(super) unique: bool,
}

/// Turns a history into registers, key by key, reusing one table of value numbers.
#[derive(Debug)]
pub(super) struct Registers<'a> {
    history: &'a History,
    bounded: BoundedReads,
    /// The number of each text within the current key; 0: none yet.
    numbers: Vec<Value>,
    /// Indices into the operations, key after key.
    order: Vec<u32>,
    /// Where each key's part of `order` ends.
    ends: Vec<u32>,
}

impl<'a> Registers<'a> {
    pub(super) fn new(history: &'a History, bounded: BoundedReads) -> Self {
        let mut ends = vec![0_u32; history.keys.count()];
        for operation in &history.operations {
            ends[operation.key.0 as usize] += 1;
        }
        let mut next = Vec::with_capacity(ends.len());
        let mut total = 0;
        for end in &mut ends {
            next.push(total);
            total += *end;
            *end = total;
        }
        let mut order = vec![0; history.operations.len()];
        for (index, operation) in (0_u32..).zip(&history.operations) {
            let place = &mut next[operation.key.0 as usize];
            order[*place as usize] = index;
            *place += 1;
        }
        Self { history, bounded, numbers: vec![0; history.values.count()], order, ends }
    }

    /// The register of one key.
    pub(super) fn register(&mut self, key: KeyIndex) -> Register {
        let start = (key.0 as usize).checked_sub(1).map_or(0, |before| self.ends[before]);
        let range = start as usize..self.ends[key.0 as usize] as usize;
        let mut intervals = Vec::with_capacity(range.len());
        let mut numbering = Numbering { numbers: &mut self.numbers, used: Vec::new() };
        for &index in &self.order[range] {
            let operation = &self.history.operations[index as usize];
            let early_ns = match (operation.max_staleness_ms, self.bounded) {
                (Some(_), BoundedReads::LeftOut) => continue,
                (bound_ms, _) => bound_ms.unwrap_or(0).saturating_mul(1_000_000),
            };
            let Some((step, optional)) = step_of(operation, &mut numbering) else { continue };
            let ret = match operation.return_ns {
                Some(return_ns) if !optional => return_ns.saturating_add(1),
                _ => FOREVER,
            };
            let call = operation.call_ns.saturating_sub(early_ns).saturating_add(1);
            intervals.push(Interval { call, ret, step, optional, operation: index });
        }
        let value_count = numbering.finish();
        drop_unseen(&mut intervals, value_count);
        let unique = is_unique(&intervals, value_count);
        Register { intervals, value_count, unique }
    }
}

/// Numbers the texts of one key; leaves the shared table as it was.
struct Numbering<'a> {
    numbers: &'a mut [Value],
    used: Vec<ValueIndex>,
}

impl Numbering<'_> {
    fn number(&mut self, value: ValueIndex) -> Value {
        let number = &mut self.numbers[value.0 as usize];
        if *number == 0 {
            self.used.push(value);
            *number = u32::try_from(self.used.len()).unwrap_or(u32::MAX);
        }
        *number
    }

    fn number_or_absent(&mut self, value: Option<ValueIndex>) -> Value {
        value.map_or(ABSENT, |value| self.number(value))
    }

    fn finish(self) -> u32 {
        for value in &self.used {
            self.numbers[value.0 as usize] = 0;
        }
        u32::try_from(self.used.len() + 1).unwrap_or(u32::MAX)
    }
}

/// What the operation does, and whether it may not have happened. `None`: it constrains nothing.
fn step_of(operation: &Operation, numbering: &mut Numbering<'_>) -> Option<(Step, bool)> {
    let optional = match operation.outcome {
        Outcome::Refused { .. } => return None,
        Outcome::Read { value } => return Some((Step::Read(numbering.number_or_absent(value)), false)),
        Outcome::CasFailed { actual } => {
            let Op::Cas { expected, .. } = operation.op else { return None };
            let step =
                if actual == expected { Step::Never } else { Step::Read(numbering.number_or_absent(actual)) };
            return Some((step, false));
        }
        Outcome::Done => false,
        Outcome::Unknown => true,
    };
    match operation.op {
        Op::Read => None,
        Op::Write { value } => Some((Step::Write(numbering.number(value)), optional)),
        Op::Delete => Some((Step::Write(ABSENT), optional)),
        Op::Cas { expected: Some(expected), value } if expected == value => {
            // It changes nothing: a read, if it happened at all.
            (!optional).then(|| (Step::Read(numbering.number(value)), false))
        }
        Op::Cas { expected, value } => {
            let from = numbering.number_or_absent(expected);
            Some((Step::Cas { from, to: numbering.number(value) }, optional))
        }
    }
}

/// Drops optional operations whose value no operation that happened saw, directly or through others.
fn drop_unseen(intervals: &mut Vec<Interval>, value_count: u32) {
    let mut optional_by_value: HashMap<Value, Vec<Step>> = HashMap::new();
    let mut seen = vec![false; value_count as usize];
    let mut todo = Vec::new();
    for interval in &*intervals {
        match (interval.optional, interval.step.creates(), interval.step.observes()) {
            (true, Some(value), _) => optional_by_value.entry(value).or_default().push(interval.step),
            (false, _, Some(value)) => todo.push(value),
            _ => {}
        }
    }
    if optional_by_value.is_empty() {
        return;
    }
    while let Some(value) = todo.pop() {
        if !std::mem::replace(&mut seen[value as usize], true) {
            let steps = optional_by_value.remove(&value).unwrap_or_default();
            todo.extend(steps.into_iter().filter_map(Step::observes));
        }
    }
    intervals.retain(|interval| {
        !interval.optional || interval.step.creates().is_some_and(|value| seen[value as usize])
    });
}

fn is_unique(intervals: &[Interval], value_count: u32) -> bool {
    let mut created = vec![false; value_count as usize];
    created[ABSENT as usize] = true;
    intervals
        .iter()
        .filter_map(|interval| interval.step.creates())
        .all(|value| !std::mem::replace(&mut created[value as usize], true))
}
