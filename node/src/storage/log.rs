//! `RedbLogStore`: the Raft log and vote, in redb.
//!
//! One writer owns all writes. It drains its queue into one durable commit, then answers in order: the fsync
//! is the batching window. Entries are readable when `append` returns and durable when its callback is called; entries
//! that are not durable yet, and recent ones, are read from memory.
//!
//! `committed` rides along with the next commit and never costs an fsync of its own: after a crash it may be behind,
//! and is raised again by the leader.
//!
//! After an I/O error the store is tainted: every later write fails with the same reason, so that the node stops.

mod behind;
mod cache;
mod durable;
mod file;
mod inspect;
mod writer;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::{Stream, TryStreamExt, stream};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    TableError,
};
use tokio::sync::{oneshot, watch};

use self::cache::Cache;
pub use self::durable::DurableLog;
use self::durable::Mark;
use self::file::open_log;
pub(crate) use self::file::{builder, open};
pub(crate) use self::inspect::Untouched;
pub use self::inspect::{LogReport, inspect};
use self::writer::{LogOp, Writer};
use super::entry::{decode_entry, entry_size};
use super::shell::{Execution, Shell};
use super::{StorageError, space};
use crate::causes::without_panic;
use crate::failpoint::FailPoint;
use crate::host::blocking;
use crate::limits::{APPEND_BYTES_MAX, LOG_QUEUE_MAX};
use crate::metrics::StoreMetrics;
use crate::types::raft_types::{Entry, LogId, Vote};
use crate::types::{NodeId, TypeConfig};

/// The log in a data directory.
pub const LOG_FILE: &str = "log.redb";
/// Entries by index, each encoded by postcard.
const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
/// Vote, committed, purged, node and format.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// The format that this version writes. 1: without the commands on many keys, transactions and vaults.
const FORMAT: u64 = 2;

/// The log of one node. Clones share it.
#[derive(Clone)]
pub struct RedbLogStore {
    shared: Arc<Shared>,
    writer: Arc<Shell<Writer>>,
}

impl Debug for RedbLogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedbLogStore").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

/// What the handles and the writer share.
struct Shared {
    path: PathBuf,
    db: Database,
    cache: Mutex<Cache>,
    durable: watch::Sender<Mark>,
    metrics: StoreMetrics,
    /// Whether the disk had no room for a commit.
    is_full: AtomicBool,
}

/// What reading a log comes to, where redb panics, too.
fn unbroken<T>(path: &Path, read: impl FnOnce() -> Result<T, StorageError>) -> Result<T, StorageError> {
    let broken = || Err(StorageError::Corrupt { path: path.to_owned(), what: "a page of it".to_owned() });
    without_panic(read).unwrap_or_else(broken)
}

/// Whether it is the file that is wrong, and not the disk or who may read it.
pub(super) fn is_damage(error: &redb::Error) -> bool {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        redb::Error::Io(error) => matches!(error.kind(), InvalidData | UnexpectedEof),
        _ => true,
    }
}

/// Whether there was no room on the disk.
pub(crate) fn is_disk_full(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(error) if space::is_disk_full(error))
}

impl RedbLogStore {
    /// Whose log is at `path`, and whether there is or was anything in it; `None` where there is none.
    ///
    /// # Errors
    /// The file is in use, damaged, or of a later format.
    pub fn owner(path: &Path) -> Result<Option<(NodeId, bool)>, StorageError> {
        if path.exists() { unbroken(path, || Self::read_owner(path)) } else { Ok(None) }
    }

    fn read_owner(path: &Path) -> Result<Option<(NodeId, bool)>, StorageError> {
        let db = open_log(path).map_err(|error| not_opened(path, error))?;
        let Some((_, node)) = stored_format(path, &db)? else { return Ok(None) };
        let Loaded { vote, last, purged, .. } = load(path, &db)?;
        Ok(Some((NodeId(node), vote.is_some() || last.is_some() || purged.is_some())))
    }

    /// Opens the log at `path`, or makes it, for node `id`.
    ///
    /// # Errors
    /// The file is in use, damaged, of a later format, or another node's.
    pub fn open(path: &Path, id: NodeId, execution: Execution) -> Result<Self, StorageError> {
        unbroken(path, || Self::open_here(path, id, execution))
    }

