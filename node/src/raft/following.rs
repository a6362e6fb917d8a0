//! Watches: where they begin, and when they end.

use std::collections::VecDeque;

use futures::{StreamExt, stream};
use tokio::time::timeout;

use super::RaftNode;
use super::operations::bounded;
use crate::api::{
    ApiError, Consistency, TimeoutOutcome, WatchEvent, WatchRequest, WatchStream, check_max_staleness,
    check_range, check_vault,
};
use crate::limits::WATCH_PROGRESS_INTERVAL;
use crate::types::{Revised, Revision};
use crate::watch::{Seen, Watcher};

/// A watch under way.
struct Watch {
    node: RaftNode,
    watcher: Watcher,
    /// Whether it goes on where this node hears of no leader.
    may_be_alone: bool,
    /// It ends when it has seen all up to here; `None`: it goes on.
    end: Option<Revision>,
    is_begun: bool,
    /// What was seen and not told yet.
    untold: VecDeque<Revised>,
}

impl RaftNode {
    /// Begins to follow changes. Without a revision to begin at, it sees whatever happens after its own beginning, and nothing
    /// that was acknowledged before.
    pub(super) async fn follow(&self, request: WatchRequest) -> Result<WatchStream, ApiError> {
        check_range(&request.interest.range)?;
        check_max_staleness(request.consistency)?;
        request.interest.vault.as_ref().map_or(Ok(()), check_vault)?;
        let permit = self.admit()?;
        bounded(TimeoutOutcome::NothingWritten, self.make_fresh(request.consistency)).await?;
        drop(permit);
        let watcher = self.inner.feed.watch(request.interest, request.from, request.with_previous)?;
        let watch = Watch {
            node: self.clone(),
            watcher,
            may_be_alone: request.consistency == Consistency::Stale,
            end: request.ends.then(|| self.inner.feed.latest()),
            is_begun: false,
            untold: VecDeque::new(),
        };
        let events = stream::unfold(Some(watch), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(event @ WatchEvent::Progress { .. }) if watch.end.is_some() => Some((Ok(event), None)),
                Ok(event) => Some((Ok(event), Some(watch))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(events.boxed())
    }

    /// Ends every watch: the node stops.
    pub fn end_watches(&self) {
        self.inner.feed.close();
    }
}

impl Watch {
    async fn next(&mut self) -> Result<WatchEvent, ApiError> {
        let before = Revision(self.watcher.from().0 - 1);
        if !std::mem::replace(&mut self.is_begun, true) {
            return Ok(WatchEvent::Begun { revision: before });
        }
        while self.untold.is_empty() {
            let seen = self.look().await?;
            self.untold = seen.revised.into();
            let up_to = seen.up_to.max(before);
            let is_over = self.end.is_none_or(|end| up_to >= end);
            if self.untold.is_empty() && (is_over || seen.is_all) {
                return Ok(WatchEvent::Progress { revision: up_to });
            }
        }
        let revised = self.untold.pop_front().expect("there is something, or this was returned from");
        if let Some(end) = self.end.filter(|end| revised.revision > *end) {
            return Ok(WatchEvent::Progress { revision: end.max(before) });
        }
        Ok(WatchEvent::Changed(revised))
    }

    /// Waits for changes, if it waits at all, but not for long.
    async fn look(&mut self) -> Result<Seen, ApiError> {
        if self.end.is_some() {
            return self.watcher.look();
        }
        match timeout(WATCH_PROGRESS_INTERVAL, self.watcher.changed()).await {
            Ok(seen) => seen,
            Err(_) if self.node.is_removed() => Err(ApiError::Removed),
            Err(_) if !self.may_be_alone && self.node.is_alone_since(self.node.loneliness()) => {
                Err(ApiError::NoQuorum)
            }
            Err(_) => self.watcher.look(),
        }
    }
}
