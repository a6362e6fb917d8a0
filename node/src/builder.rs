//! `NodeBuilder` -> [`Node`]: wires storage, network, Raft and HTTP together, owns their tasks, and stops them in the
//! order in which nothing is lost.

mod alone;
mod error;
mod raft_thread;
mod start;
mod way_in;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Mutex as AsyncMutex, OnceCell, oneshot};
use tokio::task::JoinSet;

pub use self::alone::serve_alone;
pub use self::error::StartError;
use self::raft_thread::RaftThread;
use self::start::Start;
use crate::api::{ClusterController, KeyValueStore};
use crate::causes::with_causes;
use crate::cluster::metadata::{MetadataStore, RunStatus, unix_s};
use crate::cluster::ticket::AspenClusterTicket;
use crate::config::{Config, LookupArgs, RunArgs};
use crate::limits::{HTTP_DRAIN_TIMEOUT, STOP_TIMEOUT};
use crate::network::incarnation::Incarnations;
use crate::network::iroh::RaftServer;
use crate::raft::{Failed, FailureKind, RaftNode};
use crate::storage::log::RedbLogStore;
use crate::storage::sqlite::StateMachineCloser;
use crate::types::{EndpointKey, NodeId};

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
/// node.stop().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct NodeBuilder {
    settings: Settings,
}

/// Why a node has not stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node did not stop within {} s: nothing acknowledged is lost", STOP_TIMEOUT.as_secs())]
pub struct StopError;

/// What a node keeps its log and its state in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageBackend {
    /// The log in redb, the state in SQLite.
    #[default]
    Sqlite,
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
    state_machine: StateMachineCloser,
    server: RaftServer,
    stop_http: oneshot::Sender<()>,
    http: AsyncMutex<JoinSet<()>>,
    tasks: AsyncMutex<JoinSet<()>>,
    raft_thread: RaftThread,
    endpoint_id: EndpointKey,
    incarnations: Arc<Incarnations>,
    metadata: MetadataStore,
    /// Why it has failed by itself, once somebody has waited for that.
    failed: OnceCell<Failed>,
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

    /// What it keeps its state in.
    #[must_use]
    pub fn with_storage(self, StorageBackend::Sqlite: StorageBackend) -> Self {
        self
    }

    /// Where it listens: UDP for other members, TCP for clients.
    #[must_use]
    pub fn listen(self, raft: SocketAddr, http: SocketAddr) -> Self {
        self.say(|said| (said.raft_listen, said.http_listen) = (Some(raft), Some(http)))
    }

    /// Listens for clients off this host without TLS or without a token, where everybody is trusted.
    #[must_use]
    pub fn with_insecure_http(self) -> Self {
        self.say(|said| said.http_insecure = Some(true))
    }

    /// Shows clients a certificate, from files in PEM, and speaks HTTPS with them.
    #[must_use]
    pub fn with_certificate(self, certificates: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.say(|said| {
            (said.http_tls_cert_file, said.http_tls_key_file) = (Some(certificates.into()), Some(key.into()));
        })
    }

    /// Answers only clients that show the token in a file.
    #[must_use]
    pub fn with_token_file(self, path: impl Into<PathBuf>) -> Self {
        self.say(|said| said.http_token_file = Some(path.into()))
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

    /// Whether it tells the other members where it is; with a secret it does unless this says otherwise. Without one there is nobody whom
    /// it could tell, which is logged.
    #[must_use]
    pub fn with_gossip(self, gossips: bool) -> Self {
        self.say(|said| said.gossip = Some(gossips))
    }

    /// By what it finds its peers besides their addresses: relays and lookups, all of them off unless this says otherwise.
    #[must_use]
    pub fn with_lookups(self, lookups: LookupArgs) -> Self {
        self.say(|said| said.lookups = lookups)
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
        let started = self.start_until(std::future::pending()).await?;
        Ok(started.expect("nobody has stopped it"))
    }

    /// The same, given up when `stop` ends first: its peers and clients are told, and there is no node. The process should end then, too.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_until(self, stop: impl Future<Output = ()>) -> Result<Option<Node>, StartError> {
        let config = match self.settings {
            Settings::Said(mut said) => {
                if said.gossip == Some(true) && !said.has_secret() {
                    tracing::warn!("nobody is told where this node is: gossip needs the cluster's secret");
                    said.gossip = None;
                }
                Config::load(*said)?
            }
            Settings::Checked(config) => *config,
        };
        Start { config }.run(stop).await
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
    pub async fn failed(&self) -> Failed {
        self.failed.get_or_init(|| self.failure()).await.clone()
    }

    async fn failure(&self) -> Failed {
        let (mut tasks, mut http) = (self.tasks.lock().await, self.http.lock().await);
        let failed = tokio::select! {
            failed = self.raft.failed() => failed,
            reason = panicked(&mut tasks) => Failed { reason, kind: FailureKind::Fault },
            reason = panicked(&mut http) => Failed { reason, kind: FailureKind::Fault },
        };
        if !self.incarnations.is_denounced() {
            return failed;
        }
        let reason = "its data directory was put back to an earlier state".to_owned();
        Failed { reason, kind: FailureKind::Retired }
    }

    /// Returns once others say that this node was removed from its cluster. It goes on, and tells clients so.
    pub async fn removed(&self) {
        self.raft.removed().await;
    }

    /// Hands leadership over, answers what is under way, then stops Raft, its network and its stores.
    ///
    /// # Errors
    /// It has not come to an end within [`STOP_TIMEOUT`], as where its disk hangs. What still runs goes on until the process ends.
    pub async fn stop(self) -> Result<(), StopError> {
        tokio::time::timeout(STOP_TIMEOUT, self.come_to_an_end()).await.map_err(|_| StopError)
    }

    async fn come_to_an_end(self) {
        let (mut http, mut tasks) = (self.http.into_inner(), self.tasks.into_inner());
        self.raft.step_aside().await;
        self.raft.end_watches();
        // No receiver: the server has failed already.
        let _ = self.stop_http.send(());
        if tokio::time::timeout(HTTP_DRAIN_TIMEOUT, http.join_next()).await.is_err() {
            tracing::warn!("requests still under way are cut off");
        }
        http.shutdown().await;
        // It may have been elected meanwhile.
        self.raft.step_aside().await;
        self.state_machine.stop_waiting();
        self.raft.shutdown().await;
        self.server.stop().await;
        tasks.shutdown().await;
        drop(self.raft);
        let (raft_thread, log, state_machine) = (self.raft_thread, self.log, self.state_machine);
        let closed = tokio::task::spawn_blocking(move || {
            raft_thread.join();
            log.close();
            state_machine.close();
        });
        let is_closed = closed.await.is_ok();
        if !is_closed {
            tracing::error!("the stores did not close cleanly");
        }
        let status = match self.failed.into_inner() {
            Some(Failed { reason, .. }) => RunStatus::Failed { reason },
            None if is_closed => RunStatus::Stopped,
            None => return,
        };
        if let Err(error) = self.metadata.set_run(status, unix_s()) {
            tracing::warn!(error = with_causes(&error), "cannot keep how this run has ended");
        }
    }
}

