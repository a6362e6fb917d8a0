//! Looks at the state of a stopped node.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::apply::{Position, position};
use super::build::open_immutable;
use super::generation::Generation;
use super::{StorageError, check_format, open_read_only};
use crate::types::raft_types::{LogId, SnapshotMeta};

/// What a state holds, and what is wrong with it.
#[derive(Debug)]
pub struct StateReport {
    /// Its database.
    pub path: PathBuf,
    /// The last entry that was applied.
    pub applied: Option<LogId>,
    /// What is wrong, in words.
    pub faults: Vec<String>,
}

/// Reads the state in a data directory, all of it. SQLite may make its index of the journal anew, as for every reader.
///
/// # Errors
/// It is of a later format, or cannot be read at all.
pub fn inspect(data_dir: &Path) -> Result<Option<StateReport>, StorageError> {
    let path = Generation::newest(data_dir)?.path();
    if !path.exists() {
        return Ok(None);
    }
    let sqlite = |source| StorageError::sqlite(&path, source);
    let connection = open_read_only(&path).map_err(sqlite)?;
    if check_format(&path, &connection)? == 0 {
        // Its tables were lost with the power before they were synced. They are made again, and what a log or a snapshot has
        // is applied.
        return Ok(Some(StateReport { path, applied: None, faults: Vec::new() }));
    }
    let Position { applied, .. } = position(&path, &connection)?;
    let mut check = connection.prepare("PRAGMA integrity_check").map_err(sqlite)?;
    let lines = check.query_map([], |row| row.get::<_, String>(0)).map_err(sqlite)?;
    let lines: Vec<String> = lines.collect::<Result<_, _>>().map_err(sqlite)?;
    let faults = lines.into_iter().filter(|line| line != "ok").collect();
    drop(check);
    Ok(Some(StateReport { path, applied, faults }))
}

/// Makes sure that the snapshot at `path` can be installed: of a format that this version reads, and of what it says.
///
/// # Errors
/// It is not.
pub fn check_snapshot(path: &Path, meta: &SnapshotMeta) -> Result<(), StorageError> {
    check_format(path, &open_immutable(path)?)?;
    if super::build::read_meta(path)? == *meta {
        return Ok(());
    }
    Err(StorageError::Corrupt { path: path.to_owned(), what: "what the snapshot covers".to_owned() })
}

/// What the snapshot at `path` covers, after SQLite's own check of it.
///
/// # Errors
/// It cannot be read, or its check fails.
pub fn inspect_snapshot(path: &Path) -> Result<SnapshotMeta, StorageError> {
    check_integrity(path, &open_immutable(path)?)?;
    super::build::read_meta(path)
}

/// SQLite's own check of the database at `path`, which is open.
pub(super) fn check_integrity(path: &Path, connection: &Connection) -> Result<(), StorageError> {
    let check = connection.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
    match check.map_err(|source| StorageError::sqlite(path, source))?.as_str() {
        "ok" => Ok(()),
        fault => Err(StorageError::Corrupt { path: path.to_owned(), what: fault.to_owned() }),
    }
}
