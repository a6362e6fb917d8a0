//! `LeaderPlacement`: on the leader, hands leadership to a voter in a region that is preferred, and says so.
//!
//! Whether, and to whom, is decided by [`Standing::next`], which knows no clock and no Raft. It is in no hurry: a voter has to have been
//! well for a while, and a leader has to have led for a while, so that however regions come and go, leadership moves no more often
//! than that. And it moves by the wish of both: members that are told different things do not hand it to and fro.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ServerState;
use tokio::time::{Instant, timeout};

use super::follower::Follower;
use super::promotion::Rounds;
use super::{NodeHealth, RaftNode};
use crate::api::ApiError;
use crate::limits::{
    HAND_OVER_COOL_DOWN, HAND_OVER_LAG_MAX, HAND_OVER_LED_MIN, HAND_OVER_WAIT, HAND_OVER_WELL_MIN,
};
use crate::types::{Label, NodeId};

/// A voter as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// Where it is, if it has said so.
    region: Option<Label>,
    /// Whether it wants the leader to be where this one does.
    agrees: bool,
    /// How long it has been well: healthy, answering, and with nearly all of the log.
    well: Duration,
    /// Entries that it lacks.
    lag: u64,
}

/// How the voters stand, once the members are settled.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standing {
    /// Where the leader is.
    region: Option<Label>,
    /// The others.
    voters: BTreeMap<NodeId, Seen>,
    /// How long this node has led.
    led: Duration,
    /// How long ago it has handed leadership over itself, or tried to.
    handed_over: Option<Duration>,
}

impl Standing {
    /// Who should lead instead, if anybody: in the best region, by the order of `preferred`, that is better than the leader's own.
    fn next(&self, preferred: &[Label]) -> Option<NodeId> {
        let is_early =
            self.led < HAND_OVER_LED_MIN || self.handed_over.is_some_and(|ago| ago < HAND_OVER_COOL_DOWN);
        if is_early {
            return None;
        }
        // Those that are not named come after all that are.
        let rank = |region: &Option<Label>| {
            let place = preferred.iter().position(|preferred| Some(preferred) == region.as_ref());
            place.unwrap_or(preferred.len())
        };
        let own = rank(&self.region);
        let fit = self
            .voters
            .iter()
            .filter(|(_, seen)| seen.agrees && seen.well >= HAND_OVER_WELL_MIN && rank(&seen.region) < own);
        fit.min_by_key(|(id, seen)| (rank(&seen.region), seen.lag, **id)).map(|(id, _)| *id)
    }
}

/// Has leadership be where it is wanted, on one node, whenever that leads.
#[derive(Debug)]
pub struct LeaderPlacement {
    raft: RaftNode,
    /// The term that it leads, since when, and since when each voter has been well under it.
    led: Option<Led>,
    handed_over: Option<Instant>,
    /// Who was said to want something else.
    said: BTreeSet<NodeId>,
}

#[derive(Debug)]
struct Led {
    term: u64,
    since: Instant,
    well_since: BTreeMap<NodeId, Instant>,
}

impl LeaderPlacement {
    /// Of a node.
    pub fn new(raft: RaftNode) -> Self {
        Self { raft, led: None, handed_over: None, said: BTreeSet::new() }
    }

    /// Looks for as long as it runs; not at all where no region is preferred.
    pub async fn run(mut self) {
        let preferred = self.raft.inner.about.preferred_regions.clone();
        if preferred.is_empty() {
            return;
        }
        let mut rounds = Rounds::new(self.raft.inner.patience);
        loop {
            // Whoever was stopped itself cannot say how others were meanwhile.
            if rounds.next().await {
                self.led = None;
            }
            let Some(standing) = self.look() else { continue };
            if let Some(to) = standing.next(&preferred) {
                self.hand_over(to, &standing).await;
            }
        }
    }

    /// Hands leadership over while nothing else is done with the members, and says what has come of it.
    async fn hand_over(&mut self, to: NodeId, standing: &Standing) {
        // Who changes the members has asked for it; this waits.
        let Ok(_turn) = self.raft.inner.changing.clone().try_lock_owned() else { return };
        self.handed_over = Some(Instant::now());
        let name = |region: Option<&Label>| region.map_or("no region", Label::as_str).to_owned();
        let region = name(standing.voters.get(&to).and_then(|seen| seen.region.as_ref()));
        let instead_of = name(standing.region.as_ref());
        let handed_over = timeout(HAND_OVER_WAIT, self.raft.hand_over(to)).await;
        let failed: &dyn std::fmt::Display = match &handed_over {
            Ok(Ok(())) => {
                tracing::info!(%to, region, instead_of, "leadership is handed to a region that is preferred");
                return;
            }
            // Somebody else was elected meanwhile.
            Ok(Err(ApiError::NotLeader { .. })) => return,
            Ok(Err(error)) => error,
            Err(_) => &"it was not taken over in time",
        };
        tracing::warn!(%to, region, instead_of, error = %failed, "leadership could not be handed to a region that is preferred");
    }

