//! Whom to ask, what to show them, and whom to trust.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use aspen_node::client::cluster::ClusterClient;
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
    #[arg(long, global = true, value_name = "TICKET")]
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
    /// The name that all nodes' certificates have [default: what stands behind https://, otherwise each node's address]
    #[arg(long, global = true, value_name = "NAME", env = "ASPEN_TLS_NAME")]
    tls_name: Option<String>,
    /// Show the certificate in this file, in PEM; it needs --client-key, too
    #[arg(long, global = true, value_name = "FILE", env = "ASPEN_CLIENT_CERT_FILE")]
    client_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(long, global = true, value_name = "FILE", env = "ASPEN_CLIENT_KEY_FILE")]
    client_key: Option<PathBuf>,
}

/// A node as it is typed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NodeUrl {
    /// What was said of it.
    is_https: Option<bool>,
    /// A name or an IP address, with a port.
    authority: String,
}

impl FromStr for NodeUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (is_https, rest) = match text.split_once("://") {
            None => (None, text),
            Some(("http", rest)) => (Some(false), rest),
            Some(("https", rest)) => (Some(true), rest),
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
    /// The addresses of its name.
    fn resolve(&self) -> Result<Vec<SocketAddr>, AccessError> {
        let failed = |source| AccessError::Name { name: self.authority.clone(), source };
        Ok(self.authority.to_socket_addrs().map_err(failed)?.collect())
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
    #[error("{name} cannot be found")]
    Name { name: String, source: std::io::Error },
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
        let (nodes, way) = if let Some(ticket) = &self.ticket {
            let way = TicketWay::new(ticket.clone());
            (way.nodes(), Way::Ticket(Arc::new(way)))
        } else {
            let nodes = self.resolve()?;
            let way = self.tls(&nodes)?.map_or(Way::Plain, Way::Tls);
            (nodes.into_iter().map(|(address, _)| address).collect(), way)
        };
        Ok(Access { nodes, credentials: Credentials { token, way, is_insecure: self.insecure } })
    }

    /// The nodes that can be found, with the names by which they are, unless there is none.
    fn resolve(&self) -> Result<Vec<(SocketAddr, Option<&str>)>, AccessError> {
        let (mut found, mut unknown) = (Vec::new(), None);
        for node in &self.nodes {
            match node.resolve() {
                Ok(addresses) => found.extend(addresses.into_iter().map(|address| (address, node.name()))),
                Err(error) => unknown = unknown.or(Some(error)),
            }
        }
        match unknown {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    fn tls(&self, nodes: &[(SocketAddr, Option<&str>)]) -> Result<Option<ClientTls>, AccessError> {
        let shown = match (self.client_cert.clone(), self.client_key.clone()) {
            (Some(certificates), Some(key)) => Some(CertificateFiles { certificates, key }),
            (None, None) => None,
            _ => return Err(AccessError::Usage("--client-cert and --client-key need each other")),
        };
        let are_https = |is_https| self.nodes.iter().filter(|node| node.is_https == Some(is_https)).count();
        let https = are_https(true);
        if https == 0 && self.ca.is_none() {
            let is_for_tls = shown.is_some() || self.tls_name.is_some();
            let text = "--client-cert, --client-key and --tls-name are for nodes at https://, or need --ca";
            return if is_for_tls { Err(AccessError::Usage(text)) } else { Ok(None) };
        }
        if are_https(false) != 0 || (https != 0 && https != self.nodes.len()) {
            return Err(AccessError::Usage("all nodes are asked at https://, or none, and with --ca all"));
        }
        let name = self.tls_name.as_deref().map(tls::server_name).transpose()?;
        let mut names = BTreeMap::new();
        for (address, typed) in nodes {
            if let (None, Some(typed)) = (&name, typed) {
                names.insert(*address, tls::server_name(typed)?);
            }
        }
        Ok(Some(ClientTls { config: tls::client(self.ca.as_deref(), shown.as_ref())?, names, name }))
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

    /// A client of all of them.
    pub(crate) fn client(self) -> ClusterClient {
        ClusterClient::new(self.nodes, self.credentials)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_is_typed_with_a_port_and_perhaps_a_scheme() {
        let url = |text: &str| text.parse::<NodeUrl>();
        let plain = url("127.0.0.1:8001").unwrap();
        assert_eq!((plain.is_https, plain.name()), (None, None));
        let said = url("http://127.0.0.1:8001/").unwrap();
        assert_eq!((said.is_https, &said.authority), (Some(false), &plain.authority));
        let named = url("https://node.example:8001").unwrap();
        assert_eq!((named.is_https, named.name()), (Some(true), Some("node.example")));
        assert_eq!(url("https://[::1]:8001").unwrap().resolve().unwrap(), ["[::1]:8001".parse().unwrap()]);
        for wrong in ["", "a", ":1", "a:b", "a:70000", "https://a", "https://a:1/kv", "ftp://a:1"] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
    }
}
