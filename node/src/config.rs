//! From the command line and node.toml to a [`Config`]; every check that needs no disk beyond the file itself.
//!
//! The command line goes before the environment, that before the file, and the file before the default. Every key of the file is also
//! a flag, and a variable with `ASPEN_` before it.

mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::file::FileConfig;
use crate::limits::{DISK_RESERVE_MIB_DEFAULT, DISK_RESERVE_MIB_MAX, PEERS_MAX, SNAPSHOT_SETTING_MAX};
use crate::raft::{LeaseClock, RaftTiming, SnapshotPolicy, TimingError};
use crate::types::{EndpointKey, NodeId, NodeInfo};

/// The settings are wrong (`EX_USAGE`, sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// What was typed.
#[derive(Debug, Parser)]
#[command(name = "aspen-node", version = crate::BUILD, about = "A member of an Aspen cluster: a replicated key-value node")]
#[command(args_conflicts_with_subcommands = true)]
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
    /// This node's number in the cluster, 1 and up
    #[arg(long, value_name = "N", env = "ASPEN_ID")]
    pub id: Option<u64>,
    /// Where the node keeps its identity, log and state
    #[arg(long, value_name = "DIR", env = "ASPEN_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// UDP address for the other members [default: 127.0.0.1:4001]
    #[arg(long, value_name = "ADDRESS", env = "ASPEN_RAFT_LISTEN")]
    pub raft_listen: Option<SocketAddr>,
    /// TCP address for clients [default: 127.0.0.1:8001]
    #[arg(long, value_name = "ADDRESS", env = "ASPEN_HTTP_LISTEN")]
    pub http_listen: Option<SocketAddr>,
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
    /// What to log: a level, or a filter such as `aspen_node=debug,openraft=warn` [default: `aspen_node=info,warn`]
    #[arg(long, value_name = "FILTER", env = "ASPEN_LOG")]
    pub log: Option<String>,
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
        let command = Self::command_here(&words);
        let explained = |error: clap::Error| explain(&error, &command, &words);
        let matches = command.clone().try_get_matches_from(&words).map_err(explained)?;
        let mut cli = Self::from_arg_matches(&matches).map_err(explained)?;
        match (&mut cli.command, matches.subcommand()) {
            (Some(CliCommand::Config { run }), Some((_, matches))) => run.note_sources(matches),
            _ => cli.run.note_sources(&matches),
        }
        Ok(cli)
    }

    /// The command line, with the variables that count for these words: those that are not empty, and of the node's settings none
    /// where something else than running it is asked for.
    fn command_here(words: &[OsString]) -> clap::Command {
        let is_run = words.get(1).is_none_or(|word| Self::command().find_subcommand(word).is_none());
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
    fn note_sources(&mut self, matches: &ArgMatches) {
        let is_from_it = |id: &&clap::Id| {
            matches.value_source(id.as_str()) == Some(clap::parser::ValueSource::EnvVariable)
        };
        self.from_environment = matches.ids().filter(is_from_it).map(ToString::to_string).collect();
    }
}

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// A variable, `ASPEN_` and the name of the setting.
    Environment,
    /// The file of `--config`.
    File(PathBuf),
    /// Nobody has said anything.
    Default,
}

/// A setting with its source, as it is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its key in the file.
    pub key: &'static str,
    /// Its value, in TOML.
    pub value: String,
    /// Where it comes from.
    pub source: Source,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, source } = self;
        let text = format!("{key} = {value}");
        write!(f, "{text:<40} # ")?;
        match source {
            Source::Flag => write!(f, "a flag"),
            Source::Environment => write!(f, "ASPEN_{}", key.to_uppercase()),
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Default => write!(f, "default"),
        }
    }
}

/// Notes where settings come from.
struct Sources {
    from_environment: BTreeSet<String>,
    file: Option<PathBuf>,
    found: BTreeMap<&'static str, Source>,
}

impl Sources {
    /// What the command line or the environment says, or else the file.
    fn pick<T>(&mut self, key: &'static str, typed: Option<T>, file: Option<T>) -> Option<T> {
        let source = match (&typed, &file, &self.file) {
            (Some(_), ..) if self.from_environment.contains(key) => Source::Environment,
            (Some(_), ..) => Source::Flag,
            (None, Some(_), Some(path)) => Source::File(path.clone()),
            _ => Source::Default,
        };
        self.found.insert(key, source);
        typed.or(file)
    }
}

/// One `--peer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerArg {
    id: NodeId,
    info: NodeInfo,
}

