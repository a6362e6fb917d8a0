//! The loop of one client: call, write down, wait for its turn.

use std::fmt::Debug;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;

use super::register::{Choice, RegisterClient};
use crate::cluster::{Channel, Clock, Cluster, RequestError, Response};
use crate::history::{Answer, Call, HistoryWriter, Op, OpId, Outcome};
use crate::limits::CLIENT_TIMEOUT;
use crate::plan::{NodeIndex, Reads};
use crate::target::{Dialect, aspen};

/// What all clients share: the history, the counts, and the word to stop.
pub struct Load {
    clock: Arc<dyn Clock>,
    history: Mutex<Recorder>,
    counts: Counts,
    /// Whether reads ask for a lease.
    counts_leases: bool,
    is_stopped: AtomicBool,
    /// Nanoseconds of the first answered operation plus one; 0 before it.
    first_answer: AtomicU64,
}

impl Debug for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Load").field("counts", &self.counts).finish_non_exhaustive()
    }
}

struct Recorder {
    writer: HistoryWriter<Box<dyn Write + Send>>,
    next: u64,
    /// The first error of the file; the run cannot be judged after it.
    failed: Option<std::io::Error>,
}

/// Operations so far, by how they ended.
#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    by_lease: AtomicU64,
}

/// A reading of the counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LoadCounts {
    /// Operations whose outcome is known and which took place.
    pub answered: u64,
    /// Operations that certainly did not take place.
    pub refused: u64,
    /// Operations whose outcome is open.
    pub unknown: u64,
    /// Answers that a leader's lease has confirmed, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_lease: Option<u64>,
}

/// A read that was answered, to be written down after the fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Who read.
    pub client: String,
    /// From which node.
    pub node: String,
    /// Which key.
    pub key: String,
    /// When it was called, by the run's clock.
    pub called: Duration,
    /// When it was answered.
    pub returned: Duration,
    /// What was there.
    pub value: Option<String>,
}

impl Load {
    /// Records into `history`, with the times of `clock`.
    pub fn new(clock: Arc<dyn Clock>, history: Box<dyn Write + Send>, reads: Reads) -> Self {
        Self {
            counts_leases: reads == Reads::Lease,
            clock,
            history: Mutex::new(Recorder { writer: HistoryWriter::new(history), next: 0, failed: None }),
            counts: Counts::default(),
            is_stopped: AtomicBool::new(false),
            first_answer: AtomicU64::new(0),
        }
    }

