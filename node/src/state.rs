//! What a command does to the keys. Pure: no clock, no I/O of its own, no randomness, so that every member that
//! applies the same entries holds the same state. Total: bad input is an [`Outcome`], never an error.

mod draft;
mod recorder;

use std::cmp::Ordering;
use std::collections::BTreeSet;

use self::draft::Draft;
pub use self::recorder::{RecordedRecords, Recorder};
use crate::api::check_command;
use crate::limits::{ANSWER_BYTES_MAX, LEASE_KEYS_MAX, LEASES_MAX, RECORD_BYTES, SCAN_BYTES_MAX, VAULTS_MAX};
use crate::plant::Plant;
use crate::types::{
    Command, Compare, Key, KeyRange, LeaseId, Operand, Operation, OperationResult, Outcome, Record, Relation,
    Revision, Transaction, Value, VaultName,
};

/// Which keys belong together: those of no vault, or those of one vault. A vault's is the entry that made it, so that one
/// of the same name which is made later is another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Space(pub u64);

/// The key spaces that commands work on. An error is a failed store, never a property of the command.
pub trait Store {
    /// Why the store failed.
    type Error;
    /// The keys of one space.
    type Records<'a>: Records<Error = Self::Error>
    where
        Self: 'a;

    /// The keys of a space, which need not exist.
    fn records(&mut self, space: Space) -> Self::Records<'_>;

    /// The space of a vault.
    ///
    /// # Errors
    /// The store cannot be read.
    fn vault(&mut self, name: &VaultName) -> Result<Option<Space>, Self::Error>;

    /// How many vaults there are.
    ///
    /// # Errors
    /// The store cannot be read.
    fn vault_count(&mut self) -> Result<u32, Self::Error>;

    /// Makes a vault that is not there.
    ///
    /// # Errors
    /// The store cannot be written.
    fn create_vault(&mut self, name: &VaultName, space: Space) -> Result<(), Self::Error>;

    /// Removes a vault and the keys of its space.
    ///
    /// # Errors
    /// The store cannot be written.
    fn remove_vault(&mut self, name: &VaultName, space: Space) -> Result<(), Self::Error>;

    /// The vault of a space, where it is one's.
    ///
    /// # Errors
    /// The store cannot be read.
    fn vault_of(&mut self, space: Space) -> Result<Option<VaultName>, Self::Error>;

    /// Whether there is a lease.
    ///
    /// # Errors
    /// The store cannot be read.
    fn has_lease(&mut self, lease: LeaseId) -> Result<bool, Self::Error>;

    /// How many leases there are.
    ///
    /// # Errors
    /// The store cannot be read.
    fn lease_count(&mut self) -> Result<u32, Self::Error>;

    /// Makes a lease that is not there.
    ///
    /// # Errors
    /// The store cannot be written.
    fn create_lease(&mut self, lease: LeaseId, ttl_ms: u64) -> Result<(), Self::Error>;

    /// Removes a lease, not its keys.
    ///
    /// # Errors
    /// The store cannot be written.
    fn remove_lease(&mut self, lease: LeaseId) -> Result<(), Self::Error>;

    /// How many keys end with a lease; of removed vaults none.
    ///
    /// # Errors
    /// The store cannot be read.
    fn lease_key_count(&mut self, lease: LeaseId) -> Result<u32, Self::Error>;

    /// The keys that end with a lease, in the order of spaces and keys; of removed vaults none.
    ///
    /// # Errors
    /// The store cannot be read.
    fn lease_keys(&mut self, lease: LeaseId) -> Result<Vec<(Space, Key)>, Self::Error>;
}

/// What a written record is stamped with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The entry that writes it.
    pub revision: Revision,
    /// The lease with which it ends.
    pub lease: Option<LeaseId>,
}

/// The keys of one space.
pub trait Records {
    /// Why the store failed.
    type Error;

    /// The record under `key`.
    ///
    /// # Errors
    /// The store cannot be read.
    fn get(&mut self, key: &Key) -> Result<Option<Record>, Self::Error>;