/// The settings of a node, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This node's number.
    pub id: NodeId,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// UDP address for the other members.
    pub raft_listen: SocketAddr,
    /// TCP address for clients.
    pub http_listen: SocketAddr,
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
    /// What to log.
    pub log: String,
}

/// Why the settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML, or has a key or a value that does not belong there.
    #[error("{path} is refused")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A setting without a default is missing.
    #[error("{key} is not set: give --{flag}, or {key} in the file of --config")]
    Missing {
        /// The key in the file.
        key: &'static str,
        /// The flag.
        flag: &'static str,
    },
    /// A number that is none.
    #[error("id is 0, node numbers start at 1")]
    ZeroId,
    /// A member twice.
    #[error("peer {0} is given twice")]
    PeerTwice(NodeId),
    /// Two members with one key.
    #[error("peers {0} and {1} have the same endpoint_id: each node has a data directory of its own")]
    SameEndpoint(NodeId, NodeId),
    /// Members without this node.
    #[error("the peers do not name this node, {0}: list every member, this one included")]
    PeersWithoutSelf(NodeId),
    /// Too many members.
    #[error("{0} peers, at most {PEERS_MAX} are allowed")]
    PeerCount(usize),
    /// Time-outs that do not fit together.
    #[error(transparent)]
    Timing(#[from] TimingError),
    /// A reserve that is none, or more than any disk.
    #[error("disk_reserve_mib is {0}, 1 to {DISK_RESERVE_MIB_MAX} are allowed")]
    DiskReserve(u64),
    /// A bound on snapshots that allows none, or no number of bytes.
    #[error("{key} is {value}, 1 to {SNAPSHOT_SETTING_MAX} are allowed")]
    Snapshots {
        /// The key in the file.
        key: &'static str,
        /// Its value.
        value: u64,
    },
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
        let mut file = args.config.as_deref().map(FileConfig::read).transpose()?.unwrap_or_default();
        let mut sources = Sources {
            from_environment: args.from_environment.clone(),
            file: args.config.clone(),
            found: BTreeMap::new(),
        };
        let timing = timing(&args, &file, &mut sources);
        let snapshots = snapshot_policy(&args, &file, &mut sources)?;
        let disk_reserve =
            match sources.pick("disk_reserve_mib", args.disk_reserve_mib, file.disk_reserve_mib) {
                Some(mib) if mib == 0 || mib > DISK_RESERVE_MIB_MAX => {
                    return Err(ConfigError::DiskReserve(mib));
                }
                mib => mib.unwrap_or(DISK_RESERVE_MIB_DEFAULT) * 1024 * 1024,
            };
        let typed = Some(args.peers).filter(|peers| !peers.is_empty());
        let typed = typed.map(|peers| peers.into_iter().map(|peer| (peer.id, peer.info)).collect());
        let listed = Some(std::mem::take(&mut file.peers)).filter(|peers| !peers.is_empty());
        let listed = listed.map(|peers| peers.into_iter().map(|peer| (peer.id, peer.info)).collect());
        let missing = |key, flag| ConfigError::Missing { key, flag };
        let config = Self {
            id: NodeId(sources.pick("id", args.id, file.id).ok_or(missing("id", "id"))?),
            data_dir: sources
                .pick("data_dir", args.data_dir, file.data_dir)
                .ok_or(missing("data_dir", "data-dir"))?,
            raft_listen: sources
                .pick("raft_listen", args.raft_listen, file.raft_listen)
                .unwrap_or_else(|| loopback(4001)),
            http_listen: sources
                .pick("http_listen", args.http_listen, file.http_listen)
                .unwrap_or_else(|| loopback(8001)),
            peers: sources.pick("peers", typed, listed).unwrap_or_default(),
            timing,
            lease_clock: sources.pick("lease_clock", args.lease_clock, file.lease_clock).unwrap_or_default(),
            snapshots,
            disk_reserve,
            log: sources.pick("log", args.log, file.log).unwrap_or_else(|| "aspen_node=info,warn".to_owned()),
        };
        config.check()?;
        let settings = config.settings(&sources.found);
        Ok((config, settings))
    }

    /// Every setting in TOML, with its source.
    fn settings(&self, sources: &BTreeMap<&'static str, Source>) -> Vec<Setting> {
        // JSON's strings are TOML's, too.
        let text = |text: &dyn fmt::Display| serde_json::Value::from(text.to_string()).to_string();
        let ms = |duration: Duration| duration.as_millis().to_string();
        let mib = |bytes: u64| (bytes / 1024 / 1024).to_string();
        let peer = |(id, info): &(NodeId, NodeInfo)| {
            let NodeInfo { endpoint_id, raft, http } = info;
            format!("{{ id = {id}, endpoint_id = \"{endpoint_id}\", raft = \"{raft}\", http = \"{http}\" }}")
        };
        let peers: Vec<String> = self.peers.iter().map(peer).collect();
        let values = [
            ("id", self.id.to_string()),
            ("data_dir", text(&self.data_dir.display())),
            ("raft_listen", text(&self.raft_listen)),
            ("http_listen", text(&self.http_listen)),
            ("heartbeat_ms", ms(self.timing.heartbeat)),
            ("election_ms_min", ms(self.timing.election_min)),
            ("election_ms_max", ms(self.timing.election_max)),
            ("lease_clock", text(&self.lease_clock.name())),
            ("snapshot_entries", self.snapshots.entries.to_string()),
            ("snapshot_log_mib", mib(self.snapshots.log_bytes)),
            ("snapshot_mib_max", mib(self.snapshots.bytes_max)),
            ("disk_reserve_mib", mib(self.disk_reserve)),
            ("log", text(&self.log)),
            ("peers", format!("[{}]", peers.join(", "))),
        ];
        let setting = |(key, value)| Setting {
            key,
            value,
            source: sources.get(key).cloned().unwrap_or(Source::Default),
        };
        values.into_iter().map(setting).collect()
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.id == NodeId(0) || self.peers.iter().any(|(id, _)| *id == NodeId(0)) {
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
        if !self.peers.is_empty() && !self.peers.iter().any(|(id, _)| *id == self.id) {
            return Err(ConfigError::PeersWithoutSelf(self.id));
        }
        Ok(self.timing.check()?)
    }
}

