//! What a node says of itself and of its cluster.

use std::collections::{BTreeMap, BTreeSet};

use futures::FutureExt;
use openraft::async_runtime::WatchReceiver;
use openraft::vote::RaftLeaderId;

use super::membership::is_changing;
use super::operations::bounded;
use super::{RaftNode, init_error, role_name};
use crate::api::{
    Answer, ApiError, BadRequest, ClusterController, ClusterStatus, Consistency, EntryId, LeaderHint,
    LogDigest, LogDigestEntry, Measures, Member, RaftObserver, RaftState, SnapshotStatus, StateCopy,
    StateDigest, TimeoutOutcome, VoteState,
};
use crate::host::blocking;
use crate::limits::{APPEND_BYTES_MAX, LOG_DIGEST_RANGE_MAX, OPERATIONS_IN_FLIGHT_MAX, PEERS_MAX};
use crate::storage::entry::encode_entry;
use crate::storage::log::RedbLogStore;
use crate::types::raft_types::LogId;
use crate::types::{NodeId, NodeInfo};

impl ClusterController for RaftNode {
    fn init(&self, members: BTreeMap<NodeId, NodeInfo>) -> Answer<'_, ()> {
        async move {
            if self.inner.raft.server_metrics().borrow_watched().membership_config.nodes().next().is_some() {
                return Err(ApiError::AlreadyInitialized);
            }
            if members.is_empty() || members.len() > PEERS_MAX as usize {
                return Err(BadRequest::MemberCount(members.len() as u64).into());
            }
            if !members.contains_key(&self.inner.id) {
                return Err(BadRequest::NotAMember(self.inner.id).into());
            }
            bounded(TimeoutOutcome::Unknown, async {
                let initialized = self.inner.raft.initialize(members).await;
                initialized.map_err(|error| init_error(error, self.inner.id))?;
                self.founded().await;
                Ok(())
            })
            .await
        }
        .boxed()
    }

    fn add_learner(&self, id: NodeId, info: NodeInfo) -> Answer<'_, ()> {
        let change = self.change(move |turn| async move { turn.make_learner(id, info).await });
        bounded(TimeoutOutcome::WaitsForMajorities, change).boxed()
    }

    fn change_membership(&self, voters: BTreeSet<NodeId>, retain: bool, force: bool) -> Answer<'_, ()> {
        let change = self.change(move |turn| async move { turn.choose_voters(voters, retain, force).await });
        bounded(TimeoutOutcome::WaitsForMajorities, change).boxed()
    }

    fn promote_learner(&self, id: NodeId, force: bool) -> Answer<'_, ()> {
        let change = self.change(move |turn| async move { turn.make_voter(id, force).await });
        bounded(TimeoutOutcome::WaitsForMajorities, change).boxed()
    }

    fn remove_member(&self, id: NodeId) -> Answer<'_, ()> {
        let change = self.change(move |turn| async move { turn.remove(id).await });
        bounded(TimeoutOutcome::WaitsForMajorities, change).boxed()
    }

    fn transfer_leader(&self, to: NodeId) -> Answer<'_, ()> {
        bounded(TimeoutOutcome::SeeStatus, self.hand_over_safely(to)).boxed()
    }

    fn trigger_snapshot(&self) -> Answer<'_, SnapshotStatus> {
        bounded(TimeoutOutcome::GoesOn, self.make_snapshot()).boxed()
    }

    fn copy_state(&self, consistency: Consistency) -> Answer<'_, StateCopy> {
        self.make_copy(consistency).boxed()
    }

    fn get_metrics(&self) -> Result<RaftState, ApiError> {
        Ok(self.raft_state())
    }

    fn status(&self) -> ClusterStatus {
        let term = self.metrics().current_term;
        // What changes of the members and of the leader are waited for in: the other metrics may come a moment later.
        let metrics = self.inner.raft.server_metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let voters: Vec<NodeId> = membership.voter_ids().collect();
        let health = self.inner.health.lock().expect("nothing panics while it holds this lock").clone();
        let told = self.told_about();
        let members = membership.nodes().map(|(id, info)| {
            let about = if *id == self.inner.id { Some(&self.inner.about) } else { told.get(id) };
            Member {
                id: *id,
                is_voter: voters.contains(id),
                health: health.get(id).map(|health| health.as_str().to_owned()),
                region: about.and_then(|about| about.region.clone()),
                zone: about.and_then(|about| about.zone.clone()),
                info: info.clone(),
            }
        });
        let is_changing = is_changing(&metrics.membership_config, &metrics.committed_membership_config);
        let heard = metrics.current_leader.filter(|_| !self.is_alone_since(self.loneliness()));
        let leader = heard
            .map(|id| LeaderHint { id, http: membership.get_node(&id).map(|info| info.http.to_string()) });
        ClusterStatus {
            id: self.inner.id,
            endpoint_id: self.inner.endpoint_id.to_string(),
            role: role_name(metrics.state).to_owned(),
            term,
            leader,
            is_initialized: !voters.is_empty(),
            members: members.collect(),
            is_changing,
            is_removed: self.is_removed(),
            refused_connections: self.inner.admission.refusals().of_nodes(),
        }
    }
}

