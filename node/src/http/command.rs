//! Commands in JSON, and what they did.

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value as JsonValue, json};

use super::body::{bytes, key, put_bytes, record_json, value};
use super::error::Refusal;
use super::malformed;
use crate::api::{ApiError, LEASE_GONE, WriteResult};
use crate::limits::{LEASE_KEYS_MAX, LEASES_MAX, SCAN_LIMIT_DEFAULT, VAULTS_MAX};
use crate::types::{
    Command, Compare, Key, KeyRange, LeaseId, Operand, Operation, OperationResult, Outcome, Relation,
    Revision, Transaction, Value, VaultName,
};

/// A JSON object.
pub(crate) type Object = Map<String, JsonValue>;

/// The one field of `command`, or of an operation.
#[derive(Debug, Deserialize)]
pub(super) enum CommandBody {
    Set(PairBody),
    Delete(KeyBody),
    CompareAndSwap(SwapBody),
    SetMulti(PairsBody),
    DeleteMulti(KeysBody),
    Transaction(TransactionBody),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyBody {
    key: Option<String>,
    key_base64: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PairBody {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PairsBody {
    pairs: Vec<PairItem>,
}

/// `["key", "value"]`, or an object for bytes that are no text.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "a pair is [\"key\", \"value\"], or an object with key and value or their _base64"
)]
enum PairItem {
    Texts(String, String),
    Object(PairBody),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeysBody {
    keys: Vec<KeyItem>,
}

/// `"key"`, or an object for bytes that are no text.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a key is a text, or an object with key_base64")]
enum KeyItem {
    Text(String),
    Object(KeyBody),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SwapBody {
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TransactionBody {
    #[serde(default)]
    compare: Vec<CompareBody>,
    #[serde(default)]
    success: Vec<OperationBody>,
    #[serde(default)]
    failure: Vec<OperationBody>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CompareBody {
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default = "equal")]
    relation: Relation,
    value: Option<String>,
    value_base64: Option<String>,
    version: Option<u64>,
    create_revision: Option<u64>,
    mod_revision: Option<u64>,
    exists: Option<bool>,
}

fn equal() -> Relation {
    Relation::Equal
}

#[derive(Debug, Deserialize)]
enum OperationBody {
    Put(PairBody),
    Delete(KeyBody),
    Get(KeyBody),
    Range(RangeOperationBody),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeOperationBody {
    prefix: Option<String>,
    prefix_base64: Option<String>,
    start: Option<String>,
    start_base64: Option<String>,
    end: Option<String>,
    end_base64: Option<String>,
    limit: Option<u32>,
}

/// The bounds of a range, each as text or as bytes: `prefix`, `start` and `end`.
pub(super) fn key_range(bounds: [(Option<String>, Option<String>); 3]) -> Result<KeyRange, ApiError> {
    let [prefix, start, end] = bounds;
    let bound = |name: &str, (text, base64): (Option<String>, Option<String>)| match (&text, &base64) {
        (None, None) => Ok(Key::default()),
        _ => bytes(name, text, base64).map(Key),
    };
    Ok(KeyRange { prefix: bound("prefix", prefix)?, start: bound("start", start)?, end: bound("end", end)? })
}

impl KeyBody {
    fn key(self) -> Result<Key, ApiError> {
        key(self.key, self.key_base64)
    }
}

impl PairBody {
    fn pair(self) -> Result<(Key, Value), ApiError> {
        Ok((key(self.key, self.key_base64)?, value(self.value, self.value_base64)?))
    }
}

impl CommandBody {
    /// The command, in a vault if one is named.
    pub(super) fn command(self, vault: Option<VaultName>) -> Result<Command, ApiError> {
        let command = match self {
            Self::Set(body) => {
                let (key, value) = body.pair()?;
                Command::Set { key, value }
            }
            Self::Delete(body) => Command::Delete { key: body.key()? },
            Self::CompareAndSwap(body) => Command::CompareAndSwap {
                key: key(body.key, body.key_base64)?,
                expected: expected(body.expected, body.expected_base64)?,
                value: value(body.value, body.value_base64)?,
            },
            Self::SetMulti(body) => {
                let pairs = body.pairs.into_iter().map(|item| match item {
                    PairItem::Texts(key, value) => Ok((Key(key.into_bytes()), Value(value.into_bytes()))),
                    PairItem::Object(body) => body.pair(),
                });
                Command::SetMulti { pairs: pairs.collect::<Result<_, ApiError>>()? }
            }
            Self::DeleteMulti(body) => {
                let keys = body.keys.into_iter().map(|item| match item {
                    KeyItem::Text(key) => Ok(Key(key.into_bytes())),
                    KeyItem::Object(body) => body.key(),
                });
                Command::DeleteMulti { keys: keys.collect::<Result<_, ApiError>>()? }
            }
            Self::Transaction(body) => Command::Transaction(body.transaction()?),
        };
        Ok(in_vault(vault, command))
    }
}

/// A command, in a vault if one is named.
pub(super) fn in_vault(vault: Option<VaultName>, command: Command) -> Command {
    match vault {
        None => command,
        Some(vault) => Command::InVault { vault, command: Box::new(command) },
    }
}

/// A command whose keys end with a lease, if one is named.
pub(super) fn with_lease(lease: Option<LeaseId>, command: Command) -> Command {
    match lease {
        None => command,
        Some(lease) => Command::WithLease { lease, command: Box::new(command) },
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

/// Reads a transaction as a body of `/kv/write` has it.
///
/// # Errors
/// Where and why it is none.
pub fn transaction(json: &[u8]) -> Result<Transaction, ApiError> {
    let body: TransactionBody = serde_json::from_slice(json).map_err(|error| malformed(error.to_string()))?;
    body.transaction()
}

impl TransactionBody {
    fn transaction(self) -> Result<Transaction, ApiError> {
        let branch = |operations: Vec<OperationBody>| -> Result<Vec<Operation>, ApiError> {
            operations.into_iter().map(OperationBody::operation).collect()
        };
        Ok(Transaction {
            compare: self.compare.into_iter().map(CompareBody::compare).collect::<Result<_, _>>()?,
            success: branch(self.success)?,
            failure: branch(self.failure)?,
        })
    }
}

impl CompareBody {
    fn compare(self) -> Result<Compare, ApiError> {
        let value = match (self.value, self.value_base64) {
            (None, None) => None,
            (text, base64) => Some(Operand::Value(value(text, base64)?)),
        };
        let operands = [
            value,
            self.version.map(Operand::Version),
            self.create_revision.map(|at| Operand::CreateRevision(Revision(at))),
            self.mod_revision.map(|at| Operand::ModRevision(Revision(at))),
            self.exists.map(Operand::Exists),
        ];
        let mut operands = operands.into_iter().flatten();
        let (Some(operand), None) = (operands.next(), operands.next()) else {
            return Err(malformed(
                "a comparison needs one of `value`, `value_base64`, `version`, `create_revision`, `mod_revision` and `exists`",
            ));
        };
        Ok(Compare { key: key(self.key, self.key_base64)?, relation: self.relation, operand })
    }
}

impl OperationBody {
    fn operation(self) -> Result<Operation, ApiError> {
        Ok(match self {
            Self::Put(body) => {
                let (key, value) = body.pair()?;
                Operation::Put { key, value }
            }
            Self::Delete(body) => Operation::Delete { key: body.key()? },
            Self::Get(body) => Operation::Get { key: body.key()? },
            Self::Range(body) => Operation::Range {
                range: key_range([
                    (body.prefix, body.prefix_base64),
                    (body.start, body.start_base64),
                    (body.end, body.end_base64),
                ])?,
                limit: body.limit.unwrap_or(SCAN_LIMIT_DEFAULT),
            },
        })
    }
}

/// What a write did, as an answer or as a refusal.
pub(crate) fn written(result: WriteResult) -> Result<Object, Refusal> {
    let revision = result.revision.0;
    let refused =
        |status, code, message: &str| Err(Refusal::new(status, code, message).with("revision", revision));
    let mut answer = match result.outcome {
        Outcome::Written | Outcome::LeaseGranted | Outcome::None => Object::new(),
        Outcome::Deleted { existed } => object("deleted", existed),
        Outcome::DeletedMulti { existed_count } => object("deleted", existed_count),
        Outcome::Swapped => object("swapped", true),
        Outcome::VaultReady { is_new } => object("created", is_new),
        Outcome::Transaction { succeeded, results } => {
            let mut answer = object("succeeded", succeeded);
            let results: Vec<JsonValue> = results.into_iter().map(|result| done(result).into()).collect();
            answer.insert("results".to_owned(), results.into());
            answer
        }
        Outcome::NotSwapped { actual } => return Err(not_swapped(revision, actual)),
        Outcome::Refused => {
            let message = "the members refused the command: it breaks a bound of theirs";
            return refused(StatusCode::BAD_REQUEST, "refused", message);
        }
        Outcome::AnswerTooLarge => {
            let message =
                "the transaction would answer more than 4 MiB, nothing was written: read less in it";
            return refused(StatusCode::BAD_REQUEST, "answer_too_large", message);
        }
        Outcome::LeaseEnded { existed: true, key_count } => object("deleted", key_count),
        Outcome::LeaseEnded { existed: false, .. } | Outcome::LeaseNotFound => {
            let message = format!("there is no such lease, nothing was changed: {LEASE_GONE}");
            return refused(StatusCode::NOT_FOUND, "lease_not_found", &message);
        }
        Outcome::TooManyLeases => {
            let message = format!("there are {LEASES_MAX} leases, and no more are allowed: revoke one first");
            return refused(StatusCode::CONFLICT, "too_many_leases", &message);
        }
        Outcome::LeaseFull => {
            let message = format!(
                "{LEASE_KEYS_MAX} keys end with the lease, and no more are allowed, nothing was written: take another lease"
            );
            return refused(StatusCode::CONFLICT, "lease_full", &message);
        }
        Outcome::TooManyVaults => {
            let message = format!("there are {VAULTS_MAX} vaults, and no more are allowed: delete one first");
            return refused(StatusCode::CONFLICT, "too_many_vaults", &message);
        }
    };
    answer.insert("revision".to_owned(), revision.into());
    Ok(answer)
}

fn not_swapped(revision: u64, actual: Option<Value>) -> Refusal {
    let message = "the key does not hold the expected value, nothing was written";
    let mut found = Object::new();
    match actual {
        Some(value) => put_bytes(&mut found, "actual", value.0),
        None => drop(found.insert("actual".to_owned(), JsonValue::Null)),
    }
    let refusal = Refusal::new(StatusCode::CONFLICT, "cas_failed", message).with("revision", revision);
    found.into_iter().fold(refusal, |refusal, (name, value)| refusal.with(&name, value))
}

/// What an operation of a transaction did.
fn done(result: OperationResult) -> Object {
    match result {
        OperationResult::Written => Object::new(),
        OperationResult::Deleted { existed } => object("deleted", existed),
        OperationResult::Got(None) => object("record", JsonValue::Null),
        OperationResult::Got(Some(record)) => object("record", record_json(None, record)),
        OperationResult::Found { entries, is_truncated } => {
            let entries: Vec<JsonValue> =
                entries.into_iter().map(|(key, record)| record_json(Some(key), record).into()).collect();
            let mut answer = object("is_truncated", is_truncated);
            answer.insert("entries".to_owned(), entries.into());
            answer
        }
    }
}

fn object(name: &str, value: impl Into<JsonValue>) -> Object {
    match json!({ name: value.into() }) {
        JsonValue::Object(object) => object,
        _ => unreachable!("it is written as an object"),
    }
}
