//! `recovers`: after the end of every fault the cluster serves again, within a bound.
//!
//! Two things are asked: a write is acknowledged that was called after the heal, and every node that the fault touched
//! answers again. A fault that strikes before that, within the bound, takes the question over: it is asked from its own end.
//! A fault whose end was not seen asks for nothing: its missing receipt is judged elsewhere. On a host that was found to be too slow
//! for the plan at any pace, whoever is late breaks no promise, and nothing can be told.

use std::time::Duration;

use serde_json::json;

use super::{Status, Verdict, counted};
use crate::history::{History, Op, Operation, Outcome};
use crate::plan::{NodeIndex, Plan};
use crate::runner::record::{FaultRecord, RunRecord};

/// The name of the check.
pub const NAME: &str = "recovers";

/// What one fault asks for, and when it came.
struct Wanted<'a> {
    fault: &'a FaultRecord,
    what: String,
    /// From when on it was due.
    since_ns: u64,
    took: Option<Duration>,
}

/// Judges every fault that has ended.
pub fn check(plan: &Plan, history: &History, record: &RunRecord, within: Duration) -> Verdict {
    let wanted: Vec<Wanted<'_>> =
        record.faults.iter().flat_map(|fault| wanted(plan, history, record, fault, within)).collect();
    let is_late = |wanted: &&Wanted<'_>| wanted.took.is_none_or(|took| took > within);
    // What did not come may still have come in time, had the load gone on.
    let is_open = |wanted: &&Wanted<'_>| {
        let load_ended = Duration::from_nanos(record.load_ended_ns);
        wanted.took.is_none() && load_ended < Duration::from_nanos(wanted.since_ns).saturating_add(within)
    };
    let describe = |wanted: &Wanted<'_>| {
        let found =
            wanted.took.map_or("never again".to_owned(), |took| format!("after {:.3} s", took.as_secs_f64()));
        format!("{}: {} {found}", wanted.fault.text, wanted.what)
    };
    let late: Vec<String> =
        wanted.iter().filter(|item| is_late(item) && !is_open(item)).map(describe).collect();
    let open: Vec<String> = wanted.iter().filter(is_open).map(describe).collect();
    let slowest = wanted.iter().filter_map(|wanted| wanted.took).max().unwrap_or_default();
    let ended = record.faults.iter().filter(|fault| fault.ended_ns.is_some()).count();
    let (status, summary) = if !late.is_empty() {
        let late = format!("not within {:.3} s: {}", within.as_secs_f64(), late.join("; "));
        match &record.shortage {
            None => (Status::Fail, late),
            Some(shortage) => {
                (Status::Invalid, format!("{late}. Whose fault that is cannot be told: slowdown {shortage}"))
            }
        }
    } else if !open.is_empty() {
        (Status::Invalid, format!("the load ended too early to tell: {}", open.join("; ")))
    } else if wanted.is_empty() {
        (Status::Invalid, "no fault has ended, so there was nothing to recover from".to_owned())
    } else {
        let slowest = slowest.as_secs_f64();
        (
            Status::Pass,
            format!("served again after {}, {slowest:.3} s later at most", counted(ended as u64, "fault")),
        )
    };
    let details: Vec<_> = wanted
        .iter()
        .map(|item| json!({ "fault": item.fault.text, "what": item.what, "took_ms": item.took.map(|took| took.as_millis()) }))
        .collect();
    Verdict {
        check: NAME.to_owned(),
        status,
        summary,
        looked_at: [
            ("faults".to_owned(), ended as u64),
            ("operations".to_owned(), history.operations.len() as u64),
        ]
        .into(),
        details: details.into(),
    }
}

