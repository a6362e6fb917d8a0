//! The transport over iroh: one QUIC endpoint. Peers are known by public key and dialled at the addresses of the membership. It has
//! no relay and asks nobody else unless the settings switch that on, so that a closed network just works and nothing leaves it.

mod about;
mod addresses;
mod admission;
mod append;
mod client;
mod gate;
mod greeting;
mod join;
mod lookups;
mod pool;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use iroh::endpoint::{
    AckFrequencyConfig, Connection, PortmapperConfig, QuicTransportConfig, VarInt, presets,
};
use iroh::protocol::{AcceptError, ProtocolHandler, Router};
use iroh::{Endpoint, SecretKey};
use iroh_gossip::net::Gossip;
use irpc::WithChannels;
use irpc_iroh::read_request;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use self::about::AboutHandler;
pub use self::about::AskError;
pub use self::addresses::{AddressBook, AddressSource};
pub use self::admission::Admission;
use self::client::{ALPN as CLIENT_ALPN, ClientHandler};
pub use self::client::{ClientDoor, ClientEndpoint, ClientStream, OpenError, Standing, StreamFate};
pub use self::gate::GossipGate;
pub use self::join::JoinError;
use self::join::JoinHandler;
pub use self::pool::RaftConnectionPool;
use self::pool::{Class, OnTimeout};
use super::about::{ALPN as ABOUT_ALPN, About};
use super::join::{ALPN as JOIN_ALPN, JoinService, Welcome, Wish};
use super::lookups::{Reach, Relays};
use super::refusals::Refusal;
use super::rpc::{
    ALPN, AppendEntries, Confirmed, Forward, KeepLease, PreVote, RaftMessage, RaftProtocol, ReadIndex,
    RequestVote, TransferLeader,
};
use super::secret::ClusterSecrets;
use super::snapshot::{self, InstallSnapshot};
use super::{Appended, Delivery, Peer, RaftService, Transport, TransportError};
use crate::api::{ApiError, WriteResult};
use crate::causes::with_causes;
use crate::limits::{
    ENDPOINT_CLOSE_TIMEOUT, PEER_ACK_DELAY, PEER_ACKS_AHEAD, PEER_IDLE_TIMEOUT, PEER_INITIAL_RTT,
    PEER_KEEP_ALIVE, PEER_ONE_WAY_STREAMS_MAX, PEER_REQUESTS_MAX, PEER_STREAMS_MAX, PEER_WINDOW_BYTES,
    STRANGER_WINDOW_BYTES,
};
use crate::metrics::NetworkMetrics;
use crate::storage::snapshot::SnapshotFile;
use crate::types::raft_types::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, Vote, VoteRequest, VoteResponse,
};
use crate::types::{EncodedCommand, EndpointKey, NodeInfo};

/// Names the protocol of gossip, with the version of what we say in it, to iroh.
const GOSSIP_ALPN: &[u8] = b"aspen/gossip/1";

/// Application error codes with which a connection is closed.
mod close_code {
    /// The other's key belongs to no member any more.
    pub(super) const REMOVED: u32 = 1;
    /// The node is stopping.
    pub(super) const STOPPING: u32 = 2;
    /// The connection has not worked as it should; the peer dials again.
    pub(super) const GIVEN_UP: u32 = 3;
    /// All is said.
    pub(super) const DONE: u32 = 4;
    /// Too many ask at once.
    pub(super) const BUSY: u32 = 5;
    /// The node could not tell one client from another.
    pub(super) const NOTHING_TO_SHOW: u32 = 6;
    /// The other's key belongs to no member: nothing of what it has sent was read.
    pub(super) const NOT_A_MEMBER: u32 = 7;
    /// The other does not remember what was seen of it, which is the reason that is given: nothing but its greeting was read.
    pub(super) const PUT_BACK: u32 = 8;
    /// The client has shown no token: nothing of what it has asked was done.
    pub(super) const NOTHING_SHOWN: u32 = 9;
}

/// Why the endpoint cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The address is taken or not ours.
    #[error("cannot listen on UDP {address}, which is raft_listen: {reason}. Free it, or take another one")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// A client has no socket.
    #[error("nodes cannot be asked over QUIC, there is no UDP socket: {0}")]
    Client(String),
    /// Multicast DNS has no socket.
    #[error(
        "cannot take part in multicast DNS: {reason}. Take mdns out of the settings, or let the node use UDP port 5353"
    )]
    Mdns {
        /// Why.
        reason: String,
    },
}

