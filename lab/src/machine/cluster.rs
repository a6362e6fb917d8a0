//! A [`Cluster`] of machines on a fabric, whatever the driver: who has to run, who died, what links do, and the lab's own
//! port.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aspen_node::cluster::identity::IdentityError;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::networks::{self, Attachment};
use super::vm::block::BlockError;
use super::{Machine, MachineError, ProbeError, Prober, Sabotage};
use crate::cluster::http::HttpChannel;
use crate::cluster::pace::Pace;
use crate::cluster::{
    Channel, ClockReading, Cluster, ClusterError, Footprint, FrameCounts, Held, NodePair, PowerCut, Probe,
    Vitals, link_id,
};
use crate::fabric::namespace::Namespace;
use crate::fabric::wiring::{Fabric, Wiring};
use crate::fabric::{FabricError, FabricKind, TapError};
use crate::image::config_disk::ConfigDiskError;
use crate::limits::machines::RETIRE_MAX;
use crate::limits::{LINK_DELAY_MAX, NODE_STOP_MAX};
use crate::link::{LinkId, LinkRule};
use crate::plan::{ClockError, NodeIndex, Plan};
use crate::pressure::Pressure;
use crate::program::{Exit, ProgramError};
use crate::volume::{Lost, MountError};

/// Machines on a fabric.
pub struct MachineCluster {
    plan: Arc<Plan>,
    nodes: Vec<Arc<Node>>,
    fabric: Fabric,
    sabotage: Option<Sabotage>,
    pace: Pace,
    has_clocks: bool,
}

struct Node {
    machine: Mutex<Box<dyn Machine>>,
    /// Sends probes from this node.
    prober: Arc<dyn Prober>,
    /// Whether it should be running.
    is_wanted: Mutex<bool>,
}

impl Debug for MachineCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MachineCluster").field("nodes", &self.nodes.len()).finish_non_exhaustive()
    }
}

