//! The mark of a data directory whose node may not go on as the member that it was. It was put back to an earlier state, such as a
//! virtual machine's disk from a snapshot; or its cluster has removed it, and it comes back as another one.
//!
//! A node that was put back has forgotten votes that it gave and entries that it acknowledged. If it went on, two leaders could be elected in one
//! term, and acknowledged writes could be lost (Ongaro, "Consensus: Bridging Theory and Practice", 3.8: both have to be on stable
//! storage). Nothing in the directory itself shows it: whoever puts it back says so, or [the other members do](crate::network::incarnation).

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::limits::RETIRED_REASON_BYTES_MAX;
use crate::storage::RESTORING_FILE;
use crate::storage::snapshot::sync_dir;

/// The file in the data directory that says so: what is in it says what has happened.
pub const RETIRED_FILE: &str = "retired";

/// How the names of the folders in the data directory begin that hold what a node had which came back as a new member.
pub const ASIDE_PREFIX: &str = "set-aside-";

/// Why the node of this data directory may not run any more.
#[derive(Debug, thiserror::Error)]
pub enum RetiredError {
    /// It bears the mark.
    #[error(
        "this node may not go on as the member that it was, as {path} says ({reason}): remove it from its cluster, remove its data \
         directory and rejoin as a new member; with a ticket `rejoin` does the latter two by itself"
    )]
    Marked {
        /// The mark.
        path: PathBuf,
        /// What it says.
        reason: String,
    },
    /// It was to be made of a backup, and only a part of it is there.
    #[error(
        "the restore of {path} has not come to its end: run `aspen backup restore` again, it begins anew"
    )]
    Restoring {
        /// The data directory.
        path: PathBuf,
    },
    /// Nobody knows.
    #[error("cannot see whether there is {path}")]
    Io {
        /// The mark.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Refuses a data directory that bears the mark, or that of a restore which has not come to its end.
///
/// # Errors
/// It does, or that cannot be found out.
pub fn check_not_retired(data_dir: &Path) -> Result<(), RetiredError> {
    let restoring = data_dir.join(RESTORING_FILE);
    match restoring.try_exists() {
        Ok(false) => {}
        Ok(true) => return Err(RetiredError::Restoring { path: data_dir.to_owned() }),
        Err(source) => return Err(RetiredError::Io { path: restoring, source }),
    }
    let path = data_dir.join(RETIRED_FILE);
    match read(&path) {
        Ok(bytes) => {
            let reason = String::from_utf8_lossy(&bytes).trim().to_owned();
            Err(RetiredError::Marked { path, reason })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(RetiredError::Io { path, source }),
    }
}

/// Puts the mark into a data directory, durably.
///
/// # Errors
/// It cannot be written.
pub fn mark_retired(data_dir: &Path, reason: &str) -> io::Result<()> {
    let mut file = File::create(data_dir.join(RETIRED_FILE))?;
    writeln!(file, "{reason}")?;
    file.sync_all()?;
    sync_dir(data_dir)
}

/// Moves all that a node which bears the mark has into a folder of its own in the data directory, so that the node can begin anew;
/// the folder. Nothing is lost, and the mark is what goes last: half done, it is done again.
///
/// # Errors
/// Something cannot be moved.
pub fn set_aside(data_dir: &Path) -> io::Result<PathBuf> {
    let mut number = 1;
    let aside = loop {
        let aside = data_dir.join(format!("{ASIDE_PREFIX}{number}"));
        match DirBuilder::new().mode(0o700).create(&aside) {
            Ok(()) => break aside,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    };
    for entry in fs::read_dir(data_dir)? {
        let name = entry?.file_name();
        let is_left = name == RETIRED_FILE || name.to_string_lossy().starts_with(ASIDE_PREFIX);
        if !is_left {
            fs::rename(data_dir.join(&name), aside.join(&name))?;
        }
    }
    sync_dir(&aside)?;
    sync_dir(data_dir)?;
    fs::rename(data_dir.join(RETIRED_FILE), aside.join(RETIRED_FILE))?;
    sync_dir(data_dir)?;
    Ok(aside)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(RETIRED_REASON_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_with_the_mark_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        check_not_retired(dir.path()).unwrap();
        let path = dir.path().join(RETIRED_FILE);
        fs::write(&path, "the machine was restored\n").unwrap();
        let error = check_not_retired(dir.path()).unwrap_err().to_string();
        let want = format!(
            "this node may not go on as the member that it was, as {} says (the machine was restored): remove it from its cluster, \
             remove its data directory and rejoin as a new member; with a ticket `rejoin` does the latter two by itself",
            path.display()
        );
        assert_eq!(error, want);
    }

    #[test]
    fn what_is_set_aside_is_whole_and_out_of_the_way() {
        let dir = tempfile::tempdir().unwrap();
        for number in 1..=2 {
            fs::write(dir.path().join("log.redb"), "entries").unwrap();
            fs::create_dir(dir.path().join("snapshots")).unwrap();
            mark_retired(dir.path(), "a test").unwrap();
            let aside = set_aside(dir.path()).unwrap();
            assert_eq!(aside, dir.path().join(format!("set-aside-{number}")));
            check_not_retired(dir.path()).unwrap();
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), number);
            assert_eq!(fs::read_to_string(aside.join("log.redb")).unwrap(), "entries");
            assert!(aside.join("snapshots").is_dir());
            let error = check_not_retired(&aside).unwrap_err().to_string();
            assert!(error.contains("(a test)"), "{error}");
        }
    }

    #[test]
    fn directory_of_an_unfinished_restore_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(RESTORING_FILE), "").unwrap();
        let error = check_not_retired(dir.path()).unwrap_err().to_string();
        let want = "has not come to its end: run `aspen backup restore` again, it begins anew";
        assert!(error.ends_with(want), "{error}");
    }
}
