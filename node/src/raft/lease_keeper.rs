//! `LeaseKeeper`: on the leader, ends leases that nobody keeps alive.
//!
//! How long a lease lives is a matter of one clock: that of the leader, which stands nowhere else. Whoever becomes the leader gives
//! every lease its whole time anew. So a lease lives at least as long as was promised with each answer, counted from when that
//! was asked for: the leader confirms that it leads after it has been asked, and a later leader begins to count later than that.
//! It can live longer: by a change of leaders, and by a look at the clock.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::RaftNode;
use super::operations::not_leader;
use crate::api::ApiError;
use crate::limits::{LEASE_ENDS_AT_ONCE, LEASE_LOOK_INTERVAL, OPERATION_TIMEOUT};
use crate::types::{Command, LeaseId};

/// The leases that this node keeps as the leader of a term.
#[derive(Debug, Default)]
pub(super) struct KeptLeases {
    /// The term; 0: none.
    term: u64,
    leases: BTreeMap<LeaseId, Kept>,
}

#[derive(Debug)]
struct Kept {
    /// When it ends, unless it is kept alive.
    until: Instant,
    /// When its end was last proposed. From the first time on it is not kept alive any more.
    ended: Option<Instant>,
}

impl KeptLeases {
    /// Notes the leases that there are, with the milliseconds that each lives: those that are new live from `now` on.
    fn note(&mut self, present: &BTreeMap<LeaseId, u64>, now: Instant) {
        self.leases.retain(|lease, _| present.contains_key(lease));
        for (lease, ttl_ms) in present {
            let until = now + Duration::from_millis(*ttl_ms);
            self.leases.entry(*lease).or_insert(Kept { until, ended: None });
        }
    }

    /// Has a lease that there is live for its whole time from `asked` on, unless its end is under way; whether it does.
    fn keep(&mut self, lease: LeaseId, ttl: Duration, asked: Instant) -> bool {
        let until = asked + ttl;
        let kept = self.leases.entry(lease).or_insert(Kept { until, ended: None });
        kept.until = kept.until.max(until);
        kept.ended.is_none()
    }

    /// Those whose end is to be proposed at `now`; what was proposed and has not happened is proposed again.
    fn end(&mut self, now: Instant) -> Vec<LeaseId> {
        let due = |kept: &Kept| match kept.ended {
            None => kept.until <= now,
            Some(proposed) => proposed + OPERATION_TIMEOUT <= now,
        };
        let due = self.leases.iter_mut().filter(|(_, kept)| due(kept));
        due.map(|(lease, kept)| {
            kept.ended = Some(now);
            *lease
        })
        .collect()
    }
}

impl RaftNode {
    /// Ends leases on this node, whenever it leads, for as long as it runs.
    pub async fn keep_leases(&self) {
        let mut ticks = interval(LEASE_LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(term) = self.term_led() else { continue };
            if let Err(error) = self.end_leases(term).await {
                tracing::debug!(%error, "leases are not looked after");
            }
        }
    }

    /// Keeps a lease alive on this node, which has to lead; its time to live.
    pub(super) async fn keep_lease_here(&self, lease: LeaseId) -> Result<Duration, ApiError> {
        let asked = Instant::now();
        let term = self.term_led().ok_or_else(|| not_leader(None, None))?;
        let confirmed = self.confirm_leadership(false).await?;
        // What was granted or revoked before is in the state.
        self.await_applied(confirmed.index).await?;
        self.take_over(term).await?;
        let missing = ApiError::LeaseNotFound { lease };
        let ttl_ms = self.inner.readers.lease_ttl(lease).await?.ok_or(missing.clone())?;
        let ttl = Duration::from_millis(ttl_ms);
        let kept = self.kept(|kept| (kept.term == term).then(|| kept.keep(lease, ttl, asked)));
        if !kept.ok_or(not_leader(None, None))? {
            return Err(missing);
        }
        // It may have ended since it was looked for, and been forgotten; from now on it cannot.
        self.inner.readers.lease_ttl(lease).await?.map(|_| ttl).ok_or(missing)
    }

