//! Machines that are put back to an earlier state. Their nodes have forgotten votes and entries, are told so, and are out of the
//! cluster for good.

use std::collections::BTreeMap;

use super::pause::{answered, silent};
use super::{Strike, Tools, Victim, mib};
use crate::cluster::{NodePair, PutBack};
use crate::link::LinkRule;
use crate::observations::Role;
use crate::plan::{NodeIndex, Selector};
use crate::runner::RunError;
use crate::runner::observe::raft_state;
use crate::runner::record::{EventKind, Proof};

impl Tools {
    /// Saves a node's machine, lets it go on for a while, and puts it back to what was saved. Between that and the moment at
    /// which the node hears of it, it is alone: nothing that it says then may reach another one.
    pub(super) async fn rollback(&self, strike: &Strike<'_>, who: Selector) -> Result<(), RunError> {
        let Some(Victim { node, role, .. }) = self.claim(strike, who).await else { return Ok(()) };
        let name = self.name(node);
        let due = self.clock.now() + strike.lasts();
        let saved = mib(self.cluster.remember(node).await?);
        let text = format!("rollback {role}{name}");
        self.conduct.event(EventKind::Fault, strike.label(), format!("{text}: saved ({saved}), and goes on"));
        self.clock.sleep_until(due).await;
        // Of what it is now nothing will be left.
        let last = raft_state(self.cluster.channel(node).as_mut()).await;
        let hit_term = last.filter(|state| state.role == Role::Leader).map(|state| state.term);
        self.watch.retire(node);
        let began_ns = self.conduct.now_ns();
        self.note_victim(strike, &text, node, began_ns, hit_term);
        self.conduct.fault(strike.number, |fault| fault.retired = vec![node]);
        let turn = self.links.turn().await;
        self.links.strike(strike.number, self.links_of(node))?;
        drop(turn);
        let put_back = self.cluster.put_back(node).await;
        let ended_ns = self.conduct.now_ns();
        self.links.heal(strike.number)?;
        let put_back = put_back?;
        let is_gone = !self.cluster.runs(node).await;
        let answer = self.listen(node).await;
        let mut proofs = vec![answered(last.map(|state| state.incarnation))];
        proofs.extend(forgetting(&put_back, is_gone));
        proofs.push(silent("after", answer));
        self.close(strike, ended_ns, proofs, "is out of the cluster");
        Ok(())
    }

    /// A cut of every link of a node.
    fn links_of(&self, node: NodeIndex) -> BTreeMap<NodePair, LinkRule> {
        let others = self.plan.node_indexes().filter(|other| *other != node);
        others.flat_map(|other| [(node, other), (other, node)]).map(|pair| (pair, LinkRule::CUT)).collect()
    }
}

/// What has to be seen of a machine that was put back.
fn forgetting(put_back: &PutBack, is_gone: bool) -> [Proof; 2] {
    let PutBack { mark_saved, mark_before, mark_after, is_retired } = put_back;
    [
        Proof {
            what: "its machine had forgotten what it was told after it was saved".to_owned(),
            is_seen: mark_before != mark_saved && mark_after == mark_saved,
            detail: format!("it kept the number {mark_saved}, then {mark_before}, then {mark_after}"),
        },
        Proof {
            what: "its node was ended for good, and the machine went off".to_owned(),
            is_seen: *is_retired && is_gone,
            detail: match (is_retired, is_gone) {
                (true, true) => "it has to rejoin as a new member".to_owned(),
                (false, _) => "it did not say that it has to rejoin as a new member".to_owned(),
                (true, false) => "it said so, and the host still saw it".to_owned(),
            },
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(marks: [u64; 3], is_retired: bool, is_gone: bool, want: [bool; 2]) {
        let [mark_saved, mark_before, mark_after] = marks;
        let proofs = forgetting(&PutBack { mark_saved, mark_before, mark_after, is_retired }, is_gone);
        assert_eq!(proofs.each_ref().map(|proof| proof.is_seen), want, "{proofs:?}");
    }

    #[test]
    fn machine_that_forgot_nothing_or_goes_on_is_seen() {
        check([1, 2, 1], true, true, [true, true]);
        check([1, 2, 2], true, true, [false, true]);
        // One that has booted forgets, too.
        check([1, 2, 0], true, true, [false, true]);
        check([1, 1, 1], true, true, [false, true]);
        check([1, 2, 1], false, true, [true, false]);
        check([1, 2, 1], true, false, [true, false]);
    }
}
