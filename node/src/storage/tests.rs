//! openraft's own suite of storage tests on every pair of stores, what a restart keeps, and a scan to its end.

mod agreement;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use openraft::storage::{
    RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine,
};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::vote::RaftLeaderIdExt;
use openraft::{EntryPayload, StorageError};
use tempfile::TempDir;

use super::Execution;
use super::log::RedbLogStore;
use super::memory::InMemoryStateMachine;
use super::sqlite::{ReadPool, SqliteStateMachine};
use crate::api::{Consistency, ScanDetail, ScanRequest};
use crate::limits::{PURGE_ROWS_MAX, SCAN_LIMIT_DEFAULT};
use crate::types::raft_types::{Entry, LogId, Vote};
use crate::types::{Command, EndpointKey, Key, KeyRange, NodeId, NodeInfo, TypeConfig};

/// The suite makes ids of its own.
impl From<u64> for NodeId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

/// The suite makes members of its own.
impl Default for NodeInfo {
    fn default() -> Self {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Self { endpoint_id: EndpointKey([0; 32]), raft: nowhere, http: nowhere }
    }
}

struct Stores;

impl StoreBuilder<TypeConfig, RedbLogStore, SqliteStateMachine, TempDir> for Stores {
    async fn build(&self) -> Result<(TempDir, RedbLogStore, SqliteStateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let (log, state_machine) = (open_log(dir.path()), open_state(dir.path()));
        Ok((dir, log, state_machine))
    }
}

type LeaderId = <TypeConfig as openraft::RaftTypeConfig>::LeaderId;
type StoreSuite = Suite<TypeConfig, RedbLogStore, SqliteStateMachine, Stores, TempDir>;

fn open_log(dir: &Path) -> RedbLogStore {
    RedbLogStore::open(&dir.join("log.redb"), NodeId(1), Execution::Thread).unwrap()
}

fn open_state(dir: &Path) -> SqliteStateMachine {
    SqliteStateMachine::open(dir, Execution::Thread).unwrap()
}

/// All of openraft's tests of a log and a state machine.
#[tokio::test]
async fn stores_pass_the_suite_of_openraft() {
    StoreSuite::test_all(Stores).await.unwrap();
}

struct MemoryStores;

impl StoreBuilder<TypeConfig, RedbLogStore, InMemoryStateMachine, TempDir> for MemoryStores {
    async fn build(&self) -> Result<(TempDir, RedbLogStore, InMemoryStateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let log = open_log(dir.path());
        Ok((dir, log, InMemoryStateMachine::default()))
    }
}

#[tokio::test]
async fn state_machine_in_memory_passes_the_suite_of_openraft() {
    Suite::<TypeConfig, RedbLogStore, InMemoryStateMachine, MemoryStores, TempDir>::test_all(MemoryStores)
        .await
        .unwrap();
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new_committed(term, NodeId(1)), index)
}

fn set(term: u64, index: u64, key: &str) -> Entry {
    let command = Command::Set { key: key.into(), value: format!("{term}/{index}").as_str().into() };
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal((&command).into()) }
}

#[tokio::test]
async fn reopened_log_has_what_was_appended_voted_truncated_and_purged() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    let vote = Vote::new_committed(3, NodeId(2));
    log.blocking_append((0..10).map(|index| set(1, index, "k"))).await.unwrap();
    log.truncate_after(Some(log_id(1, 5))).await.unwrap();
    log.blocking_append((6..9).map(|index| set(3, index, "k"))).await.unwrap();
    log.save_committed(Some(log_id(3, 7))).await.unwrap();
    log.purge(log_id(1, 2)).await.unwrap();
    log.save_vote(&vote).await.unwrap();
    log.close();
    drop(log);

    let mut log = open_log(dir.path());
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 2)));
    assert_eq!(state.last_log_id, Some(log_id(3, 8)));
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(3, 7)));
    let want: Vec<Entry> = (3..9).map(|index| set(if index < 6 { 1 } else { 3 }, index, "k")).collect();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), want);
}

#[tokio::test]
async fn log_that_is_open_or_of_another_node_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let log = open_log(dir.path());
    let error = RedbLogStore::open(&path, NodeId(1), Execution::Thread).unwrap_err().to_string();
    assert!(error.ends_with("is in use by another process: stop that node first"), "{error}");
    log.close();
    drop(log);
    let error = RedbLogStore::open(&path, NodeId(2), Execution::Thread).unwrap_err().to_string();
    assert_eq!(
        error,
        "the data directory belongs to node 1, not to node 2: give each node a directory of its own"
    );
}

