//! The client's side of the HTTP interface: one connection to one node, kept alive; on top of it a client of a whole cluster, and a
//! generator of load.

pub mod aspen;
pub mod cluster;
pub mod events;
mod json;
pub mod load;
pub mod ticket;
pub mod watch;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Response;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, InvalidMessage};
use serde_json::Value as Json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use self::events::{EventAnswer, EventStream};
use self::ticket::TicketWay;
use crate::causes::with_causes;
use crate::limits::{
    ANSWER_TIMEOUT, BACKUP_BEGIN_TIMEOUT, BACKUP_STALL_TIMEOUT, CONNECT_TIMEOUT, RESPONSE_BYTES_MAX,
    TLS_HANDSHAKE_TIMEOUT, WATCH_SILENCE_MAX,
};
use crate::network::iroh::StreamFate;
use crate::private::BearerToken;
use crate::types::NodeInfo;

/// A connection to one node. It is made with the first request, and again after one that failed.
#[derive(Debug)]
pub struct HttpConnection {
    address: SocketAddr,
    credentials: Credentials,
    open: Option<Open>,
}

/// What a client shows, and whom it trusts.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Shown with every request, if there is one.
    pub token: Option<BearerToken>,
    /// How the nodes are reached.
    pub way: Way,
    /// Whether the token is shown where it can be read on the way: over plain HTTP, off this host.
    pub is_insecure: bool,
}

/// How nodes are reached.
#[derive(Debug, Clone, Default)]
pub enum Way {
    /// Over TCP, as it is.
    #[default]
    Plain,
    /// Over TCP, by HTTPS.
    Tls(ClientTls),
    /// Over QUIC, by a ticket.
    Ticket(Arc<TicketWay>),
}

impl Way {
    /// The address by which a member is called on this way, from now on where the ticket does not name it.
    pub fn learn_address(&self, member: &NodeInfo) -> SocketAddr {
        match self {
            Self::Ticket(ticket) => {
                ticket.learn(member);
                member.raft
            }
            Self::Plain | Self::Tls(_) => member.http,
        }
    }

    /// How a node may be called of which is known where it answers HTTP: several nodes of a ticket can say the same of that.
    pub fn nodes_at(&self, http: SocketAddr) -> Vec<SocketAddr> {
        match self {
            Self::Ticket(ticket) => ticket.nodes_at(http),
            Self::Plain | Self::Tls(_) => vec![http],
        }
    }
}

/// HTTPS.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// Whom to trust.
    pub config: Arc<ClientConfig>,
    /// What the certificates of the nodes are to name.
    pub names: BTreeMap<SocketAddr, ServerName<'static>>,
    /// The same for every node that is not among those; absent: its address.
    pub name: Option<ServerName<'static>>,
}

impl ClientTls {
    fn name_of(&self, node: SocketAddr) -> ServerName<'static> {
        self.names.get(&node).or(self.name.as_ref()).cloned().unwrap_or_else(|| ServerName::from(node.ip()))
    }
}

impl Credentials {
    /// Tells the nodes that this client is gone, where they would wait for it.
    pub async fn close(&self) {
        if let Way::Ticket(ticket) = &self.way {
            ticket.close().await;
        }
    }
}

#[derive(Debug)]
struct Open {
    sender: SendRequest<Full<Bytes>>,
    /// Of a stream over QUIC.
    fate: Option<StreamFate>,
    /// Drives the connection; ends with it.
    _driver: JoinSet<()>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

impl HttpAnswer {
    /// What a refusal says, as docs/http.md has it.
    pub fn error(&self) -> Json {
        let body = serde_json::from_slice::<Json>(&self.body).unwrap_or_default();
        // Something in between may say anything.
        body.get("error").cloned().unwrap_or_default()
    }

    /// Its code.
    pub fn code(&self) -> Option<String> {
        self.error()["code"].as_str().map(str::to_owned)
    }

