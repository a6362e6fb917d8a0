//! The file systems that a kernel offers and programs expect.

use std::fs;
use std::path::Path;

use aspen_init::limits::{CONSOLE_LEVEL, READ_BYTES_MAX};
use aspen_init::texts::{head, listed};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::console::Console;

/// Why one is missing.
#[derive(Debug, thiserror::Error)]
pub(super) enum MountError {
    /// The kernel refuses it.
    #[error("cannot mount {kind} on {target}: the kernel needs {option}")]
    Refused {
        /// The file system.
        kind: &'static str,
        /// Where.
        target: &'static str,
        /// The kernel's option.
        option: &'static str,
        /// What the kernel says.
        source: Errno,
    },
}

struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    data: &'static str,
    option: &'static str,
}

const SAFE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC).union(MsFlags::MS_NODEV);

const MOUNTS: [Mount; 5] = [
    Mount {
        kind: "devtmpfs",
        target: "/dev",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        data: "mode=0755",
        option: "CONFIG_DEVTMPFS",
    },
    Mount { kind: "proc", target: "/proc", flags: SAFE, data: "", option: "CONFIG_PROC_FS" },
    Mount { kind: "sysfs", target: "/sys", flags: SAFE, data: "", option: "CONFIG_SYSFS" },
    Mount { kind: "tmpfs", target: "/run", flags: SAFE, data: "mode=0755", option: "CONFIG_TMPFS" },
    Mount { kind: "tmpfs", target: "/tmp", flags: SAFE, data: "mode=1777", option: "CONFIG_TMPFS" },
];

/// Mounts all of them.
///
/// # Errors
/// The first that the kernel refuses.
pub(super) fn mount_all() -> Result<(), MountError> {
    for Mount { kind, target, flags, data, option } in MOUNTS {
        // Whoever packed the image may have left them out.
        let _ = fs::create_dir_all(target);
        match mount(Some(kind), target, Some(kind), flags, Some(data)) {
            // The kernel mounts devtmpfs by itself when it is told to.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(source) => return Err(MountError::Refused { kind, target, option, source }),
        }
    }
    Ok(())
}

/// Keeps the kernel's chatter off the console, so that it does not fall into the middle of our lines. Errors still come.
pub(super) fn quiet_kernel(console: &Console) {
    let path = Path::new("/proc/sys/kernel/printk");
    let level = head(path, READ_BYTES_MAX).ok().and_then(|text| listed(&text).first()?.parse::<u32>().ok());
    if level.is_some_and(|level| level > CONSOLE_LEVEL)
        && let Err(error) = fs::write(path, CONSOLE_LEVEL.to_string())
    {
        console.say(format_args!("cannot quieten the kernel: {error}"));
    }
}
