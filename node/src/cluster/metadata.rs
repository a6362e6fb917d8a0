//! `MetadataStore`: what a node knows of its cluster besides Raft's log, across restarts: which member it is, how its last run ended, and
//! where and when the others were seen last. It is what a node begins with that has heard of nobody yet.
//!
//! That there was a log is in it, too: a node that has lost its log and kept this store does not begin anew.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::encode;
use crate::causes::without_panic;
use crate::network::Peer;
use crate::network::incarnation::{Incarnation, Start, Starts};
use crate::network::join::Welcome;
use crate::storage::log::{self, Untouched};
use crate::types::{EndpointKey, NodeId};

/// The file in the data directory.
pub const METADATA_FILE: &str = "cluster.redb";

/// The number of the file's format.
const FORMAT: u32 = 1;
/// What the node knows of itself, by name.
const OWN: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("own");
/// By the key of the node that a row is about.
type NodeTable = TableDefinition<'static, &'static [u8; 32], &'static [u8]>;
/// What it knows of the others.
const NODES: NodeTable = TableDefinition::new("nodes");
/// Which start of the others it has seen last.
const STARTS: NodeTable = TableDefinition::new("starts");

/// When it has seen them last, in seconds since 1970.
const LAST_SEEN: NodeTable = TableDefinition::new("last_seen");

/// The store. Clones share it.
#[derive(Debug, Clone)]
pub struct MetadataStore {
    path: PathBuf,
    db: std::sync::Arc<Database>,
}

/// What a node's last run has come to, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// What it has come to.
    pub status: RunStatus,
    /// Since when, in seconds since 1970.
    pub unix_s: u64,
}

/// What a run of a node has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunStatus {
    /// It has begun. Of a node that does not run any more: nobody has stopped it, it was killed, or the power went.
    Begun,
    /// It was stopped, with its stores.
    Stopped,
    /// It has failed by itself.
    Failed {
        /// For people.
        reason: String,
    },
}

impl LastRun {
    /// What is to be said of a node that does not run, at a time in seconds since 1970.
    pub fn ended(&self, unix_s: u64) -> String {
        let ago = unix_s.saturating_sub(self.unix_s);
        match &self.status {
            RunStatus::Begun => {
                format!("begun {ago} s ago, and never stopped: it was killed, has crashed, or the power went")
            }
            RunStatus::Stopped => format!("stopped {ago} s ago"),
            RunStatus::Failed { reason } => format!("failed {ago} s ago: {reason}"),
        }
    }
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// Another process has it open.
    #[error("{path} is in use by another process: stop that node first")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is of a newer program.
    #[error("{path} has format {found}, this program knows format {FORMAT}: use the program that wrote it")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Its bytes are none of ours.
    #[error(
        "{path} is damaged ({what}): stop the node and remove the file, it is filled again from the cluster, but for target_voters, which is to be set again where it was told by the cluster"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What of it.
        what: &'static str,
    },
    /// It cannot be read or written.
    #[error("cannot use {path}")]
    Store {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
}

impl MetadataError {
    /// Whether there was no room on the disk.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Store { source, .. } if log::is_disk_full(source))
    }
}

impl MetadataStore {
    /// Opens the store of a data directory, which has to exist, or makes it.
    ///
    /// # Errors
    /// It cannot be used, or a newer program has written it.
    pub fn open(data_dir: &Path) -> Result<Self, MetadataError> {
        let path = data_dir.join(METADATA_FILE);
        let created = without_panic(|| log::open(&path));
        let store = Self::opened(path, created)?;
        match store.own::<u32>("format", "its format")? {
            Some(FORMAT) => {}
            Some(found) => return Err(MetadataError::Format { path: store.path, found }),
            None => store.with(|txn| {
                txn.open_table(NODES)?;
                txn.open_table(OWN)?.insert("format", encode(&FORMAT).as_slice())?;
                Ok(())
            })?,
        }
        Ok(store)
    }

