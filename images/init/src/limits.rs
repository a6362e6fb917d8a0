//! Every bound of the appliance, with its reason. What can be checked between them is checked here, at compile time.

use std::time::Duration;

// ---- configuration ----

/// Longest aspen.conf, in bytes: every key at its longest has less.
pub const CONFIG_BYTES_MAX: u64 = 256 * 1024;
/// Longest node.toml, in bytes: 100 peers at 200 bytes each, tenfold.
pub const NODE_CONFIG_BYTES_MAX: u64 = 256 * 1024;
/// Longest secret key file, in bytes: 64 digits and a line end, with room for another form.
pub const SECRET_BYTES_MAX: u64 = 4 * 1024;
/// Files in the config disk's folder `private`: the node has settings for seven, and each may be replaced by one beside it.
pub const PRIVATE_FILES_MAX: usize = 16;
/// Longest of them, in bytes: a chain of certificates and a bundle of authorities have a few KiB each.
pub const PRIVATE_BYTES_MAX: u64 = 64 * 1024;
/// Longest value of one key, in bytes, lists at their longest included.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;
/// Interfaces: a lab's machine has one for each network, of which there are four.
pub const INTERFACES_MAX: usize = 4;
/// Smallest MTU, in bytes: what every host takes in one piece (RFC 791, 3.1).
pub const MTU_BYTES_MIN: u32 = 576;
/// Largest MTU, in bytes: what the length of an IPv4 packet can say.
pub const MTU_BYTES_MAX: u32 = 65_535;
/// Addresses of an interface.
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
/// Longest wait of a probe, in milliseconds: the lab's slowest link, there and back, takes less on its slowest machines.
pub const PROBE_MS_MAX: u64 = 300_000;
/// Most probes under way at once, each a thread: five to every other member of the largest cluster of the lab. Further ones
/// are refused.
pub const PROBES_MAX: usize = 256;
/// How long the control port waits before it looks whether somebody opened the other end: the kernel lets nobody wait
/// for that (`port_fops_read` of its virtio console).
pub const CONTROL_RETRY: Duration = Duration::from_millis(20);

// ---- start ----

/// Kernel messages below this level reach the console: errors and worse (`KERN_WARNING`).
pub const CONSOLE_LEVEL: u32 = 4;
/// Longest small text of the kernel's file systems, in bytes: lists of modules and addresses.
pub const READ_BYTES_MAX: u64 = 64 * 1024;
/// Longest text of a source of keys, in bytes: a value and its line end.
pub const VALUE_READ_BYTES_MAX: u64 = VALUE_BYTES_MAX as u64 + 1;
/// What of the kernel's own log is looked at, in bytes: it keeps 128 KiB by default (`CONFIG_LOG_BUF_SHIFT`).
pub const KERNEL_LOG_BYTES_MAX: usize = 1024 * 1024;
/// How long the next news of devices is waited for while one is missing: those of a machine's start are there before its
/// first program, and a hot-plugged one takes tens of milliseconds, under emulation ten times that.
pub const DEVICE_WAIT_MAX: Duration = Duration::from_secs(3);
/// Things that happened and are not dealt with yet: each kind a few times over.
pub const EVENTS_MAX: usize = 64;
/// How often the hypervisor's clock is asked.
pub const CLOCK_INTERVAL: Duration = Duration::from_secs(10);
/// Latest time that the clock is set to, in milliseconds since 1970-01-01 UTC: the end of the year 9999.
pub const UNIX_MS_MAX: i64 = 253_402_300_799_999;
/// Most by which the clocks can be made fast or slow, in parts per million: what the kernel takes (adjtimex(2)).
pub const DRIFT_PER_MILLION_MAX: u32 = 100_000;
/// How far the clock may be off before it is set, in milliseconds: reading both takes less than one.
pub const CLOCK_OFF_MS_MAX: i64 = 50;

// ---- data disk ----

/// Writes to the data disk that are not flushed, where a lab asks for them before it cuts the power: one is the last before the cut.
pub const UNFLUSHED_WRITES: u32 = 8;
/// Each of them, in bytes: together 1 MiB, of which something is lost however much is kept.
pub const UNFLUSHED_WRITE_BYTES: usize = 128 * 1024;

/// What of a disk is read whole before it counts as blank, in bytes: partition tables, superblocks, and with their journals
/// all that most file systems write at their beginning when they are made. Only the first start with a disk reads it, and an
/// emulated processor compares some 300 MB/s.
pub const LOOK_WHOLE_BYTES: u64 = 8 * 1024 * 1024;
/// Where the marks are by which contents are known, in bytes: that of btrfs comes last, at 64 KiB. Every start reads this.
pub const LOOK_MARKS_BYTES: usize = 128 * 1024;
/// What of it is read at a time, in bytes. The last so many bytes of a disk are read whole, too.
pub const LOOK_CHUNK_BYTES: usize = 1024 * 1024;
/// Behind what is read whole, up to this place one block is read at each multiple of an interval, all in bytes: partitions
/// begin there, and so do spare superblocks.
pub const LOOK_NEAR_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// The interval: every tool aligns partitions to it. A small read of an emulated disk takes a tenth of a millisecond.
pub const LOOK_NEAR_INTERVAL_BYTES: usize = 1024 * 1024;
/// From there on, the interval in bytes: spare superblocks of ext4 and btrfs are there.
pub const LOOK_FAR_INTERVAL_BYTES: usize = 64 * 1024 * 1024;
/// Such blocks at most: 64 GiB of a disk.
pub const LOOK_FAR_COUNT_MAX: usize = 1024;
/// How many blocks are asked for at once: as many as every disk takes (their queues have 128 places and more). One after
/// the other, 4 GiB took half a minute on a busy host that emulates.
pub const LOOK_READERS: usize = 32;
/// How long no news of devices may come until the kernel has found those that were there: between the disks of one
/// controller pass milliseconds, under emulation ten times that.
pub const DEVICE_QUIET: Duration = Duration::from_millis(500);
/// How long everything that was written may take to reach the disks when the machine ends: what the page cache of a small
/// machine holds goes to a slow disk in that time. A disk that is gone would be waited for without end.
pub const RELEASE_MAX: Duration = Duration::from_secs(20);