/// The public key of a secret key.
pub fn endpoint_id(secret: &[u8; 32]) -> EndpointKey {
    EndpointKey(*SecretKey::from_bytes(secret).public().as_bytes())
}

/// What a lock guards.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this lock")
}

/// How connections behave.
fn transport_config() -> Result<QuicTransportConfig, String> {
    let idle = PEER_IDLE_TIMEOUT.try_into().map_err(|_| "bad idle time-out".to_owned())?;
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(PEER_ACKS_AHEAD)).max_ack_delay(Some(PEER_ACK_DELAY));
    Ok(QuicTransportConfig::builder()
        .ack_frequency_config(Some(acks))
        .keep_alive_interval(PEER_KEEP_ALIVE)
        .default_path_keep_alive_interval(PEER_KEEP_ALIVE)
        .default_path_max_idle_timeout(PEER_IDLE_TIMEOUT)
        .max_idle_timeout(Some(idle))
        .initial_rtt(PEER_INITIAL_RTT)
        .receive_window(VarInt::from_u32(STRANGER_WINDOW_BYTES))
        // noq 1.4 makes every datagram of a batch as small as its first one, and panics when it then writes a control frame that
        // has no room there: a node that was just restarted under load died of it.
        .enable_segmentation_offload(false)
        .max_concurrent_uni_streams(VarInt::from_u32(PEER_ONE_WAY_STREAMS_MAX))
        .build())
}

/// The node's endpoint.
#[derive(Debug, Clone)]
pub struct RaftEndpoint {
    endpoint: Endpoint,
    /// Where the peers are.
    book: AddressBook,
    /// Who may speak to it.
    admission: Arc<Admission>,
    gate: GossipGate,
    has_relays: bool,
    /// Where it was bound, and where connections are driven.
    runtime: Handle,
}

impl RaftEndpoint {
    /// Binds the endpoint of the node with this secret key to a UDP address. It dials peers where the book has them, too, and wherever
    /// else it reaches.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(
        secret: [u8; 32],
        address: SocketAddr,
        book: AddressBook,
        admission: Arc<Admission>,
        reach: Reach,
    ) -> Result<Self, EndpointError> {
        let failed = |reason: String| EndpointError::Bind { address, reason };
        let gate = GossipGate::new(admission.clone());
        let secret = SecretKey::from_bytes(&secret);
        let id = secret.public();
        let builder = Endpoint::builder(presets::Minimal)
            .hooks(gate.clone())
            .transport_config(transport_config().map_err(failed)?)
            .secret_key(secret)
            .address_lookup(book.lookup())
            // irpc-iroh enables iroh's default features, so the port mapper is there and on unless it is switched off.
            .portmapper_config(PortmapperConfig::Disabled)
            .clear_ip_transports()
            .bind_addr(address)
            .map_err(|error| failed(error.to_string()))?;
        let bound = lookups::equip(builder, &reach, id)?.bind().await;
        let endpoint = bound.map_err(|error| failed(with_causes(&error)))?;
        let has_relays = reach.lookups.relays != Relays::Disabled;
        Ok(Self { endpoint, book, admission, gate, has_relays, runtime: Handle::current() })
    }

    /// The transport to other nodes, which notes how they answer.
    pub fn transport(&self, metrics: NetworkMetrics) -> IrohTransport {
        let (endpoint, book) = (self.endpoint.clone(), self.book.clone());
        let (admission, runtime) = (self.admission.clone(), self.runtime.clone());
        IrohTransport { pool: RaftConnectionPool::new(endpoint, book, admission, metrics, runtime) }
    }

    /// Asks one node of a cluster for something that it grants to whoever knows one of its secrets; `info` is who and where this one is.
    ///
    /// # Errors
    /// Why it did not.
    pub async fn ask(
        &self,
        secrets: &ClusterSecrets,
        at: &NodeInfo,
        info: &NodeInfo,
        wish: Wish,
    ) -> Result<Welcome, JoinError> {
        for secret in secrets.iter() {
            match join::ask(&self.endpoint, &self.book, secret, at, info, wish).await {
                // It may know the other one.
                Err(JoinError::WrongSecret) => {}
                answered => return answered,
            }
        }
        Err(JoinError::WrongSecret)
    }

    /// Asks a member what it says of itself.
    ///
    /// # Errors
    /// Why it did not.
    pub async fn ask_about(&self, of: &NodeInfo) -> Result<About, AskError> {
        about::ask(&self.endpoint, &self.book, &self.admission, of).await
    }

    /// Who may speak to it.
    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// Who is gossiped with.
    pub fn gate(&self) -> &GossipGate {
        &self.gate
    }

    /// Closes it, where nothing was served yet.
    pub async fn close(&self) {
        self.endpoint.close().await;
    }

    /// Whether it can be reached where nobody can send it a packet.
    pub fn has_relays(&self) -> bool {
        self.has_relays
    }

    /// Where its peers are.
    pub fn book(&self) -> &AddressBook {
        &self.book
    }

    /// Begins to gossip with whoever is let in.
    pub fn gossip(&self) -> Gossip {
        Gossip::builder().alpn(GOSSIP_ALPN).spawn(self.endpoint.clone())
    }

    /// Answers requests from now on: Raft's, those of gossip and what this node says of itself from admitted peers only, and those to
    /// join from whoever knows the secret. The streams of clients are handed on, if there is somewhere.
    pub fn serve(
        &self,
        service: Arc<dyn RaftService>,
        about: &About,
        newcomers: Option<Newcomers>,
        clients: Option<ClientDoor>,
    ) -> RaftServer {
        let admission = self.admission.clone();
        let router = Router::builder(self.endpoint.clone());
        let router = router.accept(ALPN, RaftHandler { service, admission: admission.clone() });
        let router = router.accept(ABOUT_ALPN, AboutHandler::new(about, admission.clone()));
        let mut router =
            router.accept(CLIENT_ALPN, ClientHandler::new(clients, admission.refusals().clone()));
        if let Some(Newcomers { secrets, service, gossip }) = newcomers {
            let own_key = EndpointKey(*self.endpoint.id().as_bytes());
            router = router.accept(JOIN_ALPN, JoinHandler::new(service, secrets, own_key, admission.clone()));
            if let Some(gossip) = gossip {
                router = router.accept(GOSSIP_ALPN, GossipHandler { gossip, admission });
            }
        }
        RaftServer { router: router.spawn() }
    }
}

