//! `DeterministicKeyValueStore` and `DeterministicClusterController`: the traits of [`crate::api`] in memory, on one machine. There is no
//! Raft, no clock, no disk and no randomness: the same requests get the same answers, and all is gone with the process.
//!
//! For tests of programs that use a node, and for those of a node's own interfaces: keys are checked and changed as on a real node, by
//! the same rules and the same state machine. The node leads a cluster whose other members, if it is told of any, agree with it at once.
//! Leases live until they are revoked, since nothing counts their time. What there is not, such as snapshots and backups, is
//! [`ApiError::Unsupported`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::FutureExt;

use crate::api::{
    Answer, ApiError, BadRequest, ClusterController, ClusterStatus, ConfirmedBy, Consistency, KeyValueStore,
    LeaderHint, LeaseList, Member, RaftState, ReadRequest, ReadResult, ScanDetail, ScanRequest, ScanResult,
    SnapshotStatus, StateCopy, VaultList, WatchRequest, WatchStream, WriteResult, check_command, check_key,
    check_limit, check_max_staleness, check_range, check_vault,
};
use crate::limits::{PEERS_MAX, SCAN_BYTES_MAX, VOTERS_MAX};
use crate::state::{Recorder, Records, Space, Store, apply, cut_page};
use crate::storage::memory::MemoryStore;
use crate::types::{
    Command, Key, KeyRange, LeaseId, NodeId, NodeInfo, Record, Revised, Revision, Value, VaultName,
};
use crate::watch::{ChangeFeed, Following};

const TERM: u64 = 1;

/// The keys of a node that keeps everything in memory. Clones share them.
#[derive(Debug, Clone)]
pub struct DeterministicKeyValueStore(Shared);

/// The cluster of such a node. Clones share it.
#[derive(Debug, Clone)]
pub struct DeterministicClusterController(Shared);

#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<Kept>>);

/// All that such a node holds.
#[derive(Debug)]
struct Kept {
    own: NodeId,
    info: NodeInfo,
    store: MemoryStore,
    feed: ChangeFeed,
    /// The last entry, as if there were a log.
    last: u64,
    /// Every member, and whether it votes; nobody before there is a cluster.
    members: BTreeMap<NodeId, (NodeInfo, bool)>,
}

/// The two halves of a node of this number, which is known to clients under `info`. It holds up to `watch_history` bytes of
/// changes for those who follow them, and is part of no cluster before [`ClusterController::init`].
pub fn deterministic(
    own: NodeId,
    info: NodeInfo,
    watch_history: u64,
) -> (DeterministicClusterController, DeterministicKeyValueStore) {
    let feed = ChangeFeed::new(Revision(0), watch_history);
    let kept = Kept { own, info, store: MemoryStore::default(), feed, last: 0, members: BTreeMap::new() };
    let shared = Shared(Arc::new(Mutex::new(kept)));
    (DeterministicClusterController(shared.clone()), DeterministicKeyValueStore(shared))
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("nothing panics while it holds this lock")
    }

    /// What it holds, once it is part of a cluster.
    fn member(&self) -> Result<MutexGuard<'_, Kept>, ApiError> {
        let kept = self.kept();
        if kept.members.is_empty() { Err(ApiError::NotLeader { leader: None }) } else { Ok(kept) }
    }
}

impl DeterministicKeyValueStore {
    /// Ends every watch: the node stops.
    pub fn end_watches(&self) {
        self.0.kept().feed.close();
    }
}

/// An answer that is there at once.
fn at_once<'a, T: Send + 'a>(answer: Result<T, ApiError>) -> Answer<'a, T> {
    std::future::ready(answer).boxed()
}

/// Who says that a read is not too old.
fn confirmed_by(consistency: Consistency) -> ConfirmedBy {
    match consistency {
        Consistency::Linearizable | Consistency::Bounded(_) => ConfirmedBy::Quorum,
        Consistency::Lease => ConfirmedBy::Lease,
        Consistency::Stale => ConfirmedBy::Nobody,
    }
}

/// How old a read is whose age is bounded: there is nobody else who could know more.
fn staleness_ms(consistency: Consistency) -> Option<u64> {
    matches!(consistency, Consistency::Bounded(_)).then_some(0)
}

impl Kept {
    fn revision(&self) -> Revision {
        Revision(self.last)
    }

    /// The space of a vault, or that of none.
    fn space(&mut self, vault: Option<VaultName>) -> Result<Space, ApiError> {
        let Some(vault) = vault else { return Ok(Space::default()) };
        check_vault(&vault)?;
        let Ok(space) = self.store.vault(&vault);
        space.ok_or(ApiError::VaultNotFound { vault })
    }

    /// The first records of a range.
    fn range(&mut self, space: Space, range: &KeyRange, limit: u32, bytes_max: u64) -> Vec<(Key, Record)> {
        let Ok(found) = self.store.records(space).range(range, limit, bytes_max);
        found
    }

