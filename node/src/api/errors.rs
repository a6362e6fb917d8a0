//! How a request is refused, and how it fails: every error with a text that says what to do.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::LeaderHint;
use crate::limits::{
    COMMAND_BYTES_MAX, HTTP_BODY_BYTES_MAX, JOIN_ID_MAX, KEY_BYTES_MAX, KEYS_PER_COMMAND_MAX,
    LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN, LOG_DIGEST_RANGE_MAX, MAX_STALENESS_MS_MAX, MIB, PEERS_MAX,
    SCAN_LIMIT_MAX, TRANSACTION_OPERATIONS_MAX, VALUE_BYTES_MAX, VAULT_NAME_BYTES_MAX, VOTERS_MAX,
};
use crate::types::{LeaseId, NodeId, Revision, VaultName};

/// What may have become of a lease that is not there.
pub const LEASE_GONE: &str =
    "it was never granted, or was not kept alive, or was revoked; take another, and write its keys again";

/// Why a request is refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ApiError {
    /// The request breaks a rule; nothing was done.
    #[error("{0}")]
    BadRequest(#[from] BadRequest),
    /// The cluster exists already.
    #[error("this node is already part of a cluster")]
    AlreadyInitialized,
    /// A member of this number is there, and is another.
    #[error("node {id} is a member with another key or address: remove it first, or take another number")]
    MemberExists {
        /// Its number.
        id: NodeId,
    },
    /// The members are being changed already, or the leader is new.
    #[error(
        "another change of the members is under way, or was made just now: try again when it is done. It takes a majority of those who voted before and of those \
         who are to vote; the cluster's status says who does not answer"
    )]
    ChangeInProgress,
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
    /// The disk of the leader has only its reserve left.
    #[error(
        "nothing was written, the disk of node {node} is full: {} MiB are left, {} are needed",
        left.div_ceil(MIB), needed.div_ceil(MIB)
    )]
    DiskFull {
        /// Whose disk.
        node: NodeId,
        /// What is left of it, in bytes.
        left: u64,
        /// What has to be.
        needed: u64,
    },
    /// The state is larger than a snapshot may be.
    #[error("the state has {bytes} bytes, a snapshot may have {bytes_max}: raise snapshot_mib_max")]
    SnapshotTooLarge {
        /// Size of the state.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// There is no such vault.
    #[error("there is no vault {vault}: something has to be written into it first")]
    VaultNotFound {
        /// Its name.
        vault: VaultName,
    },
    /// What is to be followed is too long ago.
    #[error(
        "changes are held from revision {oldest} on: read the keys anew, and follow them from the revision of that answer and one"
    )]
    Compacted {
        /// The first revision that can be followed from.
        oldest: Revision,
    },
    /// What keys held before was not noted then.
    #[error(
        "what keys held before is noted from revision {since} on, since nobody has asked for it earlier: follow from there, or without"
    )]
    PreviousNotNoted {
        /// The first revision for which it is.
        since: Revision,
    },
    /// Too many follow changes.
    #[error("{limit} follow changes on this node, ask another one")]
    TooManyWatchers {
        /// How many may.
        limit: u32,
    },
    /// There is no such lease.
    #[error("there is no lease {lease}: {LEASE_GONE}")]
    LeaseNotFound {
        /// Its number.
        lease: LeaseId,
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
    /// Nobody could be let in.
    #[error(
        "this node has no secret, so no other can join it with a ticket: give every member the same --secret-file"
    )]
    NoSecret,
    /// Too many backups are under way.
    #[error(
        "{limit} backups are being taken from this node: try again when one is done, or ask another node"
    )]
    TooManyBackups {
        /// How many may be.
        limit: u32,
    },
    /// Nobody could confirm that this node's state is as new as it was to be.
    #[error("{}", too_stale_text(*staleness_ms, *max_staleness_ms))]
    TooStale {
        /// How old it may be, in milliseconds; `None`: nobody has told since the node started, or its clocks do not.
        staleness_ms: Option<u64>,
        /// How old it might have been.
        max_staleness_ms: u64,
    },
    /// The node belongs to the cluster no more.
    #[error(
        "this node was removed from its cluster: ask another one. To have it back, stop it, and start it as a new member with an empty \
         data directory"
    )]
    Removed,
    /// The node has no such thing.
    #[error(
        "a node that keeps everything in memory on one machine (control = \"deterministic\") has no Raft, no snapshots and no backups, and \
         nobody else can lead"
    )]
    Unsupported,
    /// A member that would be no help.
    #[error("node {id} does not answer its leader: start it, and ask again")]
    MemberSilent {
        /// Its number.
        id: NodeId,
    },
    /// A member that is not far enough.
    #[error("node {id} lacks {lag} entries, at most {lag_max} are allowed: ask again when it has caught up")]
    MemberBehind {
        /// Its number.
        id: NodeId,
        /// How many entries it lacks.
        lag: u64,
        /// How many it may.
        lag_max: u64,
    },
    /// Voters that would not make a majority.
    #[error(
        "of the {of} members that would vote {answer} answer, and a majority is needed: start the others first"
    )]
    VotersSilent {
        /// How many answer.
        answer: u64,
        /// Of how many.
        of: u64,
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
    /// It is done as soon as it can be.
    WaitsForMajorities,
    /// Nothing goes on, but it may have been done.
    SeeStatus,
}

