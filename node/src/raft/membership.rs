//! Who the members are, and what the leader knows of them; how leadership moves. What changes them is a [`Turn`](super::turn::Turn).

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use futures::future::BoxFuture;
use futures::{FutureExt, future};
use openraft::async_runtime::WatchReceiver;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::RaftNode;
use super::follower::Follower;
use super::operations::{bounded, not_leader};
use crate::api::{ApiError, BadRequest, TimeoutOutcome};
use crate::limits::{
    HAND_OVER_AGAIN, HAND_OVER_LAG_MAX, HAND_OVER_TIMEOUT, LEADER_RETRY, MEMBER_WAIT, PROMOTION_LAG_MAX,
};
use crate::network::Peer;
use crate::network::join::{JoinRefusal, JoinService, Welcome, Wish};
use crate::types::raft_types::{Membership, StoredMembership};
use crate::types::{NodeId, NodeInfo};

impl RaftNode {
    /// Whether a member has told this leader that it has anything.
    pub(super) fn has_acknowledged(&self, id: NodeId) -> bool {
        Follower::of(&self.metrics(), id).matched.is_some()
    }

    /// What whoever asks has to know of these members.
    pub(super) fn members_for(
        &self,
        info: &NodeInfo,
        membership: &StoredMembership,
    ) -> Result<Welcome, ApiError> {
        let members: Vec<Peer> =
            membership.nodes().map(|(id, info)| Peer { id: *id, info: info.clone() }).collect();
        if members.is_empty() {
            return Err(not_leader(None, None));
        }
        let own = members.iter().find(|peer| peer.info.endpoint_id == info.endpoint_id);
        Ok(Welcome {
            as_of: index_of(membership),
            id: own.map(|peer| peer.id),
            members,
            target_voters: self.inner.promotion.target_voters,
        })
    }

    /// On the leader: writes down where members are now, by their own word. What cannot be done now is done the next time that
    /// they say so.
    pub async fn members_moved(&self, moved: Vec<(NodeId, NodeInfo)>) {
        for (id, info) in moved {
            let (http, raft) = (info.http, info.raft);
            match self.change(move |turn| async move { turn.set_info(id, info).await }).await {
                Ok(()) => tracing::info!(%id, %raft, %http, "a member has moved"),
                Err(ApiError::NotLeader { .. } | ApiError::ChangeInProgress) => return,
                Err(error) => tracing::warn!(%id, %error, "where a member is now could not be written down"),
            }
        }
    }

    /// Checks again for a while: a new leader has not heard of everybody yet, nor a new member of everything.
    pub(super) async fn patiently(
        &self,
        give_up: Instant,
        check: impl Fn() -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        loop {
            if let Err(fatal) = self.metrics().running_state {
                return Err(Self::stopping(&fatal));
            }
            match check() {
                Err(
                    ApiError::NoQuorum
                    | ApiError::VotersSilent { .. }
                    | ApiError::MemberSilent { .. }
                    | ApiError::MemberBehind { .. },
                ) if Instant::now() < give_up => {}
                checked => return checked,
            }
            sleep(LEADER_RETRY).await;
        }
    }

    /// Whether a change to these voters could be made at once.
    pub(super) fn check_next(&self, next: &BTreeSet<NodeId>, force: bool) -> Result<(), ApiError> {
        let stored = self.membership()?;
        let membership = stored.membership();
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        for added in next.difference(&voters).filter(|_| !force) {
            self.check_follows(*added, PROMOTION_LAG_MAX)?;
        }
        let metrics = self.metrics();
        let answering = |ids: &BTreeSet<NodeId>| {
            let patience = self.inner.patience;
            let answers =
                |id: &&NodeId| **id == self.inner.id || Follower::of(&metrics, **id).answers(patience);
            ids.iter().filter(answers).count()
        };
        let is_majority = |ids: &BTreeSet<NodeId>| answering(ids) > ids.len() / 2;
        if !membership.get_joint_config().iter().all(is_majority) {
            return Err(ApiError::NoQuorum);
        }
        let (answer, of) = (answering(next) as u64, next.len() as u64);
        if is_majority(next) { Ok(()) } else { Err(ApiError::VotersSilent { answer, of }) }
    }

    /// Whether a member answers and lacks no more entries than this.
    fn check_follows(&self, id: NodeId, lag_max: u64) -> Result<(), ApiError> {
        let member = Follower::of(&self.metrics(), id);
        if !member.answers(self.inner.patience) {
            return Err(ApiError::MemberSilent { id });
        }
        let lag = member.lag;
        if lag > lag_max { Err(ApiError::MemberBehind { id, lag, lag_max }) } else { Ok(()) }
    }

    /// Hands leadership to a voter that can take it over at once: while it is under way nobody can write.
    pub(super) async fn hand_over_safely(&self, to: NodeId) -> Result<(), ApiError> {
        let is_voter = self.membership()?.membership().voter_ids().any(|id| id == to);
        if is_voter && to != self.inner.id {
            let check = || self.membership().and_then(|_| self.check_follows(to, HAND_OVER_LAG_MAX));
            self.patiently(Instant::now() + MEMBER_WAIT, check).await?;
        }
        self.hand_over(to).await
    }

