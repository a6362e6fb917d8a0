//! Members come and go: an empty node learns all that there is, votes, leads, and others leave.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::http_client::{get, post, request};
use crate::nodes::{Nodes, set, three_nodes};

/// Who leads, as every one of these nodes has it.
pub(crate) fn leader(nodes: &Nodes, ids: &[u64]) -> u64 {
    nodes.comes("leader", || {
        let seen =
            ids.iter().map(|id| get(nodes.http(*id), "/cluster/status").ok()?.1["leader"]["id"].as_u64());
        let seen: Vec<Option<u64>> = seen.collect();
        seen[0].filter(|_| seen.iter().all(|leader| *leader == seen[0]))
    })
}

/// What a node says of the members: their numbers, and who of them votes.
pub(crate) fn members(status: &Value) -> (Vec<u64>, Vec<u64>) {
    let members = status["members"].as_array().unwrap();
    let number = |member: &Value| member["id"].as_u64().unwrap();
    let voters = members.iter().filter(|member| member["is_voter"] == true);
    (members.iter().map(number).collect(), voters.map(number).collect())
}

/// Sends a change of members to a node, again and again while another one is under way.
#[track_caller]
fn change(nodes: &Nodes, id: u64, path: &str, body: &Value) -> Value {
    nodes.comes(path, || {
        let (status, answer) = post(nodes.http(id), path, body).unwrap();
        // Another one is under way, or this one goes on.
        if ["change_in_progress", "timeout"].iter().any(|code| answer["error"]["code"] == *code) {
            return None;
        }
        assert_eq!(status, 200, "{path} {body}: {answer}\n{}", nodes.last_words(id));
        Some(answer)
    })
}

/// An earlier system of this shape never got an empty learner up to date once its log was cut.
#[test]
fn empty_learner_gets_everything_votes_leads_and_the_others_leave() {
    let (ids, mut nodes) = three_nodes_of_four();
    request(nodes.http(1), "POST", "/cluster/init", "").unwrap();
    let value = "v".repeat(100_000);
    for number in 0..125 {
        nodes.succeeds(1, "/kv/write", &set(&format!("key {number}"), &value));
    }
    let first = leader(&nodes, &ids);
    nodes.comes("cut log", || get(nodes.http(first), "/raft/state").unwrap().1["purged"]["index"].as_u64());

    let joiner = nodes.member(4);
    let learner = json!({
        "id": 4, "endpoint_id": joiner.endpoint_id, "raft": joiner.raft, "http": joiner.http,
    });
    // Only the leader changes members, and says who that is.
    let follower = first % 3 + 1;
    let (status, refused) = post(nodes.http(follower), "/cluster/add-learner", &learner).unwrap();
    assert_eq!((status, &refused["error"]["leader"]["id"]), (503, &json!(first)), "{refused}");
    nodes.start(4, &[1, 2, 3, 4]);
    nodes.answers(4);
    let status = change(&nodes, first, "/cluster/add-learner", &learner);
    assert_eq!(members(&status), (vec![1, 2, 3, 4], vec![1, 2, 3]));
    change(&nodes, first, "/cluster/add-learner", &learner);
    nodes.comes("learner with everything", || {
        let digests = [first, 4].map(|id| get(nodes.http(id), "/state/digest").unwrap().1);
        (digests[0] == digests[1]).then_some(())
    });
    let counted = nodes.succeeds(4, "/kv/scan", &json!({ "detail": "count", "consistency": "stale" }));
    assert_eq!(counted["count"], json!(125));

    let promoted = change(&nodes, first, "/cluster/promote-learner", &json!({ "id": 4 }));
    assert_eq!(members(&promoted).1, [1, 2, 3, 4]);
    change(&nodes, first, "/cluster/transfer-leader", &json!({ "id": 4 }));
    assert_eq!(leader(&nodes, &[1, 2, 3, 4]), 4);
    change(&nodes, 4, "/cluster/remove-member", &json!({ "id": first }));
    let others: Vec<u64> = ids.into_iter().filter(|id| *id != first).collect();
    let status =
        change(&nodes, 4, "/cluster/change-membership", &json!({ "voters": [4, others[0]], "retain": true }));
    assert_eq!(members(&status), ([others.clone(), vec![4]].concat(), vec![others[0], 4]));
    let written = nodes.succeeds(others[1], "/kv/write", &set("last", "v"));
    let read = nodes.succeeds(others[1], "/kv/read", &json!({ "key": "last" }));
    assert_eq!(read["mod_revision"], written["revision"]);

    // A learner that is removed hears nothing of it: it knows that what it hands on was not read, and that no leader speaks to it.
    change(&nodes, 4, "/cluster/remove-member", &json!({ "id": others[1] }));
    let refused = nodes.comes("refusal", || {
        let (status, answer) = post(nodes.http(others[1]), "/kv/write", &set("more", "v")).unwrap();
        (status == 503).then_some(answer)
    });
    assert_eq!(refused["error"]["code"], "not_leader", "{refused}");
    nodes.comes("health without a leader", || {
        let (status, health) = get(nodes.http(others[1]), "/health").unwrap();
        (status == 503 && health["reason"] == "no leader is known").then_some(())
    });
    assert_eq!(post(nodes.http(4), "/kv/read", &json!({ "key": "more" })).unwrap().0, 404);
}