    /// Opens the store of a stopped node, of which nothing is changed; `None`: there is none.
    ///
    /// # Errors
    /// It cannot be used, or a newer program has written it.
    pub fn inspect(data_dir: &Path) -> Result<Option<Self>, MetadataError> {
        let path = data_dir.join(METADATA_FILE);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(MetadataError::Store { path, source: Box::new(redb::Error::Io(error)) });
            }
            Ok(file) => file,
        };
        if file.try_lock_shared().is_err() {
            return Err(MetadataError::InUse { path });
        }
        let created = without_panic(|| {
            let backend = Untouched::new(file).map_err(|error| DatabaseError::Storage(error.into()))?;
            log::builder().create_with_backend(backend)
        });
        let store = Self::opened(path, created)?;
        match store.own::<u32>("format", "its format")? {
            Some(FORMAT) => Ok(Some(store)),
            Some(found) => Err(MetadataError::Format { path: store.path, found }),
            None => Err(MetadataError::Corrupt { path: store.path, what: "its format" }),
        }
    }

    fn opened(
        path: PathBuf,
        created: Option<Result<Database, DatabaseError>>,
    ) -> Result<Self, MetadataError> {
        match created {
            None => Err(MetadataError::Corrupt { path, what: "a page of it" }),
            Some(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(MetadataError::InUse { path }),
            Some(Err(DatabaseError::Storage(redb::StorageError::Corrupted(_)))) => {
                Err(MetadataError::Corrupt { path, what: "its end" })
            }
            Some(Err(other)) => Err(MetadataError::Store { path, source: Box::new(other.into()) }),
            Some(Ok(db)) => Ok(Self { path, db: std::sync::Arc::new(db) }),
        }
    }

    /// Which member this node is, if it was told by the cluster.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn own_id(&self) -> Result<Option<NodeId>, MetadataError> {
        self.own("id", "its number")
    }

    /// With which key it has started before.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn own_key(&self) -> Result<Option<EndpointKey>, MetadataError> {
        self.own("key", "its key")
    }

    /// Takes down with which key it starts.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn set_own_key(&self, key: EndpointKey) -> Result<(), MetadataError> {
        self.set_own("key", &key)
    }

    /// What the last run of the node has come to, if there was one.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn last_run(&self) -> Result<Option<LastRun>, MetadataError> {
        self.own("run", "what its last run came to")
    }

    /// Takes down what this run has come to.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn set_run(&self, status: RunStatus, unix_s: u64) -> Result<(), MetadataError> {
        self.set_own("run", &LastRun { status, unix_s })
    }

    /// How many members should vote, as the cluster said when this node was let in.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn target_voters(&self) -> Result<Option<u32>, MetadataError> {
        Ok(self.own::<Option<u32>>("target_voters", "the number of voters")?.flatten())
    }

    /// Whether this member has had a log.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn has_had_log(&self) -> Result<bool, MetadataError> {
        Ok(self.own::<bool>("log", "whether there was a log")?.unwrap_or(false))
    }

    /// Takes down that there is a log from now on.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn set_has_had_log(&self) -> Result<(), MetadataError> {
        if self.has_had_log()? {
            return Ok(());
        }
        self.set_own("log", &true)
    }

    /// Takes down which number a node was given when it was let in and what it was told, all of it or nothing.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn set_welcome(&self, id: NodeId, welcome: &Welcome) -> Result<(), MetadataError> {
        self.with(|txn| {
            let mut own = txn.open_table(OWN)?;
            own.insert("id", encode(&id).as_slice())?;
            own.insert("target_voters", encode(&welcome.target_voters).as_slice())?;
            put(&mut txn.open_table(NODES)?, &welcome.members)
        })
    }

    /// Begins another start of the node, with a number that is larger than that of every earlier one of which this store knows: what
    /// the node says later it has said last. The clock is asked only so that this holds, too, where the store was lost.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn next_incarnation(&self, unix_s: u64) -> Result<Incarnation, MetadataError> {
        let last = self.own::<Incarnation>("starts", "its last starts")?;
        let next = last.map_or_else(|| Incarnation::first(unix_s), |last| last.next(unix_s));
        self.set_own("starts", &next)?;
        Ok(next)
    }

    /// Takes down what the node says of itself from now on, and what it has seen of others until now. Of whom there is something new, that
    /// one was there at `unix_s`.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn set_beat(&self, present: &Incarnation, seen: &Starts, unix_s: u64) -> Result<(), MetadataError> {
        let before = self.starts()?;
        self.with(|txn| {
            txn.open_table(OWN)?.insert("starts", encode(present).as_slice())?;
            let mut last_seen = txn.open_table(LAST_SEEN)?;
            last_seen.retain(|key, _| seen.contains_key(&EndpointKey(*key)))?;
            for (key, _) in seen.iter().filter(|(key, start)| before.get(*key) != Some(*start)) {
                last_seen.insert(&key.0, encode(&unix_s).as_slice())?;
            }
            put_starts(txn, seen)
        })
    }

    /// When others were seen last, in seconds since 1970.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn last_seen(&self) -> Result<HashMap<EndpointKey, u64>, MetadataError> {
        let rows = self.rows(LAST_SEEN)?;
        rows.iter().map(|(key, row)| Ok((*key, self.decode(row, "when a member was seen")?))).collect()
    }

    /// Which starts of others this node has seen last.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn starts(&self) -> Result<Starts, MetadataError> {
        let rows = self.rows(STARTS)?;
        rows.iter().map(|(key, row)| Ok((*key, self.decode(row, "the start of a member")?))).collect()
    }

    /// Takes down which start of another was seen, and forgets those of which nothing is to be remembered any more.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn set_starts(&self, starts: &Starts) -> Result<(), MetadataError> {
        self.with(|txn| put_starts(txn, starts))
    }

    /// The members that this node knows of, in the order of their numbers.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn nodes(&self) -> Result<Vec<Peer>, MetadataError> {
        let rows = self.rows(NODES)?;
        let nodes = rows.iter().map(|(_, row)| self.decode(row, "what it knows of a member"));
        let mut nodes: Vec<Peer> = nodes.collect::<Result<_, _>>()?;
        nodes.sort_by_key(|node| node.id);
        Ok(nodes)
    }

    /// Replaces what this node knows of the others.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn set_nodes(&self, present: &[Peer]) -> Result<(), MetadataError> {
        self.with(|txn| {
            let mut nodes = txn.open_table(NODES)?;
            nodes.retain(|key, _| present.iter().any(|node| node.info.endpoint_id == EndpointKey(*key)))?;
            put(&mut nodes, present)
        })
    }

    /// What a table has of other nodes; nothing, where there is no such table yet.
    fn rows(&self, table: NodeTable) -> Result<Vec<(EndpointKey, Vec<u8>)>, MetadataError> {
        let read = || -> Result<_, redb::Error> {
            let rows = match self.db.begin_read()?.open_table(table) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                rows => rows?,
            };
            let mut found = Vec::new();
            for row in rows.iter()? {
                let (key, value) = row?;
                found.push((EndpointKey(*key.value()), value.value().to_vec()));
            }
            Ok(found)
        };
        read().map_err(|error| self.failed(error))
    }

    fn own<T: DeserializeOwned>(&self, name: &str, what: &'static str) -> Result<Option<T>, MetadataError> {
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            let own = match self.db.begin_read()?.open_table(OWN) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                own => own?,
            };
            Ok(own.get(name)?.map(|value| value.value().to_vec()))
        };
        let bytes = read().map_err(|error| self.failed(error))?;
        bytes.map(|bytes| self.decode(&bytes, what)).transpose()
    }

    fn set_own<T: Serialize>(&self, name: &str, value: &T) -> Result<(), MetadataError> {
        self.with(|txn| {
            txn.open_table(OWN)?.insert(name, encode(value).as_slice())?;
            Ok(())
        })
    }

    /// Does something in a transaction that is durable when this returns.
    fn with(
        &self,
        work: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), MetadataError> {
        let done = || -> Result<(), redb::Error> {
            let txn = self.db.begin_write()?;
            work(&txn)?;
            Ok(txn.commit()?)
        };
        done().map_err(|error| self.failed(error))
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8], what: &'static str) -> Result<T, MetadataError> {
        postcard::from_bytes(bytes).map_err(|_| MetadataError::Corrupt { path: self.path.clone(), what })
    }

    fn failed(&self, error: redb::Error) -> MetadataError {
        MetadataError::Store { path: self.path.clone(), source: Box::new(error) }
    }
}