    /// How long a lease lives yet, if this node knows.
    pub(super) fn lease_left(&self, lease: LeaseId) -> Option<Duration> {
        let term = self.term_led()?;
        self.kept(|kept| {
            let until = kept.leases.get(&lease).filter(|_| kept.term == term)?.until;
            Some(until.saturating_duration_since(Instant::now()))
        })
    }

    /// Proposes the end of every lease whose time is over.
    async fn end_leases(&self, term: u64) -> Result<(), ApiError> {
        self.take_over(term).await?;
        let present = self.inner.readers.lease_ttls().await?;
        let due = self.kept(|kept| {
            kept.note(&present, Instant::now());
            kept.end(Instant::now())
        });
        // Many at once: where a whole host is gone, so are all of its leases, and none is to wait for the commits of the others.
        let ends = due.into_iter().map(|lease| async move {
            tracing::info!(%lease, "a lease was not kept alive and ends");
            let command = (&Command::RevokeLease { lease }).into();
            // By the leader of this term, or not at all: another one may have kept it alive.
            let proposed = self.inner.raft.write(command).with_leader(term).await;
            proposed.map(drop).map_err(|fatal| Self::stopping(&fatal))
        });
        stream::iter(ends).buffer_unordered(LEASE_ENDS_AT_ONCE as usize).try_collect().await
    }

    /// Begins to keep the leases of a term that this node leads, once it has applied what earlier leaders have done.
    async fn take_over(&self, term: u64) -> Result<(), ApiError> {
        if self.kept(|kept| kept.term == term) {
            return Ok(());
        }
        let confirmed = self.confirm_leadership(false).await?;
        self.await_applied(confirmed.index).await?;
        let present = self.inner.readers.lease_ttls().await?;
        self.kept(|kept| {
            if kept.term < term {
                *kept = KeptLeases { term, ..KeptLeases::default() };
                kept.note(&present, Instant::now());
            }
        });
        Ok(())
    }

    /// The term that this node leads, as far as it knows.
    fn term_led(&self) -> Option<u64> {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        (metrics.state == ServerState::Leader).then(|| metrics.vote.leader_id().term)
    }

    fn kept<T>(&self, work: impl FnOnce(&mut KeptLeases) -> T) -> T {
        work(&mut self.inner.kept.lock().expect("nothing panics while it holds this lock"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lease_ends_when_nobody_keeps_it_alive_and_only_then() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut kept = KeptLeases::default();
        kept.note(&BTreeMap::from([(LeaseId(1), 1_000), (LeaseId(2), 5_000)]), at(0));
        assert_eq!(kept.end(at(999)), []);
        let ttl = Duration::from_secs(1);
        assert!(kept.keep(LeaseId(1), ttl, at(900)));
        assert_eq!(kept.end(at(1_000)), []);
        // One that was asked for earlier, and comes later, takes nothing away.
        assert!(kept.keep(LeaseId(1), ttl, at(500)));
        assert_eq!(kept.end(at(1_899)), []);
        assert_eq!(kept.end(at(1_900)), [LeaseId(1)]);
        // Its end is under way: whoever comes now is too late.
        assert!(!kept.keep(LeaseId(1), ttl, at(1_901)));
        assert_eq!(kept.end(at(2_000)), []);
        assert_eq!(kept.end(at(1_900) + OPERATION_TIMEOUT), [LeaseId(1), LeaseId(2)]);
        kept.note(&BTreeMap::from([(LeaseId(3), 1_000)]), at(10_000));
        assert_eq!(kept.end(at(11_000)), [LeaseId(3)]);
        // One that was granted since the last look.
        assert!(kept.keep(LeaseId(4), ttl, at(11_000)));
        assert_eq!(kept.end(at(12_000)), [LeaseId(4)]);
    }
}
