//! `AspenClusterTicket`: what a node needs, besides the secret, to find a cluster. It is public: it names members and addresses, and
//! no secret.
//!
//! As text it is `aspen`, the version, and in base32 (RFC 4648, lower case, without padding) the cluster's id, the peers, and four
//! bytes of BLAKE3 over all of that, so that a ticket which was copied badly is noticed before anybody is asked.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD_NOCASE;
use serde::{Deserialize, Deserializer, Serialize};

use crate::limits::TICKET_PEERS_MAX;
use crate::network::secret::ClusterId;
use crate::types::NodeInfo;

/// What every ticket begins with; its version follows.
const PREFIX: &str = "aspen";
/// The version that this program writes and reads.
const VERSION: &str = "1";
const CHECKSUM_BYTES: usize = 4;

/// Where a cluster is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AspenClusterTicket {
    /// Which cluster.
    pub cluster_id: ClusterId,
    /// Some of its members, 1 to [`TICKET_PEERS_MAX`].
    pub peers: Vec<NodeInfo>,
}

/// Why a text is no ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It is something else.
    #[error("a ticket begins with `{PREFIX}`: `aspen cluster ticket` prints one")]
    NoTicket,
    /// It is of another time.
    #[error(
        "the ticket is of version {0}, this program knows version {VERSION}: use the same version of Aspen as the cluster"
    )]
    Version(String),
    /// It was copied badly.
    #[error("the ticket is incomplete or changed: copy it as a whole")]
    Damaged,
    /// It names nobody, or too many.
    #[error("the ticket names {0} members, 1 to {TICKET_PEERS_MAX} are allowed")]
    PeerCount(usize),
}

#[derive(Serialize, Deserialize)]
struct Content {
    cluster_id: ClusterId,
    peers: Vec<TicketPeer>,
}

/// A member, its key as bytes: half as long as in hexadecimal.
#[derive(Serialize, Deserialize)]
struct TicketPeer {
    endpoint_id: [u8; 32],
    raft: std::net::SocketAddr,
    http: std::net::SocketAddr,
}

impl AspenClusterTicket {
    /// A ticket with the first of these members.
    pub fn new(cluster_id: ClusterId, members: impl IntoIterator<Item = NodeInfo>) -> Self {
        Self { cluster_id, peers: members.into_iter().take(TICKET_PEERS_MAX as usize).collect() }
    }
}

impl fmt::Display for AspenClusterTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = |NodeInfo { endpoint_id, raft, http }: &NodeInfo| TicketPeer {
            endpoint_id: endpoint_id.0,
            raft: *raft,
            http: *http,
        };
        let content = Content { cluster_id: self.cluster_id, peers: self.peers.iter().map(peer).collect() };
        let mut bytes = postcard::to_stdvec(&content).map_err(|_| fmt::Error)?;
        bytes.extend(checksum(&bytes));
        let text = BASE32_NOPAD_NOCASE.encode(&bytes).to_lowercase();
        write!(f, "{PREFIX}{VERSION}{text}")
    }
}

impl FromStr for AspenClusterTicket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        let versioned = text.strip_prefix(PREFIX).ok_or(TicketError::NoTicket)?;
        let Some(encoded) = versioned.strip_prefix(VERSION) else {
            return Err(versioned
                .chars()
                .next()
                .filter(char::is_ascii_digit)
                .map_or(TicketError::NoTicket, |version| TicketError::Version(version.to_string())));
        };
        let bytes = BASE32_NOPAD_NOCASE.decode(encoded.as_bytes()).map_err(|_| TicketError::Damaged)?;
        let content = bytes.split_last_chunk::<CHECKSUM_BYTES>();
        let (content, sum) = content.ok_or(TicketError::Damaged)?;
        if checksum(content) != *sum {
            return Err(TicketError::Damaged);
        }
        let Content { cluster_id, peers } =
            postcard::from_bytes(content).map_err(|_| TicketError::Damaged)?;
        if peers.is_empty() || peers.len() > TICKET_PEERS_MAX as usize {
            return Err(TicketError::PeerCount(peers.len()));
        }
        let peer = |TicketPeer { endpoint_id, raft, http }| NodeInfo {
            endpoint_id: crate::types::EndpointKey(endpoint_id),
            raft,
            http,
        };
        Ok(Self { cluster_id, peers: peers.into_iter().map(peer).collect() })
    }
}

impl<'de> Deserialize<'de> for AspenClusterTicket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Over what stands before it, and what cannot be read without knowing the version.
fn checksum(content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(PREFIX.as_bytes()).update(VERSION.as_bytes()).update(content);
    let mut sum = [0; CHECKSUM_BYTES];
    hasher.finalize_xof().fill(&mut sum);
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::EndpointKey;

    fn ticket(peers: u8) -> AspenClusterTicket {
        let peer = |byte| NodeInfo {
            endpoint_id: EndpointKey([byte; 32]),
            raft: ([10, 0, 0, byte], 4001).into(),
            http: ([10, 0, 0, byte], 8001).into(),
        };
        AspenClusterTicket::new(ClusterId([9; 16]), (1..=peers).map(peer))
    }

    #[track_caller]
    fn check(text: &str, want: &str) {
        assert_eq!(text.parse::<AspenClusterTicket>().unwrap_err().to_string(), want);
    }

    #[test]
    fn ticket_that_is_none_says_so() {
        let text = ticket(3).to_string();
        check("eyJhbGciOi", "a ticket begins with `aspen`: `aspen cluster ticket` prints one");
        check("aspen", "a ticket begins with `aspen`: `aspen cluster ticket` prints one");
        check(
            &text.replace("aspen1", "aspen2"),
            "the ticket is of version 2, this program knows version 1: use the same version of Aspen as the cluster",
        );
        check(&text[..text.len() - 1], "the ticket is incomplete or changed: copy it as a whole");
        check("aspen1", "the ticket is incomplete or changed: copy it as a whole");
        check(&ticket(0).to_string(), "the ticket names 0 members, 1 to 16 are allowed");
    }

    #[test]
    fn ticket_of_a_large_cluster_has_its_first_members_only() {
        assert_eq!(ticket(40).peers.len(), 16);
        let text = ticket(40).to_string();
        assert!(text.len() < 1_500, "{}", text.len());
        assert_eq!(text.to_uppercase().replace("ASPEN1", " aspen1").parse(), Ok(ticket(16)));
    }

    /// Of base32.
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";

    proptest! {
        #[test]
        fn any_ticket_is_read_as_it_was_written(count in 1..=16_u8) {
            prop_assert_eq!(ticket(count).to_string().parse(), Ok(ticket(count)));
        }

        #[test]
        fn changed_character_is_noticed(place in 6..200_usize, by in 1..32_u8) {
            let mut bytes = ticket(3).to_string().into_bytes();
            let value = ALPHABET.iter().position(|byte| *byte == bytes[place]).unwrap();
            bytes[place] = ALPHABET[(value + usize::from(by)) % 32];
            let changed = String::from_utf8(bytes).unwrap();
            prop_assert_eq!(changed.parse::<AspenClusterTicket>(), Err(TicketError::Damaged));
        }
    }
}
