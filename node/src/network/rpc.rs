//! The messages between nodes, as an irpc service: what travels, not how.

use std::time::Duration;

use irpc::channel::{mpsc, oneshot};
use irpc::rpc_requests;
use serde::{Deserialize, Serialize};

use super::snapshot::{InstallSnapshot, SnapshotAnswer, SnapshotPart};
use crate::api::{ApiError, ConfirmedBy, WriteResult};
use crate::types::raft_types::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use crate::types::{EncodedCommand, LeaseId};

/// Names the protocol and its version to iroh. The version goes up when anything that travels reads otherwise: a variant that is
/// not the last one of its enum, a field more.
pub const ALPN: &[u8] = b"aspen/raft/7";

/// Raft's AppendEntries.
#[derive(Debug, Serialize, Deserialize)]
pub struct AppendEntries(pub AppendEntriesRequest);

/// AppendEntries requests one after the other, each answered in turn.
#[derive(Debug, Serialize, Deserialize)]
pub struct AppendStream;

/// The answer to one request of an [`AppendStream`], or why the node has none.
pub type StreamAppended = Result<StreamAppendResult, String>;

/// Raft's RequestVote.
#[derive(Debug, Serialize, Deserialize)]
pub struct RequestVote(pub VoteRequest);

/// Request to stand for election at once.
#[derive(Debug, Serialize, Deserialize)]
pub struct TransferLeader(pub TransferLeaderRequest);

/// Whether a vote would be granted.
#[derive(Debug, Serialize, Deserialize)]
pub struct PreVote(pub VoteRequest);

/// The index up to which a read has to have applied, from the leader that is still one.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadIndex {
    /// Whether its lease may tell it so; otherwise it asks a quorum.
    pub may_use_lease: bool,
}

/// The answer to a [`ReadIndex`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// What was committed.
    pub index: u64,
    /// How it knows that it leads.
    pub by: ConfirmedBy,
}

/// Has the leader keep a lease alive; the answer is its time to live.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeepLease(pub LeaseId);

/// A client's command, for the leader.
#[derive(Debug, Serialize, Deserialize)]
pub struct Forward(pub EncodedCommand);

/// Requests of one node to another. The order of the variants is part of the protocol.
#[rpc_requests(message = RaftMessage)]
#[derive(Debug, Serialize, Deserialize)]
pub enum RaftProtocol {
    /// See [`AppendEntries`].
    #[rpc(tx = oneshot::Sender<Result<AppendEntriesResponse, String>>)]
    AppendEntries(AppendEntries),
    /// See [`RequestVote`].
    #[rpc(tx = oneshot::Sender<Result<VoteResponse, String>>)]
    RequestVote(RequestVote),
    /// See [`PreVote`].
    #[rpc(tx = oneshot::Sender<Result<VoteResponse, String>>)]
    PreVote(PreVote),
    /// See [`ReadIndex`].
    #[rpc(tx = oneshot::Sender<Result<Confirmed, ApiError>>)]
    ReadIndex(ReadIndex),
    /// See [`Forward`].
    #[rpc(tx = oneshot::Sender<Result<WriteResult, ApiError>>)]
    Forward(Forward),
    /// See [`InstallSnapshot`].
    #[rpc(rx = mpsc::Receiver<SnapshotPart>, tx = mpsc::Sender<SnapshotAnswer>)]
    InstallSnapshot(InstallSnapshot),
    /// See [`AppendStream`].
    #[rpc(rx = mpsc::Receiver<AppendEntriesRequest>, tx = mpsc::Sender<StreamAppended>)]
    AppendStream(AppendStream),
    /// See [`TransferLeader`].
    #[rpc(tx = oneshot::Sender<Result<TransferLeaderResponse, String>>)]
    TransferLeader(TransferLeader),
    /// See [`KeepLease`].
    #[rpc(tx = oneshot::Sender<Result<Duration, ApiError>>)]
    KeepLease(KeepLease),
}

const _: () = assert!(irpc::rpc::MAX_MESSAGE_SIZE == crate::limits::RPC_MESSAGE_BYTES_MAX as u64);
