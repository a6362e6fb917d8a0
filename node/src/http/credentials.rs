//! What the interface shows and wants to be shown, as its files have it by now.

use std::fmt;
use std::path::{Path, PathBuf};

use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::auth::Tokens;
use crate::config::CredentialFiles;
use crate::private::{BearerToken, FileKeeper, PrivateError};
use crate::tls::{self, TlsError};

/// What is shown, and wanted to be shown. By default nothing is.
#[derive(Clone, Default)]
pub struct Credentials {
    /// What clients have to show.
    pub(super) tokens: Tokens,
    /// Shows what the node has to; absent: plain HTTP.
    pub(super) tls: Option<TlsAcceptor>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("is_tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

/// Why they cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A token.
    #[error(transparent)]
    Token(#[from] PrivateError),
    /// Whoever may only read could write.
    #[error(
        "http_token_file and http_read_token_file hold the same token: who may only read has one of their own"
    )]
    SameToken,
    /// A certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Credentials {
    /// What the files hold, as it changes while the keeper runs.
    ///
    /// # Errors
    /// One does not hold what it should.
    pub fn keep(
        files: CredentialFiles,
    ) -> Result<(FileKeeper<Self>, watch::Receiver<Self>), CredentialsError> {
        let CredentialFiles { token, read_token, certificate, client_authorities } = &files;
        let of_certificate = certificate.iter().flat_map(|files| [&files.certificates, &files.key]);
        let paths: Vec<PathBuf> =
            token.iter().chain(read_token).chain(client_authorities).chain(of_certificate).cloned().collect();
        FileKeeper::new("the files of tokens and certificates", paths, move || Self::read(&files))
    }

    fn read(files: &CredentialFiles) -> Result<Self, CredentialsError> {
        let token = |path: Option<&Path>| path.map(BearerToken::read).transpose();
        let tokens =
            Tokens { full: token(files.token.as_deref())?, read: token(files.read_token.as_deref())? };
        if tokens.full.is_some() && tokens.full == tokens.read {
            return Err(CredentialsError::SameToken);
        }
        let authorities = files.client_authorities.as_deref();
        let tls = files.certificate.as_ref().map(|shown| tls::server(shown, authorities)).transpose()?;
        Ok(Self { tokens, tls: tls.map(TlsAcceptor::from) })
    }
}
