//! `lab selftest`: the power of the checks, measured. Bugs planted in the node must be caught, each by the checks that
//! its row names and in every run, and the same node without a bug must pass: a check that always fails proves nothing.
//!
//! Each run is a `lab run` of its own, so that it is exactly what a user would see. It judges nothing itself.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;

use crate::check::{Status, Verdict};
use crate::cli::{DriverArg, SelftestArgs};
use crate::limits::SELFTEST_RUN_MAX;
use crate::session::{OuterError, PLANTED_LAB, outer};
use crate::trials::{Trial, Trials, TrialsError, Wanted};

/// A scenario of the repository, inside the program so that it is at hand wherever the lab is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Story {
    name: &'static str,
    yaml: &'static str,
}

const THREE_NODES: Story =
    Story { name: "three-nodes", yaml: include_str!("../../topologies/three-nodes.yaml") };
const LEADER_ISOLATED: Story =
    Story { name: "leader-isolated", yaml: include_str!("../../topologies/leader-isolated.yaml") };

const LEASE_READS: Story =
    Story { name: "lease-reads", yaml: include_str!("../../topologies/lease-reads.yaml") };
const THREE_REGIONS: Story =
    Story { name: "three-regions", yaml: include_str!("../../topologies/three-regions.yaml") };
const BLACKOUT: Story = Story { name: "blackout", yaml: include_str!("../../topologies/blackout.yaml") };
const LEFT_BEHIND: Story =
    Story { name: "left-behind", yaml: include_str!("../../topologies/left-behind.yaml") };

/// A bug, and what has to catch it.
#[derive(Debug, Clone, Copy)]
struct Row {
    /// Its name in `aspen_node::plant::PLANTS`.
    bug: &'static str,
    /// The scenario that it needs to show.
    story: Story,
    /// Every one of them has to fail.
    checks: &'static [&'static str],
    /// Whether it shows in the simulation, too.
    is_simulated: bool,
}

const ROWS: [Row; 11] = [
    Row {
        bug: "stale-read",
        story: LEADER_ISOLATED,
        // The old leader goes on answering reads, and the majority writes meanwhile.
        checks: &["linearizable", "minority_refuses"],
        is_simulated: true,
    },
    Row {
        bug: "ack-before-quorum",
        story: LEADER_ISOLATED,
        // What the old leader alone had acknowledged is truncated, and a confirmed read can miss what is not yet
        // committed. How many sets it meets while it is alone is chance, so minority_refuses need not see one.
        checks: &["linearizable"],
        is_simulated: true,
    },
    Row { bug: "cas-ignores-expected", story: THREE_NODES, checks: &["linearizable"], is_simulated: true },
    // Whether the last change of a key is a delete is chance, so durable need not see it.
    Row { bug: "lost-delete", story: THREE_NODES, checks: &["linearizable"], is_simulated: true },
    Row { bug: "scan-skips", story: THREE_NODES, checks: &["linearizable"], is_simulated: true },
    // Who applies what together is chance, so the nodes leave out different ones; those of a simulation do so less often.
    Row { bug: "watch-skips", story: THREE_NODES, checks: &["raft"], is_simulated: false },
    // A leader that wakes answers what has been waiting.
    Row { bug: "lease-unchecked", story: LEASE_READS, checks: &["linearizable"], is_simulated: false },
    // The region that is cut off goes on answering from what it had.
    Row { bug: "bound-unchecked", story: THREE_REGIONS, checks: &["bounded_staleness"], is_simulated: false },
    // Nobody is left to tell a node which term it is.
    Row { bug: "vote-not-persisted", story: BLACKOUT, checks: &["raft"], is_simulated: true },
    // The nodes start again one at a time, so their states differ.
    Row { bug: "apply-twice-after-restart", story: LEFT_BEHIND, checks: &["raft"], is_simulated: true },
    // The key is written again before long, but not when it was created and how often it was written.
    Row { bug: "snapshot-drops-tail", story: LEFT_BEHIND, checks: &["raft"], is_simulated: true },
];

/// Bugs that only a power cut shows, for which a host has to have FUSE: `tests/it/kills.rs` does.
#[cfg(test)]
const ELSEWHERE: [&str; 1] = ["ack-before-fsync"];

/// The names of the bugs that are planted.
pub(crate) fn bugs() -> [&'static str; ROWS.len()] {
    ROWS.map(|row| row.bug)
}

/// Why the selftest has no result.
#[derive(Debug, thiserror::Error)]
pub enum SelftestError {
    /// Neither the lab nor `--node-bin` has planted bugs.
    #[error(
        "aspen-node {0} has no planted bugs: run `{PLANTED_LAB} selftest`, or name a node that has them with --node-bin"
    )]
    NotPlanted(String),
    /// Nothing is left to be run.
    #[error("this bug does not show in a simulation: leave --driver sim out")]
    NotSimulated,
    /// The program of `--node-bin`, or a scenario's file.
    #[error(transparent)]
    SetUp(#[from] OuterError),
    /// The runs.
    #[error(transparent)]
    Trials(#[from] TrialsError),
}

impl SelftestError {
    /// The exit code that goes with it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotPlanted(_) => 3,
            Self::NotSimulated => 64,
            Self::SetUp(error) => error.exit_code(),
            Self::Trials(error) => error.exit_code(),
        }
    }
}

