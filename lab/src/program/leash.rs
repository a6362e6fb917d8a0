//! The stage through which a program is started that must not outlive the lab where no sandbox ends it: the kernel kills it
//! with its parent. It has none of the lab's capabilities either.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};

use super::Program;
use super::privileges::{become_program, fail, give_up};

/// First argument of the lab's own program as this stage; the program and its arguments follow.
pub const STAGE: &str = "__leashed";

/// A program that ends with its parent, which has to start it from a thread that lives as long as itself.
pub fn leashed(program: &Path) -> Program {
    Program::new("/proc/self/exe").arg(STAGE).arg(program)
}

/// Becomes the program; comes back only where that fails.
pub fn stage(words: impl Iterator<Item = OsString>) -> ExitCode {
    if let Err(error) = give_up() {
        return fail(error);
    }
    if let Err(error) = set_pdeathsig(Signal::SIGKILL) {
        return fail(format_args!("cannot ask to be ended with the lab: {error}"));
    }
    // The lab waits for signals, and has them blocked.
    if let Err(error) = SigSet::empty().thread_set_mask() {
        return fail(format_args!("cannot take signals: {error}"));
    }
    fail(become_program(words))
}
