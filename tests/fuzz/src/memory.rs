//! `MemoryNode`: the three traits of a node's API in memory, on one machine, with the same checks and the same state machine. It has
//! no clock, no tasks and no randomness: the same requests get the same answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aspen_node::api::{
    Answer, ApiError, BadRequest, ClusterController, ClusterStatus, ConfirmedBy, Consistency, EntryId,
    KeyValueStore, LeaderHint, LeaseList, LogDigest, LogDigestEntry, Measures, Member, RaftObserver,
    RaftState, ReadRequest, ReadResult, ScanDetail, ScanRequest, ScanResult, SnapshotStatus, StateCopy,
    StateDigest, VaultList, VoteState, WatchEvent, WatchRequest, WatchStream, WriteResult, check_command,
    check_key, check_limit, check_max_staleness, check_range, check_vault,
};
use aspen_node::limits::{LOG_DIGEST_RANGE_MAX, SCAN_BYTES_MAX, VOTERS_MAX};
use aspen_node::state::{Recorder, Records, Space, Store, apply};
use aspen_node::storage::memory::MemoryStore;
use aspen_node::types::{
    Command, EndpointKey, Key, KeyRange, LeaseId, NodeId, NodeInfo, Record, Revised, Revision, VaultName,
};
use aspen_node::watch::ChangeFeed;
use futures::{FutureExt, StreamExt, stream};

/// The number of the node itself, which leads.
const OWN: NodeId = NodeId(1);
const TERM: u64 = 1;
/// Changes that are held: few, so that some are not.
const FEED_BYTES: u64 = 2_000;

/// A node that is a cluster by itself.
#[derive(Debug)]
pub struct MemoryNode(Mutex<Kept>);

/// All that it holds.
#[derive(Debug)]
struct Kept {
    store: MemoryStore,
    feed: ChangeFeed,
    /// The last entry: those before it are as good as known.
    last: u64,
    /// Every member, and whether it votes.
    members: BTreeMap<NodeId, (NodeInfo, bool)>,
}

/// Who and where a node is that nobody ever dials.
pub fn info(id: u8) -> NodeInfo {
    let endpoint_id = EndpointKey([id; 32]);
    NodeInfo { endpoint_id, raft: ([10, 0, 0, id], 4001).into(), http: ([10, 0, 0, id], 8001).into() }
}

impl Default for MemoryNode {
    fn default() -> Self {
        let members = BTreeMap::from([(OWN, (info(1), true))]);
        let feed = ChangeFeed::new(Revision(1), FEED_BYTES);
        Self(Mutex::new(Kept { store: MemoryStore::default(), feed, last: 1, members }))
    }
}

impl MemoryNode {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let is_truncated = entries.len() > request.limit as usize;
        entries.truncate(request.limit as usize);
        Ok(ScanResult { entries, is_truncated, ..none })
    }

    fn watch(&self, request: WatchRequest) -> Result<WatchStream, ApiError> {
        check_max_staleness(request.consistency)?;
        check_range(&request.interest.range)?;
        request.interest.vault.as_ref().map_or(Ok(()), check_vault)?;
        let mut watcher = self.feed.watch(request.interest, request.from, request.with_previous)?;
        let begun = WatchEvent::Begun { revision: Revision(watcher.from().0 - 1) };
        let seen = watcher.look()?;
        let changed = seen.revised.into_iter().map(WatchEvent::Changed);
        let progress = WatchEvent::Progress { revision: seen.up_to };
        let told: Vec<_> = std::iter::once(begun).chain(changed).chain([progress]).map(Ok).collect();
        Ok(stream::iter(told).boxed())
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
        if self.members.iter().all(|(other, (_, is_voter))| *other == id || !is_voter) {
            return Err(BadRequest::VoterCount(0).into());
        }
        self.members.remove(&id).map(drop).ok_or(BadRequest::NotALearner(id).into())
    }

    fn transfer_leader(&self, to: NodeId) -> Result<(), ApiError> {
        let is_voter = self.members.get(&to).is_some_and(|(_, is_voter)| *is_voter);
        if is_voter { Ok(()) } else { Err(BadRequest::NotAVoter(to).into()) }
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
        ClusterStatus {
            id: OWN,
            endpoint_id: info(1).endpoint_id.to_string(),
            role: "leader".to_owned(),
            term: TERM,
            leader: Some(LeaderHint { id: OWN, http: Some(info(1).http.to_string()) }),
            is_initialized: true,
            members: self.members.iter().map(member).collect(),
            is_changing: false,
            is_removed: false,
            refused_connections: 0,
        }
    }

    fn entry_id(&self) -> EntryId {
        EntryId { term: TERM, index: self.last }
    }

    fn log_digest(&self, from: u64, to: u64) -> Result<LogDigest, ApiError> {
        if from > to || to - from >= LOG_DIGEST_RANGE_MAX {
            return Err(BadRequest::LogRange { from, to }.into());
        }
        if to > self.last {
            return Err(BadRequest::BeyondLog { from, to, first: 0, last: Some(self.last) }.into());
        }
        let entry = |index: u64| LogDigestEntry { index, term: TERM, chain: hash(&index.to_le_bytes()) };
        Ok(LogDigest { from, entries: (from..=to).map(entry).collect() })
    }

    fn state_digest(&self, at: Option<u64>) -> Result<StateDigest, ApiError> {
        if let Some(at) = at.filter(|at| *at != self.last) {
            return Err(ApiError::DigestNotKept { at });
        }
        let state = postcard::to_stdvec(&self.store).expect("keys encode");
        Ok(StateDigest { index: Some(self.last), digest: hash(&state) })
    }
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

