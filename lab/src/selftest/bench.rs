//! Where the selftest runs its scenarios: a directory, the program of the node, and each `lab run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aspen_node::plant::VARIABLE;

use super::{SelftestError, Story};
use crate::check::Verdict;
use crate::cli::SelftestArgs;
use crate::limits::{SELFTEST_LOOK_INTERVAL, SELFTEST_RUN_MAX};
use crate::program::{Exit, Program, ProgramError, ProgramLog, Running, stop_on_signals};
use crate::report::{self, Report};
use crate::session::outer;

/// What all runs share.
pub(super) struct Bench {
    directory: PathBuf,
    node_bin: Option<PathBuf>,
    log: ProgramLog,
    is_stopping: Arc<AtomicBool>,
}

/// One run, over.
pub(super) struct Trial {
    pub(super) duration: Duration,
    exit: Exit,
    directory: PathBuf,
    report: Option<Report>,
    console: PathBuf,
}

impl Bench {
    /// Finds the planted node, and makes the directory with the scenarios in it.
    pub(super) fn set_up(args: &SelftestArgs, stories: &[Story]) -> Result<Self, SelftestError> {
        let directory = args.out.clone().unwrap_or_else(|| outer::timed_directory("selftest"));
        outer::make_directory(&directory)?;
        let directory = outer::absolute(&directory)?;
        let bench = Self::furnish(args, stories, &directory);
        // Nothing has happened in it yet.
        bench.inspect_err(|_| outer::discard(&directory))
    }

    fn furnish(args: &SelftestArgs, stories: &[Story], directory: &Path) -> Result<Self, SelftestError> {
        let is_stopping = Arc::new(AtomicBool::new(false));
        stop_on_signals(is_stopping.clone()).map_err(SelftestError::Signals)?;
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
        let log = ProgramLog::open(&directory.join("programs.log"))?;
        Ok(Self { directory: directory.to_owned(), node_bin, log, is_stopping })
    }

    /// Where every run leaves its directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Gives up the runs that are under way.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Runs a scenario with a bug, or without any.
    pub(super) fn run(&self, story: &Story, bug: Option<&str>, seed: u64) -> Result<Trial, SelftestError> {
        let name = format!("{}-{}-{seed}", bug.unwrap_or("sound"), story.name);
        let directory = self.directory.join(&name);
        let console = self.directory.join(format!("{name}.txt"));
        let start = Instant::now();
        let program = self.program(story, bug, seed, &directory);
        let running = program.start(None, &console, &self.log)?;
        let exit = self.wait(&running, &directory)?;
        let duration = start.elapsed();
        if exit == Exit::Code(3) {
            return Err(SelftestError::Host(running.console_tail().trim_end().to_owned()));
        }
        // A run that could not begin leaves no directory, and one without a verdict no report.
        let is_judged = directory.join(report::JSON).is_file();
        let report = is_judged.then(|| report::read(&directory)).transpose()?;
        Ok(Trial { duration, exit, directory, report, console })
    }

    /// `lab run`, with the surroundings of this process but for the bug.
    fn program(&self, story: &Story, bug: Option<&str>, seed: u64, directory: &Path) -> Program {
        let program = Program::new("/proc/self/exe")
            .args(["run", "--driver", "process"])
            .arg(scenario_file(&self.directory, story))
            .args(["--seed", &seed.to_string(), "--quiet", "--parent", &std::process::id().to_string()])
            .arg("--out")
            .arg(directory);
        let program = self.node_bin.iter().fold(program, |program, path| program.arg("--node-bin").arg(path));
        let inherited = std::env::vars_os().filter(|(name, _)| name != VARIABLE);
        let program = inherited.fold(program, |program, (name, value)| program.env(name, value));
        bug.into_iter().fold(program, |program, bug| program.env(VARIABLE, bug))
    }

    /// Waits for the end of a run. A run that is given up dies with `running`, and everything in it.
    fn wait(&self, running: &Running, directory: &Path) -> Result<Exit, SelftestError> {
        let start = Instant::now();
        loop {
            match running.wait(SELFTEST_LOOK_INTERVAL) {
                Ok(exit) => return Ok(exit),
                Err(ProgramError::TimedOut { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            if self.is_stopping.load(Ordering::Relaxed) {
                return Err(SelftestError::Interrupted);
            }
            if start.elapsed() > SELFTEST_RUN_MAX {
                return Err(SelftestError::TimedOut { directory: directory.to_owned() });
            }
        }
    }
}

impl Trial {
    /// Whether every check held.
    pub(super) fn has_passed(&self) -> bool {
        self.exit.is_success()
    }

    /// What its checks said; nothing if the run came to no verdict.
    pub(super) fn verdicts(&self) -> &[Verdict] {
        self.report.as_ref().map_or(&[], |report| &report.verdicts)
    }

    /// Where to look, for the one who wonders.
    pub(super) fn account(&self) -> String {
        let left = if self.report.is_some() { &self.directory } else { &self.console };
        format!("{}, see {}", self.exit, left.display())
    }
}

fn scenario_file(directory: &Path, story: &Story) -> PathBuf {
    directory.join(format!("{}.yaml", story.name))
}
