//! What was typed.

mod control;

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use aspen_node::limits::{OPERATIONS_IN_FLIGHT_MAX, VALUE_BYTES_MAX};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand, ValueEnum};

pub use self::control::{
    ConsoleArgs, ControlCommand, CutArgs, HealArgs, LinkArgs, NodesArgs, StatusArgs, UpArgs, Which,
};
use crate::cluster::pace::Pace;
use crate::fabric::FabricKind;
use crate::limits::bench;
use crate::limits::rig::{CPUS_MAX, MEMORY_MIB_DEFAULT, MEMORY_MIB_MAX, MEMORY_MIB_MIN};
use crate::limits::{
    CHECK_CONFIGURATIONS_MAX, CHECK_TIME_ASKED_MAX, EXPLORE_SEEDS_MAX, SELFTEST_RUNS_MAX, TRIALS_AT_ONCE_MAX,
};
use crate::scenario::{Mistake, duration_of};
use crate::selftest;

/// First argument with which the lab's own program is a node. Nobody types it.
pub const NODE_PART: &str = "__node";

/// The folder of runs whose directory nobody names.
pub(crate) const RUNS: &str = "runs";

/// What the commands that judge end with.
const VERDICT_CODES: &str = "Exit codes: 0 every check holds; 1 a check failed; 2 unknown or invalid: a fault left no receipt, too few \
operations, ended early; 3 this host cannot run it; 64 the file or the command line is wrong.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
#[command(
    about = "Boots Aspen clusters from scenario files, breaks them on purpose and judges what they did"
)]
#[command(
    after_help = "Exit codes: 0 every check holds, or it was done; 1 a check failed, or it could not be done; 2 unknown or invalid (a fault left no \
receipt, too few operations, ended early), or no lab is up that could be asked; 3 this host cannot run it; 64 the file or the \
command line is wrong."
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
    #[command(after_help = VERDICT_CODES)]
    Run(RunArgs),
    /// Boot a scenario's cluster and keep it up, to work on it by hand (docs/up.md)
    Up(UpArgs),
    /// Work on a lab that is up.
    #[command(flatten)]
    Control(ControlCommand),
    /// Judge a stored run again, or the history of any tool
    #[command(after_help = VERDICT_CODES)]
    Verify(VerifyArgs),
    /// Run a scenario with many seeds, in the simulation unless told otherwise, and keep what does not pass (docs/simulation.md)
    #[command(after_help = VERDICT_CODES)]
    Explore(ExploreArgs),
    /// Prove that the checks catch bugs: planted ones, by name, in every run
    #[command(
        after_help = "Exit codes: 0 every bug was caught in every run; 1 one was not; 2 it could not be told, or was ended early; 3 this \
host cannot run it; 64 the command line is wrong."
    )]
    Selftest(SelftestArgs),
    /// Measure how fast a cluster is on this host, alone or side by side with etcd (docs/bench.md)
    #[command(
        after_help = "Exit codes: 0 measured; 2 it could not be measured; 3 this host lacks etcd or strace: the command that gets \
it; 64 the command line is wrong."
    )]
    Bench(BenchArgs),
    /// Measure that links do what is asked of them, through either fabric (docs/fabrics.md)
    #[command(
        after_help = "Exit codes: 0 every link did what was asked of it; 1 one did not; 2 it could not be measured; 3 this host has no \
such fabric: what is missing; 64 the command line is wrong."
    )]
    FabricCheck(FabricCheckArgs),
    /// Build, sign and look at the appliance's image (docs/image.md)
    #[command(
        subcommand,
        after_help = "Exit codes: 0 done; 1 failed, with the reason; 64 the command line is wrong."
    )]
    Image(ImageCommand),
    /// Run one of these commands in a virtual machine that is a complete host (docs/rig.md)
    Rig(RigArgs),
    /// Find out, by doing it, what this host can do, and what gets the rest
    #[command(
        after_help = "Exit codes: 0 scenarios can be run here, with --fix also nothing is missing any more (emulation will do \
for KVM); 1 something is broken, or still missing after --fix; 3 this host does not allow it: which command does."
    )]
    Doctor {
        /// Show the commands that get what is missing, run them, and look again
        #[arg(long)]
        fix: bool,
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
    #[command(flatten)]
    pub machines: MachineArgs,
    /// Run directory, which must not exist [default: runs/NAME-SEED-TIME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Open report.html when the run is over, with $BROWSER or xdg-open
    #[arg(long)]
    pub open: bool,
    /// Print the verdict only
    #[arg(long)]
    pub quiet: bool,
    /// Switch a fault off in secret, to see that its receipt is missed.
    #[arg(long, value_enum, hide = true)]
    pub sabotage: Option<SabotageArg>,
    /// End with this process, which has started the run.
    #[arg(long, value_name = "PID", hide = true)]
    pub parent: Option<u32>,
}

