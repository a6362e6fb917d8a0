//! `lab bench`: how fast a cluster is on this host, alone or side by side with etcd.
//!
//! Every node is a process on loopback, in no sandbox and on no fabric: what is measured is the system and the disk. Both are
//! durable: a write is answered when a quorum has synced it. Rounds take turns (A B C A B C), each with a new cluster in new
//! folders on the same disk, since one host's speed changes from minute to minute; the medians are compared. Every client
//! has a connection of its own to the leader, and waits for each answer before it asks again.

mod cluster;
mod disk;
mod error;
mod etcd;
mod memory;
mod outage;
mod state;
mod table;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aspen_node::api::Consistency;
use aspen_node::client::aspen::AspenTarget;
use aspen_node::client::load::{self, Load, Measured, Operation, Target, Work};
use serde::Serialize;
use tokio::task::JoinSet;

use self::cluster::{Cluster, Setting};
pub use self::error::BenchError;
use self::outage::Outage;
use self::state::LargeState;
use crate::cli::{BenchArgs, BenchWork, Rival};
use crate::limits::bench::{
    DISK_WAIT, DISK_WAITS_MAX, FILL_CLIENTS, SLOW_DISK, STOP_LOOK_INTERVAL, TRIES_MAX, WARM_UP,
};
use crate::machine::driver::NodeProgram;
use crate::program::{Program, ProgramLog, stop_on_signals};
use crate::session::outer;
use crate::target;

/// What is measured: a system, and how clients talk to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Interface {
    /// Ours: HTTP and JSON.
    AspenHttp,
    /// The same of etcd, whose gateway turns it into gRPC.
    EtcdGateway,
    /// gRPC, a channel for each client.
    EtcdGrpc,
}

impl Interface {
    /// Which system that is.
    fn system(self) -> &'static str {
        match self {
            Self::AspenHttp => "aspen",
            Self::EtcdGateway | Self::EtcdGrpc => "etcd",
        }
    }

    /// As tables have it.
    fn title(self) -> &'static str {
        match self {
            Self::AspenHttp => "aspen, HTTP and JSON",
            Self::EtcdGateway => "etcd, HTTP and JSON",
            Self::EtcdGrpc => "etcd, gRPC",
        }
    }
}

/// One figure of one round.
#[derive(Debug, Clone, Serialize)]
struct Figure {
    work: BenchWork,
    clients: u32,
    operations_per_s: f64,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
    /// Operations that were refused or failed, by the code of what went wrong.
    failures: BTreeMap<String, u64>,
    /// About how often the whole disk was told to keep what it has, for every 1,000 operations; `None` where the kernel does
    /// not count it.
    flushes_per_1000: Option<f64>,
    /// Whether another member led at the end, also when it was measured again: it counts in no median.
    is_disturbed: bool,
}

/// A cluster, from its start to its end.
#[derive(Debug, Clone, Serialize)]
struct Round {
    interface: Interface,
    number: u32,
    /// A small write and its fdatasync(2), in microseconds, before it.
    disk_us: u64,
    /// Whether the disk was slower than twice its best, and did not get faster: it counts in no median.
    is_slow: bool,
    /// The most memory of one process, in bytes.
    memory_bytes: Option<u64>,
    figures: Vec<Figure>,
}

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
struct Results<'a> {
    settings: &'a BenchArgs,
    /// Systems and their versions.
    versions: Vec<String>,
    rounds: Vec<Round>,
    /// What was measured instead, where that was asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    outages: Vec<Outage>,
    /// The same.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<LargeState>,
}

/// Measures, and writes a table or JSON to `out`; 0 when that is done.
///
/// # Errors
/// [`BenchError`].
pub fn run(args: &BenchArgs, out: &mut impl Write) -> Result<u8, BenchError> {
    if has_twice(&args.clients) {
        return Err(BenchError::Twice("clients"));
    }
    if has_twice(&args.work) {
        return Err(BenchError::Twice("work"));
    }
    let etcd = match args.versus {
        None => None,
        Some(Rival::Etcd) => Some(needed(target::etcd::ETCD, target::etcd::PACKAGE)?),
    };
    let strace = if args.fsync_delay_ms > 0 { Some(needed("strace", "strace")?) } else { None };
    let folder = args.out.clone().unwrap_or_else(|| outer::timed_directory("bench"));
    outer::make_directory(&folder)?;
    let folder = outer::absolute(&folder)?;
    let measured = measure(args, [etcd, strace], &folder, out);
    // The consoles of a process that has ended, and nothing else, are kept.
    if !matches!(
        measured,
        Err(BenchError::Ended { .. } | BenchError::NotReady { .. } | BenchError::Late { .. })
    ) {
        outer::discard(&folder);
    }
    measured.map(|()| 0)
}

