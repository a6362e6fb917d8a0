//! The routes under /kv.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value as JsonValue, json};

use super::body::{Body, bytes, key, put_bytes, record_json, value};
use super::error::Refusal;
use super::{HttpState, malformed};
use crate::api::{ApiError, BadRequest, Consistency, ReadRequest, ScanRequest, WriteResult};
use crate::limits::SCAN_LIMIT_DEFAULT;
use crate::types::{Command, Key, Outcome, Value};

/// What a route answers.
type Answered = Result<Json<Map<String, JsonValue>>, Refusal>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadBody {
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default)]
    consistency: Consistency,
}

/// POST /kv/read
pub(super) async fn read(State(state): State<HttpState>, Body(body): Body<ReadBody>) -> Answered {
    let request = ReadRequest { key: key(body.key, body.key_base64)?, consistency: body.consistency };
    let result = state.store.read(request.clone()).await?;
    let Some(record) = result.record else {
        let missing = Refusal::new(StatusCode::NOT_FOUND, "key_not_found", "the key does not exist");
        return Err(missing.with("revision", result.revision.0));
    };
    let mut object = record_json(request.key, record);
    object.insert("revision".to_owned(), result.revision.0.into());
    mark_stale(&mut object, request.consistency);
    Ok(Json(object))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteBody {
    command: CommandBody,
}

#[derive(Debug, Deserialize)]
enum CommandBody {
    Set(SetBody),
    Delete(KeyBody),
    CompareAndSwap(SwapBody),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetBody {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyBody {
    key: Option<String>,
    key_base64: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SwapBody {
    key: Option<String>,
    key_base64: Option<String>,
    /// Absent is a mistake; null expects that the key is absent.
    #[serde(default)]
    expected: Expected,
    expected_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
}

/// The field `expected`, where null has a meaning of its own.
#[derive(Debug, Default)]
enum Expected {
    #[default]
    Missing,
    Null,
    Text(String),
}

impl<'de> Deserialize<'de> for Expected {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Null, Self::Text))
    }
}

impl CommandBody {
    fn command(self) -> Result<Command, ApiError> {
        Ok(match self {
            Self::Set(body) => Command::Set {
                key: key(body.key, body.key_base64)?,
                value: value(body.value, body.value_base64)?,
            },
            Self::Delete(body) => Command::Delete { key: key(body.key, body.key_base64)? },
            Self::CompareAndSwap(body) => Command::CompareAndSwap {
                key: key(body.key, body.key_base64)?,
                expected: expected(body.expected, body.expected_base64)?,
                value: value(body.value, body.value_base64)?,
            },
        })
    }
}

fn expected(expected: Expected, base64: Option<String>) -> Result<Option<Value>, ApiError> {
    let text = match (expected, &base64) {
        (Expected::Null, None) => return Ok(None),
        (Expected::Missing, None) => {
            return Err(malformed("`expected` is needed: the value that the key must hold, or null"));
        }
        (Expected::Text(text), _) => Some(text),
        (Expected::Missing | Expected::Null, Some(_)) => None,
    };
    bytes("expected", text, base64).map(|bytes| Some(Value(bytes)))
}

/// POST /kv/write
pub(super) async fn write(State(state): State<HttpState>, Body(body): Body<WriteBody>) -> Answered {
    let result = state.store.write(body.command.command()?).await?;
    written(result)
}

/// POST /kv/delete
pub(super) async fn delete(State(state): State<HttpState>, Body(body): Body<KeyBody>) -> Answered {
    let result = state.store.delete(key(body.key, body.key_base64)?).await?;
    written(result)
}

fn written(result: WriteResult) -> Answered {
    let revision = result.revision.0;
    let answer = match result.outcome {
        Outcome::Written | Outcome::None => json!({ "revision": revision }),
        Outcome::Deleted { existed } => json!({ "revision": revision, "deleted": existed }),
        Outcome::Swapped => json!({ "revision": revision, "swapped": true }),
        Outcome::NotSwapped { actual } => {
            let message = "the key does not hold the expected value, nothing was written";
            let mut refusal =
                Refusal::new(StatusCode::CONFLICT, "cas_failed", message).with("revision", revision);
            let mut object = Map::new();
            match actual {
                Some(value) => put_bytes(&mut object, "actual", value.0),
                None => drop(object.insert("actual".to_owned(), JsonValue::Null)),
            }
            for (name, value) in object {
                refusal = refusal.with(&name, value);
            }
            return Err(refusal);
        }
        Outcome::Refused => {
            let message = "the members refused the command: it breaks a bound of theirs";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "refused", message).with("revision", revision));
        }
    };
    match answer {
        JsonValue::Object(object) => Ok(Json(object)),
        _ => unreachable!("every answer above is an object"),
    }
}

