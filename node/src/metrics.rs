//! What a node measures, as Prometheus reads it: one registry for each node, so that several can live in one process.
//!
//! Durations are in seconds, sizes in bytes, as Prometheus has it (<https://prometheus.io/docs/practices/naming/>). What the node
//! knows anyway is looked up when it is asked for; only what passes by is measured on its way.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::api::{ClusterStatus, EntryId, Measures, RaftState};
use crate::network::refusals::Refusals;
use crate::types::NodeId;

/// The media type of the text (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// From 50 us, a fast disk's flush, to 6.5 s, more than any operation may take.
fn latency_buckets() -> Vec<f64> {
    prometheus::exponential_buckets(50e-6, 2.0, 18).expect("a start, a factor above one, and a count")
}

/// From one to the most that is done at once.
fn count_buckets() -> Vec<f64> {
    prometheus::exponential_buckets(1.0, 2.0, 11).expect("a start, a factor above one, and a count")
}

/// How long a store's transactions take, and what they hold.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    seconds: Histogram,
    entries: Histogram,
}

impl StoreMetrics {
    /// Those of the log.
    pub fn of_log() -> Self {
        Self::new("log_commit", "a durable commit of the Raft log")
    }

    /// Those of the state machine.
    pub fn of_state() -> Self {
        Self::new("apply", "a transaction of the state machine")
    }

    fn new(name: &str, what: &str) -> Self {
        let histogram = |unit: &str, help: String, buckets| {
            let options = HistogramOpts::new(format!("aspen_{name}_{unit}"), help).buckets(buckets);
            Histogram::with_opts(options).expect("the names are well formed")
        };
        Self {
            seconds: histogram("seconds", format!("Time of {what}"), latency_buckets()),
            entries: histogram("entries", format!("Entries in {what}"), count_buckets()),
        }
    }

    /// Notes a transaction.
    pub(crate) fn note(&self, took: Duration, entries: usize) {
        self.seconds.observe(took.as_secs_f64());
        self.entries.observe(f64::from(u32::try_from(entries).unwrap_or(u32::MAX)));
    }
}

/// How long peers take to answer, and how often they do not. Clones share it.
#[derive(Debug, Clone)]
pub struct NetworkMetrics {
    seconds: HistogramVec,
    failures: IntCounterVec,
    dials: IntCounterVec,
}

impl Default for NetworkMetrics {
    fn default() -> Self {
        let options = HistogramOpts::new(
            "aspen_peer_request_seconds",
            "Time until a peer has answered, by its number and by what the connection is for",
        );
        let seconds = HistogramVec::new(options.buckets(latency_buckets()), &["node", "connection"]);
        let counters = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).expect("the names are well formed")
        };
        Self {
            seconds: seconds.expect("the names are well formed"),
            failures: counters(
                "aspen_peer_failures_total",
                "Requests that a peer has not answered, by its number, by what the connection is for, and why",
                &["node", "connection", "why"],
            ),
            dials: counters(
                "aspen_peer_dials_total",
                "Connections to peers, and whether they came about",
                &["result"],
            ),
        }
    }
}

impl NetworkMetrics {
    /// Notes what came of a request to a peer: how long its answer took, or why there was none.
    pub(crate) fn note(&self, node: NodeId, connection: &str, result: Result<Duration, &str>) {
        let node = node.to_string();
        match result {
            Ok(took) => self.seconds.with_label_values(&[&node, connection]).observe(took.as_secs_f64()),
            Err(why) => self.failures.with_label_values(&[&node, connection, why]).inc(),
        }
    }

    /// Notes a dial.
    pub(crate) fn note_dial(&self, came_about: bool) {
        self.dials.with_label_values(&[if came_about { "ok" } else { "failed" }]).inc();
    }
}

/// The metrics of one node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    http: HistogramVec,
    /// In the order of [`GAUGES`].
    gauges: [IntGauge; GAUGES.len()],
    replicated: IntGaugeVec,
    refusals: Refusals,
    /// Who asks sets gauges first: one at a time, so that each reads its own.
    turn: Mutex<()>,
}

