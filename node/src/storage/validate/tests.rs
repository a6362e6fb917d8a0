//! A sound directory has no faults, and each damage is named with what to do.

use std::fs;

use openraft::entry::RaftEntry;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine};
use openraft::vote::RaftLeaderIdExt;
use tempfile::TempDir;

use super::super::Execution;
use super::super::log::RedbLogStore;
use super::super::sqlite::SqliteStateMachine;
use super::*;
use crate::types::raft_types::{Entry, Vote};
use crate::types::{Command, NodeId, TypeConfig};

type LeaderId = <TypeConfig as openraft::RaftTypeConfig>::LeaderId;

fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId::new_committed(1, NodeId(1)), index)
}

fn entry(index: u64) -> Entry {
    entry_of(1, index)
}

fn entry_of(term: u64, index: u64) -> Entry {
    let log_id = LogId::new(LeaderId::new_committed(term, NodeId(1)), index);
    Entry::new_normal(log_id, (&Command::Set { key: "k".into(), value: "v".into() }).into())
}

/// A node that has stopped: 50 entries, of which 40 are applied, a snapshot of 40, and the log cut behind 10.
async fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut log = RedbLogStore::open(&dir.path().join(LOG_FILE), NodeId(1), Execution::Thread).unwrap();
    log.save_vote(&Vote::new_committed(1, NodeId(1))).await.unwrap();
    log.blocking_append((0..50).map(entry)).await.unwrap();
    let mut state = SqliteStateMachine::open(dir.path(), Execution::Thread).unwrap();
    let entries: Vec<_> = (0..40).map(|index| Ok((entry(index), None))).collect();
    state.apply(futures::stream::iter(entries)).await.unwrap();
    state.get_snapshot_builder().await.build_snapshot().await.unwrap();
    log.purge(log_id(9)).await.unwrap();
    log.close();
    let closer = state.closer();
    drop(state);
    closer.close();
    dir
}

fn faults(dir: &TempDir) -> Vec<String> {
    let report = validate(dir.path()).unwrap();
    let prefix = format!("{}/", dir.path().display());
    report.faults.iter().map(|fault| fault.to_string().replace(&prefix, "")).collect()
}

fn snapshot_path(dir: &TempDir) -> std::path::PathBuf {
    newest_in(&dir.path().join(SNAPSHOT_DIR)).unwrap().unwrap()
}

#[tokio::test]
async fn sound_directory_is_described_and_not_changed() {
    let dir = directory().await;
    let before = fs::read(dir.path().join(LOG_FILE)).unwrap();
    let report = validate(dir.path()).unwrap();
    assert_eq!(report.faults, []);
    let want = [
        "log of node 1: 40 entries, the last one entry 49 of term 1, cut behind entry 9 of term 1",
        "state: applied up to entry 39 of term 1",
        "snapshot: covers entry 39 of term 1",
    ];
    assert_eq!(report.seen, want);
    assert!(fs::read(dir.path().join(LOG_FILE)).unwrap() == before);
    let log = RedbLogStore::open(&dir.path().join(LOG_FILE), NodeId(1), Execution::Thread).unwrap();
    let error = validate(dir.path()).unwrap_err().to_string();
    assert!(error.ends_with("is in use by another process: stop that node first"), "{error}");
    log.close();
}

