//! Nodes on disks of the lab's own, which run full and fail: writes are refused, reads go on, and nothing is lost.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use aspen_lab::volume::{Loss, Mounted, ROOT, Volume};
use nix::sys::signal::Signal;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value as Json, json};

use crate::host;
use crate::http_client::{get, post, request};
use crate::kills::elect;
use crate::nodes::{Nodes, position, set, validate};

const IDS: [u64; 3] = [1, 2, 3];
const MIB: u64 = 1024 * 1024;
/// Larger than what stores keep in reserve for themselves.
const LARGE: usize = 64 * 1024;

/// Nodes whose folders are such disks.
pub(crate) struct OnDisks {
    pub(crate) nodes: Nodes,
    pub(crate) disks: Vec<Mounted>,
}

impl Drop for OnDisks {
    fn drop(&mut self) {
        // A disk that is in use stays.
        self.nodes.kill_all();
        self.disks.clear();
    }
}

impl OnDisks {
    /// None where this host has no FUSE, which is said loudly.
    pub(crate) fn new(program: Option<PathBuf>, flags: &[&'static str]) -> Option<Self> {
        let mut nodes = Nodes::new(3);
        nodes.set_up(program, flags);
        let mut disks = Vec::new();
        for id in IDS {
            let folder = nodes.data(id);
            let key = fs::read(folder.join("identity.key")).unwrap();
            disks.push(volume(&folder)?);
            nodes.give_identity(id, &key);
        }
        Some(Self { nodes, disks })
    }

    /// A cluster that serves, led by this node.
    fn led_by(leader: u64, flags: &[&'static str]) -> Option<Self> {
        let mut cluster = Self::new(None, flags)?;
        for id in IDS {
            cluster.nodes.start(id, &IDS);
        }
        for id in IDS {
            cluster.nodes.answers(id);
        }
        request(cluster.nodes.http(1), "POST", "/cluster/init", "").unwrap();
        elect(&cluster.nodes, leader);
        let written = cluster.nodes.succeeds(leader, "/kv/write", &set("before", "all"));
        for id in IDS {
            let applied = || {
                position(&cluster.nodes, id, "applied").filter(|at| Some(*at) >= written["revision"].as_u64())
            };
            cluster.nodes.comes("applied entry", applied);
        }
        Some(cluster)
    }

    /// Leaves a disk so much room.
    fn leave(&self, id: u64, bytes: u64) {
        self.disk(id).with(|disk| disk.set_capacity(disk.used() + bytes));
    }

    fn disk(&self, id: u64) -> &Mounted {
        &self.disks[usize::try_from(id - 1).unwrap()]
    }
}

/// A disk of the lab's own over a folder, if this host allows that; if not, the test is skipped.
#[track_caller]
pub(crate) fn volume(folder: &Path) -> Option<Mounted> {
    let mounted = Mounted::new(folder);
    mounted.map_err(|error| host::lacks("fuse", &format!("FUSE ({error})"))).ok()
}

/// Whether there can be such disks.
#[track_caller]
pub(crate) fn has_volumes() -> bool {
    volume(tempfile::tempdir().unwrap().path()).is_some()
}

fn is_leader(nodes: &Nodes, id: u64) -> bool {
    get(nodes.http(id), "/raft/state").is_ok_and(|(_, state)| state["role"] == "leader")
}

/// Writes a value until that is answered with this status; the answer.
fn written(nodes: &Nodes, id: u64, status: u16) -> Json {
    nodes.comes(&format!("{status} for a write"), || {
        let (found, answer) = post(nodes.http(id), "/kv/write", &set("k", "v")).ok()?;
        (found == status).then_some(answer)
    })
}

#[test]
fn leader_whose_disk_is_full_refuses_writes_and_serves_reads() {
    let Some(cluster) = OnDisks::led_by(1, &["--disk-reserve-mib", "16"]) else { return };
    let nodes = &cluster.nodes;
    cluster.leave(1, 8 * MIB);
    // Also what another node hands on to it.
    for id in [1, 2] {
        let error = &written(nodes, id, 507)["error"];
        assert_eq!(error["code"], "disk_full", "{error}");
        let text = error["message"].as_str().unwrap();
        assert!(text.starts_with("nothing was written, the disk of node 1 is full: "), "{text}");
    }
    let read = nodes.succeeds(1, "/kv/read", &json!({ "key": "before" }));
    assert_eq!(read["value"], "all");
    let (status, refused) = request(nodes.http(1), "POST", "/cluster/snapshot", "").unwrap();
    assert_eq!((status, &refused["error"]["code"]), (507, &json!("disk_full")), "{refused}");
    assert!(is_leader(nodes, 1), "it leads as before");
    cluster.leave(1, 64 * MIB);
    written(nodes, 2, 200);
}

#[test]
fn follower_whose_disk_is_full_takes_nothing_and_catches_up() {
    let Some(cluster) = OnDisks::led_by(1, &["--disk-reserve-mib", "16"]) else { return };
    let nodes = &cluster.nodes;
    cluster.leave(3, 8 * MIB);
    nodes.comes("word of the full disk", || {
        nodes
            .last_words(3)
            .contains("writes are refused: the disk has 8 MiB left, 18 MiB are needed")
            .then_some(())
    });
    let before = get(nodes.http(3), "/raft/state").unwrap().1;
    for number in 0..20 {
        nodes.succeeds(1, "/kv/write", &set(&format!("k{number}"), "v"));
    }
    let after = get(nodes.http(3), "/raft/state").unwrap().1;
    assert_eq!(after["last_log_index"], before["last_log_index"], "{after}");
    assert_eq!(
        (&after["term"], &after["role"]),
        (&before["term"], &json!("follower")),
        "it hears of its leader"
    );
    cluster.leave(3, 64 * MIB);
    let last = position(nodes, 1, "applied").unwrap();
    nodes.comes("follower that has caught up", || {
        position(nodes, 3, "applied").filter(|applied| *applied >= last)
    });
}

/// Fills a disk under a node faster than anybody looks, until the node says that it had no room and starts again.
fn fill(cluster: &OnDisks, victim: u64) {
    let (nodes, large) = (&cluster.nodes, "x".repeat(LARGE));
    let again = || nodes.last_words(victim).matches("aspen-node: the node had no room on its disk").count();
    let before = again();
    let mut number = 0;
    nodes.comes("full disk", || {
        number += 1;
        // Where the node looks first, it refuses what would fill its stores: it gets some room, and another try.
        let words = nodes.last_words(victim);
        let refuses =
            words.matches("writes are refused").count() > words.matches("there is room again").count();
        if again() == before && refuses {
            cluster.leave(victim, 64 * MIB);
        } else {
            cluster.leave(victim, 0);
        }
        // The leader may fail under it, and whether it was written does not matter here.
        let _ = post(nodes.http(2), "/kv/write", &set(&format!("{victim}/{number}"), &large));
        (again() > before).then_some(())
    });
    assert!(!nodes.has_ended(victim), "{}", nodes.last_words(victim));
}

#[test]
fn node_whose_disk_runs_full_under_it_goes_on_by_itself() {
    let Some(mut cluster) = OnDisks::led_by(1, &["--disk-reserve-mib", "1"]) else { return };
    for victim in [3, 1] {
        let ready = |nodes: &Nodes| nodes.last_words(victim).matches(": ready id=").count();
        let before = ready(&cluster.nodes);
        fill(&cluster, victim);
        // On a disk that is still full, but for what it takes to open a database, everything is open again and can be read.
        cluster.leave(victim, MIB / 8);
        cluster.nodes.comes("node that is ready again", || (ready(&cluster.nodes) > before).then_some(()));
        let stale = json!({ "key": "before", "consistency": "stale" });
        assert_eq!(cluster.nodes.succeeds(victim, "/kv/read", &stale)["value"], "all");
        cluster.leave(victim, 256 * MIB);
        let last = cluster.nodes.succeeds(2, "/kv/write", &set("after", &victim.to_string()));
        let last = last["revision"].as_u64().unwrap();
        cluster.nodes.comes("node that has caught up", || {
            position(&cluster.nodes, victim, "applied").filter(|applied| *applied >= last)
        });
        let read = cluster.nodes.succeeds(victim, "/kv/read", &json!({ "key": "before" }));
        assert_eq!(read["value"], "all");
    }
    for id in IDS {
        let status = cluster.nodes.end(id, Signal::SIGTERM);
        assert_eq!(status.code(), Some(0), "node {id}:\n{}", cluster.nodes.last_words(id));
        let (is_sound, text) = validate(&cluster.nodes, id);
        assert!(is_sound, "{text}");
    }
}

/// A user's share of a disk is used up without a word of the file system, and every store has its own for it.
#[test]
fn node_whose_share_of_the_disk_is_used_up_goes_on_by_itself() {
    let Some(mut cluster) = OnDisks::led_by(1, &[]) else { return };
    let again = |nodes: &Nodes| nodes.last_words(3).matches("the node had no room on its disk").count();
    let large = "x".repeat(LARGE);
    // Whatever store meets its end first.
    for more in [0, MIB / 4, MIB] {
        let before = again(&cluster.nodes);
        cluster.disk(3).with(|disk| disk.set_share(disk.used() + more));
        cluster.nodes.comes("end of its share", || {
            cluster.nodes.succeeds(1, "/kv/write", &set("k", &large));
            (again(&cluster.nodes) > before).then_some(())
        });
        assert!(!cluster.nodes.has_ended(3), "{}", cluster.nodes.last_words(3));
        cluster.disk(3).with(|disk| disk.set_share(u64::MAX));
        let last = cluster.nodes.succeeds(1, "/kv/write", &set("after", "v"))["revision"].as_u64();
        cluster.nodes.comes("node that has caught up", || {
            position(&cluster.nodes, 3, "applied").filter(|applied| Some(*applied) >= last)
        });
    }
    let status = cluster.nodes.end(3, Signal::SIGTERM);
    assert_eq!(status.code(), Some(0), "{}", cluster.nodes.last_words(3));
    let (is_sound, text) = validate(&cluster.nodes, 3);
    assert!(is_sound, "{text}");
}

/// Only a store that found no room was waited with: what a node knows of its cluster is written before there are any.
#[test]
fn node_that_starts_on_a_full_disk_waits_for_room() {
    let Some(mut cluster) = OnDisks::new(None, &[]) else { return };
    for id in IDS {
        if id == 3 {
            cluster.leave(id, 0);
        }
        cluster.nodes.start(id, &IDS);
    }
    cluster.nodes.answers(1);
    request(cluster.nodes.http(1), "POST", "/cluster/init", "").unwrap();
    let written = cluster.nodes.succeeds(1, "/kv/write", &set("without", "three"));
    cluster.nodes.comes("word of the full disk", || {
        let words = cluster.nodes.last_words(3);
        (words.contains("the disk is full: make room on it") && words.contains("cluster.redb")).then_some(())
    });
    assert!(!cluster.nodes.has_ended(3), "{}", cluster.nodes.last_words(3));
    cluster.leave(3, 256 * MIB);
    cluster.nodes.comes("node that has caught up", || {
        position(&cluster.nodes, 3, "applied")
            .filter(|applied| Some(*applied) >= written["revision"].as_u64())
    });
}

#[test]
fn node_on_a_full_disk_can_be_stopped() {
    let Some(mut cluster) = OnDisks::led_by(1, &["--disk-reserve-mib", "1"]) else { return };
    fill(&cluster, 3);
    let status = cluster.nodes.end(3, Signal::SIGTERM);
    assert_eq!(status.code(), Some(0), "{}", cluster.nodes.last_words(3));
}

/// What a disk is told to do.
type Fault = fn(&mut Volume);

/// A disk that has not kept what it was told to keep says so once, and shows everything until its power is cut: what a node
/// acknowledges after that is gone then. So it ends. One that has started again before that once built on it: the log was lost.
#[track_caller]
fn stops_and_loses_nothing(fault: Fault, want: &[&str]) {
    for starts_again in [false, true] {
        check_failed_sync(fault, want, starts_again);
    }
}

#[track_caller]
fn check_failed_sync(fault: Fault, want: &[&str], starts_again: bool) {
    let Some(mut cluster) = OnDisks::led_by(1, &[]) else { return };
    // Whatever is acknowledged without this one has been kept by the one whose disk fails.
    cluster.nodes.end(2, Signal::SIGTERM);
    let large = "x".repeat(LARGE);
    let mut keys = (0..).map(|number| format!("k{number}"));
    let mut acknowledged: Vec<String> = keys.by_ref().take(10).collect();
    for key in &acknowledged {
        cluster.nodes.succeeds(1, "/kv/write", &set(key, &large));
    }
    cluster.disk(3).with(fault);
    cluster.nodes.comes("end of node 3", || {
        let key = keys.next().unwrap();
        if let Ok((200, _)) = post(cluster.nodes.http(1), "/kv/write", &set(&key, &large)) {
            acknowledged.push(key);
        }
        cluster.nodes.has_ended(3).then_some(())
    });
    let status = cluster.nodes.ended(3);
    let words = cluster.nodes.last_words(3);
    assert_eq!(status.code(), Some(1), "{words}");
    assert!(want.iter().any(|want| words.contains(want)), "{words}");
    cluster.disk(3).with(|disk| disk.set_synced_capacity(u64::MAX));
    if starts_again {
        cluster.nodes.start(3, &IDS);
        for key in keys.take(20) {
            cluster.nodes.succeeds(1, "/kv/write", &set(&key, &large));
            acknowledged.push(key);
        }
        cluster.nodes.end(3, Signal::SIGKILL);
    }
    cluster.nodes.end(1, Signal::SIGKILL);
    cluster.disks[2].cut(Loss::All, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
    for id in [2, 3] {
        cluster.nodes.start(id, &IDS);
    }
    for key in &acknowledged {
        let read = cluster.nodes.succeeds(3, "/kv/read", &json!({ "key": key }));
        assert_eq!(read["value"], large, "{key} of {}", acknowledged.len());
    }
}

const LOG_WORDS: &str = "the log failed, this node has to stop";
const STATE_WORDS: &str = "a flush of the state has failed";

#[test]
fn node_whose_log_cannot_be_synced_stops_and_says_why() {
    let fault: Fault = |disk| disk.fail_next_sync(disk.lookup(ROOT, OsStr::new("log.redb")).unwrap());
    stops_and_loses_nothing(fault, &[LOG_WORDS]);
}

#[test]
fn node_whose_state_cannot_be_synced_stops_and_says_why() {
    let fault: Fault = |disk| disk.fail_next_sync(disk.lookup(ROOT, OsStr::new("state.sqlite-wal")).unwrap());
    stops_and_loses_nothing(fault, &[STATE_WORDS]);
}

#[test]
fn node_whose_disk_finds_no_room_when_it_is_to_sync_stops_and_says_why() {
    // Whichever store grows first.
    let fault: Fault = |disk| disk.set_synced_capacity(disk.used_synced());
    stops_and_loses_nothing(fault, &[LOG_WORDS, STATE_WORDS]);
}
