//! Follows changes from node to node: where one is lost, another goes on, and nothing is missed or told twice.

use std::collections::VecDeque;
use std::net::SocketAddr;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::{Instant, sleep};

use super::events::{EventAnswer, EventStream, ServerEvent};
use super::{ClientError, Credentials, HttpAnswer, HttpConnection};
use crate::api::{ClusterStatus, Consistency};
use crate::limits::{WATCH_RETRY, WATCH_RETRY_TIMEOUT};

/// What to follow, as `GET /kv/watch` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchQuery {
    /// Name and value of each parameter but `from_revision`.
    pub parameters: Vec<(&'static str, String)>,
    /// From this revision on; `None`: what happens from now on.
    pub from: Option<u64>,
    /// Whether it ends as soon as it has told what there is.
    pub ends: bool,
}

/// A watch of a cluster.
#[derive(Debug)]
pub struct WatchClient {
    /// The next one to ask first.
    nodes: VecDeque<SocketAddr>,
    credentials: Credentials,
    query: WatchQuery,
    open: Option<Box<EventStream>>,
    lost_since: Option<Instant>,
    /// Whether the node that was asked last has told anything.
    has_come_on: bool,
}

/// What there is to say of a watch.
#[derive(Debug)]
pub enum Watched {
    /// This node tells.
    By(SocketAddr),
    /// All changes of one revision, as JSON.
    Changed(String),
    /// There is no more: the watch was to end here.
    Ended,
    /// A node tells no more; another one is asked.
    Lost {
        /// The node.
        node: SocketAddr,
        /// Why.
        reason: String,
    },
}

/// Why a watch is over.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// A node refuses, and any other would.
    #[error("{}", .0.message())]
    Refused(HttpAnswer),
    /// No node tells, and none has for a while.
    #[error("no node can be asked:\n{}{}", .reasons.iter().map(|reason| format!("  {reason}")).collect::<Vec<_>>().join("\n"), goes_on(*.next))]
    Unreachable {
        /// Why, node by node.
        reasons: Vec<String>,
        /// The first revision that was not told, if anything was.
        next: Option<u64>,
    },
}

impl WatchClient {
    /// Follows changes by way of these nodes and, once one of them is reached, of the other members.
    pub fn new(nodes: Vec<SocketAddr>, credentials: Credentials, query: WatchQuery) -> Self {
        Self { nodes: nodes.into(), credentials, query, open: None, lost_since: None, has_come_on: true }
    }

    /// The first revision that was not told, as soon as that is known.
    pub fn next_revision(&self) -> Option<u64> {
        self.query.from
    }

    /// Waits for something to say.
    ///
    /// # Errors
    /// The watch is over.
    pub async fn next(&mut self) -> Result<Watched, WatchError> {
        loop {
            let Some(events) = &mut self.open else { return self.ask().await };
            let node = events.address();
            let event = events.next().await;
            match event {
                Ok(Some(event)) if event.event == "end" => {
                    let answer = HttpAnswer { status: 0, body: event.data.into() };
                    if is_said_by_all(&answer) {
                        return Err(WatchError::Refused(answer));
                    }
                    return Ok(self.lost(node, answer.message()));
                }
                Ok(Some(event)) => {
                    let from = next_after(&event).or(self.query.from);
                    self.has_come_on |= from != self.query.from;
                    self.query.from = from;
                    match event.event.as_str() {
                        "change" => return Ok(Watched::Changed(event.data)),
                        "progress" if self.query.ends => return Ok(Watched::Ended),
                        _ => {}
                    }
                }
                Ok(None) => return Ok(self.lost(node, format!("{node} has ended the watch"))),
                Err(error) => return Ok(self.lost(node, error.to_string())),
            }
        }
    }

