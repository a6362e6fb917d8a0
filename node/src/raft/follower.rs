//! What a leader knows of another member: when it answered last, and how much of the log it has said that it has.

use std::time::Duration;

use openraft::Instant as _;

use crate::types::NodeId;
use crate::types::raft_types::Metrics;

/// A member as its leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Follower {
    /// How long ago it has answered last; absent: it has not under this leader.
    pub(super) silent: Option<Duration>,
    /// The last entry that it has said it has; absent: it has said nothing.
    pub(super) matched: Option<u64>,
    /// Entries that it lacks, as far as that is known.
    pub(super) lag: u64,
}

impl Follower {
    /// One member by a leader's metrics; whoever does not lead knows nothing.
    pub(super) fn of(metrics: &Metrics, id: NodeId) -> Self {
        let answered = metrics.heartbeat.as_ref().and_then(|heard| heard.get(&id).copied().flatten());
        let matched = metrics.replication.as_ref().and_then(|matched| matched.get(&id).copied().flatten());
        let matched = matched.map(|matched| matched.index);
        let last = metrics.last_log_index.unwrap_or(0);
        Self {
            silent: answered.map(|answered| answered.into_inner().elapsed()),
            matched,
            lag: last.saturating_sub(matched.unwrap_or(0)),
        }
    }

    /// Whether it has answered within this time.
    pub(super) fn answers(&self, patience: Duration) -> bool {
        self.silent.is_some_and(|silent| silent < patience)
    }
}
