//! The key spaces of the state machine as rows.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use crate::limits::{SWEPT_BYTES_MAX, SWEPT_ROWS_MAX};
use crate::state::{Records, Space, Stamp, Store, entry_bytes};
use crate::types::{Key, KeyRange, LeaseId, Record, Revision, Value, VaultName};

/// The key spaces, in one transaction.
pub(super) struct SqlStore<'a>(pub(super) &'a Transaction<'a>);

/// The keys of one space, in one transaction.
pub(super) struct SqlRecords<'a> {
    txn: &'a Transaction<'a>,
    space: i64,
}

impl Store for SqlStore<'_> {
    type Error = rusqlite::Error;
    type Records<'b>
        = SqlRecords<'b>
    where
        Self: 'b;

    fn records(&mut self, space: Space) -> SqlRecords<'_> {
        SqlRecords { txn: self.0, space: sql_int(space.0) }
    }

    fn vault(&mut self, name: &VaultName) -> rusqlite::Result<Option<Space>> {
        vault(self.0, name)
    }

    fn vault_count(&mut self) -> rusqlite::Result<u32> {
        self.0.prepare_cached("SELECT count(*) FROM vaults")?.query_row([], |row| row.get(0))
    }

    fn create_vault(&mut self, name: &VaultName, space: Space) -> rusqlite::Result<()> {
        let mut insert = self.0.prepare_cached("INSERT INTO vaults (name, space) VALUES (?1, ?2)")?;
        insert.execute(params![name.0, sql_int(space.0)]).map(drop)
    }

    /// Its keys cannot be found any more, and go bit by bit: see [`sweep`].
    fn remove_vault(&mut self, name: &VaultName, space: Space) -> rusqlite::Result<()> {
        self.0.prepare_cached("DELETE FROM vaults WHERE name = ?1")?.execute([&name.0])?;
        let mut insert = self.0.prepare_cached("INSERT INTO removed_vaults (space) VALUES (?1)")?;
        insert.execute([sql_int(space.0)]).map(drop)
    }

    fn vault_of(&mut self, space: Space) -> rusqlite::Result<Option<VaultName>> {
        let mut find = self.0.prepare_cached("SELECT name FROM vaults WHERE space = ?1")?;
        find.query_row([sql_int(space.0)], |row| row.get(0).map(VaultName)).optional()
    }

    fn has_lease(&mut self, lease: LeaseId) -> rusqlite::Result<bool> {
        self.0.prepare_cached("SELECT 1 FROM leases WHERE lease = ?1")?.exists([sql_int(lease.0)])
    }

    fn lease_count(&mut self) -> rusqlite::Result<u32> {
        self.0.prepare_cached("SELECT count(*) FROM leases")?.query_row([], |row| row.get(0))
    }

    fn create_lease(&mut self, lease: LeaseId, ttl_ms: u64) -> rusqlite::Result<()> {
        let mut insert = self.0.prepare_cached("INSERT INTO leases (lease, ttl_ms) VALUES (?1, ?2)")?;
        insert.execute([sql_int(lease.0), sql_int(ttl_ms)]).map(drop)
    }

    fn remove_lease(&mut self, lease: LeaseId) -> rusqlite::Result<()> {
        let mut delete = self.0.prepare_cached("DELETE FROM leases WHERE lease = ?1")?;
        delete.execute([sql_int(lease.0)]).map(drop)
    }

    fn lease_key_count(&mut self, lease: LeaseId) -> rusqlite::Result<u32> {
        let mut count = self.0.prepare_cached(
            "SELECT count(*) FROM kv WHERE lease = ?1 AND space NOT IN (SELECT space FROM removed_vaults)",
        )?;
        count.query_row([sql_int(lease.0)], |row| row.get(0))
    }

    /// Those of removed vaults are there until they are swept, which is not the same on every node.
    fn lease_keys(&mut self, lease: LeaseId) -> rusqlite::Result<Vec<(Space, Key)>> {
        let mut keys = self.0.prepare_cached(
            "SELECT space, key FROM kv WHERE lease = ?1 AND space NOT IN (SELECT space FROM removed_vaults)
             ORDER BY space, key",
        )?;
        let keys = keys.query_map([sql_int(lease.0)], |row| {
            Ok((Space(row.get::<_, i64>(0)?.cast_unsigned()), Key(row.get(1)?)))
        })?;
        keys.collect()
    }
}

