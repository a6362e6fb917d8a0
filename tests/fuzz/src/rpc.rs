//! What a peer's bytes meet: every message of Raft's protocol, of a snapshot's transfer and of joining, announcements, greetings, and
//! what a node says of itself.

use std::fmt::Debug;

use aspen_node::api::{ApiError, WriteResult};
use aspen_node::cluster::discovery::read_announcement;
use aspen_node::network::Peer;
use aspen_node::network::about::About;
use aspen_node::network::incarnation::Incarnation;
use aspen_node::network::join::{JoinAnswer, JoinRequest};
use aspen_node::network::rpc::{Confirmed, RaftProtocol, StreamAppended};
use aspen_node::network::snapshot::{SnapshotAnswer, SnapshotPart};
use aspen_node::types::raft_types::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderResponse, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How one kind of message is read, written and read again.
type Again = fn(&[u8]) -> bool;

/// Every message: the first byte of an input says which one the others are.
const MESSAGES: [Again; 15] = [
    again::<RaftProtocol>,
    again::<AppendEntriesRequest>,
    again::<SnapshotPart>,
    again::<Result<AppendEntriesResponse, String>>,
    again::<StreamAppended>,
    again::<Result<VoteResponse, String>>,
    again::<Result<TransferLeaderResponse, String>>,
    again::<Result<Confirmed, ApiError>>,
    again::<Result<WriteResult, ApiError>>,
    again::<SnapshotAnswer>,
    again::<JoinRequest>,
    again::<JoinAnswer>,
    announcement,
    again::<About>,
    again::<Incarnation>,
];

/// Reads an input as the message that its first byte names.
pub fn run(input: &[u8]) -> bool {
    let Some((kind, bytes)) = input.split_first() else { return false };
    MESSAGES[usize::from(*kind) % MESSAGES.len()](bytes)
}

/// What decodes encodes again, and decodes to the same.
fn again<T: Serialize + DeserializeOwned + Debug>(bytes: &[u8]) -> bool {
    let Ok(message) = postcard::from_bytes::<T>(bytes) else { return false };
    let encoded = postcard::to_stdvec(&message).expect("what was decoded encodes");
    let second: T = postcard::from_bytes(&encoded).expect("what was encoded decodes");
    // A command inside is decoded by this, as it is for the log of a node.
    assert_eq!(format!("{message:?}"), format!("{second:?}"));
    assert_eq!(postcard::to_stdvec(&second), Ok(encoded));
    true
}

fn announcement(bytes: &[u8]) -> bool {
    let Ok(peer) = read_announcement(bytes) else { return false };
    again::<Peer>(&postcard::to_stdvec(&peer).expect("what was decoded encodes"))
}
