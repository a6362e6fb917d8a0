//! Either fabric, while machines are connected to it and afterwards: what the drivers and the cluster see of both.

use std::collections::BTreeMap;

use super::kernel::{KernelCounters, KernelFabric};
use super::namespace::Namespace;
use super::packet::MachineTap;
use super::switch::{PortSpec, Switch};
use super::tap::{self, TapConfig};
use super::{FabricError, FabricKind, LinkCounters, NetworkPort, NetworkPorts, Port, Sabotage, TapError};
use crate::cluster::{FrameCounts, Held};
use crate::link::{LinkId, LinkRule};
use crate::plan::MacAddress;
use crate::program::ProgramLog;

/// A fabric to which machines are being connected, port by port: on each of its networks those of the nodes, and then the
/// lab's own. Only the links of the first network have rules; all others are perfect.
#[derive(Debug)]
pub enum Wiring {
    /// The switches begin when all ports are there.
    Switch {
        /// All randomness comes from it.
        seed: u64,
        /// What it does not do.
        sabotage: Option<Sabotage>,
        /// The ports so far, network by network.
        networks: Vec<Vec<PortSpec>>,
    },
    /// The kernel's ports wait for their machines.
    Kernel(Box<KernelFabric>),
}

impl Wiring {
    /// A fabric without machines. `networks` says what will be connected, the lab's own ports among them.
    ///
    /// # Errors
    /// The kernel has no such fabric.
    pub fn begin(
        kind: FabricKind,
        seed: u64,
        sabotage: Option<Sabotage>,
        networks: &[NetworkPorts],
        log: &ProgramLog,
    ) -> Result<Self, FabricError> {
        assert!(!networks.is_empty(), "nodes replicate over the first");
        match kind {
            FabricKind::Switch => {
                let networks = networks.iter().map(|_| Vec::new()).collect();
                Ok(Self::Switch { seed, sabotage, networks })
            }
            FabricKind::Kernel => {
                let fabric = KernelFabric::build(seed, sabotage, networks, log.clone())?;
                Ok(Self::Kernel(Box::new(fabric)))
            }
        }
    }

    /// Whether links can have these rules here, in any order and one on the other.
    ///
    /// # Errors
    /// They cannot: which, and why.
    pub fn require(&self, rules: impl IntoIterator<Item = LinkRule>) -> Result<(), FabricError> {
        match self {
            Self::Switch { .. } => Ok(()),
            Self::Kernel(fabric) => Ok(fabric.require(rules)?),
        }
    }

    /// Connects a machine that is a network namespace, with an interface in it.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn connect(
        &mut self,
        port: NetworkPort,
        machine: &Namespace,
        config: &TapConfig,
    ) -> Result<(), FabricError> {
        match self {
            Self::Switch { .. } => self.plug(port, config.mac, Box::new(tap::create(machine, config)?)),
            Self::Kernel(fabric) => fabric.connect(port, machine, config)?,
        }
        Ok(())
    }

    /// The TAP that waits for a machine with a hypervisor, on the kernel's fabric. The switch has none: there a machine brings
    /// its port along, for [`plug`](Self::plug).
    ///
    /// # Errors
    /// Too many open files.
    pub fn tap(&self, port: NetworkPort) -> Result<Option<MachineTap>, TapError> {
        match self {
            Self::Switch { .. } => Ok(None),
            Self::Kernel(fabric) => fabric.tap(port).map(Some),
        }
    }

    /// Connects a machine by its own port, on the switch.
    pub fn plug(&mut self, port: NetworkPort, mac: MacAddress, end: Box<dyn Port>) {
        let Self::Switch { networks, .. } = self else {
            unreachable!("the kernel's fabric has its own ports")
        };
        let ports = &mut networks[port.network];
        assert!(usize::from(port.port.0) == ports.len(), "a port's index is its place in the list");
        ports.push(PortSpec { mac, port: end });
    }

    /// The fabric, when every machine is connected.
    ///
    /// # Errors
    /// The switch does not begin, or a port of the kernel's carries no frames.
    pub fn finish(self) -> Result<Fabric, FabricError> {
        match self {
            Self::Switch { seed, sabotage, networks } => {
                let mut switches = networks.into_iter().map(|ports| Switch::start(seed, sabotage, ports));
                let first = switches.next().expect("there is a first network")?;
                Ok(Fabric::Switch { first, others: switches.collect::<Result<_, _>>()? })
            }
            Self::Kernel(fabric) => {
                fabric.await_ports()?;
                Ok(Fabric::Kernel(fabric))
            }
        }
    }
}

