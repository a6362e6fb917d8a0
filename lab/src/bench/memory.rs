//! The memory of processes, looked at again and again.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::task::JoinSet;

use crate::limits::bench::{MEMORY_INTERVAL, MEMORY_SHARED_EVERY};

/// What a process has in memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_field_names, reason = "sizes carry their unit")]
pub(super) struct Memory {
    /// `VmRSS` of `/proc/PID/status` (proc(5)).
    rss_bytes: u64,
    /// Of that its own: `RssAnon`.
    anonymous_bytes: u64,
    /// `Pss` of `/proc/PID/smaps_rollup`, in which a page that several have is shared out among them; `None` where the kernel does not
    /// show it to us.
    pss_bytes: Option<u64>,
}

impl Memory {
    /// `None` if there is no such process.
    pub(super) fn read(pid: u32) -> Option<Self> {
        let pss = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        let pss_bytes = pss.ok().and_then(|pss| bytes_of(&pss, "Pss:"));
        Some(Self { pss_bytes, ..Self::read_quickly(pid)? })
    }

    /// Without what takes long.
    fn read_quickly(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let [rss_bytes, anonymous_bytes] =
            ["VmRSS:", "RssAnon:"].map(|name| bytes_of(&status, name).unwrap_or_default());
        Some(Self { rss_bytes, anonymous_bytes, pss_bytes: None })
    }

    fn at_most(self, other: Self) -> Self {
        Self {
            rss_bytes: self.rss_bytes.max(other.rss_bytes),
            anonymous_bytes: self.anonymous_bytes.max(other.anonymous_bytes),
            pss_bytes: self.pss_bytes.max(other.pss_bytes),
        }
    }
}

/// A size in a text of lines with a name and as many kB.
fn bytes_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// The memory of a process while something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Growth {
    before: Memory,
    /// The most of each, not all at the same moment.
    most: Memory,
}

impl Growth {
    /// As a part of a line.
    pub(super) fn text(&self) -> String {
        let mib = |bytes: u64| bytes.div_ceil(1024 * 1024);
        let more = |before: u64, most: u64| format!("{:>5} {:>+6}", mib(before), mib(most - before));
        let Self { before, most } = self;
        let pss = before.pss_bytes.zip(most.pss_bytes);
        let pss = pss.map_or_else(|| format!("{:>12}", "-"), |(before, most)| more(before, most));
        format!("{}   {pss}", more(before.rss_bytes, most.rss_bytes))
    }
}

/// Looks at a process until it is asked what it has seen, or dropped.
#[derive(Debug)]
pub(super) struct Watched {
    growth: Arc<Mutex<Growth>>,
    /// One task. Dropped, it ends.
    _looks: JoinSet<()>,
}

impl Watched {
    /// `None` if there is no such process.
    pub(super) fn begin(pid: u32) -> Option<Self> {
        let before = Memory::read(pid)?;
        let growth = Arc::new(Mutex::new(Growth { before, most: before }));
        let mut looks = JoinSet::new();
        looks.spawn(look(pid, growth.clone()));
        Some(Self { growth, _looks: looks })
    }

    /// What it has seen until now.
    pub(super) fn seen(&self) -> Growth {
        *self.growth.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look(pid: u32, growth: Arc<Mutex<Growth>>) {
    for turn in 0_u64.. {
        tokio::time::sleep(MEMORY_INTERVAL).await;
        let is_slow_one = turn.is_multiple_of(MEMORY_SHARED_EVERY);
        let Some(now) = (if is_slow_one { Memory::read(pid) } else { Memory::read_quickly(pid) }) else {
            return;
        };
        let mut growth = growth.lock().unwrap_or_else(PoisonError::into_inner);
        growth.most = growth.most.at_most(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_that_of_a_process() {
        let own = Memory::read(std::process::id()).unwrap();
        assert!(own.rss_bytes >= own.anonymous_bytes && own.anonymous_bytes > 1 << 16, "{own:?}");
        assert_eq!(Memory::read(u32::MAX), None);
    }

    #[test]
    fn growth_is_that_of_the_most_that_was_seen() {
        let memory = |mib: u64, pss_bytes| Memory { rss_bytes: mib << 20, anonymous_bytes: 0, pss_bytes };
        let growth = Growth { before: memory(10, None), most: memory(10, None).at_most(memory(12, None)) };
        assert_eq!(growth.text(), "   10     +2              -");
        let most = memory(10, Some(5 << 20)).at_most(memory(7, None));
        assert_eq!(most, memory(10, Some(5 << 20)));
        let growth = Growth { before: memory(9, Some(5 << 20)), most };
        assert_eq!(growth.text(), "    9     +1       5     +0");
    }
}