#[tokio::test]
async fn damaged_snapshot_is_found_and_may_be_removed() {
    let dir = directory().await;
    let path = snapshot_path(&dir);
    let mut bytes = fs::read(&path).unwrap();
    bytes[5_000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let want = format!("snapshots/{name}: its bytes are not those of its digest: {REMOVE_SNAPSHOT}");
    assert_eq!(faults(&dir), [want]);
    fs::remove_file(path).unwrap();
    assert!(faults(&dir).is_empty());
}

#[tokio::test]
async fn files_that_do_not_belong_together_are_found() {
    // The log of another time.
    let dir = directory().await;
    fs::remove_file(dir.path().join(LOG_FILE)).unwrap();
    let mut log = RedbLogStore::open(&dir.path().join(LOG_FILE), NodeId(1), Execution::Thread).unwrap();
    log.save_vote(&Vote::new_committed(1, NodeId(1))).await.unwrap();
    log.blocking_append((0..20).map(entry)).await.unwrap();
    log.close();
    drop(log);
    fs::remove_file(snapshot_path(&dir)).unwrap();
    assert_eq!(
        faults(&dir),
        [format!("entry 39 of term 1 was applied, the log ends with entry 19 of term 1: {REJOIN}")]
    );
    // The state of another time.
    let dir = directory().await;
    fs::remove_file(dir.path().join("state.sqlite")).unwrap();
    fs::remove_file(snapshot_path(&dir)).unwrap();
    assert_eq!(
        faults(&dir),
        [format!("the log is cut behind entry 9 of term 1, the state ends with nothing: {REJOIN}")]
    );
}

/// Puts a log of other entries into a directory, with a vote of this term.
async fn replace_log(dir: &TempDir, term: u64, entries: impl Iterator<Item = Entry> + Send) {
    let path = dir.path().join(LOG_FILE);
    fs::remove_file(&path).unwrap();
    let mut log = RedbLogStore::open(&path, NodeId(1), Execution::Thread).unwrap();
    log.save_vote(&Vote::new_committed(term, NodeId(1))).await.unwrap();
    log.blocking_append(entries.collect::<Vec<_>>()).await.unwrap();
    log.close();
}

/// What a start says, with what comes before and behind it in every case.
async fn start(dir: &TempDir) -> Result<(), String> {
    let mut log = RedbLogStore::open(&dir.path().join(LOG_FILE), NodeId(1), Execution::Thread).unwrap();
    let state = SqliteStateMachine::open(dir.path(), Execution::Thread).unwrap();
    let checked = prepare_start(&mut log, &state).await;
    log.close();
    state.closer().close();
    checked.map_err(|error| {
        let text = error.to_string();
        let text =
            text.strip_prefix(&format!("the files in {} contradict each other: ", dir.path().display()));
        let end = ". Remove the node from its cluster, remove the data directory and rejoin as a new member";
        text.unwrap().strip_suffix(end).unwrap().to_owned()
    })
}

#[tokio::test]
async fn node_does_not_start_on_files_that_do_not_belong_together() {
    let dir = directory().await;
    assert_eq!(start(&dir).await, Ok(()));
    let snapshot = snapshot_path(&dir);
    // The log has lost its end, or its vote; or is that of another term.
    replace_log(&dir, 1, (0..20).map(entry)).await;
    assert_eq!(start(&dir).await, Ok(()), "the snapshot has come before the log was cut");
    let kept = fs::read(&snapshot).unwrap();
    fs::remove_file(&snapshot).unwrap();
    let ahead = "entry 39 of term 1 was applied, the log ends with entry 19 of term 1";
    assert_eq!(start(&dir).await, Err(ahead.to_owned()));
    replace_log(&dir, 0, (0..50).map(entry)).await;
    let behind = "the vote is behind the log, which ends with entry 49 of term 1";
    assert_eq!(start(&dir).await, Err(behind.to_owned()));
    replace_log(&dir, 2, (0..30).map(entry).chain((30..50).map(|index| entry_of(2, index)))).await;
    let other = "entry 39 of term 1 was applied, the log has entry 39 of term 2 there";
    assert_eq!(start(&dir).await, Err(other.to_owned()));
    fs::write(&snapshot, kept).unwrap();
    let of_snapshot = "the snapshot ends with entry 39 of term 1, the log has entry 39 of term 2 there";
    assert_eq!(faults(&dir), [other, of_snapshot].map(|what| format!("{what}: {REJOIN}")));

    // The state of another time.
    let dir = directory().await;
    fs::remove_file(dir.path().join("state.sqlite")).unwrap();
    assert_eq!(start(&dir).await, Ok(()), "the snapshot will be installed");
    fs::remove_file(snapshot_path(&dir)).unwrap();
    let cut = "the log is cut behind entry 9 of term 1, the state ends with nothing";
    assert_eq!(start(&dir).await, Err(cut.to_owned()));
}

/// A node that had ended between the arrival of a snapshot and its installation did not start again.
#[tokio::test]
async fn log_is_cut_where_a_snapshot_of_a_later_leader_has_come() {
    let dir = directory().await;
    replace_log(&dir, 1, (0..50).map(|index| entry_of(0, index))).await;
    assert_eq!(faults(&dir), [""; 0]);
    assert_eq!(start(&dir).await, Ok(()));
    let last = inspect_log(&dir.path().join(LOG_FILE)).unwrap().last;
    assert_eq!(last, None, "the snapshot has all that was committed");
    assert_eq!(start(&dir).await, Ok(()));
}

#[tokio::test]
async fn damaged_log_and_state_are_found() {
    let dir = directory().await;
    let path = dir.path().join("state.sqlite");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 3_000..].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    assert!(!faults(&dir).is_empty());
    let path = dir.path().join(LOG_FILE);
    fs::write(&path, b"no log").unwrap();
    assert!(
        faults(&dir).iter().any(|fault| fault.starts_with("the log log.redb failed")),
        "{:?}",
        faults(&dir)
    );
}
