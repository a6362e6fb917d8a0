//! From the command line and node.toml to a [`Config`]; every check that needs no disk beyond the file itself.
//!
//! The command line goes before the environment, that before the file, and the file before the default. Every key of the file is also
//! a flag, and a variable with `ASPEN_` before it.

mod credentials;
mod entry;
mod error;
mod file;
mod lookups;
mod peer;
mod printed;
mod region;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use serde::Deserialize;

pub use self::credentials::CredentialFiles;
use self::credentials::credential_files;
pub use self::entry::{Advertise, Entry, SecretSource};
use self::entry::{entry, promotion_policy, secret_source};
pub use self::error::ConfigError;
use self::file::FileConfig;
pub use self::lookups::{LookupArgs, LookupsError, RelayModeArg};
pub use self::peer::{PeerArg, PeerArgError};
use self::source::Sources;
pub use self::source::{Setting, Source};
use crate::cluster::ticket::AspenClusterTicket;
use crate::limits::{
    DISK_RESERVE_MIB_DEFAULT, DISK_RESERVE_MIB_MAX, MIB, PEERS_MAX, SNAPSHOT_SETTING_MAX,
    WATCH_HISTORY_MIB_DEFAULT, WATCH_HISTORY_MIB_MAX,
};
use crate::network::about::About;
use crate::network::lookups::Lookups;
use crate::network::secret::SECRET_VARIABLE;
use crate::raft::{LeaseClock, PromotionPolicy, RaftTiming, SnapshotPolicy};
use crate::types::{Label, NodeId, NodeInfo};

/// What is logged unless somebody says otherwise.
pub const DEFAULT_LOG: &str = "aspen_node=info,error";

/// The settings are wrong (`EX_USAGE`, sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// With what the variables of all programs of Aspen begin.
const PREFIX: &str = "ASPEN_";

/// How much a variable has to be like a setting (1: the same) to be taken for a slip of the pen, and how long a name has to be of which
/// that can be said.
const MISSPELT_LIKENESS_MIN: f64 = 0.7;
const MISSPELT_LENGTH_MIN: usize = PREFIX.len() + 5;