/// What a node serves besides Raft if it knows the secret of its cluster.
pub struct Newcomers {
    /// The secrets, as they change.
    pub secrets: watch::Receiver<ClusterSecrets>,
    /// Lets nodes in.
    pub service: Arc<dyn JoinService>,
    /// Tells members where the others are.
    pub gossip: Option<Gossip>,
}

impl Debug for Newcomers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Newcomers").field("gossip", &self.gossip).finish_non_exhaustive()
    }
}

/// The running server side. It stops with [`Self::stop`].
#[derive(Debug)]
pub struct RaftServer {
    router: Router,
}

impl RaftServer {
    /// Stops accepting, ends what is under way and closes the endpoint.
    pub async fn stop(self) {
        // QUIC keeps a closed connection for three probe time-outs (RFC 9000, 10.2), and a process that was paused takes the
        // pause for a round trip: its connections would be kept longer than a stop may take. The peers have been told.
        match tokio::time::timeout(ENDPOINT_CLOSE_TIMEOUT, self.router.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the RPC server did not stop cleanly"),
            Err(_) => tracing::info!("closed connections are not waited for"),
        }
    }
}

/// Sends requests over pooled connections.
#[derive(Debug)]
pub struct IrohTransport {
    pool: RaftConnectionPool,
}

impl Transport for IrohTransport {
    fn append_stream<'a>(
        &'a self,
        to: &'a Peer,
        requests: BoxStream<'static, AppendEntriesRequest>,
        within: Duration,
    ) -> Delivery<'a, BoxStream<'a, Appended>> {
        self.pool.append(to, requests, within).boxed()
    }

    fn append_entries<'a>(
        &'a self,
        to: &'a Peer,
        request: AppendEntriesRequest,
        within: Duration,
    ) -> Delivery<'a, AppendEntriesResponse> {
        async move {
            let answer =
                self.pool.rpc(Class::Heartbeat, to, AppendEntries(request), within, OnTimeout::Drop).await?;
            self.answered(Class::Heartbeat, to, answer)
        }
        .boxed()
    }

    fn vote<'a>(
        &'a self,
        to: &'a Peer,
        request: VoteRequest,
        within: Duration,
    ) -> Delivery<'a, VoteResponse> {
        async move {
            let answer =
                self.pool.rpc(Class::Raft, to, RequestVote(request), within, OnTimeout::Drop).await?;
            self.answered(Class::Raft, to, answer)
        }
        .boxed()
    }

    fn pre_vote<'a>(
        &'a self,
        to: &'a Peer,
        request: VoteRequest,
        within: Duration,
    ) -> Delivery<'a, VoteResponse> {
        async move {
            let answer = self.pool.rpc(Class::Raft, to, PreVote(request), within, OnTimeout::Drop).await?;
            self.answered(Class::Raft, to, answer)
        }
        .boxed()
    }

    fn transfer_leader<'a>(
        &'a self,
        to: &'a Peer,
        request: TransferLeaderRequest,
        within: Duration,
    ) -> Delivery<'a, TransferLeaderResponse> {
        async move {
            let answer =
                self.pool.rpc(Class::Raft, to, TransferLeader(request), within, OnTimeout::Drop).await?;
            self.answered(Class::Raft, to, answer)
        }
        .boxed()
    }

    fn install_snapshot<'a>(
        &'a self,
        to: &'a Peer,
        vote: Vote,
        snapshot: SnapshotFile,
    ) -> Delivery<'a, SnapshotResponse> {
        async move {
            let request = InstallSnapshot { vote, meta: snapshot.meta().clone(), seal: snapshot.seal() };
            self.pool.snapshot(to, request, &snapshot).await
        }
        .boxed()
    }

    fn read_index<'a>(
        &'a self,
        to: &'a Peer,
        request: ReadIndex,
        within: Duration,
    ) -> Delivery<'a, Result<Confirmed, ApiError>> {
        self.pool.rpc(Class::Raft, to, request, within, OnTimeout::Keep).boxed()
    }

    fn keep_lease<'a>(
        &'a self,
        to: &'a Peer,
        request: KeepLease,
        within: Duration,
    ) -> Delivery<'a, Result<Duration, ApiError>> {
        self.pool.rpc(Class::Raft, to, request, within, OnTimeout::Keep).boxed()
    }

    fn forward<'a>(
        &'a self,
        to: &'a Peer,
        command: EncodedCommand,
        within: Duration,
    ) -> Delivery<'a, Result<WriteResult, ApiError>> {
        self.pool.rpc(Class::Raft, to, Forward(command), within, OnTimeout::Keep).boxed()
    }
}

