//! What a node can be asked: the traits [`ClusterController`], [`KeyValueStore`] and [`RaftObserver`], their
//! requests, results and errors. It knows neither Raft nor HTTP.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::limits::{
    HTTP_BODY_BYTES_MAX, KEY_BYTES_MAX, LOG_DIGEST_RANGE_MAX, PEERS_MAX, SCAN_LIMIT_MAX, VALUE_BYTES_MAX,
};
use crate::types::{Command, Key, NodeId, NodeInfo, Outcome, Record, Revision, Value};

/// An answer that comes later.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, ApiError>>;

/// Membership of the cluster.
pub trait ClusterController: Send + Sync {
    /// Makes a new cluster of `members`, which includes this node.
    ///
    /// # Errors
    /// [`ApiError::AlreadyInitialized`], or [`ApiError::BadRequest`] where the members make no cluster.
    fn init(&self, members: BTreeMap<NodeId, NodeInfo>) -> Answer<'_, ()>;

    /// What this node knows of the cluster.
    fn status(&self) -> ClusterStatus;

    /// Makes a snapshot of this node's state, unless the last one is as new as the state, and returns when there is one.
    ///
    /// # Errors
    /// [`ApiError::Timeout`] where it takes longer; it goes on. [`ApiError::SnapshotTooLarge`].
    fn trigger_snapshot(&self) -> Answer<'_, SnapshotStatus>;
}

/// The replicated keys.
pub trait KeyValueStore: Send + Sync {
    /// The record under a key.
    ///
    /// # Errors
    /// A linearizable read that no quorum confirmed is an error, never stale data.
    fn read(&self, request: ReadRequest) -> Answer<'_, ReadResult>;

    /// Proposes a command and waits until it is applied.
    ///
    /// # Errors
    /// [`ApiError::Timeout`] and [`ApiError::LeaderLost`] leave the outcome open; every other error means that nothing
    /// was written.
    fn write(&self, command: Command) -> Answer<'_, WriteResult>;

    /// Removes a key, as [`Self::write`] of [`Command::Delete`].
    ///
    /// # Errors
    /// As [`Self::write`].
    fn delete(&self, key: Key) -> Answer<'_, WriteResult> {
        self.write(Command::Delete { key })
    }

    /// A page of records, in the order of their keys.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn scan(&self, request: ScanRequest) -> Answer<'_, ScanResult>;
}

/// What an observer that judges the cluster needs to see of one node.
pub trait RaftObserver: Send + Sync {
    /// Term, vote, log and apply positions.
    fn raft_state(&self) -> RaftState;

    /// Terms and chained hashes of the log entries `from..=to`.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] for a range that is empty, too long or beyond the log.
    fn log_digest(&self, from: u64, to: u64) -> Answer<'_, LogDigest>;

    /// The state digest at an index, or at the present one.
    ///
    /// # Errors
    /// [`ApiError::DigestNotKept`] where the index has none.
    fn state_digest(&self, at: Option<u64>) -> Answer<'_, StateDigest>;
}

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Sees every write that was acknowledged before the read began.
    #[default]
    Linearizable,
    /// What this node has applied, however old.
    Stale,
}

/// Which record to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRequest {
    /// The key.
    pub key: Key,
    /// How fresh.
    pub consistency: Consistency,
}

/// What a read saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadResult {
    /// The last entry applied when it was read.
    pub revision: Revision,
    /// The record, where the key exists.
    pub record: Option<Record>,
}

/// What a write did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteResult {
    /// The index of its entry.
    pub revision: Revision,
    /// What the command did there.
    pub outcome: Outcome,
}

/// Which records to scan: `start <= key < end`, and with the prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanRequest {
    /// Every key begins with it; empty: any key.
    pub prefix: Key,
    /// First key, inclusive; empty: from the beginning.
    pub start: Key,
    /// Last key, exclusive; empty: to the end.
    pub end: Key,
    /// Only keys after this one: where an earlier page ended.
    pub after: Option<Key>,
    /// Entries of the page, 1 to [`SCAN_LIMIT_MAX`].
    pub limit: u32,
    /// How fresh.
    pub consistency: Consistency,
}

/// A page of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanResult {
    /// The last entry applied when it was read.
    pub revision: Revision,
    /// The records, in the order of their keys.
    pub entries: Vec<(Key, Record)>,
    /// Whether more follow.
    pub is_truncated: bool,
}

/// The newest snapshot of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// The last entry that it covers.
    pub last: Option<EntryId>,
    /// Its size.
    pub bytes: u64,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its number.
    pub id: NodeId,
    /// Whether it votes; otherwise it is a learner.
    pub is_voter: bool,
    /// Who and where it is.
    #[serde(flatten)]
    pub info: NodeInfo,
}

