//! `Plant::AckBeforeFsync`: a log that is written and never synced.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, StorageBackend};

#[derive(Debug)]
struct Unsynced(FileBackend);

/// Opens the log at `path`, or makes it, as `builder` says.
pub(super) fn create(path: &Path, builder: &Builder) -> Result<Database, DatabaseError> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = opened.map_err(|error| DatabaseError::Storage(error.into()))?;
    builder.create_with_backend(Unsynced(FileBackend::new(file)?))
}

impl StorageBackend for Unsynced {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}
