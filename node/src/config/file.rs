//! node.toml, as it is written.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ConfigError, Control, LogFormat, MISSPELT_LIKENESS_MIN, RelayModeArg};
use crate::cluster::ticket::AspenClusterTicket;
use crate::network::lookups::{DnsOrigin, ServerUrl};
use crate::raft::LeaseClock;
use crate::types::{EndpointKey, Label, NodeId, NodeInfo};

/// The keys of node.toml. Those that are absent come from the command line or a default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileConfig {
    pub(super) id: Option<u64>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) raft_listen: Option<SocketAddr>,
    pub(super) http_listen: Option<SocketAddr>,
    pub(super) raft_advertise: Option<SocketAddr>,
    pub(super) http_advertise: Option<SocketAddr>,
    pub(super) secret_file: Option<PathBuf>,
    pub(super) http_token_file: Option<PathBuf>,
    pub(super) http_read_token_file: Option<PathBuf>,
    pub(super) http_tls_cert_file: Option<PathBuf>,
    pub(super) http_tls_key_file: Option<PathBuf>,
    pub(super) http_tls_client_ca_file: Option<PathBuf>,
    pub(super) http_insecure: Option<bool>,
    pub(super) ticket: Option<AspenClusterTicket>,
    pub(super) bootstrap: Option<bool>,
    pub(super) rejoin: Option<bool>,
    pub(super) gossip: Option<bool>,
    pub(super) relay_mode: Option<RelayModeArg>,
    #[serde(default)]
    pub(super) relay_urls: Vec<ServerUrl>,
    pub(super) mdns: Option<bool>,
    pub(super) dns_lookup: Option<DnsOrigin>,
    pub(super) dns_server: Option<SocketAddr>,
    pub(super) pkarr_relay: Option<ServerUrl>,
    pub(super) target_voters: Option<u32>,
    pub(super) replace_after_s: Option<u64>,
    pub(super) region: Option<Label>,
    pub(super) zone: Option<Label>,
    pub(super) preferred_regions: Option<Vec<Label>>,
    #[serde(default)]
    pub(super) peers: Vec<FilePeer>,
    pub(super) heartbeat_ms: Option<u64>,
    pub(super) election_ms_min: Option<u64>,
    pub(super) election_ms_max: Option<u64>,
    pub(super) lease_clock: Option<LeaseClock>,
    pub(super) disk_reserve_mib: Option<u64>,
    pub(super) watch_history_mib: Option<u64>,
    pub(super) snapshot_entries: Option<u64>,
    pub(super) snapshot_log_mib: Option<u64>,
    pub(super) snapshot_mib_max: Option<u64>,
    pub(super) restart_on_failure: Option<bool>,
    pub(super) core_dumps: Option<bool>,
    pub(super) control: Option<Control>,
    pub(super) log: Option<String>,
    pub(super) log_format: Option<LogFormat>,
}

/// One `[[peers]]`.
#[derive(Debug, Deserialize)]
#[serde(from = "FlatPeer")]
pub(super) struct FilePeer {
    pub(super) id: NodeId,
    pub(super) info: NodeInfo,
}

/// The same, as it is written: serde cannot both flatten and refuse unknown keys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlatPeer {
    id: NodeId,
    endpoint_id: EndpointKey,
    raft: SocketAddr,
    http: SocketAddr,
}

impl From<FlatPeer> for FilePeer {
    fn from(peer: FlatPeer) -> Self {
        let info = NodeInfo { endpoint_id: peer.endpoint_id, raft: peer.raft, http: peer.http };
        Self { id: peer.id, info }
    }
}

impl FileConfig {
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|error| refused(path, &text, &error))
    }
}

/// Keys that somebody may take for settings, and what they would have to be.
const SECRETS: [(&str, &str); 4] = [
    ("secret", "secret_file"),
    ("token", "http_token_file"),
    ("http_token", "http_token_file"),
    ("http_read_token", "http_read_token_file"),
];

fn refused(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let (path, reason) = (path.to_owned(), error.message().to_owned());
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let unknown = reason.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'));
    let Some((key, others)) = unknown else { return ConfigError::Parse { path, line, column, reason } };
    if let Some((key, instead)) = SECRETS.into_iter().find(|(secret, _)| *secret == key) {
        return ConfigError::SecretInFile { path, line, key, instead };
    }
    // serde lists those that there are, each in such quotes.
    let known = others.split('`').skip(1).step_by(2);
    let alike = known.map(|known| (strsim::normalized_damerau_levenshtein(key, known), known));
    let close = alike
        .filter(|(alike, _)| *alike >= MISSPELT_LIKENESS_MIN)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    let hint = close.map_or_else(
        || "`aspen-node config` prints all that there are".to_owned(),
        |(_, known)| format!("did you mean `{known}`?"),
    );
    ConfigError::Parse { path, line, column, reason: format!("there is no setting `{key}`: {hint}") }
}
