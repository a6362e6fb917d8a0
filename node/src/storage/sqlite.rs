//! `SqliteStateMachine`: the keys, in SQLite.
//!
//! One loop applies; a batch of entries is one transaction, and the last applied entry, the membership and the
//! state digest are written in it. The journal is a WAL with `synchronous=NORMAL`: the Raft log is the truth and
//! replays what a power cut takes. It never runs ahead of what that log holds durably: openraft applies what a quorum
//! has, also where this node's own write is still under way. Reads use a pool of their own connections and never wait for the writer.
//!
//! The journal is emptied into the database beside that, and a snapshot is a copy of the database's pages as
//! of one read transaction: neither makes a write wait. A snapshot that is installed becomes a database under the next
//! name, and its rename is the moment at which the state changes.

mod apply;
mod backup;
mod build;
mod checkpoint;
mod generation;
mod inspect;
mod read;
mod records;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftStateMachine};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use self::apply::{Applier, Batch, Op, Position};
pub(super) use self::apply::{is_damage, is_disk_full};
#[cfg(test)]
pub(crate) use self::backup::sample;
pub use self::backup::{BackedUp, Tally, inspect_backup, make_alone, tally};
pub use self::build::SnapshotBuilder;
use self::generation::Generation;
pub use self::generation::is_state_file;
pub use self::inspect::{StateReport, check_snapshot, inspect, inspect_snapshot};
pub use self::read::ReadPool;
use super::StorageError;
use super::entry::{entry_size, membership_of};
use super::log::DurableLog;
use super::shell::{Execution, Shell};
use super::snapshot::{SNAPSHOT_DIR, SnapshotFile, SnapshotStore};
use crate::limits::{
    APPLY_BATCH_MAX, APPLY_BYTES_MAX, JOURNAL_BYTES_MAX, STATE_CACHE_KIB, WATCH_HISTORY_MIB_DEFAULT,
};
use crate::metrics::StoreMetrics;
use crate::plant::Plant;
use crate::types::TypeConfig;
use crate::types::raft_types::{Entry, LogId, Snapshot, SnapshotMeta, StoredMembership};
use crate::watch::ChangeFeed;

/// "Aspn", as `PRAGMA application_id`.
const APPLICATION_ID: i64 = 0x4173_706e;
/// The format that this version writes, as `PRAGMA user_version`. 1: no vaults. 2: no leases.
const FORMAT: i64 = 3;

/// The keys of every space; space 0 belongs to no vault. A row is found by its key and changed in its place.
const KEYS: &str = "
    CREATE TABLE kv (
        space INTEGER NOT NULL,
        key BLOB NOT NULL,
        value BLOB NOT NULL,
        create_revision INTEGER NOT NULL,
        mod_revision INTEGER NOT NULL,
        version INTEGER NOT NULL,
        lease INTEGER,
        UNIQUE (space, key)
    );
    CREATE TABLE vaults (name TEXT PRIMARY KEY, space INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE removed_vaults (space INTEGER PRIMARY KEY);
";
/// What ends by itself. A key without a lease is in no index of them.
const LEASES: &str = "
    CREATE TABLE leases (lease INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL);
    CREATE INDEX kv_by_lease ON kv (lease, space) WHERE lease IS NOT NULL;
";
const BOOKS: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE digests (at INTEGER PRIMARY KEY, digest BLOB NOT NULL);
";

/// The state machine that openraft drives.
#[derive(Debug)]
pub struct SqliteStateMachine {
    applier: Arc<Shell<Applier>>,
    is_closing: Arc<AtomicBool>,
    position: Position,
    readers: ReadPool,
    snapshots: SnapshotStore,
    bases: Bases,
    feed: ChangeFeed,
    metrics: StoreMetrics,
    /// The log that this state must not run ahead of.
    log: Option<DurableLog>,
}

/// Files in which parts of a snapshot may be found that need not be sent. Clones share them.
#[derive(Debug, Clone)]
pub struct Bases(Arc<Mutex<Arc<File>>>);

impl Bases {
    /// Opens the database besides SQLite. It must stay open as long as SQLite has it: to close it would take SQLite's
    /// locks away (fcntl(2), "advisory record locking").
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Arc::new(File::open(path)?)))))
    }

    /// The present ones.
    pub fn get(&self) -> Vec<Arc<File>> {
        vec![self.0.lock().expect("nothing panics while it holds this lock").clone()]
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        let file = Arc::new(File::open(path)?);
        *self.0.lock().expect("nothing panics while it holds this lock") = file;
        Ok(())
    }
}

