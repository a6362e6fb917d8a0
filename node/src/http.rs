//! The HTTP interface: axum routes, status codes and JSON, nothing else. docs/http.md has an example of each answer.

mod auth;
mod backup;
mod body;
mod browser;
mod cluster;
pub mod command;
mod credentials;
mod deadline;
pub(crate) mod error;
pub(crate) mod kv;
mod leases;
mod observe;
mod raw;
mod room;
mod server;
mod token;
mod vaults;
pub(crate) mod watches;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::Extension;
use axum::routing::{delete, get, post};
use axum::{Router, middleware};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub(crate) use self::body::{bytes, put_bytes};
pub use self::credentials::{Credentials, CredentialsError};
use self::room::BodyRoom;
pub use self::server::{serve, serve_newcomer};
use crate::api::{ApiError, BadRequest, ClusterController, KeyValueStore, RaftObserver};
use crate::metrics::Metrics;
use crate::network::secret::{ClusterId, ClusterSecrets};
use crate::types::{NodeId, NodeInfo};

/// What the routes talk to.
#[derive(Clone)]
pub struct HttpState {
    /// Membership.
    pub cluster: Arc<dyn ClusterController>,
    /// Keys.
    pub store: Arc<dyn KeyValueStore>,
    /// Insight, where there is Raft to look into.
    pub observer: Option<Arc<dyn RaftObserver>>,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// The members that /cluster/init takes when it is told none.
    pub peers: Arc<BTreeMap<NodeId, NodeInfo>>,
    /// What is shown, and wanted to be shown, by now.
    pub credentials: watch::Receiver<Credentials>,
    /// By which a cluster can be joined with a ticket; absent: none can.
    pub secrets: Option<watch::Receiver<ClusterSecrets>>,
}

impl HttpState {
    fn observer(&self) -> Result<&dyn RaftObserver, ApiError> {
        self.observer.as_deref().ok_or(ApiError::Unsupported)
    }

    /// The cluster's name, if it has a secret.
    fn cluster_id(&self) -> Option<ClusterId> {
        self.secrets.as_ref().map(|secrets| secrets.borrow().first().cluster_id())
    }
}

impl Debug for HttpState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpState").field("peers", &self.peers).finish_non_exhaustive()
    }
}

/// Why the HTTP interface cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address is taken or not ours.
    #[error("cannot listen on TCP {address}, which is http_listen: free it, or take another one")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Binds the address of the HTTP interface.
///
/// # Errors
/// The address is taken or not ours.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, HttpError> {
    TcpListener::bind(address).await.map_err(|source| HttpError::Bind { address, source })
}

/// The routes.
pub fn router(state: HttpState) -> Router {
    Router::new()
        .route("/cluster/init", post(cluster::init))
        .route("/cluster/status", get(cluster::status))
        .route("/cluster/ticket", get(cluster::ticket))
        .route("/cluster/add-learner", post(cluster::add_learner))
        .route("/cluster/promote-learner", post(cluster::promote_learner))
        .route("/cluster/change-membership", post(cluster::change_membership))
        .route("/cluster/remove-member", post(cluster::remove_member))
        .route("/cluster/transfer-leader", post(cluster::transfer_leader))
        .route("/cluster/snapshot", post(cluster::snapshot))
        .route("/cluster/backup", get(backup::backup))
        .route("/kv/read", post(kv::read))
        .route("/kv/write", post(kv::write))
        .route("/kv/delete", post(kv::delete))
        .route("/kv/scan", post(kv::scan))
        .route("/kv/watch", get(watches::watch))
        .route("/kv/key/{*key}", get(raw::read).put(raw::write).delete(raw::delete))
        .route("/leases", get(leases::list).post(leases::grant))
        .route("/lease/{id}/keep", post(leases::keep))
        .route("/lease/{id}", delete(leases::revoke))
        .route("/vaults", get(vaults::list))
        .route("/vault/{name}", get(vaults::first_page).put(vaults::create).delete(vaults::remove))
        .route("/health", get(observe::health))
        .route("/metrics", get(observe::metrics))
        .route("/raft/state", get(observe::raft_state))
        .route("/raft/log/digest", get(observe::log_digest))
        .route("/state/digest", get(observe::state_digest))
        .fallback(async || not_found())
        .method_not_allowed_fallback(async || method_not_allowed())
        .layer(Extension(BodyRoom::default()))
        .layer(middleware::from_fn(deadline::bounded))
        .layer(middleware::from_fn_with_state(state.clone(), auth::checked))
        .layer(middleware::from_fn_with_state(state.metrics.clone(), observe::timed))
        .with_state(state)
}

/// The routes of a node that waits to be let into its cluster.
fn newcomer_router() -> Router {
    let refused = async || {
        let text = "this node waits to be let into its cluster: its log says who does not let it in, and why";
        error::Refusal::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, "joining", text)
    };
    Router::new().route("/health", get(observe::newcomer_health)).fallback(refused)
}

fn not_found() -> error::Refusal {
    error::Refusal::new(
        axum::http::StatusCode::NOT_FOUND,
        "no_such_route",
        "there is no such route: see docs/http.md",
    )
}

fn method_not_allowed() -> error::Refusal {
    let status = axum::http::StatusCode::METHOD_NOT_ALLOWED;
    error::Refusal::new(status, "method_not_allowed", "this route takes another method: see docs/http.md")
}

/// A text that a request got wrong.
fn malformed(reason: impl Into<String>) -> ApiError {
    BadRequest::Malformed(reason.into()).into()
}
