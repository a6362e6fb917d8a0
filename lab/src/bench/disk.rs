//! The disk under a benchmark: how fast it takes a write at this moment, and how often it was told to keep what it has.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::stat::{major, minor};

use crate::limits::bench::{PROBE_BYTES, PROBE_WRITES};

/// How long a small write and its fdatasync(2) take in this folder: the median of a few.
///
/// # Errors
/// The folder cannot be written.
pub(super) fn probe(folder: &Path) -> io::Result<Duration> {
    let path = folder.join("probe");
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..PROBE_WRITES {
        let start = Instant::now();
        file.write_all(&[0; PROBE_BYTES])?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    fs::remove_file(path)?;
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// How often the whole disk under this folder, whoever uses it, was told to keep what it has, since the host has started (field 16 of its `stat`,
/// Documentation/block/stat.rst); `None` where the kernel does not count it.
pub(super) fn flushes(folder: &Path) -> Option<u64> {
    let device = fs::metadata(folder).ok()?.dev();
    let link = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let disk = fs::canonicalize(link).ok()?;
    // A partition has the counts of its disk.
    let disk = if disk.join("partition").exists() { disk.parent()?.to_owned() } else { disk };
    // Without a cache of its own it is never told.
    if fs::read_to_string(disk.join("queue/write_cache")).ok()?.trim() != "write back" {
        return None;
    }
    let stat = fs::read_to_string(disk.join("stat")).ok()?;
    stat.split_ascii_whitespace().nth(15)?.parse().ok()
}
