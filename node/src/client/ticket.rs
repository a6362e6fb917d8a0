//! The nodes of a ticket, reached over QUIC by their keys: what is sent is private, and nobody else can answer.

use std::net::SocketAddr;

use tokio::sync::OnceCell;

use crate::cluster::ticket::AspenClusterTicket;
use crate::network::iroh::{ClientEndpoint, ClientStream, OpenError, StreamFate};
use crate::types::{EndpointKey, NodeInfo};

/// The way to the nodes that a ticket names. They are called by the addresses at which they reach each other, since those at which they
/// answer HTTP may be of their own hosts, and alike.
#[derive(Debug)]
pub struct TicketWay {
    nodes: Vec<NodeInfo>,
    /// Bound when it is first needed.
    endpoint: OnceCell<ClientEndpoint>,
}

/// Why a node of a ticket cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    /// It is another cluster's, or newer than the ticket.
    #[error("the ticket does not name this node: `aspen cluster ticket` prints a new one")]
    Unknown,
    /// There is no stream to it.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl TicketWay {
    /// The way to the nodes of a ticket.
    pub fn new(ticket: AspenClusterTicket) -> Self {
        Self { nodes: ticket.peers, endpoint: OnceCell::new() }
    }

    /// The nodes, in the ticket's order.
    pub fn nodes(&self) -> impl Iterator<Item = SocketAddr> {
        self.nodes.iter().map(|node| node.raft)
    }

    /// Where the node with this key is.
    pub fn address_of(&self, endpoint_id: &EndpointKey) -> Option<SocketAddr> {
        self.nodes.iter().find(|node| node.endpoint_id == *endpoint_id).map(|node| node.raft)
    }

    /// Those that answer HTTP at an address.
    pub fn nodes_at(&self, http: SocketAddr) -> impl Iterator<Item = SocketAddr> {
        self.nodes.iter().filter(move |node| node.http == http).map(|node| node.raft)
    }

    /// Opens a stream to a node.
    pub(super) async fn open(&self, raft: SocketAddr) -> Result<(ClientStream, StreamFate), TicketError> {
        let node = self.nodes.iter().find(|node| node.raft == raft).ok_or(TicketError::Unknown)?;
        let endpoint = self.endpoint.get_or_try_init(ClientEndpoint::bind).await.map_err(OpenError::from)?;
        Ok(endpoint.open(node).await?)
    }

    /// Tells the nodes that this client is gone.
    pub async fn close(&self) {
        if let Some(endpoint) = self.endpoint.get() {
            endpoint.close().await;
        }
    }
}
