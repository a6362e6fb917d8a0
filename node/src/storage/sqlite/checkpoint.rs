//! Empties the journal of the state machine into its database, on a connection of its own and, in a node, a thread of its own, so that
//! no write waits for it.
//!
//! SQLite's journal only begins anew when all of it is in the database and nobody writes or reads behind its beginning. Under
//! load that moment never comes by itself: when the journal is long and nearly empty of news, the writer makes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::super::shell::{Execution, Next, Shell, Steps};
use super::super::unflushed;
use crate::failpoint::FailPoint;
use crate::limits::{CHECKPOINT_BYTES, CHECKPOINT_INTERVAL, JOURNAL_BYTES_MAX};

/// What does it, until this is dropped.
#[derive(Debug)]
pub(super) struct Checkpoints {
    path: PathBuf,
    progress: Arc<Progress>,
    worker: Option<Shell<Worker>>,
}

/// What the writer and the worker tell each other.
#[derive(Debug, Default)]
struct Progress {
    /// About the bytes that were written into the journal since the last checkpoint began.
    bytes: AtomicU64,
    is_restart_due: AtomicBool,
    /// A flush has failed: of what was written before nobody knows what is on the disk, though the system shows it.
    is_flush_lost: AtomicBool,
}

impl Progress {
    /// Takes down what an error says of a flush of the database at `path`.
    fn note(&self, path: &Path, error: &rusqlite::Error) {
        if is_flush(error) {
            self.is_flush_lost.store(true, Ordering::Relaxed);
            unflushed::note(path);
        }
    }
}

/// Whether a flush has failed.
fn is_flush(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_IOERR_DIR_FSYNC, SQLITE_IOERR_FSYNC};
    let code = error.sqlite_error().map(|error| error.extended_code);
    code.is_some_and(|code| matches!(code, SQLITE_IOERR_FSYNC | SQLITE_IOERR_DIR_FSYNC))
}

impl Checkpoints {
    pub(super) fn start(path: &Path, execution: Execution) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.execute_batch("PRAGMA synchronous=NORMAL;")?;
        let mut journal = path.as_os_str().to_owned();
        journal.push("-wal");
        let progress = Arc::new(Progress::default());
        let (path_of_worker, journal) = (path.to_owned(), PathBuf::from(journal));
        let worker =
            Worker { connection, path: path_of_worker, journal, progress: progress.clone(), last: None };
        // Without a thread the journal grows until the node stops: better than not to start.
        let worker = Shell::start(worker, execution, "state-journal", 1);
        let worker = worker.inspect_err(|error| tracing::error!(%error, "the journal is not emptied")).ok();
        Ok(Self { path: path.to_owned(), progress, worker })
    }

    /// Whether nothing may be written any more.
    ///
    /// # Errors
    /// A flush has failed. The next one would find nothing to do and say that all is well, and pages would be written over with what no
    /// journal has (<https://wiki.postgresql.org/wiki/Fsync_Errors>).
    pub(super) fn check(&self) -> rusqlite::Result<()> {
        if !self.progress.is_flush_lost.load(Ordering::Relaxed) {
            return Ok(());
        }
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
        Err(rusqlite::Error::SqliteFailure(code, Some("a flush of the state has failed".to_owned())))
    }

    /// Takes down what an error of the writer says of a flush.
    pub(super) fn note(&self, error: &rusqlite::Error) {
        self.progress.note(&self.path, error);
    }

    /// Says that about so many bytes were committed on `writer`.
    pub(super) fn written(&self, writer: &Connection, bytes: u64) {
        if self.progress.is_restart_due.swap(false, Ordering::Relaxed) {
            // A reader that is in the way is not waited for: another time.
            let restarted = writer.busy_timeout(Duration::ZERO).and_then(|()| checkpoint(writer, "RESTART"));
            if let Err(error) = restarted {
                self.note(&error);
                tracing::warn!(%error, "the state machine's journal could not begin anew");
            }
        }
        let before = self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
        // It is woken only for what it does not know yet.
        let is_news = before == 0 || (before < CHECKPOINT_BYTES && before + bytes >= CHECKPOINT_BYTES);
        if let Some(worker) = self.worker.as_ref().filter(|_| is_news) {
            worker.nudge(());
        }
    }
}

#[derive(Debug)]
struct Worker {
    connection: Connection,
    path: PathBuf,
    journal: PathBuf,
    progress: Arc<Progress>,
    /// When it has begun last, or was first asked.
    last: Option<Instant>,
}

impl Steps for Worker {
    /// There is news.
    type Op = ();
    const OPS_MAX: usize = 1;

    fn step(&mut self, _news: Vec<()>, now: Instant) -> Next {
        let bytes = self.progress.bytes.load(Ordering::Relaxed);
        let left = CHECKPOINT_INTERVAL.saturating_sub(now.duration_since(*self.last.get_or_insert(now)));
        if bytes == 0 {
            return Next::Idle;
        }
        if bytes < CHECKPOINT_BYTES && !left.is_zero() {
            return Next::After(left);
        }
        self.last = Some(now);
        self.progress.bytes.store(0, Ordering::Relaxed);
        FailPoint::CheckpointBefore.pass();
        self.empty();
        FailPoint::CheckpointAfter.pass();
        Next::Idle
    }
}

impl Worker {
    /// Empties the journal, as far as nobody reads behind its beginning.
    fn empty(&self) {
        let mut result = checkpoint(&self.connection, "PASSIVE");
        if result.is_ok() && self.is_journal_long() {
            // What was written meanwhile, so that next to nothing is left for the writer, and it hardly waits.
            result = checkpoint(&self.connection, "PASSIVE");
            self.progress.is_restart_due.store(true, Ordering::Relaxed);
        }
        if let Err(error) = result {
            // Nothing is lost: what is in the journal stays there, unless it was never on the disk. The writer meets the same disk.
            self.progress.note(&self.path, &error);
            tracing::warn!(%error, "the state machine's journal could not be emptied into its database");
        }
    }

    fn is_journal_long(&self) -> bool {
        std::fs::metadata(&self.journal).is_ok_and(|journal| journal.len() > JOURNAL_BYTES_MAX)
    }
}

/// Moves what it can into the database, in SQLite's mode of that name (<https://sqlite.org/pragma.html#pragma_wal_checkpoint>).
fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<()> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
}
