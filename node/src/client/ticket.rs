//! The nodes of a ticket, reached over QUIC by their keys: what is sent is private, and nobody else can answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::sync::OnceCell;

use crate::cluster::ticket::AspenClusterTicket;
use crate::network::iroh::{ClientEndpoint, ClientStream};
use crate::types::NodeInfo;

/// The way to the nodes that a ticket names.
#[derive(Debug)]
pub struct TicketWay {
    /// By their HTTP addresses, by which they are called here as everywhere.
    nodes: BTreeMap<SocketAddr, NodeInfo>,
    /// Bound when it is first needed.
    endpoint: OnceCell<ClientEndpoint>,
}

impl TicketWay {
    /// The way to the nodes of a ticket.
    pub fn new(ticket: AspenClusterTicket) -> Self {
        let nodes = ticket.peers.into_iter().map(|info| (info.http, info)).collect();
        Self { nodes, endpoint: OnceCell::new() }
    }

    /// The HTTP addresses of the nodes.
    pub fn nodes(&self) -> impl Iterator<Item = SocketAddr> {
        self.nodes.keys().copied()
    }

    /// Opens a stream to the node with this HTTP address.
    pub(super) async fn open(&self, http: SocketAddr) -> Result<ClientStream, String> {
        let unknown =
            || "the ticket does not name this node: `aspen cluster ticket` prints a new one".to_owned();
        let node = self.nodes.get(&http).ok_or_else(unknown)?;
        let endpoint = self.endpoint.get_or_try_init(ClientEndpoint::bind).await;
        endpoint.map_err(|error| error.to_string())?.open(node).await
    }
}
