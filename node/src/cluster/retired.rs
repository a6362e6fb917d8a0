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

use super::identity::IDENTITY_FILE;
use super::metadata::METADATA_FILE;
use crate::limits::{RETIRED_REASON_BYTES_MAX, SET_ASIDE_MAX};
use crate::storage::RESTORING_FILE;
use crate::storage::log::LOG_FILE;
use crate::storage::snapshot::{SNAPSHOT_DIR, sync_dir};
use crate::storage::sqlite::is_state_file;

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
    /// It cannot come back as another one.
    #[error(
        "{path} has {SET_ASIDE_MAX} folders {ASIDE_PREFIX}N of earlier members already: remove those that are not needed any more"
    )]
    TooManyAside {
        /// The data directory.
        path: PathBuf,
    },
    /// Nor can it.
    #[error("cannot set aside what is in {path}")]
    Aside {
        /// The data directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
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
/// the folder. Nothing of it may be open. Nothing is lost, and the mark goes last: half done, it is done again. Files that are none of
/// the node's stay.
///
/// # Errors
/// There are too many such folders already, or something cannot be moved.
pub fn set_aside(data_dir: &Path) -> Result<PathBuf, RetiredError> {
    let folders = (1..=SET_ASIDE_MAX).map(|number| data_dir.join(format!("{ASIDE_PREFIX}{number}")));
    // The mark is in those that are whole.
    let aside = folders.into_iter().find(|folder| !folder.join(RETIRED_FILE).exists());
    let aside = aside.ok_or_else(|| RetiredError::TooManyAside { path: data_dir.to_owned() })?;
    let moved = move_all(data_dir, &aside);
    moved.map_err(|source| RetiredError::Aside { path: data_dir.to_owned(), source })?;
    Ok(aside)
}

fn move_all(data_dir: &Path, aside: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(aside)?;
    for entry in fs::read_dir(data_dir)? {
        let name = entry?.file_name();
        let is_own = name.to_str().is_some_and(|name| {
            [IDENTITY_FILE, METADATA_FILE, LOG_FILE, SNAPSHOT_DIR].contains(&name) || is_state_file(name)
        });
        if is_own {
            fs::rename(data_dir.join(&name), aside.join(&name))?;
        }
    }
    sync_dir(aside)?;
    sync_dir(data_dir)?;
    fs::rename(data_dir.join(RETIRED_FILE), aside.join(RETIRED_FILE))?;
    sync_dir(data_dir)
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
        let path = |name: &str| dir.path().join(name);
        let own =
            ["identity.key", "cluster.redb", "log.redb", "state-2.sqlite", "state-2.sqlite-wal", "snapshots"];
        fs::create_dir(path("lost+found")).unwrap();
        // As if it had ended half way.
        fs::create_dir(path("set-aside-1")).unwrap();
        fs::write(path("set-aside-1").join("log.redb"), "the first").unwrap();
        for number in 1..=SET_ASIDE_MAX {
            for name in own.iter().skip(if number == 1 { 3 } else { 0 }) {
                fs::write(path(name), "a file").unwrap();
            }
            mark_retired(dir.path(), "a test").unwrap();
            let aside = set_aside(dir.path()).unwrap();
            assert_eq!(aside, path(&format!("set-aside-{number}")));
            check_not_retired(dir.path()).unwrap();
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1 + number as usize);
            assert!(aside.join("state-2.sqlite-wal").exists() && aside.join("snapshots").exists());
            let error = check_not_retired(&aside).unwrap_err().to_string();
            assert!(error.contains("(a test)"), "{error}");
        }
        assert_eq!(fs::read_to_string(path("set-aside-1").join("log.redb")).unwrap(), "the first");
        mark_retired(dir.path(), "once more").unwrap();
        let error = set_aside(dir.path()).unwrap_err().to_string();
        assert!(error.contains("has 4 folders set-aside-N of earlier members already"), "{error}");
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
