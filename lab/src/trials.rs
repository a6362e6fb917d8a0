//! Many runs, so many at a time: each is a `lab run` of its own, so that it is exactly what a user would see.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use aspen_node::plant::VARIABLE;

use crate::check::{Status, Verdict};
use crate::limits::{TRIAL_LOOK_INTERVAL, TRIALS_AT_ONCE_MAX};
use crate::program::{Exit, Program, ProgramError, ProgramLog, Running, stop_on_signals};
use crate::report::{self, Report, ReportError};
use crate::session::{OuterError, outer};

/// What all runs share.
pub(crate) struct Trials {
    directory: PathBuf,
    log: ProgramLog,
    is_stopping: Arc<AtomicBool>,
    /// The longest that one may take.
    run_max: Duration,
}

/// A run to be made.
pub(crate) struct Wanted {
    /// Under which name it leaves its directory and what it prints.
    pub(crate) name: String,
    /// The words behind `lab run`.
    pub(crate) words: Vec<OsString>,
    /// The bug to be planted in its nodes.
    pub(crate) plant: Option<OsString>,
}

/// One run, over.
pub(crate) struct Trial {
    pub(crate) duration: Duration,
    exit: Exit,
    directory: PathBuf,
    report: Option<Report>,
    console: PathBuf,
}

/// Why the runs have no result.
#[derive(Debug, thiserror::Error)]
pub enum TrialsError {
    /// The directory.
    #[error(transparent)]
    SetUp(#[from] OuterError),
    /// A run could not be started.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// This host cannot run clusters, or the command line is wrong.
    #[error("no run can begin:\n{said}")]
    Refused {
        /// What it said.
        said: String,
        /// Its exit code.
        code: u8,
    },
    /// A run did not end.
    #[error("a run did not end within {within_s} s; what it left is in {directory}")]
    TimedOut {
        /// Its run directory.
        directory: PathBuf,
        /// How long it was given.
        within_s: u64,
    },
    /// Its report cannot be read.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The signals.
    #[error("cannot wait for signals")]
    Signals(#[source] std::io::Error),
    /// The user has ended it.
    #[error("it was ended early")]
    Interrupted,
}

impl TrialsError {
    /// The exit code that goes with it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::SetUp(error) => error.exit_code(),
            Self::Refused { code, .. } => *code,
            _ => 2,
        }
    }
}

impl Trials {
    /// Makes the directory of all runs, this one or one that is named after the time.
    ///
    /// # Errors
    /// It is there already, or cannot be made.
    pub(crate) fn set_up(out: Option<&Path>, name: &str, run_max: Duration) -> Result<Self, TrialsError> {
        let directory = out.map_or_else(|| outer::timed_directory(name), Path::to_owned);
        outer::make_directory(&directory)?;
        let directory = outer::absolute(&directory)?;
        let furnish = || {
            let is_stopping = Arc::new(AtomicBool::new(false));
            stop_on_signals(is_stopping.clone()).map_err(TrialsError::Signals)?;
            let log = ProgramLog::open(&directory.join("programs.log"))?;
            Ok(Self { directory: directory.clone(), log, is_stopping, run_max })
        };
        // Nothing has happened in it yet.
        furnish().inspect_err(|_| outer::discard(&directory))
    }

