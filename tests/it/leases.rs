//! Reads by the leader's lease, on real nodes: what they say, and the promise that they rest on.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::http_client::{get, post, raw, request};
use crate::nodes::{Nodes, set, three_nodes};

/// A cluster with a key in it, and its leader.
fn founded(flags: &[&'static str]) -> (Nodes, u64) {
    let (ids, nodes) = three_nodes(flags);
    request(nodes.http(1), "POST", "/cluster/init", "").unwrap();
    nodes.succeeds(1, "/kv/write", &set("k", "v"));
    let leader = nodes.comes("leader", || leader_by(&nodes, ids[0]));
    (nodes, leader)
}

fn leader_by(nodes: &Nodes, id: u64) -> Option<u64> {
    get(nodes.http(id), "/cluster/status").ok()?.1["leader"]["id"].as_u64()
}

#[test]
fn read_by_a_lease_says_so_wherever_it_was_asked() {
    let (nodes, leader) = founded(&["--lease-clock", "own"]);
    let lease = json!({ "key": "k", "consistency": "lease" });
    for id in [leader, leader % 3 + 1] {
        // The first answer of a quorum may still be on its way.
        let read = nodes.comes("lease", || {
            let (status, read) = post(nodes.http(id), "/kv/read", &lease).ok()?;
            (status == 200 && read["confirmed_by"] == "lease").then_some(read)
        });
        assert_eq!(read["value"], "v");
    }
    let page = nodes.succeeds(leader, "/kv/scan", &json!({ "consistency": "lease" }));
    assert_eq!((&page["confirmed_by"], &page["entries"][0]["key"]), (&json!("lease"), &json!("k")));
    let by = |query: &str| {
        let answer = raw(nodes.http(leader), "GET", &format!("/kv/key/k{query}"), &[], b"").unwrap();
        answer.header("aspen-confirmed-by").map(str::to_owned)
    };
    assert_eq!(by("?consistency=lease").as_deref(), Some("lease"));
    assert_eq!(by("").as_deref(), Some("quorum"));
    assert_eq!(by("?consistency=stale").as_deref(), Some("nobody"));
}

#[test]
fn node_without_leases_asks_a_quorum_and_says_so() {
    let (nodes, leader) = founded(&["--lease-clock", "off"]);
    let read = nodes.succeeds(leader, "/kv/read", &json!({ "key": "k", "consistency": "lease" }));
    assert_eq!((&read["confirmed_by"], &read["value"]), (&json!("quorum"), &json!("v")));
}

/// Whoever has heard from a leader elects no other one while that may count on it, whatever happens to itself meanwhile.
#[test]
fn node_that_was_killed_keeps_its_promise_to_the_leader() {
    let (mut nodes, leader) = founded(&["--election-ms-min", "2000", "--election-ms-max", "6000"]);
    let others = [leader % 3 + 1, (leader + 1) % 3 + 1];
    for other in others {
        nodes.comes("follower", || (leader_by(&nodes, other) == Some(leader)).then_some(()));
    }
    for id in [leader, others[0], others[1]] {
        nodes.end(id, Signal::SIGKILL);
    }
    let began = Instant::now();
    for other in others {
        nodes.start(other, &[1, 2, 3]);
    }
    nodes.comes("new leader", || leader_by(&nodes, others[0]).filter(|led_by| *led_by != leader));
    let lease = Duration::from_secs(3);
    assert!(began.elapsed() >= lease, "elected after {:?}, a lease has {lease:?}", began.elapsed());
}