/// What a node knows of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// This node.
    pub id: NodeId,
    /// The public key of its endpoint.
    pub endpoint_id: String,
    /// `leader`, `follower`, `candidate` or `learner`.
    pub role: String,
    /// The present term.
    pub term: u64,
    /// Who leads, as far as this node knows.
    pub leader: Option<LeaderHint>,
    /// Whether the node is part of a cluster.
    pub is_initialized: bool,
    /// The members, by number.
    pub members: Vec<Member>,
    /// Connections that were refused because their key belongs to no member.
    pub refused_connections: u64,
}

/// Whom to ask instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderHint {
    /// The leader's number.
    pub id: NodeId,
    /// Its HTTP address, where it is known.
    pub http: Option<String>,
}

/// Term and index of a log entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntryId {
    /// The term in which a leader appended it.
    pub term: u64,
    /// Its place in the log.
    pub index: u64,
}

/// Whom a node has voted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteState {
    /// In which term.
    pub term: u64,
    /// For whom.
    pub voted_for: NodeId,
    /// Whether a quorum has granted it, so that this candidate leads the term.
    pub is_committed: bool,
}

/// Where a node stands in Raft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftState {
    /// This node.
    pub id: NodeId,
    /// Another one at each start.
    pub incarnation: String,
    /// `leader`, `follower`, `candidate`, `learner` or `shutdown`.
    pub role: String,
    /// The present term.
    pub term: u64,
    /// The last durable vote.
    pub vote: VoteState,
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeId>,
    /// The last entry of the log, by index.
    pub last_log_index: Option<u64>,
    /// The last entry known to be committed.
    pub committed: Option<EntryId>,
    /// The last entry applied to the state.
    pub applied: Option<EntryId>,
    /// The last entry that the newest snapshot covers.
    pub snapshot: Option<EntryId>,
    /// The last entry that has left the log, since a snapshot covers it.
    pub purged: Option<EntryId>,
}

/// Hashes of a range of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogDigest {
    /// First index of the range.
    pub from: u64,
    /// One line per entry.
    pub entries: Vec<LogDigestEntry>,
}

/// One entry of a [`LogDigest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogDigestEntry {
    /// Its place in the log.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// BLAKE3 over the chain from the first entry of the range up to this one, in hexadecimal.
    pub chain: String,
}

/// A hash over everything that was applied up to an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDigest {
    /// The last entry it covers; `null` before the first.
    pub index: Option<u64>,
    /// BLAKE3 over (index, term, command, outcome) of each entry in turn, in hexadecimal.
    pub digest: String,
}

/// Why a request is refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ApiError {
    /// The request breaks a rule; nothing was done.
    #[error("{0}")]
    BadRequest(#[from] BadRequest),
    /// The cluster exists already.
    #[error("this node is already part of a cluster")]
    AlreadyInitialized,
    /// Too many operations are under way.
    #[error("{limit} operations are under way on this node, try again later")]
    TooManyOperations {
        /// How many may be.
        limit: u32,
    },
    /// This node does not lead, and could not reach the one that does.
    #[error("{}", not_leader_text(leader.as_ref()))]
    NotLeader {
        /// Whom to ask instead, where it is known.
        leader: Option<LeaderHint>,
    },
    /// The leader could not confirm in time that it still leads.
    #[error("no quorum of the members answers, so nothing can be read or written here")]
    NoQuorum,
    /// The operation did not end in time.
    #[error("not finished within {within_ms} ms: {outcome}")]
    Timeout {
        /// The bound, in milliseconds.
        within_ms: u64,
        /// Whether a write may still happen.
        outcome: TimeoutOutcome,
    },
    /// The leader vanished while it worked on a write.
    #[error("the leader was lost before it answered: {}", TimeoutOutcome::Unknown)]
    LeaderLost,
    /// The state is larger than a snapshot may be.
    #[error("the state has {bytes} bytes, a snapshot may have {bytes_max}: raise snapshot_mib_max")]
    SnapshotTooLarge {
        /// Size of the state.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// No state digest is kept for the index.
    #[error(
        "no state digest is kept for index {at}: ask for a multiple of 64 that is applied and recent, or leave `at` out"
    )]
    DigestNotKept {
        /// The index.
        at: u64,
    },
    /// The node is stopping, or has stopped for a reason of its own.
    #[error("this node is stopping: {reason}")]
    Stopping {
        /// Why.
        reason: String,
    },
    /// The node's storage failed.
    #[error("the node's storage failed: {reason}")]
    Storage {
        /// How.
        reason: String,
    },
}

/// What a time-out leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeoutOutcome {
    /// A read has no effect.
    NothingWritten,
    /// A write may have happened, or may still happen.
    Unknown,
    /// It is still being done, and nothing has to be asked again.
    GoesOn,
}

impl std::fmt::Display for TimeoutOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NothingWritten => "nothing was written",
            Self::GoesOn => "it goes on",
            Self::Unknown => "the outcome is unknown, the write may still take effect",
        })
    }
}