/// What was typed.
#[derive(Debug, Parser)]
#[command(name = "aspen-node", version = crate::BUILD, about = "A member of an Aspen cluster: a replicated key-value node")]
#[command(args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Exit codes: 0 stopped as it was asked to, or nothing is wrong; 1 it failed or cannot start, or something is wrong; \
                        64 the command line or a setting is wrong; 65 its data directory may not be used any more, as the file `retired` in it says."
)]
pub struct Cli {
    /// Something else than running the node.
    #[command(subcommand)]
    pub command: Option<CliCommand>,
    /// The node's settings.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What the program does besides running a node.
#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// Print the endpoint id of a data directory, which is made if it is missing
    Identity {
        /// The node's data directory
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
    /// Print a new secret for a cluster, to be kept in a file that only the nodes may read
    Secret,
    /// Print every setting, and where it comes from: a flag, the environment, the file or a default
    Config {
        /// The settings, as for running the node
        #[command(flatten)]
        run: Box<RunArgs>,
    },
    /// Read all that a stopped node has kept, and say what is wrong with it: exit code 0 or 1
    Validate {
        /// The node's data directory
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
}

/// The settings of a node, as flags.
#[derive(Debug, Default, Args)]
pub struct RunArgs {
    /// Read the settings from a TOML file; flags go before it
    #[arg(long, value_name = "FILE", env = "ASPEN_CONFIG")]
    pub config: Option<PathBuf>,
    /// This node's number in the cluster, 1 and up [default: 1 with --bootstrap, the next one with --ticket]
    #[arg(long, value_name = "N", env = "ASPEN_ID")]
    pub id: Option<u64>,
    /// Where the node keeps its identity, log and state
    #[arg(long, value_name = "DIR", env = "ASPEN_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// UDP address for the other members [default: 127.0.0.1:4001]
    #[arg(long, value_name = "ADDRESS", value_parser = socket_address, env = "ASPEN_RAFT_LISTEN")]
    pub raft_listen: Option<SocketAddr>,
    /// TCP address for clients [default: 127.0.0.1:8001]
    #[arg(long, value_name = "ADDRESS", value_parser = socket_address, env = "ASPEN_HTTP_LISTEN")]
    pub http_listen: Option<SocketAddr>,
    /// Where other members reach --raft-listen [default: the address itself]
    #[arg(long, value_name = "ADDRESS", value_parser = socket_address, env = "ASPEN_RAFT_ADVERTISE")]
    pub raft_advertise: Option<SocketAddr>,
    /// Where clients reach --http-listen [default: the address itself]
    #[arg(long, value_name = "ADDRESS", value_parser = socket_address, env = "ASPEN_HTTP_ADVERTISE")]
    pub http_advertise: Option<SocketAddr>,
    /// Read the cluster's secret from a file, as `aspen-node secret` prints one; the variable `ASPEN_SECRET` can have it instead
    #[arg(long, value_name = "FILE", env = "ASPEN_SECRET_FILE")]
    pub secret_file: Option<PathBuf>,
    /// Answer only clients that show the token in this file [default: everybody]
    #[arg(long, value_name = "FILE", env = "ASPEN_HTTP_TOKEN_FILE")]
    pub http_token_file: Option<PathBuf>,
    /// Let clients read that show the token in this file; it needs --http-token-file, too
    #[arg(long, value_name = "FILE", env = "ASPEN_HTTP_READ_TOKEN_FILE")]
    pub http_read_token_file: Option<PathBuf>,
    /// Speak HTTPS, and show the certificate in this file, in PEM; it needs --http-tls-key-file, too
    #[arg(long, value_name = "FILE", env = "ASPEN_HTTP_TLS_CERT_FILE")]
    pub http_tls_cert_file: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(long, value_name = "FILE", env = "ASPEN_HTTP_TLS_KEY_FILE")]
    pub http_tls_key_file: Option<PathBuf>,
    /// Answer only clients with a certificate that an authority in this file has signed [default: everybody]
    #[arg(long, value_name = "FILE", env = "ASPEN_HTTP_TLS_CLIENT_CA_FILE")]
    pub http_tls_client_ca_file: Option<PathBuf>,
    /// Listen for clients off this host without TLS or without a token: for networks in which everybody is trusted
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "ASPEN_HTTP_INSECURE")]
    pub http_insecure: Option<bool>,
    /// Join the cluster of this ticket, which `aspen cluster ticket` prints, unless the node is a member already
    #[arg(long, value_name = "TICKET", env = "ASPEN_TICKET")]
    pub ticket: Option<AspenClusterTicket>,
    /// Found a cluster of this node alone, unless the node is a member already
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "ASPEN_BOOTSTRAP")]
    pub bootstrap: Option<bool>,
    /// Come back as a new member, by the ticket, when this one may not go on: its data directory was put back to an earlier state, or
    /// its cluster has removed it. What it has is set aside [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "ASPEN_REJOIN")]
    pub rejoin: Option<bool>,
    /// Tell the other members by gossip where this node is, and hear where they are [default: true with a secret]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "ASPEN_GOSSIP")]
    pub gossip: Option<bool>,
    /// Let learners vote until so many members do [default: as the cluster does that is joined, otherwise none]
    #[arg(long, value_name = "N", env = "ASPEN_TARGET_VOTERS")]
    pub target_voters: Option<u32>,
    /// Put a learner in the place of a voter that has been silent for so many seconds [default: never]
    #[arg(long, value_name = "S", env = "ASPEN_REPLACE_AFTER_S")]
    pub replace_after_s: Option<u64>,
    /// In which region this node is, for others to see [default: none]
    #[arg(long, value_name = "NAME", env = "ASPEN_REGION")]
    pub region: Option<Label>,
    /// In which part of its region it is [default: none]
    #[arg(long, value_name = "NAME", env = "ASPEN_ZONE")]
    pub zone: Option<Label>,
    /// Have the leader be in the first of these regions that has a voter which is well; the same on all members [default: anywhere]
    #[arg(long, value_name = "NAMES", env = "ASPEN_PREFERRED_REGIONS", value_delimiter = ',')]
    pub preferred_regions: Vec<Label>,
    /// A member, this node included; once for each: `id=1,endpoint_id=HEX,raft=ADDRESS,http=ADDRESS`
    #[arg(long = "peer", value_name = "PEER", env = "ASPEN_PEERS", value_delimiter = ';')]
    pub peers: Vec<PeerArg>,
    /// How often a leader speaks, in milliseconds [default: 200]
    #[arg(long, value_name = "MS", env = "ASPEN_HEARTBEAT_MS")]
    pub heartbeat_ms: Option<u64>,
    /// Shortest silence before an election, in milliseconds [default: 1000]
    #[arg(long, value_name = "MS", env = "ASPEN_ELECTION_MS_MIN")]
    pub election_ms_min: Option<u64>,
    /// Longest silence before an election, in milliseconds [default: 2000]
    #[arg(long, value_name = "MS", env = "ASPEN_ELECTION_MS_MAX")]
    pub election_ms_max: Option<u64>,
    /// What leases of reads are measured with [default: auto]
    #[arg(long, value_name = "CLOCK", value_enum, env = "ASPEN_LEASE_CLOCK")]
    pub lease_clock: Option<LeaseClock>,
    /// Make a snapshot after so many entries [default: 1000000]
    #[arg(long, value_name = "N", env = "ASPEN_SNAPSHOT_ENTRIES")]
    pub snapshot_entries: Option<u64>,
    /// Make a snapshot after so many MiB of log, or as many as the state has if it is larger [default: 256]
    #[arg(long, value_name = "MIB", env = "ASPEN_SNAPSHOT_LOG_MIB")]
    pub snapshot_log_mib: Option<u64>,
    /// Neither make nor take a larger snapshot, in MiB [default: 65536]
    #[arg(long, value_name = "MIB", env = "ASPEN_SNAPSHOT_MIB_MAX")]
    pub snapshot_mib_max: Option<u64>,
    /// Refuse writes when the disk has less room than this, in MiB [default: 64]
    #[arg(long, value_name = "MIB", env = "ASPEN_DISK_RESERVE_MIB")]
    pub disk_reserve_mib: Option<u64>,
    /// Hold so many MiB of changes in memory for those who follow them [default: 32]
    #[arg(long, value_name = "MIB", env = "ASPEN_WATCH_HISTORY_MIB")]
    pub watch_history_mib: Option<u64>,
    /// Start again by itself after a fault of its own, three times within ten minutes at most [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "ASPEN_RESTART_ON_FAILURE")]
    pub restart_on_failure: Option<bool>,
    /// Let the system write the node's memory to a file when it dies, with its keys and what clients have stored [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "ASPEN_CORE_DUMPS")]
    pub core_dumps: Option<bool>,
    /// What answers clients: Raft, or this process alone and in memory, where nothing is kept [default: raft]
    #[arg(long, value_name = "CONTROL", value_enum, env = "ASPEN_CONTROL")]
    pub control: Option<Control>,
    /// What to log: a level, or a filter such as `aspen_node=debug,openraft=warn` [default: `aspen_node=info,error`]
    #[arg(long, value_name = "FILTER", env = "ASPEN_LOG")]
    pub log: Option<String>,
    /// How the log is written [default: text]
    #[arg(long, value_name = "FORMAT", value_enum, env = "ASPEN_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Relays and lookups.
    #[command(flatten)]
    pub lookups: LookupArgs,
    /// Which of them come from the environment, by name of the field.
    #[arg(skip)]
    pub from_environment: BTreeSet<String>,
}

