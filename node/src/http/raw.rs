//! `/kv/key/{key}`: one key and its value as they are, without JSON around them.
//!
//! The key is what stands behind `/kv/key/`, decoded here: it may hold any byte. A value's revision is its entity tag, so
//! that `If-Match` and `If-None-Match` (RFC 9110, 13.1) make a write conditional.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::body::{RawBody, freshness, query_error};
use super::command::{Object, in_vault, with_lease, written};
use super::error::Refusal;
use super::kv::key_not_found;
use super::{HttpState, malformed};
use crate::api::{ApiError, Consistency, ReadRequest, WriteResult};
use crate::types::{
    Command, Compare, Key, LeaseId, Operand, Operation, OperationResult, Outcome, Record, Relation, Revision,
    Transaction, Value, VaultName,
};

/// What comes before the key in the path.
const PREFIX: &str = "/kv/key/";
/// The last entry that was applied when a value was read.
const REVISION: HeaderName = HeaderName::from_static("aspen-revision");
/// The entry that created the key.
const CREATE_REVISION: HeaderName = HeaderName::from_static("aspen-create-revision");
/// Who says that a read is not too old.
const CONFIRMED_BY: HeaderName = HeaderName::from_static("aspen-confirmed-by");
/// How old what was read may be, in milliseconds, where that was bounded.
const STALENESS: HeaderName = HeaderName::from_static("aspen-staleness-ms");
/// How often the key was written since.
const VERSION: HeaderName = HeaderName::from_static("aspen-version");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadQuery {
    vault: Option<VaultName>,
    consistency: Option<Consistency>,
    max_staleness_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteQuery {
    vault: Option<VaultName>,
    lease: Option<LeaseId>,
}

/// What a header asks of the present value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// Any value, or none.
    Exists(bool),
    /// The value that was written by this entry, or another.
    Is(Revision, Relation),
}

/// GET /kv/key/{key}
pub(super) async fn read(
    State(state): State<HttpState>,
    uri: Uri,
    query: Result<Query<ReadQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Query(ReadQuery { vault, consistency, max_staleness_ms }) = query.map_err(query_error)?;
    let consistency = freshness(consistency, max_staleness_ms)?;
    let request = ReadRequest { vault, key: key_of(uri.path())?, consistency };
    let result = state.store.read(request).await?;
    let number = |number: u64| HeaderValue::from(number);
    let by = (CONFIRMED_BY, HeaderValue::from_static(result.confirmed_by.as_str()));
    let fresh = [by].into_iter().chain(result.staleness_ms.map(|ms| (STALENESS, number(ms))));
    let Some(record) = result.record else {
        let mut response = key_not_found(result.revision.0).into_response();
        response.headers_mut().extend(fresh);
        return Ok(response);
    };
    let told = [
        (header::ETAG, tag(record.mod_revision)),
        (REVISION, number(result.revision.0)),
        (CREATE_REVISION, number(record.create_revision.0)),
        (VERSION, number(record.version)),
    ];
    let mut response = match condition(&headers)? {
        // What the client has is still right (RFC 9110, 13.2.2); or it wanted something else.
        Some(condition) if !condition.holds(&record) && headers.contains_key(header::IF_NONE_MATCH) => {
            StatusCode::NOT_MODIFIED.into_response()
        }
        Some(condition) if !condition.holds(&record) => {
            let message = "the key is not as the condition wants it";
            precondition_failed(message, result.revision, Some(record.mod_revision)).into_response()
        }
        _ => ([(header::CONTENT_TYPE, "application/octet-stream")], record.value.0).into_response(),
    };
    response.headers_mut().extend(told.into_iter().chain(fresh));
    Ok(response)
}

/// PUT /kv/key/{key}
pub(super) async fn write(
    State(state): State<HttpState>,
    uri: Uri,
    query: Result<Query<WriteQuery>, QueryRejection>,
    headers: HeaderMap,
    RawBody(body, _held): RawBody,
) -> Result<Json<Object>, Refusal> {
    let key = key_of(uri.path())?;
    let value = Value(body.to_vec());
    let put = Operation::Put { key: key.clone(), value: value.clone() };
    change(&state, query, &headers, key.clone(), Command::Set { key, value }, put).await
}

