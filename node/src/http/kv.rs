//! The routes under /kv that take and give JSON.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value as JsonValue;

use super::HttpState;
use super::body::{Body, freshness, key, put_bytes, record_json};
use super::command::{CommandBody, Object, in_vault, key_range, with_lease, written};
use super::error::Refusal;
use super::token;
use crate::api::{
    ApiError, ConfirmedBy, Consistency, ReadRequest, ReadResult, ScanDetail, ScanRequest, ScanResult,
};
use crate::limits::SCAN_LIMIT_DEFAULT;
use crate::types::{Command, Key, LeaseId, Record, VaultName};

/// What a route answers.
type Answered = Result<Json<Object>, Refusal>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadBody {
    vault: Option<VaultName>,
    key: Option<String>,
    key_base64: Option<String>,
    consistency: Option<Consistency>,
    max_staleness_ms: Option<u64>,
}

impl ReadBody {
    pub(crate) fn request(self) -> Result<ReadRequest, ApiError> {
        let consistency = freshness(self.consistency, self.max_staleness_ms)?;
        Ok(ReadRequest { vault: self.vault, key: key(self.key, self.key_base64)?, consistency })
    }
}

/// POST /kv/read
pub(super) async fn read(State(state): State<HttpState>, Body(body, _held): Body<ReadBody>) -> Answered {
    let request = body.request()?;
    let result = state.store.read(request.clone()).await?;
    Ok(Json(read_json(request, result)?))
}

/// What a read has seen, as an answer or as a refusal.
pub(crate) fn read_json(request: ReadRequest, result: ReadResult) -> Result<Object, Refusal> {
    let ReadResult { confirmed_by, staleness_ms, revision, record } = result;
    let consistency = request.consistency;
    let Some(record) = record else {
        let refusal = key_not_found(revision.0);
        return Err(match consistency {
            Consistency::Lease => refusal.with("confirmed_by", confirmed_by.as_str()),
            Consistency::Bounded(_) => refusal.with("staleness_ms", staleness_ms),
            Consistency::Linearizable | Consistency::Stale => refusal,
        });
    };
    let mut object = record_json(Some(request.key), record);
    object.insert("revision".to_owned(), revision.0.into());
    mark_freshness(&mut object, consistency, confirmed_by, staleness_ms);
    Ok(object)
}

/// The answer to a read of a key that is not there.
pub(super) fn key_not_found(revision: u64) -> Refusal {
    let missing = Refusal::new(StatusCode::NOT_FOUND, "key_not_found", "the key does not exist");
    missing.with("revision", revision)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriteBody {
    vault: Option<VaultName>,
    lease: Option<LeaseId>,
    command: CommandBody,
}

impl WriteBody {
    pub(crate) fn command(self) -> Result<Command, ApiError> {
        Ok(with_lease(self.lease, self.command.command(self.vault)?))
    }
}

/// POST /kv/write
pub(super) async fn write(State(state): State<HttpState>, Body(body, _held): Body<WriteBody>) -> Answered {
    Ok(Json(written(state.store.write(body.command()?).await?)?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteBody {
    vault: Option<VaultName>,
    key: Option<String>,
    key_base64: Option<String>,
}

/// POST /kv/delete
pub(super) async fn delete(State(state): State<HttpState>, Body(body, _held): Body<DeleteBody>) -> Answered {
    let command = Command::Delete { key: key(body.key, body.key_base64)? };
    Ok(Json(written(state.store.write(in_vault(body.vault, command)).await?)?))
}

/// Every field is optional: a scan of everything is `{}`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ScanBody {
    vault: Option<VaultName>,
    prefix: Option<String>,
    prefix_base64: Option<String>,
    start: Option<String>,
    start_base64: Option<String>,
    end: Option<String>,
    end_base64: Option<String>,
    limit: Option<u32>,
    detail: ScanDetail,
    continuation_token: Option<String>,
    consistency: Option<Consistency>,
    max_staleness_ms: Option<u64>,
}

impl ScanBody {
    /// The first page of a vault.
    pub(super) fn of_vault(vault: VaultName) -> Self {
        Self { vault: Some(vault), ..Self::default() }
    }

    pub(crate) fn request(self) -> Result<ScanRequest, ApiError> {
        Ok(ScanRequest {
            vault: self.vault,
            range: key_range([
                (self.prefix, self.prefix_base64),
                (self.start, self.start_base64),
                (self.end, self.end_base64),
            ])?,
            after: self.continuation_token.as_deref().map(token::open).transpose()?,
            limit: self.limit.unwrap_or(SCAN_LIMIT_DEFAULT),
            detail: self.detail,
            consistency: freshness(self.consistency, self.max_staleness_ms)?,
        })
    }
}

/// POST /kv/scan
pub(super) async fn scan(State(state): State<HttpState>, Body(body, _held): Body<ScanBody>) -> Answered {
    scan_page(&state, body).await
}

/// A page of a scan, whichever route asks for it.
pub(super) async fn scan_page(state: &HttpState, body: ScanBody) -> Answered {
    let request = body.request()?;
    let page = state.store.scan(request.clone()).await?;
    Ok(Json(page_json(&request, page)))
}

/// A page as an answer.
pub(crate) fn page_json(request: &ScanRequest, page: ScanResult) -> Object {
    let (confirmed_by, staleness_ms) = (page.confirmed_by, page.staleness_ms);
    let mut object = entries_json(page, request.detail);
    mark_freshness(&mut object, request.consistency, confirmed_by, staleness_ms);
    object
}

fn entries_json(page: ScanResult, detail: ScanDetail) -> Object {
    let mut object = Object::new();
    object.insert("revision".to_owned(), page.revision.0.into());
    if let Some(count) = page.count {
        object.insert("count".to_owned(), count.into());
        return object;
    }
    object.insert("is_truncated".to_owned(), page.is_truncated.into());
    let last = page.entries.last().filter(|_| page.is_truncated);
    let token = last.map_or(JsonValue::Null, |(key, _)| token::seal(key).into());
    object.insert("continuation_token".to_owned(), token);
    let entry = |(key, record): (Key, Record)| match detail {
        ScanDetail::Keys => {
            let mut entry = Object::new();
            put_bytes(&mut entry, "key", key.0);
            entry
        }
        ScanDetail::Records | ScanDetail::Count => record_json(Some(key), record),
    };
    let entries: Vec<JsonValue> = page.entries.into_iter().map(|found| entry(found).into()).collect();
    object.insert("entries".to_owned(), entries.into());
    object
}

/// An answer that may be old says so, and how old it is at most if that was to be known; one that was to come by a lease says whether it
/// has.
fn mark_freshness(
    object: &mut Object,
    consistency: Consistency,
    confirmed_by: ConfirmedBy,
    staleness_ms: Option<u64>,
) {
    match consistency {
        Consistency::Linearizable => {}
        Consistency::Lease => {
            object.insert("confirmed_by".to_owned(), confirmed_by.as_str().into());
        }
        Consistency::Stale => {
            object.insert("stale".to_owned(), true.into());
        }
        Consistency::Bounded(_) => {
            object.insert("stale".to_owned(), true.into());
            object.insert("staleness_ms".to_owned(), staleness_ms.into());
        }
    }
}
