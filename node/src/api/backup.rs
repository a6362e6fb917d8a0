//! A copy of the whole state, as whoever takes a backup gets it.

use std::fmt;
use std::io;

use super::EntryId;

/// The state as of one entry, as the bytes of one file.
pub struct StateCopy {
    /// The last entry that it covers.
    pub last: EntryId,
    /// How many keys there are, those in vaults included.
    pub keys: u64,
    /// How many vaults there are.
    pub vaults: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// BLAKE3 over all of its bytes.
    pub digest: [u8; 32],
    /// Where the bytes are.
    pub chunks: Box<dyn StateChunks>,
}

impl fmt::Debug for StateCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateCopy")
            .field("last", &self.last)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// The bytes of a [`StateCopy`]. They stay until this is dropped.
pub trait StateChunks: Send + Sync {
    /// How many chunks there are.
    fn count(&self) -> u64;

    /// The bytes of a chunk, numbered from 0.
    ///
    /// # Errors
    /// They cannot be read.
    fn chunk(&self, chunk: u64) -> io::Result<Vec<u8>>;
}