impl Records for SqlRecords<'_> {
    type Error = rusqlite::Error;

    fn get(&mut self, key: &Key) -> rusqlite::Result<Option<Record>> {
        get_record(self.txn, self.space, key)
    }

    /// By two plain statements: an upsert that returns what it has made opens a table of its own for that, which costs more than the
    /// put.
    fn put(&mut self, key: &Key, value: &Value, stamp: Stamp) -> rusqlite::Result<Record> {
        let Stamp { revision, lease } = stamp;
        let mut find = self.txn.prepare_cached(
            "SELECT rowid, create_revision, version, lease FROM kv WHERE space = ?1 AND key = ?2",
        )?;
        let found = find.query_row(params![self.space, key.0], |row| {
            let number = |column: usize| row.get::<_, i64>(column);
            Ok((number(0)?, Revision(number(1)?.cast_unsigned()), number(2)?, row.get::<_, Option<i64>>(3)?))
        });
        let of_lease = lease.map(|lease| sql_int(lease.0));
        let (create_revision, version) = match found.optional()? {
            None => {
                let mut insert = self.txn.prepare_cached(
                    "INSERT INTO kv (space, key, value, create_revision, mod_revision, version, lease)
                     VALUES (?1, ?2, ?3, ?4, ?4, 1, ?5)",
                )?;
                insert.execute(params![self.space, key.0, value.0, sql_int(revision.0), of_lease])?;
                (revision, 1)
            }
            Some((row, create_revision, version, before)) => {
                let version = version + 1;
                let mut update = self.txn.prepare_cached(
                    "UPDATE kv SET value = ?2, mod_revision = ?3, version = ?4 WHERE rowid = ?1",
                )?;
                update.execute(params![row, value.0, sql_int(revision.0), version])?;
                if before != of_lease {
                    let mut tie = self.txn.prepare_cached("UPDATE kv SET lease = ?2 WHERE rowid = ?1")?;
                    tie.execute(params![row, of_lease])?;
                }
                (create_revision, version.cast_unsigned())
            }
        };
        Ok(Record { value: value.clone(), create_revision, mod_revision: revision, version, lease })
    }

    fn remove(&mut self, key: &Key) -> rusqlite::Result<bool> {
        let mut delete = self.txn.prepare_cached("DELETE FROM kv WHERE space = ?1 AND key = ?2")?;
        Ok(delete.execute(params![self.space, key.0])? > 0)
    }

    fn range(
        &mut self,
        range: &KeyRange,
        limit: u32,
        bytes_max: u64,
    ) -> rusqlite::Result<Vec<(Key, Record)>> {
        get_range(self.txn, self.space, range, range.first(), limit, bytes_max)
    }
}

/// The space of a vault.
pub(super) fn vault(connection: &Connection, name: &VaultName) -> rusqlite::Result<Option<Space>> {
    connection
        .prepare_cached("SELECT space FROM vaults WHERE name = ?1")?
        .query_row([&name.0], |row| Ok(Space(row.get::<_, i64>(0)?.cast_unsigned())))
        .optional()
}

/// The record under `key`.
pub(super) fn get_record(connection: &Connection, space: i64, key: &Key) -> rusqlite::Result<Option<Record>> {
    connection
        .prepare_cached(
            "SELECT value, create_revision, mod_revision, version, lease FROM kv WHERE space = ?1 AND key = ?2",
        )?
        .query_row(params![space, key.0], record_at)
        .optional()
}

/// The records of a range from `first` on, as [`Records::range`] has it.
pub(super) fn get_range(
    connection: &Connection,
    space: i64,
    range: &KeyRange,
    first: &Key,
    limit: u32,
    bytes_max: u64,
) -> rusqlite::Result<Vec<(Key, Record)>> {
    let mut rows = connection.prepare_cached(
        "SELECT value, create_revision, mod_revision, version, lease, key FROM kv
         WHERE space = ?1 AND key >= ?2 ORDER BY key LIMIT ?3",
    )?;
    let mut rows = rows.query(params![space, first.0, limit])?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()?
        && bytes <= bytes_max
    {
        let key = Key(row.get(5)?);
        if range.is_behind(&key.0) {
            break;
        }
        let record = record_at(row)?;
        bytes += entry_bytes(&key, &record);
        found.push((key, record));
    }
    Ok(found)
}

/// Removes a few of the keys that vaults have left behind.
pub(super) fn sweep(txn: &Transaction<'_>) -> rusqlite::Result<()> {
    let removed = txn
        .prepare_cached("SELECT space FROM removed_vaults LIMIT 1")?
        .query_row([], |row| row.get::<_, i64>(0))
        .optional()?;
    let Some(space) = removed else { return Ok(()) };
    let mut rows = txn.prepare_cached("SELECT rowid, length(value) FROM kv WHERE space = ?1 LIMIT ?2")?;
    let rows = rows.query_map(params![space, SWEPT_ROWS_MAX], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?.cast_unsigned()))
    })?;
    let rows: Vec<(i64, u64)> = rows.collect::<Result<_, _>>()?;
    if rows.is_empty() {
        txn.prepare_cached("DELETE FROM removed_vaults WHERE space = ?1")?.execute([space])?;
    }
    let mut delete = txn.prepare_cached("DELETE FROM kv WHERE rowid = ?1")?;
    let mut bytes = 0;
    for (row, length) in rows {
        if bytes > SWEPT_BYTES_MAX {
            break;
        }
        bytes += length;
        delete.execute([row])?;
    }
    Ok(())
}

/// The record in the first five columns.
fn record_at(row: &Row<'_>) -> rusqlite::Result<Record> {
    let number = |column: usize| row.get::<_, i64>(column).map(i64::cast_unsigned);
    Ok(Record {
        value: Value(row.get(0)?),
        create_revision: Revision(number(1)?),
        mod_revision: Revision(number(2)?),
        version: number(3)?,
        lease: row.get::<_, Option<i64>>(4)?.map(|lease| LeaseId(lease.cast_unsigned())),
    })
}

/// SQLite's integers are signed; an index beyond 2^63 is out of reach.
pub(super) fn sql_int(number: u64) -> i64 {
    number.cast_signed()
}
