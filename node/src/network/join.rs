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
pub const ALPN: &[u8] = b"aspen/join/3";

/// What is asked, by whom.
#[derive(Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    /// That it knows the secret.
    pub proof: Proof,
    /// Who and where it is; the key is that of the connection.
    pub info: NodeInfo,
    /// What it wants.
    pub wish: Wish,
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// To be let in, under this number if it has one already.
    Join(Option<NodeId>),
    /// To be told who belongs to the cluster now: it does itself, or did, and hears of no leader.
    Members,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub enum JoinAnswer {
    /// Whoever asks does not know the secret.
    WrongSecret,
    /// An answer that counts.
    Proven {
        /// That the one who answers knows the secret, too.
        proof: Proof,
        /// What it says.
        verdict: Result<Welcome, JoinRefusal>,
    },
}

/// What a member has to know before it can hear of anything by Raft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The index of the entry that made the members who they are: of two answers the later one counts.
    pub as_of: u64,
    /// The number of whoever asks; `None` if it is no member.
    pub id: Option<NodeId>,
    /// Every member: these may speak to it.
    pub members: Vec<Peer>,
    /// How many of the members should vote, if the cluster has been told.
    pub target_voters: Option<u32>,
}

/// Why a wish is not granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinRefusal {
    /// Only the leader lets nodes in.
    NotLeader {
        /// Whom to ask instead, where that is known.
        leader: Option<Peer>,
    },
    /// The cluster cannot take it, or not now.
    Refused(ApiError),
}

/// Grants the wishes of those whose proof is good.
pub trait JoinService: Send + Sync + 'static {
    /// Makes a node a learner, unless it is a member already; under a new number if it has none. Or only says who is a member.
    fn grant(&self, wish: Wish, info: NodeInfo) -> BoxFuture<'_, Result<Welcome, JoinRefusal>>;
}
