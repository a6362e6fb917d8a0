//! How often each member of a cluster tells its disk to keep what it has, for 1,000 writes: the system calls of its process, counted by
//! strace, of every system alike.
//!
//! They are counted in clusters of their own, since strace stops a process at each of them: no other figure suffers from that.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::cluster::{Cluster, Setting, Strace};
use super::round::{fill, put};
use super::{BenchError, Interface};
use crate::cli::BenchArgs;
use crate::limits::bench::{SYNCS_TIME, SYNCS_WARM_UP, SYNCS_WRITES_MIN, TRIES_MAX};

/// The system calls that are counted.
pub(super) const CALLS: [&str; 3] = ["fsync", "fdatasync", "sync_file_range"];

/// What was counted of one system, with so many clients.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Syncs {
    pub(super) interface: Interface,
    pub(super) clients: u32,
    /// Writes that were acknowledged.
    writes: u64,
    /// The calls of all members.
    calls: u64,
    /// Those of a member, for 1,000 writes: the mean of all.
    pub(super) per_1000: f64,
}

/// Counts in one cluster, with each number of clients.
pub(super) async fn measure(
    args: &BenchArgs,
    interface: Interface,
    setting: &Setting<'_>,
    strace: &Path,
) -> Result<Vec<Syncs>, BenchError> {
    let delay = Duration::from_millis(args.fsync_delay_ms);
    let strace = Strace { program: strace.to_owned(), delay, counts: true };
    let setting = Setting { strace: Some(strace), ..setting.clone() };
    let mut cluster = Cluster::start(interface, &setting).await?;
    fill(args, interface, &cluster).await?;
    let mut syncs = Vec::new();
    for clients in args.clients.iter().copied() {
        let mut tries = 0;
        let (writes, calls) = loop {
            // What came before is on the disk by then.
            put(args, interface, clients, &cluster, SYNCS_WARM_UP).await;
            let before = cluster.calls();
            let measured = put(args, interface, clients, &cluster, SYNCS_TIME).await;
            let (writes, calls) = (measured.latencies_us.len(), cluster.calls() - before);
            cluster.check()?;
            tries += 1;
            let is_led = cluster.is_led_as_before().await;
            if is_led && measured.failures.is_empty() && writes >= SYNCS_WRITES_MIN {
                break (writes, calls);
            }
            if tries == TRIES_MAX {
                return Err(BenchError::Unsteady { system: interface.system(), clients, writes });
            }
            cluster.find_leader().await?;
        };
        syncs.push(Syncs {
            interface,
            clients,
            writes,
            calls,
            per_1000: per_1000(calls, writes, args.nodes),
        });
    }
    cluster.stop()?;
    Ok(syncs)
}

fn per_1000(calls: u64, writes: u64, members: u32) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "nobody counts beyond 2^52")]
    let [calls, writes] = [calls, writes].map(|count| count as f64);
    calls * 1000.0 / writes / f64::from(members)
}

/// The calls in what strace has written about a process, a line each; where another thread came between, its end has a line of its own.
pub(super) fn calls_in(trace: &Path) -> u64 {
    let text = fs::read(trace).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter(|line| is_call(line)).count() as u64
}

fn is_call(line: &str) -> bool {
    // The thread's number comes first.
    let call = line.trim_start_matches(|digit: char| digit.is_ascii_digit()).trim_start();
    call.split_once('(').is_some_and(|(name, _)| CALLS.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        let trace = folder.path().join("trace");
        let text = "811   fdatasync(7)                      = 0\n\
            812   fsync(12 <unfinished ...>\n\
            811   fdatasync(7)                      = 0 (DELAYED)\n\
            812   <... fsync resumed>)              = 0\n\
            813   +++ killed by SIGKILL +++\n";
        fs::write(&trace, text).unwrap();
        assert_eq!(calls_in(&trace), 3);
        assert_eq!(calls_in(&folder.path().join("none")), 0);
    }

    #[test]
    fn calls_are_those_of_one_member_for_1000_writes() {
        let check = |calls, writes, members, want: f64| {
            assert!((per_1000(calls, writes, members) - want).abs() < 1e-9);
        };
        check(600, 100, 3, 2000.0);
        check(5, 1000, 1, 5.0);
    }
}
