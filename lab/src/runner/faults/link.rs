//! Links that are slow or lossy for a while.

use futures::future::try_join;

use super::{Strike, Tools};
use crate::cluster::NodePair;
use crate::limits::{PROBES_TIMED, RESTART_WAIT_MAX};
use crate::runner::RunError;
use crate::runner::links::Rules;
use crate::runner::proofs::{self, Share};

impl Tools {
    /// Slows links or makes them lossy, measures it, waits, and heals.
    pub(super) async fn link(&self, strike: &Strike<'_>) -> Result<(), RunError> {
        let Some(aim) = self.aim(strike).await else { return Ok(()) };
        let pairs: Vec<NodePair> = aim.rules.keys().copied().collect();
        let is_slow = aim.rules.values().any(|rule| !rule.latency.is_zero());
        let is_late = is_slow || aim.rules.values().any(|rule| rule.bits_per_s.is_some());
        let turn = self.links.turn().await;
        // A round trip cannot be timed where the link or the way back is cut: there the switch's counters have to do.
        let (open, one_way): (Vec<_>, Vec<_>) =
            pairs.iter().copied().partition(|pair| self.links.is_open(*pair));
        let timed = if is_slow { open } else { Vec::new() };
        let silent = self.links.silent(&pairs);
        let until = self.clock.now() + RESTART_WAIT_MAX;
        let before = self.links.round_trips(&timed, PROBES_TIMED, until).await?;
        let ruled_before = self.ruled(&pairs);
        self.links.strike(strike.number, aim.rules.clone())?;
        let ruled = self.ruled(&pairs);
        let changes: Vec<usize> = timed.iter().map(|pair| self.links.changes(*pair)).collect();
        self.note_links(strike, &aim);
        let healed_at = self.clock.now() + strike.lasts();
        // After the first round trip nothing is under way any more that was sent before.
        self.links.round_trips(&timed, 1, healed_at).await?;
        let began = self.links.counts()?;
        // Links whose way back is cut get something to carry, though nobody can answer.
        let unanswered = async {
            tokio::select! {
                biased;
                probed = self.links.probe_once(&one_way) => probed.map(drop),
                () = self.clock.sleep_until(healed_at) => Ok(()),
            }
        };
        let measured = self.links.round_trips(&timed, PROBES_TIMED, healed_at);
        let ((), mut during) = try_join(unanswered, measured).await?;
        for (pair, changes) in timed.iter().zip(changes) {
            // Another fault has ended meanwhile: some of the round trips were under another rule.
            if self.links.changes(*pair) != changes {
                during.remove(pair);
            }
        }
        drop(turn);
        self.clock.sleep_until(healed_at).await;
        let ended_ns = self.conduct.now_ns();
        let counted = self.links.heal(strike.number)?;
        let mut proofs = Vec::new();
        if is_slow {
            let trips = [(&before, &ruled_before), (&during, &ruled)];
            proofs.extend(proofs::round_trips(&self.plan, &aim.rules, trips));
        }
        if is_late {
            let mut sent = counted.clone();
            sent.retain(|pair, _| !silent.contains(pair));
            proofs.push(proofs::late(&self.plan, self.links.fabric(), &sent, &began));
        }
        for share in Share::ALL {
            if aim.rules.values().any(|rule| share.per_million(rule) > 0) {
                proofs.push(proofs::share(&self.plan, self.links.fabric(), &counted, share));
            }
        }
        self.close(strike, ended_ns, proofs, "healed");
        Ok(())
    }

    /// All that is done to links and to the ways back.
    fn ruled(&self, pairs: &[NodePair]) -> Rules {
        let both = pairs.iter().flat_map(|pair @ (from, to)| [*pair, (*to, *from)]);
        both.map(|pair| (pair, self.links.rule(pair))).collect()
    }
}
