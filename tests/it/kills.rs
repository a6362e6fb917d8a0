//! Nodes that die in the middle of what they do, at every point that the program names and at random, while clients write: they
//! come back, and nothing that was acknowledged is lost.
#![allow(clippy::print_stdout, reason = "a test that draws says from which seed")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle, sleep};
use std::time::Duration;

use aspen_lab::volume::{Loss, Mounted};
use aspen_node::failpoint::{DIES_AT, FAIL_POINTS, FailPoint, VARIABLE};
use nix::sys::signal::Signal;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::disks::OnDisks;
use crate::http_client::{get, post, request};
use crate::lab::rounds;
use crate::nodes::{Nodes, contents, position, set, three_nodes_of, validate};
use crate::programs::planted_node;

const IDS: [u64; 3] = [1, 2, 3];
/// The node that dies at every point.
const VICTIM: u64 = 3;
/// Keys that begin alike: what is checked is read by its beginning.
const EPOCH: u32 = 100;
/// Far longer than a write of the log takes.
const LOG_WRITTEN: Duration = Duration::from_millis(300);
/// Few, so that a node that is away for a moment needs a snapshot.
const FLAGS: [&str; 2] = ["--snapshot-entries", "40"];

/// Values by key, and the entries that wrote them.
type Acknowledged = BTreeMap<String, (String, u64)>;

/// Writes key after key, through whichever node answers, until it is told to stop; what was acknowledged.
struct Writer<'a> {
    is_over: &'a AtomicBool,
    acknowledged: &'a Mutex<Acknowledged>,
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
                // Never the same key again, so that nothing hides what is lost.
                let (key, value) = (format!("{}/{number:06}", number / EPOCH), format!("value {number}"));
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

/// Has another node lead, unless it dies.
pub(crate) fn elect(nodes: &Nodes, to: u64) {
    nodes.comes(&format!("leader {to}"), || {
        if nodes.has_ended(to) {
            return Some(());
        }
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
        FailPoint::AppendPanics
        | FailPoint::AppendBefore
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
        FailPoint::TruncateBefore | FailPoint::TruncateAfter => let_it_truncate(nodes, fail(1)),
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
    let words = nodes.last_words(VICTIM);
    let is_there = words.lines().last() == Some(&format!("{DIES_AT}{point:?}"));
    assert!(is_there && status.signal() == Some(Signal::SIGABRT as i32), "{name}: {words}");
}

/// Starts the victim with an entry in its log that nobody else has, and that others have written over.
fn let_it_truncate(nodes: &mut Nodes, fail: (&'static str, String)) {
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
    nodes.start_with(VICTIM, &IDS, &[fail]);
}

/// Whether what a node had done, or not, when it died at this point is on its disk alone.
fn counts_alone(point: FailPoint) -> bool {
    use FailPoint::{
        AppendAfter, AppendBefore, ApplyAfter, ApplyBefore, ApplyUncommitted, TruncateAfter, VoteAfter,
        VoteBefore,
    };
    matches!(
        point,
        AppendAfter
            | AppendBefore
            | ApplyAfter
            | ApplyBefore
            | ApplyUncommitted
            | TruncateAfter
            | VoteAfter
            | VoteBefore
    )
}

/// Lets the others go on until their logs begin behind what a node that is away has.
fn fall_behind(nodes: &Nodes, others: &[u64]) {
    // What it has may not be applied anywhere yet.
    let last = |id: &u64| get(nodes.http(*id), "/raft/state").ok()?.1["last_log_index"].as_u64();
    let from = others.iter().filter_map(last).max().unwrap();
    for id in others {
        let is_purged = || position(nodes, *id, "purged").is_some_and(|purged| purged > from);
        nodes.comes("purged log", || (is_purged() || nodes.has_ended(*id)).then_some(()));
    }
}

/// Everything that was acknowledged is there, on every node, and all hold the same.
fn check(nodes: &Nodes, acknowledged: &Acknowledged) {
    settle(nodes, &IDS);
    let held = IDS.map(|id| held(nodes, id, acknowledged));
    for (id, held) in IDS.iter().zip(&held) {
        assert_eq!(lost(held, acknowledged), None, "node {id}");
    }
    assert!(held.iter().all(|other| *other == held[0]), "the nodes hold different things");
}

/// Everything that was acknowledged since the last time is there, on every node, while more is written.
fn check_in_between(nodes: &Nodes, acknowledged: &Mutex<Acknowledged>) {
    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    settle(nodes, &IDS);
    for id in IDS {
        assert_eq!(lost(&held(nodes, id, &acknowledged), &acknowledged), None, "node {id}");
    }
}

/// What a node holds of the keys that begin like these.
fn held(nodes: &Nodes, id: u64, keys: &Acknowledged) -> Acknowledged {
    let epochs: BTreeSet<&str> = keys.keys().filter_map(|key| key.split('/').next()).collect();
    epochs.into_iter().flat_map(|epoch| contents(nodes, id, &format!("{epoch}/"))).collect()
}

/// A key that does not hold what was acknowledged, nor what came later without being acknowledged.
fn lost(held: &Acknowledged, acknowledged: &Acknowledged) -> Option<String> {
    acknowledged.iter().find_map(|(key, (value, revision))| match held.get(key) {
        Some((there, at)) if at > revision || (at == revision && there == value) => None,
        there => Some(format!("{key} was set to {value} at {revision}, and is {there:?}")),
    })
}

/// Runs `work` while a client writes, then checks that all of it is there.
fn under_writes(work: impl FnOnce(&mut Nodes, &Mutex<Acknowledged>)) {
    let (_, mut nodes) = three_nodes_of(Some(planted_node()), &FLAGS);
    let acknowledged = written_during(&mut nodes, work);
    check(&nodes, &acknowledged);
}

/// What was acknowledged to a client that writes while `work` is done.
fn written_during(nodes: &mut Nodes, work: impl FnOnce(&mut Nodes, &Mutex<Acknowledged>)) -> Acknowledged {
    request(nodes.http(1), "POST", "/cluster/init", "").unwrap();
    let addresses = IDS.map(|id| nodes.http(id)).to_vec();
    let (is_over, acknowledged) = (AtomicBool::new(false), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        let writer = Writer { is_over: &is_over, acknowledged: &acknowledged }.start(scope, addresses);
        // Also where it fails, or the test would never end.
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(nodes, &acknowledged)));
        is_over.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        if let Err(panic) = worked {
            std::panic::resume_unwind(panic);
        }
    });
    acknowledged.into_inner().unwrap()
}

