//! Writes to the data disk what nobody makes durable, for a machine whose power is about to be cut: of a disk that loses nothing of
//! it, the power was not cut.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use aspen_init::limits::{BLOCK_BYTES, UNFLUSHED_WRITE_BYTES, UNFLUSHED_WRITES};
use nix::libc::O_DIRECT;

/// Fills a file with this word, past the page cache, and returns when the disk has all of it in its own. In several writes: the power
/// may go after any of them.
///
/// # Errors
/// There is no room, or the file system wants everything in its cache.
pub(super) fn write(path: &Path, word: u32) -> io::Result<()> {
    // Over what an earlier one has left: what a sector holds already is not lost.
    let mut options = OpenOptions::new();
    let file =
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(O_DIRECT).open(path)?;
    // The kernel takes it from where a block may begin (open(2)).
    let mut space = vec![0; UNFLUSHED_WRITE_BYTES + BLOCK_BYTES as usize];
    let begin = space.as_ptr().align_offset(BLOCK_BYTES as usize);
    let bytes = &mut space[begin..][..UNFLUSHED_WRITE_BYTES];
    for place in bytes.chunks_exact_mut(size_of_val(&word)) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    for number in 0..u64::from(UNFLUSHED_WRITES) {
        file.write_all_at(bytes, number * UNFLUSHED_WRITE_BYTES as u64)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_filled_and_filled_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unflushed");
        for word in [0x0102_0304, 7_u32] {
            match write(&path, word) {
                // A file system in memory has nothing but its cache.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
                written => written.unwrap(),
            }
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(bytes.len(), UNFLUSHED_WRITES as usize * UNFLUSHED_WRITE_BYTES);
            assert!(bytes.chunks(4).all(|place| place == word.to_le_bytes()));
        }
    }
}
