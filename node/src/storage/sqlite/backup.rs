//! The database of a backup: what is in it, and how it becomes that of a node which is alone.

use std::fs::File;
use std::path::Path;

use rusqlite::{Connection, ffi, params};

use super::apply::{LAST_MEMBER, Position, position};
use super::build::open_immutable;
use super::inspect::check_integrity;
use super::{StorageError, check_format, open_writer};
use crate::storage::entry::encode;
use crate::types::raft_types::{LogId, StoredMembership};

/// How much there is in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Keys, those in vaults included.
    pub keys: u64,
    /// Vaults.
    pub vaults: u64,
}

/// What the database of a backup holds.
#[derive(Debug, Clone)]
pub struct BackedUp {
    /// The last entry that was applied.
    pub applied: LogId,
    /// Who the members were then.
    pub membership: StoredMembership,
    /// How much there is.
    pub tally: Tally,
}

/// Counts what is in the finished snapshot at `path`.
///
/// # Errors
/// It cannot be read.
pub fn tally(path: &Path) -> Result<Tally, StorageError> {
    count(&open_immutable(path)?).map_err(|source| StorageError::sqlite(path, source))
}

/// What the database at `path` holds, which nobody writes, after SQLite's own check of it.
///
/// # Errors
/// It cannot be read, is of a later format, its check fails, or nothing was ever applied to it.
pub fn inspect_backup(path: &Path) -> Result<BackedUp, StorageError> {
    let connection = open_immutable(path)?;
    let sqlite = |source| StorageError::sqlite(path, source);
    check_format(path, &connection)?;
    check_integrity(path, &connection)?;
    let Position { applied, membership } = position(path, &connection)?;
    let corrupt = |what: &str| StorageError::Corrupt { path: path.to_owned(), what: what.to_owned() };
    let applied = applied.ok_or_else(|| corrupt("the applied index"))?;
    Ok(BackedUp { applied, membership, tally: count(&connection).map_err(sqlite)? })
}

/// Puts another last entry and other members into the database at `path`, durably. One of an earlier format becomes one of this
/// version's.
///
/// # Errors
/// It cannot be written.
pub fn make_alone(path: &Path, applied: LogId, membership: &StoredMembership) -> Result<(), StorageError> {
    let sqlite = |source| StorageError::sqlite(path, source);
    let connection = open_writer(path)?;
    let update = "INSERT OR REPLACE INTO meta (name, value) VALUES ('applied', ?1), ('membership', ?2)";
    connection.execute(update, params![encode(&applied), encode(membership)]).map_err(sqlite)?;
    // Nobody has been a member of it yet.
    connection.execute("DELETE FROM meta WHERE name = ?1", params![LAST_MEMBER]).map_err(sqlite)?;
    // To close it would empty the journal, too, and say nothing where that fails.
    let emptied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    if emptied.map_err(sqlite)? != 0 {
        return Err(sqlite(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None)));
    }
    connection.close().map_err(|(_, source)| sqlite(source))?;
    let io = |source| StorageError::Io { path: path.to_owned(), source };
    File::open(path).and_then(|file| file.sync_all()).map_err(io)
}

/// The keys that vaults have left behind do not count.
fn count(connection: &Connection) -> rusqlite::Result<Tally> {
    let number = |query| connection.query_row(query, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned);
    // A database of an earlier format has no vaults.
    let has_vaults = number("SELECT count(*) FROM sqlite_master WHERE name = 'vaults'")? > 0;
    if !has_vaults {
        return Ok(Tally { keys: number("SELECT count(*) FROM kv")?, vaults: 0 });
    }
    Ok(Tally {
        keys: number("SELECT count(*) FROM kv WHERE space NOT IN (SELECT space FROM removed_vaults)")?,
        vaults: number("SELECT count(*) FROM vaults")?,
    })
}

/// A database as tests want one: one key, written by this entry; and these members.
#[cfg(test)]
pub(crate) fn sample(path: &Path, (term, index): (u64, u64), membership: &StoredMembership) {
    use openraft::vote::RaftLeaderIdExt;

    let leader = openraft::impls::leader_id_std::LeaderId::new_committed(term, crate::types::NodeId(1));
    let connection = open_writer(path).unwrap();
    let put = "INSERT INTO meta (name, value) VALUES (?1, ?2)";
    connection.execute(put, params!["applied", encode(&LogId::new(leader, index))]).unwrap();
    connection.execute(put, params!["membership", encode(membership)]).unwrap();
    let set = "INSERT INTO kv (space, key, value, create_revision, mod_revision, version) VALUES (0, x'6b', x'76', ?1, ?1, 1)";
    connection.execute(set, params![index.cast_signed()]).unwrap();
    connection.close().unwrap();
}
