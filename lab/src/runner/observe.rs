//! Watches every node's Raft state, all along: who leads, and who answers.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aspen_node::api::RaftState;
use futures::future::join_all;
use tokio::task::JoinSet;

use super::Stage;
use super::record::Conduct;
use crate::cluster::{Channel, Clock, Cluster, Request};
use crate::limits::{OBSERVE_INTERVAL, OBSERVE_TIMEOUT};
use crate::plan::{NodeIndex, Roles};

/// The last known state of every node. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug)]
struct Seen {
    /// When each node last answered, and what.
    states: Vec<Option<(Duration, RaftState)>>,
    /// Nodes that were killed and have not served again yet.
    down: BTreeSet<NodeIndex>,
}

/// Asks every node in turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Observer {
    watch: Watch,
    tasks: JoinSet<()>,
}

impl Observer {
    pub(super) fn start(stage: &Stage, conduct: &Arc<Conduct>) -> Self {
        let states = vec![None; stage.plan.nodes.len()];
        let watch = Watch { seen: Arc::new(Mutex::new(Seen { states, down: BTreeSet::new() })) };
        let mut tasks = JoinSet::new();
        for node in stage.plan.node_indexes() {
            let (watch, conduct, clock) = (watch.clone(), conduct.clone(), stage.clock.clone());
            let name = stage.name(node).to_owned();
            let mut channel = stage.cluster.channel(node);
            tasks.spawn(async move {
                loop {
                    if let Some(state) = raft_state(channel.as_mut()).await {
                        if state.role == "leader" {
                            conduct.leader(node, &name, state.term);
                        }
                        watch.seen().states[node.position()] = Some((clock.now(), state));
                    }
                    clock.sleep(OBSERVE_INTERVAL).await;
                }
            });
        }
        Self { watch, tasks }
    }

    pub(super) fn watch(&self) -> Watch {
        self.watch.clone()
    }

    pub(super) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

impl Watch {
    /// Who plays which part now, and the term of the leader. States older than two observations do not count.
    pub(super) fn roles(&self, now: Duration) -> (Roles, Option<u64>) {
        let seen = self.seen();
        let is_fresh = |at: &Duration| now.saturating_sub(*at) < OBSERVE_INTERVAL * 2;
        let leader = (0_u16..)
            .map(NodeIndex)
            .zip(&seen.states)
            .filter(|(node, _)| !seen.down.contains(node))
            .filter_map(|(node, state)| state.as_ref().map(|(at, state)| (node, at, state)))
            .filter(|(_, at, state)| is_fresh(at) && state.role == "leader")
            .max_by_key(|(_, _, state)| state.term);
        let count = u16::try_from(seen.states.len()).unwrap_or(u16::MAX);
        let alive = (0..count).map(NodeIndex).filter(|node| !seen.down.contains(node)).collect();
        let roles = Roles { nodes_count: count, leader: leader.map(|(node, _, _)| node), alive };
        (roles, leader.map(|(_, _, state)| state.term))
    }

    /// Asks every node that is not down right now.
    pub(super) async fn refresh(&self, cluster: &dyn Cluster, clock: &dyn Clock) {
        let nodes: Vec<NodeIndex> = {
            let seen = self.seen();
            let count = u16::try_from(seen.states.len()).unwrap_or(u16::MAX);
            (0..count).map(NodeIndex).filter(|node| !seen.down.contains(node)).collect()
        };
        let asked = nodes.into_iter().map(|node| async move {
            let state = raft_state(cluster.channel(node).as_mut()).await;
            (node, state)
        });
        for (node, state) in join_all(asked).await {
            if let Some(state) = state {
                self.seen().states[node.position()] = Some((clock.now(), state));
            }
        }
    }

    /// The incarnation that a node last named.
    pub(super) fn incarnation(&self, node: NodeIndex) -> Option<String> {
        self.seen().states[node.position()].as_ref().map(|(_, state)| state.incarnation.clone())
    }

    /// Notes that a node was killed, or serves again.
    pub(super) fn set_down(&self, node: NodeIndex, is_down: bool) {
        let mut seen = self.seen();
        if is_down {
            seen.down.insert(node);
            // What it said before it died does not count any more.
            seen.states[node.position()] = None;
        } else {
            seen.down.remove(&node);
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("nothing panics while it holds this lock")
    }
}

/// One node's Raft state, if it answers in time.
pub(super) async fn raft_state(channel: &mut dyn Channel) -> Option<RaftState> {
    let answer = channel.request(Request::get("/raft/state"), OBSERVE_TIMEOUT).await.ok()?;
    serde_json::from_value(answer.body).ok()
}
