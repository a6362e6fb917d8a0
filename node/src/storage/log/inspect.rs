//! Looks at the log of a stopped node without changing a byte of it.

mod untouched;

use std::fs::File;
use std::path::Path;

use redb::{Database, ReadableDatabase};

pub(crate) use self::untouched::Untouched;
use super::super::entry::{decode_command, decode_entry};
use super::{ENTRIES, StorageError, file, load, redb_error, stored_format, unbroken};
use crate::types::raft_types::{LogId, Vote};

/// What a log holds, and what is wrong with it.
#[derive(Debug)]
pub struct LogReport {
    /// Whose it is.
    pub node: u64,
    /// The vote.
    pub vote: Option<Vote>,
    /// The last entry that was cut off.
    pub purged: Option<LogId>,
    /// The last entry that was known to be committed.
    pub committed: Option<LogId>,
    /// The last entry.
    pub last: Option<LogId>,
    /// How many entries there are.
    pub count: u64,
    /// The first entry of each term that any of them has.
    terms: Vec<LogId>,
    /// What is wrong, in words.
    pub faults: Vec<String>,
}

impl LogReport {
    /// The entry at an index, if there is one, or if it was the last that was cut off.
    pub fn id_at(&self, index: u64) -> Option<LogId> {
        if let Some(purged) = self.purged.filter(|purged| purged.index == index) {
            return Some(purged);
        }
        self.last.filter(|last| index <= last.index)?;
        let first = self.terms.iter().rfind(|first| first.index <= index)?;
        Some(LogId::new(first.leader_id, index))
    }
}

/// Reads the log at `path`, every entry of it.
///
/// # Errors
/// A node has it open, it is of a later format, or it cannot be read at all.
pub fn inspect(path: &Path) -> Result<LogReport, StorageError> {
    unbroken(path, || read(path))
}

fn read(path: &Path) -> Result<LogReport, StorageError> {
    let io = |source| StorageError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    if file.try_lock_shared().is_err() {
        return Err(StorageError::InUse { path: path.to_owned() });
    }
    // A node that was killed leaves a file that redb repairs when it opens it: here the repair stays in memory.
    let backend = Untouched::new(file).map_err(io)?;
    let opened = file::builder().create_with_backend(backend);
    let db = opened.map_err(|error| redb_error(path, error))?;
    let Some((_, node)) = stored_format(path, &db)? else {
        return Err(StorageError::Corrupt { path: path.to_owned(), what: "the format".to_owned() });
    };
    let loaded = load(path, &db)?;
    let mut report = LogReport {
        node,
        vote: loaded.vote,
        purged: loaded.purged,
        committed: loaded.committed,
        last: loaded.last,
        count: 0,
        terms: Vec::new(),
        faults: Vec::new(),
    };
    entries(&db, &mut report).map_err(|error| redb_error(path, error))?;
    Ok(report)
}

/// Walks over every entry behind what was cut off.
fn entries(db: &Database, report: &mut LogReport) -> Result<(), redb::Error> {
    let table = db.begin_read()?.open_table(ENTRIES)?;
    let mut before = report.purged;
    let mut expected = before.map_or(0, |purged| purged.index + 1);
    for row in table.range(expected..)? {
        let (index, bytes) = row?;
        let index = index.value();
        report.count += 1;
        if index != expected {
            report.faults.push(format!("entries {expected} to {} are missing", index - 1));
        }
        expected = index + 1;
        let decoded = decode_entry(bytes.value());
        let Ok(entry) = decoded.and_then(|entry| decode_command(&entry).map(|_| entry)) else {
            report.faults.push(format!("entry {index} does not decode"));
            continue;
        };
        let log_id = entry.log_id;
        if log_id.index != index {
            report.faults.push(format!("entry {index} says of itself that it is entry {}", log_id.index));
        }
        if let Some(before) = before.filter(|before| log_id.leader_id < before.leader_id) {
            report.faults.push(format!(
                "the term falls from {} to {} at entry {index}",
                *before.leader_id, *log_id.leader_id
            ));
        }
        if report.terms.last().is_none_or(|first| first.leader_id != log_id.leader_id) {
            report.terms.push(log_id);
        }
        before = Some(log_id);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use openraft::storage::RaftLogStorageExt;
    use openraft::testing::blank_ent;

    use super::super::super::Execution;
    use super::super::RedbLogStore;
    use super::*;
    use crate::types::{NodeId, TypeConfig};

    #[tokio::test]
    async fn missing_entries_are_named_and_a_node_does_not_start_without_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.redb");
        let mut log = RedbLogStore::open(&path, NodeId(1), Execution::Thread).unwrap();
        let entries = (0..10).map(|index| blank_ent::<TypeConfig>(1, NodeId(1), index));
        log.blocking_append(entries).await.unwrap();
        log.close();
        drop(log);
        let db = Database::open(&path).unwrap();
        let txn = db.begin_write().unwrap();
        txn.open_table(ENTRIES).unwrap().retain_in(3..=5, |_, _| false).unwrap();
        txn.commit().unwrap();
        drop(db);
        let report = inspect(&path).unwrap();
        assert_eq!(report.faults, ["entries 3 to 5 are missing"]);
        let terms = [0, 9, 10].map(|index| report.id_at(index).map(|id| *id.leader_id));
        assert_eq!(terms, [Some(1), Some(1), None]);
        let error = RedbLogStore::open(&path, NodeId(1), Execution::Thread).unwrap_err().to_string();
        assert!(error.contains("the row of entries, which has a hole, does not decode"), "{error}");
    }

    #[tokio::test]
    async fn first_entries_are_missed_and_so_are_those_behind_one_that_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.redb");
        let mut log = RedbLogStore::open(&path, NodeId(1), Execution::Thread).unwrap();
        let entries = (0..10).map(|index| blank_ent::<TypeConfig>(9 - index, NodeId(1), index));
        log.blocking_append(entries).await.unwrap();
        log.close();
        drop(log);
        let db = Database::open(&path).unwrap();
        let txn = db.begin_write().unwrap();
        {
            let mut table = txn.open_table(ENTRIES).unwrap();
            table.retain_in(0..2, |_, _| false).unwrap();
            table.insert(8, [0xff; 3].as_slice()).unwrap();
            table.retain_in(3..8, |_, _| false).unwrap();
        }
        txn.commit().unwrap();
        drop(db);
        let want = [
            "entries 0 to 1 are missing",
            "entries 3 to 7 are missing",
            "entry 8 does not decode",
            "the term falls from 7 to 0 at entry 9",
        ];
        assert_eq!(inspect(&path).unwrap().faults, want);
        let error = RedbLogStore::open(&path, NodeId(1), Execution::Thread).unwrap_err().to_string();
        assert!(error.contains("the row of entries, which has a hole, does not decode"), "{error}");
    }
}
