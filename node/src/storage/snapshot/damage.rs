//! Snapshots whose bytes are no longer those that were sealed, or cannot be read any more: disks forget. Whoever reads all of one notices,
//! and another takes its place.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::{Digest, SnapshotFile, SnapshotStore};

/// Why a snapshot is of no use, once somebody has noticed. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Damage(Arc<OnceLock<String>>);

/// What a seal says of all bytes, from the digests of the chunks in their order.
#[derive(Debug, Clone, Default)]
pub struct SealDigest(blake3::Hasher);

impl SealDigest {
    /// Takes the digest of the next chunk.
    pub fn add(&mut self, chunk: &Digest) {
        self.0.update(chunk);
    }

    /// That of all of them.
    pub fn finish(&self) -> Digest {
        *self.0.finalize().as_bytes()
    }
}

impl SnapshotFile {
    /// Why it is of no use, if somebody has noticed.
    pub fn damage(&self) -> Option<&str> {
        self.damage.0.get().map(String::as_str)
    }

    /// Takes down that it is of no use. The first reason counts.
    pub fn note_damage(&self, why: impl Display) {
        let _ = self.damage.0.set(why.to_string());
    }

    /// Whether all of its bytes were what was sealed. Where they were not, that is taken down.
    pub fn is_sealed_by(&self, read: &SealDigest) -> bool {
        let is_whole = read.finish() == self.seal.digest;
        if !is_whole {
            self.note_damage("its bytes are not those of its digest");
        }
        is_whole
    }
}

impl SnapshotStore {
    /// Removes the file of the newest snapshot, if that was found to be of no use and is still there: which one it was, and why. It
    /// counts as the newest until another takes its place, since Raft ends where there is none any more.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove_damaged(&self) -> io::Result<Option<(PathBuf, String)>> {
        // Another one of the same name takes its place either before that or after.
        let _turn = self.0.entering.lock().expect("nothing panics while it holds this lock");
        let Some(current) = self.current() else { return Ok(None) };
        let Some(why) = current.damage() else { return Ok(None) };
        let path = self.path(&current);
        match fs::remove_file(&path) {
            Ok(()) => Ok(Some((path, why.to_owned()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