/// An exploration.
#[derive(Debug, clap::Args)]
pub struct ExploreArgs {
    /// The scenario file (docs/scenario.md)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The seeds, the first and the last one
    #[arg(long, value_name = "FIRST..LAST", default_value = "1..100")]
    pub seeds: Seeds,
    /// What runs the nodes
    #[arg(long, value_enum, default_value_t = DriverArg::Sim)]
    pub driver: DriverArg,
    /// Runs at a time [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(TRIALS_AT_ONCE_MAX)))]
    pub jobs: Option<u32>,
    /// Where the runs leave their directories, which must not exist [default: runs/explore-NAME-TIME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Keep the directories of runs that pass, too
    #[arg(long)]
    pub keep: bool,
}

/// The first and the last of many seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seeds {
    /// The first.
    pub first: u64,
    /// The last, which is not before it.
    pub last: u64,
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ends = text.split_once("..").unwrap_or((text, text));
        let (Ok(first), Ok(last)) = (ends.0.parse(), ends.1.parse()) else {
            return Err("one number or two are needed, as in 7 or 1..100".to_owned());
        };
        if last < first || last - first >= EXPLORE_SEEDS_MAX {
            return Err(format!(
                "the last one is not before the first, and there are at most {EXPLORE_SEEDS_MAX}"
            ));
        }
        Ok(Self { first, last })
    }
}

/// What runs the nodes.
#[derive(Debug, Clone, clap::Args)]
pub struct MachineArgs {
    /// What runs the nodes
    #[arg(long, value_enum, default_value_t = DriverArg::Auto)]
    pub driver: DriverArg,
    /// What connects the nodes
    #[arg(long, value_enum, default_value_t = FabricArg::Switch)]
    pub fabric: FabricArg,
    /// Run this program as the node instead of the one inside the lab; the versions have to agree
    #[arg(long, value_name = "PROGRAM")]
    pub node_bin: Option<PathBuf>,
    /// Boot this image (a folder of `lab image build`) instead of the one that the lab builds
    #[arg(long, value_name = "DIR")]
    pub image: Option<PathBuf>,
    /// Go so many times slower than planned [default: measured, with virtual machines and in a rig]
    #[arg(long, value_name = "N")]
    pub slowdown: Option<Pace>,
}

/// A judgement.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// A run directory, a history (docs/history.md), or - for a history on the standard input
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// How long the search for a linear order may take
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = check_time)]
    pub time: Duration,
    /// How many configurations the search may keep, 24 to 264 bytes each
    #[arg(long, value_name = "N", default_value_t = CHECK_CONFIGURATIONS_MAX, value_parser = clap::value_parser!(u32).range(1..))]
    pub configurations: u32,
    /// Print the verdicts as JSON
    #[arg(long)]
    pub json: bool,
}

fn check_time(text: &str) -> Result<Duration, Mistake> {
    duration_of(text, "the time", Duration::from_millis(1), CHECK_TIME_ASKED_MAX)
}

/// A selftest.
#[derive(Debug, clap::Args)]
pub struct SelftestArgs {
    /// Runs for each bug
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=i64::from(SELFTEST_RUNS_MAX)))]
    pub runs: u32,
    /// This bug only
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(selftest::bugs()))]
    pub bug: Option<String>,
    /// The first run's seed; each run has the next one
    #[arg(long, value_name = "FIRST", default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=u64::MAX - u64::from(SELFTEST_RUNS_MAX)))]
    pub seed: u64,
    /// What runs the nodes; `sim` is quick, and leaves out what does not show there
    #[arg(long, value_name = "DRIVER", default_value = "process", value_parser = PossibleValuesParser::new(["process", "sim"]).map(|name| if name == "sim" { DriverArg::Sim } else { DriverArg::Process }))]
    pub driver: DriverArg,
    /// Runs at a time; each wants a core or two
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(TRIALS_AT_ONCE_MAX)))]
    pub jobs: u32,
    /// A node with planted bugs [default: the one inside a lab that was built with --features planted-bugs]
    #[arg(long, value_name = "PROGRAM")]
    pub node_bin: Option<PathBuf>,
    /// Where the runs leave their directories, which must not exist [default: runs/selftest-TIME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// A check of a fabric.