/// Why the machines and their network cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// A file or directory of a node.
    #[error("cannot write {path}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A node's key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A disk that can lose what it was given.
    #[error(
        "a disk that loses what is not synced, which needs /dev/fuse: where there is none, take --driver qemu"
    )]
    Volume(#[from] MountError),
    /// The same, of a machine.
    #[error("a disk that loses what is not flushed")]
    Block(#[from] BlockError),
    /// The log of programs.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A machine's config disk.
    #[error(transparent)]
    ConfigDisk(#[from] ConfigDiskError),
    /// Sockets between a machine and the switch.
    #[error("sockets on the loopback interface")]
    Loopback(#[source] io::Error),
    /// The lab's own interface.
    #[error("the lab's own port")]
    Tap(#[from] TapError),
    /// The fabric.
    #[error("the network")]
    Fabric(#[from] FabricError),
}

impl MachineCluster {
    /// Takes the machines, one for each node of the plan and in its order, connects the lab itself, and lets the fabric
    /// begin. No node is started.
    ///
    /// # Errors
    /// The lab's own interface cannot be made, or the fabric does not begin.
    pub fn new(
        plan: Arc<Plan>,
        machines: Vec<Box<dyn Machine>>,
        mut wiring: Wiring,
        sabotage: Option<Sabotage>,
        pace: Pace,
    ) -> Result<Self, SetUpError> {
        assert!(machines.len() == plan.nodes.len(), "a node's position is that of its machine");
        // The lab is one more port of each network, after the nodes': so that a node's port has the node's position.
        let here = Namespace::current()?;
        for Attachment { port, interface } in networks::of_lab(&plan) {
            wiring.connect(port, &here, &interface)?;
        }
        let has_clocks = machines.iter().all(|machine| machine.has_clock());
        let node = |machine: Box<dyn Machine>| {
            let prober = machine.prober();
            Arc::new(Node { machine: Mutex::new(machine), prober, is_wanted: Mutex::new(false) })
        };
        let nodes = machines.into_iter().map(node).collect();
        Ok(Self { plan, nodes, fabric: wiring.finish()?, sabotage, pace, has_clocks })
    }

    fn name(&self, node: NodeIndex) -> String {
        self.plan.nodes[node.position()].name.clone()
    }

    /// Runs a blocking order to a machine off the async threads.
    fn order<T: Send + 'static>(
        &self,
        node: NodeIndex,
        doing: &'static str,
        work: impl FnOnce(&mut dyn Machine) -> Result<T, MachineError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, ClusterError>> {
        let target = self.nodes[node.position()].clone();
        async move {
            let done = tokio::task::spawn_blocking(move || work(lock(&target.machine).as_mut())).await;
            let failed = |source| ClusterError::Node { name: self.name(node), doing, source };
            match done {
                Ok(result) => result.map_err(|error| failed(Box::new(error))),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        .boxed()
    }

    fn want(&self, node: NodeIndex, is_wanted: bool) {
        *lock(&self.nodes[node.position()].is_wanted) = is_wanted;
    }

    /// Where probes are aimed: at the network whose links have rules.
    fn probed_address(&self, node: NodeIndex) -> SocketAddr {
        let node = &self.plan.nodes[node.position()];
        // Where nothing listens, the refusal is the answer: clients may reach the node over another network.
        SocketAddr::from((node.ip, node.http_port))
    }

    /// The counts of the links between nodes, in planned time.
    fn planned(&self, counts: &BTreeMap<LinkId, FrameCounts>) -> BTreeMap<NodePair, FrameCounts> {
        let time = |real| self.pace.to_planned(real);
        let planned = self.pairs().map(|pair| {
            let counts = counts.get(&link_id(pair)).copied().unwrap_or_default();
            let held = match counts.held {
                Held::Counted { total } => Held::Counted { total: time(total) },
                Held::Told { latency, jitter, bits_per_s } => Held::Told {
                    latency: time(latency),
                    jitter: time(jitter),
                    bits_per_s: bits_per_s.map(|rate| self.pace.to_planned_rate(rate)),
                },
            };
            (pair, FrameCounts { held, ..counts })
        });
        planned.collect()
    }

    /// Every directed pair of nodes.
    fn pairs(&self) -> impl Iterator<Item = NodePair> + '_ {
        let indexes = || self.plan.node_indexes();
        indexes().flat_map(move |from| indexes().filter(move |to| *to != from).map(move |to| (from, to)))
    }
}

impl Cluster for MachineCluster {
    fn start(&self, node: NodeIndex) -> BoxFuture<'_, Result<(), ClusterError>> {
        // Whoever was not killed cannot be started, and nobody is to notice.
        let is_sabotaged = self.sabotage == Some(Sabotage::IgnoreKills);
        async move {
            let start = move |machine: &mut dyn Machine| match machine.start() {
                Err(MachineError::Running(_)) if is_sabotaged => Ok(()),
                started => started,
            };
            self.order(node, "starting it", start).await?;
            self.want(node, true);
            Ok(())
        }
        .boxed()
    }

    fn kill(&self, node: NodeIndex) -> BoxFuture<'_, Result<Exit, ClusterError>> {
        self.want(node, false);
        if self.sabotage == Some(Sabotage::IgnoreKills) {
            return futures::future::ready(Ok(Exit::Signal(9))).boxed();
        }
        self.order(node, "killing it", |machine| machine.kill())
    }

    fn cut_power(&self, node: NodeIndex, draw: u32) -> BoxFuture<'_, Result<PowerCut, ClusterError>> {
        self.want(node, false);
        if self.sabotage == Some(Sabotage::IgnorePowerCuts) {
            let spared = |exit| PowerCut { exit, lost: Lost::default() };
            return self.order(node, "killing it", move |machine| machine.kill().map(spared));
        }
        self.order(node, "cutting its power", move |machine| machine.cut_power(draw))
    }

    fn runs(&self, node: NodeIndex) -> BoxFuture<'_, bool> {
        let target = self.nodes[node.position()].clone();
        async move {
            let looked = tokio::task::spawn_blocking(move || lock(&target.machine).runs()).await;
            looked.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
        }
        .boxed()
    }

    fn stop(&self, node: NodeIndex) -> BoxFuture<'_, Result<Exit, ClusterError>> {
        self.want(node, false);
        let limit = self.pace.to_real(NODE_STOP_MAX);
        self.order(node, "stopping it", move |machine| machine.terminate(limit))
    }

    fn pause(&self, node: NodeIndex) -> BoxFuture<'_, Result<(), ClusterError>> {
        if self.sabotage == Some(Sabotage::IgnorePauses) {
            return futures::future::ready(Ok(())).boxed();
        }
        self.order(node, "pausing it", |machine| machine.pause())
    }

    fn resume(&self, node: NodeIndex) -> BoxFuture<'_, Result<(), ClusterError>> {
        self.order(node, "letting it go on", |machine| machine.resume())
    }

    fn suspend(&self, node: NodeIndex) -> BoxFuture<'_, Result<u64, ClusterError>> {
        if self.sabotage == Some(Sabotage::IgnoreSuspends) {
            return futures::future::ready(Ok(0)).boxed();
        }
        self.want(node, false);
        self.order(node, "suspending it", |machine| machine.suspend())
    }

    fn restore(&self, node: NodeIndex) -> BoxFuture<'_, Result<(), ClusterError>> {
        if self.sabotage == Some(Sabotage::IgnoreSuspends) {
            return futures::future::ready(Ok(())).boxed();
        }
        async move {
            self.order(node, "letting it go on from where it was", |machine| machine.restore()).await?;
            self.want(node, true);
            Ok(())
        }
        .boxed()
    }

    fn snapshot(&self, node: NodeIndex) -> BoxFuture<'_, Result<u64, ClusterError>> {
        self.order(node, "saving it", |machine| machine.snapshot())
    }

    fn roll_back(&self, node: NodeIndex) -> BoxFuture<'_, Result<(), ClusterError>> {
        self.want(node, false);
        if self.sabotage == Some(Sabotage::IgnoreRollbacks) {
            return futures::future::ready(Ok(())).boxed();
        }
        self.order(node, "putting it back", |machine| machine.roll_back())
    }

    fn retire(&self, node: NodeIndex) -> BoxFuture<'_, Result<bool, ClusterError>> {
        let limit = self.pace.to_real(RETIRE_MAX);
        self.order(node, "telling it that it was put back", move |machine| machine.retire(limit))
    }

    fn read_clock(&self, node: NodeIndex) -> BoxFuture<'_, Result<ClockReading, ClusterError>> {
        async move {
            let ClockReading { ahead_ms, took } =
                self.order(node, "reading its clock", |machine| machine.read_clock()).await?;
            let ahead_ms = signed_ms(ahead_ms, |real| self.pace.to_planned(real));
            Ok(ClockReading { ahead_ms, took: self.pace.to_planned(took) })
        }
        .boxed()
    }

    fn break_clock(&self, node: NodeIndex, error: ClockError) -> BoxFuture<'_, Result<(), ClusterError>> {
        if self.sabotage == Some(Sabotage::IgnoreClocks) {
            return futures::future::ready(Ok(())).boxed();
        }
        let error = match error {
            ClockError::Step { by_ms } => {
                ClockError::Step { by_ms: signed_ms(by_ms, |planned| self.pace.to_real(planned)) }
            }
            drift @ ClockError::Drift { .. } => drift,
        };
        self.order(node, "making its clock wrong", move |machine| machine.break_clock(error))
    }

    fn mend_clock(&self, node: NodeIndex) -> BoxFuture<'_, Result<Duration, ClusterError>> {
        self.order(node, "making its clock right", |machine| machine.mend_clock())
    }

    fn has_clocks(&self) -> bool {
        self.has_clocks
    }

    fn observe(&self, node: NodeIndex) -> BoxFuture<'_, Result<Vitals, ClusterError>> {
        self.order(node, "observing it", |machine| machine.observe())
    }

    fn footprint(&self, node: NodeIndex) -> BoxFuture<'_, Result<Footprint, ClusterError>> {
        self.order(node, "measuring it", |machine| machine.footprint())
    }

    fn pressure(&self) -> Option<Pressure> {
        Pressure::now()
    }

    fn set_links(
        &self,
        rules: &BTreeMap<NodePair, LinkRule>,
    ) -> Result<BTreeMap<NodePair, FrameCounts>, ClusterError> {
        let rule = |pair: &NodePair| real_rule(rules.get(pair).copied().unwrap_or_default(), self.pace);
        let rules = self.pairs().map(|pair| (link_id(pair), rule(&pair))).collect();
        let counts = self.fabric.set_rules(rules).map_err(|error| fabric("setting its rules", error))?;
        Ok(self.planned(&counts))
    }

    fn frame_counts(&self) -> Result<BTreeMap<NodePair, FrameCounts>, ClusterError> {
        let counts = self.fabric.counts().map_err(|error| fabric("reading its counters", error))?;
        Ok(self.planned(&counts))
    }

    fn fabric(&self) -> FabricKind {
        self.fabric.kind()
    }

    fn probe(
        &self,
        from: NodeIndex,
        to: NodeIndex,
        within: Duration,
    ) -> BoxFuture<'_, Result<Probe, ClusterError>> {
        let prober = self.nodes[from.position()].prober.clone();
        let address = self.probed_address(to);
        let within = self.pace.to_real(within);
        async move {
            let sender = prober.clone();
            let outcome = tokio::task::spawn_blocking(move || sender.probe(address, within));
            match outcome.await {
                Ok(Ok(round_trip)) => Ok(Probe::Answered(self.pace.to_planned(round_trip))),
                Ok(Err(ProbeError::Unanswered { .. })) => Ok(Probe::Unanswered),
                // It was switched off or frozen while its probe was under way.
                Ok(Err(ProbeError::Machine(_))) if !prober.takes_part() => Ok(Probe::Unanswered),
                Ok(Err(error)) => Err(fabric("probing a link", error)),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        .boxed()
    }

    fn takes_part(&self, node: NodeIndex) -> bool {
        self.nodes[node.position()].prober.takes_part()
    }

    fn channel(&self, node: NodeIndex) -> Box<dyn Channel> {
        Box::new(HttpChannel::new(self.plan.nodes[node.position()].http_address(), self.pace))
    }

    fn deaths(&self) -> Vec<(NodeIndex, Exit)> {
        let dead = |node: NodeIndex| {
            let target = &self.nodes[node.position()];
            let is_wanted = *lock(&target.is_wanted);
            // A machine that is being ordered about will be looked at the next time.
            let exit = target.machine.try_lock().ok()?.exited()?;
            is_wanted.then_some((node, exit))
        };
        self.plan.node_indexes().filter_map(dead).collect()
    }

    fn has_lost_hypervisor(&self, node: NodeIndex) -> bool {
        lock(&self.nodes[node.position()].machine).has_lost_hypervisor()
    }

    fn defects(&self) -> Vec<String> {
        let of_fabric = self.fabric.defects(&networks::port_names(&self.plan));
        let of_machines = self.nodes.iter().filter_map(|node| lock(&node.machine).defect());
        of_fabric.into_iter().chain(of_machines).collect()
    }

    fn console_end(&self, node: NodeIndex) -> String {
        lock(&self.nodes[node.position()].machine).console_tail()
    }
}

/// A length of time with a sign, in milliseconds, at another pace.
fn signed_ms(ms: i64, convert: impl Fn(Duration) -> Duration) -> i64 {
    let converted = convert(Duration::from_millis(ms.unsigned_abs())).as_millis();
    i64::try_from(converted).unwrap_or(i64::MAX) * ms.signum()
}

/// A planned rule as the wall sees it.
pub(super) fn real_rule(rule: LinkRule, pace: Pace) -> LinkRule {
    let real = |planned| pace.to_real(planned).min(LINK_DELAY_MAX);
    let bits_per_s = rule.bits_per_s.map(|rate| pace.to_real_rate(rate));
    LinkRule { latency: real(rule.latency), jitter: real(rule.jitter), bits_per_s, ..rule }
}

fn fabric(doing: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> ClusterError {
    ClusterError::Fabric { doing, source: Box::new(error) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("an order to a machine has crashed")
}
