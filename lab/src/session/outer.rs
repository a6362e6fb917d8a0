//! The outer process: checks everything that can be checked before anything starts, then shows the run.

use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aspen_node::plant::VARIABLE;
use clap::ValueEnum;
use nix::sys::signal::{SigSet, Signal};

use super::driver::{Choice, ChoiceError, choose, remove_boot_files};
use super::progress::Progress;
use super::{Message, Order, PLANTED_LAB, browser};
use crate::causes::lacks_room;
use crate::cli::{FabricArg, MachineArgs, RUNS, RunArgs};
use crate::image::cache::{IMAGE_VARIABLE, KERNEL_VARIABLE, KEY_VARIABLE};
use crate::image::workshop::variable;
use crate::limits::{NODE_VERSION_MAX, SANDBOX_END_MAX};
use crate::machine::cloud_hypervisor::arguments::CLOUD_HYPERVISOR;
use crate::machine::driver::{Driver, SIMULATION};
use crate::plan::{self, Plan};
use crate::program::{Program, ProgramError, ProgramLog, quoted, stop_signals};
use crate::report;
use crate::rig;
use crate::sandbox::{self, Sandbox, SandboxError};
use crate::scenario::{Scenario, ScenarioErrors};

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum OuterError {
    /// The scenario file.
    #[error(transparent)]
    Scenario(#[from] ScenarioErrors),
    /// The run directory is there already.
    #[error("{0} exists: --out names a directory that the lab makes")]
    OutExists(PathBuf),
    /// The run directory or a file in it cannot be made.
    #[error("cannot write {path}")]
    Out {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program of `--node-bin` does not run.
    #[error("--node-bin {path} is not a node's program")]
    NodeBin {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: ProgramError,
    },
    /// It is something else, or of another version.
    #[error(
        "--node-bin {path} says it is `{found}`, `aspen-node {expected}` is needed: build both from one tree"
    )]
    NodeVersion {
        /// Which one.
        path: PathBuf,
        /// What it says.
        found: String,
        /// The lab's own version.
        expected: &'static str,
    },
    /// A bug is asked for and would not be there: the run would look like a sound one.
    #[error(
        "{VARIABLE} is set, but aspen-node {0} has no planted bugs: unset it, or begin the command with \
         `{PLANTED_LAB}`"
    )]
    NotPlanted(String),
    /// What runs the nodes.
    #[error(transparent)]
    Driver(#[from] ChoiceError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The network that was asked for.
    #[error("this run cannot begin: {0}")]
    Refused(String),
    /// The terminal's signals.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// The inner process ended without a verdict.
    #[error("the run ended without a verdict ({0}); what it left is in {1}")]
    NoVerdict(String, PathBuf),
    /// The user wanted no verdict any more.
    #[error("stopped at once, without a verdict; what the run left is in {0}")]
    StoppedAtOnce(PathBuf),
}

impl OuterError {
    /// The exit code that goes with it.
    pub fn exit_code(&self) -> u8 {
        match self {
            error if lacks_room(error) => 3,
            Self::Sandbox(error) if error.is_refused() => 3,
            Self::Refused(_)
            | Self::Driver(
                ChoiceError::Qemu(_)
                | ChoiceError::CloudHypervisor(_)
                | ChoiceError::Memory(_)
                | ChoiceError::NeedsMachines { .. }
                | ChoiceError::NotSimulated(_)
                | ChoiceError::Lacks { .. }
                | ChoiceError::NoImage(_),
            ) => 3,
            Self::Sandbox(_) | Self::Signals(_) | Self::NoVerdict(..) | Self::StoppedAtOnce(_) => 2,
            _ => 64,
        }
    }
}

