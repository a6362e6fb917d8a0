//! What is secret, from the config disk to the node: its key, if it has none, and files that its settings name.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aspen_init::layout::NODE_SECRET_FILE;

use super::super::disk::make_private;

/// Whether a text is a secret key as the node stores it: 32 bytes in hexadecimal digits of lower case.
pub(super) fn is_secret_key(text: &str) -> bool {
    let digits = text.trim_end().as_bytes();
    digits.len() == 64 && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Stores a secret key for a node that has none; says whether it did.
pub(super) fn keep_secret(folder: &Path, secret: &str) -> io::Result<bool> {
    let path = folder.join(NODE_SECRET_FILE);
    if path.exists() {
        return Ok(fs::read_to_string(&path)?.trim_end() == secret.trim_end());
    }
    // Whole or not at all.
    let unfinished = folder.join(format!("{NODE_SECRET_FILE}.new"));
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(secret.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, &path)?;
    fs::File::open(folder)?.sync_all()?;
    Ok(true)
}

/// Writes a file that only its owner may read, and its folder.
pub(super) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        make_private(folder)?;
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_the_node_would_not_read_is_no_secret_key() {
        let key = "0123456789abcdef".repeat(4);
        assert!(is_secret_key(&key) && is_secret_key(&format!("{key}\n")));
        for other in ["", &key[1..], &key.to_uppercase(), &format!(" {key}"), "-----BEGIN PRIVATE KEY-----"] {
            assert!(!is_secret_key(other), "{other}");
        }
    }

    #[test]
    fn secret_is_stored_once_and_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        assert!(keep_secret(dir.path(), "ab\n").unwrap());
        let path = dir.path().join(NODE_SECRET_FILE);
        assert_eq!(fs::read_to_string(&path).unwrap(), "ab\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(keep_secret(dir.path(), "ab").unwrap(), "the same key is no other one");
        assert!(!keep_secret(dir.path(), "cd\n").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "ab\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
