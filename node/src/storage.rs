//! What a node keeps on disk: the Raft log in redb, the state machine in SQLite.
//!
//! A data directory holds `identity.key`, `log.redb`, `state.sqlite` (after a snapshot was installed `state-N.sqlite`) with
//! SQLite's `-wal` and `-shm` beside it, and `snapshots/`.

pub(crate) mod entry;
pub mod log;
pub mod memory;
pub mod snapshot;
pub mod space;
pub mod sqlite;
#[cfg(test)]
mod tests;
pub mod validate;

use std::path::PathBuf;

/// Why a store cannot be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A file or directory.
    #[error("cannot use {path}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
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
    },
    /// Bytes that do not decode.
    #[error(
        "{path}: {what} does not decode: restore it from a backup, or remove the data directory and rejoin as a new member"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Which part of it.
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
