//! `GossipPeerDiscovery`: tells the other members where this node is, and hears where they are, by gossip (iroh-gossip). What is
//! heard is where a member is dialled from then on, is kept across restarts, and is written into the membership by the leader.
//!
//! Nobody is believed for what others say: each announcement is signed by the node that it is about, only members are listened to,
//! and what is older than what was heard already does not count.

mod announcement;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt;
use iroh::{EndpointId, SecretKey};
use iroh_gossip::TopicId;
use iroh_gossip::api::{ApiError, Event, GossipReceiver, GossipSender, JoinOptions};
use iroh_gossip::net::Gossip;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

pub use self::announcement::AnnouncementError;
use self::announcement::{Announcement, Heard};
use super::identity::Identity;
use super::metadata::{MetadataError, MetadataStore};
use crate::limits::{ANNOUNCE_INTERVAL, ANNOUNCE_INTERVAL_MIN, ANNOUNCE_QUEUE_MAX, GOSSIP_RETRY};
use crate::network::iroh::{Admission, GossipGate};
use crate::network::secret::ClusterSecrets;
use crate::network::{AddressBook, AddressSource, Peer};
use crate::raft::RaftNode;
use crate::types::{EndpointKey, NodeId, NodeInfo};

/// What a [`GossipPeerDiscovery`] is made of.
#[derive(Debug)]
pub struct DiscoveryParts {
    /// The way to the other nodes.
    pub gossip: Gossip,
    /// The first names the cluster to it.
    pub secrets: watch::Receiver<ClusterSecrets>,
    /// Signs what this node says.
    pub identity: Identity,
    /// This node.
    pub id: NodeId,
    /// Who and where it is.
    pub info: NodeInfo,
    /// Where what is heard is used.
    pub book: AddressBook,
    /// Who is listened to.
    pub admission: Arc<Admission>,
    /// Closes the connections to the others.
    pub gate: GossipGate,
    /// Where it is kept.
    pub metadata: MetadataStore,
    /// Where it becomes part of the membership.
    pub raft: RaftNode,
    /// The members.
    pub members: watch::Receiver<BTreeMap<NodeId, NodeInfo>>,
}

/// Says where this node is and hears where the others are.
#[derive(Debug)]
pub struct GossipPeerDiscovery {
    parts: DiscoveryParts,
    key: SecretKey,
    /// Which start of this node this is, and how often it has spoken since.
    order: (u64, u64),
    heard: Heard,
    /// What is in the store.
    known: BTreeMap<EndpointKey, Peer>,
    /// At most one: the leader writes down who has moved.
    moving: JoinSet<()>,
}

/// Why the gossip was lost.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Gossip(#[from] ApiError),
    #[error("it was not read fast enough")]
    Lagged,
    #[error("the cluster has another secret")]
    Renamed,
    #[error("it has ended")]
    Ended,
}

/// Reads an announcement as it comes by gossip: which node says where it is.
///
/// # Errors
/// It cannot be read, or that node has not signed it.
pub fn read_announcement(message: &[u8]) -> Result<Peer, AnnouncementError> {
    Announcement::read(message).map(|Announcement { id, info, .. }| Peer { id, info })
}