impl IrohTransport {
    /// A peer that cannot serve says why.
    fn answered<T>(&self, class: Class, peer: &Peer, answer: Result<T, String>) -> Result<T, TransportError> {
        let answer = answer.map_err(|reason| TransportError::Refused { peer: peer.id, reason });
        answer.inspect_err(|refused| self.pool.note(peer, class, Err(refused)))
    }
}

/// What a peer is told that is none.
const NO_MEMBER: &[u8] = b"not a member of this cluster";

/// The key of the other end, if it may speak; otherwise the connection is closed.
fn admitted(admission: &Admission, connection: &Connection) -> Option<EndpointKey> {
    let key = remote_key(connection);
    if admission.admits(&key) {
        return Some(key);
    }
    admission.refusals().note(Refusal::NotAMember, key);
    connection.close(VarInt::from_u32(close_code::NOT_A_MEMBER), NO_MEMBER);
    None
}

/// The key of the other end.
fn remote_key(connection: &Connection) -> EndpointKey {
    EndpointKey(*connection.remote_id().as_bytes())
}

/// Lets admitted peers gossip.
#[derive(Debug, Clone)]
struct GossipHandler {
    gossip: Gossip,
    admission: Arc<Admission>,
}

impl ProtocolHandler for GossipHandler {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        if admitted(&self.admission, &connection).is_none() {
            return Ok(());
        }
        self.gossip.handle_connection(connection).await.map_err(AcceptError::from_err)
    }

    async fn shutdown(&self) {
        // An error: it has ended already.
        let _ = self.gossip.shutdown().await;
    }
}

/// Answers the requests of admitted peers.
#[derive(Clone)]
struct RaftHandler {
    service: Arc<dyn RaftService>,
    admission: Arc<Admission>,
}

