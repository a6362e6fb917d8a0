//! Backups on a disk: written so that a file which bears its name is whole, and looked at.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::{Check, FormatError, Header};
use crate::limits::BACKUP_READ_BYTES;
use crate::storage::StorageError;
use crate::storage::snapshot::sync_dir;
use crate::storage::sqlite::{BackedUp, Tally, inspect_backup};

/// Why a backup cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A file or folder.
    #[error("cannot use {path}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It would be in a folder that is not there.
    #[error("there is no folder {path} for the backup: make it first")]
    NoFolder {
        /// The folder.
        path: PathBuf,
    },
    /// There is such a file already.
    #[error("{path} is there already: take another name, or --force to replace it")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else writes it.
    #[error("another backup is being written to {path}: wait for it, or take another name")]
    Busy {
        /// The unfinished file.
        path: PathBuf,
    },
    /// It is damaged, or of a later version.
    #[error("{path}: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: FormatError,
    },
    /// The database in it is refused.
    #[error("the database in {path} cannot be used")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        source: StorageError,
    },
    /// Its first line says something else than the database behind it.
    #[error("{path}: its database has not what its first line says: use another backup")]
    Contradiction {
        /// The file.
        path: PathBuf,
    },
}

impl FileError {
    /// Whether the backup is not what it should be.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Format { reason, .. } => reason.is_damage(),
            Self::Database { source, .. } => {
                matches!(source, StorageError::Corrupt { .. } | StorageError::Sqlite { .. })
            }
            Self::Contradiction { .. } => true,
            Self::Io { .. } | Self::NoFolder { .. } | Self::Exists { .. } | Self::Busy { .. } => false,
        }
    }
}

/// A backup that is being written, under another name until it is whole. Dropped before that, it leaves nothing.
#[derive(Debug)]
pub struct NewBackup {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    check: Check,
    may_replace: bool,
    is_finished: bool,
}

/// Locks an open file, if nobody else has; whether it is still the one at `path`. Whoever has held it may have given it another name,
/// or removed it, since it was opened.
pub(super) fn takes(file: &File, path: &Path) -> bool {
    let number = |metadata: io::Result<fs::Metadata>| metadata.ok().map(|file| (file.dev(), file.ino()));
    file.try_lock().is_ok() && number(file.metadata()) == number(fs::symlink_metadata(path))
}

/// The folder of a file.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl NewBackup {
    /// Begins a backup that is to be at `path`.
    ///
    /// # Errors
    /// There is one already and it may not be replaced, another is being written, or the folder cannot be used.
    pub fn create(path: &Path, may_replace: bool) -> Result<Self, FileError> {
        if !may_replace && path.symlink_metadata().is_ok() {
            return Err(FileError::Exists { path: path.to_owned() });
        }
        if !folder_of(path).is_dir() {
            return Err(FileError::NoFolder { path: folder_of(path).to_owned() });
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let io = |source| FileError::Io { path: partial.clone(), source };
        let mut options = OpenOptions::new();
        // Not what somebody else points to.
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
        let file = options.open(&partial).map_err(io)?;
        // What a crash has left is nobody's.
        if !takes(&file, &partial) {
            return Err(FileError::Busy { path: partial });
        }
        let emptied = file.set_permissions(Permissions::from_mode(0o600)).and_then(|()| file.set_len(0));
        emptied.map_err(io)?;
        let (path, check) = (path.to_owned(), Check::default());
        Ok(Self { path, partial, file, check, may_replace, is_finished: false })
    }

    /// Takes the next part of what a node answers.
    ///
    /// # Errors
    /// It is not what it should be, or cannot be written.
    pub fn push(&mut self, part: &[u8]) -> Result<(), FileError> {
        self.check.push(part).map_err(|reason| self.refused(reason))?;
        self.file.write_all(part).map_err(|source| self.failed(source))
    }

    /// Makes sure that it is whole, and gives it its name, durably.
    ///
    /// # Errors
    /// It is not, or the file cannot be flushed or renamed.
    pub fn finish(mut self) -> Result<Header, FileError> {
        let header = std::mem::take(&mut self.check).finish().map_err(|reason| self.refused(reason))?;
        self.file.sync_all().map_err(|source| self.failed(source))?;
        if !self.may_replace && self.path.symlink_metadata().is_ok() {
            return Err(FileError::Exists { path: self.path.clone() });
        }
        fs::rename(&self.partial, &self.path).map_err(|source| self.failed(source))?;
        self.is_finished = true;
        let folder = folder_of(&self.path);
        sync_dir(folder).map_err(|source| FileError::Io { path: folder.to_owned(), source })?;
        Ok(header)
    }

    fn refused(&self, reason: FormatError) -> FileError {
        FileError::Format { path: self.path.clone(), reason }
    }

    fn failed(&self, source: io::Error) -> FileError {
        FileError::Io { path: self.partial.clone(), source }
    }
}