fn has_twice<T: PartialEq>(values: &[T]) -> bool {
    values.iter().enumerate().any(|(place, value)| values[..place].contains(value))
}

fn needed(program: &'static str, package: &str) -> Result<PathBuf, BenchError> {
    let remedy = format!("apt-get install {package}");
    Program::find(program).ok_or(BenchError::Lacks { program, remedy })
}

fn measure(
    args: &BenchArgs,
    [etcd, strace]: [Option<PathBuf>; 2],
    folder: &Path,
    out: &mut impl Write,
) -> Result<(), BenchError> {
    let is_stopping = Arc::new(AtomicBool::new(false));
    stop_on_signals(is_stopping.clone()).map_err(BenchError::Clients)?;
    let log = ProgramLog::open(&folder.join("programs.log"))?;
    let (node, version) = match &args.node_bin {
        None => (NodeProgram::Own, aspen_node::BUILD.to_owned()),
        Some(path) => {
            let path = outer::absolute(path)?;
            let version = outer::node_version(&path, folder)?;
            (NodeProgram::Path(path), version)
        }
    };
    let mut versions = vec![format!("aspen {version}")];
    let mut interfaces = vec![Interface::AspenHttp];
    if let Some(program) = &etcd {
        let version = target::etcd::version(program, &log)?;
        versions.push(format!("etcd {}", version.as_deref().unwrap_or("of an unknown version")));
        interfaces.extend([Interface::EtcdGateway, Interface::EtcdGrpc]);
    }
    let setting = Setting {
        node,
        etcd,
        strace,
        count: args.nodes,
        sync_delay: Duration::from_millis(args.fsync_delay_ms),
        folder,
        log: &log,
    };
    let mut results =
        Results { settings: args, versions, rounds: Vec::new(), outages: Vec::new(), state: None };
    let measured = match (args.outages, args.state_mib) {
        (None, None) => rounds(args, &interfaces, &setting, &is_stopping, &mut results),
        (Some(times), _) => outages(times, &interfaces, &setting, &is_stopping, &mut results),
        (None, Some(mib)) => large_state(args, mib, &setting, &is_stopping, &mut results),
    };
    // Also where it ended early: what was measured was measured.
    let text = if let Some(state) = &results.state {
        state::text(args.nodes, state)
    } else if !results.outages.is_empty() {
        outage::text(&results.outages)
    } else if !results.rounds.is_empty() {
        table::text(&interfaces, &results)
    } else {
        return measured;
    };
    let text = if args.json { table::json(&results) } else { text };
    out.write_all(text.as_bytes()).map_err(BenchError::Report)?;
    measured
}

fn rounds(
    args: &BenchArgs,
    interfaces: &[Interface],
    setting: &Setting<'_>,
    is_stopping: &AtomicBool,
    results: &mut Results<'_>,
) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Runtime::new().map_err(BenchError::Clients)?;
    let mut fastest = Duration::MAX;
    for number in 1..=args.rounds {
        for interface in interfaces {
            let (disk, is_slow) = await_disk(setting.folder, &mut fastest)
                .map_err(|source| BenchError::Io { path: setting.folder.to_owned(), source })?;
            tell(args, &format!("round {number} of {}: {}", args.rounds, interface.title()));
            // On this thread: what it starts ends with it.
            let round = unless_stopped(is_stopping, measure_round(args, *interface, setting));
            let (figures, memory_bytes) = runtime.block_on(round)?;
            let (interface, disk_us) = (*interface, micros(disk));
            results.rounds.push(Round { interface, number, disk_us, is_slow, memory_bytes, figures });
        }
    }
    Ok(())
}

/// One cluster of each system, whose gateways speak for it.
fn outages(
    times: u32,
    interfaces: &[Interface],
    setting: &Setting<'_>,
    is_stopping: &AtomicBool,
    results: &mut Results<'_>,
) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Runtime::new().map_err(BenchError::Clients)?;
    for interface in interfaces.iter().filter(|interface| **interface != Interface::EtcdGrpc) {
        let measured = unless_stopped(is_stopping, outage::measure(*interface, setting, times));
        results.outages.extend(runtime.block_on(measured)?);
    }
    Ok(())
}

/// One cluster, which is filled and then looked at.
fn large_state(
    args: &BenchArgs,
    mib: u64,
    setting: &Setting<'_>,
    is_stopping: &AtomicBool,
    results: &mut Results<'_>,
) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Runtime::new().map_err(BenchError::Clients)?;
    let say = |step: &str| tell(args, step);
    let measured = runtime.block_on(unless_stopped(is_stopping, state::measure(mib, setting, say)));
    results.state = Some(measured?);
    Ok(())
}

