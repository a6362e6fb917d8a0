//! Room on the disk: how much of it is left, and when that is so little that nothing more is taken in.
//!
//! A store that meets the end of its disk fails in the middle of what it does. So a reserve is kept: below it new entries are
//! refused, while votes, reads and what is under way go on, and what is refused is welcome again once there is room.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::sys::statvfs::statvfs;

use crate::limits::{DISK_LOOK_INTERVAL, MIB};

/// The disk of a data directory.
#[derive(Debug)]
pub struct Space {
    path: PathBuf,
    reserve: u64,
    /// Bytes that were left at the last look; [`UNKNOWN`] where the file system does not say.
    left: AtomicU64,
    /// Whether they were too few.
    is_short: AtomicBool,
}

const UNKNOWN: u64 = u64::MAX;
/// What is written to find out whether there is room.
const TRIAL_FILE: &str = "room-trial";

/// Too little room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the disk has {} MiB left, {} MiB are needed: make room on it", left.div_ceil(MIB), needed.div_ceil(MIB))]
pub struct DiskFull {
    /// Bytes that are left.
    pub left: u64,
    /// Bytes that have to be.
    pub needed: u64,
}

impl Space {
    /// The disk on which this directory is, of which so many bytes are kept in reserve.
    pub fn new(path: &Path, reserve: u64) -> Self {
        let (left, is_short) = (AtomicU64::new(UNKNOWN), AtomicBool::new(false));
        let space = Self { path: path.to_owned(), reserve, left, is_short };
        space.look();
        space
    }

    /// Whether there was room for more when it was last looked.
    ///
    /// # Errors
    /// Only the reserve is left, or less.
    pub fn check(&self) -> Result<(), DiskFull> {
        let left = self.left.load(Ordering::Relaxed);
        if self.is_short.load(Ordering::Relaxed) {
            return Err(DiskFull { left, needed: self.enough() });
        }
        Ok(())
    }

    /// Whether there was room for so many bytes beside the reserve when it was last looked.
    ///
    /// # Errors
    /// There was not.
    pub fn check_for(&self, bytes: u64) -> Result<(), DiskFull> {
        let (left, needed) = (self.left.load(Ordering::Relaxed), self.reserve.saturating_add(bytes));
        // Whoever is not told tries, and sees.
        if left < needed { Err(DiskFull { left, needed }) } else { Ok(()) }
    }

    /// Bytes that were left to this user at the last look, where the file system says so.
    pub fn available(&self) -> Option<u64> {
        Some(self.left.load(Ordering::Relaxed)).filter(|left| *left != UNKNOWN)
    }

    /// What is enough again: what has just been refused is not let in again for a single entry's room.
    fn enough(&self) -> u64 {
        self.reserve.saturating_add(self.reserve / 8)
    }

    /// Bytes below which nothing more is taken in.
    pub fn reserve(&self) -> u64 {
        self.reserve
    }

    /// Looks how much is left, again and again, for as long as it runs.
    pub async fn watch(&self) {
        loop {
            tokio::time::sleep(DISK_LOOK_INTERVAL).await;
            self.look();
        }
    }

    fn look(&self) {
        let Some(now) = left(&self.path) else { return };
        self.left.store(now, Ordering::Relaxed);
        let was_short = self.is_short.load(Ordering::Relaxed);
        let is_short = now < if was_short { self.enough() } else { self.reserve };
        self.is_short.store(is_short, Ordering::Relaxed);
        if is_short && !was_short {
            let full = DiskFull { left: now, needed: self.enough() };
            tracing::warn!(path = %self.path.display(), "writes are refused: {full}");
        } else if was_short && !is_short {
            tracing::info!(path = %self.path.display(), left_mib = now.div_ceil(MIB), "there is room again, writes are taken");
        }
    }
}

/// Whether there was no room: on the disk, or for this user (EDQUOT).
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether the disk of a folder has no room for so many bytes, found out by doing: what a file system says of its room knows nothing of
/// a user's share.
pub(super) fn has_none(folder: &Path, bytes: usize) -> bool {
    let path = folder.join(TRIAL_FILE);
    let tried = File::create(&path).and_then(|mut file| {
        // Without a name it is gone with this handle, however this process ends.
        fs::remove_file(&path)?;
        file.write_all(&vec![1; bytes])
    });
    tried.is_err_and(|error| is_disk_full(&error))
}

/// Bytes that are left to this user on the disk of a path; nothing where the file system does not say.
fn left(path: &Path) -> Option<u64> {
    let found = statvfs(path).ok()?;
    Some(found.blocks_available().saturating_mul(found.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserve_that_is_not_there_is_missed() {
        let folder = tempfile::tempdir().unwrap();
        let space = Space::new(folder.path(), 1);
        assert_eq!(space.check(), Ok(()));
        assert_eq!(space.check_for(1), Ok(()));
        let full = space.check_for(u64::MAX - 1).unwrap_err();
        assert_eq!(full.needed, u64::MAX);
        let greedy = Space::new(folder.path(), 1 << 62);
        let full = greedy.check().unwrap_err();
        // What is asked for is more than what is left, whichever bar it was.
        assert!(full.needed == (1 << 62) + (1 << 59) && full.left < full.needed, "{full}");
        let text = DiskFull { left: 1, needed: 64 * 1024 * 1024 }.to_string();
        assert_eq!(text, "the disk has 1 MiB left, 64 MiB are needed: make room on it");
    }
}
