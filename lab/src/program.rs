//! The one file that starts programs: arguments logged, time limits kept, error output kept.
//!
//! A started program gets the environment that it is given and nothing else, no input, and a console
//! file for its output. It knows nothing of shells.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use nix::libc::STDERR_FILENO;
use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Serialize};

use crate::fabric::TapError;
use crate::fabric::namespace::Namespace;
use crate::limits::POLL_INTERVAL;

pub mod confine;
pub mod leash;
mod output;
pub mod privileges;
mod running;
mod short;
mod stat;

pub use self::output::tail;
pub use self::running::{Running, reap_orphans};
pub use self::short::ShortOutput;
pub use self::stat::ProcessStat;

use self::confine::Confinement;
use self::running::own;

/// What to start: a program, its arguments and its surroundings.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    /// What is open in it beside its input and outputs, and as what.
    descriptors: Vec<(Arc<OwnedFd>, RawFd)>,
    /// Where its error output goes, if not where its output does.
    errors: Option<PathBuf>,
    may: May,
}

/// What a program may, of all that the lab may itself.
#[derive(Debug, Clone)]
enum May {
    /// Whatever the lab may.
    All,
    /// See what the lab sees, with no capability but those for files.
    See,
    /// See this and the system's own files, without any capability.
    Confined(Confinement),
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// Whether the program said that all is well.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        // A status that waitpid(2) reports for an ended process is one or the other.
        status.signal().map_or_else(|| Self::Code(status.code().unwrap_or(-1)), Self::Signal)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match Signal::try_from(*signal) {
                Ok(name) => write!(f, "signal {signal} ({name})"),
                Err(_real_time) => write!(f, "signal {signal}"),
            },
        }
    }
}

/// Why a program could not be started or did not do what it was started for.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be started.
    #[error("cannot start {command}")]
    Start {
        /// The program and its arguments.
        command: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The namespace for it could not be entered.
    #[error("cannot start {command} in its namespace")]
    Namespace {
        /// The program and its arguments.
        command: String,
        /// What went wrong.
        source: TapError,
    },
    /// Its console file or the log of programs cannot be written or read.
    #[error("cannot use {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A short program ended with something else than success.
    #[error("{command} ended with {exit}; its error output ends: {stderr:?}")]
    Failed {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        exit: Exit,
        /// The end of what it wrote to its error output.
        stderr: String,
    },
    /// A program ran longer than it may. A short program was killed for it.
    #[error("{command} did not end within {limit:?}; its error output ends: {stderr:?}")]
    TimedOut {
        /// The program and its arguments.
        command: String,
        /// How long it was waited for.
        limit: Duration,
        /// The end of what it wrote to its error output (for a long program, to its console).
        stderr: String,
    },
    /// A signal could not be sent.
    #[error("cannot send {signal} to {command}")]
    Signal {
        /// The program and its arguments.
        command: String,
        /// The signal.
        signal: Signal,
        /// The system's answer.
        source: io::Error,
    },
}

/// The log of every program started, one line each: milliseconds since the log was opened, process
/// id, program and arguments.
#[derive(Debug, Clone)]
pub struct ProgramLog {
    path: PathBuf,
    file: Arc<Mutex<File>>,
    opened: Instant,
}

impl ProgramLog {
    /// Opens the log, to append.
    ///
    /// # Errors
    /// [`ProgramError::File`].
    pub fn open(path: &Path) -> Result<Self, ProgramError> {
        let file = open_append(path)?;
        Ok(Self { path: path.to_owned(), file: Arc::new(Mutex::new(file)), opened: Instant::now() })
    }

    fn record(&self, pid: u32, command: &str) -> Result<(), ProgramError> {
        let line = format!("{} {pid} {command}\n", self.opened.elapsed().as_millis());
        let written = lock(&self.file).write_all(line.as_bytes());
        written.map_err(|source| ProgramError::File { path: self.path.clone(), source })
    }
}

