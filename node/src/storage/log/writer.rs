//! What writes the log: many operations, one durable commit.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use openraft::storage::IOFlushed;
use redb::{Durability, ReadableTable};
use tokio::sync::oneshot;

use super::super::entry::{encode, encode_entry};
use super::super::shell::{Next, Steps};
use super::durable::Mark;
use super::{ENTRIES, META, Shared, is_disk_full, lock};
use crate::failpoint::FailPoint;
use crate::limits::{COMMITTED_INTERVAL, LOG_QUEUE_MAX, PURGE_ROWS_MAX};
use crate::plant::Plant;
use crate::types::TypeConfig;
use crate::types::raft_types::{Entry, LogId, Vote};

type Done = oneshot::Sender<io::Result<()>>;

/// One operation on the log, and whom to tell when it is durable.
pub(super) enum LogOp {
    Append { entries: Vec<Entry>, done: IOFlushed<TypeConfig> },
    Vote { vote: Vote, done: Done },
    Truncate { after: Option<u64>, done: Done },
    Purge { upto: LogId, done: Done },
}

impl LogOp {
    /// Where a node can be made to die before and after it.
    fn fail_points(&self) -> (FailPoint, FailPoint) {
        match self {
            Self::Append { .. } => (FailPoint::AppendBefore, FailPoint::AppendAfter),
            Self::Vote { .. } => (FailPoint::VoteBefore, FailPoint::VoteAfter),
            Self::Truncate { .. } => (FailPoint::TruncateBefore, FailPoint::TruncateAfter),
            Self::Purge { .. } => (FailPoint::PurgeBefore, FailPoint::PurgeAfter),
        }
    }
}

