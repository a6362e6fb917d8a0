//! Clients over the endpoint: each stream that one opens is a connection like one over TCP, on which it shows what it has to.

use std::collections::VecDeque;
use std::fmt::{self, Debug};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use futures::future::{BoxFuture, Either, select};
use iroh::endpoint::{
    ConnectError, Connection, ConnectionError, PortmapperConfig, RecvStream, SendStream, VarInt, presets,
};
use iroh::protocol::{AcceptError, ProtocolHandler};
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode};
use tokio::io::{AsyncRead, AsyncWrite, Join, ReadBuf, join};
use tokio::sync::mpsc::error::SendError;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::{EndpointError, close_code, held, remote_key, transport_config};
use crate::limits::{
    CLIENT_CLOSE_TIMEOUT, CLIENT_CONNECTIONS_MAX, CLIENT_STRANGERS_MAX, CLIENT_STREAMS_MAX,
    CLIENT_TOKEN_TIMEOUT, CONNECT_TIMEOUT, HTTP_IDLE_TIMEOUT,
};
use crate::network::refusals::{Refusal, Refusals};
use crate::types::{EndpointKey, NodeInfo};

/// Names the protocol and its version to iroh: HTTP/1.1 on each stream.
pub(super) const ALPN: &[u8] = b"aspen/client/1";

/// What a client is told by a node that could not tell it from others.
const NOTHING_TO_SHOW: &[u8] =
    b"this node answers nobody over QUIC: for that it needs a http_token_file, and no http_tls_client_ca_file";
/// What a client is told that has asked nothing for which a token is needed.
const NOTHING_SHOWN: &[u8] =
    b"no token was shown: a node that has one gives its places to clients that show it";
/// What a client is told that comes too late.
const BUSY: &[u8] = b"the node has as many clients over QUIC as it takes";

/// A stream in two directions. It has its place until it is dropped.
pub struct ClientStream {
    io: Join<RecvStream, SendStream>,
    /// Resolves when all that was sent has come, once everything is sent.
    ending: Option<BoxFuture<'static, ()>>,
    /// Of its connection.
    standing: Option<Standing>,
    _place: OwnedSemaphorePermit,
}

impl ClientStream {
    /// How the client at the other end stands, where this is the node's end.
    pub fn standing(&self) -> Option<Standing> {
        self.standing.clone()
    }
}

/// Where streams of clients go.
#[derive(Debug, Clone)]
pub struct ClientDoor {
    /// To whoever serves them.
    pub streams: mpsc::Sender<ClientStream>,
    /// Whether a client has to show a token before it has one of the places.
    pub wants_token: bool,
}

/// How a client stands with a node: it has one of the places for clients once it has shown what it has to. Clones are of the same client.
#[derive(Debug, Clone)]
pub struct Standing(Arc<StandingParts>);

#[derive(Debug)]
struct StandingParts {
    connection: Connection,
    places: Arc<Semaphore>,
    refusals: Refusals,
    state: Mutex<State>,
    /// That it is no stranger any more.
    is_known: Notify,
}

#[derive(Debug)]
enum State {
    /// It has shown nothing yet.
    Stranger,
    /// It has its place.
    Settled { _place: OwnedSemaphorePermit },
    /// It is told to go, or has gone: nothing that it asks is done any more.
    Gone,
}

impl State {
    /// What a client that has shown what it has to is from now on; whether it has a place.
    fn settle(&mut self, places: &Arc<Semaphore>) -> bool {
        if matches!(self, Self::Stranger) {
            let place = places.clone().try_acquire_owned();
            *self = place.map_or(Self::Gone, |place| Self::Settled { _place: place });
        }
        matches!(self, Self::Settled { .. })
    }

    /// Whether it was a stranger, and is told to go now.
    fn refuse(&mut self) -> bool {
        let is_stranger = matches!(self, Self::Stranger);
        if is_stranger {
            *self = Self::Gone;
        }
        is_stranger
    }
}

impl Standing {
    fn new(connection: Connection, places: Arc<Semaphore>, refusals: Refusals) -> Self {
        let (state, is_known) = (Mutex::new(State::Stranger), Notify::new());
        Self(Arc::new(StandingParts { connection, places, refusals, state, is_known }))
    }

    /// Gives a client one of the places, if it has none; whether it has one. Otherwise its connection is closed, and nothing that it
    /// asks may be done.
    pub fn settle(&self) -> bool {
        let StandingParts { places, state, is_known, .. } = &*self.0;
        let (was_stranger, has_place) = {
            let mut state = held(state);
            (matches!(*state, State::Stranger), state.settle(places))
        };
        if was_stranger {
            is_known.notify_one();
            if !has_place {
                self.close(Refusal::Busy, close_code::BUSY, BUSY);
            }
        }
        has_place
    }

