//! The simulation: nodes, their network and their clients in this process, on virtual time. It passes only when nobody has anything to do,
//! and everything that is left to chance comes from the seed: the same plan makes the same run, and minutes of it take seconds.
//!
//! The nodes are the real ones, stores and all ([`SimulatedNode`]). Not simulated are their sockets: what a node does to find,
//! greet and know others, TLS, and the HTTP server itself.

mod links;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aspen_node::builder::StartError;
use aspen_node::host::Host;
use aspen_node::network::memory::{AspenRouter, Passage};
use aspen_node::raft::{PromotionPolicy, RaftTiming, SnapshotPolicy};
use aspen_node::simulation::{self, SimulatedDoor, SimulatedNode, SimulatedSettings};
use aspen_node::types::{NodeId, NodeInfo};
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::links::SimulatedLinks;
use super::Sabotage;
use super::cluster::SetUpError;
use super::node_files::{DATA, node_info};
use crate::cluster::{
    Channel, ClockReading, Cluster, ClusterError, Footprint, FrameCounts, NodePair, PowerCut, Probe, Request,
    RequestError, Response, Vitals,
};
use crate::fabric::FabricKind;
use crate::limits::machines::{SIMULATED_CLIENT_DELAY_MS_MAX, SIMULATED_PROBE_BYTES};
use crate::link::LinkRule;
use crate::plan::{ClockError, NodeIndex, Plan, PlannedNode};
use crate::pressure::Pressure;
use crate::program::{Exit, tail};

/// What a node has said, in its home.
const CONSOLE: &str = "console.log";

/// A cluster in a simulation.
pub struct SimulatedCluster {
    plan: Arc<Plan>,
    directory: PathBuf,
    links: Arc<SimulatedLinks>,
    network: AspenRouter,
    nodes: Arc<Vec<Mutex<Slot>>>,
    sabotage: Option<Sabotage>,
    /// Probes that are under way.
    probes: Mutex<JoinSet<()>>,
    /// What the ways of clients draw from.
    random: Arc<Mutex<ChaCha8Rng>>,
}

/// The place of a node.
#[derive(Debug, Default)]
struct Slot {
    node: Option<SimulatedNode>,
    /// How often it was started.
    starts: u64,
    /// Whether it should be running.
    is_wanted: bool,
}

impl std::fmt::Debug for SimulatedCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedCluster").field("nodes", &self.nodes.len()).finish_non_exhaustive()
    }
}

/// Why a node does not do what it was told.
#[derive(Debug, thiserror::Error)]
enum SimulationError {
    #[error("it does not run")]
    Off,
    #[error("it runs already")]
    Running,
    #[error("it did not stop in time")]
    Late,
    #[error("a simulation has no machines")]
    NoMachine,
    #[error(transparent)]
    Start(#[from] StartError),
}

impl SimulatedCluster {
    /// The nodes of a plan, none of which runs, with their files below a directory.
    ///
    /// # Errors
    /// A node's folder cannot be made.
    pub fn new(plan: Arc<Plan>, directory: &Path, sabotage: Option<Sabotage>) -> Result<Self, SetUpError> {
        let mut consoles = BTreeMap::new();
        for PlannedNode { name, .. } in &plan.nodes {
            let path = home(directory, name).join(CONSOLE);
            let made = fs::create_dir_all(home(directory, name)).and_then(|()| File::create(&path));
            consoles.insert(name.clone(), made.map_err(|source| SetUpError::Io { path, source })?);
        }
        simulation::log_to(consoles);
        let of_links = match sabotage {
            Some(Sabotage::Fabric(sabotage)) => Some(sabotage),
            _ => None,
        };
        let count = u16::try_from(plan.nodes.len()).expect("a plan has at most NODES_MAX");
        let links = Arc::new(SimulatedLinks::new(plan.seed, of_links, count));
        let random = ChaCha8Rng::from_seed(seed(&plan, b"clients", 0, 0));
        Ok(Self {
            network: AspenRouter::over(links.clone()),
            nodes: Arc::new(plan.nodes.iter().map(|_| Mutex::default()).collect()),
            directory: directory.to_owned(),
            links,
            sabotage,
            probes: Mutex::default(),
            random: Arc::new(Mutex::new(random)),
            plan,
        })
    }

