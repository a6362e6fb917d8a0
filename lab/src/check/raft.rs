//! `raft`: what Raft promises (Ongaro and Ousterhout 2014, figure 3) held for everything that nodes were seen to say.
//!
//! - Election safety: at most one node leads a term, by its role or by a vote that a quorum has granted.
//! - Votes: a node's durable vote never goes back, across restarts; its term does not within one incarnation.
//! - Log matching: nodes that hold the same range of committed entries have the same digest of it.
//! - State machine safety: nodes that have applied the same entries have the same digest of their state, hold the same, and tell
//!   whoever follows their changes the same.
//! - Positions: purged <= snapshot <= applied <= committed <= last; none of them goes back within one incarnation. (Over a
//!   restart committed and applied may: neither is flushed.)
//!
//! What nobody has seen is not judged: a pass says how much was.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Status, Verdict, counted, seconds};
use crate::limits::RAFT_FINDINGS_MAX;
use crate::observations::{LogPosition, NodeState, Observation, Role, Seen};
use crate::plan::{Bytes32, NodeIndex, Plan};

/// The name of the check.
pub const NAME: &str = "raft";

/// Judges everything that was seen; the verdict's sentence counts from `origin_ns`.
pub fn check(plan: &Plan, observations: &[Observation], origin_ns: u64) -> Verdict {
    let mut judge = Judge::new(plan);
    for observation in observations {
        judge.see(observation);
    }
    judge.verdict(origin_ns)
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// When it was seen, in nanoseconds since the start of the run.
    pub at_ns: u64,
    /// The name of the promise.
    pub promise: String,
    /// What was seen.
    pub text: String,
}

/// The broken promises that a verdict holds; none for one of another check.
pub fn findings(verdict: &Verdict) -> Vec<Finding> {
    serde_json::from_value(verdict.details["findings"].clone()).unwrap_or_default()
}

/// What was seen so far.
struct Judge<'a> {
    plan: &'a Plan,
    /// The last state of each node.
    last: Vec<Option<NodeState>>,
    /// Who leads each term, and who has said so first.
    leaders: BTreeMap<u64, (u64, NodeIndex)>,
    states: Digests<u64>,
    contents: Digests<u64>,
    logs: Digests<(u64, u64)>,
    changes: Digests<(u64, u64)>,
    states_count: u64,
    restarts_count: u64,
    findings: Vec<Finding>,
    /// Findings beyond those that are kept.
    more_count: u64,
}

/// Digests of one kind, by what they cover.
struct Digests<K>(HashMap<K, First>);

/// The first digest that was seen of something.
struct First {
    digest: Bytes32,
    node: NodeIndex,
    /// Whether another node has given its own.
    is_compared: bool,
}

impl<K: Eq + std::hash::Hash> Digests<K> {
    /// Notes a digest; the node that gave another one before.
    fn note(&mut self, key: K, node: NodeIndex, digest: Bytes32) -> Option<NodeIndex> {
        let first = self.0.entry(key).or_insert(First { digest, node, is_compared: false });
        first.is_compared |= first.node != node;
        (first.digest != digest).then_some(first.node)
    }

    fn compared(&self) -> impl Iterator<Item = &K> {
        self.0.iter().filter(|(_, first)| first.is_compared).map(|(key, _)| key)
    }
}

impl<'a> Judge<'a> {
    fn new(plan: &'a Plan) -> Self {
        Self {
            plan,
            last: vec![None; plan.nodes.len()],
            leaders: BTreeMap::new(),
            states: Digests(HashMap::new()),
            contents: Digests(HashMap::new()),
            logs: Digests(HashMap::new()),
            changes: Digests(HashMap::new()),
            states_count: 0,
            restarts_count: 0,
            findings: Vec::new(),
            more_count: 0,
        }
    }

