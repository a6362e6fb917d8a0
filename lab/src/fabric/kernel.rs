//! The fabric that the kernel is: one bridge, a port for every machine, on each port a class for every sender with a netem in
//! it, and a set of links that nftables cuts. It is for line rate, and to test against what production uses.
//!
//! A frame goes from its sender's port over the bridge, where it is dropped if its link is cut, to the queue of its class on
//! the receiver's port. The kernel draws by itself which frames are lost; what it counts is read back, and so is what it
//! was told. Nothing of it is in anybody's way: it lives in a network namespace of its own and ends with it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rtnetlink::Handle;

mod build;
mod change;
mod devices;
mod nft;
mod offload;
mod part;
mod reading;
mod steer;
mod tally;
mod tc;

pub use self::nft::NftError;
pub use self::part::Part;
pub use self::tally::KernelCounters;

use self::build::make;
use self::devices::{port_name, port_name_in};
use self::nft::{Copying, Nft, Way};
use self::reading::Reading;
use self::tally::{Seen, Tally};
use super::namespace::Namespace;
use super::netlink::with_netlink;
use super::packet::MachineTap;
use super::tap::{self, TapConfig};
use super::{NetworkPort, NetworkPorts, Sabotage, TapError, check_link, check_rule};
use crate::limits::fabric::{NETEM_JITTER_MAX, PORT_UP_MAX};
use crate::limits::{FABRIC_PORTS_MAX, PER_MILLION, POLL_INTERVAL};
use crate::link::{LinkId, LinkRule};
use crate::plan::MacAddress;
use crate::program::ProgramLog;

/// What a machine has to be connected with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortKind {
    /// A pair of interfaces, of which one goes into the machine's network namespace.
    Veth,
    /// A TAP, whose descriptor a hypervisor is started with.
    Tap,
}

/// Why there is no kernel fabric, or why it does not obey.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// This host lacks something that it is made of.
    #[error("this host has no {part}; {}", .part.remedy())]
    Lacks {
        /// What it lacks.
        part: Part,
        /// The host's answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An interface or a namespace.
    #[error(transparent)]
    Device(#[from] TapError),
    /// The rules.
    #[error("the rules of the bridge")]
    Nft(#[from] NftError),
    /// A port of the bridge.
    #[error("{0} of the bridge carries no frames {PORT_UP_MAX:?} after both its ends were set up")]
    Down(String),
    /// A rule that the kernel cannot be told.
    #[error(
        "a jitter of {0:?}, and netem draws at most {NETEM_JITTER_MAX:?}: make it smaller, or take --fabric switch"
    )]
    Jitter(Duration),
    /// The kernel was told, and does something else.
    #[error("link {} to {} was told {asked:?}, and the kernel says {found:?}", .link.from.0, .link.to.0)]
    NotInForce {
        /// Which link.
        link: LinkId,
        /// What it was told.
        asked: Box<LinkRule>,
        /// What it says.
        found: Box<LinkRule>,
    },
}

impl KernelError {
    /// Whether there cannot be such a fabric here, as opposed to the fabric having failed.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Lacks { .. } | Self::Jitter(_))
    }
}

/// All counters of the kernel's, at one instant or nearly so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KernelSnapshot {
    /// Every directed link.
    pub links: BTreeMap<LinkId, KernelCounters>,
    /// Frames that went to a machine without having a class: there are none, or something is wrong.
    pub unclassified: u64,
}

impl KernelSnapshot {
    /// The counters of one link; of a link that does not exist, zeros.
    pub fn link(&self, link: LinkId) -> KernelCounters {
        self.links.get(&link).copied().unwrap_or_default()
    }
}

