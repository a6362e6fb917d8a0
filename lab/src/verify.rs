//! `lab verify`: judges what is stored, a run directory with all checks of its plan or the history of any tool on its
//! own. It runs nothing and changes nothing.

mod stored;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use self::stored::StoredRun;
use crate::check::linearizable::{self, Budget};
use crate::check::{self, Evidence, Status, Verdict, bounded_staleness, counted};
use crate::cli::VerifyArgs;
use crate::history::{History, HistoryError, Outcome, read_history};
use crate::limits::CHECK_WITNESS_TIME_MAX;
use crate::observations::ObservationsError;
use crate::report::{self, ReportError};

/// The path that means the standard input.
const STANDARD_INPUT: &str = "-";

/// Why there is no judgement.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The history.
    #[error("{path} cannot be judged")]
    History {
        /// Which one.
        path: PathBuf,
        /// The line and the reason.
        source: HistoryError,
    },
    /// What nodes said of themselves.
    #[error("{path} cannot be judged")]
    Observations {
        /// Which one.
        path: PathBuf,
        /// The line and the reason.
        source: ObservationsError,
    },
    /// A file that cannot be opened.
    #[error("cannot read {path}")]
    Open {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory of something else.
    #[error("{directory} is no run directory: there is no {missing} in it")]
    NoRun {
        /// Which one.
        directory: PathBuf,
        /// What every run directory has.
        missing: &'static str,
    },
    /// A run that came to no end.
    #[error(
        "the run in {directory} did not come to its end, there is no {} in it: judge its history.jsonl alone",
        report::JSON
    )]
    Unfinished {
        /// Which one.
        directory: PathBuf,
    },
    /// plan.json.
    #[error("{path} is no plan of this version")]
    Plan {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// report.json.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Files of different runs.
    #[error("the files in {directory} are not of one run: {reason}")]
    Mixed {
        /// Where they are.
        directory: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// Where the judgement goes.
    #[error("cannot write the judgement")]
    Write(#[source] io::Error),
}

impl VerifyError {
    /// The exit code that goes with it: what was typed cannot be judged, or the judgement did not get out.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Write(_) => 2,
            _ => 64,
        }
    }
}

/// What there is to say.
struct Judgement {
    status: Status,
    verdicts: Vec<Verdict>,
    /// Why a run came to no verdict.
    aborted: Option<String>,
    text: String,
}

/// Judges what `args` names and prints the judgement; the exit code is that of a run.
///
/// # Errors
/// Nothing can be judged, or the judgement cannot be printed.
pub fn run(args: &VerifyArgs, out: &mut impl Write) -> Result<u8, VerifyError> {
    let budget = Budget {
        time: args.time,
        configurations_max: args.configurations,
        witness_time: CHECK_WITNESS_TIME_MAX,
    };
    let judgement = if args.path.as_os_str() == STANDARD_INPUT {
        judge_history(&args.path, io::stdin().lock(), &budget)?
    } else if args.path.is_dir() {
        judge_run(&args.path, &budget)?
    } else {
        judge_history(&args.path, open(&args.path)?, &budget)?
    };
    let exit_code = report::exit_code(judgement.status);
    let text = if args.json { to_json(&args.path, &judgement) } else { judgement.text };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever closed the pipe has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(VerifyError::Write(error)),
        _ => Ok(exit_code),
    }
}

/// All checks of a run's plan, and the text that the run itself would print.
fn judge_run(directory: &Path, budget: &Budget) -> Result<Judgement, VerifyError> {
    let StoredRun { plan, mut report, history, observations } = StoredRun::load(directory)?;
    // A run without a record came to nothing that could be judged, and its report says so.
    if let Some(record) = &report.record {
        let evidence = Evidence { plan: &plan, history: &history, record, observations: &observations };
        report.verdicts = check::judge(&evidence, budget);
    }
    report.status = if report.aborted.is_some() { Status::Invalid } else { check::overall(&report.verdicts) };
    report.exit_code = report::exit_code(report.status);
    let text = report::verdict_text(&report, &plan);
    Ok(Judgement { status: report.status, verdicts: report.verdicts, aborted: report.aborted, text })
}

/// A history alone: whether it is linearizable.
fn judge_history(path: &Path, input: impl BufRead, budget: &Budget) -> Result<Judgement, VerifyError> {
    let history =
        read_history(input).map_err(|source| VerifyError::History { path: path.to_owned(), source })?;
    let mut verdict = linearizable::check(&history, budget).verdict();
    let has_bounded = history.operations.iter().any(|operation| operation.max_staleness_ms.is_some());
    let bounded = has_bounded.then(|| bounded_staleness::check(&history, budget, 0));
    if verdict.status == Status::Pass && answered(&history) == 0 {
        // A pass that looked at nothing is worth nothing.
        verdict.status = Status::Invalid;
        "no operation was answered: there is nothing to judge".clone_into(&mut verdict.summary);
    }
    let head = format!(
        "{}: {} on {}, by {} on {}",
        path.display(),
        counted(history.operations.len() as u64, "operation"),
        counted(history.keys.count() as u64, "key"),
        counted(history.clients.count() as u64, "client"),
        counted(history.nodes.count() as u64, "node"),
    );
    let verdicts: Vec<Verdict> = [verdict].into_iter().chain(bounded).collect();
    let text = report::history_text(&head, &verdicts);
    Ok(Judgement { status: check::overall(&verdicts), verdicts, aborted: None, text })
}

/// Operations that took place, as far as their clients know.
fn answered(history: &History) -> u64 {
    let is_answered = |outcome: &Outcome<_>| !matches!(outcome, Outcome::Refused { .. } | Outcome::Unknown);
    history.operations.iter().filter(|operation| is_answered(&operation.outcome)).count() as u64
}

fn open(path: &Path) -> Result<BufReader<File>, VerifyError> {
    let file = File::open(path).map_err(|source| VerifyError::Open { path: path.to_owned(), source })?;
    Ok(BufReader::new(file))
}

fn to_json(path: &Path, judgement: &Judgement) -> String {
    let value = json!({
        "path": path.to_string_lossy(),
        "status": judgement.status,
        "exit_code": report::exit_code(judgement.status),
        "aborted": judgement.aborted,
        "verdicts": judgement.verdicts,
    });
    format!("{value:#}\n")
}
