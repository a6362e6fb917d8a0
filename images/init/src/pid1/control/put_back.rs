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

/// Marks the node's data directory, and kills the node. The mark is there before the node ends, so that none is started again
/// without seeing it, and is on the disk when this returns.
///
/// # Errors
/// The mark cannot be written: the node is killed all the same.
pub(super) fn retire(folder: &Path, pid: Option<u32>) -> io::Result<()> {
    let path = folder.join(NODE_RETIRED_FILE);
    let opened = OpenOptions::new().write(true).create(true).truncate(true).open(&path);
    let killed =
        pid.and_then(|pid| i32::try_from(pid).ok()).map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL));
    let mut file = opened?;
    file.write_all(REASON.as_bytes())?;
    file.sync_all()?;
    File::open(folder)?.sync_all()?;
    match killed {
        // It had ended by itself.
        None | Some(Ok(()) | Err(Errno::ESRCH)) => Ok(()),
        Some(Err(errno)) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a program that ends by nothing but a signal")]
    fn node_is_killed_and_its_folder_bears_the_mark() {
        let dir = tempfile::tempdir().unwrap();
        let mut node = Command::new("sleep").arg("60").spawn().unwrap();
        retire(dir.path(), Some(node.id())).unwrap();
        assert_eq!(node.wait().unwrap().signal(), Some(9));
        assert_eq!(std::fs::read_to_string(dir.path().join(NODE_RETIRED_FILE)).unwrap(), REASON);
        // Again, and without a node.
        retire(dir.path(), None).unwrap();
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a program that ends by nothing but a signal")]
    fn node_is_killed_also_where_nothing_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut node = Command::new("sleep").arg("60").spawn().unwrap();
        retire(&dir.path().join("missing"), Some(node.id())).unwrap_err();
        assert_eq!(node.wait().unwrap().signal(), Some(9));
    }
}