/// Runs every bug's scenario, and each scenario without a bug; 0 if every bug was caught in every run and the sound
/// node passed, else 1.
///
/// # Errors
/// No planted node, a host that cannot run clusters, or an end without a result.
pub fn run(args: &SelftestArgs, out: &mut impl Write) -> Result<u8, SelftestError> {
    let rows: Vec<Row> =
        ROWS.into_iter().filter(|row| args.bug.as_deref().is_none_or(|bug| bug == row.bug)).collect();
    let is_simulation = args.driver == DriverArg::Sim;
    let rows: Vec<Row> = rows.into_iter().filter(|row| row.is_simulated || !is_simulation).collect();
    if rows.is_empty() {
        return Err(SelftestError::NotSimulated);
    }
    let mut stories: Vec<Story> = Vec::new();
    for row in &rows {
        if !stories.contains(&row.story) {
            stories.push(row.story);
        }
    }
    let trials = Trials::set_up(args.out.as_deref(), "selftest", SELFTEST_RUN_MAX)?;
    let node_bin =
        furnish(args, &stories, trials.directory()).inspect_err(|_| outer::discard(trials.directory()))?;
    print(out, &format!("run directories: {}", trials.directory().display()));
    print(out, &line("bug", "check", "scenario", "caught", "seconds"));
    let sound = stories.iter().map(|story| Proof { story: *story, row: None, seeds: vec![args.seed] });
    let seeds: Vec<u64> = (args.seed..).take(args.runs as usize).collect();
    let planted =
        rows.into_iter().map(|row| Proof { story: row.story, row: Some(row), seeds: seeds.clone() });
    let proofs: Vec<Proof> = sound.chain(planted).collect();
    let is_good = prove(&trials, &proofs, &words(args, node_bin.as_deref()), args.jobs as usize, out)?;
    let closing = if is_good {
        "every planted bug was caught by name in every run, and the same node without a bug passed"
    } else {
        "NOT PROVEN: a planted bug was not caught, or a sound node failed"
    };
    print(out, closing);
    Ok(u8::from(!is_good))
}

/// Finds the planted node, if it is another program, and writes the scenarios.
fn furnish(
    args: &SelftestArgs,
    stories: &[Story],
    directory: &Path,
) -> Result<Option<PathBuf>, SelftestError> {
    let node_bin = args.node_bin.as_deref().map(outer::absolute).transpose()?;
    let build = match &node_bin {
        Some(path) => outer::node_version(path, directory)?,
        None => aspen_node::BUILD.to_owned(),
    };
    if !outer::has_plants(&build) {
        return Err(SelftestError::NotPlanted(build));
    }
    for story in stories {
        outer::write(&scenario_file(directory, story), story.yaml.as_bytes())?;
    }
    Ok(node_bin)
}

/// What every run is asked.
fn words(args: &SelftestArgs, node_bin: Option<&Path>) -> Vec<OsString> {
    let driver = args.driver.to_possible_value();
    let driver = driver.map_or_else(OsString::new, |driver| driver.get_name().into());
    let node_bin = node_bin.iter().flat_map(|path| ["--node-bin".into(), path.as_os_str().to_owned()]);
    ["--driver".into(), driver].into_iter().chain(node_bin).collect()
}

fn scenario_file(directory: &Path, story: &Story) -> PathBuf {
    directory.join(format!("{}.yaml", story.name))
}

/// What a line of the result stands for: runs of one scenario, all with the same bug or without any.
struct Proof {
    story: Story,
    row: Option<Row>,
    seeds: Vec<u64>,
}

impl Proof {
    /// Prints what its runs have shown; whether that is what they had to show.
    fn judge(&self, trials: &[Trial], out: &mut impl Write) -> bool {
        let complaints: Vec<Option<String>> = trials.iter().map(|trial| self.complaint(trial)).collect();
        let good = complaints.iter().filter(|complaint| complaint.is_none()).count();
        let is_good = good == trials.len();
        let total = seconds(trials.iter().map(|trial| trial.duration).sum());
        let text = match &self.row {
            Some(row) => {
                let of_runs = format!("{good} of {}", trials.len());
                line(row.bug, &row.checks.join(", "), self.story.name, &of_runs, &total)
            }
            None => line("(none)", "all", self.story.name, if is_good { "passed" } else { "FAILED" }, &total),
        };
        print(out, &text);
        for (seed, complaint) in self.seeds.iter().zip(complaints) {
            if let Some(complaint) = complaint {
                print(out, &format!("    seed {seed}: {complaint}"));
            }
        }
        is_good
    }