/// Runs a scenario; the exit code of the run.
///
/// # Errors
/// Everything that is wrong before the run begins, or an end without a verdict.
pub fn run_outer(args: &RunArgs) -> Result<u8, OuterError> {
    if let Some(parent) = args.parent {
        sandbox::end_with(parent);
    }
    let scenario = Scenario::load(&args.file)?;
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let plan = Plan::new(&scenario, seed);
    let directory = args.out.clone().unwrap_or_else(|| default_directory(&plan));
    make_directory(&directory)?;
    let directory = absolute(&directory)?;
    let mut progress = Progress::new(args.quiet);
    let choice = choose(&args.machines, &plan, &directory, &mut |text| progress.line(text))
        .inspect_err(|_| discard(&directory))?;
    progress.line(&choice.reason);
    let Choice { driver, node_version, .. } = choice;
    check_plants(node_version.clone()).inspect_err(|_| discard(&directory))?;
    write(&directory.join(plan::FILE), plan.to_json().as_bytes())?;
    copy_scenario(&args.file, &directory)?;
    let order = Order {
        directory: directory.clone(),
        replay: replay(args, seed, &driver),
        driver,
        fabric: args.machines.fabric.into(),
        pace: args.machines.slowdown,
        node_version,
        about: scenario.about().to_owned(),
        sabotage: args.sabotage,
    };
    let argument = serde_json::to_string(&order)
        .map_err(|error| OuterError::Out { path: directory.clone(), source: error.into() })
        .inspect_err(|_| discard(&directory))?;
    // Before any thread, since every thread inherits the mask. The sandbox takes it off again.
    let signals = stop_signals();
    signals.thread_block().map_err(|errno| OuterError::Signals(errno.into()))?;
    let started = if order.driver == Driver::Simulation {
        sandbox::start_outside([argument.into()])
    } else {
        sandbox::start([argument.into()])
    };
    let sandbox = match started {
        Ok(sandbox) => sandbox,
        Err(error) => {
            discard(&directory);
            return Err(error.into());
        }
    };
    progress.line(&format!("replay: {}", order.replay));
    progress.line(&format!("{}: {}", plan.scenario, order.about));
    progress.line(&format!("run directory: {}", directory.display()));
    let followed = follow(sandbox, signals, &mut progress, &directory);
    remove_boot_files(&directory);
    if let Err(OuterError::Refused(_)) = followed {
        discard(&directory);
    }
    let exit_code = followed?;
    let page = directory.join(report::HTML);
    if page.is_file() {
        // A closed pipe does not change the verdict.
        let _ = writeln!(io::stdout(), "report: {}", page.display());
    }
    if args.open {
        // A browser that inherits the mask cannot be ended by these signals; that is no reason not to show the page.
        let _ = signals.thread_unblock();
        if let Err(line) = browser::open(&page) {
            let _ = writeln!(io::stderr(), "lab: {line}");
        }
    }
    Ok(exit_code)
}

/// Shows what the inner process tells, and passes the user's wish to stop on.
fn follow(
    mut sandbox: Sandbox,
    signals: SigSet,
    progress: &mut Progress,
    directory: &Path,
) -> Result<u8, OuterError> {
    let events = sandbox.take_events();
    let sandbox = Arc::new(Mutex::new(sandbox));
    let wishes = pass_signals(signals, &sandbox).map_err(OuterError::Signals)?;
    let mut done = None;
    let mut refused = None;
    let mut was_told = false;
    for line in
        BufReader::new(events.into_iter().next().map_or_else(empty, |events| Box::new(events))).lines()
    {
        let Ok(line) = line else { break };
        if wishes.stop.load(Ordering::Relaxed) && !was_told {
            was_told = true;
            progress.line("stopping: what was seen so far is judged (once more to stop at once)");
        }
        match serde_json::from_str(&line) {
            Ok(Message::Event(event)) => progress.event(&event),
            Ok(Message::Progress { at, of, counts }) => progress.progress(at, of, counts),
            Ok(Message::Refused { why }) => refused = Some(why),
            Ok(Message::Done { verdict, exit_code }) => done = Some((verdict, exit_code)),
            Err(_) => progress.line(&line),
        }
    }
    progress.finish();
    let ended = sandbox.lock().expect("nothing panics while it holds this lock").wait(SANDBOX_END_MAX);
    if let Some(why) = refused {
        return Err(OuterError::Refused(why));
    }
    let Some((verdict, exit_code)) = done else {
        if wishes.at_once.load(Ordering::Relaxed) {
            return Err(OuterError::StoppedAtOnce(directory.to_owned()));
        }
        let how = ended.map_or_else(|error| error.to_string(), |exit| exit.to_string());
        return Err(OuterError::NoVerdict(how, directory.to_owned()));
    };
    // A closed pipe does not change the verdict.
    let _ = write!(io::stdout(), "{verdict}");
    let _ = writeln!(io::stdout(), "run directory: {}", directory.display());
    Ok(exit_code)
}

