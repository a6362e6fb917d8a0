use super::*;
use crate::limits::NODES_MAX;

const SMALL: &str = "\
name: small
about: Two nodes, one client.
nodes: { count: 2 }
workload: { clients: 1, rate: 10/s }
faults:
  - { at: 9s, kill: leader, restart_after: 1s, every: 2s, times: 2 }
  - { at: 2s, for: 3s, partition: [[leader], [rest]] }
checks: [linearizable, { recovers: { within: 10s } }]
";

fn plan(text: &str, seed: u64) -> Plan {
    Plan::new(&Scenario::parse("s.yaml", text).unwrap(), seed)
}

#[test]
fn same_scenario_and_seed_give_the_same_bytes() {
    let json = plan(SMALL, 7).to_json();
    assert_eq!(json, plan(SMALL, 7).to_json());
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap().to_json(), json);
}

/// If this fails, then old seeds no longer replay old runs: change `small.json` only on purpose.
#[test]
fn plan_is_this_text() {
    assert_eq!(plan(SMALL, 7).to_json(), include_str!("small.json"));
}

#[test]
fn another_seed_changes_everything_that_is_drawn() {
    let (seven, eight) = (plan(SMALL, 7), plan(SMALL, 8));
    assert_ne!(seven.network, eight.network);
    assert_ne!(seven.lab.mac, eight.lab.mac);
    for (left, right) in seven.nodes.iter().zip(&eight.nodes) {
        assert_ne!(left.secret_key_seed, right.secret_key_seed);
        assert_ne!(left.mac, right.mac);
        assert_ne!(left.raft_port, right.raft_port);
        assert_ne!(left.http_port, right.http_port);
    }
    assert_ne!(seven.workload.clients[0].seed, eight.workload.clients[0].seed);
    assert_ne!(seven.workload.readers[0].seed, eight.workload.readers[0].seed);
    assert_ne!(seven.steps[0].draws, eight.steps[0].draws);
    // And nothing else.
    assert_eq!(seven.scenario_hash, eight.scenario_hash);
    assert_eq!(seven.duration_ms, eight.duration_ms);
}

#[test]
fn one_more_fault_changes_no_key() {
    let more =
        SMALL.replace("checks:", "  - { at: 1s, for: 1s, link: { from: n1, to: n2, loss: 100% } }\nchecks:");
    let (left, right) = (plan(SMALL, 7), plan(&more, 7));
    assert_eq!(left.nodes, right.nodes);
    assert_eq!(left.workload, right.workload);
    // It is due first, although it is written last.
    assert_eq!(right.steps[0].fault, 2);
    assert_eq!(left.steps, right.steps[1..]);
    assert_ne!(left.scenario_hash, right.scenario_hash);
}

#[test]
fn largest_cluster_has_distinct_addresses_and_ports() {
    let text =
        SMALL.replace("count: 2", &format!("count: {NODES_MAX}")).replace("clients: 1", "clients: 200");
    for seed in 0..20 {
        let plan = plan(&text, seed);
        let mut ports: Vec<u16> =
            plan.nodes.iter().flat_map(|node| [node.raft_port, node.http_port]).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 2 * usize::from(NODES_MAX));
        assert!(ports[0] > 10_000 && ports[ports.len() - 1] < 32_768, "{ports:?}");
        let mut macs: Vec<MacAddress> =
            plan.nodes.iter().map(|node| node.mac).chain([plan.lab.mac]).collect();
        macs.sort_unstable();
        macs.dedup();
        assert_eq!(macs.len(), usize::from(NODES_MAX) + 1);
        assert!(macs.iter().all(|mac| mac.0[0] == 2));
        // Four clients for each of the fifty nodes, and one reader.
        for node in plan.node_indexes() {
            assert_eq!(plan.workload.clients.iter().filter(|client| client.node == node).count(), 4);
            assert_eq!(plan.workload.readers[node.position()].node, node);
        }
    }
}

#[test]
fn networks_are_drawn_apart_and_written_where_there_are_any() {
    let more = "networks:
  - { id: a, subnet: [ipv6, ipv4], mtu: 9000 }
  - { id: b, subnet: 10.0.0.0/16, nodes: [n2] }
  - { id: c }
faults:";
    for seed in 0..20 {
        let plan = plan(&SMALL.replace("faults:", more), seed);
        assert_eq!(serde_json::from_str::<Plan>(&plan.to_json()).unwrap(), plan);
        let [b, c] = plan.client_networks.as_slice() else { panic!("{:?}", plan.client_networks) };
        let second = plan.network.second.unwrap();
        // Those of the seed are none of 10.0.0.0/16.
        for subnet in [second, c.network.subnet] {
            assert!(subnet.address > "10.0.255.255".parse::<IpAddr>().unwrap(), "{subnet:?}");
        }
        assert_ne!(second, c.network.subnet);
        assert_eq!((plan.network.mtu, plan.network.subnet.prefix), (9000, 64));
        assert_eq!((b.ports.len(), c.ports.len()), (1, 2));
        // Clients take the last network that a node is on.
        assert_eq!(plan.nodes[1].client_ip, Some(c.ports[1].ip));
        assert_eq!(plan.nodes[1].raft_address().ip(), plan.network.node(NodeIndex(1)));
        assert_eq!(plan.nodes[1].http_address().ip(), c.ports[1].ip);
    }
}

#[test]
fn random_choices_depend_on_the_seed() {
    let first_nodes = |seed| plan(SMALL, seed).workload.clients[0].node;
    assert!((0..20).any(|seed| first_nodes(seed) != first_nodes(0)));
}

#[test]
fn zones_and_links_are_written_where_there_are_any() {
    let zones = SMALL.replace("{ count: 2 }", "[{ id: n1, zone: eu }, { id: n2 }]");
    let more = zones.replace("faults:", "links: [{ between: [eu, n2], latency: 40ms, loss: 1% }]\nfaults:");
    let (left, right) = (plan(SMALL, 7), plan(&more, 7));
    let json: serde_json::Value = serde_json::from_str(&right.to_json()).unwrap();
    assert_eq!(json["nodes"][0]["zone"], "eu");
    assert_eq!(json["nodes"][1].get("zone"), None);
    let link = serde_json::json!({ "from": 0, "to": 1, "latency_ms": 40, "jitter_ms": 0, "loss_per_million": 10_000 });
    assert_eq!(json["links"][0], link);
    assert_eq!(json["links"].as_array().unwrap().len(), 2);
    assert_eq!(serde_json::from_str::<Plan>(&right.to_json()).unwrap(), right);
    // Nothing that is drawn changes.
    assert_eq!(left.steps, right.steps);
    assert_eq!(left.workload, right.workload);
}
