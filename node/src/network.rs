//! How Raft's messages travel: the trait [`Transport`], and openraft's network on top of it.
//!
//! A transport delivers one request to one peer and brings its answer back within a time limit. It knows nothing of
//! elections; what it cannot deliver is an error that says whether the peer may have seen the request.

pub mod about;
pub mod incarnation;
pub mod iroh;
pub mod join;
pub mod lookups;
pub mod memory;
pub mod refusals;
pub mod rpc;
pub mod secret;
pub mod snapshot;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use serde::{Deserialize, Serialize};

pub use self::iroh::{AddressBook, AddressSource};
use self::rpc::{Confirmed, KeepLease, ReadIndex, StreamAppended};
use self::snapshot::{InstallSnapshot, SnapshotStart};
use crate::api::{ApiError, WriteResult};
use crate::limits::SNAPSHOT_STEP_TIMEOUT;
use crate::storage::snapshot::SnapshotFile;
use crate::types::raft_types::{
    AppendEntriesRequest, AppendEntriesResponse, Snapshot, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, Vote, VoteRequest, VoteResponse,
};
use crate::types::{EncodedCommand, NodeId, NodeInfo, TypeConfig};

/// A member to talk to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its number.
    pub id: NodeId,
    /// Who and where it is.
    pub info: NodeInfo,
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// There is no connection, so the peer has not seen the request.
    #[error("node {peer} is unreachable: {reason}")]
    Unreachable {
        /// Whom the request was for.
        peer: NodeId,
        /// Why.
        reason: String,
    },
    /// The request was sent; the peer may have acted on it.
    #[error("the connection to node {peer} was lost: {reason}")]
    Lost {
        /// Whom the request was for.
        peer: NodeId,
        /// Why.
        reason: String,
    },
    /// No answer in time; the peer may have acted on it.
    #[error("node {peer} did not answer within {within_ms} ms")]
    Timeout {
        /// Whom the request was for.
        peer: NodeId,
        /// The bound, in milliseconds.
        within_ms: u64,
    },
    /// The peer has stopped, or could not serve the request.
    #[error("node {peer} refused the request: {reason}")]
    Refused {
        /// Whom the request was for.
        peer: NodeId,
        /// Why.
        reason: String,
    },
    /// The snapshot of this node is no longer what it was; the peer has not seen all of it.
    #[error("node {peer} cannot be sent this node's snapshot, which is damaged")]
    Damaged {
        /// Whom it was for.
        peer: NodeId,
    },
}

impl TransportError {
    /// One word for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Lost { .. } => "lost",
            Self::Timeout { .. } => "timeout",
            Self::Refused { .. } => "refused",
            Self::Damaged { .. } => "damaged",
        }
    }
}

/// What comes back from a peer.
pub type Delivery<'a, T> = BoxFuture<'a, Result<T, TransportError>>;
/// What comes back for one AppendEntries of a stream.
pub type Appended = Result<StreamAppendResult, TransportError>;