    fn open_here(path: &Path, id: NodeId, execution: Execution) -> Result<Self, StorageError> {
        let db = open_log(path).map_err(|error| not_opened(path, error))?;
        initialize(path, &db, id)?;
        let mut cache = Cache::default();
        let loaded = load(path, &db)?;
        if !loaded.is_whole {
            let what = "the row of entries, which has a hole,".to_owned();
            return Err(StorageError::Corrupt { path: path.to_owned(), what });
        }
        cache.restore(loaded.purged, loaded.last, loaded.vote, loaded.committed);
        let durable = Mark::Upto(cache.durable());
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            db,
            cache: Mutex::new(cache),
            durable: watch::Sender::new(durable),
            metrics: StoreMetrics::of_log(),
            is_full: AtomicBool::new(false),
        });
        let writer = Writer::new(shared.clone());
        let writer = Shell::start(writer, execution, "raft-log", LOG_QUEUE_MAX)
            .map_err(|source| StorageError::Io { path: path.to_owned(), source })?;
        Ok(Self { shared, writer: Arc::new(writer) })
    }

    /// Writes what is queued, then closes the log. Later operations fail.
    pub fn close(&self) {
        self.writer.close();
    }

    /// The entries in `range`, as far as the log has them; at most about `bytes_max` bytes but always one entry.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn read(&self, range: impl RangeBounds<u64>, bytes_max: u64) -> io::Result<Vec<Entry>> {
        let (from, until) = bounds(&range);
        loop {
            // What memory has from here on, and which part of the range is on disk only.
            let (generation, disk, mut tail) = {
                let cache = lock(&self.shared.cache);
                let range = cache.clamp(from, until);
                let (disk, tail) = cache.read(range.clone(), bytes_max);
                (cache.generation(), disk, tail)
            };
            if disk.is_empty() {
                return Ok(tail);
            }
            let entries = self.read_disk(disk.start, disk.end, bytes_max);
            // A truncation or purge in between would mix two logs, or leave a hole.
            if lock(&self.shared.cache).generation() != generation {
                continue;
            }
            let mut entries = entries?;
            let mut bytes: u64 = entries.iter().map(entry_size).sum();
            let complete = entries.last().is_some_and(|entry| entry.log_id.index + 1 == disk.end);
            if complete {
                tail.retain(|entry| {
                    bytes = bytes.saturating_add(entry_size(entry));
                    bytes <= bytes_max
                });
                entries.append(&mut tail);
            }
            return Ok(entries);
        }
    }

    /// Whether it has failed for want of room.
    pub fn ran_out_of_room(&self) -> bool {
        self.shared.is_full.load(Ordering::Relaxed)
    }

    /// What is measured of it.
    pub fn metrics(&self) -> &StoreMetrics {
        &self.shared.metrics
    }

    /// Follows how far the log is durable.
    pub fn durable(&self) -> DurableLog {
        DurableLog::new(self.shared.durable.subscribe())
    }

    /// The index of the last entry; the first entry of a log has index 0.
    pub fn last_index(&self) -> Option<u64> {
        lock(&self.shared.cache).last().map(|last| last.index)
    }

    /// The index of the first entry that is not on disk only.
    pub fn first_in_memory(&self) -> Option<u64> {
        lock(&self.shared.cache).first_in_memory()
    }

    /// The index of the first entry of the log.
    pub fn first_index(&self) -> u64 {
        lock(&self.shared.cache).first()
    }

    /// About the bytes of the entries that were appended since the log was opened.
    pub fn appended_bytes(&self) -> u64 {
        lock(&self.shared.cache).appended_bytes()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// The last entry that was cut off, and the last one that there is.
    pub fn ends(&self) -> (Option<LogId>, Option<LogId>) {
        let cache = lock(&self.shared.cache);
        (cache.purged(), cache.last())
    }

    /// The last entry that is known to be committed.
    pub fn committed(&self) -> Option<LogId> {
        lock(&self.shared.cache).committed()
    }

    /// The entry at an index, if there is one, or if it was the last that was cut off.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn id_at(&self, index: u64) -> io::Result<Option<LogId>> {
        if let Some(purged) = self.ends().0.filter(|purged| purged.index == index) {
            return Ok(Some(purged));
        }
        Ok(self.read(index..=index, 0)?.first().map(|entry| entry.log_id))
    }

    /// The vote that is on disk.
    pub fn durable_vote(&self) -> Option<Vote> {
        lock(&self.shared.cache).vote()
    }

    /// As [`Self::read`], from memory at once; the disk does not hold up the thread.
    async fn read_apart(&self, (from, until): (u64, u64), bytes_max: u64) -> io::Result<Vec<Entry>> {
        let (disk, tail) = {
            let cache = lock(&self.shared.cache);
            cache.read(cache.clamp(from, until), bytes_max)
        };
        if disk.is_empty() {
            return Ok(tail);
        }
        let log = self.clone();
        let read = blocking(move || log.read(from..until, bytes_max)).await;
        read.map_err(io::Error::other)?
    }

    fn read_disk(&self, from: u64, until: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        let read = || -> Result<io::Result<Vec<Entry>>, redb::Error> {
            let table = self.shared.db.begin_read()?.open_table(ENTRIES)?;
            let mut entries = Vec::new();
            let mut bytes = 0;
            for (wanted, row) in (from..).zip(table.range(from..until)?) {
                let (index, value) = row?;
                if index.value() != wanted {
                    return Ok(Err(hole(wanted)));
                }
                bytes += value.value().len() as u64;
                if bytes > bytes_max && !entries.is_empty() {
                    break;
                }
                match decode_entry(value.value()) {
                    Ok(entry) => entries.push(entry),
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok(entries))
        };
        let entries = read().map_err(io::Error::other)??;
        if entries.is_empty() { Err(hole(from)) } else { Ok(entries) }
    }

    async fn flushed(receiver: oneshot::Receiver<io::Result<()>>) -> io::Result<()> {
        receiver.await.map_err(|_| io::Error::other("the log's writer has ended"))?
    }
}

