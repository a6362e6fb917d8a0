//! Clients over the endpoint: each stream that one opens is a connection like one over TCP, on which it shows what it has to.

use std::fmt::{self, Debug};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use iroh::endpoint::{Connection, PortmapperConfig, RecvStream, SendStream, VarInt, presets};
use iroh::protocol::{AcceptError, ProtocolHandler};
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode};
use tokio::io::{AsyncRead, AsyncWrite, Join, ReadBuf, join};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::{EndpointError, close_code, transport_config};
use crate::limits::{CLIENT_CONNECTIONS_MAX, CLIENT_STREAMS_MAX, CONNECT_TIMEOUT, HTTP_IDLE_TIMEOUT};
use crate::types::NodeInfo;

/// Names the protocol and its version to iroh: HTTP/1.1 on each stream.
pub(super) const ALPN: &[u8] = b"aspen/client/1";

/// What a client is told by a node that could not tell it from others.
const NOTHING_TO_SHOW: &[u8] =
    b"the node has no http_token_file, without which it answers clients on this way on its own host only";

/// A connection in two directions, and whose place is free when it is dropped.
pub struct ClientStream {
    io: Join<RecvStream, SendStream>,
    _holds: Holds,
}

/// What has to live as long.
enum Holds {
    /// The place of a client's stream.
    Place { _place: OwnedSemaphorePermit },
    /// The connection to a node, and the endpoint.
    Connection { _connection: Connection, _endpoint: Endpoint },
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
        Pin::new(&mut self.io).poll_shutdown(context)
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
            connection.close(VarInt::from_u32(close_code::BUSY), b"the node has as many clients as it takes");
            return Ok(());
        };
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
            let stream = ClientStream { io: join(recv, send), _holds: Holds::Place { _place: place } };
            if streams.send(stream).await.is_err() {
                connection.close(VarInt::from_u32(close_code::STOPPING), b"the node is stopping");
                return Ok(());
            }
        }
    }
}

/// The endpoint of a client, which has a new key each time.
#[derive(Debug, Clone)]
pub struct ClientEndpoint {
    endpoint: Endpoint,
}

impl ClientEndpoint {
    /// Binds it to any address.
    ///
    /// # Errors
    /// There is none.
    pub async fn bind() -> Result<Self, EndpointError> {
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let failed = |reason: String| EndpointError::Bind { address, reason };
        let bound = Endpoint::builder(presets::Minimal)
            .transport_config(transport_config().map_err(failed)?)
            .relay_mode(RelayMode::Disabled)
            .portmapper_config(PortmapperConfig::Disabled)
            .bind()
            .await;
        Ok(Self { endpoint: bound.map_err(|error| failed(error.to_string()))? })
    }

    /// Opens a stream to a node.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open(&self, node: &NodeInfo) -> Result<ClientStream, String> {
        let key = EndpointId::from_bytes(&node.endpoint_id.0).map_err(|_| "its key is none".to_owned())?;
        let address = EndpointAddr::new(key).with_ip_addr(node.raft);
        let opened = timeout(CONNECT_TIMEOUT, async {
            let connection = self.endpoint.connect(address, ALPN).await.map_err(|error| error.to_string())?;
            let opened = connection.open_bi().await;
            // It says why, if it does not want to.
            let (send, recv) = opened.map_err(|error| error.to_string())?;
            Ok::<_, String>((connection, send, recv))
        });
        let late = |_| format!("nothing from {} within {} s", node.raft, CONNECT_TIMEOUT.as_secs());
        let (connection, send, recv) = opened.await.map_err(late)??;
        let _holds = Holds::Connection { _connection: connection, _endpoint: self.endpoint.clone() };
        Ok(ClientStream { io: join(recv, send), _holds })
    }
}
