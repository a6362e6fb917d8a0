//! TLS of the HTTP interface, by rustls: what either side shows, and whom it trusts, from files in PEM (RFC 7468).

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::limits::TLS_FILE_BYTES_MAX;
use crate::private::{self, PrivateError};

/// The files of one who shows a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Its certificate, and those between it and one that is trusted, in this order.
    pub certificates: PathBuf,
    /// Its key; nobody else may read it.
    pub key: PathBuf,
}

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key that cannot be read, or that others may read, too.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// Too much for what it should be.
    #[error(
        "{path} has more than {TLS_FILE_BYTES_MAX} bytes: it should hold nothing but certificates, or a key, in PEM"
    )]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It does not hold what it should.
    #[error("{path} does not hold {what} in PEM, which begins with `-----BEGIN {label}-----`: {reason}")]
    NotPem {
        /// The file.
        path: PathBuf,
        /// A certificate, or a private key.
        what: &'static str,
        /// How it is called in such a file.
        label: &'static str,
        /// Why.
        reason: String,
    },
    /// A certificate and a key that are not each other's, or of a kind that rustls does not know.
    #[error("the certificate of {certificates} and the key of {key} cannot be shown")]
    Unfit {
        /// The file of the certificate.
        certificates: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// Certificates by which nobody can be told.
    #[error("nobody can be trusted by {path}: {reason}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A host without certificates.
    #[error("this host trusts no certificate ({reason}): name those to trust with --ca")]
    NoAuthorities {
        /// Why.
        reason: String,
    },
    /// A name that no certificate can have.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    Name(String),
}

/// What a server shows; with `client_authorities` it talks only to who shows a certificate that one of those has signed.
///
/// # Errors
/// A file does not hold what it should.
pub fn server(
    files: &CertificateFiles,
    client_authorities: Option<&Path>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|source| files.unfit(source))?;
    let builder = match client_authorities {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            let failed = |reason: String| TlsError::Authority { path: path.to_owned(), reason };
            builder.with_client_cert_verifier(verifier.map_err(|error| failed(error.to_string()))?)
        }
    };
    let (certificates, key) = files.read()?;
    let mut config = builder.with_single_cert(certificates, key).map_err(|source| files.unfit(source))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Whom a client trusts: who is signed by an authority of a file, or by one that this host trusts. It may show a certificate, too.
///
/// # Errors
/// A file does not hold what it should, or this host trusts nobody.
pub fn client(
    trusted: Option<&Path>,
    shown: Option<&CertificateFiles>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = trusted.map_or_else(authorities_of_host, authorities)?;
    let no_version = |error: rustls::Error| TlsError::NoAuthorities { reason: error.to_string() };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(no_version)?
        .with_root_certificates(roots);
    Ok(Arc::new(match shown {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let (certificates, key) = files.read()?;
            builder.with_client_auth_cert(certificates, key).map_err(|source| files.unfit(source))?
        }
    }))
}

/// A name or an address that a certificate is to have.
///
/// # Errors
/// No certificate can have it.
pub fn server_name(text: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(text.to_owned()).map_err(|_| TlsError::Name(text.to_owned()))
}

/// iroh's, too.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

impl CertificateFiles {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let certificates = certificates(&self.certificates)?;
        let text = private::read_up_to(&self.key, TLS_FILE_BYTES_MAX + 1)?;
        check_length(&self.key, text.len())?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes());
        let no_key = |error: rustls::pki_types::pem::Error| TlsError::NotPem {
            path: self.key.clone(),
            what: "a private key",
            label: "PRIVATE KEY",
            reason: error.to_string(),
        };
        Ok((certificates, key.map_err(no_key)?))
    }

    fn unfit(&self, source: rustls::Error) -> TlsError {
        TlsError::Unfit { certificates: self.certificates.clone(), key: self.key.clone(), source }
    }
}

/// All certificates of a file, of which there is one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let io = |source| TlsError::Read { path: path.to_owned(), source };
    let mut text = Vec::new();
    std::fs::File::open(path).map_err(io)?.take(TLS_FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(io)?;
    check_length(path, text.len())?;
    let not_pem = |reason: String| TlsError::NotPem {
        path: path.to_owned(),
        what: "a certificate",
        label: "CERTIFICATE",
        reason,
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| not_pem(error.to_string()))?;
    if found.is_empty() { Err(not_pem("there is none in it".to_owned())) } else { Ok(found) }
}

fn check_length(path: &Path, bytes: usize) -> Result<(), TlsError> {
    let is_too_long = bytes as u64 > TLS_FILE_BYTES_MAX;
    if is_too_long { Err(TlsError::TooLong { path: path.to_owned() }) } else { Ok(()) }
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let added = roots.add(certificate);
        added.map_err(|error| TlsError::Authority { path: path.to_owned(), reason: error.to_string() })?;
    }
    Ok(roots)
}

/// The authorities that this host trusts.
fn authorities_of_host() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Among many there are some that cannot be read, and need not be.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let reason = if reasons.is_empty() { "none is installed".to_owned() } else { reasons.join("; ") };
        return Err(TlsError::NoAuthorities { reason });
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Files(tempfile::TempDir);

    impl Files {
        fn put(&self, name: &str, text: &str, mode: u32) -> PathBuf {
            let path = self.0.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    #[test]
    fn what_cannot_be_shown_is_said_with_its_file() {
        let files = Files(tempfile::tempdir().unwrap());
        let one = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["b.example".to_owned()]).unwrap();
        let certificates = files.put("a.pem", &one.cert.pem(), 0o644);
        let key = files.put("a.key", &one.signing_key.serialize_pem(), 0o600);
        let fit = CertificateFiles { certificates: certificates.clone(), key: key.clone() };
        assert!(server(&fit, Some(&certificates)).is_ok());
        assert!(client(Some(&certificates), Some(&fit)).is_ok());
        let other_key = files.put("b.key", &other.signing_key.serialize_pem(), 0o600);
        let open = files.put("open.key", &one.signing_key.serialize_pem(), 0o640);
        let text = files.put("text", "no PEM\n", 0o600);
        let long = files.put("long", &"x".repeat(1024 * 1024 + 1), 0o600);
        for (shown, shown_key, want) in [
            (&files.0.path().join("none"), &key, "cannot read"),
            (
                &text,
                &key,
                "text does not hold a certificate in PEM, which begins with `-----BEGIN CERTIFICATE-----`: there is none",
            ),
            (&certificates, &text, "text does not hold a private key in PEM"),
            (&certificates, &certificates, "a.pem holds a secret and has mode 644: run `chmod 600"),
            (&certificates, &open, "open.key holds a secret and has mode 640"),
            (&certificates, &other_key, "a.pem and the key of"),
            (&long, &key, "long has more than 1048576 bytes"),
            (&certificates, &long, "long has more than 1048576 bytes"),
        ] {
            let wrong = CertificateFiles { certificates: shown.clone(), key: shown_key.clone() };
            let error = server(&wrong, None).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        let error = client(Some(&text), None).unwrap_err().to_string();
        assert!(error.contains("text does not hold a certificate"), "{error}");
        assert_eq!(
            server_name("a b").unwrap_err().to_string(),
            "\"a b\" is neither a DNS name nor an IP address"
        );
    }
}
