//! What can be wrong with a history, said with the line.

use std::fmt;
use std::io;

use crate::limits::{HISTORY_LINE_BYTES_MAX, HISTORY_OPERATIONS_MAX, HISTORY_TEXT_BYTES_MAX};

/// Why a history is refused: the line, counted from 1, and the reason.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file itself failed.
    #[error("line {line}: cannot be read")]
    Read {
        /// The line that was to come.
        line: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The last line ends in the middle of a record.
    #[error("line {line}: cut off; the history is not complete, delete this line to judge the rest")]
    CutOff {
        /// The last line.
        line: u64,
    },
    /// A line is longer than any record.
    #[error("line {line}: longer than {HISTORY_LINE_BYTES_MAX} bytes")]
    LineBytes {
        /// The line.
        line: u64,
    },
    /// Not JSON, or not an object with the fields of docs/history.md.
    #[error("line {line}, column {column}: {reason}")]
    Malformed {
        /// The line.
        line: u64,
        /// The column, counted from 1; 0: before the first.
        column: usize,
        /// What the parser said, without its own idea of where.
        reason: String,
    },
    /// A record must say which of the two it is.
    #[error("line {line}: a record has either call or answer")]
    Kind {
        /// The line.
        line: u64,
    },
    /// A field that this kind of record needs is not there.
    #[error("line {line}: {field} is missing in this {record}")]
    Missing {
        /// The line.
        line: u64,
        /// The field.
        field: &'static str,
        /// The kind of record.
        record: Record,
    },
    /// A field that this kind of record does not have.
    #[error("line {line}: {field} does not belong in this {record}")]
    Extra {
        /// The line.
        line: u64,
        /// The field.
        field: &'static str,
        /// The kind of record.
        record: Record,
    },
    /// Two calls with one id.
    #[error("line {line}: id {id} was called before")]
    IdTwice {
        /// The line of the second call.
        line: u64,
        /// The id.
        id: u64,
    },
    /// An answer to nothing.
    #[error("line {line}: id {id} is answered before it is called")]
    AnswerBeforeCall {
        /// The line of the answer.
        line: u64,
        /// The id.
        id: u64,
    },
    /// Two answers to one call.
    #[error("line {line}: id {id} was answered before")]
    AnsweredTwice {
        /// The line of the second answer.
        line: u64,
        /// The id.
        id: u64,
    },
    /// Only a CAS can fail for its expectation.
    #[error("line {line}: id {id} is no cas, so its outcome cannot be cas_failed")]
    NotCas {
        /// The line of the answer.
        line: u64,
        /// The id.
        id: u64,
    },
    /// The records of one client must be in the order of time.
    #[error("line {line}: time runs backwards for client {client:?}: {at_ns} ns after {previous_ns} ns")]
    TimeBackwards {
        /// The line of the later record with the earlier time.
        line: u64,
        /// The client.
        client: String,
        /// The time in this line.
        at_ns: u64,
        /// The time in this client's line before.
        previous_ns: u64,
    },
    /// More operations than can be judged.
    #[error("line {line}: more than {HISTORY_OPERATIONS_MAX} operations")]
    OperationCount {
        /// The line of the call that is one too many.
        line: u64,
    },
    /// More text than can be kept.
    #[error("line {line}: more than {HISTORY_TEXT_BYTES_MAX} bytes of distinct text")]
    TextBytes {
        /// The line of the text that is too much.
        line: u64,
    },
}

/// A kind of record, as errors name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// A call of this operation.
    Call(&'static str),
    /// An answer with this outcome.
    Answer(&'static str),
    /// It does not say what it is.
    Unnamed,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(op) => write!(f, "call of {op}"),
            Self::Answer(outcome) => write!(f, "answer that is {outcome}"),
            Self::Unnamed => write!(f, "record"),
        }
    }
}
