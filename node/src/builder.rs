//! `NodeBuilder` -> [`Node`]: wires storage, network, Raft and HTTP together, owns their tasks, and stops them in the
//! order in which nothing is lost.

mod raft_thread;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use self::raft_thread::RaftThread;
use crate::cluster::identity::{Identity, IdentityError};
use crate::cluster::retired::{RetiredError, check_not_retired};
use crate::config::Config;
use crate::http::{self, HttpError, HttpState};
use crate::limits::HTTP_DRAIN_TIMEOUT;
use crate::metrics::Metrics;
use crate::network::iroh::{Admission, EndpointError, RaftEndpoint, RaftServer};
use crate::raft::{Parts, RaftNode, RaftStartError};
use crate::storage::StorageError;
use crate::storage::log::{LOG_FILE, RedbLogStore};
use crate::storage::snapshot::sync_dir;
use crate::storage::space::Space;
use crate::storage::sqlite::{SqliteStateMachine, StateMachineThread};
use crate::types::EndpointKey;

/// Builds a node from its settings.
#[derive(Debug)]
pub struct NodeBuilder {
    config: Config,
}

/// A running node. Dropping it stops it without the care of [`Self::stop`].
#[derive(Debug)]
pub struct Node {
    raft: RaftNode,
    log: RedbLogStore,
    state_machine: StateMachineThread,
    server: RaftServer,
    stop_http: oneshot::Sender<()>,
    http: JoinSet<std::io::Result<()>>,
    tasks: JoinSet<()>,
    raft_thread: RaftThread,
    endpoint_id: EndpointKey,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be made.
    #[error("cannot make the data directory {path}")]
    DataDir {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It has to rejoin as a new member.
    #[error(transparent)]
    Retired(#[from] RetiredError),
    /// Raft's thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// No identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
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

/// Makes a directory for one user alone.
///
/// # Errors
/// It cannot be made.
pub fn make_data_dir(path: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StartError::DataDir { path: path.to_owned(), source })
}

impl NodeBuilder {
    /// A node with these settings.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// Opens the stores, starts Raft, and only then answers peers and clients.
    ///
    /// # Errors
    /// What could not be opened or bound. The process should end: a store may still be open.
    pub async fn start(self) -> Result<Node, StartError> {
        let Config { id, data_dir, peers, .. } = &self.config;
        make_data_dir(data_dir)?;
        check_not_retired(data_dir)?;
        let identity = Identity::load_or_create(data_dir)?;
        self.check_endpoint(&identity)?;
        // Addresses first: a node that is already running is noticed before its stores are touched.
        let listener = http::bind(self.config.http_listen).await?;
        let raft_thread = RaftThread::start().map_err(StartError::Thread)?;
        let endpoint = RaftEndpoint::bind(identity.secret(), self.config.raft_listen);
        let endpoint = raft_thread.run(endpoint).await?;
        let log = RedbLogStore::open(&data_dir.join(LOG_FILE), *id)?;
        let state_machine = SqliteStateMachine::open(data_dir)?.behind(log.durable());
        // The names of new files: without them what is synced in the files would be lost with the power.
        sync_dir(data_dir).map_err(|source| StorageError::Io { path: data_dir.clone(), source })?;
        let state_machine_thread = state_machine.thread();
        let space = Arc::new(Space::new(data_dir, self.config.disk_reserve));
        let admission = Arc::new(Admission::new(peers.iter().map(|(_, info)| info.endpoint_id)));
        let metrics = Arc::new(Metrics::new(&[log.metrics(), &state_machine.metrics()]));
        let parts = Parts {
            id: *id,
            endpoint_id: identity.endpoint_id(),
            timing: self.config.timing,
            lease_clock: self.config.lease_clock,
            snapshots: self.config.snapshots,
            log: log.clone(),
            state_machine,
            space: space.clone(),
            transport: Arc::new(endpoint.transport()),
            admission: admission.clone(),
        };
        let raft = raft_thread.run(RaftNode::start(parts)).await;
        let explained = |error: RaftStartError| -> StartError {
            if log.ran_out_of_room() { StartError::NoRoom } else { error.into() }
        };
        let raft = raft.map_err(explained)?;
        let service = Arc::new(raft.clone());
        let server = raft_thread.run(async move { endpoint.serve(service, admission) }).await;
        let mut tasks = JoinSet::new();
        let follower = raft.clone();
        tasks.spawn_on(async move { follower.follow_members().await }, raft_thread.handle());
        let timekeeper = raft.clone();
        tasks.spawn_on(async move { timekeeper.keep_time().await }, raft_thread.handle());
        let compactor = raft.clone();
        // It looks at files, for which Raft does not wait.
        tasks.spawn(async move { compactor.compact().await });
        // Also a look at the disk may take long.
        tasks.spawn(async move { space.watch().await });
        let node = Arc::new(raft.clone());
        let state = HttpState {
            cluster: node.clone(),
            store: node.clone(),
            observer: node,
            metrics,
            peers: Arc::new(peers.iter().cloned().collect()),
        };
        let (stop_http, stopped) = oneshot::channel();
        // A dropped sender means a dropped node: then the server stops, too.
        let until = async move { drop(stopped.await) };
        let mut http_task = JoinSet::new();
        http_task.spawn(http::serve(listener, state, until));
        Ok(Node {
            raft,
            log,
            state_machine: state_machine_thread,
            server,
            stop_http,
            http: http_task,
            tasks,
            raft_thread,
            endpoint_id: identity.endpoint_id(),
        })
    }

    /// Peers that expect another key would refuse this node, one by one and for ever.
    fn check_endpoint(&self, identity: &Identity) -> Result<(), StartError> {
        let found = identity.endpoint_id();
        let own = self.config.peers.iter().find(|(id, _)| *id == self.config.id);
        match own {
            Some((id, info)) if info.endpoint_id != found => Err(StartError::EndpointMismatch {
                id: id.0,
                expected: info.endpoint_id,
                found,
                data_dir: self.config.data_dir.clone(),
            }),
            _ => Ok(()),
        }
    }
}

impl Node {
    /// The public key of this node.
    pub fn endpoint_id(&self) -> EndpointKey {
        self.endpoint_id
    }

    /// Whether the log had no room for what it was to write.
    pub fn ran_out_of_room(&self) -> bool {
        self.log.ran_out_of_room()
    }

    /// Returns when the node has failed by itself, with the reason.
    pub async fn failed(&self) -> String {
        self.raft.failed().await
    }

    /// Hands leadership over, answers what is under way, then stops Raft, its network and its stores.
    pub async fn stop(mut self) {
        self.raft.step_aside().await;
        // No receiver: the server has failed already.
        let _ = self.stop_http.send(());
        if tokio::time::timeout(HTTP_DRAIN_TIMEOUT, self.http.join_next()).await.is_err() {
            tracing::warn!("requests still under way are cut off");
        }
        self.http.shutdown().await;
        // It may have been elected meanwhile.
        self.raft.step_aside().await;
        self.state_machine.stop_waiting();
        self.raft.shutdown().await;
        self.server.stop().await;
        self.tasks.shutdown().await;
        drop(self.raft);
        let (raft_thread, log, state_machine) = (self.raft_thread, self.log, self.state_machine);
        let closed = tokio::task::spawn_blocking(move || {
            raft_thread.join();
            log.close();
            state_machine.join();
        });
        if closed.await.is_err() {
            tracing::error!("the stores did not close cleanly");
        }
    }
}
