//! What was typed: `lab up` and the commands that work on a lab that is up.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Subcommand};

use super::MachineArgs;
use crate::limits::LINK_LATENCY_MAX;
use crate::limits::control::{CONSOLE_LINES_DEFAULT, CONSOLE_LINES_MAX};
use crate::scenario::{Mistake, bits_per_s_of, duration_of, per_million_of};

/// What nodes may be called, and how it ends, for the help of each command that takes nodes.
macro_rules! nodes_help {
    ($before:literal) => {
        concat!(
            $before,
            "Nodes are names, zones' names, leader, follower, random and rest, as in a scenario file.\n",
            "Exit codes: 0 done; 1 the lab could not do it; 2 no lab is up, or several are; 64 the command line is wrong."
        )
    };
}

/// For commands to nodes that run.
const NODES_HELP: &str = nodes_help!("");
/// For commands to nodes that may not run, which play no role.
const NAMES_HELP: &str = "Nodes are names and zones' names.\n\
Exit codes: 0 done; 1 the lab could not do it; 2 no lab is up, or several are; 64 the command line is wrong.";

const CUT_HELP: &str = nodes_help!(
    "`lab cut n1,n2 n3,n4,n5` is a partition, `lab cut leader` cuts a node off from all others, `lab cut --from n1 --to n2` \
     stops the frames of one direction.\n"
);
const LINK_HELP: &str = nodes_help!(
    "`lab link n1 n2,n3 --latency 50ms --jitter 5ms --loss 1%`: what is given replaces what was set by hand before, 0ms, \
     0% and `--rate none` take it away, and what the scenario says of the link is added.\n"
);
const HEAL_HELP: &str = nodes_help!(
    "`lab heal` heals everything, `lab heal n1` all links of a node, `lab heal n1 n2` those between two. What the scenario \
     says of a link stays.\n"
);

/// A command to a lab that is up.
#[derive(Debug, Subcommand)]
pub enum ControlCommand {
    /// Show a lab that is up: its nodes, who leads, and the links that are not perfect
    Status(StatusArgs),
    /// Print what a node of a lab has printed
    Console(ConsoleArgs),
    /// End nodes without warning
    #[command(after_help = NODES_HELP)]
    Kill(NodesArgs),
    /// Start nodes that are down, on the same data
    #[command(after_help = NAMES_HELP)]
    Start(NodesArgs),
    /// Freeze nodes
    #[command(after_help = NODES_HELP)]
    Pause(NodesArgs),
    /// Let frozen nodes go on
    #[command(after_help = NAMES_HELP)]
    Resume(NodesArgs),
    /// Cut links between nodes
    Cut(CutArgs),
    /// Make links slow, lossy or unreliable
    Link(LinkArgs),
    /// Take back what was done to links by hand
    Heal(HealArgs),
    /// End a lab: its nodes stop cleanly, and nothing is left
    Down(Which),
}

/// A lab that stays up.
#[derive(Debug, clap::Args)]
#[command(after_help = "The scenario's nodes and links are used; its load, faults and checks are not.\n\
Exit codes: 0 it ended as asked and every node stopped cleanly; 1 the cluster did not come up, or a node did not stop \
cleanly; 2 it was ended from outside; 3 this host cannot run it; 64 the file or the command line is wrong.")]
pub struct UpArgs {
    /// The scenario file (docs/scenario.md)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// All randomness comes from this number [default: drawn, and printed]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// What runs the nodes
    #[command(flatten)]
    pub machines: MachineArgs,
    /// Return once the cluster serves; `lab down` ends it
    #[arg(long)]
    pub detach: bool,
    /// Make the first node's HTTP reachable at 127.0.0.1:PORT, the next one's at PORT + 1, and so on
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub publish: Option<u16>,
    /// Run directory, which must not exist [default: runs/NAME-SEED-TIME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Which of the labs that are up.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The lab's run directory, its name, or its scenario's name [default: the only one that is up]
    #[arg(long, value_name = "LAB")]
    pub lab: Option<String>,
}

/// A look at a lab.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 it is shown; 2 no lab is up, or several are; 64 the command line is wrong."
)]
pub struct StatusArgs {
    /// Which lab.
    #[command(flatten)]
    pub which: Which,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What a node has printed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 it is printed; 2 no lab is up, or several are; 64 there is no such node, or the command line \
is wrong."
)]
pub struct ConsoleArgs {
    /// The node
    #[arg(value_name = "NODE")]
    pub node: String,
    /// How many lines, from the end
    #[arg(long, short = 'n', value_name = "N", default_value_t = CONSOLE_LINES_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=i64::from(CONSOLE_LINES_MAX)))]
    pub lines: u32,
    /// Go on with what it prints from now on, until Ctrl-C or the lab's end
    #[arg(long, short)]
    pub follow: bool,
    /// Which lab.
    #[command(flatten)]
    pub which: Which,
}

