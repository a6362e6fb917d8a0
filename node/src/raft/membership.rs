//! Changes of the cluster's members: learners come, become voters, and go; leadership moves. Only the leader makes them, by
//! joint consensus (Raft thesis 4.3), one at a time.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use futures::future::BoxFuture;
use futures::{FutureExt, future};
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, ForwardReason, RaftError};
use openraft::raft::Precondition;
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::RaftNode;
use super::follower::Follower;
use super::operations::{bounded, not_leader};
use crate::api::{ApiError, BadRequest, TimeoutOutcome};
use crate::host::hosted;
use crate::limits::{
    HAND_OVER_AGAIN, HAND_OVER_LAG_MAX, HAND_OVER_TIMEOUT, JOIN_ID_MAX, LEADER_RETRY, LEADER_WAIT,
    MEMBER_WAIT, PEERS_MAX, PROMOTION_LAG_MAX, VOTERS_MAX,
};
use crate::network::Peer;
use crate::network::join::{JoinRefusal, JoinService, Welcome, Wish};
use crate::types::raft_types::{Membership, StoredMembership};
use crate::types::{NodeId, NodeInfo, TypeConfig};

impl RaftNode {
    /// Makes a change of the members that goes on when nobody waits for it any more: one that ended between its two steps would
    /// leave the cluster with two majorities to ask. One after the other: each sees what the one before has made.
    pub(super) async fn change<F>(&self, change: impl FnOnce(Turn) -> F) -> Result<(), ApiError>
    where
        F: Future<Output = Result<(), ApiError>> + Send + 'static,
    {
        // A refusal, which leaves nothing open, comes before a time-out, which does.
        let give_up = Instant::now() + LEADER_WAIT;
        let turn = timeout_at(give_up, self.inner.changing.clone().lock_owned()).await;
        let held = turn.map_err(|_| ApiError::ChangeInProgress)?;
        let (done, outcome) = oneshot::channel();
        let work = change(Turn { node: self.clone(), give_up, _held: held });
        {
            let mut tasks = self.inner.tasks.lock().expect("nothing panics while it holds this lock");
            while tasks.try_join_next().is_some() {}
            tasks.spawn(hosted(async move {
                // Whoever has asked may be gone.
                let _ = done.send(work.await);
            }));
        }
        outcome.await.unwrap_or_else(|_| Err(ApiError::Stopping { reason: "raft stopped".to_owned() }))
    }

    /// Whether a member has told this leader that it has anything.
    fn has_acknowledged(&self, id: NodeId) -> bool {
        Follower::of(&self.metrics(), id).matched.is_some()
    }