/// What the user wants of a run.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// That it stops.
    stop: AtomicBool,
    /// That it does so at once.
    at_once: AtomicBool,
}

/// Passes the user's wish to stop on, the first time as a wish and then at once. The signals are blocked already.
pub(crate) fn pass_signals(signals: SigSet, sandbox: &Arc<Mutex<Sandbox>>) -> io::Result<Arc<Wishes>> {
    let wishes = Arc::new(Wishes::default());
    let (stopped, told) = (sandbox.clone(), wishes.clone());
    // The thread ends with the process.
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut is_asked = false;
        while let Ok(signal) = signals.wait() {
            // The end of a terminal is told more than once, and says nothing of haste.
            let is_second = signal != Signal::SIGHUP && std::mem::replace(&mut is_asked, true);
            told.stop.store(true, Ordering::Relaxed);
            told.at_once.fetch_or(is_second, Ordering::Relaxed);
            let mut sandbox = stopped.lock().expect("nothing panics while it holds this lock");
            // Where it has ended already, so will this process.
            if is_second {
                let _ = sandbox.kill();
            } else {
                let _ = sandbox.stop();
            }
        }
    })?;
    Ok(wishes)
}

fn empty() -> Box<dyn io::Read> {
    Box::new(io::empty())
}

/// The command that runs the same plan again, as a shell takes it.
fn replay(args: &RunArgs, seed: u64, driver: &Driver) -> String {
    let plant = std::env::var_os(VARIABLE).map(|plant| format!("{VARIABLE}={}", quoted(&plant)));
    let is_planted = plant.is_some() && args.machines.node_bin.is_none();
    let lab = if is_planted { PLANTED_LAB } else { "cargo lab" };
    let mut words: Vec<String> = plant.into_iter().collect();
    let name = match driver {
        Driver::Process(_) => "process",
        Driver::Simulation => SIMULATION,
        Driver::Qemu(_) | Driver::CloudHypervisor(_) => {
            // What the image was made of or taken from.
            let own = |path: &PathBuf| path != Path::new(rig::IMAGE_FOLDER);
            let set =
                |name: &&str| Some(format!("{name}={}", quoted(variable(name).filter(own)?.as_os_str())));
            let made_of: &[&str] =
                if args.machines.image.is_some() { &[] } else { &[IMAGE_VARIABLE, KERNEL_VARIABLE] };
            words.extend(made_of.iter().chain(&[KEY_VARIABLE]).filter_map(set));
            if matches!(driver, Driver::Qemu(_)) { "qemu" } else { CLOUD_HYPERVISOR }
        }
    };
    let rig = std::env::var(rig::VARIABLE).map(|rig| format!(" {rig}")).unwrap_or_default();
    words.push(format!("{lab}{rig} run {}", quoted(args.file.as_os_str())));
    words.push(format!("--seed {seed} --driver {name}"));
    let MachineArgs { node_bin, image, fabric, .. } = &args.machines;
    // The other one need not be named: it is the one that is taken.
    words.extend((*fabric == FabricArg::Kernel).then(|| "--fabric kernel".to_owned()));
    words.extend(image.iter().map(|path| format!("--image {}", quoted(path.as_os_str()))));
    words.extend(node_bin.iter().map(|path| format!("--node-bin {}", quoted(path.as_os_str()))));
    let sabotage = args.sabotage.and_then(|sabotage| sabotage.to_possible_value());
    words.extend(sabotage.map(|value| format!("--sabotage {}", value.get_name())));
    words.extend(args.machines.slowdown.map(|pace| format!("--slowdown {pace}")));
    words.join(" ")
}