impl Cli {
    /// What was typed, and what the environment has.
    ///
    /// # Errors
    /// It cannot be read, or asks for help; that is printed already, and this is the exit code.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, ExitCode> {
        let words: Vec<OsString> = words.into_iter().collect();
        let is_run = Self::is_run(&words);
        let command = Self::command_here(is_run);
        let explained = |error: clap::Error| explain(&error, &command, &words);
        let parsed = command.clone().try_get_matches_from(&words);
        // Who asks for help is helped.
        let is_for_use = parsed.as_ref().map_or_else(clap::Error::use_stderr, |_| true);
        if is_for_use && (is_run || words.get(1).is_some_and(|word| word == "config")) {
            let present = std::env::vars_os().filter(|(_, value)| !value.is_empty());
            let present = present.filter_map(|(name, _)| name.into_string().ok());
            if let Some((wrong, right)) = misspelt(present) {
                let text =
                    format!("{wrong} in the environment is no setting, {right} is: rename it, or unset it\n");
                return Err(explained(Self::command().error(ErrorKind::UnknownArgument, text)));
            }
        }
        let matches = parsed.map_err(explained)?;
        let mut cli = Self::from_arg_matches(&matches).map_err(explained)?;
        match (&mut cli.command, matches.subcommand()) {
            (Some(CliCommand::Config { run }), Some((_, matches))) => run.note_sources(matches),
            _ => cli.run.note_sources(&matches),
        }
        Ok(cli)
    }

    /// Whether a node is to run.
    fn is_run(words: &[OsString]) -> bool {
        words.get(1).is_none_or(|word| Self::command().find_subcommand(word).is_none())
    }

    /// The command line, with the variables that count: those that are not empty, and of the node's settings none where something else
    /// than running it is asked for.
    fn command_here(is_run: bool) -> clap::Command {
        let heed = |is_heard: bool| {
            move |argument: Arg| {
                let is_empty = argument
                    .get_env()
                    .is_some_and(|name| std::env::var_os(name).is_none_or(|value| value.is_empty()));
                if is_heard && !is_empty { argument } else { argument.env(Resettable::Reset) }
            }
        };
        Self::command().mut_args(heed(is_run)).mut_subcommands(|subcommand| subcommand.mut_args(heed(true)))
    }
}