/// Says how far it has come, where nobody reads the figures by program.
fn tell(args: &BenchArgs, step: &str) {
    if !args.json {
        // Nobody reads: nobody can be told.
        let _ = writeln!(io::stderr(), "{step}");
    }
}

/// Measures, unless the user wants an end.
async fn unless_stopped<T>(
    is_stopping: &AtomicBool,
    measured: impl Future<Output = Result<T, BenchError>>,
) -> Result<T, BenchError> {
    let stopped = async {
        while !is_stopping.load(Ordering::Relaxed) {
            tokio::time::sleep(STOP_LOOK_INTERVAL).await;
        }
    };
    tokio::select! {
        measured = measured => measured,
        () = stopped => Err(BenchError::Interrupted),
    }
}

/// Waits while the disk is slower than it was; how fast it is, and whether it has stayed slow.
fn await_disk(folder: &Path, fastest: &mut Duration) -> io::Result<(Duration, bool)> {
    let mut waits = 0;
    loop {
        let now = disk::probe(folder)?;
        *fastest = now.min(*fastest);
        let is_slow = now > *fastest * SLOW_DISK;
        if !is_slow || waits == DISK_WAITS_MAX {
            return Ok((now, is_slow));
        }
        waits += 1;
        std::thread::sleep(DISK_WAIT);
    }
}

async fn measure_round(
    args: &BenchArgs,
    interface: Interface,
    setting: &Setting<'_>,
) -> Result<(Vec<Figure>, Option<u64>), BenchError> {
    let mut cluster = Cluster::start(interface, setting).await?;
    fill(args, interface, &cluster).await?;
    let mut figures = Vec::new();
    for (work, clients) in args.figures() {
        let mut tries = 0;
        let figure = loop {
            let figure = measure_one(args, interface, work, clients, &cluster, setting).await;
            cluster.check()?;
            tries += 1;
            if !figure.is_disturbed || tries == TRIES_MAX {
                break figure;
            }
            cluster.find_leader().await?;
        };
        figures.push(figure);
    }
    let memory_bytes = cluster.peak_memory();
    cluster.stop()?;
    Ok((figures, memory_bytes))
}

/// Writes every key once, so that reads find something.
async fn fill(args: &BenchArgs, interface: Interface, cluster: &Cluster) -> Result<(), BenchError> {
    let leader = cluster.leader();
    let filled = match interface {
        Interface::AspenHttp => fill_by(args, || AspenTarget::new(leader, Consistency::Linearizable)).await,
        Interface::EtcdGateway => fill_by(args, || etcd::Gateway::new(leader, false)).await,
        Interface::EtcdGrpc => fill_by(args, || etcd::Grpc::new(leader, false)).await,
    };
    filled.map_err(|code| BenchError::Fill { system: interface.system(), code })
}

async fn fill_by<T: Target>(args: &BenchArgs, target: impl Fn() -> T) -> Result<(), String> {
    let mut writers: JoinSet<Result<(), String>> = JoinSet::new();
    for first in 0..FILL_CLIENTS {
        let (mut target, keys, value) = (target(), args.keys, "v".repeat(args.value_bytes as usize));
        writers.spawn(async move {
            for number in (first..keys).step_by(usize::try_from(FILL_CLIENTS).unwrap_or(1)) {
                target.call(Operation::Put { key: &load::key_name(number), value: &value }).await?;
            }
            Ok(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written.expect("a writer does not panic")?;
    }
    Ok(())
}

async fn measure_one(
    args: &BenchArgs,
    interface: Interface,
    work: BenchWork,
    clients: u32,
    cluster: &Cluster,
    setting: &Setting<'_>,
) -> Figure {
    let load = Load {
        work: if work == BenchWork::Put { Work::Put } else { Work::Get },
        clients,
        keys: args.keys,
        value_bytes: args.value_bytes,
        duration: Duration::from_secs(args.seconds.into()),
        warm_up: WARM_UP,
        seed: clients.into(),
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
    Figure {
        work,
        clients,
        operations_per_s: measured.rate(),
        p50_us: micros(measured.percentile(50.0)),
        p99_us: micros(measured.percentile(99.0)),
        max_us: micros(measured.longest()),
        flushes_per_1000: flushes.map(|flushes| per_1000(flushes, &load, &measured)),
        is_disturbed: !cluster.is_led_as_before().await,
        failures: measured.failures,
    }
}

/// What was counted from the beginning of the warm-up on, for 1,000 operations.
fn per_1000(flushes: u64, load: &Load, measured: &Measured) -> f64 {
    let operations = measured.rate() * (load.warm_up + load.duration).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "nobody counts beyond 2^52")]
    let flushes = flushes as f64;
    flushes * 1000.0 / operations.max(1.0)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
