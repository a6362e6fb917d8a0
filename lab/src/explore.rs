//! `lab explore`: one scenario with many seeds. What passes is counted and thrown away, everything else is kept, with the command that
//! replays it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::time::Instant;

use aspen_node::plant::VARIABLE;
use clap::ValueEnum;

use crate::check::{Status, counted};
use crate::cli::ExploreArgs;
use crate::limits::EXPLORE_RUN_MAX;
use crate::report::exit_code;
use crate::scenario::{Scenario, ScenarioErrors};
use crate::session::outer;
use crate::trials::{Trial, Trials, TrialsError, Wanted};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ExploreError {
    /// The scenario file.
    #[error(transparent)]
    Scenario(#[from] ScenarioErrors),
    /// The runs.
    #[error(transparent)]
    Trials(#[from] TrialsError),
}

impl ExploreError {
    /// The exit code that goes with it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Scenario(_) => 64,
            Self::Trials(error) => error.exit_code(),
        }
    }
}

/// Runs the scenario with every seed; the exit code of the worst run.
///
/// # Errors
/// The scenario is wrong, this host cannot run it, or a run has no end.
pub fn run(args: &ExploreArgs, out: &mut impl Write) -> Result<u8, ExploreError> {
    let scenario = Scenario::load(&args.file)?;
    let name = scenario.name();
    let trials = Trials::set_up(args.out.as_deref(), &format!("explore-{name}"), EXPLORE_RUN_MAX)?;
    let driver =
        args.driver.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    let jobs = args
        .jobs
        .map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), |jobs| jobs as usize);
    let seeds = args.seeds;
    let wanted: Vec<Wanted> = (seeds.first..=seeds.last)
        .map(|seed| Wanted {
            name: format!("seed-{seed}"),
            words: vec![
                args.file.clone().into(),
                "--driver".into(),
                driver.clone().into(),
                OsString::from("--seed"),
                seed.to_string().into(),
            ],
            plant: std::env::var_os(VARIABLE),
        })
        .collect();
    let mut say = |text: &str| {
        // A closed pipe does not change the result.
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    };
    say(&format!(
        "{name} with seeds {} to {} on the driver {driver}, {jobs} at a time",
        seeds.first, seeds.last
    ));
    let (start, mut tally) = (Instant::now(), BTreeMap::new());
    let (mut worst, mut is_empty) = (0, true);
    let made = trials.make(&wanted, jobs, |number, trial| {
        let code = code(&trial);
        // A check that has failed is worse than a run of which nobody knows.
        worst = if worst == 1 || code == 1 { 1 } else { code.max(worst) };
        *tally.entry(word(&trial)).or_insert(0_u64) += 1;
        say(&line(seeds.first + number as u64, &trial));
        if code == 0 && !args.keep {
            trial.remove();
        } else {
            is_empty = false;
        }
    });
    // Of one that did not come to its end its directory says more.
    if is_empty && matches!(made, Ok(()) | Err(TrialsError::Refused { .. } | TrialsError::Interrupted)) {
        outer::discard(trials.directory());
    }
    let count = counted(tally.values().sum(), "run");
    let tally: Vec<String> = tally.iter().map(|(word, count)| format!("{count} {word}")).collect();
    if !tally.is_empty() {
        say(&format!("{count} in {:.1} s: {}", start.elapsed().as_secs_f64(), tally.join(", ")));
    }
    if !is_empty {
        say(&format!("what is kept of them: {}", trials.directory().display()));
    }
    made?;
    Ok(worst)
}

/// The exit code that stands for a run. One that ended otherwise than its report says has none that counts.
fn code(trial: &Trial) -> u8 {
    match trial.status() {
        Some(status) if (status == Status::Pass) == trial.has_passed() => exit_code(status),
        _ => exit_code(Status::Invalid),
    }
}

/// One word for what came of a run.
fn word(trial: &Trial) -> &'static str {
    trial.status().filter(|status| exit_code(*status) == code(trial)).map_or("NONE", Status::word)
}

/// What is said of a run: why, where it did not pass.
fn line(seed: u64, trial: &Trial) -> String {
    let head = format!("seed {seed:<8} {:<8} {:>6.1} s", word(trial), trial.duration.as_secs_f64());
    if code(trial) == 0 {
        return head;
    }
    let failed = trial.verdicts().iter().filter(|verdict| verdict.status != Status::Pass);
    let failed: Vec<String> =
        failed.map(|verdict| format!("\n    {}: {}", verdict.check, verdict.summary)).collect();
    format!("{head}{}\n    see {}", failed.concat(), trial.left().display())
}