impl Program {
    /// A program by its path, or by its name if it is on the lab's own search path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            arguments: vec![],
            environment: vec![],
            folder: None,
            descriptors: vec![],
            errors: None,
            may: May::All,
        }
    }

    /// The path of a program on the lab's own search path. A program that is started sees nothing of that path.
    pub fn find(name: &str) -> Option<PathBuf> {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to the environment, which is empty otherwise.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Lets it work in this folder instead of the lab's own.
    #[must_use]
    pub fn in_folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Has `descriptor` open in it under this number, which is above those of its input and outputs.
    #[must_use]
    pub fn descriptor(mut self, descriptor: Arc<OwnedFd>, number: RawFd) -> Self {
        self.descriptors.push((descriptor, number));
        self
    }

    /// Has its error output appended to another file than its output.
    #[must_use]
    pub fn errors_to(mut self, path: &Path) -> Self {
        self.errors = Some(path.to_owned());
        self
    }

    /// Takes all capabilities from it but those for files. It has to be named by its path.
    #[must_use]
    pub fn unprivileged(mut self) -> Self {
        self.may = May::See;
        self
    }

    /// Lets it see nothing but this and the system's own files, and takes all capabilities from it. It has to be named by its
    /// path.
    #[must_use]
    pub fn confined(mut self, confinement: Confinement) -> Self {
        self.may = May::Confined(confinement);
        self
    }

    /// Gives it the lab's own environment: for the lab's own stages.
    #[must_use]
    pub(crate) fn inherit_environment(mut self) -> Self {
        self.environment.extend(std::env::vars_os());
        self
    }

    /// Starts it with all its output appended to `console`, in `namespace` or in that of the caller.
    ///
    /// # Errors
    /// It cannot be started, its console cannot be opened, or the log cannot be written: then it does
    /// not run.
    pub fn start(
        &self,
        namespace: Option<&Namespace>,
        console: &Path,
        log: &ProgramLog,
    ) -> Result<Running, ProgramError> {
        let started = |source| ProgramError::Start { command: self.to_string(), source };
        let output = open_append(console)?;
        let errors = match &self.errors {
            Some(path) => open_append(path)?,
            None => output
                .try_clone()
                .map_err(|source| ProgramError::File { path: console.to_owned(), source })?,
        };
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let mapped = self.descriptors.iter().map(|(descriptor, child_fd)| {
            Ok(FdMapping { parent_fd: descriptor.try_clone()?, child_fd: *child_fd })
        });
        let mapped = mapped.collect::<io::Result<Vec<_>>>().map_err(started)?;
        command.fd_mappings(mapped).map_err(|error| started(io::Error::other(error)))?;
        let child = match namespace {
            None => own(|| command.spawn()),
            // A program is born into the namespace of the thread that starts it.
            Some(namespace) => namespace
                .run(|| own(|| command.spawn()))
                .map_err(|source| ProgramError::Namespace { command: self.to_string(), source })?,
        };
        let running = Running::new(self.to_string(), console.to_owned(), child.map_err(started)?)?;
        log.record(running.pid(), &running.command)?;
        Ok(running)
    }

    /// Starts a program that shows something to the user, and lets it go: it may outlive the lab, and gets none of the
    /// terminal's signals. Its output goes nowhere, so as not to disturb that of the lab.
    ///
    /// # Errors
    /// It cannot be started, or ends without success within `limit`.
    pub(crate) fn show(&self, limit: Duration) -> Result<(), ProgramError> {
        let started = |source| ProgramError::Start { command: self.to_string(), source };
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn().map_err(started)?;
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            match child.try_wait().map_err(started)?.map(Exit::from) {
                Some(exit) if exit.is_success() => return Ok(()),
                Some(exit) => {
                    let (command, stderr) = (self.to_string(), String::new());
                    return Err(ProgramError::Failed { command, exit, stderr });
                }
                None => thread::sleep(POLL_INTERVAL),
            }
        }
        Ok(())
    }

    /// Starts it with all its output appended to `console`, and lets it go: it may outlive the lab.
    ///
    /// # Errors
    /// It cannot be started, or its console cannot be opened.
    pub(crate) fn start_apart(&self, console: &Path) -> Result<Child, ProgramError> {
        let output = open_append(console)?;
        let errors =
            output.try_clone().map_err(|source| ProgramError::File { path: console.to_owned(), source })?;
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        command.spawn().map_err(|source| ProgramError::Start { command: self.to_string(), source })
    }

    /// Starts it with these as its input, its output and its error output.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start_on(&self, [input, output, errors]: [Stdio; 3]) -> Result<Running, ProgramError> {
        let mut command = self.command();
        command.stdin(input).stdout(output).stderr(errors);
        let child = own(|| command.spawn());
        let child = child.map_err(|source| ProgramError::Start { command: self.to_string(), source })?;
        Running::new(self.to_string(), PathBuf::from("/dev/null"), child)
    }

    /// Becomes this program; comes back only if that fails.
    pub(crate) fn become_it(&self) -> io::Error {
        self.command().exec()
    }

    /// Starts it between two pipes, its input and its output; its error output is the lab's own.
    pub(crate) fn start_piped(&self) -> Result<(Running, ChildStdin, ChildStdout), ProgramError> {
        let failed = |source| ProgramError::Start { command: self.to_string(), source };
        let mut command = self.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = own(|| command.spawn()).map_err(failed)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let running = Running::new(self.to_string(), PathBuf::from("/dev/null"), child)?;
        let (input, output) = pipes.ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        Ok((running, input, output))
    }

    /// Runs it to its end with the lab's own input and outputs, without making a thread: for a process
    /// that may not have a second one.
    pub(crate) fn run_in_place(&self) -> io::Result<Exit> {
        self.command().status().map(Exit::from)
    }

    /// The highest number of a descriptor that it is given.
    fn last_descriptor(&self) -> OsString {
        let given = self.descriptors.iter().map(|(_, number)| *number).max();
        given.unwrap_or(STDERR_FILENO).to_string().into()
    }

    /// The command that all ways of starting share.
    #[allow(clippy::disallowed_methods, reason = "this is the file that starts programs")]
    fn command(&self) -> Command {
        let stage = match &self.may {
            May::All => vec![],
            May::See => vec![privileges::STAGE.into(), self.last_descriptor()],
            May::Confined(confinement) => {
                [vec![confine::STAGE.into(), self.last_descriptor()], confinement.words()].concat()
            }
        };
        let mut command =
            Command::new(if stage.is_empty() { &*self.path } else { Path::new("/proc/self/exe") });
        if !stage.is_empty() {
            command.args(stage).arg(&self.path);
        }
        command.args(&self.arguments).env_clear().envs(self.environment.iter().cloned());
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words =
            std::iter::once(self.path.as_os_str()).chain(self.arguments.iter().map(OsString::as_os_str));
        for (position, word) in words.enumerate() {
            let space = if position == 0 { "" } else { " " };
            write!(f, "{space}{}", quoted(word))?;
        }
        Ok(())
    }
}