#[derive(Debug, clap::Args)]
pub struct FabricCheckArgs {
    /// Which one
    #[arg(long, value_enum, default_value_t = FabricArg::Switch)]
    pub fabric: FabricArg,
    /// All randomness comes from this number, as far as it is the lab's
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print a JSON object a line instead of a table
    #[arg(long)]
    pub json: bool,
}

/// A benchmark of whole clusters.
#[derive(Debug, clap::Args, serde::Serialize)]
pub struct BenchArgs {
    /// What to compare with
    #[arg(long, value_enum)]
    pub versus: Option<Rival>,
    /// Nodes of each cluster
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(bench::NODES_MAX)))]
    pub nodes: u32,
    /// What clients do
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["put", "get", "stale"])]
    pub work: Vec<BenchWork>,
    /// How many clients there are at once, each with a connection of its own
    #[arg(long, value_name = "N", value_delimiter = ',', default_values = ["1", "16", "64", "256"], value_parser = clap::value_parser!(u32).range(1..=i64::from(OPERATIONS_IN_FLIGHT_MAX)))]
    pub clients: Vec<u32>,
    /// Rounds of each system
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(bench::ROUNDS_MAX)))]
    pub rounds: u32,
    /// For how long each figure is measured
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=i64::from(bench::SECONDS_MAX)))]
    pub seconds: u32,
    /// Keys to choose from
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=bench::KEYS_MAX))]
    pub keys: u64,
    /// Size of a value, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=i64::from(VALUE_BYTES_MAX)))]
    pub value_bytes: u32,
    /// Make every fsync of both systems this much slower, with strace: a slower disk
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=bench::SYNC_DELAY_MS_MAX))]
    pub fsync_delay_ms: u64,
    /// The node's program [default: this program itself]
    #[arg(long, value_name = "PROGRAM")]
    pub node_bin: Option<PathBuf>,
    /// Where the clusters store what they are told, on the disk that is to be measured; must not exist, and is removed
    /// [default: runs/bench-TIME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Restart the leader so many times, and kill it as often, and print for how long nothing is written, instead of what else is
    /// measured
    #[arg(long, value_name = "N", conflicts_with_all = ["work", "clients", "rounds", "seconds", "keys", "value_bytes", "fsync_delay_ms"], value_parser = clap::value_parser!(u32).range(1..=i64::from(bench::OUTAGES_MAX)))]
    pub outages: Option<u32>,
    /// Write so many MiB into a cluster, and print how long a node then takes to start, and what snapshots cost in memory and in time,
    /// instead of what else is measured
    #[arg(long, value_name = "MIB", conflicts_with_all = ["versus", "work", "clients", "rounds", "seconds", "keys", "value_bytes", "fsync_delay_ms", "outages"], value_parser = clap::value_parser!(u64).range(bench::STATE_MIB_MIN..=bench::STATE_MIB_MAX))]
    pub state_mib: Option<u64>,
    /// Print every figure as JSON
    #[arg(long)]
    pub json: bool,
}

impl BenchArgs {
    /// What is measured, in turn.
    pub fn figures(&self) -> impl Iterator<Item = (BenchWork, u32)> {
        self.work.iter().flat_map(|work| self.clients.iter().map(|clients| (*work, *clients)))
    }
}

/// What a cluster is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rival {
    /// etcd, from the search path
    Etcd,
}

/// What the clients of a benchmark do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BenchWork {
    /// Write keys
    Put,
    /// Read keys, linearizably
    Get,
    /// Read what the node has, however old
    Stale,
}

impl BenchWork {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Stale => "stale",
        }
    }
}

