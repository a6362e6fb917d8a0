//! Who may speak to this node: the committed members and, before these are known, those that the settings or the one who let this
//! node in have named; each proven by key.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use tokio::sync::watch;

use crate::limits::REFUSAL_LOG_INTERVAL;
use crate::network::incarnation::Incarnations;
use crate::types::EndpointKey;

/// The keys that are let in, and a count of those that were not.
#[derive(Debug)]
pub struct Admission {
    /// What the settings name, a member that was removed since excepted.
    configured: RwLock<HashSet<EndpointKey>>,
    /// Who was named by a member that knows the secret: they count until the members are known, and where these are of yesterday.
    introduced: RwLock<HashSet<EndpointKey>>,
    members: RwLock<HashSet<EndpointKey>>,
    /// Who of them has forgotten what it was.
    incarnations: Arc<Incarnations>,
    changes: watch::Sender<u64>,
    refused: AtomicU64,
    last_logged: Mutex<Option<Instant>>,
}

impl Admission {
    /// Lets in whom the settings name; members follow with [`Self::set_members`].
    pub fn new(configured: impl IntoIterator<Item = EndpointKey>, incarnations: Incarnations) -> Self {
        Self {
            configured: RwLock::new(configured.into_iter().collect()),
            introduced: RwLock::default(),
            members: RwLock::default(),
            incarnations: Arc::new(incarnations),
            changes: watch::Sender::new(0),
            refused: AtomicU64::new(0),
            last_logged: Mutex::new(None),
        }
    }

    /// Lets in whom a member has named, until [`Self::set_members`] says that the members are those of now.
    pub fn introduce(&self, keys: impl IntoIterator<Item = EndpointKey>) {
        let mut introduced = self.introduced.write().expect("nothing panics while it holds this lock");
        *introduced = keys.into_iter().collect();
    }

    /// Replaces the committed members. Whoever was one and is none any more is let in no longer, even if the settings name it.
    /// They may be of the past, as long as the log is replayed: then whoever was introduced is let in, too.
    pub fn set_members(&self, members: HashSet<EndpointKey>, are_of_now: bool) {
        if are_of_now {
            self.introduce([]);
        }
        {
            let mut known = self.members.write().expect("nothing panics while it holds this lock");
            let mut configured = self.configured.write().expect("nothing panics while it holds this lock");
            configured.retain(|key| members.contains(key) || !known.contains(key));
            let is_let_in = |key: &EndpointKey| members.contains(key) || configured.contains(key);
            if are_of_now {
                self.incarnations.retain(is_let_in);
            }
            *known = members;
        }
        self.changes.send_modify(|count| *count += 1);
    }

    /// Which starts of the others were seen.
    pub fn incarnations(&self) -> &Arc<Incarnations> {
        &self.incarnations
    }

    /// Changes whenever somebody may be let in no longer.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether a key is let in.
    pub fn admits(&self, key: &EndpointKey) -> bool {
        let members = self.members.read().expect("nothing panics while it holds this lock");
        members.contains(key)
            || self.introduced.read().expect("nothing panics while it holds this lock").contains(key)
            || self.configured.read().expect("nothing panics while it holds this lock").contains(key)
    }

    /// Returns once a key that was let in is so no longer.
    pub async fn expelled(&self, key: &EndpointKey) {
        // The sender is ours.
        let _ = self.changes.subscribe().wait_for(|_| !self.admits(key)).await;
    }

    /// Counts a refusal, and logs it with its reason unless one was logged a moment ago.
    pub fn refused(&self, key: &EndpointKey, reason: &str) {
        let count = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        let mut last = self.last_logged.lock().expect("nothing panics while it holds this lock");
        if last.is_none_or(|last| last.elapsed() >= REFUSAL_LOG_INTERVAL) {
            *last = Some(Instant::now());
            tracing::warn!(endpoint_id = %key, count, "refused a connection: {reason}");
        }
    }

    /// Connections refused since the start.
    pub fn refused_count(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn configured_peer_is_admitted_until_it_is_removed() {
        let [configured, member, stranger] = [1, 2, 3].map(|byte| EndpointKey([byte; 32]));
        let admission = Admission::new([configured], Incarnations::default());
        assert!(!admission.admits(&member));
        admission.set_members([member].into(), true);
        assert!(admission.admits(&configured) && admission.admits(&member) && !admission.admits(&stranger));
        admission.set_members([member, configured].into(), true);
        let expelled = admission.expelled(&configured);
        let mut expelled = std::pin::pin!(expelled);
        assert_eq!(expelled.as_mut().now_or_never(), None);
        admission.set_members([member].into(), true);
        assert_eq!(expelled.now_or_never(), Some(()));
        assert!(!admission.admits(&configured));
        admission.refused(&stranger, "its key belongs to no member");
        assert_eq!(admission.refused_count(), 1);
    }

    #[test]
    fn those_who_were_named_at_the_door_count_until_the_members_are_known() {
        let [named, member] = [1, 2].map(|byte| EndpointKey([byte; 32]));
        let admission = Admission::new([], Incarnations::default());
        admission.introduce([named]);
        admission.set_members([member].into(), false);
        assert!(admission.admits(&named));
        admission.set_members([member].into(), true);
        assert!(!admission.admits(&named) && admission.admits(&member));
    }
}
