//! Bounds of the host in a box.

use std::time::Duration;

/// Memory of the guest where the command line does not say, in MiB: five virtual machines of 256 MiB, and as much again for what
/// runs them and for its page cache.
pub const MEMORY_MIB_DEFAULT: u32 = 3072;
/// Least memory of the guest, in MiB: the kernel keeps half of it for the files that came in.
pub const MEMORY_MIB_MIN: u32 = 1024;
/// Most memory of the guest, in MiB: fifty nodes, each in a virtual machine.
pub const MEMORY_MIB_MAX: u32 = 64 * 1024;
/// Most processors of the guest that are taken without being asked for: what a cluster keeps busy.
pub const CPUS_DEFAULT_MAX: u32 = 8;
/// Most processors of the guest: QEMU's q35 takes 255, and no scenario keeps more than these busy.
pub const CPUS_MAX: u32 = 64;
/// Size of the guest's disk, in bytes: the data of fifty machines. It is sparse.
pub const DISK_BYTES: u64 = 64 << 30;
/// Least free space for the guest's files, in bytes: what goes in, and the data of a short run.
pub const FREE_BYTES_MIN: u64 = 2 << 30;
/// Most bytes that go in: half the memory of the smallest guest that is of use.
pub const FILES_BYTES_MAX: u64 = 1 << 30;
/// Most files of a folder that goes in, a run directory say: each node has a dozen.
pub const FILES_MAX: usize = 10_000;
/// Longest time from the start of QEMU until the guest is up: emulated it takes 6 s on an idle host, and several times that
/// beside compilers.
pub const UP_MAX: Duration = Duration::from_mins(2);
/// How long the guest looks for a device of which the kernel has been told: it is there before one looks, on an idle host.
pub const DEVICE_WAIT_MAX: Duration = Duration::from_secs(20);
/// How long the command in the guest may take to end after it was told twice to, before the guest is ended.
pub const STOP_MAX: Duration = Duration::from_secs(20);
/// Largest message between host and guest, in bytes: what a port of virtio-serial takes at once, and the path of a file.
pub const MESSAGE_BYTES_MAX: u32 = 64 << 10;
/// How much of a file or of an output goes into one message, in bytes.
pub const CHUNK_BYTES: usize = 32 << 10;
/// Largest file that comes out, in bytes: the data disk of a virtual machine has 2 GiB.
pub const OUT_FILE_BYTES_MAX: u64 = 64 << 30;

const _: () = {
    assert!(
        MEMORY_MIB_MIN <= MEMORY_MIB_DEFAULT && MEMORY_MIB_DEFAULT <= MEMORY_MIB_MAX,
        "a default is allowed"
    );
    assert!(CPUS_DEFAULT_MAX <= CPUS_MAX, "a default is allowed");
    // A chunk fits a message, with its place in the file.
    assert!(CHUNK_BYTES + 8 <= MESSAGE_BYTES_MAX as usize);
};
