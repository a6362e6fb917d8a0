//! Clusters in this process, over [`AspenRouter`] and with the stores of a node: what Raft does where links are cut or slow, and
//! where nodes stop. Each node is a machine of a simulation: time is virtual, that of the disks too, and its chances come from a seed
//! that a test prints where it fails, and takes from `ASPEN_SEED`.

mod appends;
mod elections;
mod leases;
mod members;
mod partitions;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use futures::future::join_all;
use openraft::metrics::Wait;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use super::*;
use crate::api::{
    ClusterController, Consistency, KeyValueStore, RaftObserver, ReadRequest, StateDigest, WriteResult,
};
use crate::host::Host;
use crate::network::incarnation::Incarnations;
use crate::network::memory::{AspenRouter, MemoryLink};
use crate::storage::Execution;
use crate::storage::sqlite::StateMachineCloser;
use crate::types::{Command, Key, Value};

/// Far longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(20);
const TIMING: RaftTiming = RaftTiming {
    heartbeat: Duration::from_millis(100),
    election_min: Duration::from_millis(400),
    election_max: Duration::from_millis(800),
};

/// The nodes that run, by number from 1 on.
struct Cluster {
    random: ChaCha8Rng,
    router: AspenRouter,
    nodes: BTreeMap<u64, Running>,
    folder: TempDir,
}

struct Running {
    host: Host,
    raft: RaftNode,
    log: RedbLogStore,
    state_machine: StateMachineCloser,
    tasks: JoinSet<()>,
}

impl Running {
    /// A node that has its stores in this folder, on the machine that begins it.
    async fn start(id: u64, data_dir: &Path, transport: Arc<dyn Transport>, host: Host) -> Self {
        std::fs::create_dir_all(data_dir).unwrap();
        let log = RedbLogStore::open(&data_dir.join("log.redb"), NodeId(id), Execution::Simulated).unwrap();
        let state_machine =
            SqliteStateMachine::open(data_dir, Execution::Simulated).unwrap().behind(log.durable());
        let closer = state_machine.closer();
        let parts = Parts {
            id: NodeId(id),
            endpoint_id: info(id).endpoint_id,
            timing: TIMING,
            lease_clock: LeaseClock::Off,
            promotion: PromotionPolicy::default(),
            about: About::default(),
            snapshots: SnapshotPolicy { entries: 10, ..SnapshotPolicy::default() },
            log: log.clone(),
            state_machine,
            space: Arc::new(Space::new(data_dir, 1)),
            transport,
            admission: Arc::new(Admission::new([], Incarnations::default())),
        };
        let raft = RaftNode::start(parts).await.unwrap();
        let mut tasks = JoinSet::new();
        let (timekeeper, compactor) = (raft.clone(), raft.clone());
        tasks.spawn(hosted(async move { timekeeper.keep_time().await }));
        tasks.spawn(hosted(async move { compactor.compact().await }));
        Self { host, raft, log, state_machine: closer, tasks }
    }
}

fn info(id: u64) -> NodeInfo {
    let key = EndpointKey([u8::try_from(id).unwrap(); 32]);
    let at = |port: u64| SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port + id).unwrap()));
    NodeInfo { endpoint_id: key, raft: at(4000), http: at(8000) }
}

fn ids(ids: &[u64]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // They hold the router, which holds them.
        for id in self.nodes.keys() {
            self.router.remove(NodeId(*id));
        }
    }
}

impl Cluster {
    /// Nodes 1 to `count`, none of which has a cluster.
    async fn started(count: u64) -> Self {
        let given =
            std::env::var("ASPEN_SEED").ok().map(|text| text.parse().expect("ASPEN_SEED is a number"));
        Self::seeded(count, given.unwrap_or_else(|| rand::rng().random())).await
    }

    /// The same, whose chances come from this seed.
    #[allow(clippy::print_stdout, reason = "a test that draws says from which seed")]
    async fn seeded(count: u64, seed: u64) -> Self {
        println!("to repeat it: ASPEN_SEED={seed}");
        let random = ChaCha8Rng::seed_from_u64(seed);
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Self { random, router: AspenRouter::default(), nodes: BTreeMap::new(), folder };
        for id in 1..=count {
            cluster.start(id).await;
        }
        cluster
    }

    /// A cluster of nodes 1 to `count`, all of which vote, and one leads.
    async fn founded(count: u64) -> Self {
        Self::started(count).await.found().await
    }

    /// The same of those that run.
    async fn found(self) -> Self {
        let count = self.nodes.len() as u64;
        let members = (1..=count).map(|id| (NodeId(id), info(id)));
        self.nodes[&1].raft.init(members.collect()).await.unwrap();
        for id in 1..=count {
            self.leader(id, &(1..=count).collect::<Vec<_>>()).await;
        }
        self
    }

    /// Starts a node, which goes on where it ended.
    async fn start(&mut self, id: u64) {
        let host = Host::new(&format!("n{id}"), self.random.random());
        let data_dir = self.folder.path().join(id.to_string());
        let transport = Arc::new(self.router.transport(NodeId(id)));
        let running = host.run(Running::start(id, &data_dir, transport, host.clone())).await.unwrap();
        self.router.add(NodeId(id), Arc::new(running.raft.clone()));
        self.nodes.insert(id, running);
    }

