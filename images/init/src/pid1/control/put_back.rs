//! Ends a node whose machine was put back to an earlier state, for good.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use aspen_init::layout::NODE_RETIRED_FILE;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What the mark says.
const REASON: &str = "the machine was put back to an earlier state, and was told so\n";

/// Marks the node's data directory, and ends the node. The mark is there before the node ends, so that none is started again
/// without seeing it, and is on the disk when this returns.
///
/// # Errors
/// The mark cannot be written, and the node is ended all the same; or that cannot be done.
pub(super) fn retire(folder: &Path, end: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let path = folder.join(NODE_RETIRED_FILE);
    let opened = OpenOptions::new().write(true).create(true).truncate(true).open(&path);
    let ended = end();
    let mut file = opened?;
    file.write_all(REASON.as_bytes())?;
    file.sync_all()?;
    File::open(folder)?.sync_all()?;
    ended
}

/// Kills a process, if there is one.
///
/// # Errors
/// The kernel does not let us.
pub(super) fn kill_now(pid: Option<u32>) -> io::Result<()> {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    match pid.map(|pid| kill(pid, Signal::SIGKILL)) {
        // It had ended by itself.
        None | Some(Ok(()) | Err(Errno::ESRCH)) => Ok(()),
        Some(Err(errno)) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_is_there_before_the_node_ends() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join(NODE_RETIRED_FILE);
        retire(dir.path(), || File::open(&mark).map(drop)).unwrap();
        assert_eq!(std::fs::read_to_string(&mark).unwrap(), REASON);
        // Again, and a node that cannot be ended.
        let failed = retire(dir.path(), || Err(io::ErrorKind::PermissionDenied.into())).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn node_is_ended_also_where_nothing_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut is_ended = false;
        let end = || {
            is_ended = true;
            Ok(())
        };
        retire(&dir.path().join("missing"), end).unwrap_err();
        assert!(is_ended);
    }

    #[test]
    fn node_that_is_gone_need_not_be_killed() {
        kill_now(None).unwrap();
        // No process has the largest number (PID_MAX_LIMIT, linux/threads.h).
        kill_now(Some(1 << 30)).unwrap();
    }
}
