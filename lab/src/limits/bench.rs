//! Bounds of the benchmark of whole clusters.

use std::time::Duration;

use aspen_node::limits::{COMMAND_BYTES_MAX, KEYS_PER_COMMAND_MAX, VALUE_BYTES_MAX};

/// Bytes of one write of the disk's probe: a page, as the log of a lone write has it.
pub const PROBE_BYTES: usize = 4096;
/// Writes of one probe: a median needs a few dozen.
pub const PROBE_WRITES: usize = 64;
/// How many times as slow as at its best the disk may be when a round begins.
pub const SLOW_DISK: u32 = 2;
/// How often a round waits for the disk to become as fast as it was, and how long each time.
pub const DISK_WAITS_MAX: u32 = 5;
/// See [`DISK_WAITS_MAX`].
pub const DISK_WAIT: Duration = Duration::from_secs(2);
/// Longest time from the start of a cluster until somebody leads it.
pub const READY_MAX: Duration = Duration::from_secs(30);
/// How long a process may take to end after it was killed.
pub const STOP_MAX: Duration = Duration::from_secs(12);
/// Most nodes: all share one host's processors.
pub const NODES_MAX: u32 = 9;
/// Most rounds: the median of more is no better.
pub const ROUNDS_MAX: u32 = 100;
/// Longest measurement of one figure, in seconds.
pub const SECONDS_MAX: u32 = 3_600;
/// For how long each figure runs before it is measured.
pub const WARM_UP: Duration = Duration::from_secs(1);
/// Longest delay that is added to an fdatasync(2), in milliseconds: Raft's heartbeats have to get through.
pub const SYNC_DELAY_MS_MAX: u64 = 100;
/// Most keys: all of them are written before the first figure.
pub const KEYS_MAX: u64 = 1_000_000;
/// Clients that write them.
pub const FILL_CLIENTS: u64 = 32;
/// How often a figure is measured at most, where another member came to lead in the middle of it.
pub const TRIES_MAX: u32 = 2;
/// How often it is looked whether somebody leads, and whether a process has ended.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often it is looked whether the user wants an end.
pub const STOP_LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Most times that the leader goes in each way.
pub const OUTAGES_MAX: u32 = 1_000;
/// Writers at each member that notice for how long nothing is written: one waits for its answer while another asks.
pub const OUTAGE_WRITERS: u32 = 2;
/// How long a writer that was refused waits: it measures to the millisecond.
pub const OUTAGE_RETRY: Duration = Duration::from_millis(1);
/// How long a cluster is left alone before its leader goes, and after all are back.
pub const OUTAGE_PAUSE: Duration = Duration::from_millis(500);
/// For how long syncs are counted, with each number of clients: thousands of writes.
pub const SYNCS_TIME: Duration = Duration::from_secs(2);
/// For how long there is load before that.
pub const SYNCS_WARM_UP: Duration = Duration::from_millis(500);
/// Fewest writes of which a figure says something.
pub const SYNCS_WRITES_MIN: u64 = 100;
/// Least state of a large one, in MiB: of less than what a node keeps in memory of its log, a new member would be sent the log.
pub const STATE_MIB_MIN: u64 = 64;
/// Most, in MiB: each member needs about three times as much room on the disk.
pub const STATE_MIB_MAX: u64 = 64 * 1024;
/// Values that one command writes into it: how many, and of how many bytes each.
pub const STATE_VALUES: [(u64, usize); 4] = [(64, 256), (16, 4 * 1024), (4, 64 * 1024), (1, 1024 * 1024)];
/// Clients that write it.
pub const STATE_FILL_CLIENTS: u64 = 4;
/// How often a command is tried that finds no leader, or no answer in time.
pub const STATE_FILL_TRIES_MAX: u32 = 20;
/// How long it is waited between two tries.
pub const STATE_FILL_PAUSE: Duration = Duration::from_millis(500);
/// Longest time of each step with it: a snapshot of the most at 64 MiB/s, and as much again.
pub const STATE_STEP_MAX: Duration = Duration::from_mins(34);
/// How often it is looked whether a node serves that was started again.
pub const STATE_LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// How long a cluster is left alone before something is measured, and shortest time for which it is.
pub const STATE_PAUSE: Duration = Duration::from_secs(2);
/// How often it is looked how much memory a process has.
pub const MEMORY_INTERVAL: Duration = Duration::from_millis(20);
/// Of so many looks one counts what the process shares with others, which takes the kernel some milliseconds.
pub const MEMORY_SHARED_EVERY: u64 = 10;

const _: () = {
    let mut place = 0;
    let mut keys = 0;
    let mut bytes = 0;
    while place < STATE_VALUES.len() {
        assert!(STATE_VALUES[place].1 <= VALUE_BYTES_MAX as usize);
        keys += STATE_VALUES[place].0;
        bytes += STATE_VALUES[place].0 * STATE_VALUES[place].1 as u64;
        place += 1;
    }
    assert!(keys <= KEYS_PER_COMMAND_MAX as u64);
    // With what names them, and with room to spare.
    assert!(bytes * 2 <= COMMAND_BYTES_MAX as u64);
};
