//! What the files of a data directory say of each other, the same for `aspen-node validate` and for a start.

use openraft::vote::RaftLeaderId;

use super::super::StorageError;
use super::super::log::{LogReport, RedbLogStore};
use super::super::sqlite::SqliteStateMachine;
use crate::types::raft_types::{LogId, Vote};

/// Where log, state and snapshot of a node begin and end.
#[derive(Debug, Clone, Default)]
pub(super) struct Ends {
    pub(super) vote: Option<Vote>,
    /// The last entry that was cut off.
    pub(super) purged: Option<LogId>,
    /// The last entry that was known to be committed.
    pub(super) committed: Option<LogId>,
    /// The last entry of the log.
    pub(super) last: Option<LogId>,
    /// The last entry of the state.
    pub(super) applied: Option<LogId>,
    /// The last entry of the snapshot.
    pub(super) snapshot: Option<LogId>,
    /// What the log has in the place of `applied`, if anything.
    pub(super) at_applied: Option<LogId>,
    /// What the log has in the place of `snapshot`, if anything.
    pub(super) at_snapshot: Option<LogId>,
}

impl Ends {
    pub(super) fn of(log: &LogReport, applied: Option<LogId>, snapshot: Option<LogId>) -> Self {
        let at = |id: Option<LogId>| id.and_then(|id| log.id_at(id.index));
        Self {
            vote: log.vote,
            purged: log.purged,
            committed: log.committed,
            last: log.last,
            applied,
            snapshot,
            at_applied: at(applied),
            at_snapshot: at(snapshot),
        }
    }

    pub(super) fn at_start(log: &RedbLogStore, state: &SqliteStateMachine) -> Result<Self, StorageError> {
        let io = |source| StorageError::Io { path: log.path().to_owned(), source };
        let at = |id: Option<LogId>| id.map_or(Ok(None), |id| log.id_at(id.index)).map_err(io);
        let applied = state.applied();
        let snapshot = state.snapshots().current().and_then(|current| current.meta().last_log_id);
        let (purged, last) = log.ends();
        Ok(Self {
            vote: log.durable_vote(),
            purged,
            committed: log.committed(),
            last,
            applied,
            snapshot,
            at_applied: at(applied)?,
            at_snapshot: at(snapshot)?,
        })
    }

    fn voted_term(&self) -> u64 {
        self.vote.map_or(0, |vote| vote.leader_id.term())
    }

    /// What is wrong with the vote: no entry comes from a leader that this node has not heard of.
    pub(super) fn vote_fault(&self) -> Option<String> {
        let end = self.end()?;
        // Who founds a cluster has an entry of term 0 before there is a vote.
        (self.voted_term() < *end.leader_id)
            .then(|| format!("the vote is behind the log, which ends with {}", shown(Some(end))))
    }

    /// What else is wrong.
    pub(super) fn faults(&self) -> Vec<String> {
        let Self { purged, committed, applied, snapshot, .. } = *self;
        let end = self.end();
        let mut faults = Vec::new();
        if committed > end {
            faults.push(format!("{} was committed, the log ends with {}", shown(committed), shown(end)));
        }
        // A snapshot that was just installed may be ahead of a log that is not cut yet; nothing else may.
        if applied > end && applied > snapshot {
            faults.push(format!("{} was applied, the log ends with {}", shown(applied), shown(end)));
        }
        // A snapshot that has come and is not installed yet will be, at the next start.
        let covered = applied.max(snapshot);
        if purged > covered {
            faults.push(format!(
                "the log is cut behind {}, the state ends with {}",
                shown(purged),
                shown(covered)
            ));
        }
        // Until a start has cut the log, a snapshot is right where the log has a conflict, and so is the state that it was installed as.
        let is_right = |own: Option<LogId>| own == snapshot && self.conflict().is_some();
        let other = |own: Option<LogId>, at: Option<LogId>| {
            at.filter(|at| own.is_some_and(|own| own != *at) && !is_right(own))
        };
        if let Some(found) = other(applied, self.at_applied) {
            faults.push(format!("{} was applied, the log has {} there", shown(applied), shown(Some(found))));
        }
        if let Some(found) = other(snapshot, self.at_snapshot) {
            faults.push(format!(
                "the snapshot ends with {}, the log has {} there",
                shown(snapshot),
                shown(Some(found))
            ));
        }
        faults
    }

    /// The first entry to be cut off the log where a leader has sent a snapshot in the place of entries that were never committed: by
    /// its term, which this node has voted in, it is later than who made them, whatever the terms of what it has committed. Raft cuts
    /// them off before it installs the snapshot, and a node may have ended before that. What goes with them is in the snapshot.
    pub(super) fn conflict(&self) -> Option<u64> {
        let Self { purged, committed, applied, last, at_snapshot, .. } = *self;
        let (snapshot, last) = (self.snapshot?, last?);
        let overruled = match at_snapshot {
            Some(at) => (at != snapshot).then_some(at),
            None => (last.index < snapshot.index && last > snapshot).then_some(last),
        };
        let is_earlier = *overruled?.leader_id < self.voted_term();
        let known = committed.max(purged).map(|known| known.index);
        (is_earlier && known < Some(snapshot.index) && applied <= Some(snapshot))
            .then_some(known.map_or(0, |known| known + 1))
    }

    fn end(&self) -> Option<LogId> {
        self.last.max(self.purged)
    }
}