    /// Puts `value` under `key`, and returns what it holds now: a new record of version 1, or the present one with its next
    /// version. It ends with the lease of the stamp, whatever it ended with before.
    ///
    /// # Errors
    /// The store cannot be written.
    fn put(&mut self, key: &Key, value: &Value, stamp: Stamp) -> Result<Record, Self::Error>;

    /// Removes `key`; whether it was there.
    ///
    /// # Errors
    /// The store cannot be written.
    fn remove(&mut self, key: &Key) -> Result<bool, Self::Error>;

    /// The first `limit` records of a range; fewer where their keys and values have more than `bytes_max`, the last one being
    /// the one that does.
    ///
    /// # Errors
    /// The store cannot be read.
    fn range(
        &mut self,
        range: &KeyRange,
        limit: u32,
        bytes_max: u64,
    ) -> Result<Vec<(Key, Record)>, Self::Error>;
}

/// The record that `value` makes of what was there.
pub fn successor(before: Option<&Record>, value: &Value, Stamp { revision, lease }: Stamp) -> Record {
    let (create_revision, version) = before.map_or((revision, 0), |r| (r.create_revision, r.version));
    Record { value: value.clone(), create_revision, mod_revision: revision, version: version + 1, lease }
}

/// Applies the command of the entry at `revision`.
///
/// # Errors
/// Those of `store`.
pub fn apply<S: Store>(store: &mut S, revision: Revision, command: &Command) -> Result<Outcome, S::Error> {
    if check_command(command).is_err() {
        return Ok(Outcome::Refused);
    }
    match command {
        Command::CreateVault { vault } => match store.vault(vault)? {
            Some(_) => Ok(Outcome::VaultReady { is_new: false }),
            None if store.vault_count()? >= VAULTS_MAX => Ok(Outcome::TooManyVaults),
            None => {
                store.create_vault(vault, Space(revision.0))?;
                Ok(Outcome::VaultReady { is_new: true })
            }
        },
        Command::DeleteVault { vault } => {
            let space = store.vault(vault)?;
            if let Some(space) = space {
                store.remove_vault(vault, space)?;
            }
            Ok(Outcome::Deleted { existed: space.is_some() })
        }
        Command::GrantLease { .. } if store.lease_count()? >= LEASES_MAX => Ok(Outcome::TooManyLeases),
        Command::GrantLease { ttl_ms } => {
            store.create_lease(LeaseId(revision.0), *ttl_ms)?;
            Ok(Outcome::LeaseGranted)
        }
        Command::RevokeLease { lease } => end_lease(store, *lease),
        Command::WithLease { lease, command } => {
            if !store.has_lease(*lease)? {
                return Ok(Outcome::LeaseNotFound);
            }
            let stamp = Stamp { revision, lease: Some(*lease) };
            if store.lease_key_count(*lease)? + new_keys(store, *lease, command)? > LEASE_KEYS_MAX {
                return Ok(Outcome::LeaseFull);
            }
            apply_somewhere(store, stamp, command)
        }
        command => apply_somewhere(store, Stamp { revision, lease: None }, command),
    }
}

/// Removes a lease and what ends with it.
fn end_lease<S: Store>(store: &mut S, lease: LeaseId) -> Result<Outcome, S::Error> {
    if !store.has_lease(lease)? {
        return Ok(Outcome::LeaseEnded { existed: false, key_count: 0 });
    }
    let keys = store.lease_keys(lease)?;
    for (space, key) in &keys {
        if *space != Space::default() {
            // Whoever notes what changes hears whose key it is.
            store.vault_of(*space)?;
        }
        store.records(*space).remove(key)?;
    }
    store.remove_lease(lease)?;
    Ok(Outcome::LeaseEnded { existed: true, key_count: u32::try_from(keys.len()).unwrap_or(u32::MAX) })
}