/// The entries from `from` up to `until`, exclusive, which a range of indexes names.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let until = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(until) => *until,
        Bound::Unbounded => u64::MAX,
    };
    (from, until)
}

impl RaftLogReader<TypeConfig> for RedbLogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read_apart(bounds(&range), u64::MAX).await
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, until) = bounds(&range);
        // What a new leader finds committed at once can be more than fits into memory.
        let parts = stream::try_unfold((self.clone(), from), move |(log, from)| async move {
            if from >= until {
                return Ok(None);
            }
            let entries = log.read_apart((from, until), u64::from(APPEND_BYTES_MAX)).await?;
            let next = entries.last().map(|entry| (log, entry.log_id.index + 1));
            Ok::<_, io::Error>(next.map(|next| (stream::iter(entries.into_iter().map(Ok)), next)))
        });
        parts.try_flatten()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read_apart((start, end), u64::from(APPEND_BYTES_MAX)).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(lock(&self.shared.cache).vote())
    }
}

impl RaftLogStorage<TypeConfig> for RedbLogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let cache = lock(&self.shared.cache);
        Ok(LogState { last_purged_log_id: cache.purged(), last_log_id: cache.last().or(cache.purged()) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, flushed) = oneshot::channel();
        self.writer.submit(LogOp::Vote { vote: *vote, done })?;
        Self::flushed(flushed).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        lock(&self.shared.cache).set_committed(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(lock(&self.shared.cache).committed())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        FailPoint::AppendPanics.pass();
        let entries: Vec<Entry> = entries.into_iter().collect();
        {
            let mut cache = lock(&self.shared.cache);
            entries.iter().cloned().for_each(|entry| cache.append(entry));
        }
        self.writer.submit(LogOp::Append { entries, done: callback })
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let (done, flushed) = oneshot::channel();
        lock(&self.shared.cache).truncate_after(last_log_id);
        self.writer.submit(LogOp::Truncate { after: last_log_id.map(|id| id.index), done })?;
        Self::flushed(flushed).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let (done, flushed) = oneshot::channel();
        lock(&self.shared.cache).purge(log_id);
        self.writer.submit(LogOp::Purge { upto: log_id, done })?;
        Self::flushed(flushed).await
    }
}

/// What is found in a log when it is opened.
struct Loaded {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Whether no entry is missing between what was purged and the last one.
    is_whole: bool,
}

fn not_opened(path: &Path, error: DatabaseError) -> StorageError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StorageError::InUse { path: path.to_owned() },
        other => redb_error(path, other),
    }
}

/// Format and node of a log; `None` for one that is empty.
fn stored_format(path: &Path, db: &Database) -> Result<Option<(u64, u64)>, StorageError> {
    let look = || -> Result<Option<[Option<u64>; 2]>, redb::Error> {
        let txn = db.begin_read()?;
        let meta = match txn.open_table(META) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            meta => meta?,
        };
        let number = |name: &str| -> Result<Option<u64>, redb::Error> {
            Ok(meta.get(name)?.and_then(|value| value.value().try_into().ok()).map(u64::from_le_bytes))
        };
        Ok(Some([number("format")?, number("node")?]))
    };
    match look().map_err(|error| redb_error(path, error))? {
        None => Ok(None),
        Some([Some(format), Some(node)]) if (1..=FORMAT).contains(&format) => Ok(Some((format, node))),
        Some([Some(found), Some(_)]) => {
            Err(StorageError::Format { path: path.to_owned(), found, supported: FORMAT })
        }
        Some(_) => Err(StorageError::Corrupt { path: path.to_owned(), what: "the format".to_owned() }),
    }
}

