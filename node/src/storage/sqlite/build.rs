//! Builds a snapshot: the pages of the database as of one read transaction, copied while writes go on.

use std::error::Error;
use std::fs::File;
use std::io;
use std::path::Path;

use openraft::storage::RaftSnapshotBuilder;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::super::StorageError;
use super::super::snapshot::{SnapshotFile, SnapshotStore};
use super::apply::{self, Position};
use super::{ReadPool, open_read_only};
use crate::failpoint::FailPoint;
use crate::host::blocking;
use crate::limits::{SNAPSHOT_FLUSH_BYTES, SNAPSHOT_RETRY, SNAPSHOT_STEP_PAGES};
use crate::plant::Plant;
use crate::types::TypeConfig;
use crate::types::raft_types::{Snapshot, SnapshotMeta};

/// Builds one snapshot, of whatever the state is when it begins.
#[derive(Debug)]
pub struct SnapshotBuilder {
    readers: ReadPool,
    snapshots: SnapshotStore,
}

impl SnapshotBuilder {
    pub(super) fn new(readers: ReadPool, snapshots: SnapshotStore) -> Self {
        Self { readers, snapshots }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    /// Tries until it succeeds: openraft takes an error for the end of the node, and a full disk is none.
    async fn build_snapshot(&mut self) -> Result<Snapshot<SnapshotFile>, io::Error> {
        loop {
            let (database, snapshots) = (self.readers.path(), self.snapshots.clone());
            let built = blocking(move || build(&database, &snapshots)).await;
            let error = match built.map_err(io::Error::other)? {
                // What it covers is what was copied, also where a newer one has come meanwhile.
                Ok((meta, snapshot)) => return Ok(Snapshot { meta, snapshot }),
                Err(error) => error,
            };
            let cause = error.source().map(ToString::to_string);
            tracing::warn!(%error, cause, "no snapshot could be made, so the log is kept: it is tried again");
            tokio::time::sleep(SNAPSHOT_RETRY).await;
        }
    }
}

/// What the snapshot at `path` covers.
pub(super) fn read_meta(path: &Path) -> Result<SnapshotMeta, StorageError> {
    apply::position(path, &open_immutable(path)?).map(meta)
}

/// Opens a file that nobody writes: without a journal and without a lock.
pub(super) fn open_immutable(path: &Path) -> Result<Connection, StorageError> {
    let uri = format!("file:{}?immutable=1", percent(path));
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(uri, flags).map_err(|source| StorageError::sqlite(path, source))
}

fn meta(position: Position) -> SnapshotMeta {
    SnapshotMeta { last_log_id: position.applied, last_membership: position.membership }
}

fn build(database: &Path, snapshots: &SnapshotStore) -> Result<(SnapshotMeta, SnapshotFile), StorageError> {
    let sqlite = |source| StorageError::sqlite(database, source);
    let target =
        snapshots.building().map_err(|source| StorageError::Io { path: database.to_owned(), source })?;
    let io = |source| StorageError::Io { path: target.clone(), source };
    let source = open_read_only(database).map_err(sqlite)?;
    // The first read fixes what all of the copy shows.
    source.execute_batch("BEGIN").map_err(sqlite)?;
    let covers = meta(apply::position(database, &source)?);
    FailPoint::BuildBegun.pass();
    copy_pages(&source, &target).map_err(io)?;
    FailPoint::BuildCopied.pass();
    drop(source);
    let snapshot = snapshots.publish(&target, covers.clone()).map_err(io)?;
    Ok((covers, snapshot))
}

fn copy_pages(source: &Connection, path: &Path) -> io::Result<()> {
    let mut target = Connection::open(path).map_err(io::Error::other)?;
    // It counts only when it is complete and flushed.
    target.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;").map_err(io::Error::other)?;
    let page_bytes =
        source.query_row("PRAGMA page_size", [], |row| row.get::<_, u32>(0)).map_err(io::Error::other)?;
    let step_bytes = u64::from(page_bytes) * u64::from(SNAPSHOT_STEP_PAGES);
    let pages = i32::try_from(SNAPSHOT_STEP_PAGES).map_err(io::Error::other)?;
    let mut unflushed = 0;
    let copy = Backup::new(source, &mut target).map_err(io::Error::other)?;
    loop {
        match copy.step(pages).map_err(io::Error::other)? {
            StepResult::Done => break,
            StepResult::More => unflushed += step_bytes,
            other => return Err(io::Error::other(format!("the copy was held up: {other:?}"))),
        }
        if unflushed >= SNAPSHOT_FLUSH_BYTES {
            // Otherwise gigabytes would reach the disk at once, and stand in the way of the log.
            File::open(path)?.sync_data()?;
            unflushed = 0;
        }
    }
    drop(copy);
    if Plant::SnapshotDropsTail.is_on() {
        let lost = target.execute("DELETE FROM kv WHERE key = (SELECT max(key) FROM kv)", []);
        lost.map_err(io::Error::other)?;
    }
    Ok(())
}

/// A path as a part of a URI.
fn percent(path: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt;
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => text.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => text.push(char::from(*byte)),
            byte => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}
