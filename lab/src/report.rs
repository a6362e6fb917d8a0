//! What remains of a run: `report.html`, `report.json`, `junit.xml` and the verdict as text. The first line of each names
//! the command that replays it.

pub mod html;
mod junit;
mod text;
mod violation;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::text::{event_line, history_text, verdict_text};
use crate::check::{Status, Verdict};
use crate::cluster::pace::Pace;
use crate::fabric::FabricKind;
use crate::history::History;
use crate::observations::Observation;
use crate::plan::Plan;
use crate::runner::record::{Event, RunRecord};

/// What a run ended in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The command that replays the run.
    pub replay: String,
    /// The scenario's name.
    pub scenario: String,
    /// What the scenario is about.
    pub about: String,
    /// All randomness came from it.
    pub seed: u64,
    /// What ran the nodes.
    pub driver: String,
    /// What connected them.
    #[serde(default)]
    pub fabric: FabricKind,
    /// How many times slower than planned the run went, where it was not as planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowdown: Option<Pace>,
    /// The lab's version.
    pub lab_version: String,
    /// The node's version, as it says itself.
    pub node_version: String,
    /// The kernel that it ran on.
    pub kernel: String,
    /// The verdict of the whole run.
    pub status: Status,
    /// The exit code that goes with it.
    pub exit_code: u8,
    /// Every check.
    pub verdicts: Vec<Verdict>,
    /// What happened; absent where the cluster did not come up.
    pub record: Option<RunRecord>,
    /// Why the run was aborted, if it was; each cause a line.
    pub aborted: Option<String>,
}

impl Report {
    /// What ran and connected the nodes, and how much slower than planned.
    pub fn driver_and_pace(&self) -> String {
        let driver = self.fabric.beside(&self.driver);
        self.slowdown.map_or_else(|| driver.clone(), |pace| format!("{driver}, slowdown {pace}"))
    }
}

/// All that the files of a report are made from.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// What the run ended in.
    pub report: &'a Report,
    /// What was to happen.
    pub plan: &'a Plan,
    /// What clients asked for and were told, as far as it can be read.
    pub history: &'a History,
    /// What nodes said of themselves, as far as it can be read.
    pub observations: &'a [Observation],
    /// What happened until a run was aborted; otherwise the record has it.
    pub events: &'a [Event],
    /// The text of the scenario.
    pub scenario: &'a str,
}

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file of the run directory.
    #[error("cannot write {path}")]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the run directory.
    #[error("cannot read {path}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The name of the report for programs.
pub const JSON: &str = "report.json";

/// The name of the report for people.
pub const HTML: &str = "report.html";

/// The exit code of a verdict.
pub fn exit_code(status: Status) -> u8 {
    match status {
        Status::Pass => 0,
        Status::Fail => 1,
        Status::Unknown | Status::Invalid => 2,
    }
}

/// Writes every file of the report into the run directory.
///
/// # Errors
/// A file that cannot be written.
pub fn write(sources: &Sources<'_>, directory: &Path) -> Result<(), ReportError> {
    let Sources { report, plan, .. } = *sources;
    let json = serde_json::to_string_pretty(report).map_err(io::Error::other);
    let files = [
        (JSON, json.map(|json| json + "\n")),
        ("junit.xml", junit::junit(report)),
        ("verdict.txt", Ok(verdict_text(report, plan))),
        (HTML, Ok(html::page(sources))),
    ];
    for (name, content) in files {
        let path = directory.join(name);
        content
            .and_then(|content| std::fs::write(&path, content))
            .map_err(|source| ReportError::Write { path, source })?;
    }
    Ok(())
}

/// Reads the report of a run directory.
///
/// # Errors
/// report.json cannot be read, or is no report.
pub fn read(directory: &Path) -> Result<Report, ReportError> {
    let path = directory.join(JSON);
    let text = std::fs::read_to_string(&path);
    let report = text.and_then(|text| serde_json::from_str(&text).map_err(io::Error::from));
    report.map_err(|source| ReportError::Read { path, source })
}
