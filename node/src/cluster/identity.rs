//! The node's secret key: made once, kept in the data directory, so that a node which restarts is the same member.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::metadata::METADATA_FILE;
use crate::private::{self, PrivateError};
use crate::storage::log::LOG_FILE;
use crate::types::EndpointKey;

/// The file in the data directory.
pub const IDENTITY_FILE: &str = "identity.key";

/// A node's secret key. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    secret: [u8; 32],
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("endpoint_id", &self.endpoint_id()).finish_non_exhaustive()
    }
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be written.
    #[error("cannot write the identity file {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no key.
    #[error(
        "the identity file {path} does not hold 64 hexadecimal digits: restore it, or remove the data directory and rejoin as a new member"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// It was there, since there is what its node has kept.
    #[error(
        "the identity file {path} is gone, and with another key this node would be a stranger to its peers: restore it; or remove it \
         from its cluster, remove the data directory and rejoin as a new member"
    )]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read, or others may read it, too.
    #[error(transparent)]
    Private(#[from] PrivateError),
}

impl Identity {
    /// The identity with this secret key.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    /// Reads the identity of a data directory, which has to exist, or makes one.
    ///
    /// # Errors
    /// A file that cannot be used, is damaged, or may be read by others.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, IdentityError> {
        let has_none = !data_dir.join(IDENTITY_FILE).exists();
        if has_none && !has_kept(data_dir) {
            let identity = Self::from_secret(rand::random());
            identity.store(data_dir)?;
            return Ok(identity);
        }
        Self::load(data_dir)
    }

    /// Reads the identity of a data directory.
    ///
    /// # Errors
    /// As [`Self::load_or_create`], and where there is none.
    pub fn load(data_dir: &Path) -> Result<Self, IdentityError> {
        let path = data_dir.join(IDENTITY_FILE);
        let text = match private::read(&path) {
            Err(PrivateError::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound && has_kept(data_dir) =>
            {
                return Err(IdentityError::Gone { path });
            }
            text => text?,
        };
        let secret = data_encoding::HEXLOWER.decode(text.trim_end().as_bytes()).ok();
        let secret = secret.and_then(|bytes| bytes.try_into().ok());
        secret.map(Self::from_secret).ok_or(IdentityError::Malformed { path })
    }

    /// Writes the identity into a data directory that has none.
    ///
    /// # Errors
    /// The file exists or cannot be written.
    pub fn store(&self, data_dir: &Path) -> Result<(), IdentityError> {
        let path = data_dir.join(IDENTITY_FILE);
        let write = || -> io::Result<()> {
            // Whole or not at all, and never over another one: a link does not replace.
            let unfinished = data_dir.join(format!("{IDENTITY_FILE}.{}", std::process::id()));
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
            writeln!(file, "{}", data_encoding::HEXLOWER.encode(&self.secret))?;
            file.sync_all()?;
            let linked = std::fs::hard_link(&unfinished, &path);
            std::fs::remove_file(&unfinished)?;
            linked?;
            File::open(data_dir)?.sync_all()
        };
        write().map_err(|source| IdentityError::Io { path, source })
    }

    /// The secret key, for the endpoint.
    pub fn secret(&self) -> [u8; 32] {
        self.secret
    }

    /// The public key, by which peers know the node.
    pub fn endpoint_id(&self) -> EndpointKey {
        crate::network::iroh::endpoint_id(&self.secret)
    }
}

/// Whether a node was here before.
fn has_kept(data_dir: &Path) -> bool {
    [METADATA_FILE, LOG_FILE].iter().any(|kept| data_dir.join(kept).exists())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn identity_stays_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::load_or_create(dir.path()).unwrap();
        let second = Identity::load_or_create(dir.path()).unwrap();
        assert!(first == second);
        assert!(first.store(dir.path()).is_err(), "an identity is never overwritten");
    }

    #[test]
    fn identity_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Identity::load_or_create(dir.path()).unwrap();
        let path = dir.path().join(IDENTITY_FILE);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let error = Identity::load_or_create(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with(&format!("has mode 644: run `chmod 600 {}`", path.display())), "{error}");
    }

    #[test]
    fn damaged_identity_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Identity::load_or_create(dir.path()).unwrap();
        std::fs::write(dir.path().join(IDENTITY_FILE), "short").unwrap();
        assert!(matches!(Identity::load_or_create(dir.path()), Err(IdentityError::Malformed { .. })));
    }
}
