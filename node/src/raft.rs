//! `RaftNode`: the traits of [`crate::api`] over openraft.
//!
//! It decides where an operation goes (here, or to the leader), and turns openraft's errors into ours. What it cannot
//! decide is whether a write whose answer is lost took place: that is [`ApiError::Timeout`] or
//! [`ApiError::LeaderLost`], never a refusal.

mod backup;
mod compaction;
mod follower;
mod following;
mod freshness;
mod health;
mod lease;
mod lease_keeper;
mod membership;
mod operations;
mod preference;
mod promotion;
mod proposals;
mod settings;
mod status;
mod turn;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, future, stream};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{Fatal, InitializeError, RaftError};
use openraft::{Instant as _, Raft, ServerState};
use rand::Rng as _;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use self::freshness::Freshness;
pub use self::health::{NodeFailureDetector, NodeHealth};
pub use self::lease::LeaseClock;
use self::lease::{Leases, Promise};
use self::lease_keeper::KeptLeases;
use self::membership::index_of;
use self::operations::bounded;
pub use self::preference::LeaderPlacement;
pub use self::promotion::{LearnerPromotionCoordinator, PromotionPolicy};
use self::proposals::{Proposals, proposals};
pub use self::settings::{RaftTiming, SnapshotPolicy, TimingError};
use crate::api::{ApiError, BadRequest, TimeoutOutcome, WriteResult, check_command};
use crate::host::{blocking, hosted, random};
use crate::limits::{BACKUPS_MAX, OPERATIONS_IN_FLIGHT_MAX, PROPOSER_END_TIMEOUT, REUNION_INTERVAL};
use crate::network::about::About;
use crate::network::iroh::Admission;
use crate::network::rpc::{Confirmed, KeepLease, ReadIndex, StreamAppended};
use crate::network::snapshot::{InstallSnapshot, SnapshotStart};
use crate::network::{PeerNetworkFactory, RaftService, Transport};
use crate::storage::StorageError;
use crate::storage::log::RedbLogStore;
use crate::storage::snapshot::{SnapshotFile, SnapshotStore};
use crate::storage::space::{DiskFull, Space};
use crate::storage::sqlite::{Bases, ReadPool, SqliteStateMachine, check_snapshot};
use crate::storage::validate::prepare_start;
use crate::types::raft_types::{
    AppendEntriesRequest, AppendEntriesResponse, Metrics, Snapshot, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, Vote, VoteRequest, VoteResponse,
};
use crate::types::{EncodedCommand, EndpointKey, NodeId, NodeInfo, TypeConfig};
use crate::watch::ChangeFeed;

/// What a [`RaftNode`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// The node's number.
    pub id: NodeId,
    /// Its public key.
    pub endpoint_id: EndpointKey,
    /// Heartbeat and election time-outs.
    pub timing: RaftTiming,
    /// What leases are measured with.
    pub lease_clock: LeaseClock,
    /// How many members should vote.
    pub promotion: PromotionPolicy,
    /// What it says of itself.
    pub about: About,
    /// When snapshots are made.
    pub snapshots: SnapshotPolicy,
    /// The log, open.
    pub log: RedbLogStore,
    /// The state machine, open.
    pub state_machine: SqliteStateMachine,
    /// The disk that both are on.
    pub space: Arc<Space>,
    /// The way to the peers.
    pub transport: Arc<dyn Transport>,
    /// Who may connect.
    pub admission: Arc<Admission>,
}

/// One member of a cluster. Clones share it.
#[derive(Clone)]
pub struct RaftNode {
    inner: Arc<Inner>,
}

struct Inner {
    id: NodeId,
    endpoint_id: EndpointKey,
    incarnation: String,
    raft: Raft<TypeConfig, SqliteStateMachine>,
    proposals: Proposals,
    transport: Arc<dyn Transport>,
    log: RedbLogStore,
    readers: ReadPool,
    snapshots: SnapshotStore,
    space: Arc<Space>,
    bases: Bases,
    feed: ChangeFeed,
    snapshot_policy: SnapshotPolicy,
    admission: Arc<Admission>,
    leases: Leases,
    /// On the leader: the leases with a time to live.
    kept: Mutex<KeptLeases>,
    promise: Promise,
    /// How old the state may be.
    freshness: Freshness,
    /// How often a leader speaks.
    heartbeat: Duration,
    /// Who has not answered for so long is not there.
    patience: Duration,
    /// On the leader: how the other members look.
    health: Mutex<BTreeMap<NodeId, NodeHealth>>,
    promotion: PromotionPolicy,
    /// What this node says of itself.
    about: About,
    /// What the others have said of themselves.
    told_about: Mutex<BTreeMap<NodeId, About>>,
    /// The members are changed by one at a time.
    changing: Arc<AsyncMutex<()>>,
    /// When a leader has spoken last.
    spoken_to: Mutex<Instant>,
    /// Whether others have said since that this node is no member.
    was_removed: watch::Sender<bool>,
    /// Whether leadership is handed over, and not taken.
    is_stopping: AtomicBool,
    /// One permit per client operation under way.
    permits: Semaphore,
    /// One permit per backup that is taken.
    backups: Arc<Semaphore>,
    /// The proposer, and changes of the members: they go on when nobody waits for them any more. They end when Raft does.
    tasks: Mutex<JoinSet<()>>,
}

