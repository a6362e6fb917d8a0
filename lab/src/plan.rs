//! The plan of a run: everything that a scenario and a seed decide before anything starts.
//!
//! Pure: the same scenario and the same seed make the same plan, and `plan.json` has the same bytes; it holds
//! no path and no time of day. What only the run can know stays open: which node leads when a fault is due,
//! and how long a restart takes. Roles are therefore symbols here, with a draw stored beside them, and
//! [`resolve()`] turns both into nodes.

mod draw;
mod network;
mod resolve;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use self::draw::Draws;
pub use self::network::{ClientNetwork, ClientPort, Network, Subnet};
pub use self::resolve::{
    ResolveError, Roles, cut_pairs, isolates, minority, resolve, resolve_ends, resolve_one,
};
use crate::limits::machines::MEMORY_MIB_DEFAULT;
use crate::limits::{PORT_MAX, PORT_MIN, READER_RATE};
use crate::scenario::{Check, Fault, RaftSettings, Scenario, Workload};
pub use crate::scenario::{
    ClockError, FaultAction, LinkEffect, MemberChange, Mix, NodeIndex, Reads, Selector, StandingLink, Target,
    WorkloadKind, link_pairs,
};

/// Where a run directory has it, from its beginning.
pub(crate) const FILE: &str = "plan.json";

/// The name of the lab's own interface. At most 15 bytes (`IFNAMSIZ` less the final NUL, linux/if.h).
pub const LAB_IFACE: &str = "aspen-lab0";
const _: () = assert!(LAB_IFACE.len() <= 15, "the kernel takes the name");

/// What a run will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// All randomness comes from it.
    pub seed: u64,
    /// The scenario's name.
    pub scenario: String,
    /// BLAKE3 of the scenario's text.
    pub scenario_hash: Bytes32,
    /// What is under test.
    #[serde(default, skip_serializing_if = "is_default")]
    pub target: Target,
    /// The network of all nodes and of the lab: nodes replicate over it, and links and faults are its.
    pub network: Network,
    /// The lab's own port of it.
    pub lab: LabPort,
    /// Further networks, over which clients reach the nodes that are on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub client_networks: Vec<ClientNetwork>,
    /// Heartbeat and election timeouts of every node.
    pub raft: PlannedRaft,
    /// Every node; [`NodeIndex`] is a position in this list.
    pub nodes: Vec<PlannedNode>,
    /// How many of them, the first ones, found the cluster; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub founders: Option<u16>,
    /// How the nodes find each other, if they are not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joins: Option<PlannedJoins>,
    /// Where the leader should be, the best zone first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preferred_zones: Vec<String>,
    /// The directed links that are not perfect, for the whole run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<StandingLink>,
    /// The load.
    pub workload: PlannedWorkload,
    /// How long the load runs at least. Time begins with the first answered operation, here and in
    /// [`Step::at_ms`].
    pub duration_ms: u64,
    /// What breaks, ordered by [`Step::at_ms`], then by the order of the file.
    pub steps: Vec<Step>,
    /// How the run is judged.
    pub checks: Vec<PlannedCheck>,
}

/// The lab's own port of a network: clients, observation and readiness use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabPort {
    /// The interface's name.
    pub iface: String,
    /// The interface's hardware address.
    pub mac: MacAddress,
    /// The interface's address.
    pub ip: IpAddr,
}

/// A node before it exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedNode {
    /// From the scenario.
    pub name: String,
    /// From the scenario, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its memory, in MiB, if it is a virtual machine.
    #[serde(default = "memory_mib_default")]
    pub memory_mib: u32,
    /// Its position in the list plus one.
    pub raft_id: u64,
    /// The seed of its secret key. A test cluster has no secrets: anyone may make its keys again.
    pub secret_key_seed: Bytes32,
    /// Its hardware address in [`Plan::network`].
    pub mac: MacAddress,
    /// Its address in [`Plan::network`].
    pub ip: IpAddr,
    /// Its address in the last of [`Plan::client_networks`] that it is on, if it is on any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<IpAddr>,
    /// The UDP port of its Raft endpoint.
    pub raft_port: u16,
    /// The TCP port of its HTTP interface.
    pub http_port: u16,
}