/// A time in milliseconds, as errors have it.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Carries requests to peers. Every call ends within its time limit.
pub trait Transport: Debug + Send + Sync + 'static {
    /// Raft's AppendEntries (Raft thesis 3.5), one after the other without waiting for the answers, which come in the same
    /// order. `within` is the time of one answer; entries may take longer. The answers end after an error.
    fn append_stream<'a>(
        &'a self,
        to: &'a Peer,
        requests: BoxStream<'static, AppendEntriesRequest>,
        within: Duration,
    ) -> Delivery<'a, BoxStream<'a, Appended>>;

    /// A single AppendEntries: a heartbeat, which no entries delay.
    fn append_entries<'a>(
        &'a self,
        to: &'a Peer,
        request: AppendEntriesRequest,
        within: Duration,
    ) -> Delivery<'a, AppendEntriesResponse>;

    /// Raft's RequestVote (Raft thesis 3.4).
    fn vote<'a>(&'a self, to: &'a Peer, request: VoteRequest, within: Duration)
    -> Delivery<'a, VoteResponse>;

    /// Asks whether a vote would be granted (Raft thesis 9.6).
    fn pre_vote<'a>(
        &'a self,
        to: &'a Peer,
        request: VoteRequest,
        within: Duration,
    ) -> Delivery<'a, VoteResponse>;

    /// Asks a voter to stand for election at once (Raft thesis 3.10).
    fn transfer_leader<'a>(
        &'a self,
        to: &'a Peer,
        request: TransferLeaderRequest,
        within: Duration,
    ) -> Delivery<'a, TransferLeaderResponse>;

    /// Raft's InstallSnapshot (Raft thesis 5.1). It takes as long as it makes progress.
    fn install_snapshot<'a>(
        &'a self,
        to: &'a Peer,
        vote: Vote,
        snapshot: SnapshotFile,
    ) -> Delivery<'a, SnapshotResponse>;

    /// Asks the leader for an index up to which it is still the leader (Raft thesis 6.4).
    fn read_index<'a>(
        &'a self,
        to: &'a Peer,
        request: ReadIndex,
        within: Duration,
    ) -> Delivery<'a, Result<Confirmed, ApiError>>;

    /// Has the leader keep a lease alive; its time to live.
    fn keep_lease<'a>(
        &'a self,
        to: &'a Peer,
        request: KeepLease,
        within: Duration,
    ) -> Delivery<'a, Result<Duration, ApiError>>;

    /// Hands a client's command to the leader.
    fn forward<'a>(
        &'a self,
        to: &'a Peer,
        command: EncodedCommand,
        within: Duration,
    ) -> Delivery<'a, Result<WriteResult, ApiError>>;
}

/// What a node does with its peers' requests.
pub trait RaftService: Send + Sync + 'static {
    /// Answers a stream of AppendEntries, one by one; an error says why the node cannot, and is the last answer.
    fn append_stream(
        &self,
        requests: BoxStream<'static, AppendEntriesRequest>,
    ) -> BoxStream<'static, StreamAppended>;

    /// Answers AppendEntries; an error says why the node cannot.
    fn append_entries(
        &self,
        request: AppendEntriesRequest,
    ) -> BoxFuture<'_, Result<AppendEntriesResponse, String>>;

    /// Answers RequestVote; an error says why the node cannot.
    fn vote(&self, request: VoteRequest) -> BoxFuture<'_, Result<VoteResponse, String>>;

    /// Answers a pre-vote; an error says why the node cannot.
    fn pre_vote(&self, request: VoteRequest) -> BoxFuture<'_, Result<VoteResponse, String>>;

    /// Stands for election, if this node has all that the leader had; an error says why it cannot.
    fn transfer_leader(
        &self,
        request: TransferLeaderRequest,
    ) -> BoxFuture<'_, Result<TransferLeaderResponse, String>>;

    /// Decides about a snapshot that this node is offered.
    ///
    /// # Errors
    /// Why it cannot take it.
    fn begin_snapshot(&self, request: InstallSnapshot) -> Result<SnapshotStart, String>;

    /// Replaces the state by a snapshot; an error says why the node cannot.
    fn install_snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotFile,
    ) -> BoxFuture<'_, Result<SnapshotResponse, String>>;

    /// Makes sure that this node leads, and says up to where a read must have applied.
    fn read_index(&self, request: ReadIndex) -> BoxFuture<'_, Result<Confirmed, ApiError>>;

    /// Keeps a lease alive, if this node leads.
    fn keep_lease(&self, request: KeepLease) -> BoxFuture<'_, Result<Duration, ApiError>>;

    /// Proposes a command that another node's client has sent; never forwards it again.
    fn forwarded(&self, command: EncodedCommand) -> BoxFuture<'_, Result<WriteResult, ApiError>>;
}

/// Makes openraft's connections to peers, all over one transport.
#[derive(Debug, Clone)]
pub struct PeerNetworkFactory {
    id: NodeId,
    transport: Arc<dyn Transport>,
}

