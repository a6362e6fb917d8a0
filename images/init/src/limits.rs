//! Every bound of the appliance, with its reason. What can be checked between them is checked here, at compile time.

// ---- configuration ----

/// Longest aspen.conf, in bytes: every key at its longest has less.
pub const CONFIG_BYTES_MAX: u64 = 256 * 1024;
/// Longest node.toml, in bytes: 100 peers at 200 bytes each, tenfold.
pub const NODE_CONFIG_BYTES_MAX: u64 = 256 * 1024;
/// Longest secret key file, in bytes: 64 digits and a line end, with room for another form.
pub const SECRET_BYTES_MAX: u64 = 4 * 1024;
/// Longest value of one key, in bytes, lists at their longest included.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;
/// Addresses of the one interface.
pub const ADDRESSES_MAX: usize = 16;
/// Permanent neighbours: a cluster has 100 members at most, and the lab is one more.
pub const NEIGHBOURS_MAX: usize = 128;
/// Values that are flags of the node: one for each of 100 peers, and each other flag.
pub const NODE_FLAGS_MAX: usize = 128;
/// Longest host name, in bytes (`__NEW_UTS_LEN`, linux/utsname.h).
pub const HOSTNAME_BYTES_MAX: usize = 64;

// ---- block list ----

/// Bytes of a block: what ext4 and the page cache use.
pub const BLOCK_BYTES: u32 = 4096;
/// Most blocks of a list: an empty ext4 has about a hundred; it has to fit comfortably in a small machine's memory.
pub const BLOCKS_MAX: u64 = 4_096;
/// Largest file system that a block list may describe, in bytes: the smallest disk that it could go on.
pub const BLOCKS_TOTAL_BYTES_MAX: u64 = 1024 * 1024 * 1024;

// ---- control channel ----

/// Longest line of the control channel, in bytes: the longest request has 100.
pub const CONTROL_LINE_BYTES_MAX: usize = 4 * 1024;
/// Longest wait of a probe, in milliseconds: the lab's slowest link, there and back, takes less.
pub const PROBE_MS_MAX: u64 = 60_000;

const _: () = {
    assert!(BLOCK_BYTES.is_power_of_two());
    assert!(BLOCKS_TOTAL_BYTES_MAX.is_multiple_of(BLOCK_BYTES as u64));
    // Every neighbour at its longest, an IPv6 address and a MAC, fits one value.
    assert!(NEIGHBOURS_MAX * (39 + 1 + 17 + 1) <= VALUE_BYTES_MAX);
};