impl PlannedNode {
    /// Where its Raft endpoint is.
    pub fn raft_address(&self) -> SocketAddr {
        (self.ip, self.raft_port).into()
    }

    /// Where its HTTP interface is.
    pub fn http_address(&self) -> SocketAddr {
        (self.client_ip.unwrap_or(self.ip), self.http_port).into()
    }
}

/// The first node founds a cluster by itself, and the others ask to be let in with its ticket and the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedJoins {
    /// How many are to vote; the others learn.
    pub voters: u16,
    /// The cluster's secret: as little of one as the nodes' keys are.
    pub secret: Bytes32,
}

/// What node.toml says of Raft; times in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedRaft {
    /// Time between two heartbeats.
    pub heartbeat_ms: u64,
    /// Shortest election timeout.
    pub election_ms_min: u64,
    /// Longest election timeout.
    pub election_ms_max: u64,
    /// Entries after which a snapshot is made; absent, the node's own number counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_entries: Option<u32>,
    /// How long a voter is silent before a learner votes in its place; absent, none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_after_ms: Option<u64>,
}

/// The load, client by client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedWorkload {
    /// What the clients do.
    pub kind: WorkloadKind,
    /// How many keys they share.
    pub keys: u32,
    /// Operations per second over all of [`PlannedWorkload::clients`].
    pub rate_per_s: u32,
    /// How reads and scans are confirmed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reads: Reads,
    /// How old the answers to every other read of each reader may be; absent: none may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_staleness_ms: Option<u64>,
    /// How often each operation is chosen.
    pub mix: Mix,
    /// They read and write; each moves on to another node when it is refused.
    pub clients: Vec<PlannedClient>,
    /// Operations per second of each reader.
    pub reader_rate_per_s: u32,
    /// One for each node, pinned to it for the whole run; they only read.
    pub readers: Vec<PlannedClient>,
}

/// One client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedClient {
    /// Counts from 0 over all clients, then on over all readers.
    pub id: u32,
    /// Everything that it chooses is drawn from this.
    pub seed: Bytes32,
    /// The node that it talks to at first; a reader's only node.
    pub node: NodeIndex,
}

/// A fault and when it is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When the first repetition is due, in milliseconds after the first answered operation.
    pub at_ms: u64,
    /// Position in the scenario's `faults`, from 0.
    pub fault: u32,
    /// What breaks.
    pub action: FaultAction,
    /// How long it stays broken, from when it is in force: then links heal, or the victim is started again.
    pub lasts_ms: u64,
    /// From the end of one repetition (links healed, victim serves again) to the next. 0 if there is one
    /// only.
    pub every_ms: u64,
    /// One for each repetition, at least one: what [`resolve()`] needs to choose nodes.
    pub draws: Vec<u32>,
}

/// How the run is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlannedCheck {
    /// Every key's history has a linear order.
    Linearizable,
    /// After the end of each fault the cluster acknowledges operations again.
    Recovers {
        /// At the latest after this time.
        within_ms: u64,
    },
    /// Nodes that a partition leaves without a majority acknowledge nothing.
    MinorityRefuses,
    /// No read whose age is bounded is older than that.
    BoundedStaleness,
    /// What was acknowledged is there in the end, and the same on every member.
    Durable,
    /// What Raft promises holds for every state, log and vote that was seen.
    Raft,
}

/// A hash, or the seed of a key or a generator. In hexadecimal where it is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bytes32(pub [u8; 32]);

