//! What the HTTP interface shows and wants to be shown.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::file::FileConfig;
use super::source::Sources;
use super::{Config, ConfigError, RunArgs};
use crate::network::lookups::Relays;
use crate::tls::CertificateFiles;

/// Where that is; read again when it changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialFiles {
    /// The token of those who may do everything; absent: everybody may.
    pub token: Option<PathBuf>,
    /// That of those who may read.
    pub read_token: Option<PathBuf>,
    /// What the node shows; absent: it speaks plain HTTP.
    pub certificate: Option<CertificateFiles>,
    /// Whose signature the certificates of clients need; absent: they need none.
    pub client_authorities: Option<PathBuf>,
}

/// The files, wherever they are named.
pub(super) fn credential_files(
    args: &RunArgs,
    file: &FileConfig,
    sources: &mut Sources,
) -> Result<CredentialFiles, ConfigError> {
    let mut pick = |key, typed: &Option<PathBuf>, listed: &Option<PathBuf>| {
        sources.pick(key, typed.clone(), listed.clone())
    };
    let token = pick("http_token_file", &args.http_token_file, &file.http_token_file);
    let read_token = pick("http_read_token_file", &args.http_read_token_file, &file.http_read_token_file);
    let certificates = pick("http_tls_cert_file", &args.http_tls_cert_file, &file.http_tls_cert_file);
    let key = pick("http_tls_key_file", &args.http_tls_key_file, &file.http_tls_key_file);
    let client_authorities =
        pick("http_tls_client_ca_file", &args.http_tls_client_ca_file, &file.http_tls_client_ca_file);
    let without = |given, missing| ConfigError::HalfOfTls { given, missing };
    let certificate = match (certificates, key) {
        (Some(certificates), Some(key)) => Some(CertificateFiles { certificates, key }),
        (Some(_), None) => return Err(without("http_tls_cert_file", "http_tls_key_file")),
        (None, Some(_)) => return Err(without("http_tls_key_file", "http_tls_cert_file")),
        (None, None) => None,
    };
    if client_authorities.is_some() && certificate.is_none() {
        return Err(without("http_tls_client_ca_file", "http_tls_cert_file"));
    }
    if read_token.is_some() && token.is_none() {
        return Err(ConfigError::ReadTokenAlone);
    }
    Ok(CredentialFiles { token, read_token, certificate, client_authorities })
}

impl Config {
    /// Off this host nobody may listen in, and not everybody may do everything, unless that is wanted.
    pub(super) fn check_credentials(&self) -> Result<(), ConfigError> {
        let address = self.http_listen;
        if address.ip().is_loopback() || self.http_insecure {
            return Ok(());
        }
        if self.credentials.certificate.is_none() {
            return Err(ConfigError::PlainHttp(address));
        }
        if self.credentials.token.is_none() && self.credentials.client_authorities.is_none() {
            return Err(ConfigError::OpenHttp(address));
        }
        Ok(())
    }

    /// Whether clients may come over QUIC as well, where they have nothing to show but a token: not where they need a certificate, and
    /// not without a token where anybody comes from off this host, whoever is trusted on HTTP: by its own address, by one that stands
    /// for it, or by a relay.
    pub fn answers_over_quic(&self) -> bool {
        let CredentialFiles { token, client_authorities, .. } = &self.credentials;
        let is_here = |address: SocketAddr| address.ip().is_loopback();
        let is_closed = is_here(self.raft_listen)
            && self.advertise.raft.is_none_or(is_here)
            && self.lookups.relays == Relays::Disabled;
        client_authorities.is_none() && (token.is_some() || is_closed)
    }

    /// The settings of these files.
    pub(super) fn credential_settings(&self) -> [(&'static str, Option<&PathBuf>); 5] {
        let CredentialFiles { token, read_token, certificate, client_authorities } = &self.credentials;
        [
            ("http_token_file", token.as_ref()),
            ("http_read_token_file", read_token.as_ref()),
            ("http_tls_cert_file", certificate.as_ref().map(|files| &files.certificates)),
            ("http_tls_key_file", certificate.as_ref().map(|files| &files.key)),
            ("http_tls_client_ca_file", client_authorities.as_ref()),
        ]
    }
}
