//! The nodes of a ticket, reached over QUIC by their keys: what is sent is private, and nobody else can answer.

use std::net::SocketAddr;
use std::sync::{RwLock, RwLockReadGuard};

use tokio::sync::OnceCell;

use crate::cluster::ticket::AspenClusterTicket;
use crate::network::iroh::{ClientEndpoint, ClientStream, OpenError, StreamFate};
use crate::types::NodeInfo;

/// The way to the nodes that a ticket names, and to those of which these speak. They are called by the addresses at which they reach each other, since those at which they
/// answer HTTP may be of their own hosts, and alike.
#[derive(Debug)]
pub struct TicketWay {
    nodes: RwLock<Vec<NodeInfo>>,
    /// Bound when it is first needed.
    endpoint: OnceCell<ClientEndpoint>,
}

/// Why a node of a ticket cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    /// It is another cluster's, or newer than the ticket, and nobody has spoken of it.
    #[error("the ticket does not name this node: `aspen cluster ticket` prints a new one")]
    Unknown,
    /// There is no stream to it.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl TicketWay {
    /// The way to the nodes of a ticket.
    pub fn new(ticket: AspenClusterTicket) -> Self {
        Self { nodes: RwLock::new(ticket.peers), endpoint: OnceCell::new() }
    }

    /// The nodes, in the ticket's order, and those that were learnt since.
    pub fn nodes(&self) -> Vec<SocketAddr> {
        self.known().iter().map(|node| node.raft).collect()
    }

    /// Takes down where a member is, of which a node of this way speaks: it can be called from now on.
    pub fn learn(&self, member: &NodeInfo) {
        if !self.known().contains(member) {
            self.nodes.write().expect("nothing panics while it holds this lock").push(member.clone());
        }
    }

    /// Those that answer HTTP at an address.
    pub fn nodes_at(&self, http: SocketAddr) -> Vec<SocketAddr> {
        self.known().iter().filter(|node| node.http == http).map(|node| node.raft).collect()
    }

    fn known(&self) -> RwLockReadGuard<'_, Vec<NodeInfo>> {
        self.nodes.read().expect("nothing panics while it holds this lock")
    }

    /// Opens a stream to a node.
    pub(super) async fn open(&self, raft: SocketAddr) -> Result<(ClientStream, StreamFate), TicketError> {
        let node = self.known().iter().find(|node| node.raft == raft).cloned().ok_or(TicketError::Unknown)?;
        let endpoint = self.endpoint.get_or_try_init(ClientEndpoint::bind).await.map_err(OpenError::from)?;
        Ok(endpoint.open(&node).await?)
    }

    /// Tells the nodes that this client is gone.
    pub async fn close(&self) {
        if let Some(endpoint) = self.endpoint.get() {
            endpoint.close().await;
        }
    }
}