/// Closes a state machine when its node stops.
#[derive(Debug)]
pub struct StateMachineCloser {
    applier: Arc<Shell<Applier>>,
    is_closing: Arc<AtomicBool>,
}

impl StateMachineCloser {
    /// Has it give up to wait for room on its disk: what is not applied stays in the log.
    pub fn stop_waiting(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    /// Does what is queued, and closes it. What it is asked later fails.
    pub fn close(&self) {
        self.applier.close();
    }
}

impl SqliteStateMachine {
    /// Opens the state in a data directory, or makes it.
    ///
    /// # Errors
    /// A file is damaged, of a later format, or cannot be used.
    pub fn open(data_dir: &Path, execution: Execution) -> Result<Self, StorageError> {
        let generation = Generation::find(data_dir)?;
        let path = generation.path();
        let sqlite = |source| StorageError::sqlite(&path, source);
        let connection = open_writer(&path)?;
        let snapshots = SnapshotStore::open(&data_dir.join(SNAPSHOT_DIR), build::read_meta)?;
        let io = |source| StorageError::Io { path: path.clone(), source };
        let bases = Bases::open(&path).map_err(io)?;
        let mut position = apply::position(&path, &connection)?;
        if let Some(applied) = position.applied.as_mut().filter(|_| Plant::ApplyTwiceAfterRestart.is_on()) {
            applied.index = applied.index.saturating_sub(1);
        }
        let metrics = StoreMetrics::of_state();
        let feed = ChangeFeed::new(position.revision(), WATCH_HISTORY_MIB_DEFAULT * 1024 * 1024);
        let (readers, is_closing) = (ReadPool::new(path.clone()), Arc::new(AtomicBool::new(false)));
        let applier = Applier::new(
            (connection, generation),
            readers.clone(),
            bases.clone(),
            is_closing.clone(),
            feed.clone(),
            metrics.clone(),
            execution,
        );
        let applier = applier.map_err(sqlite)?;
        // One batch is applied while openraft prepares the next.
        let applier = Shell::start(applier, execution, "state-machine", 1).map_err(io)?;
        Ok(Self {
            applier: Arc::new(applier),
            is_closing,
            position,
            readers,
            snapshots,
            bases,
            feed,
            metrics,
            log: None,
        })
    }

    /// Applies an entry only once `log` holds it durably. A state ahead of its log would have a hole behind it, and a
    /// node does not start with one.
    #[must_use]
    pub fn behind(mut self, log: DurableLog) -> Self {
        self.log = Some(log);
        self
    }

    /// The last entry of the state.
    pub fn applied(&self) -> Option<LogId> {
        self.position.applied
    }

    /// Reads of the state, for the node's own use.
    pub fn readers(&self) -> ReadPool {
        self.readers.clone()
    }

    /// The snapshots of this state.
    pub fn snapshots(&self) -> SnapshotStore {
        self.snapshots.clone()
    }

    /// Where parts of a snapshot may be found that need not be sent.
    pub fn bases(&self) -> Bases {
        self.bases.clone()
    }

    /// What changes in it.
    pub fn feed(&self) -> ChangeFeed {
        self.feed.clone()
    }

    /// What is measured of it.
    pub fn metrics(&self) -> StoreMetrics {
        self.metrics.clone()
    }

    /// What closes it when the node stops.
    pub fn closer(&self) -> StateMachineCloser {
        StateMachineCloser { applier: self.applier.clone(), is_closing: self.is_closing.clone() }
    }

