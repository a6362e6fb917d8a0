//! `alive`: no node has ended by itself.

use serde_json::json;

use super::{Status, Verdict};
use crate::plan::Plan;
use crate::runner::record::RunRecord;

/// The name of the check.
pub const NAME: &str = "alive";

/// Looks for nodes that nobody killed.
pub fn check(plan: &Plan, record: &RunRecord) -> Verdict {
    let deaths: Vec<String> = record
        .deaths
        .iter()
        .map(|death| {
            let subject = death.subject(&plan.nodes[death.node.position()].name);
            format!("{subject} {}; the end of its console:\n{}", death.exit, death.console_end)
        })
        .collect();
    // What ended under a node, for whatever reason, is no word about the node.
    let status = match record.deaths.iter().all(|death| death.is_of_hypervisor) {
        true if deaths.is_empty() => Status::Pass,
        true => Status::Invalid,
        false => Status::Fail,
    };
    let summary = if deaths.is_empty() { "no node ended by itself".to_owned() } else { deaths.join("\n") };
    Verdict {
        check: NAME.to_owned(),
        status,
        summary,
        looked_at: [("nodes".to_owned(), plan.nodes.len() as u64)].into(),
        details: json!({ "deaths": record.deaths }),
    }
}
