//! Links that carry nothing: partitions and one-way cuts.

use super::{Strike, Tools};
use crate::cluster::NodePair;
use crate::runner::{RunError, proofs};

impl Tools {
    /// Cuts links, proves it, waits, and heals.
    pub(super) async fn cut(&self, strike: &Strike<'_>) -> Result<(), RunError> {
        let Some(aim) = self.aim(strike).await else { return Ok(()) };
        let pairs: Vec<NodePair> = aim.rules.keys().copied().collect();
        let turn = self.links.turn().await;
        if pairs.iter().all(|pair| self.links.rule(*pair).cut) {
            self.give_up(strike, &aim.text, "every one of its links was cut already");
            return Ok(());
        }
        // A probe needs the way back, too: over other links it proves nothing, before the cut or after.
        let open: Vec<NodePair> =
            pairs.iter().copied().filter(|pair| self.links.can_be_probed(*pair)).collect();
        let before = self.links.reach(&open).await?;
        self.links.strike(strike.number, aim.rules.clone())?;
        drop(turn);
        self.note_links(strike, &aim);
        let healed_at = self.clock.now() + strike.lasts();
        // Over every link, so that each has something to swallow, unless nobody is there to send it.
        let silent = self.links.silent(&pairs);
        let heard: Vec<NodePair> = pairs.iter().copied().filter(|pair| !silent.contains(pair)).collect();
        let during = self.links.probe_once(&heard).await?;
        self.clock.sleep_until(healed_at).await;
        // Before the heal: what comes through after it proves nothing.
        let ended_ns = self.conduct.now_ns();
        let counted = self.links.heal(strike.number)?;
        let mut proofs = Vec::new();
        if !open.is_empty() {
            let during: Vec<_> = during.into_iter().filter(|(pair, _)| open.contains(pair)).collect();
            let (plan, probes) = (&self.plan, proofs::probes);
            proofs.push(probes(plan, "before it, a probe over every link was answered", &before, true));
            proofs.push(probes(plan, "during it, no probe over any link was answered", &during, false));
        }
        proofs.push(proofs::cut(&self.plan, &counted, &silent));
        self.close(strike, ended_ns, proofs, "healed");
        Ok(())
    }
}
