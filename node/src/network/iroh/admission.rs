//! Who may speak to this node: the members and, before these are known, those that the settings or the one who let this node in
//! have named; each proven by key.

use std::collections::HashSet;
use std::sync::{Arc, RwLock};

use tokio::sync::watch;

use crate::network::incarnation::Incarnations;
use crate::network::refusals::Refusals;
use crate::types::EndpointKey;

/// The keys that are let in, and a count of those that were not.
#[derive(Debug)]
pub struct Admission {
    /// What the settings name: they count until the members are known, and where these are of yesterday.
    configured: HashSet<EndpointKey>,
    /// Who was named by a member that knows the secret: they count until the members are known, and where these are of yesterday.
    introduced: RwLock<HashSet<EndpointKey>>,
    members: RwLock<Members>,
    /// Who of them has forgotten what it was.
    incarnations: Arc<Incarnations>,
    changes: watch::Sender<u64>,
    refusals: Refusals,
}

/// The members, as far as they are known.
#[derive(Debug, Default, PartialEq, Eq)]
struct Members {
    present: HashSet<EndpointKey>,
    /// Whether they are those of now.
    are_of_now: bool,
    /// Who was one, and is none any more: of those that the settings name, since it counts for them only.
    removed: HashSet<EndpointKey>,
}

impl Admission {
    /// Lets in whom the settings name; members follow with [`Self::set_members`].
    pub fn new(configured: impl IntoIterator<Item = EndpointKey>, incarnations: Incarnations) -> Self {
        Self {
            configured: configured.into_iter().collect(),
            introduced: RwLock::default(),
            members: RwLock::default(),
            incarnations: Arc::new(incarnations),
            changes: watch::Sender::new(0),
            refusals: Refusals::default(),
        }
    }

    /// Lets in whom a member has named, until [`Self::set_members`] says that the members are those of now.
    pub fn introduce(&self, keys: impl IntoIterator<Item = EndpointKey>) {
        let mut introduced = self.introduced.write().expect("nothing panics while it holds this lock");
        *introduced = keys.into_iter().collect();
    }

    /// Replaces the members. Whoever is none is let in no longer, even if the settings name it: they may be older than its removal.
    /// Members may be of the past, as long as the log is replayed or nobody is heard of: then whoever the settings name or was
    /// introduced is let in, too, but for those who were members before and are none any more.
    pub fn set_members(&self, present: HashSet<EndpointKey>, are_of_now: bool) {
        if are_of_now {
            self.introduce([]);
        }
        let is_new = {
            let mut known = self.members.write().expect("nothing panics while it holds this lock");
            let were =
                known.removed.iter().chain(&known.present).filter(|key| self.configured.contains(*key));
            let removed = were.filter(|key| !present.contains(*key)).copied().collect();
            let members = Members { present, are_of_now, removed };
            let is_new = *known != members;
            *known = members;
            is_new
        };
        if are_of_now {
            self.incarnations.retain(|key| self.admits(key));
        }
        if is_new {
            self.changes.send_modify(|count| *count += 1);
        }
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
        let is_configured =
            self.configured.contains(key) && !members.are_of_now && !members.removed.contains(key);
        members.present.contains(key)
            || is_configured
            || self.introduced.read().expect("nothing panics while it holds this lock").contains(key)
    }

    /// Returns once a key that was let in is so no longer.
    pub async fn expelled(&self, key: &EndpointKey) {
        // The sender is ours.
        let _ = self.changes.subscribe().wait_for(|_| !self.admits(key)).await;
    }

    /// Who was turned away.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
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
        admission.set_members([member].into(), false);
        assert!(admission.admits(&configured) && admission.admits(&member) && !admission.admits(&stranger));
        admission.set_members([member, configured].into(), true);
        let expelled = admission.expelled(&configured);
        let mut expelled = std::pin::pin!(expelled);
        assert_eq!(expelled.as_mut().now_or_never(), None);
        admission.set_members([member].into(), true);
        assert_eq!(expelled.now_or_never(), Some(()));
        assert!(!admission.admits(&configured));
    }

    #[test]
    fn settings_that_name_a_removed_member_do_not_let_it_in_after_a_restart() {
        let [removed, member] = [1, 2].map(|byte| EndpointKey([byte; 32]));
        let admission = Admission::new([removed, member], Incarnations::default());
        // The log is replayed, and says nothing of the one that was removed long ago.
        admission.set_members([member].into(), false);
        assert!(admission.admits(&removed));
        admission.set_members([member].into(), true);
        assert!(!admission.admits(&removed) && admission.admits(&member));
        admission.set_members([removed, member].into(), true);
        assert!(admission.admits(&removed), "it was added again");
    }

    #[test]
    fn who_was_cut_off_lets_in_whom_its_settings_name_and_others_have_added() {
        let [known, added] = [1, 2].map(|byte| EndpointKey([byte; 32]));
        let admission = Admission::new([known, added], Incarnations::default());
        admission.set_members([known].into(), true);
        assert!(!admission.admits(&added));
        // It hears of nobody any more, and the one that leads now may be one that it does not know for a member.
        admission.set_members([known].into(), false);
        assert!(admission.admits(&added));
        admission.set_members([known, added].into(), true);
        admission.set_members([known].into(), false);
        assert!(!admission.admits(&added), "that it was removed is not forgotten");
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
