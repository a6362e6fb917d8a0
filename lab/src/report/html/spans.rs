//! What nodes said of themselves, four times a second for up to an hour, as spans in which they said the same.

use crate::limits::{OBSERVE_INTERVAL, OBSERVE_TIMEOUT};
use crate::observations::{Incarnation, Observation, Role, Seen};
use crate::plan::NodeIndex;
use crate::workload::client::nanos;

/// What is known of a node for some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// It says so.
    State {
        role: Role,
        term: u64,
        /// The Raft id of the leader that it follows.
        leader: Option<u64>,
    },
    /// It does not answer.
    Silent,
    /// It changed so often that a drawing cannot show it.
    Many(u32),
}

/// A time in which a node's condition was the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
    pub(super) condition: Condition,
}

/// What is known of every node.
#[derive(Debug)]
pub(super) struct Spans {
    nodes: Vec<NodeSpans>,
}

#[derive(Debug, Default, Clone)]
struct NodeSpans {
    spans: Vec<Span>,
    incarnation: Option<Incarnation>,
    /// When it was first seen in another incarnation than before.
    restarts_ns: Vec<u64>,
}

impl Spans {
    pub(super) fn new(nodes_count: usize, observations: &[Observation]) -> Self {
        let mut nodes = vec![NodeSpans::default(); nodes_count];
        for observation in observations {
            if let Some(node) = nodes.get_mut(observation.node.position()) {
                node.see(observation);
            }
        }
        let end_ns = observations.iter().map(|one| one.at_ns).max().unwrap_or_default();
        for node in &mut nodes {
            node.end(end_ns);
        }
        Self { nodes }
    }

    /// A node's spans, in order; between them nobody looked.
    pub(super) fn of(&self, node: NodeIndex) -> &[Span] {
        self.nodes.get(node.position()).map_or(&[], |node| &node.spans)
    }

    /// When a node was first seen again after each of its restarts.
    pub(super) fn restarts(&self, node: NodeIndex) -> &[u64] {
        self.nodes.get(node.position()).map_or(&[], |node| &node.restarts_ns)
    }

    /// A node's condition at a time.
    pub(super) fn at(&self, node: NodeIndex, at_ns: u64) -> Option<Condition> {
        let spans = self.of(node);
        let after = spans.partition_point(|span| span.from_ns <= at_ns);
        let span = spans.get(after.checked_sub(1)?)?;
        (at_ns <= span.to_ns).then_some(span.condition)
    }

    /// A node's spans for a drawing in which nothing shorter than `shortest_ns` can be seen: runs of such spans are one.
    /// Who led is what one looks for, and only one node leads at a time: there is more room for leaders.
    pub(super) fn coarse(&self, node: NodeIndex, shortest_ns: u64, shortest_leader_ns: u64) -> Vec<Span> {
        let mut coarse: Vec<Span> = Vec::new();
        let is_short = |span: &Span| {
            let is_leader = matches!(span.condition, Condition::State { role: Role::Leader, .. });
            span.to_ns - span.from_ns < if is_leader { shortest_leader_ns } else { shortest_ns }
        };
        for span in self.of(node) {
            match coarse.last_mut() {
                Some(last) if is_short(span) && last.to_ns == span.from_ns => {
                    let count = match last.condition {
                        Condition::Many(count) => count,
                        _ if is_short(last) => 1,
                        _ => {
                            coarse.push(*span);
                            continue;
                        }
                    };
                    *last = Span { to_ns: span.to_ns, condition: Condition::Many(count + 1), ..*last };
                }
                _ => coarse.push(*span),
            }
        }
        coarse
    }
}

impl NodeSpans {
    fn see(&mut self, observation: &Observation) {
        let at_ns = observation.at_ns;
        let condition = match observation.seen {
            Seen::Silent {} => Condition::Silent,
            Seen::State(state) => {
                let before = self.incarnation.replace(state.incarnation);
                if before.is_some_and(|before| before != state.incarnation) {
                    self.restarts_ns.push(at_ns);
                }
                Condition::State { role: state.role, term: state.term, leader: state.leader }
            }
            Seen::StateDigest { .. }
            | Seen::Contents { .. }
            | Seen::Changes { .. }
            | Seen::LogDigest { .. } => return,
        };
        // A node that does not answer was asked one interval after it had last done so.
        let holds_ns = if condition == Condition::Silent { nanos(OBSERVE_INTERVAL) } else { holds_ns() };
        let mut from_ns = at_ns;
        if let Some(last) = self.spans.last_mut() {
            if last.condition == condition {
                last.to_ns = at_ns;
                return;
            }
            let until_ns = at_ns.min(last.to_ns.saturating_add(holds_ns));
            last.to_ns = until_ns;
            if condition == Condition::Silent {
                from_ns = until_ns;
            }
        }
        self.spans.push(Span { from_ns, to_ns: at_ns, condition });
    }

