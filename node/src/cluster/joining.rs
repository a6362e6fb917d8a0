//! How a node becomes a member by a ticket: it asks those whom the ticket names, until one of them leads it to the leader.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::ticket::AspenClusterTicket;
use crate::api::ApiError;
use crate::limits::{JOIN_LOG_INTERVAL, JOIN_RETRY};
use crate::network::iroh::{JoinError, RaftEndpoint};
use crate::network::join::Welcome;
use crate::network::secret::{ClusterId, ClusterSecret};
use crate::types::{NodeId, NodeInfo};

/// Why a node will never be let in as it is.
#[derive(Debug, thiserror::Error)]
pub enum NotJoined {
    /// The ticket or the secret is another cluster's.
    #[error(
        "the ticket is of cluster {ticket}, but the secret is that of cluster {secret}: take both from the same cluster"
    )]
    OtherCluster {
        /// What the ticket says.
        ticket: ClusterId,
        /// What the secret says.
        secret: ClusterId,
    },
    /// The cluster cannot take it.
    #[error("the cluster does not let this node in")]
    Refused(#[source] ApiError),
}

/// Asks until this node is a member. It takes as long as nobody answers.
///
/// # Errors
/// It will never be one.
pub async fn join(
    endpoint: &RaftEndpoint,
    secret: &ClusterSecret,
    ticket: &AspenClusterTicket,
    id: Option<NodeId>,
    info: &NodeInfo,
) -> Result<Welcome, NotJoined> {
    if ticket.cluster_id != secret.cluster_id() {
        return Err(NotJoined::OtherCluster { ticket: ticket.cluster_id, secret: secret.cluster_id() });
    }
    let others = || ticket.peers.iter().filter(|peer| peer.endpoint_id != info.endpoint_id).cloned();
    tracing::info!(cluster = %ticket.cluster_id, peers = others().count(), "asking to be let in");
    let (mut pause, mut last_said): (Duration, Option<Instant>) = (JOIN_RETRY[0], None);
    loop {
        // Whoever is said to lead is asked next, if it was not yet.
        let mut to_ask: VecDeque<NodeInfo> = others().collect();
        let mut asked: Vec<NodeInfo> = Vec::new();
        while let Some(peer) = to_ask.pop_front() {
            if asked.contains(&peer) {
                continue;
            }
            asked.push(peer.clone());
            let error = match endpoint.join(secret, &peer, id, info).await {
                Ok(welcome) => return Ok(welcome),
                Err(JoinError::Refused(
                    error @ (ApiError::BadRequest(_) | ApiError::MemberExists { .. }),
                )) => {
                    return Err(NotJoined::Refused(error));
                }
                Err(error) => error,
            };
            if let JoinError::NotLeader { leader: Some(leader) } = &error {
                to_ask.push_front(leader.info.clone());
            } else if last_said.is_none_or(|said| said.elapsed() >= JOIN_LOG_INTERVAL) {
                last_said = Some(Instant::now());
                tracing::warn!(peer = %peer.raft, %error, "not let in yet");
            }
        }
        sleep(pause).await;
        pause = (2 * pause).min(JOIN_RETRY[1]);
    }
}