/// What a node says of itself at one moment.
struct Moment<'a> {
    raft: &'a RaftState,
    cluster: &'a ClusterStatus,
    measures: &'a Measures,
}

/// A gauge that is set when it is asked for: its name, its help, and where its value is found.
type Gauge = (&'static str, &'static str, fn(&Moment<'_>) -> u64);

/// What is not known is 0, as an index of an empty log is.
const GAUGES: [Gauge; 15] = [
    ("raft_term", "Present term", |now| now.raft.term),
    ("raft_is_leader", "1 on the leader", |now| u64::from(now.raft.role == "leader")),
    ("raft_has_leader", "1 where a leader is known", |now| u64::from(now.cluster.leader.is_some())),
    ("raft_voters", "Members that vote", |now| members(now, true)),
    ("raft_learners", "Members that do not vote", |now| members(now, false)),
    ("raft_last_log_index", "Last entry of the log", |now| now.raft.last_log_index.unwrap_or(0)),
    ("raft_committed_index", "Last entry known to be committed", |now| index(now.raft.committed)),
    ("raft_applied_index", "Last entry applied to the state", |now| index(now.raft.applied)),
    ("raft_snapshot_index", "Last entry that the newest snapshot covers", |now| index(now.raft.snapshot)),
    ("raft_purged_index", "Last entry that has left the log", |now| index(now.raft.purged)),
    ("operations_in_flight", "Client operations under way", |now| now.measures.operations_in_flight),
    ("disk_available_bytes", "Room on the disk of the data directory", |now| {
        now.measures.disk_available_bytes
    }),
    ("disk_reserve_bytes", "Room below which writes are refused", |now| now.measures.disk_reserve_bytes),
    ("watchers", "Watches under way", |now| now.measures.watchers),
    ("watch_history_bytes", "Changes held for watches", |now| now.measures.watch_history_bytes),
];

fn members(now: &Moment<'_>, is_voter: bool) -> u64 {
    now.cluster.members.iter().filter(|member| member.is_voter == is_voter).count() as u64
}

fn index(entry: Option<EntryId>) -> u64 {
    entry.map_or(0, |entry| entry.index)
}

impl Metrics {
    /// The metrics of a node with these stores and this network.
    pub fn new(stores: &[&StoreMetrics], network: &NetworkMetrics, refusals: &Refusals) -> Self {
        let registry = Registry::new();
        let add = |collector: Box<dyn Collector>| {
            registry.register(collector).expect("every name is there once");
        };
        for store in stores {
            add(Box::new(store.seconds.clone()));
            add(Box::new(store.entries.clone()));
        }
        add(Box::new(network.seconds.clone()));
        add(Box::new(network.failures.clone()));
        add(Box::new(network.dials.clone()));
        add(Box::new(refusals.counts().clone()));
        let options =
            HistogramOpts::new("aspen_http_request_seconds", "Time of an HTTP request, by route and status")
                .buckets(latency_buckets());
        let http = HistogramVec::new(options, &["method", "route", "status"]);
        let http = http.expect("the names are well formed");
        add(Box::new(http.clone()));
        let gauges = GAUGES.map(|(name, help, _)| {
            let gauge = IntGauge::new(format!("aspen_{name}"), help).expect("the name is well formed");
            add(Box::new(gauge.clone()));
            gauge
        });
        let options = Opts::new(
            "aspen_raft_replicated_index",
            "Last entry that a member is known to have, on the leader",
        );
        let replicated = IntGaugeVec::new(options, &["node"]).expect("the names are well formed");
        add(Box::new(replicated.clone()));
        add(Box::new(ProcessCollector::for_self()));
        Self { registry, http, gauges, replicated, refusals: refusals.clone(), turn: Mutex::default() }
    }

    /// Who was turned away.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Notes an HTTP request. `route` is the pattern that it has matched.
    pub(crate) fn note_http(&self, method: &str, route: &str, status: u16, took: Duration) {
        // Anybody may make up others.
        let method =
            ["GET", "POST", "PUT", "DELETE"].into_iter().find(|known| *known == method).unwrap_or("other");
        let status = status.to_string();
        self.http.with_label_values(&[method, route, &status]).observe(took.as_secs_f64());
    }

    /// All of them as text, at this moment.
    pub fn text(&self, raft: &RaftState, cluster: &ClusterStatus, measures: &Measures) -> String {
        let now = Moment { raft, cluster, measures };
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        for (found, (_, _, value)) in self.gauges.iter().zip(GAUGES) {
            found.set(gauge(value(&now)));
        }
        // A leader of before knows no longer what its followers have.
        self.replicated.reset();
        for (node, index) in &measures.replicated {
            self.replicated.with_label_values(&[&node.to_string()]).set(gauge(*index));
        }
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("what is gathered can be written");
        String::from_utf8(text).expect("the text is one")
    }
}

/// Prometheus's numbers are floats: what is larger than this is none that a node counts.
fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::{Member, VoteState};
    use crate::network::refusals::Refusal;
    use crate::types::{EndpointKey, NodeInfo};

    /// A leader that is alone.
    fn moment() -> (RaftState, ClusterStatus) {
        let at = |index| Some(EntryId { term: 2, index });
        let raft = RaftState {
            id: NodeId(1),
            incarnation: "x".to_owned(),
            role: "leader".to_owned(),
            term: 2,
            vote: VoteState { term: 2, voted_for: NodeId(1), is_committed: true },
            leader: Some(NodeId(1)),
            last_log_index: Some(9),
            committed: at(9),
            applied: at(8),
            snapshot: at(4),
            purged: None,
        };
        let address = "127.0.0.1:1".parse().unwrap();
        let info = NodeInfo { endpoint_id: EndpointKey([0; 32]), raft: address, http: address };
        let cluster = ClusterStatus {
            id: NodeId(1),
            endpoint_id: String::new(),
            role: "leader".to_owned(),
            term: 2,
            leader: None,
            is_initialized: true,
            members: vec![Member {
                id: NodeId(1),
                is_voter: true,
                health: None,
                region: None,
                zone: None,
                info,
            }],
            is_changing: false,
            is_removed: false,
            refused_connections: 5,
        };
        (raft, cluster)
    }

    #[test]
    fn text_has_every_metric_with_its_help_and_type() {
        let log = StoreMetrics::of_log();
        let network = NetworkMetrics::default();
        network.note(NodeId(2), "raft", Ok(Duration::from_millis(1)));
        network.note(NodeId(2), "heartbeat", Err("timeout"));
        network.note_dial(true);
        let refusals = Refusals::default();
        refusals.note(Refusal::Busy, "somebody");
        let metrics = Metrics::new(&[&log, &StoreMetrics::of_state()], &network, &refusals);
        log.note(Duration::from_micros(300), 3);
        metrics.note_http("GET", "/health", 200, Duration::from_millis(1));
        let (raft, cluster) = moment();
        let measures = Measures {
            watchers: 3,
            watch_history_bytes: 1_024,
            operations_in_flight: 7,
            disk_available_bytes: 1 << 40,
            disk_reserve_bytes: 1 << 26,
            replicated: BTreeMap::from([(NodeId(2), 6)]),
        };
        let text = metrics.text(&raft, &cluster, &measures);
        for line in [
            "# TYPE aspen_log_commit_seconds histogram",
            "aspen_log_commit_entries_sum 3",
            "aspen_http_request_seconds_count{method=\"GET\",route=\"/health\",status=\"200\"} 1",
            "aspen_raft_is_leader 1",
            "aspen_raft_voters 1",
            "aspen_raft_applied_index 8",
            "aspen_raft_replicated_index{node=\"2\"} 6",
            "aspen_refusals_total{why=\"busy\"} 1",
            "aspen_refusals_total{why=\"not_a_member\"} 0",
            "aspen_peer_request_seconds_count{connection=\"raft\",node=\"2\"} 1",
            "aspen_peer_failures_total{connection=\"heartbeat\",node=\"2\",why=\"timeout\"} 1",
            "aspen_peer_dials_total{result=\"ok\"} 1",
            "aspen_disk_available_bytes 1099511627776",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }
}
