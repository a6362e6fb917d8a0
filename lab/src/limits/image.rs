//! Bounds of the appliance image and of what it is made from.

use std::time::Duration;

/// Size of a config disk, in bytes: three files of a few KiB, in the smallest volume that every FAT reader takes.
pub const CONFIG_DISK_BYTES: u64 = 1 << 20;
/// Most bytes in the files of a config disk together: what is left of it after its tables.
pub const CONFIG_FILES_BYTES_MAX: usize = 900 << 10;

const _: () = {
    assert!((CONFIG_FILES_BYTES_MAX as u64) < CONFIG_DISK_BYTES);
};

/// Largest kernel, unpacked, in bytes: Debian's has 60 MB.
pub const KERNEL_UNPACKED_BYTES_MAX: u64 = 512 << 20;
/// Size of an unpacked block of LZ4's legacy format, in bytes (`LEGACY_BLOCKSIZE` of lz4).
pub const LZ4_CHUNK_BYTES: usize = 8 << 20;

/// How long a helper may take that packs, unpacks or formats something: dpkg-deb, mke2fs.
pub const HELPER_MAX: Duration = Duration::from_mins(2);
/// How long a package may take to be fetched: 140 MB of kernel source over a slow line.
pub const FETCH_MAX: Duration = Duration::from_mins(20);
/// How often a long program's last line is told.
pub const WORK_TELL_INTERVAL: Duration = Duration::from_secs(10);

/// Most modules: a full distribution needs some twenty.
pub const MODULES_MAX: usize = 200;
/// Largest module, unpacked, in bytes: the largest of Debian's cloud kernel has 4 MB.
pub const MODULE_BYTES_MAX: u64 = 64 << 20;
/// Size of the empty file system, in bytes: small in an initramfs, and enough for a journal of 4 MiB.
pub const DATA_BYTES: u64 = 16 << 20;
/// Most bytes in the files of an initramfs: it is unpacked into the memory of a machine that has 96 MiB.
pub const INITRAMFS_UNPACKED_BYTES_MAX: u64 = 64 << 20;
/// How hard the initramfs is packed: the highest level whose window the kernel accepts. Unpacking takes as long at each.
pub const INITRAMFS_ZSTD_LEVEL: i32 = 19;
