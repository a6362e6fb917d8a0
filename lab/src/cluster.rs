//! What the runner sees of every driver: nodes that start, stand still and die, links that suffer, requests that are answered, and
//! a clock. It names no driver.

pub mod http;
pub mod pace;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use self::pace::Pace;
use crate::fabric::FabricKind;
use crate::limits::machines::SLOWDOWN_MAX;
use crate::link::{LinkId, LinkRule};
use crate::plan::{ClockError, NodeIndex};
use crate::pressure::Pressure;
use crate::program::Exit;
use crate::volume::Lost;

/// The time of a run. The simulation has its own.
pub trait Clock: Debug + Send + Sync {
    /// Time since the clock was made. Never goes back.
    fn now(&self) -> Duration;

    /// Resolves when [`Self::now`] has reached `due`.
    fn sleep_until(&self, due: Duration) -> BoxFuture<'static, ()>;

    /// Resolves after `wait`.
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.now() + wait)
    }
}

/// The clock of drivers that run in real time: tokio's, which is monotonic, at the pace of the machines.
#[derive(Debug, Clone)]
pub struct RealClock {
    origin: tokio::time::Instant,
    pace: Pace,
}

impl RealClock {
    /// A clock that starts now.
    pub fn start(pace: Pace) -> Self {
        Self { origin: tokio::time::Instant::now(), pace }
    }
}

impl Clock for RealClock {
    fn now(&self) -> Duration {
        self.pace.to_planned(self.origin.elapsed())
    }

    fn sleep_until(&self, due: Duration) -> BoxFuture<'static, ()> {
        // What is rounded down must not come early.
        let due = self.pace.to_real(due).saturating_add(Duration::from_nanos(u64::from(SLOWDOWN_MAX)));
        match self.origin.checked_add(due) {
            Some(due) => Box::pin(tokio::time::sleep_until(due)),
            None => Box::pin(futures::future::pending()),
        }
    }
}

/// A directed link between two nodes.
pub type NodePair = (NodeIndex, NodeIndex);

/// Frames of one directed link, since the fabric began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameCounts {
    /// Frames that wanted to cross.
    pub judged: u64,
    /// Frames that were handed to the receiver.
    pub delivered: u64,
    /// Frames that a cut has swallowed.
    pub dropped_cut: u64,
    /// Frames that were lost by the link's loss.
    pub dropped_loss: u64,
    /// Frames for which a queue had no place, or that the receiver did not take, where the fabric counts them apart.
    pub dropped_queue: u64,
    /// Copies of frames.
    pub duplicated: u64,
    /// Frames that overtook those under way.
    pub early: u64,
    /// Frames of which a bit was turned, where the fabric counts them.
    pub corrupted: u64,
    /// Bytes of the delivered frames.
    pub delivered_bytes: u64,
    /// For how long frames are held.
    pub held: Held,
}

/// What a fabric knows of the time for which it holds the frames of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Held {
    /// It has measured each delivered frame.
    Counted {
        /// The sum of all.
        total: Duration,
    },
    /// It measures none, and says for how long it was told to hold them.
    Told {
        /// Time that a frame takes.
        latency: Duration,
        /// Largest deviation from that.
        jitter: Duration,
        /// Bits that pass in a second, if that is limited.
        bits_per_s: Option<u64>,
    },
}

impl Default for Held {
    fn default() -> Self {
        Self::Counted { total: Duration::ZERO }
    }
}

/// The directed link between two nodes as the link model knows it, whatever the driver: by their positions. Frames are
/// numbered by [`FrameCounts::judged`], so that the fate of each can be told afterwards.
pub fn link_id((from, to): NodePair) -> LinkId {
    LinkId::new(from.0, to.0)
}

/// What the host sees of a node that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    /// Whether it is frozen.
    pub is_paused: bool,
    /// Processor time that it has used since its start, in clock ticks of the host, not of the plan. A paused node uses none.
    pub cpu_ticks: u64,
}

/// What a node takes of its host. Times are real ones, not those of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// The most memory that its process has had in use, in bytes (`VmHWM`, proc(5)).
    pub memory_bytes: u64,
    /// How it came up, where it is a machine.
    pub boot: Option<Boot>,
}

/// The parts of a machine's boot, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// From the start of the hypervisor to that of the machine's clock, and until its console was looked at.
    pub hypervisor_ms: u64,
    /// To the first instruction of the appliance.
    pub kernel_ms: u64,
    /// Until its network was up.
    pub init_ms: u64,
    /// Until its data disk was ready.
    pub disk_ms: u64,
    /// From the start of the node to its first answer.
    pub node_ms: u64,
}