    /// Its runs.
    fn wanted(&self, directory: &Path, words: &[OsString]) -> impl Iterator<Item = Wanted> {
        let bug = self.row.map(|row| row.bug);
        let mut words = words.to_vec();
        words.push(scenario_file(directory, &self.story).into());
        self.seeds.iter().map(move |seed| Wanted {
            name: format!("{}-{}-{seed}", bug.unwrap_or("sound"), self.story.name),
            words: words.iter().cloned().chain(["--seed".into(), seed.to_string().into()]).collect(),
            plant: bug.map(OsString::from),
        })
    }

    /// What is wrong with the result of a run, if anything.
    fn complaint(&self, trial: &Trial) -> Option<String> {
        let wrong = match &self.row {
            Some(row) => missed(row.checks, trial.verdicts())?,
            None if trial.has_passed() => return None,
            None => "a sound node does not pass".to_owned(),
        };
        Some(format!("{wrong}; {}", trial.account()))
    }
}

/// Makes all runs, so many at a time, and prints each line as soon as it and those before it are known; whether all is good.
fn prove(
    trials: &Trials,
    proofs: &[Proof],
    words: &[OsString],
    jobs: usize,
    out: &mut impl Write,
) -> Result<bool, TrialsError> {
    let wanted: Vec<Wanted> =
        proofs.iter().flat_map(|proof| proof.wanted(trials.directory(), words)).collect();
    let (mut is_good, mut known, mut proofs) = (true, Vec::new(), proofs.iter());
    let mut present = proofs.next();
    trials.make(&wanted, jobs, |_, trial| {
        known.push(trial);
        if let Some(proof) = present.filter(|proof| proof.seeds.len() == known.len()) {
            is_good &= proof.judge(&known, out);
            known.clear();
            present = proofs.next();
        }
    })?;
    Ok(is_good)
}

/// The checks that should have failed and did not, with what they said; none if the bug was caught.
fn missed(checks: &[&str], verdicts: &[Verdict]) -> Option<String> {
    let said = |check: &str| verdicts.iter().find(|verdict| verdict.check == check).map(|found| found.status);
    let word = |status: Option<Status>| match status {
        None => "did not judge",
        Some(Status::Pass) => "passed",
        Some(Status::Fail) => "failed",
        Some(Status::Unknown) => "could not decide",
        Some(Status::Invalid) => "found nothing to judge",
    };
    let missed = checks.iter().filter(|check| said(check) != Some(Status::Fail));
    let texts: Vec<String> = missed.map(|check| format!("{check} {}", word(said(check)))).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

fn line(bug: &str, check: &str, scenario: &str, caught: &str, seconds: &str) -> String {
    format!("{bug:<28}{check:<32}{scenario:<18}{caught:>8}{seconds:>10}")
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64())
}

/// Prints a line at once: each is minutes after the one before.
fn print(out: &mut impl Write, text: &str) {
    // A closed pipe does not change the result.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use aspen_node::plant::PLANTS;

    use std::collections::BTreeMap;

    use super::*;
    use crate::plan::Plan;
    use crate::scenario::Scenario;

    fn verdict(check: &str, status: Status) -> Verdict {
        let (check, summary) = (check.to_owned(), String::new());
        Verdict { check, status, summary, looked_at: BTreeMap::new(), details: serde_json::Value::Null }
    }

    #[test]
    fn a_bug_is_caught_when_every_check_of_its_row_fails() {
        use Status::{Fail, Pass, Unknown};
        let both = ["linearizable", "minority_refuses"];
        let said = |first, second| [verdict(both[0], first), verdict(both[1], second)];
        assert_eq!(missed(&both, &said(Fail, Fail)), None);
        assert_eq!(missed(&both[..1], &said(Fail, Pass)), None);
        assert_eq!(missed(&both, &said(Fail, Pass)).as_deref(), Some("minority_refuses passed"));
        assert_eq!(
            missed(&both, &said(Unknown, Pass)).as_deref(),
            Some("linearizable could not decide, minority_refuses passed")
        );
        // A node that dies fails another check than the one that knows the bug.
        let dead = [verdict("alive", Fail)];
        assert_eq!(missed(&both[..1], &dead).as_deref(), Some("linearizable did not judge"));
    }

    #[test]
    fn every_planted_bug_has_a_row_and_its_scenario_asks_for_the_checks() {
        let rows = ROWS.iter().map(|row| row.bug).chain(ELSEWHERE);
        assert!(rows.eq(PLANTS.map(|(name, _)| name)));
        for row in ROWS {
            let scenario = Scenario::parse(row.story.name, row.story.yaml).unwrap();
            assert_eq!(scenario.name(), row.story.name);
            let plan: serde_json::Value = serde_json::from_str(&Plan::new(&scenario, 1).to_json()).unwrap();
            let asked = plan["checks"].to_string();
            assert!(row.checks.iter().all(|check| asked.contains(&format!("\"{check}\""))), "{asked}");
        }
    }
}
