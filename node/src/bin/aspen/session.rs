//! One command's talk with the cluster, in the JSON of its nodes, and what becomes of its failures: a text and an exit code.

use aspen_node::api::{ApiError, BadRequest};
use aspen_node::backup::file::FileError;
use aspen_node::backup::restore::RestoreError;
use aspen_node::client::cluster::{ClusterClient, ClusterClientError};
use aspen_node::client::watch::WatchError;
use serde_json::{Value as Json, json};

use super::access::AccessError;
use super::{EXIT_NOT_SO, EXIT_REFUSED, EXIT_UNKNOWN, EXIT_USAGE};

/// Why a command has not done what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The cluster.
    #[error("{0}{found}", found = found(.0))]
    Cluster(ClusterClientError),
    /// A benchmark without a result.
    #[error(transparent)]
    Bench(#[from] super::bench::BenchError),
    /// What was typed is none.
    #[error("the transaction is refused: {0}")]
    Transaction(ApiError),
    /// What was typed is too much.
    #[error("nothing was written: {0}")]
    TooLarge(BadRequest),
    /// A watch that is over.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// The file of a backup.
    #[error(transparent)]
    Backup(#[from] FileError),
    /// A data directory that could not be made of one.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Nothing that could be asked, or shown.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Something that is shown, and nowhere to show it.
    #[error("aspen tui needs a terminal: for scripts there is `aspen --json cluster status`")]
    NoTerminal,
    /// The standard output.
    #[error("what was to be printed could not be written: {0}")]
    Output(std::io::Error),
    /// The standard input or a runtime.
    #[error(transparent)]
    Io(std::io::Error),
}

/// What a key holds instead of what was expected.
fn found(error: &ClusterClientError) -> String {
    let Some(refusal) = error.refusal().filter(|refusal| refusal.is("cas_failed")) else {
        return String::new();
    };
    let error = refusal.answer.error();
    let found = error.get("actual_base64").unwrap_or(&error["actual"]);
    format!("; it holds {found}")
}

// Its text says all of it already, and it is no cause besides.
impl From<ClusterClientError> for Failure {
    fn from(error: ClusterClientError) -> Self {
        Self::Cluster(error)
    }
}

impl Failure {
    /// Whether a node refuses with this code.
    pub(crate) fn is_refused(&self, with: &str) -> bool {
        matches!(self, Self::Cluster(error) if error.code() == Some(with))
    }

    /// As a node says it or, where none has, in the same form without a code.
    pub(crate) fn json(&self) -> Json {
        let said = match self {
            Self::Cluster(error) => error.refusal().map(|refusal| refusal.answer.error()),
            Self::Watch(WatchError::Refused(answer)) => Some(answer.error()),
            _ => None,
        };
        let error = said.filter(Json::is_object).unwrap_or_else(|| json!({ "message": self.to_string() }));
        json!({ "error": error })
    }

    /// The exit code that goes with it.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Backup(file) | Self::Restore(RestoreError::File(file)) if file.is_damage() => EXIT_NOT_SO,
            Self::Cluster(error) => match error.code() {
                Some("key_not_found" | "cas_failed" | "vault_not_found" | "lease_not_found") => EXIT_NOT_SO,
                _ if error.is_unknown() => EXIT_UNKNOWN,
                _ => EXIT_REFUSED,
            },
            Self::Transaction(_) | Self::TooLarge(_) | Self::Access(AccessError::Usage(_)) => EXIT_USAGE,
            _ => EXIT_REFUSED,
        }
    }
}

/// A cluster, and how its answers are printed.
pub(crate) struct Session {
    pub(crate) client: ClusterClient,
    /// Whether answers are printed as they came.
    pub(crate) is_json: bool,
}

impl Session {
    pub(crate) fn new(client: ClusterClient, is_json: bool) -> Self {
        Self { client, is_json }
    }

    /// The JSON of an answer that is no refusal.
    pub(crate) async fn ask(
        &mut self,
        method: &'static str,
        path: &str,
        body: impl Into<Vec<u8>>,
    ) -> Result<Json, Failure> {
        Ok(self.client.request_json(method, path, body.into()).await?)
    }

    /// The same with JSON both ways.
    pub(crate) async fn post(&mut self, path: &str, body: &Json) -> Result<Json, Failure> {
        self.ask("POST", path, body.to_string()).await
    }

    /// The JSON under a path.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Json, Failure> {
        self.ask("GET", path, "").await
    }
}
