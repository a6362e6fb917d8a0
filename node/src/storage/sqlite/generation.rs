//! Which database holds the state: each snapshot that is installed begins a new one.
//!
//! `state.sqlite` is the first, `state-1.sqlite` the next. A database appears under its name only when it is complete,
//! and the highest number counts; a journal left behind by another one can never be taken for its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::super::snapshot::{SnapshotFile, remove_if_there, sync_dir};
use super::StorageError;

/// One database of a data directory.
#[derive(Debug, Clone)]
pub(super) struct Generation {
    dir: PathBuf,
    number: u64,
}

impl Generation {
    /// The one that counts, or the first, which need not be there yet. Others are removed.
    pub(super) fn find(dir: &Path) -> Result<Self, StorageError> {
        let generation = Self::newest(dir)?;
        generation.remove_others()?;
        Ok(generation)
    }

    /// The one that counts, or the first, which need not be there.
    pub(super) fn newest(dir: &Path) -> Result<Self, StorageError> {
        let io = |source| StorageError::Io { path: dir.to_owned(), source };
        let numbers = names(dir).map_err(io)?;
        let complete = numbers.iter().filter(|(_, rest, _)| rest.is_empty());
        let number = complete.map(|(number, ..)| *number).max().unwrap_or(0);
        Ok(Self { dir: dir.to_owned(), number })
    }

    /// The one after it.
    pub(super) fn next(&self) -> Self {
        Self { dir: self.dir.clone(), number: self.number + 1 }
    }

    /// Its database.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(match self.number {
            0 => "state.sqlite".to_owned(),
            number => format!("state-{number}.sqlite"),
        })
    }

    /// Copies a snapshot to where its database is prepared.
    pub(super) fn prepare(&self, snapshot: &SnapshotFile) -> io::Result<PathBuf> {
        let unfinished = self.path().with_extension("sqlite-new");
        remove_if_there(&unfinished)?;
        // Half a copy only takes room.
        snapshot.copy_to(&unfinished).inspect_err(|_| drop(remove_if_there(&unfinished)))?;
        Ok(unfinished)
    }

    /// Makes the prepared database the one that counts, at once or not at all.
    pub(super) fn enter(&self, unfinished: &Path) -> io::Result<()> {
        fs::rename(unfinished, self.path())?;
        sync_dir(&self.dir)
    }

    /// Removes every other one with its journal.
    pub(super) fn remove_others(&self) -> Result<(), StorageError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| StorageError::Io { path, source }
        };
        for (number, rest, path) in names(&self.dir).map_err(io(&self.dir))? {
            if number != self.number || rest == "-new" {
                remove_if_there(&path).map_err(io(&path))?;
            }
        }
        Ok(())
    }
}

/// Every file of a state: its number, what stands behind `.sqlite`, and where it is.
fn names(dir: &Path) -> io::Result<Vec<(u64, String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(parse);
        if let Some((number, rest)) = name {
            found.push((number, rest, path));
        }
    }
    Ok(found)
}

/// Whether a file of this name is one of the state.
pub fn is_state_file(name: &str) -> bool {
    parse(name).is_some()
}

fn parse(name: &str) -> Option<(u64, String)> {
    let (number, rest) = name.strip_prefix("state")?.split_once(".sqlite")?;
    let number = if number.is_empty() { 0 } else { number.strip_prefix('-')?.parse().ok()? };
    Some((number, rest.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highest_complete_database_counts_and_the_others_go() {
        let dir = tempfile::tempdir().unwrap();
        let touch = |name: &str| fs::write(dir.path().join(name), b"x").unwrap();
        let present = || {
            let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(Generation::find(dir.path()).unwrap().path(), dir.path().join("state.sqlite"));
        for name in
            ["state.sqlite", "state.sqlite-wal", "state-9.sqlite", "state-10.sqlite", "state-10.sqlite-shm"]
        {
            touch(name);
        }
        // Killed while the next one was made, and while older ones were removed.
        for name in ["state-11.sqlite-new", "state-8.sqlite-wal", "statement", "log.redb"] {
            touch(name);
        }
        let found = Generation::find(dir.path()).unwrap();
        assert_eq!(found.path(), dir.path().join("state-10.sqlite"));
        assert_eq!(present(), ["log.redb", "state-10.sqlite", "state-10.sqlite-shm", "statement"]);
    }
}
