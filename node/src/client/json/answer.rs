//! Answers, from JSON to the words of [`crate::api`]. A field that is not known is of a later version, and left alone.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value as Json;

use crate::api::{
    ApiError, ConfirmedBy, Consistency, ReadRequest, ReadResult, ScanDetail, ScanRequest, ScanResult,
    VaultList, WriteResult,
};
use crate::client::cluster::ClusterRefusal;
use crate::http::bytes;
use crate::types::{
    Change, ChangeKind, Command, Key, LeaseId, Operation, OperationResult, Outcome, Previous, Record,
    Revised, Revision, Transaction, Value, VaultName,
};

/// Why an answer is none.
#[derive(Debug, thiserror::Error)]
pub(in crate::client) enum FormError {
    /// It is no JSON, or another.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Neither text nor Base64.
    #[error(transparent)]
    Bytes(#[from] ApiError),
    /// One field is wrong.
    #[error("the field `{name}` is wrong")]
    Field { name: &'static str, source: serde_json::Error },
    /// A transaction with more results than operations, or fewer.
    #[error("{results} results of {operations} operations")]
    ResultCount { results: usize, operations: usize },
    /// A swap that was none.
    #[error("nothing was swapped, and nothing else was found")]
    Swapped,
}

type Read<T> = Result<T, FormError>;

/// A record, whatever stands beside it.
#[derive(Debug, Deserialize)]
struct RecordBody {
    value: Option<String>,
    value_base64: Option<String>,
    create_revision: Revision,
    mod_revision: Revision,
    version: u64,
    lease: Option<LeaseId>,
}

impl RecordBody {
    fn record(self) -> Read<Record> {
        let Self { value, value_base64, create_revision, mod_revision, version, lease } = self;
        let value = Value(bytes("value", value, value_base64)?);
        Ok(Record { value, create_revision, mod_revision, version, lease })
    }
}

#[derive(Debug, Deserialize)]
struct KeyBody {
    key: Option<String>,
    key_base64: Option<String>,
}

impl KeyBody {
    fn key(self) -> Read<Key> {
        Ok(Key(bytes("key", self.key, self.key_base64)?))
    }
}

/// A key with its record.
fn entry(body: &Json) -> Read<(Key, Record)> {
    Ok((KeyBody::deserialize(body)?.key()?, RecordBody::deserialize(body)?.record()?))
}

/// Of what a read is, and who says that it is not too old, as far as that was asked.
#[derive(Debug, Deserialize)]
struct AsOf {
    revision: Revision,
    #[serde(default)]
    confirmed_by: ConfirmedBy,
    staleness_ms: Option<u64>,
}

impl AsOf {
    /// A promise that was asked for is kept where there is an answer, and not repeated there.
    fn confirmed_by(&self, consistency: Consistency) -> ConfirmedBy {
        match consistency {
            Consistency::Linearizable | Consistency::Bounded(_) => ConfirmedBy::Quorum,
            Consistency::Lease => self.confirmed_by,
            Consistency::Stale => ConfirmedBy::Nobody,
        }
    }
}

/// What a read has found.
pub(in crate::client) fn read(request: &ReadRequest, body: &[u8]) -> Read<ReadResult> {
    let answer: Json = serde_json::from_slice(body)?;
    let record = RecordBody::deserialize(&answer)?.record()?;
    read_of(request, &answer, Some(record))
}

/// What a read has found where there is no such key, which the node calls a refusal.
pub(in crate::client) fn missing(request: &ReadRequest, refusal: &ClusterRefusal) -> Option<ReadResult> {
    refusal.is("key_not_found").then(|| read_of(request, &refusal.answer.error(), None).ok()).flatten()
}

fn read_of(request: &ReadRequest, answer: &Json, record: Option<Record>) -> Read<ReadResult> {
    let as_of = AsOf::deserialize(answer)?;
    let confirmed_by = as_of.confirmed_by(request.consistency);
    Ok(ReadResult { confirmed_by, staleness_ms: as_of.staleness_ms, revision: as_of.revision, record })
}

#[derive(Debug, Deserialize)]
struct PageBody {
    #[serde(flatten)]
    as_of: AsOf,
    /// Absent where only a number was asked for.
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    entries: Vec<Json>,
    count: Option<u64>,
}

/// A page of a scan.
pub(in crate::client) fn page(request: &ScanRequest, body: &[u8]) -> Read<ScanResult> {
    let PageBody { as_of, is_truncated, entries, count } = serde_json::from_slice(body)?;
    let read = match request.detail {
        ScanDetail::Keys => |body: &Json| Ok((KeyBody::deserialize(body)?.key()?, untold_record())),
        ScanDetail::Records | ScanDetail::Count => entry,
    };
    Ok(ScanResult {
        confirmed_by: as_of.confirmed_by(request.consistency),
        staleness_ms: as_of.staleness_ms,
        revision: as_of.revision,
        entries: entries.iter().map(read).collect::<Read<_>>()?,
        is_truncated,
        count,
    })
}

/// Of a key whose record is not told: no entry has written it, and it has never been written.
fn untold_record() -> Record {
    let none = Revision(0);
    Record { value: Value::default(), create_revision: none, mod_revision: none, version: 0, lease: None }
}

#[derive(Debug, Deserialize)]
struct VaultsBody {
    revision: Revision,
    vaults: Vec<VaultBody>,
}

#[derive(Debug, Deserialize)]
struct VaultBody {
    name: VaultName,
    create_revision: Revision,
}

/// The vaults that there are.
pub(in crate::client) fn vaults(body: &[u8]) -> Read<VaultList> {
    let VaultsBody { revision, vaults } = serde_json::from_slice(body)?;
    let vaults = vaults.into_iter().map(|vault| (vault.name, vault.create_revision)).collect();
    Ok(VaultList { revision, vaults })
}

/// What a command has done, of an answer of 200.
pub(in crate::client) fn outcome(command: &Command, body: &[u8]) -> Read<WriteResult> {
    let mut answer: Json = serde_json::from_slice(body)?;
    let outcome = outcome_of(command, &mut answer)?;
    Ok(WriteResult { revision: field(&mut answer, "revision")?, outcome })
}

fn outcome_of(command: &Command, answer: &mut Json) -> Read<Outcome> {
    Ok(match command {
        Command::InVault { command, .. } | Command::WithLease { command, .. } => outcome_of(command, answer)?,
        Command::Set { .. } | Command::SetMulti { .. } => Outcome::Written,
        Command::Delete { .. } | Command::DeleteVault { .. } => {
            Outcome::Deleted { existed: field(answer, "deleted")? }
        }
        Command::DeleteMulti { .. } => Outcome::DeletedMulti { existed_count: field(answer, "deleted")? },
        Command::CompareAndSwap { .. } if field(answer, "swapped")? => Outcome::Swapped,
        Command::CompareAndSwap { .. } => return Err(FormError::Swapped),
        Command::Transaction(transaction) => transaction_of(transaction, answer)?,
        Command::CreateVault { .. } => Outcome::VaultReady { is_new: field(answer, "created")? },
        Command::GrantLease { .. } => Outcome::LeaseGranted,
        Command::RevokeLease { .. } => {
            Outcome::LeaseEnded { existed: true, key_count: field(answer, "deleted")? }
        }
    })
}

/// What a command has done where the node calls that a refusal; `None`: it has done nothing.
pub(in crate::client) fn refused(command: &Command, refusal: &ClusterRefusal) -> Option<WriteResult> {
    let mut error = refusal.answer.error();
    let outcome = match refusal.code.as_deref()? {
        "cas_failed" => Outcome::NotSwapped { actual: actual(&mut error).ok()? },
        "refused" => Outcome::Refused,
        "answer_too_large" => Outcome::AnswerTooLarge,
        "too_many_vaults" => Outcome::TooManyVaults,
        "too_many_leases" => Outcome::TooManyLeases,
        "lease_full" => Outcome::LeaseFull,
        "lease_not_found" if matches!(command, Command::RevokeLease { .. }) => {
            Outcome::LeaseEnded { existed: false, key_count: 0 }
        }
        "lease_not_found" => Outcome::LeaseNotFound,
        _ => return None,
    };
    Some(WriteResult { revision: field(&mut error, "revision").ok()?, outcome })
}

/// What was found instead of what was expected.
fn actual(error: &mut Json) -> Read<Option<Value>> {
    // Null says that there is no key, and nothing says nothing.
    if error.get("actual") == Some(&Json::Null) {
        return Ok(None);
    }
    Ok(Some(Value(bytes("actual", field(error, "actual")?, field(error, "actual_base64")?)?)))
}

fn transaction_of(transaction: &Transaction, answer: &mut Json) -> Read<Outcome> {
    let succeeded = field(answer, "succeeded")?;
    let results: Vec<Json> = field(answer, "results")?;
    let operations = if succeeded { &transaction.success } else { &transaction.failure };
    if results.len() != operations.len() {
        return Err(FormError::ResultCount { results: results.len(), operations: operations.len() });
    }
    let results = operations.iter().zip(results).map(|(operation, result)| result_of(operation, result));
    Ok(Outcome::Transaction { succeeded, results: results.collect::<Read<_>>()? })
}

fn result_of(operation: &Operation, mut result: Json) -> Read<OperationResult> {
    Ok(match operation {
        Operation::Put { .. } => OperationResult::Written,
        Operation::Delete { .. } => OperationResult::Deleted { existed: field(&mut result, "deleted")? },
        Operation::Get { .. } => {
            let record: Option<RecordBody> = field(&mut result, "record")?;
            OperationResult::Got(record.map(RecordBody::record).transpose()?)
        }
        Operation::Range { .. } => {
            let entries: Vec<Json> = field(&mut result, "entries")?;
            OperationResult::Found {
                entries: entries.iter().map(entry).collect::<Read<_>>()?,
                is_truncated: field(&mut result, "is_truncated")?,
            }
        }
    })
}

/// Takes a field out of an object.
fn field<T: DeserializeOwned>(object: &mut Json, name: &'static str) -> Read<T> {
    let value = object.get_mut(name).map(Json::take).unwrap_or_default();
    serde_json::from_value(value).map_err(|source| FormError::Field { name, source })
}

#[derive(Debug, Deserialize)]
struct ChangesBody {
    revision: Revision,
    changes: Vec<ChangeBody>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ChangeBody {
    Put {
        #[serde(flatten)]
        key: KeyBody,
        #[serde(flatten)]
        record: RecordBody,
        #[serde(default)]
        previous: PreviousBody,
    },
    Delete {
        #[serde(flatten)]
        key: KeyBody,
        #[serde(default)]
        previous: PreviousBody,
    },
    VaultDeleted,
}

/// The field `previous`, where null has a meaning of its own.
#[derive(Debug, Default)]
enum PreviousBody {
    #[default]
    NotNoted,
    Absent,
    Record(RecordBody),
}

impl<'de> Deserialize<'de> for PreviousBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Absent, Self::Record))
    }
}

impl PreviousBody {
    fn previous(self) -> Read<Previous> {
        Ok(match self {
            Self::NotNoted => Previous::NotNoted,
            Self::Absent => Previous::Absent,
            Self::Record(record) => Previous::Record(record.record()?),
        })
    }
}

impl ChangeBody {
    fn kind(self) -> Read<ChangeKind> {
        Ok(match self {
            Self::Put { key, record, previous } => {
                ChangeKind::Put { key: key.key()?, record: record.record()?, previous: previous.previous()? }
            }
            Self::Delete { key, previous } => {
                ChangeKind::Deleted { key: key.key()?, previous: previous.previous()? }
            }
            Self::VaultDeleted => ChangeKind::VaultDeleted,
        })
    }
}

/// The changes of one revision, of keys in this vault or in none.
pub(in crate::client) fn changes(vault: Option<&VaultName>, data: &str) -> Read<Revised> {
    let ChangesBody { revision, changes } = serde_json::from_str(data)?;
    let change = |body: ChangeBody| Ok(Change { vault: vault.cloned(), kind: body.kind()? });
    Ok(Revised { revision, changes: changes.into_iter().map(change).collect::<Read<_>>()? })
}
