//! How a newcomer asks to be let in: one question on a connection of its own, and one answer. What travels, and what a node does
//! with it.
//!
//! Nobody has to be a member for this, so it is kept small: both messages are bounded, and neither is read before the other's key is
//! proven. Whoever asks shows that it knows the cluster's secret, and so does whoever answers.

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::Peer;
use super::secret::Proof;
use crate::api::ApiError;
use crate::types::{NodeId, NodeInfo};

/// Names the protocol and its version to iroh.
pub const ALPN: &[u8] = b"aspen/join/1";

/// What a newcomer says.
#[derive(Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    /// That it knows the secret.
    pub proof: Proof,
    /// Its number, if it has one already.
    pub id: Option<NodeId>,
    /// Who and where it is; the key is that of the connection.
    pub info: NodeInfo,
}

/// What it is answered.
#[derive(Debug, Serialize, Deserialize)]
pub enum JoinAnswer {
    /// It is a member, if only a learner.
    Joined {
        /// That the one who answers knows the secret, too.
        proof: Proof,
        /// What it has to know.
        welcome: Welcome,
    },
    /// It does not know the secret.
    WrongSecret,
    /// Only the leader lets nodes in.
    NotLeader {
        /// Whom to ask instead, where that is known.
        leader: Option<Peer>,
    },
    /// It cannot be let in, or not now.
    Refused(ApiError),
}

/// What a new member has to know before it can hear of anything by Raft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Its number.
    pub id: NodeId,
    /// Every member: these may speak to it.
    pub members: Vec<Peer>,
    /// How many of the members should vote, if the cluster has been told.
    pub target_voters: Option<u32>,
}

/// Why a newcomer is not let in.
#[derive(Debug)]
pub enum JoinRefusal {
    /// This node does not lead.
    NotLeader {
        /// Who does, where that is known.
        leader: Option<Peer>,
    },
    /// The cluster cannot take it, or not now.
    Refused(ApiError),
}

/// Lets newcomers in whose proof is good.
pub trait JoinService: Send + Sync + 'static {
    /// Makes a node a learner, unless it is a member already; under a new number if it has none.
    fn join(&self, id: Option<NodeId>, info: NodeInfo) -> BoxFuture<'_, Result<Welcome, JoinRefusal>>;
}
