//! A [`Cluster`] of machines on the switch: names, addresses and keys from the plan, files below the run directory.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aspen_node::cluster::identity::{Identity, IdentityError};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::probe::probe;
use super::process::ProcessMachine;
use super::{Machine, MachineError, ProbeError, Sabotage};
use crate::cluster::http::HttpChannel;
use crate::cluster::{Channel, Cluster, ClusterError, FrameCounts, NodePair, Probe, Vitals, link_id};
use crate::fabric::namespace::Namespace;
use crate::fabric::switch::{PortSpec, Switch, SwitchHandle};
use crate::fabric::tap::{self, TapConfig};
use crate::fabric::{FabricError, LinkCounters, Snapshot, TapError};
use crate::limits::NODE_STOP_MAX;
use crate::link::LinkRule;
use crate::plan::{MacAddress, NodeIndex, Plan, PlannedNode};
use crate::program::{Exit, Program, ProgramError, ProgramLog};

/// What runs as a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeProgram {
    /// The lab's own program, in the part of a node: the versions cannot differ.
    Own,
    /// Another program.
    Path(PathBuf),
}

/// Nodes as processes on a switch.
pub struct ProcessCluster {
    plan: Arc<Plan>,
    nodes: Vec<Arc<Node>>,
    handle: SwitchHandle,
    sabotage: Option<Sabotage>,
    /// Carries frames as long as the cluster lives.
    _switch: Switch,
}

struct Node {
    machine: Mutex<ProcessMachine>,
    /// Where probes from this node start.
    namespace: Namespace,
    /// Whether it should be running.
    is_wanted: Mutex<bool>,
}