/// A fabric with all its machines.
#[derive(Debug)]
pub enum Fabric {
    /// The lab's own.
    Switch {
        /// The network whose links have rules.
        first: Switch,
        /// The others.
        others: Vec<Switch>,
    },
    /// The kernel's.
    Kernel(Box<KernelFabric>),
}

impl Fabric {
    /// Which of them it is.
    pub fn kind(&self) -> FabricKind {
        match self {
            Self::Switch { .. } => FabricKind::Switch,
            Self::Kernel(_) => FabricKind::Kernel,
        }
    }

    /// Sets rules of the first network, and says what was counted on every link when they took hold.
    ///
    /// # Errors
    /// It does not obey.
    pub fn set_rules(
        &self,
        rules: Vec<(LinkId, LinkRule)>,
    ) -> Result<BTreeMap<LinkId, FrameCounts>, FabricError> {
        match self {
            Self::Switch { first, .. } => Ok(counts(&first.handle().set_rules(rules)?.links)),
            Self::Kernel(fabric) => Ok(counts(&fabric.set_rules(&rules)?.links)),
        }
    }

    /// What was counted on every link of the first network.
    ///
    /// # Errors
    /// It does not answer.
    pub fn counts(&self) -> Result<BTreeMap<LinkId, FrameCounts>, FabricError> {
        match self {
            Self::Switch { first, .. } => Ok(counts(&first.handle().snapshot()?.links)),
            Self::Kernel(fabric) => Ok(counts(&fabric.snapshot()?.links)),
        }
    }

    /// What does not work in it. `networks` has the names of the machines, network by network and port by port.
    pub fn defects(&self, networks: &[Vec<&str>]) -> Vec<String> {
        match self {
            Self::Switch { first, others } => {
                let switches = std::iter::once(first).chain(others);
                switches.zip(networks).flat_map(|(switch, names)| lost_ports(switch, names)).collect()
            }
            Self::Kernel(fabric) => match fabric.snapshot() {
                Err(_) => vec!["the kernel's fabric does not answer".to_owned()],
                Ok(snapshot) if snapshot.unclassified > 0 => {
                    let frames = crate::check::counted(snapshot.unclassified, "frame");
                    vec![format!("{frames} of no machine crossed the kernel's fabric")]
                }
                Ok(_) => Vec::new(),
            },
        }
    }
}

/// The ports that a switch no longer reads.
fn lost_ports(switch: &Switch, names: &[&str]) -> Vec<String> {
    let Ok(snapshot) = switch.handle().snapshot() else {
        return vec!["the switch does not answer".to_owned()];
    };
    let failed = names.iter().zip(&snapshot.ports).filter(|(_, port)| port.failed);
    failed.map(|(name, _)| format!("the switch has lost the port of {name}")).collect()
}

fn counts<C: Copy + Into<FrameCounts>>(links: &BTreeMap<LinkId, C>) -> BTreeMap<LinkId, FrameCounts> {
    links.iter().map(|(link, counters)| (*link, (*counters).into())).collect()
}

impl From<LinkCounters> for FrameCounts {
    fn from(counters: LinkCounters) -> Self {
        Self {
            judged: counters.judged,
            delivered: counters.delivered,
            dropped_cut: counters.dropped_cut,
            dropped_loss: counters.dropped_loss,
            dropped_queue: counters.dropped_queue + counters.dropped_port,
            duplicated: counters.duplicated,
            early: counters.early,
            corrupted: counters.corrupted,
            delivered_bytes: counters.delivered_bytes,
            held: Held::Counted { total: counters.held_total },
        }
    }
}

impl From<KernelCounters> for FrameCounts {
    fn from(counters: KernelCounters) -> Self {
        let LinkRule { latency, jitter, bits_per_s, .. } = counters.in_force;
        Self {
            judged: counters.judged,
            delivered: counters.delivered,
            dropped_cut: counters.dropped_cut,
            dropped_loss: counters.dropped_netem,
            dropped_queue: 0,
            duplicated: counters.duplicated,
            early: counters.early,
            // The kernel counts none.
            corrupted: 0,
            delivered_bytes: counters.delivered_bytes,
            held: Held::Told { latency, jitter, bits_per_s },
        }
    }
}
