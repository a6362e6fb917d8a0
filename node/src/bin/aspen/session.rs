//! One command's talk with the cluster: the first node that can be reached, and what its refusals mean.

use std::net::SocketAddr;

use aspen_node::backup::file::FileError;
use aspen_node::backup::restore::RestoreError;
use aspen_node::client::watch::WatchError;
use aspen_node::client::{ClientError, HttpAnswer, HttpConnection, HttpParts};
use serde_json::Value as Json;

use super::access::{Access, AccessError};
use super::{EXIT_NOT_SO, EXIT_REFUSED, EXIT_UNKNOWN, EXIT_USAGE};

/// How often the leader may change while it is looked for.
const HOPS_MAX: u32 = 3;

/// Why a command has not done what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// No node could be reached; nothing was asked.
    #[error("no node can be reached:\n{}", .0.iter().map(|reason| format!("  {reason}")).collect::<Vec<_>>().join("\n"))]
    Unreachable(Vec<String>),
    /// A node was asked and has not answered.
    #[error("{error}{}", if *changes { ": whether something was written is not known" } else { "" })]
    Lost { error: ClientError, changes: bool },
    /// A node refuses, or something between it and us does, which has no code.
    #[error("{message}")]
    Refused {
        code: Option<String>,
        message: String,
        /// Whom to ask instead.
        leader: Option<SocketAddr>,
        /// Whether something may have been written all the same.
        changes: bool,
    },
    /// An answer that is none.
    #[error("the answer of {node} is none of an Aspen node: {reason}")]
    Strange {
        node: SocketAddr,
        reason: String,
        /// Whether something was asked to be written.
        changes: bool,
    },
    /// A benchmark without a result.
    #[error(transparent)]
    Bench(#[from] super::bench::BenchError),
    /// What was typed is none.
    #[error("the transaction is no JSON: {0}")]
    Json(serde_json::Error),
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

impl Failure {
    /// Whether a node refuses with this code.
    pub(crate) fn is_refused(&self, with: &str) -> bool {
        matches!(self, Self::Refused { code: Some(code), .. } if code == with)
    }

    /// The exit code that goes with it.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Backup(file) | Self::Restore(RestoreError::File(file)) if file.is_damage() => EXIT_NOT_SO,
            Self::Lost { changes: true, .. } | Self::Strange { changes: true, .. } => EXIT_UNKNOWN,
            Self::Refused { code, changes, .. } => match code.as_deref() {
                Some("key_not_found" | "cas_failed" | "vault_not_found" | "lease_not_found") => EXIT_NOT_SO,
                None | Some("timeout" | "leader_lost") if *changes => EXIT_UNKNOWN,
                _ => EXIT_REFUSED,
            },
            Self::Json(_) | Self::Access(AccessError::Usage(_)) => EXIT_USAGE,
            _ => EXIT_REFUSED,
        }
    }
}

/// A connection to one node of several.
pub(crate) struct Session {
    pub(crate) access: Access,
    /// Whether answers are printed as they came.
    pub(crate) is_json: bool,
    open: Option<HttpConnection>,
    /// Whether the last request could have written something.
    changes: bool,
}

impl Session {
    pub(crate) fn new(access: Access, is_json: bool) -> Self {
        Self { access, is_json, open: None, changes: false }
    }

    /// Asks a node, and then the leader if that is what the node says; the answer, if it is no refusal.
    pub(crate) async fn ask(
        &mut self,
        method: &'static str,
        path: &str,
        body: impl Into<Vec<u8>>,
    ) -> Result<HttpAnswer, Failure> {
        let body = body.into();
        let (mut hops, mut asked) = (0, Vec::new());
        loop {
            let answered = self.ask_once(method, path, body.clone()).await;
            match answered {
                // Nothing was done, so it may be asked again.
                Err(Failure::Refused { leader: Some(leader), .. }) if hops < HOPS_MAX => {
                    hops += 1;
                    asked.extend(self.open.as_ref().map(HttpConnection::address));
                    let others = self.access.at(leader).into_iter().filter(|node| !asked.contains(node));
                    let mut reached = None;
                    for node in others {
                        let mut connection = self.access.connection(node);
                        if connection.request("GET", "/health", "").await.is_ok() {
                            reached = Some(connection);
                            break;
                        }
                    }
                    // It may be out of reach of who is not a member: then the refusal stands.
                    if reached.is_none() {
                        return answered;
                    }
                    self.open = reached;
                }
                answered => return answered,
            }
        }
    }

