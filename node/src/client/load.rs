//! A generator of load: clients that each send one operation after the other, and what it took.
//!
//! It is a closed loop: a client waits for its answer before it asks again, so a slow system is asked less. Latencies are those
//! of answered operations; refusals and failures are counted apart, by their code.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Longest latency that is told from a longer one, in microseconds: no answer is waited for as long.
const LATENCY_US_MAX: u64 = 60_000_000;

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Write a key.
    Put,
    /// Read a key, linearizably or not, as the target was made.
    Get,
    /// Read a key nine times out of ten, and write it otherwise.
    Mixed,
    /// Replace the value that was last seen.
    CompareAndSwap,
}

/// How much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// What clients do.
    pub work: Work,
    /// How many there are at once.
    pub clients: u32,
    /// How many keys there are; each operation takes one by chance.
    pub keys: u64,
    /// Size of a value.
    pub value_bytes: u32,
    /// For how long it is measured.
    pub duration: Duration,
    /// For how long it runs before.
    pub warm_up: Duration,
    /// Where chance begins.
    pub seed: u64,
}

/// One operation on a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Write a value.
    Put {
        /// The key.
        key: &'a str,
        /// Its value.
        value: &'a str,
    },
    /// Read a value.
    Get {
        /// The key.
        key: &'a str,
    },
    /// Replace the value that this client has last seen under the key.
    CompareAndSwap {
        /// The key.
        key: &'a str,
        /// Its new value.
        value: &'a str,
    },
}

/// A system under load, as one client has it.
pub trait Target: Send + 'static {
    /// Does one operation; an error is a short code for what went wrong.
    fn call(&mut self, operation: Operation<'_>) -> impl Future<Output = Result<(), String>> + Send;
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Latencies of answered operations, in microseconds.
    pub latencies_us: Histogram<u64>,
    /// Operations that were refused or failed, by code.
    pub failures: BTreeMap<String, u64>,
    /// For how long.
    pub elapsed: Duration,
}

impl Measured {
    fn new() -> Self {
        let latencies_us = Histogram::new_with_max(LATENCY_US_MAX, 3).expect("three digits are allowed");
        Self { latencies_us, failures: BTreeMap::new(), elapsed: Duration::ZERO }
    }

    /// Answered operations a second.
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "nobody counts beyond 2^52")]
        let answered = self.latencies_us.len() as f64;
        answered / self.elapsed.as_secs_f64()
    }

    /// The latency that so many percent of the operations do not exceed.
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_micros(self.latencies_us.value_at_quantile(percent / 100.0))
    }

    /// The longest latency.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.latencies_us.max())
    }
}

/// What the names of all keys begin with.
pub const KEY_PREFIX: &str = "bench/";

/// The name of a key, the same in every run.
pub fn key_name(number: u64) -> String {
    format!("{KEY_PREFIX}{number:010}")
}

/// Whether a key has such a name.
pub fn is_key_name(key: &str) -> bool {
    key.strip_prefix(KEY_PREFIX)
        .and_then(|number| number.parse().ok())
        .is_some_and(|number| key_name(number) == key)
}

/// Puts load on a system. `target` makes the system for each client, by its number.
///
/// # Panics
/// Only if a client does.
pub async fn run<T: Target>(load: &Load, mut target: impl FnMut(u32) -> T) -> Measured {
    let begin = Instant::now() + load.warm_up;
    let end = begin + load.duration;
    let mut clients = JoinSet::new();
    for number in 0..load.clients {
        clients.spawn(client(load.clone(), number, target(number), begin, end));
    }
    let mut all = Measured::new();
    while let Some(one) = clients.join_next().await {
        let one = one.expect("a client does not panic");
        all.latencies_us += one.latencies_us;
        for (code, count) in one.failures {
            *all.failures.entry(code).or_default() += count;
        }
    }
    all.elapsed = load.duration;
    all
}

async fn client<T: Target>(load: Load, number: u32, mut target: T, begin: Instant, end: Instant) -> Measured {
    let mut chance = ChaCha8Rng::seed_from_u64(load.seed ^ (u64::from(number) << 32));
    let mut measured = Measured::new();
    let mut value = "v".repeat(load.value_bytes as usize);
    let mut count = 0_u64;
    loop {
        let key = key_name(chance.next_u64() % load.keys);
        // Every value is another, as far as it is long enough.
        count += 1;
        let mark = format!("{number}-{count}-");
        let length = mark.len().min(value.len());
        value.replace_range(..length, &mark[..length]);
        let work = match load.work {
            Work::Mixed if chance.next_u64().is_multiple_of(10) => Work::Put,
            work => work,
        };
        let operation = match work {
            Work::Put => Operation::Put { key: &key, value: &value },
            Work::Get | Work::Mixed => Operation::Get { key: &key },
            Work::CompareAndSwap => Operation::CompareAndSwap { key: &key, value: &value },
        };
        let asked = Instant::now();
        let result = target.call(operation).await;
        let now = Instant::now();
        if now >= end {
            return measured;
        }
        if now < begin {
            continue;
        }
        match result {
            Ok(()) => {
                let latency_us = u64::try_from((now - asked).as_micros()).unwrap_or(u64::MAX);
                measured.latencies_us.saturating_record(latency_us);
            }
            Err(code) => *measured.failures.entry(code).or_default() += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_by_their_names() {
        assert!(is_key_name(&key_name(0)) && is_key_name(&key_name(u64::MAX)));
        for other in ["bench/", "bench/1", "bench/+000000001", "bench/0000000001/a", "other/0000000001"] {
            assert!(!is_key_name(other), "{other}");
        }
    }

    #[test]
    fn latencies_of_all_clients_are_told_apart() {
        let mut all = Measured::new();
        for latency_us in [1, 1_000, 2_000, 100 * LATENCY_US_MAX] {
            let mut one = Measured::new();
            one.latencies_us.saturating_record(latency_us);
            all.latencies_us += one.latencies_us;
        }
        assert_eq!(all.percentile(50.0), Duration::from_millis(1));
        assert_eq!(all.longest().as_secs(), 60);
    }
}
