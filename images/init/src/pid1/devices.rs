//! Which disks there are, when new devices come, and why one that is there cannot be used.
//!
//! Everything is read from sysfs, below a folder that tests can choose.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use aspen_init::limits::{DEVICE_QUIET, DEVICE_WAIT_MAX, READ_BYTES_MAX};
use aspen_init::texts::head;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// A disk, or a partition of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlockDevice {
    /// Its name, such as `vdb`.
    pub(super) name: String,
    /// Its size.
    pub(super) bytes: u64,
    /// What the hypervisor calls it.
    pub(super) serial: Option<String>,
    /// A partition's name in a GPT.
    pub(super) partition_name: Option<String>,
    /// A partition's disk.
    pub(super) disk: Option<String>,
    /// Whether it is a disk with partitions.
    pub(super) has_partitions: bool,
    /// Whether nothing can be written to it.
    pub(super) is_read_only: bool,
}

impl BlockDevice {
    /// Its file in /dev.
    pub(super) fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }
}

/// Disks that are made of memory or of other disks, and drives for media that come and go.
const NO_DISKS: [&str; 8] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"];

/// Every disk and partition, by name.
pub(super) fn block_devices(sys: &Path) -> Vec<BlockDevice> {
    let entries = fs::read_dir(sys.join("class/block")).into_iter().flatten().flatten();
    let mut devices: Vec<BlockDevice> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !NO_DISKS.iter().any(|prefix| name.starts_with(prefix)))
        .filter_map(|name| block_device(sys, name))
        .filter(|device| device.bytes > 0)
        .collect();
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    devices
}

fn block_device(sys: &Path, name: String) -> Option<BlockDevice> {
    // The link leads to the device's place in the tree: a partition is a folder of its disk.
    let folder = fs::canonicalize(sys.join("class/block").join(&name)).ok()?;
    let text = |file: &str| head(&folder.join(file), READ_BYTES_MAX).ok();
    let sectors: u64 = text("size")?.trim().parse().ok()?;
    let is_partition = folder.join("partition").exists();
    let parent = folder.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let inner = fs::read_dir(&folder).into_iter().flatten().flatten();
    let uevent = text("uevent").unwrap_or_default();
    Some(BlockDevice {
        bytes: sectors.saturating_mul(512),
        serial: text("serial").or_else(|| text("device/serial")).map(|serial| serial.trim().to_owned()),
        partition_name: uevent.lines().find_map(|line| line.strip_prefix("PARTNAME=")).map(str::to_owned),
        disk: parent.filter(|_| is_partition),
        has_partitions: !is_partition
            && inner.into_iter().any(|entry| entry.path().join("partition").exists()),
        is_read_only: text("ro").is_some_and(|text| text == "1"),
        name,
    })
}

/// A kind of virtio device (virtio 1.2, 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VirtioKind {
    /// A network card.
    Net,
    /// A disk.
    Block,
}

/// What the kernel would need for such a device that is there, if that is why it is not seen.
pub(super) fn missing_driver(sys: &Path, kind: VirtioKind) -> Option<&'static str> {
    let (number, option) = match kind {
        VirtioKind::Net => (
            1,
            "there is a virtio network card, and the kernel has no driver for it: it needs CONFIG_VIRTIO_NET",
        ),
        VirtioKind::Block => {
            (2, "there is a virtio disk, and the kernel has no driver for it: it needs CONFIG_VIRTIO_BLK")
        }
    };
    let entries =
        |bus: &str| fs::read_dir(sys.join("bus").join(bus).join("devices")).into_iter().flatten().flatten();
    let number_in = |file: PathBuf| {
        let text = head(&file, READ_BYTES_MAX).ok()?;
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
    };
    let has_driver = |folder: &Path| folder.join("driver").exists();
    let is_idle = entries("virtio")
        .any(|entry| number_in(entry.path().join("device")) == Some(number) && !has_driver(&entry.path()));
    // The bus below it: Red Hat's numbers for virtio over PCI (virtio 1.2, 4.1.2).
    let is_virtio = |folder: &Path| {
        let device = number_in(folder.join("device"));
        number_in(folder.join("vendor")) == Some(0x1af4)
            && device.is_some_and(|device| (0x1000..=0x107f).contains(&device))
    };
    let is_idle_pci = entries("pci").any(|entry| is_virtio(&entry.path()) && !has_driver(&entry.path()));
    match (is_idle, is_idle_pci) {
        (true, _) => Some(option),
        (false, true) => Some(
            "there are virtio devices on PCI, and the kernel has no driver for them: it needs CONFIG_VIRTIO_PCI",
        ),
        (false, false) => None,
    }
}

/// Whether the kernel has found the devices that were there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settled(pub(super) bool);

/// The kernel's news of devices (`NETLINK_KOBJECT_UEVENT`).
#[derive(Debug)]
pub(super) struct Uevents {
    fd: OwnedFd,
}