    /// Where every run leaves its directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes all of these runs, so many at a time, and tells of each as soon as it and those before it are over.
    ///
    /// # Errors
    /// The first that a run ends without a result; the others are given up.
    pub(crate) fn make(
        &self,
        wanted: &[Wanted],
        jobs: usize,
        mut tell: impl FnMut(usize, Trial),
    ) -> Result<(), TrialsError> {
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            // Dropped before the workers are waited for: after an error nobody waits for a place in it.
            let (sender, results) = mpsc::sync_channel(TRIALS_AT_ONCE_MAX as usize);
            for _ in 0..jobs.min(wanted.len()) {
                let (next, sender) = (&next, sender.clone());
                scope.spawn(move || {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(wanted) = wanted.get(number) else { return };
                        let result = self.run(wanted);
                        let is_over = result.is_err();
                        if sender.send((number, result)).is_err() || is_over {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            let mut known: BTreeMap<usize, Trial> = BTreeMap::new();
            for number in 0..wanted.len() {
                let trial = loop {
                    if let Some(trial) = known.remove(&number) {
                        break trial;
                    }
                    let (number, result) = results.recv().expect("no worker ends before its runs are made");
                    // The others are given up: what they would show is no longer asked for.
                    let stop = |_: &TrialsError| self.is_stopping.store(true, Ordering::Relaxed);
                    known.insert(number, result.inspect_err(stop)?);
                };
                tell(number, trial);
            }
            Ok(())
        })
    }

    fn run(&self, wanted: &Wanted) -> Result<Trial, TrialsError> {
        let directory = self.directory.join(&wanted.name);
        let console = self.directory.join(format!("{}.txt", wanted.name));
        let start = Instant::now();
        let running = Self::program(wanted, &directory).start(None, &console, &self.log)?;
        let exit = self.wait(&running, &directory)?;
        let duration = start.elapsed();
        if let Exit::Code(code @ (3 | 64)) = exit {
            let said = running.console_tail().trim_end().to_owned();
            return Err(TrialsError::Refused { said, code: u8::try_from(code).unwrap_or(u8::MAX) });
        }
        // A run that could not begin leaves no directory, and one without a verdict no report.
        let is_judged = directory.join(report::JSON).is_file();
        let report = is_judged.then(|| report::read(&directory)).transpose()?;
        Ok(Trial { duration, exit, directory, report, console })
    }

    /// `lab run`, with the surroundings of this process but for the bug.
    fn program(wanted: &Wanted, directory: &Path) -> Program {
        let program = Program::new("/proc/self/exe")
            .arg("run")
            .args(wanted.words.iter().cloned())
            .args(["--quiet", "--parent", &std::process::id().to_string()])
            .arg("--out")
            .arg(directory);
        let inherited = std::env::vars_os().filter(|(name, _)| name != VARIABLE);
        let program = inherited.fold(program, |program, (name, value)| program.env(name, value));
        wanted.plant.iter().fold(program, |program, bug| program.env(VARIABLE, bug))
    }

    /// Waits for the end of a run. A run that is given up dies with `running`, and everything in it.
    fn wait(&self, running: &Running, directory: &Path) -> Result<Exit, TrialsError> {
        let start = Instant::now();
        loop {
            match running.wait(TRIAL_LOOK_INTERVAL) {
                Ok(exit) => return Ok(exit),
                Err(ProgramError::TimedOut { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            if self.is_stopping.load(Ordering::Relaxed) {
                return Err(TrialsError::Interrupted);
            }
            if start.elapsed() > self.run_max {
                let within_s = self.run_max.as_secs();
                return Err(TrialsError::TimedOut { directory: directory.to_owned(), within_s });
            }
        }
    }
}

impl Trial {
    /// Whether every check held.
    pub(crate) fn has_passed(&self) -> bool {
        self.exit.is_success()
    }

    /// What its checks said; nothing if the run came to no verdict.
    pub(crate) fn verdicts(&self) -> &[Verdict] {
        self.report.as_ref().map_or(&[], |report| &report.verdicts)
    }

    /// What came of it, if it came to a verdict.
    pub(crate) fn status(&self) -> Option<Status> {
        self.report.as_ref().map(|report| report.status)
    }

    /// Where to look, for the one who wonders.
    pub(crate) fn account(&self) -> String {
        format!("{}, see {}", self.exit, self.left().display())
    }

    /// What it has left.
    pub(crate) fn left(&self) -> &Path {
        if self.report.is_some() { &self.directory } else { &self.console }
    }

    /// Removes all that it has left.
    pub(crate) fn remove(&self) {
        // What cannot be removed stays.
        let _ = std::fs::remove_dir_all(&self.directory);
        let _ = std::fs::remove_file(&self.console);
    }
}
