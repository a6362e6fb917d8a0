//! The config disk: a FAT volume with a label, read without the kernel's help.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use aspen_init::layout::{
    CONFIG_FILE, CONFIG_LABEL, CONFIG_NODE_FILE, CONFIG_PRIVATE_FOLDER, CONFIG_SECRET_FILE,
};
use aspen_init::limits::{
    CONFIG_BYTES_MAX, NODE_CONFIG_BYTES_MAX, PRIVATE_BYTES_MAX, PRIVATE_FILES_MAX, SECRET_BYTES_MAX,
};
use fatfs::{Dir, DirEntry, FileSystem, FsOptions};

use super::super::devices::BlockDevice;

/// What is on the config disk. Whatever a file says is not yet understood.
pub(in super::super) struct ConfigDisk {
    /// Its device.
    pub(in super::super) device: PathBuf,
    /// Its `aspen.conf`.
    pub(in super::super) config: Option<String>,
    /// Its `node.toml`.
    pub(in super::super) node_config: Option<String>,
    /// Its `secret.key`.
    pub(in super::super) secret: Option<String>,
    /// The files in its folder `private`, by their names.
    pub(in super::super) private: Vec<(String, String)>,
}

impl std::fmt::Debug for ConfigDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigDisk").field("device", &self.device).finish_non_exhaustive()
    }
}

/// Why a config disk is of no use.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum ConfigDiskError {
    /// There are two.
    #[error("{} and {} are both labelled {CONFIG_LABEL}: leave one attached", .0.display(), .1.display())]
    Two(PathBuf, PathBuf),
    /// It is labelled, and is no FAT file system.
    #[error("the config disk {} is damaged: make it again", .device.display())]
    Damaged {
        /// Its device.
        device: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// A file of it cannot be read.
    #[error("cannot read {file} on the config disk {}", .device.display())]
    File {
        /// Its device.
        device: PathBuf,
        /// The file.
        file: String,
        /// What is wrong.
        source: io::Error,
    },
    /// A file is too long.
    #[error("{file} on the config disk {} has more than {bytes_max} bytes: shorten it", .device.display())]
    Long {
        /// Its device.
        device: PathBuf,
        /// The file.
        file: String,
        /// How many are allowed.
        bytes_max: u64,
    },
    /// There are too many.
    #[error(
        "{CONFIG_PRIVATE_FOLDER} on the config disk {} has more than {PRIVATE_FILES_MAX} files: leave only what node.toml names",
        .0.display()
    )]
    Many(PathBuf),
    /// A file is no text.
    #[error("{file} on the config disk {} is no UTF-8 text: write it again", .device.display())]
    NoText {
        /// Its device.
        device: PathBuf,
        /// The file.
        file: String,
    },
}

/// The config disk among these.
///
/// # Errors
/// There are two, or what it holds cannot be read.
pub(super) fn find(devices: &[BlockDevice]) -> Result<Option<ConfigDisk>, ConfigDiskError> {
    let found = devices.iter().map(|device| (device, device.path())).filter(|(_, path)| is_labelled(path));
    let found: Vec<(&BlockDevice, PathBuf)> = found.collect();
    // mkfs.fat writes a partition table into the volume itself, with one partition that is the whole disk: the kernel shows the
    // same volume twice.
    let is_shown = |disk: &str| found.iter().any(|(device, _)| device.name == disk);
    let is_again = |device: &BlockDevice| device.disk.as_deref().is_some_and(is_shown);
    let distinct = found.iter().filter(|(device, _)| !is_again(device)).map(|(_, path)| path.clone());
    one_of(distinct.collect())
}

fn one_of(labelled: Vec<PathBuf>) -> Result<Option<ConfigDisk>, ConfigDiskError> {
    match labelled.as_slice() {
        [] => Ok(None),
        [device] => read(device.clone()).map(Some),
        [device, second, ..] => Err(ConfigDiskError::Two(device.clone(), second.clone())),
    }
}

/// Whether a device begins as a FAT volume of that label does ("Microsoft FAT Specification", 3: `BS_VolLab` is at 43 for
/// FAT12 and FAT16, at 71 for FAT32).
fn is_labelled(device: &Path) -> bool {
    let mut sector = [0; 512];
    let read = File::open(device).and_then(|mut file| file.read_exact(&mut sector));
    let label = format!("{CONFIG_LABEL:11}");
    let is_label = |at: usize| sector[at..].starts_with(label.as_bytes());
    read.is_ok() && sector[510..] == [0x55, 0xaa] && (is_label(43) || is_label(71))
}

