//! How far the log is durable, for those who must not run ahead of it.

use std::io;

use tokio::sync::watch;

/// What the log's writer says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Entries up to here are on disk.
    Upto(Option<u64>),
    /// The writer has failed or ended: nothing becomes durable any more.
    Ended,
}

/// Follows the last durable entry of a log.
#[derive(Debug, Clone)]
pub struct DurableLog(watch::Receiver<Mark>);

impl DurableLog {
    pub(super) fn new(marks: watch::Receiver<Mark>) -> Self {
        Self(marks)
    }

    /// Returns once the entry at `index` is on disk.
    ///
    /// # Errors
    /// The log has failed or is closed.
    pub async fn reached(&mut self, index: u64) -> io::Result<()> {
        let ended = || io::Error::other("the log takes no more entries");
        let enough = |mark: &Mark| match mark {
            Mark::Upto(last) => *last >= Some(index),
            Mark::Ended => true,
        };
        let mark = *self.0.wait_for(enough).await.map_err(|_| ended())?;
        if mark == Mark::Ended { Err(ended()) } else { Ok(()) }
    }
}
