//! The guest's file systems: what the kernel offers, and below everything what came in, unchanged, with the guest's disk over
//! it, which takes what is written.

use std::fs::{self, File, Permissions, create_dir_all};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};

/// Why one is missing.
#[derive(Debug, thiserror::Error)]
pub(super) enum LayersError {
    #[error("cannot mount {kind} on {target}: has the kernel {option}?")]
    Mount { kind: &'static str, target: &'static str, option: &'static str, source: Errno },
    #[error("cannot make {}", .path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot enter {target}")]
    Enter { target: &'static str, source: Errno },
}

/// Where the disk is mounted, and where the new root.
const DISK: &str = "/.rig/disk";
const ROOT: &str = "/.rig/root";
/// On the disk: what was written, and what overlayfs needs besides.
const WRITTEN: &str = "/.rig/disk/written";
const WORK: &str = "/.rig/disk/work";

/// What is below and what is above. Both are behind the root, and found by their descriptors only.
#[derive(Debug)]
pub(super) struct Layers {
    below: File,
    above: File,
}

impl Layers {
    /// A path among what came in.
    pub(super) fn below(&self, path: &Path) -> PathBuf {
        place(&self.below, path)
    }

    /// A path among what was written.
    pub(super) fn above(&self, path: &Path) -> PathBuf {
        place(&self.above, path)
    }

    #[cfg(test)]
    pub(super) fn of(below: &Path, above: &Path) -> Self {
        let open = |path| File::open(path).unwrap();
        Self { below: open(below), above: open(above) }
    }
}

/// A path below an open folder. The last slash matters for the folder itself: without it one would see the link in /proc.
fn place(folder: &File, path: &Path) -> PathBuf {
    let relative = path.strip_prefix("/").unwrap_or(path);
    Path::new(&format!("/proc/self/fd/{}/", folder.as_raw_fd())).join(relative)
}

/// What the kernel offers.
pub(super) fn mount_kernels() -> Result<(), LayersError> {
    mount_at("devtmpfs", "/dev", "", "CONFIG_DEVTMPFS")?;
    mount_at("proc", "/proc", "", "CONFIG_PROC_FS")?;
    mount_at("sysfs", "/sys", "", "CONFIG_SYSFS")
}

/// Makes a root of what came in and of the disk, and enters it.
pub(super) fn make(disk: &Path) -> Result<Layers, LayersError> {
    for path in [DISK, ROOT] {
        folder(path)?;
    }
    let ext4 = mount(Some(disk), DISK, Some("ext4"), MsFlags::MS_NOATIME, None::<&str>);
    ext4.map_err(|source| LayersError::Mount {
        kind: "ext4",
        target: DISK,
        option: "CONFIG_EXT4_FS",
        source,
    })?;
    for path in [WRITTEN, WORK] {
        folder(path)?;
    }
    let options = format!("lowerdir=/,upperdir={WRITTEN},workdir={WORK}");
    mount_at("overlay", ROOT, &options, "CONFIG_OVERLAY_FS")?;
    let open = |path: &'static str| {
        File::open(path).map_err(|source| LayersError::Folder { path: path.into(), source })
    };
    let layers = Layers { below: open("/")?, above: open(WRITTEN)? };
    for target in ["/dev", "/proc", "/sys"] {
        let to = format!("{ROOT}{target}");
        folder(&to)?;
        let moved = mount(Some(target), to.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>);
        moved.map_err(|source| LayersError::Enter { target, source })?;
    }
    enter(ROOT).map_err(|source| LayersError::Enter { target: ROOT, source })?;
    for path in ["/dev/pts", "/dev/shm", "/tmp", "/run", "/root", "/var/tmp"] {
        folder(path)?;
    }
    mount_at("devpts", "/dev/pts", "mode=0620,ptmxmode=0666", "CONFIG_UNIX98_PTYS")?;
    mount_at("tmpfs", "/dev/shm", "mode=1777", "CONFIG_TMPFS")?;
    for (from, to) in [("/proc/self/fd", "/dev/fd"), ("/dev/pts/ptmx", "/dev/ptmx")] {
        // The kernel may have made it already.
        let _ = std::os::unix::fs::symlink(from, to);
    }
    mount_at("tmpfs", "/run", "mode=0755", "CONFIG_TMPFS")?;
    for device in ["/dev/net/tun", "/dev/kvm", "/dev/fuse"] {
        // For everybody, as on any host. One that is not there is missed by those who want it.
        let _ = fs::set_permissions(device, Permissions::from_mode(0o666));
    }
    fs::set_permissions("/tmp", Permissions::from_mode(0o1777))
        .map_err(|source| LayersError::Folder { path: "/tmp".into(), source })?;
    Ok(layers)
}

/// Makes a mounted folder the root, as `switch_root(8)` does: so that programs may make user namespaces, which they may not in
/// a root that is no mount of its own.
fn enter(root: &str) -> nix::Result<()> {
    chdir(root)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    chdir("/")
}

fn folder(path: &str) -> Result<(), LayersError> {
    create_dir_all(path).map_err(|source| LayersError::Folder { path: path.into(), source })
}

fn mount_at(
    kind: &'static str,
    target: &'static str,
    data: &str,
    option: &'static str,
) -> Result<(), LayersError> {
    folder(target)?;
    match mount(Some(kind), target, Some(kind), MsFlags::empty(), Some(data)) {
        // The kernel mounts devtmpfs by itself when it is told to.
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(source) => Err(LayersError::Mount { kind, target, option, source }),
    }
}
