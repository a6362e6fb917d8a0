//! Bounds of the appliance image and of what it is made from.

/// Size of a config disk, in bytes: three files of a few KiB, in the smallest volume that every FAT reader takes.
pub const CONFIG_DISK_BYTES: u64 = 1 << 20;
/// Most bytes in the files of a config disk together: what is left of it after its tables.
pub const CONFIG_FILES_BYTES_MAX: usize = 900 << 10;

const _: () = {
    assert!((CONFIG_FILES_BYTES_MAX as u64) < CONFIG_DISK_BYTES);
};
