//! Machines that are saved and ended, and go on later from where they were.

use super::pause::{answered, silent, went_on};
use super::{Strike, Tools, Victim, mib};
use crate::plan::Selector;
use crate::runner::RunError;
use crate::runner::record::{EventKind, Proof};

impl Tools {
    /// Saves a node's machine and ends it, proves that it is gone, waits, lets it go on, and waits until it serves.
    pub(super) async fn suspend(&self, strike: &Strike<'_>, who: Selector) -> Result<(), RunError> {
        let Some(Victim { node, role, before, leads_term }) = self.claim(strike, who).await else {
            return Ok(());
        };
        let name = self.name(node);
        // It stands still from the first moment on, and is saved then.
        let began_ns = self.conduct.now_ns();
        let healed_at = self.clock.now() + strike.lasts();
        let text = format!("suspend {role}{name}");
        let hit_term = leads_term.filter(|_| self.outlasts_patience(strike));
        self.note_victim(strike, &text, node, began_ns, hit_term);
        let saved = mib(self.cluster.suspend(node).await?);
        self.conduct.event(EventKind::Fault, strike.label(), format!("{text}: saved ({saved}) and ended"));
        let is_first_gone = !self.cluster.runs(node).await;
        let answer = self.listen(node).await;
        self.clock.sleep_until(healed_at).await;
        let is_last_gone = !self.cluster.runs(node).await;
        self.cluster.restore(node).await?;
        let ended_ns = self.conduct.now_ns();
        let served = self.await_service(node, |incarnation| Some(incarnation) == before).await;
        self.set_clock_right(node).await;
        self.watch.set_down(node, false);
        let state = |is_gone: bool| if is_gone { "gone" } else { "there" };
        let gone = Proof {
            what: "its machine was saved and was gone, first and last".to_owned(),
            is_seen: is_first_gone && is_last_gone,
            detail: format!("{saved} saved; {}, then {}", state(is_first_gone), state(is_last_gone)),
        };
        self.close(
            strike,
            ended_ns,
            vec![answered(before), gone, silent("during", answer), went_on(served)],
            "serves again",
        );
        Ok(())
    }
}