impl Debug for RaftNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftNode").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

/// Why a node has failed by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// For people.
    pub reason: String,
    /// What is known of it.
    pub kind: FailureKind,
}

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// A fault of the program.
    Fault,
    /// Something could not be stored, or read again.
    Storage,
    /// None: it may not go on as the member that it was, and its data directory bears the mark of that now.
    Retired,
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RaftStartError {
    /// The time-outs do not fit together.
    #[error(transparent)]
    Timing(#[from] TimingError),
    /// The stores do not belong together, or cannot be read.
    #[error(transparent)]
    Stores(#[from] StorageError),
    /// openraft refused the stores.
    #[error("raft cannot start: {0}")]
    Fatal(String),
}

impl RaftNode {
    /// Starts Raft on opened stores. It replays what was committed and not yet applied.
    ///
    /// # Errors
    /// Time-outs that do not fit together, or stores that contradict each other.
    pub async fn start(mut parts: Parts) -> Result<Self, RaftStartError> {
        let mut config = parts.timing.config()?;
        prepare_start(&mut parts.log, &parts.state_machine).await?;
        let lease = Duration::from_millis(config.election_timeout_max);
        let promise = Promise::of(parts.log.durable_vote().as_ref(), parts.id, lease);
        config.enable_elect = !promise.was_made();
        let config = Arc::new(config);
        let network = PeerNetworkFactory::new(parts.id, parts.transport.clone());
        let readers = parts.state_machine.readers();
        let feed = parts.state_machine.feed();
        let (snapshots, bases) = (parts.state_machine.snapshots(), parts.state_machine.bases());
        let raft = Raft::new(parts.id, config, network, parts.log.clone(), parts.state_machine)
            .await
            .map_err(|error| RaftStartError::Fatal(error.to_string()))?;
        let (proposals, proposer) = proposals(raft.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(hosted(proposer.run()));
        let inner = Inner {
            id: parts.id,
            endpoint_id: parts.endpoint_id,
            incarnation: format!("{:016x}", random().next_u64()),
            raft,
            proposals,
            transport: parts.transport,
            log: parts.log,
            readers,
            snapshots,
            space: parts.space,
            bases,
            feed,
            snapshot_policy: parts.snapshots,
            admission: parts.admission,
            leases: Leases::open(parts.lease_clock, lease),
            kept: Mutex::default(),
            promise,
            freshness: Freshness::default(),
            heartbeat: parts.timing.heartbeat,
            patience: parts.timing.election_min,
            health: Mutex::default(),
            promotion: parts.promotion,
            about: parts.about,
            told_about: Mutex::default(),
            changing: Arc::default(),
            spoken_to: Mutex::new(Instant::now()),
            was_removed: watch::Sender::new(false),
            is_stopping: AtomicBool::new(false),
            permits: Semaphore::new(OPERATIONS_IN_FLIGHT_MAX as usize),
            backups: Arc::new(Semaphore::new(BACKUPS_MAX as usize)),
            tasks: Mutex::new(tasks),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Keeps the time of leases, for as long as it runs.
    pub async fn keep_time(&self) {
        self.inner.promise.passed().await;
        self.inner.raft.runtime_config().elect(true);
        self.inner.leases.keep_marks().await;
    }

    /// The refusal of a vote for which this node is bound by what it may have promised before it started.
    fn refusal(&self, request: &VoteRequest) -> Option<VoteResponse> {
        let is_bound = self.inner.promise.binds() && !request.leadership_transfer;
        let vote = self.inner.log.durable_vote().filter(|_| is_bound)?;
        Some(VoteResponse::new(vote, None, false))
    }

    /// Ends openraft's tasks. Reads under way end with [`ApiError::Stopping`], writes with
    /// [`ApiError::LeaderLost`].
    pub async fn shutdown(&self) {
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::error!(%error, "raft did not stop cleanly");
        }
    }

    /// How long a node hears of nobody before it is alone: no election takes so long.
    pub fn loneliness(&self) -> Duration {
        REUNION_INTERVAL.max(4 * self.inner.patience)
    }

    /// Whether this node has been spoken to by no leader for as long as that or, if it leads, has had no quorum.
    pub fn is_alone_since(&self, silence: Duration) -> bool {
        let metrics = self.metrics();
        if metrics.state == ServerState::Leader {
            // Who votes alone needs nobody's word.
            if metrics.membership_config.voter_ids().all(|voter| voter == self.inner.id) {
                return false;
            }
            let acknowledged = metrics.last_quorum_acked.map(|acked| acked.into_inner().elapsed());
            return acknowledged.is_some_and(|acknowledged| acknowledged >= silence);
        }
        let spoken_to = *self.inner.spoken_to.lock().expect("nothing panics while it holds this lock");
        spoken_to.elapsed() >= silence
    }

    /// Notes that somebody has sent entries or a heartbeat, and had a right to.
    fn note_spoken_to(&self) {
        *self.inner.spoken_to.lock().expect("nothing panics while it holds this lock") = Instant::now();
        self.note_membership(true);
    }

    /// The entry that has made the members those that this node knows.
    pub fn members_as_of(&self) -> u64 {
        index_of(&self.inner.raft.server_metrics().borrow_watched().membership_config)
    }

    /// Takes down whether this node is a member by the word of whoever knows the latest.
    pub fn note_membership(&self, is_member: bool) {
        self.inner
            .was_removed
            .send_if_modified(|was_removed| std::mem::replace(was_removed, !is_member) == is_member);
    }

    /// Whether this node is a member no more: others say so, and no leader speaks to it.
    pub fn is_removed(&self) -> bool {
        *self.inner.was_removed.borrow() && self.is_alone_since(self.loneliness())
    }

    /// Returns once others say that this node is a member no more.
    pub async fn removed(&self) {
        // The sender is ours.
        let _ = self.inner.was_removed.subscribe().wait_for(|was_removed| *was_removed).await;
    }

    /// Returns when Raft has stopped by itself, with the reason.
    pub async fn failed(&self) -> Failed {
        tokio::select! {
            biased;
            () = self.ended() => {}
            () = self.inner.proposals.closed() => {
                // With Raft it ends as well.
                if timeout(PROPOSER_END_TIMEOUT, self.ended()).await.is_err() {
                    let reason = "nothing can be proposed any more".to_owned();
                    return Failed { reason, kind: FailureKind::Fault };
                }
            }
        }
        match self.metrics().running_state {
            Err(fatal @ Fatal::StorageError(_)) => {
                Failed { reason: fatal.to_string(), kind: FailureKind::Storage }
            }
            Err(fatal) => Failed { reason: fatal.to_string(), kind: FailureKind::Fault },
            // It has not come to say anything.
            Ok(()) => Failed { reason: Fatal::<TypeConfig>::Panicked.to_string(), kind: FailureKind::Fault },
        }
    }

    /// Returns once Raft has ended.
    async fn ended(&self) {
        // They change with terms and members only, and end with Raft.
        let mut metrics = self.inner.raft.server_metrics();
        while metrics.changed().await.is_ok() {}
    }

    /// Lets the members connect, for as long as it runs, and says who they are: those of the effective membership, since a new
    /// member has to be reached before its membership can be committed, and those of the committed one, since a leader that
    /// leaves has to hear that it may.
    /// Also says in the log who leads.
    pub async fn follow_members(&self, members: watch::Sender<BTreeMap<NodeId, NodeInfo>>) {
        let mut metrics = self.inner.raft.server_metrics();
        let mut said = (0, None);
        loop {
            said = self.say_who_leads(said);
            let (admitted, present, leader): (HashSet<EndpointKey>, BTreeMap<NodeId, NodeInfo>, _) = {
                let metrics = metrics.borrow_watched();
                let effective = metrics.membership_config.nodes();
                let present = effective.map(|(id, info)| (*id, info.clone())).collect();
                let both =
                    metrics.membership_config.nodes().chain(metrics.committed_membership_config.nodes());
                (both.map(|(_, info)| info.endpoint_id).collect(), present, metrics.current_leader)
            };
            // Of a log that is replayed the members are those of then: whoever leads now need not be one.
            let are_of_now = leader.is_some_and(|leader| present.contains_key(&leader))
                && !self.is_alone_since(self.inner.patience);
            self.inner.admission.set_members(admitted, are_of_now);
            if leader.is_none_or(|leader| present.contains_key(&leader)) {
                members.send_if_modified(|before| {
                    let is_new = *before != present;
                    *before = present;
                    is_new
                });
            }
            // That nobody is heard of any more changes none of them.
            tokio::select! {
                changed = metrics.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = sleep(self.inner.patience) => {}
            }
        }
    }

    /// Takes down what the other members have said of themselves.
    pub fn note_about(&self, told: BTreeMap<NodeId, About>) {
        *self.inner.told_about.lock().expect("nothing panics while it holds this lock") = told;
    }

    /// What each of them has said, as far as it was heard.
    fn told_about(&self) -> BTreeMap<NodeId, About> {
        self.inner.told_about.lock().expect("nothing panics while it holds this lock").clone()
    }

    /// Says in the log who leads, if that is not what was said before.
    fn say_who_leads(&self, said: (u64, Option<NodeId>)) -> (u64, Option<NodeId>) {
        let (term, leader) = {
            let metrics = self.inner.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            (metrics.vote.leader_id().term, metrics.current_leader)
        };
        // A term without a leader is worth a word only where there was one.
        if said == (term, leader) || said.1 == leader && leader.is_none() {
            return said;
        }
        match leader {
            Some(id) if id == self.inner.id => tracing::info!(term, "this node leads"),
            Some(leader) => tracing::info!(term, %leader, "follows a leader"),
            None => tracing::info!(term, "nobody leads"),
        }
        (term, leader)
    }

    /// Returns once this node's own status shows the cluster that it has founded.
    async fn founded(&self) {
        let mut metrics = self.inner.raft.server_metrics();
        while metrics.borrow_watched().membership_config.nodes().next().is_none() {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    fn metrics(&self) -> Metrics {
        self.inner.raft.metrics().borrow_watched().clone()
    }

    fn stopping(fatal: &Fatal<TypeConfig>) -> ApiError {
        ApiError::Stopping { reason: fatal.to_string() }
    }
}

impl RaftService for RaftNode {
    fn append_stream(
        &self,
        requests: BoxStream<'static, AppendEntriesRequest>,
    ) -> BoxStream<'static, StreamAppended> {
        // What comes without entries costs no room.
        let (full, space) = (Arc::new(OnceLock::new()), self.inner.space.clone());
        let first_refused = full.clone();
        let taken = requests.take_while(move |request| {
            let room = if request.entries.is_empty() { Ok(()) } else { space.check() };
            future::ready(room.map_err(|refused| first_refused.set(refused)).is_ok())
        });
        let answers = self.inner.raft.stream_append(taken.boxed());
        let node = self.clone();
        let answers = answers.map(move |answer| {
            node.note_spoken_to();
            answer.map_err(|fatal| fatal.to_string())
        });
        let refusal = stream::once(async move { full.get().map(|full| Err(DiskFull::to_string(full))) });
        answers.chain(refusal.filter_map(future::ready)).boxed()
    }

    fn append_entries(
        &self,
        request: AppendEntriesRequest,
    ) -> BoxFuture<'_, Result<AppendEntriesResponse, String>> {
        async move {
            if !request.entries.is_empty() {
                self.inner.space.check().map_err(|full| full.to_string())?;
            }
            let answer = self.inner.raft.append_entries(request).await.map_err(|error| error.to_string());
            if answer.is_ok() {
                self.note_spoken_to();
            }
            answer
        }
        .boxed()
    }

    fn vote(&self, request: VoteRequest) -> BoxFuture<'_, Result<VoteResponse, String>> {
        async move {
            match self.refusal(&request) {
                Some(refusal) => Ok(refusal),
                None => self.inner.raft.vote(request).await.map_err(|error| error.to_string()),
            }
        }
        .boxed()
    }

    fn pre_vote(&self, request: VoteRequest) -> BoxFuture<'_, Result<VoteResponse, String>> {
        async move {
            match self.refusal(&request) {
                Some(refusal) => Ok(refusal),
                None => self.inner.raft.pre_vote(request).await.map_err(|error| error.to_string()),
            }
        }
        .boxed()
    }

    fn transfer_leader(
        &self,
        request: TransferLeaderRequest,
    ) -> BoxFuture<'_, Result<TransferLeaderResponse, String>> {
        async move {
            // A leader that goes in a moment, or takes no writes, is none.
            if self.inner.is_stopping.load(Ordering::Relaxed) {
                return Err("this node is stopping".to_owned());
            }
            self.inner.space.check().map_err(|full| full.to_string())?;
            self.inner.raft.handle_transfer_leader(request).await.map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn begin_snapshot(&self, request: InstallSnapshot) -> Result<SnapshotStart, String> {
        if let Some(vote) = self.inner.log.durable_vote().filter(|own| *own > request.vote) {
            return Ok(SnapshotStart::Stale(SnapshotResponse::new(vote)));
        }
        let InstallSnapshot { meta, seal, .. } = request;
        let bytes_max = self.inner.snapshot_policy.bytes_max;
        if seal.bytes > bytes_max {
            let bytes = seal.bytes;
            return Err(format!(
                "it has {bytes} bytes, at most {bytes_max} are allowed: raise snapshot_mib_max"
            ));
        }
        let is_offered = |current: &SnapshotFile| {
            *current.meta() == meta && current.seal() == seal && current.damage().is_none()
        };
        if let Some(current) = self.inner.snapshots.current().filter(is_offered) {
            return Ok(SnapshotStart::Here(current));
        }
        // What has come of it already needs no more room.
        let missing = seal.bytes.saturating_sub(self.inner.snapshots.received_bytes());
        self.inner.space.check_for(missing).map_err(|full| full.to_string())?;
        let received = self.inner.snapshots.receive(meta, seal, self.inner.bases.get());
        received.map(|incoming| SnapshotStart::Receive(Box::new(incoming))).map_err(|error| error.to_string())
    }

    fn install_snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotFile,
    ) -> BoxFuture<'_, Result<SnapshotResponse, String>> {
        async move {
            // openraft stops at what cannot be installed, so it is not given that. The new database is a copy of it.
            self.inner.space.check_for(snapshot.seal().bytes).map_err(|full| full.to_string())?;
            let (path, meta) = (self.inner.snapshots.path(&snapshot), snapshot.meta().clone());
            let checked = blocking(move || check_snapshot(&path, &meta)).await;
            checked.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
            let snapshot = Snapshot { meta: snapshot.meta().clone(), snapshot };
            let installed = self.inner.raft.install_full_snapshot(vote, snapshot).await;
            installed.map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn read_index(&self, request: ReadIndex) -> BoxFuture<'_, Result<Confirmed, ApiError>> {
        async move {
            let _permit = self.admit()?;
            bounded(TimeoutOutcome::NothingWritten, self.confirm_leadership(request.may_use_lease)).await
        }
        .boxed()
    }

    fn keep_lease(&self, KeepLease(lease): KeepLease) -> BoxFuture<'_, Result<Duration, ApiError>> {
        async move {
            let _permit = self.admit()?;
            bounded(TimeoutOutcome::NothingWritten, self.keep_lease_here(lease)).await
        }
        .boxed()
    }

    fn forwarded(&self, command: EncodedCommand) -> BoxFuture<'_, Result<WriteResult, ApiError>> {
        async move {
            // What is proposed has to decode on every member.
            let decoded = command.decode().map_err(|error| BadRequest::Malformed(error.to_string()))?;
            check_command(&decoded)?;
            let _permit = self.admit()?;
            bounded(TimeoutOutcome::Unknown, self.propose(command)).await
        }
        .boxed()
    }
}

/// The words of `/raft/state` and `/cluster/status` for openraft's states.
fn role_name(state: ServerState) -> &'static str {
    match state {
        ServerState::Learner => "learner",
        ServerState::Follower => "follower",
        ServerState::Candidate => "candidate",
        ServerState::Leader => "leader",
        ServerState::Shutdown => "shutdown",
    }
}

/// Sorts what founding a cluster can end in.
fn init_error(error: RaftError<TypeConfig, InitializeError<TypeConfig>>, id: NodeId) -> ApiError {
    match error {
        RaftError::APIError(InitializeError::NotAllowed(_)) => ApiError::AlreadyInitialized,
        RaftError::APIError(InitializeError::NotInMembers(_)) => BadRequest::NotAMember(id).into(),
        RaftError::Fatal(fatal) => RaftNode::stopping(&fatal),
    }
}

#[cfg(test)]
mod tests;
