//! The record of what clients did: one line of JSON for each call and each answer.
//!
//! The format is described in `docs/history.md`, so that any tool can write it. A [`HistoryWriter`] streams
//! the lines out while clients run; [`read_history`] brings them back as a [`History`], small enough for
//! millions of operations. Nothing here judges what the clients saw: that is `check`.

mod error;
mod read;
mod texts;

#[cfg(test)]
mod tests;

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

pub use self::error::{HistoryError, Record};
pub use self::read::read_history;
pub use self::texts::Texts;

/// Names one operation within a history: the same number in its call and in its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OpId(pub u64);

/// Index of a client's name in [`History::clients`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientIndex(pub u32);

/// Index of a node's name in [`History::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeNameIndex(pub u32);

/// Index of a key in [`History::keys`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyIndex(pub u32);

/// Index of a value, or of a refusal's reason, in [`History::values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueIndex(pub u32);

/// What a client asked for. `V` is the value: text on the way in and out, [`ValueIndex`] in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op<V> {
    /// The value of the key.
    Read,
    /// The key gets this value, whatever it had.
    Write {
        /// The new value.
        value: V,
    },
    /// Compare and swap: the key gets `value` if it has `expected`.
    Cas {
        /// What the key must have; `None`: it must be absent.
        expected: Option<V>,
        /// The new value.
        value: V,
    },
    /// The key becomes absent.
    Delete,
}

impl Op<String> {
    /// The same operation, its values borrowed.
    pub fn as_ref(&self) -> Op<&str> {
        match self {
            Self::Read => Op::Read,
            Self::Write { value } => Op::Write { value },
            Self::Cas { expected, value } => Op::Cas { expected: expected.as_deref(), value },
            Self::Delete => Op::Delete,
        }
    }
}

impl<V> Op<V> {
    /// The same operation, its values turned by `f`.
    pub fn map<T>(self, f: impl Fn(V) -> T) -> Op<T> {
        match self {
            Self::Read => Op::Read,
            Self::Write { value } => Op::Write { value: f(value) },
            Self::Cas { expected, value } => Op::Cas { expected: expected.map(&f), value: f(value) },
            Self::Delete => Op::Delete,
        }
    }
}

/// What became of an operation, as far as its client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome<V> {
    /// A read was answered.
    Read {
        /// The value; `None`: the key was absent.
        value: Option<V>,
    },
    /// A write, a delete or a CAS took effect.
    Done,
    /// A CAS did not take effect, because the key had another value than the expected one.
    CasFailed {
        /// What the key had; `None`: it was absent.
        actual: Option<V>,
    },
    /// Certainly not applied, neither now nor later.
    Refused {
        /// Why, in the node's words.
        reason: V,
    },
    /// May have taken effect at any time after the call, may still do so, or never.
    Unknown,
}

impl Outcome<String> {
    /// The same outcome, its values borrowed.
    pub fn as_ref(&self) -> Outcome<&str> {
        match self {
            Self::Read { value } => Outcome::Read { value: value.as_deref() },
            Self::Done => Outcome::Done,
            Self::CasFailed { actual } => Outcome::CasFailed { actual: actual.as_deref() },
            Self::Refused { reason } => Outcome::Refused { reason },
            Self::Unknown => Outcome::Unknown,
        }
    }
}

impl<V> Outcome<V> {
    /// The same outcome, its values turned by `f`.
    pub fn map<T>(self, f: impl Fn(V) -> T) -> Outcome<T> {
        match self {
            Self::Read { value } => Outcome::Read { value: value.map(f) },
            Self::Done => Outcome::Done,
            Self::CasFailed { actual } => Outcome::CasFailed { actual: actual.map(f) },
            Self::Refused { reason } => Outcome::Refused { reason: f(reason) },
            Self::Unknown => Outcome::Unknown,
        }
    }
}

/// A call, as it is written.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Not used before in this history.
    pub id: OpId,
    /// Who calls.
    pub client: &'a str,
    /// Who is called.
    pub node: &'a str,
    /// When, in nanoseconds since the start of the run: taken before the request is sent.
    pub at_ns: u64,
    /// The key that is meant.
    pub key: &'a str,
    /// What is asked for.
    pub op: Op<&'a str>,
    /// Of a read: how old its answer may be, in milliseconds before the call; `None`: not at all.
    pub max_staleness_ms: Option<u64>,
}

/// An answer, as it is written.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The call that is answered.
    pub id: OpId,
    /// When, in nanoseconds since the start of the run: taken after the answer arrived.
    pub at_ns: u64,
    /// What came back.
    pub outcome: Outcome<&'a str>,
}

