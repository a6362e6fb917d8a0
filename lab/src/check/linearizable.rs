//! Linearizability: is there an order of all operations, each at one instant between its call and its return,
//! that a register would have produced? (Herlihy and Wing, 1990.)
//!
//! Keys are judged one by one, since a history is linearizable exactly when each object's part is (locality).
//! A key whose values are unique is decided in O(n log n), with CAS and unknown outcomes, by `zones`; others
//! (deletes, repeated values) by `search`, within a [`Budget`]. Operations of more than one key are not
//! judged here.

mod describe;
mod frontier;
mod register;
mod search;
mod violation;
mod witness;
mod zones;

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub(crate) use self::describe::shown;
pub use self::violation::{Role, Violation, WitnessOperation};

use self::register::{Register, Registers};
use self::search::Found;
use self::witness::Conflict;
use super::{Status, Verdict, counted};
use crate::history::{History, KeyIndex, Op, Operation, Outcome};
use crate::limits::{
    CHECK_CONFIGURATIONS_MAX, CHECK_PENDING_MAX, CHECK_TIME_MAX, CHECK_VIOLATIONS_MAX, CHECK_WITNESS_TIME_MAX,
};

/// The name of this check in scenarios and reports.
pub const NAME: &str = "linearizable";

/// What the check may spend before it says that it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// On all keys together, without the explanations.
    pub time: Duration,
    /// Most configurations of the search kept at once: its memory.
    pub configurations_max: u32,
    /// On making one key's conflict as small as possible.
    pub witness_time: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            time: CHECK_TIME_MAX,
            configurations_max: CHECK_CONFIGURATIONS_MAX,
            witness_time: CHECK_WITNESS_TIME_MAX,
        }
    }
}

/// Which part of the budget ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exhausted {
    /// [`Budget::time`].
    Time,
    /// [`Budget::configurations_max`], which was this.
    Configurations(u32),
    /// This many operations are in flight at once; [`CHECK_PENDING_MAX`] can be followed.
    Pending(u32),
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time => write!(f, "the time for the search ended"),
            Self::Configurations(max) => write!(f, "the search needs more than {max} configurations"),
            Self::Pending(count) => {
                write!(
                    f,
                    "{count} operations are in flight at once, up to {CHECK_PENDING_MAX} can be followed"
                )
            }
        }
    }
}

/// A key that was not decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undecided {
    /// The key.
    pub key: String,
    /// Why not.
    pub reason: Exhausted,
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All operations of the history.
    pub operations: u64,
    /// Answered reads, and CAS that failed with the actual value.
    pub reads: u64,
    /// Acknowledged writes and deletes.
    pub writes: u64,
    /// CAS that succeeded.
    pub cas: u64,
    /// Operations that were certainly not applied; they are left out.
    pub refused: u64,
    /// Operations of unknown outcome.
    pub unknown: u64,
    /// Keys that were decided by the zone check.
    pub keys_by_zones: u64,
    /// Keys that were given to the search.
    pub keys_by_search: u64,
}

/// What the check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinearizableResult {
    /// How much was looked at.
    pub counts: Counts,
    /// The keys that are not linearizable, in the order in which they appear, each with its conflict; at most
    /// [`CHECK_VIOLATIONS_MAX`].
    pub violations: Vec<Violation>,
    /// Further keys that are not linearizable, not explained.
    pub more_keys: Vec<String>,
    /// The keys that were not decided.
    pub undecided: Vec<Undecided>,
}

/// What becomes of reads whose age is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoundedReads {
    /// They promise less, and are left out.
    LeftOut,
    /// Each takes effect between as long before its call as it may be old, and its return.
    Judged,
}

/// Judges a history within a budget. Reads whose age is bounded are left out.
pub fn check(history: &History, budget: &Budget) -> LinearizableResult {
    check_with(history, BoundedReads::LeftOut, budget)
}

/// The same, and says what becomes of reads whose age is bounded.
pub fn check_with(history: &History, bounded: BoundedReads, budget: &Budget) -> LinearizableResult {
    let deadline = Deadline::new(budget.time, budget.configurations_max);
    let mut result = LinearizableResult { counts: count(history, bounded), ..LinearizableResult::default() };
    let mut registers = Registers::new(history, bounded);
    for index in (0_u32..).take(history.keys.count()) {
        let key = KeyIndex(index);
        let register = registers.register(key);
        let by = if register.unique {
            &mut result.counts.keys_by_zones
        } else {
            &mut result.counts.keys_by_search
        };
        *by += 1;
        match judge(&register, &deadline) {
            Decision::Linearizable => {}
            Decision::Unknown(reason) => {
                result.undecided.push(Undecided { key: history.key(key).to_owned(), reason });
            }
            Decision::Conflict(_) if result.violations.len() >= CHECK_VIOLATIONS_MAX as usize => {
                result.more_keys.push(history.key(key).to_owned());
            }
            Decision::Conflict(candidates) => {
                let deadline = Deadline::new(budget.witness_time, budget.configurations_max);
                let conflict = Conflict::smallest(&register, candidates, &deadline);
                result.violations.push(Violation::new(history, key, &conflict));
            }
        }
    }
    result
}

