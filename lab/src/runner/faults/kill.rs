//! Nodes that end without warning and are started again, their disks whole or not.

use super::{NotBack, Strike, Tools, Victim};
use crate::check::counted;
use crate::cluster::PowerCut;
use crate::observations::Incarnation;
use crate::plan::{NodeIndex, Selector};
use crate::program::Exit;
use crate::runner::RunError;
use crate::runner::record::{EventKind, Proof};

impl Tools {
    /// Kills a node, starts it again, and waits until it serves.
    pub(super) async fn kill(&self, strike: &Strike<'_>, who: Selector) -> Result<(), RunError> {
        let Some(victim) = self.claim(strike, who).await else { return Ok(()) };
        let exit = self.cluster.kill(victim.node).await?;
        self.killed(strike, &victim, "kill", exit, None).await
    }

    /// The same, and its disk loses what was not synced.
    pub(super) async fn cut_power(&self, strike: &Strike<'_>, who: Selector) -> Result<(), RunError> {
        let Some(victim) = self.claim(strike, who).await else { return Ok(()) };
        let cut = self.cluster.cut_power(victim.node, strike.draw).await?;
        self.killed(strike, &victim, "power cut", cut.exit, Some(lost_something(&cut))).await
    }

    /// What comes after a node was killed, of which there may be more to prove.
    async fn killed(
        &self,
        strike: &Strike<'_>,
        victim: &Victim,
        what: &str,
        exit: Exit,
        besides: Option<Proof>,
    ) -> Result<(), RunError> {
        let Victim { node, role, before, leads_term } = *victim;
        if self.was_dead(node, exit) {
            return Ok(());
        }
        let began_ns = self.conduct.now_ns();
        let text = format!("{what} {role}{}", self.name(node));
        self.note_victim(strike, &text, node, began_ns, leads_term);
        let lost = besides.as_ref().map_or_else(String::new, |proof| format!(", {}", proof.detail));
        self.conduct.event(EventKind::Fault, strike.label(), format!("{text}: ended by {exit}{lost}"));
        let ended = ("the process ended by signal 9 and was gone", exit);
        self.bring_back(strike, node, before, ended, besides).await
    }

    /// Whether a node that was to be killed had ended by itself before, which is noted.
    pub(super) fn was_dead(&self, node: NodeIndex, exit: Exit) -> bool {
        let was_dead = exit != Exit::Signal(9);
        if was_dead {
            self.died(node, &exit.to_string());
        }
        was_dead
    }

    /// Notes that a node has ended as it should not have.
    pub(super) fn died(&self, node: NodeIndex, how: &str) {
        self.conduct.death(&*self.cluster, node, self.name(node), how);
    }

    /// Starts a node again that has ended, after a while, and waits until it serves. What it did is the receipt, together with how it
    /// had ended.
    pub(super) async fn bring_back(
        &self,
        strike: &Strike<'_>,
        node: NodeIndex,
        before: Option<Incarnation>,
        (ended, exit): (&str, Exit),
        besides: Option<Proof>,
    ) -> Result<(), RunError> {
        let is_gone = !self.cluster.runs(node).await;
        self.clock.sleep(strike.lasts()).await;
        self.cluster.start(node).await?;
        let ended_ns = self.conduct.now_ns();
        let served = self.await_service(node, |incarnation| Some(incarnation) != before).await;
        self.watch.set_down(node, false);
        let gone = Proof {
            what: ended.to_owned(),
            is_seen: is_gone,
            detail: if is_gone { exit.to_string() } else { format!("{exit}, and the host still saw it") },
        };
        let mut proofs = vec![gone];
        proofs.extend(besides);
        proofs.push(serves_anew(before, served));
        self.close(strike, ended_ns, proofs, "serves again");
        Ok(())
    }
}

/// That a disk lost something of what was not synced.
fn lost_something(PowerCut { lost, .. }: &PowerCut) -> Proof {
    Proof {
        what: "its disk lost something of what was not synced".to_owned(),
        is_seen: lost.sectors + lost.names > 0,
        detail: format!(
            "lost {} and {}, after {} and {} since its power came",
            counted(lost.sectors, "sector"),
            counted(lost.names, "name"),
            counted(lost.asked.writes, "write"),
            counted(lost.asked.syncs, "sync")
        ),
    }
}

/// That a node which was started again is another one than before, and serves.
fn serves_anew(before: Option<Incarnation>, served: Result<Incarnation, NotBack>) -> Proof {
    let named = before.map_or_else(|| "none seen".to_owned(), |before| before.to_string());
    Proof {
        what: "a new incarnation serves".to_owned(),
        // Of a node that had not been seen before nobody can say that it is another one.
        is_seen: served.is_ok() && before.is_some(),
        detail: match served {
            Ok(after) => format!("incarnation {after} after {named}"),
            Err(reason) => format!("{reason}, before it was {named}"),
        },
    }
}
