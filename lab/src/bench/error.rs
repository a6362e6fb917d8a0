//! Why a benchmark has no figures.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use aspen_node::cluster::identity::IdentityError;

use crate::program::ProgramError;
use crate::session::OuterError;

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The host lacks what is compared with.
    #[error("{program} is not on the search path: {remedy}")]
    Lacks {
        /// What is missing.
        program: &'static str,
        /// The command that gets it.
        remedy: String,
    },
    /// A figure would be measured twice.
    #[error("--{0} names something twice: name it once")]
    Twice(&'static str),
    /// The run directory, or the node's program.
    #[error(transparent)]
    Outer(#[from] OuterError),
    /// A file.
    #[error("cannot use {}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// No free port.
    #[error("there is no free port on loopback")]
    Ports(#[source] io::Error),
    /// A node's key.
    #[error("a node's key cannot be made")]
    Identity(#[source] IdentityError),
    /// A program.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// It has ended by itself.
    #[error("a process of {system} has ended; its console ends: {console}")]
    Ended {
        /// Whose.
        system: &'static str,
        /// What it said last.
        console: String,
    },
    /// Nobody leads.
    #[error(
        "nobody leads the cluster of {system} after {waited:?}; the console of its first process ends: {console}"
    )]
    NotReady {
        /// Whose.
        system: &'static str,
        /// For how long it was waited.
        waited: Duration,
        /// What it said last.
        console: String,
    },
    /// A key could not be written before.
    #[error("the keys could not be written into {system} before the first figure: {code}")]
    Fill {
        /// Whose.
        system: &'static str,
        /// What went wrong.
        code: String,
    },
    /// A figure that would be one of something else.
    #[error(
        "with {clients} clients {system} took {writes} writes, with failures or another leader: it was not steady"
    )]
    Unsteady {
        /// Whose.
        system: &'static str,
        /// How many there were.
        clients: u32,
        /// What it acknowledged.
        writes: u64,
    },
    /// A step with a large state.
    #[error("the {what} is not there after {waited:?}; the console of the node ends: {console}")]
    Late {
        /// What it was to end with.
        what: &'static str,
        /// For how long it was waited.
        waited: Duration,
        /// What the node said last.
        console: String,
    },
    /// Something that was asked of a cluster with a large state.
    #[error("a step with the large state failed: {code}")]
    Refused {
        /// What went wrong.
        code: String,
    },
    /// The clients' threads, or the signals.
    #[error("cannot start the clients")]
    Clients(#[source] io::Error),
    /// The user has ended it.
    #[error("the benchmark was ended early")]
    Interrupted,
    /// The report.
    #[error("cannot write the figures")]
    Report(#[source] io::Error),
}

impl BenchError {
    /// The exit code that goes with it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Lacks { .. } => 3,
            Self::Twice(_) => 64,
            Self::Outer(error) => error.exit_code(),
            _ => 2,
        }
    }
}