    /// Hands leadership to a voter, and returns when it leads.
    pub(super) async fn hand_over(&self, to: NodeId) -> Result<(), ApiError> {
        if !self.membership()?.membership().voter_ids().any(|id| id == to) {
            return Err(BadRequest::NotAVoter(to).into());
        }
        let mut metrics = self.inner.raft.server_metrics();
        if metrics.borrow_watched().current_leader == Some(to) {
            return Ok(());
        }
        loop {
            // Where another leads already it does nothing.
            let asked = self.inner.raft.trigger().transfer_leader(to).await;
            asked.map_err(|fatal| Self::stopping(&fatal))?;
            let taken = metrics.wait_until(|metrics| metrics.current_leader == Some(to));
            match timeout(HAND_OVER_AGAIN, taken).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(_)) => return Err(ApiError::Stopping { reason: "raft stopped".to_owned() }),
                Err(_) => {}
            }
        }
    }

    /// Hands leadership to another voter before this node stops, if it leads: nobody has to miss it first. From now on it takes
    /// none.
    pub async fn step_aside(&self) {
        self.inner.is_stopping.store(true, Ordering::Relaxed);
        let Some(to) = self.successor() else { return };
        match timeout(HAND_OVER_TIMEOUT, self.hand_over(to)).await {
            Ok(Ok(())) => tracing::info!(%to, "leadership is handed over"),
            Ok(Err(error)) => tracing::warn!(%to, %error, "leadership could not be handed over"),
            Err(_) => tracing::warn!(%to, "leadership was not taken over in time"),
        }
    }

    /// On the leader: the voter that has answered lately and has most of the log.
    pub(super) fn successor(&self) -> Option<NodeId> {
        let metrics = self.metrics();
        let others = metrics.membership_config.membership().voter_ids().filter(|id| *id != self.inner.id);
        let others = others.map(|id| (id, Follower::of(&metrics, id)));
        let there = others.filter(|(_, voter)| voter.answers(self.inner.patience));
        there.max_by_key(|(_, voter)| voter.matched).map(|(id, _)| id)
    }

    /// The present members, as the leader has them.
    pub(super) fn membership(&self) -> Result<StoredMembership, ApiError> {
        if self.is_removed() {
            return Err(ApiError::Removed);
        }
        let leader = self.leader();
        if leader.as_ref().is_none_or(|leader| leader.id != self.inner.id) {
            return Err(not_leader(
                leader.as_ref().map(|leader| leader.id),
                leader.as_ref().map(|leader| &leader.info),
            ));
        }
        Ok(self.inner.raft.server_metrics().borrow_watched().membership_config.as_ref().clone())
    }
}

impl JoinService for RaftNode {
    fn grant(&self, wish: Wish, info: NodeInfo) -> BoxFuture<'_, Result<Welcome, JoinRefusal>> {
        let refused = |error: ApiError| match error {
            ApiError::NotLeader { .. } => JoinRefusal::NotLeader { leader: self.leader() },
            error => JoinRefusal::Refused(error),
        };
        let id = match wish {
            Wish::Members => {
                // A change that is under way may never come to be, where this node leads without the others.
                let settled =
                    self.inner.raft.server_metrics().borrow_watched().committed_membership_config.clone();
                return future::ready(self.members_for(&info, &settled).map_err(refused)).boxed();
            }
            Wish::Join(id) => id,
        };
        async move {
            if info.raft.ip().is_unspecified() || info.raft.port() == 0 {
                return Err(JoinRefusal::Refused(BadRequest::NoAddress(info.raft).into()));
            }
            // Nobody waits in a queue who is sent elsewhere in any case.
            self.membership().map_err(refused)?;
            let (done, welcome) = oneshot::channel();
            let change = self.change(move |turn| async move {
                // Whoever has asked may be gone.
                let _ = done.send(turn.let_in(id, info).await?);
                Ok(())
            });
            bounded(TimeoutOutcome::GoesOn, change).await.map_err(refused)?;
            welcome.await.map_err(|_| JoinRefusal::Refused(ApiError::LeaderLost))
        }
        .boxed()
    }
}

/// Whether the members are being changed: two majorities have to agree, or nobody knows yet that the present ones are who they are.
pub(super) fn is_changing(present: &StoredMembership, committed: &StoredMembership) -> bool {
    present.membership().get_joint_config().len() > 1 || present != committed
}

/// Who votes once the change that is under way is done.
pub(super) fn future_voters(membership: &Membership) -> BTreeSet<NodeId> {
    membership.get_joint_config().last().cloned().unwrap_or_default()
}

/// The entry that has made these the members.
pub(super) fn index_of(membership: &StoredMembership) -> u64 {
    membership.log_id().as_ref().map_or(0, |id| id.index)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::types::EndpointKey;

    /// Who votes, by one majority or by two.
    fn stored(majorities: &[&[u64]]) -> StoredMembership {
        let address = ([127, 0, 0, 1], 9).into();
        let info = NodeInfo { endpoint_id: EndpointKey([1; 32]), raft: address, http: address };
        let ids = |ids: &&[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<NodeId>>();
        let majorities: Vec<BTreeSet<NodeId>> = majorities.iter().map(ids).collect();
        let nodes: BTreeMap<NodeId, NodeInfo> =
            majorities.iter().flatten().map(|id| (*id, info.clone())).collect();
        StoredMembership::new(None, Membership::new(majorities, nodes).unwrap())
    }

    #[test]
    fn members_are_being_changed_until_one_majority_is_left_and_known_to_be() {
        let (one, both, five) =
            (stored(&[&[1]]), stored(&[&[1], &[1, 2, 3, 4, 5]]), stored(&[&[1, 2, 3, 4, 5]]));
        assert!(!is_changing(&one, &one) && !is_changing(&five, &five));
        assert!(is_changing(&both, &one) && is_changing(&both, &both) && is_changing(&five, &both));
    }
}
