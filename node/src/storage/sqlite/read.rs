//! The readers' side of the state machine: a pool of connections that cannot write.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use rusqlite::{Connection, OptionalExtension, Transaction, ffi, params};
use tokio::sync::Semaphore;

use super::apply::{meta, stored_last_member};
use super::open_read_only;
use super::records::{get_range, get_record, sql_int, vault};
use crate::api::{
    ApiError, ConfirmedBy, LeaseInfo, LeaseList, ReadResult, ScanDetail, ScanRequest, ScanResult,
    StateDigest, VaultList,
};
use crate::host::blocking;
use crate::limits::{OPERATION_TIMEOUT, READ_POOL_SIZE, SCAN_BYTES_MAX};
use crate::plant::Plant;
use crate::state::{Space, cut_page};
use crate::types::raft_types::LogId;
use crate::types::{Key, KeyRange, LeaseId, Revision, Value, VaultName};

/// Reads of the state as of one applied entry. Clones share the connections.
#[derive(Debug, Clone)]
pub struct ReadPool(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    /// As many permits as connections may be open.
    permits: Arc<Semaphore>,
    idle: Mutex<Idle>,
}

#[derive(Debug)]
struct Idle {
    path: PathBuf,
    /// Invariant: all to the database at `path`.
    connections: Vec<Connection>,
}

impl ReadPool {
    /// A pool for the database at a path. Connections are opened when they are needed.
    pub(super) fn new(path: PathBuf) -> Self {
        let permits = Arc::new(Semaphore::new(READ_POOL_SIZE as usize));
        let idle = Mutex::new(Idle { path, connections: Vec::new() });
        Self(Arc::new(Pool { permits, idle }))
    }

    /// Reads from another database from now on. What is under way ends where it began.
    pub(super) fn switch(&self, path: PathBuf) {
        *self.0.lock() = Idle { path, connections: Vec::new() };
    }

    /// The database that is read at present.
    pub fn path(&self) -> PathBuf {
        self.0.lock().path.clone()
    }

    /// The record under a key.
    ///
    /// # Errors
    /// [`ApiError::VaultNotFound`], or SQLite's.
    pub async fn read(&self, vault: Option<VaultName>, key: Key) -> Result<ReadResult, ApiError> {
        self.in_space(vault, move |txn, space| {
            let (revision, record) = (revision(txn)?, get_record(txn, space, &key)?);
            Ok(ReadResult { confirmed_by: ConfirmedBy::Nobody, staleness_ms: None, revision, record })
        })
        .await
    }

    /// A page of records.
    ///
    /// # Errors
    /// [`ApiError::VaultNotFound`], or SQLite's.
    pub async fn scan(&self, request: ScanRequest) -> Result<ScanResult, ApiError> {
        self.in_space(request.vault.clone(), move |txn, space| scan(txn, space, &request)).await
    }

    /// The vaults that there are.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn vaults(&self) -> Result<VaultList, ApiError> {
        self.with(|txn| {
            let mut rows = txn.prepare_cached("SELECT name, space FROM vaults ORDER BY name")?;
            let vaults = rows.query_map([], |row| {
                Ok((VaultName(row.get(0)?), Revision(row.get::<_, i64>(1)?.cast_unsigned())))
            })?;
            Ok(VaultList { revision: revision(txn)?, vaults: vaults.collect::<Result<_, _>>()? })
        })
        .await
    }

    /// The largest number that any member has had, of those of whom this node knows.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn last_member(&self) -> Result<u64, ApiError> {
        self.with(|txn| stored_last_member(txn)).await
    }

    /// The leases that there are.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn leases(&self) -> Result<LeaseList, ApiError> {
        self.with(|txn| {
            let mut rows = txn.prepare_cached(
                "SELECT lease, ttl_ms,
                 (SELECT count(*) FROM kv WHERE kv.lease = leases.lease
                  AND space NOT IN (SELECT space FROM removed_vaults))
                 FROM leases ORDER BY lease",
            )?;
            let leases = rows.query_map([], |row| {
                let number = |column: usize| row.get::<_, i64>(column).map(i64::cast_unsigned);
                let (lease, ttl_ms, key_count) = (LeaseId(number(0)?), number(1)?, number(2)?);
                Ok(LeaseInfo { lease, ttl_ms, key_count, left_ms: None })
            })?;
            Ok(LeaseList { revision: revision(txn)?, leases: leases.collect::<Result<_, _>>()? })
        })
        .await
    }

    /// How long each lease lives, in milliseconds.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn lease_ttls(&self) -> Result<BTreeMap<LeaseId, u64>, ApiError> {
        self.with(|txn| {
            let mut rows = txn.prepare_cached("SELECT lease, ttl_ms FROM leases")?;
            let leases = rows.query_map([], |row| {
                let number = |column: usize| row.get::<_, i64>(column).map(i64::cast_unsigned);
                Ok((LeaseId(number(0)?), number(1)?))
            })?;
            leases.collect()
        })
        .await
    }

    /// How long a lease lives, in milliseconds, where there is one.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn lease_ttl(&self, lease: LeaseId) -> Result<Option<u64>, ApiError> {
        self.with(move |txn| {
            let mut find = txn.prepare_cached("SELECT ttl_ms FROM leases WHERE lease = ?1")?;
            find.query_row([sql_int(lease.0)], |row| row.get(0).map(i64::cast_unsigned)).optional()
        })
        .await
    }

    /// Works in the space of a vault, or in that of none.
    async fn in_space<T: Send + 'static>(
        &self,
        name: Option<VaultName>,
        work: impl FnOnce(&Transaction<'_>, i64) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ApiError> {
        let Some(name) = name else { return self.with(move |txn| work(txn, 0)).await };
        let missing = ApiError::VaultNotFound { vault: name.clone() };
        let found = self.with(move |txn| match vault(txn, &name)? {
            Some(Space(space)) => work(txn, sql_int(space)).map(Some),
            None => Ok(None),
        });
        found.await?.ok_or(missing)
    }

    /// The state digest at an index, or at the last applied entry.
    ///
    /// # Errors
    /// [`ApiError::DigestNotKept`], or SQLite's.
    pub async fn digest(&self, at: Option<u64>) -> Result<StateDigest, ApiError> {
        let found = self
            .with(move |txn| {
                let applied = applied(txn)?.map(|id| id.index);
                let digest: Option<Vec<u8>> = match at {
                    Some(at) if Some(at) != applied => txn
                        .prepare_cached("SELECT digest FROM digests WHERE at = ?1")?
                        .query_row([sql_int(at)], |row| row.get(0))
                        .optional()?,
                    _ => Some(meta(txn, "digest")?.unwrap_or_else(|| vec![0; 32])),
                };
                Ok((at.or(applied), digest))
            })
            .await?;
        match found {
            (index, Some(digest)) => {
                Ok(StateDigest { index, digest: data_encoding::HEXLOWER.encode(&digest) })
            }
            (at, None) => Err(ApiError::DigestNotKept { at: at.unwrap_or_default() }),
        }
    }

    /// Runs `work` in one read transaction on an idle connection, off the async threads.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ApiError> {
        let stopping = || ApiError::Stopping { reason: "its readers are closed".to_owned() };
        let permit = self.0.permits.clone().acquire_owned().await.map_err(|_| stopping())?;
        let pool = self.0.clone();
        blocking(move || {
            let result = pool.on_connection(work);
            // Not before, also where nobody waits for the result any more.
            drop(permit);
            result.map_err(|error| ApiError::Storage { reason: error.to_string() })
        })
        .await
        .map_err(|_| stopping())?
    }
}

