//! A backup becomes the data directory of the first node of a new cluster, offline: the state as it was, an empty log behind it, and this
//! node as the only member.
//!
//! The new cluster is another one than that of the backup, and the two can never be confused: its node has a key of its own, and its terms
//! begin far ahead. While a directory is being made it bears a mark, and no node starts on it; the mark goes last.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rand::RngExt;

use super::Header;
use super::file::{FileError, OldBackup, takes};
use crate::cluster::identity::{IDENTITY_FILE, Identity, IdentityError};
use crate::limits::{RESTORED_REVISIONS_AHEAD, RESTORED_TERMS_AHEAD};
use crate::storage::log::{LOG_FILE, RedbLogStore};
use crate::storage::snapshot::sync_dir;
use crate::storage::space::is_disk_full;
use crate::storage::sqlite::{BackedUp, make_alone};
use crate::storage::{RESTORING_FILE, StorageError, unflushed};
use crate::types::raft_types::{Membership, StoredMembership, Vote};
use crate::types::{EndpointKey, NodeId, NodeInfo};

/// The database of a node that never installed a snapshot, and what SQLite has beside it.
const STATE_FILES: [&str; 3] = ["state.sqlite", "state.sqlite-wal", "state.sqlite-shm"];
/// What a new file system has in it.
const LOST_AND_FOUND: &str = "lost+found";

/// Which node is to be made.
#[derive(Debug, Clone)]
pub struct FirstNode {
    /// Its data directory: absent, empty, or with nothing but a key in it, which becomes that of the node.
    pub data_dir: PathBuf,
    /// Its number.
    pub id: NodeId,
    /// Its UDP address for the other members.
    pub raft: SocketAddr,
    /// Its TCP address for clients.
    pub http: SocketAddr,
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Restored {
    /// What the backup says of itself.
    pub header: Header,
    /// The key of the new node.
    pub endpoint_id: EndpointKey,
}

/// Why no data directory was made.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A number that no node has.
    #[error("id is 0, node numbers start at 1")]
    Id,
    /// An address that nobody can dial.
    #[error("{address} is an address that no other node can dial: give one that it listens at")]
    Address {
        /// The address.
        address: SocketAddr,
    },
    /// The backup.
    #[error(transparent)]
    File(#[from] FileError),
    /// The directory is not for a new node.
    #[error("{path} has something in it, {found:?}: a new node needs a directory that is empty or not there")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// A file in it.
        found: OsString,
    },
    /// Another restore works in it.
    #[error("another restore works in {path}: wait for it")]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// The key in the directory is not new.
    #[error(
        "the key in {path} is that of node {id} of the cluster that the backup was taken from, whose members would take the new node \
         for it: remove {path}, a new key is made"
    )]
    OldKey {
        /// The file with the key.
        path: PathBuf,
        /// Whose it is.
        id: NodeId,
    },
    /// A file or directory.
    #[error("cannot use {path}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There was no room. Nothing is left of it.
    #[error("the disk of {path} is full: make room on it, and restore again")]
    NoRoom {
        /// The directory.
        path: PathBuf,
        /// For what.
        source: Box<RestoreError>,
    },
}

impl RestoreError {
    /// Says what to do where there was no room.
    fn explained(self, path: &Path) -> Self {
        let is_full = match &self {
            Self::Io { source, .. }
            | Self::File(FileError::Io { source, .. })
            | Self::Identity(IdentityError::Io { source, .. }) => is_disk_full(source),
            Self::Storage(error) | Self::File(FileError::Database { source: error, .. }) => {
                error.is_disk_full()
            }
            _ => false,
        };
        if is_full { Self::NoRoom { path: path.to_owned(), source: Box::new(self) } } else { self }
    }
}

/// Makes the data directory of a first node out of the backup at `path`. What fails leaves the directory as it was; what is cut off leaves
/// one on which no node starts, and which this begins anew.
///
/// # Errors
/// The backup or the directory is refused, or something cannot be written.
pub fn restore(path: &Path, node: &FirstNode) -> Result<Restored, RestoreError> {
    make(path, node).map_err(|error| error.explained(&node.data_dir))
}