#[test]
fn node_that_dies_at_any_point_comes_back_with_everything_that_was_acknowledged() {
    under_writes(|nodes, acknowledged| {
        // At one of them it panics, and goes on.
        let deadly = FAIL_POINTS.into_iter().filter(|(_, point)| *point != FailPoint::AppendPanics);
        for (name, point) in deadly {
            die_at(nodes, name, point);
            let mut dead = vec![VICTIM];
            if counts_alone(point) {
                // What its disk holds counts only where the others come back with it.
                for id in [1, 2] {
                    nodes.end(id, Signal::SIGKILL);
                    dead.push(id);
                }
            }
            for id in dead {
                let (is_sound, text) = validate(nodes, id);
                assert!(is_sound, "{name}, node {id}: {text}");
                nodes.start(id, &IDS);
            }
            // It takes part again, and has everything.
            check_in_between(nodes, acknowledged);
        }
    });
}

/// A fault of the program ends a node when it comes again and again, and takes nothing with it.
#[test]
fn node_that_panics_again_and_again_starts_again_three_times() {
    under_writes(|nodes, acknowledged| {
        nodes.end(VICTIM, Signal::SIGTERM);
        nodes.start_with(VICTIM, &IDS, &[(VARIABLE, "append-panics:20".to_owned())]);
        let status = nodes.ended(VICTIM);
        let words = nodes.last_words(VICTIM);
        assert_eq!(status.code(), Some(1), "{words}");
        assert_eq!(words.matches("the node starts again").count(), 3, "{words}");
        assert!(words.contains("It has done so several times within ten minutes"), "{words}");
        nodes.start(VICTIM, &IDS);
        check_in_between(nodes, acknowledged);
    });
}

/// At any moment, one or two at once.
#[test]
fn nodes_that_are_killed_at_random_lose_nothing_that_was_acknowledged() {
    let kills = 6 * rounds();
    let seed: u64 = rand::random();
    println!("seed {seed}");
    under_writes(|nodes, acknowledged| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
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
            check_in_between(nodes, acknowledged);
        }
    });
}

/// Takes the power of one, two or all of them, again and again; whether each came back sound.
fn lose_power(nodes: &mut Nodes, disks: &mut [Mounted], times: u32, seed: u64) -> bool {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut cuts = 0;
    while cuts < times {
        sleep(Duration::from_millis(random.random_range(10..1_500)));
        let (first, count) = (random.random_range(0..3), random.random_range(1..=3));
        let dead: Vec<usize> = (0..count).map(|next| (first + next) % 3).collect();
        for place in &dead {
            nodes.signal(IDS[*place], Signal::SIGKILL);
        }
        for place in &dead {
            nodes.ended(IDS[*place]);
            let loss = Loss::draw(&mut random);
            disks[*place].cut(loss, &mut random).unwrap();
            cuts += 1;
        }
        for place in dead {
            let (is_sound, text) = validate(nodes, IDS[place]);
            if !is_sound {
                println!("node {}: {text}", IDS[place]);
                return false;
            }
            nodes.start(IDS[place], &IDS);
        }
    }
    true
}

/// A cluster on disks that lose their power, and what is left of what it has acknowledged.
fn on_disks(plant: Option<&str>, times: u32, seed: u64) -> Option<Result<(), String>> {
    let mut cluster = OnDisks::new(Some(planted_node()), &FLAGS)?;
    let OnDisks { nodes, disks } = &mut cluster;
    nodes.environment.extend(plant.map(|bug| ("ASPEN_PLANT", bug.to_owned())));
    for id in IDS {
        nodes.start(id, &IDS);
    }
    for id in IDS {
        nodes.answers(id);
    }
    let mut is_sound = true;
    let acknowledged = written_during(nodes, |nodes, _| {
        is_sound = lose_power(nodes, disks, times, seed);
    });
    Some(if is_sound {
        settle(nodes, &IDS);
        IDS.iter()
            .try_for_each(|id| lost(&held(nodes, *id, &acknowledged), &acknowledged).map_or(Ok(()), Err))
    } else {
        Err("a node did not come back sound".to_owned())
    })
}

#[test]
fn nodes_that_lose_their_power_keep_what_was_acknowledged() {
    for seed in 1..=rounds() {
        let Some(kept) = on_disks(None, 12, seed) else { return };
        assert_eq!(kept, Ok(()), "seed {seed}");
    }
}

/// The same disks catch a log that is not synced.
#[test]
fn log_that_is_not_synced_is_caught_by_a_power_cut() {
    for seed in 1..=5 {
        let Some(kept) = on_disks(Some("ack-before-fsync"), 24, seed) else { return };
        if kept.is_err() {
            return;
        }
    }
    panic!("nothing was lost, although the log was never synced");
}