impl Uevents {
    /// Listens from now on.
    pub(super) fn listen() -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkKObjectUEvent;
        let fd = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
        Ok(Self { fd })
    }

    /// Looks now, and again after each piece of news, until something is found or nothing has come for a while: the
    /// devices of a machine's start are there before its first program, others come soon or not at all.
    pub(super) fn wait_for<T>(&self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        self.wait_for_settled(|_settled| look())
    }

    /// The same for what may be taken for want of something better only: says whether the kernel has had no news for a
    /// while, or the time is up.
    pub(super) fn wait_for_settled<T>(&self, mut look: impl FnMut(Settled) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + DEVICE_WAIT_MAX;
        let mut settled = Settled(false);
        loop {
            if let Some(found) = look(settled) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return look(Settled(true));
            }
            let wait = if settled.0 { left } else { left.min(DEVICE_QUIET) };
            let mut ready = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            // Whole milliseconds, rounded up, so that the last look is not one of many.
            let wait = u16::try_from(wait.as_millis() + 1).map_or(PollTimeout::MAX, PollTimeout::from);
            match poll(&mut ready, wait) {
                Ok(0) => settled = Settled(true),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {
                    self.drain();
                    settled = Settled(false);
                }
                Err(_) => return look(Settled(true)),
            }
        }
    }

    fn drain(&self) {
        let mut news = [0; 4096];
        while recv(self.fd.as_raw_fd(), &mut news, MsgFlags::empty()).is_ok() {}
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// A sysfs with these files.
    pub(in super::super) fn sysfs(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    /// Makes `class/block/NAME` lead to a folder, as the kernel does.
    pub(in super::super) fn link_block(sys: &Path, folder: &str) {
        let links = sys.join("class/block");
        fs::create_dir_all(&links).unwrap();
        let name = Path::new(folder).file_name().unwrap();
        std::os::unix::fs::symlink(sys.join(folder), links.join(name)).unwrap();
    }

    #[test]
    fn disks_and_partitions_are_told_apart() {
        let sys = sysfs(&[
            ("devices/vda/size", "2048\n"),
            ("devices/vda/ro", "0\n"),
            ("devices/vda/serial", "aspen-data\n"),
            ("devices/vdb/size", "4096\n"),
            ("devices/vdb/vdb1/size", "8\n"),
            ("devices/vdb/vdb1/partition", "1\n"),
            ("devices/vdb/vdb1/uevent", "DEVTYPE=partition\nPARTNAME=aspen-data\n"),
            ("devices/vdc/size", "0\n"),
            ("devices/loop0/size", "8\n"),
            ("devices/vdd/size", "8\n"),
            ("devices/vdd/ro", "1\n"),
        ]);
        for folder in
            ["devices/vda", "devices/vdb", "devices/vdb/vdb1", "devices/vdc", "devices/loop0", "devices/vdd"]
        {
            link_block(sys.path(), folder);
        }
        let devices = block_devices(sys.path());
        let names: Vec<_> = devices.iter().map(|device| device.name.as_str()).collect();
        assert_eq!(names, ["vda", "vdb", "vdb1", "vdd"]);
        assert_eq!(devices[0].bytes, 1024 * 1024);
        assert_eq!(devices[0].serial.as_deref(), Some("aspen-data"));
        assert!(devices[1].has_partitions && !devices[0].has_partitions);
        assert_eq!(devices[2].disk.as_deref(), Some("vdb"));
        assert_eq!(devices[2].partition_name.as_deref(), Some("aspen-data"));
        assert!(devices[3].is_read_only && devices[3].disk.is_none());
        assert_eq!(devices[3].path(), Path::new("/dev/vdd"));
    }

    #[test]
    fn devices_are_settled_once_no_news_came_for_a_while() {
        let (ours, kernel) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let uevents = Uevents { fd: ours.into() };
        kernel.send(b"add@/devices/vda").unwrap();
        let mut looks = vec![];
        let found = uevents.wait_for_settled(|settled| {
            looks.push(settled.0);
            match looks.as_slice() {
                // One more disk comes while it is waited for quiet.
                [false] => {
                    kernel.send(b"add@/devices/vdb").unwrap();
                    None
                }
                // And another when it was quiet already.
                [false, false, true] => {
                    kernel.send(b"add@/devices/vdc").unwrap();
                    None
                }
                [false, false, true, false, true] => Some("vdc"),
                _ => None,
            }
        });
        assert_eq!(found, Some("vdc"), "{looks:?}");
        let start = Instant::now();
        let mut last = Settled(false);
        let look = |settled| {
            last = settled;
            None::<()>
        };
        assert_eq!(uevents.wait_for_settled(look), None);
        assert_eq!(last, Settled(true));
        assert!(start.elapsed() >= DEVICE_WAIT_MAX);
    }

    #[test]
    fn device_without_a_driver_is_explained() {
        let sys = sysfs(&[
            ("bus/virtio/devices/virtio0/device", "0x0001\n"),
            ("bus/virtio/devices/virtio0/driver/module", ""),
            ("bus/virtio/devices/virtio1/device", "0x0002\n"),
        ]);
        assert_eq!(missing_driver(sys.path(), VirtioKind::Net), None);
        let block = missing_driver(sys.path(), VirtioKind::Block).unwrap();
        assert!(block.ends_with("it needs CONFIG_VIRTIO_BLK"), "{block}");
        let card = |device| {
            [
                ("bus/pci/devices/0000:00:02.0/vendor", "0x1af4\n"),
                ("bus/pci/devices/0000:00:02.0/device", device),
            ]
        };
        // Shared memory has the same vendor.
        let shared = sysfs(&card("0x1110\n"));
        assert_eq!(missing_driver(shared.path(), VirtioKind::Net), None);
        let sys = sysfs(&card("0x1041\n"));
        let bus = missing_driver(sys.path(), VirtioKind::Block).unwrap();
        assert!(bus.ends_with("it needs CONFIG_VIRTIO_PCI"), "{bus}");
    }
}
