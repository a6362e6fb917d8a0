//! Why settings are refused.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::LookupsError;
use crate::limits::{PEERS_MAX, PREFERRED_REGIONS_MAX, REPLACE_AFTER_S_MAX, REPLACE_AFTER_S_MIN, VOTERS_MAX};
use crate::network::secret::SECRET_VARIABLE;
use crate::raft::TimingError;
use crate::types::{Label, NodeId};

/// Why the settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML, or has a key or a value that does not belong there. The line is not repeated: it may be a secret in the wrong
    /// place.
    #[error("{path}:{line}:{column}: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// Why.
        reason: String,
    },
    /// A secret where others may read it.
    #[error(
        "{path}:{line}: {key} is refused, settings hold no secrets: write it into a file of its own, which only this user can read, and \
         name that by {instead}"
    )]
    SecretInFile {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What was tried.
        key: &'static str,
        /// What it has to be.
        instead: &'static str,
    },
    /// A setting that is wrong, and was not typed.
    #[error("{error} (it comes from {place})")]
    Said {
        /// What is wrong.
        error: Box<ConfigError>,
        /// The variable or the file.
        place: String,
    },
    /// A setting without a default is missing.
    #[error("{key} is not set: give --{flag}, or {key} in the file of --config")]
    Missing {
        /// The key in the file.
        key: &'static str,
        /// The flag.
        flag: &'static str,
    },
    /// Nobody gives the node a number, and it has none yet.
    #[error(
        "id is not set: give --id, or id in the file of --config, or have the node found or join a cluster with --bootstrap or --ticket"
    )]
    MissingId,
    /// Two ways into a cluster.
    #[error(
        "ticket, bootstrap and peers are given together, which say different things of the node's cluster: keep one of them"
    )]
    TwoEntries,
    /// A ticket alone.
    #[error("a ticket needs the cluster's secret: give --secret-file, or the variable {SECRET_VARIABLE}")]
    TicketWithoutSecret,
    /// Nobody could be told from a stranger.
    #[error("gossip needs a secret: give --secret-file, or the variable {SECRET_VARIABLE}")]
    GossipWithoutSecret,
    /// There is nobody else.
    #[error("control = \"deterministic\" has no other members: leave out peers, ticket and secret")]
    Alone,
    /// It could not come back, or not as another one.
    #[error("rejoin needs a ticket, by which the node comes back, and no id: it is given a new one")]
    Rejoin,
    /// An address that nobody can dial.
    #[error(
        "{listen} is {address}, which no other node can dial: say with {advertise} where this one is reached"
    )]
    NoAddress {
        /// Which setting is dialled by others.
        listen: &'static str,
        /// Its address.
        address: SocketAddr,
        /// Which setting says it better.
        advertise: &'static str,
    },
    /// A token for reading, and none for anything else.
    #[error(
        "http_read_token_file is given without http_token_file: everybody could do everything without a token"
    )]
    ReadTokenAlone,
    /// A part of TLS without the other.
    #[error("{given} is given without {missing}: TLS needs both")]
    HalfOfTls {
        /// Which one is there.
        given: &'static str,
        /// Which one is not.
        missing: &'static str,
    },
    /// Whoever is on the way could read everything.
    #[error(
        "http_listen is {0}, which others reach, and without TLS whoever is on the way reads and changes what is sent: give \
         http_tls_cert_file and http_tls_key_file, or http_insecure where everybody is trusted"
    )]
    PlainHttp(SocketAddr),
    /// Everybody could do everything.
    #[error(
        "http_listen is {0}, and whoever reaches it could read and write everything: give http_token_file or \
         http_tls_client_ca_file, or http_insecure where everybody is trusted"
    )]
    OpenHttp(SocketAddr),
    /// More voters than there may be.
    #[error("target_voters is {0}, 1 to {VOTERS_MAX} are allowed")]
    TargetVoters(u32),
    /// A silence that may be none.
    #[error("replace_after_s is {0}, {REPLACE_AFTER_S_MIN} to {REPLACE_AFTER_S_MAX} are allowed")]
    ReplaceAfter(u64),
    /// More regions than can be preferred.
    #[error("preferred_regions names {0} regions, at most {PREFERRED_REGIONS_MAX} are allowed")]
    PreferredRegions(usize),
    /// A region that is better than itself.
    #[error("preferred_regions names {0} twice: name each region once, the best one first")]
    RegionTwice(Label),
    /// A number that is none.
    #[error("id is 0, node numbers start at 1")]
    ZeroId,
    /// A member twice.
    #[error("peer {0} is given twice")]
    PeerTwice(NodeId),
    /// Two members with one key.
    #[error("peers {0} and {1} have the same endpoint_id: each node has a data directory of its own")]
    SameEndpoint(NodeId, NodeId),
    /// Members without this node.
    #[error("the peers do not name this node, {0}: list every member, this one included")]
    PeersWithoutSelf(NodeId),
    /// Too many members.
    #[error("{0} peers, at most {PEERS_MAX} are allowed")]
    PeerCount(usize),
    /// Relays or lookups.
    #[error(transparent)]
    Lookups(#[from] LookupsError),
    /// Time-outs that do not fit together.
    #[error(transparent)]
    Timing(#[from] TimingError),
    /// A size that allows nothing, or more than there can be.
    #[error("{key} is {value}, 1 to {max} are allowed")]
    Size {
        /// The key in the file.
        key: &'static str,
        /// Its value.
        value: u64,
        /// The largest one.
        max: u64,
    },
}

impl ConfigError {
    /// The setting that is wrong, where it is one.
    pub(super) fn key(&self) -> Option<&'static str> {
        Some(match self {
            Self::TargetVoters(_) => "target_voters",
            Self::ReplaceAfter(_) => "replace_after_s",
            Self::PreferredRegions(_) | Self::RegionTwice(_) => "preferred_regions",
            Self::ZeroId => "id",
            Self::PeerTwice(_) | Self::SameEndpoint(..) | Self::PeersWithoutSelf(_) | Self::PeerCount(_) => {
                "peers"
            }
            Self::Rejoin => "rejoin",
            Self::GossipWithoutSecret => "gossip",
            Self::TicketWithoutSecret => "ticket",
            Self::Alone => "control",
            Self::PlainHttp(_) | Self::OpenHttp(_) => "http_listen",
            Self::ReadTokenAlone => "http_read_token_file",
            Self::NoAddress { listen: key, .. }
            | Self::HalfOfTls { given: key, .. }
            | Self::Size { key, .. } => key,
            Self::Timing(TimingError::Heartbeat(_)) => "heartbeat_ms",
            Self::Timing(TimingError::ElectionTooShort { .. }) => "election_ms_min",
            Self::Timing(TimingError::ElectionRange { .. }) => "election_ms_max",
            Self::Lookups(LookupsError::NoRelay) => "relay_mode",
            Self::Lookups(LookupsError::UnusedDnsServer) => "dns_server",
            Self::Lookups(_) => "relay_urls",
            Self::Read { .. }
            | Self::Parse { .. }
            | Self::SecretInFile { .. }
            | Self::Said { .. }
            | Self::Missing { .. }
            | Self::MissingId
            | Self::TwoEntries
            | Self::Timing(TimingError::Refused(_)) => return None,
        })
    }
}
