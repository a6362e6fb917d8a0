//! One `lab run`, on both sides of the sandbox: the outer process that holds the terminal and the run directory, and
//! the inner one that runs the cluster. Between them: an order on the way in, a line of JSON per message on the way out.

mod browser;
pub(crate) mod driver;
mod inner;
pub(crate) mod outer;
mod progress;
pub(crate) mod wire;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::inner::run_inner;
pub use self::outer::{OuterError, run_outer};
use crate::cli::SabotageArg;
use crate::cluster::pace::Pace;
use crate::fabric::FabricKind;
use crate::machine::driver::Driver;
use crate::runner::record::Event;
use crate::workload::client::LoadCounts;

/// The beginning of a command that runs a lab whose own node has planted bugs.
pub const PLANTED_LAB: &str = "cargo run --release -p aspen-lab --features planted-bugs --bin lab --";

/// What the outer tells the inner to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    /// The run directory, absolute; plan.json is in it.
    directory: PathBuf,
    /// What runs the nodes.
    driver: Driver,
    /// What connects them.
    fabric: FabricKind,
    /// How much slower than planned, if that is not left to the driver.
    pace: Option<Pace>,
    /// The version that the node's program names.
    node_version: String,
    /// The command that replays the run, at any pace.
    replay: String,
    /// What the scenario is about.
    about: String,
    /// A fault to switch off.
    sabotage: Option<SabotageArg>,
}

/// What the inner tells the outer.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Message {
    /// Something happened.
    Event(Event),
    /// How far the run is.
    Progress {
        /// Time since the first answered operation.
        at: Duration,
        /// Planned time.
        of: Duration,
        /// Operations so far.
        counts: LoadCounts,
    },
    /// This host cannot run it, and nothing was started.
    Refused {
        /// What is missing, and how to get it; each cause a line.
        why: String,
    },
    /// The run is over and its report is written.
    Done {
        /// The verdict as text.
        verdict: String,
        /// The exit code.
        exit_code: u8,
    },
}