/// Why a `--peer` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerArgError {
    /// A part that is no `name=value`.
    #[error("`{0}` is not of the form name=value")]
    NoPair(String),
    /// A name that a peer does not have.
    #[error("a peer has no `{0}`: id, endpoint_id, raft and http are needed")]
    UnknownName(String),
    /// A name that is missing.
    #[error("`{0}` is missing: id, endpoint_id, raft and http are needed")]
    MissingName(&'static str),
    /// A value that cannot be read.
    #[error("{name} is `{value}`: {reason}")]
    Value {
        /// The name.
        name: &'static str,
        /// What was given.
        value: String,
        /// Why it is refused.
        reason: String,
    },
}

impl FromStr for PeerArg {
    type Err = PeerArgError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let [mut id, mut endpoint_id, mut raft, mut http] = [None; 4];
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(|| PeerArgError::NoPair(part.to_owned()))?;
            match name {
                "id" => id = Some(value),
                "endpoint_id" => endpoint_id = Some(value),
                "raft" => raft = Some(value),
                "http" => http = Some(value),
                _ => return Err(PeerArgError::UnknownName(name.to_owned())),
            }
        }
        Ok(Self {
            id: NodeId(parse_part("id", id)?),
            info: NodeInfo {
                endpoint_id: parse_part::<EndpointKey>("endpoint_id", endpoint_id)?,
                raft: parse_part("raft", raft)?,
                http: parse_part("http", http)?,
            },
        })
    }
}