impl Boot {
    /// All of it, in milliseconds.
    pub fn total_ms(&self) -> u64 {
        self.hypervisor_ms + self.kernel_ms + self.init_ms + self.disk_ms + self.node_ms
    }
}

/// What a power cut did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PowerCut {
    /// How the node ended.
    pub exit: Exit,
    /// What its disk lost.
    pub lost: Lost,
}

/// What a clock said when it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// How far it was ahead of the host's, in milliseconds; negative when behind.
    pub ahead_ms: i64,
    /// How long the asking took: it may be off by half of that.
    pub took: Duration,
}

/// What a probe from one node's place in the network to another's found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// The other answered after this round trip.
    Answered(Duration),
    /// Nothing came back in time.
    Unanswered,
}

/// Why a driver could not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A node's program.
    #[error("node {name}: {doing}")]
    Node {
        /// Which node.
        name: String,
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The network.
    #[error("the network: {doing}")]
    Fabric {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A cluster under test. Every time that it takes or gives is planned time, told by the clock that came with it.
pub trait Cluster: Debug + Send + Sync {
    /// Starts a node that does not run; returns without waiting until it serves.
    ///
    /// # Errors
    /// The program or machine cannot be started.
    fn start(&self, node: NodeIndex) -> BoxFuture<'_, Result<(), ClusterError>>;

    /// Ends a node without warning, and says how it ended.
    ///
    /// # Errors
    /// It could not be ended, or does not run.
    fn kill(&self, node: NodeIndex) -> BoxFuture<'_, Result<Exit, ClusterError>>;

    /// Ends a node without warning, and has its disk lose what was not synced, or a part of it that `draw` decides.
    ///
    /// # Errors
    /// As [`kill`](Self::kill); its disk is none that loses anything.
    fn cut_power(&self, node: NodeIndex, draw: u32) -> BoxFuture<'_, Result<PowerCut, ClusterError>>;

    /// Whether the host sees a node's process.
    fn runs(&self, node: NodeIndex) -> BoxFuture<'_, bool>;

    /// Asks a node to stop, and says how it ended.
    ///
    /// # Errors
    /// It does not run, or did not stop within its bound.
    fn stop(&self, node: NodeIndex) -> BoxFuture<'_, Result<Exit, ClusterError>>;

    /// Freezes a node; returns once it stands still.
    ///
    /// # Errors
    /// It does not run, or does not stand still.
    fn pause(&self, node: NodeIndex) -> BoxFuture<'_, Result<(), ClusterError>>;

    /// Lets a node go on; returns once it does.
    ///
    /// # Errors
    /// It does not run, or does not go on.
    fn resume(&self, node: NodeIndex) -> BoxFuture<'_, Result<(), ClusterError>>;

    /// Saves what is in a node's memory and ends its machine; the bytes that were written.
    ///
    /// # Errors
    /// It does not run, has no machine of its own, or that does not obey.
    fn suspend(&self, node: NodeIndex) -> BoxFuture<'_, Result<u64, ClusterError>>;

    /// Lets a node that was suspended go on from where it was; returns once it does.
    ///
    /// # Errors
    /// It was not suspended, or its machine does not start.
    fn restore(&self, node: NodeIndex) -> BoxFuture<'_, Result<(), ClusterError>>;

    /// Saves a node's memory and disk, during which it stands still, and lets it go on; the bytes that were written of its memory.
    ///
    /// # Errors
    /// As [`suspend`](Self::suspend).
    fn snapshot(&self, node: NodeIndex) -> BoxFuture<'_, Result<u64, ClusterError>>;

    /// Puts a node's machine back to its snapshot; returns once it goes on from there.
    ///
    /// # Errors
    /// There is none, or its machine does not start.
    fn roll_back(&self, node: NodeIndex) -> BoxFuture<'_, Result<(), ClusterError>>;

    /// Tells a node's machine that it was rolled back, and waits until it has gone off for good; whether it said that this is why.
    ///
    /// # Errors
    /// It does not obey.
    fn retire(&self, node: NodeIndex) -> BoxFuture<'_, Result<bool, ClusterError>>;

    /// Reads the time of day of a node.
    ///
    /// # Errors
    /// It does not answer, or has no clock of its own.
    fn read_clock(&self, node: NodeIndex) -> BoxFuture<'_, Result<ClockReading, ClusterError>>;

    /// Makes a node's clocks wrong.
    ///
    /// # Errors
    /// As [`read_clock`](Self::read_clock).
    fn break_clock(&self, node: NodeIndex, error: ClockError) -> BoxFuture<'_, Result<(), ClusterError>>;

    /// Makes a node's clocks right, and returns how long that took: they may be behind by so much.
    ///
    /// # Errors
    /// As [`read_clock`](Self::read_clock).
    fn mend_clock(&self, node: NodeIndex) -> BoxFuture<'_, Result<Duration, ClusterError>>;

    /// Whether every node has clocks of its own, that may be wrong.
    fn has_clocks(&self) -> bool;

    /// What the host sees of a node.
    ///
    /// # Errors
    /// It does not run.
    fn observe(&self, node: NodeIndex) -> BoxFuture<'_, Result<Vitals, ClusterError>>;

    /// What a node takes of its host.
    ///
    /// # Errors
    /// It does not run.
    fn footprint(&self, node: NodeIndex) -> BoxFuture<'_, Result<Footprint, ClusterError>>;

    /// How much the processors of its host are waited for; `None`: it has none, or its kernel does not count.
    fn pressure(&self) -> Option<Pressure>;

    /// Sets the rules of these directed links and makes all others perfect; the frames of every link when that took hold.
    ///
    /// # Errors
    /// The fabric does not obey.
    fn set_links(
        &self,
        rules: &BTreeMap<NodePair, LinkRule>,
    ) -> Result<BTreeMap<NodePair, FrameCounts>, ClusterError>;

    /// The frames of every directed link between nodes.
    ///
    /// # Errors
    /// The fabric does not answer.
    fn frame_counts(&self) -> Result<BTreeMap<NodePair, FrameCounts>, ClusterError>;

    /// Which fabric connects the nodes: what it leaves as a receipt.
    fn fabric(&self) -> FabricKind;

    /// Tries to reach one node from another's place in the network, and waits so long for the answer.
    ///
    /// # Errors
    /// The attempt could not be made, so it says nothing.
    fn probe(
        &self,
        from: NodeIndex,
        to: NodeIndex,
        within: Duration,
    ) -> BoxFuture<'_, Result<Probe, ClusterError>>;

    /// Whether a node's place in the network sends and answers probes now, so that they say something about links. A process
    /// that was killed leaves its place behind; a virtual machine that is off, boots or stands still has none.
    fn takes_part(&self, node: NodeIndex) -> bool;

    /// A way for requests to a node, over the lab's own port of the fabric.
    fn channel(&self, node: NodeIndex) -> Box<dyn Channel>;

    /// Nodes that have ended by themselves since they were started, and how.
    fn deaths(&self) -> Vec<(NodeIndex, Exit)>;

    /// Whether it was the hypervisor of such a node that has ended, which says nothing of the node.
    fn has_lost_hypervisor(&self, _node: NodeIndex) -> bool {
        false
    }

    /// What does not work in the driver itself, so that a run on it cannot be judged.
    fn defects(&self) -> Vec<String>;

    /// The last lines that a node has printed.
    fn console_end(&self, node: NodeIndex) -> String;
}

/// A request to a node's HTTP interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET` without a body, `POST` with one.
    pub body: Option<String>,
    /// Path and query.
    pub path: String,
}

impl Request {
    /// Asks for a path.
    pub fn get(path: impl Into<String>) -> Self {
        Self { body: None, path: path.into() }
    }

    /// Sends JSON to a path.
    pub fn post(path: impl Into<String>, body: &serde_json::Value) -> Self {
        Self { body: Some(body.to_string()), path: path.into() }
    }
}

/// What a node answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// HTTP's status code.
    pub status: u16,
    /// The JSON; other text as a string of it.
    pub body: serde_json::Value,
}

impl Response {
    /// An answer of these bytes.
    pub fn new(status: u16, body: &[u8]) -> Self {
        let text = || serde_json::Value::String(String::from_utf8_lossy(body).into_owned());
        Self { status, body: serde_json::from_slice(body).unwrap_or_else(|_| text()) }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The node has not seen the request.
    #[error("not connected: {0}")]
    NotSent(String),
    /// The node may have seen it.
    #[error("no answer: {0}")]
    Lost(String),
}

/// One client's connection to one node: made when needed, kept while it works.
pub trait Channel: Send {
    /// Sends a request and waits for its answer, at most `within`.
    fn request(
        &mut self,
        request: Request,
        within: Duration,
    ) -> BoxFuture<'_, Result<Response, RequestError>>;
}
