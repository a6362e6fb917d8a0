//! The writer's side of the state machine: a batch of entries is one transaction.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, ffi, params};
use tokio::sync::oneshot;

use super::super::entry::{chain, decode_command, encode, entry_size, membership_of};
use super::super::shell::{Execution, Next, Steps};
use super::super::space;
use super::checkpoint::Checkpoints;
use super::generation::Generation;
use super::records::{self, SqlStore, sql_int};
use super::{Bases, ReadPool, SnapshotFile, StorageError, check_snapshot, open_writer};
use crate::failpoint::FailPoint;
use crate::limits::{DISK_FULL_WAIT, STATE_DIGEST_INTERVAL, STATE_DIGESTS_MAX};
use crate::metrics::StoreMetrics;
use crate::plant::Plant;
use crate::state::{self, Recorder};
use crate::types::raft_types::{Entry, LogId, StoredMembership};
use crate::types::{Command, Outcome, Revised, Revision};
use crate::watch::ChangeFeed;

/// Bytes of a page of the database, as SQLite has them unless it is told otherwise.
const PAGE_BYTES: u64 = 4_096;

/// What the state machine is asked to do.
#[derive(Debug)]
pub(super) enum Op {
    /// Apply entries.
    Apply(Batch),
    /// Replace the whole state by that of a snapshot.
    Install { snapshot: SnapshotFile, done: oneshot::Sender<io::Result<Position>> },
}

/// Entries to apply together, and whom to tell what they did.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) entries: Vec<Entry>,
    /// Whether somebody waits for what each of them did.
    pub(super) awaited: Vec<bool>,
    pub(super) done: oneshot::Sender<io::Result<Vec<Outcome>>>,
}

/// How far a state is.
#[derive(Debug, Clone)]
pub(super) struct Position {
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
}

impl Position {
    /// The last applied entry.
    pub(super) fn revision(&self) -> Revision {
        Revision(self.applied.map_or(0, |applied| applied.index))
    }
}

/// Owns the connection that writes.
#[derive(Debug)]
pub(super) struct Applier {
    // Invariant: closed before the file that `bases` holds beside it.
    connection: Connection,
    generation: Generation,
    checkpoints: Checkpoints,
    readers: ReadPool,
    bases: Bases,
    /// The state digest after the last applied entry.
    digest: [u8; 32],
    /// What is not done yet: there may have been no room on the disk.
    pending: VecDeque<Op>,
    /// Whether it waits for room on its disk.
    is_waiting: bool,
    /// Turns true when nothing more is waited for.
    is_closing: Arc<AtomicBool>,
    feed: ChangeFeed,
    metrics: StoreMetrics,
    execution: Execution,
}

impl Applier {
    pub(super) fn new(
        (connection, generation): (Connection, Generation),
        readers: ReadPool,
        bases: Bases,
        is_closing: Arc<AtomicBool>,
        feed: ChangeFeed,
        metrics: StoreMetrics,
        execution: Execution,
    ) -> rusqlite::Result<Self> {
        let digest = stored_digest(&connection)?;
        let checkpoints = Checkpoints::start(&generation.path(), execution)?;
        Ok(Self {
            connection,
            generation,
            checkpoints,
            readers,
            bases,
            digest,
            pending: VecDeque::new(),
            is_waiting: false,
            is_closing,
            feed,
            metrics,
            execution,
        })
    }

    /// Puts what found no room back to the head of the queue, and says so once.
    fn wait_for_room(&mut self, op: Op, error: &dyn Display) -> Next {
        if !std::mem::replace(&mut self.is_waiting, true) {
            tracing::warn!(%error, "the state machine waits for room on its disk");
        }
        self.pending.push_front(op);
        Next::After(DISK_FULL_WAIT)
    }

    /// Makes a snapshot the state. A crash leaves the old state or the new one.
    fn install(&mut self, snapshot: &SnapshotFile) -> Result<Position, StorageError> {
        let next = self.generation.next();
        let path = next.path();
        let io = |source| StorageError::Io { path: path.clone(), source };
        let sqlite = |source| StorageError::sqlite(&path, source);
        let unfinished = next.prepare(snapshot).map_err(io)?;
        check_snapshot(&unfinished, snapshot.meta())?;
        FailPoint::InstallPrepared.pass();
        next.enter(&unfinished).map_err(io)?;
        FailPoint::InstallNamed.pass();
        let connection = open_writer(&path)?;
        let position = position(&path, &connection)?;
        self.digest = stored_digest(&connection).map_err(sqlite)?;
        self.checkpoints = Checkpoints::start(&path, self.execution).map_err(sqlite)?;
        self.connection = connection;
        self.readers.switch(path.clone());
        self.bases.replace(&path).map_err(io)?;
        self.generation = next;
        self.feed.restart(position.revision());
        self.generation.remove_others()?;
        FailPoint::InstallDone.pass();
        Ok(position)
    }

