//! A snapshot read from its beginning to its end, for a backup.

use std::io;

use super::{Digest, SnapshotFile, chunk_count, chunk_digest};

impl SnapshotFile {
    /// How many chunks it has.
    pub fn chunks(&self) -> u64 {
        chunk_count(self.seal.bytes)
    }

    /// BLAKE3 over all of its bytes, once each of them is known to be what was sealed. Holds one chunk in memory.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn whole_digest(&self) -> io::Result<Digest> {
        let (mut sealed, mut whole) = (blake3::Hasher::new(), blake3::Hasher::new());
        for chunk in 0..self.chunks() {
            let bytes = self.chunk(chunk)?;
            sealed.update(&chunk_digest(&bytes));
            whole.update(&bytes);
        }
        if *sealed.finalize().as_bytes() == self.seal.digest {
            return Ok(*whole.finalize().as_bytes());
        }
        let text = "the snapshot is damaged: its bytes are not those of its digest. Stop the node and remove the file, it makes a new one";
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Content, SnapshotFile};
    use crate::types::raft_types::SnapshotMeta;

    #[test]
    fn damaged_snapshot_has_no_digest() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let mut snapshot = SnapshotFile::in_memory(SnapshotMeta::default(), bytes.clone().into());
        assert_eq!(snapshot.chunks(), 4);
        assert_eq!(snapshot.whole_digest().unwrap(), *blake3::hash(&bytes).as_bytes());
        let mut damaged = bytes;
        damaged[199_999] ^= 1;
        snapshot.content = Content::Memory(Arc::from(damaged));
        let error = snapshot.whole_digest().unwrap_err().to_string();
        assert!(error.starts_with("the snapshot is damaged: "), "{error}");
    }
}
