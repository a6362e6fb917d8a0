//! Nodes that die in the middle of what they do, at every point that the program names and at random, while clients write: they
//! come back, and nothing that was acknowledged is lost.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle, sleep};
use std::time::Duration;

use aspen_node::failpoint::{FAIL_POINTS, FailPoint, VARIABLE};
use nix::sys::signal::Signal;
use rand::RngExt;
use serde_json::{Value, json};

use crate::http_client::{get, post, request};
use crate::lab::rounds;
use crate::nodes::{Nodes, contents, position, set, three_nodes_of, validate};
use crate::selftest::planted_node;

const IDS: [u64; 3] = [1, 2, 3];
/// The node that dies at every point.
const VICTIM: u64 = 3;
/// Far longer than a write of the log takes.
const LOG_WRITTEN: Duration = Duration::from_millis(300);
/// Few, so that a node that is away for a moment needs a snapshot.
const SNAPSHOT_ENTRIES: &str = "40";

/// Writes key after key, through whichever node answers, until it is told to stop; what was acknowledged.
struct Writer<'a> {
    is_over: &'a AtomicBool,
    acknowledged: &'a Mutex<BTreeMap<String, (String, u64)>>,
}

impl<'a> Writer<'a> {
    fn start<'scope>(
        self,
        scope: &'scope Scope<'scope, '_>,
        nodes: Vec<SocketAddr>,
    ) -> ScopedJoinHandle<'scope, ()>
    where
        'a: 'scope,
    {
        scope.spawn(move || {
            let mut number = 0_u32;
            while !self.is_over.load(Ordering::Relaxed) {
                let (key, value) = (format!("key {:03}", number % 500), format!("value {number}"));
                let write = |node: &SocketAddr| match post(*node, "/kv/write", &set(&key, &value)) {
                    Ok((200, answer)) => answer["revision"].as_u64(),
                    Ok(_) | Err(_) => None,
                };
                if let Some(revision) = nodes.iter().find_map(write) {
                    self.acknowledged.lock().unwrap().insert(key, (value, revision));
                }
                number += 1;
            }
        })
    }
}

/// Has another node lead, as far as there is one that can.
fn elect(nodes: &Nodes, to: u64) {
    nodes.comes(&format!("leader {to}"), || {
        let led = get(nodes.http(to), "/raft/state").ok()?.1["role"] == "leader";
        if !led {
            for id in IDS {
                let _ = post(nodes.http(id), "/cluster/transfer-leader", &json!({ "id": to }));
            }
        }
        led.then_some(())
    });
}

/// Waits until all nodes that are named have applied an entry that is written now.
fn settle(nodes: &Nodes, ids: &[u64]) {
    let written = nodes.succeeds(ids[0], "/kv/write", &set("settled", "now"));
    for id in ids {
        nodes.comes("applied entry", || {
            position(nodes, *id, "applied").filter(|at| Some(*at) >= written["revision"].as_u64())
        });
    }
}

/// Brings the victim to its point, which ends it.
fn die_at(nodes: &mut Nodes, name: &str, point: FailPoint) {
    let fail = |passage: u32| (VARIABLE, format!("{name}:{passage}"));
    match point {
        FailPoint::AppendBefore
        | FailPoint::AppendAfter
        | FailPoint::ApplyBefore
        | FailPoint::ApplyUncommitted
        | FailPoint::ApplyAfter => {
            nodes.end(VICTIM, Signal::SIGKILL);
            nodes.start_with(VICTIM, &IDS, &[fail(20)]);
        }
        FailPoint::PurgeBefore
        | FailPoint::PurgeAfter
        | FailPoint::CheckpointBefore
        | FailPoint::CheckpointAfter
        | FailPoint::BuildBegun
        | FailPoint::BuildCopied
        | FailPoint::SnapshotFlushed
        | FailPoint::SnapshotNamed => {
            nodes.end(VICTIM, Signal::SIGKILL);
            nodes.start_with(VICTIM, &IDS, &[fail(1)]);
        }
        FailPoint::VoteBefore | FailPoint::VoteAfter => {
            elect(nodes, 1);
            nodes.end(VICTIM, Signal::SIGKILL);
            nodes.start_with(VICTIM, &IDS, &[fail(1)]);
            // It votes for another one, or is told of that one's victory.
            elect(nodes, 2);
        }
        FailPoint::TruncateBefore | FailPoint::TruncateAfter => {
            elect(nodes, VICTIM);
            // Its log has an entry that nobody else has.
            for id in [1, 2] {
                nodes.end(id, Signal::SIGKILL);
            }
            let before = get(nodes.http(VICTIM), "/raft/state").unwrap().1["last_log_index"].as_u64();
            let alone = nodes.http(VICTIM);
            std::thread::scope(|scope| {
                scope.spawn(move || drop(post(alone, "/kv/write", &set("nobody's", "value"))));
                nodes.comes("entry of its own", || {
                    let state = get(alone, "/raft/state").ok()?.1;
                    (state["last_log_index"].as_u64() > before).then_some(())
                });
                // The log is written behind what is told of it.
                sleep(LOG_WRITTEN);
                nodes.signal(VICTIM, Signal::SIGKILL);
            });
            nodes.ended(VICTIM);
            for id in [1, 2] {
                nodes.start(id, &IDS);
            }
            settle(nodes, &[1, 2]);
            nodes.start_with(VICTIM, &IDS, &[fail(1)]);
        }
        FailPoint::ReceiveChunk
        | FailPoint::ReceiveComplete
        | FailPoint::InstallPrepared
        | FailPoint::InstallNamed
        | FailPoint::InstallDone => {
            nodes.end(VICTIM, Signal::SIGKILL);
            fall_behind(nodes, &[1, 2]);
            nodes.start_with(VICTIM, &IDS, &[fail(1)]);
        }
        FailPoint::SendRegion | FailPoint::SendChunk => {
            nodes.end(VICTIM, Signal::SIGKILL);
            nodes.start_with(VICTIM, &IDS, &[fail(1)]);
            elect(nodes, VICTIM);
            nodes.end(2, Signal::SIGKILL);
            fall_behind(nodes, &[VICTIM, 1]);
            nodes.start(2, &IDS);
        }
    }
    let status = nodes.ended(VICTIM);
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{name}: {}", nodes.last_words(VICTIM));
}