fn read(device: PathBuf) -> Result<ConfigDisk, ConfigDiskError> {
    let damaged = |source| ConfigDiskError::Damaged { device: device.clone(), source };
    let file = File::open(&device).map_err(damaged)?;
    let system = FileSystem::new(file, FsOptions::new()).map_err(damaged)?;
    let root = system.root_dir();
    let text = |file: &str, bytes_max| text(&root, &device, file, bytes_max);
    let (config, node_config, secret) = (
        text(CONFIG_FILE, CONFIG_BYTES_MAX)?,
        text(CONFIG_NODE_FILE, NODE_CONFIG_BYTES_MAX)?,
        text(CONFIG_SECRET_FILE, SECRET_BYTES_MAX)?,
    );
    let mut private = Vec::new();
    let names = private_files(&root).map_err(damaged)?;
    if names.len() > PRIVATE_FILES_MAX {
        return Err(ConfigDiskError::Many(device));
    }
    for name in names {
        let Some(text) = text(&format!("{CONFIG_PRIVATE_FOLDER}/{name}"), PRIVATE_BYTES_MAX)? else {
            continue;
        };
        private.push((name, text));
    }
    Ok(ConfigDisk { config, node_config, secret, private, device: device.clone() })
}

/// The names of the files in the folder `private`, if there is one; of too many, one more than there may be.
fn private_files<D: Read + Write + Seek>(root: &Dir<'_, D>) -> io::Result<Vec<String>> {
    let folder = match root.open_dir(CONFIG_PRIVATE_FOLDER) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let files = folder.iter().filter(|entry| entry.as_ref().map_or(true, DirEntry::is_file));
    let names = files.map(|entry| entry.map(|entry| entry.file_name())).take(PRIVATE_FILES_MAX + 1);
    let mut names: Vec<String> = names.collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// A file, if it is there.
fn text<D: Read + Write + Seek>(
    root: &Dir<'_, D>,
    device: &Path,
    file: &str,
    bytes_max: u64,
) -> Result<Option<String>, ConfigDiskError> {
    let place = || (device.to_owned(), file.to_owned());
    let failed = |source| {
        let (device, file) = place();
        ConfigDiskError::File { device, file, source }
    };
    let mut bytes = Vec::new();
    match root.open_file(file) {
        Ok(found) => found.take(bytes_max + 1).read_to_end(&mut bytes).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    let (device, file) = place();
    if bytes.len() as u64 > bytes_max {
        return Err(ConfigDiskError::Long { device, file, bytes_max });
    }
    String::from_utf8(bytes).map(Some).map_err(|_no_text| ConfigDiskError::NoText { device, file })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use fatfs::FormatVolumeOptions;

    use super::*;

    /// A volume with these files.
    fn volume(path: &Path, label: &str, files: &[(&str, &[u8])]) {
        let open =
            || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap();
        open().set_len(1024 * 1024).unwrap();
        let label = format!("{label:11}").into_bytes().try_into().unwrap();
        fatfs::format_volume(open(), FormatVolumeOptions::new().volume_label(label)).unwrap();
        let system = FileSystem::new(open(), FsOptions::new()).unwrap();
        system.root_dir().create_dir("private").unwrap();
        for (name, bytes) in files {
            let mut file = system.root_dir().create_file(name).unwrap();
            file.write_all(bytes).unwrap();
            file.flush().unwrap();
        }
        system.unmount().unwrap();
    }

    /// A disk, or a partition of one.
    fn device(path: &Path, disk: Option<&Path>) -> BlockDevice {
        let name = |path: &Path| path.to_str().unwrap().to_owned();
        BlockDevice {
            // An absolute name leads to itself.
            name: name(path),
            bytes: 1 << 20,
            serial: None,
            partition_name: None,
            disk: disk.map(name),
            has_partitions: false,
            is_read_only: false,
        }
    }

    fn find_at(paths: impl Iterator<Item = PathBuf>) -> Result<Option<ConfigDisk>, ConfigDiskError> {
        find(&paths.map(|path| device(&path, None)).collect::<Vec<_>>())
    }

    #[track_caller]
    fn check_refused(directory: &Path, names: &[&str], want: &str) {
        let error = find_at(names.iter().map(|name| directory.join(name))).unwrap_err().to_string();
        assert_eq!(error.replace(directory.to_str().unwrap(), "DIR"), want);
    }

    #[test]
    fn files_of_the_labelled_volume_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        volume(&at("a"), "OTHER", &[("aspen.conf", b"other")]);
        volume(&at("b"), "ASPEN-CFG", &[("aspen.conf", b"hostname = 'n1'\n"), ("node.toml", b"id = 1\n")]);
        fs::write(at("c"), [0; 512]).unwrap();
        fs::write(at("d"), "short").unwrap();
        let disk = find_at(["a", "b", "c", "d", "none"].into_iter().map(at)).unwrap().unwrap();
        assert_eq!(disk.device, at("b"));
        assert_eq!(disk.config.as_deref(), Some("hostname = 'n1'\n"));
        assert_eq!(disk.node_config.as_deref(), Some("id = 1\n"));
        assert_eq!((disk.secret, disk.private), (None, Vec::new()));
        assert!(find_at(["a", "c"].into_iter().map(at)).unwrap().is_none());
    }

    /// Found with a disk made by mkfs.fat 4.2, which writes a partition table that has the volume itself as a partition.
    #[test]
    fn partition_that_is_its_whole_disk_is_no_second_config_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, other) = (dir.path().join("vda"), dir.path().join("vdb"));
        volume(&disk, "ASPEN-CFG", &[("aspen.conf", b"hostname = 'n1'\n")]);
        let partition = dir.path().join("vda1");
        fs::copy(&disk, &partition).unwrap();
        let both = [device(&disk, None), device(&partition, Some(&disk))];
        assert_eq!(find(&both).unwrap().unwrap().device, disk);
        // A disk whose table is its own, and that has the volume in a partition.
        fs::write(&disk, [0; 512]).unwrap();
        assert_eq!(find(&both).unwrap().unwrap().device, partition);
        // The partition of another disk is another one.
        volume(&other, "ASPEN-CFG", &[]);
        let two = [device(&other, None), device(&partition, Some(&disk))];
        assert!(matches!(find(&two), Err(ConfigDiskError::Two(..))));
    }

    #[test]
    fn disk_that_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        volume(&at("a"), "ASPEN-CFG", &[]);
        volume(&at("b"), "ASPEN-CFG", &[]);
        check_refused(
            dir.path(),
            &["a", "b"],
            "DIR/a and DIR/b are both labelled ASPEN-CFG: leave one attached",
        );
        volume(&at("c"), "ASPEN-CFG", &[("aspen.conf", b"\xff\xfe")]);
        check_refused(
            dir.path(),
            &["c"],
            "aspen.conf on the config disk DIR/c is no UTF-8 text: write it again",
        );
        volume(&at("d"), "ASPEN-CFG", &[("secret.key", &[b'a'; 4097])]);
        check_refused(
            dir.path(),
            &["d"],
            "secret.key on the config disk DIR/d has more than 4096 bytes: shorten it",
        );
        let many: Vec<String> = (0..=PRIVATE_FILES_MAX).map(|number| format!("private/{number}")).collect();
        let many: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), b"x".as_slice())).collect();
        volume(&at("f"), "ASPEN-CFG", &many);
        check_refused(
            dir.path(),
            &["f"],
            "private on the config disk DIR/f has more than 16 files: leave only what node.toml names",
        );
        volume(&at("g"), "ASPEN-CFG", &[("private/tls.crt", &[0xff])]);
        check_refused(
            dir.path(),
            &["g"],
            "private/tls.crt on the config disk DIR/g is no UTF-8 text: write it again",
        );
        volume(&at("h"), "ASPEN-CFG", &many[1..]);
        assert_eq!(find_at([at("h")].into_iter()).unwrap().unwrap().private.len(), PRIVATE_FILES_MAX);
        let mut bytes = fs::read(at("a")).unwrap();
        bytes[11..13].copy_from_slice(&[1, 1]);
        fs::write(at("e"), bytes).unwrap();
        check_refused(dir.path(), &["e"], "the config disk DIR/e is damaged: make it again");
    }
}
