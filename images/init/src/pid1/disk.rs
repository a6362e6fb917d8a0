//! The data disk: which one it is, an empty file system for a blank one, growing, mounting.
//!
//! A disk that holds anything but our own file system is left as it is.

mod content;
mod find;
mod format;
mod table;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use aspen_init::blocks::{BlockList, BlocksError};
use aspen_init::config::{DataFormat, Settings};
use aspen_init::layout::{DATA, DATA_BLOCKS};
use aspen_init::limits::{BLOCK_BYTES, KERNEL_LOG_BYTES_MAX, LOOK_WHOLE_BYTES, READ_BYTES_MAX, RELEASE_MAX};
use aspen_init::texts::head;
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};

use self::content::{Content, look};
use self::find::find;
use super::console::Console;
use super::devices::{BlockDevice, Uevents, VirtioKind, block_devices, missing_driver};
use super::foreign::{resize_ext4, resize_partition};

pub(super) use self::find::FindError;

/// Why there is no data disk.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    /// None, or more than one.
    #[error(transparent)]
    Find(#[from] FindError),
    /// None that can be seen.
    #[error("no data disk: {0}")]
    Driver(&'static str),
    /// It cannot be read.
    #[error("cannot read the data disk {}", .path.display())]
    Read {
        /// Its device.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// It holds something.
    #[error("the data disk {} holds {what} and is left as it is: attach a blank one, or wipe it yourself", .path.display())]
    Other {
        /// Its device.
        path: PathBuf,
        /// What it holds.
        what: String,
    },
    /// It is blank and may not be written to.
    #[error("the data disk {} is blank, and data.format is never: format it, or set data.format to if-blank", .path.display())]
    Blank {
        /// Its device.
        path: PathBuf,
    },
    /// It is smaller than its file system.
    #[error("the data disk {} has {disk_bytes} bytes, its file system {bytes}: it was truncated, restore its size", .path.display())]
    Truncated {
        /// Its device.
        path: PathBuf,
        /// Its size.
        disk_bytes: u64,
        /// The size of what is on it.
        bytes: u64,
    },
    /// It is too small.
    #[error("the data disk {} has {disk_bytes} bytes, at least {bytes} are needed: attach a larger one", .path.display())]
    Small {
        /// Its device.
        path: PathBuf,
        /// Its size.
        disk_bytes: u64,
        /// How much is needed.
        bytes: u64,
    },
    /// The image has no file system for it.
    #[error("cannot use {DATA_BLOCKS} of the image: build it again")]
    Blocks(#[from] BlocksError),
    /// It cannot be written.
    #[error("cannot write a file system to the data disk {}", .path.display())]
    Write {
        /// Its device.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// The kernel has no ext4.
    #[error("the kernel has no ext4: it needs CONFIG_EXT4_FS")]
    NoExt4,
    /// It cannot be mounted.
    #[error("cannot mount the data disk {}{}", .path.display(), .kernel.as_ref().map(|text| format!(", the kernel says {text:?}")).unwrap_or_default())]
    Mount {
        /// Its device.
        path: PathBuf,
        /// The kernel's last words on it.
        kernel: Option<String>,
        /// Its answer.
        source: Errno,
    },
}

impl DiskError {
    /// Whether another kernel would help.
    pub(super) fn is_of_the_kernel(&self) -> bool {
        matches!(self, Self::NoExt4 | Self::Driver(_))
    }
}

/// Finds the data disk, formats it if that is due and allowed, and mounts it.
///
/// # Errors
/// The first thing that cannot be done.
pub(super) fn prepare(
    sys: &Path,
    settings: &Settings,
    config_device: Option<&Path>,
    uevents: &Uevents,
    console: &Console,
) -> Result<(), DiskError> {
    let mut missing = FindError::None;
    let look = |settled| match find(&block_devices(sys), &settings.data_device, config_device, settled) {
        Ok(device) => Some(Ok(device)),
        Err(error) if error.may_still_come() => {
            missing = error;
            None
        }
        Err(error) => Some(Err(error)),
    };
    let Some(found) = uevents.wait_for_settled(look) else {
        return Err(
            missing_driver(sys, VirtioKind::Block).map_or(DiskError::Find(missing), DiskError::Driver)
        );
    };
    let device = found?;
    let path = device.path();
    let bytes = make_ready(&path, settings.data_format, console)?;
    grow_partition(sys, &device, console);
    mount_data(&path)?;
    grow(&path, bytes, console);
    Ok(())
}

/// Sees to it that there is a file system of ours, and returns its size in bytes.
fn make_ready(path: &Path, format: DataFormat, console: &Console) -> Result<u64, DiskError> {
    let owned = || path.to_owned();
    let failed = |source| DiskError::Read { path: owned(), source };
    let mut disk = content::open(path).map_err(failed)?;
    let disk_bytes = disk.seek(SeekFrom::End(0)).map_err(failed)?;
    match look(&disk, disk_bytes).map_err(failed)? {
        Content::Ours { bytes } if bytes > disk_bytes => {
            Err(DiskError::Truncated { path: owned(), disk_bytes, bytes })
        }
        Content::Ours { bytes } => Ok(bytes),
        Content::Other(what) => Err(DiskError::Other { path: owned(), what }),
        Content::Blank | Content::Unfinished if format == DataFormat::Never => {
            Err(DiskError::Blank { path: owned() })
        }
        content @ (Content::Blank | Content::Unfinished) => {
            let file = File::open(DATA_BLOCKS).map_err(BlocksError::Io)?;
            let blocks = BlockList::read(io::BufReader::new(file))?;
            let bytes = blocks.total_bytes();
            if bytes > disk_bytes {
                return Err(DiskError::Small { path: owned(), disk_bytes, bytes });
            }
            // What we began to write is ours to write over.
            if content == Content::Blank {
                // What comes before was looked at whole.
                let places = blocks.blocks().map(|(at, _)| at).filter(|at| *at >= LOOK_WHOLE_BYTES);
                let places: Vec<u64> = places.collect();
                if let Some(at) = content::first_taken(&disk, disk_bytes, &places).map_err(failed)? {
                    let what = format!("data of an unknown kind at byte {at}");
                    return Err(DiskError::Other { path: owned(), what });
                }
            }
            console.say(format_args!("{} is blank: writing an empty file system", path.display()));
            // Nobody else may have it open, another mount included.
            let opened = OpenOptions::new().write(true).custom_flags(libc::O_EXCL).open(path);
            let written = opened.and_then(|disk| format::write(&disk, &blocks));
            written.map_err(|source| DiskError::Write { path: owned(), source })?;
            Ok(bytes)
        }
    }
}

/// Lets the data partition of the appliance's own disk have what the disk has grown by. It serves without, too.
fn grow_partition(sys: &Path, device: &BlockDevice, console: &Console) {
    let Some(name) = &device.disk else { return };
    let sysfs = sys.join("class/block");
    let number = |file: PathBuf| head(&file, READ_BYTES_MAX).ok()?.parse::<usize>().ok();
    let Some(partition) = number(sysfs.join(&device.name).join("partition")) else { return };
    let sector_bytes = number(sysfs.join(name).join("queue/logical_block_size"));
    // Tables for larger sectors have another form, and the image's own disk has none.
    if sector_bytes.is_some_and(|bytes| bytes as u64 != table::SECTOR_BYTES) {
        return;
    }
    let grown =
        OpenOptions::new().read(true).write(true).open(Path::new("/dev").join(name)).and_then(|mut disk| {
            let disk_bytes = disk.seek(SeekFrom::End(0))?;
            let grown = table::grow(&disk, disk_bytes, partition)?;
            if let Some(table::Grown { start, bytes }) = grown {
                console.say(format_args!(
                    "{name} has more room: growing partition {partition} to {bytes} bytes"
                ));
                resize_partition(&disk, partition, start, bytes)?;
            }
            Ok(())
        });
    if let Err(error) = grown {
        console.say(format_args!("cannot grow partition {partition} of {name}: {error}"));
    }
}

fn mount_data(path: &Path) -> Result<(), DiskError> {
    let flags = MsFlags::MS_NOATIME | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    match mount(Some(path), DATA, Some("ext4"), flags, Some("errors=remount-ro")) {
        Ok(()) => Ok(()),
        Err(Errno::ENODEV) => Err(DiskError::NoExt4),
        Err(source) => Err(DiskError::Mount { path: path.to_owned(), kernel: last_kernel_words(), source }),
    }
}

/// The kernel's last line about ext4.
fn last_kernel_words() -> Option<String> {
    let log = super::kernel_log::read(KERNEL_LOG_BYTES_MAX);
    let words = log.lines().rfind(|line| line.contains("EXT4-fs"))?;
    Some(words.to_owned())
}

/// Lets the file system have all of the disk. It serves without, too.
fn grow(path: &Path, bytes: u64, console: &Console) {
    let disk_bytes = File::open(path).and_then(|mut disk| disk.seek(SeekFrom::End(0)));
    let blocks = disk_bytes.map(|bytes| bytes / u64::from(BLOCK_BYTES));
    let grown = blocks.and_then(|blocks| {
        if blocks <= bytes / u64::from(BLOCK_BYTES) {
            return Ok(());
        }
        console.say(format_args!(
            "{} has more room: growing the file system to {blocks} blocks",
            path.display()
        ));
        resize_ext4(File::open(DATA)?, blocks)
    });
    if let Err(error) = grown {
        console.say(format_args!("cannot grow the file system on {}: {error}", path.display()));
    }
}

/// Takes the data disk off, or makes it read-only when somebody still holds a file on it. Either leaves no open journal. A disk
/// that does not answer is left behind.
pub(super) fn release(console: &Arc<Console>) {
    let its = Arc::clone(console);
    if !is_done_within(RELEASE_MAX, move || let_go(&its)) {
        let seconds = RELEASE_MAX.as_secs();
        console.say(format_args!(
            "{DATA} did not take what was written within {seconds} s: going off without, its last writes may be lost"
        ));
    }
}

/// Does something on a thread of its own, and says whether it was done in time.
fn is_done_within(limit: Duration, work: impl FnOnce() + Send + 'static) -> bool {
    let (done, is_done) = sync_channel(1);
    let work = move || {
        work();
        let _ = done.send(());
    };
    // No thread, no bound: it is not done here, since it might not come back.
    let started = thread::Builder::new().name("release".to_owned()).spawn(work);
    started.is_ok() && is_done.recv_timeout(limit).is_ok()
}

fn let_go(console: &Console) {
    nix::unistd::sync();
    match nix::mount::umount(DATA) {
        // Not mounted: there was no disk.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => {
            console.say(format_args!("cannot unmount {DATA}: {}", errno.desc()));
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            let remounted = mount(None::<&str>, DATA, None::<&str>, flags, None::<&str>);
            if let Err(errno) = remounted {
                console.say(format_args!("cannot make {DATA} read-only: {}", errno.desc()));
            }
        }
    }
}

/// Makes a directory that only its owner may enter.
///
/// # Errors
/// The file system is full or cannot be written.
pub(super) fn make_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::format::tests::blocks;
    use super::*;

    #[test]
    fn end_waits_for_no_disk_that_does_not_answer() {
        assert!(is_done_within(Duration::from_secs(30), || ()));
        let (answer, asked) = sync_channel::<()>(0);
        let hangs = move || assert!(asked.recv().is_err());
        assert!(!is_done_within(Duration::from_millis(20), hangs));
        drop(answer);
    }

    #[test]
    fn disk_that_is_not_ours_is_refused_and_left_alone() {
        let console = Console::at(Path::new("/dev/null"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let check = |content: &[u8], bytes: u64, format, want: &str| {
            fs::write(&path, content).unwrap();
            OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes).unwrap();
            let before = fs::read(&path).unwrap();
            let error = make_ready(&path, format, &console).unwrap_err().to_string();
            assert_eq!(error.replace(dir.path().to_str().unwrap(), "DIR"), want);
            assert!(fs::read(&path).unwrap() == before, "it was written to");
        };
        check(
            b"x",
            1 << 20,
            DataFormat::IfBlank,
            "the data disk DIR/disk holds data of an unknown kind at byte 0 and is left as it is: attach a blank one, \
             or wipe it yourself",
        );
        check(
            b"",
            1 << 20,
            DataFormat::Never,
            "the data disk DIR/disk is blank, and data.format is never: format it, or set data.format to if-blank",
        );
        let mut ours = Vec::new();
        for (at, block) in blocks().blocks() {
            ours.resize(usize::try_from(at).unwrap(), 0);
            ours.extend_from_slice(block);
        }
        check(
            &ours,
            6 * 4096,
            DataFormat::IfBlank,
            "the data disk DIR/disk has 24576 bytes, its file system 32768: it was truncated, restore its size",
        );
        OpenOptions::new().write(true).open(&path).unwrap().set_len(8 * 4096).unwrap();
        assert_eq!(make_ready(&path, DataFormat::Never, &console).unwrap(), 8 * 4096);
    }
}