    /// Applies a batch in one transaction.
    fn apply(
        &mut self,
        Batch { entries, awaited, .. }: &Batch,
        commands: &[Option<Command>],
    ) -> rusqlite::Result<Vec<Outcome>> {
        FailPoint::ApplyBefore.pass();
        self.checkpoints.check()?;
        let began = Instant::now();
        let txn = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let mut digest = self.digest;
        let mut outcomes = Vec::with_capacity(entries.len());
        let (mut membership, mut last_member) = (None, 0);
        let (mut revised, notes_previous) = (Vec::new(), self.feed.notes_previous());
        for ((entry, command), is_awaited) in entries.iter().zip(commands).zip(awaited) {
            let revision = Revision(entry.log_id.index);
            let mut changes = Vec::new();
            let outcome = match command {
                Some(command) => {
                    let mut store = SqlStore(&txn);
                    let mut recorder = Recorder::new(&mut store, notes_previous, &mut changes);
                    state::apply(&mut recorder, revision, command)?
                }
                None => Outcome::None,
            };
            if !changes.is_empty() {
                revised.push(Revised { revision, changes });
            }
            if let Some(present) = membership_of(entry) {
                last_member = present.nodes().map(|(id, _)| id.0).fold(last_member, u64::max);
                membership = Some(present);
            }
            digest = chain(&digest, entry, &outcome);
            keep_digest(&txn, revision.0, &digest)?;
            // What nobody waits for can be large.
            outcomes.push(if *is_awaited { outcome } else { Outcome::None });
        }
        if let Some(last) = entries.last() {
            put_meta(&txn, "applied", &encode(&last.log_id))?;
            put_meta(&txn, "digest", &digest)?;
        }
        records::sweep(&txn)?;
        if let Some(membership) = membership {
            let last_member = last_member.max(stored_last_member(&txn)?);
            put_meta(&txn, "membership", &encode(&membership))?;
            put_meta(&txn, LAST_MEMBER, &encode(&last_member))?;
        }
        FailPoint::ApplyUncommitted.pass();
        txn.commit()?;
        FailPoint::ApplyAfter.pass();
        self.metrics.note(began.elapsed(), entries.len());
        self.digest = digest;
        // Only now: who is told of a change can read it here.
        if Plant::WatchSkips.is_on() && revised.len() > 1 {
            revised.remove(0);
        }
        if let Some(last) = entries.last() {
            self.feed.publish(revised, Revision(last.log_id.index));
        }
        // An entry changes a page at least.
        let bytes = entries.iter().map(|entry| entry_size(entry) + PAGE_BYTES).sum();
        self.checkpoints.written(&self.connection, bytes);
        Ok(outcomes)
    }
}

impl Steps for Applier {
    type Op = Op;
    const OPS_MAX: usize = 1;

    fn step(&mut self, ops: Vec<Op>, _now: Instant) -> Next {
        self.pending.extend(ops);
        // openraft stops on an error, and an answer is lost only when it has stopped already.
        while let Some(op) = self.pending.pop_front() {
            match op {
                Op::Apply(batch) => {
                    let commands: io::Result<Vec<_>> = batch.entries.iter().map(decode_command).collect();
                    let applied = commands.map(|commands| self.apply(&batch, &commands));
                    if let Ok(Err(error)) = &applied {
                        self.checkpoints.note(error);
                    }
                    if let Ok(Err(error)) = &applied
                        && is_disk_full(error, &self.generation.path())
                        && !self.is_closing.load(Ordering::Relaxed)
                    {
                        return self.wait_for_room(Op::Apply(batch), error);
                    }
                    self.is_waiting = false;
                    let _ = batch.done.send(applied.and_then(|applied| applied.map_err(io::Error::other)));
                }
                Op::Install { snapshot, done } => {
                    let installed = self.install(&snapshot);
                    if let Err(error) = &installed
                        && error.is_disk_full()
                        && !self.is_closing.load(Ordering::Relaxed)
                    {
                        return self.wait_for_room(Op::Install { snapshot, done }, error);
                    }
                    self.is_waiting = false;
                    let _ = done.send(installed.map_err(io::Error::other));
                }
            }
        }
        Next::Idle
    }

