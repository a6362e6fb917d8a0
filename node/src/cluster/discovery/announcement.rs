//! What a node says of itself by gossip, and which of what was heard counts. No network and no clock.

use std::collections::HashMap;

use bytes::Bytes;
use iroh::{EndpointId, SecretKey, Signature};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::cluster::encode;
use crate::limits::ANNOUNCE_INTERVAL_MIN;
use crate::types::{EndpointKey, NodeId, NodeInfo};

/// What is signed besides the announcement: the signature is one of nothing else.
const CONTEXT: &[u8] = b"aspen announcement 1";

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Announcement {
    /// Its number.
    pub(super) id: NodeId,
    /// Who and where it is.
    pub(super) info: NodeInfo,
    /// Which of its starts this is, and which announcement since: the later one counts.
    pub(super) order: (u64, u64),
}

/// An announcement as it travels.
#[derive(Serialize, Deserialize)]
struct Signed {
    /// By the key that stands in the announcement.
    signature: Signature,
    announcement: Vec<u8>,
}

/// Why an announcement does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnnouncementError {
    /// It is of another version, or of nobody's.
    #[error("it cannot be read")]
    Malformed,
    /// It is about another node than the one that says it.
    #[error("the node that it is about has not signed it")]
    Signature,
    /// It is about a node that is not listened to.
    #[error("it is about no member")]
    Stranger,
    /// It was overtaken.
    #[error("a later one was heard already")]
    Old,
    /// Its node speaks too often.
    #[error("it says nothing new, and comes too soon")]
    TooSoon,
}

impl Announcement {
    /// Signs it; what to send.
    pub(super) fn sign(&self, key: &SecretKey) -> Bytes {
        let announcement = encode(self);
        let signature = key.sign(&[CONTEXT, &announcement].concat());
        encode(&Signed { signature, announcement }).into()
    }

    /// Reads what its subject has signed.
    pub(super) fn read(message: &[u8]) -> Result<Self, AnnouncementError> {
        let malformed = |_| AnnouncementError::Malformed;
        let signed: Signed = postcard::from_bytes(message).map_err(malformed)?;
        let announcement: Self = postcard::from_bytes(&signed.announcement).map_err(malformed)?;
        let key = EndpointId::from_bytes(&announcement.info.endpoint_id.0);
        let key = key.map_err(|_| AnnouncementError::Malformed)?;
        let verified = key.verify(&[CONTEXT, &signed.announcement].concat(), &signed.signature);
        verified.map_err(|_| AnnouncementError::Signature)?;
        Ok(announcement)
    }
}

/// The last that each node has said. It holds members only, so it is bounded by their number.
#[derive(Debug, Default)]
pub(super) struct Heard {
    last: HashMap<EndpointKey, (Announcement, Instant)>,
}

impl Heard {
    /// Takes a message in, if it counts.
    pub(super) fn take(
        &mut self,
        message: &[u8],
        now: Instant,
        is_member: impl Fn(&EndpointKey) -> bool,
    ) -> Result<Announcement, AnnouncementError> {
        let announcement = Announcement::read(message)?;
        let key = announcement.info.endpoint_id;
        if !is_member(&key) {
            return Err(AnnouncementError::Stranger);
        }
        self.last.retain(|key, _| is_member(key));
        if let Some((before, heard)) = self.last.get(&key) {
            if announcement.order <= before.order {
                return Err(AnnouncementError::Old);
            }
            if announcement.info == before.info && now.duration_since(*heard) < ANNOUNCE_INTERVAL_MIN {
                return Err(AnnouncementError::TooSoon);
            }
        }
        self.last.insert(key, (announcement.clone(), now));
        Ok(announcement)
    }

    /// Where the nodes say that they are.
    pub(super) fn infos(&self) -> impl Iterator<Item = (EndpointKey, &NodeInfo)> {
        self.last.iter().map(|(key, (announcement, _))| (*key, &announcement.info))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn announcement(key: &SecretKey, port: u16, order: (u64, u64)) -> Announcement {
        let address = ([10, 0, 0, 1], port).into();
        let endpoint_id = EndpointKey(*key.public().as_bytes());
        Announcement { id: NodeId(1), info: NodeInfo { endpoint_id, raft: address, http: address }, order }
    }

    #[test]
    fn announcement_counts_only_if_its_subject_has_signed_it() {
        let [subject, other] = [1, 2].map(|byte| SecretKey::from_bytes(&[byte; 32]));
        let said = announcement(&subject, 1, (1, 1));
        let take = |message: &[u8]| Heard::default().take(message, Instant::now(), |_| true);
        assert_eq!(take(&said.sign(&subject)), Ok(said.clone()));
        assert_eq!(take(&said.sign(&other)), Err(AnnouncementError::Signature));
        let mut changed = said.sign(&subject).to_vec();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(take(&changed), Err(AnnouncementError::Signature));
        assert_eq!(take(&changed[..20]), Err(AnnouncementError::Malformed));
        // The same key signs for nothing else.
        let plain = encode(&Signed { signature: subject.sign(&encode(&said)), announcement: encode(&said) });
        assert_eq!(take(&plain), Err(AnnouncementError::Signature));
    }

    /// If this fails, nodes of two versions do not hear each other.
    #[test]
    fn announcement_is_these_bytes() {
        let key = SecretKey::from_bytes(&[1; 32]);
        let signed = announcement(&key, 4001, (1, 1)).sign(&key);
        let want = concat!(
            "8f717b8faa281c7e6b731ba784ee5699654fa744cdc90acb71e4e92ae7bd657dd48631cdda834df13a4d5e3077bbe94a",
            "5ebfe22f4c874ce7d15c38a7ca03dc045201403861383865336464373430396631393566643532646232643363626135",
            "6437326361363730396266316439343132316266333734383830316234306636663563000a000001a11f000a000001a11f0101",
        );
        assert_eq!(data_encoding::HEXLOWER.encode(&signed), want);
    }

    #[test]
    fn only_members_are_heard_and_the_last_word_counts() {
        let key = SecretKey::from_bytes(&[1; 32]);
        let (mut heard, began) = (Heard::default(), Instant::now());
        let mut take = |port: u16, order: (u64, u64), after_ms: u64, is_member: bool| {
            let message = announcement(&key, port, order).sign(&key);
            heard.take(&message, began + Duration::from_millis(after_ms), |_| is_member).map(drop)
        };
        assert_eq!(take(1, (2, 1), 0, false), Err(AnnouncementError::Stranger));
        assert_eq!(take(1, (2, 1), 0, true), Ok(()));
        assert_eq!(take(1, (2, 1), 9_000, true), Err(AnnouncementError::Old));
        assert_eq!(take(1, (1, 9), 9_000, true), Err(AnnouncementError::Old));
        assert_eq!(take(1, (2, 2), 100, true), Err(AnnouncementError::TooSoon));
        // What is new is heard at once.
        assert_eq!(take(2, (2, 3), 200, true), Ok(()));
        assert_eq!(take(2, (3, 1), 9_000, true), Ok(()));
    }
}
