//! `lab bench`: how fast a cluster is on this host, alone or side by side with etcd.
//!
//! Every node is a process on loopback, in no sandbox and on no fabric: what is measured is the system and the disk. Both are
//! durable: a write is answered when a quorum has synced it. Rounds of the systems take turns (A B A B), each with a new
//! cluster in new folders on the same disk, since one host's speed changes from minute to minute; the medians are compared.
//! Every client has a connection of its own to the leader, and waits for each answer before it asks again.

mod cluster;
mod disk;
mod etcd;
mod table;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aspen_node::api::Consistency;
use aspen_node::client::aspen::AspenTarget;
use aspen_node::client::load::{self, Load, Measured, Work};
use aspen_node::cluster::identity::IdentityError;
use serde::Serialize;

use self::cluster::{Cluster, Setting};
use crate::cli::{BenchArgs, BenchWork, Rival};
use crate::limits::bench::{DISK_WAIT, DISK_WAITS_MAX, SLOW_DISK, WARM_UP};
use crate::machine::driver::NodeProgram;
use crate::program::{Program, ProgramError, ProgramLog};
use crate::session::{OuterError, outer};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum System {
    /// This one.
    Aspen,
    /// <https://etcd.io>.
    Etcd,
}

impl System {
    fn name(self) -> &'static str {
        match self {
            Self::Aspen => "aspen",
            Self::Etcd => "etcd",
        }
    }

    /// The ways in which clients can talk to it.
    fn interfaces(self) -> &'static [Interface] {
        match self {
            Self::Aspen => &[Interface::AspenHttp],
            Self::Etcd => &[Interface::EtcdGateway, Interface::EtcdGrpc],
        }
    }
}

/// How clients talk to a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Interface {
    /// HTTP and JSON.
    AspenHttp,
    /// The same of etcd, which its gateway turns into gRPC.
    EtcdGateway,
    /// gRPC, a channel for each client.
    EtcdGrpc,
}

/// One figure of one round.
#[derive(Debug, Clone, Serialize)]
struct Figure {
    interface: Interface,
    work: BenchWork,
    clients: u32,
    round: u32,
    operations_per_s: f64,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
    /// Operations that were refused or failed.
    failed: u64,
    /// How often the disk was told to keep what it has, for every 1,000 operations, by all nodes together; `None` where the
    /// kernel does not count it.
    flushes_per_1000: Option<f64>,
    /// Whether another member led at the end: then some of its clients were forwarded.
    is_disturbed: bool,
}

/// What a round was like.
#[derive(Debug, Clone, Serialize)]
struct Round {
    system: System,
    number: u32,
    /// A small write and its fdatasync(2), in microseconds, before it.
    disk_us: u64,
    /// The most memory of one process, in bytes.
    memory_bytes: Option<u64>,
}

/// Everything that was measured.
#[derive(Debug, Clone, Default, Serialize)]
struct Results {
    /// Systems and their versions.
    versions: Vec<String>,
    rounds: Vec<Round>,
    figures: Vec<Figure>,
}

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
    /// The run directory, or the node's program.
    #[error(transparent)]
    Outer(#[from] OuterError),
    /// A file or a socket.
    #[error("cannot use {}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
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
    /// The runtime.
    #[error("cannot start the clients")]
    Runtime(#[source] io::Error),
    /// The report.
    #[error("cannot write the figures")]
    Report(#[source] io::Error),
}

impl BenchError {
    /// The exit code that goes with it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Lacks { .. } => 3,
            Self::Outer(error) => error.exit_code(),
            _ => 2,
        }
    }
}

/// Measures, and writes a table or JSON to `out`; 0 when that is done.
///
/// # Errors
/// [`BenchError`].
pub fn run(args: &BenchArgs, out: &mut impl Write) -> Result<u8, BenchError> {
    let etcd = match args.versus {
        None => None,
        Some(Rival::Etcd) => Some(needed(etcd::ETCD, etcd::PACKAGE)?),
    };
    if args.fsync_delay_ms > 0 {
        needed("strace", "strace")?;
    }
    let folder = args.out.clone().unwrap_or_else(|| outer::timed_directory("bench"));
    outer::make_directory(&folder)?;
    let folder = outer::absolute(&folder)?;
    let measured = measure(args, etcd, &folder, out);
    // Everything that is wanted of it was printed; the consoles of a failed one are kept.
    if measured.is_ok() {
        outer::discard(&folder);
    }
    measured.map(|()| 0)
}

fn needed(program: &'static str, package: &str) -> Result<PathBuf, BenchError> {
    let remedy = format!("apt-get install {package}");
    Program::find(program).ok_or(BenchError::Lacks { program, remedy })
}

