//! The routes under /cluster.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::HttpState;
use super::body::Body;
use super::error::Refusal;
use crate::api::{BadRequest, ClusterStatus, SnapshotStatus};
use crate::types::{NodeId, NodeInfo};

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
    Body(body): Body<InitBody>,
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

/// POST /cluster/snapshot
pub(super) async fn snapshot(
    State(state): State<HttpState>,
    Body(Nothing {}): Body<Nothing>,
) -> Result<Json<SnapshotStatus>, Refusal> {
    Ok(Json(state.cluster.trigger_snapshot().await?))
}

fn known(peers: &BTreeMap<NodeId, NodeInfo>, id: NodeId) -> Result<(NodeId, NodeInfo), Refusal> {
    let names = || peers.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let info = peers.get(&id).cloned();
    let info = info.ok_or_else(|| crate::api::ApiError::from(BadRequest::UnknownMember(id, names())))?;
    Ok((id, info))
}
