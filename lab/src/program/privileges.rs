//! Takes all capabilities from a program that needs none, for good; and what all stages share that become a program.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use caps::errors::CapsError;
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sys::prctl::set_no_new_privs;

/// First argument of the stage that becomes a program without any; the program and its arguments follow.
pub const STAGE: &str = "__unprivileged";

/// Why they are still there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegesError {
    #[error("cannot let capabilities go: {0}")]
    Capabilities(#[from] CapsError),
    #[error("cannot give up new privileges: {0}")]
    NewPrivileges(#[from] Errno),
}

/// Why a process is still what it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum BecomeError {
    #[error("no program is named")]
    Words,
    #[error("cannot start {}: {source}", .program.display())]
    Start { program: OsString, source: io::Error },
}

/// The stage: becomes the program that the words (without this program's own name and the stage's) name. It comes back only to
/// say on its error output why it could not.
pub fn stage(words: impl Iterator<Item = OsString>) -> ExitCode {
    match give_up() {
        Ok(()) => fail(become_program(words)),
        Err(error) => fail(error),
    }
}

/// Lets all capabilities of the calling thread go (capabilities(7)): neither what it becomes nor what that starts gets one back.
///
/// # Errors
/// The kernel knows no bounding set, or no `no_new_privs`.
pub(crate) fn give_up() -> Result<(), PrivilegesError> {
    // Who may not take them from the set has none, and `no_new_privs` keeps it so.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::runtime::thread_all_supported() {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set)?;
    }
    Ok(set_no_new_privs()?)
}

/// Becomes a program; comes back only where that fails.
#[allow(
    clippy::disallowed_methods,
    reason = "the process itself becomes the program: program.rs has started it"
)]
pub(super) fn become_program(mut words: impl Iterator<Item = OsString>) -> BecomeError {
    let Some(program) = words.next() else { return BecomeError::Words };
    let source = Command::new(&program).args(words).exec();
    BecomeError::Start { program, source }
}

/// The end of a stage that became nothing.
#[allow(clippy::print_stderr, reason = "the output of the program that it was to become")]
pub(super) fn fail(why: impl fmt::Display) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}