/// The running fabric. Dropping it takes everything away, but for what is in the namespaces of machines.
#[derive(Debug)]
pub struct KernelFabric {
    namespace: Namespace,
    ports: Vec<KernelPort>,
    /// Those of the networks whose links have no rules.
    others: Vec<Vec<KernelPort>>,
    nft: Nft,
    seed: u64,
    sabotage: Option<Sabotage>,
    /// Whether links can be slow and lossy here; otherwise they are whole or cut.
    has_netem: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct KernelPort {
    /// The interface, by which the kernel's answers name it.
    index: u32,
    mac: MacAddress,
    /// What its hypervisor is started with.
    tap: Option<Arc<OwnedFd>>,
}

#[derive(Debug, Default)]
struct State {
    /// Invariant: one for each link.
    links: BTreeMap<LinkId, LinkState>,
}

#[derive(Debug, Default)]
struct LinkState {
    /// What it was told last.
    rule: LinkRule,
    /// What netem was told last: it is told nothing more while the link is cut.
    shaped: LinkRule,
    /// Which of its two numbers its netem has.
    turn: bool,
    /// How often its netem was told something, so that no two draw alike.
    changes_count: u64,
    tally: Tally,
}

impl LinkState {
    /// Share of frames of which a copy is made now: a cut link has none.
    fn copies_per_million(&self) -> u32 {
        copies_per_million(&self.rule)
    }
}

fn copies_per_million(rule: &LinkRule) -> u32 {
    if rule.cut { 0 } else { rule.duplicate_per_million }
}

impl KernelFabric {
    /// Makes a fabric: a bridge for each network, of which the first has links with rules. A port's index is its place in the
    /// list. All links are perfect, and nothing is connected yet.
    ///
    /// # Errors
    /// [`KernelError::Lacks`] where this host cannot have one. A host without netem has one on which links are perfect or
    /// cut: [`KernelFabric::require`] says whether that is enough.
    pub fn build(
        seed: u64,
        sabotage: Option<Sabotage>,
        networks: &[NetworkPorts],
        log: ProgramLog,
    ) -> Result<Self, KernelError> {
        let is_small = |network: &NetworkPorts| network.ports.len() <= usize::from(FABRIC_PORTS_MAX);
        assert!(networks.iter().all(is_small), "a plan has fewer nodes");
        let nft = Nft::find(log).map_err(|error| Part::Nft.lacking(error))?;
        let namespace = Namespace::create()?;
        let named = |(number, network): (usize, &NetworkPorts)| -> Vec<(String, MacAddress)> {
            numbered(&network.ports).map(|(port, (mac, _))| (port_name_in(number, port), *mac)).collect()
        };
        let macs: Vec<_> = networks.iter().enumerate().map(named).collect();
        let (made, has_netem) = namespace.run(|| -> Result<_, KernelError> {
            tap::ipv6_off()?;
            let made = with_netlink(async |handle| make(&handle, networks).await)?;
            nft.set_up(&macs).map_err(|error| Part::BridgeRules.lacking(error))?;
            Ok(made)
        })??;
        let steered =
            macs.iter().flat_map(|macs| numbered(macs).map(|(port, (name, _))| (name.clone(), port)));
        let steered: Vec<_> = steered.collect();
        namespace.run(|| steer::to_one_processor_each(&steered))?;
        let port = |((index, tap), (_, mac))| KernelPort { index, mac, tap };
        let mut ports =
            made.into_iter().zip(macs).map(|(made, macs)| made.into_iter().zip(macs).map(port).collect());
        let (first, others): (Vec<KernelPort>, _) =
            (ports.next().expect("there is a first network"), ports.collect());
        let links = links(first.len()).map(|link| (link, LinkState::default())).collect();
        let state = Mutex::new(State { links });
        Ok(Self { namespace, ports: first, others, nft, seed, sabotage, has_netem, state })
    }

    /// Whether these rules can be had here, in any order and one on the other.
    ///
    /// # Errors
    /// [`KernelError::Lacks`] without netem, [`KernelError::Jitter`] beyond what it can be told.
    pub fn require(&self, rules: impl IntoIterator<Item = LinkRule>) -> Result<(), KernelError> {
        let mut copies = false;
        for rule in rules {
            self.check(&rule)?;
            copies |= rule.duplicate_per_million > 0;
        }
        if copies && self.ports.len() > 1 {
            let trial = self.copying(LinkId::new(0, 1), PER_MILLION / 2);
            let tried = self.namespace.run(|| self.nft.try_copying(&trial))?;
            tried.map_err(|error| Part::Copies.lacking(error))?;
        }
        Ok(())
    }

    /// The rule that copies a share of a link's frames.
    fn copying(&self, link: LinkId, per_million: u32) -> Copying {
        Copying {
            name: copying_name(link),
            sender: link.from.0,
            from: port_name(link.from.0),
            receiver: self.ports[usize::from(link.to.0)].mac,
            to: port_name(link.to.0),
            per_million,
        }
    }

    fn check(&self, rule: &LinkRule) -> Result<(), KernelError> {
        if rule.jitter > NETEM_JITTER_MAX {
            return Err(KernelError::Jitter(rule.jitter));
        }
        let without_netem =
            LinkRule { duplicate_per_million: rule.duplicate_per_million, ..LinkRule::PERFECT };
        if !self.has_netem && !rule.cut && *rule != without_netem {
            return Err(Part::Netem.lacking(io::Error::from(Errno::ENOENT)));
        }
        Ok(())
    }

    /// Connects a machine by its namespace. Its interface is configured as a TAP would be.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn connect(
        &self,
        port: NetworkPort,
        machine: &Namespace,
        config: &TapConfig,
    ) -> Result<(), KernelError> {
        Ok(devices::connect(&self.namespace, port, machine, config)?)
    }

    /// Waits until every port carries frames. To be called when all machines are connected.
    ///
    /// # Errors
    /// A port does not, within [`PORT_UP_MAX`].
    pub fn await_ports(&self) -> Result<(), KernelError> {
        let start = Instant::now();
        self.here(async |handle| {
            for (network, ports) in std::iter::once(&self.ports).chain(&self.others).enumerate() {
                for (number, _) in numbered(ports) {
                    let name = port_name_in(network, number);
                    while !devices::forwards(&handle, &name).await? {
                        if start.elapsed() > PORT_UP_MAX {
                            return Err(KernelError::Down(name));
                        }
                        thread::sleep(POLL_INTERVAL);
                    }
                }
            }
            Ok(())
        })
    }

