//! The log of a node whose state comes from a backup.

use std::path::Path;

use super::super::entry::encode;
use super::{META, RedbLogStore, StorageError, file, initialize, not_opened, redb_error};
use crate::types::NodeId;
use crate::types::raft_types::{LogId, Vote};

impl RedbLogStore {
    /// Makes a log at `path`, where there is none, for node `id`: empty, cut behind `purged`, and with a vote. It is durable when
    /// this returns, but for its name.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create_behind(path: &Path, id: NodeId, purged: LogId, vote: &Vote) -> Result<(), StorageError> {
        let db = file::open(path).map_err(|error| not_opened(path, error))?;
        initialize(path, &db, id)?;
        let write = || -> Result<(), redb::Error> {
            let txn = db.begin_write()?;
            let mut meta = txn.open_table(META)?;
            meta.insert("purged", encode(&purged).as_slice())?;
            meta.insert("vote", encode(vote).as_slice())?;
            drop(meta);
            Ok(txn.commit()?)
        };
        write().map_err(|error| redb_error(path, error))
    }
}