    fn see(&mut self, observation: &Observation) {
        let Observation { at_ns, node, seen } = *observation;
        match seen {
            Seen::Silent {} => {}
            Seen::State(state) => self.state(at_ns, node, state),
            Seen::StateDigest { index, digest } => {
                if let Some(other) = self.states.note(index, node, digest) {
                    let (one, other) = (self.name(other), self.name(node));
                    let text = format!("{one} and {other} have different states after entry {index}");
                    self.found(at_ns, "state machine safety", text);
                }
            }
            Seen::Contents { index, digest } => {
                if let Some(other) = self.contents.note(index, node, digest) {
                    let (one, other) = (self.name(other), self.name(node));
                    let text = format!("{one} and {other} hold different keys or values after entry {index}");
                    self.found(at_ns, "state machine safety", text);
                }
            }
            Seen::Changes { from, to, digest } => {
                if let Some(other) = self.changes.note((from, to), node, digest) {
                    let (one, other) = (self.name(other), self.name(node));
                    let text = format!("{one} and {other} tell different changes of entries {from} to {to}");
                    self.found(at_ns, "state machine safety", text);
                }
            }
            Seen::LogDigest { from, to, chain } => {
                if let Some(other) = self.logs.note((from, to), node, chain) {
                    let (one, other) = (self.name(other), self.name(node));
                    let text = format!("{one} and {other} hold different entries between {from} and {to}");
                    self.found(at_ns, "log matching", text);
                }
            }
        }
    }

    fn state(&mut self, at_ns: u64, node: NodeIndex, state: NodeState) {
        self.states_count += 1;
        if state.role == Role::Leader {
            self.leads(at_ns, node, state.term, node.raft_id());
        }
        if let Some(vote) = state.vote.filter(|vote| vote.is_committed) {
            self.leads(at_ns, node, vote.term, vote.voted_for);
        }
        self.positions(at_ns, node, &state);
        if let Some(before) = self.last[node.position()].replace(state) {
            self.vote(at_ns, node, &before, &state);
            if before.incarnation == state.incarnation {
                self.progress(at_ns, node, &before, &state);
            } else {
                self.restarts_count += 1;
            }
        }
    }

    /// `witness` says that the node with this Raft id leads the term.
    fn leads(&mut self, at_ns: u64, witness: NodeIndex, term: u64, leader: u64) {
        let (first, said_by) = *self.leaders.entry(term).or_insert((leader, witness));
        if first != leader {
            let text = format!(
                "{} leads term {term} by the word of {}, and {} by that of {}",
                self.raft_name(first),
                self.name(said_by),
                self.raft_name(leader),
                self.name(witness),
            );
            self.found(at_ns, "election safety", text);
        }
    }

    fn positions(&mut self, at_ns: u64, node: NodeIndex, state: &NodeState) {
        let index = |position: Option<LogPosition>| position.map(|position| position.index);
        let (applied, committed) = (index(state.applied), index(state.committed));
        let (snapshot, purged) = (index(state.snapshot), index(state.purged));
        for (low, low_name, high, high_name) in [
            (purged, "purged", snapshot, "its snapshot"),
            (snapshot, "its snapshot", applied, "applied"),
            (applied, "applied", committed, "committed"),
            (committed, "committed", state.last_log_index, "the end of its log"),
        ] {
            if low > high {
                let text =
                    format!("{}: {low_name} is {}, {high_name} {}", self.name(node), shown(low), shown(high));
                self.found(at_ns, "order of positions", text);
            }
        }
    }

    /// Over restarts, too: a vote is durable before it is given.
    fn vote(&mut self, at_ns: u64, node: NodeIndex, before: &NodeState, now: &NodeState) {
        let (Some(old), Some(new)) = (before.vote, now.vote) else { return };
        let is_back = new.term < old.term || (new.term == old.term && old.is_committed && !new.is_committed);
        // Who has voted for a candidate that lost follows the winner of the same term: openraft keeps that as a vote, too.
        let is_other =
            new.term == old.term && new.voted_for != old.voted_for && (old.is_committed || !new.is_committed);
        if is_back || is_other {
            let over = if before.incarnation == now.incarnation { "" } else { " over a restart" };
            let text = format!(
                "the vote of {} went{over} from {} in term {} to {} in term {}",
                self.name(node),
                self.raft_name(old.voted_for),
                old.term,
                self.raft_name(new.voted_for),
                new.term,
            );
            self.found(at_ns, "durable vote", text);
        }
    }