/// A variable that looks much like a setting and is none, and that setting. What is not alike may be somebody else's: an orchestrator
/// gives every process variables that begin with the names of its services.
fn misspelt(present: impl Iterator<Item = String>) -> Option<(String, String)> {
    let command = Cli::command();
    let variables = command.get_arguments().filter_map(Arg::get_env).filter_map(OsStr::to_str);
    let known: BTreeSet<&str> = variables.chain([SECRET_VARIABLE]).collect();
    let unknown = present.filter(|name| {
        name.starts_with(PREFIX) && name.len() >= MISSPELT_LENGTH_MIN && !known.contains(&name[..])
    });
    let likeness =
        |a: &str, b: &str| strsim::normalized_damerau_levenshtein(&a[PREFIX.len()..], &b[PREFIX.len()..]);
    unknown
        .filter_map(|name| {
            let alike = known.iter().map(|right| (likeness(&name, right), *right));
            let (likeness, right) = alike.max_by(|one, other| one.0.total_cmp(&other.0))?;
            (likeness >= MISSPELT_LIKENESS_MIN).then(|| (name, right.to_owned()))
        })
        .min()
}

/// Prints what clap says, and from which variable a value comes that nobody has typed; the exit code.
fn explain(error: &clap::Error, command: &clap::Command, words: &[OsString]) -> ExitCode {
    // A closed pipe is no error of ours.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    if let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidArg) {
        let flag = wrong.split(' ').next().unwrap_or_default();
        let of_subcommands = command.get_subcommands().flat_map(clap::Command::get_arguments);
        let mut arguments = command.get_arguments().chain(of_subcommands);
        let argument = arguments.find(|argument| {
            argument.get_long().is_some_and(|long| flag.strip_prefix("--") == Some(long))
                && argument.get_env().is_some()
        });
        let variable = argument.and_then(Arg::get_env).filter(|name| std::env::var_os(name).is_some());
        let is_typed = words.iter().any(|word| word.to_string_lossy().starts_with(flag));
        if let Some(variable) = variable.filter(|_| !is_typed) {
            let name = variable.to_string_lossy();
            let _ = writeln!(std::io::stderr(), "The value is that of {name} in the environment.");
        }
    }
    ExitCode::from(EXIT_USAGE)
}

impl RunArgs {
    /// Whether they name the cluster's secret, or the environment has it.
    pub(crate) fn has_secret(&self) -> bool {
        self.secret_file.is_some() || entry::secret_in_environment()
    }

    fn note_sources(&mut self, matches: &ArgMatches) {
        let is_from_it = |id: &&clap::Id| {
            matches.value_source(id.as_str()) == Some(clap::parser::ValueSource::EnvVariable)
        };
        self.from_environment = matches.ids().filter(is_from_it).map(ToString::to_string).collect();
    }
}

/// The settings of a node, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This node's number, if it is not to be given one.
    pub id: Option<NodeId>,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// UDP address for the other members.
    pub raft_listen: SocketAddr,
    /// TCP address for clients.
    pub http_listen: SocketAddr,
    /// Where others reach the two, if not there.
    pub advertise: Advertise,
    /// What the nodes of the cluster know.
    pub secret: Option<SecretSource>,
    /// What is shown on HTTP, and wanted to be shown.
    pub credentials: CredentialFiles,
    /// Whether others than this host may be answered without TLS or without a token.
    pub http_insecure: bool,
    /// How it becomes a member.
    pub entry: Entry,
    /// Whether it gossips, if that is said.
    pub gossip: Option<bool>,
    /// By what it finds its peers besides their addresses.
    pub lookups: Lookups,
    /// How many members should vote.
    pub promotion: PromotionPolicy,
    /// What it says of itself: where it is, and where the leader should be.
    pub about: About,
    /// The members it knows of from the start, by number; empty or with this node among them.
    pub peers: Vec<(NodeId, NodeInfo)>,
    /// Heartbeat and election.
    pub timing: RaftTiming,
    /// What leases are measured with.
    pub lease_clock: LeaseClock,
    /// When snapshots are made.
    pub snapshots: SnapshotPolicy,
    /// Bytes of the disk below which writes are refused.
    pub disk_reserve: u64,
    /// Bytes of changes that are held for those who follow them.
    pub watch_history: u64,
    /// Whether it starts again by itself after a fault of its own.
    pub restart_on_failure: bool,
    /// What answers clients.
    pub control: Control,
    /// Whether the system may write its memory to a file.
    pub core_dumps: bool,
    /// What to log.
    pub log: String,
    /// How.
    pub log_format: LogFormat,
}

