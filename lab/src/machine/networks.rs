//! Where the nodes of a plan and the lab are connected: the ports of each network, and the interfaces behind them.

use std::net::IpAddr;

use crate::fabric::kernel::PortKind;
use crate::fabric::tap::TapConfig;
use crate::fabric::{NetworkPort, NetworkPorts};
use crate::link::PortIndex;
use crate::plan::{ClientNetwork, LabPort, MacAddress, Network, NodeIndex, Plan};

/// An interface of a machine, and the port behind it.
#[derive(Debug, Clone)]
pub(super) struct Attachment {
    /// The port.
    pub(super) port: NetworkPort,
    /// The interface.
    pub(super) interface: TapConfig,
}

/// What every network connects: nodes by one kind of ports, and the lab. A port of the first network has the position of its
/// node.
pub(super) fn network_ports(plan: &Plan, kind: PortKind) -> Vec<NetworkPorts> {
    let of = |view: View<'_>| NetworkPorts {
        mtu: view.network.mtu,
        ports: view
            .nodes
            .iter()
            .map(|(_, mac)| (*mac, kind))
            .chain([(view.lab.mac, PortKind::Veth)])
            .collect(),
    };
    views(plan).map(of).collect()
}

/// Who is behind each port, network by network.
pub(super) fn port_names(plan: &Plan) -> Vec<Vec<&str>> {
    let name = |node: NodeIndex| plan.nodes[node.position()].name.as_str();
    views(plan)
        .map(|view| view.nodes.iter().map(|(node, _)| name(*node)).chain(["the lab"]).collect())
        .collect()
}

/// Where a node is connected, the first network first.
pub(super) fn of_node(plan: &Plan, node: NodeIndex) -> Vec<Attachment> {
    let attachments = views(plan).enumerate().filter_map(|(number, view)| {
        let position = view.nodes.iter().position(|(member, _)| *member == node)?;
        let (_, mac) = view.nodes[position];
        Some((number, position, view, mac))
    });
    let attachment = |(eth, (number, position, view, mac)): (usize, (usize, usize, View<'_>, MacAddress))| {
        let addresses = view.network.node_addresses(node);
        view.attachment(number, position, &format!("eth{eth}"), mac, addresses)
    };
    attachments.enumerate().map(attachment).collect()
}

/// Where the lab is connected: to every network, after its nodes.
pub(super) fn of_lab(plan: &Plan) -> Vec<Attachment> {
    let attachment = |(number, view): (usize, View<'_>)| {
        let LabPort { iface, mac, .. } = view.lab;
        view.attachment(number, view.nodes.len(), iface, *mac, view.network.lab_addresses())
    };
    views(plan).enumerate().map(attachment).collect()
}

/// Any network of a plan.
struct View<'a> {
    network: &'a Network,
    lab: &'a LabPort,
    /// The nodes that are on it, and what each has there.
    nodes: Vec<(NodeIndex, MacAddress)>,
}

fn views(plan: &Plan) -> impl Iterator<Item = View<'_>> {
    let all = plan.node_indexes().zip(&plan.nodes).map(|(index, node)| (index, node.mac)).collect();
    let first = View { network: &plan.network, lab: &plan.lab, nodes: all };
    let further = plan.client_networks.iter().map(|ClientNetwork { network, lab, ports }| View {
        network,
        lab,
        nodes: ports.iter().map(|port| (port.node, port.mac)).collect(),
    });
    std::iter::once(first).chain(further)
}

impl View<'_> {
    fn attachment(
        &self,
        network: usize,
        position: usize,
        name: &str,
        mac: MacAddress,
        addresses: Vec<(IpAddr, u8)>,
    ) -> Attachment {
        let nodes = self.nodes.iter().map(|(node, mac)| (self.network.node_addresses(*node), *mac));
        let everybody = nodes.chain([(self.network.lab_addresses(), self.lab.mac)]);
        let others = everybody.filter(|(_, other)| *other != mac);
        let neighbours =
            others.flat_map(|(addresses, mac)| addresses.into_iter().map(move |(address, _)| (address, mac)));
        let port = PortIndex(u16::try_from(position).expect("a plan has at most NODES_MAX"));
        Attachment {
            port: NetworkPort { network, port },
            interface: TapConfig {
                name: name.to_owned(),
                mac,
                addresses,
                mtu: self.network.mtu,
                neighbours: neighbours.collect(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn everybody_knows_the_others_of_their_networks() {
        let text = "\
name: a
about: A test.
nodes: { count: 3 }
networks:
  - { id: cluster, subnet: [ipv6, ipv4], mtu: 9000 }
  - { id: clients, subnet: 10.7.0.0/24, nodes: [n1, n3] }
checks: [raft]
";
        let plan = Plan::new(&Scenario::parse("a.yaml", text).unwrap(), 1);
        let [cluster, clients] = of_node(&plan, NodeIndex(2)).try_into().unwrap();
        assert_eq!(cluster.port, NetworkPort::first(2));
        assert_eq!((cluster.interface.name.as_str(), cluster.interface.mtu), ("eth0", 9000));
        assert_eq!(cluster.interface.addresses.len(), 2);
        assert_eq!(cluster.interface.addresses[0], (plan.nodes[2].ip, 64));
        // Two nodes and the lab, by both families.
        assert_eq!(cluster.interface.neighbours.len(), 6);
        assert_eq!(clients.port, NetworkPort { network: 1, port: PortIndex(1) });
        assert_eq!(clients.interface.addresses, [("10.7.0.12".parse().unwrap(), 24)]);
        assert_eq!(plan.nodes[2].http_address().ip(), clients.interface.addresses[0].0);
        let known: Vec<String> =
            clients.interface.neighbours.iter().map(|(address, _)| address.to_string()).collect();
        assert_eq!(known, ["10.7.0.10", "10.7.0.1"]);
        // The second is on the first network only, and clients reach it there.
        assert_eq!(of_node(&plan, NodeIndex(1)).len(), 1);
        assert_eq!(plan.nodes[1].http_address().ip(), plan.nodes[1].ip);
        assert_eq!(port_names(&plan), [vec!["n1", "n2", "n3", "the lab"], vec!["n1", "n3", "the lab"]]);
        let [_, lab] = of_lab(&plan).try_into().unwrap();
        assert_eq!((lab.port.port, lab.interface.name.as_str()), (PortIndex(2), "aspen-lab1"));
        let macs = network_ports(&plan, PortKind::Veth);
        let mut macs: Vec<MacAddress> =
            macs.iter().flat_map(|network| &network.ports).map(|(mac, _)| *mac).collect();
        macs.sort_unstable();
        macs.dedup();
        assert_eq!(macs.len(), 7, "no two ports are alike");
    }
}