    /// Within one incarnation.
    fn progress(&mut self, at_ns: u64, node: NodeIndex, before: &NodeState, now: &NodeState) {
        let index = |position: Option<LogPosition>| position.map(|position| position.index);
        for (what, old, new) in [
            ("term", Some(before.term), Some(now.term)),
            ("committed index", index(before.committed), index(now.committed)),
            ("applied index", index(before.applied), index(now.applied)),
            ("end of its snapshot", index(before.snapshot), index(now.snapshot)),
            ("purged index", index(before.purged), index(now.purged)),
        ] {
            if new < old {
                let text =
                    format!("the {what} of {} went from {} to {}", self.name(node), shown(old), shown(new));
                self.found(at_ns, "no way back", text);
            }
        }
    }

    fn found(&mut self, at_ns: u64, promise: &'static str, text: String) {
        if self.findings.len() < RAFT_FINDINGS_MAX {
            self.findings.push(Finding { at_ns, promise: promise.to_owned(), text });
        } else {
            self.more_count += 1;
        }
    }

    fn name(&self, node: NodeIndex) -> String {
        self.plan.nodes[node.position()].name.clone()
    }

    fn raft_name(&self, raft_id: u64) -> String {
        let node = self.plan.nodes.iter().find(|node| node.raft_id == raft_id);
        node.map_or_else(|| format!("node {raft_id}"), |node| node.name.clone())
    }

    fn verdict(self, origin_ns: u64) -> Verdict {
        let states_compared = self.states.compared().count() as u64;
        let entries_compared = covered(self.logs.compared().copied().collect());
        let more = match self.findings.len() as u64 + self.more_count {
            0 | 1 => String::new(),
            all => format!(", and {} more", all - 1),
        };
        let (status, summary) = if let Some(Finding { at_ns, promise, text }) = self.findings.first() {
            let seconds = seconds(*at_ns, origin_ns);
            (Status::Fail, format!("{promise} at {seconds:.3} s: {text}{more}"))
        } else if let Some(unseen) = self.last.iter().position(Option::is_none) {
            (Status::Invalid, format!("{} never answered", self.plan.nodes[unseen].name))
        } else if self.plan.nodes.len() > 1 && (states_compared == 0 || entries_compared == 0) {
            (Status::Invalid, "no two nodes' logs and states could be compared".to_owned())
        } else {
            let summary = format!(
                "one leader a term in {}, {} and {} alike, in {} at the nodes",
                counted(self.leaders.len() as u64, "term"),
                counted(states_compared, "state"),
                counted(entries_compared, "log position"),
                counted(self.states_count, "look"),
            );
            (Status::Pass, summary)
        };
        Verdict {
            check: NAME.to_owned(),
            status,
            summary,
            looked_at: [
                ("looks".to_owned(), self.states_count),
                ("terms".to_owned(), self.leaders.len() as u64),
                ("restarts".to_owned(), self.restarts_count),
                ("states_compared".to_owned(), states_compared),
                ("contents_compared".to_owned(), self.contents.compared().count() as u64),
                ("log_entries_compared".to_owned(), entries_compared),
                ("changes_compared".to_owned(), covered(self.changes.compared().copied().collect())),
            ]
            .into(),
            details: json!({ "findings": self.findings, "more": self.more_count }),
        }
    }
}

/// How many entries some range covers; ranges may overlap.
fn covered(mut ranges: Vec<(u64, u64)>) -> u64 {
    ranges.sort_unstable();
    let (mut count, mut next) = (0, 0);
    for (from, to) in ranges {
        count += (to + 1).saturating_sub(from.max(next));
        next = next.max(to + 1);
    }
    count
}

/// An index, or that there is none.
fn shown(index: Option<u64>) -> String {
    index.map_or_else(|| "none".to_owned(), |index| index.to_string())
}

#[cfg(test)]
mod tests;
