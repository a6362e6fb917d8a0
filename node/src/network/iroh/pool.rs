//! `RaftConnectionPool`: connections to each peer, for entries and requests, for heartbeats, and for snapshots, dialled when
//! they are needed.
//!
//! A dial goes on while the requests that wait for it give up, so that a short time limit never starves a slow link.
//! A connection is dropped after the first Raft RPC that has no answer in its whole time: QUIC alone would take seconds to notice
//! a dead peer. A client's request may rightly take long, so its time-out says nothing about the connection. One over which nothing
//! was sent for long is closed: who led once does not go on telling everybody that it is there.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use futures::stream::BoxStream;
use iroh::endpoint::{Connection, VarInt};
use iroh::{Endpoint, EndpointAddr};
use irpc::Client;
use irpc::channel::oneshot;
use irpc_iroh::IrohRemoteConnection;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use super::append::AppendStream;
use super::{AddressBook, Admission};
use super::{close_code, greeting, held};
use crate::limits::{DIAL_BACKOFF, DIAL_TIMEOUT, PEER_UNUSED_MAX, PEER_WINDOW_BYTES, SNAPSHOT_STEP_TIMEOUT};
use crate::metrics::NetworkMetrics;
use crate::network::incarnation::Start;
use crate::network::rpc::{self, ALPN, RaftMessage, RaftProtocol};
use crate::network::snapshot::{self, InstallSnapshot};
use crate::network::{Appended, Peer, TransportError, millis};
use crate::storage::snapshot::SnapshotFile;
use crate::types::NodeInfo;
use crate::types::raft_types::{AppendEntriesRequest, SnapshotResponse};

type Dial = Shared<BoxFuture<'static, Result<Dialled, String>>>;

/// A connection to a peer that has greeted.
#[derive(Debug, Clone)]
struct Dialled {
    connection: Connection,
    /// Which start of the peer is at the other end.
    start: Start,
}

/// What a time-out says of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnTimeout {
    /// Raft's own requests are answered at once: the connection is dead.
    Drop,
    /// A client's request may rightly take long.
    Keep,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Class {
    /// Entries, votes and clients' requests.
    Raft,
    /// Heartbeats: on the connection of the entries they would wait behind them where the link is slow.
    Heartbeat,
    /// Snapshots, which take long and fill it.
    Snapshot,
}

/// The connections of one node to its peers.
#[derive(Debug)]
pub struct RaftConnectionPool {
    endpoint: Endpoint,
    book: AddressBook,
    admission: Arc<Admission>,
    metrics: NetworkMetrics,
    /// Of Raft's thread.
    runtime: Handle,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The present dial or connection to each peer.
    peers: HashMap<(NodeInfo, Class), Slot>,
    next: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// Tells this connection from its successor.
    number: u64,
    class: Class,
    dial: Dial,
    /// When it was last asked for. Whoever uses it has a clone.
    used: Arc<Mutex<Instant>>,
    /// How many dials have failed before this one.
    failures: u32,
    /// If this one has failed, until when there is no other.
    retry_at: Arc<OnceLock<Instant>>,
}

impl Class {
    fn name(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Heartbeat => "heartbeat",
            Self::Snapshot => "snapshot",
        }
    }
}

impl Slot {
    /// Whether its dial has failed so lately that there is to be no other yet.
    fn is_left_alone(&self) -> bool {
        self.retry_at.get().is_some_and(|retry_at| Instant::now() < *retry_at)
    }

    fn is_idle(&self) -> bool {
        let is_held = Arc::strong_count(&self.used) > 1;
        !is_held && held(&self.used).elapsed() >= PEER_UNUSED_MAX
    }
}

