//! Leases: keys that end when nobody keeps them alive, on every node at once, and not before.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::http_client::{get, post, request};
use crate::members::leader;
use crate::nodes::{Nodes, position, three_quick_nodes};

fn grant(nodes: &Nodes, ttl_ms: u64) -> u64 {
    nodes.succeeds(1, "/leases", &json!({ "ttl_ms": ttl_ms }))["lease"].as_u64().unwrap()
}

fn keep(nodes: &Nodes, id: u64, lease: u64) -> (u16, Value) {
    post(nodes.http(id), &format!("/lease/{lease}/keep"), &json!({})).unwrap()
}

/// A write of one key that ends with a lease.
fn leased(lease: u64, key: &str) -> Value {
    json!({ "lease": lease, "command": { "Set": { "key": key, "value": "v" } } })
}

#[test]
fn keys_end_with_their_lease_on_every_node_in_one_entry() {
    let (ids, nodes) = three_quick_nodes();
    let from =
        nodes.succeeds(1, "/kv/write", &json!({ "command": { "Set": { "key": "stays", "value": "v" } } }));
    let began = Instant::now();
    let lease = grant(&nodes, 6_000);
    for key in ["a", "b"] {
        nodes.succeeds(2, "/kv/write", &leased(lease, key));
    }
    let mut in_vault = leased(lease, "c");
    in_vault["vault"] = "v".into();
    let last = nodes.succeeds(3, "/kv/write", &in_vault)["revision"].as_u64();
    for id in ids {
        nodes
            .comes("everything that was written", || (position(&nodes, id, "applied") >= last).then_some(()));
    }
    assert_eq!(nodes.succeeds(1, "/kv/read", &json!({ "key": "a" }))["lease"], lease);
    let leads = leader(&nodes, &ids);
    let listed = get(nodes.http(leads), "/leases").unwrap().1["leases"][0].clone();
    assert_eq!(
        (&listed["lease"], &listed["ttl_ms"], &listed["key_count"]),
        (&json!(lease), &json!(6_000), &json!(3))
    );
    assert!(listed["left_ms"].as_u64().is_none_or(|left| left <= 6_000), "{listed}");

    // Nobody keeps it alive. On every node all of it is there, or nothing.
    let page = |id: u64| nodes.succeeds(id, "/kv/scan", &json!({ "consistency": "stale" }));
    for id in ids {
        nodes.comes("the end of the lease", || {
            let page = page(id);
            let keys = page["entries"].as_array().unwrap().iter().map(|entry| entry["key"].as_str().unwrap());
            let keys: Vec<&str> = keys.filter(|key| ["a", "b", "stays"].contains(key)).collect();
            assert!(keys == ["a", "b", "stays"] || keys == ["stays"], "{keys:?}");
            (keys.len() == 1).then_some(())
        });
    }
    assert!(began.elapsed() >= Duration::from_secs(6), "{:?}", began.elapsed());
    // Each node tells those who follow it of one and the same revision.
    let from = from["revision"].as_u64().unwrap() + 1;
    let ends: Vec<(u64, Value)> = ids.map(|id| deletions(&nodes, id, from)).into();
    assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
    assert_eq!(ends[0].1, json!(["a", "b"]));
    let in_vault = nodes.succeeds(1, "/kv/scan", &json!({ "vault": "v" }));
    assert_eq!(in_vault["entries"], json!([]));

    assert_eq!(keep(&nodes, 2, lease).0, 404);
    let (status, answer) = post(nodes.http(3), "/kv/write", &leased(lease, "late")).unwrap();
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("lease_not_found")), "{answer}");
    for (body, code) in [(json!({ "ttl_ms": 999 }), "lease"), (json!({}), "malformed")] {
        let (status, answer) = post(nodes.http(1), "/leases", &body).unwrap();
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(code)), "{answer}");
    }
}

/// The first revision from `from` on in which a node tells of deletions outside vaults, and of which.
fn deletions(nodes: &Nodes, id: u64, from: u64) -> (u64, Value) {
    let mut watch = crate::watches::Watch::open(nodes.http(id), &format!("from_revision={from}"));
    loop {
        let (revision, changes) = watch.changes();
        let deleted =
            changes.iter().filter(|change| change["type"] == "delete").map(|change| change["key"].clone());
        let deleted: Vec<Value> = deleted.collect();
        if !deleted.is_empty() {
            return (revision, deleted.into());
        }
    }
}

/// Also where the leader is killed at once, an answer is kept: the lease lives for its whole time from when it was asked.
#[test]
fn lease_that_is_kept_alive_outlives_its_leaders() {
    let (ids, mut nodes) = three_quick_nodes();
    let ttl = Duration::from_secs(5);
    for round in ["first", "second"] {
        let lease = grant(&nodes, 5_000);
        let leads = leader(&nodes, &ids);
        let other = leads % 3 + 1;
        nodes.succeeds(other, "/kv/write", &leased(lease, round));
        let asked = Instant::now();
        assert_eq!(keep(&nodes, other, lease), (200, json!({ "lease": lease, "ttl_ms": 5_000 })));
        nodes.end(leads, Signal::SIGKILL);
        let mut is_read = false;
        loop {
            let (status, answer) = post(nodes.http(other), "/kv/read", &json!({ "key": round })).unwrap();
            if asked.elapsed() >= ttl {
                break;
            }
            assert_ne!(answer["error"]["code"], "key_not_found", "after {:?}", asked.elapsed());
            is_read |= status == 200;
        }
        assert!(is_read, "nobody led within {ttl:?}");
        nodes.start(leads, &ids);
        nodes.answers(leads);
        nodes.comes("the end of the lease", || {
            let (_, answer) = post(nodes.http(other), "/kv/read", &json!({ "key": round })).unwrap();
            (answer["error"]["code"] == "key_not_found").then_some(())
        });
    }
}

#[test]
fn lease_that_is_revoked_takes_its_keys_along_and_no_others() {
    let (_, nodes) = three_quick_nodes();
    let (one, two) = (grant(&nodes, 600_000), grant(&nodes, 600_000));
    for (lease, key) in [(one, "a"), (one, "b"), (one, "c"), (two, "b")] {
        nodes.succeeds(2, "/kv/write", &leased(lease, key));
    }
    // Written without one, it stays.
    nodes.succeeds(3, "/kv/write", &json!({ "command": { "Set": { "key": "c", "value": "w" } } }));
    let (status, answer) = request(nodes.http(3), "DELETE", &format!("/lease/{one}"), "").unwrap();
    assert_eq!((status, &answer["deleted"]), (200, &json!(1)), "{answer}");
    assert_eq!(request(nodes.http(1), "DELETE", &format!("/lease/{one}"), "").unwrap().0, 404);
    let page = nodes.succeeds(1, "/kv/scan", &json!({}));
    let keys: Vec<&str> =
        page["entries"].as_array().unwrap().iter().map(|entry| entry["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["b", "c", "first"]);
}
