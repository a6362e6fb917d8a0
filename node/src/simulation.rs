//! Nodes in a simulation: all of them in this process, each on a [`Host`] that is none, over a network in memory. The stores, Raft and the
//! routes are those of every node; what finds and greets other nodes over a real network is left out.
//!
//! Whoever runs them has a runtime with one thread whose time is paused: then time passes only when nobody has anything to do, and
//! the same seeds make the same run.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::{fmt, io};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Request, StatusCode};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tower::ServiceExt;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::prelude::*;

use crate::builder::{StartError, make_data_dir, panicked};
use crate::config::DEFAULT_LOG;
use crate::host::{Host, hosted};
use crate::http::{self, Credentials, HttpState};
use crate::limits::{DISK_RESERVE_MIB_DEFAULT, MIB, STOP_TIMEOUT};
use crate::metrics::{Metrics, NetworkMetrics};
use crate::network::about::About;
use crate::network::incarnation::Incarnations;
use crate::network::iroh::Admission;
use crate::network::memory::AspenRouter;
use crate::network::refusals::Refusals;
use crate::raft::{
    LearnerPromotionCoordinator, LeaseClock, NodeFailureDetector, Parts, PromotionPolicy, RaftNode,
    RaftTiming, SnapshotPolicy,
};
use crate::storage::Execution;
use crate::storage::log::{LOG_FILE, RedbLogStore};
use crate::storage::space::Space;
use crate::storage::sqlite::{SqliteStateMachine, StateMachineCloser};
use crate::types::{NodeId, NodeInfo};

/// Has what each node logs go to a file of its own, by the name of its machine, with the time of the simulation. What nobody's machine
/// does is not logged. Of one process only the first simulation logs.
pub fn log_to(consoles: BTreeMap<String, File>) {
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_timer(SinceStart(Instant::now()))
        .with_writer(Consoles(Arc::new(consoles)));
    let filter: Targets = DEFAULT_LOG.parse().expect("it is what a node has by default");
    // Another one would have been set up before this one.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}

/// The seconds of a simulation.
struct SinceStart(Instant);

impl FormatTime for SinceStart {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{:>10.3}", self.0.elapsed().as_secs_f64())
    }
}

/// The file of whoever's machine it is.
struct Consoles(Arc<BTreeMap<String, File>>);

impl<'a> MakeWriter<'a> for Consoles {
    type Writer = Box<dyn io::Write + 'a>;

    fn make_writer(&'a self) -> Self::Writer {
        match Host::current().and_then(|host| self.0.get(host.name())) {
            Some(file) => Box::new(file),
            None => Box::new(io::sink()),
        }
    }
}

/// What a simulated node is told.
#[derive(Debug, Clone)]
pub struct SimulatedSettings {
    /// Its number.
    pub id: NodeId,
    /// Who it is. Nobody is dialled at its addresses.
    pub info: NodeInfo,
    /// The members that it takes when it is asked to found a cluster.
    pub peers: BTreeMap<NodeId, NodeInfo>,
    /// Where it keeps its log and its state.
    pub data_dir: PathBuf,
    /// Heartbeat and election.
    pub timing: RaftTiming,
    /// When snapshots are made.
    pub snapshots: SnapshotPolicy,
    /// How many members should vote.
    pub promotion: PromotionPolicy,
}

/// A node that runs in a simulation.
#[derive(Debug)]
pub struct SimulatedNode {
    id: NodeId,
    host: Host,
    network: AspenRouter,
    raft: RaftNode,
    log: RedbLogStore,
    state_machine: StateMachineCloser,
    routes: Router,
    /// Why it has failed by itself.
    failure: Arc<OnceLock<String>>,
    /// Has what goes on beside Raft, and takes down why one of them has failed.
    watcher: JoinSet<()>,
}

impl SimulatedNode {
    /// Starts a node on a machine, which has to be a new one, and lets others reach it.
    ///
    /// # Errors
    /// Its files cannot be used, or belong to another node. Its machine has ended then.
    pub async fn start(
        settings: SimulatedSettings,
        network: AspenRouter,
        host: Host,
    ) -> Result<Self, StartError> {
        let on = host.clone();
        let started = on.run(Self::start_here(settings, network, host)).await;
        let started = started.expect("whoever starts a machine does not end it meanwhile");
        if started.is_err() {
            on.kill().await;
        }
        started
    }