impl KeyValueStore for MemoryNode {
    fn read(&self, request: ReadRequest) -> Answer<'_, ReadResult> {
        at_once(self.kept().read(request))
    }

    fn write(&self, command: Command) -> Answer<'_, WriteResult> {
        at_once(self.kept().write(&command))
    }

    fn scan(&self, request: ScanRequest) -> Answer<'_, ScanResult> {
        at_once(self.kept().scan(request))
    }

    fn vaults(&self, _consistency: Consistency) -> Answer<'_, VaultList> {
        at_once(Ok(self.kept().vaults()))
    }

    fn keep_lease(&self, lease: LeaseId) -> Answer<'_, u64> {
        let kept = self.kept().store.leases().find(|info| info.lease == lease);
        at_once(kept.map(|info| info.ttl_ms).ok_or(ApiError::LeaseNotFound { lease }))
    }

    fn leases(&self, _consistency: Consistency) -> Answer<'_, LeaseList> {
        let kept = self.kept();
        at_once(Ok(LeaseList { revision: kept.revision(), leases: kept.store.leases().collect() }))
    }

    /// What there is, and its end: nothing happens while a request is answered.
    fn watch(&self, request: WatchRequest) -> Answer<'_, WatchStream> {
        at_once(self.kept().watch(request))
    }
}

impl ClusterController for MemoryNode {
    fn init(&self, _members: BTreeMap<NodeId, NodeInfo>) -> Answer<'_, ()> {
        at_once(Err(ApiError::AlreadyInitialized))
    }

    fn add_learner(&self, id: NodeId, info: NodeInfo) -> Answer<'_, ()> {
        at_once(self.kept().add_learner(id, info))
    }

    fn change_membership(&self, voters: BTreeSet<NodeId>, retain: bool) -> Answer<'_, ()> {
        at_once(self.kept().change_membership(&voters, retain))
    }

    fn promote_learner(&self, id: NodeId) -> Answer<'_, ()> {
        at_once(self.kept().promote_learner(id))
    }

    fn remove_member(&self, id: NodeId) -> Answer<'_, ()> {
        at_once(self.kept().remove_member(id))
    }

    fn transfer_leader(&self, to: NodeId) -> Answer<'_, ()> {
        at_once(self.kept().transfer_leader(to))
    }

    fn status(&self) -> ClusterStatus {
        self.kept().status()
    }

    fn trigger_snapshot(&self) -> Answer<'_, SnapshotStatus> {
        at_once(Ok(SnapshotStatus { last: Some(self.kept().entry_id()), bytes: 0 }))
    }

    fn copy_state(&self, _consistency: Consistency) -> Answer<'_, StateCopy> {
        at_once(Err(ApiError::TooManyBackups { limit: 0 }))
    }
}

impl RaftObserver for MemoryNode {
    fn raft_state(&self) -> RaftState {
        let last = self.kept().entry_id();
        RaftState {
            id: OWN,
            incarnation: "memory".to_owned(),
            role: "leader".to_owned(),
            term: TERM,
            vote: VoteState { term: TERM, voted_for: OWN, is_committed: true },
            leader: Some(OWN),
            last_log_index: Some(last.index),
            committed: Some(last),
            applied: Some(last),
            snapshot: None,
            purged: None,
        }
    }

    fn log_digest(&self, from: u64, to: u64) -> Answer<'_, LogDigest> {
        at_once(self.kept().log_digest(from, to))
    }

    fn measures(&self) -> Measures {
        Measures::default()
    }

    fn state_digest(&self, at: Option<u64>) -> Answer<'_, StateDigest> {
        at_once(self.kept().state_digest(at))
    }
}
