//! A snapshot read from its beginning to its end, for a backup.

use std::io;

use super::{Digest, SealDigest, SnapshotFile, chunk_count, chunk_digest};

/// What is said of a snapshot that cannot be read as what it was.
pub const DAMAGED: &str = "the snapshot is damaged, and another one is made: try again in a while";

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
        let (mut sealed, mut whole) = (SealDigest::default(), blake3::Hasher::new());
        for chunk in 0..self.chunks() {
            let bytes = self.chunk(chunk).inspect_err(|error| self.note_damage(error))?;
            sealed.add(&chunk_digest(&bytes));
            whole.update(&bytes);
        }
        if self.is_sealed_by(&sealed) {
            return Ok(*whole.finalize().as_bytes());
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, DAMAGED))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Content, SnapshotFile};
    use super::DAMAGED;
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
        assert_eq!(error, DAMAGED);
        assert_eq!(snapshot.damage(), Some("its bytes are not those of its digest"));
    }
}
