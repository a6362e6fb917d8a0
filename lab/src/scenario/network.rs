//! What a scenario says of a network.

use std::net::IpAddr;

use ipnet::IpNet;

use super::NodeIndex;

/// A network: a bridge or a switch of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name, if the scenario gives it one.
    pub name: Option<String>,
    /// Its addresses: one of each family at most. Those of the first are used, those of the other are there besides.
    pub subnets: Vec<Subnet>,
    /// Longest packet, in bytes.
    pub mtu: u32,
    /// The nodes that are on it, in order.
    pub nodes: Vec<NodeIndex>,
}

/// Which addresses a network has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subnet {
    /// The seed decides.
    Drawn(Family),
    /// These.
    Given(IpNet),
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl Subnet {
    /// Its family.
    pub fn family(&self) -> Family {
        match self {
            Self::Drawn(family) => *family,
            Self::Given(subnet) => Family::of(subnet.addr()),
        }
    }
}