/// An Ethernet address, written as `02:00:5e:10:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Whether frames to this address go to more than one port (the I/G bit: IEEE 802, 8.2.2).
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl Plan {
    /// Draws what the scenario leaves to the seed.
    pub fn new(scenario: &Scenario, seed: u64) -> Self {
        let vendor = mac_prefix(seed);
        let (network, client_networks) = network::networks(scenario.networks(), seed, vendor);
        let nodes = nodes(scenario, seed, vendor, &network, &client_networks);
        Self {
            seed,
            scenario: scenario.name().to_owned(),
            scenario_hash: Bytes32(*scenario.text_hash()),
            target: scenario.target(),
            lab: LabPort { iface: LAB_IFACE.to_owned(), mac: mac(vendor, u16::MAX), ip: network.lab() },
            network,
            client_networks,
            raft: planned_raft(scenario.raft()),
            nodes,
            founders: Some(scenario.founders()).filter(|count| usize::from(*count) < scenario.nodes().len()),
            joins: scenario.joined_voters().map(|voters| PlannedJoins {
                voters,
                secret: Bytes32(Draws::new(seed, draw::Purpose::Secret).bytes32()),
            }),
            preferred_zones: scenario.preferred_zones().to_vec(),
            links: scenario.links().to_vec(),
            workload: workload(scenario.workload(), scenario.nodes().len(), seed),
            duration_ms: ms(scenario.duration()),
            steps: steps(scenario.faults(), seed),
            checks: scenario.checks().iter().map(planned_check).collect(),
        }
    }

    /// The text of `plan.json`: a function of the plan alone.
    pub fn to_json(&self) -> String {
        let mut json =
            serde_json::to_string_pretty(self).expect("a plan holds nothing that JSON cannot express");
        json.push('\n');
        json
    }

    /// The first fault that only machines can have, by its key in a scenario, if there is one.
    pub fn needs_machines(&self) -> Option<&'static str> {
        self.steps.iter().find(|step| step.action.needs_machine()).map(|step| step.action.key())
    }

    /// Whether nodes lose what their disks have not synced.
    pub fn cuts_power(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.action, FaultAction::PowerCut { .. }))
    }

    /// The nodes that found the cluster, in order.
    pub fn founders(&self) -> impl Iterator<Item = NodeIndex> + use<> {
        (0..self.founders.unwrap_or(node_count(self.nodes.len()))).map(NodeIndex)
    }

    /// The positions of all nodes, in order.
    pub fn node_indexes(&self) -> impl Iterator<Item = NodeIndex> + use<> {
        (0..node_count(self.nodes.len())).map(NodeIndex)
    }
}

/// Left out, a plan reads as it did before there was a choice.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Of a plan that was written before nodes had a memory.
fn memory_mib_default() -> u32 {
    MEMORY_MIB_DEFAULT
}

/// Validated durations are whole milliseconds and at most an hour.
fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("at most an hour")
}

fn node_count(count: usize) -> u16 {
    u16::try_from(count).expect("at most NODES_MAX")
}

/// Locally administered, unicast (IEEE 802, 8.2). Three bytes are drawn, so that two runs side by side look
/// different in a capture; the last two are the node's position, so that no two nodes are alike.
fn mac_prefix(seed: u64) -> [u8; 3] {
    let mut draws = Draws::new(seed, draw::Purpose::Mac);
    [draws.byte(), draws.byte(), draws.byte()]
}

fn mac([second, third, fourth]: [u8; 3], last: u16) -> MacAddress {
    let [fifth, sixth] = last.to_be_bytes();
    MacAddress([0x02, second, third, fourth, fifth, sixth])
}

fn planned_raft(raft: RaftSettings) -> PlannedRaft {
    let RaftSettings { heartbeat, election_min, election_max, snapshot_entries, replace_after } = raft;
    PlannedRaft {
        heartbeat_ms: ms(heartbeat),
        election_ms_min: ms(election_min),
        election_ms_max: ms(election_max),
        snapshot_entries,
        replace_after_ms: replace_after.map(ms),
    }
}

fn planned_check(check: &Check) -> PlannedCheck {
    match *check {
        Check::Linearizable => PlannedCheck::Linearizable,
        Check::Recovers { within } => PlannedCheck::Recovers { within_ms: ms(within) },
        Check::MinorityRefuses => PlannedCheck::MinorityRefuses,
        Check::BoundedStaleness => PlannedCheck::BoundedStaleness,
        Check::Durable => PlannedCheck::Durable,
        Check::Raft => PlannedCheck::Raft,
    }
}