fn make(path: &Path, node: &FirstNode) -> Result<Restored, RestoreError> {
    if node.id == NodeId(0) {
        return Err(RestoreError::Id);
    }
    let is_nowhere = |address: &SocketAddr| address.ip().is_unspecified() || address.port() == 0;
    if let Some(address) = [node.raft, node.http].into_iter().find(is_nowhere) {
        return Err(RestoreError::Address { address });
    }
    // What is refused at once touches nothing.
    let backup = OldBackup::open(path)?;
    let site = Site::enter(&node.data_dir)?;
    let database = node.data_dir.join(STATE_FILES[0]);
    let (header, BackedUp { applied, membership, .. }) = backup.extract(&database)?;
    let identity = Identity::load_or_create(&node.data_dir)?;
    let endpoint_id = identity.endpoint_id();
    let mut old = membership.nodes();
    if let Some((id, _)) = old.find(|(_, info)| info.endpoint_id == endpoint_id) {
        return Err(RestoreError::OldKey { path: node.data_dir.join(IDENTITY_FILE), id: *id });
    }
    let info = NodeInfo { endpoint_id, raft: node.raft, http: node.http };
    let alone = Membership::new(vec![[node.id].into()], BTreeMap::from([(node.id, info)]));
    let alone = alone.expect("one voter whose address is known is a membership");
    let mut applied = applied;
    applied.index += RESTORED_REVISIONS_AHEAD;
    make_alone(&database, applied, &StoredMembership::new(Some(applied), alone))?;
    let [least, less_than] = RESTORED_TERMS_AHEAD;
    // An entry of the one cluster never has the term of an entry of the other.
    let vote = Vote::new(header.term.saturating_add(rand::rng().random_range(least..less_than)), node.id);
    RedbLogStore::create_behind(&node.data_dir.join(LOG_FILE), node.id, applied, &vote)?;
    site.leave()?;
    Ok(Restored { header, endpoint_id })
}

/// A directory that is being made. Dropped before it is done, it is as it was.
struct Site {
    dir: PathBuf,
    /// Open and locked as long as somebody works here.
    mark: File,
    is_made: bool,
    had_key: bool,
    is_done: bool,
}

impl Site {
    /// Takes a directory, or makes it, and marks it.
    fn enter(dir: &Path) -> Result<Self, RestoreError> {
        let io = |source| RestoreError::Io { path: dir.to_owned(), source };
        let is_made = !dir.try_exists().map_err(io)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
        let path = dir.join(RESTORING_FILE);
        let is_begun = path.try_exists().map_err(io)?;
        let ours =
            [RESTORING_FILE, LOG_FILE, STATE_FILES[0], STATE_FILES[1], STATE_FILES[2], unflushed::FILE];
        check_free(dir, if is_begun { &ours } else { &[] })?;
        let mut options = File::options();
        options.write(true);
        let options = if is_begun { &mut options } else { options.create_new(true) };
        let busy = || RestoreError::Busy { path: dir.to_owned() };
        let mark = options.open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound => busy(),
            _ => io(error),
        })?;
        // Whoever has worked here meanwhile may be done, and its mark gone.
        if !takes(&mark, &path) {
            return Err(busy());
        }
        let had_key = dir.join(IDENTITY_FILE).exists();
        let mut site = Self { dir: dir.to_owned(), mark, is_made, had_key, is_done: false };
        if let Err(error) = check_free(dir, if is_begun { &ours } else { &ours[..1] }) {
            site.is_done = true;
            fs::remove_file(&path).map_err(io)?;
            return Err(error);
        }
        let text = "this directory is being made of a backup, and is not complete\n";
        let marked = site.mark.write_all(text.as_bytes()).and_then(|()| site.mark.sync_all());
        marked.and_then(|()| sync_dir(dir)).and_then(|()| site.clear()).map_err(io)?;
        Ok(site)
    }

    /// Removes what was made here, or what is left of what was cut off.
    fn clear(&self) -> io::Result<()> {
        STATE_FILES.iter().chain([&LOG_FILE, &unflushed::FILE]).try_for_each(|name| {
            match fs::remove_file(self.dir.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
    }

    /// Makes the directory one of a node, at once.
    fn leave(mut self) -> Result<(), RestoreError> {
        let done = || {
            sync_dir(&self.dir)?;
            let above = self.dir.parent().filter(|above| !above.as_os_str().is_empty());
            sync_dir(above.unwrap_or(Path::new(".")))?;
            fs::remove_file(self.dir.join(RESTORING_FILE))
        };
        done().map_err(|source| RestoreError::Io { path: self.dir.clone(), source })?;
        // From here on it counts; whether a power cut brings the mark back is the next one's to see.
        self.is_done = true;
        sync_dir(&self.dir).map_err(|source| RestoreError::Io { path: self.dir.clone(), source })
    }
}

/// Refuses a directory in which there is more than a new node may find, and than an unfinished restore has left.
fn check_free(dir: &Path, left: &[&str]) -> Result<(), RestoreError> {
    let io = |source| RestoreError::Io { path: dir.to_owned(), source };
    for entry in fs::read_dir(dir).map_err(io)? {
        let found = entry.map_err(io)?.file_name();
        if ![IDENTITY_FILE, LOST_AND_FOUND].iter().chain(left).any(|name| found == *name) {
            return Err(RestoreError::NotEmpty { path: dir.to_owned(), found });
        }
    }
    Ok(())
}

impl Drop for Site {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        // What cannot be removed stays behind the mark.
        if self.clear().is_err() {
            return;
        }
        if !self.had_key {
            let _ = fs::remove_file(self.dir.join(IDENTITY_FILE));
        }
        let _ = fs::remove_file(self.dir.join(RESTORING_FILE));
        if self.is_made {
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

#[cfg(test)]
mod tests;
