//! Changes of the cluster's members: learners come, become voters, and go. Only the leader makes them, by joint consensus (Raft
//! thesis 4.3), one at a time.

use std::collections::BTreeSet;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, ForwardReason, RaftError};
use openraft::raft::Precondition;
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::RaftNode;
use super::membership::future_voters;
use super::operations::not_leader;
use crate::api::{ApiError, BadRequest};
use crate::host::hosted;
use crate::limits::{
    HAND_OVER_TIMEOUT, JOIN_ID_MAX, LEADER_RETRY, LEADER_WAIT, MEMBER_WAIT, PEERS_MAX, VOTERS_MAX,
};
use crate::network::join::Welcome;
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
}

/// The change of the members that a leader makes now; there is one at a time.
pub(super) struct Turn {
    node: RaftNode,
    /// How long it waits for what it takes before it is begun.
    give_up: Instant,
    _held: OwnedMutexGuard<()>,
}

impl Turn {
    /// Lets a node in as a learner.
    pub(super) async fn make_learner(&self, id: NodeId, info: NodeInfo) -> Result<(), ApiError> {
        self.make_learner_of(&self.node.membership()?, id, info).await
    }

    async fn make_learner_of(
        &self,
        present: &StoredMembership,
        id: NodeId,
        info: NodeInfo,
    ) -> Result<(), ApiError> {
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
        self.write(present, ChangeMembers::AddNodes([(id, info)].into()), true).await
    }

    /// Lets a node in that knows the cluster's secret. Under a key that is a member already it is that member, which may have
    /// moved; but it must not have been sent anything yet: what it has acknowledged, others count on.
    pub(super) async fn let_in(self, id: Option<NodeId>, info: NodeInfo) -> Result<Welcome, ApiError> {
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
                self.set_info_of(&stored, *own, info.clone()).await?;
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
                self.make_learner_of(&stored, id, info.clone()).await?;
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
    pub(super) async fn set_info(&self, id: NodeId, info: NodeInfo) -> Result<(), ApiError> {
        self.set_info_of(&self.node.membership()?, id, info).await
    }

    async fn set_info_of(
        &self,
        present: &StoredMembership,
        id: NodeId,
        info: NodeInfo,
    ) -> Result<(), ApiError> {
        match present.membership().get_node(&id) {
            Some(known) if *known == info => Ok(()),
            Some(known) if known.endpoint_id == info.endpoint_id => {
                self.write(present, ChangeMembers::SetNodes([(id, info)].into()), true).await
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
        let mut of = present.clone();
        loop {
            let condition = Precondition::LastMembershipLogId { last_membership_log_id: *of.log_id() };
            let made = raft.change_membership_if(change.clone(), retain, [condition]).await;
            let (term, now) = {
                let metrics = raft.server_metrics();
                let metrics = metrics.borrow_watched();
                (metrics.vote.leader_id().term, metrics.membership_config.as_ref().clone())
            };
            let is_new = made.as_ref().is_err_and(|error| is_of_a_new_leader(error, term, is_half_done(&of)));
            if !is_new || Instant::now() >= self.give_up {
                let made = sorted(made)?.log_id;
                let mut metrics = raft.server_metrics();
                let seen = metrics.wait_until(|metrics| *metrics.membership_config.log_id() >= Some(made));
                // Whoever has the next turn is to see it; where Raft has stopped, nobody has one.
                let _ = seen.await;
                return Ok(());
            }
            if is_first_step(&now, &change, term) {
                of = now;
            }
            sleep(LEADER_RETRY).await;
        }
    }
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

type ChangeError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

/// Whether two majorities have to agree.
fn is_half_done(members: &StoredMembership) -> bool {
    members.membership().get_joint_config().len() > 1
}

/// Whether these are the members between the two steps of this change, the first of which was made in this term.
fn is_first_step(members: &StoredMembership, change: &ChangeMembers<NodeId, NodeInfo>, term: u64) -> bool {
    let is_of_term = members.log_id().is_some_and(|id| id.leader_id.term == term);
    let ChangeMembers::ReplaceAllVoters(voters) = change else { return false };
    is_of_term && is_half_done(members) && future_voters(members.membership()) == *voters
}

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
    use openraft::errors::{ForwardToLeader, InProgress};
    use openraft::type_config::alias::LeaderIdOf;
    use openraft::vote::RaftLeaderIdExt;

    use super::*;
    use crate::types::EndpointKey;
    use crate::types::raft_types::LogId;

    fn log_id(term: u64, index: u64) -> LogId {
        LogId::new(LeaderIdOf::<TypeConfig>::new_committed(term, NodeId(1)), index)
    }

    #[test]
    fn new_leader_is_waited_for_and_no_other_refusal() {
        let membership_log_id = Some(log_id(3, 9));
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
    fn change_is_gone_on_with_between_its_steps_and_no_other() {
        let info = |id: u64| {
            let address = ([127, 0, 0, 1], 9).into();
            (NodeId(id), NodeInfo { endpoint_id: EndpointKey([1; 32]), raft: address, http: address })
        };
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<NodeId>>();
        let members = |majorities: &[&[u64]]| {
            let nodes: std::collections::BTreeMap<NodeId, NodeInfo> = (1..=3).map(info).collect();
            let majorities: Vec<_> = majorities.iter().map(|voters| ids(voters)).collect();
            StoredMembership::new(Some(log_id(3, 9)), Membership::new(majorities, nodes).unwrap())
        };
        let to_two = ChangeMembers::ReplaceAllVoters(ids(&[1, 2]));
        let between = members(&[&[1, 2, 3], &[1, 2]]);
        assert!(is_first_step(&between, &to_two, 3));
        assert!(!is_first_step(&between, &to_two, 4), "another leader's");
        assert!(!is_first_step(&members(&[&[1, 2]]), &to_two, 3), "it is done");
        assert!(!is_first_step(&members(&[&[1, 2, 3], &[1, 3]]), &to_two, 3), "another change");
        assert!(!is_first_step(&between, &ChangeMembers::RemoveNodes(ids(&[3])), 3));
    }
}