impl Debug for ProcessCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessCluster").field("nodes", &self.nodes.len()).finish_non_exhaustive()
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
    /// The log of programs.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The lab's own interface.
    #[error("the lab's own port")]
    Tap(#[from] TapError),
    /// The switch.
    #[error("the switch")]
    Fabric(#[from] FabricError),
}

impl ProcessCluster {
    /// Makes every machine's directory, configuration and network. No node is started.
    ///
    /// # Errors
    /// A file, interface or namespace that cannot be made.
    pub fn set_up(
        plan: Arc<Plan>,
        program: &NodeProgram,
        directory: &Path,
        sabotage: Option<Sabotage>,
    ) -> Result<Self, SetUpError> {
        let log = ProgramLog::open(&directory.join("programs.log"))?;
        let mut nodes = Vec::new();
        let mut ports: Vec<PortSpec> = Vec::new();
        for node in &plan.nodes {
            let home = directory.join("nodes").join(&node.name);
            let config = write_node_files(&plan, node, &home)?;
            let command = command(program, &config);
            let console = home.join("console.log");
            let tap = tap_config(&plan, "eth0", node.mac, node.ip);
            let (machine, port) = ProcessMachine::new(&node.name, command, console, log.clone(), &tap)?;
            ports.push(PortSpec { mac: node.mac, port: Box::new(port) });
            let namespace = machine.namespace().try_clone()?;
            let machine = Mutex::new(machine);
            nodes.push(Arc::new(Node { machine, namespace, is_wanted: Mutex::new(false) }));
        }
        // The lab is one more port of the fabric, after the nodes': so that a node's port has the node's position.
        let own = tap_config(&plan, &plan.lab.iface, plan.lab.mac, plan.lab.ip);
        let port = tap::create(&Namespace::current()?, &own)?;
        ports.push(PortSpec { mac: plan.lab.mac, port: Box::new(port) });
        let fabric_sabotage = match sabotage {
            Some(Sabotage::Fabric(sabotage)) => Some(sabotage),
            Some(Sabotage::IgnorePauses | Sabotage::IgnoreKills) | None => None,
        };
        let switch = Switch::start(plan.seed, fabric_sabotage, ports)?;
        Ok(Self { plan, nodes, handle: switch.handle(), sabotage, _switch: switch })
    }

    fn name(&self, node: NodeIndex) -> String {
        self.plan.nodes[node.position()].name.clone()
    }

    /// Runs a blocking order to a machine off the async threads.
    fn order<T: Send + 'static>(
        &self,
        node: NodeIndex,
        doing: &'static str,
        work: impl FnOnce(&mut ProcessMachine) -> Result<T, MachineError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, ClusterError>> {
        let target = self.nodes[node.position()].clone();
        async move {
            let done = tokio::task::spawn_blocking(move || work(&mut lock(&target.machine))).await;
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

    fn address(&self, node: NodeIndex) -> SocketAddr {
        let node = &self.plan.nodes[node.position()];
        SocketAddr::from((node.ip, node.http_port))
    }

    fn counts(&self, snapshot: &Snapshot) -> BTreeMap<NodePair, FrameCounts> {
        let counts = self.pairs().map(|pair| {
            let LinkCounters { judged, delivered, dropped_cut, dropped_loss, held_total, .. } =
                snapshot.link(link_id(pair));
            (pair, FrameCounts { judged, delivered, dropped_cut, dropped_loss, held_total })
        });
        counts.collect()
    }

    /// Every directed pair of nodes.
    fn pairs(&self) -> impl Iterator<Item = NodePair> + '_ {
        let indexes = || self.plan.node_indexes();
        indexes().flat_map(move |from| indexes().filter(move |to| *to != from).map(move |to| (from, to)))
    }
}

impl Cluster for ProcessCluster {
    fn start(&self, node: NodeIndex) -> BoxFuture<'_, Result<(), ClusterError>> {
        // Whoever was not killed cannot be started, and nobody is to notice.
        let is_sabotaged = self.sabotage == Some(Sabotage::IgnoreKills);
        async move {
            let start = move |machine: &mut ProcessMachine| match machine.start() {
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
        self.order(node, "killing it", Machine::kill)
    }

    fn stop(&self, node: NodeIndex) -> BoxFuture<'_, Result<Exit, ClusterError>> {
        self.want(node, false);
        self.order(node, "stopping it", |machine| machine.terminate(NODE_STOP_MAX))
    }

    fn pause(&self, node: NodeIndex) -> BoxFuture<'_, Result<(), ClusterError>> {
        if self.sabotage == Some(Sabotage::IgnorePauses) {
            return futures::future::ready(Ok(())).boxed();
        }
        self.order(node, "pausing it", Machine::pause)
    }

    fn resume(&self, node: NodeIndex) -> BoxFuture<'_, Result<(), ClusterError>> {
        self.order(node, "letting it go on", Machine::resume)
    }

    fn observe(&self, node: NodeIndex) -> BoxFuture<'_, Result<Vitals, ClusterError>> {
        self.order(node, "observing it", |machine| machine.observe())
    }

    fn set_links(
        &self,
        rules: &BTreeMap<NodePair, LinkRule>,
    ) -> Result<BTreeMap<NodePair, FrameCounts>, ClusterError> {
        let rule = |pair: &NodePair| rules.get(pair).copied().unwrap_or_default();
        let rules = self.pairs().map(|pair| (link_id(pair), rule(&pair))).collect();
        let snapshot = self.handle.set_rules(rules).map_err(|error| fabric("setting its rules", error))?;
        Ok(self.counts(&snapshot))
    }

    fn frame_counts(&self) -> Result<BTreeMap<NodePair, FrameCounts>, ClusterError> {
        let snapshot = self.handle.snapshot().map_err(|error| fabric("reading its counters", error))?;
        Ok(self.counts(&snapshot))
    }

    fn probe(
        &self,
        from: NodeIndex,
        to: NodeIndex,
        within: Duration,
    ) -> BoxFuture<'_, Result<Probe, ClusterError>> {
        let source = self.nodes[from.position()].clone();
        let address = self.address(to);
        async move {
            let probed = tokio::task::spawn_blocking(move || {
                // A machine that is being ordered about keeps its namespace.
                probe(&source.namespace, address, within)
            });
            match probed.await {
                Ok(Ok(round_trip)) => Ok(Probe::Answered(round_trip)),
                Ok(Err(ProbeError::Unanswered { .. })) => Ok(Probe::Unanswered),
                Ok(Err(error)) => Err(fabric("probing a link", error)),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        .boxed()
    }

    fn channel(&self, node: NodeIndex) -> Box<dyn Channel> {
        Box::new(HttpChannel::new(self.address(node)))
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

    fn defects(&self) -> Vec<String> {
        let Ok(snapshot) = self.handle.snapshot() else {
            return vec!["the switch does not answer".to_owned()];
        };
        let names = self.plan.nodes.iter().map(|node| node.name.as_str()).chain(["the lab"]);
        let failed = names.zip(&snapshot.ports).filter(|(_, port)| port.failed);
        failed.map(|(name, _)| format!("the switch has lost the port of {name}")).collect()
    }

    fn console_end(&self, node: NodeIndex) -> String {
        lock(&self.nodes[node.position()].machine).console_tail()
    }
}

/// The node's directory with its key and node.toml; the path of the latter.
fn write_node_files(plan: &Plan, node: &PlannedNode, home: &Path) -> Result<PathBuf, SetUpError> {
    let data = home.join("data");
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&data);
    made.map_err(|source| SetUpError::Io { path: data.clone(), source })?;
    Identity::from_secret(node.secret_key_seed.0).store(&data)?;
    let config = home.join("node.toml");
    fs::write(&config, node_toml(plan, node, &data))
        .map_err(|source| SetUpError::Io { path: config.clone(), source })?;
    Ok(config)
}