async fn apply(state_machine: &mut SqliteStateMachine, entries: impl Iterator<Item = Entry> + Send) {
    let entries: Vec<_> = entries.map(|entry| Ok((entry, None))).collect();
    state_machine.apply(futures::stream::iter(entries)).await.unwrap();
}

#[tokio::test]
async fn reopened_state_has_what_was_applied_and_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let mut state_machine = open_state(dir.path());
    apply(&mut state_machine, (0..200).map(|index| set(1, index, "k"))).await;
    let before = state_machine.readers().digest(None).await.unwrap();
    let closer = state_machine.closer();
    drop(state_machine);
    closer.close();

    let mut state_machine = open_state(dir.path());
    assert_eq!(state_machine.applied_state().await.unwrap().0, Some(log_id(1, 199)));
    assert_eq!(state_machine.readers().digest(None).await.unwrap(), before);
    // Two members that took different batches to the same index agree.
    let other = tempfile::tempdir().unwrap();
    let mut other = open_state(other.path());
    for index in 0..200 {
        apply(&mut other, [set(1, index, "k")].into_iter()).await;
    }
    assert_eq!(other.readers().digest(None).await.unwrap(), before);
    assert_eq!(
        other.readers().digest(Some(128)).await.unwrap(),
        state_machine.readers().digest(Some(128)).await.unwrap()
    );
}

/// A killed node that has applied what its log has not flushed does not start again: openraft closes the gap by a
/// purge, and wants a snapshot of what it has purged.
#[tokio::test]
async fn state_never_runs_ahead_of_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    let mut state_machine = open_state(dir.path()).behind(log.durable());
    log.blocking_append([set(1, 0, "k"), set(1, 1, "k")]).await.unwrap();
    apply(&mut state_machine, [set(1, 0, "k"), set(1, 1, "k")].into_iter()).await;

    let ahead = apply(&mut state_machine, [set(1, 2, "k")].into_iter());
    let applied = tokio::time::timeout(Duration::from_millis(100), ahead).await;
    assert!(applied.is_err(), "the entry was applied before the log had it");
    log.blocking_append([set(1, 2, "k")]).await.unwrap();
    apply(&mut state_machine, [set(1, 2, "k")].into_iter()).await;
    log.close();
    let late = futures::stream::iter([Ok((set(1, 3, "k"), None))]);
    let error = state_machine.apply(late).await.unwrap_err().to_string();
    assert_eq!(error, "the log takes no more entries");
}

/// Every key below `prefix`, page by page, and the sizes of the pages.
async fn scan_all(readers: &ReadPool, prefix: &str) -> (Vec<Key>, Vec<usize>) {
    let (mut keys, mut sizes, mut after) = (Vec::new(), Vec::new(), None);
    loop {
        let page = readers.scan(ScanRequest {
            vault: None,
            range: KeyRange { prefix: prefix.into(), ..KeyRange::default() },
            detail: ScanDetail::Records,
            after,
            limit: SCAN_LIMIT_DEFAULT,
            consistency: Consistency::Stale,
        });
        let page = page.await.unwrap();
        sizes.push(page.entries.len());
        keys.extend(page.entries.into_iter().map(|(key, _)| key));
        if !page.is_truncated {
            return (keys, sizes);
        }
        after = keys.last().cloned();
    }
}

/// An earlier system of this shape lost keys behind the first page, and compared keys as text.
#[tokio::test]
async fn scan_of_1001_keys_walks_to_the_end_and_meets_each_key_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut state_machine = open_state(dir.path());
    let names = ["ключ", "鍵", "🦀", "🦀🦀", "key\u{0}", "key"];
    let want: BTreeSet<String> =
        (0..1001).map(|number| format!("{}{number:04}", names[number % names.len()])).collect();
    assert_eq!(want.len(), 1001);
    let sets = want.iter().zip(0..).map(|(key, index)| set(1, index, key));
    apply(&mut state_machine, sets.collect::<Vec<_>>().into_iter()).await;

    let (keys, sizes) = scan_all(&state_machine.readers(), "").await;
    assert_eq!(sizes, [1000, 1]);
    // A text's order is the order of its bytes in UTF-8.
    assert!(keys.iter().eq(want.iter().map(|key| Key::from(key.as_str())).collect::<Vec<_>>().iter()));
    let crabs = want.iter().filter(|key| key.starts_with("🦀🦀")).count();
    assert_eq!(
        scan_all(&state_machine.readers(), "🦀🦀").await,
        (keys.iter().filter(|key| key.0.starts_with("🦀🦀".as_bytes())).cloned().collect(), vec![crabs])
    );
}

