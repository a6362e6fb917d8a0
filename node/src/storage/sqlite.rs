//! `SqliteStateMachine`: the keys, in SQLite.
//!
//! One thread applies; a batch of entries is one transaction, and the last applied entry, the membership and the
//! state digest are written in it. The journal is a WAL with `synchronous=NORMAL`: the Raft log is the truth and
//! replays what a power cut takes. It never runs ahead of what that log holds durably: openraft applies what a quorum
//! has, also where this node's own write is still under way. Reads use a pool of their own connections and never wait for the writer.
//!
//! It makes no snapshots yet, and refuses to install one.

mod apply;
mod read;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use self::apply::{Applier, Batch};
pub use self::read::ReadPool;
use super::StorageError;
use super::log::DurableLog;
use crate::limits::APPLY_BATCH_MAX;
use crate::types::TypeConfig;
use crate::types::raft_types::{Entry, LogId, StoredMembership};

/// The format that this version writes, as `PRAGMA user_version`.
const FORMAT: i64 = 1;
/// "Aspn", as `PRAGMA application_id`.
const APPLICATION_ID: i64 = 0x4173_706e;

const SCHEMA: &str = "
    CREATE TABLE kv (
        key BLOB PRIMARY KEY,
        value BLOB NOT NULL,
        create_revision INTEGER NOT NULL,
        mod_revision INTEGER NOT NULL,
        version INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE digests (at INTEGER PRIMARY KEY, digest BLOB NOT NULL);
";

/// The state machine that openraft drives.
#[derive(Debug)]
pub struct SqliteStateMachine {
    queue: Option<SyncSender<Batch>>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    applied: Option<LogId>,
    membership: StoredMembership,
    readers: ReadPool,
    /// The log that this state must not run ahead of.
    log: Option<DurableLog>,
}

/// Waits for the state machine's thread when the node stops.
#[derive(Debug)]
pub struct StateMachineThread(Arc<Mutex<Option<JoinHandle<()>>>>);

impl StateMachineThread {
    /// Returns when the thread has ended, which it does once openraft has dropped the state machine.
    pub fn join(&self) {
        let thread = self.0.lock().expect("nothing panics while it holds this lock").take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the state machine's thread panicked");
        }
    }
}

impl SqliteStateMachine {
    /// Opens the state at `path`, or makes it.
    ///
    /// # Errors
    /// The file is damaged, of a later format, or cannot be used.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let sqlite = |source| StorageError::Sqlite { path: path.to_owned(), source };
        let connection = Connection::open(path).map_err(sqlite)?;
        initialize(path, &connection)?;
        let mut applier = Applier::new(connection).map_err(sqlite)?;
        let (last_applied, membership) = applier.position(path)?;
        let readers = ReadPool::open(path)?;
        // One batch is applied while openraft prepares the next.
        let (queue, batches) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("state-machine".into())
            .spawn(move || applier.run(&batches))
            .map_err(|source| StorageError::Io { path: path.to_owned(), source })?;
        Ok(Self {
            queue: Some(queue),
            thread: Arc::new(Mutex::new(Some(thread))),
            applied: last_applied,
            membership,
            readers,
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

    /// Reads of the state, for the node's own use.
    pub fn readers(&self) -> ReadPool {
        self.readers.clone()
    }

    /// What to wait for when the node stops.
    pub fn thread(&self) -> StateMachineThread {
        StateMachineThread(self.thread.clone())
    }

    async fn apply_batch(&mut self, batch: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let (entries, responders): (Vec<Entry>, Vec<_>) = batch.into_iter().unzip();
        let Some(last) = entries.last().map(|entry| entry.log_id) else { return Ok(()) };
        if let Some(log) = &mut self.log {
            log.reached(last.index).await?;
        }
        let membership = entries.iter().rev().find_map(apply::membership_of);
        let (done, applied) = oneshot::channel();
        let queue = self.queue.clone().ok_or_else(|| io::Error::other("the state machine is closed"))?;
        queue
            .send(Batch { entries, done })
            .map_err(|_| io::Error::other("the state machine's thread has ended"))?;
        let outcomes =
            applied.await.map_err(|_| io::Error::other("the state machine's thread has ended"))??;
        self.applied = Some(last);
        if let Some(membership) = membership {
            self.membership = membership;
        }
        for (responder, outcome) in responders.into_iter().zip(outcomes) {
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for SqliteStateMachine {
    type SnapshotData = NoSnapshot;
    type SnapshotBuilder = NoSnapshot;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        let mut batch = Vec::new();
        while let Some(entry) = entries.next().await {
            batch.push(entry?);
            if batch.len() == APPLY_BATCH_MAX as usize {
                self.apply_batch(std::mem::take(&mut batch)).await?;
            }
        }
        self.apply_batch(batch).await
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshot {
        NoSnapshot
    }

    async fn install_snapshot(
        &mut self,
        _meta: &openraft::type_config::alias::SnapshotMetaOf<TypeConfig>,
        _snapshot: NoSnapshot,
    ) -> Result<(), io::Error> {
        Err(NoSnapshot::error())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::type_config::alias::SnapshotOf<TypeConfig, NoSnapshot>>, io::Error> {
        Ok(None)
    }
}

/// Stands where openraft wants a snapshot. There is none: nothing is purged, so none is ever needed.
#[derive(Debug, Clone, Copy)]
pub struct NoSnapshot;

impl NoSnapshot {
    /// What asking for a snapshot ends in.
    pub fn error() -> io::Error {
        io::Error::new(io::ErrorKind::Unsupported, "snapshots are not supported by this version")
    }
}

impl RaftSnapshotBuilder<TypeConfig> for NoSnapshot {
    type SnapshotData = Self;

    async fn build_snapshot(
        &mut self,
    ) -> Result<openraft::type_config::alias::SnapshotOf<TypeConfig, Self>, io::Error> {
        Err(Self::error())
    }
}

/// Sets the journal up, makes the tables, and refuses files of another kind or of a later format.
fn initialize(path: &Path, connection: &Connection) -> Result<(), StorageError> {
    let sqlite = |source| StorageError::Sqlite { path: path.to_owned(), source };
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    let found = pragma("user_version").map_err(sqlite)?;
    let application = pragma("application_id").map_err(sqlite)?;
    let is_new = match (application, found) {
        (0, 0) => true,
        (APPLICATION_ID, FORMAT) => false,
        (APPLICATION_ID, _) => {
            return Err(StorageError::Format {
                path: path.to_owned(),
                found: found.unsigned_abs(),
                supported: FORMAT.unsigned_abs(),
            });
        }
        _ => {
            return Err(StorageError::Corrupt {
                path: path.to_owned(),
                what: "the application id".to_owned(),
            });
        }
    };
    connection.execute_batch("PRAGMA synchronous=NORMAL; PRAGMA journal_mode=WAL;").map_err(sqlite)?;
    if is_new {
        // At once, or not at all.
        let make = format!(
            "BEGIN; PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={FORMAT}; {SCHEMA} COMMIT;"
        );
        connection.execute_batch(&make).map_err(sqlite)?;
    }
    Ok(())
}

/// A connection that cannot write.
fn open_read_only(path: &PathBuf) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}
