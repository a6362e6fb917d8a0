//! Keeps the log short: a snapshot is made once the log has grown enough since the last one, and what a durable snapshot
//! covers leaves the log. Entries that are still in memory stay, at most as many as lie between two snapshots: they may
//! spare a slow follower a snapshot.

use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;

use super::{RaftNode, SnapshotPolicy};
use crate::api::ApiError;
use crate::host::blocking;
use crate::limits::{COMPACTION_INTERVAL, COMPACTION_WARNING_INTERVAL};
use crate::types::raft_types::{LogId, Metrics};

/// How much there is to compact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Growth {
    /// Entries applied since the last snapshot.
    entries: u64,
    /// Bytes appended to the log since it was made, or since this node has started.
    log_bytes: u64,
    /// Size of the last snapshot.
    snapshot_bytes: u64,
}

impl SnapshotPolicy {
    /// Whether a snapshot is due. Making one writes the whole state: so the log may grow as large as the state is before
    /// the next, and no byte is written more than about twice for it.
    fn is_due(&self, growth: Growth) -> bool {
        growth.entries >= self.entries || growth.log_bytes >= self.log_bytes.max(growth.snapshot_bytes)
    }
}

impl RaftNode {
    /// Makes snapshots and shortens the log, for as long as it runs.
    pub async fn compact(&self) {
        let mut log_bytes_then = 0;
        let mut snapshot_then = self.metrics().snapshot;
        let mut warned: Option<Instant> = None;
        loop {
            tokio::time::sleep(COMPACTION_INTERVAL).await;
            let metrics = self.metrics();
            let appended = self.inner.log.appended_bytes();
            if metrics.snapshot != snapshot_then {
                snapshot_then = metrics.snapshot;
                log_bytes_then = appended;
            }
            let growth = Growth {
                // A snapshot may be told of before the entries are that it covers.
                entries: entries_up_to(metrics.last_applied).saturating_sub(entries_up_to(metrics.snapshot)),
                log_bytes: appended - log_bytes_then,
                snapshot_bytes: self.inner.snapshots.current().map_or(0, |current| current.seal().bytes),
            };
            let mut result = self.purge(&metrics).await;
            if result.is_ok() {
                result = self.replace_damaged().await;
            }
            if result.is_ok() && growth.entries > 0 && self.inner.snapshot_policy.is_due(growth) {
                result = self.start_snapshot().await;
            }
            let Err(error) = result else { continue };
            if matches!(error, ApiError::Stopping { .. }) {
                return;
            }
            if warned.is_none_or(|at| at.elapsed() >= COMPACTION_WARNING_INTERVAL) {
                warned = Some(Instant::now());
                tracing::warn!(%error, "the log cannot be shortened");
            }
        }
    }

    /// Has a snapshot made, unless one is being made.
    pub(super) async fn start_snapshot(&self) -> Result<(), ApiError> {
        let bytes_max = self.inner.snapshot_policy.bytes_max;
        let database = self.inner.readers.path();
        let bytes = std::fs::metadata(&database).map_or(0, |database| database.len());
        if bytes > bytes_max {
            return Err(ApiError::SnapshotTooLarge { bytes, bytes_max });
        }
        // What is in the journal comes on top, and is small.
        self.inner.space.check_for(bytes).map_err(|full| self.disk_full(full))?;
        self.inner.raft.trigger().snapshot().await.map_err(|fatal| Self::stopping(&fatal))
    }

    /// Has another snapshot made where the newest one was found to be damaged: nobody could be sent that.
    async fn replace_damaged(&self) -> Result<(), ApiError> {
        let snapshots = self.inner.snapshots.clone();
        if snapshots.current().is_none_or(|current| current.damage().is_none()) {
            return Ok(());
        }
        // First, since one for which there is no room is better than none.
        self.start_snapshot().await?;
        let failed = |error: std::io::Error| ApiError::Storage { reason: error.to_string() };
        let removed = blocking(move || snapshots.remove_damaged()).await.map_err(std::io::Error::other);
        if let Some((path, why)) = removed.flatten().map_err(failed)? {
            tracing::error!(path = %path.display(), why, "the snapshot is damaged: it is removed, and another one is made");
        }
        Ok(())
    }

    async fn purge(&self, metrics: &Metrics) -> Result<(), ApiError> {
        let covered = entries_up_to(metrics.snapshot);
        let in_memory = self.inner.log.first_in_memory().unwrap_or(covered);
        let until = in_memory.max(covered.saturating_sub(self.inner.snapshot_policy.entries)).min(covered);
        if until <= entries_up_to(metrics.purged) {
            return Ok(());
        }
        self.inner.raft.trigger().purge_log(until - 1).await.map_err(|fatal| Self::stopping(&fatal))
    }

    /// Returns once there is another snapshot than this one.
    pub(super) async fn await_snapshot_after(&self, seen: Option<LogId>) -> Result<(), ApiError> {
        let mut metrics = self.inner.raft.metrics();
        while metrics.borrow_watched().snapshot == seen {
            if metrics.changed().await.is_err() {
                return Err(ApiError::Stopping { reason: "raft stopped".to_owned() });
            }
        }
        Ok(())
    }
}

/// How many entries there are up to this one.
fn entries_up_to(last: Option<LogId>) -> u64 {
    last.map_or(0, |last| last.index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_is_due_by_entries_or_by_a_log_as_large_as_the_state() {
        let policy = SnapshotPolicy { entries: 100, log_bytes: 1_000, bytes_max: u64::MAX };
        let check = |entries, log_bytes, snapshot_bytes, want| {
            assert_eq!(policy.is_due(Growth { entries, log_bytes, snapshot_bytes }), want);
        };
        check(99, 999, 0, false);
        check(100, 0, 0, true);
        check(100, 0, 1 << 40, true);
        check(1, 1_000, 999, true);
        check(1, 1_000, 1_001, false);
        check(1, 1_001, 1_001, true);
    }
}