fn nodes(
    scenario: &Scenario,
    seed: u64,
    vendor: [u8; 3],
    network: &Network,
    client_networks: &[ClientNetwork],
) -> Vec<PlannedNode> {
    let mut keys = Draws::new(seed, draw::Purpose::NodeKeys);
    let mut ports = Draws::new(seed, draw::Purpose::Ports);
    let mut ports_taken = Vec::new();
    let mut port = || {
        loop {
            let port = u32::from(PORT_MIN) + ports.below(u32::from(PORT_MAX - PORT_MIN) + 1);
            let port = u16::try_from(port).expect("at most PORT_MAX");
            if !ports_taken.contains(&port) {
                ports_taken.push(port);
                return port;
            }
        }
    };
    let named = scenario.nodes().iter().zip(scenario.zones()).zip(scenario.memories_mib());
    let planned = named.zip((0..).map(NodeIndex)).map(|(((name, zone), memory_mib), index)| PlannedNode {
        name: name.clone(),
        zone: zone.clone(),
        memory_mib: *memory_mib,
        raft_id: index.raft_id(),
        secret_key_seed: Bytes32(keys.bytes32()),
        mac: mac(vendor, index.0),
        ip: network.node(index),
        client_ip: client_networks.iter().rev().find_map(|network| Some(network.port(index)?.ip)),
        raft_port: port(),
        http_port: port(),
    });
    planned.collect()
}

/// Clients are spread evenly; the seed decides where that begins.
fn workload(workload: Workload, nodes_count: usize, seed: u64) -> PlannedWorkload {
    let Workload { kind, clients: clients_count, keys, rate_per_s, reads, max_staleness, mix } = workload;
    let max_staleness_ms = max_staleness.map(ms);
    let nodes_count = u32::from(node_count(nodes_count));
    let mut draws = Draws::new(seed, draw::Purpose::Clients);
    let first = draws.below(nodes_count);
    let mut client = |id: u32, position: u32| PlannedClient {
        id,
        seed: Bytes32(draws.bytes32()),
        node: NodeIndex(u16::try_from(position % nodes_count).expect("at most NODES_MAX")),
    };
    let clients = (0..clients_count).map(|id| client(id, first + id)).collect();
    let readers = (0..nodes_count).map(|position| client(clients_count + position, position)).collect();
    let reader_rate_per_s = READER_RATE;
    PlannedWorkload {
        kind,
        keys,
        rate_per_s,
        reads,
        max_staleness_ms,
        mix,
        clients,
        reader_rate_per_s,
        readers,
    }
}

fn steps(faults: &[Fault], seed: u64) -> Vec<Step> {
    let mut draws = Draws::new(seed, draw::Purpose::Faults);
    let step = |(fault, index): (&Fault, u32)| Step {
        at_ms: ms(fault.at),
        fault: index,
        action: fault.action.clone(),
        lasts_ms: ms(fault.lasts),
        every_ms: ms(fault.every),
        draws: (0..fault.times).map(|_| draws.word()).collect(),
    };
    let mut steps: Vec<Step> = faults.iter().zip(0..).map(step).collect();
    steps.sort_by_key(|step| (step.at_ms, step.fault));
    steps
}

impl fmt::Debug for Bytes32 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl Serialize for Bytes32 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(de::Error::custom)?;
        let bytes = <[u8; 32]>::try_from(bytes);
        bytes.map(Self).map_err(|bytes| de::Error::invalid_length(bytes.len(), &"32 bytes in hexadecimal"))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.map(|byte| format!("{byte:02x}"));
        formatter.write_str(&bytes.join(":"))
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for MacAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        let bytes = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        bytes
            .map(Self)
            .ok_or_else(|| de::Error::custom("six bytes in hexadecimal with colons between them are wanted"))
    }
}

#[cfg(test)]
mod tests;
