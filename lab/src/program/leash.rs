//! The stage through which a program is started that must not outlive the lab where no sandbox ends it: the kernel kills it
//! with its parent.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};

use super::Program;

/// First argument of the lab's own program as this stage; the program and its arguments follow.
pub const STAGE: &str = "__leashed";

/// A program that ends with its parent, which has to start it from a thread that lives as long as itself.
pub fn leashed(program: &Path) -> Program {
    Program::new("/proc/self/exe").arg(STAGE).arg(program)
}

/// Becomes the program; comes back only where that fails.
#[allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "the process itself becomes the program: program.rs has started it"
)]
pub fn stage(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(program) = words.next() else { return ExitCode::FAILURE };
    if let Err(error) = set_pdeathsig(Signal::SIGKILL) {
        eprintln!("cannot ask to be ended with the lab: {error}");
        return ExitCode::FAILURE;
    }
    // The lab waits for signals, and has them blocked.
    if let Err(error) = SigSet::empty().thread_set_mask() {
        eprintln!("cannot take signals: {error}");
        return ExitCode::FAILURE;
    }
    let error = Command::new(&program).args(words).exec();
    eprintln!("cannot start {}: {error}", program.display());
    ExitCode::FAILURE
}
