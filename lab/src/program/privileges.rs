//! Takes capabilities from a program that does not need them; and what all stages share that become a program.

use std::collections::HashSet;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use caps::errors::CapsError;
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sys::prctl::set_no_new_privs;

use crate::causes::causes;

/// First argument of the stage that becomes a program with the capabilities for files alone. The highest descriptor that it is given
/// follows, and then the program and its arguments.
pub const STAGE: &str = "__unprivileged";

/// What opens the files of whoever has started the lab, where that was root in a folder of somebody else's (capabilities(7)). A user
/// has them inside a user namespace, for files that are the user's own.
pub(crate) const FILES: [Capability; 2] = [Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH];

/// Why capabilities are still there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegesError {
    #[error("cannot let capabilities go")]
    Capabilities(#[from] CapsError),
    #[error("cannot give up new privileges")]
    NewPrivileges(#[from] Errno),
}

/// Why a process is still what it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum BecomeError {
    #[error("no program is named")]
    Words,
    #[error("cannot start {}", .program.display())]
    Start { program: OsString, source: io::Error },
}

/// The stage: becomes the program that the words (without this program's own name and the stage's) name. It comes back only to
/// say on its error output why it could not.
pub fn stage(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    close_above(words.next());
    match give_up(&FILES) {
        Ok(()) => fail(&become_program(words)),
        Err(error) => fail(&error),
    }
}

/// Lets all other capabilities of the calling thread go: neither what it becomes nor what that starts gets one back, but inside a
/// user namespace of its own.
///
/// # Errors
/// The kernel knows no bounding set, or no `no_new_privs`.
pub(crate) fn give_up(kept: &[Capability]) -> Result<(), PrivilegesError> {
    let kept: HashSet<Capability> = kept.iter().copied().collect();
    // Who may not take them from the bounding set cannot get them from there either: `no_new_privs`.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::runtime::thread_all_supported().difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    let permitted = caps::read(None, CapSet::Permitted)?;
    let left: HashSet<Capability> = permitted.intersection(&kept).copied().collect();
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set)?;
    }
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &left)?;
    }
    Ok(set_no_new_privs()?)
}

/// Closes everything above the descriptor that a stage's first word names: what somebody else's code has opened in the lab while the
/// program was started, such as the memory of a machine, is not for it.
pub(super) fn close_above(last: Option<OsString>) {
    let Some(last) = last.and_then(|word| word.to_str()?.parse::<RawFd>().ok()) else { return };
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open: Vec<RawFd> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > last) {
        // The one by which they were listed is closed already.
        let _ = nix::unistd::close(descriptor);
    }
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
pub(super) fn fail(why: &(dyn Error + 'static)) -> ExitCode {
    eprintln!("{}", causes(why).replace("\nbecause: ", ": "));
    ExitCode::FAILURE
}
