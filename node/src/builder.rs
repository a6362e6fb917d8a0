//! `NodeBuilder` -> [`Node`]: wires storage, network, Raft and HTTP together, owns their tasks, and stops them in the
//! order in which nothing is lost.

mod raft_thread;
mod way_in;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use self::raft_thread::RaftThread;
use self::way_in::WayIn;
use crate::api::{ApiError, ClusterController};
use crate::cluster::discovery::{DiscoveryParts, GossipPeerDiscovery};
use crate::cluster::identity::{Identity, IdentityError};
use crate::cluster::joining::NotJoined;
use crate::cluster::metadata::MetadataError;
use crate::cluster::retired::{RetiredError, check_not_retired};
use crate::cluster::reunion::Reunion;
use crate::config::{Config, ConfigError};
use crate::http::{self, HttpError, HttpState};
use crate::limits::HTTP_DRAIN_TIMEOUT;
use crate::metrics::Metrics;
use crate::network::iroh::{Admission, EndpointError, Newcomers, RaftEndpoint, RaftServer};
use crate::network::secret::SecretError;
use crate::network::{AddressBook, AddressSource};
use crate::raft::{LearnerPromotionCoordinator, NodeFailureDetector, Parts, RaftNode, RaftStartError};
use crate::storage::StorageError;
use crate::storage::log::{LOG_FILE, RedbLogStore};
use crate::storage::snapshot::sync_dir;
use crate::storage::space::Space;
use crate::storage::sqlite::{SqliteStateMachine, StateMachineThread};
use crate::types::{EndpointKey, NodeId, NodeInfo};

/// Builds a node from its settings.
#[derive(Debug)]
pub struct NodeBuilder {
    config: Config,
}

/// A running node. Dropping it stops it without the care of [`Self::stop`].
#[derive(Debug)]
pub struct Node {
    id: NodeId,
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
    /// No secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
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

    /// Opens the stores, starts Raft, and only then answers peers and clients. A node that has to be let into its cluster first asks
    /// for that, for as long as nobody answers.
    ///
    /// # Errors
    /// What could not be opened or bound. The process should end: a store may still be open.
    pub async fn start(self) -> Result<Node, StartError> {
        let Config { data_dir, peers, .. } = &self.config;
        make_data_dir(data_dir)?;
        check_not_retired(data_dir)?;
        let identity = Identity::load_or_create(data_dir)?;
        self.check_endpoint(&identity)?;
        // Addresses first: a node that is already running is noticed before its stores are touched.
        let listener = http::bind(self.config.http_listen).await?;
        let raft_thread = RaftThread::start().map_err(StartError::Thread)?;
        let book = AddressBook::default();
        for (_, info) in peers {
            book.learn(&info.endpoint_id, AddressSource::Settings, info.raft);
        }
        let admission = Arc::new(Admission::new(peers.iter().map(|(_, info)| info.endpoint_id)));
        let endpoint = RaftEndpoint::bind(identity.secret(), self.config.raft_listen, book, admission);
        let endpoint = raft_thread.run(endpoint).await?;
        let started = self.start_at(listener, endpoint.clone(), raft_thread, &identity).await;
        if started.is_err() {
            endpoint.close().await;
        }
        started
    }

    /// The rest of a start, once the addresses are ours.
    async fn start_at(
        &self,
        listener: TcpListener,
        endpoint: RaftEndpoint,
        raft_thread: RaftThread,
        identity: &Identity,
    ) -> Result<Node, StartError> {
        let data_dir = &self.config.data_dir;
        let way_in = WayIn::find(&self.config, identity, &endpoint).await?;
        let log = RedbLogStore::open(&data_dir.join(LOG_FILE), way_in.id)?;
        let state_machine = SqliteStateMachine::open(data_dir)?.behind(log.durable());
        // The names of new files: without them what is synced in the files would be lost with the power.
        sync_dir(data_dir).map_err(|source| StorageError::Io { path: data_dir.clone(), source })?;
        let state_machine_thread = state_machine.thread();
        let space = Arc::new(Space::new(data_dir, self.config.disk_reserve));
        let admission = endpoint.admission().clone();
        admission.introduce(way_in.introduced.iter().map(|node| node.info.endpoint_id));
        let metrics = Arc::new(Metrics::new(&[log.metrics(), &state_machine.metrics()]));
        let parts = Parts {
            id: way_in.id,
            endpoint_id: identity.endpoint_id(),
            timing: self.config.timing,
            lease_clock: self.config.lease_clock,
            promotion: way_in.promotion,
            snapshots: self.config.snapshots,
            log: log.clone(),
            state_machine,
            space: space.clone(),
            transport: Arc::new(endpoint.transport()),
            admission,
        };
        let raft = raft_thread.run(RaftNode::start(parts)).await;
        let explained = |error: RaftStartError| -> StartError {
            if log.ran_out_of_room() { StartError::NoRoom } else { error.into() }
        };
        let raft = raft.map_err(explained)?;
        let mut tasks = JoinSet::new();
        // It looks at the disk, which may take long.
        tasks.spawn(async move { space.watch().await });
        let detector = NodeFailureDetector::new(raft.clone());
        tasks.spawn_on(detector.run(), raft_thread.handle());
        let coordinator = LearnerPromotionCoordinator::new(raft.clone(), way_in.promotion);
        tasks.spawn_on(coordinator.run(), raft_thread.handle());
        let members = keep_house(&raft, &raft_thread, &mut tasks);
        let door = Door { endpoint, members };
        let server = self.open(door, &raft, &raft_thread, &mut tasks, identity, &way_in).await?;
        if way_in.founds {
            found(&raft, &way_in).await?;
        }
        let (stop_http, http) = self.serve_clients(&raft, listener, metrics, &way_in);
        Ok(Node {
            id: way_in.id,
            raft,
            log,
            state_machine: state_machine_thread,
            server,
            stop_http,
            http,
            tasks,
            raft_thread,
            endpoint_id: identity.endpoint_id(),
        })
    }

