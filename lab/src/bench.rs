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
mod round;
mod state;
mod syncs;
mod table;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use self::cluster::{Setting, Strace};
pub use self::error::BenchError;
use self::outage::Outage;
use self::round::{Round, rounds};
use self::state::LargeState;
use self::syncs::Syncs;
use crate::cli::{BenchArgs, BenchWork, Rival};
use crate::limits::bench::STOP_LOOK_INTERVAL;
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

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
struct Results<'a> {
    settings: &'a BenchArgs,
    /// Systems and their versions.
    versions: Vec<String>,
    rounds: Vec<Round>,
    syncs: Vec<Syncs>,
    /// Why not, where they were not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    syncs_not_measured: Option<String>,
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
    let strace =
        if args.fsync_delay_ms > 0 { Some(needed("strace", "strace")?) } else { Program::find("strace") };
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
    let delay = Duration::from_millis(args.fsync_delay_ms);
    let slowing = strace.clone().map(|program| Strace { program, delay, counts: false });
    let slowing = slowing.filter(|_| !delay.is_zero());
    let setting = Setting { node, etcd, strace: slowing, count: args.nodes, folder, log: &log };
    let mut results = Results {
        settings: args,
        versions,
        rounds: Vec::new(),
        syncs: Vec::new(),
        syncs_not_measured: None,
        outages: Vec::new(),
        state: None,
    };
    let measured = match (args.outages, args.state_mib) {
        (None, None) => rounds(args, &interfaces, &setting, &is_stopping, &mut results).and_then(|()| {
            counts(args, &interfaces, &setting, strace.as_deref(), &is_stopping, &mut results)
        }),
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

/// One cluster for each interface, whose syncs are counted, where there are writes and something to count them with.
fn counts(
    args: &BenchArgs,
    interfaces: &[Interface],
    setting: &Setting<'_>,
    strace: Option<&Path>,
    is_stopping: &AtomicBool,
    results: &mut Results<'_>,
) -> Result<(), BenchError> {
    if !args.work.contains(&BenchWork::Put) {
        return Ok(());
    }
    let Some(strace) = strace else {
        results.syncs_not_measured = Some("strace is not installed".to_owned());
        return Ok(());
    };
    let runtime = tokio::runtime::Runtime::new().map_err(BenchError::Clients)?;
    for interface in interfaces {
        tell(args, &format!("syncs are counted: {}", interface.title()));
        let counted = unless_stopped(is_stopping, syncs::measure(args, *interface, setting, strace));
        match runtime.block_on(counted) {
            Ok(syncs) => results.syncs.extend(syncs),
            Err(error @ (BenchError::Interrupted | BenchError::Ended { .. })) => return Err(error),
            // Where processes may not be traced, what else was measured is no worse for it.
            Err(error) => {
                results.syncs_not_measured = Some(error.to_string());
                return Ok(());
            }
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

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
