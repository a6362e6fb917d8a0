//! Folders for what is needed for a while, gone with their value. What a lab that was killed has left goes with the next one.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::program::ProcessStat;

/// A folder of this user's and this process's own.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes the folder of this kind below `base`: its name is `kind`, and the process's number. Those of processes that are no
    /// more are removed.
    ///
    /// # Errors
    /// It cannot be made. The path is where it should have been.
    pub(crate) fn make(base: &Path, kind: &str) -> Result<Self, (PathBuf, io::Error)> {
        remove_left(base, kind);
        let path = base.join(format!("{kind}{}", std::process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Self(path)),
            Err(error) => Err((path, error)),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // If it cannot be removed, the next one of its kind tries again.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes the folders of this user's processes that are no more.
fn remove_left(base: &Path, kind: &str) {
    let Ok(entries) = fs::read_dir(base) else { return };
    let user = geteuid().as_raw();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(kind)?.parse().ok());
        // The metadata are those of the entry itself: a link is no folder.
        let is_own = entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == user);
        if is_own && pid.is_some_and(|pid| pid == std::process::id() || ProcessStat::read(pid).is_none()) {
            // Somebody else may be at it.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const KIND: &str = "aspen-trial-";

    #[test]
    fn folders_of_processes_that_are_no_more_are_removed_and_no_others() {
        let home = tempfile::tempdir().unwrap();
        let gone = u32::MAX;
        let make = |name: &str| {
            let path = home.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("trial.raw"), "left").unwrap();
            path
        };
        let left = make(&format!("{KIND}{gone}"));
        let others = [make(&format!("{KIND}1")), make("aspen-trial"), make(&format!("x{KIND}{gone}"))];
        let link = home.path().join(format!("{KIND}{}", gone - 1));
        symlink(&others[1], &link).unwrap();
        remove_left(home.path(), KIND);
        assert!(!left.exists());
        assert!(others.iter().all(|path| path.join("trial.raw").exists()) && link.exists());
    }

    #[test]
    fn what_is_in_it_goes_with_it() {
        let home = tempfile::tempdir().unwrap();
        let scratch = Scratch::make(home.path(), KIND).unwrap();
        let path = scratch.path().to_owned();
        fs::write(path.join("trial.raw"), "left").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        drop(scratch);
        assert!(!path.exists());
        let (path, _error) = Scratch::make(&home.path().join("nowhere"), KIND).unwrap_err();
        assert!(path.starts_with(home.path().join("nowhere")));
    }
}