    fn slot(&self, node: NodeIndex) -> MutexGuard<'_, Slot> {
        lock(&self.nodes[node.position()])
    }

    /// Takes a node out of its place.
    fn take(&self, node: NodeIndex, doing: &'static str) -> Result<SimulatedNode, ClusterError> {
        let mut slot = self.slot(node);
        slot.is_wanted = false;
        slot.node.take().ok_or_else(|| self.failed(node, doing, SimulationError::Off))
    }

    /// Does something to the machine of a node that runs.
    fn on_host<T>(
        &self,
        node: NodeIndex,
        doing: &'static str,
        work: impl FnOnce(&Host) -> T,
    ) -> Result<T, ClusterError> {
        let slot = self.slot(node);
        let host = slot.node.as_ref().map(SimulatedNode::host);
        host.map(work).ok_or_else(|| self.failed(node, doing, SimulationError::Off))
    }

    fn failed(&self, node: NodeIndex, doing: &'static str, source: SimulationError) -> ClusterError {
        let name = self.plan.nodes[node.position()].name.clone();
        ClusterError::Node { name, doing, source: Box::new(source) }
    }

    /// What only a machine can do.
    fn no_machine<T: Send + 'static>(
        &self,
        node: NodeIndex,
        doing: &'static str,
    ) -> BoxFuture<'static, Result<T, ClusterError>> {
        ready(Err(self.failed(node, doing, SimulationError::NoMachine))).boxed()
    }

    fn settings(&self, node: NodeIndex) -> SimulatedSettings {
        let plan = &self.plan;
        let planned = &plan.nodes[node.position()];
        let peers: BTreeMap<NodeId, NodeInfo> =
            plan.nodes.iter().map(|peer| (NodeId(peer.raft_id), node_info(peer))).collect();
        let millis = Duration::from_millis;
        let default = SnapshotPolicy::default();
        SimulatedSettings {
            id: NodeId(planned.raft_id),
            info: node_info(planned),
            peers,
            data_dir: home(&self.directory, &planned.name).join(DATA),
            timing: RaftTiming {
                heartbeat: millis(plan.raft.heartbeat_ms),
                election_min: millis(plan.raft.election_ms_min),
                election_max: millis(plan.raft.election_ms_max),
            },
            snapshots: SnapshotPolicy {
                entries: plan.raft.snapshot_entries.map_or(default.entries, u64::from),
                ..default
            },
            promotion: PromotionPolicy {
                target_voters: None,
                replace_after: plan.raft.replace_after_ms.map(millis),
            },
        }
    }

    /// One frame and its answer; how long they took, if both came.
    async fn round_trip(links: &SimulatedLinks, from: NodeIndex, to: NodeIndex) -> Option<Duration> {
        let mut total = Duration::ZERO;
        for pair in [(from, to), (to, from)] {
            let Passage::After(took, flight) = links.send_over(pair, SIMULATED_PROBE_BYTES) else {
                return None;
            };
            if !took.is_zero() {
                sleep(took).await;
            }
            if !links.arrives_over(pair, flight) {
                return None;
            }
            total += took;
        }
        Some(total)
    }
}

/// How a node ends by itself.
const FAILED: Exit = Exit::Code(1);

fn has_failed(node: Option<&SimulatedNode>) -> bool {
    node.is_some_and(|node| node.failure().is_some())
}

/// Where a node has its files, below the run directory.
fn home(directory: &Path, node: &str) -> PathBuf {
    directory.join("nodes").join(node)
}

/// A seed of one of many, all of which come from that of the plan.
fn seed(plan: &Plan, of: &[u8], number: u64, start: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("aspen lab simulation v1");
    hasher.update(&plan.seed.to_le_bytes());
    hasher.update(of);
    hasher.update(&number.to_le_bytes());
    hasher.update(&start.to_le_bytes());
    *hasher.finalize().as_bytes()
}

