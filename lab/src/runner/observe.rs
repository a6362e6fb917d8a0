//! Watches every node, all along: who leads, who answers, and whether logs and states agree. What is seen goes to the
//! run's observations, line by line.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aspen_node::client::events::events_in;
use futures::future::join_all;
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;

use super::Stage;
use super::record::Conduct;
use crate::cluster::{Channel, Clock, Cluster, Request};
use crate::limits::{
    CLIENT_TIMEOUT, LOG_DIGEST_ENTRIES, OBSERVE_INTERVAL, OBSERVE_TIMEOUT, STATE_DIGEST_INTERVAL,
    STATE_DIGESTS_PER_LOOK_MAX,
};
use crate::observations::{Incarnation, NodeState, Role, Seen};
use crate::plan::{Bytes32, NodeIndex, Roles, Target};
use crate::target::ask;

/// The last known state of every node. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    target: Target,
    last: Arc<Mutex<Last>>,
}

#[derive(Debug)]
struct Last {
    /// When each node last answered, and what.
    states: Vec<Option<(Duration, NodeState)>>,
    /// Nodes that were killed and have not served again yet.
    down: BTreeSet<NodeIndex>,
    /// Nodes that were put back to an earlier state: what they say is of the past.
    retired: BTreeSet<NodeIndex>,
    /// Nodes that are no members, not yet or no longer: they play no part.
    outside: BTreeSet<NodeIndex>,
}

/// Asks every node in turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Observer {
    watch: Watch,
    tasks: JoinSet<()>,
}

/// Observes one node.
struct Gaze {
    node: NodeIndex,
    name: String,
    watch: Watch,
    conduct: Arc<Conduct>,
    clock: Arc<dyn Clock>,
    channel: Box<dyn Channel>,
    /// The first index whose state digest was not asked for.
    next_state: u64,
    /// The first entry whose log digest was not asked for.
    next_log: u64,
    /// The first entry whose changes were not asked for.
    next_change: u64,
    /// Over the changes before it, from the last multiple of [`STATE_DIGEST_INTERVAL`] on; absent: there are some among them
    /// that nobody knows.
    changes: Option<blake3::Hasher>,
}

impl Observer {
    pub(super) fn start(stage: &Stage, conduct: &Arc<Conduct>) -> Self {
        let states = vec![None; stage.plan.nodes.len()];
        let founders: BTreeSet<NodeIndex> = stage.plan.founders().collect();
        let outside = stage.plan.node_indexes().filter(|node| !founders.contains(node)).collect();
        let last = Last { states, down: BTreeSet::new(), retired: BTreeSet::new(), outside };
        let watch = Watch { target: stage.plan.target, last: Arc::new(Mutex::new(last)) };
        let mut tasks = JoinSet::new();
        for node in stage.plan.node_indexes() {
            let gaze = Gaze {
                node,
                name: stage.name(node).to_owned(),
                watch: watch.clone(),
                conduct: conduct.clone(),
                clock: stage.clock.clone(),
                channel: stage.cluster.channel(node),
                next_state: STATE_DIGEST_INTERVAL,
                next_log: 0,
                next_change: 1,
                changes: Some(blake3::Hasher::new()),
            };
            tasks.spawn(gaze.run());
        }
        Self { watch, tasks }
    }

    pub(super) fn watch(&self) -> Watch {
        self.watch.clone()
    }

