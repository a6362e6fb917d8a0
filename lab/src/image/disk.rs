//! The raw disk: GPT, an EFI system partition with the unified kernel image, and a data partition.
//!
//! It is sparse: what is zero is not written. Its identifiers come from its content.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use aspen_init::layout::DATA_NAME;
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{EFI, LINUX_FS, Type};
use uuid::Uuid;

use super::digest;
use super::fat::{self, FatFile};
use crate::limits::image::{DATA_PARTITION_BYTES, ESP_BYTES_MAX, ESP_SPARE_BYTES};

/// Where firmware looks for a program when it has no boot entry (UEFI 2.10, 3.5.1.1).
const BOOT_PATH: &str = "EFI/BOOT/BOOTX64.EFI";
/// Size of a sector.
const SECTOR_BYTES: u64 = 512;
/// Partitions begin at multiples of this, as every tool does it.
const ALIGNMENT: u64 = 1 << 20;
/// What is written or left out as a whole: the block of most file systems.
const BLOCK_BYTES: usize = 4096;

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The image does not fit an EFI system partition.
    #[error("the unified kernel image has {0} bytes, at most {ESP_BYTES_MAX} fit the disk")]
    TooLarge(u64),
    /// The file system on the EFI system partition.
    #[error("cannot make the EFI system partition")]
    Esp(#[source] io::Error),
    /// The partition table.
    #[error("cannot write the partition table of {}", .path.display())]
    Table {
        /// The disk's file.
        path: PathBuf,
        /// What is wrong.
        source: gpt::GptError,
    },
    /// The partition table of a disk that is there.
    #[error("cannot read the partition table of {}", .path.display())]
    NoTable {
        /// The disk's file.
        path: PathBuf,
        /// What is wrong.
        source: gpt::GptError,
    },
    /// A disk that is there.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The disk's file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The disk's file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// A partition as it was found on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Where it begins, in bytes.
    pub start: u64,
    /// Its size, in bytes.
    pub bytes: u64,
}

