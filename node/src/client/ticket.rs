//! The nodes of a ticket, reached over QUIC by their keys: what is sent is private, and nobody else can answer.

use std::net::SocketAddr;
use std::sync::{RwLock, RwLockReadGuard};

use tokio::sync::OnceCell;

use crate::cluster::ticket::AspenClusterTicket;
use crate::limits::PEERS_MAX;
use crate::network::iroh::{ClientEndpoint, ClientStream, OpenError, StreamFate};
use crate::types::NodeInfo;

/// The way to the nodes that a ticket names, and to those of which these speak. They are called by the addresses at which they reach
/// each other, since those at which they answer HTTP may be of their own hosts, and alike.
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

    /// Takes down where a member is, of which a node of this way speaks: it can be called there from now on. Where it was before, and
    /// whoever was there before, counts no more.
    pub fn learn(&self, member: &NodeInfo) {
        let mut nodes = self.nodes.write().expect("nothing panics while it holds this lock");
        if !nodes.contains(member) {
            nodes.retain(|known| known.endpoint_id != member.endpoint_id && known.raft != member.raft);
            nodes.truncate(PEERS_MAX as usize - 1);
            nodes.push(member.clone());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::secret::{ClusterSecrets, new_secret};
    use crate::types::EndpointKey;

    #[test]
    fn member_is_called_where_it_was_last_said_to_be() {
        let node = |key: u8, port: u16| NodeInfo {
            endpoint_id: EndpointKey([key; 32]),
            raft: ([127, 0, 0, 1], port).into(),
            http: ([127, 0, 0, 1], port + 1_000).into(),
        };
        let cluster_id = ClusterSecrets::parse(new_secret(), "a test").unwrap().first().cluster_id();
        let way = TicketWay::new(AspenClusterTicket::new(cluster_id, [node(1, 4_001), node(2, 4_002)]));
        let known = || way.known().clone();
        way.learn(&node(2, 4_002));
        assert_eq!(known(), [node(1, 4_001), node(2, 4_002)]);
        way.learn(&node(1, 4_003));
        assert_eq!(known(), [node(2, 4_002), node(1, 4_003)]);
        // A new member, with the address of one that is gone.
        way.learn(&node(3, 4_002));
        assert_eq!(known(), [node(1, 4_003), node(3, 4_002)]);
        assert_eq!(way.nodes_at(([127, 0, 0, 1], 5_002).into()), [([127, 0, 0, 1], 4_002).into()]);
    }
}
