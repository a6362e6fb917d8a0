//! The network between the machines: what a port is, what is counted, and the handle by which a run
//! cuts, slows and heals links.
//!
//! The fabric decides nothing by itself: every frame's fate is [`link::fate`](crate::link::fate).
//! It does not route, learn addresses or answer anything: who has which MAC address is known before
//! the first frame.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::{
    FABRIC_PORTS_MAX, IFACE_NAME_BYTES_MAX, LINK_DELAY_MAX, MTU_BYTES, PER_MILLION, SWITCH_ANSWER_MAX,
};
use crate::link::{LinkId, LinkRule, PortIndex};
use crate::plan::MacAddress;

pub mod kernel;
pub mod namespace;
mod netlink;
pub mod packet;
pub mod switch;
pub mod tap;
pub mod wiring;

use self::kernel::{KernelError, PortKind};

/// Which network connects the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FabricKind {
    /// The lab's own: every frame's fate is drawn from the seed, on every host.
    #[default]
    Switch,
    /// The kernel's: a bridge, netem and nftables.
    Kernel,
}

impl FabricKind {
    /// A driver and its fabric in one, where it is not the one that goes without saying.
    pub fn beside(self, driver: &str) -> String {
        match self {
            Self::Switch => driver.to_owned(),
            Self::Kernel => format!("{driver} on the kernel's fabric"),
        }
    }
}

impl fmt::Display for FabricKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Switch => "switch",
            Self::Kernel => "kernel",
        })
    }
}

/// A network before anything is connected to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPorts {
    /// Longest packet, in bytes.
    pub mtu: u32,
    /// What each port has, and what connects it.
    pub ports: Vec<(MacAddress, PortKind)>,
}

impl NetworkPorts {
    /// A network with the usual MTU.
    pub fn usual(ports: impl IntoIterator<Item = (MacAddress, PortKind)>) -> Self {
        Self { mtu: MTU_BYTES, ports: ports.into_iter().collect() }
    }
}

/// A port of one of several networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkPort {
    /// The position of its network.
    pub network: usize,
    /// Its index there.
    pub port: PortIndex,
}

impl NetworkPort {
    /// A port of the first network.
    pub fn first(port: u16) -> Self {
        Self { network: 0, port: PortIndex(port) }
    }
}

/// One socket of the switch: where frames of one machine come from and go to.
///
/// Invariant: the descriptor is non-blocking, and ready to read whenever a frame waits.
pub trait Port: AsFd + Send {
    /// Takes one whole frame.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when none waits; anything else is the end of this port.
    fn recv(&mut self, frame: &mut [u8]) -> io::Result<usize>;

    /// Hands over one whole frame.
    ///
    /// # Errors
    /// The frame was not taken; it is counted as dropped by the port.
    fn send(&mut self, frame: &[u8]) -> io::Result<()>;

    /// Whether an error that is announced, and then not there to be read, is the end of this port or has passed.
    fn outlives_errors(&self) -> bool {
        false
    }
}

impl Port for UnixDatagram {
    fn recv(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        UnixDatagram::recv(self, frame)
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        UnixDatagram::send(self, frame).map(|_bytes| ())
    }
}

/// Frames as datagrams over the loopback interface of the lab's own namespace; the socket is connected. A Unix socket would
/// hold ten of them (`net.unix.max_dgram_qlen`), and what a machine sends at once is more.
impl Port for UdpSocket {
    fn recv(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        UdpSocket::recv(self, frame)
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        UdpSocket::send(self, frame).map(|_bytes| ())
    }

    fn outlives_errors(&self) -> bool {
        // The error of one frame, that nobody took it, may be handed to the sender of the next.
        true
    }
}

/// A fault of the fabric itself, switched on to prove that the receipts notice it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Links that are cut carry frames as if they were not.
    IgnoreCuts,
    /// Slow links carry frames at once.
    IgnoreLatency,
    /// Lossy links lose nothing.
    IgnoreLoss,
}

impl Sabotage {
    /// What is left of a rule.
    pub(crate) fn of(self, rule: LinkRule) -> LinkRule {
        match self {
            Self::IgnoreCuts => LinkRule { cut: false, ..rule },
            Self::IgnoreLatency => LinkRule { latency: Duration::ZERO, jitter: Duration::ZERO, ..rule },
            Self::IgnoreLoss => LinkRule { loss_per_million: 0, ..rule },
        }
    }
}

/// What one directed link did so far.
///
/// `judged` and `duplicated` together are the sum of `delivered`, everything dropped and `in_flight`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkCounters {
    /// Frames that came to this link.
    pub judged: u64,
    /// Frames that the receiving port took.
    pub delivered: u64,
    /// Frames dropped by a cut, those in flight when it happened among them.
    pub dropped_cut: u64,
    /// Frames dropped by the loss rule.
    pub dropped_loss: u64,
    /// Frames dropped because the link or the switch held as many as it may.
    pub dropped_queue: u64,
    /// Frames that the receiving port refused.
    pub dropped_port: u64,
    /// Copies of frames that came to this link.
    pub duplicated: u64,
    /// Frames that overtook those under way.
    pub early: u64,
    /// Frames of which a bit was turned.
    pub corrupted: u64,
    /// Frames on their way.
    pub in_flight: u64,
    /// Bytes of the delivered frames.
    pub delivered_bytes: u64,
    /// Sum of the times that the delivered frames were held.
    pub held_total: Duration,
    /// Largest time by which a frame was delivered after it was due: what the host's load added.
    pub late_max: Duration,
}

