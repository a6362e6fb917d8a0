//! AppendEntries as one ordered stream to a peer: requests go out without waiting for answers, which come back in the same
//! order.
//!
//! A request without entries only says how far the log is committed. It waits a moment: under load the next one has entries and
//! says that, too, and is sent in its stead. Its answer then answers both, which is no more than the peer has said: it was sent
//! later, and begins where the other one ended.

mod window;

use std::collections::VecDeque;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use irpc::channel::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use self::window::Window;
use super::pool::{Class, RaftConnectionPool, Slot};
use crate::limits::{
    APPEND_BYTES_AHEAD_MAX, APPEND_HOLD, APPEND_PATIENCE, APPEND_RATE_MIN, APPENDS_AHEAD_MAX,
};
use crate::network::rpc::StreamAppended;
use crate::network::{Appended, Peer, TransportError, millis};
use crate::storage::entry::entry_size;
use crate::types::raft_types::{AppendEntriesRequest, LogId};

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
    window: Window<Option<LogId>>,
    /// Until when the requests in the window may be answered, and how long that was when they were sent.
    deadlines: VecDeque<(Instant, Duration)>,
    /// A request without entries, and until when it waits for one with entries.
    held: Option<(AppendEntriesRequest, Instant)>,
    /// Whether any was sent.
    is_begun: bool,
}

impl<'a> AppendStream<'a> {
    /// A stream that is open, in this slot. `within` is the time of an answer to a heartbeat.
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
            within: within * APPEND_PATIENCE,
            requests: Some(requests),
            sender,
            answers: answers.boxed(),
            window: Window::default(),
            deadlines: VecDeque::new(),
            held: None,
            is_begun: false,
        }
    }

    /// The answers. After an error there are no more.
    pub(super) fn into_stream(self) -> BoxStream<'a, Appended> {
        let answers = futures::stream::unfold(Some(self), async |stream| {
            let mut stream = stream?;
            let answer = stream.next().await?;
            let is_last = !matches!(answer, Ok(Ok(_)));
            if let Err(error) = &answer {
                stream.pool.note(stream.to, Class::Raft, Err(error));
            }
            // Who refuses is there.
            if matches!(&answer, Err(error) if !matches!(error, TransportError::Refused { .. })) {
                stream.pool.forget(stream.to, &stream.slot);
            }
            Some((answer, (!is_last).then_some(stream)))
        });
        answers.boxed()
    }

    /// The next answer; sends what there is to send meanwhile.
    async fn next(&mut self) -> Option<Appended> {
        loop {
            if let Some(matching) = self.window.due() {
                return Some(Ok(Ok(matching)));
            }
            if self.requests.is_none() {
                if let Some((request, _)) = self.held.take() {
                    self.window.send_held();
                    if let Err(error) = self.send(request).await {
                        return Some(Err(error));
                    }
                    continue;
                }
                if self.window.count() == 0 {
                    return None;
                }
            }
            let has_room = self.window.count() < APPENDS_AHEAD_MAX as usize
                && self.window.bytes() < APPEND_BYTES_AHEAD_MAX;
            let late = self.deadlines.front().copied();
            let until = self.held.as_ref().map(|(_, until)| *until);
            let request = async {
                match &mut self.requests {
                    Some(requests) if has_room => requests.next().await,
                    _ => std::future::pending().await,
                }
            };
            // Each is a stream or a timer, so that nothing is lost where another is first.
            let sent = tokio::select! {
                answer = self.answers.next() => match self.answered(answer) {
                    None => Ok(()),
                    Some(last) => return Some(last),
                },
                request = request => self.take(request).await,
                () = at(until) => match self.held.take() {
                    None => Ok(()),
                    Some((request, _)) => {
                        self.window.send_held();
                        self.send(request).await
                    }
                },
                () = at(late.map(|(deadline, _)| deadline)) => Err(self.timed_out(late.map(|(_, limit)| limit))),
            };
            if let Err(error) = sent {
                return Some(Err(error));
            }
        }
    }

    /// Takes an answer in; what ends the stream.
    fn answered(&mut self, answer: Option<Result<StreamAppended, String>>) -> Option<Appended> {
        let peer = self.to.id;
        let sent = self.deadlines.pop_front();
        if let (Some((deadline, limit)), Some(Ok(Ok(_)))) = (sent, &answer) {
            let took = limit.saturating_sub(deadline.saturating_duration_since(Instant::now()));
            self.pool.note(self.to, Class::Raft, Ok(took));
        }
        match answer {
            None => Some(Err(TransportError::Lost { peer, reason: "it has ended the stream".to_owned() })),
            Some(Err(reason)) => Some(Err(TransportError::Lost { peer, reason })),
            Some(Ok(Err(reason))) => Some(Err(TransportError::Refused { peer, reason })),
            // openraft begins anew, and what was kept back is asked again.
            Some(Ok(Ok(Err(refused)))) => Some(Ok(Err(refused))),
            Some(Ok(Ok(Ok(matching)))) => {
                self.window.answered(matching);
                None
            }
        }
    }

    /// Sends a request, or holds it back.
    async fn take(&mut self, request: Option<AppendEntriesRequest>) -> Result<(), TransportError> {
        let Some(request) = request else {
            self.requests = None;
            return Ok(());
        };
        let before = self.held.take();
        // The first one finds out where the peer is.
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        let empty_at = request.entries.is_empty().then_some(request.prev_log_id);
        if let Some(end) = empty_at.filter(|_| !is_first) {
            let until = before.map_or_else(|| Instant::now() + APPEND_HOLD, |(_, until)| until);
            self.window.hold(end);
            self.held = Some((request, until));
            return Ok(());
        }
        self.window.send(empty_at, request.entries.iter().map(entry_size).sum());
        self.send(request).await
    }

    /// Sends what is in the window already.
    async fn send(&mut self, request: AppendEntriesRequest) -> Result<(), TransportError> {
        // A slow link is given the time that it needs.
        let limit = self.within + Duration::from_millis(self.window.bytes() * 1_000 / APPEND_RATE_MIN);
        let deadline = Instant::now() + limit;
        self.deadlines.push_back((deadline, limit));
        match timeout_at(deadline, self.sender.send(request)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(TransportError::Lost { peer: self.to.id, reason: error.to_string() }),
            Err(_) => Err(self.timed_out(Some(limit))),
        }
    }

    fn timed_out(&self, limit: Option<Duration>) -> TransportError {
        TransportError::Timeout { peer: self.to.id, within_ms: millis(limit.unwrap_or(self.within)) }
    }
}

/// Waits until then, or for ever.
async fn at(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => std::future::pending().await,
    }
}
