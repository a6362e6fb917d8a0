//! Watches: where they begin, and when they end.

use super::RaftNode;
use super::operations::bounded;
use crate::api::{
    ApiError, Consistency, TimeoutOutcome, WatchRequest, WatchStream, check_max_staleness, check_range,
    check_vault,
};
use crate::watch::Following;

impl RaftNode {
    /// Begins to follow changes. Without a revision to begin at, it sees whatever happens after its own beginning, and nothing
    /// that was acknowledged before.
    pub(super) async fn follow(&self, request: WatchRequest) -> Result<WatchStream, ApiError> {
        // Before anybody is asked how new the state is.
        check_range(&request.interest.range)?;
        check_max_staleness(request.consistency)?;
        request.interest.vault.as_ref().map_or(Ok(()), check_vault)?;
        let permit = self.admit()?;
        bounded(TimeoutOutcome::NothingWritten, self.make_fresh(request.consistency)).await?;
        drop(permit);
        // Whether it goes on where this node hears of no leader.
        let may_be_alone = request.consistency == Consistency::Stale;
        let following = Following::new(&self.inner.feed, request)?;
        let node = self.clone();
        Ok(following.into_stream(move || match () {
            () if node.is_removed() => Some(ApiError::Removed),
            () if !may_be_alone && node.is_alone_since(node.loneliness()) => Some(ApiError::NoQuorum),
            () => None,
        }))
    }

    /// Ends every watch: the node stops.
    pub fn end_watches(&self) {
        self.inner.feed.close();
    }
}