    pub(super) async fn stop(mut self) {
        self.tasks.abort_all();
        while let Some(ended) = self.tasks.join_next().await {
            // One that crashed has left a node unwatched.
            if let Some(panic) = ended.err().and_then(|error| error.try_into_panic().ok()) {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Gaze {
    async fn run(mut self) {
        loop {
            let state = self.watch.target.state(self.channel.as_mut()).await;
            if self.watch.is_retired(self.node) {
                return;
            }
            match state {
                Some(state) => {
                    self.conduct.observe(self.node, Seen::State(state));
                    if state.role == Role::Leader {
                        self.conduct.leader(self.node, &self.name, state.term);
                    }
                    self.watch.last().states[self.node.position()] = Some((self.clock.now(), state));
                    if self.watch.target.has_digests() {
                        self.digests(&state).await;
                        self.changes().await;
                    }
                }
                None => self.conduct.observe(self.node, Seen::Silent {}),
            }
            self.clock.sleep(OBSERVE_INTERVAL).await;
        }
    }

    /// Asks for the digests of what was applied and committed since the last look. Every node is asked for the same
    /// indexes and ranges, so that they can be compared.
    async fn digests(&mut self, state: &NodeState) {
        let applied = state.applied.map_or(0, |position| position.index);
        // A node that has applied much since the last look is asked for the latest: some of the others will be, too.
        let behind = STATE_DIGEST_INTERVAL * STATE_DIGESTS_PER_LOOK_MAX;
        let latest = applied - applied % STATE_DIGEST_INTERVAL;
        self.next_state = self.next_state.max((latest + STATE_DIGEST_INTERVAL).saturating_sub(behind));
        while self.next_state <= applied {
            let Some(digest) = state_digest(self.channel.as_mut(), self.next_state).await else { return };
            if self.watch.is_retired(self.node) {
                return;
            }
            self.conduct.observe(self.node, digest);
            self.next_state += STATE_DIGEST_INTERVAL;
        }
        // What has left the log cannot be compared any more.
        let held = state.purged.map_or(0, |purged| purged.index + 1);
        self.next_log = self.next_log.max(held.next_multiple_of(LOG_DIGEST_ENTRIES));
        // What is applied is committed for good; openraft may name an entry committed a moment before the log has it.
        let end = self.next_log + LOG_DIGEST_ENTRIES - 1;
        if end <= applied {
            let Some(digest) = log_digest(self.channel.as_mut(), self.next_log, end).await else { return };
            if self.watch.is_retired(self.node) {
                return;
            }
            self.conduct.observe(self.node, digest);
            self.next_log = end + 1;
        }
    }
}

impl Gaze {
    /// Asks for the changes since the last look.
    async fn changes(&mut self) {
        let path = format!("/kv/watch?consistency=stale&follow=false&from_revision={}", self.next_change);
        let Ok(answer) = self.channel.request(Request::get(path), OBSERVE_TIMEOUT).await else { return };
        if let Some(oldest) = answer.body["error"]["oldest_revision"].as_u64() {
            // The node has started again, or was sent a snapshot.
            (self.next_change, self.changes) = (oldest, None);
            return;
        }
        if self.watch.is_retired(self.node) {
            return;
        }
        let Some(text) = answer.body.as_str().filter(|_| answer.status == 200) else { return };
        for event in events_in(text.as_bytes()) {
            let Ok(revision) = event.id.parse::<u64>() else { continue };
            match event.event.as_str() {
                "change" => {
                    self.reach(revision - 1);
                    if let Some(changes) = &mut self.changes {
                        changes.update(event.data.as_bytes());
                    }
                    self.reach(revision);
                }
                "progress" => self.reach(revision),
                _ => {}
            }
        }
    }

    /// All changes up to this entry are known: every range that ends by then is noted.
    fn reach(&mut self, known: u64) {
        while let end = self.next_change.next_multiple_of(STATE_DIGEST_INTERVAL)
            && end <= known
        {
            if let Some(changes) = self.changes.replace(blake3::Hasher::new()) {
                let (from, digest) =
                    (end - STATE_DIGEST_INTERVAL + 1, Bytes32(*changes.finalize().as_bytes()));
                self.conduct.observe(self.node, Seen::Changes { from, to: end, digest });
            }
            self.next_change = end + 1;
        }
        self.next_change = self.next_change.max(known + 1);
    }
}

impl Watch {
    /// Who plays which part now, and the term of the leader. States older than two observations do not count.
    pub(super) fn roles(&self, now: Duration) -> (Roles, Option<u64>) {
        let last = self.last();
        let is_fresh = |at: &Duration| now.saturating_sub(*at) < OBSERVE_INTERVAL * 2;
        let leader = (0_u16..)
            .map(NodeIndex)
            .zip(&last.states)
            .filter(|(node, _)| !last.down.contains(node) && !last.outside.contains(node))
            .filter_map(|(node, state)| state.as_ref().map(|(at, state)| (node, at, state)))
            .filter(|(_, at, state)| is_fresh(at) && state.role == Role::Leader)
            .max_by_key(|(_, _, state)| state.term);
        let count = u16::try_from(last.states.len()).unwrap_or(u16::MAX);
        let plays = |node: &NodeIndex| !last.down.contains(node) && !last.outside.contains(node);
        let alive = (0..count).map(NodeIndex).filter(plays).collect();
        let roles = Roles { nodes_count: count, leader: leader.map(|(node, _, _)| node), alive };
        (roles, leader.map(|(_, _, state)| state.term))
    }

    /// Asks every node that is not down right now.
    pub(super) async fn refresh(&self, cluster: &dyn Cluster, clock: &dyn Clock) {
        let nodes: Vec<NodeIndex> = {
            let last = self.last();
            let count = u16::try_from(last.states.len()).unwrap_or(u16::MAX);
            (0..count).map(NodeIndex).filter(|node| !last.down.contains(node)).collect()
        };
        let asked = nodes.into_iter().map(|node| async move {
            let state = self.target.state(cluster.channel(node).as_mut()).await;
            (node, state)
        });
        for (node, state) in join_all(asked).await {
            if let Some(state) = state {
                self.last().states[node.position()] = Some((clock.now(), state));
            }
        }
    }

    /// The incarnation that a node last named.
    pub(super) fn incarnation(&self, node: NodeIndex) -> Option<Incarnation> {
        self.last().states[node.position()].map(|(_, state)| state.incarnation)
    }

    /// Notes that a node was killed, or serves again.
    pub(super) fn set_down(&self, node: NodeIndex, is_down: bool) {
        let mut last = self.last();
        if is_down {
            last.down.insert(node);
            // What it said before it died does not count any more.
            last.states[node.position()] = None;
        } else {
            last.down.remove(&node);
        }
    }

    /// Notes that a node is out for good, or about to be put back to an earlier state: whatever it still says does not count.
    pub(super) fn retire(&self, node: NodeIndex) {
        let mut last = self.last();
        last.down.insert(node);
        last.retired.insert(node);
        last.states[node.position()] = None;
    }

    /// Notes that a node is a member, or none any more.
    pub(super) fn set_outside(&self, node: NodeIndex, is_outside: bool) {
        let mut last = self.last();
        if is_outside {
            last.outside.insert(node);
        } else {
            last.outside.remove(&node);
        }
    }

    /// The nodes that are no members.
    pub(super) fn outside(&self) -> BTreeSet<NodeIndex> {
        self.last().outside.clone()
    }

    fn is_retired(&self, node: NodeIndex) -> bool {
        self.last().retired.contains(&node)
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().expect("nothing panics while it holds this lock")
    }
}

/// The digest of a node's state at an index, if it has one and answers in time.
pub(super) async fn state_digest(channel: &mut dyn Channel, index: u64) -> Option<Seen> {
    let body = ask(channel, Request::get(format!("/state/digest?at={index}"))).await?;
    if body["index"].as_u64()? != index {
        return None;
    }
    Some(Seen::StateDigest { index, digest: bytes32(&body["digest"])? })
}

/// The digest of all that a node holds, if it answers in time and nothing was written meanwhile.
pub(super) async fn contents(channel: &mut dyn Channel, index: u64) -> Option<Seen> {
    let mut digest = blake3::Hasher::new();
    let mut token = Json::Null;
    loop {
        let page = json!({ "consistency": "stale", "limit": aspen_node::limits::SCAN_LIMIT_MAX, "continuation_token": token });
        let answer = channel.request(Request::post("/kv/scan", &page), CLIENT_TIMEOUT).await.ok()?;
        let mut body = answer.body;
        if answer.status != 200 || body["revision"].as_u64()? != index {
            return None;
        }
        for entry in body["entries"].as_array()? {
            digest.update(entry.to_string().as_bytes());
        }
        if !body["is_truncated"].as_bool()? {
            return Some(Seen::Contents { index, digest: Bytes32(*digest.finalize().as_bytes()) });
        }
        token = body["continuation_token"].take();
    }
}

/// The digest of a range of a node's log, if it has all of it and answers in time.
pub(super) async fn log_digest(channel: &mut dyn Channel, from: u64, to: u64) -> Option<Seen> {
    let body = ask(channel, Request::get(format!("/raft/log/digest?from={from}&to={to}"))).await?;
    let (first, last) = (body["entries"].as_array()?.first()?, body["entries"].as_array()?.last()?);
    if (first["index"].as_u64()?, last["index"].as_u64()?) != (from, to) {
        return None;
    }
    Some(Seen::LogDigest { from, to, chain: bytes32(&last["chain"])? })
}

fn bytes32(text: &Json) -> Option<Bytes32> {
    serde_json::from_value(text.clone()).ok()
}