/// DELETE /kv/key/{key}
pub(super) async fn delete(
    State(state): State<HttpState>,
    uri: Uri,
    query: Result<Query<WriteQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Json<Object>, Refusal> {
    let key = key_of(uri.path())?;
    let delete = Operation::Delete { key: key.clone() };
    change(&state, query, &headers, key.clone(), Command::Delete { key }, delete).await
}

/// Does one thing to a key, if what the headers ask of it holds.
async fn change(
    state: &HttpState,
    query: Result<Query<WriteQuery>, QueryRejection>,
    headers: &HeaderMap,
    key: Key,
    plain: Command,
    operation: Operation,
) -> Result<Json<Object>, Refusal> {
    let Query(WriteQuery { vault, lease }) = query.map_err(query_error)?;
    let command = match condition(headers)? {
        None => plain,
        Some(condition) => Command::Transaction(Transaction {
            compare: vec![condition.compare(key.clone())],
            success: vec![operation],
            failure: vec![Operation::Get { key }],
        }),
    };
    let command = with_lease(lease, in_vault(vault, command));
    let WriteResult { revision, outcome } = state.store.write(command).await?;
    // A transaction of one operation is answered like that operation.
    let outcome = match outcome {
        Outcome::Transaction { succeeded: true, results } => match results.first() {
            Some(OperationResult::Deleted { existed }) => Outcome::Deleted { existed: *existed },
            _ => Outcome::Written,
        },
        Outcome::Transaction { succeeded: false, results } => {
            let found = match results.first() {
                Some(OperationResult::Got(Some(record))) => Some(record.mod_revision),
                _ => None,
            };
            let message = "the key is not as the condition wants it, nothing was written";
            return Err(precondition_failed(message, revision, found));
        }
        outcome => outcome,
    };
    Ok(Json(written(WriteResult { revision, outcome })?))
}

/// `found` is the entry that wrote the key, where it is there.
fn precondition_failed(message: &str, revision: Revision, found: Option<Revision>) -> Refusal {
    Refusal::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", message)
        .with("revision", revision.0)
        .with("mod_revision", found.map(|found| found.0))
}

impl Condition {
    fn compare(self, key: Key) -> Compare {
        match self {
            Self::Exists(exists) => {
                Compare { key, relation: Relation::Equal, operand: Operand::Exists(exists) }
            }
            Self::Is(at, relation) => Compare { key, relation, operand: Operand::ModRevision(at) },
        }
    }

    /// Whether it holds of a key that is there.
    fn holds(self, record: &Record) -> bool {
        match self {
            Self::Exists(exists) => exists,
            Self::Is(at, relation) => (record.mod_revision == at) == (relation == Relation::Equal),
        }
    }
}

/// The one condition of a request, if it has one.
fn condition(headers: &HeaderMap) -> Result<Option<Condition>, ApiError> {
    let one = |name: &HeaderName| -> Result<Option<&HeaderValue>, ApiError> {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(malformed(format!("{name} is given twice"))),
        }
    };
    match (one(&header::IF_MATCH)?, one(&header::IF_NONE_MATCH)?) {
        (None, None) => Ok(None),
        (Some(value), None) => Ok(Some(match revision_of(value, "If-Match")? {
            None => Condition::Exists(true),
            Some(at) => Condition::Is(at, Relation::Equal),
        })),
        (None, Some(value)) => Ok(Some(match revision_of(value, "If-None-Match")? {
            None => Condition::Exists(false),
            Some(at) => Condition::Is(at, Relation::NotEqual),
        })),
        (Some(_), Some(_)) => Err(malformed("If-Match and If-None-Match are both given, one is needed")),
    }
}

/// The revision that an entity tag names; `None` for `*`.
fn revision_of(value: &HeaderValue, header: &str) -> Result<Option<Revision>, ApiError> {
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let number =
        text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).and_then(|text| text.parse().ok());
    number.map(|number| Some(Revision(number))).ok_or_else(|| {
        malformed(format!(
            "{header} is `{text}`: give * or the ETag of a value, such as \"12\" with its quotes"
        ))
    })
}

fn tag(revision: Revision) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{}\"", revision.0)).expect("digits and quotes are allowed in a header")
}

/// The key in a path: any bytes, those that a URI does not allow as `%XX`.
fn key_of(path: &str) -> Result<Key, ApiError> {
    let encoded = path.strip_prefix(PREFIX).unwrap_or_default().as_bytes();
    let mut key = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let [first, after @ ..] = rest {
        let (byte, left) = match (first, after) {
            (b'%', [high, low, left @ ..]) => {
                let digit =
                    |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                let byte = digit(high).zip(digit(low)).map(|(high, low)| high << 4 | low);
                (
                    byte.ok_or_else(|| {
                        malformed("the key in the path has a % without two hexadecimal digits")
                    })?,
                    left,
                )
            }
            (b'%', _) => return Err(malformed("the key in the path has a % without two hexadecimal digits")),
            (byte, left) => (*byte, left),
        };
        key.push(byte);
        rest = left;
    }
    Ok(Key(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_in_a_path_may_hold_any_byte() {
        let check = |path: &str, want: &[u8]| assert_eq!(key_of(path), Ok(Key(want.to_vec())), "{path}");
        check("/kv/key/a/b", b"a/b");
        check("/kv/key/a%2Fb%00%ff", b"a/b\0\xff");
        check("/kv/key/+%2b", b"++");
        check("/kv/key//", b"/");
        for path in ["/kv/key/%", "/kv/key/a%4", "/kv/key/%zz"] {
            let error = key_of(path).unwrap_err().to_string();
            assert_eq!(error, "the key in the path has a % without two hexadecimal digits", "{path}");
        }
    }

    #[track_caller]
    fn check(headers: &[(HeaderName, &'static str)], want: Result<Option<Condition>, &str>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_static(value));
        }
        assert_eq!(condition(&map).map_err(|error| error.to_string()), want.map_err(str::to_owned));
    }

    #[test]
    fn headers_ask_for_one_thing() {
        let (matches, none) = (header::IF_MATCH, header::IF_NONE_MATCH);
        check(&[], Ok(None));
        check(&[(matches.clone(), "*")], Ok(Some(Condition::Exists(true))));
        check(&[(none.clone(), "*")], Ok(Some(Condition::Exists(false))));
        check(&[(matches.clone(), "\"12\"")], Ok(Some(Condition::Is(Revision(12), Relation::Equal))));
        check(&[(none.clone(), "\"12\"")], Ok(Some(Condition::Is(Revision(12), Relation::NotEqual))));
        let text = "If-Match is `12`: give * or the ETag of a value, such as \"12\" with its quotes";
        check(&[(matches.clone(), "12")], Err(text));
        check(&[(matches.clone(), "*"), (matches.clone(), "*")], Err("if-match is given twice"));
        let text = "If-Match and If-None-Match are both given, one is needed";
        check(&[(matches, "*"), (none, "*")], Err(text));
    }
}