    /// Lets peers in and, with a secret, newcomers; and begins to gossip.
    async fn open(
        &self,
        door: Door,
        raft: &RaftNode,
        raft_thread: &RaftThread,
        tasks: &mut JoinSet<()>,
        identity: &Identity,
        way_in: &WayIn,
    ) -> Result<RaftServer, StartError> {
        let Door { endpoint, members } = door;
        let mut newcomers = None;
        if let Some((secret, metadata)) = way_in.secret.clone() {
            let gossip = self.config.gossips().then(|| endpoint.gossip());
            if let (Some(gossip), Some(info)) = (gossip.clone(), way_in.info.clone()) {
                let discovery = GossipPeerDiscovery::new(DiscoveryParts {
                    gossip,
                    secret: secret.clone(),
                    identity: identity.clone(),
                    id: way_in.id,
                    info,
                    book: endpoint.book().clone(),
                    admission: endpoint.admission().clone(),
                    gate: endpoint.gate().clone(),
                    metadata: metadata.clone(),
                    raft: raft.clone(),
                    members: members.clone(),
                })?;
                tasks.spawn(discovery.run());
            }
            metadata.set_has_had_log()?;
            if let Some(info) = way_in.info.clone() {
                let raft = raft.clone();
                let reunion = Reunion {
                    endpoint: endpoint.clone(),
                    secret: secret.clone(),
                    info,
                    raft,
                    members,
                    metadata,
                };
                tasks.spawn(reunion.run());
            }
            newcomers = Some(Newcomers { secret, service: Arc::new(raft.clone()), gossip });
        }
        let service = Arc::new(raft.clone());
        Ok(raft_thread.run(async move { endpoint.serve(service, newcomers) }).await)
    }

    fn serve_clients(
        &self,
        raft: &RaftNode,
        listener: TcpListener,
        metrics: Arc<Metrics>,
        way_in: &WayIn,
    ) -> (oneshot::Sender<()>, JoinSet<std::io::Result<()>>) {
        // A node that was let in belongs to a cluster, even while it has heard nothing of it.
        let own = way_in.info.clone().filter(|_| way_in.founds).map(|info| (way_in.id, info));
        let node = Arc::new(raft.clone());
        let state = HttpState {
            cluster: node.clone(),
            store: node.clone(),
            observer: node,
            metrics,
            peers: Arc::new(own.into_iter().chain(self.config.peers.iter().cloned()).collect()),
            cluster_id: way_in.secret.as_ref().map(|(secret, _)| secret.cluster_id()),
        };
        let (stop_http, stopped) = oneshot::channel();
        // A dropped sender means a dropped node: then the server stops, too.
        let until = async move { drop(stopped.await) };
        let mut http = JoinSet::new();
        http.spawn(http::serve(listener, state, until));
        (stop_http, http)
    }

    /// Peers that expect another key would refuse this node, one by one and for ever.
    fn check_endpoint(&self, identity: &Identity) -> Result<(), StartError> {
        let found = identity.endpoint_id();
        let own = self.config.peers.iter().find(|(id, _)| Some(*id) == self.config.id);
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

/// Where other nodes come in, and who may.
struct Door {
    endpoint: RaftEndpoint,
    members: watch::Receiver<BTreeMap<NodeId, NodeInfo>>,
}

/// Starts what goes on beside Raft for as long as that does; the members, as they change.
fn keep_house(
    raft: &RaftNode,
    raft_thread: &RaftThread,
    tasks: &mut JoinSet<()>,
) -> watch::Receiver<BTreeMap<NodeId, NodeInfo>> {
    let (sender, members) = watch::channel(BTreeMap::new());
    let follower = raft.clone();
    tasks.spawn_on(async move { follower.follow_members(sender).await }, raft_thread.handle());
    let timekeeper = raft.clone();
    tasks.spawn_on(async move { timekeeper.keep_time().await }, raft_thread.handle());
    let compactor = raft.clone();
    // It looks at files, for which Raft does not wait.
    tasks.spawn(async move { compactor.compact().await });
    members
}

/// Founds a cluster of one node, unless it belongs to one.
async fn found(raft: &RaftNode, way_in: &WayIn) -> Result<(), StartError> {
    let members = way_in.info.clone().map(|info| (way_in.id, info));
    match raft.init(members.into_iter().collect()).await {
        Ok(()) => {
            tracing::info!(id = %way_in.id, "founded a cluster");
            Ok(())
        }
        Err(ApiError::AlreadyInitialized) => Ok(()),
        Err(error) => Err(StartError::NotFounded(error)),
    }
}

impl Node {
    /// The id that this node has in its cluster.
    pub fn id(&self) -> NodeId {
        self.id
    }

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