/// What has to come after a fault: a write, where the load has writes, and an answer of every node that it touched.
fn wanted<'a>(
    plan: &Plan,
    history: &History,
    record: &RunRecord,
    fault: &'a FaultRecord,
    within: Duration,
) -> Vec<Wanted<'a>> {
    let mut wanted = Vec::new();
    let mut want = |what: String, node: Option<NodeIndex>, first_ns: &dyn Fn(u64) -> Option<u64>| {
        if let Some((since_ns, came_ns)) = recovery(record, fault, within, first_ns) {
            // Whoever was put out of the cluster before it was late need not come back.
            let late_ns = late_ns(since_ns, within);
            let is_out = |out_ns: u64| out_ns < late_ns && came_ns.is_none_or(|came_ns| out_ns < came_ns);
            if node.and_then(|node| record.out_ns(node)).is_some_and(is_out) {
                return;
            }
            let took = came_ns.map(|came_ns| Duration::from_nanos(came_ns - since_ns));
            wanted.push(Wanted { fault, what, since_ns, took });
        }
    };
    let mix = plan.workload.mix;
    if mix.write + mix.cas > 0 {
        want("the cluster acknowledges a write".to_owned(), None, &|since_ns| {
            first_after(history, record, since_ns, |operation| {
                !matches!(operation.op, Op::Read) && is_answered(operation)
            })
        });
    }
    for node in &fault.touched {
        let name = &plan.nodes[node.position()].name;
        // An answer is enough, also to what was called before: the client that asks this node may still wait for that. One
        // that may be old is none, since a node gives it alone.
        want(format!("{name} answers"), Some(*node), &|since_ns| {
            history
                .operations
                .iter()
                .filter(|operation| is_answered(operation) && operation.max_staleness_ms.is_none())
                .filter(|operation| history.node(operation.node) == name)
                .filter_map(|operation| operation.return_ns)
                .filter(|return_ns| (since_ns..record.load_ended_ns).contains(return_ns))
                .min()
        });
    }
    wanted
}

/// From when on a recovery was due, and when it came. A fault that began before it came, and before it was late, puts it off
/// until that one has ended; `None` if that never did.
fn recovery(
    record: &RunRecord,
    fault: &FaultRecord,
    within: Duration,
    first_ns: &dyn Fn(u64) -> Option<u64>,
) -> Option<(u64, Option<u64>)> {
    let mut since_ns = calm_ns(record, fault)?;
    loop {
        let came_ns = first_ns(since_ns);
        let late_ns = late_ns(since_ns, within);
        let due_ns = came_ns.unwrap_or(u64::MAX).min(late_ns);
        let strikes = |other: &&FaultRecord| {
            other.began_ns.is_some_and(|began_ns| (since_ns + 1..due_ns).contains(&began_ns))
        };
        match record.faults.iter().filter(strikes).min_by_key(|other| other.began_ns) {
            None => return Some((since_ns, came_ns)),
            Some(next) => since_ns = calm_ns(record, next)?,
        }
    }
}

/// From when on a recovery is too late.
fn late_ns(since_ns: u64, within: Duration) -> u64 {
    since_ns.saturating_add(u64::try_from(within.as_nanos()).unwrap_or(u64::MAX))
}

/// When a fault, and every other that was in force when it ended, had ended: only then is a recovery due.
fn calm_ns(record: &RunRecord, fault: &FaultRecord) -> Option<u64> {
    let mut calm_ns = fault.ended_ns?;
    loop {
        let in_force = |other: &&FaultRecord| {
            other.began_ns.is_some_and(|began_ns| began_ns <= calm_ns)
                && other.ended_ns.is_none_or(|ended_ns| ended_ns > calm_ns)
        };
        match record.faults.iter().find(in_force) {
            None => return Some(calm_ns),
            // A fault that never ended leaves nothing to recover.
            Some(other) => calm_ns = other.ended_ns?,
        }
    }
}

/// Whether a node has answered an operation, whatever the answer was.
pub(super) fn is_answered(operation: &Operation) -> bool {
    matches!(operation.outcome, Outcome::Read { .. } | Outcome::Done | Outcome::CasFailed { .. })
}

/// When the first operation of the load that was called after `since_ns`, and that fits, was answered.
fn first_after(
    history: &History,
    record: &RunRecord,
    since_ns: u64,
    fits: impl Fn(&Operation) -> bool,
) -> Option<u64> {
    let times = since_ns..record.load_ended_ns;
    let later =
        history.operations.iter().filter(|operation| times.contains(&operation.call_ns) && fits(operation));
    later.filter_map(|operation| operation.return_ns).min()
}
