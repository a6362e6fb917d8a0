//! Which member of which cluster a node is: by its settings, by what it has kept, or by asking to be let in.

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::StartError;
use crate::cluster::identity::Identity;
use crate::cluster::joining;
use crate::cluster::metadata::MetadataStore;
use crate::config::{Config, ConfigError, Entry, SecretSource};
use crate::http::{self, Credentials};
use crate::network::Peer;
use crate::network::iroh::RaftEndpoint;
use crate::network::refusals::Refusals;
use crate::network::secret::{ClusterSecrets, SecretError};
use crate::private::FileKeeper;
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
    /// What the nodes of its cluster know.
    pub(super) secrets: Option<watch::Receiver<ClusterSecrets>>,
    /// Whom it was told of.
    pub(super) introduced: Vec<Peer>,
    /// How many members should vote.
    pub(super) promotion: PromotionPolicy,
    /// Whether it founds a cluster.
    pub(super) founds: bool,
}

/// Who notices that the secrets of a cluster change, and what they are.
type Secrets = (FileKeeper<ClusterSecrets>, watch::Receiver<ClusterSecrets>);

impl WayIn {
    /// Finds it out. It takes as long as nobody lets the node in that has to ask; meanwhile clients are told so.
    pub(super) async fn find(
        config: &Config,
        identity: &Identity,
        metadata: &MetadataStore,
        endpoint: &RaftEndpoint,
        (listener, shown): (&TcpListener, (watch::Receiver<Credentials>, &Refusals)),
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, StartError> {
        let needs_info = config.entry != Entry::Wait || config.secret.is_some();
        let info = needs_info.then(|| config.info(identity.endpoint_id())).transpose()?;
        let secrets = secrets(config)?.map(|(keeper, secrets)| {
            // A node that waits to be let in may have been given a wrong one.
            tasks.spawn(keeper.run());
            secrets
        });
        let kept = metadata.own_id()?;
        let log = config.data_dir.join(LOG_FILE);
        let in_log = RedbLogStore::owner(&log)?;
        if in_log.is_none() && metadata.has_had_log()? {
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
        let Some(secrets) = secrets else {
            let id = id.ok_or(ConfigError::MissingId)?;
            let introduced = Vec::new();
            return Ok(Self { id, info, secrets: None, introduced, promotion: config.promotion, founds });
        };
        let id = match (&config.entry, &info) {
            (Entry::Join { ticket, .. }, Some(info)) if !is_member => {
                let joined = joining::join(endpoint, &secrets, ticket, id, info);
                let (id, welcome) = http::serve_newcomer(listener, shown, joined).await?;
                tracing::info!(%id, members = welcome.members.len(), "let in");
                metadata.set_welcome(id, &welcome)?;
                id
            }
            _ => id.ok_or(ConfigError::MissingId)?,
        };
        let mut promotion = config.promotion;
        promotion.target_voters = promotion.target_voters.or(metadata.target_voters()?);
        let introduced = metadata.nodes()?;
        Ok(Self { id, info, secrets: Some(secrets), introduced, promotion, founds })
    }
}

fn secrets(config: &Config) -> Result<Option<Secrets>, StartError> {
    let what = "the secrets of the cluster";
    Ok(match &config.secret {
        Some(SecretSource::File(path)) => {
            let path = path.clone();
            Some(FileKeeper::new(what, vec![path.clone()], move || ClusterSecrets::read(&path))?)
        }
        Some(SecretSource::Environment) => match ClusterSecrets::from_environment()? {
            Some(secrets) => {
                Some(FileKeeper::new(what, Vec::new(), move || Ok::<_, SecretError>(secrets.clone()))?)
            }
            None => None,
        },
        None => None,
    })
}
