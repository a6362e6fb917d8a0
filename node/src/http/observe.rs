//! Health, and what an observer that judges the cluster reads.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::HttpState;
use super::body::query_error;
use super::error::Refusal;
use crate::api::{LogDigest, RaftState, StateDigest};

/// GET /health
pub(super) async fn health(State(state): State<HttpState>) -> (StatusCode, Json<JsonValue>) {
    let status = state.cluster.status();
    let reason = match (status.is_initialized, &status.leader) {
        (false, _) => Some("not part of a cluster yet: POST /cluster/init on one node"),
        (true, None) => Some("no leader is known"),
        (true, Some(_)) => None,
    };
    let code = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "live": true, "ready": reason.is_none(), "reason": reason })))
}

/// GET /raft/state
pub(super) async fn raft_state(State(state): State<HttpState>) -> Json<RaftState> {
    Json(state.observer.raft_state())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogRange {
    from: u64,
    to: u64,
}

/// GET /raft/log/digest?from=&to=
pub(super) async fn log_digest(
    State(state): State<HttpState>,
    range: Result<Query<LogRange>, QueryRejection>,
) -> Result<Json<LogDigest>, Refusal> {
    let Query(range) = range.map_err(query_error)?;
    Ok(Json(state.observer.log_digest(range.from, range.to).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StateAt {
    at: Option<u64>,
}

/// GET /state/digest?at=
pub(super) async fn state_digest(
    State(state): State<HttpState>,
    at: Result<Query<StateAt>, QueryRejection>,
) -> Result<Json<StateDigest>, Refusal> {
    let Query(at) = at.map_err(query_error)?;
    Ok(Json(state.observer.state_digest(at.at).await?))
}
