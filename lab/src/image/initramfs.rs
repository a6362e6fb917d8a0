//! The initramfs: a newc archive (Documentation/driver-api/early-userspace/buffer-format.rst), packed with zstd.
//!
//! The same entries give the same bytes: they are sorted, numbered in order, and have one owner and one time.

use std::collections::BTreeMap;
use std::io::{self, Write};

use cpio::NewcBuilder;
use cpio::newc::ModeFileType;
use zstd::zstd_safe::CParameter;

use super::bounded;
use super::modules::Module;
use crate::limits::image::{
    INITRAMFS_MATCH_BYTES_MIN, INITRAMFS_UNPACKED_BYTES_MAX, INITRAMFS_WINDOW_LOG, INITRAMFS_ZSTD_LEVEL,
};

/// What a path in the archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// An empty folder.
    Folder,
    /// A file.
    File {
        /// What it holds.
        bytes: Vec<u8>,
        /// Whether it is a program.
        is_program: bool,
    },
    /// A character device, major and minor.
    Device(u32, u32),
    /// A symbolic link to this.
    Link(String),
}

/// Why there is no initramfs.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// Too large.
    #[error(
        "the files of the initramfs have {0} bytes, at most {INITRAMFS_UNPACKED_BYTES_MAX} fit a small machine"
    )]
    TooLarge(u64),
    /// It cannot be packed.
    #[error("cannot pack the initramfs")]
    Pack(#[from] io::Error),
}

/// The content of an initramfs: absolute path to entry. Folders on the way are added by themselves.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Initramfs {
    entries: BTreeMap<String, Entry>,
}

