//! Copies of the state for backups: the newest snapshot if it is as new as asked, otherwise one that is made for it. Nothing waits for
//! them, and none is held in memory.

use std::error::Error as _;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::RaftNode;
use super::operations::bounded;
use super::status::entry_id;
use crate::api::{ApiError, Consistency, StateChunks, StateCopy, TimeoutOutcome};
use crate::host::blocking;
use crate::limits::{BACKUP_TRIES_MAX, BACKUP_WAIT, BACKUPS_MAX};
use crate::storage::StorageError;
use crate::storage::snapshot::{DAMAGED, SnapshotFile, SnapshotStore};
use crate::storage::sqlite::{Tally, tally};

impl RaftNode {
    /// A copy of the state that shows at least what a read of this consistency would show.
    pub(super) async fn make_copy(&self, consistency: Consistency) -> Result<StateCopy, ApiError> {
        let turn = self.inner.backups.clone().try_acquire_owned();
        let turn = turn.map_err(|_| ApiError::TooManyBackups { limit: BACKUPS_MAX })?;
        let wanted = bounded(TimeoutOutcome::NothingWritten, self.index_for(consistency)).await?;
        let made = timeout(BACKUP_WAIT, async {
            self.snapshot_from(wanted).await?;
            let snapshots = self.inner.snapshots.clone();
            // It reads all of the snapshot. Where nobody waits for that any more, it still takes its turn.
            let lent = blocking(move || lend(&snapshots, turn)).await;
            lent.map_err(|error| ApiError::Storage { reason: error.to_string() })?
        });
        let within_ms = u64::try_from(BACKUP_WAIT.as_millis()).unwrap_or(u64::MAX);
        let late = ApiError::Timeout { within_ms, outcome: TimeoutOutcome::NothingWritten };
        made.await.unwrap_or(Err(late))
    }

    /// The entry up to which a backup has to go, applied on this node.
    async fn index_for(&self, consistency: Consistency) -> Result<u64, ApiError> {
        let _permit = self.admit()?;
        if let Consistency::Stale | Consistency::Bounded(_) = consistency {
            self.make_fresh(consistency).await?;
            let applied = self.metrics().last_applied;
            return applied.map(|applied| applied.index).ok_or(ApiError::NotLeader { leader: None });
        }
        let confirmed = self.confirm_somewhere(consistency == Consistency::Lease).await?;
        self.await_applied(confirmed.index).await?;
        Ok(confirmed.index)
    }
}

/// A snapshot that is read, and the turn that its reader has.
struct Lent {
    snapshot: SnapshotFile,
    _turn: OwnedSemaphorePermit,
}

impl StateChunks for Lent {
    fn count(&self) -> u64 {
        self.snapshot.chunks()
    }

    fn chunk(&self, chunk: u64) -> std::io::Result<Vec<u8>> {
        self.snapshot.chunk(chunk)
    }
}

/// Checks the newest snapshot, and looks what is in it.
fn lend(snapshots: &SnapshotStore, turn: OwnedSemaphorePermit) -> Result<StateCopy, ApiError> {
    let (snapshot, Tally { keys, vaults }) = newest(snapshots)?;
    let failed = |reason: String| ApiError::Storage { reason };
    let digest = snapshot.whole_digest().map_err(|error| failed(error.to_string()))?;
    let last = snapshot.meta().last_log_id.ok_or_else(|| failed("the snapshot covers nothing".to_owned()))?;
    let bytes = snapshot.seal().bytes;
    let chunks = Box::new(Lent { snapshot, _turn: turn });
    Ok(StateCopy { last: entry_id(last), keys, vaults, bytes, digest, chunks })
}

/// The newest snapshot and what is in it. Its file may be gone before it is opened: then there is a newer one.
fn newest(snapshots: &SnapshotStore) -> Result<(SnapshotFile, Tally), ApiError> {
    let mut failed = "there is no snapshot".to_owned();
    for _ in 0..BACKUP_TRIES_MAX {
        let Some(snapshot) = snapshots.current() else { break };
        if snapshot.damage().is_some() {
            return Err(ApiError::Storage { reason: DAMAGED.to_owned() });
        }
        match tally(&snapshots.path(&snapshot)) {
            Ok(tally) => return Ok((snapshot, tally)),
            Err(error) => failed = told(&error),
        }
    }
    Err(ApiError::Storage { reason: failed })
}

/// An error with its cause.
fn told(error: &StorageError) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error} ({cause})"))
}
