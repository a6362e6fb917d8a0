//! The routes under /cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::body::Body;
use super::error::Refusal;
use super::{HttpState, malformed};
use crate::api::{ApiError, BadRequest, ClusterStatus, SnapshotStatus};
use crate::cluster::ticket::AspenClusterTicket;
use crate::types::{EndpointKey, NodeId, NodeInfo};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InitBody {
    /// Numbers of configured peers; absent: all of them.
    members: Option<Vec<NodeId>>,
}

/// A request that says nothing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// POST /cluster/init
pub(super) async fn init(
    State(state): State<HttpState>,
    Body(body, _held): Body<InitBody>,
) -> Result<Json<ClusterStatus>, Refusal> {
    let members = match body.members {
        None => (*state.peers).clone(),
        Some(ids) => ids.into_iter().map(|id| known(&state.peers, id)).collect::<Result<_, _>>()?,
    };
    state.cluster.init(members).await?;
    Ok(Json(state.cluster.status()))
}

/// GET /cluster/status
pub(super) async fn status(State(state): State<HttpState>) -> Json<ClusterStatus> {
    Json(state.cluster.status())
}

/// What a node needs, besides the secret, to join.
#[derive(Debug, Serialize)]
pub(super) struct TicketAnswer {
    ticket: String,
    cluster_id: String,
    /// Whom it names.
    peers: Vec<NodeInfo>,
}

/// GET /cluster/ticket
pub(super) async fn ticket(State(state): State<HttpState>) -> Result<Json<TicketAnswer>, Refusal> {
    let cluster_id = state.cluster_id().ok_or(ApiError::NoSecret)?;
    let ClusterStatus { id, mut members, leader, is_removed, .. } = state.cluster.status();
    if is_removed {
        return Err(ApiError::Removed.into());
    }
    if members.is_empty() {
        return Err(ApiError::NotLeader { leader: None }.into());
    }
    // Those first that are likely to be there: the leader, this node, and voters before learners.
    let leader = leader.map(|leader| leader.id);
    members.sort_by_key(|member| (leader != Some(member.id), member.id != id, !member.is_voter, member.id));
    let ticket = AspenClusterTicket::new(cluster_id, members.into_iter().map(|member| member.info));
    let text = ticket.to_string();
    Ok(Json(TicketAnswer { ticket: text, cluster_id: cluster_id.to_string(), peers: ticket.peers }))
}

/// POST /cluster/snapshot
pub(super) async fn snapshot(
    State(state): State<HttpState>,
    Body(Nothing {}, _held): Body<Nothing>,
) -> Result<Json<SnapshotStatus>, Refusal> {
    Ok(Json(state.cluster.trigger_snapshot().await?))
}

/// A new member: its number, and where and who it is; that is left out for a configured peer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LearnerBody {
    id: NodeId,
    endpoint_id: Option<EndpointKey>,
    raft: Option<SocketAddr>,
    http: Option<SocketAddr>,
}

/// POST /cluster/add-learner
pub(super) async fn add_learner(
    State(state): State<HttpState>,
    Body(body, _held): Body<LearnerBody>,
) -> Result<Json<ClusterStatus>, Refusal> {
    let (id, info) = match (body.endpoint_id, body.raft, body.http) {
        (Some(endpoint_id), Some(raft), Some(http)) => (body.id, NodeInfo { endpoint_id, raft, http }),
        (None, None, None) => known(&state.peers, body.id)?,
        _ => {
            let reason =
                "`endpoint_id`, `raft` and `http` are needed together, or none of them for a configured peer";
            return Err(malformed(reason).into());
        }
    };
    if id == NodeId(0) {
        return Err(malformed("id is 0, node numbers start at 1").into());
    }
    state.cluster.add_learner(id, info).await?;
    Ok(Json(state.cluster.status()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VotersBody {
    voters: BTreeSet<NodeId>,
    /// Whether those that do not vote any more stay as learners.
    #[serde(default)]
    retain: bool,
    /// Whether voters are added that do not answer, or lack many entries.
    #[serde(default)]
    force: bool,
}

/// POST /cluster/change-membership
pub(super) async fn change_membership(
    State(state): State<HttpState>,
    Body(body, _held): Body<VotersBody>,
) -> Result<Json<ClusterStatus>, Refusal> {
    state.cluster.change_membership(body.voters, body.retain, body.force).await?;
    Ok(Json(state.cluster.status()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MemberBody {
    id: NodeId,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PromoteBody {
    id: NodeId,
    /// Whether it votes although it does not answer, or lacks many entries.
    #[serde(default)]
    force: bool,
}

/// POST /cluster/promote-learner
pub(super) async fn promote_learner(
    State(state): State<HttpState>,
    Body(body, _held): Body<PromoteBody>,
) -> Result<Json<ClusterStatus>, Refusal> {
    state.cluster.promote_learner(body.id, body.force).await?;
    Ok(Json(state.cluster.status()))
}

/// What has become of the members, and whether there was one to remove.
#[derive(Debug, Serialize)]
pub(super) struct RemoveAnswer {
    #[serde(flatten)]
    status: ClusterStatus,
    was_member: bool,
}

/// POST /cluster/remove-member
pub(super) async fn remove_member(
    State(state): State<HttpState>,
    Body(body, _held): Body<MemberBody>,
) -> Result<Json<RemoveAnswer>, Refusal> {
    let was_member = state.cluster.status().members.iter().any(|member| member.id == body.id);
    state.cluster.remove_member(body.id).await?;
    Ok(Json(RemoveAnswer { status: state.cluster.status(), was_member }))
}

/// POST /cluster/transfer-leader
pub(super) async fn transfer_leader(
    State(state): State<HttpState>,
    Body(body, _held): Body<MemberBody>,
) -> Result<Json<ClusterStatus>, Refusal> {
    state.cluster.transfer_leader(body.id).await?;
    Ok(Json(state.cluster.status()))
}

fn known(peers: &BTreeMap<NodeId, NodeInfo>, id: NodeId) -> Result<(NodeId, NodeInfo), Refusal> {
    let names = || peers.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let info = peers.get(&id).cloned();
    let info = info.ok_or_else(|| ApiError::from(BadRequest::UnknownMember(id, names())))?;
    Ok((id, info))
}