/// Three that run, and a fourth that does not yet.
fn three_nodes_of_four() -> ([u64; 3], Nodes) {
    let ids = [1, 2, 3];
    let mut nodes = Nodes::new(4);
    nodes.flags = vec!["--snapshot-entries", "20"];
    for id in ids {
        nodes.start(id, &ids);
    }
    for id in ids {
        nodes.answers(id);
    }
    (ids, nodes)
}

#[test]
fn changes_of_members_that_cannot_be_are_refused() {
    let (ids, nodes) = three_nodes(&[]);
    request(nodes.http(1), "POST", "/cluster/init", "").unwrap();
    let leader = leader(&nodes, &ids);
    nodes.succeeds(leader, "/kv/write", &set("k", "v"));
    let key = &nodes.member(1).endpoint_id;
    let refused = |path: &str, body: Value, want: (u16, &str)| {
        let (status, answer) = post(nodes.http(leader), path, &body).unwrap();
        assert_eq!((status, answer["error"]["code"].as_str().unwrap()), want, "{path} {body}: {answer}");
    };
    let address = "127.0.0.1:9";
    let other_key = "ab".repeat(32);
    let learner =
        |id: u64, key: &str| json!({ "id": id, "endpoint_id": key, "raft": address, "http": address });
    refused("/cluster/add-learner", learner(1, key), (409, "member_exists"));
    refused("/cluster/add-learner", learner(7, key), (400, "members"));
    refused("/cluster/add-learner", learner(0, &other_key), (400, "malformed"));
    refused("/cluster/add-learner", json!({ "id": 9 }), (400, "members"));
    refused("/cluster/add-learner", json!({ "id": 9, "raft": address }), (400, "malformed"));
    refused("/cluster/promote-learner", json!({ "id": 9 }), (400, "members"));
    refused("/cluster/change-membership", json!({ "voters": [] }), (400, "members"));
    refused("/cluster/change-membership", json!({ "voters": [1, 9] }), (400, "members"));
    refused("/cluster/transfer-leader", json!({ "id": 9 }), (400, "members"));
    refused("/cluster/transfer-leader", json!({ "to": 1 }), (400, "malformed"));
    refused("/cluster/snapshot", json!({ "of": 1 }), (400, "malformed"));
    refused("/cluster/ticket", json!({}), (405, "method_not_allowed"));
    // What is so already is no change.
    let status = change(&nodes, leader, "/cluster/change-membership", &json!({ "voters": [1, 2, 3] }));
    assert_eq!(members(&status).1, [1, 2, 3]);
    change(&nodes, leader, "/cluster/transfer-leader", &json!({ "id": leader }));
}

