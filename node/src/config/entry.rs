//! How a node comes by its cluster, and where the others find it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::file::FileConfig;
use super::source::{Source, Sources};
use super::{Config, ConfigError, Control, RunArgs};
use crate::cluster::ticket::AspenClusterTicket;
use crate::limits::{REPLACE_AFTER_S_MAX, REPLACE_AFTER_S_MIN, VOTERS_MAX};
use crate::network::secret::SECRET_VARIABLE;
use crate::raft::PromotionPolicy;
use crate::types::{EndpointKey, NodeInfo};

/// Where others reach a node, if not where it listens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Advertise {
    /// For other members.
    pub raft: Option<SocketAddr>,
    /// For clients.
    pub http: Option<SocketAddr>,
}

/// Where the cluster's secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file.
    File(PathBuf),
    /// In the environment.
    Environment,
}

/// How a node that is no member yet becomes one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Entry {
    /// Somebody makes it one.
    #[default]
    Wait,
    /// It founds a cluster.
    Bootstrap,
    /// It asks to be let in.
    Join {
        /// By whom.
        ticket: AspenClusterTicket,
        /// Whether it does so again, as another one, when it may not go on as the member that it was.
        rejoins: bool,
    },
}

impl Entry {
    /// The members that a ticket names, also to a node that is one itself by now.
    pub fn named(&self) -> &[NodeInfo] {
        match self {
            Self::Join { ticket, .. } => &ticket.peers,
            Self::Wait | Self::Bootstrap => &[],
        }
    }
}

impl Config {
    /// Whether this node comes back as another member when it may not go on as the one that it was.
    pub fn rejoins(&self) -> bool {
        matches!(self.entry, Entry::Join { rejoins: true, .. })
    }

    /// Whether this node takes part in the gossip.
    pub fn gossips(&self) -> bool {
        self.gossip.unwrap_or(self.secret.is_some())
    }

    /// Who and where this node is, for others; its key is that of the data directory.
    ///
    /// # Errors
    /// It listens at addresses that nobody else can dial, and does not say where it is.
    pub fn info(&self, endpoint_id: EndpointKey) -> Result<NodeInfo, ConfigError> {
        if let Some((_, info)) = self.peers.iter().find(|(_, info)| info.endpoint_id == endpoint_id) {
            return Ok(info.clone());
        }
        let reached = |address: SocketAddr, listen, advertise| {
            let is_reached = !address.ip().is_unspecified() && address.port() != 0;
            if is_reached { Ok(address) } else { Err(ConfigError::NoAddress { listen, address, advertise }) }
        };
        Ok(NodeInfo {
            endpoint_id,
            raft: match self.advertise.raft {
                Some(address) => reached(address, "raft_advertise", "raft_advertise")?,
                None => reached(self.raft_listen, "raft_listen", "raft_advertise")?,
            },
            http: match self.advertise.http {
                Some(address) => reached(address, "http_advertise", "http_advertise")?,
                None => reached(self.http_listen, "http_listen", "http_advertise")?,
            },
        })
    }

    /// What the settings say of how this node comes by its cluster.
    pub(super) fn check_entry(&self) -> Result<(), ConfigError> {
        let is_alone =
            self.peers.is_empty() && self.secret.is_none() && !matches!(self.entry, Entry::Join { .. });
        if self.control == Control::Deterministic && !is_alone {
            return Err(ConfigError::Alone);
        }
        if self.entry != Entry::Wait && !self.peers.is_empty() {
            return Err(ConfigError::TwoEntries);
        }
        match self.entry {
            Entry::Join { .. } if self.secret.is_none() => return Err(ConfigError::TicketWithoutSecret),
            Entry::Join { rejoins: true, .. } if self.id.is_some() => return Err(ConfigError::Rejoin),
            Entry::Wait if !self.peers.is_empty() && self.id.is_none() => return Err(ConfigError::MissingId),
            _ => {}
        }
        if self.gossip == Some(true) && self.secret.is_none() {
            return Err(ConfigError::GossipWithoutSecret);
        }
        // Any key will do: it is the addresses that are looked at. Among peers it is known by its own.
        if self.peers.is_empty() && (self.entry != Entry::Wait || self.secret.is_some()) {
            self.info(EndpointKey([0; 32]))?;
        }
        Ok(())
    }
}

/// How the node comes by its cluster, wherever that is said.
pub(super) fn entry(args: &RunArgs, file: &FileConfig, sources: &mut Sources) -> Result<Entry, ConfigError> {
    let ticket = sources.pick("ticket", args.ticket.clone(), file.ticket.clone());
    let founds = sources.pick("bootstrap", args.bootstrap, file.bootstrap).unwrap_or(false);
    let rejoins = sources.pick("rejoin", args.rejoin, file.rejoin).unwrap_or(false);
    match (ticket, founds) {
        (Some(_), true) => Err(ConfigError::TwoEntries),
        (Some(ticket), false) => Ok(Entry::Join { ticket, rejoins }),
        (None, _) if rejoins => Err(ConfigError::Rejoin),
        (None, true) => Ok(Entry::Bootstrap),
        (None, false) => Ok(Entry::Wait),
    }
}

/// How many members should vote, wherever that is said.
pub(super) fn promotion_policy(
    args: &RunArgs,
    file: &FileConfig,
    sources: &mut Sources,
) -> Result<PromotionPolicy, ConfigError> {
    let target_voters = sources.pick("target_voters", args.target_voters, file.target_voters);
    if let Some(count) = target_voters.filter(|count| *count == 0 || *count > VOTERS_MAX) {
        return Err(ConfigError::TargetVoters(count));
    }
    let after_s = sources.pick("replace_after_s", args.replace_after_s, file.replace_after_s);
    if let Some(after_s) = after_s.filter(|s| !(REPLACE_AFTER_S_MIN..=REPLACE_AFTER_S_MAX).contains(s)) {
        return Err(ConfigError::ReplaceAfter(after_s));
    }
    Ok(PromotionPolicy { target_voters, replace_after: after_s.map(Duration::from_secs) })
}

/// Whether the environment has a secret.
pub(super) fn secret_in_environment() -> bool {
    std::env::var_os(SECRET_VARIABLE).is_some_and(|value| !value.is_empty())
}

/// Where the secret is, wherever that is said. The variable that holds one goes before a file that node.toml names, but not before one
/// that is named on the command line or in the environment, too.
pub(super) fn secret_source(
    args: &RunArgs,
    file: &FileConfig,
    sources: &mut Sources,
) -> Option<SecretSource> {
    let named = sources.pick("secret_file", args.secret_file.clone(), file.secret_file.clone());
    let is_of_file = matches!(sources.found.get("secret_file"), Some(Source::File(_)));
    let is_overruled = is_of_file && secret_in_environment();
    if is_overruled {
        sources.found.remove("secret_file");
    }
    let named = named.filter(|_| !is_overruled);
    named.map(SecretSource::File).or_else(|| secret_in_environment().then_some(SecretSource::Environment))
}
