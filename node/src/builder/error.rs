//! Why a node does not start.

use std::io;
use std::path::PathBuf;

use crate::api::ApiError;
use crate::cluster::identity::{IDENTITY_FILE, IdentityError};
use crate::cluster::joining::NotJoined;
use crate::cluster::metadata::MetadataError;
use crate::cluster::retired::RetiredError;
use crate::config::ConfigError;
use crate::http::{CredentialsError, HttpError};
use crate::network::iroh::EndpointError;
use crate::network::secret::SecretError;
use crate::raft::RaftStartError;
use crate::storage::{StorageError, space};
use crate::types::{EndpointKey, NodeId};

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be made.
    #[error("cannot make the data directory {path}")]
    DataDir {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A node of a cluster is what Raft makes.
    #[error(
        "a node that is built has Raft: take `deterministic` for a store in memory, or `aspen-node` with control = \"deterministic\""
    )]
    NoRaft,
    /// It has to rejoin as a new member.
    #[error(transparent)]
    Retired(#[from] RetiredError),
    /// Raft's thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// No identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// What clients are shown, or have to show.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// What the node knows of its cluster.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// Settings that do not fit this data directory.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nobody lets it in.
    #[error(transparent)]
    NotJoined(#[from] NotJoined),
    /// No cluster could be founded.
    #[error("no cluster could be founded")]
    NotFounded(#[source] ApiError),
    /// A member without its memory.
    #[error(
        "the log of {} is gone, and with it what it has promised: {log} was there. Remove it from its cluster, and start it with an \
         empty data directory and another key", id.map_or("this member".to_owned(), |id| format!("member {id}"))
    )]
    LostLog {
        /// Where it was.
        log: PathBuf,
        /// Whose it was.
        id: Option<NodeId>,
    },
    /// Another number than it has.
    #[error(
        "this data directory is that of node {found}, but id is {expected}: correct the id, or the data directory"
    )]
    OtherId {
        /// What the directory says.
        found: NodeId,
        /// What the settings say.
        expected: NodeId,
    },
    /// Another key than it has had.
    #[error(
        "the node of this data directory had key {expected}, but {IDENTITY_FILE} in it is {found}: put its own back, or \
         take an empty data directory for another node"
    )]
    OtherKey {
        /// What it has had.
        expected: EndpointKey,
        /// What it has.
        found: EndpointKey,
    },
    /// Another key than the peers expect.
    #[error(
        "the peers know node {id} by endpoint_id {expected}, but the key in {data_dir} is {found}: correct the peers, or the data directory"
    )]
    EndpointMismatch {
        /// This node.
        id: u64,
        /// What the settings say.
        expected: EndpointKey,
        /// What the data directory holds.
        found: EndpointKey,
        /// The data directory.
        data_dir: PathBuf,
    },
    /// A store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The log was full when Raft wrote into it.
    #[error("the disk was full when Raft started")]
    NoRoom,
    /// The endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The HTTP interface.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Raft.
    #[error(transparent)]
    Raft(#[from] RaftStartError),
}

impl StartError {
    /// Whether nothing is wrong but that there was no room on the disk: then whatever the start has not come to do is done by the next.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::NoRoom => true,
            Self::Storage(error) | Self::Raft(RaftStartError::Stores(error)) => error.is_disk_full(),
            Self::Metadata(error) => error.is_disk_full(),
            Self::DataDir { source, .. }
            | Self::Identity(IdentityError::Io { source, .. })
            | Self::Retired(RetiredError::Aside { source, .. }) => space::is_disk_full(source),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_waits_for_room_whatever_has_found_none() {
        let (path, full) = (|| PathBuf::from("data"), || io::Error::from(io::ErrorKind::StorageFull));
        let errors = |error: &dyn Fn() -> io::Error| -> [StartError; 5] {
            [
                StartError::DataDir { path: path(), source: error() },
                IdentityError::Io { path: path(), source: error() }.into(),
                RetiredError::Aside { path: path(), source: error() }.into(),
                StorageError::Io { path: path(), source: error() }.into(),
                RaftStartError::Stores(StorageError::Io { path: path(), source: error() }).into(),
            ]
        };
        for error in errors(&full) {
            assert!(error.is_disk_full(), "{error}");
        }
        for error in errors(&|| io::ErrorKind::PermissionDenied.into()) {
            assert!(!error.is_disk_full(), "{error}");
        }
    }
}