    /// Asks node after node until one tells.
    async fn ask(&mut self) -> Result<Watched, WatchError> {
        // A node that is lost as soon as it is found is not asked without end.
        let mut waits = !std::mem::take(&mut self.has_come_on);
        loop {
            if waits {
                sleep(WATCH_RETRY).await;
            }
            let (mut reasons, mut refusals) = (Vec::new(), Vec::new());
            for node in self.nodes.clone() {
                match self.begin(node).await {
                    Ok(events) => {
                        self.open = Some(events);
                        return Ok(Watched::By(node));
                    }
                    Err(Unheard::Refused(answer)) if is_said_by_all(&answer) => {
                        return Err(WatchError::Refused(answer));
                    }
                    Err(Unheard::Refused(answer)) => {
                        reasons.push(format!("{node}: {}", answer.message()));
                        refusals.push(answer);
                    }
                    Err(Unheard::Lost(reason)) => reasons.push(reason),
                }
            }
            // Each holds something else, but none what is wanted.
            let is_gone = refusals.len() == self.nodes.len() && refusals.iter().all(is_gone);
            if let Some(answer) = refusals.pop().filter(|_| is_gone) {
                return Err(WatchError::Refused(answer));
            }
            // Who has never been told anything waits for nothing.
            if self.lost_since.is_none_or(|since| since.elapsed() >= WATCH_RETRY_TIMEOUT) {
                return Err(WatchError::Unreachable { reasons, next: self.query.from });
            }
            waits = true;
        }
    }

    /// Asks one node, and hears where it begins.
    async fn begin(&mut self, node: SocketAddr) -> Result<Box<EventStream>, Unheard> {
        let connection = HttpConnection::new(node).with_credentials(self.credentials.clone());
        let lost = |error: ClientError| Unheard::Lost(error.to_string());
        let mut events = match connection.events(&self.query.path()).await.map_err(lost)? {
            EventAnswer::Events(events) => events,
            EventAnswer::Other(answer) => return Err(Unheard::Refused(answer)),
        };
        match events.next().await.map_err(lost)? {
            Some(event) if event.event == "begin" => self.query.from = next_after(&event).or(self.query.from),
            _ => return Err(Unheard::Lost(format!("{node} did not begin to tell"))),
        }
        self.learn_members(connection).await;
        Ok(events)
    }

    fn lost(&mut self, node: SocketAddr, reason: String) -> Watched {
        self.open = None;
        if self.has_come_on || self.lost_since.is_none() {
            self.lost_since = Some(Instant::now());
        }
        // The others first.
        self.nodes.retain(|other| *other != node);
        self.nodes.push_back(node);
        Watched::Lost { node, reason }
    }

    /// Adds the members that nobody has named. Who cannot be asked is not missed.
    async fn learn_members(&mut self, mut connection: HttpConnection) {
        let answer: Result<HttpAnswer, ClientError> = connection.request("GET", "/cluster/status", "").await;
        let status =
            answer.ok().and_then(|answer| serde_json::from_slice::<ClusterStatus>(&answer.body).ok());
        for member in status.into_iter().flat_map(|status| status.members) {
            let node = self.credentials.way.learn_address(&member.info);
            if !self.nodes.contains(&node) {
                self.nodes.push_back(node);
            }
        }
    }
}

impl WatchQuery {
    /// What to follow, and how fresh its beginning is.
    pub fn new(consistency: Consistency) -> Self {
        let parameters = vec![("consistency", consistency.as_str().to_owned())];
        Self { parameters, from: None, ends: false }
    }

    /// Path and query of the request.
    pub fn path(&self) -> String {
        let from = self.from.map(|from| ("from_revision", from.to_string()));
        let parameters = self.parameters.iter().map(|(name, value)| (*name, value.as_str()));
        let follow = self.ends.then_some(("follow", "false"));
        let all = parameters.chain(follow).chain(from.as_ref().map(|(name, value)| (*name, value.as_str())));
        let encoded =
            all.map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
        format!("/kv/watch?{}", encoded.collect::<Vec<_>>().join("&"))
    }
}

/// From where on to ask after an event.
fn next_after(event: &ServerEvent) -> Option<u64> {
    event.id.parse::<u64>().ok().map(|seen| seen + 1)
}

/// Why a node tells nothing.
enum Unheard {
    Refused(HttpAnswer),
    Lost(String),
}

/// Whether every other node would refuse the same.
fn is_said_by_all(answer: &HttpAnswer) -> bool {
    matches!(answer.status, 400..=405) || matches!(answer.code().as_deref(), Some("malformed"))
}

/// Whether a node holds no longer what is wanted.
fn is_gone(answer: &HttpAnswer) -> bool {
    matches!(answer.code().as_deref(), Some("compacted" | "previous_not_noted"))
}

fn goes_on(next: Option<u64>) -> String {
    next.map_or(String::new(), |next| format!("\neverything before revision {next} was told"))
}