    /// Tells a client to go that is a stranger still.
    fn refuse(&self, refusal: Refusal, code: u32, text: &[u8]) {
        if held(&self.0.state).refuse() {
            self.0.is_known.notify_one();
            self.close(refusal, code, text);
        }
    }

    fn close(&self, refusal: Refusal, code: u32, text: &[u8]) {
        let StandingParts { connection, refusals, .. } = &*self.0;
        refusals.note(refusal, remote_key(connection));
        connection.close(VarInt::from_u32(code), text);
    }

    /// Its connection has ended, and others have its place, though an answer to it may still be under way.
    fn leave(&self) {
        *held(&self.0.state) = State::Gone;
    }

    fn is_stranger(&self) -> bool {
        matches!(*held(&self.0.state), State::Stranger)
    }
}

/// What becomes of a stream that was opened to a node.
#[derive(Debug, Clone)]
pub struct StreamFate(Connection);

impl StreamFate {
    /// Why the node has refused the stream, if it has: then nothing that was sent was done.
    pub fn refusal(&self) -> Option<String> {
        let ConnectionError::ApplicationClosed(close) = self.0.close_reason()? else { return None };
        let code = u32::try_from(close.error_code.into_inner()).ok()?;
        matches!(code, close_code::BUSY | close_code::NOTHING_TO_SHOW | close_code::NOTHING_SHOWN)
            .then(|| String::from_utf8_lossy(&close.reason).into_owned())
    }
}

impl Debug for ClientStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientStream").finish_non_exhaustive()
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ending.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(context))?;
            // Whoever closes the connection first cuts off what is still on its way.
            self.ending = Some(self.io.writer().stopped().map(drop).boxed());
        }
        let ended = self.ending.as_mut().map_or(Poll::Ready(()), |ending| ending.as_mut().poll(context));
        ended.map(Ok)
    }
}

/// Takes clients, and hands their streams on.
#[derive(Debug, Clone)]
pub(super) struct ClientHandler {
    /// Where their streams go; absent: this node answers none.
    door: Option<ClientDoor>,
    places: Arc<Semaphore>,
    /// Who has shown nothing yet, the first ones first.
    strangers: Arc<Mutex<VecDeque<Standing>>>,
    refusals: Refusals,
}

impl ClientHandler {
    pub(super) fn new(door: Option<ClientDoor>, refusals: Refusals) -> Self {
        let places = Arc::new(Semaphore::new(CLIENT_CONNECTIONS_MAX as usize));
        Self { door, places, strangers: Arc::default(), refusals }
    }

    /// Notes a stranger. Where there are too many, whoever has been one for longest has to go: those who have something to show do
    /// so at once.
    fn admit(&self, standing: &Standing) {
        let mut strangers = held(&self.strangers);
        strangers.retain(Standing::is_stranger);
        if strangers.len() >= CLIENT_STRANGERS_MAX as usize
            && let Some(first) = strangers.pop_front()
        {
            first.refuse(Refusal::Busy, close_code::BUSY, BUSY);
        }
        strangers.push_back(standing.clone());
    }
}

impl ProtocolHandler for ClientHandler {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let Some(ClientDoor { streams, wants_token }) = &self.door else {
            connection.close(VarInt::from_u32(close_code::NOTHING_TO_SHOW), NOTHING_TO_SHOW);
            return Ok(());
        };
        let standing = Standing::new(connection.clone(), self.places.clone(), self.refusals.clone());
        if *wants_token {
            self.admit(&standing);
            let serving = pin!(take_streams(&connection, streams, &standing));
            let showing = pin!(timeout(CLIENT_TOKEN_TIMEOUT, standing.0.is_known.notified()));
            if let Either::Right((shown, serving)) = select(serving, showing).await {
                if shown.is_err() {
                    standing.refuse(Refusal::NoToken, close_code::NOTHING_SHOWN, NOTHING_SHOWN);
                }
                serving.await;
            }
        } else if standing.settle() {
            take_streams(&connection, streams, &standing).await;
        }
        standing.leave();
        Ok(())
    }
}

/// Hands a client's streams on, until its connection ends.
async fn take_streams(connection: &Connection, streams: &mpsc::Sender<ClientStream>, standing: &Standing) {
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(CLIENT_STREAMS_MAX));
    let places = Arc::new(Semaphore::new(CLIENT_STREAMS_MAX as usize));
    loop {
        // Nobody closes it.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (send, recv) = match timeout(HTTP_IDLE_TIMEOUT, connection.accept_bi()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(_)) => return,
            // It may wait for what one of its streams is to tell.
            Err(_) if places.available_permits() + 1 < CLIENT_STREAMS_MAX as usize => continue,
            Err(_) => {
                connection.close(VarInt::from_u32(close_code::DONE), b"nothing was asked for long");
                return;
            }
        };
        let standing = Some(standing.clone());
        let stream = ClientStream { io: join(recv, send), ending: None, standing, _place: place };
        if let Err(SendError(stream)) = streams.send(stream).await {
            drop(stream);
            // What was asked before is answered first.
            tokio::select! {
                _ = places.acquire_many(CLIENT_STREAMS_MAX) => {}
                _ = connection.closed() => {}
            }
            connection.close(VarInt::from_u32(close_code::STOPPING), b"the node is stopping");
            return;
        }
    }
}

