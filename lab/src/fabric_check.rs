//! `lab fabric-check`: every kind of link, through one fabric, measured from outside: what was asked, what came of it, and whether
//! that is the same.
//!
//! Three machines send numbered datagrams to each other. One link at a time is made slow, lossy or unreliable; the other five have
//! to stay as they were. Both fabrics are held to the same: a scenario means the same on either.

mod cases;
mod inner;
mod judge;
mod traffic;

use std::io::{self, BufRead, BufReader, Write};

use serde::{Deserialize, Serialize};

pub use self::inner::run_inner;
use crate::cli::FabricCheckArgs;
use crate::fabric::{FabricError, FabricKind, TapError};
use crate::limits::fabric::CHECK_MAX;
use crate::program::ProgramError;
use crate::sandbox::{self, SandboxError};

/// First argument of the inner process; the second is its order.
pub const INNER: &str = "__fabric-check";

/// What the inner process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    fabric: FabricKind,
    seed: u64,
}

/// One link, measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Which link, as `n1 -> n2`.
    pub link: String,
    /// What was done to it.
    pub asked: String,
    /// What was seen.
    pub measured: String,
    /// What is not as it was asked for; nothing if all is well.
    pub complaints: Vec<String>,
}

/// What the inner process reports, one JSON object a line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    /// A link was measured.
    Row(Row),
    /// This host has no such fabric.
    Refused {
        /// What is missing, and how to get it; each cause a line.
        why: String,
    },
    /// It could not be measured.
    Failed {
        /// Each cause a line.
        why: String,
    },
}

/// Why there is no verdict on a fabric.
#[derive(Debug, thiserror::Error)]
pub enum FabricCheckError {
    /// No sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The inner process could not be waited for.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// This host has no such fabric.
    #[error("{0}")]
    Refused(String),
    /// It could not be measured.
    #[error("the fabric could not be measured: {0}")]
    Failed(String),
    /// The inner process ended without a word.
    #[error("the sandbox ended before every link was measured")]
    Ended,
    /// The order.
    #[error("the order cannot be passed on")]
    Order(#[source] serde_json::Error),
    /// The table.
    #[error("cannot write the table")]
    Table(#[source] io::Error),
    /// The fabric, inside.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// A machine, inside.
    #[error(transparent)]
    Machine(#[from] TapError),
    /// A socket or a thread, inside.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl FabricCheckError {
    /// The exit code that goes with it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Sandbox(error) if error.is_refused() => 3,
            Self::Refused(_) => 3,
            _ => 2,
        }
    }
}

/// Measures, and writes a table to `out`; 0 if every link did what was asked of it, otherwise 1.
///
/// # Errors
/// This host has no such fabric, or it could not be measured.
pub fn run(args: &FabricCheckArgs, out: &mut impl Write) -> Result<u8, FabricCheckError> {
    let order = Order { fabric: args.fabric.into(), seed: args.seed };
    let argument = serde_json::to_string(&order).map_err(FabricCheckError::Order)?;
    let mut sandbox = sandbox::start([INNER.into(), argument.into()])?;
    if !args.json {
        let head = format!("fabric: {}, seed {}, {} machines", order.fabric, order.seed, cases::MACHINES);
        line(out, &head)?;
        line(out, &columns("link", "asked", "measured", "verdict"))?;
    }
    let (mut rows_count, mut wrong_count) = (0, 0);
    for text in BufReader::new(sandbox.take_events().into_iter().next().map_or_else(none, some)).lines() {
        let Ok(text) = text else { break };
        match serde_json::from_str(&text) {
            Ok(Message::Row(row)) => {
                rows_count += 1;
                wrong_count += usize::from(!row.complaints.is_empty());
                show(&row, args.json, out)?;
            }
            Ok(Message::Refused { why }) => return Err(FabricCheckError::Refused(why)),
            Ok(Message::Failed { why }) => return Err(FabricCheckError::Failed(why)),
            Err(_cut_off) => break,
        }
    }
    sandbox.wait(CHECK_MAX)?;
    if rows_count < cases::all().len() {
        return Err(FabricCheckError::Ended);
    }
    if !args.json {
        let verdict = match wrong_count {
            0 => "every link did what was asked of it, and no other link noticed".to_owned(),
            count => format!("NOT SO: {count} of {rows_count} links did something else"),
        };
        line(out, &verdict)?;
    }
    Ok(u8::from(wrong_count > 0))
}

fn none() -> Box<dyn io::Read> {
    Box::new(io::empty())
}

fn some(events: std::process::ChildStdout) -> Box<dyn io::Read> {
    Box::new(events)
}

fn show(row: &Row, is_json: bool, out: &mut impl Write) -> Result<(), FabricCheckError> {
    if is_json {
        return line(out, &serde_json::to_string(row).map_err(FabricCheckError::Order)?);
    }
    let verdict = if row.complaints.is_empty() { "ok" } else { "WRONG" };
    line(out, &columns(&row.link, &row.asked, &row.measured, verdict))?;
    row.complaints.iter().try_for_each(|complaint| line(out, &format!("    {complaint}")))
}

fn columns(link: &str, asked: &str, measured: &str, verdict: &str) -> String {
    format!("{link:<9} {asked:<46} {measured:<62} {verdict}")
}

/// Prints a line at once: each is seconds after the one before.
fn line(out: &mut impl Write, text: &str) -> Result<(), FabricCheckError> {
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(FabricCheckError::Table)
}