/// How many keys a command would add to those of a lease, at most.
fn new_keys<S: Store>(store: &mut S, lease: LeaseId, command: &Command) -> Result<u32, S::Error> {
    let (space, command) = match command {
        Command::InVault { vault, command } => (store.vault(vault)?, &**command),
        command => (Some(Space::default()), command),
    };
    let mut new = BTreeSet::new();
    for key in written_keys(command) {
        let has_it = match space {
            Some(space) => store.records(space).get(key)?.is_some_and(|record| record.lease == Some(lease)),
            None => false,
        };
        if !has_it {
            new.insert(key);
        }
    }
    Ok(u32::try_from(new.len()).unwrap_or(u32::MAX))
}

/// Applies a command to the keys of its vault, or of none.
fn apply_somewhere<S: Store>(store: &mut S, stamp: Stamp, command: &Command) -> Result<Outcome, S::Error> {
    let Command::InVault { vault, command } = command else {
        return apply_in(&mut store.records(Space::default()), stamp, command);
    };
    if let Some(space) = store.vault(vault)? {
        return apply_in(&mut store.records(space), stamp, command);
    }
    if writes(command) && store.vault_count()? >= VAULTS_MAX {
        return Ok(Outcome::TooManyVaults);
    }
    // The vault is made by what is left in it.
    let space = Space(stamp.revision.0);
    let outcome = apply_in(&mut store.records(space), stamp, command)?;
    if !store.records(space).range(&KeyRange::default(), 1, 0)?.is_empty() {
        store.create_vault(vault, space)?;
    }
    Ok(outcome)
}

/// Applies a command to the keys of its space.
fn apply_in<R: Records>(records: &mut R, stamp: Stamp, command: &Command) -> Result<Outcome, R::Error> {
    match command {
        Command::Set { key, value } => {
            records.put(key, value, stamp)?;
            Ok(Outcome::Written)
        }
        Command::Delete { key } if Plant::LostDelete.is_on() => {
            Ok(Outcome::Deleted { existed: records.get(key)?.is_some() })
        }
        Command::Delete { key } => Ok(Outcome::Deleted { existed: records.remove(key)? }),
        Command::CompareAndSwap { key, expected, value } => {
            let before = records.get(key)?.map(|record| record.value);
            if before != *expected && !Plant::CasIgnoresExpected.is_on() {
                return Ok(Outcome::NotSwapped { actual: before });
            }
            records.put(key, value, stamp)?;
            Ok(Outcome::Swapped)
        }
        Command::SetMulti { pairs } => {
            for (key, value) in pairs {
                records.put(key, value, stamp)?;
            }
            Ok(Outcome::Written)
        }
        Command::DeleteMulti { keys } => {
            let mut existed_count = 0;
            for key in keys {
                existed_count += u32::from(records.remove(key)?);
            }
            Ok(Outcome::DeletedMulti { existed_count })
        }
        Command::Transaction(transaction) => transact(records, stamp, transaction),
        Command::InVault { .. }
        | Command::CreateVault { .. }
        | Command::DeleteVault { .. }
        | Command::GrantLease { .. }
        | Command::RevokeLease { .. }
        | Command::WithLease { .. } => Ok(Outcome::Refused),
    }
}

/// Compares, then does one branch in a draft, which counts only if its answer is not too large.
fn transact<R: Records>(
    records: &mut R,
    stamp: Stamp,
    transaction: &Transaction,
) -> Result<Outcome, R::Error> {
    let mut succeeded = true;
    for compare in &transaction.compare {
        succeeded &= holds(compare, records.get(&compare.key)?.as_ref());
    }
    let mut draft = Draft::new(records);
    let mut results = Vec::new();
    let mut bytes = 0;
    for operation in if succeeded { &transaction.success } else { &transaction.failure } {
        let result = operate(&mut draft, stamp, operation)?;
        bytes += answer_bytes(&result);
        if bytes > u64::from(ANSWER_BYTES_MAX) {
            return Ok(Outcome::AnswerTooLarge);
        }
        results.push(result);
    }
    draft.write_out()?;
    Ok(Outcome::Transaction { succeeded, results })
}

