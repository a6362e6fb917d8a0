//! How a node becomes a member by a ticket: it asks those whom the ticket names, until one of them leads it to the leader.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::ticket::AspenClusterTicket;
use crate::api::{ApiError, BadRequest};
use crate::causes::with_causes;
use crate::limits::{JOIN_HOPS_MAX, JOIN_LOG_INTERVAL, JOIN_RETRY};
use crate::network::iroh::{JoinError, RaftEndpoint};
use crate::network::join::{Welcome, Wish};
use crate::network::secret::{ClusterId, ClusterSecrets};
use crate::types::{NodeId, NodeInfo};

/// Why a node will never be let in as it is.
#[derive(Debug, thiserror::Error)]
pub enum NotJoined {
    /// The ticket or the secret is another cluster's.
    #[error(
        "the ticket is of cluster {ticket}, but the secret is that of cluster {secret}: take both from the same cluster, and a new ticket where the \
         secret was replaced"
    )]
    OtherCluster {
        /// What the ticket says.
        ticket: ClusterId,
        /// What the secret says.
        secret: ClusterId,
    },
    /// It would be looked for where it is not.
    #[error(
        "this node is at {0}, where only its own machine reaches it: say with raft_listen or raft_advertise where the members of the ticket do"
    )]
    Loopback(SocketAddr),
    /// The cluster cannot take it.
    #[error("the cluster does not let this node in")]
    Refused(#[source] ApiError),
}

/// Asks until this node is a member: its number, and what it has to know. It takes as long as nobody answers.
///
/// # Errors
/// It will never be one.
pub async fn join(
    endpoint: &RaftEndpoint,
    secrets: &watch::Receiver<ClusterSecrets>,
    ticket: &AspenClusterTicket,
    id: Option<NodeId>,
    info: &NodeInfo,
) -> Result<(NodeId, Welcome), NotJoined> {
    let known = secrets.borrow().clone();
    if known.iter().all(|secret| secret.cluster_id() != ticket.cluster_id) {
        let secret = known.first().cluster_id();
        return Err(NotJoined::OtherCluster { ticket: ticket.cluster_id, secret });
    }
    let others = || ticket.peers.iter().filter(|peer| peer.endpoint_id != info.endpoint_id);
    let is_far = |peer: &NodeInfo| !peer.raft.ip().is_loopback();
    if info.raft.ip().is_loopback() && !endpoint.has_relays() && others().any(is_far) {
        return Err(NotJoined::Loopback(info.raft));
    }
    tracing::info!(cluster = %ticket.cluster_id, peers = others().count(), "asking to be let in");
    let (mut pause, mut last_said): (Duration, Option<Instant>) = (JOIN_RETRY[0], None);
    loop {
        let known = secrets.borrow().clone();
        for peer in others() {
            let error = match ask_around(endpoint, &known, peer, id, info).await {
                Ok((id, welcome)) => return Ok((id, welcome)),
                Err(JoinError::Refused(error)) if is_final(&error) => return Err(NotJoined::Refused(error)),
                Err(error) => error,
            };
            if last_said.is_none_or(|said| said.elapsed() >= JOIN_LOG_INTERVAL) {
                last_said = Some(Instant::now());
                let (peer, text) = (peer.raft, with_causes(&error));
                // Whoever is started with its cluster waits for it.
                if matches!(
                    error,
                    JoinError::Unreachable(_) | JoinError::Lost(_) | JoinError::NotLeader { .. }
                ) {
                    tracing::info!(%peer, error = text, "not let in yet");
                } else {
                    tracing::warn!(%peer, error = text, "not let in yet");
                }
            }
        }
        // Those that were started together do not go on asking together.
        sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        pause = (2 * pause).min(JOIN_RETRY[1]);
    }
}

/// Asks a node, and whom it names as the leader.
async fn ask_around(
    endpoint: &RaftEndpoint,
    secrets: &ClusterSecrets,
    first: &NodeInfo,
    id: Option<NodeId>,
    info: &NodeInfo,
) -> Result<(NodeId, Welcome), JoinError> {
    let mut at = first.clone();
    for _ in 0..JOIN_HOPS_MAX {
        match endpoint.ask(secrets, &at, info, Wish::Join(id)).await {
            Ok(welcome) => return welcome.id.map(|id| (id, welcome)).ok_or(JoinError::Malformed),
            Err(JoinError::NotLeader { leader: Some(leader) }) => at = leader.info,
            Err(error) => return Err(error),
        }
    }
    Err(JoinError::NotLeader { leader: None })
}

/// Whether asking again is of no use.
fn is_final(error: &ApiError) -> bool {
    match error {
        // One may leave.
        ApiError::BadRequest(BadRequest::ClusterFull) => false,
        ApiError::BadRequest(_) | ApiError::MemberExists { .. } => true,
        _ => false,
    }
}
