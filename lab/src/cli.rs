//! What was typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// First argument with which the lab's own program is a node. Nobody types it.
pub const NODE_PART: &str = "__node";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
#[command(
    about = "Boots Aspen clusters from scenario files, breaks them on purpose and judges what they did"
)]
#[command(
    after_help = "Exit codes: 0 every check holds; 1 a check failed; 2 unknown or invalid (a fault left no \
receipt, too few operations, ended early); 3 this host cannot run it; 64 the file or the command line is wrong."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the lab can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a scenario and judge it
    Run(RunArgs),
    /// Find out, by doing it, whether this host can run scenarios
    Doctor {
        /// Keep the sandbox until the input ends; for those who want to look around in it
        #[arg(long, hide = true)]
        hold: bool,
    },
}

/// A run.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The scenario file (docs/scenario.md)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// All randomness comes from this number [default: drawn, and printed]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// What runs the nodes
    #[arg(long, value_enum, default_value_t = Driver::Process)]
    pub driver: Driver,
    /// Run directory, which must not exist [default: runs/NAME-SEED-TIME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Run this program as the node instead of the one inside the lab; the versions have to agree
    #[arg(long, value_name = "PROGRAM")]
    pub node_bin: Option<PathBuf>,
    /// Print the verdict only
    #[arg(long)]
    pub quiet: bool,
    /// Switch a fault off in secret, to see that its receipt is missed.
    #[arg(long, value_enum, hide = true)]
    pub sabotage: Option<SabotageArg>,
}

/// What runs the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// Processes in network namespaces
    Process,
}

/// A fault to switch off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SabotageArg {
    /// Cut links carry frames.
    IgnoreCuts,
    /// Slow links carry frames at once.
    IgnoreLatency,
    /// Lossy links lose nothing.
    IgnoreLoss,
    /// A pause freezes nobody.
    IgnorePauses,
    /// A kill kills nobody.
    IgnoreKills,
}