fn measure(
    args: &BenchArgs,
    etcd: Option<PathBuf>,
    folder: &Path,
    out: &mut impl Write,
) -> Result<(), BenchError> {
    let log = ProgramLog::open(&folder.join("programs.log"))?;
    let (node, version) = match &args.node_bin {
        None => (NodeProgram::Own, aspen_node::BUILD.to_owned()),
        Some(path) => {
            let path = outer::absolute(path)?;
            let version = outer::node_version(&path, folder)?;
            (NodeProgram::Path(path), version)
        }
    };
    let mut results = Results { versions: vec![format!("aspen {version}")], ..Results::default() };
    let mut systems = vec![System::Aspen];
    if let Some(program) = &etcd {
        let output =
            Program::new(program).arg("--version").run_short(crate::limits::NODE_VERSION_MAX, &log)?;
        let version = output.stdout.lines().next().and_then(|line| line.rsplit(' ').next());
        results.versions.push(format!("etcd {}", version.unwrap_or("of an unknown version")));
        systems.push(System::Etcd);
    }
    let setting = Setting {
        node,
        etcd,
        count: args.nodes,
        sync_delay: Duration::from_millis(args.fsync_delay_ms),
        folder,
        log: &log,
    };
    let runtime = tokio::runtime::Runtime::new().map_err(BenchError::Runtime)?;
    let mut fastest = Duration::MAX;
    for round in 1..=args.rounds {
        for system in &systems {
            let disk = await_disk(folder, &mut fastest)
                .map_err(|source| BenchError::Io { path: folder.to_owned(), source })?;
            if !args.json {
                let of = args.rounds;
                let name = system.name();
                // Nobody reads: nobody can be told.
                let _ = writeln!(io::stderr(), "round {round} of {of}: {name}");
            }
            let figures = runtime.block_on(measure_round(args, *system, round, &setting, &mut results))?;
            results.figures.extend(figures);
            if let Some(last) = results.rounds.last_mut() {
                last.disk_us = micros(disk);
            }
        }
    }
    let text = if args.json { table::json(&results) } else { table::text(args, &results) };
    out.write_all(text.as_bytes()).map_err(BenchError::Report)
}

/// Waits while the disk is slower than it was; how fast it is.
fn await_disk(folder: &Path, fastest: &mut Duration) -> io::Result<Duration> {
    let mut waits = 0;
    loop {
        let now = disk::probe(folder)?;
        *fastest = now.min(*fastest);
        if now <= *fastest * SLOW_DISK || waits == DISK_WAITS_MAX {
            return Ok(now);
        }
        waits += 1;
        std::thread::sleep(DISK_WAIT);
    }
}

async fn measure_round(
    args: &BenchArgs,
    system: System,
    round: u32,
    setting: &Setting<'_>,
    results: &mut Results,
) -> Result<Vec<Figure>, BenchError> {
    let cluster = Cluster::start(system, setting).await?;
    let mut figures = Vec::new();
    for interface in system.interfaces() {
        for work in &args.work {
            for clients in &args.clients {
                figures.push(measure_one(args, &cluster, *interface, *work, *clients, round, setting).await);
            }
        }
    }
    results.rounds.push(Round { system, number: round, disk_us: 0, memory_bytes: cluster.peak_memory() });
    cluster.stop()?;
    Ok(figures)
}

async fn measure_one(
    args: &BenchArgs,
    cluster: &Cluster,
    interface: Interface,
    work: BenchWork,
    clients: u32,
    round: u32,
    setting: &Setting<'_>,
) -> Figure {
    let load = Load {
        work: if work == BenchWork::Put { Work::Put } else { Work::Get },
        clients,
        keys: args.keys,
        value_bytes: args.value_bytes,
        duration: Duration::from_secs(args.seconds.into()),
        warm_up: WARM_UP,
        seed: u64::from(round),
    };
    let (leader, is_stale) = (cluster.leader(), work == BenchWork::Stale);
    let before = disk::flushes(setting.folder);
    let measured = match interface {
        Interface::AspenHttp => {
            let consistency = if is_stale { Consistency::Stale } else { Consistency::Linearizable };
            load::run(&load, |_| AspenTarget::new(leader, consistency)).await
        }
        Interface::EtcdGateway => load::run(&load, |_| etcd::Gateway::new(leader, is_stale)).await,
        Interface::EtcdGrpc => load::run(&load, |_| etcd::Grpc::new(leader, is_stale)).await,
    };
    let flushes = disk::flushes(setting.folder).zip(before).map(|(after, before)| after - before);
    let is_disturbed = !cluster.is_led_as_before().await;
    figure(
        &load,
        &measured,
        flushes,
        Figure {
            interface,
            work,
            clients,
            round,
            operations_per_s: measured.rate(),
            p50_us: micros(measured.percentile(50.0)),
            p99_us: micros(measured.percentile(99.0)),
            max_us: micros(measured.longest()),
            failed: measured.failures.values().sum(),
            flushes_per_1000: None,
            is_disturbed,
        },
    )
}

/// Adds what the disk was told, which was counted from the beginning of the warm-up on.
fn figure(load: &Load, measured: &Measured, flushes: Option<u64>, figure: Figure) -> Figure {
    let whole = (load.warm_up + load.duration).as_secs_f64();
    let operations = measured.rate() * whole;
    #[expect(clippy::cast_precision_loss, reason = "nobody counts beyond 2^52")]
    let flushes_per_1000 = flushes.map(|flushes| flushes as f64 * 1000.0 / operations.max(1.0));
    Figure { flushes_per_1000, ..figure }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