/// What answers clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// A cluster of nodes, by Raft
    #[default]
    Raft,
    /// This process alone, in memory: for tests of programs that use a node
    Deterministic,
}

impl Control {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Deterministic => "deterministic",
        }
    }
}

/// How the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// A JSON object on each line
    Json,
}

impl LogFormat {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl Config {
    /// Joins flags, environment, file and defaults.
    ///
    /// # Errors
    /// The first setting that cannot stand, with its source.
    pub fn load(args: RunArgs) -> Result<Self, ConfigError> {
        Self::load_with_sources(args).map(|(config, _)| config)
    }

    /// The same, and every setting with its source.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with_sources(args: RunArgs) -> Result<(Self, Vec<Setting>), ConfigError> {
        let file = args.config.as_deref().map(FileConfig::read).transpose()?.unwrap_or_default();
        let mut sources = Sources {
            from_environment: args.from_environment.clone(),
            file: args.config.clone(),
            found: BTreeMap::new(),
        };
        let config = Self::joined(args, file, &mut sources).map_err(|error| sources.explain(error))?;
        let settings = config.settings(&sources.found);
        Ok((config, settings))
    }

    fn joined(args: RunArgs, mut file: FileConfig, sources: &mut Sources) -> Result<Self, ConfigError> {
        let timing = timing(&args, &file, sources);
        let entry = entry(&args, &file, sources)?;
        let lookups = lookups::lookups(&args.lookups, &file, sources)?;
        let promotion = promotion_policy(&args, &file, sources)?;
        let about = region::about(&args, &file, sources)?;
        let secret = secret_source(&args, &file, sources);
        let credentials = credential_files(&args, &file, sources)?;
        let snapshots = snapshot_policy(&args, &file, sources)?;
        let mut size = |key, typed, file, max| checked_size(key, sources.pick(key, typed, file), max);
        let disk_reserve =
            size("disk_reserve_mib", args.disk_reserve_mib, file.disk_reserve_mib, DISK_RESERVE_MIB_MAX)?;
        let watch_history =
            size("watch_history_mib", args.watch_history_mib, file.watch_history_mib, WATCH_HISTORY_MIB_MAX)?;
        let typed = Some(args.peers).filter(|peers| !peers.is_empty());
        let typed = typed.map(|peers| peers.into_iter().map(|peer| (peer.id, peer.info)).collect());
        let listed = Some(std::mem::take(&mut file.peers)).filter(|peers| !peers.is_empty());
        let listed = listed.map(|peers| peers.into_iter().map(|peer| (peer.id, peer.info)).collect());
        let missing = |key, flag| ConfigError::Missing { key, flag };
        let control = sources.pick("control", args.control, file.control).unwrap_or_default();
        let data_dir = sources.pick("data_dir", args.data_dir, file.data_dir);
        // Without Raft nothing is kept.
        let data_dir = data_dir.or_else(|| (control == Control::Deterministic).then(PathBuf::new));
        let config = Self {
            id: sources.pick("id", args.id, file.id).map(NodeId),
            control,
            data_dir: data_dir.ok_or(missing("data_dir", "data-dir"))?,
            raft_listen: sources
                .pick("raft_listen", args.raft_listen, file.raft_listen)
                .unwrap_or_else(|| loopback(4001)),
            http_listen: sources
                .pick("http_listen", args.http_listen, file.http_listen)
                .unwrap_or_else(|| loopback(8001)),
            advertise: Advertise {
                raft: sources.pick("raft_advertise", args.raft_advertise, file.raft_advertise),
                http: sources.pick("http_advertise", args.http_advertise, file.http_advertise),
            },
            secret,
            credentials,
            http_insecure: sources
                .pick("http_insecure", args.http_insecure, file.http_insecure)
                .unwrap_or(false),
            entry,
            gossip: sources.pick("gossip", args.gossip, file.gossip),
            lookups,
            promotion,
            about,
            peers: sources.pick("peers", typed, listed).unwrap_or_default(),
            timing,
            lease_clock: sources.pick("lease_clock", args.lease_clock, file.lease_clock).unwrap_or_default(),
            snapshots,
            disk_reserve: mib(disk_reserve.unwrap_or(DISK_RESERVE_MIB_DEFAULT)),
            watch_history: mib(watch_history.unwrap_or(WATCH_HISTORY_MIB_DEFAULT)),
            restart_on_failure: sources
                .pick("restart_on_failure", args.restart_on_failure, file.restart_on_failure)
                .unwrap_or(true),
            core_dumps: sources.pick("core_dumps", args.core_dumps, file.core_dumps).unwrap_or(false),
            log: sources.pick("log", args.log, file.log).unwrap_or_else(|| DEFAULT_LOG.to_owned()),
            log_format: sources.pick("log_format", args.log_format, file.log_format).unwrap_or_default(),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.check_entry()?;
        self.check_credentials()?;
        if self.id == Some(NodeId(0)) || self.peers.iter().any(|(id, _)| *id == NodeId(0)) {
            return Err(ConfigError::ZeroId);
        }
        if self.peers.len() > PEERS_MAX as usize {
            return Err(ConfigError::PeerCount(self.peers.len()));
        }
        for (place, (id, info)) in self.peers.iter().enumerate() {
            for (other, other_info) in &self.peers[..place] {
                if id == other {
                    return Err(ConfigError::PeerTwice(*id));
                }
                if info.endpoint_id == other_info.endpoint_id {
                    return Err(ConfigError::SameEndpoint(*other, *id));
                }
            }
        }
        if let Some(own) = self.id
            && !self.peers.is_empty()
            && !self.peers.iter().any(|(id, _)| *id == own)
        {
            return Err(ConfigError::PeersWithoutSelf(own));
        }
        Ok(self.timing.check()?)
    }
}

/// Raft's time-outs, wherever they come from.
fn timing(args: &RunArgs, file: &FileConfig, sources: &mut Sources) -> RaftTiming {
    let default = RaftTiming::default();
    let mut millis =
        |key, typed, file, default| sources.pick(key, typed, file).map_or(default, Duration::from_millis);
    RaftTiming {
        heartbeat: millis("heartbeat_ms", args.heartbeat_ms, file.heartbeat_ms, default.heartbeat),
        election_min: millis(
            "election_ms_min",
            args.election_ms_min,
            file.election_ms_min,
            default.election_min,
        ),
        election_max: millis(
            "election_ms_max",
            args.election_ms_max,
            file.election_ms_max,
            default.election_max,
        ),
    }
}

/// When snapshots are made, wherever that comes from.
fn snapshot_policy(
    args: &RunArgs,
    file: &FileConfig,
    sources: &mut Sources,
) -> Result<SnapshotPolicy, ConfigError> {
    let default = SnapshotPolicy::default();
    let mut setting =
        |key, typed, file| checked_size(key, sources.pick(key, typed, file), SNAPSHOT_SETTING_MAX);
    let entries = setting("snapshot_entries", args.snapshot_entries, file.snapshot_entries)?;
    let log_mib = setting("snapshot_log_mib", args.snapshot_log_mib, file.snapshot_log_mib)?;
    let mib_max = setting("snapshot_mib_max", args.snapshot_mib_max, file.snapshot_mib_max)?;
    Ok(SnapshotPolicy {
        entries: entries.unwrap_or(default.entries),
        log_bytes: log_mib.map_or(default.log_bytes, mib),
        bytes_max: mib_max.map_or(default.bytes_max, mib),
    })
}

/// A size, if it is one that is allowed.
fn checked_size(key: &'static str, value: Option<u64>, max: u64) -> Result<Option<u64>, ConfigError> {
    match value {
        Some(value) if value == 0 || value > max => Err(ConfigError::Size { key, value, max }),
        value => Ok(value),
    }
}

/// MiB in bytes.
fn mib(mib: u64) -> u64 {
    mib * MIB
}

/// Reads an address as it is typed.
///
/// # Errors
/// What is needed instead.
pub fn socket_address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "an IP address and a port are needed, as in 127.0.0.1:4001 or [::1]:4001")
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[cfg(test)]
mod tests;
