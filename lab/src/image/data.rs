//! The empty ext4 of a data disk, made by mke2fs(8): always the same bytes, small, and ready to be grown while mounted.

use std::io;
use std::path::{Path, PathBuf};

use aspen_init::layout::DATA_LABEL;

use super::workshop::{Workshop, WorkshopError};
use crate::limits::image::DATA_BYTES;
use crate::program::Program;

/// The file system's id, and the seed of its directory hashes. Data disks are never used two at a time, and a fixed one
/// makes the same image every time.
const UUID: &str = "a59e17da-7a00-4000-8000-000000000001";

/// Why there is no empty file system.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// No mke2fs, or it fails.
    #[error("cannot make the empty ext4 of the data disk with mke2fs: install the package e2fsprogs")]
    Make(#[source] WorkshopError),
    /// Its file cannot be made or read.
    #[error("cannot use {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Makes the file system, in a file below `scratch`, and returns it whole.
///
/// # Errors
/// [`DataError`].
pub fn empty_ext4(scratch: &Path, epoch: u64, workshop: &Workshop<'_>) -> Result<Vec<u8>, DataError> {
    let path = scratch.join("data.ext4");
    let failed = |source| DataError::File { path: path.clone(), source };
    let file = std::fs::File::create(&path).map_err(failed)?;
    file.set_len(DATA_BYTES).map_err(failed)?;
    let time = epoch.to_string();
    let program = Program::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-L", DATA_LABEL, "-U", UUID, "-b", "4096", "-I", "256", "-m", "0"])
        // Few inodes for each part that growing adds: the node has a dozen files.
        .args(["-N", "1024", "-J", "size=4", "-O", FEATURES, "-E", &extended()])
        .arg(&path)
        .env("E2FSPROGS_FAKE_TIME", &time)
        .env("SOURCE_DATE_EPOCH", &time)
        // Not what the machine's /etc/mke2fs.conf says.
        .env("MKE2FS_CONFIG", "/dev/null");
    workshop.helper(program).map_err(DataError::Make)?;
    let bytes = std::fs::read(&path).map_err(failed)?;
    std::fs::remove_file(&path).map_err(failed)?;
    Ok(bytes)
}

/// What mke2fs says of its version: another one may make another file system.
///
/// # Errors
/// No mke2fs.
pub fn maker(workshop: &Workshop<'_>) -> Result<String, DataError> {
    let said = workshop.helper(Program::new("mke2fs").arg("-V")).map_err(DataError::Make)?;
    Ok(said.stderr.lines().next().unwrap_or_default().to_owned())
}

/// Every feature by name, so that another version of mke2fs has no others. `resize_inode` keeps room for growing while
/// mounted, a thousandfold.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

fn extended() -> String {
    format!("hash_seed={UUID},lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,nodiscard")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;

    #[test]
    fn empty_file_system_has_its_label_and_the_same_bytes_again() {
        let home = tempfile::tempdir().unwrap();
        let mut tell = |_: &str| {};
        let workshop = Workshop::open(home.path(), &mut tell).unwrap();
        if host::program(&["mke2fs"]).is_none() {
            host::lacks("qemu", "mke2fs (apt-get install e2fsprogs)");
            return;
        }
        let made = || empty_ext4(home.path(), 315_532_800, &workshop).unwrap();
        let first = made();
        assert!(first == made());
        assert_eq!(first.len() as u64, DATA_BYTES);
        // Magic and label of the superblock (Documentation/filesystems/ext4/super.rst).
        assert_eq!(first[0x438..0x43a], [0x53, 0xef]);
        assert_eq!(&first[0x478..0x478 + DATA_LABEL.len()], DATA_LABEL.as_bytes());
        let maker = maker(&workshop).unwrap();
        assert!(maker.starts_with("mke2fs 1."), "{maker}");
        let filled = first.chunks(4096).filter(|block| block.iter().any(|byte| *byte != 0)).count();
        assert!(filled < 64, "{filled} blocks are not zero");
    }
}