/// A change that cannot be made is not begun: half done, it would stand in the way of every other.
#[test]
fn changes_wait_for_members_that_answer_and_for_a_majority() {
    let (ids, mut nodes) = three_nodes_of_four();
    request(nodes.http(1), "POST", "/cluster/init", "").unwrap();
    let first = leader(&nodes, &ids);
    let [follower, other] = [first % 3 + 1, (first + 1) % 3 + 1];
    let joiner = nodes.member(4);
    let learner = json!({
        "id": 4, "endpoint_id": joiner.endpoint_id, "raft": joiner.raft, "http": joiner.http,
    });
    let routes = [
        ("/cluster/add-learner", learner.clone()),
        ("/cluster/promote-learner", json!({ "id": 4 })),
        ("/cluster/change-membership", json!({ "voters": [first, follower], "retain": true })),
        ("/cluster/remove-member", json!({ "id": other })),
        ("/cluster/transfer-leader", json!({ "id": follower })),
    ];
    let refused = |nodes: &Nodes, id: u64, (path, body): &(&str, Value), want: (u16, &str)| {
        let (status, answer) = post(nodes.http(id), path, body).unwrap();
        assert_eq!((status, answer["error"]["code"].as_str().unwrap()), want, "{path} {body}: {answer}");
        answer["error"]["message"].as_str().unwrap().to_owned()
    };
    for route in &routes {
        let text = refused(&nodes, follower, route, (503, "not_leader"));
        assert!(text.contains(&nodes.http(first).to_string()), "{text}");
    }
    // This asks nobody else.
    nodes.succeeds(follower, "/cluster/snapshot", &json!({}));
    // Node 4 is named as a member, and does not run.
    change(&nodes, first, routes[0].0, &learner);
    let text = refused(&nodes, first, &routes[1], (409, "member_silent"));
    assert_eq!(text, "node 4 does not answer its leader: start it, and ask again");
    nodes.end(follower, Signal::SIGKILL);
    nodes.comes("silence", || {
        let (_, status) = get(nodes.http(first), "/cluster/status").ok()?;
        let members = status["members"].as_array()?.clone();
        members.iter().any(|member| member["id"] == follower && member["health"] == "crashed").then_some(())
    });
    refused(&nodes, first, &routes[4], (409, "member_silent"));
    nodes.succeeds(first, "/kv/write", &set("k", "two of three go on"));
    // One of three is no majority.
    nodes.end(other, Signal::SIGKILL);
    refused(&nodes, first, &routes[3], (503, "no_quorum"));
    // What a node does by itself it does still.
    nodes.succeeds(first, "/cluster/snapshot", &json!({}));
    refused(&nodes, first, &("/cluster/change-membership", json!({ "voters": [first] })), (503, "no_quorum"));
    nodes.start(follower, &ids);
    let status = change(&nodes, first, routes[3].0, &routes[3].1);
    let mut left = vec![first, follower];
    left.sort_unstable();
    assert_eq!(members(&status), ([left.clone(), vec![4]].concat(), left));
}

/// With such patience nobody stands for election by itself while the test lasts.
#[test]
fn leader_that_is_stopped_hands_over_first() {
    let (_, mut nodes) =
        three_nodes(&["--election-ms-min", "60000", "--election-ms-max", "120000", "--heartbeat-ms", "100"]);
    request(nodes.http(1), "POST", "/cluster/init", "").unwrap();
    nodes.succeeds(1, "/kv/write", &set("k", "before"));
    let leader_by =
        |nodes: &Nodes, id: u64| get(nodes.http(id), "/cluster/status").ok()?.1["leader"]["id"].as_u64();
    for id in [2, 3] {
        nodes.comes("follower", || (leader_by(&nodes, id) == Some(1)).then_some(()));
    }
    assert_eq!(nodes.end(1, Signal::SIGTERM).code(), Some(0));
    let successor = nodes.comes("successor", || leader_by(&nodes, 2).filter(|id| *id != 1));
    assert!(nodes.last_words(1).contains("leadership is handed over"), "{}", nodes.last_words(1));
    let read = nodes.succeeds(5 - successor, "/kv/read", &json!({ "key": "k" }));
    assert_eq!(read["value"], "before");
}
