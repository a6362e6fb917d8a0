//! A start, step by step: addresses, stores, Raft, peers, and clients last.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::TcpListener;
use tokio::sync::{Mutex as AsyncMutex, OnceCell, mpsc, oneshot, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

use super::raft_thread::RaftThread;
use super::way_in::WayIn;
use super::{Node, StartError, make_data_dir};
use crate::api::{ApiError, ClusterController};
use crate::causes::with_causes;
use crate::cluster::discovery::{DiscoveryParts, GossipPeerDiscovery};
use crate::cluster::identity::Identity;
use crate::cluster::labels::LabelExchange;
use crate::cluster::metadata::{METADATA_FILE, MetadataStore, RunStatus, unix_s};
use crate::cluster::retired::{RetiredError, check_not_retired, mark_retired, set_aside};
use crate::cluster::reunion::Reunion;
use crate::config::{Config, Control};
use crate::host::blocking;
use crate::http::{self, Credentials, HttpState};
use crate::limits::{BEAT_INTERVAL, CLIENT_STREAMS_WAITING_MAX, ENDPOINT_CLOSE_TIMEOUT};
use crate::metrics::{Metrics, NetworkMetrics};
use crate::network::incarnation::{Incarnations, Starts};
use crate::network::iroh::{Admission, ClientDoor, ClientStream, Newcomers, RaftEndpoint, RaftServer};
use crate::network::lookups::{Lookups, Reach};
use crate::network::{AddressBook, AddressSource};
use crate::private::FileKeeper;
use crate::raft::{
    LeaderPlacement, LearnerPromotionCoordinator, NodeFailureDetector, Parts, PromotionPolicy, RaftNode,
    RaftStartError,
};
use crate::storage::log::{LOG_FILE, RedbLogStore};
use crate::storage::snapshot::sync_dir;
use crate::storage::space::Space;
use crate::storage::sqlite::SqliteStateMachine;
use crate::storage::{Execution, StorageError, unflushed};
use crate::types::{NodeId, NodeInfo};

/// A start under way.
pub(super) struct Start {
    pub(super) config: Config,
}

impl Start {
    pub(super) async fn run(self, stop: impl Future<Output = ()>) -> Result<Option<Node>, StartError> {
        let Config { data_dir, peers, .. } = &self.config;
        if self.config.control == Control::Deterministic {
            return Err(StartError::NoRaft);
        }
        make_data_dir(data_dir)?;
        match check_not_retired(data_dir) {
            Err(RetiredError::Marked { path, reason }) if self.config.rejoins() => {
                let aside = set_aside(data_dir)?;
                tracing::warn!(mark = %path.display(), reason, aside = %aside.display(), "the node comes back as a new member");
            }
            checked => checked?,
        }
        let identity = Identity::load_or_create(data_dir)?;
        self.check_endpoint(&identity)?;
        let credentials = Credentials::keep(self.config.credentials.clone())?;
        // A node that is already running is noticed before its log and its state are touched.
        let listener = http::bind(self.config.http_listen).await?;
        let mut stop = pin!(stop);
        if !self.mend(stop.as_mut()).await? {
            return Ok(None);
        }
        let metadata = MetadataStore::open(data_dir)?;
        check_key(&metadata, &identity)?;
        if let Some(last) = metadata.last_run()?
            && last.status != RunStatus::Stopped
        {
            tracing::warn!("the last run of this node was {}", last.ended(unix_s()));
        }
        let incarnations = Incarnations::new(metadata.next_incarnation(unix_s())?, metadata.starts()?);
        let raft_thread = RaftThread::start().map_err(StartError::Thread)?;
        let book = self.book();
        let admission =
            Arc::new(Admission::new(peers.iter().map(|(_, info)| info.endpoint_id), incarnations));
        let lookups = self.config.lookups.clone();
        if lookups != Lookups::default() {
            tracing::info!(?lookups, "peers are looked for beyond the addresses that are known");
        }
        // What it cannot say is no error here: who needs it asks again.
        let info = self.config.info(identity.endpoint_id()).ok();
        if let Some(info) = &info
            && !info.has_own_http()
        {
            tracing::warn!(raft = %info.raft, http = %info.http, "members on other machines send clients to an address that is their own there: \
                give http_advertise, or have http_listen where clients reach it");
        }
        let published = info.map(|info| info.raft);
        let reach = Reach { lookups, published };
        let endpoint = RaftEndpoint::bind(identity.secret(), self.config.raft_listen, book, admission, reach);
        let endpoint = raft_thread.run(endpoint).await?;
        metadata.set_run(RunStatus::Begun, unix_s())?;
        let kept = metadata.clone();
        let started = tokio::select! {
            started = self.start_at(listener, endpoint.clone(), raft_thread, (&identity, metadata), credentials) => started.map(Some),
            () = stop => Ok(None),
        };
        let ended = match &started {
            Ok(Some(_)) => None,
            Ok(None) => Some(RunStatus::Stopped),
            Err(error) => Some(RunStatus::Failed { reason: with_causes(error) }),
        };
        if let Some(Err(error)) = ended.map(|ended| kept.set_run(ended, unix_s())) {
            tracing::warn!(error = with_causes(&error), "cannot keep how this run has ended");
        }
        if !matches!(started, Ok(Some(_))) {
            // Whoever does not hear of it will notice.
            let _ = tokio::time::timeout(ENDPOINT_CLOSE_TIMEOUT, endpoint.close()).await;
        }
        started
    }

    /// Where the settings say that others are.
    fn book(&self) -> AddressBook {
        let book = AddressBook::default();
        let peers = self.config.peers.iter().map(|(_, info)| info);
        for info in peers.chain(self.config.entry.named()) {
            book.learn(&info.endpoint_id, AddressSource::Settings, info.raft);
        }
        book
    }

    /// Whether the stores are fit to be opened: they are not when `stop` came first.
    async fn mend(&self, stop: Pin<&mut impl Future<Output = ()>>) -> Result<bool, StartError> {
        let data_dir = self.config.data_dir.clone();
        if !unflushed::is_noted(&data_dir) {
            return Ok(true);
        }
        let gives_up = Arc::new(AtomicBool::new(false));
        let flag = gives_up.clone();
        let databases = [LOG_FILE, METADATA_FILE];
        let mending = blocking(move || unflushed::mend(&data_dir, &databases, &flag));
        tokio::select! {
            mended = mending => {
                mended.map_err(|error| StartError::Thread(io::Error::other(error)))??;
                Ok(true)
            }
            () = stop => {
                gives_up.store(true, Ordering::Relaxed);
                Ok(false)
            }
        }
    }

    /// The rest of a start, once the addresses are ours.
    async fn start_at(
        &self,
        listener: TcpListener,
        endpoint: RaftEndpoint,
        raft_thread: RaftThread,
        (identity, metadata): (&Identity, MetadataStore),
        (keeper, credentials): (FileKeeper<Credentials>, watch::Receiver<Credentials>),
    ) -> Result<Node, StartError> {
        let data_dir = &self.config.data_dir;
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper.run());
        let incarnations = endpoint.admission().incarnations().clone();
        // Before anybody can be seen.
        tasks.spawn(keep_starts(incarnations.seen(), metadata.clone()));
        tasks.spawn(beat(incarnations.clone(), metadata.clone()));
        let refusals = endpoint.admission().refusals().clone();
        let door = (&listener, (credentials.clone(), &refusals));
        let way_in = WayIn::find(&self.config, identity, &metadata, &endpoint, door, &mut tasks).await?;
        let log = RedbLogStore::open(&data_dir.join(LOG_FILE), way_in.id, Execution::Thread)?;
        let state_machine = SqliteStateMachine::open(data_dir, Execution::Thread)?.behind(log.durable());
        // The names of new files: without them what is synced in the files would be lost with the power.
        sync_dir(data_dir).map_err(|source| StorageError::Io { path: data_dir.clone(), source })?;
        let closer = state_machine.closer();
        state_machine.feed().keep(self.config.watch_history);
        let space = Arc::new(Space::new(data_dir, self.config.disk_reserve));
        let admission = endpoint.admission().clone();
        admission.introduce(way_in.introduced.iter().map(|node| node.info.endpoint_id));
        let network = NetworkMetrics::default();
        let stores = [log.metrics(), &state_machine.metrics()];
        let metrics = Arc::new(Metrics::new(&stores, &network, admission.refusals()));
        let parts = Parts {
            id: way_in.id,
            endpoint_id: identity.endpoint_id(),
            timing: self.config.timing,
            lease_clock: self.config.lease_clock,
            promotion: way_in.promotion,
            about: self.config.about.clone(),
            snapshots: self.config.snapshots,
            log: log.clone(),
            state_machine,
            space: space.clone(),
            transport: Arc::new(endpoint.transport(network)),
            admission,
        };
        let raft = raft_thread.run(RaftNode::start(parts)).await;
        let explained = |error: RaftStartError| -> StartError {
            if log.ran_out_of_room() { StartError::NoRoom } else { error.into() }
        };
        let raft = raft.map_err(explained)?;
        // It looks at the disk, which may take long.
        tasks.spawn(async move { space.watch().await });
        tasks.spawn(retire_when_denounced(incarnations.clone(), raft.clone(), data_dir.clone()));
        metadata.set_has_had_log()?;
        let members = keep_house(&raft, way_in.promotion, &raft_thread, &mut tasks);
        let (clients, streams) = mpsc::channel(CLIENT_STREAMS_WAITING_MAX as usize);
        let door = Door { endpoint, members, metadata: metadata.clone(), clients };
        let server = self.open(door, &raft, &raft_thread, &mut tasks, identity, &way_in).await?;
        if way_in.founds {
            found(&raft, &way_in).await?;
        }
        let (stop_http, http) = self.serve_clients(&raft, (listener, streams), metrics, &way_in, credentials);
        Ok(Node {
            id: way_in.id,
            raft,
            log,
            state_machine: closer,
            server,
            stop_http,
            http: AsyncMutex::new(http),
            tasks: AsyncMutex::new(tasks),
            raft_thread,
            endpoint_id: identity.endpoint_id(),
            incarnations,
            metadata,
            failed: OnceCell::new(),
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
        let Door { endpoint, members, metadata, clients } = door;
        let labels =
            LabelExchange::new(endpoint.clone(), raft.clone(), identity.endpoint_id(), members.clone());
        tasks.spawn(labels.run());
        let mut newcomers = None;
        if let Some(secrets) = way_in.secrets.clone() {
            let gossip = self.config.gossips().then(|| endpoint.gossip());
            if let (Some(gossip), Some(info)) = (gossip.clone(), way_in.info.clone()) {
                let discovery = GossipPeerDiscovery::new(DiscoveryParts {
                    gossip,
                    secrets: secrets.clone(),
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
            if let Some(info) = way_in.info.clone() {
                let raft = raft.clone();
                let reunion = Reunion {
                    endpoint: endpoint.clone(),
                    secrets: secrets.clone(),
                    info,
                    raft,
                    members,
                    metadata,
                    named: self.config.entry.named().to_vec(),
                };
                tasks.spawn(reunion.run());
            }
            newcomers = Some(Newcomers { secrets, service: Arc::new(raft.clone()), gossip });
        }
        let service = Arc::new(raft.clone());
        let wants_token = self.config.credentials.token.is_some();
        let clients = Some(ClientDoor { streams: clients, wants_token });
        let clients = clients.filter(|_| self.config.answers_over_quic());
        let about = self.config.about.clone();
        Ok(raft_thread.run(async move { endpoint.serve(service, &about, newcomers, clients) }).await)
    }

    fn serve_clients(
        &self,
        raft: &RaftNode,
        (listener, streams): (TcpListener, mpsc::Receiver<ClientStream>),
        metrics: Arc<Metrics>,
        way_in: &WayIn,
        credentials: watch::Receiver<Credentials>,
    ) -> (oneshot::Sender<()>, JoinSet<()>) {
        // A node that was let in belongs to a cluster, even while it has heard nothing of it.
        let own = way_in.info.clone().filter(|_| way_in.founds).map(|info| (way_in.id, info));
        let node = Arc::new(raft.clone());
        let state = HttpState {
            cluster: node.clone(),
            store: node.clone(),
            observer: Some(node),
            metrics,
            peers: Arc::new(own.into_iter().chain(self.config.peers.iter().cloned()).collect()),
            credentials,
            secrets: way_in.secrets.clone(),
        };
        let (stop_http, stopped) = oneshot::channel();
        // A dropped sender means a dropped node: then the server stops, too.
        let until = async move { drop(stopped.await) };
        let mut http = JoinSet::new();
        http.spawn(http::serve(listener, streams, state, until));
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

/// Where other nodes come in, and who the members are.
struct Door {
    endpoint: RaftEndpoint,
    members: watch::Receiver<BTreeMap<NodeId, NodeInfo>>,
    /// What this node has kept of them.
    metadata: MetadataStore,
    /// Where the streams of clients go.
    clients: mpsc::Sender<ClientStream>,
}

/// Starts what goes on beside Raft for as long as that does; the members, as they change.
fn keep_house(
    raft: &RaftNode,
    promotion: PromotionPolicy,
    raft_thread: &RaftThread,
    tasks: &mut JoinSet<()>,
) -> watch::Receiver<BTreeMap<NodeId, NodeInfo>> {
    let detector = NodeFailureDetector::new(raft.clone());
    tasks.spawn_on(detector.run(), raft_thread.handle());
    let coordinator = LearnerPromotionCoordinator::new(raft.clone(), promotion);
    tasks.spawn_on(coordinator.run(), raft_thread.handle());
    let placement = LeaderPlacement::new(raft.clone());
    tasks.spawn_on(placement.run(), raft_thread.handle());
    let (sender, members) = watch::channel(BTreeMap::new());
    let follower = raft.clone();
    tasks.spawn_on(async move { follower.follow_members(sender).await }, raft_thread.handle());
    let timekeeper = raft.clone();
    tasks.spawn_on(async move { timekeeper.keep_time().await }, raft_thread.handle());
    let keeper = raft.clone();
    tasks.spawn_on(async move { keeper.keep_leases().await }, raft_thread.handle());
    let compactor = raft.clone();
    // It looks at files, for which Raft does not wait.
    tasks.spawn(async move { compactor.compact().await });
    members
}

/// Makes sure that this directory's node has the key that it has had: with another one it is a stranger to its cluster.
fn check_key(metadata: &MetadataStore, identity: &Identity) -> Result<(), StartError> {
    let found = identity.endpoint_id();
    match metadata.own_key()? {
        None => Ok(metadata.set_own_key(found)?),
        Some(expected) if expected != found => Err(StartError::OtherKey { expected, found }),
        Some(_) => Ok(()),
    }
}

/// Keeps which starts of others are seen, for as long as it runs.
async fn keep_starts(mut seen: watch::Receiver<Starts>, metadata: MetadataStore) {
    while seen.changed().await.is_ok() {
        let (starts, metadata) = (seen.borrow_and_update().clone(), metadata.clone());
        let kept = spawn_blocking(move || metadata.set_starts(&starts)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(error = with_causes(&error), "cannot keep which starts of the others were seen");
        }
    }
}

/// Takes down that this node is still there, and how far the others were, and says so from then on, for as long as it runs.
async fn beat(incarnations: Arc<Incarnations>, metadata: MetadataStore) {
    let mut has_failed = false;
    loop {
        sleep(BEAT_INTERVAL).await;
        let (later, metadata) = (incarnations.own().later(), metadata.clone());
        let seen = incarnations.seen().borrow().clone();
        // Nobody may have seen what is forgotten with the power.
        let kept = spawn_blocking(move || metadata.set_beat(&later, &seen, unix_s()).map(|()| later)).await;
        match kept {
            Ok(Ok(later)) => {
                incarnations.set_own(later);
                has_failed = false;
            }
            Ok(Err(error)) if !has_failed => {
                tracing::warn!(error = with_causes(&error), "cannot take down that this node is still there");
                has_failed = true;
            }
            // Said already, or it is stopping.
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// Marks the data directory and ends Raft once another node says that this one was put back to an earlier state.
async fn retire_when_denounced(incarnations: Arc<Incarnations>, raft: RaftNode, data_dir: PathBuf) {
    let by = incarnations.denounced().await;
    let reason = format!(
        "the member with key {by} has seen of it what it has forgotten: it was put back to an earlier state, or a copy of it runs elsewhere"
    );
    // Without the mark it is told again when it starts.
    if let Ok(Err(error)) = spawn_blocking(move || mark_retired(&data_dir, &reason)).await {
        tracing::error!(%error, "cannot mark the data directory as one that was put back");
    }
    raft.shutdown().await;
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
