//! `LearnerPromotionCoordinator`: on the leader, lets learners vote until as many members do as are wanted, and puts one in the place
//! of a voter that is gone for good.
//!
//! What to change next is decided by [`Standing::next`], which knows no clock and no Raft. It never makes the cluster smaller, and
//! never begins a change for which a majority is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ServerState;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::RaftNode;
use super::follower::Follower;
use super::membership::{future_voters, is_changing};
use crate::api::ApiError;
use crate::limits::{PROMOTION_COOL_DOWN, PROMOTION_INTERVAL, PROMOTION_LAG_MAX};
use crate::types::NodeId;

/// How many members should vote, and what is done about those that are gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PromotionPolicy {
    /// Learners are promoted until so many vote; absent: none is.
    pub target_voters: Option<u32>,
    /// A voter that has been silent for so long is replaced by a learner; absent: none is.
    pub replace_after: Option<Duration>,
}

/// A member as its leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    is_voter: bool,
    /// How long it has not answered.
    silent: Duration,
    /// Entries that it lacks.
    lag: u64,
}

/// How the members stand.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standing {
    members: BTreeMap<NodeId, Seen>,
    /// Who has been silent for so long does not count.
    patience: Duration,
}

impl Standing {
    /// Who should vote instead of those who do, if anything is to be changed.
    fn next(&self, policy: PromotionPolicy) -> Option<BTreeSet<NodeId>> {
        let voters = self.ids(|seen| seen.is_voter);
        let present = self.ids(|seen| seen.is_voter && seen.silent < self.patience);
        if present.len() <= voters.len() / 2 {
            return None;
        }
        let mut ready =
            self.ids(|seen| !seen.is_voter && seen.silent < self.patience && seen.lag <= PROMOTION_LAG_MAX);
        let is_gone = |seen: &Seen| policy.replace_after.is_some_and(|after| seen.silent >= after);
        let gone = self.ids(|seen| seen.is_voter && is_gone(seen));
        if let (Some(gone), Some(ready)) = (gone.first(), ready.first()) {
            let mut next = voters;
            next.remove(gone);
            next.insert(*ready);
            return Some(next);
        }
        let target = policy.target_voters? as usize;
        let mut count = target.min(voters.len() + ready.len());
        // One more than an odd number of voters makes no failure more bearable, so they come in pairs.
        if count.is_multiple_of(2) && count != target {
            count -= 1;
        }
        let missing = count.checked_sub(voters.len()).filter(|missing| *missing > 0)?;
        let promoted = std::iter::from_fn(|| ready.pop_first()).take(missing);
        Some(voters.into_iter().chain(promoted).collect())
    }

    fn ids(&self, is_meant: impl Fn(&Seen) -> bool) -> BTreeSet<NodeId> {
        self.members.iter().filter(|(_, seen)| is_meant(seen)).map(|(id, _)| *id).collect()
    }
}

/// Promotes learners on one node, whenever that leads.
#[derive(Debug)]
pub struct LearnerPromotionCoordinator {
    raft: RaftNode,
    policy: PromotionPolicy,
    /// Since when this node has led, and the voters have been who they are.
    since: Option<(BTreeSet<NodeId>, Instant)>,
    /// Since when this node has led without having been stopped itself.
    watching_since: Option<Instant>,
    /// Since when this node has led a cluster with two majorities.
    half_done_since: Option<Instant>,
}

/// The rounds in which a leader looks at the members.
#[derive(Debug)]
pub(super) struct Rounds {
    ticks: Interval,
    looked: Instant,
    /// How much later than it should be one may begin.
    patience: Duration,
}

impl Rounds {
    pub(super) fn new(patience: Duration) -> Self {
        let mut ticks = interval(PROMOTION_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, looked: Instant::now(), patience }
    }

    /// Waits for the next one; whether this node was stopped meanwhile.
    pub(super) async fn next(&mut self) -> bool {
        self.ticks.tick().await;
        let was_stopped = self.looked.elapsed() > PROMOTION_INTERVAL + self.patience;
        self.looked = Instant::now();
        was_stopped
    }
}

impl LearnerPromotionCoordinator {
    /// Of a node, by a policy.
    pub fn new(raft: RaftNode, policy: PromotionPolicy) -> Self {
        Self { raft, policy, since: None, watching_since: None, half_done_since: None }
    }

    /// Looks after the voters for as long as it runs.
    pub async fn run(mut self) {
        let mut rounds = Rounds::new(self.raft.inner.patience);
        loop {
            // Whoever was stopped itself cannot say how long others were silent.
            if rounds.next().await {
                self.watching_since = None;
            }
            if let Some(next) = self.unfinished() {
                self.finish(next).await;
                continue;
            }
            let Some((standing, voters)) = self.look() else { continue };
            let Some(next) = standing.next(self.policy) else { continue };
            let expected = voters.clone();
            let text =
                |ids: &BTreeSet<NodeId>| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let (from, to, gone) = (text(&voters), text(&next), text(&(&voters - &next)));
            // Others may have changed them while this waited for its turn.
            let change =
                self.raft.change(move |turn| async move { turn.make_voters_from(&expected, next).await });
            match change.await {
                Ok(()) if gone.is_empty() => tracing::info!(%from, %to, "the voters were changed"),
                Ok(()) => tracing::warn!(
                    %gone, %from, %to, "a voter was silent for replace_after_s: it is no member any more, and another one votes in its place"
                ),
                Err(ApiError::ChangeInProgress) => {}
                Err(error) => tracing::warn!(%error, %from, %to, "the voters could not be changed"),
            }
        }
    }

