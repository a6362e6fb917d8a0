//! `aspen-node validate`: reads the files of a stopped node, changes nothing in them, and says what is wrong.
//!
//! It looks at: every entry of the log, that it decodes, stands at its index, and follows the one before with no lower term;
//! that the vote is not behind the log; that the log was cut below a snapshot; that the state is no further than the log, and that
//! where it and the snapshot end the log has the same entry; SQLite's own check; and every byte of the snapshot.
//!
//! What the files say of each other costs next to nothing to compare, so a start does that, too, and cuts off the log
//! what a crash may have left there ([`prepare_start`]).

mod ends;

use std::fmt;
use std::io;
use std::path::Path;

use openraft::storage::RaftLogStorage;

use self::ends::{Ends, shown};
use super::log::{self, LOG_FILE, LogReport, RedbLogStore, inspect as inspect_log};
use super::snapshot::{SNAPSHOT_DIR, is_intact, newest_in};
use super::sqlite::{self, SqliteStateMachine, StateReport, inspect as inspect_state, inspect_snapshot};
use super::{RESTORING_FILE, StorageError, unflushed};
use crate::plant::Plant;
use crate::types::NodeId;
use crate::types::raft_types::LogId;

/// What to do about most of it.
const REJOIN: &str = "remove the node from its cluster, remove the data directory and rejoin as a new member";
/// What to do about a snapshot.
const REMOVE_SNAPSHOT: &str = "remove the file: the node makes a new snapshot of its state";

/// What to do about a directory that was to be made of a backup.
const RESTORE_AGAIN: &str = "run `aspen backup restore` again, it begins anew";

/// What was found in a data directory.
#[derive(Debug, Default)]
pub struct Report {
    /// Whose log it is, if there is one that can be read.
    pub node: Option<NodeId>,
    /// What there is, a line each.
    pub seen: Vec<String>,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

/// Something that is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub what: String,
    /// What to do.
    pub remedy: &'static str,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

/// Reads everything that the stopped node of this data directory has kept.
///
/// # Errors
/// The node runs, or its files are of a later version: that is no fault of theirs.
pub fn validate(data_dir: &Path) -> Result<Report, StorageError> {
    let mut report = Report::default();
    if data_dir.join(RESTORING_FILE).exists() {
        report.fault("the restore of this directory has not come to its end", RESTORE_AGAIN);
    }
    if unflushed::is_noted(data_dir) {
        report.seen.push("a flush has failed: the next start writes the stores once more".to_owned());
    }
    let log = report.log(&data_dir.join(LOG_FILE))?;
    let state = report.state(data_dir)?;
    let snapshot = report.snapshot(&data_dir.join(SNAPSHOT_DIR))?;
    if let Some(log) = &log {
        let ends = Ends::of(log, state.and_then(|state| state.applied), snapshot);
        for what in ends.vote_fault().into_iter().chain(ends.faults()) {
            report.fault(what, REJOIN);
        }
    }
    Ok(report)
}

/// Makes sure, of stores that are open and not used yet, that they belong together. It reads a few entries at most. What a snapshot has
/// come to stand in the place of is cut off the log: openraft takes it for damage.
///
/// # Errors
/// They do not, or the log cannot be read or written.
pub async fn prepare_start(log: &mut RedbLogStore, state: &SqliteStateMachine) -> Result<(), StorageError> {
    let mut ends = Ends::at_start(log, state)?;
    if let Some(index) = ends.conflict() {
        tracing::warn!(
            index,
            "a snapshot has come where the log has entries of its own, which are cut off from there"
        );
        cut_before(log, index)
            .await
            .map_err(|source| StorageError::Io { path: log.path().to_owned(), source })?;
        ends = Ends::at_start(log, state)?;
    }
    // Bugs that are planted are for the lab to notice: such a node goes on without the vote that it has lost, or where its log has lost
    // what its state has, or with a state that names another entry than it has applied.
    let vote = ends.vote_fault().filter(|_| !Plant::VoteNotPersisted.is_on());
    let is_planted = Plant::AckBeforeFsync.is_on() || Plant::ApplyTwiceAfterRestart.is_on();
    let others = if is_planted { Vec::new() } else { ends.faults() };
    let path = || log.path().parent().unwrap_or(log.path()).to_owned();
    let first = vote.into_iter().chain(others).next();
    first.map_or(Ok(()), |what| Err(StorageError::Contradiction { path: path(), what }))
}

async fn cut_before(log: &mut RedbLogStore, index: u64) -> io::Result<()> {
    let last = index.checked_sub(1).map_or(Ok(None), |before| log.id_at(before))?;
    log.truncate_after(last).await
}

/// An error that is a fault of the files, or the error.
fn fault_of<T>(result: Result<T, StorageError>) -> Result<Result<T, String>, StorageError> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error @ (StorageError::InUse { .. } | StorageError::Format { .. } | StorageError::Io { .. })) => {
            Err(error)
        }
        // SQLite says of the rest that it cannot be read now or here, and not that it is wrong: a disk that is read-only or full, or a
        // file that is somebody else's.
        Err(StorageError::Sqlite { source, path, lacks_room }) if !sqlite::is_damage(&source) => {
            Err(StorageError::Sqlite { source, path, lacks_room })
        }
        Err(StorageError::Redb { source, path }) if !log::is_damage(&source) => {
            Err(StorageError::Redb { source, path })
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(" ({cause})"));
            Ok(Err(format!("{error}{}", cause.unwrap_or_default())))
        }
    }
}