    /// Once more what waits for room, of which whoever has asked is told.
    fn finish(&mut self, now: Instant) {
        self.is_closing.store(true, Ordering::Relaxed);
        self.step(Vec::new(), now);
    }
}

/// Under which name it is kept which number was the largest of all that members have had.
pub(super) const LAST_MEMBER: &str = "last_member";

/// Whether it is the file that is wrong, and not the disk or who may read it.
pub(in crate::storage) fn is_damage(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        Some(code) => matches!(code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase),
        // What is in it has another form than this version gives it.
        None => true,
    }
}

/// Whether there was no room for a transaction in the database at `path`, of which nothing is left then.
pub(in crate::storage) fn is_disk_full(error: &rusqlite::Error, path: &Path) -> bool {
    let Some(error) = error.sqlite_error() else { return false };
    match error.extended_code {
        // The index of the journal is made as long as it has to be beforehand.
        ffi::SQLITE_IOERR_SHMSIZE => true,
        // That the index could not be made for that, or that a user's share was used up, SQLite does not say: but the disk does.
        ffi::SQLITE_IOERR_SHMOPEN | ffi::SQLITE_IOERR_WRITE => {
            space::has_none(path.parent().unwrap_or(path), INDEX_BYTES)
        }
        _ => error.code == ErrorCode::DiskFull,
    }
}

/// Bytes of the shortest index of a journal (<https://sqlite.org/walformat.html>, "The WAL-Index File Format").
const INDEX_BYTES: usize = 32 * 1024;

/// The last applied entry and the membership, as stored.
pub(super) fn position(path: &Path, connection: &Connection) -> Result<Position, StorageError> {
    let read = |name: &str| meta(connection, name).map_err(|source| StorageError::sqlite(path, source));
    let corrupt = |what: &str| StorageError::Corrupt { path: path.to_owned(), what: what.to_owned() };
    let applied = read("applied")?.map(|bytes| postcard::from_bytes(&bytes)).transpose();
    let membership = read("membership")?.map(|bytes| postcard::from_bytes(&bytes)).transpose();
    Ok(Position {
        applied: applied.map_err(|_| corrupt("the applied index"))?,
        membership: membership.map_err(|_| corrupt("the membership"))?.unwrap_or_default(),
    })
}

/// The largest number that any member has had; where it was not kept yet, that of the present ones.
pub(super) fn stored_last_member(connection: &Connection) -> rusqlite::Result<u64> {
    if let Some(last) = meta(connection, LAST_MEMBER)?.and_then(|bytes| postcard::from_bytes(&bytes).ok()) {
        return Ok(last);
    }
    let present = meta(connection, "membership")?;
    let present = present.and_then(|bytes| postcard::from_bytes::<StoredMembership>(&bytes).ok());
    Ok(present.iter().flat_map(StoredMembership::nodes).map(|(id, _)| id.0).max().unwrap_or(0))
}

fn stored_digest(connection: &Connection) -> rusqlite::Result<[u8; 32]> {
    Ok(meta(connection, "digest")?.and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; 32]))
}

/// Leaves the digest behind at every multiple of the interval, and forgets the oldest.
fn keep_digest(txn: &Transaction<'_>, index: u64, digest: &[u8; 32]) -> rusqlite::Result<()> {
    if !index.is_multiple_of(STATE_DIGEST_INTERVAL) {
        return Ok(());
    }
    txn.prepare_cached("INSERT OR REPLACE INTO digests (at, digest) VALUES (?1, ?2)")?
        .execute(params![sql_int(index), digest])?;
    if let Some(oldest) = index.checked_sub(STATE_DIGEST_INTERVAL * STATE_DIGESTS_MAX) {
        txn.prepare_cached("DELETE FROM digests WHERE at <= ?1")?.execute([sql_int(oldest)])?;
    }
    Ok(())
}

/// The value of a name in `meta`.
pub(super) fn meta(connection: &Connection, name: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    connection
        .prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
}

fn put_meta(txn: &Transaction<'_>, name: &str, value: &[u8]) -> rusqlite::Result<()> {
    txn.prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?
        .execute(params![name, value])
        .map(drop)
}
