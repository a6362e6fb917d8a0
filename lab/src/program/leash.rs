//! The stage through which a program is started that must not outlive the lab where no sandbox ends it: the kernel kills it
//! with its parent. Of the lab's capabilities it has those for files alone.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};

use super::Program;
use super::privileges::{FILES, PrivilegesError, become_program, fail, give_up};

/// First argument of the lab's own program as this stage; the program and its arguments follow.
pub const STAGE: &str = "__leashed";

/// A program that ends with its parent, which has to start it from a thread that lives as long as itself.
pub fn leashed(program: &Path) -> Program {
    Program::new("/proc/self/exe").arg(STAGE).arg(program)
}

/// Why it cannot be put on one.
#[derive(Debug, thiserror::Error)]
enum LeashError {
    #[error(transparent)]
    Privileges(#[from] PrivilegesError),
    #[error("cannot ask to be ended with the lab")]
    DeathSignal(#[source] Errno),
    #[error("cannot take signals")]
    Signals(#[source] Errno),
}

/// Becomes the program; comes back only where that fails.
pub fn stage(words: impl Iterator<Item = OsString>) -> ExitCode {
    match put_on() {
        Ok(()) => fail(&become_program(words)),
        Err(error) => fail(&error),
    }
}

fn put_on() -> Result<(), LeashError> {
    give_up(&FILES)?;
    set_pdeathsig(Signal::SIGKILL).map_err(LeashError::DeathSignal)?;
    // The lab waits for signals, and has them blocked.
    SigSet::empty().thread_set_mask().map_err(LeashError::Signals)
}
