//! Who of the members is where: each is asked now and then, and has it in its settings alone.

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::limits::{ABOUT_ASKED_AT_ONCE, ABOUT_INTERVAL, ABOUT_RETRY};
use crate::network::about::About;
use crate::network::iroh::RaftEndpoint;
use crate::raft::RaftNode;
use crate::types::{EndpointKey, NodeId, NodeInfo};

/// Asks the other members what they are, and tells this node.
#[derive(Debug)]
pub struct LabelExchange {
    /// The way to the others.
    endpoint: RaftEndpoint,
    /// Who is to know.
    raft: RaftNode,
    /// This node's own key.
    own: EndpointKey,
    /// The members, as this node has them.
    members: watch::Receiver<BTreeMap<NodeId, NodeInfo>>,
    /// What each has said, by its key, and when.
    heard: BTreeMap<EndpointKey, (About, Instant)>,
}

impl LabelExchange {
    /// Of a node with this key.
    pub fn new(
        endpoint: RaftEndpoint,
        raft: RaftNode,
        own: EndpointKey,
        members: watch::Receiver<BTreeMap<NodeId, NodeInfo>>,
    ) -> Self {
        Self { endpoint, raft, own, members, heard: BTreeMap::new() }
    }

    /// Asks for as long as it runs.
    pub async fn run(mut self) {
        loop {
            let members = self.members.borrow_and_update().clone();
            self.heard.retain(|key, _| members.values().any(|info| info.endpoint_id == *key));
            let due: Vec<NodeInfo> = members.values().filter(|info| self.is_due(info)).cloned().collect();
            let asked = stream::iter(due).map(|info| {
                let endpoint = self.endpoint.clone();
                async move {
                    let answer = endpoint.ask_about(&info).await;
                    (info, answer)
                }
            });
            let mut answers = asked.buffer_unordered(ABOUT_ASKED_AT_ONCE);
            while let Some((info, answer)) = answers.next().await {
                match answer {
                    Ok(about) => drop(self.heard.insert(info.endpoint_id, (about, Instant::now()))),
                    // What it has said before is as good as anything: it need not have moved.
                    Err(error) => tracing::debug!(peer = %info.raft, %error, "it does not say where it is"),
                }
            }
            drop(answers);
            let told = members.iter().filter_map(|(id, info)| {
                let (about, _) = self.heard.get(&info.endpoint_id)?;
                Some((*id, about.clone()))
            });
            self.raft.note_about(told.collect());
            tokio::select! {
                () = sleep(ABOUT_RETRY.mul_f64(rand::random_range(0.8..1.2))) => {}
                changed = self.members.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    fn is_due(&self, info: &NodeInfo) -> bool {
        let heard = self.heard.get(&info.endpoint_id);
        info.endpoint_id != self.own && heard.is_none_or(|(_, when)| when.elapsed() >= ABOUT_INTERVAL)
    }
}
