//! `InMemoryStateMachine`: the keys in memory, for tests and simulations. It forgets them when it is dropped, and does to
//! them what [`SqliteStateMachine`](super::sqlite::SqliteStateMachine) does.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use serde::{Deserialize, Serialize};

use super::entry::{chain, decode_command, membership_of};
use super::snapshot::SnapshotFile;
use crate::api::LeaseInfo;
use crate::state::{self, Records, Space, Stamp, Store, entry_bytes, successor};
use crate::types::raft_types::{LogId, Snapshot, SnapshotMeta, StoredMembership};
use crate::types::{Key, KeyRange, LeaseId, Outcome, Record, Revision, TypeConfig, Value, VaultName};

/// Every key space.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStore {
    records: BTreeMap<(u64, Key), Record>,
    vaults: BTreeMap<VaultName, u64>,
    /// How long each lease lives, in milliseconds.
    leases: BTreeMap<LeaseId, u64>,
}

/// One space of a [`MemoryStore`].
#[derive(Debug)]
pub struct MemoryRecords<'a> {
    records: &'a mut BTreeMap<(u64, Key), Record>,
    space: u64,
}

impl MemoryStore {
    /// Every key of a space with its record, in the order of the keys.
    pub fn entries(&self, Space(space): Space) -> impl Iterator<Item = (&Key, &Record)> {
        let keys = (space, Key::default())..(space + 1, Key::default());
        self.records.range(keys).map(|((_, key), record)| (key, record))
    }

    /// Every lease.
    pub fn leases(&self) -> impl Iterator<Item = LeaseInfo> {
        self.leases.iter().map(|(lease, ttl_ms)| {
            let keys = self.records.values().filter(|record| record.lease == Some(*lease));
            LeaseInfo { lease: *lease, ttl_ms: *ttl_ms, key_count: keys.count() as u64, left_ms: None }
        })
    }

    /// Every vault with its space.
    pub fn vaults(&self) -> impl Iterator<Item = (&VaultName, Space)> {
        self.vaults.iter().map(|(name, space)| (name, Space(*space)))
    }
}

impl Store for MemoryStore {
    type Error = Infallible;
    type Records<'a> = MemoryRecords<'a>;

    fn records(&mut self, space: Space) -> MemoryRecords<'_> {
        MemoryRecords { records: &mut self.records, space: space.0 }
    }

    fn vault(&mut self, name: &VaultName) -> Result<Option<Space>, Infallible> {
        Ok(self.vaults.get(name).copied().map(Space))
    }

    fn vault_count(&mut self) -> Result<u32, Infallible> {
        Ok(u32::try_from(self.vaults.len()).unwrap_or(u32::MAX))
    }

    fn create_vault(&mut self, name: &VaultName, space: Space) -> Result<(), Infallible> {
        self.vaults.insert(name.clone(), space.0);
        Ok(())
    }

    fn remove_vault(&mut self, name: &VaultName, space: Space) -> Result<(), Infallible> {
        self.vaults.remove(name);
        self.records.retain(|(of, _), _| *of != space.0);
        Ok(())
    }

    fn vault_of(&mut self, space: Space) -> Result<Option<VaultName>, Infallible> {
        Ok(self.vaults.iter().find(|(_, of)| **of == space.0).map(|(name, _)| name.clone()))
    }

    fn has_lease(&mut self, lease: LeaseId) -> Result<bool, Infallible> {
        Ok(self.leases.contains_key(&lease))
    }

    fn lease_count(&mut self) -> Result<u32, Infallible> {
        Ok(u32::try_from(self.leases.len()).unwrap_or(u32::MAX))
    }

    fn create_lease(&mut self, lease: LeaseId, ttl_ms: u64) -> Result<(), Infallible> {
        self.leases.insert(lease, ttl_ms);
        Ok(())
    }

    fn remove_lease(&mut self, lease: LeaseId) -> Result<(), Infallible> {
        self.leases.remove(&lease);
        Ok(())
    }

    fn lease_key_count(&mut self, lease: LeaseId) -> Result<u32, Infallible> {
        let keys = self.records.values().filter(|record| record.lease == Some(lease));
        Ok(u32::try_from(keys.count()).unwrap_or(u32::MAX))
    }

    fn lease_keys(&mut self, lease: LeaseId) -> Result<Vec<(Space, Key)>, Infallible> {
        let keys = self.records.iter().filter(|(_, record)| record.lease == Some(lease));
        Ok(keys.map(|((space, key), _)| (Space(*space), key.clone())).collect())
    }
}

