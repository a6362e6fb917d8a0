//! Nodes that find each other by what the settings switch on: a relay, DNS, pkarr, multicast DNS; and those for whom nothing is
//! switched on. Every server is the test's own.
#![allow(clippy::disallowed_methods, reason = "a test sets up the network namespace that it is in")]

mod servers;

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv6Addr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aspen_lab::fabric::namespace::Namespace;
use aspen_node::cluster::identity::Identity;
use aspen_node::cluster::ticket::AspenClusterTicket;
use aspen_node::metrics::NetworkMetrics;
use aspen_node::network::incarnation::Incarnations;
use aspen_node::network::iroh::{Admission, JoinError, RaftEndpoint};
use aspen_node::network::join::Wish;
use aspen_node::network::lookups::{Lookups, Reach, Relays};
use aspen_node::network::secret::{ClusterSecrets, new_secret};
use aspen_node::network::{AddressBook, Peer, Transport};
use aspen_node::types::{Command as Write, EncodedCommand, Key, NodeId, NodeInfo, Value};
use nix::sys::signal::Signal;
use serde_json::json;

use self::servers::{NameServer, PkarrRelay, Relay};
use crate::host;
use crate::http_client::{get, post};
use crate::joining::Closed;
use crate::lab;
use crate::nodes::set;

/// A UDP address that no socket of IPv4 reaches, if this host has any.
fn beyond_ipv4() -> Option<UdpSocket> {
    let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).ok();
    if socket.is_none() {
        host::lacks("ipv6", "IPv6 on loopback");
    }
    socket
}

/// Two voters behind a relay: one is at an address of IPv4, the other at one of IPv6, and neither has a socket of the other kind.
fn apart(relay: &Relay) -> Option<Closed> {
    let address = beyond_ipv4()?.local_addr().unwrap();
    let mut closed = Closed::new(2);
    closed.nodes.environment =
        vec![("ASPEN_RELAY_MODE", "custom".to_owned()), ("ASPEN_RELAY_URLS", relay.url())];
    closed.nodes.give_raft(2, address);
    closed.found(&["--target-voters", "2"]);
    closed.join(2);
    closed.counts(1, (2, 2));
    Some(closed)
}

#[test]
fn nodes_that_reach_a_relay_only_are_a_cluster() {
    let mut relay = Relay::start();
    let Some(closed) = apart(&relay) else { return };
    closed.nodes.succeeds(2, "/kv/write", &set("k", "by relay"));
    let read = closed.nodes.succeeds(1, "/kv/read", &json!({ "key": "k" }));
    assert_eq!(read["value"], "by relay");
    assert!(relay.relayed() > 10, "{} packets", relay.relayed());
    // There is no other way.
    relay.close();
    closed.nodes.comes("refusal", || {
        let (status, _) = post(closed.nodes.http(1), "/kv/write", &set("k", "alone")).ok()?;
        [503, 504].contains(&status).then_some(())
    });
    relay.open();
    // iroh tries one that was away again after 16 s at the latest.
    let deadline = Instant::now() + Duration::from_mins(1);
    while !post(closed.nodes.http(2), "/kv/write", &set("k", "again")).is_ok_and(|(status, _)| status == 200)
    {
        assert!(Instant::now() < deadline, "{}", closed.nodes.last_words(2));
        std::thread::sleep(lab::LOOK_INTERVAL);
    }
}

/// It is at the relay, and knows whom to ask for.
#[test]
fn stranger_at_the_relay_is_let_in_no_more_than_elsewhere() {
    let relay = Relay::start();
    let Some(closed) = apart(&relay) else { return };
    let ticket: AspenClusterTicket = closed.ticket(1).parse().unwrap();
    let member = ticket.peers.iter().find(|peer| peer.raft.is_ipv4()).unwrap();
    let address = beyond_ipv4().unwrap().local_addr().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let own = Identity::from_secret([7; 32]);
        let info = NodeInfo { endpoint_id: own.endpoint_id(), raft: address, http: address };
        let relays = Relays::Custom(vec![relay.url().parse().unwrap()]);
        let reach = Reach { lookups: Lookups { relays, ..Lookups::default() }, published: None };
        let admission = Arc::new(Admission::new([], Incarnations::default()));
        let bound = RaftEndpoint::bind(own.secret(), address, AddressBook::default(), admission, reach);
        let endpoint = bound.await.unwrap();
        let wrong = ClusterSecrets::parse(new_secret(), "a test").unwrap();
        let error = loop {
            // Until it has found its way.
            match endpoint.ask(&wrong, member, &info, Wish::Join(None)).await.unwrap_err() {
                JoinError::Unreachable(_) => {}
                error => break error,
            }
        };
        assert!(matches!(error, JoinError::WrongSecret), "{error}");
        let write = Write::Set { key: Key::from("k"), value: Value::from("a stranger's") };
        let peer = Peer { id: NodeId(1), info: member.clone() };
        let within = Duration::from_secs(5);
        let refused = endpoint
            .transport(NetworkMetrics::default())
            .forward(&peer, EncodedCommand::from(&write), within)
            .await;
        assert!(refused.is_err(), "{refused:?}");
    });
    let status = closed.status(1);
    assert_eq!(status["refused_connections"], 2, "{status}");
    let (status, answer) = post(closed.nodes.http(1), "/kv/read", &json!({ "key": "k" })).unwrap();
    assert_eq!(status, 404, "{answer}");
}

