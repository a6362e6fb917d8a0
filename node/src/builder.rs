//! `NodeBuilder` -> [`Node`]: wires storage, network, Raft and HTTP together, owns their tasks, and stops them in the
//! order in which nothing is lost.

mod raft_thread;
mod way_in;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use self::raft_thread::RaftThread;
use self::way_in::WayIn;
use crate::api::{ApiError, ClusterController, KeyValueStore};
use crate::cluster::discovery::{DiscoveryParts, GossipPeerDiscovery};
use crate::cluster::identity::{Identity, IdentityError};
use crate::cluster::joining::NotJoined;
use crate::cluster::metadata::MetadataError;
use crate::cluster::retired::{RetiredError, check_not_retired};
use crate::cluster::reunion::Reunion;
use crate::cluster::ticket::AspenClusterTicket;
use crate::config::{Config, ConfigError, RunArgs};
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

/// Builds a node from its settings, for programs that have one inside. Whatever is not said is as `aspen-node` has it.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use aspen_node::api::{KeyValueStore, ReadRequest};
/// use aspen_node::builder::NodeBuilder;
/// use aspen_node::types::{Command, Key, Value};
///
/// let node = NodeBuilder::new(1, "./data/node-1").bootstrap().start().await?;
/// let set = Command::Set { key: Key::from("greeting"), value: Value::from("hello") };
/// node.store().write(set).await?;
/// let read = ReadRequest { vault: None, key: Key::from("greeting"), consistency: Default::default() };
/// assert!(node.store().read(read).await?.record.is_some());
/// node.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct NodeBuilder {
    settings: Settings,
}

/// What a [`NodeBuilder`] has been told.
#[derive(Debug)]
enum Settings {
    /// Not checked yet.
    Said(Box<RunArgs>),
    Checked(Box<Config>),
}

impl From<Config> for NodeBuilder {
    fn from(config: Config) -> Self {
        Self { settings: Settings::Checked(Box::new(config)) }
    }
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
    /// A node of this number that keeps everything in this directory.
    pub fn new(id: u64, data_dir: impl Into<PathBuf>) -> Self {
        let said = RunArgs { id: Some(id), data_dir: Some(data_dir.into()), ..RunArgs::default() };
        Self { settings: Settings::Said(Box::new(said)) }
    }

    /// Where it listens: UDP for other members, TCP for clients.
    #[must_use]
    pub fn listen(self, raft: SocketAddr, http: SocketAddr) -> Self {
        self.say(|said| (said.raft_listen, said.http_listen) = (Some(raft), Some(http)))
    }

    /// Founds a cluster of this node alone, unless it is a member already.
    #[must_use]
    pub fn bootstrap(self) -> Self {
        self.say(|said| said.bootstrap = Some(true))
    }

    /// Joins the cluster of a ticket, unless it is a member already. It needs the secret, too.
    #[must_use]
    pub fn join(self, ticket: AspenClusterTicket) -> Self {
        self.say(|said| said.ticket = Some(ticket))
    }

    /// Reads the cluster's secret from a file.
    #[must_use]
    pub fn with_secret_file(self, path: impl Into<PathBuf>) -> Self {
        self.say(|said| said.secret_file = Some(path.into()))
    }

    /// Whether it tells the other members where it is; with a secret it does unless this says otherwise.
    #[must_use]
    pub fn with_gossip(self, gossips: bool) -> Self {
        self.say(|said| said.gossip = Some(gossips))
    }

    /// Lets learners vote until so many members do.
    #[must_use]
    pub fn with_target_voters(self, count: u32) -> Self {
        self.say(|said| said.target_voters = Some(count))
    }

    fn say(mut self, say: impl FnOnce(&mut RunArgs)) -> Self {
        if let Settings::Said(said) = &mut self.settings {
            say(said);
        }
        self
    }

    /// Opens the stores, starts Raft, and only then answers peers and clients. A node that has to be let into its cluster first asks
    /// for that, for as long as nobody answers.
    ///
    /// # Errors
    /// What could not be opened or bound. The process should end: a store may still be open.
    pub async fn start(self) -> Result<Node, StartError> {
        let config = match self.settings {
            Settings::Said(said) => Config::load(*said)?,
            Settings::Checked(config) => *config,
        };
        Start { config }.run().await
    }
}

/// A start under way.
struct Start {
    config: Config,
}

impl Start {
    async fn run(self) -> Result<Node, StartError> {
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
    /// The replicated keys.
    pub fn store(&self) -> &dyn KeyValueStore {
        &self.raft
    }

    /// Membership of the cluster.
    pub fn cluster(&self) -> &dyn ClusterController {
        &self.raft
    }

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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, UdpSocket};

    use super::*;
    use crate::api::{Consistency, ReadRequest};
    use crate::types::{Command, Key, Value};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn node_in_a_program_keeps_what_it_was_given() {
        let dir = tempfile::tempdir().unwrap();
        // Both at once, so that they differ.
        let any = (Ipv4Addr::LOCALHOST, 0);
        let sockets = (UdpSocket::bind(any).unwrap(), TcpListener::bind(any).unwrap());
        let (raft, http) = (sockets.0.local_addr().unwrap(), sockets.1.local_addr().unwrap());
        drop(sockets);
        let builder = || NodeBuilder::new(7, dir.path()).listen(raft, http).bootstrap();
        let node = builder().start().await.unwrap();
        let set = Command::Set { key: Key::from("k"), value: Value::from("v") };
        node.store().write(set).await.unwrap();
        assert_eq!((node.id(), node.cluster().status().members.len()), (NodeId(7), 1));
        node.stop().await;
        let node = builder().start().await.unwrap();
        let read = ReadRequest { vault: None, key: Key::from("k"), consistency: Consistency::Linearizable };
        assert_eq!(node.store().read(read).await.unwrap().record.unwrap().value, Value::from("v"));
        node.stop().await;
    }

    #[tokio::test]
    async fn settings_of_a_builder_are_checked_like_those_of_the_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let error = NodeBuilder::new(0, dir.path()).start().await.unwrap_err();
        assert_eq!(error.to_string(), "id is 0, node numbers start at 1");
    }
}