/// Owns all writes to one log.
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// The first error; after it nothing is written any more.
    tainted: Option<String>,
    /// Rows up to here are purged, and those that are still there are removed bit by bit.
    purged: Option<u64>,
    /// When it was last looked whether there is another committed entry to write.
    committed_at: Option<Instant>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let purged = lock(&shared.cache).purged().map(|id| id.index);
        Self { shared, tainted: None, purged, committed_at: None }
    }

    /// Writes one batch durably and answers it, in order.
    fn write(&mut self, batch: Vec<LogOp>, now: Instant) {
        // Its row is one more page to write, unless another row of the same page is written anyway.
        let is_append = batch.iter().all(|op| matches!(op, LogOp::Append { .. })) && !batch.is_empty();
        let is_due =
            !is_append || self.committed_at.is_none_or(|at| now.duration_since(at) >= COMMITTED_INTERVAL);
        if is_due {
            self.committed_at = Some(now);
        }
        if self.tainted.is_none()
            && let Err(error) = self.commit_passing(&batch, is_due).map(|purged| self.purged = purged)
        {
            tracing::error!(path = %self.shared.path.display(), %error, "the log failed, this node has to stop");
            self.shared.is_full.store(is_disk_full(&error), Ordering::Relaxed);
            self.tainted = Some(error.to_string());
            self.shared.durable.send_replace(Mark::Ended);
        }
        for op in batch {
            self.answer(op);
        }
    }

    /// As [`Self::commit`], past the points at which a node can be made to die.
    fn commit_passing(&self, batch: &[LogOp], is_due: bool) -> Result<Option<u64>, redb::Error> {
        for op in batch {
            op.fail_points().0.pass();
        }
        let began = Instant::now();
        let purged = self.commit(batch, is_due)?;
        let entries =
            batch.iter().map(|op| if let LogOp::Append { entries, .. } = op { entries.len() } else { 0 });
        self.shared.metrics.note(began.elapsed(), entries.sum());
        for op in batch {
            op.fail_points().1.pass();
        }
        Ok(purged)
    }

    /// Writes a batch, and the last committed entry if that is due; up to where purged rows are left.
    fn commit(&self, batch: &[LogOp], is_due: bool) -> Result<Option<u64>, redb::Error> {
        let mut purged = self.purged;
        let mut txn = self.shared.db.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        {
            let mut entries = txn.open_table(ENTRIES)?;
            let mut meta = txn.open_table(META)?;
            for op in batch {
                match op {
                    LogOp::Append { entries: new, .. } => {
                        for entry in new {
                            entries.insert(entry.log_id.index, encode_entry(entry).as_slice())?;
                        }
                    }
                    LogOp::Vote { .. } if Plant::VoteNotPersisted.is_on() => {}
                    LogOp::Vote { vote, .. } => {
                        meta.insert("vote", encode(vote).as_slice())?;
                    }
                    LogOp::Truncate { after, .. } => {
                        let first = after.map_or(0, |index| index + 1);
                        entries.retain_in(first.., |_, _| false)?;
                    }
                    LogOp::Purge { upto, .. } => {
                        // From now on the rows do not count: they may go later, and a crash between the two leaves no hole.
                        meta.insert("purged", encode(upto).as_slice())?;
                        purged = purged.max(Some(upto.index));
                    }
                }
            }
            if let Some(upto) = purged {
                let first = entries.first()?.map(|(index, _)| index.value()).filter(|first| *first <= upto);
                let until = first.map(|first| first.saturating_add(PURGE_ROWS_MAX - 1).min(upto));
                if let (Some(first), Some(until)) = (first, until) {
                    entries.retain_in(first..=until, |_, _| false)?;
                }
                purged = purged.filter(|upto| until.is_some_and(|until| until < *upto));
            }
            // Only as far as this very transaction holds the log: more may have been committed meanwhile, and a node
            // whose committed entries are missing could not start.
            let last = entries.last()?.map(|(index, _)| index.value());
            let committed = lock(&self.shared.cache).committed().filter(|_| is_due);
            if let Some(committed) = committed.filter(|committed| Some(committed.index) <= last) {
                meta.insert("committed", encode(&committed).as_slice())?;
            }
        }
        txn.commit()?;
        Ok(purged)
    }

    /// Tells those who wait how far the log is durable now.
    fn publish(&self) {
        let durable = lock(&self.shared.cache).durable();
        self.shared.durable.send_replace(Mark::Upto(durable));
    }

    fn answer(&self, op: LogOp) {
        let result = match &self.tainted {
            None => Ok(()),
            Some(reason) => Err(io::Error::other(reason.clone())),
        };
        match op {
            LogOp::Append { entries, done } => {
                if let (Ok(()), Some(last)) = (&result, entries.last()) {
                    lock(&self.shared.cache).flushed(last.log_id.index);
                    self.publish();
                }
                done.io_completed(result);
            }
            LogOp::Vote { vote, done } => {
                if result.is_ok() {
                    lock(&self.shared.cache).set_vote(vote);
                }
                // A caller that has given up no longer needs the answer.
                let _ = done.send(result);
            }
            LogOp::Truncate { after, done } => {
                // After the appends before it, whose flush has just raised the mark.
                lock(&self.shared.cache).truncated(after);
                if result.is_ok() {
                    self.publish();
                }
                let _ = done.send(result);
            }
            LogOp::Purge { done, .. } => {
                let _ = done.send(result);
            }
        }
    }
}

impl Steps for Writer {
    type Op = LogOp;
    const OPS_MAX: usize = LOG_QUEUE_MAX + 1;

    fn step(&mut self, ops: Vec<LogOp>, now: Instant) -> Next {
        let is_left = |writer: &Self| writer.purged.is_some() && writer.tainted.is_none();
        if !ops.is_empty() || is_left(self) {
            self.write(ops, now);
        }
        // With nothing else to do it goes on with what is left of a purge.
        if is_left(self) { Next::GoOn } else { Next::Idle }
    }

    fn finish(&mut self, now: Instant) {
        // What was committed since.
        self.write(Vec::new(), now);
        self.shared.durable.send_replace(Mark::Ended);
    }
}
