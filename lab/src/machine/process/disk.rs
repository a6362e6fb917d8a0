//! A disk of a node that is a process: it can lose what was not synced.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::limits::UNSYNCED_BYTES;
use crate::volume::{Loss, Lost, MountError, Mounted};

/// What is written and not synced before each cut.
const UNSYNCED: &str = "unsynced";

/// A volume over a node's folder.
#[derive(Debug)]
pub struct LossyDisk {
    folder: PathBuf,
    mounted: Mounted,
}

impl LossyDisk {
    /// An empty one over a folder, which is made.
    ///
    /// # Errors
    /// This host forbids it.
    pub fn new(folder: &Path) -> Result<Self, MountError> {
        fs::create_dir_all(folder).map_err(|source| MountError::new(folder, source))?;
        Ok(Self { folder: folder.to_owned(), mounted: Mounted::new(folder)? })
    }

    /// Writes what nobody syncs: of a disk that loses nothing of it, the power was not cut.
    pub(super) fn write_unsynced(&self) -> Result<(), MountError> {
        let path = self.folder.join(UNSYNCED);
        fs::write(&path, vec![0xa5; UNSYNCED_BYTES]).map_err(|source| MountError::new(&path, source))
    }

    /// Takes everything that was not synced, or a part of it. Whoever has it open has to be dead.
    pub(super) fn cut(&mut self, draw: u32) -> Result<Lost, MountError> {
        let mut random = ChaCha8Rng::seed_from_u64(draw.into());
        let loss = Loss::draw_felt(&mut random);
        let gone = self.mounted.cut(loss, &mut random)?;
        let path = self.folder.join(UNSYNCED);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(MountError::new(&path, error)),
            _ => Ok(gone),
        }
    }
}