fn node_toml(plan: &Plan, node: &PlannedNode, data: &Path) -> String {
    use std::fmt::Write;
    let raft = &plan.raft;
    let mut text = format!(
        "id = {}\ndata_dir = {}\nraft_listen = \"{}:{}\"\nhttp_listen = \"{}:{}\"\n\
         heartbeat_ms = {}\nelection_ms_min = {}\nelection_ms_max = {}\n",
        node.raft_id,
        // JSON's strings are TOML's, too.
        serde_json::Value::from(data.to_string_lossy()),
        node.ip,
        node.raft_port,
        node.ip,
        node.http_port,
        raft.heartbeat_ms,
        raft.election_ms_min,
        raft.election_ms_max,
    );
    for peer in &plan.nodes {
        let endpoint_id = Identity::from_secret(peer.secret_key_seed.0).endpoint_id();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n[[peers]]\nid = {}\nendpoint_id = \"{endpoint_id}\"\nraft = \"{}:{}\"\nhttp = \"{}:{}\"\n",
            peer.raft_id, peer.ip, peer.raft_port, peer.ip, peer.http_port,
        );
    }
    text
}

fn command(program: &NodeProgram, config: &Path) -> Program {
    let base = match program {
        NodeProgram::Own => Program::new("/proc/self/exe").arg(crate::cli::NODE_PART),
        NodeProgram::Path(path) => Program::new(path),
    };
    let command = base.arg("--config").arg(config);
    // The lab's own ASPEN_ variables are meant for its nodes.
    std::env::vars_os()
        .filter(|(name, _)| name.to_string_lossy().starts_with("ASPEN_"))
        .fold(command, |command, (name, value)| command.env(name, value))
}

fn tap_config(plan: &Plan, name: &str, mac: MacAddress, address: std::net::Ipv4Addr) -> TapConfig {
    let nodes = plan.nodes.iter().map(|node| (node.ip, node.mac));
    let everybody = nodes.chain([(plan.lab.ip, plan.lab.mac)]);
    TapConfig {
        name: name.to_owned(),
        mac,
        address,
        prefix_bits: plan.network.prefix,
        neighbours: everybody.filter(|(ip, _)| *ip != address).collect(),
    }
}

fn fabric(doing: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> ClusterError {
    ClusterError::Fabric { doing, source: Box::new(error) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("an order to a machine has crashed")
}
