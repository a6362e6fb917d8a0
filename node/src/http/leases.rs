//! The routes of leases.

use axum::Json;
use axum::extract::Path;
use axum::extract::State;
use axum::extract::rejection::PathRejection;
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::body::Body;
use super::command::{Object, written};
use super::error::Refusal;
use super::{HttpState, malformed};
use crate::api::{Consistency, LeaseList};
use crate::types::{Command, LeaseId};

/// The number of a lease in a path.
type LeaseInPath = Result<Path<u64>, PathRejection>;

fn lease(path: LeaseInPath) -> Result<LeaseId, Refusal> {
    let Path(lease) = path.map_err(|rejection| malformed(rejection.body_text()))?;
    Ok(LeaseId(lease))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantBody {
    ttl_ms: u64,
}

/// GET /leases
pub(super) async fn list(State(state): State<HttpState>) -> Result<Json<LeaseList>, Refusal> {
    Ok(Json(state.store.leases(Consistency::Linearizable).await?))
}

/// POST /leases
pub(super) async fn grant(
    State(state): State<HttpState>,
    Body(GrantBody { ttl_ms }, _held): Body<GrantBody>,
) -> Result<Json<Object>, Refusal> {
    let result = state.store.write(Command::GrantLease { ttl_ms }).await?;
    let lease = result.revision.0;
    let mut answer = written(result)?;
    answer.insert("lease".to_owned(), lease.into());
    answer.insert("ttl_ms".to_owned(), ttl_ms.into());
    Ok(Json(answer))
}

/// POST /lease/{id}/keep
pub(super) async fn keep(
    State(state): State<HttpState>,
    path: LeaseInPath,
) -> Result<Json<JsonValue>, Refusal> {
    let lease = lease(path)?;
    let ttl_ms = state.store.keep_lease(lease).await?;
    Ok(Json(json!({ "lease": lease, "ttl_ms": ttl_ms })))
}

/// DELETE /lease/{id}
pub(super) async fn revoke(
    State(state): State<HttpState>,
    path: LeaseInPath,
) -> Result<Json<Object>, Refusal> {
    let command = Command::RevokeLease { lease: lease(path)? };
    Ok(Json(written(state.store.write(command).await?)?))
}