    /// The last word holds until the next would be due.
    fn end(&mut self, end_ns: u64) {
        if let Some(last) = self.spans.last_mut() {
            last.to_ns = last.to_ns.max(end_ns.min(last.to_ns.saturating_add(holds_ns())));
        }
    }
}

/// The longest time for which a node's word holds without being repeated: a look that is late, and its time-out.
fn holds_ns() -> u64 {
    nanos(2 * OBSERVE_INTERVAL + OBSERVE_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observations::{NodeState, NodeVote};

    const N1: NodeIndex = NodeIndex(0);

    fn state(at_ms: u64, role: Role, term: u64, incarnation: u64) -> Observation {
        let state = NodeState {
            incarnation: Incarnation(incarnation),
            role,
            term,
            vote: Some(NodeVote { term, voted_for: 1, is_committed: true }),
            leader: Some(1),
            last_log_index: None,
            committed: None,
            applied: None,
            snapshot: None,
            purged: None,
        };
        Observation { at_ns: at_ms * 1_000_000, node: N1, seen: Seen::State(state) }
    }

    fn silent(at_ms: u64) -> Observation {
        Observation { at_ns: at_ms * 1_000_000, node: N1, seen: Seen::Silent {} }
    }

    fn texts(spans: &[Span]) -> Vec<String> {
        let text = |span: &Span| {
            let condition = match span.condition {
                Condition::State { role, term, .. } => format!("{role:?} {term}"),
                Condition::Silent => "silent".to_owned(),
                Condition::Many(count) => format!("{count} changes"),
            };
            format!("{} to {}: {condition}", span.from_ns / 1_000_000, span.to_ns / 1_000_000)
        };
        spans.iter().map(text).collect()
    }

    #[test]
    fn silence_begins_when_the_question_was_asked() {
        let seen = [
            state(100, Role::Leader, 1, 7),
            state(350, Role::Leader, 1, 7),
            silent(1600),
            silent(2850),
            state(3100, Role::Follower, 2, 8),
            state(3350, Role::Follower, 2, 8),
        ];
        let spans = Spans::new(1, &seen);
        assert_eq!(
            texts(spans.of(N1)),
            ["100 to 600: Leader 1", "600 to 3100: silent", "3100 to 3350: Follower 2"]
        );
        assert_eq!(spans.restarts(N1), [3_100_000_000]);
        assert_eq!(spans.at(N1, 99_000_000), None);
        assert_eq!(spans.at(N1, 2_000_000_000), Some(Condition::Silent));
        assert_eq!(spans.at(N1, 3_400_000_000), None);
    }

    #[test]
    fn what_is_too_short_to_be_seen_is_counted() {
        let seen: Vec<Observation> = (0..10)
            .map(|term| state(term * 10, Role::Candidate, term, 7))
            .chain([state(900, Role::Leader, 11, 7)])
            .collect();
        let spans = Spans::new(1, &seen);
        assert_eq!(spans.of(N1).len(), 11);
        let coarse = spans.coarse(N1, 50_000_000, 50_000_000);
        assert_eq!(texts(&coarse), ["0 to 90: 9 changes", "90 to 900: Candidate 9", "900 to 900: Leader 11"]);
        let seen = [1, 2, 3]
            .map(|term| state(term * 10, if term == 2 { Role::Leader } else { Role::Follower }, term, 7));
        let seen = seen.into_iter().chain([state(40, Role::Follower, 4, 7)]).collect::<Vec<_>>();
        let led = Spans::new(1, &seen).coarse(N1, 50_000_000, 5_000_000);
        assert_eq!(texts(&led)[..2], ["10 to 20: Follower 1", "20 to 30: Leader 2"], "a leader is kept");
        assert_eq!(texts(&spans.coarse(N1, 0, 0)), texts(spans.of(N1)));
    }
}