/// Entries that a state holds, and what it says of itself.
async fn digest_of(state_machine: &SqliteStateMachine) -> (Option<u64>, String) {
    let found = state_machine.readers().digest(None).await.unwrap();
    (found.index, found.digest)
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("state"));
    names.sort();
    names
}

#[tokio::test]
async fn installed_snapshot_replaces_the_state_for_readers_and_after_a_restart() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut leader = open_state(here.path());
    apply(&mut leader, (0..200).map(|index| set(1, index, &format!("k{index}")))).await;
    let mut follower = open_state(there.path());
    apply(&mut follower, (0..10).map(|index| set(1, index, &format!("k{index}")))).await;
    let readers = follower.readers();
    assert_eq!(scan_all(&readers, "").await.0.len(), 10);

    let mut builder = leader.try_create_snapshot_builder(true).await.unwrap();
    let snapshot = builder.build_snapshot().await.unwrap();
    assert_eq!(snapshot.meta.last_log_id, Some(log_id(1, 199)));
    // What is applied meanwhile is no part of it.
    apply(&mut leader, [set(1, 200, "later")].into_iter()).await;
    follower.install_snapshot(&snapshot.meta, snapshot.snapshot.clone()).await.unwrap();
    assert_eq!(follower.applied_state().await.unwrap().0, Some(log_id(1, 199)));
    assert_eq!(scan_all(&readers, "").await.0.len(), 200);
    apply(&mut follower, [set(1, 200, "later")].into_iter()).await;
    let want = digest_of(&leader).await;
    assert_eq!(digest_of(&follower).await, want);

    let closer = follower.closer();
    drop((follower, readers));
    closer.close();
    let mut follower = open_state(there.path());
    assert_eq!(digest_of(&follower).await, want);
    assert!(files(there.path()).iter().all(|name| name.starts_with("state-1.sqlite")));
    let kept = follower.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!((kept.meta, kept.snapshot.seal()), (snapshot.meta, snapshot.snapshot.seal()));
}

#[tokio::test]
async fn purged_log_begins_behind_and_its_rows_go_bit_by_bit() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    let count = 3 * PURGE_ROWS_MAX;
    log.blocking_append((0..count).map(|index| set(1, index, "k"))).await.unwrap();
    log.purge(log_id(1, count - 2)).await.unwrap();
    assert_eq!(log.first_index(), count - 1);
    // Killed here: most of the rows are still there, and do not count.
    log.close();
    drop(log);
    let mut log = open_log(dir.path());
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, count - 2)));
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), [set(1, count - 1, "k")]);
    log.purge(log_id(1, count + 7)).await.unwrap();
    log.close();
    drop(log);
    let mut log = open_log(dir.path());
    let state = log.get_log_state().await.unwrap();
    assert_eq!(
        (state.last_purged_log_id, state.last_log_id),
        (Some(log_id(1, count + 7)), Some(log_id(1, count + 7)))
    );
    log.blocking_append([set(1, count + 8, "k")]).await.unwrap();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), [set(1, count + 8, "k")]);

    // An entry behind a purge that reaches past the end, while most of the purged rows are still there.
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    log.blocking_append((0..count).map(|index| set(2, index, "k"))).await.unwrap();
    log.purge(log_id(1, 2 * count)).await.unwrap();
    log.blocking_append([set(1, 2 * count + 1, "k")]).await.unwrap();
    log.close();
    drop(log);
    let mut log = open_log(dir.path());
    let state = log.get_log_state().await.unwrap();
    let want = (Some(log_id(1, 2 * count)), Some(log_id(1, 2 * count + 1)));
    assert_eq!((state.last_purged_log_id, state.last_log_id), want);
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), [set(1, 2 * count + 1, "k")]);
}
