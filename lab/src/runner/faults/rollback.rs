//! Machines that are put back to an earlier state. Their nodes have forgotten votes and entries, are told so, and are out of the
//! cluster for good.

use std::collections::BTreeMap;

use super::pause::{answered, silent};
use super::{Strike, Tools, Victim, mib};
use crate::cluster::{ClusterError, NodePair};
use crate::limits::LOOK_INTERVAL;
use crate::limits::machines::ROLLED_BACK_ANSWER_MAX;
use crate::link::LinkRule;
use crate::observations::{NodeState, Role};
use crate::plan::{NodeIndex, Selector};
use crate::runner::RunError;
use crate::runner::links::Counted;
use crate::runner::record::{EventKind, Proof};

/// What came of a machine that was put back.
struct Outcome {
    /// What its node said before the cluster heard of nothing more from it: of the past.
    then: Option<NodeState>,
    /// Whether the machine said that it goes off since it was put back.
    is_retired: bool,
}

impl Tools {
    /// Saves a node's machine, lets it go on for a while, and puts it back to what was saved. Between that and the moment at
    /// which the node hears of it, it is alone: nothing that it says then may reach another one.
    pub(super) async fn rollback(&self, strike: &Strike<'_>, who: Selector) -> Result<(), RunError> {
        let Some(Victim { node, role, .. }) = self.claim(strike, who).await else { return Ok(()) };
        let name = self.name(node);
        let saved = mib(self.cluster.snapshot(node).await?);
        // It stood still meanwhile.
        let due = self.clock.now() + strike.lasts();
        self.set_clock_right(node).await;
        let text = format!("rollback {role}{name}");
        self.conduct.event(EventKind::Fault, strike.label(), format!("{text}: saved ({saved}), and goes on"));
        self.clock.sleep_until(due).await;
        // Of what it is now nothing will be left.
        let now = self.ask(node).await;
        let hit_term = now.filter(|state| state.role == Role::Leader).map(|state| state.term);
        self.watch.retire(node);
        let began_ns = self.conduct.now_ns();
        self.note_victim(strike, &text, node, began_ns, hit_term);
        self.conduct.fault(strike.number, |fault| fault.retired = vec![node]);
        let turn = self.links.turn().await;
        self.links.strike(strike.number, self.links_of(node))?;
        drop(turn);
        let outcome = self.put_back(node).await;
        if outcome.is_err() {
            // It may have forgotten and still run: nobody may hear of it. One that is off already cannot be killed.
            let _off = self.cluster.kill(node).await;
        }
        let ended_ns = self.conduct.now_ns();
        let counted = self.links.heal(strike.number)?;
        let Outcome { then, is_retired } = outcome?;
        let is_gone = !self.cluster.runs(node).await;
        let answer = self.listen(node).await;
        let proofs = vec![
            answered(now.map(|state| state.incarnation)),
            forgot(now.as_ref(), then.as_ref()),
            alone(&counted),
            ended(is_retired, is_gone),
            silent("after", answer),
        ];
        self.close(strike, ended_ns, proofs, "is out of the cluster");
        Ok(())
    }

    /// Puts a machine back, asks its node who it is, and tells it.
    async fn put_back(&self, node: NodeIndex) -> Result<Outcome, ClusterError> {
        self.cluster.roll_back(node).await?;
        let then = self.ask(node).await;
        let is_retired = self.cluster.retire(node).await?;
        Ok(Outcome { then, is_retired })
    }

    /// Asks a node for its state until it answers, as long as that may take.
    async fn ask(&self, node: NodeIndex) -> Option<NodeState> {
        let deadline = self.clock.now() + ROLLED_BACK_ANSWER_MAX;
        let mut channel = self.cluster.channel(node);
        loop {
            let state = self.plan.target.state(channel.as_mut()).await;
            if state.is_some() || self.clock.now() >= deadline {
                return state;
            }
            self.clock.sleep(LOOK_INTERVAL).await;
        }
    }

    /// A cut of every link of a node.
    fn links_of(&self, node: NodeIndex) -> BTreeMap<NodePair, LinkRule> {
        let others = self.plan.node_indexes().filter(|other| *other != node);
        others.flat_map(|other| [(node, other), (other, node)]).map(|pair| (pair, LinkRule::CUT)).collect()
    }
}