    async fn apply_batch(&mut self, batch: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let (entries, mut responders): (Vec<Entry>, Vec<_>) = batch.into_iter().unzip();
        let Some(last) = entries.last().map(|entry| entry.log_id) else { return Ok(()) };
        // A quorum has them durably, and a linearizable read waits until they are applied: who needs no more than that is
        // answered now.
        for (entry, responder) in entries.iter().zip(&mut responders) {
            if let EntryPayload::Normal(command) = &entry.payload
                && let Some(outcome) = command.certain_outcome()
                && let Some(responder) = responder.take()
            {
                responder.send(outcome);
            }
        }
        if let Some(log) = &mut self.log {
            log.reached(last.index).await?;
        }
        let membership = entries.iter().rev().find_map(membership_of);
        let awaited = responders.iter().map(Option::is_some).collect();
        let outcomes = self.ask(|done| Op::Apply(Batch { entries, awaited, done })).await?;
        self.position.applied = Some(last);
        if let Some(membership) = membership {
            self.position.membership = membership;
        }
        for (responder, outcome) in responders.into_iter().zip(outcomes) {
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    /// Has something done, and waits for what comes of it.
    async fn ask<T>(&self, op: impl FnOnce(oneshot::Sender<io::Result<T>>) -> Op) -> io::Result<T> {
        let (done, answer) = oneshot::channel();
        self.applier.submit(op(done))?;
        answer.await.map_err(|_| io::Error::other("the state machine has ended"))?
    }
}

impl RaftStateMachine<TypeConfig> for SqliteStateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.position.applied, self.position.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            bytes += entry_size(&entry.0);
            batch.push(entry);
            if batch.len() == APPLY_BATCH_MAX as usize || bytes >= APPLY_BYTES_MAX {
                self.apply_batch(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
        }
        self.apply_batch(batch).await
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder::new(self.readers.clone(), self.snapshots.clone())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        assert_eq!(snapshot.meta(), meta, "a snapshot is installed as what it is");
        self.snapshots.adopt(snapshot.clone())?;
        self.position = self.ask(|done| Op::Install { snapshot, done }).await?;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<SnapshotFile>>, io::Error> {
        let current = self.snapshots.current();
        Ok(current.map(|snapshot| Snapshot { meta: snapshot.meta().clone(), snapshot }))
    }
}

/// Opens the database to write into it, and makes it if it is missing.
fn open_writer(path: &Path) -> Result<Connection, StorageError> {
    let sqlite = |source| StorageError::sqlite(path, source);
    let connection = Connection::open(path).map_err(sqlite)?;
    initialize(path, &connection)?;
    Ok(connection)
}

/// The format of a database; 0 for one that is empty. Files of another kind or of a later format are refused.
fn check_format(path: &Path, connection: &Connection) -> Result<i64, StorageError> {
    let sqlite = |source| StorageError::sqlite(path, source);
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    let found = pragma("user_version").map_err(sqlite)?;
    match (pragma("application_id").map_err(sqlite)?, found) {
        (0, 0) | (APPLICATION_ID, 1..=FORMAT) => Ok(found),
        (APPLICATION_ID, _) => Err(StorageError::Format {
            path: path.to_owned(),
            found: found.unsigned_abs(),
            supported: FORMAT.unsigned_abs(),
        }),
        _ => Err(StorageError::Corrupt { path: path.to_owned(), what: "the application id".to_owned() }),
    }
}

/// Sets the journal up, and makes the tables that this version wants.
fn initialize(path: &Path, connection: &Connection) -> Result<(), StorageError> {
    let sqlite = |source| StorageError::sqlite(path, source);
    let make = match check_format(path, connection)? {
        0 => format!("PRAGMA application_id={APPLICATION_ID}; {KEYS} {LEASES} {BOOKS}"),
        1 => format!(
            "ALTER TABLE kv RENAME TO kv1; {KEYS}
             INSERT INTO kv SELECT 0, key, value, create_revision, mod_revision, version, NULL FROM kv1 ORDER BY key;
             DROP TABLE kv1; {LEASES}"
        ),
        2 => format!("ALTER TABLE kv ADD COLUMN lease INTEGER; {LEASES}"),
        _ => String::new(),
    };
    // A journal that was longer once is cut when it begins anew.
    let journal = format!(
        "PRAGMA synchronous=NORMAL; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;
         PRAGMA journal_size_limit={JOURNAL_BYTES_MAX}; PRAGMA cache_size=-{STATE_CACHE_KIB};"
    );
    connection.execute_batch(&journal).map_err(sqlite)?;
    if !make.is_empty() {
        // At once, or not at all.
        let make = format!("BEGIN; {make} PRAGMA user_version={FORMAT}; COMMIT;");
        connection.execute_batch(&make).map_err(sqlite)?;
    }
    Ok(())
}

/// A connection that cannot write.
fn open_read_only(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}
