//! The readers' side of the state machine: a pool of connections that cannot write.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tokio::sync::Semaphore;

use super::apply::{get_record, meta, record_at, sql_int};
use super::open_read_only;
use crate::api::{ApiError, ReadResult, ScanRequest, ScanResult, StateDigest};
use crate::limits::{READ_POOL_SIZE, SCAN_BYTES_MAX};
use crate::types::raft_types::LogId;
use crate::types::{Key, Revision};

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
    /// SQLite's.
    pub async fn read(&self, key: Key) -> Result<ReadResult, ApiError> {
        self.with(move |txn| Ok(ReadResult { revision: revision(txn)?, record: get_record(txn, &key)? }))
            .await
    }

    /// A page of records.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn scan(&self, request: ScanRequest) -> Result<ScanResult, ApiError> {
        self.with(move |txn| scan(txn, &request)).await
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
        tokio::task::spawn_blocking(move || {
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

fn scan(txn: &Transaction<'_>, request: &ScanRequest) -> rusqlite::Result<ScanResult> {
    // Strictly after `after`: its first successor is itself and a zero byte.
    let after = request.after.as_ref().map(|key| [key.0.as_slice(), &[0]].concat()).unwrap_or_default();
    let start = request.start.0.clone().max(request.prefix.0.clone()).max(after);
    let mut rows = txn.prepare_cached(
        "SELECT value, create_revision, mod_revision, version, key FROM kv WHERE key >= ?1 ORDER BY key LIMIT ?2",
    )?;
    let mut rows = rows.query(params![start, i64::from(request.limit) + 1])?;
    let mut page = ScanResult { revision: revision(txn)?, entries: Vec::new(), is_truncated: false };
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let key = Key(row.get(4)?);
        let is_past_end = !request.end.0.is_empty() && key >= request.end;
        if is_past_end || !key.0.starts_with(&request.prefix.0) {
            break;
        }
        let record = record_at(row, 0)?;
        bytes += key.0.len() + record.value.0.len();
        let is_full = page.entries.len() == request.limit as usize || bytes > SCAN_BYTES_MAX as usize;
        if is_full && !page.entries.is_empty() {
            page.is_truncated = true;
            break;
        }
        page.entries.push((key, record));
    }
    Ok(page)
}

fn applied(txn: &Transaction<'_>) -> rusqlite::Result<Option<LogId>> {
    let bytes = meta(txn, "applied")?;
    Ok(bytes.and_then(|bytes| postcard::from_bytes(&bytes).ok()))
}

fn revision(txn: &Transaction<'_>) -> rusqlite::Result<Revision> {
    Ok(Revision(applied(txn)?.map_or(0, |id| id.index)))
}
