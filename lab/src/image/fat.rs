//! FAT volumes in memory: config disks, and the EFI system partition. The same files give the same bytes.
//!
//! Names, layout and the choice of FAT12, 16 or 32 are the crate's.

use std::io::{self, Cursor, Write};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use sha2::{Digest, Sha256};

/// A file to be put into a volume.
#[derive(Clone, Copy)]
pub struct FatFile<'a> {
    /// Path from the root, with slashes; its folders are made.
    pub path: &'a str,
    /// What it holds.
    pub bytes: &'a [u8],
}

impl std::fmt::Debug for FatFile<'_> {
    // A file may hold a secret key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FatFile({}, {} bytes)", self.path, self.bytes.len())
    }
}

/// Makes a volume of `volume_bytes` with this label, of at most 11 ASCII characters, and these files.
///
/// # Errors
/// The files do not fit, or a path is none.
pub fn volume(label: &str, volume_bytes: u64, files: &[FatFile<'_>]) -> io::Result<Vec<u8>> {
    assert!(label.len() <= 11 && label.is_ascii());
    let bytes = usize::try_from(volume_bytes).map_err(io::Error::other)?;
    let mut disk = Cursor::new(vec![0; bytes]);
    let mut padded = [b' '; 11];
    padded[..label.len()].copy_from_slice(label.as_bytes());
    let options = FormatVolumeOptions::new().volume_label(padded).volume_id(volume_id(files));
    fatfs::format_volume(&mut disk, options)?;
    disk.set_position(0);
    {
        // Without the crate's clock every time is 1980-01-01, the first that FAT knows.
        let fat = FileSystem::new(&mut disk, FsOptions::new().update_accessed_date(false))?;
        for file in files {
            let mut folder = fat.root_dir();
            let mut names = file.path.split('/').filter(|name| !name.is_empty()).peekable();
            while let Some(name) = names.next() {
                if names.peek().is_some() {
                    folder = folder.create_dir(name)?;
                } else {
                    let mut entry = folder.create_file(name)?;
                    entry.truncate()?;
                    entry.write_all(file.bytes)?;
                    entry.flush()?;
                }
            }
        }
        fat.unmount()?;
    }
    Ok(disk.into_inner())
}

/// A serial number that only the content decides.
fn volume_id(files: &[FatFile<'_>]) -> u32 {
    let mut digest = Sha256::new();
    for file in files {
        digest.update(file.path);
        digest.update([0]);
        digest.update(file.bytes);
    }
    let digest = digest.finalize();
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn volume_has_its_label_and_its_files_and_the_same_bytes_again() {
        let large = vec![7; 100_000];
        let files = [
            FatFile { path: "aspen.conf", bytes: b"hostname = \"n1\"\n" },
            FatFile { path: "EFI/BOOT/BOOTX64.EFI", bytes: &large },
        ];
        let bytes = volume("ASPEN-CFG", 1 << 20, &files).unwrap();
        assert_eq!(bytes, volume("ASPEN-CFG", 1 << 20, &files).unwrap());
        let mut disk = Cursor::new(bytes);
        let fat = FileSystem::new(&mut disk, FsOptions::new()).unwrap();
        assert_eq!(fat.volume_label(), "ASPEN-CFG");
        assert_eq!(fat.read_volume_label_from_root_dir().unwrap().as_deref(), Some("ASPEN-CFG"));
        for file in files {
            let mut read = Vec::new();
            fat.root_dir().open_file(file.path).unwrap().read_to_end(&mut read).unwrap();
            assert!(read == file.bytes, "{}", file.path);
        }
    }

    #[test]
    fn volume_that_is_too_small_is_an_error() {
        let large = vec![7; 2 << 20];
        let files = [FatFile { path: "large", bytes: &large }];
        assert!(volume("SMALL", 1 << 20, &files).is_err());
    }
}