/// Partitions of a table at most, in every table that a tool makes (UEFI 2.10, 5.3.1: room for 128 at least).
pub const PARTITIONS_MAX: usize = 128;
/// A partition that is grown ends at a multiple of this, in sectors: 1 MiB, as every tool aligns.
pub const PARTITION_ALIGNMENT_SECTORS: u64 = 2048;

// ---- network ----

/// How long the kernel may take to answer a request about its network, in whole seconds: it answers within the call.
pub const NETLINK_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long the first address may take to come: a DHCP client asks four times in that time.
pub const ADDRESS_WAIT_MAX: Duration = Duration::from_secs(45);
/// How often it is looked for.
pub const ADDRESS_LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// Longest frame of DHCP and ARP, in bytes: an Ethernet frame of the usual size.
pub const DHCP_FRAME_BYTES_MAX: usize = 1514;
/// How long an answer of a DHCP server is listened for after the last question.
pub const DHCP_LISTEN: Duration = Duration::from_secs(10);
/// How long a DHCP client sleeps at most before it looks at its timers again.
pub const DHCP_SLEEP_MAX: Duration = Duration::from_mins(10);

// ---- node ----

/// What is read of a word of the node's, in bytes: systemd reads as much (`NOTIFY_BUFFER_MAX`).
pub const NOTIFY_BYTES_MAX: usize = 4096;
/// How long the node has to stop by itself: its own bound is 10 s, and 1 s for its runtime.
pub const NODE_STOP_MAX: Duration = Duration::from_secs(15);
/// How long a killed node has to be gone. The kernel needs milliseconds; one that waits for a dead disk is left behind.
pub const NODE_KILL_MAX: Duration = Duration::from_secs(5);
/// How often it is looked whether the node has stopped, besides at every signal.
pub const NODE_LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long the last lines of a node that ended may take to come out of its pipe.
pub const OUTPUT_DRAIN_MAX: Duration = Duration::from_secs(1);
/// First wait before a node that ended unasked is started again; each further one is twice as long.
pub const RESTART_WAIT_MIN: Duration = Duration::from_millis(100);
/// Longest such wait: a client's patience.
pub const RESTART_WAIT_MAX: Duration = Duration::from_secs(10);
/// A node that ran so long is a good one, and its next wait the shortest again.
pub const NODE_STEADY: Duration = Duration::from_mins(1);
/// Starts in a row that came to nothing after which the machine goes off: about half a minute of waits.
pub const NODE_FAILURES_MAX: u32 = 10;
/// Longest line of the node that is kept in one piece, in bytes.
pub const NODE_LINE_BYTES_MAX: u64 = 4 * 1024;
/// What is kept of the node's output, in bytes: a hundred lines and a panic with its trace.
pub const LAST_WORDS_BYTES_MAX: usize = 16 * 1024;
/// Longest file of last words, in bytes: four ends of a node.
pub const LAST_WORDS_FILE_BYTES_MAX: u32 = 64 * 1024;

const _: () = {
    assert!(LOOK_WHOLE_BYTES.is_multiple_of(LOOK_CHUNK_BYTES as u64));
    assert!(LOOK_CHUNK_BYTES.is_multiple_of(BLOCK_BYTES as usize));
    assert!(LOOK_MARKS_BYTES < LOOK_CHUNK_BYTES);
    assert!(LOOK_WHOLE_BYTES < LOOK_NEAR_BYTES);
    assert!(LOOK_NEAR_BYTES.is_multiple_of(LOOK_NEAR_INTERVAL_BYTES as u64));
    // News still comes in the time that a missing device is waited for.
    assert!(DEVICE_QUIET.as_millis() * 2 < DEVICE_WAIT_MAX.as_millis());
    assert!(RESTART_WAIT_MIN.as_millis() < RESTART_WAIT_MAX.as_millis());
    // The last end of a node, with the line above it, fits its file.
    assert!(LAST_WORDS_BYTES_MAX * 2 <= LAST_WORDS_FILE_BYTES_MAX as usize);
    assert!(NODE_LINE_BYTES_MAX * 2 <= LAST_WORDS_BYTES_MAX as u64);
    assert!(BLOCK_BYTES.is_power_of_two());
    assert!(BLOCKS_TOTAL_BYTES_MAX.is_multiple_of(BLOCK_BYTES as u64));
    // Every neighbour at its longest, an IPv6 address and a MAC, fits one value.
    assert!(NEIGHBOURS_MAX * (39 + 1 + 17 + 1) <= VALUE_BYTES_MAX);
};
