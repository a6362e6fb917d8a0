//! Reads whose age is bounded: how a node knows, without asking each time, that its state has all that was acknowledged up to a
//! moment.
//!
//! It asks the leader for the index that a read must have applied (Raft thesis 6.4), and notes when it has asked. Whoever answers was
//! confirmed to lead by a quorum after that, so whatever was acknowledged before is at that index or below it. Once this node has
//! applied the index, its state is as new as that moment, and grows older only as time passes by its own clock: no other clock, and no
//! leader that may have been deposed, has a say in it. A heartbeat would prove nothing. It may come from a leader that another one
//! has replaced meanwhile, and what that one has acknowledged is not known to the old.
//!
//! The time between is measured with what leases are measured with ([`super::lease`]): where no clock counts the time for which a machine
//! is paused, an answer counts only for reads that began before it was asked for.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

use super::RaftNode;
use super::lease::Mark;
use crate::api::ApiError;
use crate::limits::{FRESHNESS_ASK_TIMEOUT, FRESHNESS_WAIT};

/// What this node knows of the age of its state.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    /// Whoever has it asks the leader, for all who wait for it.
    turn: AsyncMutex<()>,
    known: Mutex<Known>,
}

/// With `index` applied, the state has all that was acknowledged before `asked`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Proof {
    /// `None`: nobody can say how long ago that was.
    asked: Option<Mark>,
    /// How many times the leader had been asked then, this time included.
    round: u64,
    index: u64,
}

/// When a read has begun.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    at: Option<Mark>,
    /// How many times the leader had been asked then.
    rounds: u64,
}

#[derive(Debug, Default)]
struct Known {
    /// How many times the leader was asked.
    rounds: u64,
    /// What it said last.
    newest: Option<Proof>,
    /// The newest whose index was seen applied: the state may be behind what was said last.
    applied: Option<Proof>,
}

impl Known {
    /// Notes what is applied; the newest proof that holds now.
    fn proven(&mut self, applied: Option<u64>) -> Option<Proof> {
        if self.newest.is_some_and(|newest| applied.is_some_and(|applied| newest.index <= applied)) {
            self.applied = self.newest;
        }
        self.applied
    }
}

impl Proof {
    /// How old a state that this proves is for a read: what was acknowledged so long before it began is there.
    fn age(&self, arrival: Arrival, passed: impl Fn(Mark, Mark) -> Option<Duration>) -> Option<Duration> {
        if self.round > arrival.rounds {
            return Some(Duration::ZERO);
        }
        passed(self.asked?, arrival.at?)
    }
}

