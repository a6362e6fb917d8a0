//! `minority_refuses`: nodes that a partition leaves without a majority answer nothing, neither reads nor writes, that
//! was called after the partition was in force.
//!
//! A partition without a receipt is not judged. What was called earlier may be answered: its quorum may have been there in
//! time. It counts as asked where it found no answer all the time of the partition: clients who wait for one call no more.

use serde_json::json;

use super::recovers::is_answered;
use super::{Status, Verdict, counted, seconds};
use crate::history::{History, Op, Operation};
use crate::limits::MINORITY_ANSWERS_TOLD_MAX;
use crate::plan::Plan;
use crate::runner::record::RunRecord;

/// The name of the check.
pub const NAME: &str = "minority_refuses";

/// Judges every partition that left a minority.
pub fn check(plan: &Plan, history: &History, record: &RunRecord) -> Verdict {
    let mut asked: u64 = 0;
    let mut answered: Vec<&Operation> = Vec::new();
    let mut partitions: u64 = 0;
    let mut unasked: Vec<String> = Vec::new();
    for fault in &record.faults {
        let (Some(began_ns), Some(ended_ns)) = (fault.began_ns, fault.ended_ns) else { continue };
        // A partition that cut nothing left nobody without a majority: that is for the receipts to say.
        if fault.minority.is_empty() || !fault.has_receipt() {
            continue;
        }
        partitions += 1;
        for node in &fault.minority {
            let name = &plan.nodes[node.position()].name;
            let before = asked;
            // What may be old, a node may answer alone.
            let strict = history.operations.iter().filter(|operation| operation.max_staleness_ms.is_none());
            let on_node = strict.filter(|operation| history.node(operation.node) == name);
            for operation in on_node.filter(|operation| operation.call_ns < ended_ns) {
                let is_open = operation.return_ns.is_none_or(|at_ns| at_ns >= ended_ns);
                let is_called_in_it = operation.call_ns >= began_ns;
                asked += u64::from(is_called_in_it || is_open);
                if is_called_in_it && !is_open && is_answered(operation) {
                    answered.push(operation);
                }
            }
            if asked == before {
                unasked.push(format!("{name} during {}", fault.text));
            }
        }
    }
    let (status, summary) = if let Some(first) = answered.first() {
        let more = match answered.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        (
            Status::Fail,
            format!("a node without a majority answered: {}{more}", describe(history, record, first)),
        )
    } else if partitions == 0 {
        (Status::Invalid, "no partition with a receipt left a node without a majority".to_owned())
    } else if !unasked.is_empty() {
        (Status::Invalid, format!("nobody asked {}", unasked.join(", ")))
    } else {
        let summary =
            format!("{} on nodes without a majority, none of them answered", counted(asked, "operation"));
        (Status::Pass, summary)
    };
    let named: Vec<_> = answered
        .iter()
        .take(MINORITY_ANSWERS_TOLD_MAX)
        .map(|operation| describe(history, record, operation))
        .collect();
    Verdict {
        check: NAME.to_owned(),
        status,
        summary,
        looked_at: [("partitions".to_owned(), partitions), ("operations".to_owned(), asked)].into(),
        details: json!({ "answered": named }),
    }
}

fn describe(history: &History, record: &RunRecord, operation: &Operation) -> String {
    let kind = match operation.op {
        Op::Read => "a read",
        Op::Write { .. } => "a write",
        Op::Cas { .. } => "a compare-and-swap",
        Op::Delete => "a delete",
    };
    format!(
        "{} gave {} {kind} of {} at {:.3} s (operation {})",
        history.node(operation.node),
        history.client(operation.client),
        history.key(operation.key),
        seconds(operation.call_ns, record.origin_ns),
        operation.id.0,
    )
}
