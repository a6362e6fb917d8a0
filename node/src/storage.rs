//! What a node keeps on disk: the Raft log in redb, the state machine in SQLite.
//!
//! A data directory holds `identity.key`, `log.redb`, `state.sqlite` (after a snapshot was installed `state-N.sqlite`) with
//! SQLite's `-wal` and `-shm` beside it, and `snapshots/`; after a flush has failed `flush-failed`.

pub(crate) mod entry;
pub mod log;
pub mod memory;
mod shell;
pub mod snapshot;
pub mod space;
pub mod sqlite;
#[cfg(test)]
mod tests;
pub(crate) mod unflushed;
pub mod validate;

use std::io;
use std::path::{Path, PathBuf};

pub use self::shell::Execution;

/// The mark of a data directory that is being made of a backup. While it is there, the rest of the directory does not count.
pub const RESTORING_FILE: &str = "restoring";

/// Why a store cannot be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A file or directory.
    #[error("cannot use {path}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has the log open.
    #[error("{path} is in use by another process: stop that node first")]
    InUse {
        /// The log.
        path: PathBuf,
    },
    /// redb.
    #[error("the log {path} failed")]
    Redb {
        /// The log.
        path: PathBuf,
        /// How.
        source: Box<redb::Error>,
    },
    /// SQLite.
    #[error("the state machine {path} failed")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// How.
        source: rusqlite::Error,
        /// Whether there was no room for it on the disk, which SQLite need not say.
        lacks_room: bool,
    },
    /// Bytes that do not decode.
    #[error(
        "{path}: {what} does not decode: remove the node from its cluster, remove the data directory and rejoin as a new member"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        what: String,
    },
    /// Files that do not belong together.
    #[error(
        "the files in {path} contradict each other: {what}. Remove the node from its cluster, remove the data directory and rejoin as a new member"
    )]
    Contradiction {
        /// The data directory.
        path: PathBuf,
        /// How.
        what: String,
    },
    /// A data directory of another node.
    #[error(
        "the data directory belongs to node {found}, not to node {expected}: give each node a directory of its own"
    )]
    OtherNode {
        /// Whose it is.
        found: u64,
        /// Who opened it.
        expected: u64,
    },
    /// A format of a later version.
    #[error("{path} has format {found}, this version reads {supported}: use a newer aspen-node")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The format this version writes.
        supported: u64,
    },
}

impl StorageError {
    /// Of the database at `path`, where that has just happened and it is still open: what it has on the disk goes with it, and then
    /// there may be room.
    fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        let lacks_room = sqlite::is_disk_full(&source, path);
        Self::Sqlite { path: path.to_owned(), source, lacks_room }
    }

    /// Whether there was no room on the disk.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => space::is_disk_full(source),
            Self::Redb { source, .. } => log::is_disk_full(source),
            Self::Sqlite { lacks_room, .. } => *lacks_room,
            _ => false,
        }
    }
}