impl RaftNode {
    /// Makes sure that a read from now on sees all that was acknowledged longer than `max` ago; how long ago that is.
    pub(super) async fn prove_no_older(&self, max: Duration) -> Result<Duration, ApiError> {
        let arrival = Arrival { at: self.inner.leases.mark(), rounds: self.known(|known| known.rounds) };
        if let Some(age) = self.age(self.proven(), arrival).filter(|age| *age <= max) {
            return Ok(age);
        }
        if let Ok(made) = timeout(FRESHNESS_WAIT, self.make_no_older(arrival, max)).await {
            return made;
        }
        // Whatever was asked before is older than this.
        let now = Arrival { at: self.inner.leases.mark(), rounds: u64::MAX };
        Err(ApiError::TooStale {
            staleness_ms: self.age(self.proven(), now).map(whole_ms),
            max_staleness_ms: u64::try_from(max.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Asks the leader until it answers, unless another read has done so meanwhile, and waits until what it says is applied.
    async fn make_no_older(&self, arrival: Arrival, max: Duration) -> Result<Duration, ApiError> {
        let (index, age) = loop {
            let _turn = self.inner.freshness.turn.lock().await;
            let newest = self.known(|known| known.newest);
            if let Some(age) = self.age(newest, arrival).filter(|age| *age <= max) {
                break (newest.map_or(0, |newest| newest.index), age);
            }
            match timeout(FRESHNESS_ASK_TIMEOUT, self.ask_how_far()).await {
                // What nobody answers, or can, is asked again.
                Ok(Ok(()) | Err(ApiError::NotLeader { .. } | ApiError::NoQuorum)) | Err(_) => {}
                Ok(Err(error)) => return Err(error),
            }
        };
        self.await_applied(index).await?;
        Ok(age)
    }

    /// Asks the leader how far a read has to be.
    async fn ask_how_far(&self) -> Result<(), ApiError> {
        // The clock first: what is acknowledged after the leader was asked need not be there.
        let asked = self.inner.leases.mark();
        let round = self.known(|known| {
            known.rounds += 1;
            known.rounds
        });
        // Never by its lease, which is a matter of the leader's clock.
        let index = self.confirm_somewhere(false).await?.index;
        // What was said before may hold by now, and what is said now not yet.
        self.proven();
        self.known(|known| known.newest = Some(Proof { asked, round, index }));
        Ok(())
    }

    /// The newest proof that holds: what it needs is applied.
    fn proven(&self) -> Option<Proof> {
        let applied = self.inner.raft.watch_apply_progress().get().map(|applied| applied.index);
        self.known(|known| known.proven(applied))
    }

    fn age(&self, proof: Option<Proof>, arrival: Arrival) -> Option<Duration> {
        proof?.age(arrival, |from, to| self.inner.leases.passed(from, to))
    }

    fn known<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.inner.freshness.known.lock().expect("nothing panics while it holds this lock"))
    }
}

/// Milliseconds, not less than there are.
pub(super) fn whole_ms(age: Duration) -> u64 {
    u64::try_from(age.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many nanoseconds by one clock, which is as good as two here.
    #[expect(clippy::unnecessary_wraps, reason = "what is asked for is a mark that may be missing")]
    fn at(ns: i128) -> Option<Mark> {
        Some(Mark { own_ns: ns, witness_ns: ns })
    }

    /// The age, in nanoseconds, of what was asked for at `asked` in the third round, for a read that began at `at` after `rounds`.
    #[track_caller]
    fn check(asked: Option<Mark>, arrived: Option<Mark>, rounds: u64, want_ns: Option<u64>) {
        let proof = Proof { asked, round: 3, index: 10 };
        let passed =
            |from: Mark, to: Mark| u64::try_from(to.own_ns - from.own_ns).ok().map(Duration::from_nanos);
        let age = proof.age(Arrival { at: arrived, rounds }, passed);
        assert_eq!(age, want_ns.map(Duration::from_nanos));
    }

    #[test]
    fn state_is_as_old_as_the_question_is_when_the_read_begins() {
        check(at(100), at(150), 3, Some(50));
        check(at(100), at(150), 7, Some(50));
        // It was asked after the read had begun: no clock is needed.
        check(at(150), at(100), 2, Some(0));
        check(None, at(100), 2, Some(0));
        check(None, None, 2, Some(0));
    }

    #[test]
    fn without_a_clock_that_counts_all_of_the_time_what_was_asked_earlier_proves_nothing() {
        check(None, at(150), 3, None);
        check(at(100), None, 3, None);
        // Clocks that do not agree.
        check(at(150), at(100), 3, None);
    }

    #[test]
    fn what_was_said_counts_once_it_is_applied() {
        let proof = |round, index| Proof { asked: at(0), round, index };
        let mut known = Known { rounds: 1, newest: Some(proof(1, 10)), applied: None };
        assert_eq!(known.proven(None), None);
        assert_eq!(known.proven(Some(9)), None);
        assert_eq!(known.proven(Some(10)), Some(proof(1, 10)));
        // What was said later needs more, and what was said before still holds.
        known.newest = Some(proof(2, 20));
        assert_eq!(known.proven(Some(19)), Some(proof(1, 10)));
        assert_eq!(known.proven(Some(25)), Some(proof(2, 20)));
    }

    #[test]
    fn age_is_never_told_shorter_than_it_is() {
        let check = |nanos, want| assert_eq!(whole_ms(Duration::from_nanos(nanos)), want);
        check(0, 0);
        check(1, 1);
        check(1_000_000, 1);
        check(1_000_001, 2);
    }
}
