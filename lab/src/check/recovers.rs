//! `recovers`: after every heal and every restart the cluster serves again, within a bound.
//!
//! Two things are asked: a write is acknowledged that was called after the heal, and every node that the fault touched
//! answers again. A fault whose end was not seen asks for nothing: its missing receipt is judged elsewhere.

use std::time::Duration;

use serde_json::json;

use super::{Status, Verdict};
use crate::history::{History, Op, Operation, Outcome};
use crate::plan::Plan;
use crate::runner::record::{FaultRecord, RunRecord};

/// The name of the check.
pub const NAME: &str = "recovers";

/// Judges every fault that has ended.
pub fn check(plan: &Plan, history: &History, record: &RunRecord, within: Duration) -> Verdict {
    let ended: Vec<(&FaultRecord, u64)> =
        record.faults.iter().filter_map(|fault| fault.ended_ns.map(|ended_ns| (fault, ended_ns))).collect();
    let mut slowest = Duration::ZERO;
    let mut late = Vec::new();
    let mut details = Vec::new();
    for (fault, ended_ns) in &ended {
        let write = first_after(history, *ended_ns, |operation| {
            !matches!(operation.op, Op::Read) && operation.outcome == Outcome::Done
        });
        let mut wanted = vec![("the cluster acknowledges a write".to_owned(), write)];
        for node in &fault.touched {
            let name = &plan.nodes[node.position()].name;
            let served = first_after(history, *ended_ns, |operation| {
                is_answered(operation) && history.node(operation.node) == name
            });
            wanted.push((format!("{name} answers"), served));
        }
        for (what, took) in wanted {
            let is_late = took.is_none_or(|took| took > within);
            slowest = slowest.max(took.unwrap_or_default());
            if is_late {
                let found = took
                    .map_or("never again".to_owned(), |took| format!("after {:.3} s", took.as_secs_f64()));
                late.push(format!("{}: {what} {found}", fault.text));
            }
            details.push(
                json!({ "fault": fault.text, "what": what, "took_ms": took.map(|took| took.as_millis()) }),
            );
        }
    }
    let (status, summary) = if ended.is_empty() {
        (Status::Invalid, "no fault has ended, so there was nothing to recover from".to_owned())
    } else if late.is_empty() {
        let summary = format!(
            "served again after each of {} faults, after {:.3} s at the latest",
            ended.len(),
            slowest.as_secs_f64()
        );
        (Status::Pass, summary)
    } else {
        (Status::Fail, format!("not within {:.3} s: {}", within.as_secs_f64(), late.join("; ")))
    };
    Verdict {
        check: NAME.to_owned(),
        status,
        summary,
        looked_at: [
            ("faults".to_owned(), ended.len() as u64),
            ("operations".to_owned(), history.operations.len() as u64),
        ]
        .into(),
        details: details.into(),
    }
}

/// Whether a node has answered an operation, whatever the answer was.
pub(super) fn is_answered(operation: &Operation) -> bool {
    matches!(operation.outcome, Outcome::Read { .. } | Outcome::Done | Outcome::CasFailed { .. })
}

/// How long after `since_ns` the first operation that was called later, and that fits, was answered.
fn first_after(history: &History, since_ns: u64, fits: impl Fn(&Operation) -> bool) -> Option<Duration> {
    let later =
        history.operations.iter().filter(|operation| operation.call_ns >= since_ns && fits(operation));
    let first_ns = later.filter_map(|operation| operation.return_ns).min()?;
    Some(Duration::from_nanos(first_ns - since_ns))
}