    async fn start_here(
        settings: SimulatedSettings,
        network: AspenRouter,
        host: Host,
    ) -> Result<Self, StartError> {
        let SimulatedSettings { id, info, peers, data_dir, timing, snapshots, promotion } = settings;
        make_data_dir(&data_dir)?;
        let log = RedbLogStore::open(&data_dir.join(LOG_FILE), id, Execution::Simulated)?;
        let state_machine = SqliteStateMachine::open(&data_dir, Execution::Simulated)?.behind(log.durable());
        let closer = state_machine.closer();
        let stores = [log.metrics(), &state_machine.metrics()];
        let metrics = Arc::new(Metrics::new(&stores, &NetworkMetrics::default(), &Refusals::default()));
        let raft = RaftNode::start(Parts {
            id,
            endpoint_id: info.endpoint_id,
            timing,
            // Its time is none that another clock could confirm.
            lease_clock: LeaseClock::Off,
            promotion,
            about: About::default(),
            snapshots,
            log: log.clone(),
            state_machine,
            space: Arc::new(Space::new(&data_dir, DISK_RESERVE_MIB_DEFAULT * MIB)),
            transport: Arc::new(network.transport(id)),
            admission: Arc::new(Admission::new([], Incarnations::default())),
        })
        .await?;
        let mut tasks = JoinSet::new();
        let clone = || raft.clone();
        let (timekeeper, lease_keeper, compactor) = (clone(), clone(), clone());
        tasks.spawn(hosted(async move { timekeeper.keep_time().await }));
        tasks.spawn(hosted(async move { lease_keeper.keep_leases().await }));
        tasks.spawn(hosted(async move { compactor.compact().await }));
        // Nobody else wants to know who the members are; what it sees is logged.
        let (follower, members) = (clone(), watch::Sender::default());
        tasks.spawn(hosted(async move { follower.follow_members(members).await }));
        tasks.spawn(hosted(NodeFailureDetector::new(clone()).without_probes().run()));
        tasks.spawn(hosted(LearnerPromotionCoordinator::new(clone(), promotion).run()));
        network.add(id, Arc::new(clone()));
        let node = Arc::new(clone());
        let routes = http::router(HttpState {
            cluster: node.clone(),
            store: node.clone(),
            observer: Some(node),
            metrics,
            peers: Arc::new(peers),
            credentials: watch::channel(Credentials::default()).1,
            secrets: None,
        });
        let failure = Arc::default();
        let mut watcher = JoinSet::new();
        watcher.spawn(take_down_failure(raft.clone(), tasks, Arc::clone(&failure)));
        tracing::info!(%id, "ready");
        Ok(Self { id, host, network, raft, log, state_machine: closer, routes, failure, watcher })
    }

    /// The machine that it is on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// A way to ask it, as its HTTP interface would be.
    pub fn door(&self) -> SimulatedDoor {
        SimulatedDoor { host: self.host.clone(), routes: self.routes.clone() }
    }

    /// Why it has failed by itself, if it has.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Ends it between two of its steps, without a word to anybody. Its files are closed with it.
    pub async fn kill(mut self) {
        self.network.remove(self.id);
        self.host.kill().await;
        self.watcher.shutdown().await;
    }

    /// Stops it in order, also where it stands still: leadership is handed over first, and its files are closed. Whether it has come to that
    /// within the time that every node has.
    pub async fn stop(self) -> bool {
        let Self { id, host, network, raft, log, state_machine, routes, failure: _, mut watcher } = self;
        host.thaw();
        let stopped = host.run(async move {
            raft.step_aside().await;
            raft.end_watches();
            network.remove(id);
            state_machine.stop_waiting();
            raft.shutdown().await;
            watcher.shutdown().await;
            drop((raft, routes));
            log.close();
            state_machine.close();
            tracing::info!("stopped");
        });
        let is_stopped = timeout(STOP_TIMEOUT, stopped).await.is_ok();
        host.kill().await;
        is_stopped
    }
}

/// Waits until Raft has stopped by itself or something beside it has panicked, and takes that down.
async fn take_down_failure(raft: RaftNode, mut tasks: JoinSet<()>, failure: Arc<OnceLock<String>>) {
    let reason = tokio::select! {
        biased;
        failed = raft.failed() => failed.reason,
        reason = panicked(&mut tasks) => reason,
    };
    // It is the only one.
    let _ = failure.set(reason);
}

/// Where a simulated node is asked. It leads nowhere once the node has ended.
#[derive(Debug, Clone)]
pub struct SimulatedDoor {
    host: Host,
    routes: Router,
}

impl SimulatedDoor {
    /// Asks, and waits for the whole answer: a JSON body is posted, without one it is a GET. Nothing where the node ends meanwhile.
    pub async fn ask(self, path: String, body: Option<String>) -> Option<(StatusCode, Bytes)> {
        let method = if body.is_some() { "POST" } else { "GET" };
        let asked = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = asked.body(Body::from(body.unwrap_or_default())).ok()?;
        let Self { host, routes } = self;
        let answered = async move {
            let Ok(response) = routes.oneshot(request).await;
            let (parts, body) = response.into_parts();
            let bytes = to_bytes(body, usize::MAX).await.ok()?;
            Some((parts.status, bytes))
        };
        host.run(answered).await.flatten()
    }
}
