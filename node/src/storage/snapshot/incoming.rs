//! A snapshot on its way in, region by region.
//!
//! For each region the sender names the digests of its chunks, and is asked for those that are not here already: in
//! what an earlier transfer has left, in the snapshot before, or in the state itself. So a transfer that broke off goes
//! on where it was, and a member that has most of the state gets the rest only. A digest decides, so it does not matter
//! that those files may change while they are read.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::{
    Content, Digest, Seal, SealDigest, SnapshotFile, SnapshotStore, chunk_bytes, chunk_digest, region_chunks,
    region_count,
};
use crate::limits::{SNAPSHOT_CHUNK_BYTES, SNAPSHOT_FLUSH_BYTES};
use crate::types::raft_types::SnapshotMeta;

/// A snapshot that is being received.
#[derive(Debug)]
pub struct Incoming {
    store: SnapshotStore,
    path: PathBuf,
    file: Arc<File>,
    meta: SnapshotMeta,
    seal: Seal,
    /// Where chunks are looked for; the file itself is the first.
    bases: Vec<Arc<File>>,
    /// Over the chunks of the regions that are complete.
    digest: SealDigest,
    region: u64,
    /// The digests of the present region, and which of its chunks are still missing.
    chunks: Vec<Digest>,
    missing: u64,
    received: u64,
    unflushed: u64,
    _turn: OwnedSemaphorePermit,
}

impl Incoming {
    pub(super) fn open(
        store: SnapshotStore,
        path: PathBuf,
        meta: SnapshotMeta,
        seal: Seal,
        bases: Vec<Arc<File>>,
        turn: OwnedSemaphorePermit,
    ) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let file = Arc::new(file);
        // Bytes behind its end are no use; bytes before it may be.
        if file.metadata()?.len() > seal.bytes {
            file.set_len(seal.bytes)?;
        }
        let bases = std::iter::once(file.clone()).chain(bases).collect();
        Ok(Self {
            store,
            path,
            file,
            meta,
            seal,
            bases,
            digest: SealDigest::default(),
            region: 0,
            chunks: Vec::new(),
            missing: 0,
            received: 0,
            unflushed: 0,
            _turn: turn,
        })
    }

    /// Whether every region is here.
    pub fn is_complete(&self) -> bool {
        self.missing == 0 && self.region == region_count(self.seal.bytes)
    }

    /// Bytes that had to be sent so far.
    pub fn received_bytes(&self) -> u64 {
        self.received
    }

    /// Takes the digests of the next region; which of its chunks have to be sent, the first one in the lowest bit.
    ///
    /// # Errors
    /// Another number of digests than the region has chunks, a region before the last one was complete, or the file cannot
    /// be written.
    pub fn next_region(&mut self, chunks: Vec<Digest>) -> io::Result<u64> {
        let range = region_chunks(self.seal.bytes, self.region);
        if self.missing != 0 || chunks.len() as u64 != range.end - range.start || chunks.is_empty() {
            return Err(invalid("a region that was not due"));
        }
        let mut buffer = vec![0; SNAPSHOT_CHUNK_BYTES as usize];
        for (bit, (chunk, digest)) in range.zip(&chunks).enumerate() {
            if !self.find(chunk, digest, &mut buffer)? {
                self.missing |= 1 << bit;
            }
        }
        self.chunks = chunks;
        self.close_region();
        Ok(self.missing)
    }

    /// Takes the lowest chunk that is missing.
    ///
    /// # Errors
    /// Other bytes than the digest says, no chunk is missing, or the file cannot be written.
    pub fn write_chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        let bit = self.missing.trailing_zeros();
        let digest = self.chunks.get(bit as usize).filter(|_| self.missing != 0);
        if digest != Some(&chunk_digest(bytes)) {
            return Err(invalid("a chunk that does not have its digest"));
        }
        let chunk = region_chunks(self.seal.bytes, self.region).start + u64::from(bit);
        self.put(bytes, chunk)?;
        self.received += bytes.len() as u64;
        self.missing &= self.missing - 1;
        self.close_region();
        Ok(())
    }

    /// Makes the complete file the newest snapshot, durably.
    ///
    /// # Errors
    /// It is not complete, does not have its digest, or cannot be flushed.
    pub fn finish(self) -> io::Result<SnapshotFile> {
        if !self.is_complete() || self.digest.finish() != self.seal.digest {
            return Err(invalid("a snapshot that does not have its digest"));
        }
        let entered =
            self.store.enter(&self.path, SnapshotFile::new(self.meta, self.seal, Content::File(self.file)));
        entered.inspect_err(|_| forget(&self.path))
    }

    /// Looks for a chunk in every base, and puts it into its place.
    fn find(&mut self, chunk: u64, digest: &Digest, buffer: &mut [u8]) -> io::Result<bool> {
        let part = &mut buffer[..chunk_bytes(self.seal.bytes, chunk)];
        // A base that is too short, or cannot be read, does not have it.
        let mut has = |base: &&Arc<File>| {
            base.read_exact_at(part, offset(chunk)).is_ok() && chunk_digest(part) == *digest
        };
        let Some(base) = self.bases.iter().find(&mut has) else { return Ok(false) };
        if !Arc::ptr_eq(base, &self.file) {
            self.put(part, chunk)?;
        }
        Ok(true)
    }

    /// Writes a chunk into its place, and has the disk keep up: the end would take too long otherwise.
    fn put(&mut self, bytes: &[u8], chunk: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset(chunk))?;
        self.unflushed += bytes.len() as u64;
        if self.unflushed >= SNAPSHOT_FLUSH_BYTES {
            self.file.sync_data().inspect_err(|_| forget(&self.path))?;
            self.unflushed = 0;
        }
        Ok(())
    }

    fn close_region(&mut self) {
        if self.missing == 0 {
            for digest in self.chunks.drain(..) {
                self.digest.add(&digest);
            }
            self.region += 1;
        }
    }
}

fn offset(chunk: u64) -> u64 {
    chunk * u64::from(SNAPSHOT_CHUNK_BYTES)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the sender has sent {what}"))
}

/// Removes what could not be flushed: a next transfer would take what the system shows for what the disk has.
fn forget(path: &Path) {
    let _ = fs::remove_file(path);
}
