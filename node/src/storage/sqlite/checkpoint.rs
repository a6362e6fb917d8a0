//! Empties the journal of the state machine into its database, on a connection and a thread of its own, so that no write
//! waits for it.
//!
//! SQLite's journal only begins anew when all of it is in the database and nobody writes or reads behind its beginning. Under
//! load that moment never comes by itself: when the journal is long and nearly empty of news, the writer makes it.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use crate::limits::{CHECKPOINT_INTERVAL, JOURNAL_BYTES_MAX};

/// The thread that does it. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// Dropped to end the thread.
    channels: Option<(SyncSender<()>, SyncSender<Infallible>)>,
    is_restart_due: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    pub(super) fn start(path: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.execute_batch("PRAGMA synchronous=NORMAL;")?;
        let mut journal = path.as_os_str().to_owned();
        journal.push("-wal");
        let is_restart_due = Arc::new(AtomicBool::new(false));
        let (written, news) = sync_channel(1);
        // Nothing is ever sent on it: it is dropped.
        let (stop, stopped) = sync_channel(1);
        let journal = PathBuf::from(journal);
        let worker = Worker { connection, journal, news, stopped, is_restart_due: is_restart_due.clone() };
        // Without a thread the journal grows until the node stops: better than not to start.
        let thread = std::thread::Builder::new().name("state-journal".into()).spawn(move || worker.run());
        let thread = thread.inspect_err(|error| tracing::error!(%error, "the journal is not emptied")).ok();
        Ok(Self { channels: Some((written, stop)), is_restart_due, thread })
    }

    /// Says that something was committed on `writer`.
    pub(super) fn written(&self, writer: &Connection) {
        if self.is_restart_due.swap(false, Ordering::Relaxed) {
            // A reader that is in the way is not waited for: another time.
            let restarted = writer.busy_timeout(Duration::ZERO).and_then(|()| checkpoint(writer, "RESTART"));
            if let Err(error) = restarted {
                tracing::warn!(%error, "the state machine's journal could not begin anew");
            }
        }
        if let Some((written, _)) = &self.channels {
            // It is full: the thread knows.
            let _ = written.try_send(());
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        drop(self.channels.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that empties the journal panicked");
        }
    }
}

struct Worker {
    connection: Connection,
    journal: PathBuf,
    news: Receiver<()>,
    stopped: Receiver<Infallible>,
    is_restart_due: Arc<AtomicBool>,
}

impl Worker {
    fn run(self) {
        while self.news.recv().is_ok() {
            if let Err(error) = checkpoint(&self.connection, "PASSIVE") {
                // Nothing is lost: what is in the journal stays there. The writer meets the same disk.
                tracing::warn!(%error, "the state machine's journal could not be emptied into its database");
            }
            let bytes = std::fs::metadata(&self.journal).map_or(0, |journal| journal.len());
            if bytes > JOURNAL_BYTES_MAX {
                self.is_restart_due.store(true, Ordering::Relaxed);
            }
            if self.stopped.recv_timeout(CHECKPOINT_INTERVAL) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }
}

/// Moves what it can into the database, in SQLite's mode of that name (<https://sqlite.org/pragma.html#pragma_wal_checkpoint>).
fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<()> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
}
