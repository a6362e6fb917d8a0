//! The cluster and its nodes, as [`ClusterController`](crate::api::ClusterController) and [`RaftObserver`](crate::api::RaftObserver)
//! have them. Changes of the members are made by the leader, who is asked where another node says who that is.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::{ClusterClient, ClusterClientError};
use crate::api::{ClusterStatus, RaftState, SnapshotStatus};
use crate::cluster::ticket::AspenClusterTicket;
use crate::types::{NodeId, NodeInfo};

/// Whether a node can be of use.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NodeHealth {
    /// Whether it runs.
    #[serde(rename = "live")]
    pub is_live: bool,
    /// Whether it is part of a cluster and knows of a leader, who need not be there any more.
    #[serde(rename = "ready")]
    pub is_ready: bool,
    /// Why it is not.
    pub reason: Option<String>,
}

impl ClusterClient {
    /// Makes a new cluster of peers that the nodes are configured with, the one that is asked among them; without any, of all of them.
    ///
    /// # Errors
    /// As [`Self::request`]; `already_initialized`, or `members` where they make no cluster.
    pub async fn init(&mut self, members: &[NodeId]) -> Result<ClusterStatus, ClusterClientError> {
        let body = if members.is_empty() { json!({}) } else { json!({ "members": members }) };
        self.post("/cluster/init", &body).await
    }

    /// Lets a node learn, which is then sent all that there is. `info` is left out for a peer that the leader is configured with. Asked
    /// again, it does nothing.
    ///
    /// # Errors
    /// As [`Self::request`]; `member_exists`, `change_in_progress`, `members`.
    pub async fn add_learner(
        &mut self,
        id: NodeId,
        info: Option<NodeInfo>,
    ) -> Result<ClusterStatus, ClusterClientError> {
        let body = match info {
            None => json!({ "id": id }),
            Some(NodeInfo { endpoint_id, raft, http }) => {
                json!({ "id": id, "endpoint_id": endpoint_id, "raft": raft, "http": http })
            }
        };
        self.post("/cluster/add-learner", &body).await
    }

    /// Makes one learner vote, too; with `force` although it does not answer, or lacks many entries.
    ///
    /// # Errors
    /// As [`Self::add_learner`].
    pub async fn promote_learner(
        &mut self,
        id: NodeId,
        force: bool,
    ) -> Result<ClusterStatus, ClusterClientError> {
        self.post("/cluster/promote-learner", &json!({ "id": id, "force": force })).await
    }

    /// Makes exactly these members vote. The voters that are not among them become learners if `retain` is set, otherwise they leave the
    /// cluster. `force` is as in [`Self::promote_learner`].
    ///
    /// # Errors
    /// As [`Self::add_learner`].
    pub async fn change_membership(
        &mut self,
        voters: &BTreeSet<NodeId>,
        retain: bool,
        force: bool,
    ) -> Result<ClusterStatus, ClusterClientError> {
        let body = json!({ "voters": voters, "retain": retain, "force": force });
        self.post("/cluster/change-membership", &body).await
    }

    /// Takes a member out of the cluster.
    ///
    /// # Errors
    /// As [`Self::add_learner`].
    pub async fn remove_member(&mut self, id: NodeId) -> Result<ClusterStatus, ClusterClientError> {
        self.post("/cluster/remove-member", &json!({ "id": id })).await
    }

    /// Hands leadership to a voter, and returns when it leads.
    ///
    /// # Errors
    /// As [`Self::add_learner`]; `timeout`, where the voter could not be elected.
    pub async fn transfer_leader(&mut self, to: NodeId) -> Result<ClusterStatus, ClusterClientError> {
        self.post("/cluster/transfer-leader", &json!({ "id": to })).await
    }

    /// Makes a snapshot of the state of the node that is asked, unless the last one is as new as the state.
    ///
    /// # Errors
    /// As [`Self::request`]; `timeout` where it takes longer: it goes on.
    pub async fn trigger_snapshot(&mut self) -> Result<SnapshotStatus, ClusterClientError> {
        self.post("/cluster/snapshot", &json!({})).await
    }

    /// What the node that is asked knows of its cluster.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn status(&mut self) -> Result<ClusterStatus, ClusterClientError> {
        self.request_json("GET", "/cluster/status", "").await
    }

    /// Where the node that is asked stands in Raft.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn raft_state(&mut self) -> Result<RaftState, ClusterClientError> {
        self.request_json("GET", "/raft/state", "").await
    }

    /// What another node needs, besides the secret, to join; and a client, besides a token, to reach the members over QUIC.
    ///
    /// # Errors
    /// As [`Self::request`]; `no_secret`, where the nodes have none.
    pub async fn ticket(&mut self) -> Result<AspenClusterTicket, ClusterClientError> {
        let told: Told = self.request_json("GET", "/cluster/ticket", "").await?;
        Ok(told.ticket)
    }

    /// Whether the node that is asked can be of use. It asks nobody else: to know whether the cluster serves, read a key.
    ///
    /// # Errors
    /// As [`Self::request`], but for a node that is not ready.
    pub async fn health(&mut self) -> Result<NodeHealth, ClusterClientError> {
        match self.request_json("GET", "/health", "").await {
            Err(ClusterClientError::Refused(refusal)) if refusal.code.is_none() => {
                let health = serde_json::from_slice(&refusal.answer.body);
                health.map_err(|_| ClusterClientError::Refused(refusal))
            }
            told => told,
        }
    }

    /// What the node that is asked measures, as Prometheus reads it (docs/http.md has the names).
    ///
    /// # Errors
    /// As [`Self::request`], or it is no text.
    pub async fn metrics(&mut self) -> Result<String, ClusterClientError> {
        let answered = self.answered("GET", "/metrics", "").await?;
        answered.checked(String::from_utf8(answered.answer.body.to_vec()))
    }

    async fn post<T: DeserializeOwned>(&mut self, path: &str, body: &Json) -> Result<T, ClusterClientError> {
        self.request_json("POST", path, body.to_string()).await
    }
}

/// An answer with a ticket, and more for people.
#[derive(Deserialize)]
struct Told {
    ticket: AspenClusterTicket,
}
