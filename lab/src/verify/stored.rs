//! What a run has left in its directory, read back: files of one run, or an error.

use std::fs;
use std::path::Path;

use super::{VerifyError, answered, open};
use crate::history::{History, read_history};
use crate::observations::{Observation, read_observations};
use crate::plan::{self, NodeIndex, Plan};
use crate::report::{self, Report};
use crate::runner::record::RunRecord;

/// A run, as far as it is stored.
pub(super) struct StoredRun {
    pub(super) plan: Plan,
    pub(super) report: Report,
    pub(super) history: History,
    pub(super) observations: Vec<Observation>,
}

impl StoredRun {
    /// Reads the files that the checks need.
    pub(super) fn load(directory: &Path) -> Result<Self, VerifyError> {
        if !directory.join(plan::FILE).is_file() {
            return Err(VerifyError::NoRun { directory: directory.to_owned(), missing: plan::FILE });
        }
        if !directory.join(report::JSON).is_file() {
            return Err(VerifyError::Unfinished { directory: directory.to_owned() });
        }
        let plan = read_plan(directory)?;
        let report = report::read(directory)?;
        let history = read_run_history(directory)?;
        let observations = read_run_observations(directory)?;
        let stored = Self { plan, report, history, observations };
        match stored.contradiction() {
            Some(reason) => Err(VerifyError::Mixed { directory: directory.to_owned(), reason }),
            None => Ok(stored),
        }
    }

    /// What shows that the files are not of one run.
    fn contradiction(&self) -> Option<String> {
        let Self { plan, report, history, observations } = self;
        if (&plan.scenario, plan.seed) != (&report.scenario, report.seed) {
            return Some(format!(
                "the plan is {} with seed {}, the report {} with seed {}",
                plan.scenario, plan.seed, report.scenario, report.seed
            ));
        }
        let record = report.record.as_ref()?;
        let mut nodes = nodes_of(record).chain(observations.iter().map(|observation| observation.node));
        if let Some(node) = nodes.find(|node| node.position() >= plan.nodes.len()) {
            return Some(format!(
                "report or observations name node {}, the plan has {}",
                node.position() + 1,
                plan.nodes.len()
            ));
        }
        let (found, counted) = (answered(history), record.counts.answered);
        (found < counted)
            .then(|| format!("the history holds {found} answered operations, the report counts {counted}"))
    }
}

fn read_plan(directory: &Path) -> Result<Plan, VerifyError> {
    let path = directory.join(plan::FILE);
    let text =
        fs::read_to_string(&path).map_err(|source| VerifyError::Open { path: path.clone(), source })?;
    serde_json::from_str(&text).map_err(|source| VerifyError::Plan { path, source })
}

fn read_run_history(directory: &Path) -> Result<History, VerifyError> {
    let path = directory.join("history.jsonl");
    let file = open(&path)?;
    read_history(file).map_err(|source| VerifyError::History { path, source })
}

fn read_run_observations(directory: &Path) -> Result<Vec<Observation>, VerifyError> {
    let path = directory.join("observations.jsonl");
    let file = open(&path)?;
    read_observations(file).map_err(|source| VerifyError::Observations { path, source })
}

/// Every node that a record names.
fn nodes_of(record: &RunRecord) -> impl Iterator<Item = NodeIndex> {
    let faults = record.faults.iter().flat_map(|fault| {
        let links = fault.links.iter().flat_map(|(from, to)| [*from, *to]);
        fault.minority.iter().chain(&fault.touched).copied().chain(links)
    });
    let leaders = record.leaders.iter().map(|seen| seen.node);
    faults.chain(leaders).chain(record.deaths.iter().map(|death| death.node))
}
