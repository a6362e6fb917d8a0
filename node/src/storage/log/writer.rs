//! The thread that writes the log: many operations, one durable commit.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use openraft::storage::IOFlushed;
use redb::{Durability, ReadableTable};
use tokio::sync::oneshot;

use super::durable::Mark;
use super::{ENTRIES, META, Shared, lock};
use crate::limits::LOG_QUEUE_MAX;
use crate::types::TypeConfig;
use crate::types::raft_types::{LogId, Vote};

type Done = oneshot::Sender<io::Result<()>>;

/// One operation on the log, and whom to tell when it is durable.
pub(super) enum LogOp {
    Append { entries: Vec<(u64, Arc<[u8]>)>, done: IOFlushed<TypeConfig> },
    Vote { vote: Vote, done: Done },
    Truncate { after: Option<u64>, done: Done },
    Purge { upto: LogId, done: Done },
}

/// Owns all writes to one log.
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// The first error; after it nothing is written any more.
    tainted: Option<String>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, tainted: None }
    }

    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self, ops: &Receiver<LogOp>) {
        while let Ok(first) = ops.recv() {
            let mut batch = vec![first];
            batch.extend(ops.try_iter().take(LOG_QUEUE_MAX));
            self.step(batch);
        }
        self.shared.durable.send_replace(Mark::Ended);
    }

    /// Writes one batch durably and answers it, in order.
    fn step(&mut self, batch: Vec<LogOp>) {
        if self.tainted.is_none()
            && let Err(error) = self.commit(&batch)
        {
            tracing::error!(path = %self.shared.path.display(), %error, "the log failed, this node has to stop");
            self.tainted = Some(error.to_string());
            self.shared.durable.send_replace(Mark::Ended);
        }
        for op in batch {
            self.answer(op);
        }
    }

    fn commit(&self, batch: &[LogOp]) -> Result<(), redb::Error> {
        let mut txn = self.shared.db.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        {
            let mut entries = txn.open_table(ENTRIES)?;
            let mut meta = txn.open_table(META)?;
            for op in batch {
                match op {
                    LogOp::Append { entries: new, .. } => {
                        for (index, bytes) in new {
                            entries.insert(index, &**bytes)?;
                        }
                    }
                    LogOp::Vote { vote, .. } => {
                        meta.insert("vote", encode(vote).as_slice())?;
                    }
                    LogOp::Truncate { after, .. } => {
                        let first = after.map_or(0, |index| index + 1);
                        entries.retain_in(first.., |_, _| false)?;
                    }
                    LogOp::Purge { upto, .. } => {
                        // One transaction: a crash between the two would leave a hole.
                        entries.retain_in(..=upto.index, |_, _| false)?;
                        meta.insert("purged", encode(upto).as_slice())?;
                    }
                }
            }
            // Only as far as this very transaction holds the log: more may have been committed meanwhile, and a node
            // whose committed entries are missing could not start.
            let last = entries.last()?.map(|(index, _)| index.value());
            let committed = lock(&self.shared.cache).committed();
            if let Some(committed) = committed.filter(|committed| Some(committed.index) <= last) {
                meta.insert("committed", encode(&committed).as_slice())?;
            }
        }
        txn.commit()?;
        Ok(())
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
                if let (Ok(()), Some((index, _))) = (&result, entries.last()) {
                    lock(&self.shared.cache).flushed(*index);
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

fn encode(value: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("ids and votes always encode")
}
