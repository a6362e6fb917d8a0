//! `durable`: what was acknowledged is there in the end, and every member has the same.
//!
//! It looks at the reads that were made after the load had ended and every member had applied the same entry: each key from
//! every member, and once more linearizably. Members that differ fail. So does a key whose last value no order of the
//! writes explains: an acknowledged write is lost, or one that was refused has come back.
//!
//! Reads of the load do not matter here, so that a stale one does not hide, or look like, a lost write; `linearizable`
//! judges them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::json;

use super::linearizable::{self, Budget, LinearizableResult, Role, Violation};
use super::{Status, Verdict, counted};
use crate::history::{ClientIndex, History, KeyIndex, Op, Operation, Outcome, ValueIndex};
use crate::limits::{DIFFERENCES_NAMED_MAX, SETTLE_MAX};
use crate::runner::record::RunRecord;
use crate::runner::settle::CLIENT;

/// The name of the check.
pub const NAME: &str = "durable";

/// Judges the reads after the load.
pub fn check(history: &History, record: &RunRecord, budget: &Budget) -> Verdict {
    let settling = Settling::new(history);
    let reads = history.operations.iter().filter(|operation| settling.is_final(operation)).count() as u64;
    let (status, summary, details) = match &record.settled {
        None => {
            let summary = "the run ended before the members could be compared".to_owned();
            (Status::Invalid, summary, json!({}))
        }
        Some(settled) => match &settled.problem {
            // Slow is not lost, and what nobody could read cannot be judged.
            Some(problem) => (
                Status::Unknown,
                format!("the members could not be compared within {} s: {problem}", SETTLE_MAX.as_secs()),
                json!({ "problem": problem }),
            ),
            // A history that was cut off where its last lines end looks whole.
            None if reads < settled.reads_count => {
                let summary = format!("the history holds {reads} of {} final reads", settled.reads_count);
                (Status::Invalid, summary, json!({}))
            }
            None => settling.judge(budget, record.origin_ns),
        },
    };
    let updates =
        history.operations.iter().filter(|operation| is_acknowledged_update(operation)).count() as u64;
    Verdict {
        check: NAME.to_owned(),
        status,
        summary,
        looked_at: [
            ("keys".to_owned(), history.keys.count() as u64),
            ("acknowledged_updates".to_owned(), updates),
            ("final_reads".to_owned(), reads),
        ]
        .into(),
        details,
    }
}

/// The final reads of a history.
struct Settling<'a> {
    history: &'a History,
    clients: HashSet<ClientIndex>,
}

impl<'a> Settling<'a> {
    fn new(history: &'a History) -> Self {
        let reads_last = |index: &ClientIndex| is_settling(history.client(*index));
        let count = u32::try_from(history.clients.count()).unwrap_or(u32::MAX);
        Self { history, clients: (0..count).map(ClientIndex).filter(reads_last).collect() }
    }

    fn is_final(&self, operation: &Operation) -> bool {
        self.clients.contains(&operation.client)
    }

    fn judge(&self, budget: &Budget, origin_ns: u64) -> (Status, String, serde_json::Value) {
        let differences = self.differences();
        if let Some(first) = differences.first() {
            let more = more(differences.len());
            let summary = format!("members differ: {first}{more}");
            let named: Vec<_> = differences.iter().take(DIFFERENCES_NAMED_MAX).collect();
            return (Status::Fail, summary, json!({ "differences": named }));
        }
        let LinearizableResult { violations, more_keys, undecided, .. } = self.lost(budget).since(origin_ns);
        let details = json!({ "violations": violations, "more_keys": more_keys, "undecided": undecided });
        if let Some(first) = violations.first() {
            let more = more(violations.len() + more_keys.len());
            (Status::Fail, format!("not what was acknowledged last: {}{more}", first.summary), details)
        } else if let Some(first) = undecided.first() {
            (Status::Unknown, format!("key {} was not decided: {}", first.key, first.reason), details)
        } else if self.clients.is_empty() {
            (Status::Invalid, "no key was read after the load".to_owned(), details)
        } else {
            let keys = counted(self.history.keys.count() as u64, "key");
            let summary = format!("every member holds the same, and what was acknowledged last under {keys}");
            (Status::Pass, summary, details)
        }
    }

    /// Keys of which not every final read gave the same.
    fn differences(&self) -> Vec<String> {
        let mut values: BTreeMap<KeyIndex, BTreeMap<Option<ValueIndex>, Vec<&str>>> = BTreeMap::new();
        for operation in self.history.operations.iter().filter(|operation| self.is_final(operation)) {
            if let Outcome::Read { value } = operation.outcome {
                let nodes = values.entry(operation.key).or_default().entry(value).or_default();
                nodes.push(self.history.node(operation.node));
            }
        }
        let different = values.iter().filter(|(_, by_value)| by_value.len() > 1);
        let text = different.map(|(key, by_value)| {
            let parts = by_value.iter().map(|(value, nodes)| {
                let value = value.map_or("nothing", |value| self.history.value(value));
                let nodes: BTreeSet<&str> = nodes.iter().copied().collect();
                let nodes: Vec<&str> = nodes.into_iter().collect();
                format!("{} on {}", linearizable::shown(value), nodes.join(", "))
            });
            let parts: Vec<String> = parts.collect();
            format!("key {} is {}", linearizable::shown(self.history.key(*key)), parts.join(", but "))
        });
        text.collect()
    }

    /// Keys whose final reads no order of the writes explains.
    fn lost(&self, budget: &Budget) -> LinearizableResult {
        let strict = self.judged(budget, |op| op);
        let is_of_final_read = |violation: &Violation| {
            violation
                .operations
                .iter()
                .any(|operation| operation.role == Role::Conflict && is_settling(&operation.client))
        };
        if strict.violations.iter().all(is_of_final_read) {
            return strict;
        }
        // Writes that contradict each other are not lost: without what a compare-and-swap expected, only the final reads
        // can be in the way.
        self.judged(budget, |op| match op {
            Op::Cas { value, .. } => Op::Write { value },
            other => other,
        })
    }

    /// The writes, each as `turn` makes it, and the final reads.
    fn judged(&self, budget: &Budget, turn: impl Fn(Op<ValueIndex>) -> Op<ValueIndex>) -> LinearizableResult {
        let is_update = |operation: &Operation| {
            !matches!(operation.op, Op::Read) && matches!(operation.outcome, Outcome::Done | Outcome::Unknown)
        };
        let operations = self
            .history
            .operations
            .iter()
            .filter(|operation| is_update(operation) || self.is_final(operation));
        let operations =
            operations.map(|operation| Operation { op: turn(operation.op), ..*operation }).collect();
        let History { clients, nodes, keys, values, .. } = self.history;
        let (clients, nodes) = (clients.clone(), nodes.clone());
        let part = History { operations, clients, nodes, keys: keys.clone(), values: values.clone() };
        linearizable::check(&part, budget)
    }
}

/// Whether a client is one of those that read after the load.
fn is_settling(client: &str) -> bool {
    client == CLIENT || client.strip_prefix(CLIENT).is_some_and(|rest| rest.starts_with('-'))
}

/// Whether an operation changed a key, and its client knows.
fn is_acknowledged_update(operation: &Operation) -> bool {
    !matches!(operation.op, Op::Read) && operation.outcome == Outcome::Done
}

fn more(count: usize) -> String {
    if count > 1 { format!(", and {} more", counted(count as u64 - 1, "key")) } else { String::new() }
}

#[cfg(test)]
mod tests;