    /// Its words; those of something between us and the node are its status.
    pub fn message(&self) -> String {
        let message = self.error()["message"].as_str().map(str::to_owned);
        message.unwrap_or_else(|| format!("status {}", self.status))
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no connection.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// The node.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The request may have taken effect.
    #[error("no answer from {address}: {reason}")]
    Lost {
        /// The node.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
}

impl HttpConnection {
    /// A connection to `address`, not made yet.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, credentials: Credentials::default(), open: None }
    }

    /// The same, with something to show.
    #[must_use]
    pub fn with_credentials(self, credentials: Credentials) -> Self {
        Self { credentials, ..self }
    }

    /// The node at its other end.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// There is no connection, or no answer within [`ANSWER_TIMEOUT`].
    pub async fn request(
        &mut self,
        method: &'static str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<HttpAnswer, ClientError> {
        let exchanged = timeout(ANSWER_TIMEOUT, async {
            let response = self.send(method, path, body.into()).await?;
            self.whole(response.status().as_u16(), response.into_body()).await
        })
        .await;
        let answer = exchanged.unwrap_or_else(|_| Err(self.silent(ANSWER_TIMEOUT)));
        if answer.is_err() {
            // An answer that comes late must not be taken for the answer to the next request.
            self.open = None;
        }
        answer
    }

    /// Asks for events.
    ///
    /// # Errors
    /// There is no connection, or no beginning of an answer within [`ANSWER_TIMEOUT`].
    pub async fn events(&self, path: &str) -> Result<EventAnswer, ClientError> {
        let parts = self.parts(path, ANSWER_TIMEOUT, WATCH_SILENCE_MAX).await?;
        if parts.is_events {
            return Ok(EventAnswer::Events(Box::new(EventStream::new(parts))));
        }
        parts.refusal().await.map(EventAnswer::Other)
    }

    /// Asks for a backup, which a node makes before it answers.
    ///
    /// # Errors
    /// There is no connection, or no beginning of an answer within [`BACKUP_BEGIN_TIMEOUT`].
    pub async fn backup(&self, path: &str) -> Result<HttpParts, ClientError> {
        self.parts(path, BACKUP_BEGIN_TIMEOUT, BACKUP_STALL_TIMEOUT).await
    }

    /// Asks for what is too long to be held, or has no end: it begins within a time, and each part comes within another. It has a
    /// connection of its own.
    ///
    /// # Errors
    /// There is no connection, or no beginning of an answer.
    async fn parts(
        &self,
        path: &str,
        begin_within: Duration,
        next_within: Duration,
    ) -> Result<HttpParts, ClientError> {
        let mut connection = Self::new(self.address).with_credentials(self.credentials.clone());
        let sent = timeout(begin_within, connection.send("GET", path, Bytes::new())).await;
        let response = sent.map_err(|_| self.silent(begin_within))??;
        let is_events = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
        let (status, body) = (response.status().as_u16(), response.into_body());
        Ok(HttpParts { status, is_events, body, connection, next_within })
    }

    /// All of an answer.
    async fn whole(&self, status: u16, body: Incoming) -> Result<HttpAnswer, ClientError> {
        let body = Limited::new(body, RESPONSE_BYTES_MAX).collect().await;
        Ok(HttpAnswer { status, body: body.map_err(|error| self.lost(&error))?.to_bytes() })
    }

    /// Sends a request, and returns what begins to come.
    async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.credentials.token {
            self.check_privacy()?;
            request = request.header(AUTHORIZATION, token.header());
        }
        let request = request.body(Full::new(body)).map_err(|error| self.lost(&error))?;
        let is_usable = match &mut self.open {
            Some(open) => open.sender.ready().await.is_ok(),
            None => false,
        };
        if !is_usable {
            self.open = Some(open(self.address, &self.credentials.way).await?);
        }
        let Some(open) = &mut self.open else { return Err(self.lost(&"no connection")) };
        let sent = open.sender.send_request(request).await;
        let refusal = || open.fate.as_ref().and_then(StreamFate::refusal);
        let address = self.address;
        sent.map_err(|error| match refusal() {
            Some(reason) => ClientError::Connect { address, reason },
            None => ClientError::Lost { address, reason: with_causes(&error) },
        })
    }