impl Drop for NewBackup {
    fn drop(&mut self) {
        if !self.is_finished {
            // What cannot be removed is taken over by the next one.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// A backup that is open to be read, once; its first line is known.
#[derive(Debug)]
pub struct OldBackup {
    path: PathBuf,
    file: File,
    check: Check,
    /// What has come along with the first line.
    begun: Vec<u8>,
}

impl OldBackup {
    /// Opens the backup at `path` and reads its first line.
    ///
    /// # Errors
    /// It cannot be read, is none, or is of a later version.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let file = File::open(path).map_err(|source| FileError::Io { path: path.to_owned(), source })?;
        let mut old = Self { path: path.to_owned(), file, check: Check::default(), begun: Vec::new() };
        let mut buffer = vec![0; BACKUP_READ_BYTES];
        while old.check.header().is_none() {
            let count = old.file.read(&mut buffer).map_err(|source| old.failed(source))?;
            if count == 0 {
                let error = std::mem::take(&mut old.check).finish().expect_err("there is no first line");
                return Err(old.refused(error));
            }
            let rest = old.check.push(&buffer[..count]).map_err(|reason| old.refused(reason))?;
            old.begun = rest.to_vec();
        }
        Ok(old)
    }

    /// Copies the database in it to `target`, durably, and makes sure that both are what they should be. Then nothing is left to read.
    ///
    /// # Errors
    /// The backup is damaged or cannot be read, or `target` cannot be written.
    pub fn extract(mut self, target: &Path) -> Result<(Header, BackedUp), FileError> {
        let io = |source| FileError::Io { path: target.to_owned(), source };
        let mut options = OpenOptions::new();
        let mut database = options.write(true).create_new(true).mode(0o600).open(target).map_err(io)?;
        database.write_all(&self.begun).map_err(io)?;
        let mut buffer = vec![0; BACKUP_READ_BYTES];
        loop {
            let count = self.file.read(&mut buffer).map_err(|source| self.failed(source))?;
            if count == 0 {
                break;
            }
            let part = self.check.push(&buffer[..count]).map_err(|reason| self.refused(reason))?;
            database.write_all(part).map_err(io)?;
        }
        let header = std::mem::take(&mut self.check).finish().map_err(|reason| self.refused(reason))?;
        database.sync_all().map_err(io)?;
        let held = inspect_backup(target)
            .map_err(|source| FileError::Database { path: self.path.clone(), source })?;
        let Header { revision, term, keys, vaults, .. } = header;
        let is_so = (held.applied.index, *held.applied.leader_id) == (revision, term);
        if !is_so || held.tally != (Tally { keys, vaults }) {
            return Err(FileError::Contradiction { path: self.path });
        }
        Ok((header, held))
    }

    fn refused(&self, reason: FormatError) -> FileError {
        FileError::Format { path: self.path.clone(), reason }
    }

    fn failed(&self, source: io::Error) -> FileError {
        FileError::Io { path: self.path.clone(), source }
    }
}

/// Checks every byte of the backup at `path`, and its database by a copy in the folder `scratch`, which needs as much room.
///
/// # Errors
/// It is damaged, of a later version, or cannot be read or copied.
pub fn inspect(path: &Path, scratch: &Path) -> Result<Header, FileError> {
    let old = OldBackup::open(path)?;
    let copy = Scratch(scratch.join(format!("aspen-backup-{:016x}.sqlite", rand::random::<u64>())));
    old.extract(&copy.0).map(|(header, _)| header)
}

/// A file that goes when this does.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn bytes() -> Vec<u8> {
        let header = Header {
            format: super::super::FORMAT,
            cluster_id: None,
            node: NodeId(1),
            revision: 1,
            term: 1,
            made_unix_ms: 0,
            keys: 0,
            vaults: 0,
            bytes: 3,
            digest: blake3::hash(b"abc").to_hex().to_string(),
        };
        [&header.to_line()[..], b"abc"].concat()
    }

    #[test]
    fn file_has_its_name_only_when_it_is_whole_and_is_not_replaced_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let (path, partial) = (dir.path().join("b"), dir.path().join("b.partial"));
        let mut new = NewBackup::create(&path, false).unwrap();
        new.push(&bytes()[..50]).unwrap();
        let error = NewBackup::create(&path, false).unwrap_err();
        assert!(matches!(&error, FileError::Busy { path } if *path == partial), "{error}");
        let error = new.finish().unwrap_err().to_string();
        assert!(error.ends_with("b: its first line is damaged or cut off: use another backup"), "{error}");
        assert!(!path.exists() && !partial.exists());

        // What a crash has left does not stand in the way.
        fs::write(&partial, "left").unwrap();
        let mut new = NewBackup::create(&path, false).unwrap();
        new.push(&bytes()).unwrap();
        assert_eq!(new.finish().unwrap().bytes, 3);
        assert_eq!(fs::read(&path).unwrap(), bytes());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!partial.exists());

        let error = NewBackup::create(&path, false).unwrap_err().to_string();
        assert!(
            error.ends_with("b is there already: take another name, or --force to replace it"),
            "{error}"
        );
        assert!(NewBackup::create(&path, true).is_ok());
    }

    #[test]
    fn whole_file_without_a_database_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        fs::write(&path, bytes()).unwrap();
        let error = inspect(&path, dir.path()).unwrap_err();
        assert!(error.is_damage() && matches!(error, FileError::Database { .. }), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the copy is gone");
    }
}
