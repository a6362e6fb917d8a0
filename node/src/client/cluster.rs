//! A client of a whole cluster: the words of [`crate::api`] over HTTP, or over QUIC by a ticket, asked of whichever node can be reached
//! and, where that is said, of the leader.
//!
//! It does not ask again what may have been written: an outcome that is unknown is said to be, and whoever asked decides.

mod error;
mod keys;
mod members;
#[cfg(test)]
mod tests;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Bytes;
use serde::de::DeserializeOwned;

pub use self::error::{ClusterClientError, ClusterRefusal};
pub use self::keys::ClusterPages;
pub use self::members::NodeHealth;
pub use self::watch::ClusterWatch;
use super::ticket::TicketWay;
use super::{ClientError, Credentials, HttpAnswer, HttpConnection, HttpParts, Way};
use crate::api::{BadRequest, Consistency};
use crate::causes::with_causes;
use crate::cluster::ticket::AspenClusterTicket;
use crate::limits::LEADER_HOPS_MAX;
use crate::private::BearerToken;

/// A client of a cluster. It asks one thing at a time, over a connection that it keeps; a clone has a connection of its own.
///
/// ```no_run
/// use aspen_node::api::{Consistency, ReadRequest};
/// use aspen_node::client::Credentials;
/// use aspen_node::client::cluster::{ClusterClient, ClusterClientError};
/// use aspen_node::types::{Command, Key, Outcome};
///
/// # async fn example() -> Result<(), ClusterClientError> {
/// let nodes = vec![([127, 0, 0, 1], 8001).into(), ([127, 0, 0, 1], 8002).into()];
/// let mut client = ClusterClient::new(nodes, Credentials::default());
/// let key = Key::from("greeting");
/// let swap = Command::CompareAndSwap { key: key.clone(), expected: None, value: "hello".into() };
/// match client.write(swap).await {
///     Ok(written) if written.outcome == Outcome::Swapped => println!("revision {}", written.revision),
///     Ok(written) => println!("another was there: {}", written.outcome),
///     Err(error) if error.is_unknown() => println!("it may be written, or not: {error}"),
///     Err(error) => return Err(error),
/// }
/// let read = ReadRequest { vault: None, key, consistency: Consistency::Linearizable };
/// println!("{:?}", client.read(read).await?.record);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ClusterClient {
    /// Those that may be asked, in the order in which they are.
    nodes: Vec<SocketAddr>,
    credentials: Credentials,
    /// To the node that answered last.
    open: Option<HttpConnection>,
}

impl Clone for ClusterClient {
    fn clone(&self) -> Self {
        Self::new(self.nodes.clone(), self.credentials.clone())
    }
}

impl ClusterClient {
    /// A client that asks the first of these nodes that can be reached. They are named by the addresses at which they answer HTTP; on the
    /// way of a ticket, by those at which they reach each other.
    pub fn new(nodes: Vec<SocketAddr>, credentials: Credentials) -> Self {
        Self { nodes, credentials, open: None }
    }

    /// A client of the nodes of a ticket, over QUIC. They want a token, unless they are on this host.
    pub fn by_ticket(ticket: AspenClusterTicket, token: Option<BearerToken>) -> Self {
        let way = TicketWay::new(ticket);
        let nodes = way.nodes();
        Self::new(nodes, Credentials { token, way: Way::Ticket(Arc::new(way)), is_insecure: false })
    }

    /// The nodes that may be asked.
    pub fn nodes(&self) -> &[SocketAddr] {
        &self.nodes
    }

    /// What is shown to them, and how they are reached.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The node that answered last, which is asked next; `None`: there is none, or it could not do what it was asked.
    pub fn node(&self) -> Option<SocketAddr> {
        self.open.as_ref().map(HttpConnection::address)
    }

    /// A connection to a node, not made yet, that shows what this client shows.
    pub fn connection(&self, node: SocketAddr) -> HttpConnection {
        HttpConnection::new(node).with_credentials(self.credentials.clone())
    }

    /// Tells the nodes that this client is gone, where they would wait for it: those of a ticket, which cannot be asked any more then, by
    /// its clones neither.
    pub async fn close(&mut self) {
        self.open = None;
        self.credentials.close().await;
    }

    /// Asks the node that answered last, or the first that can be reached, and then the leader if that is what the node says; the answer,
    /// whose status is 200. Path and body are those of docs/http.md.
    ///
    /// # Errors
    /// No node can be reached, the one that was asked does not answer, or it refuses.
    pub async fn request(
        &mut self,
        method: &'static str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<HttpAnswer, ClusterClientError> {
        Ok(self.answered(method, path, body).await?.answer)
    }

    /// The same, with the answer read from JSON.
    ///
    /// # Errors
    /// As [`Self::request`], or the answer is another than `T`.
    pub async fn request_json<T: DeserializeOwned>(
        &mut self,
        method: &'static str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<T, ClusterClientError> {
        self.answered(method, path, body).await?.json()
    }

