//! A started program: its signals, its end, and nobody's zombies.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::{Exit, ProcessStat, ProgramError, lock, tail};
use crate::limits::KILL_WAIT_MAX;

/// A program that was started. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Running {
    pub(super) command: String,
    console: PathBuf,
    pid: Pid,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Invariant: `None` while the process, or its zombie, holds the process id; whoever holds the lock
    /// and sees `None` may therefore use the id.
    exit: Mutex<Option<Exit>>,
    ended: Condvar,
}

impl Running {
    pub(super) fn new(command: String, console: PathBuf, mut child: Child) -> Result<Self, ProgramError> {
        let pid = Pid::from_raw(child.id().cast_signed());
        let shared = Arc::new(Shared { exit: Mutex::new(None), ended: Condvar::new() });
        let waiter = Arc::clone(&shared);
        let spawned = thread::Builder::new().name("waiter".to_owned()).spawn(move || {
            await_end(pid);
            let mut exit = lock(&waiter.exit);
            *exit = Some(child.wait().map_or(Exit::Code(-1), Exit::from));
            lock(&OWNED).remove(&pid.as_raw());
            waiter.ended.notify_all();
        });
        let running = Self { command, console, pid, shared };
        match spawned {
            Ok(_detached) => Ok(running),
            Err(source) => {
                // Nobody will ever collect it: kill it here, at the price of a zombie.
                let _gone = nix::sys::signal::kill(pid, Signal::SIGKILL);
                *lock(&running.shared.exit) = Some(Exit::Signal(9));
                Err(ProgramError::Start { command: running.command.clone(), source })
            }
        }
    }

    /// Its process id, as the lab sees it.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// How it ended, if it has.
    pub fn exited(&self) -> Option<Exit> {
        *lock(&self.shared.exit)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`ProgramError::TimedOut`] when it still runs after `limit`.
    pub fn wait(&self, limit: Duration) -> Result<Exit, ProgramError> {
        let exit = lock(&self.shared.exit);
        let (exit, _timeout) = self
            .shared
            .ended
            .wait_timeout_while(exit, limit, |exit| exit.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        exit.ok_or_else(|| ProgramError::TimedOut {
            command: self.command.clone(),
            limit,
            stderr: self.console_tail(),
        })
    }

    /// Sends it a signal; a program that has ended gets none. Says how it had ended, if it had.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<Option<Exit>, ProgramError> {
        let exit = lock(&self.shared.exit);
        if exit.is_none() {
            nix::sys::signal::kill(self.pid, signal).map_err(|errno| ProgramError::Signal {
                command: self.command.clone(),
                signal,
                source: errno.into(),
            })?;
        }
        Ok(*exit)
    }

    /// Ends it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// The kernel does not end it within [`KILL_WAIT_MAX`].
    pub fn kill(&mut self) -> Result<Exit, ProgramError> {
        match self.signal(Signal::SIGKILL)? {
            Some(exit) => Ok(exit),
            None => self.wait(KILL_WAIT_MAX),
        }
    }

    /// The end of what it wrote.
    pub fn console_tail(&self) -> String {
        tail(&self.console).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What cannot be killed here dies with the sandbox.
        let _killed = self.kill();
    }
}

/// Blocks until the process has ended; its id stays taken.
fn await_end(pid: Pid) {
    let end = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while waitid(Id::Pid(pid), end) == Err(nix::errno::Errno::EINTR) {}
}

/// The processes that a [`Running`] waits for: not to be collected by [`reap_orphans`].
static OWNED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

pub(super) fn own(spawn: impl FnOnce() -> io::Result<Child>) -> io::Result<Child> {
    // Held over the start, so that no child exists that the set does not name.
    let mut owned = lock(&OWNED);
    let child = spawn()?;
    owned.insert(child.id().cast_signed());
    Ok(child)
}

/// Collects ended processes that nobody waits for: children of machines, which the kernel gives to
/// PID 1. Only PID 1 of the sandbox calls this.
pub fn reap_orphans() {
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    let me = std::process::id();
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let is_mine = |stat: &ProcessStat| stat.has_ended() && stat.parent == me;
        if !ProcessStat::read(pid.cast_unsigned()).is_some_and(|stat| is_mine(&stat)) {
            continue;
        }
        let owned = lock(&OWNED);
        if !owned.contains(&pid) {
            let _status: Result<WaitStatus, _> = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}
