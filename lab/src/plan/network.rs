//! The networks of a plan, and the addresses in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::draw::{Draws, Purpose};
use super::{LAB_IFACE, LabPort, MacAddress, NodeIndex, mac};
use crate::limits::{LAB_HOST, MTU_BYTES, NODE_HOST_FIRST};
use crate::scenario::{self, Family};

/// A network: a bridge or a switch of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// From the scenario, if that names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its addresses.
    #[serde(flatten)]
    pub subnet: Subnet,
    /// Those of the other family, which are there besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second: Option<Subnet>,
    /// Longest packet, in bytes.
    #[serde(default = "mtu_default", skip_serializing_if = "is_mtu_default")]
    pub mtu: u32,
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The first.
    pub address: IpAddr,
    /// The length of the prefix, in bits.
    pub prefix: u8,
}

/// A network over which clients reach nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientNetwork {
    /// The network.
    #[serde(flatten)]
    pub network: Network,
    /// The lab's own port of it.
    pub lab: LabPort,
    /// Those of nodes, in their order.
    pub ports: Vec<ClientPort>,
}

/// A node's port of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientPort {
    /// The node.
    pub node: NodeIndex,
    /// Its hardware address there.
    pub mac: MacAddress,
    /// Its address there.
    pub ip: IpAddr,
}

impl Network {
    /// The lab's address.
    pub fn lab(&self) -> IpAddr {
        self.subnet.host(LAB_HOST)
    }

    /// A node's address.
    pub fn node(&self, index: NodeIndex) -> IpAddr {
        self.subnet.host(node_host(index))
    }

    /// The lab's addresses, of both families where there are both, each with its network's prefix.
    pub fn lab_addresses(&self) -> Vec<(IpAddr, u8)> {
        self.addresses(LAB_HOST)
    }

    /// A node's addresses, likewise.
    pub fn node_addresses(&self, index: NodeIndex) -> Vec<(IpAddr, u8)> {
        self.addresses(node_host(index))
    }

    fn addresses(&self, host: u8) -> Vec<(IpAddr, u8)> {
        let subnets = [Some(self.subnet), self.second];
        subnets.into_iter().flatten().map(|subnet| (subnet.host(host), subnet.prefix)).collect()
    }
}

impl ClientNetwork {
    /// The port of a node that is on it.
    pub fn port(&self, node: NodeIndex) -> Option<&ClientPort> {
        self.ports.iter().find(|port| port.node == node)
    }
}

impl Subnet {
    /// The address with this last byte.
    fn host(&self, last: u8) -> IpAddr {
        match self.address {
            IpAddr::V4(first) => Ipv4Addr::from(u32::from(first) | u32::from(last)).into(),
            IpAddr::V6(first) => Ipv6Addr::from(u128::from(first) | u128::from(last)).into(),
        }
    }
}

fn node_host(index: NodeIndex) -> u8 {
    NODE_HOST_FIRST + u8::try_from(index.0).expect("at most NODES_MAX")
}

/// Of a network of which nothing else is said.
fn mtu_default() -> u32 {
    MTU_BYTES
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over like this")]
fn is_mtu_default(mtu: &u32) -> bool {
    *mtu == MTU_BYTES
}

/// The first network, and all others.
pub(super) fn networks(
    asked: &[scenario::Network],
    seed: u64,
    vendor: [u8; 3],
) -> (Network, Vec<ClientNetwork>) {
    let mut draws = Draws::new(seed, Purpose::Network);
    let given = asked.iter().flat_map(|network| &network.subnets).filter_map(|subnet| match subnet {
        scenario::Subnet::Given(subnet) => Some(*subnet),
        scenario::Subnet::Drawn(_) => None,
    });
    let mut taken: Vec<IpNet> = given.collect();
    let mut networks = asked.iter().map(|network| planned(network, &mut draws, &mut taken));
    let first = networks.next().expect("a scenario has a network");
    let more = networks.zip(&asked[1..]).zip(1..).map(|((network, asked), number)| {
        let mac_of = |last: u8| mac(vendor, u16::from_be_bytes([number, last]));
        let port = |node: &NodeIndex| {
            let last = u8::try_from(node.0).expect("at most NODES_MAX");
            ClientPort { node: *node, mac: mac_of(last), ip: network.node(*node) }
        };
        let ports = asked.nodes.iter().map(port).collect();
        let lab = LabPort {
            iface: LAB_IFACE.replace('0', &number.to_string()),
            mac: mac_of(u8::MAX),
            ip: network.lab(),
        };
        ClientNetwork { network, lab, ports }
    });
    let more = more.collect();
    (first, more)
}

fn planned(asked: &scenario::Network, draws: &mut Draws, taken: &mut Vec<IpNet>) -> Network {
    let mut subnets = asked.subnets.iter().map(|subnet| match *subnet {
        scenario::Subnet::Given(subnet) => subnet,
        scenario::Subnet::Drawn(family) => {
            let subnet = draw(family, draws, taken);
            taken.push(subnet);
            subnet
        }
    });
    let subnet = |net: IpNet| Subnet { address: net.addr(), prefix: net.prefix_len() };
    Network {
        name: asked.name.clone(),
        subnet: subnet(subnets.next().expect("a network has a subnet")),
        second: subnets.next().map(subnet),
        mtu: asked.mtu,
    }
}

/// One of 10.0.0.0/8 or of `fd00::/8` that overlaps no other: the bounds of those leave nearly all of them.
fn draw(family: Family, draws: &mut Draws, taken: &[IpNet]) -> IpNet {
    loop {
        let (address, prefix) = match family {
            Family::V4 => (IpAddr::from([10, draws.byte(), draws.byte(), 0]), 24),
            Family::V6 => {
                let mut bytes = [0; 16];
                bytes[0] = 0xfd;
                bytes[1..8].fill_with(|| draws.byte());
                (IpAddr::from(bytes), 64)
            }
        };
        let subnet = IpNet::new(address, prefix).expect("no address has so few bits");
        if taken.iter().all(|other| !other.contains(&subnet) && !subnet.contains(other)) {
            return subnet;
        }
    }
}