    /// Asks the first node that can be reached for the whole state as one file, as [`crate::backup`] has it; bytes that come as they are
    /// taken. It has a connection of its own.
    ///
    /// # Errors
    /// As [`Self::request`]; an age cannot be bounded here.
    pub async fn backup(&self, consistency: Consistency) -> Result<HttpParts, ClusterClientError> {
        let path = format!("/cluster/backup?consistency={}", unbounded(consistency)?.as_str());
        let (mut reasons, mut outside) = (Vec::new(), None);
        for node in &self.nodes {
            match self.connection(*node).backup(&path).await {
                Ok(parts) if parts.status == 200 => return Ok(parts),
                Ok(refused) => match refused.refusal().await? {
                    refusal if is_outside(&refusal) => {
                        outside = Some(ClusterClientError::refused(refusal, false));
                    }
                    refusal => return Err(ClusterClientError::refused(refusal, false)),
                },
                Err(error @ ClientError::Connect { .. }) => reasons.push(error.to_string()),
                Err(error @ ClientError::Lost { .. }) => return Err(error.into()),
            }
        }
        Err(outside.unwrap_or(ClusterClientError::Unreachable(reasons)))
    }

    /// An answer of 200, and whose it is.
    async fn answered(
        &mut self,
        method: &'static str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answered, ClusterClientError> {
        let body = body.into();
        let mut asked = Vec::new();
        for _ in 0..LEADER_HOPS_MAX {
            let refusal = match self.ask(method, path, body.clone()).await {
                Err(ClusterClientError::Refused(refusal)) => refusal,
                answered => return answered,
            };
            // Who does not lead has done nothing, so the leader may be asked. It may be out of reach of who is not a member: then the
            // refusal stands.
            asked.extend(self.node());
            let Some(leader) = self.reach_leader(&refusal, &asked).await else {
                if refusal.status == UNAVAILABLE
                    && let Some(connection) = self.open.take()
                {
                    self.ask_last(connection.address());
                }
                return Err(ClusterClientError::Refused(refusal));
            };
            self.open = Some(leader);
        }
        self.ask(method, path, body).await
    }

    /// Asks one node.
    async fn ask(
        &mut self,
        method: &'static str,
        path: &str,
        body: Bytes,
    ) -> Result<Answered, ClusterClientError> {
        let changes = may_change(method, path);
        let kept = self.open.take();
        let node = kept.as_ref().map(HttpConnection::address);
        let others = self.nodes.iter().filter(|other| Some(**other) != node);
        let others: Vec<HttpConnection> = others.map(|node| self.connection(*node)).collect();
        let (mut reasons, mut outside) = (Vec::new(), None);
        for mut connection in kept.into_iter().chain(others) {
            match connection.request(method, path, body.clone()).await {
                Ok(answer) if is_outside(&answer) => {
                    self.ask_last(connection.address());
                    outside = Some(ClusterClientError::refused(answer, changes));
                }
                Ok(answer) => {
                    let node = connection.address();
                    self.open = Some(connection);
                    let is_done = answer.status == 200;
                    let refused = |answer| Err(ClusterClientError::refused(answer, changes));
                    return if is_done { Ok(Answered { node, changes, answer }) } else { refused(answer) };
                }
                // Nothing was sent: another one may be asked the same.
                Err(error @ ClientError::Connect { .. }) => reasons.push(error.to_string()),
                Err(error @ ClientError::Lost { .. }) => {
                    self.ask_last(connection.address());
                    return Err(ClusterClientError::Lost { error, changes });
                }
            }
        }
        Err(outside.unwrap_or(ClusterClientError::Unreachable(reasons)))
    }

    /// Has a node asked after the others from now on: it may hang, or be of no use for long.
    fn ask_last(&mut self, node: SocketAddr) {
        self.nodes.sort_by_key(|other| *other == node);
    }

    /// A connection to the leader that a refusal names, unless that was asked.
    async fn reach_leader(&self, refusal: &ClusterRefusal, asked: &[SocketAddr]) -> Option<HttpConnection> {
        let leader = refusal.leader.as_ref().filter(|_| !refusal.is_unknown)?;
        let http = leader.http.as_ref()?.parse().ok()?;
        for node in self.credentials.way.nodes_at(http) {
            let mut connection = self.connection(node);
            if !asked.contains(&node) && connection.request("GET", "/health", "").await.is_ok() {
                return Some(connection);
            }
        }
        None
    }
}

/// An answer of 200.
struct Answered {
    node: SocketAddr,
    /// Whether something was asked to be written.
    changes: bool,
    answer: HttpAnswer,
}

impl Answered {
    /// What was read of it.
    fn checked<T>(&self, read: Result<T, impl std::error::Error>) -> Result<T, ClusterClientError> {
        let Self { node, changes, .. } = *self;
        read.map_err(|error| ClusterClientError::Strange { node, reason: with_causes(&error), changes })
    }

    fn json<T: DeserializeOwned>(&self) -> Result<T, ClusterClientError> {
        self.checked(serde_json::from_slice(&self.answer.body))
    }
}

/// The status of a node that cannot do what it is asked, while another one might.
const UNAVAILABLE: u16 = 503;

/// Whether it is a node that answers which belongs to the cluster no more, or not yet: it has done nothing, and another one may be asked.
fn is_outside(answer: &HttpAnswer) -> bool {
    matches!(answer.code().as_deref(), Some("removed" | "joining"))
}

/// Whether a request can write something.
fn may_change(method: &str, path: &str) -> bool {
    method != "GET" && !matches!(path, "/kv/read" | "/kv/scan")
}

/// A consistency that has a word of its own.
fn unbounded(consistency: Consistency) -> Result<Consistency, BadRequest> {
    match consistency {
        Consistency::Bounded(_) => {
            Err(BadRequest::Malformed("the age of this cannot be bounded: `stale` takes any".to_owned()))
        }
        other => Ok(other),
    }
}
