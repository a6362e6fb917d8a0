//! `receipts`: every fault of the plan had its effect; and enough happened to judge. Without both, nothing else that
//! passed is worth anything.

use serde_json::json;

use super::{Status, Verdict, counted};
use crate::limits::ANSWERED_MIN;
use crate::plan::Plan;
use crate::runner::record::{LinksRecord, RunRecord};

/// The name of the check.
pub const NAME: &str = "receipts";

/// Looks for every receipt.
pub fn check(plan: &Plan, record: &RunRecord) -> Verdict {
    let due: usize = plan.steps.iter().map(|step| step.draws.len()).sum();
    let complete = record.faults.iter().filter(|fault| fault.has_receipt()).count();
    let mut missing: Vec<String> = Vec::new();
    if record.is_interrupted {
        missing.push("the run was ended early".to_owned());
    }
    missing.extend(record.defects.iter().map(|defect| format!("the lab failed: {defect}")));
    for fault in record.faults.iter().filter(|fault| !fault.has_receipt()) {
        let unseen = fault.proofs.iter().find(|proof| !proof.is_seen);
        let reason = match (&fault.problem, unseen) {
            (Some(problem), _) => problem.clone(),
            (None, Some(proof)) => format!("not seen that {} ({})", proof.what, proof.detail),
            (None, None) => "nothing was proven".to_owned(),
        };
        missing.push(format!("{}: {reason}", fault.text));
    }
    if !plan.links.is_empty() {
        missing.extend(links_missing(record.links.as_ref()));
    }
    if record.faults.len() < due {
        missing.push(format!("{} of {due} faults were never due", due - record.faults.len()));
    }
    if record.counts.answered < ANSWERED_MIN {
        missing.push(format!(
            "{} operations were answered, at least {ANSWERED_MIN} are needed",
            record.counts.answered
        ));
    }
    let links = if plan.links.is_empty() { "" } else { "the links of the whole run and " };
    let status = if missing.is_empty() { Status::Pass } else { Status::Invalid };
    let summary = if missing.is_empty() {
        format!(
            "{links}{complete} of {} left a receipt, {} answered",
            counted(due as u64, "fault"),
            counted(record.counts.answered, "operation")
        )
    } else {
        missing.join("; ")
    };
    Verdict {
        check: NAME.to_owned(),
        status,
        summary,
        looked_at: [("faults".to_owned(), due as u64), ("receipts".to_owned(), complete as u64)].into(),
        details: json!({ "missing": missing }),
    }
}

/// What the links of the whole run did not show.
fn links_missing(links: Option<&LinksRecord>) -> Option<String> {
    let Some(links) = links else { return Some("the links of the whole run were not judged".to_owned()) };
    let reason = match links.proofs.iter().find(|proof| !proof.is_seen) {
        Some(proof) => format!("not seen that {} ({})", proof.what, proof.detail),
        None if links.has_receipt() => return None,
        None => "nothing was proven".to_owned(),
    };
    Some(format!("{}: {reason}", links.text))
}