    fn read(&mut self, request: ReadRequest) -> Result<ReadResult, ApiError> {
        check_key(&request.key)?;
        check_max_staleness(request.consistency)?;
        let space = self.space(request.vault)?;
        let Ok(record) = self.store.records(space).get(&request.key);
        let staleness_ms = staleness_ms(request.consistency);
        let (confirmed_by, revision) = (confirmed_by(request.consistency), self.revision());
        Ok(ReadResult { confirmed_by, staleness_ms, revision, record })
    }

    fn write(&mut self, command: &Command) -> Result<WriteResult, ApiError> {
        check_command(command)?;
        self.last += 1;
        let revision = self.revision();
        let mut changes = Vec::new();
        let mut recorder = Recorder::new(&mut self.store, self.feed.notes_previous(), &mut changes);
        let Ok(outcome) = apply(&mut recorder, revision, command);
        let revised = (!changes.is_empty()).then_some(Revised { revision, changes });
        self.feed.publish(revised.into_iter().collect(), revision);
        Ok(WriteResult { revision, outcome })
    }

    fn scan(&mut self, request: ScanRequest) -> Result<ScanResult, ApiError> {
        check_limit(request.limit)?;
        check_max_staleness(request.consistency)?;
        check_range(&request.range)?;
        let space = self.space(request.vault)?;
        let mut range = request.range;
        if let Some(Key(mut after)) = request.after {
            // Its first successor.
            after.push(0);
            range.start = range.start.max(Key(after));
        }
        let none = ScanResult {
            confirmed_by: confirmed_by(request.consistency),
            staleness_ms: staleness_ms(request.consistency),
            revision: self.revision(),
            entries: Vec::new(),
            is_truncated: false,
            count: None,
        };
        if request.detail == ScanDetail::Count {
            let count = self.range(space, &range, u32::MAX, u64::MAX).len() as u64;
            return Ok(ScanResult { count: Some(count), ..none });
        }
        let mut entries = self.range(space, &range, request.limit + 1, u64::from(SCAN_BYTES_MAX));
        let is_truncated = cut_page(&mut entries, request.limit);
        if request.detail == ScanDetail::Keys {
            for (_, record) in &mut entries {
                record.value = Value::default();
            }
        }
        Ok(ScanResult { entries, is_truncated, ..none })
    }

    fn vaults(&self) -> VaultList {
        let vaults = self.store.vaults().map(|(name, Space(at))| (name.clone(), Revision(at)));
        VaultList { revision: self.revision(), vaults: vaults.collect() }
    }

    fn add_learner(&mut self, id: NodeId, info: NodeInfo) -> Result<(), ApiError> {
        let other = self
            .members
            .iter()
            .find(|(other, (there, _))| **other != id && there.endpoint_id == info.endpoint_id);
        if let Some((other, _)) = other {
            return Err(BadRequest::EndpointTaken { id, other: *other }.into());
        }
        if self.members.len() >= PEERS_MAX as usize && !self.members.contains_key(&id) {
            return Err(BadRequest::ClusterFull.into());
        }
        let (there, _) = self.members.entry(id).or_insert_with(|| (info.clone(), false));
        if *there == info { Ok(()) } else { Err(ApiError::MemberExists { id }) }
    }

    fn change_membership(&mut self, voters: &BTreeSet<NodeId>, retain: bool) -> Result<(), ApiError> {
        if voters.is_empty() || voters.len() > VOTERS_MAX as usize {
            return Err(BadRequest::VoterCount(voters.len() as u64).into());
        }
        if let Some(stranger) = voters.iter().find(|id| !self.members.contains_key(id)) {
            return Err(BadRequest::NotALearner(*stranger).into());
        }
        if !voters.contains(&self.own) {
            return Err(ApiError::Unsupported);
        }
        self.members.retain(|id, (_, is_voter)| retain || !*is_voter || voters.contains(id));
        for (id, (_, is_voter)) in &mut self.members {
            *is_voter = voters.contains(id);
        }
        Ok(())
    }

    fn promote_learner(&mut self, id: NodeId) -> Result<(), ApiError> {
        let member = self.members.get_mut(&id).ok_or(BadRequest::NotALearner(id))?;
        member.1 = true;
        Ok(())
    }

    fn remove_member(&mut self, id: NodeId) -> Result<(), ApiError> {
        if id == self.own {
            return Err(ApiError::Unsupported);
        }
        self.members.remove(&id).map(drop).ok_or(BadRequest::NotALearner(id).into())
    }

    fn transfer_leader(&self, to: NodeId) -> Result<(), ApiError> {
        match self.members.get(&to) {
            Some(_) if to == self.own => Ok(()),
            Some((_, true)) => Err(ApiError::Unsupported),
            _ => Err(BadRequest::NotAVoter(to).into()),
        }
    }