/// Nodes to do something to.
#[derive(Debug, clap::Args)]
pub struct NodesArgs {
    /// The nodes
    #[arg(value_name = "NODE", required = true)]
    pub nodes: Vec<String>,
    /// Which lab.
    #[command(flatten)]
    pub which: Which,
}

/// Links to cut.
#[derive(Debug, clap::Args)]
#[command(after_help = CUT_HELP)]
pub struct CutArgs {
    /// Groups of nodes, with commas between the nodes of a group: links between groups are cut, both ways. A single group is cut
    /// off from all other nodes
    #[arg(value_name = "GROUP", required_unless_present = "from", conflicts_with_all = ["from", "to"])]
    pub groups: Vec<String>,
    /// Cut one way only: from these nodes
    #[arg(long, value_name = "NODES", requires = "to")]
    pub from: Option<String>,
    /// To these nodes
    #[arg(long, value_name = "NODES", requires = "from")]
    pub to: Option<String>,
    /// Which lab.
    #[command(flatten)]
    pub which: Which,
}

/// Links to change.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("effect").args(["latency", "jitter", "loss", "duplicate", "reorder", "corrupt", "rate"]).required(true).multiple(true))]
#[command(after_help = LINK_HELP)]
pub struct LinkArgs {
    /// Nodes at one end, with commas between them
    #[arg(value_name = "NODES")]
    pub from: String,
    /// Nodes at the other end
    #[arg(value_name = "NODES")]
    pub to: String,
    /// Time that a frame takes one way, as 50ms
    #[arg(long, value_name = "DURATION", value_parser = latency)]
    pub latency: Option<u32>,
    /// Largest deviation from the latency, as 5ms
    #[arg(long, value_name = "DURATION", value_parser = jitter)]
    pub jitter: Option<u32>,
    /// Share of frames that is lost, as 1%; 100% is a cut
    #[arg(long, value_name = "PERCENT", value_parser = loss)]
    pub loss: Option<u32>,
    /// Share of frames of which a copy follows, as 1%
    #[arg(long, value_name = "PERCENT", value_parser = duplicate)]
    pub duplicate: Option<u32>,
    /// Share of frames that overtake those under way, as 1%; needs a latency
    #[arg(long, value_name = "PERCENT", value_parser = reorder)]
    pub reorder: Option<u32>,
    /// Share of frames of which one bit is turned, as 1%
    #[arg(long, value_name = "PERCENT", value_parser = corrupt)]
    pub corrupt: Option<u32>,
    /// What passes in a second, as 10Mbit/s, or none for no limit
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub rate: Option<u64>,
    /// Leave the way back as it is
    #[arg(long)]
    pub one_way: bool,
    /// Which lab.
    #[command(flatten)]
    pub which: Which,
}

/// Links to heal.
#[derive(Debug, clap::Args)]
#[command(after_help = HEAL_HELP)]
pub struct HealArgs {
    /// Groups of nodes, as for `lab cut` [default: every link]
    #[arg(value_name = "GROUP")]
    pub groups: Vec<String>,
    /// Which lab.
    #[command(flatten)]
    pub which: Which,
}

fn milliseconds(text: &str, key: &'static str) -> Result<u32, Mistake> {
    let duration = duration_of(text, key, Duration::ZERO, LINK_LATENCY_MAX)?;
    Ok(u32::try_from(duration.as_millis()).expect("at most LINK_LATENCY_MAX"))
}

fn latency(text: &str) -> Result<u32, Mistake> {
    milliseconds(text, "latency")
}

fn jitter(text: &str) -> Result<u32, Mistake> {
    milliseconds(text, "jitter")
}

fn loss(text: &str) -> Result<u32, Mistake> {
    per_million_of(text, "loss")
}

fn duplicate(text: &str) -> Result<u32, Mistake> {
    per_million_of(text, "duplicate")
}

fn reorder(text: &str) -> Result<u32, Mistake> {
    per_million_of(text, "reorder")
}

fn corrupt(text: &str) -> Result<u32, Mistake> {
    per_million_of(text, "corrupt")
}

/// No limit is 0.
fn rate(text: &str) -> Result<u64, Mistake> {
    if text == "none" { Ok(0) } else { bits_per_s_of(text, "rate") }
}
