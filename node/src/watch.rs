//! What changes, for those who follow it: the last changes of this node's state in memory, and whom to wake for them.
//!
//! A follower of changes holds no queue of its own, only the revision at which it stands and what it has taken last: one that is
//! slow, or stalls, delays nobody, and is told when what it wants next is held no longer. Every node holds the changes of the
//! entries that it has applied itself, so any of them, also one that learns, can be followed, and another one from where
//! the first was left.

mod feed;
mod following;

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use self::feed::{Feed, Taken};
pub use self::following::Following;
use crate::api::ApiError;
use crate::types::{Change, Interest, Revised, Revision};

/// The last changes of a state, and who follows them. Clones share it.
#[derive(Debug, Clone)]
pub struct ChangeFeed(Arc<Mutex<Feed>>);

impl ChangeFeed {
    /// Holds up to `bytes_max` of changes after `applied`.
    pub fn new(applied: Revision, bytes_max: u64) -> Self {
        Self(Arc::new(Mutex::new(Feed::new(applied, bytes_max))))
    }

    /// Holds as much from now on.
    pub fn keep(&self, bytes_max: u64) {
        self.lock().keep(bytes_max);
    }

    /// Whether what keys held before is to be noted.
    pub fn notes_previous(&self) -> bool {
        self.lock().previous_since().is_some()
    }

    /// Adds the changes of entries up to `applied`, and wakes whom they concern.
    pub fn publish(&self, revised: Vec<Revised>, applied: Revision) {
        self.lock().publish(revised, applied);
    }

    /// Forgets everything: the state is another one now, as of `applied`.
    pub fn restart(&self, applied: Revision) {
        self.lock().restart(applied);
    }

    /// Ends it for everybody: the node stops.
    pub fn close(&self) {
        self.lock().close();
    }

    /// The last entry whose changes are here.
    pub fn latest(&self) -> Revision {
        self.lock().latest()
    }

    /// Follows changes: those of entry `from` and later, or of what is applied from now on. `notes_previous`: with what keys
    /// held before, unless they are changed just now.
    ///
    /// # Errors
    /// [`ApiError::Compacted`], [`ApiError::PreviousNotNoted`], [`ApiError::TooManyWatchers`], [`ApiError::Stopping`].
    pub fn watch(
        &self,
        interest: Interest,
        from: Option<Revision>,
        notes_previous: bool,
    ) -> Result<Watcher, ApiError> {
        let (id, woken, from) = self.lock().watch(&interest, from, notes_previous)?;
        Ok(Watcher { feed: self.clone(), id, interest, woken, from })
    }

    /// How many follow it, and how many bytes of changes it holds.
    pub fn measures(&self) -> (u64, u64) {
        self.lock().measures()
    }

    fn lock(&self) -> MutexGuard<'_, Feed> {
        self.0.lock().expect("nothing panics while it holds this lock")
    }
}

/// Somebody's place in a [`ChangeFeed`], until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    feed: ChangeFeed,
    id: u64,
    interest: Interest,
    woken: Arc<Notify>,
    from: Revision,
}

/// What a [`Watcher`] has seen at one look.
#[derive(Debug, Default)]
pub struct Seen {
    /// Changes that it follows, oldest first; none of an entry are missing.
    pub revised: Vec<Revised>,
    /// There are no others that it follows up to here.
    pub up_to: Revision,
    /// Nor behind that, so far.
    pub is_all: bool,
}

impl Watcher {
    /// The first entry whose changes it sees.
    pub fn from(&self) -> Revision {
        self.from
    }

    /// Waits for changes; returns a few of them.
    ///
    /// # Errors
    /// [`ApiError::Compacted`] where it is too far behind, [`ApiError::Stopping`].
    pub async fn changed(&mut self) -> Result<Seen, ApiError> {
        loop {
            // Made before the look: what is published in between wakes it.
            let woken = self.woken.clone();
            let woken = woken.notified();
            let seen = self.look()?;
            if !seen.revised.is_empty() {
                return Ok(seen);
            }
            if seen.is_all {
                woken.await;
            } else {
                tokio::task::yield_now().await;
            }
        }
    }

    /// What there is, without waiting.
    ///
    /// # Errors
    /// As [`Self::changed`].
    pub fn look(&mut self) -> Result<Seen, ApiError> {
        let Taken { revised: held, up_to, is_all } = self.feed.lock().take(&self.interest, self.id)?;
        // Copied here, not under the lock.
        let of_interest = held.iter().filter_map(|revised| {
            let changes = revised.changes.iter().filter(|change| self.interest.includes(change));
            let changes: Vec<Change> = changes.cloned().collect();
            (!changes.is_empty()).then_some(Revised { revision: revised.revision, changes })
        });
        Ok(Seen { revised: of_interest.collect(), up_to, is_all })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.feed.lock().leave(&self.interest, self.id);
    }
}

#[cfg(test)]
mod tests;
