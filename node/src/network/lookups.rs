//! By what a node finds its peers besides the addresses that it knows, and is found: relays, and lookups of where the node with a key is.
//! All of it is off unless the settings say otherwise, and then nothing leaves a closed network.
//!
//! It says where to try, never whom to trust: a peer proves its key wherever it is reached, and a relay carries what it cannot read.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use url::Url;

use crate::limits::{DNS_LABEL_BYTES_MAX, DNS_ORIGIN_BYTES_MAX, SERVER_URL_BYTES_MAX};

/// Relays and lookups of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lookups {
    /// Through which relays peers are reached that are not reached directly.
    pub relays: Relays,
    /// Whether peers on the same network are asked by multicast DNS (RFC 6762), and told where this node is.
    pub mdns: bool,
    /// Below which domain the addresses of a key are asked for by DNS, as TXT records of `_iroh.KEY.ORIGIN`.
    pub dns: Option<DnsOrigin>,
    /// The one name server that is asked, instead of those of the machine.
    pub dns_server: Option<SocketAddr>,
    /// Where this node publishes its address under its key, signed, and asks for those of others (pkarr.org, "Relays").
    pub pkarr: Option<ServerUrl>,
}

/// Which relays a node uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Relays {
    /// None.
    #[default]
    Disabled,
    /// These, which its peers use, too.
    Custom(Vec<ServerUrl>),
    /// The public ones of iroh's makers.
    Default,
}

impl Lookups {
    /// Whether a name server may be asked for something.
    pub fn ask_dns(&self) -> bool {
        self.dns.is_some() || self.pkarr.is_some() || self.relays != Relays::Disabled
    }
}

/// How far a node reaches.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// By which relays and lookups.
    pub lookups: Lookups,
    /// What is published as its address, if not all at which it listens.
    pub published: Option<SocketAddr>,
}

/// The URL of a relay: `http` or `https`, a host, and perhaps a port and a path.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(Url);

/// Why a URL is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerUrlError {
    /// It cannot be read.
    #[error("it is no URL ({0}): `https://relay.example.org` is one")]
    Malformed(url::ParseError),
    /// It is none of HTTP.
    #[error("its scheme is `{0}`: http and https are allowed")]
    Scheme(String),
    /// It says what nobody is told.
    #[error("it has a user, a query or a fragment: a host, a port and a path are allowed")]
    MoreThanAPlace,
    /// It is too long.
    #[error("it has {0} bytes, at most {SERVER_URL_BYTES_MAX} are allowed")]
    Length(usize),
}

impl ServerUrl {
    /// The URL.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, ServerUrlError> {
        let url = Url::parse(text).map_err(ServerUrlError::Malformed)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(ServerUrlError::Scheme(url.scheme().to_owned()));
        }
        let is_place = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if !is_place {
            return Err(ServerUrlError::MoreThanAPlace);
        }
        match url.as_str().len() {
            bytes if bytes > SERVER_URL_BYTES_MAX => Err(ServerUrlError::Length(bytes)),
            _ => Ok(Self(url)),
        }
    }
}

impl<'de> Deserialize<'de> for ServerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A domain below which keys are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsOrigin(String);

/// Why a domain is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsOriginError {
    /// With what stands before it, it were no name (RFC 1035, 2.3.4).
    #[error("it has {0} bytes, 1 to {DNS_ORIGIN_BYTES_MAX} are allowed")]
    Length(usize),
    /// A part of it.
    #[error(
        "`{0}` is no part of a domain: it has 1 to {DNS_LABEL_BYTES_MAX} letters, digits, hyphens and underscores"
    )]
    Label(String),
}

impl DnsOrigin {
    /// With the final dot, so that no search list is tried.
    pub fn absolute(&self) -> String {
        format!("{}.", self.0)
    }
}

impl fmt::Display for DnsOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DnsOrigin {
    type Err = DnsOriginError;

    fn from_str(text: &str) -> Result<Self, DnsOriginError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() || text.len() > DNS_ORIGIN_BYTES_MAX {
            return Err(DnsOriginError::Length(text.len()));
        }
        let is_label = |label: &&str| {
            (1..=DNS_LABEL_BYTES_MAX).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        match text.split('.').find(|label| !is_label(label)) {
            Some(label) => Err(DnsOriginError::Label(label.to_owned())),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl<'de> Deserialize<'de> for DnsOrigin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_that_is_no_servers_says_why() {
        let check = |text: &str, want: &str| {
            assert_eq!(text.parse::<ServerUrl>().unwrap_err().to_string(), want);
        };
        check(
            "relay.example.org",
            "it is no URL (relative URL without a base): `https://relay.example.org` is one",
        );
        check("https://", "it is no URL (empty host): `https://relay.example.org` is one");
        check("ftp://relay.example.org", "its scheme is `ftp`: http and https are allowed");
        let want = "it has a user, a query or a fragment: a host, a port and a path are allowed";
        for text in ["http://me@relay", "http://:secret@relay", "http://relay?x", "http://relay#x"] {
            check(text, want);
        }
        let long = format!("http://relay/{}", "p".repeat(237));
        check(&long, "it has 250 bytes, at most 249 are allowed");
        assert!(long[..249].parse::<ServerUrl>().is_ok());
        let url: ServerUrl = "http://10.0.0.9:3340".parse().unwrap();
        assert_eq!(url.to_string().parse(), Ok(url));
    }

    #[test]
    fn domain_that_is_none_says_why() {
        let check = |text: &str, want: &str| {
            assert_eq!(text.parse::<DnsOrigin>().unwrap_err().to_string(), want);
        };
        check("", "it has 0 bytes, 1 to 193 are allowed");
        check(&"a.".repeat(100), "it has 199 bytes, 1 to 193 are allowed");
        let end = "is no part of a domain: it has 1 to 63 letters, digits, hyphens and underscores";
        check("nodes..internal", &format!("`` {end}"));
        check("nodes.my network", &format!("`my network` {end}"));
        check(&"a".repeat(64), &format!("`{}` {end}", "a".repeat(64)));
        assert_eq!("nodes.internal.".parse::<DnsOrigin>().unwrap().absolute(), "nodes.internal.");
    }
}
