//! What a broken key is reported with: types only.

use serde::{Deserialize, Serialize};

use crate::history::{Op, OpId, Outcome};

/// What an operation does in a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Without it the others can be explained.
    Conflict,
    /// It left a value that one of the others saw; shown so that the conflict explains itself.
    Source,
}

/// An operation of a conflict, in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessOperation {
    /// Its id in the history.
    pub id: OpId,
    /// What it does in the conflict.
    pub role: Role,
    /// Who called.
    pub client: String,
    /// Who was called.
    pub node: String,
    /// What was asked for.
    pub op: Op<String>,
    /// When, in nanoseconds since the start of the run.
    pub call_ns: u64,
    /// When the client learned the outcome; `None`: never.
    pub return_ns: Option<u64>,
    /// What it learned.
    pub outcome: Outcome<String>,
}

/// Why a key is not linearizable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The key.
    pub key: String,
    /// What is impossible, in a sentence or two.
    pub summary: String,
    /// The conflicting operations and the sources of their values, by call.
    pub operations: Vec<WitnessOperation>,
    /// Without any one of the operations in conflict the others can be explained. False: the time to find
    /// out ended, and there may be more operations than needed.
    pub is_minimal: bool,
}
