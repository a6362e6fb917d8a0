//! Signatures of images: ed25519 over manifest.json, which names every other file by its SHA-256.
//!
//! Keys are PEM files as OpenSSL writes them, and the signature is the bare 64 bytes, so that OpenSSL can check it, too. It
//! says who built an image; it is not Secure Boot.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use super::bounded;
use super::manifest::{Manifest, ManifestError, SIGNATURE_FILE};
use crate::limits::image::KEY_BYTES_MAX;

/// Why an image is not signed, or its signature not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// A file.
    #[error("cannot use {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Others may read the secret key.
    #[error("the key {} has mode {mode:o}: run chmod 600 {}", .path.display(), .path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Not a secret key.
    #[error(
        "{} is no ed25519 secret key in PEM: openssl genpkey -algorithm ed25519 -out NEW.pem makes one",
        .0.display()
    )]
    SecretKey(PathBuf),
    /// Not a public key.
    #[error(
        "{} is no ed25519 public key in PEM: openssl pkey -in SECRET.pem -pubout -out NEW.pub makes it from the secret key",
        .0.display()
    )]
    PublicKey(PathBuf),
    /// No signature.
    #[error("the image in {} is not signed: sign it with lab image sign", .0.display())]
    Unsigned(PathBuf),
    /// Another key, or another manifest.
    #[error("the signature of {} is not by this key, or the manifest was changed after it", .0.display())]
    Wrong(PathBuf),
    /// The manifest, or a file that it names.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// Signs an image, whose files are checked before.
///
/// # Errors
/// [`SignError`].
pub fn sign(folder: &Path, key: &Path) -> Result<PathBuf, SignError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| SignError::File { path: path.clone(), source }
    };
    let no_key = || SignError::SecretKey(key.to_owned());
    let pem = String::from_utf8(bounded::read_file(key, KEY_BYTES_MAX).map_err(file(key))?);
    let secret = pem.ok().and_then(|pem| SigningKey::from_pkcs8_pem(&pem).ok()).ok_or_else(no_key)?;
    let mode = std::fs::metadata(key).map_err(file(key))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SignError::TooOpen { path: key.to_owned(), mode });
    }
    // The very bytes that were checked are those that are signed.
    let text = Manifest::text(folder)?;
    Manifest::parse(&text, folder)?.check(folder, None)?;
    let path = folder.join(SIGNATURE_FILE);
    std::fs::write(&path, secret.sign(&text).to_bytes()).map_err(file(&path))?;
    Ok(path)
}

/// Checks the signature of an image, and that its files are those of the manifest.
///
/// # Errors
/// [`SignError`].
pub fn verify(folder: &Path, key: &Path) -> Result<Manifest, SignError> {
    // The very bytes that were signed are those that are read.
    let text = Manifest::text(folder)?;
    verify_text(&text, folder, key)?;
    let manifest = Manifest::parse(&text, folder)?;
    manifest.check(folder, None)?;
    Ok(manifest)
}

/// Checks the signature of a manifest's bytes.
pub(super) fn verify_text(text: &[u8], folder: &Path, key: &Path) -> Result<(), SignError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| SignError::File { path: path.clone(), source }
    };
    let no_key = || SignError::PublicKey(key.to_owned());
    let pem = String::from_utf8(bounded::read_file(key, KEY_BYTES_MAX).map_err(file(key))?);
    let key = pem.ok().and_then(|pem| VerifyingKey::from_public_key_pem(&pem).ok()).ok_or_else(no_key)?;
    let path = folder.join(SIGNATURE_FILE);
    let signature = match bounded::read_file(&path, KEY_BYTES_MAX) {
        Ok(bytes) => Signature::from_slice(&bytes).map_err(|_| SignError::Wrong(folder.to_owned()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(SignError::Unsigned(folder.to_owned()));
        }
        Err(error) => return Err(file(&path)(error)),
    };
    key.verify_strict(text, &signature).map_err(|_| SignError::Wrong(folder.to_owned()))
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
    use ed25519_dalek::pkcs8::{EncodePrivateKey, EncodePublicKey};

    use super::super::manifest::FILE;
    use super::super::manifest::tests::sample;
    use super::*;

    struct Keys(tempfile::TempDir);

    impl Keys {
        fn new() -> Self {
            let keys = Self(tempfile::tempdir().unwrap());
            let (key, other) = (SigningKey::from_bytes(&[7; 32]), SigningKey::from_bytes(&[8; 32]));
            let public = |key: &SigningKey| key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
            std::fs::write(keys.path("secret"), key.to_pkcs8_pem(LineEnding::LF).unwrap()).unwrap();
            std::fs::write(keys.path("public"), public(&key)).unwrap();
            std::fs::write(keys.path("other"), public(&other)).unwrap();
            std::fs::set_permissions(keys.path("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
            keys
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }
    }

    #[test]
    fn signed_image_is_accepted_and_one_that_was_changed_is_not() {
        let (home, manifest) = sample();
        let keys = Keys::new();
        let folder = home.path();
        let refused = |key: &str| verify(folder, &keys.path(key)).unwrap_err().to_string();
        let shown = folder.display();
        assert_eq!(
            refused("public"),
            format!("the image in {shown} is not signed: sign it with lab image sign")
        );
        sign(folder, &keys.path("secret")).unwrap();
        assert_eq!(verify(folder, &keys.path("public")).unwrap(), manifest);
        let wrong =
            format!("the signature of {shown} is not by this key, or the manifest was changed after it");
        assert_eq!(refused("other"), wrong);
        std::fs::write(folder.join("oci/index.json"), "[]").unwrap();
        assert!(refused("public").contains("oci/index.json is not what the manifest says"));
        // Nor can it be signed as it is now.
        let error = sign(folder, &keys.path("secret")).unwrap_err().to_string();
        assert!(error.contains("oci/index.json is not what the manifest says"), "{error}");
        let text = std::fs::read_to_string(folder.join(FILE)).unwrap();
        std::fs::write(folder.join(FILE), text.replace("0.1.0", "0.1.1")).unwrap();
        assert_eq!(refused("public"), wrong);
    }

    #[test]
    fn key_that_is_none_or_open_to_others_is_refused_with_the_command_that_helps() {
        let (home, _manifest) = sample();
        let keys = Keys::new();
        let public = keys.path("public");
        let shown = public.display();
        let error = sign(home.path(), &public).unwrap_err().to_string();
        // The command names another file: what is there may be the other key.
        let want = format!(
            "{shown} is no ed25519 secret key in PEM: openssl genpkey -algorithm ed25519 -out NEW.pem makes one"
        );
        assert_eq!(error, want);
        let secret = keys.path("secret");
        let shown = secret.display();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = sign(home.path(), &secret).unwrap_err().to_string();
        assert_eq!(error, format!("the key {shown} has mode 644: run chmod 600 {shown}"));
        let error = verify(home.path(), &keys.path("secret")).unwrap_err().to_string();
        assert!(error.contains("is no ed25519 public key in PEM"), "{error}");
    }
}