pub(super) fn shown(id: Option<LogId>) -> String {
    id.map_or_else(|| "nothing".to_owned(), |id| format!("entry {} of term {}", id.index, *id.leader_id))
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderIdExt;

    use super::*;
    use crate::types::{NodeId, TypeConfig};

    type LeaderId = <TypeConfig as openraft::RaftTypeConfig>::LeaderId;

    /// An entry, by term and index.
    fn id(term: u64, index: u64) -> LogId {
        LogId::new(LeaderId::new_committed(term, NodeId(1)), index)
    }

    /// The log from 10 to 49, of term 3 from 20 on; the state up to 39.
    fn sound() -> Ends {
        Ends {
            vote: Some(Vote::new_committed(3, NodeId(1))),
            purged: Some(id(1, 9)),
            committed: Some(id(3, 45)),
            last: Some(id(3, 49)),
            applied: Some(id(3, 39)),
            snapshot: Some(id(1, 15)),
            at_applied: Some(id(3, 39)),
            at_snapshot: Some(id(1, 15)),
        }
    }

    #[track_caller]
    fn check(ends: Ends, want: &[&str]) {
        let faults: Vec<String> = ends.vote_fault().into_iter().chain(ends.faults()).collect();
        assert_eq!(faults, want);
    }

    #[test]
    fn each_contradiction_is_named() {
        check(sound(), &[]);
        check(Ends::default(), &[]);
        let behind = "the vote is behind the log, which ends with entry 49 of term 3";
        check(Ends { vote: None, ..sound() }, &[behind]);
        check(Ends { vote: Some(Vote::new(2, NodeId(1))), ..sound() }, &[behind]);
        check(Ends { vote: Some(Vote::new(3, NodeId(2))), ..sound() }, &[]);
        check(
            Ends { committed: Some(id(3, 50)), ..sound() },
            &["entry 50 of term 3 was committed, the log ends with entry 49 of term 3"],
        );
        check(
            Ends { applied: Some(id(3, 50)), at_applied: None, ..sound() },
            &["entry 50 of term 3 was applied, the log ends with entry 49 of term 3"],
        );
        check(
            Ends { applied: Some(id(1, 8)), at_applied: None, snapshot: None, ..sound() },
            &["the log is cut behind entry 9 of term 1, the state ends with entry 8 of term 1"],
        );
        check(
            Ends { at_applied: Some(id(2, 39)), ..sound() },
            &["entry 39 of term 3 was applied, the log has entry 39 of term 2 there"],
        );
        let (applied, snapshot, at) = (Some(id(3, 39)), Some(id(3, 39)), Some(id(4, 39)));
        check(
            Ends {
                applied,
                snapshot,
                at_applied: at,
                at_snapshot: at,
                last: Some(id(4, 49)),
                vote: Some(Vote::new(4, NodeId(1))),
                ..sound()
            },
            &[
                "entry 39 of term 3 was applied, the log has entry 39 of term 4 there",
                "the snapshot ends with entry 39 of term 3, the log has entry 39 of term 4 there",
            ],
        );
        // What was committed is in no leader's way.
        check(
            Ends { snapshot: Some(id(4, 45)), at_snapshot: Some(id(3, 45)), ..sound() },
            &["the snapshot ends with entry 45 of term 4, the log has entry 45 of term 3 there"],
        );
        check(
            Ends { at_snapshot: Some(id(2, 15)), ..sound() },
            &["the snapshot ends with entry 15 of term 1, the log has entry 15 of term 2 there"],
        );
    }

    #[test]
    fn what_a_crash_leaves_is_none() {
        // A snapshot has come and is not installed yet, in the place of entries that nobody else has.
        let vote = Some(Vote::new(5, NodeId(1)));
        check(Ends { vote, snapshot: Some(id(4, 46)), at_snapshot: Some(id(3, 46)), ..sound() }, &[]);
        // Its last entry is of an earlier term than those that it overrules (Raft thesis, figure 3.7), or they end before it.
        let (snapshot, last) = (Some(id(3, 47)), Some(id(4, 49)));
        let overruled = Ends { vote, snapshot, last, at_snapshot: Some(id(4, 47)), ..sound() };
        assert_eq!(overruled.conflict(), Some(46));
        check(overruled, &[]);
        let shorter = Ends { vote, snapshot: Some(id(3, 60)), last, at_snapshot: None, ..sound() };
        assert_eq!(shorter.conflict(), Some(46));
        check(shorter, &[]);
        // It has founded a cluster, and nobody was elected yet.
        check(Ends { last: Some(id(0, 0)), ..Ends::default() }, &[]);
        let (snapshot, at) = (Some(id(4, 46)), Some(id(3, 46)));
        let installed =
            Ends { vote, snapshot, applied: snapshot, at_snapshot: at, at_applied: at, ..sound() };
        assert_eq!((installed.conflict(), sound().conflict()), (Some(46), None));
        check(installed, &[]);
        // It is installed, and the log is not cut yet.
        let (snapshot, applied) = (Some(id(3, 60)), Some(id(3, 60)));
        check(Ends { snapshot, applied, at_snapshot: None, at_applied: None, ..sound() }, &[]);
        // The state has gone back with the power, and the snapshot has what the log was cut by.
        let snapshot = Some(id(1, 9));
        check(Ends { snapshot, applied: None, at_snapshot: snapshot, at_applied: None, ..sound() }, &[]);
    }
}