/// One operation of a history: a call and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Its name in the file.
    pub id: OpId,
    /// Who called.
    pub client: ClientIndex,
    /// Who was called.
    pub node: NodeNameIndex,
    /// The key that was meant.
    pub key: KeyIndex,
    /// What was asked for.
    pub op: Op<ValueIndex>,
    /// Of a read: how old its answer may be, in milliseconds before the call; `None`: not at all.
    pub max_staleness_ms: Option<u64>,
    /// When it was called, in nanoseconds since the start of the run.
    pub call_ns: u64,
    /// When the client learned the outcome, or gave up; `None`: never.
    pub return_ns: Option<u64>,
    /// What became of it; [`Outcome::Unknown`] if there was no answer.
    pub outcome: Outcome<ValueIndex>,
}

/// All operations of a run, in the order of their calls in the file.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The operations.
    pub operations: Vec<Operation>,
    /// The names of the clients.
    pub clients: Texts,
    /// The names of the nodes.
    pub nodes: Texts,
    /// The keys.
    pub keys: Texts,
    /// The values, and the reasons of refusals.
    pub values: Texts,
}

impl History {
    /// The client's name.
    pub fn client(&self, index: ClientIndex) -> &str {
        self.clients.get(index.0)
    }

    /// The node's name.
    pub fn node(&self, index: NodeNameIndex) -> &str {
        self.nodes.get(index.0)
    }

    /// The key's text.
    pub fn key(&self, index: KeyIndex) -> &str {
        self.keys.get(index.0)
    }

    /// The value's text.
    pub fn value(&self, index: ValueIndex) -> &str {
        self.values.get(index.0)
    }
}

/// Streams calls and answers out, one line of JSON each. It keeps nothing: an hour of operations needs no
/// more memory than one.
#[derive(Debug)]
pub struct HistoryWriter<W: Write> {
    out: W,
    /// The line under construction, so that `out` sees whole lines.
    line: Vec<u8>,
}

impl<W: Write> HistoryWriter<W> {
    /// Writes to `out`, a line at a time: put a `BufWriter` in between.
    pub fn new(out: W) -> Self {
        Self { out, line: Vec::new() }
    }

    /// Writes a call. The caller keeps the ids distinct, and writes a call before its answer.
    ///
    /// # Errors
    /// The line could not be written.
    pub fn call(&mut self, call: &Call<'_>) -> io::Result<()> {
        let (op, expected, value) = match call.op {
            Op::Read => ("read", None, None),
            Op::Write { value } => ("write", None, Some(value)),
            Op::Cas { expected, value } => ("cas", Some(expected), Some(value)),
            Op::Delete => ("delete", None, None),
        };
        let Call { id, client, node, at_ns, key, max_staleness_ms, .. } = *call;
        self.write_line(&CallLine {
            call: id,
            client,
            node,
            at_ns,
            op,
            key,
            expected,
            value,
            max_staleness_ms,
        })
    }

    /// Writes the answer to a call. An operation that gets no answer needs no line: it is unknown.
    ///
    /// # Errors
    /// The line could not be written.
    pub fn answer(&mut self, answer: &Answer<'_>) -> io::Result<()> {
        let mut line = AnswerLine {
            answer: answer.id,
            at_ns: answer.at_ns,
            outcome: "ok",
            value: None,
            actual: None,
            reason: None,
        };
        match answer.outcome {
            Outcome::Read { value } => line.value = Some(value),
            Outcome::Done => {}
            Outcome::CasFailed { actual } => (line.outcome, line.actual) = ("cas_failed", Some(actual)),
            Outcome::Refused { reason } => (line.outcome, line.reason) = ("refused", Some(reason)),
            Outcome::Unknown => line.outcome = "unknown",
        }
        self.write_line(&line)
    }

    /// Hands what is buffered further down to its destination.
    ///
    /// # Errors
    /// It could not be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The file below, with everything written to it.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn write_line(&mut self, line: &impl Serialize) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, line)?;
        self.line.push(b'\n');
        self.out.write_all(&self.line)
    }
}

/// A call's line. The outer `Option` is whether the field is there, the inner one is null.
#[derive(Serialize)]
#[expect(clippy::option_option, reason = "a field may be missing, null or a text")]
struct CallLine<'a> {
    call: OpId,
    client: &'a str,
    node: &'a str,
    at_ns: u64,
    op: &'static str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_staleness_ms: Option<u64>,
}

/// An answer's line; see [`CallLine`].
#[derive(Serialize)]
#[expect(clippy::option_option, reason = "a field may be missing, null or a text")]
struct AnswerLine<'a> {
    answer: OpId,
    at_ns: u64,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actual: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}