impl Pool {
    fn on_connection<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let (path, connection) = {
            let mut idle = self.lock();
            (idle.path.clone(), idle.connections.pop())
        };
        let mut connection = connection.map_or_else(|| open_read_only(&path), Ok)?;
        let result = connection.transaction().and_then(|txn| work(&txn));
        let mut idle = self.lock();
        if idle.path == path {
            idle.connections.push(connection);
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().expect("nothing panics while it holds this lock")
    }
}

fn scan(txn: &Transaction<'_>, space: i64, request: &ScanRequest) -> rusqlite::Result<ScanResult> {
    let range = &request.range;
    // Strictly after `after`: its first successor is itself and a zero byte.
    let after = request.after.as_ref().map(|key| KeyRange::of_key(key).end);
    let first = after.as_ref().map_or(range.first(), |after| after.max(range.first()));
    let mut page = ScanResult {
        confirmed_by: ConfirmedBy::Nobody,
        staleness_ms: None,
        revision: revision(txn)?,
        entries: Vec::new(),
        is_truncated: false,
        count: None,
    };
    if request.detail == ScanDetail::Count {
        page.count = Some(count(txn, space, range, first)?);
        return Ok(page);
    }
    page.entries = get_range(txn, space, range, first, request.limit + 1, u64::from(SCAN_BYTES_MAX))?;
    if Plant::ScanSkips.is_on() && page.entries.len() > 1 {
        page.entries.remove(1);
    }
    page.is_truncated = cut_page(&mut page.entries, request.limit);
    if request.detail == ScanDetail::Keys {
        page.entries.iter_mut().for_each(|(_, record)| record.value = Value::default());
    }
    Ok(page)
}

fn count(txn: &Transaction<'_>, space: i64, range: &KeyRange, first: &Key) -> rusqlite::Result<u64> {
    let mut keys = txn.prepare_cached("SELECT key FROM kv WHERE space = ?1 AND key >= ?2 ORDER BY key")?;
    let mut rows = keys.query(params![space, first.0])?;
    let (mut count, begin) = (0_u64, Instant::now());
    while let Some(row) = rows.next()? {
        // Nobody waits any longer, and others want to read.
        if count.is_multiple_of(1_024) && begin.elapsed() > OPERATION_TIMEOUT {
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_INTERRUPT), None));
        }
        // As a reference: a count touches many.
        if range.is_behind(row.get_ref(0)?.as_blob()?) {
            break;
        }
        count += 1;
    }
    Ok(count)
}

fn applied(txn: &Transaction<'_>) -> rusqlite::Result<Option<LogId>> {
    let bytes = meta(txn, "applied")?;
    Ok(bytes.and_then(|bytes| postcard::from_bytes(&bytes).ok()))
}

fn revision(txn: &Transaction<'_>) -> rusqlite::Result<Revision> {
    Ok(Revision(applied(txn)?.map_or(0, |id| id.index)))
}