impl RaftConnectionPool {
    pub(super) fn new(
        endpoint: Endpoint,
        book: AddressBook,
        admission: Arc<Admission>,
        metrics: NetworkMetrics,
        runtime: Handle,
    ) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        runtime.spawn(close_idle(Arc::downgrade(&state)));
        Self { endpoint, book, admission, metrics, runtime, state }
    }

    /// Sends a request over the connection to a peer, which is dialled if there is none.
    pub(super) async fn rpc<Req, Res>(
        &self,
        class: Class,
        to: &Peer,
        request: Req,
        within: Duration,
        on_timeout: OnTimeout,
    ) -> Result<Res, TransportError>
    where
        RaftProtocol: From<Req>,
        RaftMessage: From<irpc::WithChannels<Req, RaftProtocol>>,
        Req: irpc::Channels<RaftProtocol, Tx = oneshot::Sender<Res>, Rx = irpc::channel::none::NoReceiver>,
        Res: irpc::RpcMessage,
    {
        let asked = Instant::now();
        let answer = async {
            let deadline = Instant::now() + within;
            let (slot, client, was_there) = self.client(to, class, deadline, within).await?;
            match timeout_at(deadline, client.rpc(request)).await {
                Err(_) => {
                    // A request that has waited for the dial had not all of its time: over a slow link each connection would be given up
                    // before anything could come back over it.
                    if on_timeout == OnTimeout::Drop && was_there {
                        self.forget(to, &slot);
                    }
                    Err(TransportError::Timeout { peer: to.id, within_ms: millis(within) })
                }
                Ok(Err(error)) => Err(self.failed(to, &slot, error)),
                Ok(Ok(answer)) => Ok(answer),
            }
        };
        let answer = answer.await;
        self.note(to, class, answer.as_ref().map(|_| asked.elapsed()));
        answer
    }

    /// Measures what came of a request.
    pub(super) fn note(&self, to: &Peer, class: Class, result: Result<Duration, &TransportError>) {
        self.metrics.note(to.id, class.name(), result.map_err(TransportError::kind));
    }

    /// Opens a stream of AppendEntries.
    pub(super) async fn append<'a>(
        &'a self,
        to: &'a Peer,
        requests: BoxStream<'static, AppendEntriesRequest>,
        within: Duration,
    ) -> Result<BoxStream<'a, Appended>, TransportError> {
        let deadline = Instant::now() + within;
        let opened = async {
            let (slot, client, _) = self.client(to, Class::Raft, deadline, within).await?;
            let opening = client.bidi_streaming(rpc::AppendStream, 1, 1);
            let channels = self.open(to, &slot, deadline, within, opening).await?;
            Ok((slot, channels))
        };
        let (slot, channels) = opened.await.inspect_err(|error| self.note(to, Class::Raft, Err(error)))?;
        Ok(AppendStream::new(self, to, slot, within, requests, channels).into_stream())
    }

    /// Waits until a stream is open.
    async fn open<T>(
        &self,
        to: &Peer,
        slot: &Slot,
        deadline: Instant,
        within: Duration,
        opening: impl Future<Output = irpc::Result<T>>,
    ) -> Result<T, TransportError> {
        match timeout_at(deadline, opening).await {
            Err(_) => {
                self.forget(to, slot);
                Err(TransportError::Timeout { peer: to.id, within_ms: millis(within) })
            }
            Ok(opened) => opened.map_err(|error| self.failed(to, slot, error)),
        }
    }

    /// Sends a snapshot over a connection of its own, so that nothing else waits behind it.
    pub(super) async fn snapshot(
        &self,
        to: &Peer,
        request: InstallSnapshot,
        file: &SnapshotFile,
    ) -> Result<SnapshotResponse, TransportError> {
        let asked = Instant::now();
        let sent = self.send_snapshot(to, request, file).await;
        self.note(to, Class::Snapshot, sent.as_ref().map(|_| asked.elapsed()));
        sent
    }

    async fn send_snapshot(
        &self,
        to: &Peer,
        request: InstallSnapshot,
        file: &SnapshotFile,
    ) -> Result<SnapshotResponse, TransportError> {
        let within = SNAPSHOT_STEP_TIMEOUT;
        let deadline = Instant::now() + within;
        let (slot, client, _) = self.client(to, Class::Snapshot, deadline, within).await?;
        let opening = client.bidi_streaming(request, 1, 1);
        let (parts, mut answers) = self.open(to, &slot, deadline, within, opening).await?;
        let sent = snapshot::send(file, &parts, &mut answers).await;
        sent.map_err(|error| {
            self.forget(to, &slot);
            error.of(to.id)
        })
    }

    /// The connection to a peer, dialled if there is none; and whether there was one.
    async fn client(
        &self,
        to: &Peer,
        class: Class,
        deadline: Instant,
        within: Duration,
    ) -> Result<(Slot, Client<RaftProtocol>, bool), TransportError> {
        let slot = self.slot(to, class);
        let was_there = slot.dial.peek().is_some();
        let connection = match timeout_at(deadline, slot.dial.clone()).await {
            // Nothing was sent yet, and the dial goes on.
            Err(_) => {
                let reason = format!("not connected after {} ms", millis(within));
                return Err(TransportError::Unreachable { peer: to.id, reason });
            }
            Ok(Err(reason)) => {
                return Err(TransportError::Unreachable { peer: to.id, reason });
            }
            Ok(Ok(dialled)) => dialled.connection,
        };
        Ok((slot, Client::boxed(IrohRemoteConnection::new(connection)), was_there))
    }

    /// Drops the connection over which a request failed.
    fn failed(&self, to: &Peer, slot: &Slot, error: irpc::Error) -> TransportError {
        self.forget(to, slot);
        let (peer, reason) = (to.id, error.to_string());
        match error {
            irpc::Error::Request { .. } => TransportError::Unreachable { peer, reason },
            _ => TransportError::Lost { peer, reason },
        }
    }

    /// The connection to a peer, or the dial under way, or a new dial.
    fn slot(&self, to: &Peer, class: Class) -> Slot {
        let mut state = held(&self.state);
        let key = (to.info.clone(), class);
        let usable = state.peers.get(&key).filter(|slot| match slot.dial.clone().now_or_never() {
            None => true,
            Some(Ok(Dialled { connection, start })) => {
                // What is sent to a start that is over is lost, and nobody says so for long.
                if self.admission.incarnations().is_replaced(&to.info.endpoint_id, &start) {
                    connection
                        .close(VarInt::from_u32(close_code::GIVEN_UP), b"a later start of the peer was seen");
                }
                connection.close_reason().is_none()
            }
            Some(Err(_)) => slot.is_left_alone(),
        });
        if let Some(slot) = usable {
            *held(&slot.used) = Instant::now();
            return slot.clone();
        }
        state.next += 1;
        let failed = state.peers.get(&key).filter(|slot| matches!(slot.dial.peek(), Some(Err(_))));
        let failures = failed.map_or(0, |slot| slot.failures.saturating_add(1));
        // Whoever asks: a connection is driven where it was dialled. It goes on when nobody waits for it any more.
        let (endpoint, admission, metrics) =
            (self.endpoint.clone(), self.admission.clone(), self.metrics.clone());
        let (address, raft) = (self.book.dial(&to.info), to.info.raft);
        let retry_at = Arc::new(OnceLock::new());
        let failed_until = retry_at.clone();
        let dialled = self.runtime.spawn(async move {
            let dialled = dial(endpoint, admission, address, raft).await;
            metrics.note_dial(dialled.is_ok());
            if dialled.is_err() {
                // Only this dial sets it.
                let _ = failed_until.set(Instant::now() + pause_after(failures));
            }
            dialled
        });
        let dial = dialled.map(|dialled| dialled.unwrap_or_else(|ended| Err(ended.to_string())));
        let used = Arc::new(Mutex::new(Instant::now()));
        let dial = dial.boxed().shared();
        let slot = Slot { number: state.next, class, dial, used, failures, retry_at };
        state.peers.insert(key, slot.clone());
        slot
    }

    /// Drops a connection, unless another has taken its place already.
    pub(super) fn forget(&self, to: &Peer, slot: &Slot) {
        let mut state = held(&self.state);
        let key = (to.info.clone(), slot.class);
        if state.peers.get(&key).is_some_and(|present| present.number == slot.number) {
            state.peers.remove(&key);
        }
        if let Some(Ok(Dialled { connection, .. })) = slot.dial.peek() {
            connection.close(VarInt::from_u32(close_code::GIVEN_UP), b"given up after a request that failed");
        }
    }
}