/// Which rule a request breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum BadRequest {
    /// A key of no bytes.
    #[error("the key is empty, 1 to {KEY_BYTES_MAX} bytes are allowed")]
    KeyEmpty,
    /// A key that is too long.
    #[error("the key has {0} bytes, 1 to {KEY_BYTES_MAX} are allowed")]
    KeyTooLarge(u64),
    /// A value that is too long.
    #[error("the value has {0} bytes, 0 to {VALUE_BYTES_MAX} are allowed")]
    ValueTooLarge(u64),
    /// A scan's limit.
    #[error("the limit is {0}, 1 to {SCAN_LIMIT_MAX} are allowed")]
    ScanLimit(u32),
    /// A continuation token that this node never gave.
    #[error("the continuation token is damaged: use the one of the page before, unchanged")]
    ContinuationToken,
    /// A range of the log.
    #[error("from={from} to={to}: from <= to is needed, and at most {LOG_DIGEST_RANGE_MAX} entries")]
    LogRange {
        /// First index asked for.
        from: u64,
        /// Last index asked for.
        to: u64,
    },
    /// A range that reaches beyond the log.
    #[error("the log holds {}, {from} to {to} were asked for", held_text(*first, *last))]
    BeyondLog {
        /// First index asked for.
        from: u64,
        /// Last index asked for.
        to: u64,
        /// First index there is.
        first: u64,
        /// Last index there is.
        last: Option<u64>,
    },
    /// Members that make no cluster.
    #[error("member {0} is not among the configured peers: {1}")]
    UnknownMember(NodeId, String),
    /// A cluster without this node.
    #[error("node {0} is asked to found a cluster that it is no member of")]
    NotAMember(NodeId),
    /// Too many members, or none.
    #[error("{0} members, 1 to {PEERS_MAX} are allowed: list them as peers in node.toml")]
    MemberCount(u64),
    /// A body that is too long.
    #[error("the body has more than {HTTP_BODY_BYTES_MAX} bytes")]
    BodyTooLarge,
    /// A body or query that cannot be read.
    #[error("{0}")]
    Malformed(String),
}

fn held_text(first: u64, last: Option<u64>) -> String {
    last.map_or("no entry".to_owned(), |last| format!("entries {first} to {last}"))
}

fn not_leader_text(leader: Option<&LeaderHint>) -> String {
    match leader {
        Some(LeaderHint { id, http: Some(http) }) => {
            format!("node {id} was the leader when last heard of: ask it at {http}")
        }
        Some(LeaderHint { id, http: None }) => format!("node {id} was the leader when last heard of: ask it"),
        None => "no leader is known: try again later".to_owned(),
    }
}

/// Refuses keys and values over their bounds before they cost anything.
///
/// # Errors
/// The bound that is broken.
pub fn check_command(command: &Command) -> Result<(), BadRequest> {
    match command {
        Command::Delete { key } => check_key(key),
        Command::Set { key, value } => check_key(key).and_then(|()| check_value(value)),
        Command::CompareAndSwap { key, expected, value } => {
            check_key(key)?;
            expected.as_ref().map_or(Ok(()), check_value)?;
            check_value(value)
        }
    }
}

/// Refuses a key over its bound.
///
/// # Errors
/// The bound that is broken.
pub fn check_key(key: &Key) -> Result<(), BadRequest> {
    match key.0.len() {
        0 => Err(BadRequest::KeyEmpty),
        length if length > KEY_BYTES_MAX as usize => Err(BadRequest::KeyTooLarge(length as u64)),
        _ => Ok(()),
    }
}

fn check_value(value: &Value) -> Result<(), BadRequest> {
    let length = value.0.len();
    if length > VALUE_BYTES_MAX as usize { Err(BadRequest::ValueTooLarge(length as u64)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: impl Into<ApiError>, want: &str) {
        assert_eq!(error.into().to_string(), want);
    }

    #[test]
    fn errors_say_what_to_do() {
        check(BadRequest::KeyTooLarge(1025), "the key has 1025 bytes, 1 to 1024 are allowed");
        check(BadRequest::ScanLimit(0), "the limit is 0, 1 to 10000 are allowed");
        let leader = Some(LeaderHint { id: NodeId(2), http: Some("10.0.0.2:8080".into()) });
        check(
            ApiError::NotLeader { leader },
            "node 2 was the leader when last heard of: ask it at 10.0.0.2:8080",
        );
        check(ApiError::NotLeader { leader: None }, "no leader is known: try again later");
        check(
            ApiError::Timeout { within_ms: 5000, outcome: TimeoutOutcome::Unknown },
            "not finished within 5000 ms: the outcome is unknown, the write may still take effect",
        );
    }

    #[test]
    fn front_door_and_state_machine_agree_on_bounds() {
        for key_len in [0_usize, 1, 1024, 1025] {
            for value_len in [0_usize, 1024 * 1024, 1024 * 1024 + 1] {
                let command =
                    Command::Set { key: Key(vec![b'k'; key_len]), value: Value(vec![0; value_len]) };
                assert_eq!(check_command(&command).is_ok(), crate::state::within_bounds(&command));
            }
        }
    }
}
