//! Clocks that are wrong for a while.

use std::time::Duration;

use super::{Strike, Tools, Victim};
use crate::causes::causes;
use crate::cluster::ClockReading;
use crate::limits::PER_MILLION;
use crate::limits::machines::{CLOCK_RIGHT_MAX, CLOCK_TOLERANCE_PERCENT};
use crate::plan::{ClockError, NodeIndex, Selector};
use crate::runner::RunError;
use crate::runner::record::{EventKind, Proof};

/// A clock at four moments: before, right after it was made wrong, right before it was made right, and after that.
type Readings = [ClockReading; 4];

/// What was seen of a clock that was wrong for a while.
struct Seen {
    readings: Readings,
    /// How long it was wrong.
    lasted: Duration,
    /// How long it took to make it right, on the host's clock.
    mended_in: Duration,
    ended_ns: u64,
}

impl Tools {
    /// Makes a node's clocks wrong, waits, makes them right, and proves both by what they say. Meanwhile the node plays its part.
    pub(super) async fn clock(
        &self,
        strike: &Strike<'_>,
        who: Selector,
        error: ClockError,
    ) -> Result<(), RunError> {
        let Some(Victim { node, role, .. }) = self.choose_victim(strike, who).await else { return Ok(()) };
        let text = format!("clock {role}{}: {error}", self.name(node));
        self.busy().insert(node);
        let wrong = self.while_wrong(strike, node, &text, error).await;
        self.busy().remove(&node);
        let Seen { readings, lasted, mended_in, ended_ns } = wrong?;
        self.close(strike, ended_ns, proofs(error, &readings, lasted, mended_in), "right again");
        Ok(())
    }

    async fn while_wrong(
        &self,
        strike: &Strike<'_>,
        node: NodeIndex,
        text: &str,
        error: ClockError,
    ) -> Result<Seen, RunError> {
        let before = self.cluster.read_clock(node).await?;
        self.cluster.break_clock(node, error).await?;
        let first_at = self.clock.now();
        let first = self.cluster.read_clock(node).await?;
        self.note_victim(strike, text, node, self.conduct.now_ns(), None);
        self.conduct.event(EventKind::Fault, strike.label(), format!("{text}: in force"));
        self.clock.sleep(strike.lasts()).await;
        let lasted = self.clock.now().saturating_sub(first_at);
        let last = self.cluster.read_clock(node).await?;
        let mended_in = self.cluster.mend_clock(node).await?;
        let ended_ns = self.conduct.now_ns();
        let after = self.cluster.read_clock(node).await?;
        Ok(Seen { readings: [before, first, last, after], lasted, mended_in, ended_ns })
    }

    /// Sets the clock of a node that was away to the time that it has not seen go by, as its host would, if it has one of its own.
    pub(super) async fn set_clock_right(&self, node: NodeIndex) {
        if !self.cluster.has_clocks() {
            return;
        }
        if let Err(error) = self.cluster.mend_clock(node).await {
            let text = format!("the clock of {} stays behind: {}", self.name(node), causes(&error));
            self.conduct.event(EventKind::Warning, self.name(node), text);
        }
    }
}

/// What has to be seen of a clock that was wrong for so long, and was told the time in so long.
fn proofs(
    error: ClockError,
    [before, first, last, after]: &Readings,
    lasted: Duration,
    mended_in: Duration,
) -> Vec<Proof> {
    let mut proofs = match error {
        ClockError::Step { by_ms } => vec![
            changed("its clock jumped", [before, first], by_ms),
            changed("it was as wrong in the end", [before, last], by_ms),
        ],
        ClockError::Drift { per_million } => {
            let lasted_ms = i64::try_from(lasted.as_millis()).unwrap_or(i64::MAX);
            let gained_ms = lasted_ms.saturating_mul(per_million.into()) / i64::from(PER_MILLION);
            vec![changed("its clock drifted", [first, last], gained_ms)]
        }
    };
    let right_ms = uncertainty_ms(&[after]).saturating_add(ms(CLOCK_RIGHT_MAX)).saturating_add(ms(mended_in));
    proofs.push(Proof {
        what: "after it, its clock was right".to_owned(),
        is_seen: after.ahead_ms.unsigned_abs() <= right_ms,
        detail: format!("{} ms ahead of the host's, {right_ms} ms are allowed", after.ahead_ms),
    });
    proofs
}

/// That a clock has changed by what was asked for between two readings.
fn changed(what: &str, [from, to]: [&ClockReading; 2], wanted_ms: i64) -> Proof {
    let (seen_ms, uncertainty_ms) = (to.ahead_ms - from.ahead_ms, uncertainty_ms(&[from, to]));
    let tolerance_ms =
        uncertainty_ms.saturating_add(wanted_ms.unsigned_abs() * CLOCK_TOLERANCE_PERCENT / 100);
    Proof {
        what: what.to_owned(),
        // What is as large as the uncertainty is nothing.
        is_seen: seen_ms.abs_diff(wanted_ms) <= tolerance_ms && seen_ms.unsigned_abs() > uncertainty_ms,
        detail: format!("by {seen_ms} ms of {wanted_ms} ms, give or take {uncertainty_ms} ms"),
    }
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
    fn check(error: ClockError, ahead_ms: [i64; 4], want: &[bool]) {
        let readings = ahead_ms.map(|ahead_ms| ClockReading { ahead_ms, took: Duration::from_millis(10) });
        let proofs = proofs(error, &readings, Duration::from_secs(10), Duration::from_millis(5));
        assert_eq!(proofs.iter().map(|proof| proof.is_seen).collect::<Vec<_>>(), want, "{proofs:?}");
    }

    #[test]
    fn clock_that_was_not_wrong_or_stays_wrong_is_seen() {
        let step = ClockError::Step { by_ms: -30_000 };
        check(step, [3, -29_990, -29_980, 1], &[true, true, true]);
        check(step, [3, 3, 4, 1], &[false, false, true]);
        check(step, [3, -29_990, 4, 1], &[true, false, true]);
        check(step, [3, -29_990, -29_980, -29_970], &[true, true, false]);
        check(step, [3, 30_003, 30_004, 1], &[false, false, true]);
        let drift = ClockError::Drift { per_million: 20_000 };
        check(drift, [3, 3, 202, 1], &[true, true]);
        check(drift, [3, 3, 4, 1], &[false, true]);
        check(drift, [3, 3, -197, 1], &[false, true]);
    }
}