impl Report {
    fn fault(&mut self, what: impl Into<String>, remedy: &'static str) {
        self.faults.push(Fault { what: what.into(), remedy });
    }

    fn log(&mut self, path: &Path) -> Result<Option<LogReport>, StorageError> {
        if !path.exists() {
            self.seen.push("log: none".to_owned());
            return Ok(None);
        }
        match fault_of(inspect_log(path))? {
            Err(what) => {
                self.fault(what, REJOIN);
                Ok(None)
            }
            Ok(log) => {
                let purged = log
                    .purged
                    .map_or_else(String::new, |purged| format!(", cut behind {}", shown(Some(purged))));
                let (count, last) = (log.count, shown(log.last));
                self.node = Some(NodeId(log.node));
                self.seen
                    .push(format!("log of node {}: {count} entries, the last one {last}{purged}", log.node));
                for what in &log.faults {
                    self.fault(format!("{}: {what}", path.display()), REJOIN);
                }
                Ok(Some(log))
            }
        }
    }

    fn state(&mut self, data_dir: &Path) -> Result<Option<StateReport>, StorageError> {
        match fault_of(inspect_state(data_dir))? {
            Err(what) => {
                self.fault(what, REJOIN);
                Ok(None)
            }
            Ok(None) => {
                self.seen.push("state: none".to_owned());
                Ok(None)
            }
            Ok(Some(state)) => {
                self.seen.push(format!("state: applied up to {}", shown(state.applied)));
                for what in &state.faults {
                    self.fault(format!("{}: {what}", state.path.display()), REJOIN);
                }
                Ok(Some(state))
            }
        }
    }

    /// The last entry that the newest snapshot covers, if it is sound.
    fn snapshot(&mut self, dir: &Path) -> Result<Option<LogId>, StorageError> {
        let io = |source| StorageError::Io { path: dir.to_owned(), source };
        let Some(path) = newest_in(dir).map_err(io)? else {
            self.seen.push("snapshot: none".to_owned());
            return Ok(None);
        };
        if !is_intact(&path).map_err(io)? {
            self.fault(format!("{}: its bytes are not those of its digest", path.display()), REMOVE_SNAPSHOT);
            return Ok(None);
        }
        match fault_of(inspect_snapshot(&path))? {
            Err(what) => {
                self.fault(what, REMOVE_SNAPSHOT);
                Ok(None)
            }
            Ok(meta) => {
                self.seen.push(format!("snapshot: covers {}", shown(meta.last_log_id)));
                Ok(meta.last_log_id)
            }
        }
    }
}

#[cfg(test)]
mod tests;
