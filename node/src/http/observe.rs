//! Health, and what an observer that judges the cluster reads.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::HttpState;
use super::body::query_error;
use super::error::Refusal;
use crate::api::{LogDigest, RaftState, StateDigest};
use crate::metrics::{self, Metrics};

/// GET /health
pub(super) async fn health(State(state): State<HttpState>) -> (StatusCode, Json<JsonValue>) {
    let status = state.cluster.status();
    let reason = match (status.is_initialized, &status.leader) {
        _ if status.is_removed => Some("this node was removed from its cluster"),
        (false, _) => Some("not part of a cluster yet: POST /cluster/init on one node"),
        (true, None) => Some("no leader is known"),
        (true, Some(_)) => None,
    };
    health_of(reason)
}

/// The same where the node waits to be let into its cluster.
pub(super) async fn newcomer_health() -> (StatusCode, Json<JsonValue>) {
    health_of(Some("this node waits to be let into its cluster"))
}

fn health_of(reason: Option<&str>) -> (StatusCode, Json<JsonValue>) {
    let code = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "live": true, "ready": reason.is_none(), "reason": reason })))
}

/// GET /metrics
pub(super) async fn metrics(
    State(state): State<HttpState>,
) -> Result<([(HeaderName, &'static str); 1], String), Refusal> {
    let (raft, measures) = (state.cluster.get_metrics()?, state.observer()?.measures());
    let text = state.metrics.text(&raft, &state.cluster.status(), &measures);
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text))
}

/// Notes how long a request has taken.
pub(super) async fn timed(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let (began, method) = (Instant::now(), request.method().clone());
    // Not the path: there are as many as keys.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    metrics.note_http(method.as_str(), route, response.status().as_u16(), began.elapsed());
    response
}

/// GET /raft/state
pub(super) async fn raft_state(State(state): State<HttpState>) -> Result<Json<RaftState>, Refusal> {
    Ok(Json(state.cluster.get_metrics()?))
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
    Ok(Json(state.observer()?.log_digest(range.from, range.to).await?))
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
    Ok(Json(state.observer()?.state_digest(at.at).await?))
}
