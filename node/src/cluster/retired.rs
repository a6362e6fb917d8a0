//! The mark of a data directory that was put back to an earlier state, such as a virtual machine's disk from a snapshot.
//!
//! Its node has forgotten votes that it gave and entries that it acknowledged. If it went on, two leaders could be elected in one
//! term, and acknowledged writes could be lost (Ongaro, "Consensus: Bridging Theory and Practice", 3.8: both have to be on stable
//! storage). Nothing in the directory itself shows it: whoever puts it back has to say so.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::limits::RETIRED_REASON_BYTES_MAX;
use crate::storage::RESTORING_FILE;

/// The file in the data directory that says so: what is in it says what has happened.
pub const RETIRED_FILE: &str = "retired";

/// Why the node of this data directory may not run any more.
#[derive(Debug, thiserror::Error)]
pub enum RetiredError {
    /// It was put back to an earlier state.
    #[error(
        "this node was put back to an earlier state and may have forgotten what it promised, as {path} says ({reason}): remove \
         it from its cluster, remove its data directory and rejoin as a new member"
    )]
    PutBack {
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
            Err(RetiredError::PutBack { path, reason })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(RetiredError::Io { path, source }),
    }
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
        std::fs::write(&path, "the machine was restored\n").unwrap();
        let error = check_not_retired(dir.path()).unwrap_err().to_string();
        let want = format!(
            "this node was put back to an earlier state and may have forgotten what it promised, as {} says (the machine was \
             restored): remove it from its cluster, remove its data directory and rejoin as a new member",
            path.display()
        );
        assert_eq!(error, want);
    }

    #[test]
    fn directory_of_an_unfinished_restore_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(RESTORING_FILE), "").unwrap();
        let error = check_not_retired(dir.path()).unwrap_err().to_string();
        let want = "has not come to its end: run `aspen backup restore` again, it begins anew";
        assert!(error.ends_with(want), "{error}");
    }
}
