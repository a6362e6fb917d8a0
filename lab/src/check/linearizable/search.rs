//! Decides any register: a search over configurations, in the order of time.
//!
//! The search of Wing and Gong with Lowe's memoisation walks through orders of the whole history and remembers
//! them all. This one goes through the calls and returns in time order and keeps only the *frontier*, every
//! configuration that explains what returned so far ("just-in-time linearization", Lowe, "Testing for
//! linearizability", 2016): its memory depends on how much is in flight, not on how long the history is. A
//! configuration is a value and, for each operation in flight, two bits of which more is always better, so
//! only the best configurations are kept:
//!
//! - *usable*: it changes the register and has not been used, so it may still take effect here;
//! - *safe*: nothing is lost if it returns now. A read that saw its value, an operation that took effect or
//!   that may never do so. Also a write that was in flight when another write took effect: it may have come
//!   right before that one, seen by nobody. It stays usable: the guess is not made before it matters.
//!
//! So a write takes effect in a configuration only when it must (it returns) or when an operation in flight
//! waits for its value. Reads happen as soon as they can. Of operations in flight that do the same, the one
//! that returns first goes first.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

use super::frontier::{Configuration, Frontier, Mask};
use super::register::{Interval, Step, Value};
use super::{Deadline, Exhausted};
use crate::limits::CHECK_PENDING_MAX;

/// A value that nobody asks for any more; all such values are one.
const FORGOTTEN: Value = u32::MAX;

/// How many steps are taken between two looks at the clock.
const STEPS_PER_LOOK: u32 = 1024;

/// What the search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// There is an order that explains everything.
    Linearizable,
    /// There is none for what was called before this interval returned.
    Conflict {
        /// Index of the interval.
        at: u32,
    },
    /// The budget ended before.
    Unknown(Exhausted),
}

/// Searches for an order that explains these intervals of one key.
pub(super) fn search(intervals: &[Interval], deadline: &Deadline) -> Found {
    let mut events = Vec::with_capacity(intervals.len() * 2);
    for (index, interval) in (0_u32..).zip(intervals) {
        events.push(Event { at: interval.call, is_return: false, index });
        if interval.ret != super::register::FOREVER {
            events.push(Event { at: interval.ret, is_return: true, index });
        }
    }
    events.sort_unstable();
    let (mut pending, mut pending_max) = (0_u32, 0);
    for event in &events {
        pending = if event.is_return { pending - 1 } else { pending + 1 };
        pending_max = pending_max.max(pending);
    }
    match pending_max {
        0..=64 => Search::<1>::new(intervals, deadline).run(&events),
        65..=256 => Search::<4>::new(intervals, deadline).run(&events),
        257..=CHECK_PENDING_MAX => {
            Search::<{ CHECK_PENDING_MAX as usize / 64 }>::new(intervals, deadline).run(&events)
        }
        _ => Found::Unknown(Exhausted::Pending(pending_max)),
    }
}

/// Ordered by time; calls before returns of the same time, which so overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: u64,
    is_return: bool,
    index: u32,
}

/// An operation in flight.
#[derive(Debug, Clone, Copy)]
struct Pending<const W: usize> {
    /// Its bit in the masks.
    slot: u32,
    index: u32,
    interval: Interval,
    /// Operations in flight that wait for the value which this one creates.
    observers: Mask<W>,
    /// Operations in flight that do the same and return earlier.
    twins: Mask<W>,
}

struct Search<'a, const W: usize> {
    intervals: &'a [Interval],
    deadline: &'a Deadline,
    /// By value: the last return of an operation that observes it.
    observed_until: Vec<u64>,
    pending: Vec<Pending<W>>,
    slots_free: Vec<u32>,
    /// Reads in flight, by value.
    reads: HashMap<Value, Mask<W>, BuildHasherDefault<DefaultHasher>>,
    all_reads: Mask<W>,
    /// Writes in flight that must take effect.
    writes: Mask<W>,
    frontier: Frontier<W>,
    now: u64,
    steps: u32,
}

impl<'a, const W: usize> Search<'a, W> {
    fn new(intervals: &'a [Interval], deadline: &'a Deadline) -> Self {
        let mut observed_until = Vec::new();
        for interval in intervals {
            let steps = [interval.step.creates(), interval.step.observes()];
            for value in steps.into_iter().flatten() {
                if value as usize >= observed_until.len() {
                    observed_until.resize(value as usize + 1, 0);
                }
            }
            if let Some(value) = interval.step.observes() {
                let until = &mut observed_until[value as usize];
                *until = interval.ret.max(*until);
            }
        }
        Self {
            intervals,
            deadline,
            observed_until,
            pending: Vec::new(),
            slots_free: (0..u32::try_from(W * 64).unwrap_or(0)).rev().collect(),
            reads: HashMap::default(),
            all_reads: Mask::EMPTY,
            writes: Mask::EMPTY,
            frontier: Frontier::initial(),
            now: 0,
            steps: 0,
        }
    }

    fn run(mut self, events: &[Event]) -> Found {
        for event in events {
            self.now = event.at;
            if !event.is_return {
                self.call(event.index);
                continue;
            }
            if let Err(exhausted) = self.return_(event.index) {
                return Found::Unknown(exhausted);
            }
            if self.frontier.count() == 0 {
                return Found::Conflict { at: event.index };
            }
        }
        Found::Linearizable
    }

