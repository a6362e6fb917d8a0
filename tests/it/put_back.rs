//! Nodes whose disk was put back to an earlier state: the others find out, and they come back as other members or not at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use aspen_node::limits::{ABOUT_INTERVAL, BEAT_INTERVAL};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::http_client::{get, post};
use crate::joining::Closed;
use crate::members::members;
use crate::nodes::{Nodes, contents, set, three_quick_nodes};

/// What a node says that the others refuse for what it has forgotten.
const FORGOTTEN: &str = "has seen of it what it has forgotten";

/// A copy of a node's folder as it is now, beside it.
#[allow(clippy::disallowed_methods, reason = "cp copies a folder with all that it has")]
fn saved(data: &Path) -> PathBuf {
    let copy = data.with_extension("saved");
    assert!(Command::new("cp").arg("-a").args([data, &copy]).status().unwrap().success());
    copy
}

/// Puts a node's folder back.
fn put_back(saved: &Path, data: &Path) {
    fs::remove_dir_all(data).unwrap();
    fs::rename(saved, data).unwrap();
}

/// Waits until a node has what was written last.
fn has(nodes: &Nodes, id: u64, key: &str) {
    let body = json!({ "key": key, "consistency": "stale" });
    nodes.comes(key, || post(nodes.http(id), "/kv/read", &body).ok().filter(|(status, _)| *status == 200));
}

/// A node stops, its folder is saved, it runs on, is killed, and its folder is put back; `restart` starts it.
fn put_back_after(nodes: &mut Nodes, id: u64, restart: impl Fn(&mut Nodes)) {
    assert_eq!(nodes.end(id, Signal::SIGTERM).code(), Some(0));
    let saved = saved(&nodes.data(id));
    restart(nodes);
    nodes.succeeds(1, "/kv/write", &set("forgotten", "by one"));
    has(nodes, id, "forgotten");
    nodes.end(id, Signal::SIGKILL);
    put_back(&saved, &nodes.data(id));
}

/// None of them knows a secret, and the one that is put back might have the deciding vote.
#[test]
fn node_that_was_put_back_neither_votes_nor_acknowledges() {
    let (ids, mut nodes) = three_quick_nodes();
    put_back_after(&mut nodes, 3, |nodes| nodes.start(3, &ids));
    let leader = nodes.comes("leader", || leader(&nodes));
    let other = if leader == 1 { 2 } else { 1 };
    nodes.end(leader, Signal::SIGKILL);
    // Who is left has not forgotten, whoever asks whom.
    nodes.start(3, &ids);
    assert_eq!(nodes.ended(3).code(), Some(65));
    let words = nodes.last_words(3);
    assert!(words.contains(FORGOTTEN) && words.contains("rejoin as a new member"), "{words}");
    let (status, answer) = post(nodes.http(other), "/kv/write", &set("k", "v")).unwrap();
    assert!([503, 504].contains(&status), "{status} {answer}");
    // It bears the mark now, and asks nobody.
    nodes.start(3, &ids);
    assert_eq!(nodes.ended(3).code(), Some(65));
    assert_eq!(nodes.last_words(3).matches("ready").count(), 3, "{}", nodes.last_words(3));
    nodes.start(leader, &ids);
    nodes.succeeds(other, "/kv/write", &set("k", "by two of three"));
    nodes.comes("all three keys", || (contents(&nodes, other, "").len() == 3).then_some(()));
}

/// As a virtual machine's disk of which a snapshot was taken while it ran. The others remember it when they have been started again
/// themselves.
#[test]
fn disk_that_was_saved_while_the_node_ran_is_found_out() {
    let (ids, mut nodes) = three_quick_nodes();
    // It has been there for a while.
    has(&nodes, 3, "first");
    nodes.signal(3, Signal::SIGSTOP);
    let saved = saved(&nodes.data(3));
    nodes.signal(3, Signal::SIGCONT);
    let began = Instant::now();
    while began.elapsed() < 2 * (BEAT_INTERVAL + ABOUT_INTERVAL) {
        nodes.succeeds(1, "/kv/write", &set("forgotten", "by one"));
        std::thread::sleep(Duration::from_millis(500));
    }
    has(&nodes, 3, "forgotten");
    for id in ids {
        nodes.end(id, Signal::SIGKILL);
    }
    put_back(&saved, &nodes.data(3));
    for id in ids {
        nodes.start(id, &ids);
    }
    assert_eq!(nodes.ended(3).code(), Some(65));
    assert!(nodes.last_words(3).contains(FORGOTTEN), "{}", nodes.last_words(3));
}

