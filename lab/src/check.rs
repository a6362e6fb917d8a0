//! The checks: pure functions from what was seen to a [`Verdict`]. They start nothing and ask nobody.

pub mod linearizable;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
