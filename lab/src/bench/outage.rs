//! For how long nothing is written while the leader is restarted, or dies. Writers at every member write without a pause; what counts
//! is the longest time between two writes that were acknowledged one after the other, by whichever member, from just before the
//! leader goes until its successor leads and it is back.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aspen_node::api::Consistency;
use aspen_node::client::aspen::AspenTarget;
use aspen_node::client::load::{self, Operation, Target};
use nix::sys::signal::Signal;
use serde::Serialize;
use tokio::task::JoinSet;

use super::cluster::{Cluster, Setting};
use super::{BenchError, Interface, etcd, micros};
use crate::limits::bench::{OUTAGE_PAUSE, OUTAGE_RETRY, OUTAGE_WRITERS};

/// What happens to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    /// It is asked to stop, and started again.
    Restart,
    /// It is killed, and started again.
    Kill,
}

impl End {
    pub(super) fn signal(self) -> Signal {
        match self {
            Self::Restart => Signal::SIGTERM,
            Self::Kill => Signal::SIGKILL,
        }
    }

    /// As the table has it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Restart => "restarted",
            Self::Kill => "killed",
        }
    }
}

/// One time that the leader went.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outage {
    interface: Interface,
    end: End,
    longest_us: u64,
}

/// Ends the leader `times` times each way.
pub(super) async fn measure(
    interface: Interface,
    setting: &Setting<'_>,
    times: u32,
) -> Result<Vec<Outage>, BenchError> {
    let mut cluster = Cluster::start(interface, setting).await?;
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let mut writers = JoinSet::new();
    for address in cluster.clients() {
        for _ in 0..OUTAGE_WRITERS {
            writers.spawn(write(interface, address, acknowledged.clone()));
        }
    }
    let mut outages = Vec::new();
    for _ in 0..times {
        for end in [End::Restart, End::Kill] {
            tokio::time::sleep(OUTAGE_PAUSE).await;
            held(&acknowledged).clear();
            tokio::time::sleep(OUTAGE_PAUSE).await;
            let gone = cluster.end_leader(end.signal()).await?;
            cluster.start_again(gone, setting)?;
            cluster.await_member(gone).await?;
            tokio::time::sleep(OUTAGE_PAUSE).await;
            let mut times = held(&acknowledged).clone();
            // One that has not ended by now has lasted until now.
            times.push(Instant::now());
            outages.push(Outage { interface, end, longest_us: micros(longest_pause(times)) });
        }
    }
    writers.shutdown().await;
    cluster.stop()?;
    Ok(outages)
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The longest time between one of these and the next.
pub(super) fn longest_pause(mut times: Vec<Instant>) -> Duration {
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(Duration::MAX)
}

/// Writes at one member for as long as it is let.
async fn write(interface: Interface, address: SocketAddr, acknowledged: Arc<Mutex<Vec<Instant>>>) {
    match interface {
        Interface::AspenHttp => {
            write_by(|| AspenTarget::new(address, Consistency::Linearizable), &acknowledged).await;
        }
        Interface::EtcdGateway => write_by(|| etcd::Gateway::new(address, false), &acknowledged).await,
        Interface::EtcdGrpc => write_by(|| etcd::Grpc::new(address, false), &acknowledged).await,
    }
}

async fn write_by<T: Target>(target: impl Fn() -> T, acknowledged: &Mutex<Vec<Instant>>) {
    let (key, mut open) = (load::key_name(0), target());
    loop {
        if open.call(Operation::Put { key: &key, value: "v" }).await.is_ok() {
            held(acknowledged).push(Instant::now());
        } else {
            open = target();
            tokio::time::sleep(OUTAGE_RETRY).await;
        }
    }
}

/// A line for each system and each way to go.
pub(super) fn text(outages: &[Outage]) -> String {
    let mut text = format!(
        "{:22} {:9} {:>5} {:>10} {:>10}\n",
        "nothing is written", "leader", "times", "median", "longest"
    );
    let mut seen = Vec::new();
    for Outage { interface, end, .. } in outages {
        if seen.contains(&(*interface, *end)) {
            continue;
        }
        seen.push((*interface, *end));
        let of_it = outages.iter().filter(|outage| (outage.interface, outage.end) == (*interface, *end));
        let mut times: Vec<u64> = of_it.map(|outage| outage.longest_us).collect();
        times.sort_unstable();
        let millis = |us: u64| format!("{} ms", us.div_ceil(1000));
        let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:22} {:9} {:>5} {:>10} {:>10}",
            interface.title(),
            end.title(),
            times.len(),
            millis(median),
            millis(longest)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_pause_is_that_between_neighbours() {
        let begin = Instant::now();
        let at = |ms: &[u64]| ms.iter().map(|ms| begin + Duration::from_millis(*ms)).collect::<Vec<_>>();
        assert_eq!(longest_pause(at(&[90, 0, 10, 300])), Duration::from_millis(210));
        assert_eq!(longest_pause(at(&[5])), Duration::MAX);
    }

    #[test]
    fn table_has_a_line_for_each_way_to_go() {
        let outage = |end, longest_us| Outage { interface: Interface::AspenHttp, end, longest_us };
        let all = [outage(End::Restart, 1), outage(End::Kill, 9_000), outage(End::Restart, 2_500)];
        let lines: Vec<String> = text(&all).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].ends_with("restarted     2       3 ms       3 ms"), "{lines:?}");
        assert!(lines[2].ends_with("killed        1       9 ms       9 ms"), "{lines:?}");
    }
}
