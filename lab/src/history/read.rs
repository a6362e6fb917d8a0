//! Reads a history back, one line at a time, and says of the first bad line what is wrong with it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{BufRead, Read};

use serde::{Deserialize, Deserializer};

use super::error::{HistoryError, Record};
use super::{ClientIndex, History, KeyIndex, NodeNameIndex, Op, OpId, Operation, Outcome, Texts, ValueIndex};
use crate::limits::{HISTORY_LINE_BYTES_MAX, HISTORY_OPERATIONS_MAX};

/// Reads a whole history, as `docs/history.md` describes it. An empty one is a history.
///
/// # Errors
/// The first line that is not as described.
pub fn read_history(input: impl BufRead) -> Result<History, HistoryError> {
    let mut input = input;
    let mut reader = Reader::default();
    let mut bytes = Vec::new();
    loop {
        reader.line += 1;
        let line = reader.line;
        bytes.clear();
        let read = input.by_ref().take(HISTORY_LINE_BYTES_MAX + 1).read_until(b'\n', &mut bytes);
        if read.map_err(|source| HistoryError::Read { line, source })? == 0 {
            return Ok(reader.history);
        }
        if bytes.len() as u64 > HISTORY_LINE_BYTES_MAX {
            return Err(HistoryError::LineBytes { line });
        }
        let is_whole = bytes.pop_if(|&mut last| last == b'\n').is_some();
        match serde_json::from_slice::<Line<'_>>(&bytes) {
            Ok(record) => reader.record(&record)?,
            Err(source) if source.is_eof() && !is_whole => return Err(HistoryError::CutOff { line }),
            Err(source) => return Err(malformed(line, &source)),
        }
    }
}

/// The parser saw a single line: the number of the line is ours, the column is its own.
fn malformed(line: u64, source: &serde_json::Error) -> HistoryError {
    let mut reason = source.to_string();
    if let Some(place) = reason.rfind(" at line ") {
        reason.truncate(place);
    }
    HistoryError::Malformed { line, column: source.column(), reason }
}

/// A text that is borrowed from the line where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Any line, before it is known which fields it must have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[expect(clippy::option_option, reason = "a field may be missing, null or a text")]
struct Line<'a> {
    call: Option<u64>,
    answer: Option<u64>,
    at_ns: u64,
    #[serde(borrow)]
    client: Option<Text<'a>>,
    #[serde(borrow)]
    node: Option<Text<'a>>,
    op: Option<OpName>,
    #[serde(borrow)]
    key: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    expected: Option<Option<Text<'a>>>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<Option<Text<'a>>>,
    max_staleness_ms: Option<u64>,
    outcome: Option<OutcomeName>,
    #[serde(borrow, default, deserialize_with = "present")]
    actual: Option<Option<Text<'a>>>,
    #[serde(borrow)]
    reason: Option<Text<'a>>,
}