impl Debug for RaftHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftHandler").field("admission", &self.admission).finish_non_exhaustive()
    }
}

impl ProtocolHandler for RaftHandler {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let Some(guest) = greeting::greeted(&self.admission, &connection).await else { return Ok(()) };
        let incarnations = self.admission.incarnations();
        connection.set_receive_window(VarInt::from_u32(PEER_WINDOW_BYTES));
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(PEER_STREAMS_MAX));
        let mut expelled = pin!(self.admission.expelled(&guest.key));
        let mut replaced = pin!(incarnations.replaced(&guest.key, &guest.start));
        let mut denounced = pin!(incarnations.denounced());
        let permits = Arc::new(Semaphore::new(PEER_REQUESTS_MAX as usize));
        let mut requests = JoinSet::new();
        loop {
            let message = tokio::select! {
                message = read_request::<RaftProtocol>(&connection) => message,
                () = &mut expelled => {
                    connection.close(VarInt::from_u32(close_code::REMOVED), NO_MEMBER);
                    break;
                }
                () = &mut replaced => {
                    connection.close(VarInt::from_u32(close_code::GIVEN_UP), b"a later start of this node is here");
                    break;
                }
                // What it would answer might break a promise that it has forgotten.
                _ = &mut denounced => break,
            };
            // A connection that ends is no error of ours: the peer dials again.
            let Ok(Some(message)) = message else { break };
            while requests.try_join_next().is_some() {}
            // What comes on behalf of a client may wait long, and streams take long; the node itself bounds the former, QUIC the
            // number of the latter: they must not stand in the way of heartbeats and votes.
            let is_long = matches!(
                message,
                RaftMessage::ReadIndex(_)
                    | RaftMessage::KeepLease(_)
                    | RaftMessage::Forward(_)
                    | RaftMessage::AppendStream(_)
                    | RaftMessage::InstallSnapshot(_)
            );
            let permit = match permits.clone().acquire_owned() {
                _ if is_long => None,
                permit => permit.await.ok(),
            };
            let service = self.service.clone();
            requests.spawn(async move {
                answer(service.as_ref(), message).await;
                drop(permit);
            });
        }
        greeting::heed(&connection, incarnations);
        requests.shutdown().await;
        connection.close(VarInt::from_u32(close_code::STOPPING), b"");
        Ok(())
    }
}

/// Serves one request. A peer that no longer waits for the answer is not told.
async fn answer(service: &dyn RaftService, message: RaftMessage) {
    match message {
        RaftMessage::AppendEntries(WithChannels { tx, inner, .. }) => {
            let _ = tx.send(service.append_entries(inner.0).await).await;
        }
        RaftMessage::AppendStream(WithChannels { tx, rx, .. }) => {
            // A stream that breaks has ended.
            let requests = futures::stream::unfold(rx, async |mut rx| match rx.recv().await {
                Ok(Some(request)) => Some((request, rx)),
                Ok(None) | Err(_) => None,
            });
            let mut answers = service.append_stream(requests.boxed());
            while let Some(answer) = answers.next().await {
                if tx.send(answer).await.is_err() {
                    break;
                }
            }
        }
        RaftMessage::RequestVote(WithChannels { tx, inner, .. }) => {
            let _ = tx.send(service.vote(inner.0).await).await;
        }
        RaftMessage::PreVote(WithChannels { tx, inner, .. }) => {
            let _ = tx.send(service.pre_vote(inner.0).await).await;
        }
        RaftMessage::ReadIndex(WithChannels { tx, inner, .. }) => {
            let _ = tx.send(service.read_index(inner).await).await;
        }
        RaftMessage::KeepLease(WithChannels { tx, inner, .. }) => {
            let _ = tx.send(service.keep_lease(inner).await).await;
        }
        RaftMessage::Forward(WithChannels { tx, inner, .. }) => {
            let _ = tx.send(service.forwarded(inner.0).await).await;
        }
        RaftMessage::TransferLeader(WithChannels { tx, inner, .. }) => {
            let _ = tx.send(service.transfer_leader(inner.0).await).await;
        }
        RaftMessage::InstallSnapshot(WithChannels { tx, rx, inner, .. }) => {
            snapshot::receive(service, inner, rx, tx).await;
        }
    }
}