    /// How the voters stand; nothing where this node does not lead, or the members are being changed.
    fn look(&mut self) -> Option<Standing> {
        let metrics = self.raft.metrics();
        let membership = metrics.membership_config.membership();
        if metrics.state != ServerState::Leader {
            self.led = None;
            return None;
        }
        let (own, patience) = (self.raft.inner.id, self.raft.inner.patience);
        let health = self.raft.inner.health.lock().expect("nothing panics while it holds this lock").clone();
        let is_well = |id: &NodeId| {
            let voter = Follower::of(&metrics, *id);
            health.get(id) == Some(&NodeHealth::Healthy)
                && voter.answers(patience)
                && voter.lag <= HAND_OVER_LAG_MAX
        };
        let now = Instant::now();
        let term = metrics.current_term;
        if self.led.as_ref().is_none_or(|led| led.term != term) {
            self.led = Some(Led { term, since: now, well_since: BTreeMap::new() });
        }
        let led = self.led.as_mut()?;
        let voters: BTreeSet<NodeId> = membership.voter_ids().filter(|id| *id != own).collect();
        led.well_since.retain(|id, _| voters.contains(id) && is_well(id));
        for id in voters.iter().filter(|id| is_well(id)) {
            led.well_since.entry(*id).or_insert(now);
        }
        let is_settled = membership.get_joint_config().len() == 1
            && metrics.committed_membership_config == metrics.membership_config
            && membership.voter_ids().any(|id| id == own);
        if !is_settled {
            return None;
        }
        let (about, told) = (&self.raft.inner.about, self.raft.told_about());
        let seen = |id: &NodeId| {
            let told = told.get(id);
            Seen {
                region: told.and_then(|told| told.region.clone()),
                agrees: told.is_some_and(|told| told.preferred_regions == about.preferred_regions),
                well: led.well_since.get(id).map_or(Duration::ZERO, |since| now.duration_since(*since)),
                lag: Follower::of(&metrics, *id).lag,
            }
        };
        let seen: BTreeMap<NodeId, Seen> = voters.iter().map(|id| (*id, seen(id))).collect();
        for (id, _) in seen.iter().filter(|(id, seen)| !seen.agrees && told.contains_key(id)) {
            if self.said.insert(*id) {
                tracing::warn!(%id, "a member has other preferred_regions than this one: leadership is not handed to it");
            }
        }
        Some(Standing {
            region: about.region.clone(),
            voters: seen,
            led: now.duration_since(led.since),
            handed_over: self.handed_over.map(|then| now.duration_since(then)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;

    fn label(text: &str) -> Label {
        text.parse().unwrap()
    }

    /// A voter in a region, which is well for long and has everything.
    fn well(region: &str) -> Seen {
        Seen { region: Some(label(region)), agrees: true, well: Duration::from_mins(1), lag: 0 }
    }

    /// A leader in a region for a minute, with these voters, numbered from 2.
    fn standing(region: &str, voters: &[Seen]) -> Standing {
        let region = Some(region).filter(|region| !region.is_empty()).map(label);
        let voters = (2..).map(NodeId).zip(voters.iter().cloned()).collect();
        Standing { region, voters, led: Duration::from_mins(1), handed_over: None }
    }

    #[track_caller]
    fn check(standing: &Standing, preferred: &[&str], want: Option<u64>) {
        let preferred: Vec<Label> = preferred.iter().map(|region| label(region)).collect();
        assert_eq!(standing.next(&preferred), want.map(NodeId), "{standing:?}");
    }

    #[test]
    fn best_region_that_is_there_leads() {
        check(&standing("us", &[well("asia"), well("eu")]), &["eu"], Some(3));
        check(&standing("us", &[well("asia"), well("eu")]), &["eu", "asia"], Some(3));
        check(&standing("us", &[well("asia"), well("us")]), &["eu", "asia"], Some(2));
        check(&standing("", &[well("asia"), well("us")]), &["eu", "us"], Some(3));
        // It is where it is wanted, or nobody is anywhere better.
        check(&standing("eu", &[well("eu"), well("us")]), &["eu", "us"], None);
        check(&standing("us", &[well("us"), well("asia")]), &["eu", "us"], None);
        check(&standing("us", &[well("asia")]), &["eu"], None);
        check(&standing("us", &[well("eu")]), &[], None);
        let nowhere = Seen { region: None, ..well("eu") };
        check(&standing("us", slice::from_ref(&nowhere)), &["eu"], None);
        check(&standing("", &[nowhere]), &["eu"], None);
    }

    #[test]
    fn of_several_the_one_that_lacks_least_leads() {
        let behind = |lag| Seen { lag, ..well("eu") };
        check(&standing("us", &[behind(5), behind(3), behind(3)]), &["eu"], Some(3));
    }

    #[test]
    fn voter_that_was_not_well_for_long_or_wants_something_else_is_passed_over() {
        let lately = Seen { well: HAND_OVER_WELL_MIN.saturating_sub(Duration::from_millis(1)), ..well("eu") };
        check(&standing("us", slice::from_ref(&lately)), &["eu"], None);
        check(&standing("us", &[lately, well("eu")]), &["eu"], Some(3));
        check(&standing("us", &[Seen { well: HAND_OVER_WELL_MIN, ..well("eu") }]), &["eu"], Some(2));
        let other = Seen { agrees: false, ..well("eu") };
        check(&standing("us", &[other, well("asia")]), &["eu", "asia"], Some(3));
    }

    #[test]
    fn leader_that_has_led_or_tried_only_lately_waits() {
        let mut standing = standing("us", &[well("eu")]);
        let little = Duration::from_millis(1);
        standing.led = HAND_OVER_LED_MIN.saturating_sub(little);
        check(&standing, &["eu"], None);
        standing.led = HAND_OVER_LED_MIN;
        check(&standing, &["eu"], Some(2));
        standing.handed_over = Some(HAND_OVER_COOL_DOWN.saturating_sub(little));
        check(&standing, &["eu"], None);
        standing.handed_over = Some(HAND_OVER_COOL_DOWN);
        check(&standing, &["eu"], Some(2));
    }
}
