//! Which member of which cluster a node is: by its settings, by what it has kept, or by asking to be let in.

use super::StartError;
use crate::cluster::identity::Identity;
use crate::cluster::joining;
use crate::cluster::metadata::MetadataStore;
use crate::config::{Config, ConfigError, Entry, SecretSource};
use crate::network::Peer;
use crate::network::iroh::RaftEndpoint;
use crate::network::secret::ClusterSecret;
use crate::raft::PromotionPolicy;
use crate::storage::log::{LOG_FILE, RedbLogStore};
use crate::types::{NodeId, NodeInfo};

/// The number of a node that founds a cluster and is given none.
const FOUNDER: NodeId = NodeId(1);

/// What is settled before a node opens its log.
#[derive(Debug)]
pub(super) struct WayIn {
    /// Its number.
    pub(super) id: NodeId,
    /// Who and where it is, where somebody has to know.
    pub(super) info: Option<NodeInfo>,
    /// What the nodes of its cluster know, and what it has kept of them.
    pub(super) secret: Option<(ClusterSecret, MetadataStore)>,
    /// Whom it was told of.
    pub(super) introduced: Vec<Peer>,
    /// How many members should vote.
    pub(super) promotion: PromotionPolicy,
    /// Whether it founds a cluster.
    pub(super) founds: bool,
}

impl WayIn {
    /// Finds it out. It takes as long as nobody lets the node in that has to ask.
    pub(super) async fn find(
        config: &Config,
        identity: &Identity,
        endpoint: &RaftEndpoint,
    ) -> Result<Self, StartError> {
        let needs_info = config.entry != Entry::Wait || config.secret.is_some();
        let info = needs_info.then(|| config.info(identity.endpoint_id())).transpose()?;
        let secret = secret(config)?;
        let metadata = secret.as_ref().map(|_| MetadataStore::open(&config.data_dir)).transpose()?;
        let kept = match &metadata {
            Some(metadata) => metadata.own_id()?,
            None => None,
        };
        let log = config.data_dir.join(LOG_FILE);
        let in_log = RedbLogStore::owner(&log)?;
        if let Some(metadata) = &metadata
            && in_log.is_none()
            && metadata.has_had_log()?
        {
            return Err(StartError::LostLog { log, id: kept.or(config.id) });
        }
        let is_member = kept.is_some() || in_log.is_some_and(|(_, has_entries)| has_entries);
        let found = kept.or(in_log.map(|(owner, _)| owner));
        let id = match (config.id, found) {
            (Some(expected), Some(found)) if expected != found => {
                return Err(StartError::OtherId { found, expected });
            }
            (Some(id), _) | (None, Some(id)) => Some(id),
            (None, None) => (config.entry == Entry::Bootstrap).then_some(FOUNDER),
        };
        let founds = config.entry == Entry::Bootstrap && !is_member;
        let Some((secret, metadata)) = secret.zip(metadata) else {
            let id = id.ok_or(ConfigError::MissingId)?;
            let introduced = Vec::new();
            return Ok(Self { id, info, secret: None, introduced, promotion: config.promotion, founds });
        };
        let id = match (&config.entry, &info) {
            (Entry::Join(ticket), Some(info)) if !is_member => {
                let (id, welcome) = joining::join(endpoint, &secret, ticket, id, info).await?;
                tracing::info!(%id, members = welcome.members.len(), "let in");
                metadata.set_welcome(id, &welcome)?;
                id
            }
            _ => id.ok_or(ConfigError::MissingId)?,
        };
        let mut promotion = config.promotion;
        promotion.target_voters = promotion.target_voters.or(metadata.target_voters()?);
        let introduced = metadata.nodes()?;
        Ok(Self { id, info, secret: Some((secret, metadata)), introduced, promotion, founds })
    }
}

fn secret(config: &Config) -> Result<Option<ClusterSecret>, StartError> {
    Ok(match &config.secret {
        Some(SecretSource::File(path)) => Some(ClusterSecret::read(path)?),
        Some(SecretSource::Environment) => ClusterSecret::from_environment()?,
        None => None,
    })
}
