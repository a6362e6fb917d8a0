//! What every state machine makes of an entry besides its outcome: the membership that it sets, and the digest behind it.

use openraft::EntryPayload;

use crate::types::Outcome;
use crate::types::raft_types::{Entry, StoredMembership};

/// The membership that an entry sets, if it sets one.
pub(super) fn membership_of(entry: &Entry) -> Option<StoredMembership> {
    match &entry.payload {
        EntryPayload::Membership(membership) => {
            Some(StoredMembership::new(Some(entry.log_id), membership.clone()))
        }
        EntryPayload::Blank | EntryPayload::Normal(_) => None,
    }
}

/// The digest after `entry`: BLAKE3 over the one before it, index, term, command and outcome.
pub(super) fn chain(before: &[u8; 32], entry: &Entry, outcome: &Outcome) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before);
    hasher.update(&entry.log_id.index.to_le_bytes());
    hasher.update(&(*entry.log_id.leader_id).to_le_bytes());
    hasher.update(&encode(&entry.payload));
    hasher.update(&encode(outcome));
    *hasher.finalize().as_bytes()
}

/// The bytes of an id, a command or an outcome, the same on every node.
pub(super) fn encode(value: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("ids, commands and outcomes always encode")
}
