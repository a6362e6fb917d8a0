//! Relays and lookups, as they are typed: all of them off unless somebody says otherwise.

use std::fmt;
use std::net::SocketAddr;

use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::file::FileConfig;
use super::source::Sources;
use crate::limits::RELAYS_MAX;
use crate::network::lookups::{DnsOrigin, Lookups, Relays, ServerUrl};

/// The settings of relays and lookups, as flags.
#[derive(Debug, Default, Args)]
pub struct LookupArgs {
    /// Through which relays peers are reached that are not reached directly [default: disabled]
    #[arg(long, value_name = "MODE", value_enum, env = "ASPEN_RELAY_MODE")]
    pub relay_mode: Option<RelayModeArg>,
    /// A relay of --relay-mode custom; once for each, the same on all nodes: `https://relay.example.org`
    #[arg(long = "relay-url", value_name = "URL", env = "ASPEN_RELAY_URLS", value_delimiter = ';')]
    pub relay_urls: Vec<ServerUrl>,
    /// Ask by multicast DNS where peers on the same network are, and tell them where this node is [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "ASPEN_MDNS")]
    pub mdns: Option<bool>,
    /// Ask by DNS where peers are, for TXT records of `_iroh.KEY.DOMAIN` [default: never]
    #[arg(long, value_name = "DOMAIN", env = "ASPEN_DNS_LOOKUP")]
    pub dns_lookup: Option<DnsOrigin>,
    /// Ask this name server, and no other, for whatever is asked by DNS [default: those of the machine]
    #[arg(long, value_name = "ADDRESS", value_parser = super::socket_address, env = "ASPEN_DNS_SERVER")]
    pub dns_server: Option<SocketAddr>,
    /// Publish this node's address at a pkarr relay, and ask there where peers are [default: never]
    #[arg(long, value_name = "URL", env = "ASPEN_PKARR_RELAY")]
    pub pkarr_relay: Option<ServerUrl>,
}

/// Which relays a node uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RelayModeArg {
    /// None
    #[default]
    Disabled,
    /// Those of --relay-url
    Custom,
    /// The public ones of iroh's makers, who see which nodes speak with each other, and when
    Default,
}

impl fmt::Display for RelayModeArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disabled => "disabled",
            Self::Custom => "custom",
            Self::Default => "default",
        })
    }
}

/// Why the settings of relays and lookups are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupsError {
    /// Relays of one's own, and none.
    #[error(
        "relay_mode is custom, and no relay is named: give --relay-url, or relay_urls in the file of --config"
    )]
    NoRelay,
    /// Relays that would not be used.
    #[error(
        "relay_urls are given, but relay_mode is {0}: let it be custom to use them, or take them out of the settings"
    )]
    UnusedRelays(RelayModeArg),
    /// Too many relays.
    #[error("{0} relay_urls, at most {RELAYS_MAX} are allowed")]
    RelayCount(usize),
    /// A relay twice.
    #[error("relay {0} is given twice")]
    RelayTwice(ServerUrl),
    /// A name server for nothing.
    #[error(
        "dns_server is given, but nothing is asked by DNS: it needs dns_lookup, pkarr_relay or a relay_mode"
    )]
    UnusedDnsServer,
}

/// Relays and lookups, wherever they are set.
pub(super) fn lookups(
    args: &LookupArgs,
    file: &FileConfig,
    sources: &mut Sources,
) -> Result<Lookups, LookupsError> {
    let mode = sources.pick("relay_mode", args.relay_mode, file.relay_mode).unwrap_or_default();
    let named = |urls: &[ServerUrl]| Some(urls.to_vec()).filter(|urls| !urls.is_empty());
    let urls = sources.pick("relay_urls", named(&args.relay_urls), named(&file.relay_urls));
    let lookups = Lookups {
        relays: relays(mode, urls.unwrap_or_default())?,
        mdns: sources.pick("mdns", args.mdns, file.mdns).unwrap_or(false),
        dns: sources.pick("dns_lookup", args.dns_lookup.clone(), file.dns_lookup.clone()),
        dns_server: sources.pick("dns_server", args.dns_server, file.dns_server),
        pkarr: sources.pick("pkarr_relay", args.pkarr_relay.clone(), file.pkarr_relay.clone()),
    };
    if lookups.dns_server.is_some() && !lookups.ask_dns() {
        return Err(LookupsError::UnusedDnsServer);
    }
    Ok(lookups)
}

fn relays(mode: RelayModeArg, urls: Vec<ServerUrl>) -> Result<Relays, LookupsError> {
    if urls.len() > RELAYS_MAX as usize {
        return Err(LookupsError::RelayCount(urls.len()));
    }
    let twice = (1..urls.len()).find(|place| urls[..*place].contains(&urls[*place]));
    if let Some(place) = twice {
        return Err(LookupsError::RelayTwice(urls[place].clone()));
    }
    match (mode, urls.is_empty()) {
        (RelayModeArg::Custom, false) => Ok(Relays::Custom(urls)),
        (RelayModeArg::Custom, true) => Err(LookupsError::NoRelay),
        (RelayModeArg::Disabled | RelayModeArg::Default, false) => Err(LookupsError::UnusedRelays(mode)),
        (RelayModeArg::Disabled, true) => Ok(Relays::Disabled),
        (RelayModeArg::Default, true) => Ok(Relays::Default),
    }
}

/// Keys and values in TOML; `text` makes a string of it.
pub(super) fn printed(
    lookups: &Lookups,
    text: impl Fn(&dyn fmt::Display) -> String,
) -> [(&'static str, Option<String>); 6] {
    let Lookups { relays, mdns, dns, dns_server, pkarr } = lookups;
    let (mode, urls) = match relays {
        Relays::Disabled => (RelayModeArg::Disabled, &[][..]),
        Relays::Custom(urls) => (RelayModeArg::Custom, &urls[..]),
        Relays::Default => (RelayModeArg::Default, &[][..]),
    };
    let urls: Vec<String> = urls.iter().map(|url| text(url)).collect();
    [
        ("relay_mode", Some(text(&mode))),
        ("relay_urls", Some(format!("[{}]", urls.join(", ")))),
        ("mdns", Some(mdns.to_string())),
        ("dns_lookup", dns.as_ref().map(|origin| text(origin))),
        ("dns_server", dns_server.as_ref().map(|server| text(server))),
        ("pkarr_relay", pkarr.as_ref().map(|url| text(url))),
    ]
}
