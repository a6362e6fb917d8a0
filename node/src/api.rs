//! What a node can be asked: the traits [`ClusterController`], [`KeyValueStore`] and [`RaftObserver`], their
//! requests, results and errors. It knows neither Raft nor HTTP.

mod backup;
mod bounds;
mod errors;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

pub use self::backup::{StateChunks, StateCopy};
pub use self::bounds::{
    check_command, check_key, check_limit, check_max_staleness, check_range, check_vault,
};
pub use self::errors::{ApiError, BadRequest, LEASE_GONE, TimeoutOutcome};
use crate::types::{
    Command, Interest, Key, KeyRange, Label, LeaseId, NodeId, NodeInfo, Outcome, Record, Revised, Revision,
    VaultName,
};

/// An answer that comes later.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, ApiError>>;

/// Membership of the cluster.
pub trait ClusterController: Send + Sync {
    /// Makes a new cluster of `members`, which includes this node.
    ///
    /// # Errors
    /// [`ApiError::AlreadyInitialized`], or [`ApiError::BadRequest`] where the members make no cluster.
    fn init(&self, members: BTreeMap<NodeId, NodeInfo>) -> Answer<'_, ()>;

    /// Lets a node learn, which is then sent all that there is. Asked again, it does nothing.
    ///
    /// # Errors
    /// [`ApiError::NotLeader`], [`ApiError::MemberExists`], [`ApiError::ChangeInProgress`], [`ApiError::BadRequest`].
    fn add_learner(&self, id: NodeId, info: NodeInfo) -> Answer<'_, ()>;

    /// Makes exactly these members vote. The voters that are not among them become learners if `retain` is set, otherwise they
    /// leave the cluster.
    ///
    /// # Errors
    /// As [`Self::add_learner`].
    fn change_membership(&self, voters: BTreeSet<NodeId>, retain: bool, force: bool) -> Answer<'_, ()>;

    /// Makes one learner vote, too.
    ///
    /// # Errors
    /// As [`Self::add_learner`].
    fn promote_learner(&self, id: NodeId, force: bool) -> Answer<'_, ()>;

    /// Takes a member out of the cluster.
    ///
    /// # Errors
    /// As [`Self::add_learner`].
    fn remove_member(&self, id: NodeId) -> Answer<'_, ()>;

    /// Hands leadership to a voter, and returns when it leads.
    ///
    /// # Errors
    /// As [`Self::add_learner`]; [`ApiError::Timeout`] where the voter could not be elected.
    fn transfer_leader(&self, to: NodeId) -> Answer<'_, ()>;

    /// What this node knows of the cluster.
    fn status(&self) -> ClusterStatus;

    /// Where this node stands in Raft: term, vote, log and apply positions.
    ///
    /// # Errors
    /// [`ApiError::Unsupported`] where there is no Raft.
    fn get_metrics(&self) -> Result<RaftState, ApiError>;

    /// Makes a snapshot of this node's state, unless the last one is as new as the state, and returns when there is one.
    ///
    /// # Errors
    /// [`ApiError::Timeout`] where it takes longer; it goes on. [`ApiError::SnapshotTooLarge`].
    fn trigger_snapshot(&self) -> Answer<'_, SnapshotStatus>;

    /// A copy of this node's state that is as new as `consistency` wants it, to be read while writes go on.
    ///
    /// # Errors
    /// As [`KeyValueStore::read`] and [`Self::trigger_snapshot`]; [`ApiError::TooManyBackups`].
    fn copy_state(&self, consistency: Consistency) -> Answer<'_, StateCopy>;
}

/// The replicated keys.
pub trait KeyValueStore: Send + Sync {
    /// The record under a key.
    ///
    /// # Errors
    /// A linearizable read that no quorum confirmed is an error, never stale data. One whose age is bounded, and nobody could confirm, is
    /// [`ApiError::TooStale`].
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

    /// The vaults that there are.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn vaults(&self, consistency: Consistency) -> Answer<'_, VaultList>;

    /// Has a lease live for its whole time from when this was asked; that time, in milliseconds.
    ///
    /// # Errors
    /// [`ApiError::LeaseNotFound`], and those of a linearizable read.
    fn keep_lease(&self, lease: LeaseId) -> Answer<'_, u64>;

    /// The leases that there are.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn leases(&self, consistency: Consistency) -> Answer<'_, LeaseList>;

    /// Changes as they happen: every one once, in their order. An error is its end.
    ///
    /// # Errors
    /// Those of [`Self::read`], and [`ApiError::Compacted`], [`ApiError::PreviousNotNoted`], [`ApiError::TooManyWatchers`].
    fn watch(&self, request: WatchRequest) -> Answer<'_, WatchStream>;
}

/// What an observer that judges the cluster needs to see of one node.
pub trait RaftObserver: Send + Sync {
    /// Terms and chained hashes of the log entries `from..=to`.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] for a range that is empty, too long or beyond the log.
    fn log_digest(&self, from: u64, to: u64) -> Answer<'_, LogDigest>;

    /// What it is busy with, and what it has room for.
    fn measures(&self) -> Measures;

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
    /// The same, by the leader's word alone for as long as it has a lease; otherwise by that of a quorum.
    Lease,
    /// What this node has applied, however old.
    Stale,
    /// What this node has applied, if that has every write that was acknowledged longer than this before the read began. At
    /// most [`MAX_STALENESS_MS_MAX`](crate::limits::MAX_STALENESS_MS_MAX).
    // In JSON it is `stale` with a bound of its own beside it.
    #[serde(skip)]
    Bounded(Duration),
}

