//! The paths inside the initramfs, on the config disk and on the data disk, and the names by which devices are found.

/// PID 1, in the initramfs.
pub const INIT: &str = "/init";
/// The node's program, in the initramfs.
pub const NODE: &str = "/bin/aspen-node";
/// The modules to load, in the initramfs: one path a line, in load order. Absent or empty for a kernel without modules.
pub const MODULES: &str = "/etc/aspen/modules";
/// The empty ext4 for a blank data disk, in the initramfs, as a block list ([`crate::blocks`]).
pub const DATA_BLOCKS: &str = "/etc/aspen/data.blocks";
/// What the appliance is, in the initramfs (os-release(5)).
pub const OS_RELEASE: &str = "/etc/os-release";
/// Directories of the initramfs that are empty: on them others are mounted.
pub const MOUNT_POINTS: [&str; 6] = ["/dev", "/proc", "/sys", "/run", "/data", "/tmp"];

/// Label of the config disk's FAT volume.
pub const CONFIG_LABEL: &str = "ASPEN-CFG";
/// The appliance's configuration, on the config disk ([`crate::config`]).
pub const CONFIG_FILE: &str = "aspen.conf";
/// The node's configuration, on the config disk: handed to the node as it is.
pub const CONFIG_NODE_FILE: &str = "node.toml";
/// The node's secret key, on the config disk, as the node stores it. Used by a node that has none yet.
pub const CONFIG_SECRET_FILE: &str = "secret.key";
/// The folder on the config disk whose files are nobody's but the node's: certificates, tokens, the cluster's secret.
pub const CONFIG_PRIVATE_FOLDER: &str = "private";
/// Where the node finds them, under the names that they have there.
pub const NODE_PRIVATE: &str = "/run/aspen/private";

/// Label of the data disk's ext4.
pub const DATA_LABEL: &str = "ASPEN-DATA";
/// Serial number of a virtio block device that is the data disk, and name of a GPT partition that is.
pub const DATA_NAME: &str = "aspen-data";
/// Where the data disk is mounted.
pub const DATA: &str = "/data";
/// The node's data directory, on the data disk.
pub const NODE_DATA: &str = "/data/node";
/// The file in the node's data directory that holds its secret key.
pub const NODE_SECRET_FILE: &str = "identity.key";
/// With what the node ends whose settings are wrong (`EX_USAGE`, sysexits.h).
pub const NODE_EXIT_USAGE: i32 = 64;
/// With what the node ends whose data directory is of an earlier state (`EX_DATAERR`, sysexits.h).
pub const NODE_EXIT_RETIRED: i32 = 65;
/// The socket on which the node tells that it serves.
pub const NODE_NOTIFY: &str = "/run/aspen/notify";
/// Under which name the node tells its public key when it says that it serves (`sd_notify(3)`).
pub const NODE_ENDPOINT_ID: &str = "X_ASPEN_ENDPOINT_ID";
/// The file in the node's data directory that keeps the node from running: its state is one of before.
pub const NODE_RETIRED_FILE: &str = "retired";
/// What the node said last before it ended unasked, on the data disk.
pub const LAST_WORDS: &str = "/data/last-words";
/// What was written and never flushed, on the data disk: of no use to anybody.
pub const UNFLUSHED: &str = "/data/unflushed";
/// The node's configuration as the node reads it.
pub const NODE_CONFIG: &str = "/run/aspen/node.toml";

/// Name of the virtio-serial port that carries the control channel ([`crate::control`]).
pub const CONTROL_PORT: &str = "org.aspen.control";
/// Vsock port on which the appliance listens for the control channel, where the hypervisor has a vsock device.
pub const CONTROL_VSOCK_PORT: u32 = 7400;
/// What stands before a key on the kernel command line and in an SMBIOS string.
pub const KEY_PREFIX: &str = "aspen.";
/// What stands before a key in the name of a `fw_cfg` file.
pub const FW_CFG_PREFIX: &str = "opt/org.aspen/";

/// The beginning of a data disk that the appliance may write to: written to a blank one before anything else, and gone when the
/// file system is complete, so that a power cut in between leaves a disk that can be finished. Whoever has just made a disk may
/// write it, and spares the appliance the search for other contents.
pub const UNFINISHED: &[u8; 32] = b"ASPEN: file system is unfinished";