/// Returns once one of these tasks has panicked, with what it said.
pub(crate) async fn panicked(tasks: &mut JoinSet<()>) -> String {
    loop {
        match tasks.join_next().await {
            Some(Err(error)) if error.is_panic() => return error.to_string(),
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, UdpSocket};

    use super::*;
    use crate::api::{Consistency, ReadRequest};
    use crate::types::{Command, Key, Value};

    #[tokio::test]
    async fn task_that_panics_is_told_of_and_one_that_ends_is_not() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async {});
        tasks.spawn(async { panic!("a test") });
        let reason = panicked(&mut tasks).await;
        assert!(reason.contains("panicked"), "{reason}");
    }

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
        node.stop().await.unwrap();
        let last_run = || MetadataStore::inspect(dir.path()).unwrap().unwrap().last_run().unwrap().unwrap();
        assert_eq!(last_run().status, RunStatus::Stopped);
        let node = builder().start().await.unwrap();
        let read = ReadRequest { vault: None, key: Key::from("k"), consistency: Consistency::Linearizable };
        assert_eq!(node.store().read(read).await.unwrap().record.unwrap().value, Value::from("v"));
        node.stop().await.unwrap();
    }

    #[tokio::test]
    async fn settings_of_a_builder_are_checked_like_those_of_the_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let error = NodeBuilder::new(0, dir.path()).start().await.unwrap_err();
        assert_eq!(error.to_string(), "id is 0, node numbers start at 1");
    }
}
