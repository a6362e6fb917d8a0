//! The config disk of a machine: a small FAT volume, without partitions, that PID 1 of the appliance finds by its label.
//!
//! What the files mean is the appliance's affair.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aspen_init::layout::CONFIG_LABEL;

use super::fat::{self, FatFile};
use crate::limits::image::{CONFIG_DISK_BYTES, CONFIG_FILES_BYTES_MAX};

/// Why there is no config disk.
#[derive(Debug, thiserror::Error)]
pub enum ConfigDiskError {
    /// The files are too large.
    #[error("the files of a config disk have {0} bytes, at most {CONFIG_FILES_BYTES_MAX} fit")]
    TooLarge(usize),
    /// The volume cannot be made.
    #[error("cannot make the FAT volume of a config disk")]
    Volume(#[source] io::Error),
    /// The disk cannot be written.
    #[error("cannot write the config disk {}", .path.display())]
    Write {
        /// Where it should be.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Writes a config disk with these files; one that is there is replaced. Only its owner may read it, since it may hold the
/// node's secret key.
///
/// # Errors
/// [`ConfigDiskError`].
pub fn write(path: &Path, files: &[FatFile<'_>]) -> Result<(), ConfigDiskError> {
    let bytes = files.iter().map(|file| file.bytes.len()).sum();
    if bytes > CONFIG_FILES_BYTES_MAX {
        return Err(ConfigDiskError::TooLarge(bytes));
    }
    let volume = fat::volume(CONFIG_LABEL, CONFIG_DISK_BYTES, files).map_err(ConfigDiskError::Volume)?;
    let failed = |source| ConfigDiskError::Write { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(&volume).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn config_disk_is_for_its_owner_only_and_has_one_size() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("config.raw");
        write(&path, &[FatFile { path: "aspen.conf", bytes: b"hostname = \"n1\"\n" }]).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), CONFIG_DISK_BYTES);
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn files_that_are_too_large_or_have_no_place_are_named() {
        let large = vec![0; CONFIG_FILES_BYTES_MAX + 1];
        let error = write(Path::new("/nowhere/disk"), &[FatFile { path: "node.toml", bytes: &large }]);
        let want = "the files of a config disk have 921601 bytes, at most 921600 fit";
        assert_eq!(error.unwrap_err().to_string(), want);
        let error = write(Path::new("/nowhere/disk"), &[]).unwrap_err();
        assert_eq!(error.to_string(), "cannot write the config disk /nowhere/disk");
    }
}