/// Seconds since 1970.
#[allow(
    clippy::disallowed_methods,
    reason = "it only has to be larger than at an earlier start, and is not trusted for that alone; and people read it"
)]
pub fn unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn put_starts(txn: &redb::WriteTransaction, starts: &Starts) -> Result<(), redb::Error> {
    let mut table = txn.open_table(STARTS)?;
    table.retain(|key, _| starts.contains_key(&EndpointKey(*key)))?;
    for (key, start) in starts {
        let before = table.get(&key.0)?.and_then(|row| postcard::from_bytes::<Start>(row.value()).ok());
        // Two tasks write them, and the older word may come last.
        if before.is_none_or(|before| (before.number, before.beat) <= (start.number, start.beat)) {
            table.insert(&key.0, encode(start).as_slice())?;
        }
    }
    Ok(())
}

fn put(nodes: &mut Table<'_, &'static [u8; 32], &'static [u8]>, members: &[Peer]) -> Result<(), redb::Error> {
    for node in members {
        nodes.insert(&node.info.endpoint_id.0, encode(node).as_slice())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeInfo;

    fn info(byte: u8, port: u16) -> NodeInfo {
        let address = ([10, 0, 0, byte], port).into();
        NodeInfo { endpoint_id: EndpointKey([byte; 32]), raft: address, http: address }
    }

    #[test]
    fn what_was_taken_down_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = MetadataStore::open(dir.path()).unwrap();
        assert_eq!(store.own_id().unwrap(), None);
        let first = store.next_incarnation(1_000).unwrap();
        assert_eq!((first.present.number, first.earlier.len()), (1_000, 0));
        let first = first.later();
        let starts = Starts::from([(EndpointKey([1; 32]), first.present)]);
        store.set_beat(&first, &starts, 1_005).unwrap();
        // Nothing new was heard of it.
        store.set_beat(&first, &starts, 1_010).unwrap();
        assert_eq!(store.own_key().unwrap(), None);
        store.set_own_key(EndpointKey([7; 32])).unwrap();
        let members =
            [(2, 1), (1, 2)].map(|(id, byte)| Peer { id: NodeId(id), info: info(byte, 1) }).to_vec();
        let welcome = Welcome { as_of: 1, id: Some(NodeId(7)), members, target_voters: Some(5) };
        store.set_welcome(NodeId(7), &welcome).unwrap();
        assert_eq!(store.last_run().unwrap(), None);
        store.set_run(RunStatus::Begun, 1_000).unwrap();
        store.set_run(RunStatus::Failed { reason: "no more".to_owned() }, 1_020).unwrap();
        assert!(!store.has_had_log().unwrap());
        store.set_has_had_log().unwrap();
        drop(store);
        let store = MetadataStore::open(dir.path()).unwrap();
        assert_eq!(store.own_id().unwrap(), Some(NodeId(7)));
        assert_eq!(store.target_voters().unwrap(), Some(5));
        assert!(store.has_had_log().unwrap());
        assert_eq!(store.own_key().unwrap(), Some(EndpointKey([7; 32])));
        let run = store.last_run().unwrap().unwrap();
        assert_eq!(run.ended(1_030), "failed 10 s ago: no more");
        assert_eq!(store.last_seen().unwrap(), HashMap::from([(EndpointKey([1; 32]), 1_005)]));
        // The clock was put back.
        let second = store.next_incarnation(10).unwrap();
        assert_eq!((second.present.number, second.earlier.front()), (1_001, Some(&first.present)));
        assert_eq!(store.starts().unwrap(), starts);
        store.set_starts(&Starts::new()).unwrap();
        assert!(store.starts().unwrap().is_empty());
        let ids =
            |store: &MetadataStore| store.nodes().unwrap().iter().map(|node| node.id.0).collect::<Vec<_>>();
        assert_eq!(ids(&store), [1, 2]);
        // One has gone, one has moved.
        let moved = Peer { id: NodeId(2), info: info(1, 9) };
        store.set_nodes(std::slice::from_ref(&moved)).unwrap();
        assert_eq!(store.nodes().unwrap(), [moved]);
    }

    #[test]
    fn store_that_finds_no_room_says_so() {
        let error = |kind: io::ErrorKind| MetadataError::Store {
            path: METADATA_FILE.into(),
            source: Box::new(redb::Error::Io(kind.into())),
        };
        assert!(error(io::ErrorKind::StorageFull).is_disk_full());
        assert!(!error(io::ErrorKind::PermissionDenied).is_disk_full());
    }

    #[test]
    fn store_that_is_open_is_not_opened_twice() {
        let dir = tempfile::tempdir().unwrap();
        let _first = MetadataStore::open(dir.path()).unwrap();
        let error = MetadataStore::open(dir.path()).unwrap_err().to_string();
        assert!(
            error.ends_with("cluster.redb is in use by another process: stop that node first"),
            "{error}"
        );
    }
}
