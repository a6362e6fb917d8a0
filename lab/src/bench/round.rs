//! Rounds: clusters that take turns, each from its start to its end, and how fast they are.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use aspen_node::api::Consistency;
use aspen_node::client::aspen::AspenTarget;
use aspen_node::client::load::{self, Load, Measured, Operation, Target, Work};
use serde::Serialize;
use tokio::task::JoinSet;

use super::cluster::{Cluster, Setting};
use super::{BenchError, Interface, Results, disk, etcd, micros, tell, unless_stopped};
use crate::cli::{BenchArgs, BenchWork};
use crate::limits::bench::{DISK_WAIT, DISK_WAITS_MAX, FILL_CLIENTS, SLOW_DISK, TRIES_MAX, WARM_UP};

/// One figure of one round.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figure {
    pub(super) work: BenchWork,
    pub(super) clients: u32,
    pub(super) operations_per_s: f64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) max_us: u64,
    /// Operations that were refused or failed, by the code of what went wrong.
    pub(super) failures: BTreeMap<String, u64>,
    /// About how often the whole disk was told to keep what it has, for every 1,000 operations; `None` where the kernel does
    /// not count it.
    pub(super) flushes_per_1000: Option<f64>,
    /// Whether another member led at the end, also when it was measured again: it counts in no median.
    pub(super) is_disturbed: bool,
}

/// A cluster, from its start to its end.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Round {
    pub(super) interface: Interface,
    pub(super) number: u32,
    /// A small write and its fdatasync(2), in microseconds, before it.
    pub(super) disk_us: u64,
    /// Whether the disk was slower than twice its best, and did not get faster: it counts in no median.
    pub(super) is_slow: bool,
    /// The most memory of one process, in bytes.
    pub(super) memory_bytes: Option<u64>,
    pub(super) figures: Vec<Figure>,
}

/// Measures every system in turns, so many rounds.
pub(super) fn rounds(
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
pub(super) async fn fill(
    args: &BenchArgs,
    interface: Interface,
    cluster: &Cluster,
) -> Result<(), BenchError> {
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
    let duration = Duration::from_secs(args.seconds.into());
    let load = load_of(args, work, clients, (WARM_UP, duration));
    let before = disk::flushes(setting.folder);
    let measured = drive(&load, interface, work == BenchWork::Stale, cluster).await;
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

/// Writes keys for so long, without warming up.
pub(super) async fn put(
    args: &BenchArgs,
    interface: Interface,
    clients: u32,
    cluster: &Cluster,
    duration: Duration,
) -> Measured {
    let load = load_of(args, BenchWork::Put, clients, (Duration::ZERO, duration));
    drive(&load, interface, false, cluster).await
}

fn load_of(
    args: &BenchArgs,
    work: BenchWork,
    clients: u32,
    (warm_up, duration): (Duration, Duration),
) -> Load {
    Load {
        work: if work == BenchWork::Put { Work::Put } else { Work::Get },
        clients,
        keys: args.keys,
        value_bytes: args.value_bytes,
        duration,
        warm_up,
        seed: clients.into(),
    }
}

/// Puts load on the leader.
async fn drive(load: &Load, interface: Interface, is_stale: bool, cluster: &Cluster) -> Measured {
    let leader = cluster.leader();
    match interface {
        Interface::AspenHttp => {
            let consistency = if is_stale { Consistency::Stale } else { Consistency::Linearizable };
            load::run(load, |_| AspenTarget::new(leader, consistency)).await
        }
        Interface::EtcdGateway => load::run(load, |_| etcd::Gateway::new(leader, is_stale)).await,
        Interface::EtcdGrpc => load::run(load, |_| etcd::Grpc::new(leader, is_stale)).await,
    }
}

/// What was counted from the beginning of the warm-up on, for 1,000 operations.
fn per_1000(flushes: u64, load: &Load, measured: &Measured) -> f64 {
    let operations = measured.rate() * (load.warm_up + load.duration).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "nobody counts beyond 2^52")]
    let flushes = flushes as f64;
    flushes * 1000.0 / operations.max(1.0)
}
