//! When a node that ended unasked is started again. Pure.

use std::time::Duration;

use aspen_init::layout::{NODE_EXIT_RETIRED, NODE_EXIT_USAGE};
use aspen_init::limits::{NODE_FAILURES_MAX, NODE_STEADY, RESTART_WAIT_MAX, RESTART_WAIT_MIN};

use super::Exit;

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is started again after this.
    Again(Duration),
    /// It would end at once again: its settings are wrong.
    Settings,
    /// Its data is of an earlier state: it has to rejoin as a new member.
    Retired,
    /// It has ended so many times before it served.
    Failures(u32),
}

/// What is remembered of earlier ends.
#[derive(Debug, Default)]
pub(super) struct BackOff {
    /// Ends in a row, each soon after its start.
    in_a_row: u32,
    /// Ends in a row before it served.
    silent: u32,
    has_served: bool,
}

impl BackOff {
    /// Notes that the node serves; true for the first time.
    pub(super) fn note_first_service(&mut self) -> bool {
        !std::mem::replace(&mut self.has_served, true)
    }

    /// Decides, after a node ran so long.
    pub(super) fn ended(&mut self, exit: Exit, ran: Duration, has_served: bool) -> Verdict {
        match exit {
            Exit::Code(NODE_EXIT_USAGE) => return Verdict::Settings,
            Exit::Code(NODE_EXIT_RETIRED) => return Verdict::Retired,
            _ => {}
        }
        self.silent = if has_served { 0 } else { self.silent + 1 };
        if self.silent >= NODE_FAILURES_MAX {
            return Verdict::Failures(self.silent);
        }
        self.in_a_row = if ran >= NODE_STEADY { 0 } else { self.in_a_row.saturating_add(1) };
        let doublings = self.in_a_row.saturating_sub(1).min(31);
        Verdict::Again(RESTART_WAIT_MIN.saturating_mul(1 << doublings).min(RESTART_WAIT_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_up_to_their_bound() {
        let mut back_off = BackOff::default();
        let mut waits = (0..9).map(|_| back_off.ended(Exit::Code(1), SOON, true));
        let want = [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000];
        assert!(want.map(|ms| Verdict::Again(Duration::from_millis(ms))).into_iter().eq(waits.by_ref()));
        assert_eq!(back_off.ended(Exit::Code(1), NODE_STEADY, true), Verdict::Again(RESTART_WAIT_MIN));
    }

    #[test]
    fn node_that_never_serves_is_given_up() {
        let mut back_off = BackOff::default();
        for _ in 1..NODE_FAILURES_MAX {
            assert!(matches!(back_off.ended(Exit::Code(1), SOON, false), Verdict::Again(_)));
        }
        assert_eq!(back_off.ended(Exit::Code(1), SOON, false), Verdict::Failures(NODE_FAILURES_MAX));
        // One that serves in between starts the count again.
        let mut back_off = BackOff::default();
        for round in 0..5 * NODE_FAILURES_MAX {
            let has_served = round % 5 == 0;
            assert!(matches!(back_off.ended(Exit::Code(1), SOON, has_served), Verdict::Again(_)));
        }
    }

    #[test]
    fn wrong_settings_are_not_tried_again() {
        assert_eq!(BackOff::default().ended(Exit::Code(64), SOON, false), Verdict::Settings);
    }

    #[test]
    fn first_service_is_the_first_once() {
        let mut back_off = BackOff::default();
        assert!(back_off.note_first_service());
        assert!(!back_off.note_first_service());
    }
}