    /// What whoever asks has to know of these members.
    fn members_for(&self, info: &NodeInfo, membership: &StoredMembership) -> Result<Welcome, ApiError> {
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
    async fn patiently(
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
    fn check_next(&self, next: &BTreeSet<NodeId>, force: bool) -> Result<(), ApiError> {
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
    fn successor(&self) -> Option<NodeId> {
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

/// The change of the members that a leader makes now; there is one at a time.
pub(super) struct Turn {
    node: RaftNode,
    /// How long it waits for what it takes before it is begun.
    give_up: Instant,
    _held: OwnedMutexGuard<()>,
}

impl Turn {
    pub(super) async fn make_learner(&self, id: NodeId, info: NodeInfo) -> Result<(), ApiError> {
        let present = self.node.membership()?;
        let members = present.membership();
        if let Some(known) = members.get_node(&id) {
            // Asked again; but a member whose address changes could be two.
            return if *known == info { Ok(()) } else { Err(ApiError::MemberExists { id }) };
        }
        if members.nodes().count() >= PEERS_MAX as usize {
            return Err(BadRequest::ClusterFull.into());
        }
        if let Some((other, _)) = members.nodes().find(|(_, known)| known.endpoint_id == info.endpoint_id) {
            return Err(BadRequest::EndpointTaken { id, other: *other }.into());
        }
        self.patiently(|| self.node.check_next(&future_voters(members), false)).await?;
        self.write(&present, ChangeMembers::AddNodes([(id, info)].into()), true).await
    }

    /// Lets a node in that knows the cluster's secret. Under a key that is a member already it is that member, which may have
    /// moved; but it must not have been sent anything yet: what it has acknowledged, others count on.
    async fn let_in(self, id: Option<NodeId>, info: NodeInfo) -> Result<Welcome, ApiError> {
        let stored = self.node.membership()?;
        let membership = stored.membership();
        let present = membership.nodes().find(|(_, known)| known.endpoint_id == info.endpoint_id);
        let own = match present {
            Some((own, _)) if id.is_some_and(|id| id != *own) => {
                return Err(BadRequest::EndpointTaken { id: id.unwrap_or_default(), other: *own }.into());
            }
            Some((own, _))
                if membership.voter_ids().any(|voter| voter == *own) || self.node.has_acknowledged(*own) =>
            {
                return Err(BadRequest::LostItsLog(*own).into());
            }
            Some((own, _)) => {
                self.set_info(*own, info.clone()).await?;
                *own
            }
            None => {
                let id = match id {
                    Some(id) => id,
                    None => self.next_id(membership).await?,
                };
                if id == NodeId(0) || id.0 > JOIN_ID_MAX {
                    return Err(BadRequest::JoinId(id).into());
                }
                self.make_learner(id, info.clone()).await?;
                id
            }
        };
        let present = self.node.inner.raft.server_metrics().borrow_watched().membership_config.clone();
        let welcome = self.node.members_for(&info, &present)?;
        // Another leader may have made other changes meanwhile.
        if welcome.id == Some(own) { Ok(welcome) } else { Err(ApiError::ChangeInProgress) }
    }

    /// A number that no member has had: one that was removed may still run. Where somebody was given the largest that there is, one
    /// that no member has.
    async fn next_id(&self, members: &Membership) -> Result<NodeId, ApiError> {
        // Who the last one was is sure once all is applied that has changed the members.
        let known = self.node.await_applied(self.node.members_as_of());
        timeout_at(self.give_up, known).await.map_err(|_| ApiError::ChangeInProgress)??;
        let last = self.node.inner.readers.last_member().await?;
        let present: BTreeSet<u64> = members.nodes().map(|(id, _)| id.0).collect();
        let last = present.last().copied().unwrap_or(0).max(last);
        let mut free = (last.saturating_add(1)..=JOIN_ID_MAX).chain(1..).filter(|id| !present.contains(id));
        Ok(NodeId(free.next().unwrap_or_default()))
    }

    /// Writes down where a member is now. Its key stays: nobody else can be taken for it.
    async fn set_info(&self, id: NodeId, info: NodeInfo) -> Result<(), ApiError> {
        let present = self.node.membership()?;
        match present.membership().get_node(&id) {
            Some(known) if *known == info => Ok(()),
            Some(known) if known.endpoint_id == info.endpoint_id => {
                self.write(&present, ChangeMembers::SetNodes([(id, info)].into()), true).await
            }
            _ => Err(ApiError::MemberExists { id }),
        }
    }

    /// Makes exactly these members vote. Voters that are not among them become learners, or leave.
    pub(super) async fn make_voters(&self, voters: BTreeSet<NodeId>, retain: bool) -> Result<(), ApiError> {
        let present = self.node.membership()?;
        self.make_voters_of(&present, voters, retain).await
    }

    /// The same without those that are left over, if these are the voters now and nothing is under way.
    pub(super) async fn make_voters_from(
        &self,
        expected: &BTreeSet<NodeId>,
        voters: BTreeSet<NodeId>,
    ) -> Result<(), ApiError> {
        let present = self.node.membership()?;
        if present.membership().get_joint_config().as_slice() != std::slice::from_ref(expected) {
            return Err(ApiError::ChangeInProgress);
        }
        self.make_voters_of(&present, voters, false).await
    }

    /// The same as [`Self::make_voters`], but not before a majority of those who vote now and of those who are to vote answers: a
    /// change that is begun without stays half done. Nor before each that is added answers and has nearly everything, unless `force`
    /// says so.
    pub(super) async fn choose_voters(
        &self,
        voters: BTreeSet<NodeId>,
        retain: bool,
        force: bool,
    ) -> Result<(), ApiError> {
        let present = self.node.membership()?;
        self.choose_voters_of(&present, voters, retain, force).await
    }

    /// Makes one more member vote.
    pub(super) async fn make_voter(&self, id: NodeId, force: bool) -> Result<(), ApiError> {
        let present = self.node.membership()?;
        let mut voters = future_voters(present.membership());
        voters.insert(id);
        self.choose_voters_of(&present, voters, true, force).await
    }

    /// Takes a member away, be it a voter or a learner. A leader that is to go hands leadership over first, so that nobody has to miss
    /// it, and leaves the change to its successor.
    pub(super) async fn remove(&self, id: NodeId) -> Result<(), ApiError> {
        let present = self.node.membership()?;
        let members = present.membership();
        if id == self.node.inner.id
            && let Some(to) = self.node.successor()
        {
            // Even if it does not take over in time: a leader that has asked once takes no more writes in its term.
            let took_over = timeout(HAND_OVER_TIMEOUT, self.node.hand_over(to)).await;
            let leads = matches!(took_over, Ok(Ok(())));
            return Err(not_leader(leads.then_some(to), members.get_node(&to).filter(|_| leads)));
        }
        let mut voters = future_voters(members);
        if voters.remove(&id) {
            self.choose_voters_of(&present, voters, false, false).await
        } else if members.get_node(&id).is_some() {
            // Whom a change that is half done takes its vote from stays: nobody knows any more whether it was to.
            self.write(&present, ChangeMembers::RemoveNodes([id].into()), true).await
        } else {
            Ok(())
        }
    }

    async fn choose_voters_of(
        &self,
        present: &StoredMembership,
        voters: BTreeSet<NodeId>,
        retain: bool,
        force: bool,
    ) -> Result<(), ApiError> {
        check_voters(present.membership(), &voters)?;
        self.patiently(|| self.node.check_next(&voters, force)).await?;
        self.make_voters_of(present, voters, retain).await
    }

    async fn make_voters_of(
        &self,
        present: &StoredMembership,
        voters: BTreeSet<NodeId>,
        retain: bool,
    ) -> Result<(), ApiError> {
        let members = present.membership();
        check_voters(members, &voters)?;
        if members.get_joint_config().len() == 1 && members.voter_ids().collect::<BTreeSet<_>>() == voters {
            return Ok(());
        }
        self.write(present, ChangeMembers::ReplaceAllVoters(voters), retain).await
    }

    /// Checks again for a while, as long as this turn may wait.
    async fn patiently(&self, check: impl Fn() -> Result<(), ApiError>) -> Result<(), ApiError> {
        let give_up = self.give_up.min(Instant::now() + MEMBER_WAIT);
        self.node.patiently(give_up, check).await
    }

    /// Makes a change of these members and no others; again while this leader is so new that no quorum has answered it yet, or that
    /// they may not be committed: writes wait for that as long.
    pub(super) async fn write(
        &self,
        present: &StoredMembership,
        change: ChangeMembers<NodeId, NodeInfo>,
        retain: bool,
    ) -> Result<(), ApiError> {
        let raft = &self.node.inner.raft;
        let is_half_done = present.membership().get_joint_config().len() > 1;
        let condition = Precondition::LastMembershipLogId { last_membership_log_id: *present.log_id() };
        loop {
            let made = raft.change_membership_if(change.clone(), retain, [condition.clone()]).await;
            let term = raft.server_metrics().borrow_watched().vote.leader_id().term;
            let is_new = made.as_ref().is_err_and(|error| is_of_a_new_leader(error, term, is_half_done));
            if !is_new || Instant::now() >= self.give_up {
                let made = sorted(made)?.log_id;
                let mut metrics = raft.server_metrics();
                let seen = metrics.wait_until(|metrics| *metrics.membership_config.log_id() >= Some(made));
                // Whoever has the next turn is to see it; where Raft has stopped, nobody has one.
                let _ = seen.await;
                return Ok(());
            }
            sleep(LEADER_RETRY).await;
        }
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

/// Whether these are members that can vote.
fn check_voters(membership: &Membership, voters: &BTreeSet<NodeId>) -> Result<(), BadRequest> {
    if voters.is_empty() || voters.len() > VOTERS_MAX as usize {
        return Err(BadRequest::VoterCount(voters.len() as u64));
    }
    match voters.iter().find(|id| membership.get_node(id).is_none()) {
        Some(unknown) => Err(BadRequest::NotALearner(*unknown)),
        None => Ok(()),
    }
}

/// Who votes once the change that is under way is done.
pub(super) fn future_voters(membership: &Membership) -> BTreeSet<NodeId> {
    membership.get_joint_config().last().cloned().unwrap_or_default()
}

/// The entry that has made these the members.
pub(super) fn index_of(membership: &StoredMembership) -> u64 {
    membership.log_id().as_ref().map_or(0, |id| id.index)
}

type ChangeError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

/// Whether a leader of this term has refused a change only since nothing of its own term is committed yet, and so not the members
/// of a term before it. A change that was left half done is another one: somebody else's to finish.
fn is_of_a_new_leader(error: &ChangeError, term: u64, is_half_done: bool) -> bool {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            forward.reason == ForwardReason::LeaseExpired
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(
            change,
        ))) => !is_half_done && change.membership_log_id.is_none_or(|id| id.leader_id.term < term),
        _ => false,
    }
}

/// Sorts what a change can end in.
fn sorted<T>(result: Result<T, ChangeError>) -> Result<T, ApiError> {
    match result {
        Ok(made) => Ok(made),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            Err(not_leader(forward.leader_id, forward.leader_node.as_ref()))
        }
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => Err(match error {
            ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_) => {
                ApiError::ChangeInProgress
            }
            error => BadRequest::Membership(error.to_string()).into(),
        }),
        // The members are others than they were when the change was asked for.
        Err(RaftError::APIError(ClientWriteError::PreconditionFailed(_))) => Err(ApiError::ChangeInProgress),
        Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) | RaftError::Fatal(_)) => {
            Err(ApiError::LeaderLost)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use openraft::errors::{ForwardToLeader, InProgress};
    use openraft::type_config::alias::LeaderIdOf;
    use openraft::vote::RaftLeaderIdExt;

    use super::*;
    use crate::types::EndpointKey;
    use crate::types::raft_types::LogId;

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
    fn new_leader_is_waited_for_and_no_other_refusal() {
        let membership_log_id = Some(LogId::new(LeaderIdOf::<TypeConfig>::new_committed(3, NodeId(1)), 9));
        let change = InProgress { committed: None, membership_log_id };
        let pending = ChangeError::APIError(ClientWriteError::ChangeMembershipError(change.into()));
        assert!(is_of_a_new_leader(&pending, 4, false));
        assert!(!is_of_a_new_leader(&pending, 3, false), "a change of its own");
        assert!(!is_of_a_new_leader(&pending, 4, true), "a change that was left half done");
        let elsewhere = |reason| {
            let forward = ForwardToLeader { leader_id: None, leader_node: None, reason };
            ChangeError::APIError(ClientWriteError::ForwardToLeader(forward))
        };
        assert!(is_of_a_new_leader(&elsewhere(ForwardReason::LeaseExpired), 4, true));
        assert!(!is_of_a_new_leader(&elsewhere(ForwardReason::NotLeader), 4, false));
    }

    #[test]
    fn members_are_being_changed_until_one_majority_is_left_and_known_to_be() {
        let (one, both, five) =
            (stored(&[&[1]]), stored(&[&[1], &[1, 2, 3, 4, 5]]), stored(&[&[1, 2, 3, 4, 5]]));
        assert!(!is_changing(&one, &one) && !is_changing(&five, &five));
        assert!(is_changing(&both, &one) && is_changing(&both, &both) && is_changing(&five, &both));
    }
}
