//! Clocks that are wrong for a while.

use std::time::Duration;

use super::{Strike, Tools};
use crate::cluster::ClockReading;
use crate::limits::PER_MILLION;
use crate::limits::machines::CLOCK_RIGHT_MAX;
use crate::plan::{ClockError, NodeIndex, Roles, Selector, resolve_one};
use crate::runner::RunError;
use crate::runner::record::{EventKind, Proof};

/// A clock at four moments: before, right after it was made wrong, right before it was made right, and after that.
type Readings = [ClockReading; 4];

impl Tools {
    /// Makes a node's clocks wrong, waits, makes them right, and proves both by what they say.
    pub(super) async fn clock(
        &self,
        strike: &Strike<'_>,
        who: Selector,
        error: ClockError,
    ) -> Result<(), RunError> {
        let choose = |roles: &Roles| {
            resolve_one(who, roles, strike.draw).map(|node| (node, roles.leader == Some(node)))
        };
        let Some(((node, is_leader), _term)) = self.await_roles(strike, choose).await else { return Ok(()) };
        let role = if is_leader { "the leader " } else { "" };
        let text = format!("clock {role}{}: {error}", self.name(node));
        if !self.wrong_clocks().insert(node) {
            self.give_up(strike, &text, "its clocks are wrong already");
            return Ok(());
        }
        let wrong = self.while_wrong(strike, node, &text, error).await;
        self.wrong_clocks().remove(&node);
        let (readings, lasted, ended_ns) = wrong?;
        self.close(strike, ended_ns, proofs(error, &readings, lasted), "right again");
        Ok(())
    }

    async fn while_wrong(
        &self,
        strike: &Strike<'_>,
        node: NodeIndex,
        text: &str,
        error: ClockError,
    ) -> Result<(Readings, Duration, u64), RunError> {
        let before = self.cluster.clock(node).await?;
        self.cluster.break_clock(node, error).await?;
        let first_at = self.clock.now();
        let first = self.cluster.clock(node).await?;
        self.note_victim(strike, text, node, self.conduct.now_ns(), None);
        self.conduct.event(EventKind::Fault, strike.label(), format!("{text}: in force"));
        self.clock.sleep(strike.lasts()).await;
        let lasted = self.clock.now().saturating_sub(first_at);
        let last = self.cluster.clock(node).await?;
        self.cluster.mend_clock(node).await?;
        let ended_ns = self.conduct.now_ns();
        let after = self.cluster.clock(node).await?;
        Ok(([before, first, last, after], lasted, ended_ns))
    }

    /// Sets the clock of a node that was away to the time that it has not seen go by, as its host would, if it has one of its own
    /// and no fault has made that wrong.
    pub(super) async fn set_clock_right(&self, node: NodeIndex) {
        if !self.cluster.has_clocks() || self.wrong_clocks().contains(&node) {
            return;
        }
        if let Err(error) = self.cluster.mend_clock(node).await {
            let text = format!("the clock of {} stays behind: {error}", self.name(node));
            self.conduct.event(EventKind::Warning, self.name(node), text);
        }
    }
}

/// What has to be seen of a clock that was wrong for so long.
fn proofs(error: ClockError, [before, first, last, after]: &Readings, lasted: Duration) -> Vec<Proof> {
    let (what, from, to, wanted_ms) = match error {
        ClockError::Step { by_ms } => ("its clock jumped", before, first, by_ms),
        ClockError::Drift { per_million } => {
            let lasted_ms = i64::try_from(lasted.as_millis()).unwrap_or(i64::MAX);
            let gained_ms = lasted_ms.saturating_mul(per_million.into()) / i64::from(PER_MILLION);
            ("its clock drifted", first, last, gained_ms)
        }
    };
    let (seen_ms, sure_ms) = (to.ahead_ms - from.ahead_ms, uncertainty_ms(&[from, to]));
    // What is far from what was asked for is another fault, and what is as large as the uncertainty is none.
    let tolerance_ms = sure_ms.saturating_add(wanted_ms.unsigned_abs() / 5);
    let is_seen = seen_ms.abs_diff(wanted_ms) <= tolerance_ms && seen_ms.unsigned_abs() > sure_ms;
    let right_ms = uncertainty_ms(&[after]).saturating_add(ms(CLOCK_RIGHT_MAX));
    vec![
        Proof {
            what: what.to_owned(),
            is_seen,
            detail: format!("by {seen_ms} ms of {wanted_ms} ms, give or take {sure_ms} ms"),
        },
        Proof {
            what: "after it, its clock was right".to_owned(),
            is_seen: after.ahead_ms.unsigned_abs() <= right_ms,
            detail: format!("{} ms ahead of the host's, {right_ms} ms are allowed", after.ahead_ms),
        },
    ]
}

/// By how much readings may be off together.
fn uncertainty_ms(readings: &[&ClockReading]) -> u64 {
    readings.iter().map(|reading| ms(reading.took) / 2 + 1).sum()
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: ClockError, ahead_ms: [i64; 4], want: [bool; 2]) {
        let readings = ahead_ms.map(|ahead_ms| ClockReading { ahead_ms, took: Duration::from_millis(10) });
        let proofs = proofs(error, &readings, Duration::from_secs(10));
        assert_eq!([proofs[0].is_seen, proofs[1].is_seen], want, "{proofs:?}");
    }

    #[test]
    fn clock_that_was_not_wrong_or_stays_wrong_is_seen() {
        let step = ClockError::Step { by_ms: -30_000 };
        check(step, [3, -29_990, -29_980, 1], [true, true]);
        check(step, [3, 3, 4, 1], [false, true]);
        check(step, [3, -29_990, -29_980, -29_970], [true, false]);
        check(step, [3, 30_003, 30_004, 1], [false, true]);
        let drift = ClockError::Drift { per_million: 20_000 };
        check(drift, [3, 3, 202, 1], [true, true]);
        check(drift, [3, 3, 4, 1], [false, true]);
        check(drift, [3, 3, -197, 1], [false, true]);
    }
}
