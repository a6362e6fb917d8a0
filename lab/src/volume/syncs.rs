//! Which syncs of files fail.

use std::collections::BTreeSet;

use super::{Inode, VolumeError};

/// What the disk does not take.
#[derive(Debug)]
pub(super) struct Syncs {
    /// Whether it takes nothing at all.
    pub(super) fail: bool,
    /// Files whose next sync fails.
    pub(super) fail_once: BTreeSet<Inode>,
    /// Bytes that files may have on the disk.
    pub(super) bytes_max: u64,
}

impl Default for Syncs {
    fn default() -> Self {
        Self { fail: false, fail_once: BTreeSet::new(), bytes_max: u64::MAX }
    }
}

impl Syncs {
    /// Whether a file may be synced that adds `more` bytes to those on the disk, which are `used` then.
    pub(super) fn check(&mut self, file: Inode, more: u64, used: u64) -> Result<(), VolumeError> {
        if self.fail_once.remove(&file) || self.fail {
            return Err(VolumeError::Failed);
        }
        if more > 0 && used > self.bytes_max { Err(VolumeError::Full) } else { Ok(()) }
    }
}
