//! A node without Raft: it answers clients from memory, and keeps nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::StartError;
use crate::api::ClusterController;
use crate::config::{Config, Entry};
use crate::deterministic::deterministic;
use crate::http::{self, Credentials, HttpState};
use crate::limits::HTTP_DRAIN_TIMEOUT;
use crate::metrics::{Metrics, NetworkMetrics};
use crate::network::refusals::Refusals;
use crate::types::{EndpointKey, NodeId};

/// The number of a node that is given none.
const ALONE: NodeId = NodeId(1);

/// Serves clients until `stop` resolves; `ready` is called once it does.
///
/// # Errors
/// The address cannot be bound, or what clients are shown cannot be read.
pub async fn serve_alone(
    config: Config,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), StartError> {
    // Nobody dials it, so that it needs no key.
    let info = config.info(EndpointKey([0; 32]))?;
    let (keeper, credentials) = Credentials::keep(config.credentials.clone())?;
    let listener = http::bind(config.http_listen).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(keeper.run());
    let id = config.id.unwrap_or(ALONE);
    let members = BTreeMap::from([(id, info.clone())]);
    let (cluster, store) = deterministic(id, info, config.watch_history);
    if config.entry == Entry::Bootstrap {
        cluster.init(members.clone()).await.map_err(StartError::NotFounded)?;
    }
    let state = HttpState {
        cluster: Arc::new(cluster),
        store: Arc::new(store.clone()),
        observer: None,
        metrics: Arc::new(Metrics::new(&[], &NetworkMetrics::default(), &Refusals::default())),
        peers: Arc::new(members),
        credentials,
        secrets: None,
    };
    let (_clients, streams) = mpsc::channel(1);
    let (stop_http, stopped) = oneshot::channel::<()>();
    let until = async move { drop(stopped.await) };
    let mut http = JoinSet::new();
    http.spawn(http::serve(listener, streams, state, until));
    ready();
    stop.await;
    store.end_watches();
    drop(stop_http);
    if timeout(HTTP_DRAIN_TIMEOUT, http.join_next()).await.is_err() {
        tracing::warn!("requests still under way are cut off");
    }
    http.shutdown().await;
    tasks.shutdown().await;
    Ok(())
}
