//! A client that writes small values, one after the other, and notes when each was acknowledged.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use aspen_node::api::Consistency;
use aspen_node::client::aspen::AspenTarget;
use aspen_node::client::load::{self, Operation, Target};
use serde::Serialize;
use tokio::task::JoinSet;

use super::super::micros;
use super::super::outage::longest_pause;
use crate::limits::bench::OUTAGE_RETRY;

/// What the client was answered while something else was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Spell {
    /// How long that took.
    pub(super) took_us: u64,
    /// Writes that were acknowledged meanwhile.
    pub(super) writes: u64,
    /// The longest time between two of them, or between one and the beginning or the end.
    pub(super) longest_pause_us: u64,
}

/// The client, from its start until it is dropped.
#[derive(Debug)]
pub(super) struct Probe {
    acknowledged: Arc<Mutex<Vec<Instant>>>,
    /// One task. Dropped, it ends.
    _client: JoinSet<()>,
}

impl Probe {
    pub(super) fn start(node: SocketAddr) -> Self {
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let mut client = JoinSet::new();
        client.spawn(write(node, acknowledged.clone()));
        Self { acknowledged, _client: client }
    }

    /// Waits for something, and says how the client fared meanwhile.
    pub(super) async fn during<T>(&self, work: impl Future<Output = T>) -> (T, Spell) {
        self.held().clear();
        let began = Instant::now();
        let done = work.await;
        let ended = Instant::now();
        let times = std::mem::take(&mut *self.held());
        (done, spell(began, times, ended))
    }

    fn held(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spell(began: Instant, mut times: Vec<Instant>, ended: Instant) -> Spell {
    times.retain(|time| (began..=ended).contains(time));
    let writes = times.len() as u64;
    times.extend([began, ended]);
    let longest_pause_us = micros(longest_pause(times));
    Spell { took_us: micros(ended - began), writes, longest_pause_us }
}

async fn write(node: SocketAddr, acknowledged: Arc<Mutex<Vec<Instant>>>) {
    let (key, mut target) = (load::key_name(0), AspenTarget::new(node, Consistency::Linearizable));
    loop {
        if target.call(Operation::Put { key: &key, value: "v" }).await.is_ok() {
            acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        } else {
            tokio::time::sleep(OUTAGE_RETRY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn pauses_at_the_beginning_and_at_the_end_count() {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let check = |times: &[u64], writes, longest_ms: u64| {
            let times = times.iter().map(|ms| at(*ms)).collect();
            let want = Spell { took_us: 90_000, writes, longest_pause_us: longest_ms * 1_000 };
            assert_eq!(spell(at(10), times, at(100)), want);
        };
        check(&[], 0, 90);
        check(&[5, 60, 70, 110], 2, 50);
        check(&[20, 30], 2, 70);
    }
}