    /// Asks the node that was asked before, or the first that can be reached.
    async fn ask_once(
        &mut self,
        method: &'static str,
        path: &str,
        body: Vec<u8>,
    ) -> Result<HttpAnswer, Failure> {
        self.changes = method != "GET" && !matches!(path, "/kv/read" | "/kv/scan");
        let changes = self.changes;
        if let Some(connection) = &mut self.open {
            let answer = connection.request(method, path, body).await;
            return answered(answer.map_err(|error| failed(error, changes))?, changes);
        }
        let mut reasons = Vec::new();
        for node in &self.access.nodes {
            let mut connection = self.access.connection(*node);
            match connection.request(method, path, body.clone()).await {
                Ok(answer) => {
                    self.open = Some(connection);
                    return answered(answer, changes);
                }
                // Nothing was sent: another one may be asked the same.
                Err(error @ ClientError::Connect { .. }) => reasons.push(error.to_string()),
                Err(error @ ClientError::Lost { .. }) => return Err(failed(error, changes)),
            }
        }
        Err(Failure::Unreachable(reasons))
    }

    /// Asks the first node that can be reached for a backup.
    pub(crate) async fn backup(&mut self, path: &str) -> Result<HttpParts, Failure> {
        let mut reasons = Vec::new();
        for node in &self.access.nodes {
            match self.access.connection(*node).backup(path).await {
                Ok(parts) if parts.status == 200 => return Ok(parts),
                Ok(refused) => {
                    let refusal = refused.refusal().await.map_err(|error| failed(error, false))?;
                    return Err(answered(refusal, false).expect_err("its status is not 200"));
                }
                Err(error @ ClientError::Connect { .. }) => reasons.push(error.to_string()),
                Err(error @ ClientError::Lost { .. }) => return Err(failed(error, false)),
            }
        }
        Err(Failure::Unreachable(reasons))
    }

    /// The same with JSON both ways.
    pub(crate) async fn post(&mut self, path: &str, body: &Json) -> Result<Json, Failure> {
        let answer = self.ask("POST", path, body.to_string()).await?;
        self.read(&answer)
    }

    /// The JSON under a path.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Json, Failure> {
        let answer = self.ask("GET", path, Vec::new()).await?;
        self.read(&answer)
    }

    /// The JSON of an answer.
    pub(crate) fn read(&self, answer: &HttpAnswer) -> Result<Json, Failure> {
        serde_json::from_slice(&answer.body).map_err(|error| {
            let node = self.open.as_ref().map_or(self.access.nodes[0], HttpConnection::address);
            Failure::Strange { node, reason: error.to_string(), changes: self.changes }
        })
    }
}

/// Why there is no answer.
pub(crate) fn failed(error: ClientError, changes: bool) -> Failure {
    match error {
        // Nothing was sent.
        ClientError::Connect { .. } => Failure::Unreachable(vec![error.to_string()]),
        ClientError::Lost { .. } => Failure::Lost { error, changes },
    }
}

/// An answer of 200; otherwise what the node says of its refusal.
fn answered(answer: HttpAnswer, changes: bool) -> Result<HttpAnswer, Failure> {
    if answer.status == 200 {
        return Ok(answer);
    }
    let (error, code, mut message) = (answer.error(), answer.code(), answer.message());
    if code.as_deref() == Some("cas_failed") {
        let actual = &error["actual"];
        let base64 = &error["actual_base64"];
        let found = if base64.is_null() { actual } else { base64 };
        message = format!("{message}; it holds {found}");
    }
    let leader = error["leader"]["http"].as_str().and_then(|http| http.parse().ok());
    Err(Failure::Refused { code, message, leader, changes })
}
