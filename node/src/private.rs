//! What only its owner may read: small files that hold a secret, and bearer tokens (RFC 6750), which clients show to a node.

mod keeper;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub use self::keeper::FileKeeper;
use crate::limits::{PRIVATE_FILE_BYTES_MAX, TOKEN_BYTES_MIN};

/// The variable that has a client's token where no file does.
pub const TOKEN_VARIABLE: &str = "ASPEN_TOKEN";

/// Why a secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read it.
    #[error("{path} holds a secret and has mode {mode:o}: run `chmod 600 {path}`")]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is no token. What it is instead is not said.
    #[error(
        "{place} does not hold a token, {TOKEN_BYTES_MIN} to {PRIVATE_FILE_BYTES_MAX} visible characters without a space: \
         `aspen-node secret` prints one"
    )]
    Token {
        /// The file or the variable.
        place: String,
    },
}

/// Reads a short file that nobody else may read.
///
/// # Errors
/// It cannot be read, or others may read it.
pub fn read(path: &Path) -> Result<String, PrivateError> {
    // One more than may be, and the end of the line.
    read_up_to(path, PRIVATE_FILE_BYTES_MAX + 2)
}

/// Reads the beginning of a file that nobody else may read.
///
/// # Errors
/// As [`read`].
pub fn read_up_to(path: &Path, bytes_max: u64) -> Result<String, PrivateError> {
    let io = |source| PrivateError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PrivateError::TooOpen { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.take(bytes_max).read_to_string(&mut text).map_err(io)?;
    Ok(text)
}

/// A token: whoever shows it may ask. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerToken(String);

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken")
    }
}

impl BearerToken {
    /// The token of a file that nobody else may read.
    ///
    /// # Errors
    /// The file cannot be read, or holds none.
    pub fn read(path: &Path) -> Result<Self, PrivateError> {
        Self::parse(&read(path)?, &path.display().to_string())
    }

    /// The token of the environment, if it has one.
    ///
    /// # Errors
    /// It is none.
    pub fn from_environment() -> Result<Option<Self>, PrivateError> {
        let text = std::env::var(TOKEN_VARIABLE).ok().filter(|text| !text.is_empty());
        text.map(|text| Self::parse(&text, TOKEN_VARIABLE)).transpose()
    }

    /// Takes a text from a place that errors name.
    ///
    /// # Errors
    /// It is no token.
    pub fn parse(text: &str, place: &str) -> Result<Self, PrivateError> {
        let text = text.trim();
        let is_long_enough = text.len() >= TOKEN_BYTES_MIN && text.len() as u64 <= PRIVATE_FILE_BYTES_MAX;
        if !is_long_enough || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(PrivateError::Token { place: place.to_owned() });
        }
        Ok(Self(text.to_owned()))
    }

    /// What a request says in its header `Authorization`.
    pub fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether a request says it. It takes as long whatever differs.
    pub fn is_said_in(&self, header: &[u8]) -> bool {
        blake3::hash(self.header().as_bytes()) == blake3::hash(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "text\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.ends_with(&format!("has mode 640: run `chmod 600 {}`", path.display())), "{error}");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(read(&path).unwrap(), "text\n");
    }

    #[test]
    fn token_is_long_and_visible() {
        let token = |text: &str| BearerToken::parse(text, "t");
        for wrong in ["", "short", &"a b".repeat(20), &"ä".repeat(40), &"x".repeat(300)] {
            let error = token(wrong).unwrap_err().to_string();
            assert!(error.starts_with("t does not hold a token, 32 to 256 visible characters"), "{error}");
        }
        let right = token(&format!("{}\n", "x".repeat(32))).unwrap();
        assert!(right.is_said_in(format!("Bearer {}", "x".repeat(32)).as_bytes()));
        assert!(!right.is_said_in(format!("Bearer {}", "x".repeat(31)).as_bytes()));
        assert!(!right.is_said_in(b""));
        assert_eq!(format!("{right:?}"), "BearerToken");
    }
}