impl Records for MemoryRecords<'_> {
    type Error = Infallible;

    fn get(&mut self, key: &Key) -> Result<Option<Record>, Infallible> {
        Ok(self.records.get(&(self.space, key.clone())).cloned())
    }

    fn put(&mut self, key: &Key, value: &Value, stamp: Stamp) -> Result<Record, Infallible> {
        let place = (self.space, key.clone());
        let record = successor(self.records.get(&place), value, stamp);
        self.records.insert(place, record.clone());
        Ok(record)
    }

    fn remove(&mut self, key: &Key) -> Result<bool, Infallible> {
        Ok(self.records.remove(&(self.space, key.clone())).is_some())
    }

    fn range(
        &mut self,
        range: &KeyRange,
        limit: u32,
        bytes_max: u64,
    ) -> Result<Vec<(Key, Record)>, Infallible> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        let keys = (self.space, range.first().clone())..(self.space + 1, Key::default());
        for ((_, key), record) in self.records.range(keys) {
            if range.is_behind(&key.0) || found.len() == limit as usize || bytes > bytes_max {
                break;
            }
            bytes += entry_bytes(key, record);
            found.push((key.clone(), record.clone()));
        }
        Ok(found)
    }
}

/// All that a state machine holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    store: MemoryStore,
    applied: Option<LogId>,
    membership: StoredMembership,
    digest: [u8; 32],
}

/// The state machine that openraft drives. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct InMemoryStateMachine {
    state: Arc<Mutex<State>>,
    snapshot: Arc<Mutex<Option<SnapshotFile>>>,
}

impl InMemoryStateMachine {
    /// The state digest after the last applied entry, as every state machine has it.
    pub fn digest(&self) -> [u8; 32] {
        lock(&self.state).digest
    }

    /// All that it holds.
    pub fn store(&self) -> MemoryStore {
        lock(&self.state).store.clone()
    }
}

impl RaftStateMachine<TypeConfig> for InMemoryStateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let state = lock(&self.state);
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            let outcome = {
                let mut state = lock(&self.state);
                let revision = Revision(entry.log_id.index);
                let command = decode_command(&entry)?;
                let outcome = command.map(|command| state::apply(&mut state.store, revision, &command));
                let Ok(outcome) = outcome.unwrap_or(Ok(Outcome::None));
                state.digest = chain(&state.digest, &entry, &outcome);
                state.applied = Some(entry.log_id);
                if let Some(membership) = membership_of(&entry) {
                    state.membership = membership;
                }
                outcome
            };
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        // The state as of now: what is applied later is no part of it.
        let state = lock(&self.state).clone();
        Self { state: Arc::new(Mutex::new(state)), snapshot: self.snapshot.clone() }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let state = postcard::from_bytes(&snapshot.read_all()?).map_err(io::Error::other)?;
        *lock(&self.state) = state;
        *lock(&self.snapshot) = Some(snapshot);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<SnapshotFile>>, io::Error> {
        let current = lock(&self.snapshot).clone();
        Ok(current.map(|snapshot| Snapshot { meta: snapshot.meta().clone(), snapshot }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for InMemoryStateMachine {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot<SnapshotFile>, io::Error> {
        let state = lock(&self.state).clone();
        let meta = SnapshotMeta { last_log_id: state.applied, last_membership: state.membership.clone() };
        let bytes = postcard::to_stdvec(&state).map_err(io::Error::other)?;
        let snapshot = SnapshotFile::in_memory(meta.clone(), bytes.into());
        let mut current = lock(&self.snapshot);
        if current.as_ref().is_none_or(|there| there.meta().last_log_id <= meta.last_log_id) {
            *current = Some(snapshot.clone());
        }
        Ok(Snapshot { meta, snapshot })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this lock")
}