impl RaftNode {
    /// Where it stands: what [`ClusterController::get_metrics`] says.
    pub fn raft_state(&self) -> RaftState {
        let metrics = self.metrics();
        // The log's own word: after a start openraft names no vote until it has flushed something.
        let vote = self.inner.log.durable_vote().unwrap_or(metrics.vote);
        RaftState {
            id: self.inner.id,
            incarnation: self.inner.incarnation.clone(),
            role: role_name(metrics.state).to_owned(),
            term: metrics.current_term,
            vote: VoteState {
                term: vote.leader_id.term(),
                voted_for: *vote.leader_id.node_id(),
                is_committed: vote.committed,
            },
            leader: metrics.current_leader,
            last_log_index: metrics.last_log_index,
            committed: metrics.local_committed.map(entry_id),
            applied: metrics.last_applied.map(entry_id),
            // openraft may hear of a snapshot before it hears of the last entries that it covers.
            snapshot: metrics.snapshot.min(metrics.last_applied).map(entry_id),
            purged: metrics.purged.map(entry_id),
        }
    }

    async fn make_snapshot(&self) -> Result<SnapshotStatus, ApiError> {
        let metrics = self.metrics();
        let Some(applied) = metrics.last_applied else { return Ok(SnapshotStatus { last: None, bytes: 0 }) };
        let last = self.snapshot_from(applied.index).await?;
        let bytes = self.inner.snapshots.current().map_or(0, |current| current.seal().bytes);
        Ok(SnapshotStatus { last: Some(entry_id(last)), bytes })
    }

    /// Returns once there is a snapshot that covers entry `index`: the last entry that it covers.
    pub(super) async fn snapshot_from(&self, index: u64) -> Result<LogId, ApiError> {
        loop {
            let seen = self.metrics().snapshot;
            if let Some(last) = seen.filter(|last| last.index >= index) {
                return Ok(last);
            }
            // One that is being made already may be older than what is wanted.
            self.start_snapshot().await?;
            self.await_snapshot_after(seen).await?;
        }
    }
}

impl RaftObserver for RaftNode {
    fn measures(&self) -> Measures {
        let replication = self.metrics().replication.unwrap_or_default();
        let others = replication.into_iter().filter(|(id, _)| *id != self.inner.id);
        let free = self.inner.permits.available_permits() as u64;
        let (watchers, watch_history_bytes) = self.inner.feed.measures();
        Measures {
            operations_in_flight: u64::from(OPERATIONS_IN_FLIGHT_MAX).saturating_sub(free),
            disk_available_bytes: self.inner.space.available().unwrap_or(0),
            disk_reserve_bytes: self.inner.space.reserve(),
            watchers,
            watch_history_bytes,
            replicated: others.map(|(id, last)| (id, last.map_or(0, |last| last.index))).collect(),
        }
    }

    fn log_digest(&self, from: u64, to: u64) -> Answer<'_, LogDigest> {
        async move {
            if from > to || to - from >= LOG_DIGEST_RANGE_MAX {
                return Err(BadRequest::LogRange { from, to }.into());
            }
            let (first, last) = (self.inner.log.first_index(), self.inner.log.last_index());
            if from < first || last.is_none_or(|last| to > last) {
                return Err(BadRequest::BeyondLog { from, to, first, last }.into());
            }
            let log = self.inner.log.clone();
            let failed = |reason: &dyn std::fmt::Display| ApiError::Storage { reason: reason.to_string() };
            bounded(TimeoutOutcome::NothingWritten, async {
                let chained = blocking(move || chain(&log, from, to)).await;
                let entries = chained.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
                Ok(LogDigest { from, entries })
            })
            .await
        }
        .boxed()
    }

    fn state_digest(&self, at: Option<u64>) -> Answer<'_, StateDigest> {
        bounded(TimeoutOutcome::NothingWritten, self.inner.readers.digest(at)).boxed()
    }
}

/// Hashes each entry together with the hash before it. Reads a bounded part of the log at a time.
fn chain(log: &RedbLogStore, from: u64, to: u64) -> std::io::Result<Vec<LogDigestEntry>> {
    let mut before = [0; 32];
    let mut digests = Vec::new();
    let mut next = from;
    while next <= to {
        let part = log.read(next..=to, u64::from(APPEND_BYTES_MAX))?;
        // The range was there a moment ago; what was truncated since ends the answer.
        let Some(last) = part.last() else { break };
        next = last.log_id.index + 1;
        for entry in &part {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&before);
            hasher.update(&encode_entry(entry));
            before = *hasher.finalize().as_bytes();
            let chain = data_encoding::HEXLOWER.encode(&before);
            digests.push(LogDigestEntry { index: entry.log_id.index, term: *entry.log_id.leader_id, chain });
        }
    }
    Ok(digests)
}

pub(super) fn entry_id(id: LogId) -> EntryId {
    EntryId { term: *id.leader_id, index: id.index }
}