/// It meets nobody when it is started again first.
#[test]
fn node_that_was_put_back_is_found_out_however_often_it_was_started() {
    let (ids, mut nodes) = three_quick_nodes();
    put_back_after(&mut nodes, 3, |nodes| nodes.start(3, &ids));
    for id in [1, 2] {
        nodes.end(id, Signal::SIGKILL);
    }
    for _ in 0..2 {
        nodes.start(3, &ids);
        nodes.answers(3);
        nodes.end(3, Signal::SIGKILL);
    }
    for id in [1, 2] {
        nodes.start(id, &ids);
    }
    nodes.succeeds(1, "/kv/write", &set("k", "by two of three"));
    nodes.start(3, &ids);
    assert_eq!(nodes.ended(3).code(), Some(65));
}

/// Who leads, as the first two have it.
fn leader(nodes: &Nodes) -> Option<u64> {
    let status = get(nodes.http(1), "/cluster/status").ok()?.1;
    status["leader"]["id"].as_u64().filter(|leader| *leader != 3)
}

const POLICY: [&str; 4] = ["--target-voters", "3", "--replace-after-s", "5"];

/// Three voters of which the last two know the ticket for good; and what they are started with.
fn three_that_rejoin() -> (Closed, Vec<String>) {
    let mut closed = Closed::new(3);
    closed.found(&POLICY);
    let ticket = closed.ticket(1);
    let secret = closed.secret_file();
    let flags = [&["--secret-file", secret.to_str().unwrap(), "--rejoin", "--ticket", &ticket], &POLICY[..]];
    let flags = flags.concat();
    for id in [2, 3] {
        closed.nodes.start_alone(id, &flags);
    }
    closed.counts(1, (3, 3));
    (closed, flags.into_iter().map(str::to_owned).collect())
}

/// Nobody is told anything: the cluster replaces the member that it was with the one that it becomes.
#[test]
fn member_whose_disk_was_put_back_rejoins_as_a_new_one() {
    let (mut closed, flags) = three_that_rejoin();
    let was = closed.status(3)["id"].as_u64().unwrap();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    put_back_after(&mut closed.nodes, 3, |nodes| nodes.start_alone(3, &flags));
    closed.nodes.start_alone(3, &flags);
    let status = closed.nodes.comes("another member", || {
        // While it asks to be let in, it has none.
        let (200, status) = get(closed.nodes.http(3), "/cluster/status").ok()? else { return None };
        let (all, voters) = members(&status);
        let is_replaced = !all.contains(&was) && voters.len() == 3;
        is_replaced.then_some(status)
    });
    assert!(closed.nodes.last_words(3).contains(FORGOTTEN), "{}", closed.nodes.last_words(3));
    assert_eq!(status["id"], json!(4));
    let read = closed.nodes.succeeds(3, "/kv/read", &json!({ "key": "forgotten" }));
    assert_eq!(read["value"], "by one");
    let aside = closed.nodes.data(3).join("set-aside-1");
    for name in ["identity.key", "log.redb", "cluster.redb", "retired"] {
        assert!(aside.join(name).exists(), "{name} was not set aside");
    }
    // It is who it is now.
    assert_eq!(closed.nodes.end(3, Signal::SIGTERM).code(), Some(0));
    closed.nodes.start_alone(3, &flags);
    closed.nodes.comes("itself", || (closed.status(3)["id"] == json!(4)).then_some(()));
    closed.nodes.succeeds(3, "/kv/write", &set("k", "after"));
}

#[test]
fn member_that_is_removed_rejoins_where_it_should() {
    let (closed, _) = three_that_rejoin();
    let removed = closed.status(3)["id"].as_u64().unwrap();
    closed.nodes.comes("removal", || {
        let body: Value = json!({ "id": removed });
        post(closed.nodes.http(1), "/cluster/remove-member", &body).ok().filter(|(status, _)| *status == 200)
    });
    closed.nodes.comes("another member", || {
        let (all, voters) = members(&closed.status(1));
        (!all.contains(&removed) && voters.len() == 3).then_some(())
    });
    let words = closed.nodes.last_words(3);
    assert!(words.contains("its cluster has removed it"), "{words}");
    assert_eq!(closed.status(3)["id"], json!(4));
}
