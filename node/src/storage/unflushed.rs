//! What is done about files of which a flush has failed.
//!
//! The system takes what was written for written then, and shows it, though the disk may never have had it; another flush finds
//! nothing to do and says that all is well (<https://wiki.postgresql.org/wiki/Fsync_Errors>). A store that meets that takes nothing
//! more. A node that started again on the same files would build on what the next power cut takes away. So whoever meets a failed
//! flush leaves a mark, and a start that finds it writes the stores once more and flushes that, before it looks at anything.
//!
//! The mark itself is not flushed. Where it is lost with the power, so is what the system only showed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::StorageError;
use super::snapshot::{remove_if_there, sync_dir};
use super::sqlite::is_state_file;
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

/// Whether a flush of a file in the directory has failed, and nothing was done about that yet.
pub(crate) fn is_noted(dir: &Path) -> bool {
    dir.join(FILE).exists()
}

/// Writes the stores of a data directory once more and flushes them, if a flush of one has failed. `databases` are those that are
/// locked by whoever has them open, by name. Returns how many bytes that were, or nothing where there was nothing to do or `gives_up`
/// was set meanwhile. Where it is cut off, it is begun anew.
///
/// # Errors
/// A node has them open, or they cannot be read, written or flushed.
pub(crate) fn mend(
    dir: &Path,
    databases: &[&str],
    gives_up: &AtomicBool,
) -> Result<Option<u64>, StorageError> {
    let io = |path: &Path, source| StorageError::Io { path: path.to_owned(), source };
    if !is_noted(dir) {
        return Ok(None);
    }
    let mut locked = Vec::new();
    for path in databases.iter().map(|name| dir.join(name)).filter(|path| path.exists()) {
        let file = File::open(&path).map_err(|source| io(&path, source))?;
        file.try_lock().map_err(|_| StorageError::InUse { path: path.clone() })?;
        locked.push(file);
    }
    let mut bytes = 0;
    for entry in fs::read_dir(dir).map_err(|source| io(dir, source))? {
        let entry = entry.map_err(|source| io(dir, source))?;
        let (path, name) = (entry.path(), entry.file_name());
        if !name.to_str().is_some_and(|name| databases.contains(&name) || counts(name)) {
            continue;
        }
        match rewrite(&path, gives_up).map_err(|source| io(&path, source))? {
            Some(written) => bytes += written,
            None => return Ok(None),
        }
    }
    let mark = dir.join(FILE);
    sync_dir(dir).map_err(|source| io(dir, source))?;
    remove_if_there(&mark).map_err(|source| io(&mark, source))?;
    sync_dir(dir).map_err(|source| io(dir, source))?;
    tracing::warn!(bytes, "a flush has failed before: what was written was written once more");
    Ok(Some(bytes))
}

/// Whether a file is one of the state: SQLite makes its index of the journal anew, and a database that is being prepared is begun anew.
fn counts(name: &str) -> bool {
    is_state_file(name) && !name.ends_with("-shm") && !name.ends_with("-new")
}

/// Writes what a file holds into its place, and flushes it; nothing is flushed where that is given up. Returns its length.
fn rewrite(path: &Path, gives_up: &AtomicBool) -> io::Result<Option<u64>> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut buffer = vec![0; REWRITE_BYTES as usize];
    let mut offset = 0;
    while !gives_up.load(Ordering::Relaxed) {
        let count = file.read_at(&mut buffer, offset)?;
        if count == 0 {
            file.sync_all()?;
            return Ok(Some(offset));
        }
        file.write_all_at(&buffer[..count], offset)?;
        offset += count as u64;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATABASES: [&str; 2] = ["log.redb", "cluster.redb"];

    fn mended(dir: &Path) -> Result<Option<u64>, StorageError> {
        mend(dir, &DATABASES, &AtomicBool::new(false))
    }

    #[test]
    fn stores_are_written_once_more_where_a_flush_has_failed_and_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let contents = [vec![7; REWRITE_BYTES as usize + 3], vec![], b"journal".to_vec()];
        let names = ["log.redb", "state.sqlite", "state.sqlite-wal"];
        for (name, content) in names.iter().zip(&contents) {
            fs::write(dir.path().join(name), content).unwrap();
        }
        // What is none of the node's, and cannot be written.
        std::os::unix::fs::symlink("/proc/self/status", dir.path().join("tls.key")).unwrap();
        assert_eq!(mended(dir.path()).unwrap(), None);
        note(&dir.path().join("log.redb"));
        assert_eq!(mend(dir.path(), &DATABASES, &AtomicBool::new(true)).unwrap(), None);
        assert_eq!(mended(dir.path()).unwrap(), Some(u64::from(REWRITE_BYTES) + 10));
        for (name, content) in names.iter().zip(&contents) {
            assert_eq!(&fs::read(dir.path().join(name)).unwrap(), content);
        }
        assert_eq!(mended(dir.path()).unwrap(), None);
    }

    #[test]
    fn what_is_in_use_or_cannot_be_written_once_more_leaves_the_mark() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.redb");
        note(&path);
        fs::write(&path, "log").unwrap();
        let log = File::open(&path).unwrap();
        log.try_lock().unwrap();
        let error = mended(dir.path()).unwrap_err().to_string();
        assert_eq!(error, format!("{} is in use by another process: stop that node first", path.display()));
        drop(log);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/proc/self/status", &path).unwrap();
        let error = mended(dir.path()).unwrap_err().to_string();
        assert_eq!(error, format!("cannot use {}", path.display()));
        assert!(is_noted(dir.path()));
    }
}
