//! What is under test: how an operation becomes a request, what an answer means, and what a node says of itself.

pub mod aspen;
pub mod etcd;

use aspen_node::api::ClusterStatus;
use serde_json::{Value as Json, json};

use crate::cluster::{Channel, Request, RequestError, Response};
use crate::history::{Op, Outcome};
use crate::limits::OBSERVE_TIMEOUT;
use crate::observations::NodeState;
use crate::plan::{NodeIndex, Plan, Reads, Target};
use crate::program::Exit;

/// Where a node, of either, answers with 200 once it serves.
pub(crate) const HEALTH: &str = "/health";

/// How the clients of a run speak to its nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    target: Target,
    reads: Reads,
}

impl Dialect {
    /// That of a plan's clients.
    pub fn of(plan: &Plan) -> Self {
        Self { target: plan.target, reads: plan.workload.reads }
    }

    /// That of the lab itself, whose reads do not depend on clocks.
    pub fn of_lab(plan: &Plan) -> Self {
        Self { target: plan.target, reads: Reads::Linearizable }
    }

    /// The request for an operation on a key.
    pub fn request(self, key: &str, op: &Op<String>) -> Request {
        match self.target {
            Target::Aspen => aspen::request(key, op, self.reads),
            Target::Etcd => etcd::request(key, op),
        }
    }

    /// The request for a scan of all keys that begin like this.
    pub fn scan_request(self, prefix: &str) -> Request {
        match self.target {
            Target::Aspen => aspen::scan_request(prefix, self.reads),
            Target::Etcd => etcd::scan_request(prefix),
        }
    }

    /// The request for what a node itself has of a key, if that is not older. Only Aspen is asked so.
    pub fn bounded_request(self, key: &str, max_staleness_ms: u64) -> Request {
        match self.target {
            Target::Aspen => aspen::bounded_request(key, max_staleness_ms),
            Target::Etcd => etcd::request(key, &Op::Read),
        }
    }

    /// The request for what a node itself has of a key, however old.
    pub fn stale_request(self, key: &str) -> Request {
        match self.target {
            Target::Aspen => aspen::stale_request(key),
            Target::Etcd => etcd::stale_request(key),
        }
    }

    /// What the answer to an operation means for the history.
    pub fn outcome(self, op: &Op<String>, answer: Result<Response, RequestError>) -> Outcome<String> {
        match self.target {
            Target::Aspen => aspen::outcome(op, answer),
            Target::Etcd => etcd::outcome(op, answer),
        }
    }

    /// What the answer to a scan means for each of the keys that it covers: it was read.
    pub fn scan_outcomes(
        self,
        keys: &[String],
        answer: Result<Response, RequestError>,
    ) -> Vec<Outcome<String>> {
        let page = match answer {
            Ok(Response { status: 200, body }) => match self.target {
                Target::Aspen => aspen::page(&body),
                Target::Etcd => etcd::page(&body),
            },
            // What comes of a read that was not answered does not depend on the key.
            other => return vec![self.outcome(&Op::Read, other); keys.len()],
        };
        page.map_or_else(|| impossible(keys, "a page without entries"), |page| page.outcomes(keys))
    }
}

/// A page of a scan, as far as it can be read: keys and values in the order of the answer.
pub(crate) struct Page {
    is_truncated: bool,
    entries: Vec<(Option<String>, Option<String>)>,
}

/// What no page can be is no answer that a register gives: it is written down as one, so that it is found.
fn impossible(keys: &[String], what: &str) -> Vec<Outcome<String>> {
    vec![Outcome::Read { value: Some(what.to_owned()) }; keys.len()]
}

impl Page {
    fn outcomes(&self, keys: &[String]) -> Vec<Outcome<String>> {
        let Self { is_truncated, entries } = self;
        if *is_truncated {
            return impossible(keys, "a page that ends too early");
        }
        if !entries.is_sorted_by_key(|(key, _)| key) {
            return impossible(keys, "a page out of order");
        }
        if entries.iter().any(|(key, _)| !keys.iter().any(|wanted| key.as_ref() == Some(wanted))) {
            return impossible(keys, "a page with a key that was not asked for");
        }
        let read = |wanted: &String| {
            let mut there = entries.iter().filter(|(key, _)| key.as_ref() == Some(wanted));
            match (there.next(), there.next()) {
                (None, _) => Outcome::Read { value: None },
                (Some((_, None)), None) => Outcome::Unknown,
                (Some((_, value)), None) => Outcome::Read { value: value.clone() },
                // No page has a key twice: nobody could have read that.
                (Some(_), Some(_)) => Outcome::Read { value: Some(format!("{wanted} is there twice")) },
            }
        };
        keys.iter().map(read).collect()
    }
}

impl Target {
    /// Asks a node for its state; nothing if it does not answer in time.
    pub(crate) async fn state(self, channel: &mut dyn Channel) -> Option<NodeState> {
        match self {
            Self::Aspen => aspen::state(channel).await,
            Self::Etcd => etcd::state(channel).await,
        }
    }

    /// What a node answers with 200 once it runs, also without a cluster.
    pub(crate) fn alive_request(self) -> Request {
        Request::get(match self {
            Self::Aspen => aspen::STATE,
            Self::Etcd => etcd::VERSION,
        })
    }

    /// What founds a cluster, if its nodes do not do so by themselves.
    pub(crate) fn found_request(self, plan: &Plan) -> Option<Request> {
        match self {
            Self::Aspen if plan.joins.is_some() => None,
            Self::Aspen => {
                let members: Vec<u64> = plan.founders().map(NodeIndex::raft_id).collect();
                Some(Request::post("/cluster/init", &json!({ "members": members })))
            }
            Self::Etcd => None,
        }
    }

    /// Whether its nodes show digests of log and state.
    pub(crate) fn has_digests(self) -> bool {
        self == Self::Aspen
    }

    /// How a node ends that was asked to.
    pub(crate) fn clean_exit(self) -> Exit {
        match self {
            Self::Aspen => Exit::Code(0),
            // It puts everything in order, and then takes the signal (SIGTERM, signal(7)).
            Self::Etcd => Exit::Signal(15),
        }
    }
}

/// What a node knows of its cluster, if it answers.
pub(crate) async fn cluster_status(channel: &mut dyn Channel) -> Option<ClusterStatus> {
    serde_json::from_value(ask(channel, Request::get("/cluster/status")).await?).ok()
}

/// Asks for a path; nothing if there is no answer, or another than 200.
pub(crate) async fn ask(channel: &mut dyn Channel, request: Request) -> Option<Json> {
    let answer = channel.request(request, OBSERVE_TIMEOUT).await.ok()?;
    (answer.status == 200).then_some(answer.body)
}
