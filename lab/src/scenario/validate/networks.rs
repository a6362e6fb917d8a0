//! The networks of a scenario: their addresses, and which nodes are on them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::fields::{Fields, Findings, Section, Value, items};
use super::nodes::{self, Nodes};
use super::units;
use crate::limits::{
    MTU_BYTES, MTU_BYTES_MAX, MTU_BYTES_MIN, NETWORKS_MAX, SUBNET_V4_BITS_MAX, SUBNET_V4_BITS_MIN,
    SUBNET_V6_BITS_MAX, SUBNET_V6_BITS_MIN,
};
use crate::scenario::mistake::{Mistake, NameOf};
use crate::scenario::parse::Raw;
use crate::scenario::{Family, Network, NodeIndex, Subnet};

const NETWORK: Section =
    Section { name: "a network", keys: &["id", "subnet", "mtu", "nodes"], keys_later: &[] };

/// The one network of a scenario that names none.
pub(super) fn default(nodes: &Nodes) -> Vec<Network> {
    let (name, subnets) = (None, vec![Subnet::Drawn(Family::V4)]);
    vec![Network { name, subnets, mtu: MTU_BYTES, nodes: nodes.indexes().collect() }]
}

/// `networks`; without nodes nobody knows who is on them, and nothing comes of it.
pub(super) fn networks(
    value: &Value<'_>,
    nodes: Option<&Nodes>,
    findings: &mut Findings,
) -> Option<Vec<Network>> {
    let list = items(value, "networks", "a list", findings)?;
    if list.is_empty() || list.len() > NETWORKS_MAX {
        findings.add(&value.path, Mistake::NetworkCount { count: list.len() });
        return None;
    }
    let mut given = Vec::new();
    let mut networks: Vec<Network> = Vec::new();
    for (index, item) in list.iter().enumerate() {
        let Some(network) = network(item, index == 0, nodes, &mut given, findings) else { continue };
        if networks.iter().any(|earlier| earlier.name == network.name) {
            let name = network.name.clone().unwrap_or_default();
            findings.add(&item.path, Mistake::NameTwice { of: NameOf::Network, name });
        }
        networks.push(network);
    }
    (networks.len() == list.len()).then_some(networks)
}

/// One network. `given` has the addresses that those before it were given, and takes its own.
fn network(
    value: &Value<'_>,
    is_first: bool,
    nodes: Option<&Nodes>,
    given: &mut Vec<IpNet>,
    findings: &mut Findings,
) -> Option<Network> {
    let fields = Fields::open(value, "a network", &NETWORK, findings)?;
    let name =
        fields.require("id", findings).and_then(|value| nodes::name(&value, NameOf::Network, findings));
    let subnets = fields
        .get("subnet")
        .map_or_else(|| Some(vec![Subnet::Drawn(Family::V4)]), |value| subnets(&value, given, findings));
    let mtu = fields.get("mtu").map_or(Some(MTU_BYTES), |value| {
        units::number(&value, "networks.mtu", MTU_BYTES_MIN, MTU_BYTES_MAX, findings)
    });
    if let Some(path) = fields.key_path("nodes").filter(|_| is_first) {
        findings.add(&path, Mistake::FirstNetwork);
        return None;
    }
    let members = match (fields.get("nodes"), nodes) {
        (None, nodes) => Some(nodes.map_or_else(Vec::new, |nodes| nodes.indexes().collect())),
        (Some(value), Some(nodes)) => members(&value, nodes, findings),
        (Some(_), None) => None,
    };
    Some(Network { name: Some(name?), subnets: subnets?, mtu: mtu?, nodes: members? })
}