    fn init(&mut self, members: BTreeMap<NodeId, NodeInfo>) -> Result<(), ApiError> {
        if !self.members.is_empty() {
            return Err(ApiError::AlreadyInitialized);
        }
        if members.len() > VOTERS_MAX as usize {
            return Err(BadRequest::VoterCount(members.len() as u64).into());
        }
        if !members.contains_key(&self.own) {
            return Err(BadRequest::NotAMember(self.own).into());
        }
        self.members = members.into_iter().map(|(id, info)| (id, (info, true))).collect();
        // The entry that says so.
        self.last += 1;
        self.feed.publish(Vec::new(), self.revision());
        Ok(())
    }

    fn status(&self) -> ClusterStatus {
        let member = |(id, (info, is_voter)): (&NodeId, &(NodeInfo, bool))| Member {
            id: *id,
            is_voter: *is_voter,
            health: None,
            region: None,
            zone: None,
            info: info.clone(),
        };
        let is_initialized = !self.members.is_empty();
        let http = Some(self.info.http.to_string());
        ClusterStatus {
            id: self.own,
            endpoint_id: self.info.endpoint_id.to_string(),
            role: if is_initialized { "leader" } else { "learner" }.to_owned(),
            term: if is_initialized { TERM } else { 0 },
            leader: is_initialized.then_some(LeaderHint { id: self.own, http }),
            is_initialized,
            members: self.members.iter().map(member).collect(),
            is_changing: false,
            is_removed: false,
            refused_connections: 0,
        }
    }
}

impl KeyValueStore for DeterministicKeyValueStore {
    fn read(&self, request: ReadRequest) -> Answer<'_, ReadResult> {
        at_once(self.0.member().and_then(|mut kept| kept.read(request)))
    }

    fn write(&self, command: Command) -> Answer<'_, WriteResult> {
        at_once(self.0.member().and_then(|mut kept| kept.write(&command)))
    }

    fn scan(&self, request: ScanRequest) -> Answer<'_, ScanResult> {
        at_once(self.0.member().and_then(|mut kept| kept.scan(request)))
    }

    fn vaults(&self, consistency: Consistency) -> Answer<'_, VaultList> {
        let checked = check_max_staleness(consistency).map_err(ApiError::from);
        at_once(checked.and_then(|()| self.0.member()).map(|kept| kept.vaults()))
    }

    fn keep_lease(&self, lease: LeaseId) -> Answer<'_, u64> {
        at_once(self.0.member().and_then(|kept| {
            let info = kept.store.leases().find(|info| info.lease == lease);
            info.map(|info| info.ttl_ms).ok_or(ApiError::LeaseNotFound { lease })
        }))
    }

    fn leases(&self, consistency: Consistency) -> Answer<'_, LeaseList> {
        let checked = check_max_staleness(consistency).map_err(ApiError::from);
        let member = checked.and_then(|()| self.0.member());
        at_once(
            member.map(|kept| LeaseList { revision: kept.revision(), leases: kept.store.leases().collect() }),
        )
    }

    fn watch(&self, request: WatchRequest) -> Answer<'_, WatchStream> {
        at_once(self.0.member().and_then(|kept| {
            check_max_staleness(request.consistency)?;
            Ok(Following::new(&kept.feed, request)?.into_stream(|| None))
        }))
    }
}

impl ClusterController for DeterministicClusterController {
    fn init(&self, members: BTreeMap<NodeId, NodeInfo>) -> Answer<'_, ()> {
        at_once(self.0.kept().init(members))
    }

    fn add_learner(&self, id: NodeId, info: NodeInfo) -> Answer<'_, ()> {
        at_once(self.0.member().and_then(|mut kept| kept.add_learner(id, info)))
    }

    fn change_membership(&self, voters: BTreeSet<NodeId>, retain: bool, _force: bool) -> Answer<'_, ()> {
        at_once(self.0.member().and_then(|mut kept| kept.change_membership(&voters, retain)))
    }

    fn promote_learner(&self, id: NodeId, _force: bool) -> Answer<'_, ()> {
        at_once(self.0.member().and_then(|mut kept| kept.promote_learner(id)))
    }

    fn remove_member(&self, id: NodeId) -> Answer<'_, ()> {
        at_once(self.0.member().and_then(|mut kept| kept.remove_member(id)))
    }

    /// To itself only: nobody else is there to lead.
    fn transfer_leader(&self, to: NodeId) -> Answer<'_, ()> {
        at_once(self.0.member().and_then(|kept| kept.transfer_leader(to)))
    }

    fn status(&self) -> ClusterStatus {
        self.0.kept().status()
    }

    fn trigger_snapshot(&self) -> Answer<'_, SnapshotStatus> {
        at_once(Err(ApiError::Unsupported))
    }

    fn copy_state(&self, _consistency: Consistency) -> Answer<'_, StateCopy> {
        at_once(Err(ApiError::Unsupported))
    }

    fn get_metrics(&self) -> Result<RaftState, ApiError> {
        Err(ApiError::Unsupported)
    }
}

#[cfg(test)]
mod tests;
