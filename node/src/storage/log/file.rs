//! How a redb database's file is opened, read and flushed.

use std::fs::OpenOptions;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{BackendError, Builder, Database, DatabaseError, StorageBackend};

use crate::limits::LOG_PAGES_BYTES_MAX;
use crate::plant::Plant;
use crate::storage::unflushed;

/// With little memory: after a crash all pages of a log are read when it is opened, and only so many of them are held.
pub(crate) fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(LOG_PAGES_BYTES_MAX);
    builder
}

/// Opens the log at `path`, or makes it.
pub(super) fn open_log(path: &Path) -> Result<Database, DatabaseError> {
    open_file(path, Plant::AckBeforeFsync.is_on())
}

/// Opens another database at `path`, or makes it.
pub(crate) fn open(path: &Path) -> Result<Database, DatabaseError> {
    open_file(path, false)
}

fn open_file(path: &Path, forgets: bool) -> Result<Database, DatabaseError> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = opened.map_err(|error| DatabaseError::Storage(error.into()))?;
    builder().create_with_backend(StoreFile { file: FileBackend::new(file)?, path: path.to_owned(), forgets })
}

/// A file whose failed flushes are taken down.
#[derive(Debug)]
struct StoreFile {
    file: FileBackend,
    path: PathBuf,
    /// A planted bug: nothing is flushed.
    forgets: bool,
}

impl StorageBackend for StoreFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.forgets {
            return Ok(());
        }
        // A write that finds no room can be made again. A flush that does not has lost what was written: the system forgets that it is
        // not on the disk.
        self.file.sync_data().map_err(|error| {
            unflushed::note(&self.path);
            io::Error::other(format!("a flush has failed: {error}"))
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    // By these redb keeps others out.

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// `/dev/full` has no room, and is no file that could be flushed.
    #[test]
    fn failed_flush_is_no_lack_of_room() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::options().read(true).write(true).open("/dev/full").unwrap();
        let backend = StoreFile {
            file: FileBackend::new(file).unwrap(),
            path: dir.path().join("log.redb"),
            forgets: false,
        };
        assert_eq!(backend.write(0, b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(!dir.path().join(unflushed::FILE).exists());
        assert_eq!(backend.sync_data().unwrap_err().kind(), io::ErrorKind::Other);
        assert!(dir.path().join(unflushed::FILE).exists());
    }
}
