//! The sandbox: everything that a run makes lives in namespaces of its own, so that nothing is left of
//! it, whoever is killed.
//!
//! Three processes. The *outer* is what the user started: it holds the terminal and the run directory
//! and stays in the host's namespaces. The *middle* makes the namespaces (user, where the caller lacks
//! the capabilities, network, mount, pid) while it has a single thread, which unshare(2) demands, and
//! then only waits. The *inner* is PID 1 of the new pid namespace and runs the lab: when it ends, the
//! kernel ends every machine, and with the last process go the interfaces, the mounts and the
//! namespaces.
//!
//! Each stage dies with the one before it: by `PR_SET_PDEATHSIG` (prctl(2)), and because the inner's input
//! is a pipe whose end means that the outer is gone. Nothing here cleans up.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::limits::{KILL_WAIT_MAX, SANDBOX_LINE_BYTES_MAX, SANDBOX_START_MAX};
use crate::program::{Exit, Program, ProgramError, Running};

mod privileges;
mod refusal;
mod stages;

pub use self::refusal::{HostFacts, Step};
pub use self::stages::{Control, Inner, InnerStage, Stage, dispatch, end_with};

use self::refusal::{Greeting, Refusal, remedy};

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The host does not allow it. The lab exits with 3.
    #[error("cannot {step}; {remedy}")]
    Refused {
        /// What was not allowed.
        step: Step,
        /// What the user can do about it.
        remedy: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The lab cannot start itself once more.
    #[error("cannot start the sandbox")]
    Start(#[source] ProgramError),
    /// A stage ended before the sandbox was ready.
    #[error("the sandbox ended with {0} before it was ready")]
    Died(Exit),
    /// Its state cannot be learned.
    #[error("the sandbox was not ready within {SANDBOX_START_MAX:?}")]
    NotReady,
    /// A pipe between the stages broke.
    #[error("lost the pipe to the sandbox")]
    Pipe(#[source] io::Error),
}

impl SandboxError {
    /// Whether the host forbids the sandbox, as opposed to the sandbox having failed.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// The command that lifts the refusal, if there is one.
    pub fn command(&self) -> Option<&str> {
        let Self::Refused { remedy, .. } = self else { return None };
        remedy.split('`').find(|words| words.starts_with("sudo "))
    }

    fn refused(refusal: Refusal) -> Self {
        let Refusal { step, errno } = refusal;
        let remedy = remedy(step, errno, &HostFacts::read());
        Self::Refused { step, remedy, source: io::Error::from_raw_os_error(errno) }
    }
}

/// The outer process's hold on the sandbox. Dropping it ends the sandbox and everything in it.
#[derive(Debug)]
pub struct Sandbox {
    control: ChildStdin,
    events: Option<ChildStdout>,
    running: Running,
}

/// Starts the sandbox and waits until it is ready. `arguments` are for the inner process
/// ([`Inner::arguments`]); its error output is the caller's.
///
/// The calling thread must live as long as the sandbox: the kernel ends the sandbox with the thread
/// that started it, not with the process.
///
/// # Errors
/// [`SandboxError::Refused`] where the host does not allow it; then nothing is left.
pub fn start(arguments: impl IntoIterator<Item = OsString>) -> Result<Sandbox, SandboxError> {
    start_stage(stages::MIDDLE, arguments)
}

/// The same without namespaces: for work that starts no program and makes no interface.
///
/// # Errors
/// The lab cannot start itself once more.
pub fn start_outside(arguments: impl IntoIterator<Item = OsString>) -> Result<Sandbox, SandboxError> {
    start_stage(stages::OUTSIDE, arguments)
}

fn start_stage(
    stage: &'static str,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Sandbox, SandboxError> {
    let program = Program::new("/proc/self/exe")
        .arg(stage)
        .arg(std::process::id().to_string())
        .args(arguments)
        .inherit_environment();
    let (running, control, mut events) = program.start_piped().map_err(SandboxError::Start)?;
    let greeting = read_line(&mut events, SANDBOX_START_MAX)?;
    match serde_json::from_slice(&greeting) {
        Ok(Greeting::Ready) => Ok(Sandbox { control, events: Some(events), running }),
        Ok(Greeting::Refused(refusal)) => Err(SandboxError::refused(refusal)),
        // Cut off: whoever should have written it ended.
        Err(_) => Err(running.wait(KILL_WAIT_MAX).map_or(SandboxError::NotReady, SandboxError::Died)),
    }
}

impl Sandbox {
    /// What the inner process writes to [`Inner::events`], from its beginning; its end means that the
    /// inner process has ended. Only the first call returns it.
    pub fn take_events(&mut self) -> Option<ChildStdout> {
        self.events.take()
    }

    /// Asks the inner process to come to an end ([`Control::Stop`]).
    ///
    /// # Errors
    /// It has ended.
    pub fn stop(&mut self) -> Result<(), SandboxError> {
        self.control.write_all(b"stop\n").map_err(SandboxError::Pipe)
    }

    /// Waits for its end and says how the inner process ended; a signal n is exit code 128 + n.
    ///
    /// # Errors
    /// [`ProgramError::TimedOut`] when it still runs after `limit`.
    pub fn wait(&self, limit: Duration) -> Result<Exit, ProgramError> {
        self.running.wait(limit)
    }

    /// Ends it at once, with everything in it.
    ///
    /// # Errors
    /// The kernel does not end it in time.
    pub fn kill(&mut self) -> Result<Exit, ProgramError> {
        self.running.kill()
    }
}

/// Reads one line without taking a byte beyond it: what follows belongs to the caller. Without the
/// newline if the pipe ends first.
fn read_line(pipe: &mut ChildStdout, limit: Duration) -> Result<Vec<u8>, SandboxError> {
    let start = Instant::now();
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < SANDBOX_LINE_BYTES_MAX {
        let left = limit.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(SandboxError::NotReady);
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        // A signal (EINTR) is a reason to look again, as a timeout is.
        let ready = poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout).unwrap_or(0);
        if ready == 0 {
            continue;
        }
        if pipe.read(&mut byte).map_err(SandboxError::Pipe)? == 0 || byte == *b"\n" {
            break;
        }
        line.push(byte[0]);
    }
    Ok(line)
}