/// Tells a field that is null from one that is not there.
#[expect(clippy::option_option, reason = "a field may be missing, null or a text")]
fn present<'de: 'a, 'a, D>(input: D) -> Result<Option<Option<Text<'a>>>, D::Error>
where
    D: Deserializer<'de>,
{
    Option::deserialize(input).map(Some)
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OpName {
    Read,
    Write,
    Cas,
    Delete,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OutcomeName {
    Ok,
    CasFailed,
    Refused,
    Unknown,
}

#[derive(Default)]
struct Reader {
    line: u64,
    history: History,
    /// Where each id's operation is.
    by_id: HashMap<u64, u32>,
    /// The time of each client's last record.
    client_ns: Vec<u64>,
}

impl Reader {
    fn record(&mut self, record: &Line<'_>) -> Result<(), HistoryError> {
        match (record.call, record.answer) {
            (Some(id), None) => self.call(id, record),
            (None, Some(id)) => self.answer(id, record),
            _ => Err(HistoryError::Kind { line: self.line }),
        }
    }

    fn call(&mut self, id: u64, record: &Line<'_>) -> Result<(), HistoryError> {
        let line = self.line;
        let name = match record.op {
            Some(OpName::Read) => Record::Call("read"),
            Some(OpName::Write) => Record::Call("write"),
            Some(OpName::Cas) => Record::Call("cas"),
            Some(OpName::Delete) => Record::Call("delete"),
            None => Record::Unnamed,
        };
        let missing = |field| HistoryError::Missing { line, field, record: name };
        for (field, there) in [
            ("outcome", record.outcome.is_some()),
            ("actual", record.actual.is_some()),
            ("reason", record.reason.is_some()),
            ("expected", record.expected.is_some() && !matches!(record.op, Some(OpName::Cas))),
            ("value", record.value.is_some() && matches!(record.op, Some(OpName::Read | OpName::Delete))),
            (
                "max_staleness_ms",
                record.max_staleness_ms.is_some() && !matches!(record.op, Some(OpName::Read)),
            ),
        ] {
            if there {
                return Err(HistoryError::Extra { line, field, record: name });
            }
        }
        let op = record.op.ok_or_else(|| missing("op"))?;
        let client = record.client.as_ref().ok_or_else(|| missing("client"))?;
        let client = ClientIndex(intern(&mut self.history.clients, client, line)?);
        let node = record.node.as_ref().ok_or_else(|| missing("node"))?;
        let node = NodeNameIndex(intern(&mut self.history.nodes, node, line)?);
        let key = record.key.as_ref().ok_or_else(|| missing("key"))?;
        let key = KeyIndex(intern(&mut self.history.keys, key, line)?);
        let value = self.value(record.value.as_ref().and_then(Option::as_ref))?;
        let op = match op {
            OpName::Read => Op::Read,
            OpName::Delete => Op::Delete,
            OpName::Write => Op::Write { value: value.ok_or_else(|| missing("value"))? },
            OpName::Cas => {
                let expected = record.expected.as_ref().ok_or_else(|| missing("expected"))?;
                let expected = self.value(expected.as_ref())?;
                Op::Cas { expected, value: value.ok_or_else(|| missing("value"))? }
            }
        };
        let index = u32::try_from(self.history.operations.len()).unwrap_or(u32::MAX);
        if index >= HISTORY_OPERATIONS_MAX {
            return Err(HistoryError::OperationCount { line });
        }
        match self.by_id.entry(id) {
            Entry::Occupied(_) => return Err(HistoryError::IdTwice { line, id }),
            Entry::Vacant(entry) => entry.insert(index),
        };
        self.advance(client, record.at_ns)?;
        let (id, call_ns, outcome) = (OpId(id), record.at_ns, Outcome::Unknown);
        self.history.operations.push(Operation {
            id,
            client,
            node,
            key,
            op,
            max_staleness_ms: record.max_staleness_ms,
            call_ns,
            return_ns: None,
            outcome,
        });
        Ok(())
    }

    fn answer(&mut self, id: u64, record: &Line<'_>) -> Result<(), HistoryError> {
        let line = self.line;
        let Some(&index) = self.by_id.get(&id) else {
            return Err(HistoryError::AnswerBeforeCall { line, id });
        };
        let Operation { client, op, return_ns, .. } = self.history.operations[index as usize];
        if return_ns.is_some() {
            return Err(HistoryError::AnsweredTwice { line, id });
        }
        let name = match record.outcome {
            Some(OutcomeName::Ok) => Record::Answer("ok"),
            Some(OutcomeName::CasFailed) => Record::Answer("cas_failed"),
            Some(OutcomeName::Refused) => Record::Answer("refused"),
            Some(OutcomeName::Unknown) => Record::Answer("unknown"),
            None => Record::Unnamed,
        };
        let is_read_ok = matches!((record.outcome, op), (Some(OutcomeName::Ok), Op::Read));
        for (field, there) in [
            ("client", record.client.is_some()),
            ("node", record.node.is_some()),
            ("op", record.op.is_some()),
            ("key", record.key.is_some()),
            ("expected", record.expected.is_some()),
            ("max_staleness_ms", record.max_staleness_ms.is_some()),
            ("value", record.value.is_some() && !is_read_ok),
            ("actual", record.actual.is_some() && !matches!(record.outcome, Some(OutcomeName::CasFailed))),
            ("reason", record.reason.is_some() && !matches!(record.outcome, Some(OutcomeName::Refused))),
        ] {
            if there {
                return Err(HistoryError::Extra { line, field, record: name });
            }
        }
        let missing = |field| HistoryError::Missing { line, field, record: name };
        let outcome = match record.outcome.ok_or_else(|| missing("outcome"))? {
            OutcomeName::Unknown => Outcome::Unknown,
            OutcomeName::Ok if is_read_ok => {
                let value = record.value.as_ref().ok_or_else(|| missing("value"))?;
                Outcome::Read { value: self.value(value.as_ref())? }
            }
            OutcomeName::Ok => Outcome::Done,
            OutcomeName::CasFailed if !matches!(op, Op::Cas { .. }) => {
                return Err(HistoryError::NotCas { line, id });
            }
            OutcomeName::CasFailed => {
                let actual = record.actual.as_ref().ok_or_else(|| missing("actual"))?;
                Outcome::CasFailed { actual: self.value(actual.as_ref())? }
            }
            OutcomeName::Refused => {
                let reason = record.reason.as_ref().ok_or_else(|| missing("reason"))?;
                Outcome::Refused { reason: ValueIndex(intern(&mut self.history.values, reason, line)?) }
            }
        };
        self.advance(client, record.at_ns)?;
        let operation = &mut self.history.operations[index as usize];
        (operation.return_ns, operation.outcome) = (Some(record.at_ns), outcome);
        Ok(())
    }

    /// The value's index.
    fn value(&mut self, text: Option<&Text<'_>>) -> Result<Option<ValueIndex>, HistoryError> {
        let line = self.line;
        text.map(|text| intern(&mut self.history.values, text, line).map(ValueIndex)).transpose()
    }

    /// Moves the client's clock to `at_ns`.
    fn advance(&mut self, client: ClientIndex, at_ns: u64) -> Result<(), HistoryError> {
        let index = client.0 as usize;
        if index >= self.client_ns.len() {
            self.client_ns.resize(index + 1, 0);
        }
        let previous_ns = self.client_ns[index];
        if at_ns < previous_ns {
            let client = self.history.client(client).to_owned();
            return Err(HistoryError::TimeBackwards { line: self.line, client, at_ns, previous_ns });
        }
        self.client_ns[index] = at_ns;
        Ok(())
    }
}

fn intern(texts: &mut Texts, text: &Text<'_>, line: u64) -> Result<u32, HistoryError> {
    texts.intern(&text.0).ok_or(HistoryError::TextBytes { line })
}
