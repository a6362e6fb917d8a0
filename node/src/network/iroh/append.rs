//! AppendEntries as one ordered stream to a peer: requests go out without waiting for answers, which come back in the same
//! order.
//!
//! A request without entries only says how far the log is committed. It waits a moment: under load the next one has entries and
//! says that, too, and is sent in its stead. Its answer then answers both, which is no more than the peer has said: it was sent
//! later, and begins where the other one ended.

use std::collections::VecDeque;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use irpc::channel::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::pool::{RaftConnectionPool, Slot, millis};
use crate::limits::{APPEND_BYTES_AHEAD_MAX, APPEND_HOLD, APPEND_RATE_MIN, APPENDS_AHEAD_MAX};
use crate::network::rpc::StreamAppended;
use crate::network::{Appended, Peer, TransportError};
use crate::storage::entry::entry_size;
use crate::types::raft_types::{AppendEntriesRequest, LogId, StreamAppendResult};

/// One stream, as the sender has it.
pub(super) struct AppendStream<'a> {
    pool: &'a RaftConnectionPool,
    to: &'a Peer,
    slot: Slot,
    /// How long an answer may take, besides what the bytes before it take.
    within: Duration,
    /// What is to be sent; `None` once it has ended.
    requests: Option<BoxStream<'static, AppendEntriesRequest>>,
    sender: mpsc::Sender<AppendEntriesRequest>,
    answers: BoxStream<'static, Result<StreamAppended, String>>,
    /// The requests that have no answer yet.
    ahead: VecDeque<Sent>,
    /// Whether any was sent.
    is_begun: bool,
    /// A request without entries, until when it waits for one with entries, and those before it in whose stead it is.
    held: Option<Held>,
    /// Answers that are due, besides the one that has come.
    due: VecDeque<StreamAppendResult>,
}

/// A request that has no answer yet.
struct Sent {
    deadline: Instant,
    bytes: u64,
    /// Where the requests end in whose stead it was sent.
    instead_of: Vec<Option<LogId>>,
}

/// A request without entries that waits.
struct Held {
    request: AppendEntriesRequest,
    until: Instant,
    /// Where the requests end in whose stead it is.
    instead_of: Vec<Option<LogId>>,
}

impl<'a> AppendStream<'a> {
    /// A stream that is open, in this slot. An answer may take as long as `within`, besides what the bytes before it take.
    pub(super) fn new(
        pool: &'a RaftConnectionPool,
        to: &'a Peer,
        slot: Slot,
        within: Duration,
        requests: BoxStream<'static, AppendEntriesRequest>,
        (sender, answers): (mpsc::Sender<AppendEntriesRequest>, mpsc::Receiver<StreamAppended>),
    ) -> Self {
        // As a stream: an answer that has come in part is not lost where something else is first.
        let answers = futures::stream::unfold(answers, async |mut answers| {
            let answer = answers.recv().await.map_err(|error| error.to_string()).transpose()?;
            Some((answer, answers))
        });
        Self {
            pool,
            to,
            slot,
            within,
            requests: Some(requests),
            sender,
            answers: answers.boxed(),
            ahead: VecDeque::new(),
            is_begun: false,
            held: None,
            due: VecDeque::new(),
        }
    }