impl GossipPeerDiscovery {
    /// Reads what this node knows already, and lets it be used.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn new(parts: DiscoveryParts) -> Result<Self, MetadataError> {
        let order = (parts.admission.incarnations().own().present.number, 0);
        let known = parts.metadata.nodes()?.into_iter().map(|node| (node.info.endpoint_id, node));
        let known: BTreeMap<EndpointKey, Peer> = known.collect();
        for (key, node) in &known {
            parts.book.learn(key, AddressSource::Word, node.info.raft);
        }
        let key = SecretKey::from_bytes(&parts.identity.secret());
        Ok(Self { parts, key, order, heard: Heard::default(), known, moving: JoinSet::new() })
    }

    /// Takes part in the gossip for as long as it runs.
    pub async fn run(mut self) {
        self.follow_members().await;
        loop {
            if let Err(error) = self.take_part().await {
                tracing::debug!(%error, "the gossip was lost");
            }
            sleep(GOSSIP_RETRY).await;
        }
    }

    async fn take_part(&mut self) -> Result<(), Lost> {
        let mut secrets = self.parts.secrets.clone();
        let topic = TopicId::from_bytes(secrets.borrow_and_update().first().topic());
        let options =
            JoinOptions { bootstrap: self.others().collect(), subscription_capacity: ANNOUNCE_QUEUE_MAX };
        let (sender, mut receiver) = self.parts.gossip.subscribe_with_opts(topic, options).await?.split();
        let (mut last, mut next) = (None, Instant::now());
        let mut admissions = self.parts.admission.changes();
        // Those who left while there was no gossip.
        self.parts.gate.close_expelled();
        loop {
            tokio::select! {
                event = receiver.next() => match event.ok_or(Lost::Ended)?? {
                    // It has not heard yet where this node is.
                    Event::NeighborUp(_) => {
                        next = next.min(last.map_or(next, |last| last + ANNOUNCE_INTERVAL_MIN));
                    }
                    Event::NeighborDown(_) => {}
                    Event::Received(message) => self.hear(&message.content).await,
                    Event::Lagged => return Err(Lost::Lagged),
                },
                changed = admissions.changed() => {
                    changed.map_err(|_| Lost::Ended)?;
                    self.parts.gate.close_expelled();
                }
                changed = secrets.changed() => {
                    changed.map_err(|_| Lost::Ended)?;
                    if secrets.borrow().first().topic() != *topic.as_bytes() {
                        return Err(Lost::Renamed);
                    }
                }
                changed = self.parts.members.changed() => {
                    changed.map_err(|_| Lost::Ended)?;
                    self.follow_members().await;
                    self.seek(&sender, &receiver).await?;
                }
                () = sleep_until(next) => {
                    self.announce(&sender).await?;
                    self.seek(&sender, &receiver).await?;
                    self.write_down_moves();
                    last = Some(Instant::now());
                    // Nodes that were started together do not go on speaking together.
                    next = Instant::now() + ANNOUNCE_INTERVAL.mul_f64(rand::random_range(0.8..1.2));
                }
            }
        }
    }

    async fn announce(&mut self, sender: &GossipSender) -> Result<(), Lost> {
        self.order.1 += 1;
        let (id, info) = (self.parts.id, self.parts.info.clone());
        let announcement = Announcement { id, info, order: self.order };
        Ok(sender.broadcast(announcement.sign(&self.key)).await?)
    }

    /// Looks for the others where nobody is a neighbour.
    async fn seek(&self, sender: &GossipSender, receiver: &GossipReceiver) -> Result<(), Lost> {
        let others: Vec<EndpointId> = self.others().collect();
        if others.is_empty() || receiver.neighbors().next().is_some() {
            return Ok(());
        }
        Ok(sender.join_peers(others).await?)
    }

    async fn hear(&mut self, message: &[u8]) {
        let admission = &self.parts.admission;
        let taken = self.heard.take(message, Instant::now(), |key| admission.admits(key));
        let Announcement { id, info, .. } = match taken {
            Ok(announcement) => announcement,
            Err(error) => {
                tracing::debug!(%error, "an announcement does not count");
                return;
            }
        };
        let key = info.endpoint_id;
        self.parts.book.learn(&key, AddressSource::Word, info.raft);
        let node = Peer { id, info };
        if self.known.get(&key) != Some(&node) {
            tracing::info!(%id, raft = %node.info.raft, http = %node.info.http, "a node says where it is");
            self.known.insert(key, node);
            self.keep().await;
            self.write_down_moves();
        }
    }

    /// Knows those who are members, and nobody else. Where they are they say themselves.
    async fn follow_members(&mut self) {
        let members = self.parts.members.borrow_and_update().clone();
        // Not yet known is not gone.
        if members.is_empty() {
            return;
        }
        let before = self.known.clone();
        self.known.retain(|key, _| members.values().any(|info| info.endpoint_id == *key));
        for (id, info) in members {
            self.parts.book.learn(&info.endpoint_id, AddressSource::Membership, info.raft);
            if id != self.parts.id {
                self.known.entry(info.endpoint_id).or_insert(Peer { id, info });
            }
        }
        if self.known != before {
            self.keep().await;
        }
    }

    /// On the leader: has the membership say where the members say that they are.
    fn write_down_moves(&mut self) {
        while self.moving.try_join_next().is_some() {}
        if !self.moving.is_empty() {
            return;
        }
        let members = self.parts.members.borrow().clone();
        let own = (self.parts.info.endpoint_id, &self.parts.info);
        let said = self.heard.infos().chain([own]).collect::<BTreeMap<_, _>>();
        let moved = members.into_iter().filter_map(|(id, info)| {
            said.get(&info.endpoint_id).filter(|said| ***said != info).map(|said| (id, (*said).clone()))
        });
        let moved: Vec<(NodeId, NodeInfo)> = moved.collect();
        if !moved.is_empty() {
            let raft = self.parts.raft.clone();
            self.moving.spawn(async move { raft.members_moved(moved).await });
        }
    }

    async fn keep(&self) {
        let (metadata, nodes) =
            (self.parts.metadata.clone(), self.known.values().cloned().collect::<Vec<_>>());
        let kept = tokio::task::spawn_blocking(move || metadata.set_nodes(&nodes)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "where the other nodes are could not be kept");
        }
    }

    /// Whom to look for.
    fn others(&self) -> impl Iterator<Item = EndpointId> + '_ {
        let own = self.parts.info.endpoint_id;
        let keys = self.known.keys().filter(move |key| **key != own);
        keys.filter_map(|key| EndpointId::from_bytes(&key.0).ok())
    }
}