/// Three voters, none of whom is where anybody remembers it; `tell` is told when that is so.
fn find_each_other(environment: Vec<(&'static str, String)>, tell: impl FnOnce(&Closed)) -> Closed {
    let ids = [1, 2, 3];
    let mut closed = Closed::new(3);
    closed.nodes.environment = environment;
    closed.found(&["--target-voters", "3"]);
    for id in [2, 3] {
        closed.join(id);
    }
    closed.counts(1, (3, 3));
    for id in ids {
        assert_eq!(closed.nodes.end(id, Signal::SIGTERM).code(), Some(0));
    }
    closed.nodes.give_addresses(&ids);
    tell(&closed);
    for id in ids {
        closed.start(id, &[]);
    }
    let read = closed.nodes.succeeds(3, "/kv/read", &json!({ "key": "first" }));
    assert_eq!(read["value"], "of all");
    // Found once, they say the rest themselves.
    let mut want = ids.map(|id| closed.nodes.http(id).to_string());
    want.sort();
    closed.nodes.comes("membership with the new addresses", || {
        let status = get(closed.nodes.http(1), "/cluster/status").ok()?.1;
        let members = status["members"].as_array()?.iter();
        let mut found: Vec<String> =
            members.filter_map(|member| Some(member["http"].as_str()?.to_owned())).collect();
        found.sort();
        (found == want).then_some(())
    });
    closed
}

#[test]
fn members_that_have_all_moved_are_found_by_dns() {
    let server = NameServer::start();
    let environment =
        vec![("ASPEN_DNS_LOOKUP", "nodes.test".to_owned()), ("ASPEN_DNS_SERVER", server.address.to_string())];
    find_each_other(environment, |closed| {
        for id in [1, 2, 3] {
            let member = closed.nodes.member(id);
            server.know("nodes.test", &member.endpoint_id, &format!("addr={}", member.raft));
        }
    });
    // Three keys, and nothing else.
    assert_eq!(server.asked().len(), 3, "{:?}", server.asked());
}

#[test]
fn members_that_have_all_moved_are_found_by_pkarr() {
    let relay = PkarrRelay::start();
    // Where there is a proxy for everything else.
    let environment = vec![("ASPEN_PKARR_RELAY", relay.url()), ("NO_PROXY", "127.0.0.1".to_owned())];
    let closed = find_each_other(environment, |_| {});
    for id in [1, 2, 3] {
        let member = closed.nodes.member(id);
        let published = relay.published(&member.endpoint_id).unwrap();
        assert!(published.contains(&format!("addr={}", member.raft)), "{published:?}");
    }
}

#[test]
fn members_that_have_all_moved_are_found_by_multicast_dns() {
    let Some(network) = multicast_network() else { return };
    let found = network.run(|| drop(find_each_other(vec![("ASPEN_MDNS", "true".to_owned())], |_| {})));
    found.unwrap();
}

/// A network of this machine alone, on which multicast goes round.
fn multicast_network() -> Option<Namespace> {
    let Some(ip) = host::program(&["ip"]).filter(|_| nix::unistd::geteuid().is_root()) else {
        host::lacks("netns", "root and ip (apt-get install iproute2), which set up a network");
        return None;
    };
    let network = Namespace::create().unwrap();
    let set_up = |words: &str| {
        let output = Command::new(&ip).args(words.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let words = ["link set lo up", "link set lo multicast on", "route add 224.0.0.0/4 dev lo"];
    network.run(|| words.into_iter().for_each(set_up)).unwrap();
    Some(network)
}

/// Its sockets are those that its settings name: nothing is asked, published or relayed.
#[test]
fn node_with_nothing_switched_on_speaks_with_its_peers_only() {
    let mut closed = Closed::new(2);
    closed.found(&["--target-voters", "2"]);
    closed.join(2);
    closed.counts(1, (2, 2));
    for id in [1, 2] {
        let member = closed.nodes.member(id);
        let sockets = fs::read_dir(format!("/proc/{}/fd", closed.nodes.process(id))).unwrap();
        let links = sockets.filter_map(|socket| fs::read_link(socket.unwrap().path()).ok());
        let own: BTreeSet<String> = links
            .filter_map(|link| {
                Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned())
            })
            .collect();
        let of = |table: &str| -> Vec<String> {
            let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
            let fields = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
            fields.filter(|fields| own.contains(fields[9])).map(|fields| fields[1].to_owned()).collect()
        };
        let written = |port: u16| format!("0100007F:{port:04X}");
        assert_eq!(of("udp"), [written(member.raft.port())]);
        // Those of clients are at the same address as the one that takes them in.
        let http = written(member.http.port());
        assert!(of("tcp").iter().all(|address| *address == http), "{:?}", of("tcp"));
        assert_eq!([of("udp6"), of("tcp6")].concat(), Vec::<String>::new());
    }
}

/// They are refused by a node that gets to see them.
#[test]
fn nodes_of_the_lab_see_no_setting_of_whoever_runs_it() {
    let Some((_turn, home)) = lab::bench() else { return };
    let file = lab::topology("three-nodes");
    let environment = [("ASPEN_RELAY_MODE", "everywhere"), ("ASPEN_PKARR_RELAY", "nowhere")];
    let run = lab::run(home.path(), "run", &[file.to_str().unwrap(), "--quiet"], &environment);
    assert_eq!(run.code, Some(0), "{}", run.output());
}