    /// The answers. After an error there are no more.
    pub(super) fn into_stream(self) -> BoxStream<'a, Appended> {
        let answers = futures::stream::unfold(Some(self), async |stream| {
            let mut stream = stream?;
            let answer = stream.next().await?;
            let is_last = answer.is_err();
            if is_last {
                stream.pool.forget(stream.to, &stream.slot);
            }
            Some((answer, (!is_last).then_some(stream)))
        });
        answers.boxed()
    }

    /// The next answer; sends what there is to send meanwhile.
    async fn next(&mut self) -> Option<Appended> {
        loop {
            if let Some(answer) = self.due.pop_front() {
                return Some(Ok(answer));
            }
            let bytes_ahead: u64 = self.ahead.iter().map(|sent| sent.bytes).sum();
            let has_room =
                self.ahead.len() < APPENDS_AHEAD_MAX as usize && bytes_ahead < APPEND_BYTES_AHEAD_MAX;
            if self.requests.is_none() {
                if let Some(Held { request, instead_of, .. }) = self.held.take() {
                    if let Err(error) = self.send(request, instead_of, bytes_ahead).await {
                        return Some(Err(error));
                    }
                    continue;
                }
                if self.ahead.is_empty() {
                    return None;
                }
            }
            let deadline = self.ahead.front().map(|sent| sent.deadline);
            let until = self.held.as_ref().map(|held| held.until);
            let request = async {
                match &mut self.requests {
                    Some(requests) if has_room => requests.next().await,
                    _ => std::future::pending().await,
                }
            };
            // Each is a stream or a timer, so that nothing is lost where another is first.
            tokio::select! {
                answer = self.answers.next() => return Some(self.answered(answer)),
                request = request => match request {
                    None => self.requests = None,
                    Some(request) => if let Err(error) = self.take(request, bytes_ahead).await {
                        return Some(Err(error));
                    },
                },
                () = at(until) => if let Some(Held { request, instead_of, .. }) = self.held.take()
                    && let Err(error) = self.send(request, instead_of, bytes_ahead).await
                {
                    return Some(Err(error));
                },
                () = at(deadline) => return Some(Err(self.timed_out())),
            }
        }
    }

    /// Sends a request, or holds it back.
    async fn take(&mut self, request: AppendEntriesRequest, bytes_ahead: u64) -> Result<(), TransportError> {
        let (mut instead_of, mut until) = (Vec::new(), Instant::now() + APPEND_HOLD);
        if let Some(held) = self.held.take() {
            instead_of = held.instead_of;
            instead_of.push(held.request.prev_log_id);
            until = held.until;
        }
        // The first one finds out where the peer is.
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        if request.entries.is_empty() && !is_first {
            self.held = Some(Held { request, until, instead_of });
            return Ok(());
        }
        self.send(request, instead_of, bytes_ahead).await
    }

    fn answered(&mut self, answer: Option<Result<StreamAppended, String>>) -> Appended {
        let peer = self.to.id;
        let sent = self.ahead.pop_front();
        match answer {
            None => Err(TransportError::Lost { peer, reason: "it has ended the stream".to_owned() }),
            Some(Err(reason)) => Err(TransportError::Lost { peer, reason }),
            Some(Ok(Err(reason))) => Err(TransportError::Refused { peer, reason }),
            Some(Ok(Ok(Ok(matching)))) => {
                self.due.extend(sent.into_iter().flat_map(|sent| sent.instead_of).map(Ok));
                self.due.push_back(Ok(matching));
                Ok(self.due.pop_front().unwrap_or(Ok(matching)))
            }
            Some(Ok(Ok(refused))) => Ok(refused),
        }
    }

    async fn send(
        &mut self,
        request: AppendEntriesRequest,
        instead_of: Vec<Option<LogId>>,
        bytes_ahead: u64,
    ) -> Result<(), TransportError> {
        let bytes: u64 = request.entries.iter().map(entry_size).sum();
        // A slow link is given the time that it needs.
        let transfer = Duration::from_millis((bytes_ahead + bytes) * 1_000 / APPEND_RATE_MIN);
        let deadline = Instant::now() + self.within + transfer;
        let sent = timeout_at(deadline, self.sender.send(request)).await;
        self.ahead.push_back(Sent { deadline, bytes, instead_of });
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(TransportError::Lost { peer: self.to.id, reason: error.to_string() }),
            Err(_) => Err(self.timed_out()),
        }
    }

    fn timed_out(&self) -> TransportError {
        TransportError::Timeout { peer: self.to.id, within_ms: millis(self.within) }
    }
}

/// Waits until then, or for ever.
async fn at(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => std::future::pending().await,
    }
}