/// What is done with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Assemble an image from a kernel and two static programs
    Build(ImageBuildArgs),
    /// Build the appliance's own small kernel
    Kernel(ImageKernelArgs),
    /// Sign an image: ed25519 over its manifest
    Sign {
        /// The image's folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// The secret key, as `openssl genpkey -algorithm ed25519` makes it
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Check an image: by whom it is signed, and that every file is whole
    Verify {
        /// The image's folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// The public key, as `openssl pkey -pubout` makes it
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Show what is in an image, and where it comes from
    Inspect {
        /// The image's folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// An image to be built.
#[derive(Debug, clap::Args)]
pub struct ImageBuildArgs {
    /// The image's folder, which must be empty or not exist
    #[arg(long, value_name = "DIR", default_value = "image")]
    pub out: PathBuf,
    /// A kernel: Debian package, folder, bzImage or vmlinux [default: Debian's newest for virtual machines, fetched]
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
    /// PID 1, a static program [default: built from this checkout]
    #[arg(long, value_name = "PROGRAM")]
    pub init: Option<PathBuf>,
    /// The node, a static program [default: built from this checkout]
    #[arg(long, value_name = "PROGRAM")]
    pub node: Option<PathBuf>,
    /// The systemd stub of the EFI program [default: the installed one, or fetched]
    #[arg(long, value_name = "FILE")]
    pub stub: Option<PathBuf>,
    /// Kernel and initramfs only: no EFI program, no disks, no OCI layouts
    #[arg(long)]
    pub boot_only: bool,
}

/// A host in a box.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The options of the rig come before the command. `lab rig shell` is a shell in the guest, and \
`lab rig shell < SCRIPT` runs a script in it.\n\
Exit codes: that of the command; besides, 2 the guest ended under it, or it was stopped; 3 this host cannot run a guest; 64 the \
command line is wrong."
)]
pub struct RigArgs {
    /// The guest's kernel: Debian package, folder or bzImage [default: Debian's newest for virtual machines, fetched]
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
    /// Cloud Hypervisor's program, for the guest [default: the one on the search path, if any]
    #[arg(long, value_name = "PROGRAM")]
    pub cloud_hypervisor: Option<PathBuf>,
    /// Processors of the guest [default: as many as this host has, at most 8; one where virtual machines run in an emulated guest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(CPUS_MAX)))]
    pub cpus: Option<u32>,
    /// Memory of the guest, in MiB
    #[arg(long, value_name = "N", default_value_t = MEMORY_MIB_DEFAULT, value_parser = clap::value_parser!(u32).range(i64::from(MEMORY_MIB_MIN)..=i64::from(MEMORY_MIB_MAX)))]
    pub memory_mib: u32,
    /// Emulate the guest's processors even where KVM could run them
    #[arg(long)]
    pub emulate: bool,
    /// Take this file or folder along, besides what the command names; once for each
    #[arg(long = "with", value_name = "PATH")]
    pub with: Vec<PathBuf>,
    /// A command of the lab with its arguments, or shell
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "COMMAND")]
    pub words: Vec<OsString>,
}

/// A kernel to be built.
#[derive(Debug, clap::Args)]
pub struct ImageKernelArgs {
    /// A source tree of Linux [default: Debian's newest package of it, fetched]
    #[arg(long, value_name = "DIR")]
    pub source: Option<PathBuf>,
    /// Where the kernel goes, and its build
    #[arg(long, value_name = "DIR", default_value = "kernel")]
    pub out: PathBuf,
    /// What the kernel is for
    #[arg(long, value_enum, default_value_t = Flavour::Appliance)]
    pub flavour: Flavour,
    /// Make and check the configuration only
    #[arg(long)]
    pub config_only: bool,
    /// Check a configuration that was made elsewhere, and build nothing
    #[arg(long, value_name = "CONFIG", conflicts_with_all = ["source", "out", "config_only"])]
    pub check: Option<PathBuf>,
}

/// What a kernel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Flavour {
    /// The appliance
    Appliance,
    /// A guest in which the lab itself runs: with netem, bridges, TUN, veth and nftables
    Lab,
}

/// What runs the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DriverArg {
    /// Virtual machines where KVM really runs a guest, processes elsewhere
    Auto,
    /// Processes in network namespaces
    Process,
    /// Virtual machines on QEMU, emulated where KVM runs none
    Qemu,
    /// Virtual machines on Cloud Hypervisor, where KVM runs one
    CloudHypervisor,
    /// Nodes in the lab's own process, on virtual time: needs nothing of the host, and the same seed makes the same run
    Sim,
}

/// What connects the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FabricArg {
    /// The lab's own switch: on every host, and the seed decides about every frame
    Switch,
    /// The kernel's bridge, netem and nftables, where it has them: faster, and what production uses
    Kernel,
}

impl From<FabricArg> for FabricKind {
    fn from(argument: FabricArg) -> Self {
        match argument {
            FabricArg::Switch => Self::Switch,
            FabricArg::Kernel => Self::Kernel,
        }
    }
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
    /// A disk whose power is cut loses nothing.
    IgnorePowerCuts,
    /// A machine that is suspended goes on.
    IgnoreSuspends,
    /// A machine is not put back.
    IgnoreRollbacks,
    /// Clocks stay right.
    IgnoreClocks,
}
