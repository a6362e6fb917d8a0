//! Bounds of the benchmark of whole clusters.

use std::time::Duration;

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