fn holds(compare: &Compare, record: Option<&Record>) -> bool {
    let revision = |revision: Option<Revision>| revision.unwrap_or_default();
    let order = match &compare.operand {
        // No value is neither less nor greater than one.
        Operand::Value(value) => record.map(|record| record.value.cmp(value)),
        Operand::Version(version) => Some(record.map_or(0, |record| record.version).cmp(version)),
        Operand::CreateRevision(at) => Some(revision(record.map(|record| record.create_revision)).cmp(at)),
        Operand::ModRevision(at) => Some(revision(record.map(|record| record.mod_revision)).cmp(at)),
        Operand::Exists(exists) => Some(record.is_some().cmp(exists)),
    };
    match compare.relation {
        Relation::Equal => order == Some(Ordering::Equal),
        Relation::NotEqual => order != Some(Ordering::Equal),
        Relation::Less => order == Some(Ordering::Less),
        Relation::Greater => order == Some(Ordering::Greater),
    }
}

fn operate<R: Records>(
    records: &mut R,
    stamp: Stamp,
    operation: &Operation,
) -> Result<OperationResult, R::Error> {
    Ok(match operation {
        Operation::Put { key, value } => {
            records.put(key, value, stamp)?;
            OperationResult::Written
        }
        Operation::Delete { key } => OperationResult::Deleted { existed: records.remove(key)? },
        Operation::Get { key } => OperationResult::Got(records.get(key)?),
        Operation::Range { range, limit } => {
            let mut entries = records.range(range, limit + 1, u64::from(ANSWER_BYTES_MAX))?;
            let is_truncated = entries.len() > *limit as usize;
            entries.truncate(*limit as usize);
            OperationResult::Found { entries, is_truncated }
        }
    })
}

/// Bytes of a key and its record in an answer.
pub fn entry_bytes(key: &Key, record: &Record) -> u64 {
    (key.0.len() + record.value.0.len()) as u64 + RECORD_BYTES
}

/// Makes a page of what a scan has found, of which one more than is wanted was looked for, or as much as is more than an answer may
/// have; whether there is more.
pub fn cut_page(entries: &mut Vec<(Key, Record)>, limit: u32) -> bool {
    let bytes: u64 = entries.iter().map(|(key, record)| entry_bytes(key, record)).sum();
    // One that is too large is left for the next page.
    let is_over = entries.len() > limit as usize || bytes > u64::from(SCAN_BYTES_MAX);
    let is_cut = is_over && entries.len() > 1;
    if is_cut {
        entries.pop();
    }
    is_cut
}

fn answer_bytes(result: &OperationResult) -> u64 {
    match result {
        OperationResult::Written | OperationResult::Deleted { .. } => 0,
        OperationResult::Got(record) => {
            record.as_ref().map_or(0, |record| record.value.0.len() as u64 + RECORD_BYTES)
        }
        OperationResult::Found { entries, .. } => {
            entries.iter().map(|(key, record)| entry_bytes(key, record)).sum()
        }
    }
}

/// Whether a command may write a key that is not there.
fn writes(command: &Command) -> bool {
    match command {
        Command::CompareAndSwap { expected, .. } => expected.is_none(),
        command => written_keys(command).next().is_some(),
    }
}

/// The keys that a command may write, in a vault or in none.
fn written_keys(command: &Command) -> Box<dyn Iterator<Item = &Key> + '_> {
    match command {
        Command::Set { key, .. } | Command::CompareAndSwap { key, .. } => Box::new(std::iter::once(key)),
        Command::SetMulti { pairs } => Box::new(pairs.iter().map(|(key, _)| key)),
        Command::Transaction(transaction) => {
            let operations = transaction.success.iter().chain(&transaction.failure);
            Box::new(operations.filter_map(|operation| match operation {
                Operation::Put { key, .. } => Some(key),
                Operation::Delete { .. } | Operation::Get { .. } | Operation::Range { .. } => None,
            }))
        }
        _ => Box::new(std::iter::empty()),
    }
}

#[cfg(test)]
mod tests;
