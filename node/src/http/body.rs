//! Keys and values in JSON: text in `key` and `value`, other bytes in `key_base64` and `value_base64`.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use tokio::time::timeout;

use super::error::Refusal;
use super::malformed;
use super::room::{BodyRoom, Held};
use crate::api::{ApiError, Consistency};
use crate::limits::HTTP_BODY_TIMEOUT;
use crate::types::{Key, Record, Value};

/// A JSON body, whatever its content type says, and its room; what is wrong with it is answered in JSON, too.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T, pub(super) Held);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let RawBody(bytes, held) = RawBody::from_request(request, state).await?;
        // No body is an empty one: `curl -X POST` sends none.
        let bytes = if bytes.is_empty() { Bytes::from_static(b"{}") } else { bytes };
        let body = serde_json::from_slice(&bytes)
            .map_err(|error| malformed(format!("the body is refused: {error}")))?;
        Ok(Self(body, held))
    }
}

/// A body as it is, which comes within a time, and its room: as long as somebody works on it, it takes that.
#[derive(Debug)]
pub(super) struct RawBody(pub(super) Bytes, pub(super) Held);

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = Refusal;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Refusal> {
        let room = request.extensions().get::<BodyRoom>().cloned().unwrap_or_default();
        let Ok(read) = timeout(HTTP_BODY_TIMEOUT, room.read(request.into_body())).await else {
            let text = format!("the body has not come within {} s", HTTP_BODY_TIMEOUT.as_secs());
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", &text));
        };
        let (body, held) = read?;
        Ok(Self(body, held))
    }
}

/// What is wrong with a query.
pub(super) fn query_error(rejection: QueryRejection) -> Refusal {
    malformed(rejection.body_text()).into()
}

/// How fresh a read is to be, by its two fields: a bound on its age is one of a stale read.
pub(super) fn freshness(
    consistency: Option<Consistency>,
    max_staleness_ms: Option<u64>,
) -> Result<Consistency, ApiError> {
    match (consistency, max_staleness_ms) {
        (consistency, None) => Ok(consistency.unwrap_or_default()),
        (None | Some(Consistency::Stale), Some(ms)) => Ok(Consistency::Bounded(Duration::from_millis(ms))),
        (Some(other), Some(_)) => {
            let word = other.as_str();
            Err(malformed(format!(
                "`max_staleness_ms` is of stale reads, and `consistency` is {word}: leave one of them out"
            )))
        }
    }
}

/// The key of a request.
pub(super) fn key(text: Option<String>, base64: Option<String>) -> Result<Key, ApiError> {
    bytes("key", text, base64).map(Key)
}

/// The value of a request.
pub(super) fn value(text: Option<String>, base64: Option<String>) -> Result<Value, ApiError> {
    bytes("value", text, base64).map(Value)
}

/// The bytes of the one field of the two that is given.
pub(crate) fn bytes(name: &str, text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, ApiError> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(base64)) => data_encoding::BASE64
            .decode(base64.as_bytes())
            .map_err(|error| malformed(format!("{name}_base64 is not base64: {error}"))),
        (None, None) => Err(malformed(format!("`{name}` (text) or `{name}_base64` (bytes) is needed"))),
        (Some(_), Some(_)) => {
            Err(malformed(format!("`{name}` and `{name}_base64` are both given, one is needed")))
        }
    }
}

/// Puts bytes under `name` where they are text, otherwise under `name_base64`.
pub(crate) fn put_bytes(object: &mut Map<String, Json>, name: &str, bytes: Vec<u8>) {
    match String::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(error) => {
            object.insert(format!("{name}_base64"), data_encoding::BASE64.encode(error.as_bytes()).into())
        }
    };
}

/// A record as an answer shows it, with its key where that was not given in the request.
pub(super) fn record_json(key: Option<Key>, record: Record) -> Map<String, Json> {
    let mut object = Map::new();
    if let Some(key) = key {
        put_bytes(&mut object, "key", key.0);
    }
    put_bytes(&mut object, "value", record.value.0);
    object.insert("create_revision".to_owned(), record.create_revision.0.into());
    object.insert("mod_revision".to_owned(), record.mod_revision.0.into());
    object.insert("version".to_owned(), record.version.into());
    if let Some(lease) = record.lease {
        object.insert("lease".to_owned(), lease.0.into());
    }
    object
}