    /// Whether what is shown is read by the node alone.
    fn check_privacy(&self) -> Result<(), ClientError> {
        let Credentials { way, is_insecure, .. } = &self.credentials;
        if !matches!(way, Way::Plain) || *is_insecure || self.address.ip().is_loopback() {
            return Ok(());
        }
        let reason = "a token is not shown over plain HTTP, where others can read it: ask at https://, or say --insecure";
        Err(ClientError::Connect { address: self.address, reason: reason.to_owned() })
    }

    fn silent(&self, within: Duration) -> ClientError {
        self.lost(&format_args!("nothing within {} s", within.as_secs()))
    }

    fn lost(&self, reason: &dyn std::fmt::Display) -> ClientError {
        ClientError::Lost { address: self.address, reason: reason.to_string() }
    }
}

/// An answer that comes in parts.
#[derive(Debug)]
pub struct HttpParts {
    /// The status code.
    pub status: u16,
    is_events: bool,
    body: Incoming,
    connection: HttpConnection,
    next_within: Duration,
}

impl HttpParts {
    /// The node that answers.
    pub fn address(&self) -> SocketAddr {
        self.connection.address
    }

    /// The next part; nothing behind the last one.
    ///
    /// # Errors
    /// The connection breaks, or nothing comes in time.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = timeout(self.next_within, self.body.frame()).await;
            let frame = frame.map_err(|_| self.connection.silent(self.next_within))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| self.connection.lost(&error))?;
            // Anything else than bytes says nothing here.
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }

    /// All of it, where it is short: a refusal.
    ///
    /// # Errors
    /// As [`Self::next`], or it is long.
    pub async fn refusal(self) -> Result<HttpAnswer, ClientError> {
        let Self { status, body, connection, .. } = self;
        let answer = timeout(ANSWER_TIMEOUT, connection.whole(status, body)).await;
        answer.unwrap_or_else(|_| Err(connection.silent(ANSWER_TIMEOUT)))
    }
}

async fn open(address: SocketAddr, way: &Way) -> Result<Open, ClientError> {
    let failed =
        |reason: &dyn std::fmt::Display| ClientError::Connect { address, reason: reason.to_string() };
    if let Way::Ticket(ticket) = way {
        let (stream, fate) = ticket.open(address).await.map_err(|error| failed(&error))?;
        return shake_hands(stream, Some(fate), failed).await;
    }
    let late = |_| failed(&format_args!("nothing within {} s", CONNECT_TIMEOUT.as_secs()));
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = connected.map_err(late)?.map_err(|error| failed(&error))?;
    stream.set_nodelay(true).map_err(|error| failed(&error))?;
    let Way::Tls(tls) = way else { return shake_hands(stream, None, failed).await };
    let name = tls.name_of(address);
    let shaken = timeout(TLS_HANDSHAKE_TIMEOUT, TlsConnector::from(tls.config.clone()).connect(name, stream));
    let late = |_| failed(&format_args!("no TLS within {} s", TLS_HANDSHAKE_TIMEOUT.as_secs()));
    let stream = shaken.await.map_err(late)?.map_err(|error| failed(&no_tls(&error)))?;
    shake_hands(stream, None, failed).await
}

/// Why there is no TLS.
fn no_tls(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    let hint = match cause {
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            ": it seems to speak plain HTTP, then leave `https://` out"
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            ": name the authority that has signed it with --ca"
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })) => {
            ": ask by a name that it has, or say which one it has with --tls-name"
        }
        _ => "",
    };
    format!("no TLS: {error}{hint}")
}

/// Begins to speak HTTP.
async fn shake_hands(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    fate: Option<StreamFate>,
    failed: impl Fn(&dyn std::fmt::Display) -> ClientError,
) -> Result<Open, ClientError> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let mut driver = JoinSet::new();
    // Its error reaches the request that is under way.
    driver.spawn(connection.map(drop));
    Ok(Open { sender, fate, _driver: driver })
}