impl Initramfs {
    /// Adds an entry.
    pub fn add(&mut self, path: &str, entry: Entry) {
        assert!(path.starts_with('/') && path.len() > 1);
        for (place, _slash) in path.match_indices('/').skip(1) {
            self.entries.entry(path[..place].to_owned()).or_insert(Entry::Folder);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Adds a file that is no program.
    pub fn add_file(&mut self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.add(path, Entry::File { bytes: bytes.into(), is_program: false });
    }

    /// Adds modules in `lib/modules/RELEASE`, and a list of their paths, one a line, in the order of loading.
    pub fn add_modules(&mut self, release: &str, modules: &[Module], list: &str) {
        let mut lines = String::new();
        for module in modules {
            let path = format!("/lib/modules/{release}/{}", module.path);
            lines = lines + &path + "\n";
            self.add_file(&path, module.bytes.clone());
        }
        self.add_file(list, lines);
    }

    /// Every entry by its path.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// Packs it.
    ///
    /// # Errors
    /// [`InitramfsError`].
    pub fn pack(&self, epoch: u32) -> Result<Vec<u8>, InitramfsError> {
        let archive = self.archive(epoch)?;
        let bytes = archive.len() as u64;
        if bytes > INITRAMFS_UNPACKED_BYTES_MAX {
            return Err(InitramfsError::TooLarge(bytes));
        }
        let mut packer = zstd::Encoder::new(Vec::new(), INITRAMFS_ZSTD_LEVEL)?;
        // The kernel takes as much memory to unpack it, beside the packed and the unpacked files, and refuses more than 8 MiB
        // (ZSTD_WINDOWSIZE_MAX, lib/decompress_unzstd.c). With those it would be 7 % smaller.
        packer.window_log(INITRAMFS_WINDOW_LOG)?;
        packer.set_parameter(CParameter::MinMatch(INITRAMFS_MATCH_BYTES_MIN))?;
        // No checksum: every boot would pay for it, and the manifest has a better one.
        packer.set_pledged_src_size(Some(bytes))?;
        packer.write_all(&archive)?;
        Ok(packer.finish()?)
    }

    fn archive(&self, epoch: u32) -> io::Result<Vec<u8>> {
        let mut archive = Vec::new();
        self.write_unpacked(epoch, &mut archive)?;
        Ok(archive)
    }

    /// Writes it unpacked, as the kernel takes it, too: for what is booted once and in a machine with memory to spare.
    ///
    /// # Errors
    /// It cannot be written, or a file has more than 4 GiB.
    pub fn write_unpacked(&self, epoch: u32, mut archive: impl Write) -> io::Result<()> {
        for (number, (path, entry)) in (1..).zip(&self.entries) {
            let head = NewcBuilder::new(&path[1..]).ino(number).mtime(epoch).nlink(1);
            let (head, bytes) = match entry {
                Entry::Folder => {
                    (head.mode(0o755).nlink(2).set_mode_file_type(ModeFileType::Directory), &[][..])
                }
                Entry::File { bytes, is_program } => {
                    let mode = if *is_program { 0o755 } else { 0o644 };
                    (head.mode(mode).set_mode_file_type(ModeFileType::Regular), bytes.as_slice())
                }
                Entry::Link(target) => {
                    (head.mode(0o777).set_mode_file_type(ModeFileType::Symlink), target.as_bytes())
                }
                Entry::Device(major, minor) => {
                    let head = head.mode(0o600).rdev_major(*major).rdev_minor(*minor);
                    (head.set_mode_file_type(ModeFileType::Char), &[][..])
                }
            };
            let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
            let mut writer = head.write(&mut archive, size);
            writer.write_all(bytes)?;
            writer.finish()?;
        }
        cpio::newc::trailer(archive)?;
        Ok(())
    }
}

/// A line of `lab image inspect`: path and size of an entry of a packed initramfs.
///
/// # Errors
/// It is damaged.
pub fn list(packed: &[u8]) -> io::Result<Vec<(String, u32)>> {
    let archive = bounded::read(zstd::Decoder::with_buffer(packed)?, INITRAMFS_UNPACKED_BYTES_MAX)?;
    let mut rest = archive.as_slice();
    let mut found = Vec::new();
    loop {
        let reader = cpio::NewcReader::new(rest)?;
        if reader.entry().is_trailer() {
            return Ok(found);
        }
        found.push((format!("/{}", reader.entry().name()), reader.entry().file_size()));
        rest = reader.finish()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Initramfs {
        let mut initramfs = Initramfs::default();
        initramfs.add("/init", Entry::File { bytes: vec![7; 5], is_program: true });
        initramfs.add_file("/etc/aspen/modules", "lib/a.ko\n");
        initramfs.add("/dev/console", Entry::Device(5, 1));
        initramfs
    }

    #[test]
    fn archive_has_folders_before_what_is_in_them_and_the_same_bytes_again() {
        let packed = sample().pack(1).unwrap();
        assert!(packed == sample().pack(1).unwrap());
        let names: Vec<String> = list(&packed).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["/dev", "/dev/console", "/etc", "/etc/aspen", "/etc/aspen/modules", "/init"]);
    }

    #[test]
    fn entries_have_their_kind_their_mode_and_the_one_time() {
        let archive = sample().archive(315_532_800).unwrap();
        let mut rest = archive.as_slice();
        let mut found = Vec::new();
        loop {
            let reader = cpio::NewcReader::new(rest).unwrap();
            let entry = reader.entry();
            if entry.is_trailer() {
                break;
            }
            assert_eq!((entry.uid(), entry.gid(), entry.mtime()), (0, 0, 315_532_800));
            found.push((entry.name().to_owned(), entry.mode(), entry.rdev_major(), entry.rdev_minor()));
            rest = reader.finish().unwrap();
        }
        let find = |name: &str| found.iter().find(|entry| entry.0 == name).unwrap().clone();
        assert_eq!(find("dev"), ("dev".to_owned(), 0o040_755, 0, 0));
        assert_eq!(find("dev/console"), ("dev/console".to_owned(), 0o020_600, 5, 1));
        assert_eq!(find("init"), ("init".to_owned(), 0o100_755, 0, 0));
        assert_eq!(find("etc/aspen/modules").1, 0o100_644);
    }

    /// Found when a few kilobytes that claim to be an initramfs would have filled the memory of whoever inspects it.
    #[test]
    fn archive_that_unpacks_without_end_is_refused() {
        let zeros = io::Read::take(io::repeat(0), INITRAMFS_UNPACKED_BYTES_MAX + 1);
        let packed = zstd::encode_all(zeros, 1).unwrap();
        assert!(packed.len() < 1 << 20);
        let error = list(&packed).unwrap_err().to_string();
        assert_eq!(error, "it has more than 67108864 bytes, which are all that is allowed");
    }

    #[test]
    fn window_is_one_that_the_kernel_takes() {
        let mut initramfs = sample();
        // Two repetitions further apart than the window.
        let noise: Vec<u8> =
            (0..12_u32 << 20).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
        initramfs.add_file("/large", noise);
        let packed = initramfs.pack(1).unwrap();
        // Window descriptor (RFC 8878, 3.1.1.1.2): exponent and mantissa; absent in a frame of a single segment.
        assert_eq!(packed[4] & 0b0010_0000, 0, "a single segment needs a window of the whole size");
        assert_eq!(u32::from(10 + (packed[5] >> 3)), INITRAMFS_WINDOW_LOG);
    }
}
