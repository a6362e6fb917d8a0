//! Who may speak to this node: the configured peers and the committed members, proven by key.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::Instant;

use crate::limits::REFUSAL_LOG_INTERVAL;
use crate::types::EndpointKey;

/// The keys that are let in, and a count of those that were not.
#[derive(Debug)]
pub struct Admission {
    configured: HashSet<EndpointKey>,
    members: RwLock<HashSet<EndpointKey>>,
    refused: AtomicU64,
    last_logged: Mutex<Option<Instant>>,
}

impl Admission {
    /// Lets the configured peers in; members follow with [`Self::set_members`].
    pub fn new(configured: impl IntoIterator<Item = EndpointKey>) -> Self {
        Self {
            configured: configured.into_iter().collect(),
            members: RwLock::default(),
            refused: AtomicU64::new(0),
            last_logged: Mutex::new(None),
        }
    }

    /// Replaces the committed members.
    pub fn set_members(&self, members: HashSet<EndpointKey>) {
        *self.members.write().expect("nothing panics while it holds this lock") = members;
    }

    /// Whether a key is let in.
    pub fn admits(&self, key: &EndpointKey) -> bool {
        self.configured.contains(key)
            || self.members.read().expect("nothing panics while it holds this lock").contains(key)
    }

    /// Counts a refusal, and logs it unless one was logged a moment ago.
    pub fn refused(&self, key: &EndpointKey) {
        let count = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        let mut last = self.last_logged.lock().expect("nothing panics while it holds this lock");
        if last.is_none_or(|last| last.elapsed() >= REFUSAL_LOG_INTERVAL) {
            *last = Some(Instant::now());
            tracing::warn!(endpoint_id = %key, count, "refused a connection: its key belongs to no member");
        }
    }

    /// Connections refused since the start.
    pub fn refused_count(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_peers_stay_admitted_when_the_members_change() {
        let (configured, member, stranger) =
            (EndpointKey([1; 32]), EndpointKey([2; 32]), EndpointKey([3; 32]));
        let admission = Admission::new([configured]);
        assert!(!admission.admits(&member));
        admission.set_members([member].into());
        assert!(admission.admits(&configured) && admission.admits(&member) && !admission.admits(&stranger));
        admission.refused(&stranger);
        assert_eq!(admission.refused_count(), 1);
    }
}