/// What is known of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Decision {
    Linearizable,
    /// Indices of intervals that conflict, perhaps more than needed; the likeliest first.
    Conflict(Vec<u32>),
    Unknown(Exhausted),
}

fn judge(register: &Register, deadline: &Deadline) -> Decision {
    if register.unique {
        match zones::check(register) {
            Ok(()) => Decision::Linearizable,
            Err(conflict) => Decision::Conflict(witness::with_observers(register, conflict)),
        }
    } else {
        match search::search(&register.intervals, deadline) {
            Found::Linearizable => Decision::Linearizable,
            Found::Conflict { at } => Decision::Conflict(witness::called_before(register, at)),
            Found::Unknown(reason) => Decision::Unknown(reason),
        }
    }
}

fn count(history: &History, bounded: BoundedReads) -> Counts {
    let mut counts = Counts::default();
    let is_judged =
        |operation: &&Operation| operation.max_staleness_ms.is_none() || bounded == BoundedReads::Judged;
    for operation in history.operations.iter().filter(is_judged) {
        counts.operations += 1;
        let one = match (operation.outcome, operation.op) {
            (Outcome::Refused { .. }, _) => &mut counts.refused,
            (Outcome::Unknown, _) => &mut counts.unknown,
            (Outcome::Read { .. } | Outcome::CasFailed { .. }, _) | (Outcome::Done, Op::Read) => {
                &mut counts.reads
            }
            (Outcome::Done, Op::Cas { .. }) => &mut counts.cas,
            (Outcome::Done, Op::Write { .. } | Op::Delete) => &mut counts.writes,
        };
        *one += 1;
    }
    counts
}

impl LinearizableResult {
    /// The same, told in the time of a scenario: its sentences count from `origin_ns`, like those of everything else in a
    /// run. A call before that counts as made at its beginning.
    #[must_use]
    pub fn since(mut self, origin_ns: u64) -> Self {
        for violation in &mut self.violations {
            let told = violation.operations.iter().map(|one| WitnessOperation {
                call_ns: one.call_ns.saturating_sub(origin_ns),
                return_ns: one.return_ns.map(|at_ns| at_ns.saturating_sub(origin_ns)),
                ..one.clone()
            });
            violation.summary = describe::summary(&violation.key, &told.collect::<Vec<_>>());
        }
        self
    }

    /// Fail if one key is not linearizable, else unknown if one was not decided, else pass.
    pub fn status(&self) -> Status {
        if !self.violations.is_empty() {
            Status::Fail
        } else if !self.undecided.is_empty() {
            Status::Unknown
        } else {
            Status::Pass
        }
    }

    /// The verdict for the report.
    pub fn verdict(&self) -> Verdict {
        let Counts { operations, reads, writes, cas, refused, unknown, keys_by_zones, keys_by_search } =
            self.counts;
        let keys = keys_by_zones + keys_by_search;
        let of_keys = counted(keys, "key");
        let summary = match (self.violations.first(), self.undecided.first()) {
            (Some(violation), _) => {
                let failed = self.violations.len() + self.more_keys.len();
                format!("{failed} of {of_keys} not linearizable: {}", violation.summary)
            }
            (None, Some(first)) => {
                let count = self.undecided.len();
                format!("{count} of {of_keys} not decided: key {}: {}", shown(&first.key), first.reason)
            }
            (None, None) => format!("all {operations} operations on {of_keys} can be explained"),
        };
        let looked_at = [
            ("operations", operations),
            ("reads", reads),
            ("writes", writes),
            ("cas", cas),
            ("refused", refused),
            ("unknown", unknown),
            ("keys", keys),
            ("keys_by_search", keys_by_search),
        ];
        Verdict {
            check: NAME.to_owned(),
            status: self.status(),
            summary,
            looked_at: looked_at
                .into_iter()
                .map(|(what, count)| (what.to_owned(), count))
                .collect::<BTreeMap<_, _>>(),
            details: serde_json::json!({
                "violations": self.violations,
                "more_keys": self.more_keys,
                "undecided": self.undecided,
            }),
        }
    }
}

/// When a search must end, and how much it may keep.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    start: Instant,
    time: Duration,
    configurations_max: u32,
}

impl Deadline {
    fn new(time: Duration, configurations_max: u32) -> Self {
        Self { start: Instant::now(), time, configurations_max }
    }

    fn has_time(&self) -> Result<(), Exhausted> {
        if self.start.elapsed() < self.time { Ok(()) } else { Err(Exhausted::Time) }
    }

    fn allows(&self, configuration_count: usize) -> Result<(), Exhausted> {
        if configuration_count <= self.configurations_max as usize {
            Ok(())
        } else {
            Err(Exhausted::Configurations(self.configurations_max))
        }
    }
}