impl LinkCounters {
    /// What happened since `earlier`, a reading of the same link. `in_flight` and `late_max` are those
    /// of now.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            judged: self.judged - earlier.judged,
            delivered: self.delivered - earlier.delivered,
            dropped_cut: self.dropped_cut - earlier.dropped_cut,
            dropped_loss: self.dropped_loss - earlier.dropped_loss,
            dropped_queue: self.dropped_queue - earlier.dropped_queue,
            dropped_port: self.dropped_port - earlier.dropped_port,
            duplicated: self.duplicated - earlier.duplicated,
            early: self.early - earlier.early,
            corrupted: self.corrupted - earlier.corrupted,
            in_flight: self.in_flight,
            delivered_bytes: self.delivered_bytes - earlier.delivered_bytes,
            held_total: self.held_total.saturating_sub(earlier.held_total),
            late_max: self.late_max,
        }
    }

    /// Mean time that a delivered frame was held, if there was one.
    pub fn held_mean(&self) -> Option<Duration> {
        let held_ns = self.held_total.as_nanos().checked_div(u128::from(self.delivered))?;
        u64::try_from(held_ns).ok().map(Duration::from_nanos)
    }
}

/// What one port did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PortCounters {
    /// Frames taken from the port.
    pub received: u64,
    /// Frames with a source address that is not the port's: dropped before any link saw them.
    pub dropped_source: u64,
    /// Frames to an address that no other port has.
    pub dropped_unknown: u64,
    /// Frames shorter or longer than a frame may be.
    pub dropped_malformed: u64,
    /// The port ended with an error and is no longer read.
    pub failed: bool,
}

/// All counters at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Every directed link.
    pub links: BTreeMap<LinkId, LinkCounters>,
    /// Every port, by its index.
    pub ports: Vec<PortCounters>,
}

impl Snapshot {
    /// The counters of one link; of a link that does not exist, zeros.
    pub fn link(&self, link: LinkId) -> LinkCounters {
        self.links.get(&link).copied().unwrap_or_default()
    }
}

/// Whether a fabric of so many ports has the link.
fn check_link(link: LinkId, ports_count: usize) -> Result<(), FabricError> {
    let is_port = |port: PortIndex| usize::from(port.0) < ports_count;
    if link.from == link.to || !is_port(link.from) || !is_port(link.to) {
        return Err(FabricError::UnknownLink(link));
    }
    Ok(())
}

/// Whether a link can have this rule.
fn check_rule(rule: &LinkRule) -> Result<(), FabricError> {
    let shares = [
        rule.loss_per_million,
        rule.duplicate_per_million,
        rule.reorder_per_million,
        rule.corrupt_per_million,
    ];
    if let Some(share) = shares.into_iter().find(|share| *share > PER_MILLION) {
        return Err(FabricError::Share(share));
    }
    if rule.bits_per_s == Some(0) {
        return Err(FabricError::Rate);
    }
    for delay in [rule.latency, rule.jitter] {
        if delay > LINK_DELAY_MAX {
            return Err(FabricError::Delay(delay));
        }
    }
    Ok(())
}

/// Why the fabric could not be built or did not obey.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    /// Too few or too many ports.
    #[error("a switch of {0} ports, 1 to {FABRIC_PORTS_MAX} are allowed")]
    PortCount(usize),
    /// Two ports with one address, or an address of a group.
    #[error("port {port} has the mac address {mac}, which is a group's or another port's")]
    Mac {
        /// Index of the second port.
        port: usize,
        /// The address.
        mac: MacAddress,
    },
    /// A machine's interface.
    #[error(transparent)]
    Device(#[from] TapError),
    /// The switch has no such link.
    #[error("no link from port {} to port {}", .0.from.0, .0.to.0)]
    UnknownLink(LinkId),
    /// A probability above one.
    #[error("a share of {0} per million, 0 to {PER_MILLION} are allowed")]
    Share(u32),
    /// A rate at which nothing passes.
    #[error("a rate of 0, at least 1 bit per second is needed: a cut is no rate")]
    Rate,
    /// A latency or a jitter beyond reason.
    #[error("a delay of {0:?}, at most {LINK_DELAY_MAX:?} is allowed")]
    Delay(Duration),
    /// The operating system refused something that the switch needs.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Something that the kernel does and does not count.
    #[error(
        "the kernel does not count what `{0}` does to frames, so that it would leave no receipt: take --fabric switch"
    )]
    Uncounted(&'static str),
    /// The kernel's fabric.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The switch thread has ended.
    #[error("the switch has stopped")]
    Stopped,
    /// The switch thread does not answer.
    #[error("the switch did not answer within {SWITCH_ANSWER_MAX:?}: this host is overloaded")]
    NoAnswer,
}

/// Why a network device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name does not fit the kernel's.
    #[error("interface name {0:?} has more than {IFACE_NAME_BYTES_MAX} bytes or is empty")]
    Name(String),
    /// `/dev/net/tun` is missing or may not be opened, or the namespace does not allow a device.
    #[error("cannot make the tap {name} with /dev/net/tun")]
    Create {
        /// The interface.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel refused a setting.
    #[error("{doing} of interface {name}")]
    Netlink {
        /// What was being done.
        doing: &'static str,
        /// The interface.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A namespace, thread or socket could not be had.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}