fn parse_part<T: FromStr<Err: fmt::Display>>(
    name: &'static str,
    value: Option<&str>,
) -> Result<T, PeerArgError> {
    let value = value.ok_or(PeerArgError::MissingName(name))?;
    value.parse().map_err(|error: T::Err| PeerArgError::Value {
        name,
        value: value.to_owned(),
        reason: error.to_string(),
    })
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
    let mut setting = |key, typed: Option<u64>, file: Option<u64>| match sources.pick(key, typed, file) {
        Some(value) if value == 0 || value > SNAPSHOT_SETTING_MAX => {
            Err(ConfigError::Snapshots { key, value })
        }
        value => Ok(value),
    };
    let mib = |mib: u64| mib * 1024 * 1024;
    let entries = setting("snapshot_entries", args.snapshot_entries, file.snapshot_entries)?;
    let log_mib = setting("snapshot_log_mib", args.snapshot_log_mib, file.snapshot_log_mib)?;
    let mib_max = setting("snapshot_mib_max", args.snapshot_mib_max, file.snapshot_mib_max)?;
    Ok(SnapshotPolicy {
        entries: entries.unwrap_or(default.entries),
        log_bytes: log_mib.map_or(default.log_bytes, mib),
        bytes_max: mib_max.map_or(default.bytes_max, mib),
    })
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> RunArgs {
        Cli::parse_from([&["aspen-node"], words].concat()).run
    }

    #[track_caller]
    fn check(words: &[&str], want: &str) {
        let error = Config::load(args(words)).unwrap_err().to_string();
        assert_eq!(error, want);
    }

    fn peer(id: u64, key: u8) -> String {
        let key = EndpointKey([key; 32]);
        format!("id={id},endpoint_id={key},raft=127.0.0.1:400{id},http=127.0.0.1:800{id}")
    }

    #[test]
    fn bad_settings_say_what_to_do() {
        check(&["--id", "1"], "data_dir is not set: give --data-dir, or data_dir in the file of --config");
        check(&["--id", "0", "--data-dir", "d"], "id is 0, node numbers start at 1");
        let (one, again, other) = (peer(1, 1), peer(2, 1), peer(2, 2));
        let base = ["--id", "1", "--data-dir", "d", "--peer"];
        check(&[&base[..], &[&one, "--peer", &one]].concat(), "peer 1 is given twice");
        check(
            &[&base[..], &[&one, "--peer", &again]].concat(),
            "peers 1 and 2 have the same endpoint_id: each node has a data directory of its own",
        );
        check(
            &[&base[..], &[&other]].concat(),
            "the peers do not name this node, 1: list every member, this one included",
        );
    }

    #[test]
    fn flags_go_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        let key = EndpointKey([7; 32]);
        let text = format!(
            "id = 3\ndata_dir = 'from-file'\nheartbeat_ms = 100\n\
             [[peers]]\nid = 3\nendpoint_id = '{key}'\nraft = '10.0.0.3:4001'\nhttp = '10.0.0.3:8001'\n"
        );
        std::fs::write(&path, text).unwrap();
        let file = path.to_str().unwrap();
        let config = Config::load(args(&["--config", file, "--data-dir", "from-flag"])).unwrap();
        assert_eq!(config.id, NodeId(3));
        assert_eq!(config.data_dir, PathBuf::from("from-flag"));
        assert_eq!(config.timing.heartbeat, Duration::from_millis(100));
        assert_eq!(config.timing.election_max, Duration::from_secs(2));
        assert_eq!(config.peers[0].1.endpoint_id, key);
    }

    #[test]
    fn every_setting_says_where_it_comes_from() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        std::fs::write(&path, "id = 3\nheartbeat_ms = 100\n").unwrap();
        let mut args = args(&["--config", path.to_str().unwrap(), "--data-dir", "d", "--log", "warn"]);
        args.from_environment.insert("log".to_owned());
        let (_, settings) = Config::load_with_sources(args).unwrap();
        let text: Vec<String> = settings.iter().map(ToString::to_string).collect();
        let of = |key: &str| text.iter().find(|line| line.starts_with(key)).unwrap().as_str();
        assert_eq!(of("id"), format!("{:<40} # {}", "id = 3", path.display()));
        assert_eq!(of("heartbeat_ms"), format!("{:<40} # {}", "heartbeat_ms = 100", path.display()));
        assert_eq!(of("data_dir"), format!("{:<40} # a flag", "data_dir = \"d\""));
        assert_eq!(of("log"), format!("{:<40} # ASPEN_LOG", "log = \"warn\""));
        assert_eq!(of("lease_clock"), format!("{:<40} # default", "lease_clock = \"auto\""));
        // It is what the file would have to say.
        let again: toml::Table = text.join("\n").parse().unwrap();
        assert_eq!(again["election_ms_max"].as_integer(), Some(2000));
        assert_eq!(again.len(), settings.len());
    }

    #[test]
    fn unknown_key_in_the_file_is_an_error_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        std::fs::write(&path, "id = 1\nhartbeat_ms = 5\n").unwrap();
        let error = Config::load(args(&["--config", path.to_str().unwrap()])).unwrap_err();
        let ConfigError::Parse { source, .. } = &error else { panic!("{error}") };
        let text = source.to_string();
        assert!(text.contains("line 2") && text.contains("unknown field `hartbeat_ms`"), "{text}");
    }

    #[test]
    fn peer_flag_says_what_is_wrong() {
        let check = |text: &str, want: &str| {
            assert_eq!(text.parse::<PeerArg>().unwrap_err().to_string(), want);
        };
        check("id", "`id` is not of the form name=value");
        check("id=1,port=2", "a peer has no `port`: id, endpoint_id, raft and http are needed");
        check("id=1", "`endpoint_id` is missing: id, endpoint_id, raft and http are needed");
        check("id=1,endpoint_id=ab", "endpoint_id is `ab`: an endpoint id has 64 hexadecimal digits");
    }
}
