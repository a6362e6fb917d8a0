//! A watch under way: where it begins, what it tells, and when it ends.

use std::collections::VecDeque;

use futures::{StreamExt, stream};
use tokio::time::timeout;

use super::{ChangeFeed, Seen, Watcher};
use crate::api::{ApiError, WatchEvent, WatchRequest, WatchStream, check_range, check_vault};
use crate::limits::WATCH_PROGRESS_INTERVAL;
use crate::types::{Revised, Revision};

/// A watch under way.
#[derive(Debug)]
pub struct Following {
    watcher: Watcher,
    /// It ends when it has seen all up to here; `None`: it goes on.
    end: Option<Revision>,
    is_begun: bool,
    /// What was seen and not told yet.
    untold: VecDeque<Revised>,
}

impl Following {
    /// Begins to follow changes. Without a revision to begin at, it sees whatever happens from now on.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`], and those of [`ChangeFeed::watch`].
    pub fn new(feed: &ChangeFeed, request: WatchRequest) -> Result<Self, ApiError> {
        check_range(&request.interest.range)?;
        request.interest.vault.as_ref().map_or(Ok(()), check_vault)?;
        let watcher = feed.watch(request.interest, request.from, request.with_previous)?;
        let end = request.ends.then(|| feed.latest());
        Ok(Self { watcher, end, is_begun: false, untold: VecDeque::new() })
    }

    /// What it tells. Where nothing has changed for a while, `lost` is asked why it should not go on.
    pub fn into_stream(self, lost: impl Fn() -> Option<ApiError> + Send + Sync + 'static) -> WatchStream {
        let events = stream::unfold(Some((self, lost)), |watch| async {
            let (mut watch, lost) = watch?;
            match watch.next(&lost).await {
                Ok(event @ WatchEvent::Progress { .. }) if watch.end.is_some() => Some((Ok(event), None)),
                Ok(event) => Some((Ok(event), Some((watch, lost)))),
                Err(error) => Some((Err(error), None)),
            }
        });
        events.boxed()
    }

    async fn next(&mut self, lost: &(impl Fn() -> Option<ApiError> + Sync)) -> Result<WatchEvent, ApiError> {
        let before = Revision(self.watcher.from().0 - 1);
        if !std::mem::replace(&mut self.is_begun, true) {
            return Ok(WatchEvent::Begun { revision: before });
        }
        while self.untold.is_empty() {
            let seen = self.look(lost).await?;
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
    async fn look(&mut self, lost: &(impl Fn() -> Option<ApiError> + Sync)) -> Result<Seen, ApiError> {
        if self.end.is_some() {
            return self.watcher.look();
        }
        match timeout(WATCH_PROGRESS_INTERVAL, self.watcher.changed()).await {
            Ok(seen) => seen,
            Err(_) => match lost() {
                Some(error) => Err(error),
                None => self.watcher.look(),
            },
        }
    }
}