    /// The TAP of a machine that has a hypervisor.
    ///
    /// # Errors
    /// Too many open files.
    pub fn tap(&self, port: NetworkPort) -> Result<MachineTap, TapError> {
        let ports = port.network.checked_sub(1).map_or(&self.ports, |other| &self.others[other]);
        let tap = ports[usize::from(port.port.0)].tap.clone().expect("the port was made as a tap");
        Ok(MachineTap::of(self.namespace.try_clone()?, tap))
    }

    /// Sets the rules of many links and returns once they hold. Links are cut and healed at one instant; the others
    /// change one after the other. A link that becomes cut loses the frames in flight, like a pulled cable.
    ///
    /// The counters are those of the instant when the rules took hold: of a link that is cut, the first after it; of any
    /// other, the last before it.
    ///
    /// # Errors
    /// A link that does not exist, a rule that cannot be had: then nothing is changed. Or the kernel refuses something.
    pub fn set_rules(&self, rules: &[(LinkId, LinkRule)]) -> Result<KernelSnapshot, super::FabricError> {
        for (link, rule) in rules {
            check_link(*link, self.ports.len())?;
            check_rule(rule)?;
            self.check(rule)?;
        }
        let mut guard = self.state();
        let state = &mut *guard;
        let wanted: Vec<(LinkId, LinkRule)> = rules
            .iter()
            .map(|(link, rule)| (*link, self.sabotage.map_or(*rule, |sabotage| sabotage.of(*rule))))
            .filter(|(link, rule)| state.links[link].rule != *rule)
            .collect();
        let snapshot = self.here(async |handle| self.change(&handle, state, &wanted).await)?;
        Ok(snapshot)
    }

    /// All counters.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn snapshot(&self) -> Result<KernelSnapshot, KernelError> {
        let mut guard = self.state();
        let state = &mut *guard;
        self.here(async |handle| {
            let reading = self.read(&handle, state).await?;
            Ok(self.count(state, &reading))
        })
    }

    /// Runs `work` in the fabric's namespace.
    fn here<T: Send>(
        &self,
        work: impl AsyncFnOnce(Handle) -> Result<T, KernelError> + Send,
    ) -> Result<T, KernelError> {
        self.namespace.run(|| with_netlink(work))?
    }

    fn count(&self, state: &mut State, reading: &Reading) -> KernelSnapshot {
        let mut snapshot = KernelSnapshot { links: BTreeMap::new(), unclassified: reading.unclassified };
        for (link, link_state) in &mut state.links {
            let seen = Seen {
                class: reading.classes.get(link).copied(),
                leaf: reading.leaves.get(link).copied(),
                cut: reading.cuts.get(&self.way(*link)).copied(),
                copies: reading.copies.get(&copying_name(*link)).copied(),
            };
            snapshot.links.insert(*link, link_state.tally.count(&seen));
        }
        snapshot
    }

    fn way(&self, link: LinkId) -> Way {
        (self.ports[usize::from(link.from.0)].mac, port_name(link.to.0))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

/// Every directed link between so many ports.
fn links(ports_count: usize) -> impl Iterator<Item = LinkId> {
    let count = u16::try_from(ports_count).expect("the number of ports is bounded by a u16");
    (0..count)
        .flat_map(move |from| (0..count).filter(move |to| *to != from).map(move |to| LinkId::new(from, to)))
}

fn numbered<T>(list: &[T]) -> impl Iterator<Item = (u16, &T)> {
    (0..).zip(list)
}

/// From what netem draws: another number for every link and every change.
fn draw(seed: u64, link: LinkId, changes_count: u64) -> u64 {
    let words = [seed, link.from.0.into(), link.to.0.into(), changes_count];
    let hash = blake3::hash(&words.map(u64::to_le_bytes).concat());
    u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

/// By what the rule is found again that copies frames of a link.
fn copying_name(link: LinkId) -> String {
    format!("{}>{}", link.from.0, link.to.0)
}

/// Whether the kernel says what it was told; where it counts in ticks or in bytes, but for one of them.
fn is_alike(asked: &LinkRule, found: &LinkRule) -> bool {
    const TICK: Duration = Duration::from_nanos(64);
    let same_time = |asked: Duration, found: Duration| asked.abs_diff(found) <= TICK;
    let same_rate = match (asked.bits_per_s, found.bits_per_s) {
        (None, None) => true,
        (Some(asked), Some(found)) => asked.abs_diff(found) <= 8,
        _ => false,
    };
    let same_shares = asked.loss_per_million == found.loss_per_million
        && asked.duplicate_per_million == found.duplicate_per_million
        && asked.reorder_per_million == found.reorder_per_million
        && asked.corrupt_per_million == found.corrupt_per_million;
    let same_times = same_time(asked.latency, found.latency) && same_time(asked.jitter, found.jitter);
    asked.cut == found.cut && (asked.cut || (same_shares && same_times && same_rate))
}

#[cfg(test)]
mod tests;
