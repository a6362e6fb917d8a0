//! The checks: pure functions from what was seen to a [`Verdict`]. They start nothing and ask nobody.

pub mod alive;
pub mod linearizable;
pub mod minority_refuses;
pub mod receipts;
pub mod recovers;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::linearizable::Budget;
use crate::history::History;
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

/// Judges a run: the checks that its plan asks for, and those that every run has to pass. The budget is that of the
/// search for a linear order; the others need none.
pub fn judge(plan: &Plan, history: &History, record: &RunRecord, budget: &Budget) -> Vec<Verdict> {
    let mut verdicts = vec![receipts::check(plan, record), alive::check(plan, record)];
    verdicts.extend(plan.checks.iter().map(|check| match check {
        PlannedCheck::Linearizable => linearizable::check(history, budget).verdict(),
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
