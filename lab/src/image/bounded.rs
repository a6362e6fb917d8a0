//! Reads what has to end: as many bytes as are allowed, and what is longer is refused instead of cut.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Everything to the end.
///
/// # Errors
/// It cannot be read, or has more than so many bytes.
pub(super) fn read(from: impl Read, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One more shows that there is more.
    from.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let text = format!("it has more than {bytes_max} bytes, which are all that is allowed");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

/// A whole file.
///
/// # Errors
/// It cannot be read, or has more than so many bytes.
pub(super) fn read_file(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    read(File::open(path)?, bytes_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_than_allowed_is_refused_and_not_cut() {
        assert_eq!(read(&b"1234"[..], 4).unwrap(), b"1234");
        let error = read(&b"12345"[..], 4).unwrap_err();
        assert_eq!(error.to_string(), "it has more than 4 bytes, which are all that is allowed");
        assert!(read_file(Path::new("/dev/zero"), 1 << 20).is_err());
    }
}
