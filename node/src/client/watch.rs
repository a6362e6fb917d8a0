//! Follows changes from node to node: where one is lost, another goes on, and nothing is missed or told twice.

use std::collections::VecDeque;
use std::net::SocketAddr;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value as Json;
use tokio::time::{Instant, sleep};

use super::events::{EventAnswer, EventStream, ServerEvent};
use super::{ClientError, HttpAnswer, HttpConnection};
use crate::api::{ClusterStatus, Consistency};
use crate::limits::{WATCH_RETRY, WATCH_RETRY_TIMEOUT};
use crate::private::BearerToken;

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
    token: Option<BearerToken>,
    query: WatchQuery,
    open: Option<Box<EventStream>>,
    lost_since: Option<Instant>,
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
    #[error("{}", message(.0))]
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
    pub fn new(nodes: Vec<SocketAddr>, token: Option<BearerToken>, query: WatchQuery) -> Self {
        Self { nodes: nodes.into(), token, query, open: None, lost_since: None }
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
                    if is_final(&answer) {
                        return Err(WatchError::Refused(answer));
                    }
                    return Ok(self.lost(node, message(&answer)));
                }
                Ok(Some(event)) => {
                    self.query.from = next_after(&event).or(self.query.from);
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
        loop {
            let mut reasons = Vec::new();
            for node in self.nodes.clone() {
                let connection = HttpConnection::new(node).with_token(self.token.clone());
                match connection.events(&self.query.path()).await {
                    Ok(EventAnswer::Events(events)) => {
                        self.learn_members(connection).await;
                        (self.open, self.lost_since) = (Some(events), None);
                        return Ok(Watched::By(node));
                    }
                    Ok(EventAnswer::Other(answer)) if is_final(&answer) => {
                        return Err(WatchError::Refused(answer));
                    }
                    Ok(EventAnswer::Other(answer)) => reasons.push(format!("{node}: {}", message(&answer))),
                    Err(error) => reasons.push(error.to_string()),
                }
            }
            // Who has never been told anything waits for nothing.
            let waits = self.lost_since.is_some_and(|since| since.elapsed() < WATCH_RETRY_TIMEOUT);
            if !waits {
                return Err(WatchError::Unreachable { reasons, next: self.query.from });
            }
            sleep(WATCH_RETRY).await;
        }
    }

    fn lost(&mut self, node: SocketAddr, reason: String) -> Watched {
        self.open = None;
        self.lost_since = Some(Instant::now());
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
            if !self.nodes.contains(&member.info.http) {
                self.nodes.push_back(member.info.http);
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

/// Whether other nodes would say the same: this one is neither stopping nor alone nor busy.
fn is_final(answer: &HttpAnswer) -> bool {
    let code = error(answer)["code"].as_str().map(str::to_owned);
    !matches!(
        code.as_deref(),
        Some(
            "stopping" | "no_quorum" | "not_leader" | "timeout" | "too_many_watchers" | "too_many_operations"
        )
    )
}

fn error(answer: &HttpAnswer) -> Json {
    serde_json::from_slice::<Json>(&answer.body).map_or(Json::Null, |mut body| body["error"].take())
}

fn message(answer: &HttpAnswer) -> String {
    let message = error(answer)["message"].as_str().map(str::to_owned);
    message.unwrap_or_else(|| format!("status {}", answer.status))
}

fn goes_on(next: Option<u64>) -> String {
    next.map_or(String::new(), |next| format!("\neverything before revision {next} was told"))
}
