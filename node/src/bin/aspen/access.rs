//! Whom to ask, what to show them, and whom to trust.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use aspen_node::client::ticket::TicketWay;
use aspen_node::client::{ClientTls, Credentials, HttpConnection, Way};
use aspen_node::cluster::ticket::AspenClusterTicket;
use aspen_node::private::{BearerToken, PrivateError};
use aspen_node::tls::{self, CertificateFiles, TlsError};

/// How that is typed.
#[derive(Debug, clap::Args)]
pub(crate) struct AccessArgs {
    /// HTTP address of a node, with https:// before it if it speaks that; of several the first that can be reached is asked
    #[arg(
        long = "node",
        global = true,
        value_name = "ADDRESS",
        value_delimiter = ',',
        env = "ASPEN_NODE",
        default_value = "127.0.0.1:8001"
    )]
    nodes: Vec<NodeUrl>,
    /// Ask the nodes of a ticket over QUIC, rather than those of --node; they have to have a token, unless they are on this host
    #[arg(long, global = true, value_name = "TICKET", env = "ASPEN_TICKET", hide_env_values = true)]
    ticket: Option<AspenClusterTicket>,
    /// Show the nodes the token in this file; the variable `ASPEN_TOKEN` can have it instead
    #[arg(long, global = true, value_name = "FILE", env = "ASPEN_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Show it over plain HTTP and off this host, too, where others can read it
    #[arg(long, global = true)]
    insecure: bool,
    /// Speak HTTPS, and trust the authorities in this file, in PEM [default with https://: those that this host trusts]
    #[arg(long, global = true, value_name = "FILE", env = "ASPEN_CA_FILE")]
    ca: Option<PathBuf>,
    /// The name that the nodes' certificates have [default: what stands behind https://, otherwise each node's address]
    #[arg(long, global = true, value_name = "NAME", env = "ASPEN_TLS_NAME")]
    tls_name: Option<String>,
    /// Show the certificate in this file, in PEM; it needs --key, too
    #[arg(long, global = true, value_name = "FILE", env = "ASPEN_CERT_FILE")]
    cert: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(long, global = true, value_name = "FILE", env = "ASPEN_KEY_FILE")]
    key: Option<PathBuf>,
}

/// A node as it is typed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NodeUrl {
    is_https: bool,
    /// A name or an IP address, with a port.
    authority: String,
}

impl FromStr for NodeUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (is_https, rest) = match text.split_once("://") {
            None => (false, text),
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some((scheme, _)) => return Err(format!("{scheme} is neither http nor https")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let has_port = authority.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()
        });
        if has_port {
            Ok(Self { is_https, authority: authority.to_owned() })
        } else {
            Err("an address and a port are needed, as in 127.0.0.1:8001 or https://node.example:8001"
                .to_owned())
        }
    }
}

impl NodeUrl {
    /// The first address of its name.
    fn resolve(&self) -> Result<SocketAddr, AccessError> {
        let failed = |reason: String| AccessError::Name { name: self.authority.clone(), reason };
        let mut found = self.authority.to_socket_addrs().map_err(|error| failed(error.to_string()))?;
        found.next().ok_or_else(|| failed("it has no address".to_owned()))
    }

    /// The name, if it is no IP address.
    fn name(&self) -> Option<&str> {
        let (host, _) = self.authority.rsplit_once(':')?;
        self.authority.parse::<SocketAddr>().is_err().then_some(host)
    }
}

/// Why nobody can be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    /// No token.
    #[error(transparent)]
    Token(#[from] PrivateError),
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A name without an address.
    #[error("{name} cannot be found: {reason}")]
    Name { name: String, reason: String },
    /// What was typed does not fit together.
    #[error("{0}")]
    Usage(&'static str),
}

impl AccessArgs {
    /// The same, with the files read.
    pub(crate) fn access(&self) -> Result<Access, AccessError> {
        let token = match &self.token_file {
            Some(path) => Some(BearerToken::read(path)?),
            None => BearerToken::from_environment()?,
        };
        let (nodes, way) = match &self.ticket {
            Some(ticket) => {
                let way = TicketWay::new(ticket.clone());
                (way.nodes().collect(), Way::Ticket(Arc::new(way)))
            }
            None => {
                let nodes = self.nodes.iter().map(NodeUrl::resolve).collect::<Result<_, _>>()?;
                (nodes, self.tls()?.map_or(Way::Plain, Way::Tls))
            }
        };
        Ok(Access { nodes, credentials: Credentials { token, way, is_insecure: self.insecure } })
    }

    fn tls(&self) -> Result<Option<ClientTls>, AccessError> {
        let shown = match (self.cert.clone(), self.key.clone()) {
            (Some(certificates), Some(key)) => Some(CertificateFiles { certificates, key }),
            (None, None) => None,
            _ => return Err(AccessError::Usage("--cert and --key need each other")),
        };
        let https = self.nodes.iter().filter(|node| node.is_https).count();
        if https == 0 && self.ca.is_none() {
            let is_for_tls = shown.is_some() || self.tls_name.is_some();
            let text = "--cert, --key and --tls-name are for nodes at https://, or need --ca";
            return if is_for_tls { Err(AccessError::Usage(text)) } else { Ok(None) };
        }
        if https != 0 && https != self.nodes.len() {
            return Err(AccessError::Usage("all nodes are asked at https://, or none"));
        }
        let name = self.tls_name.as_deref().or_else(|| self.nodes.iter().find_map(NodeUrl::name));
        let name = name.map(tls::server_name).transpose()?;
        Ok(Some(ClientTls { config: tls::client(self.ca.as_deref(), shown.as_ref())?, name }))
    }
}

/// The nodes that can be asked, and what is shown to them.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) nodes: Vec<SocketAddr>,
    pub(crate) credentials: Credentials,
}

impl Access {
    /// A connection to a node, not made yet.
    pub(crate) fn connection(&self, node: SocketAddr) -> HttpConnection {
        HttpConnection::new(node).with_credentials(self.credentials.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_is_typed_with_a_port_and_perhaps_a_scheme() {
        let url = |text: &str| text.parse::<NodeUrl>();
        let plain = url("127.0.0.1:8001").unwrap();
        assert_eq!((plain.is_https, plain.name()), (false, None));
        assert_eq!(url("http://127.0.0.1:8001/").unwrap(), plain);
        let named = url("https://node.example:8001").unwrap();
        assert_eq!((named.is_https, named.name()), (true, Some("node.example")));
        assert_eq!(url("https://[::1]:8001").unwrap().resolve().unwrap(), "[::1]:8001".parse().unwrap());
        for wrong in ["", "a", ":1", "a:b", "a:70000", "https://a", "https://a:1/kv", "ftp://a:1"] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
    }
}