/// That a node was itself, and had applied less than before: what was committed. Alone it can commit nothing new.
fn forgot(now: Option<&NodeState>, then: Option<&NodeState>) -> Proof {
    let applied = |state: &NodeState| state.applied.map_or(0, |position| position.index);
    let (is_seen, detail) = match (now, then) {
        (Some(now), Some(then)) => (
            now.incarnation == then.incarnation && applied(then) < applied(now),
            format!(
                "incarnation {} at entry {}, then {} at entry {}",
                now.incarnation,
                applied(now),
                then.incarnation,
                applied(then)
            ),
        ),
        _ => (false, "it did not answer both before and after".to_owned()),
    };
    Proof { what: "its node was the same and had forgotten what was committed".to_owned(), is_seen, detail }
}

/// That nothing of what it said reached another node until it had heard of it.
fn alone(counted: &Counted) -> Proof {
    let pieces = || counted.values().flatten();
    let delivered: u64 = pieces().map(|piece| piece.ended.delivered - piece.began.delivered).sum();
    let is_cut = pieces().all(|piece| piece.rule.cut) && pieces().next().is_some();
    Proof {
        what: "until it had heard of it, no frame passed between it and another node".to_owned(),
        is_seen: is_cut && delivered == 0,
        detail: format!("{delivered} frames on {} links that were cut", counted.len()),
    }
}

/// That a node was ended for good.
fn ended(is_retired: bool, is_gone: bool) -> Proof {
    Proof {
        what: "its node was ended for good, and the machine went off".to_owned(),
        is_seen: is_retired && is_gone,
        detail: match (is_retired, is_gone) {
            (true, true) => "the machine said that its node has to rejoin as a new member".to_owned(),
            (false, _) => "the machine did not say that its node has to rejoin as a new member".to_owned(),
            (true, false) => "the machine said so, and the host still saw it".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::FrameCounts;
    use crate::observations::{Incarnation, LogPosition, NodeVote};
    use crate::runner::links::Piece;

    fn state(incarnation: u64, index: u64) -> NodeState {
        let applied = Some(LogPosition { term: 1, index });
        NodeState {
            incarnation: Incarnation(incarnation),
            role: Role::Follower,
            term: 1,
            vote: Some(NodeVote { term: 1, voted_for: 1, is_committed: true }),
            leader: Some(1),
            last_log_index: Some(index),
            committed: applied,
            applied,
            snapshot: None,
            purged: None,
        }
    }

    #[test]
    fn node_that_forgot_nothing_or_is_another_is_seen() {
        let now = state(7, 20);
        assert!(forgot(Some(&now), Some(&state(7, 11))).is_seen);
        assert!(!forgot(Some(&now), Some(&state(7, 20))).is_seen);
        // One that has booted has forgotten, too, but is no longer what it was.
        assert!(!forgot(Some(&now), Some(&state(8, 11))).is_seen);
        assert!(!forgot(Some(&now), None).is_seen);
        assert!(!forgot(None, Some(&now)).is_seen);
    }

    #[test]
    fn node_that_was_heard_is_seen() {
        let counts = |delivered| FrameCounts { delivered, ..FrameCounts::default() };
        let counted = |rule, delivered: u64| {
            let piece = Piece { rule, began: counts(5), ended: counts(5 + delivered) };
            Counted::from([((NodeIndex(0), NodeIndex(1)), vec![piece])])
        };
        assert!(alone(&counted(LinkRule::CUT, 0)).is_seen);
        assert!(!alone(&counted(LinkRule::CUT, 1)).is_seen);
        assert!(!alone(&counted(LinkRule::default(), 0)).is_seen);
        assert!(!alone(&Counted::new()).is_seen);
    }

    #[test]
    fn machine_that_goes_on_or_says_nothing_is_seen() {
        let want = [(true, true, true), (false, true, false), (true, false, false), (false, false, false)];
        for (is_retired, is_gone, is_seen) in want {
            assert_eq!(ended(is_retired, is_gone).is_seen, is_seen);
        }
    }
}
