//! Bounds of the appliance image and of what it is made from.

use std::time::Duration;

/// Size of a config disk, in bytes: three files of a few KiB, in the smallest volume that every FAT reader takes.
pub const CONFIG_DISK_BYTES: u64 = 1 << 20;
/// Most bytes in the files of a config disk together: what is left of it after its tables.
pub const CONFIG_FILES_BYTES_MAX: usize = 900 << 10;

/// Longest time in which cargo, or a program of one line, has to say something: rustup reads its settings first.
pub const RUSTC_VERSION_MAX: Duration = Duration::from_secs(10);
/// Longest time in which a program of one line has to be compiled: 0.2 s on an idle host, seconds beside other compilers.
pub const RUSTC_TRIAL_MAX: Duration = Duration::from_mins(1);

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
/// How long a lab waits for another one that builds the same: as long as that may take.
pub const TURN_MAX: Duration = Duration::from_hours(3);
/// How often it looks whether that one is done.
pub const TURN_LOOK_INTERVAL: Duration = Duration::from_millis(100);
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
/// How hard the initramfs is packed: the highest level whose window the kernel accepts.
pub const INITRAMFS_ZSTD_LEVEL: i32 = 19;
/// The window of the packed initramfs, in bits of its bytes: what a machine with little memory has for it.
pub const INITRAMFS_WINDOW_LOG: u32 = 21;
/// Shortest repetition that is packed as one, in bytes. With 3, the level's own, it is 8 % smaller, and an emulated processor
/// takes a fifth longer to unpack it at every boot.
pub const INITRAMFS_MATCH_BYTES_MIN: u32 = 6;
/// Largest unified kernel image, in bytes: firmware reads it into memory below 4 GiB.
pub const UKI_BYTES_MAX: u64 = 512 << 20;
/// What the EFI system partition has beyond its one file, in bytes: room for its tables, and for the next version's image
/// to be a little larger.
pub const ESP_SPARE_BYTES: u64 = 8 << 20;
/// Largest EFI system partition, in bytes.
pub const ESP_BYTES_MAX: u64 = 1 << 30;
/// Size of the data partition of the raw disk, in bytes. It costs nothing, since the disk is sparse.
pub const DATA_PARTITION_BYTES: u64 = 1 << 30;
/// Largest disk that is written as qcow2, in bytes: one cluster of L1 entries addresses far more.
pub const QCOW2_SOURCE_BYTES_MAX: u64 = 64 << 30;
/// Largest manifest, in bytes: one of an image with all its files has 30 KB.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Largest key or signature, in bytes: an ed25519 key in PEM has 120.
pub const KEY_BYTES_MAX: u64 = 16 << 10;
/// Largest program of the appliance, in bytes, with all that debuggers read.
pub const PROGRAM_BYTES_MAX: u64 = 512 << 20;
/// How long cargo may build the appliance's programs: from nothing on two busy cores it takes half an hour.
pub const PROGRAMS_BUILD_MAX: Duration = Duration::from_hours(2);
/// How long `make allnoconfig` may take: it builds its own program first.
pub const KERNEL_CONFIGURE_MAX: Duration = Duration::from_mins(10);
/// How long the kernel's source may take to be unpacked: 1.3 GB in 80,000 files.
pub const KERNEL_UNPACK_MAX: Duration = Duration::from_mins(20);
/// How long the small kernel may take to be built: 6 minutes on two idle cores.
pub const KERNEL_BUILD_MAX: Duration = Duration::from_hours(2);
/// Largest bzImage of the appliance's own kernel, in bytes: one that grows beyond this has an option too many.
pub const KERNEL_BZIMAGE_BYTES_MAX: u64 = 7 << 20;
/// Largest configuration of a kernel, in bytes: Debian's has 270 KB.
pub const KERNEL_CONFIG_BYTES_MAX: u64 = 4 << 20;
/// Images that stay in the cache, the one just made among them: a few checkouts, each with a few kernels. One has 100 MB.
pub const IMAGES_KEPT_MAX: usize = 8;

const _: () = {
    assert!(TURN_MAX.as_secs() > PROGRAMS_BUILD_MAX.as_secs() + FETCH_MAX.as_secs());
};