impl Cluster for SimulatedCluster {
    fn start(&self, node: NodeIndex) -> BoxFuture<'_, Result<(), ClusterError>> {
        const DOING: &str = "starting it";
        async move {
            let number = {
                let mut slot = self.slot(node);
                if slot.node.is_some() {
                    if self.sabotage == Some(Sabotage::IgnoreKills) {
                        return Ok(());
                    }
                    return Err(self.failed(node, DOING, SimulationError::Running));
                }
                slot.starts += 1;
                slot.starts
            };
            let name = &self.plan.nodes[node.position()].name;
            let host = Host::new(name, seed(&self.plan, b"node", node.raft_id(), number));
            let started = SimulatedNode::start(self.settings(node), self.network.clone(), host).await;
            let started = started.map_err(|error| self.failed(node, DOING, error.into()))?;
            let mut slot = self.slot(node);
            slot.node = Some(started);
            slot.is_wanted = true;
            Ok(())
        }
        .boxed()
    }

    fn kill(&self, node: NodeIndex) -> BoxFuture<'_, Result<Exit, ClusterError>> {
        async move {
            if self.sabotage == Some(Sabotage::IgnoreKills) {
                return Ok(Exit::Signal(9));
            }
            let victim = self.take(node, "killing it")?;
            // It may have ended before.
            let exit = if has_failed(Some(&victim)) { FAILED } else { Exit::Signal(9) };
            victim.kill().await;
            Ok(exit)
        }
        .boxed()
    }

    fn cut_power(&self, node: NodeIndex, _draw: u32) -> BoxFuture<'_, Result<PowerCut, ClusterError>> {
        self.no_machine(node, "cutting its power")
    }

    fn runs(&self, node: NodeIndex) -> BoxFuture<'_, bool> {
        ready(self.slot(node).node.is_some()).boxed()
    }

    fn stop(&self, node: NodeIndex) -> BoxFuture<'_, Result<Exit, ClusterError>> {
        async move {
            const DOING: &str = "stopping it";
            let node_there = self.take(node, DOING)?;
            let had_failed = has_failed(Some(&node_there));
            match (node_there.stop().await, had_failed) {
                (_, true) => Ok(FAILED),
                (true, false) => Ok(Exit::Code(0)),
                (false, false) => Err(self.failed(node, DOING, SimulationError::Late)),
            }
        }
        .boxed()
    }

    fn pause(&self, node: NodeIndex) -> BoxFuture<'_, Result<(), ClusterError>> {
        if self.sabotage == Some(Sabotage::IgnorePauses) {
            return ready(Ok(())).boxed();
        }
        ready(self.on_host(node, "pausing it", Host::freeze)).boxed()
    }

    fn resume(&self, node: NodeIndex) -> BoxFuture<'_, Result<(), ClusterError>> {
        ready(self.on_host(node, "letting it go on", Host::thaw)).boxed()
    }

    fn suspend(&self, node: NodeIndex) -> BoxFuture<'_, Result<u64, ClusterError>> {
        self.no_machine(node, "suspending it")
    }

    fn restore(&self, node: NodeIndex) -> BoxFuture<'_, Result<(), ClusterError>> {
        self.no_machine(node, "letting it go on from where it was")
    }

    fn snapshot(&self, node: NodeIndex) -> BoxFuture<'_, Result<u64, ClusterError>> {
        self.no_machine(node, "saving it")
    }

    fn roll_back(&self, node: NodeIndex) -> BoxFuture<'_, Result<(), ClusterError>> {
        self.no_machine(node, "putting it back")
    }

    fn retire(&self, node: NodeIndex) -> BoxFuture<'_, Result<bool, ClusterError>> {
        self.no_machine(node, "telling it that it was put back")
    }

    fn read_clock(&self, node: NodeIndex) -> BoxFuture<'_, Result<ClockReading, ClusterError>> {
        self.no_machine(node, "reading its clock")
    }

    fn break_clock(&self, node: NodeIndex, _error: ClockError) -> BoxFuture<'_, Result<(), ClusterError>> {
        self.no_machine(node, "making its clock wrong")
    }

    fn mend_clock(&self, node: NodeIndex) -> BoxFuture<'_, Result<Duration, ClusterError>> {
        self.no_machine(node, "making its clock right")
    }

    fn has_clocks(&self) -> bool {
        false
    }

    fn observe(&self, node: NodeIndex) -> BoxFuture<'_, Result<Vitals, ClusterError>> {
        let vitals = |host: &Host| Vitals { is_paused: host.is_frozen(), cpu_ticks: host.steps() };
        ready(self.on_host(node, "observing it", vitals)).boxed()
    }

    fn footprint(&self, node: NodeIndex) -> BoxFuture<'_, Result<Footprint, ClusterError>> {
        self.no_machine(node, "measuring it")
    }

    fn pressure(&self) -> Option<Pressure> {
        None
    }

    fn set_links(
        &self,
        rules: &BTreeMap<NodePair, LinkRule>,
    ) -> Result<BTreeMap<NodePair, FrameCounts>, ClusterError> {
        self.links.set_rules(rules);
        self.frame_counts()
    }

    fn frame_counts(&self) -> Result<BTreeMap<NodePair, FrameCounts>, ClusterError> {
        Ok(self.links.counts())
    }

    fn fabric(&self) -> FabricKind {
        FabricKind::Switch
    }

    fn probe(
        &self,
        from: NodeIndex,
        to: NodeIndex,
        within: Duration,
    ) -> BoxFuture<'_, Result<Probe, ClusterError>> {
        async move {
            let (done, took) = oneshot::channel();
            let links = self.links.clone();
            {
                let mut probes = lock(&self.probes);
                while probes.try_join_next().is_some() {}
                // A frame is on its way whether its answer is still waited for or not.
                probes.spawn(async move {
                    if let Some(took) = Self::round_trip(&links, from, to).await {
                        let _ = done.send(took);
                    }
                });
            }
            let answered = async {
                match took.await {
                    Ok(took) => took,
                    // Whoever waits does not know that it is lost.
                    Err(_) => std::future::pending().await,
                }
            };
            Ok(timeout(within, answered).await.map_or(Probe::Unanswered, Probe::Answered))
        }
        .boxed()
    }

    fn takes_part(&self, _node: NodeIndex) -> bool {
        true
    }

    fn channel(&self, node: NodeIndex) -> Box<dyn Channel> {
        Box::new(SimulatedChannel { nodes: self.nodes.clone(), node, random: self.random.clone() })
    }

    fn deaths(&self) -> Vec<(NodeIndex, Exit)> {
        let is_dead = |node: &NodeIndex| {
            let slot = self.slot(*node);
            slot.is_wanted && has_failed(slot.node.as_ref())
        };
        self.plan.node_indexes().filter(is_dead).map(|node| (node, FAILED)).collect()
    }

    fn defects(&self) -> Vec<String> {
        Vec::new()
    }

    fn console_end(&self, node: NodeIndex) -> String {
        let home = home(&self.directory, &self.plan.nodes[node.position()].name);
        let slot = self.slot(node);
        let failure = slot.node.as_ref().and_then(SimulatedNode::failure).unwrap_or_default();
        format!("{}{failure}", tail(&home.join(CONSOLE)).unwrap_or_default())
    }
}