impl std::fmt::Display for TimeoutOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NothingWritten => "nothing was written",
            Self::GoesOn => "it goes on",
            Self::WaitsForMajorities => {
                "it is done as soon as a majority of those who voted before and of those who are to vote answer; the cluster's status says \
                 who does not"
            }
            Self::SeeStatus => "the cluster's status says what has come of it",
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
    /// A vault's name.
    #[error(
        "the vault's name `{}` is refused: 1 to {VAULT_NAME_BYTES_MAX} of A-Z, a-z, 0-9, _ and - are allowed",
        shortened(.0)
    )]
    VaultName(String),
    /// A command inside a vault that is none for a vault.
    #[error("inside a vault there are no vaults")]
    NestedVault,
    /// A time to live that no lease has.
    #[error("the lease's ttl_ms is {0}, {LEASE_TTL_MS_MIN} to {LEASE_TTL_MS_MAX} are allowed")]
    LeaseTtl(u64),
    /// A command with a lease that is none for one.
    #[error("only commands on keys are done with a lease, and with one of them")]
    NestedLease,
    /// Too many keys at once, or none.
    #[error("{0} keys at once, 1 to {KEYS_PER_COMMAND_MAX} are allowed")]
    KeyCount(u64),
    /// Too long a transaction.
    #[error("the transaction has {count} {what}, 0 to {TRANSACTION_OPERATIONS_MAX} are allowed")]
    TransactionLength {
        /// Of what.
        what: String,
        /// How many.
        count: u64,
    },
    /// A command that no message can carry.
    #[error("the command has {0} bytes, at most {COMMAND_BYTES_MAX} are allowed: send it in parts")]
    CommandTooLarge(u64),
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
    #[error("{}", unknown_member_text(*.0, .1))]
    UnknownMember(NodeId, String),
    /// A cluster without this node.
    #[error("node {0} is asked to found a cluster that it is no member of")]
    NotAMember(NodeId),
    /// Too many members, or none.
    #[error("{0} members, 1 to {PEERS_MAX} are allowed: list them as peers in node.toml")]
    MemberCount(u64),
    /// One more than there may be.
    #[error(
        "the cluster has {PEERS_MAX} members, which are all that it may have: remove those that are gone, with `aspen cluster remove`"
    )]
    ClusterFull,
    /// Two members with one key.
    #[error(
        "node {other} has the endpoint_id that is given for node {id}: each node has a data directory of its own"
    )]
    EndpointTaken {
        /// The new one.
        id: NodeId,
        /// The member.
        other: NodeId,
    },
    /// Nobody would vote, or too many would.
    #[error("{0} voters, 1 to {VOTERS_MAX} are allowed")]
    VoterCount(u64),
    /// A voter that is no member yet.
    #[error("node {0} is no member: add it as a learner first")]
    NotALearner(NodeId),
    /// A leader that cannot be elected.
    #[error("node {0} does not vote, so it cannot lead: promote it first")]
    NotAVoter(NodeId),
    /// openraft has a reason of its own.
    #[error("the change of the members is refused: {0}")]
    Membership(String),
    /// A body that is too long.
    #[error("the body has more than {HTTP_BODY_BYTES_MAX} bytes")]
    BodyTooLarge,
    /// A body or query that cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// A member that has nothing any more of what it was sent.
    #[error(
        "node {0} is a member under this key and has acknowledged entries, but asks as if it had none: what it had is lost, and others may \
         count on it. Remove node {0} from the cluster, and start it with an empty data directory and another key"
    )]
    LostItsLog(NodeId),
    /// A number that no node may have.
    #[error("the number of a node that joins is {0}, 1 to {JOIN_ID_MAX} are allowed")]
    JoinId(NodeId),
    /// An address that nobody can dial.
    #[error("a node that joins says that it is at {0}, where nobody can reach it")]
    NoAddress(SocketAddr),
    /// A bound on the age of a read.
    #[error("max_staleness_ms is {0}, 0 to {MAX_STALENESS_MS_MAX} are allowed")]
    MaxStaleness(u64),
}

/// As much of a text as fits into a message.
fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(2 * VAULT_NAME_BYTES_MAX as usize).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn held_text(first: u64, last: Option<u64>) -> String {
    last.map_or("no entry".to_owned(), |last| format!("entries {first} to {last}"))
}

fn unknown_member_text(id: NodeId, peers: &str) -> String {
    let known = if peers.is_empty() { "there are none" } else { peers };
    format!(
        "node {id} is not among the configured peers ({known}): name it as one with --peer, or give the new node's endpoint_id, raft and http"
    )
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

fn too_stale_text(staleness_ms: Option<u64>, max_staleness_ms: u64) -> String {
    let age = match staleness_ms {
        Some(ms) => format!("what this node has may be {ms} ms old"),
        None => "nobody says how old what this node has is".to_owned(),
    };
    format!(
        "{age}, at most {max_staleness_ms} ms are asked for, and no leader confirms anything newer: ask another node, or allow more"
    )
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
        check(
            BadRequest::MaxStaleness(86_400_001),
            "max_staleness_ms is 86400001, 0 to 86400000 are allowed",
        );
        check(
            ApiError::TooStale { staleness_ms: Some(5_210), max_staleness_ms: 1_000 },
            "what this node has may be 5210 ms old, at most 1000 ms are asked for, and no leader confirms anything newer: ask another node, \
             or allow more",
        );
        check(
            ApiError::TooStale { staleness_ms: None, max_staleness_ms: 0 },
            "nobody says how old what this node has is, at most 0 ms are asked for, and no leader confirms anything newer: ask another node, \
             or allow more",
        );
    }
}