    /// Who is to vote by a change that a leader has left half done: openraft leaves the second step to whoever has begun it, and until
    /// then the cluster has two majorities to ask.
    fn unfinished(&mut self) -> Option<BTreeSet<NodeId>> {
        let metrics = self.raft.metrics();
        let membership = metrics.membership_config.membership();
        let is_half_done = metrics.state == ServerState::Leader
            && membership.get_joint_config().len() > 1
            && metrics.committed_membership_config == metrics.membership_config;
        if !is_half_done {
            self.half_done_since = None;
            return None;
        }
        let since = *self.half_done_since.get_or_insert_with(Instant::now);
        (since.elapsed() >= PROMOTION_COOL_DOWN).then(|| future_voters(membership))
    }

    /// Makes the second step. Whether the voters that leave were to stay as learners nobody knows any more: they stay.
    async fn finish(&self, voters: BTreeSet<NodeId>) {
        match self.raft.change(move |turn| async move { turn.make_voters(voters, true).await }).await {
            Ok(()) => tracing::info!("a change of the voters that another leader had begun is done"),
            Err(error) => {
                tracing::warn!(%error, "a change of the voters that another leader had begun is not done yet");
            }
        }
    }

    /// How the members stand, and who votes; nothing where this node does not lead, or the voters have changed only lately.
    fn look(&mut self) -> Option<(Standing, BTreeSet<NodeId>)> {
        let metrics = self.raft.metrics();
        let membership = metrics.membership_config.membership();
        let is_settled = !is_changing(&metrics.membership_config, &metrics.committed_membership_config);
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        if metrics.state != ServerState::Leader || !is_settled {
            self.since = None;
            if metrics.state != ServerState::Leader {
                self.watching_since = None;
            }
            return None;
        }
        let now = Instant::now();
        let watched = now.duration_since(*self.watching_since.get_or_insert(now));
        let began = match &self.since {
            Some((before, began)) if *before == voters => *began,
            _ => now,
        };
        self.since = Some((voters.clone(), began));
        let led = now.duration_since(began);
        let own = self.raft.inner.id;
        let seen = |id: &NodeId| {
            let is_voter = voters.contains(id);
            if *id == own {
                return Seen { is_voter, silent: Duration::ZERO, lag: 0 };
            }
            let member = Follower::of(&metrics, *id);
            // Nobody is known to be silent for longer than this node has been looking.
            let silent = member.silent.unwrap_or(watched).min(watched);
            let lag = if member.silent.is_some() { member.lag } else { u64::MAX };
            Seen { is_voter, silent, lag }
        };
        let members = membership.nodes().map(|(id, _)| (*id, seen(id))).collect();
        let standing = Standing { members, patience: self.raft.inner.patience };
        (led >= PROMOTION_COOL_DOWN).then_some((standing, voters))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` votes, `-` learns, `!` votes and is silent for a minute, `?` learns and is silent, `~` learns and is far behind.
    fn standing(members: &str) -> Standing {
        let seen = |mark: char| Seen {
            is_voter: matches!(mark, '+' | '!'),
            silent: Duration::from_secs(if matches!(mark, '!' | '?') { 60 } else { 0 }),
            lag: if mark == '~' { PROMOTION_LAG_MAX + 1 } else { PROMOTION_LAG_MAX },
        };
        let members = (1..).map(NodeId).zip(members.chars().map(seen)).collect();
        Standing { members, patience: Duration::from_secs(1) }
    }

    #[track_caller]
    fn check(members: &str, target: Option<u32>, replace_after_s: Option<u64>, want: &[u64]) {
        let policy = PromotionPolicy {
            target_voters: target,
            replace_after: replace_after_s.map(Duration::from_secs),
        };
        let next = standing(members).next(policy).unwrap_or_default();
        assert_eq!(next.into_iter().map(|id| id.0).collect::<Vec<_>>(), want, "{members}");
    }

    #[test]
    fn learners_are_promoted_in_pairs_up_to_the_target() {
        check("+-", Some(5), None, &[]);
        check("+--", Some(5), None, &[1, 2, 3]);
        check("+---", Some(5), None, &[1, 2, 3]);
        check("+----", Some(5), None, &[1, 2, 3, 4, 5]);
        check("+++--", Some(5), None, &[1, 2, 3, 4, 5]);
        check("+++++--", Some(5), None, &[]);
        check("+-------", None, None, &[]);
    }

    #[test]
    fn even_number_of_voters_is_made_only_where_it_is_wanted() {
        check("+-", Some(2), None, &[1, 2]);
        check("+--", Some(2), None, &[1, 2]);
        check("++-", Some(3), None, &[1, 2, 3]);
        check("++-", Some(4), None, &[1, 2, 3]);
    }

    #[test]
    fn learner_that_is_behind_or_silent_does_not_count() {
        check("+-~", Some(3), None, &[]);
        check("+-?", Some(3), None, &[]);
        check("+~-?-", Some(3), None, &[1, 3, 5]);
    }

    #[test]
    fn voter_that_is_gone_is_replaced_only_where_that_is_wanted_and_possible() {
        check("++!-", Some(3), Some(10), &[1, 2, 4]);
        check("++!-", Some(3), Some(61), &[]);
        check("++!-", Some(3), None, &[]);
        check("++!", Some(3), Some(10), &[]);
        check("++!~", Some(3), Some(10), &[]);
        check("!+++!--", Some(5), Some(10), &[2, 3, 4, 5, 6]);
    }

    #[test]
    fn nothing_is_begun_without_a_majority() {
        check("+!!--", Some(5), Some(10), &[]);
        check("+!--", Some(4), Some(10), &[]);
    }
}