impl Consistency {
    /// The word of the HTTP interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Lease => "lease",
            Self::Stale | Self::Bounded(_) => "stale",
        }
    }
}

/// Who says that a read is not too old.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfirmedBy {
    /// Nobody: it may be stale.
    #[default]
    Nobody,
    /// The leader, whom nobody can have replaced yet.
    Lease,
    /// A quorum, which still followed the leader when it was asked; of a read whose age is bounded, that was that long ago.
    Quorum,
}

impl ConfirmedBy {
    /// The word of the HTTP interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Lease => "lease",
            Self::Quorum => "quorum",
        }
    }
}

/// Which record to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRequest {
    /// Of this vault; `None`: of none.
    pub vault: Option<VaultName>,
    /// The key.
    pub key: Key,
    /// How fresh.
    pub consistency: Consistency,
}

/// What a read saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadResult {
    /// Who says that it is not too old.
    pub confirmed_by: ConfirmedBy,
    /// Of a [`Consistency::Bounded`] read: every write that was acknowledged so many milliseconds before it began is seen.
    pub staleness_ms: Option<u64>,
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

/// Which records to scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanRequest {
    /// Of this vault; `None`: of none.
    pub vault: Option<VaultName>,
    /// Which keys.
    pub range: KeyRange,
    /// Only keys after this one: where an earlier page ended.
    pub after: Option<Key>,
    /// Entries of the page, 1 to [`SCAN_LIMIT_MAX`](crate::limits::SCAN_LIMIT_MAX).
    pub limit: u32,
    /// What is wanted of them.
    pub detail: ScanDetail,
    /// How fresh.
    pub consistency: Consistency,
}

/// What a scan answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScanDetail {
    /// Keys with their records.
    #[default]
    Records,
    /// Keys with their records, the values empty.
    Keys,
    /// Only how many there are, whatever the limit.
    Count,
}

/// A page of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanResult {
    /// Who says that it is not too old.
    pub confirmed_by: ConfirmedBy,
    /// As that of a [`ReadResult`].
    pub staleness_ms: Option<u64>,
    /// The last entry applied when it was read.
    pub revision: Revision,
    /// The records, in the order of their keys.
    pub entries: Vec<(Key, Record)>,
    /// Whether more follow.
    pub is_truncated: bool,
    /// How many keys there are, where that was asked.
    pub count: Option<u64>,
}

/// The vaults of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultList {
    /// The last entry applied when they were read.
    pub revision: Revision,
    /// Their names, in order, and the entries that made them.
    pub vaults: Vec<(VaultName, Revision)>,
}

/// The leases of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseList {
    /// The last entry applied when they were read.
    pub revision: Revision,
    /// By number.
    pub leases: Vec<LeaseInfo>,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseInfo {
    /// Its number.
    pub lease: LeaseId,
    /// How long it lives unless it is kept alive, in milliseconds.
    pub ttl_ms: u64,
    /// How many keys end with it.
    pub key_count: u64,
    /// How long it lives yet, in milliseconds, on the leader; others do not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
}

/// Which changes to follow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchRequest {
    /// Of which keys.
    pub interest: Interest,
    /// From this revision on; `None`: those that happen from now on.
    pub from: Option<Revision>,
    /// Whether what keys held before is told, too.
    pub with_previous: bool,
    /// How fresh its beginning is. A stale watch goes on where no leader is heard of.
    pub consistency: Consistency,
    /// Whether it ends, with a [`WatchEvent::Progress`], as soon as it has told what there is.
    pub ends: bool,
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// It follows what comes after this revision.
    Begun {
        /// The last revision that is not followed.
        revision: Revision,
    },
    /// All that one entry has changed of what is followed.
    Changed(Revised),
    /// Nothing else has changed up to here of what is followed.
    Progress {
        /// The last revision that was looked at.
        revision: Revision,
    },
}

/// What happens, until it ends.
pub type WatchStream = BoxStream<'static, Result<WatchEvent, ApiError>>;

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
    /// On the leader, of the others: `healthy`, `slow`, `unresponsive`, `crashed` or `partitioned`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// In which region it is, by its own word; absent: it has not said, or was not heard since this node started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Label>,
    /// In which zone, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Label>,
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
    /// Who leads, as far as this node knows; `None`, too, where that one has not been heard of for seconds.
    pub leader: Option<LeaderHint>,
    /// Whether the node is part of a cluster.
    pub is_initialized: bool,
    /// The members, by number.
    pub members: Vec<Member>,
    /// Whether they are being changed. Until that is done, a majority of those who voted before has to agree, too: who takes one of
    /// them away now may take the cluster's majority.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_changing: bool,
    /// Whether this node was removed, and has heard of it: the rest is what it knew last.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_removed: bool,
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

/// Figures of a node that are nowhere else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measures {
    /// Client operations under way.
    pub operations_in_flight: u64,
    /// Room on the disk of its data directory; 0 where the file system does not say.
    pub disk_available_bytes: u64,
    /// Room below which it refuses writes.
    pub disk_reserve_bytes: u64,
    /// Watches under way.
    pub watchers: u64,
    /// Changes that are held for watches.
    pub watch_history_bytes: u64,
    /// On the leader: the last entry that each other member is known to have.
    pub replicated: BTreeMap<NodeId, u64>,
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