/// The nodes that are on it, by their names or their zones'.
fn members(value: &Value<'_>, nodes: &Nodes, findings: &mut Findings) -> Option<Vec<NodeIndex>> {
    let mut members: Vec<NodeIndex> = Vec::new();
    let list = items(value, "networks.nodes", "a list of nodes or zones", findings)?;
    let mut is_whole = true;
    for item in &list {
        let named = units::text(item, "networks.nodes", findings).map(|word| (word, nodes.named(word)));
        let mistake = match named {
            Some((_, Some(named))) if named.iter().all(|node| !members.contains(node)) => {
                members.extend(named);
                continue;
            }
            Some((word, Some(_))) => Mistake::NetworkNodeTwice { who: word.to_owned() },
            Some((word, None)) => nodes.unknown(word, &[]),
            None => {
                is_whole = false;
                continue;
            }
        };
        findings.add(&item.path, mistake);
        is_whole = false;
    }
    if list.is_empty() {
        findings.add(&value.path, Mistake::NetworkEmpty);
        return None;
    }
    members.sort_unstable();
    is_whole.then_some(members)
}

/// `subnet`: one, or one of each family.
fn subnets(value: &Value<'_>, given: &mut Vec<IpNet>, findings: &mut Findings) -> Option<Vec<Subnet>> {
    let list = match value.raw {
        Raw::List(_) => items(value, "networks.subnet", "a list", findings)?,
        _ => vec![value.clone()],
    };
    let mut subnets: Vec<Subnet> = Vec::new();
    for item in &list {
        let subnet = subnet(item, given, findings)?;
        if subnets.iter().any(|earlier| earlier.family() == subnet.family()) {
            findings.add(&item.path, Mistake::SubnetFamilies);
            return None;
        }
        subnets.push(subnet);
    }
    if subnets.is_empty() {
        findings.add(&value.path, Mistake::SubnetFamilies);
        return None;
    }
    Some(subnets)
}

fn subnet(value: &Value<'_>, given: &mut Vec<IpNet>, findings: &mut Findings) -> Option<Subnet> {
    let text = units::text(value, "networks.subnet", findings)?;
    match text {
        "ipv4" => return Some(Subnet::Drawn(Family::V4)),
        "ipv6" => return Some(Subnet::Drawn(Family::V6)),
        _ => {}
    }
    match subnet_of(text, given) {
        Ok(subnet) => {
            given.push(subnet);
            Some(Subnet::Given(subnet))
        }
        Err(mistake) => {
            findings.add(&value.path, mistake);
            None
        }
    }
}

fn subnet_of(text: &str, given: &[IpNet]) -> Result<IpNet, Mistake> {
    let value = || text.to_owned();
    let subnet: IpNet = text.parse().map_err(|_none| Mistake::NotSubnet { value: value() })?;
    if subnet.trunc() != subnet {
        return Err(Mistake::SubnetHost { value: value(), network: subnet.trunc().to_string() });
    }
    let (min, max) = match subnet {
        IpNet::V4(_) => (SUBNET_V4_BITS_MIN, SUBNET_V4_BITS_MAX),
        IpNet::V6(_) => (SUBNET_V6_BITS_MIN, SUBNET_V6_BITS_MAX),
    };
    if !(min..=max).contains(&subnet.prefix_len()) {
        return Err(Mistake::SubnetSize { value: value(), min, max });
    }
    let last = subnet.broadcast();
    if !is_for_machines(subnet.addr()) || !is_for_machines(last) {
        return Err(Mistake::SubnetKind { value: value() });
    }
    match given.iter().find(|other| other.contains(&subnet) || subnet.contains(*other)) {
        Some(other) => Err(Mistake::SubnetOverlap { value: value(), other: other.to_string() }),
        None => Ok(subnet),
    }
}

/// Whether an interface can have an address of this kind for itself (RFC 6890).
fn is_for_machines(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            first != 0 && first < 224 && !address.is_loopback() && !address.is_link_local()
        }
        IpAddr::V6(address) => {
            let first = address.segments()[0];
            first != 0 && !address.is_multicast() && !address.is_unicast_link_local()
        }
    }
}
