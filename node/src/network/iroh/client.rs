//! Clients over the endpoint: each stream that one opens is a connection like one over TCP, on which it shows what it has to.

use std::fmt::{self, Debug};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use futures::future::BoxFuture;
use iroh::endpoint::{
    ConnectError, Connection, ConnectionError, PortmapperConfig, RecvStream, SendStream, VarInt, presets,
};
use iroh::protocol::{AcceptError, ProtocolHandler};
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode};
use tokio::io::{AsyncRead, AsyncWrite, Join, ReadBuf, join};
use tokio::sync::mpsc::error::SendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::{EndpointError, close_code, held, transport_config};
use crate::limits::{
    CLIENT_CLOSE_TIMEOUT, CLIENT_CONNECTIONS_MAX, CLIENT_STREAMS_MAX, CONNECT_TIMEOUT, HTTP_IDLE_TIMEOUT,
};
use crate::types::{EndpointKey, NodeInfo};

/// Names the protocol and its version to iroh: HTTP/1.1 on each stream.
pub(super) const ALPN: &[u8] = b"aspen/client/1";

/// What a client is told by a node that could not tell it from others.
const NOTHING_TO_SHOW: &[u8] =
    b"this node answers nobody over QUIC: for that it needs a http_token_file, and no http_tls_client_ca_file";
/// What a client is told that comes too late.
const BUSY: &[u8] = b"the node has as many clients over QUIC as it takes";

/// A stream in two directions. It has its place until it is dropped.
pub struct ClientStream {
    io: Join<RecvStream, SendStream>,
    /// Resolves when all that was sent has come, once everything is sent.
    ending: Option<BoxFuture<'static, ()>>,
    /// Also of its connection.
    _place: OwnedSemaphorePermit,
}

/// What becomes of a stream that was opened to a node.
#[derive(Debug, Clone)]
pub struct StreamFate(Connection);

impl StreamFate {
    /// Why the node has refused the stream, if it has: then nothing that was sent was read.
    pub fn refusal(&self) -> Option<String> {
        let ConnectionError::ApplicationClosed(close) = self.0.close_reason()? else { return None };
        let code = u32::try_from(close.error_code.into_inner()).ok()?;
        matches!(code, close_code::BUSY | close_code::NOTHING_TO_SHOW)
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
    streams: Option<mpsc::Sender<ClientStream>>,
    places: Arc<Semaphore>,
}

impl ClientHandler {
    pub(super) fn new(streams: Option<mpsc::Sender<ClientStream>>) -> Self {
        Self { streams, places: Arc::new(Semaphore::new(CLIENT_CONNECTIONS_MAX as usize)) }
    }
}

impl ProtocolHandler for ClientHandler {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let Some(streams) = &self.streams else {
            connection.close(VarInt::from_u32(close_code::NOTHING_TO_SHOW), NOTHING_TO_SHOW);
            return Ok(());
        };
        let Ok(_place) = self.places.try_acquire() else {
            connection.close(VarInt::from_u32(close_code::BUSY), BUSY);
            return Ok(());
        };
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(CLIENT_STREAMS_MAX));
        let places = Arc::new(Semaphore::new(CLIENT_STREAMS_MAX as usize));
        loop {
            // Nobody closes it.
            let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
            let (send, recv) = match timeout(HTTP_IDLE_TIMEOUT, connection.accept_bi()).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(_)) => return Ok(()),
                // It may wait for what one of its streams is to tell.
                Err(_) if places.available_permits() + 1 < CLIENT_STREAMS_MAX as usize => continue,
                Err(_) => {
                    connection.close(VarInt::from_u32(close_code::DONE), b"nothing was asked for long");
                    return Ok(());
                }
            };
            let stream = ClientStream { io: join(recv, send), ending: None, _place: place };
            if let Err(SendError(stream)) = streams.send(stream).await {
                drop(stream);
                // What was asked before is answered first.
                tokio::select! {
                    _ = places.acquire_many(CLIENT_STREAMS_MAX) => {}
                    _ = connection.closed() => {}
                }
                connection.close(VarInt::from_u32(close_code::STOPPING), b"the node is stopping");
                return Ok(());
            }
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
            let stream = ClientStream { io: join(recv, send), ending: None, _place: place };
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
