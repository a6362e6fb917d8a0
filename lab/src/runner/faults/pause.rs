//! Nodes that stand still for a while and do not know it.

use super::{NotBack, Strike, Tools, Victim};
use crate::cluster::{Request, Vitals};
use crate::limits::PAUSE_SILENCE;
use crate::observations::Incarnation;
use crate::plan::{NodeIndex, Selector};
use crate::runner::RunError;
use crate::runner::record::{EventKind, Proof};

impl Tools {
    /// Freezes a node, proves that it stands still, waits, lets it go on, and waits until it serves.
    pub(super) async fn pause(&self, strike: &Strike<'_>, who: Selector) -> Result<(), RunError> {
        let Some(Victim { node, role, before, leads_term }) = self.claim(strike, who).await else {
            return Ok(());
        };
        let name = self.name(node);
        self.cluster.pause(node).await?;
        let began_ns = self.conduct.now_ns();
        let healed_at = self.clock.now() + strike.lasts();
        let text = format!("pause {role}{name}");
        // The others elect a new leader only if they miss the old one for long enough.
        let hit_term = leads_term.filter(|_| self.outlasts_patience(strike));
        self.note_victim(strike, &text, node, began_ns, hit_term);
        self.conduct.event(EventKind::Fault, strike.label(), format!("{text}: in force"));
        // First this, which takes a while: other threads than the one that got the signal stop a moment later.
        let answer = self.listen(node).await;
        let first = self.cluster.observe(node).await?;
        self.clock.sleep_until(healed_at).await;
        let last = self.cluster.observe(node).await?;
        let ended_ns = self.conduct.now_ns();
        self.cluster.resume(node).await?;
        let served = self.await_service(node, |incarnation| Some(incarnation) == before).await;
        self.set_clock_right(node).await;
        self.watch.set_down(node, false);
        let mut proofs = vec![answered(before)];
        proofs.extend(stillness(&first, &last));
        proofs.extend([silent("during", answer), went_on(served)]);
        self.close(strike, ended_ns, proofs, "serves again");
        Ok(())
    }

    /// Asks a node for its health, over HTTP, since the kernel accepts connections for a process that stands still; the
    /// status, if it answers at all.
    pub(super) async fn listen(&self, node: NodeIndex) -> Option<u16> {
        let answer = self.cluster.channel(node).request(Request::get("/health"), PAUSE_SILENCE).await;
        answer.ok().map(|response| response.status)
    }
}

/// That a node was there before it was hit.
pub(super) fn answered(before: Option<Incarnation>) -> Proof {
    Proof {
        what: "before it, the node answered".to_owned(),
        is_seen: before.is_some(),
        detail: before.map_or("no answer".to_owned(), |incarnation| format!("incarnation {incarnation}")),
    }
}

/// That a node did not answer meanwhile, which [`Tools::listen`] has tried.
pub(super) fn silent(when: &str, answer: Option<u16>) -> Proof {
    Proof {
        what: format!("{when} it, the node did not answer"),
        is_seen: answer.is_none(),
        detail: answer.map_or(format!("GET /health, {} ms", PAUSE_SILENCE.as_millis()), |status| {
            format!("it answered GET /health with {status}")
        }),
    }
}

/// That a node went on as the one that it was.
pub(super) fn went_on(served: Result<Incarnation, NotBack>) -> Proof {
    Proof {
        what: "the same incarnation serves again".to_owned(),
        is_seen: served.is_ok(),
        detail: served
            .map_or_else(|reason| reason.to_string(), |incarnation| format!("incarnation {incarnation}")),
    }
}

/// What two looks at a paused process, at both ends of the pause, have to show.
fn stillness(first: &Vitals, last: &Vitals) -> [Proof; 2] {
    let state = |vitals: &Vitals| if vitals.is_paused { "stopped" } else { "running" };
    [
        Proof {
            what: "the process was stopped, first and last".to_owned(),
            is_seen: first.is_paused && last.is_paused,
            detail: format!("{}, then {}", state(first), state(last)),
        },
        Proof {
            what: "the process used no processor time".to_owned(),
            is_seen: first.cpu_ticks == last.cpu_ticks,
            detail: format!("{} ticks, then {}", first.cpu_ticks, last.cpu_ticks),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(first: (bool, u64), last: (bool, u64), want: [bool; 2]) {
        let vitals = |(is_paused, cpu_ticks)| Vitals { is_paused, cpu_ticks };
        let proofs = stillness(&vitals(first), &vitals(last));
        assert_eq!(proofs.each_ref().map(|proof| proof.is_seen), want, "{proofs:?}");
    }

    #[test]
    fn pause_that_was_none_or_ended_early_is_seen() {
        check((true, 7), (true, 7), [true, true]);
        check((false, 7), (false, 9), [false, false]);
        check((true, 7), (false, 7), [false, true]);
        // It went on in between.
        check((true, 7), (true, 8), [true, false]);
    }
}