    fn call(&mut self, index: u32) {
        let interval = self.intervals[index as usize];
        let Some(slot) = self.slots_free.pop() else { unreachable!("a slot for the most in flight") };
        let mut new = Pending { slot, index, interval, observers: Mask::EMPTY, twins: Mask::EMPTY };
        for other in &mut self.pending {
            let (its, mine) = (other.interval, interval);
            if its.step.creates().is_some() && its.step.creates() == mine.step.observes() {
                other.observers.set(slot);
            }
            if mine.step.creates().is_some() && mine.step.creates() == its.step.observes() {
                new.observers.set(other.slot);
            }
            if its.step == mine.step && (its.ret, other.slot) < (mine.ret, slot) {
                new.twins.set(other.slot);
            } else if its.step == mine.step {
                other.twins.set(slot);
            }
        }
        self.pending.push(new);
        match interval.step {
            Step::Read(value) => {
                self.all_reads.set(slot);
                self.reads.entry(value).or_insert(Mask::EMPTY).set(slot);
                self.frontier.for_each(Some(value), |bits| bits.safe.set(slot));
            }
            Step::Never => {}
            Step::Write(_) | Step::Cas { .. } => {
                if matches!(interval.step, Step::Write(_)) && !interval.optional {
                    self.writes.set(slot);
                }
                self.frontier.for_each(None, |bits| {
                    bits.usable.set(slot);
                    if interval.optional {
                        bits.safe.set(slot);
                    }
                });
            }
        }
    }

    /// Keeps the configurations that can let this operation return, each as early as it can.
    fn return_(&mut self, index: u32) -> Result<(), Exhausted> {
        let Some(place) = self.pending.iter().position(|pending| pending.index == index) else {
            unreachable!("a return follows its call")
        };
        let leaving = self.pending[place];
        // Whether it matters that its value is the current one.
        let is_observed = leaving.interval.step.creates().is_some_and(|value| self.is_observed(value));
        let mut next = Frontier::empty();
        let mut seen = Frontier::empty();
        let mut todo = Vec::new();
        for configuration in self.frontier.take() {
            let is_safe = configuration.bits.safe.has(leaving.slot);
            if is_safe {
                self.keep(&mut next, configuration, leaving.slot);
            }
            if !is_safe || (is_observed && configuration.bits.usable.has(leaving.slot)) {
                seen.insert(configuration);
                todo.push(configuration);
            }
        }
        while let Some(configuration) = todo.pop() {
            self.look_at_clock(next.count() + seen.count())?;
            for pending in &self.pending {
                if !self.can_use(pending, configuration, &leaving) {
                    continue;
                }
                let after = self.apply(configuration, pending);
                if pending.slot == leaving.slot {
                    self.keep(&mut next, after, leaving.slot);
                    continue;
                }
                let is_safe = after.bits.safe.has(leaving.slot);
                if is_safe && !configuration.bits.safe.has(leaving.slot) {
                    self.keep(&mut next, after, leaving.slot);
                }
                let goes_on = !is_safe || (is_observed && after.bits.usable.has(leaving.slot));
                if goes_on && seen.insert(after) {
                    todo.push(after);
                }
            }
        }
        self.frontier = next;
        self.leave(place);
        Ok(())
    }

    /// Whether this operation may take effect here, and doing so is worth a try.
    fn can_use(&self, pending: &Pending<W>, here: Configuration<W>, leaving: &Pending<W>) -> bool {
        let Configuration { value, bits } = here;
        if !bits.usable.has(pending.slot) {
            return false;
        }
        let step = pending.interval.step;
        if matches!(step, Step::Cas { from, .. } if from != value) {
            return false;
        }
        if pending.slot == leaving.slot {
            return true;
        }
        // If the twin is safe and this one is not, both are writes, and using the twin makes this one safe.
        if !pending.twins.and(bits.usable).is_empty() {
            return false;
        }
        if matches!(step, Step::Cas { .. }) && !bits.safe.has(pending.slot) {
            return true;
        }
        let waiting = self.all_reads.without(bits.safe).or(bits.usable);
        !pending.observers.and(waiting).is_empty()
    }

    fn apply(&self, before: Configuration<W>, pending: &Pending<W>) -> Configuration<W> {
        let Configuration { value, mut bits } = before;
        bits.usable.clear(pending.slot);
        bits.safe.set(pending.slot);
        if matches!(pending.interval.step, Step::Write(_)) {
            bits.safe = bits.safe.or(self.writes);
        }
        let value = pending.interval.step.creates().unwrap_or(value);
        if let Some(&reads) = self.reads.get(&value) {
            bits.safe = bits.safe.or(reads);
        }
        Configuration { value, bits }
    }

    fn keep(&self, next: &mut Frontier<W>, configuration: Configuration<W>, slot: u32) {
        let Configuration { value, mut bits } = configuration;
        bits.usable.clear(slot);
        bits.safe.clear(slot);
        let value = if value != FORGOTTEN && self.is_observed(value) { value } else { FORGOTTEN };
        next.insert(Configuration { value, bits });
    }

    fn is_observed(&self, value: Value) -> bool {
        self.observed_until.get(value as usize).is_some_and(|&until| until >= self.now)
    }

    fn leave(&mut self, place: usize) {
        let Pending { slot, interval, .. } = self.pending.swap_remove(place);
        for other in &mut self.pending {
            other.observers.clear(slot);
            other.twins.clear(slot);
        }
        self.writes.clear(slot);
        self.all_reads.clear(slot);
        if let Step::Read(value) = interval.step
            && let Some(reads) = self.reads.get_mut(&value)
        {
            reads.clear(slot);
            if reads.is_empty() {
                self.reads.remove(&value);
            }
        }
        self.slots_free.push(slot);
    }

    fn look_at_clock(&mut self, configuration_count: usize) -> Result<(), Exhausted> {
        self.deadline.allows(configuration_count)?;
        self.steps += 1;
        if self.steps.is_multiple_of(STEPS_PER_LOOK) { self.deadline.has_time() } else { Ok(()) }
    }
}