pub(crate) fn default_directory(plan: &Plan) -> PathBuf {
    timed_directory(&format!("{}-{}", plan.scenario, plan.seed))
}

/// `runs/NAME-TIME`.
pub(crate) fn timed_directory(name: &str) -> PathBuf {
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that names a directory after the time of day"
    )]
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    PathBuf::from(RUNS).join(format!("{name}-{}", utc(time)))
}

/// `20261123T060708Z`.
pub(crate) fn utc(time: Duration) -> String {
    let (days, seconds) = (time.as_secs() / 86_400, time.as_secs() % 86_400);
    // Days since 0000-03-01, in eras of 400 years ("chrono-Compatible Low-Level Date Algorithms", Hinnant).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

pub(crate) fn make_directory(path: &Path) -> Result<(), OuterError> {
    let failed = |source| OuterError::Out { path: path.to_owned(), source };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(OuterError::OutExists(path.to_owned()))
        }
        Err(source) => Err(failed(source)),
    }
}

/// Takes back a run directory in which nothing has happened.
pub(crate) fn discard(directory: &Path) {
    // What cannot be removed stays, with nothing but the plan in it.
    let _ = fs::remove_dir_all(directory);
    // The folder that the lab makes for runs goes with the only one; it stays where anything else is in it.
    if let Some(runs) = directory.parent().filter(|parent| parent.ends_with(RUNS)) {
        let _ = fs::remove_dir(runs);
    }
}

pub(crate) fn copy_scenario(file: &Path, directory: &Path) -> Result<(), OuterError> {
    let path = directory.join("scenario.yaml");
    fs::copy(file, &path).map(drop).map_err(|source| OuterError::Out { path, source })
}

pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), OuterError> {
    fs::write(path, content).map_err(|source| OuterError::Out { path: path.to_owned(), source })
}

pub(crate) fn absolute(path: &Path) -> Result<PathBuf, OuterError> {
    std::path::absolute(path).map_err(|source| OuterError::Out { path: path.to_owned(), source })
}

/// Refuses a node without planted bugs where one is asked for.
pub(crate) fn check_plants(node_version: String) -> Result<(), OuterError> {
    if std::env::var_os(VARIABLE).is_some() && !has_plants(&node_version) {
        return Err(OuterError::NotPlanted(node_version));
    }
    Ok(())
}

/// Whether the version of a node says that bugs are planted in it.
pub(crate) fn has_plants(node_version: &str) -> bool {
    node_version.ends_with("(planted bugs)")
}

/// Asks a node's program for its version, which has to be the lab's.
pub(crate) fn node_version(path: &Path, directory: &Path) -> Result<String, OuterError> {
    let failed = |source| OuterError::NodeBin { path: path.to_owned(), source };
    let log = ProgramLog::open(&directory.join("programs.log")).map_err(failed)?;
    let asked = Program::new(path).arg("--version").unprivileged();
    let output = asked.run_short(NODE_VERSION_MAX, &log).map_err(failed)?;
    let found = output.stdout.trim();
    let version = found
        .strip_prefix("aspen-node ")
        .filter(|version| version.split_whitespace().next() == Some(aspen_node::VERSION));
    let wrong = || OuterError::NodeVersion {
        path: path.to_owned(),
        found: found.lines().next().unwrap_or_default().to_owned(),
        expected: aspen_node::VERSION,
    };
    version.map(str::to_owned).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_directories_are_named_after_the_utc_time() {
        assert_eq!(utc(Duration::ZERO), "19700101T000000Z");
        assert_eq!(utc(Duration::from_hours(264_384)), "20000229T000000Z");
        assert_eq!(utc(Duration::from_secs(1_795_413_912)), "20261123T060512Z");
    }
}