/// A client's way to a node: no link of the plan, and always whole.
struct SimulatedChannel {
    nodes: Arc<Vec<Mutex<Slot>>>,
    node: NodeIndex,
    random: Arc<Mutex<ChaCha8Rng>>,
}

impl SimulatedChannel {
    /// The time of one way. Without it nothing would ever happen at the same time.
    async fn travel(&self) {
        let ms = lock(&self.random).random_range(0..=SIMULATED_CLIENT_DELAY_MS_MAX);
        if ms > 0 {
            sleep(Duration::from_millis(ms)).await;
        }
    }

    fn door(&self) -> Option<SimulatedDoor> {
        lock(&self.nodes[self.node.position()]).node.as_ref().map(SimulatedNode::door)
    }

    async fn exchange(&self, request: Request) -> Result<Response, RequestError> {
        self.travel().await;
        let door = self.door().ok_or_else(|| RequestError::NotSent("nobody listens".to_owned()))?;
        let answer = door.ask(request.path, request.body).await;
        self.travel().await;
        let (status, body) = answer.ok_or_else(|| RequestError::Lost("the node has ended".to_owned()))?;
        Ok(Response::new(status.as_u16(), &body))
    }
}

impl Channel for SimulatedChannel {
    fn request(
        &mut self,
        request: Request,
        within: Duration,
    ) -> BoxFuture<'_, Result<Response, RequestError>> {
        async move {
            let late = |_| Err(RequestError::Lost(format!("nothing within {} ms", within.as_millis())));
            timeout(within, self.exchange(request)).await.unwrap_or_else(late)
        }
        .boxed()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this lock")
}