    /// Ends a node without a word to the others.
    async fn stop(&mut self, id: u64) {
        self.router.remove(NodeId(id));
        let Running { raft, log, state_machine, mut tasks, .. } = self.nodes.remove(&id).unwrap();
        state_machine.stop_waiting();
        raft.shutdown().await;
        tasks.shutdown().await;
        drop(raft);
        tokio::task::spawn_blocking(move || {
            log.close();
            state_machine.close();
        })
        .await
        .unwrap();
    }

    fn raft(&self, id: u64) -> &RaftNode {
        &self.nodes[&id].raft
    }

    /// Waits for what a node's metrics are to say.
    fn wait(&self, id: u64) -> Wait<TypeConfig> {
        self.raft(id).inner.raft.wait(Some(PATIENCE))
    }

    /// Who leads, as soon as this node follows one of these.
    async fn leader(&self, as_seen_by: u64, among: &[u64]) -> u64 {
        let is_one =
            |metrics: &Metrics| metrics.current_leader.is_some_and(|leader| among.contains(&leader.0));
        let metrics = self.wait(as_seen_by).metrics(is_one, "a leader").await.unwrap();
        metrics.current_leader.unwrap().0
    }

    /// Waits until a node has noticed that it is alone.
    async fn alone_for(&self, id: u64, long: Duration) {
        let noticed = timeout(PATIENCE, async {
            while !self.raft(id).is_alone_since(long) {
                sleep(TIMING.heartbeat).await;
            }
        });
        noticed.await.unwrap();
    }

    /// The nodes but these.
    fn others(&self, than: &[u64]) -> Vec<u64> {
        self.nodes.keys().copied().filter(|id| !than.contains(id)).collect()
    }

    /// Cuts the links between two groups.
    fn cut(&self, group: &[u64], others: &[u64]) {
        self.router.cut_between(&ids(group), &ids(others));
    }

    /// Cuts a node off from all others.
    fn isolate(&self, id: u64) {
        self.cut(&[id], &self.others(&[id]));
    }

    /// Sets a key by way of a node.
    async fn set(&self, by: u64, key: &str, value: &str) -> Result<WriteResult, ApiError> {
        self.raft(by).write(Command::Set { key: Key::from(key), value: Value::from(value) }).await
    }

    /// What a node has itself under a key.
    async fn held(&self, id: u64, key: &str) -> Option<String> {
        let request = ReadRequest { vault: None, key: Key::from(key), consistency: Consistency::Stale };
        let record = self.raft(id).read(request).await.unwrap().record;
        record.map(|record| String::from_utf8(record.value.0).unwrap())
    }

    /// Waits until these nodes have applied the same, and makes sure that they have: that their logs and states are equal.
    async fn agree(&self, members: &[u64]) -> StateDigest {
        // Where a snapshot covers the last entry already, one of the logs may be empty: then another entry is written.
        for _ in 0..10 {
            let leader = self.leader(members[0], members).await;
            let index = self.set(leader, "agree", "").await.unwrap().revision.0;
            for id in members {
                self.wait(*id).applied_index_at_least(Some(index), "what all have applied").await.unwrap();
            }
            // What one has purged from its log, another may have.
            let purged = members.iter().filter_map(|id| self.raft(*id).raft_state().purged);
            let from = purged.map(|purged| purged.index + 1).max().unwrap_or(0);
            let digests = members.iter().map(async |id| {
                let log = self.raft(*id).log_digest(from, index).await.ok()?;
                Some((log, self.raft(*id).state_digest(Some(index)).await.unwrap()))
            });
            let Some(digests) = join_all(digests).await.into_iter().collect::<Option<Vec<_>>>() else {
                continue;
            };
            for (id, found) in members.iter().zip(&digests) {
                assert_eq!(*found, digests[0], "nodes {id} and {}", members[0]);
            }
            return digests[0].1.clone();
        }
        panic!("their logs are never there to be compared");
    }
}

/// An election by chance, writes, a cut and another election: all of it once more, to the last step of each node.
#[test]
fn equal_seeds_play_the_same_and_others_another_story() {
    let story = |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let began = Instant::now();
            let cluster = Cluster::seeded(3, seed).await.found().await;
            let old = cluster.leader(1, &[1, 2, 3]).await;
            for number in 0..20 {
                cluster.set(old, &format!("k{number}"), "v").await.unwrap();
            }
            cluster.isolate(old);
            let others = cluster.others(&[old]);
            let new = cluster.leader(others[0], &others).await;
            cluster.router.heal();
            let term = cluster.raft(new).raft_state().term;
            let steps: Vec<u64> = cluster.nodes.values().map(|node| node.host.steps()).collect();
            (old, new, term, steps, began.elapsed())
        })
    };
    assert_eq!(story(1), story(1));
    assert_ne!(story(1), story(2));
}
