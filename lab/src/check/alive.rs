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
            let name = &plan.nodes[death.node.position()].name;
            format!(
                "{name} ended by itself with {}; the end of its console:\n{}",
                death.exit, death.console_end
            )
        })
        .collect();
    let status = if deaths.is_empty() { Status::Pass } else { Status::Fail };
    let summary = if deaths.is_empty() { "no node ended by itself".to_owned() } else { deaths.join("\n") };
    Verdict {
        check: NAME.to_owned(),
        status,
        summary,
        looked_at: [("nodes".to_owned(), plan.nodes.len() as u64)].into(),
        details: json!({ "deaths": record.deaths }),
    }
}