/// Writes the disk to a new file.
///
/// # Errors
/// [`DiskError`].
pub fn write(path: &Path, uki: &[u8], ext4: &[u8]) -> Result<(), DiskError> {
    let esp_bytes = (uki.len() as u64 + ESP_SPARE_BYTES).next_multiple_of(ALIGNMENT);
    if esp_bytes > ESP_BYTES_MAX {
        return Err(DiskError::TooLarge(uki.len() as u64));
    }
    let esp = fat::volume("ASPEN-ESP", esp_bytes, &[FatFile { path: BOOT_PATH, bytes: uki }]);
    let esp = esp.map_err(DiskError::Esp)?;
    let esp_start = ALIGNMENT;
    let data_start = esp_start + esp_bytes;
    let disk_bytes = data_start + DATA_PARTITION_BYTES + ALIGNMENT;
    let failed = |source| DiskError::Write { path: path.to_owned(), source };
    let mut options = File::options();
    let mut file = options.read(true).write(true).create_new(true).open(path).map_err(failed)?;
    file.set_len(disk_bytes).map_err(failed)?;
    let content = digest::of_bytes(&[digest::of_bytes(&esp).0, digest::of_bytes(ext4).0].concat());
    let partition = |label: &str, kind: Type, name: &str, start: u64, bytes: u64| Partition {
        part_type_guid: kind,
        part_guid: identifier(&content, label),
        first_lba: start / SECTOR_BYTES,
        last_lba: (start + bytes) / SECTOR_BYTES - 1,
        flags: 0,
        name: name.to_owned(),
    };
    let partitions = BTreeMap::from([
        (1, partition("esp", EFI, "aspen-esp", esp_start, esp_bytes)),
        (2, partition("data", LINUX_FS, DATA_NAME, data_start, DATA_PARTITION_BYTES)),
    ]);
    let sectors = u32::try_from(disk_bytes / SECTOR_BYTES - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(sectors)
        .overwrite_lba0(&mut file)
        .map_err(|error| failed(io::Error::other(error)))?;
    let table = |source| DiskError::Table { path: path.to_owned(), source };
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut gpt = config.create_from_device(&mut file, Some(identifier(&content, "disk"))).map_err(table)?;
    gpt.update_partitions(partitions).map_err(table)?;
    gpt.write().map_err(table)?;
    write_sparse(&mut file, esp_start, &esp).map_err(failed)?;
    write_sparse(&mut file, data_start, ext4).map_err(failed)
}

/// An identifier that the content decides: version 8 of RFC 9562, which leaves the bits to us.
fn identifier(content: &digest::Digest, label: &str) -> Uuid {
    let digest = digest::of_bytes(&[&content.0, label.as_bytes()].concat());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.0[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// Writes blocks that are not zero.
fn write_sparse(file: &mut File, start: u64, bytes: &[u8]) -> io::Result<()> {
    for (place, block) in (0_u64..).zip(bytes.chunks(BLOCK_BYTES)) {
        if block.iter().any(|byte| *byte != 0) {
            file.seek(SeekFrom::Start(start + place * BLOCK_BYTES as u64))?;
            file.write_all(block)?;
        }
    }
    Ok(())
}

/// The partitions of a disk.
///
/// # Errors
/// It cannot be read, or has no partition table.
pub fn partitions(path: &Path) -> Result<Vec<Found>, DiskError> {
    let failed = |source| DiskError::Read { path: path.to_owned(), source };
    let table = |source| DiskError::NoTable { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let config = GptConfig::new().logical_block_size(LogicalBlockSize::Lb512);
    let gpt = config.open_from_device(&mut file).map_err(table)?;
    let found = gpt.partitions().values().map(|partition| Found {
        name: partition.name.clone(),
        start: partition.first_lba * SECTOR_BYTES,
        bytes: (partition.last_lba + 1 - partition.first_lba) * SECTOR_BYTES,
    });
    Ok(found.collect())
}

/// Reads a part of a file.
pub(super) fn read_at(file: &mut File, start: u64, bytes: &mut [u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn disk_has_both_partitions_is_sparse_and_has_the_same_bytes_again() {
        let home = tempfile::tempdir().unwrap();
        let paths = ["a.raw", "b.raw"].map(|name| home.path().join(name));
        let uki = vec![7; 3_000_000];
        let mut ext4 = vec![0; 16 << 20];
        ext4[0x438] = 0x53;
        for path in &paths {
            write(path, &uki, &ext4).unwrap();
        }
        assert_eq!(digest::of_file(&paths[0]).unwrap(), digest::of_file(&paths[1]).unwrap());
        let found = partitions(&paths[0]).unwrap();
        let names: Vec<&str> = found.iter().map(|partition| partition.name.as_str()).collect();
        assert_eq!(names, ["aspen-esp", DATA_NAME]);
        assert_eq!(found[1].bytes, DATA_PARTITION_BYTES);
        let mut file = File::open(&paths[0]).unwrap();
        let mut superblock = [0];
        read_at(&mut file, found[1].start + 0x438, &mut superblock).unwrap();
        assert_eq!(superblock, [0x53]);
        let allocated = file.metadata().unwrap().blocks() * 512;
        assert!(allocated < 4 << 20, "{allocated} bytes are allocated");
        let other = home.path().join("c.raw");
        write(&other, &[8; 1000], &ext4).unwrap();
        assert_ne!(digest::of_file(&paths[0]).unwrap(), digest::of_file(&other).unwrap());
        let error = partitions(&home.path().join("none")).unwrap_err().to_string();
        assert_eq!(error, format!("cannot read {}", home.path().join("none").display()));
        std::fs::write(home.path().join("blank"), [0; 4096]).unwrap();
        let error = partitions(&home.path().join("blank")).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("cannot read the partition table of {}", home.path().join("blank").display())
        );
        let error = write(&other, &uki, &ext4).unwrap_err().to_string();
        assert_eq!(error, format!("cannot write {}", other.display()));
    }
}
