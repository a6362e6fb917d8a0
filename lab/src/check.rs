//! The checks: pure functions from what was seen to a [`Verdict`]. They start nothing and ask nobody.

pub mod alive;
pub mod bounded_staleness;
pub mod durable;
pub mod linearizable;
pub mod minority_refuses;
pub mod raft;
pub mod receipts;
pub mod recovers;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::linearizable::Budget;
use crate::history::History;
use crate::observations::Observation;
use crate::plan::{Plan, PlannedCheck};
use crate::runner::record::RunRecord;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// What was seen is what was promised.
    Pass,
    /// What was seen breaks a promise.
    Fail,
    /// The check could not decide within its budget.
    Unknown,
    /// The run does not allow a judgement: a fault left no receipt, or too little happened.
    Invalid,
}

impl Status {
    /// In capitals.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Unknown => "UNKNOWN",
            Self::Invalid => "INVALID",
        }
    }
}

/// What one check says of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The check's name, as in a scenario.
    pub check: String,
    /// How it ended.
    pub status: Status,
    /// One line that a person understands.
    pub summary: String,
    /// How much of what the check has looked at: a pass that looked at nothing is worth nothing.
    pub looked_at: BTreeMap<String, u64>,
    /// What the check found, for the report; its shape is the check's own.
    pub details: serde_json::Value,
}

/// All that is known of a run.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// What was to happen.
    pub plan: &'a Plan,
    /// What clients asked for and were told.
    pub history: &'a History,
    /// What happened apart from that.
    pub record: &'a RunRecord,
    /// What nodes said of themselves.
    pub observations: &'a [Observation],
}

/// Judges a run: the checks that its plan asks for, and those that every run has to pass.
pub fn judge(evidence: &Evidence<'_>, budget: &Budget) -> Vec<Verdict> {
    let Evidence { plan, history, record, observations } = *evidence;
    let mut verdicts = vec![receipts::check(plan, record), alive::check(plan, record)];
    verdicts.extend(plan.checks.iter().map(|check| match check {
        PlannedCheck::Linearizable => linearizable::check(history, budget).since(record.origin_ns).verdict(),
        PlannedCheck::BoundedStaleness => bounded_staleness::check(history, budget, record.origin_ns),
        PlannedCheck::Durable => durable::check(history, record, budget),
        PlannedCheck::Raft => raft::check(plan, observations, record.origin_ns),
        PlannedCheck::Recovers { within_ms } => {
            recovers::check(plan, history, record, Duration::from_millis(*within_ms))
        }
        PlannedCheck::MinorityRefuses => minority_refuses::check(plan, history, record),
    }));
    verdicts
}

/// The status of a whole run: a broken promise outweighs a doubt, and a doubt a pass.
pub fn overall(verdicts: &[Verdict]) -> Status {
    let has = |status: Status| verdicts.iter().any(|verdict| verdict.status == status);
    [Status::Fail, Status::Invalid, Status::Unknown]
        .into_iter()
        .find(|status| has(*status))
        .unwrap_or(Status::Pass)
}

/// Seconds of the scenario's time, whose zero is `origin_ns`; negative before it.
#[allow(clippy::cast_precision_loss, reason = "a run lasts an hour or so, and is shown to the microsecond")]
pub(crate) fn seconds(at_ns: u64, origin_ns: u64) -> f64 {
    (at_ns as f64 - origin_ns as f64) / 1e9
}

/// A count with its noun, which takes an s in the plural.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
