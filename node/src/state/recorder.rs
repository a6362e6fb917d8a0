//! Notes what commands change, for those who follow it.

use super::{Records, Space, Stamp, Store};
use crate::limits::PREVIOUS_BYTES_MAX;
use crate::types::{Change, ChangeKind, Key, KeyRange, LeaseId, Previous, Record, Value, VaultName};

/// A store, and what was changed in it. A command works in one vault at a time, or in none.
#[derive(Debug)]
pub struct Recorder<'a, S> {
    store: &'a mut S,
    notes_previous: bool,
    /// Whose keys are worked on: the vault that was asked for last.
    vault: Option<VaultName>,
    /// Of values that keys held before.
    previous_bytes: u64,
    changes: &'a mut Vec<Change>,
}

/// One space of a [`Recorder`].
#[derive(Debug)]
pub struct RecordedRecords<'a, R> {
    records: R,
    notes_previous: bool,
    vault: Option<&'a VaultName>,
    previous_bytes: &'a mut u64,
    changes: &'a mut Vec<Change>,
}

impl<'a, S> Recorder<'a, S> {
    /// Notes into `changes` what commands do to `store`; with what keys held before, if `notes_previous`.
    pub fn new(store: &'a mut S, notes_previous: bool, changes: &'a mut Vec<Change>) -> Self {
        Self { store, notes_previous, vault: None, previous_bytes: 0, changes }
    }
}

impl<S: Store> Store for Recorder<'_, S> {
    type Error = S::Error;
    type Records<'b>
        = RecordedRecords<'b, S::Records<'b>>
    where
        Self: 'b;

    fn records(&mut self, space: Space) -> RecordedRecords<'_, S::Records<'_>> {
        RecordedRecords {
            records: self.store.records(space),
            notes_previous: self.notes_previous,
            vault: self.vault.as_ref().filter(|_| space != Space::default()),
            previous_bytes: &mut self.previous_bytes,
            changes: self.changes,
        }
    }

    fn vault(&mut self, name: &VaultName) -> Result<Option<Space>, S::Error> {
        self.vault = Some(name.clone());
        self.store.vault(name)
    }

    fn vault_count(&mut self) -> Result<u32, S::Error> {
        self.store.vault_count()
    }

    fn create_vault(&mut self, name: &VaultName, space: Space) -> Result<(), S::Error> {
        self.store.create_vault(name, space)
    }

    fn remove_vault(&mut self, name: &VaultName, space: Space) -> Result<(), S::Error> {
        self.store.remove_vault(name, space)?;
        self.changes.push(Change { vault: Some(name.clone()), kind: ChangeKind::VaultDeleted });
        Ok(())
    }

    fn vault_of(&mut self, space: Space) -> Result<Option<VaultName>, S::Error> {
        self.vault = self.store.vault_of(space)?;
        Ok(self.vault.clone())
    }

    fn has_lease(&mut self, lease: LeaseId) -> Result<bool, S::Error> {
        self.store.has_lease(lease)
    }

    fn lease_count(&mut self) -> Result<u32, S::Error> {
        self.store.lease_count()
    }

    fn create_lease(&mut self, lease: LeaseId, ttl_ms: u64) -> Result<(), S::Error> {
        self.store.create_lease(lease, ttl_ms)
    }

    fn remove_lease(&mut self, lease: LeaseId) -> Result<(), S::Error> {
        self.store.remove_lease(lease)
    }

    fn lease_key_count(&mut self, lease: LeaseId) -> Result<u32, S::Error> {
        self.store.lease_key_count(lease)
    }

    fn lease_keys(&mut self, lease: LeaseId) -> Result<Vec<(Space, Key)>, S::Error> {
        self.store.lease_keys(lease)
    }
}

impl<R: Records> RecordedRecords<'_, R> {
    /// What a key holds that is about to change, if that is to be noted and there is room for it.
    fn previous(&mut self, key: &Key) -> Result<Previous, R::Error> {
        if !self.notes_previous || *self.previous_bytes > PREVIOUS_BYTES_MAX {
            return Ok(Previous::NotNoted);
        }
        let Some(record) = self.records.get(key)? else { return Ok(Previous::Absent) };
        *self.previous_bytes += record.value.0.len() as u64;
        Ok(Previous::Record(record))
    }

    fn note(&mut self, kind: ChangeKind) {
        self.changes.push(Change { vault: self.vault.cloned(), kind });
    }
}

impl<R: Records> Records for RecordedRecords<'_, R> {
    type Error = R::Error;

    fn get(&mut self, key: &Key) -> Result<Option<Record>, R::Error> {
        self.records.get(key)
    }

    fn put(&mut self, key: &Key, value: &Value, stamp: Stamp) -> Result<Record, R::Error> {
        let previous = self.previous(key)?;
        let record = self.records.put(key, value, stamp)?;
        self.note(ChangeKind::Put { key: key.clone(), record: record.clone(), previous });
        Ok(record)
    }

    fn remove(&mut self, key: &Key) -> Result<bool, R::Error> {
        let previous = self.previous(key)?;
        let existed = self.records.remove(key)?;
        if existed {
            self.note(ChangeKind::Deleted { key: key.clone(), previous });
        }
        Ok(existed)
    }

    fn range(
        &mut self,
        range: &KeyRange,
        limit: u32,
        bytes_max: u64,
    ) -> Result<Vec<(Key, Record)>, R::Error> {
        self.records.range(range, limit, bytes_max)
    }
}
