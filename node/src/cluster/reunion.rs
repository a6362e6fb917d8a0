//! How a member that was away for long finds the others again: who was a member then need not be one now, and whoever leads now may
//! be nobody that it lets in. So it asks those whom it knows who belongs to the cluster, and lets these in until it hears of them by
//! Raft.

use std::collections::BTreeMap;

use tokio::sync::watch;
use tokio::time::sleep;

use super::metadata::MetadataStore;
use crate::network::AddressSource;
use crate::network::iroh::{JoinError, RaftEndpoint};
use crate::network::join::{Welcome, Wish};
use crate::network::secret::ClusterSecrets;
use crate::raft::RaftNode;
use crate::types::{NodeId, NodeInfo};

/// A node that asks, whenever nobody leads, who belongs to its cluster.
#[derive(Debug)]
pub struct Reunion {
    /// The way to the others.
    pub endpoint: RaftEndpoint,
    /// By which they believe each other.
    pub secrets: watch::Receiver<ClusterSecrets>,
    /// Who and where this node is.
    pub info: NodeInfo,
    /// Whether it hears of a leader.
    pub raft: RaftNode,
    /// The members, as this node has them.
    pub members: watch::Receiver<BTreeMap<NodeId, NodeInfo>>,
    /// Whom it knows besides.
    pub metadata: MetadataStore,
    /// Whom its settings name besides: those of a ticket.
    pub named: Vec<NodeInfo>,
}

impl Reunion {
    /// Asks for as long as it runs.
    pub async fn run(self) {
        let mut has_said = false;
        loop {
            sleep(self.raft.loneliness()).await;
            if !self.raft.is_alone_since(self.raft.loneliness()) {
                continue;
            }
            let Some(is_member) = self.ask_around().await else { continue };
            // It may have been let in meanwhile.
            if !self.raft.is_alone_since(self.raft.loneliness()) {
                continue;
            }
            self.raft.note_membership(is_member);
            if !is_member && !has_said {
                tracing::warn!(
                    "this node was removed from its cluster: stop it, and start it as a new member with an empty data directory"
                );
            }
            has_said |= !is_member;
        }
    }

    /// Asks everybody; whether this node is a member by the word of whoever knows the latest.
    async fn ask_around(&self) -> Option<bool> {
        let mut latest: Option<Welcome> = None;
        let secrets = self.secrets.borrow().clone();
        for peer in self.known() {
            match self.endpoint.ask(&secrets, &peer, &self.info, Wish::Members).await {
                // One that was removed itself may know no better.
                Ok(welcome) if latest.as_ref().is_none_or(|latest| latest.as_of < welcome.as_of) => {
                    latest = Some(welcome);
                }
                Ok(_) => {}
                Err(error @ JoinError::Impostor) => tracing::warn!(peer = %peer.raft, %error, "not believed"),
                Err(error) => tracing::debug!(peer = %peer.raft, %error, "asked in vain who is a member"),
            }
        }
        let latest = latest?;
        let infos = || latest.members.iter().map(|member| &member.info);
        for info in infos() {
            self.endpoint.book().learn(&info.endpoint_id, AddressSource::Word, info.raft);
        }
        self.endpoint.admission().introduce(infos().map(|info| info.endpoint_id));
        // Where nobody knows more than this node, nobody knows that it was removed: they may have been away when it came.
        Some(latest.id.is_some() || latest.as_of <= self.raft.members_as_of())
    }

    /// Whom to ask: every member that this node knows, and whoever else it has heard of.
    fn known(&self) -> Vec<NodeInfo> {
        let members = self.members.borrow().clone();
        let kept = self.metadata.nodes().unwrap_or_default();
        let kept = kept.into_iter().map(|node| node.info);
        let known = self.named.iter().cloned().chain(kept).chain(members.into_values());
        let others = known.filter(|info| info.endpoint_id != self.info.endpoint_id);
        // What comes last counts: a member is dialled wherever anybody says that it is.
        let by_key: BTreeMap<_, _> = others.map(|info| (info.endpoint_id, info)).collect();
        by_key.into_values().collect()
    }
}
