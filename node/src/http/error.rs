//! Errors as HTTP: which status, which code, which JSON.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value as Json_, json};

use crate::api::{ApiError, BadRequest, LeaderHint};

/// An error on its way out: `{"error": {"code": …, "message": …}}` and what else the code carries.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    more: Map<String, Json_>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), more: Map::new() }
    }

    /// Adds a field beside code and message.
    pub(super) fn with(mut self, name: &str, value: impl Into<Json_>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// What stands in the body.
    pub(crate) fn json(self) -> Json_ {
        let mut error = Map::new();
        error.insert("code".to_owned(), self.code.into());
        error.insert("message".to_owned(), self.message.into());
        error.extend(self.more);
        json!({ "error": error })
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        let (status, code) = match &error {
            ApiError::BadRequest(bad) => (StatusCode::BAD_REQUEST, bad_request_code(bad)),
            ApiError::AlreadyInitialized => (StatusCode::CONFLICT, "already_initialized"),
            ApiError::NoSecret => (StatusCode::CONFLICT, "no_secret"),
            ApiError::MemberExists { .. } => (StatusCode::CONFLICT, "member_exists"),
            ApiError::ChangeInProgress => (StatusCode::CONFLICT, "change_in_progress"),
            ApiError::TooManyOperations { .. } => (StatusCode::TOO_MANY_REQUESTS, "too_many_operations"),
            ApiError::TooManyBackups { .. } => (StatusCode::TOO_MANY_REQUESTS, "too_many_backups"),
            ApiError::NotLeader { .. } => (StatusCode::SERVICE_UNAVAILABLE, "not_leader"),
            ApiError::NoQuorum => (StatusCode::SERVICE_UNAVAILABLE, "no_quorum"),
            ApiError::TooStale { .. } => (StatusCode::SERVICE_UNAVAILABLE, "too_stale"),
            ApiError::Removed => (StatusCode::SERVICE_UNAVAILABLE, "removed"),
            ApiError::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
            ApiError::LeaderLost => (StatusCode::GATEWAY_TIMEOUT, "leader_lost"),
            ApiError::SnapshotTooLarge { .. } => (StatusCode::INSUFFICIENT_STORAGE, "snapshot_too_large"),
            ApiError::DiskFull { .. } => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
            ApiError::MemberSilent { .. } => (StatusCode::CONFLICT, "member_silent"),
            ApiError::MemberBehind { .. } => (StatusCode::CONFLICT, "member_behind"),
            ApiError::VotersSilent { .. } => (StatusCode::CONFLICT, "voters_silent"),
            ApiError::VaultNotFound { .. } => (StatusCode::NOT_FOUND, "vault_not_found"),
            ApiError::LeaseNotFound { .. } => (StatusCode::NOT_FOUND, "lease_not_found"),
            ApiError::Compacted { .. } => (StatusCode::GONE, "compacted"),
            ApiError::PreviousNotNoted { .. } => (StatusCode::GONE, "previous_not_noted"),
            ApiError::TooManyWatchers { .. } => (StatusCode::TOO_MANY_REQUESTS, "too_many_watchers"),
            ApiError::DigestNotKept { .. } => (StatusCode::NOT_FOUND, "digest_not_kept"),
            ApiError::Stopping { .. } => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
            ApiError::Unsupported => (StatusCode::NOT_IMPLEMENTED, "unsupported"),
            ApiError::Storage { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "storage"),
        };
        let refusal = Self::new(status, code, error.to_string());
        match error {
            ApiError::NotLeader { leader } => refusal.with("leader", leader.map_or(Json_::Null, leader_json)),
            ApiError::TooStale { staleness_ms, .. } => refusal.with("staleness_ms", staleness_ms),
            ApiError::Compacted { oldest } => refusal.with("oldest_revision", oldest.0),
            ApiError::PreviousNotNoted { since } => refusal.with("since_revision", since.0),
            _ => refusal,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status;
        let mut response = (status, Json(self.json())).into_response();
        if status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

fn bad_request_code(bad: &BadRequest) -> &'static str {
    match bad {
        BadRequest::KeyEmpty => "key_empty",
        BadRequest::KeyTooLarge(_) => "key_too_large",
        BadRequest::ValueTooLarge(_) => "value_too_large",
        BadRequest::VaultName(_) | BadRequest::NestedVault => "vault_name",
        BadRequest::LeaseTtl(_) | BadRequest::NestedLease => "lease",
        BadRequest::KeyCount(_) | BadRequest::TransactionLength { .. } => "batch_too_large",
        BadRequest::CommandTooLarge(_) => "command_too_large",
        BadRequest::ScanLimit(_) => "scan_limit",
        BadRequest::MaxStaleness(_) => "max_staleness",
        BadRequest::ContinuationToken => "continuation_token",
        BadRequest::LogRange { .. } => "log_range",
        BadRequest::BeyondLog { .. } => "beyond_log",
        BadRequest::UnknownMember(..)
        | BadRequest::NotAMember(_)
        | BadRequest::MemberCount(_)
        | BadRequest::ClusterFull
        | BadRequest::EndpointTaken { .. }
        | BadRequest::VoterCount(_)
        | BadRequest::NotALearner(_)
        | BadRequest::LostItsLog(_)
        | BadRequest::JoinId(_)
        | BadRequest::NoAddress(_)
        | BadRequest::NotAVoter(_)
        | BadRequest::Membership(_) => "members",
        BadRequest::BodyTooLarge => "body_too_large",
        BadRequest::Malformed(_) => "malformed",
    }
}

fn leader_json(leader: LeaderHint) -> Json_ {
    json!({ "id": leader.id, "http": leader.http })
}

#[cfg(test)]
mod tests;