    /// Lets every client finish its present operation and begin no other.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Whether [`Self::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// The time of the first answered operation.
    pub fn first_answer(&self) -> Option<Duration> {
        self.first_answer.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_nanos)
    }

    /// How the operations ended so far.
    pub fn counts(&self) -> LoadCounts {
        LoadCounts {
            answered: self.counts.answered.load(Ordering::Relaxed),
            refused: self.counts.refused.load(Ordering::Relaxed),
            unknown: self.counts.unknown.load(Ordering::Relaxed),
            by_lease: self.counts_leases.then(|| self.counts.by_lease.load(Ordering::Relaxed)),
        }
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// The first error that the history's file has met.
    pub fn finish(&self) -> std::io::Result<()> {
        let mut recorder = self.recorder();
        let flushed = recorder.writer.flush();
        recorder.failed.take().map_or(flushed, Err)
    }

    /// Writes reads down after the fact. They are no part of the load, and not counted.
    pub fn record_reads(&self, readings: &[Reading]) {
        let mut recorder = self.recorder();
        let first = recorder.next;
        recorder.next += readings.len() as u64;
        let calls = readings.iter().zip(first..).map(|(reading, id)| (reading.called, false, id, reading));
        let returns = readings.iter().zip(first..).map(|(reading, id)| (reading.returned, true, id, reading));
        let mut events: Vec<_> = calls.chain(returns).collect();
        // A client's records are in the order of time, each call before its answer.
        events.sort_by_key(|(at, is_answer, id, _)| (*at, *id, *is_answer));
        for (at, is_answer, id, reading) in events {
            let (id, at_ns) = (OpId(id), nanos(at));
            let written = if is_answer {
                let outcome = Outcome::Read { value: reading.value.as_deref() };
                recorder.writer.answer(&Answer { id, at_ns, outcome })
            } else {
                let Reading { client, node, key, .. } = reading;
                let max_staleness_ms = None;
                recorder.writer.call(&Call { id, client, node, at_ns, key, op: Op::Read, max_staleness_ms })
            };
            recorder.keep(written);
        }
    }

    fn call(
        &self,
        client: &str,
        node: &str,
        key: &str,
        op: &Op<String>,
        max_staleness_ms: Option<u64>,
    ) -> OpId {
        let mut recorder = self.recorder();
        let id = OpId(recorder.next);
        recorder.next += 1;
        let op = op.as_ref();
        // Under the lock, so that times do not go back in the file.
        let call = Call { id, client, node, at_ns: nanos(self.clock.now()), key, op, max_staleness_ms };
        let written = recorder.writer.call(&call);
        recorder.keep(written);
        id
    }

    fn answer(&self, id: OpId, outcome: &Outcome<String>) {
        let mut recorder = self.recorder();
        let at_ns = nanos(self.clock.now());
        let written = recorder.writer.answer(&Answer { id, at_ns, outcome: outcome.as_ref() });
        recorder.keep(written);
        drop(recorder);
        let count = match outcome {
            Outcome::Refused { .. } => &self.counts.refused,
            Outcome::Unknown => &self.counts.unknown,
            Outcome::Read { .. } | Outcome::Done | Outcome::CasFailed { .. } => {
                // Only the first one is kept, whoever is first.
                let _ =
                    self.first_answer.compare_exchange(0, at_ns + 1, Ordering::Relaxed, Ordering::Relaxed);
                &self.counts.answered
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an answer that a lease has confirmed.
    fn note_lease(&self, answer: &Result<Response, RequestError>) {
        if answer.as_ref().is_ok_and(aspen::is_by_lease) {
            self.counts.by_lease.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn recorder(&self) -> std::sync::MutexGuard<'_, Recorder> {
        self.history.lock().expect("nothing panics while it holds this lock")
    }
}

impl Recorder {
    fn keep(&mut self, written: std::io::Result<()>) {
        if let Err(error) = written {
            self.failed.get_or_insert(error);
        }
    }
}

/// One client: who it is, where it begins, how fast it goes.
pub struct Client<R> {
    /// Its name in the history.
    pub name: String,
    /// Its choices.
    pub choices: RegisterClient<R>,
    /// The node that it talks to.
    pub node: NodeIndex,
    /// Whether it stays with that node whatever it answers.
    pub is_pinned: bool,
    /// Time from one call to the next, where the answer is faster than that.
    pub interval: Duration,
    /// How old the answer to every other one of its reads may be, in milliseconds; `None`: no answer may.
    pub max_staleness_ms: Option<u64>,
    /// How it speaks to nodes.
    pub dialect: Dialect,
    /// The names of the nodes, by index.
    pub node_names: Arc<[String]>,
}

impl<R> Debug for Client<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("name", &self.name).field("node", &self.node).finish_non_exhaustive()
    }
}

impl<R: Rng> Client<R> {
    /// Calls until the load is stopped.
    pub async fn run(mut self, load: Arc<Load>, cluster: Arc<dyn Cluster>) {
        let mut channel = cluster.channel(self.node);
        // Clients do not march in step.
        let interval_ms = u32::try_from(self.interval.as_millis()).unwrap_or(u32::MAX);
        let phase = Duration::from_millis(u64::from(self.choices.draw(interval_ms)));
        let mut due = load.clock.now() + phase;
        let mut is_strict = false;
        while !load.is_stopped() {
            load.clock.sleep_until(due).await;
            is_strict = !is_strict;
            let outcome = self.operate(&load, channel.as_mut(), is_strict).await;
            let is_served = !matches!(outcome, Outcome::Refused { .. } | Outcome::Unknown);
            if !is_served && !self.is_pinned {
                self.node = self.another_node();
                channel = cluster.channel(self.node);
            }
            // A closed loop: a slow answer delays the next call, and is not made up for.
            due = (due + self.interval).max(load.clock.now());
        }
    }

    /// Does one thing. A read that is not strict may be old, if this client's may.
    async fn operate(&mut self, load: &Load, channel: &mut dyn Channel, is_strict: bool) -> Outcome<String> {
        let node = &self.node_names[self.node.position()];
        match self.choices.choose() {
            Choice::One { key, op } => {
                let bound_ms = self.max_staleness_ms.filter(|_| !is_strict && op == Op::Read);
                let request = match bound_ms {
                    Some(bound_ms) => self.dialect.bounded_request(&key, bound_ms),
                    None => self.dialect.request(&key, &op),
                };
                let id = load.call(&self.name, node, &key, &op, bound_ms);
                let answer = channel.request(request, CLIENT_TIMEOUT).await;
                load.note_lease(&answer);
                let outcome = self.dialect.outcome(&op, answer);
                load.answer(id, &outcome);
                self.choices.learn(&key, &op, &outcome);
                outcome
            }
            Choice::Scan { prefix, keys } => {
                let ids: Vec<OpId> =
                    keys.iter().map(|key| load.call(&self.name, node, key, &Op::Read, None)).collect();
                let answer = channel.request(self.dialect.scan_request(&prefix), CLIENT_TIMEOUT).await;
                load.note_lease(&answer);
                let outcomes = self.dialect.scan_outcomes(&keys, answer);
                for ((id, key), outcome) in ids.into_iter().zip(&keys).zip(&outcomes) {
                    load.answer(id, outcome);
                    self.choices.learn(key, &Op::Read, outcome);
                }
                outcomes.into_iter().next().unwrap_or(Outcome::Unknown)
            }
        }
    }

    fn another_node(&mut self) -> NodeIndex {
        let count = u32::try_from(self.node_names.len()).unwrap_or(u32::MAX);
        let step = if count > 1 { 1 + self.choices.draw(count - 1) } else { 0 };
        let next = (u32::from(self.node.0) + step) % count;
        NodeIndex(u16::try_from(next).unwrap_or_default())
    }
}

/// Nanoseconds as the history counts them.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