/// Makes the tables where there are none, and makes sure that they are this node's and of a known format.
fn initialize(path: &Path, db: &Database, id: NodeId) -> Result<(), StorageError> {
    let make = || -> Result<(), redb::Error> {
        let txn = db.begin_write()?;
        let mut meta = txn.open_table(META)?;
        meta.insert("format", FORMAT.to_le_bytes().as_slice())?;
        meta.insert("node", id.0.to_le_bytes().as_slice())?;
        drop(meta);
        txn.open_table(ENTRIES)?;
        Ok(txn.commit()?)
    };
    match stored_format(path, db)? {
        Some((_, found)) if found != id.0 => Err(StorageError::OtherNode { found, expected: id.0 }),
        Some((FORMAT, _)) => Ok(()),
        // Every older entry reads as it is; from now on there may be others.
        Some(_) | None => make().map_err(|error| redb_error(path, error)),
    }
}

fn load(path: &Path, db: &Database) -> Result<Loaded, StorageError> {
    let corrupt = |what: &str| StorageError::Corrupt { path: path.to_owned(), what: what.to_owned() };
    let names = || -> Result<[Option<Vec<u8>>; 3], redb::Error> {
        let meta = db.begin_read()?.open_table(META)?;
        let bytes = |name: &str| -> Result<Option<Vec<u8>>, redb::Error> {
            Ok(meta.get(name)?.map(|value| value.value().to_vec()))
        };
        Ok([bytes("vote")?, bytes("committed")?, bytes("purged")?])
    };
    let [vote, committed, purged] = names().map_err(|error| redb_error(path, error))?;
    let log_id = |bytes: Option<Vec<u8>>, what: &str| -> Result<Option<LogId>, StorageError> {
        bytes.map(|bytes| postcard::from_bytes(&bytes)).transpose().map_err(|_| corrupt(what))
    };
    let purged = log_id(purged, "the purged index")?;
    let begin = purged.map_or(0, |purged| purged.index + 1);
    let live = live_entries(db, begin).map_err(|error| redb_error(path, error))?;
    let mut is_whole = true;
    let last = match live {
        None => None,
        Some(live) => {
            is_whole = live.last - live.first + 1 == live.count && live.first == begin;
            Some(decode_entry(&live.bytes).map_err(|_| corrupt("the last entry"))?.log_id)
        }
    };
    Ok(Loaded {
        vote: vote.map(|bytes| postcard::from_bytes(&bytes)).transpose().map_err(|_| corrupt("the vote"))?,
        committed: log_id(committed, "the committed index")?,
        purged,
        last,
        is_whole,
    })
}

/// The entries of a log that were not purged.
struct Live {
    first: u64,
    last: u64,
    /// The last one's encoding.
    bytes: Vec<u8>,
    count: u64,
}

/// The entries from `begin` on. Rows before it are purged; some may still be there, with holes between them.
fn live_entries(db: &Database, begin: u64) -> Result<Option<Live>, redb::Error> {
    let entries = db.begin_read()?.open_table(ENTRIES)?;
    let Some((last, bytes)) = entries.range(begin..)?.next_back().transpose()? else { return Ok(None) };
    let Some((first, _)) = entries.range(begin..)?.next().transpose()? else { return Ok(None) };
    let is_clean = entries.first()?.is_some_and(|(index, _)| index.value() >= begin);
    let count = if is_clean { entries.len()? } else { entries.range(begin..)?.count() as u64 };
    Ok(Some(Live { first: first.value(), last: last.value(), bytes: bytes.value().to_vec(), count }))
}

fn hole(index: u64) -> io::Error {
    io::Error::other(format!("the log has a hole: {index} is missing"))
}

fn redb_error(path: &Path, error: impl Into<redb::Error>) -> StorageError {
    StorageError::Redb { path: path.to_owned(), source: Box::new(error.into()) }
}

/// A poisoned lock means that another thread has crashed while it held it: so do we.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("the other thread has crashed with the log in its hands")
}
