//! Every bound of the lab, with its reason.

use std::time::Duration;

/// Longest line of a history, in bytes: a megabyte is far above any value that the workloads write, and
/// keeps a file that is not a history from being read into memory as one line.
pub const HISTORY_LINE_BYTES_MAX: u64 = 1 << 20;

/// Most operations in a history: a run of an hour at 9,000 operations a second. Each takes about 100 bytes
/// of memory while it is judged.
pub const HISTORY_OPERATIONS_MAX: u32 = 1 << 25;

/// Most text in one table of a history (all its values, say), in bytes: its offsets are u32.
pub const HISTORY_TEXT_BYTES_MAX: u32 = u32::MAX;

/// How long the linearizability check may search, unless the user says otherwise: what acceptance allows
/// for 10,000 operations with CAS on one key.
pub const CHECK_TIME_MAX: Duration = Duration::from_mins(1);

/// Most configurations that the search keeps at once, unless the user says otherwise. One takes 24 to 264
/// bytes by the number of operations in flight: between 24 and 264 MB.
pub const CHECK_CONFIGURATIONS_MAX: u32 = 1_000_000;

/// How long the check may look for the smallest conflict of one key. When it ends, what was found so far is
/// reported, and that it may be larger than needed.
pub const CHECK_WITNESS_TIME_MAX: Duration = Duration::from_secs(10);

/// Most operations in flight at once on one key that the search follows. Operations of unknown outcome
/// whose value somebody asks for stay in flight to the end, so this is more than the number of clients.
pub const CHECK_PENDING_MAX: u32 = 1024;

/// Most keys whose violation is explained; of the others only the name is reported. Nobody reads more.
pub const CHECK_VIOLATIONS_MAX: u32 = 16;

const _: () = {
    // An index into the operations, or into a key's values, fits u32 with room for the absent value.
    assert!(HISTORY_OPERATIONS_MAX < u32::MAX - 2);
    // The search keeps one bit for each operation in flight, in whole words.
    assert!(CHECK_PENDING_MAX.is_multiple_of(64));
};