/// Every field is optional: a scan of everything is `{}`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ScanBody {
    prefix: Option<String>,
    prefix_base64: Option<String>,
    start: Option<String>,
    start_base64: Option<String>,
    end: Option<String>,
    end_base64: Option<String>,
    limit: Option<u32>,
    continuation_token: Option<String>,
    consistency: Consistency,
}

/// POST /kv/scan
pub(super) async fn scan(State(state): State<HttpState>, Body(body): Body<ScanBody>) -> Answered {
    let bound = |name: &str, text: Option<String>, base64: Option<String>| match (&text, &base64) {
        (None, None) => Ok(Key::default()),
        _ => bytes(name, text, base64).map(Key),
    };
    let request = ScanRequest {
        prefix: bound("prefix", body.prefix, body.prefix_base64)?,
        start: bound("start", body.start, body.start_base64)?,
        end: bound("end", body.end, body.end_base64)?,
        after: body.continuation_token.as_deref().map(open_token).transpose().map_err(ApiError::from)?,
        limit: body.limit.unwrap_or(SCAN_LIMIT_DEFAULT),
        consistency: body.consistency,
    };
    let consistency = request.consistency;
    let page = state.store.scan(request).await?;
    let mut object = Map::new();
    object.insert("revision".to_owned(), page.revision.0.into());
    object.insert("is_truncated".to_owned(), page.is_truncated.into());
    let last = page.entries.last().filter(|_| page.is_truncated);
    let token = last.map_or(JsonValue::Null, |(key, _)| seal_token(key).into());
    object.insert("continuation_token".to_owned(), token);
    let entries: Vec<JsonValue> =
        page.entries.into_iter().map(|(key, record)| record_json(key, record).into()).collect();
    object.insert("entries".to_owned(), entries.into());
    mark_stale(&mut object, consistency);
    Ok(Json(object))
}

/// An answer that may be old says so.
fn mark_stale(object: &mut Map<String, JsonValue>, consistency: Consistency) {
    if consistency == Consistency::Stale {
        object.insert("stale".to_owned(), true.into());
    }
}

/// Bytes of the check in a continuation token.
const TOKEN_CHECK_BYTES: usize = 4;

/// A token is the last key of its page with a check in front, so that a damaged one is refused.
fn seal_token(key: &Key) -> String {
    let check = blake3::hash(&key.0);
    let sealed = [&check.as_bytes()[..TOKEN_CHECK_BYTES], &key.0].concat();
    data_encoding::BASE64URL_NOPAD.encode(&sealed)
}

fn open_token(token: &str) -> Result<Key, BadRequest> {
    let sealed =
        data_encoding::BASE64URL_NOPAD.decode(token.as_bytes()).map_err(|_| BadRequest::ContinuationToken)?;
    let (check, key) = sealed.split_at_checked(TOKEN_CHECK_BYTES).ok_or(BadRequest::ContinuationToken)?;
    let is_intact = blake3::hash(key).as_bytes().starts_with(check);
    if is_intact { Ok(Key(key.to_vec())) } else { Err(BadRequest::ContinuationToken) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_token_is_refused() {
        let key = Key::from("🦀");
        let token = seal_token(&key);
        assert_eq!(open_token(&token), Ok(key));
        assert_eq!(open_token(&token[1..]), Err(BadRequest::ContinuationToken));
        assert_eq!(open_token(""), Err(BadRequest::ContinuationToken));
    }
}