/// The wish to stop: Ctrl-C, a wish from outside, and the end of the terminal, unless this process was begun to outlive that.
pub(crate) fn stop_signals() -> SigSet {
    let mut signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    // A signal that is ignored is waited for all the same as soon as it is blocked (signal(7)).
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !ignores(&status, Signal::SIGHUP) {
        signals.add(Signal::SIGHUP);
    }
    signals
}

/// Whether a process ignores a signal, as nohup(1) has it; by its `status` in /proc (proc(5)).
fn ignores(status: &str, signal: Signal) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal as i32 - 1) & 1 == 1)
}

/// Stops on [`stop_signals`], so that nothing is left behind.
pub(crate) fn stop_on_signals(is_stopping: Arc<AtomicBool>) -> io::Result<()> {
    // Before any thread, since every thread inherits the mask. What is started gets a mask of its own.
    let signals = stop_signals();
    signals.thread_block()?;
    // The thread ends with the process.
    thread::Builder::new().name("signals".into()).spawn(move || {
        while signals.wait().is_ok() {
            is_stopping.store(true, Ordering::Relaxed);
        }
    })?;
    Ok(())
}

/// A word as a shell would have to read it, so that a line of the log can be typed again.
pub fn quoted(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn open_append(path: &Path) -> Result<File, ProgramError> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|source| ProgramError::File { path: path.to_owned(), source })
}

/// Locks; a panic elsewhere leaves these values usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