/// Closes connections that nobody uses, for as long as there is a pool.
async fn close_idle(state: Weak<Mutex<State>>) {
    loop {
        tokio::time::sleep(PEER_UNUSED_MAX / 4).await;
        let Some(state) = state.upgrade() else { return };
        let idle: Vec<Slot> =
            held(&state).peers.extract_if(|_, slot| slot.is_idle()).map(|(_, slot)| slot).collect();
        for slot in idle {
            if let Some(Ok(Dialled { connection, .. })) = slot.dial.peek() {
                connection.close(VarInt::from_u32(close_code::DONE), b"nothing was sent for long");
            }
        }
    }
}

/// For how long a peer is left alone when a dial has failed, and so many before it.
fn pause_after(failures: u32) -> Duration {
    let [first, most] = DIAL_BACKOFF;
    let pause = first.saturating_mul(1 << failures.min(16)).min(most);
    pause.mul_f64(rand::random_range(0.5..=1.0))
}

async fn dial(
    endpoint: Endpoint,
    admission: Arc<Admission>,
    to: Option<EndpointAddr>,
    raft: SocketAddr,
) -> Result<Dialled, String> {
    let Some(to) = to else { return Err("its key is none".to_owned()) };
    match tokio::time::timeout(DIAL_TIMEOUT, endpoint.connect(to, ALPN)).await {
        Err(_) => Err(format!("no handshake with {raft} within {} ms", DIAL_TIMEOUT.as_millis())),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(connection)) => {
            let start = greeting::greet(&connection, &admission).await?;
            connection.set_receive_window(VarInt::from_u32(PEER_WINDOW_BYTES));
            Ok(Dialled { connection, start })
        }
    }
}

#[cfg(test)]
mod tests;