impl PeerNetworkFactory {
    /// The network of node `id`.
    pub fn new(id: NodeId, transport: Arc<dyn Transport>) -> Self {
        Self { id, transport }
    }
}

impl RaftNetworkFactory<TypeConfig> for PeerNetworkFactory {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: NodeId, node: &NodeInfo) -> PeerNetwork {
        PeerNetwork {
            id: self.id,
            peer: Peer { id: target, info: node.clone() },
            transport: self.transport.clone(),
            is_for_heartbeats: false,
        }
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &NodeInfo) -> PeerNetwork {
        PeerNetwork { is_for_heartbeats: true, ..self.new_client(target, node).await }
    }
}

/// openraft's way to one peer.
#[derive(Debug)]
pub struct PeerNetwork {
    id: NodeId,
    peer: Peer,
    transport: Arc<dyn Transport>,
    /// One by one, on a connection of their own: entries do not delay them.
    is_for_heartbeats: bool,
}

impl PeerNetwork {
    fn rpc_error(&self, error: TransportError, action: RPCTypes, within: Duration) -> RPCError<TypeConfig> {
        match error {
            TransportError::Timeout { .. } => {
                RPCError::Timeout(Timeout { action, id: self.id, target: self.peer.id, timeout: within })
            }
            // openraft asks its network for a back-off before it tries an unreachable peer again.
            TransportError::Unreachable { .. }
            | TransportError::Refused { .. }
            | TransportError::Damaged { .. } => RPCError::Unreachable(Unreachable::new(&error)),
            TransportError::Lost { .. } => RPCError::Network(NetworkError::new(&error)),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for PeerNetwork {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse, RPCError<TypeConfig>> {
        let within = option.soft_ttl();
        let answer = self.transport.append_entries(&self.peer, rpc, within).await;
        answer.map_err(|error| self.rpc_error(error, RPCTypes::AppendEntries, within))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest> + Send + Unpin + 'static,
    {
        if self.is_for_heartbeats {
            return stream_append_sequential(self, input, option);
        }
        async move {
            let within = option.soft_ttl();
            let this: &'s Self = self;
            let failed = move |error| this.rpc_error(error, RPCTypes::AppendEntries, within);
            let answers = this.transport.append_stream(&this.peer, input.boxed(), within).await;
            let answers = answers.map_err(&failed)?;
            Ok(answers.map(move |answer| answer.map_err(&failed)).boxed())
        }
        .boxed()
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RPCError<TypeConfig>> {
        let within = option.soft_ttl();
        let answer = self.transport.vote(&self.peer, rpc, within).await;
        answer.map_err(|error| self.rpc_error(error, RPCTypes::Vote, within))
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RPCError<TypeConfig>> {
        let within = option.soft_ttl();
        let answer = self.transport.pre_vote(&self.peer, rpc, within).await;
        answer.map_err(|error| self.rpc_error(error, RPCTypes::Vote, within))
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse, RPCError<TypeConfig>> {
        let within = option.soft_ttl();
        let answer = self.transport.transfer_leader(&self.peer, req, within).await;
        answer.map_err(|error| self.rpc_error(error, RPCTypes::TransferLeader, within))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse, StreamingError<TypeConfig>> {
        if snapshot.snapshot.damage().is_some() {
            // Another one is being made, and openraft asks for that in a while.
            let error = TransportError::Damaged { peer: self.peer.id };
            return Err(self.rpc_error(error, RPCTypes::InstallSnapshot, SNAPSHOT_STEP_TIMEOUT).into());
        }
        // openraft's time limit is one for a message: a snapshot may take as long as it makes progress.
        let answer = self.transport.install_snapshot(&self.peer, vote, snapshot.snapshot);
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            answer = answer => answer.map_err(|error| {
                tracing::warn!(%error, "a snapshot did not get through");
                self.rpc_error(error, RPCTypes::InstallSnapshot, SNAPSHOT_STEP_TIMEOUT).into()
            }),
        }
    }
}