/// Lets the others go on until their logs begin behind what a node that is away has.
fn fall_behind(nodes: &Nodes, others: &[u64]) {
    let from = others.iter().filter_map(|id| position(nodes, *id, "applied")).max().unwrap();
    for id in others {
        nodes.comes("purged log", || position(nodes, *id, "purged").filter(|purged| *purged > from));
    }
}

/// Everything that was acknowledged is there, on every node, and all hold the same.
fn check(nodes: &Nodes, acknowledged: &BTreeMap<String, (String, u64)>) {
    settle(nodes, &IDS);
    let held = IDS.map(|id| contents(nodes, id));
    for (id, held) in IDS.iter().zip(&held) {
        for (key, (value, revision)) in acknowledged {
            let (there, at) = held.get(key).unwrap_or_else(|| panic!("node {id} has lost key {key}"));
            // What was not acknowledged may have been written over it later.
            let is_there = at > revision || (at == revision && there == value);
            assert!(is_there, "node {id}: {key} was set to {value} at {revision}, and is {there} of {at}");
        }
    }
    assert!(held.iter().all(|other| *other == held[0]), "the nodes hold different things");
}

/// Runs `work` while a client writes, then checks that all of it is there.
fn under_writes(work: impl FnOnce(&mut Nodes)) {
    let flags = ["--snapshot-entries", SNAPSHOT_ENTRIES];
    let (_, mut nodes) = three_nodes_of(Some(planted_node()), &flags);
    request(nodes.http(1), "POST", "/cluster/init", "").unwrap();
    let addresses = IDS.map(|id| nodes.http(id)).to_vec();
    let (is_over, acknowledged) = (AtomicBool::new(false), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        let writer = Writer { is_over: &is_over, acknowledged: &acknowledged }.start(scope, addresses);
        // Also where it fails, or the test would never end.
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut nodes)));
        is_over.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        if let Err(panic) = worked {
            std::panic::resume_unwind(panic);
        }
    });
    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(acknowledged.len() > 30, "{} keys were written", acknowledged.len());
    check(&nodes, &acknowledged);
}

#[test]
fn node_that_dies_at_any_point_comes_back_with_everything_that_was_acknowledged() {
    under_writes(|nodes| {
        for (name, point) in FAIL_POINTS {
            die_at(nodes, name, point);
            let (is_sound, text) = validate(nodes, VICTIM);
            assert!(is_sound, "{name}: {text}");
            nodes.start(VICTIM, &IDS);
            // It takes part again.
            let written = nodes.succeeds(1, "/kv/write", &set("after", name));
            let read = nodes.succeeds(VICTIM, "/kv/read", &json!({ "key": "after" }));
            assert_eq!((&read["value"], &read["mod_revision"]), (&json!(name), &written["revision"]));
        }
    });
}

/// At any moment, each node in turn or two at once.
#[test]
fn nodes_that_are_killed_at_random_lose_nothing_that_was_acknowledged() {
    let kills = 12 * rounds();
    under_writes(|nodes| {
        let mut random = rand::rng();
        for _ in 0..kills {
            sleep(Duration::from_millis(random.random_range(10..2_500)));
            let first = random.random_range(0..3);
            let count = random.random_range(1..=2);
            let dead: Vec<u64> = (0..count).map(|next| IDS[(first + next) % 3]).collect();
            for id in &dead {
                nodes.end(*id, Signal::SIGKILL);
            }
            for id in &dead {
                let (is_sound, text) = validate(nodes, *id);
                assert!(is_sound, "node {id}: {text}");
                nodes.start(*id, &IDS);
            }
        }
        for id in IDS {
            let read: Value = nodes.succeeds(id, "/kv/read", &json!({ "key": "key 000" }));
            assert!(read["value"].is_string());
        }
    });
}
