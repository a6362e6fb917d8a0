//! The routes of vaults.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::{Value as JsonValue, json};

use super::HttpState;
use super::command::{Object, written};
use super::error::Refusal;
use super::kv::{ScanBody, scan_page};
use super::malformed;
use crate::api::{ApiError, Consistency, check_vault};
use crate::types::{Command, VaultName};

/// The name of a vault in a path.
type NameInPath = Result<Path<String>, PathRejection>;

fn name(path: NameInPath) -> Result<VaultName, Refusal> {
    let Path(name) = path.map_err(|rejection| malformed(rejection.body_text()))?;
    let name = VaultName(name);
    check_vault(&name).map_err(ApiError::from)?;
    Ok(name)
}

/// GET /vaults
pub(super) async fn list(State(state): State<HttpState>) -> Result<Json<JsonValue>, Refusal> {
    let found = state.store.vaults(Consistency::Linearizable).await?;
    let vaults: Vec<JsonValue> = found
        .vaults
        .into_iter()
        .map(|(name, created)| json!({ "name": name, "create_revision": created }))
        .collect();
    Ok(Json(json!({ "vaults": vaults, "revision": found.revision })))
}

/// GET /vault/{name}
pub(super) async fn first_page(
    State(state): State<HttpState>,
    path: NameInPath,
) -> Result<Json<Object>, Refusal> {
    scan_page(&state, ScanBody::of_vault(name(path)?)).await
}

/// PUT /vault/{name}
pub(super) async fn create(
    State(state): State<HttpState>,
    path: NameInPath,
) -> Result<Json<Object>, Refusal> {
    let command = Command::CreateVault { vault: name(path)? };
    Ok(Json(written(state.store.write(command).await?)?))
}

/// DELETE /vault/{name}
pub(super) async fn remove(
    State(state): State<HttpState>,
    path: NameInPath,
) -> Result<Json<Object>, Refusal> {
    let command = Command::DeleteVault { vault: name(path)? };
    Ok(Json(written(state.store.write(command).await?)?))
}