/// Why a client has no stream to a node.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its key is none.
    #[error("its key is none")]
    Key,
    /// There is no endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// There is no connection.
    #[error("it cannot be reached over QUIC: {0}")]
    Connect(#[from] ConnectError),
    /// The connection was lost.
    #[error("the connection was lost: {0}")]
    Lost(#[from] ConnectionError),
    /// It takes too long.
    #[error("nothing over QUIC from {raft} within {} s", CONNECT_TIMEOUT.as_secs())]
    Silent {
        /// Where it was asked.
        raft: SocketAddr,
    },
}

/// The endpoint of a client, which has a new key each time. It has as many connections to a node as its streams need.
#[derive(Debug)]
pub struct ClientEndpoint {
    endpoint: Endpoint,
    connections: Mutex<Vec<ToNode>>,
}

/// A connection to a node, and the places on it.
#[derive(Debug)]
struct ToNode {
    key: EndpointKey,
    connection: Connection,
    places: Arc<Semaphore>,
}

impl ClientEndpoint {
    /// Binds it to any address.
    ///
    /// # Errors
    /// There is none.
    pub async fn bind() -> Result<Self, EndpointError> {
        let failed = EndpointError::Client;
        let bound = Endpoint::builder(presets::Minimal)
            .transport_config(transport_config().map_err(failed)?)
            .relay_mode(RelayMode::Disabled)
            .portmapper_config(PortmapperConfig::Disabled)
            .bind()
            .await;
        let endpoint = bound.map_err(|error| failed(error.to_string()))?;
        Ok(Self { endpoint, connections: Mutex::default() })
    }

    /// Opens a stream to a node.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open(&self, node: &NodeInfo) -> Result<(ClientStream, StreamFate), OpenError> {
        let opened = timeout(CONNECT_TIMEOUT, async {
            let (connection, place) = match self.with_room(node.endpoint_id) {
                Some(found) => found,
                None => self.connect(node).await?,
            };
            let (send, recv) = connection.open_bi().await?;
            let stream = ClientStream { io: join(recv, send), ending: None, standing: None, _place: place };
            Ok((stream, StreamFate(connection)))
        });
        opened.await.unwrap_or(Err(OpenError::Silent { raft: node.raft }))
    }

    /// A connection that has room for one more stream.
    fn with_room(&self, key: EndpointKey) -> Option<(Connection, OwnedSemaphorePermit)> {
        let mut connections = held(&self.connections);
        connections.retain(|to| to.connection.close_reason().is_none());
        connections.iter().filter(|to| to.key == key).find_map(|to| {
            let place = to.places.clone().try_acquire_owned().ok()?;
            Some((to.connection.clone(), place))
        })
    }

    async fn connect(&self, node: &NodeInfo) -> Result<(Connection, OwnedSemaphorePermit), OpenError> {
        let key = EndpointId::from_bytes(&node.endpoint_id.0).map_err(|_| OpenError::Key)?;
        let address = EndpointAddr::new(key).with_ip_addr(node.raft);
        let connection = self.endpoint.connect(address, ALPN).await?;
        let places = Arc::new(Semaphore::new(CLIENT_STREAMS_MAX as usize));
        let place = places.clone().try_acquire_owned().expect("nobody else knows of it yet");
        let to = ToNode { key: node.endpoint_id, connection: connection.clone(), places };
        held(&self.connections).push(to);
        Ok((connection, place))
    }

    /// Tells the nodes that this client is gone, so that there is room for another.
    pub async fn close(&self) {
        for to in held(&self.connections).drain(..) {
            to.connection.close(VarInt::from_u32(close_code::DONE), b"");
        }
        // They notice by themselves, a little later.
        let _ = timeout(CLIENT_CLOSE_TIMEOUT, self.endpoint.close()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_told_to_go_gets_no_place_any_more() {
        let places = Arc::new(Semaphore::new(1));
        let [mut first, mut second, mut third] = [State::Stranger, State::Stranger, State::Stranger];
        assert!(first.settle(&places) && first.settle(&places));
        assert!(!first.refuse(), "it has shown what it had to");
        // All places are taken, and what it asks besides is not done either, though one becomes free.
        assert!(!second.settle(&places));
        first = State::Gone;
        assert_eq!(places.available_permits(), 1);
        assert!(!second.settle(&places) && !first.settle(&places));
        // Too late.
        assert!(third.refuse() && !third.settle(&places));
        assert_eq!(places.available_permits(), 1);
    }
}
