//! What is done about files of which a flush has failed.
//!
//! The system takes what was written for written then, and shows it, though the disk may never have had it; another flush finds
//! nothing to do and says that all is well (<https://wiki.postgresql.org/wiki/Fsync_Errors>). A node that meets that ends. One that
//! started again on the same files would build on what the next power cut takes away. So whoever meets a failed flush leaves a mark,
//! and a start that finds it writes everything once more and flushes that, before it looks at anything.
//!
//! The mark itself is not flushed. Where it is lost with the power, so is what the system only showed.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::StorageError;
use super::snapshot::{remove_if_there, sync_dir};
use crate::limits::REWRITE_BYTES;

/// The mark, in the data directory.
pub(crate) const FILE: &str = "flush-failed";

/// Takes down that a file in the data directory could not be flushed.
pub(crate) fn note(file: &Path) {
    let path = file.with_file_name(FILE);
    if let Err(error) = File::create(&path) {
        tracing::error!(%error, path = %path.display(), "a flush has failed, and the next start does not learn of it");
    }
}

/// Writes all files of a data directory once more and flushes them, if a flush of one has failed. Nobody may have them open. Returns
/// how many bytes that were. Where it is cut off, it is begun anew.
///
/// # Errors
/// They cannot be read, written or flushed.
pub(crate) fn mend(dir: &Path) -> Result<Option<u64>, StorageError> {
    let io = |path: &Path, source| StorageError::Io { path: path.to_owned(), source };
    let mark = dir.join(FILE);
    if !mark.try_exists().map_err(|source| io(&mark, source))? {
        return Ok(None);
    }
    let mut bytes = 0;
    for entry in fs::read_dir(dir).map_err(|source| io(dir, source))? {
        let path = entry.map_err(|source| io(dir, source))?.path();
        // SQLite makes its index of a journal anew; what snapshots are not flushed do not count.
        let is_index = path.extension().is_some_and(|end| end == OsStr::new("sqlite-shm"));
        if path.is_file() && !is_index && path != mark {
            bytes += rewrite(&path).map_err(|source| io(&path, source))?;
        }
    }
    sync_dir(dir).map_err(|source| io(dir, source))?;
    remove_if_there(&mark).map_err(|source| io(&mark, source))?;
    sync_dir(dir).map_err(|source| io(dir, source))?;
    tracing::warn!(bytes, "a flush has failed before: what was written was written once more");
    Ok(Some(bytes))
}

/// Writes what a file holds into its place, and flushes it.
fn rewrite(path: &Path) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut buffer = vec![0; REWRITE_BYTES as usize];
    let mut offset = 0;
    loop {
        let count = file.read_at(&mut buffer, offset)?;
        if count == 0 {
            break;
        }
        file.write_all_at(&buffer[..count], offset)?;
        offset += count as u64;
    }
    file.sync_all()?;
    Ok(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_once_more_where_a_flush_has_failed_and_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let contents = [vec![7; REWRITE_BYTES as usize + 3], vec![], b"journal".to_vec()];
        let names = ["log.redb", "state.sqlite", "state.sqlite-wal"];
        for (name, content) in names.iter().zip(&contents) {
            fs::write(dir.path().join(name), content).unwrap();
        }
        fs::create_dir(dir.path().join("snapshots")).unwrap();
        assert_eq!(mend(dir.path()).unwrap(), None);
        note(&dir.path().join("log.redb"));
        assert_eq!(mend(dir.path()).unwrap(), Some(u64::from(REWRITE_BYTES) + 10));
        for (name, content) in names.iter().zip(&contents) {
            assert_eq!(&fs::read(dir.path().join(name)).unwrap(), content);
        }
        assert_eq!(mend(dir.path()).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_written_once_more_leaves_the_mark() {
        let dir = tempfile::tempdir().unwrap();
        note(&dir.path().join("log.redb"));
        std::os::unix::fs::symlink("/proc/self/status", dir.path().join("log.redb")).unwrap();
        let error = mend(dir.path()).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot use {}", dir.path().join("log.redb").display()));
        assert!(dir.path().join(FILE).exists());
    }
}
