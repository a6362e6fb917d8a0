//! What a file holds, and what its sectors held since it was synced.

use std::collections::BTreeMap;

use rand::{Rng, RngExt};

use super::Loss;

/// What a disk writes at once, or not at all.
const SECTOR_BYTES: usize = 512;
/// Contents of a sector that are kept between two syncs; of more, the latest ones.
const VERSIONS_MAX: usize = 8;

type Sector = [u8; SECTOR_BYTES];

/// A file's bytes.
#[derive(Debug, Default)]
pub(super) struct Content {
    bytes: Vec<u8>,
    /// Its length on the disk.
    durable_len: usize,
    /// The lengths that it had since, the present one included.
    lens: Vec<usize>,
    /// What changed sectors held before, the content on the disk first.
    before: BTreeMap<usize, Vec<Sector>>,
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(super) fn read(&self, offset: u64, length: u32) -> &[u8] {
        let end = size(offset.saturating_add(u64::from(length))).min(self.bytes.len());
        self.bytes.get(size(offset)..end).unwrap_or_default()
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (start, end) = (size(offset), size(offset) + bytes.len());
        if end > self.bytes.len() {
            self.set_len(end as u64);
        }
        self.remember(start, end);
        self.bytes[start..end].copy_from_slice(bytes);
    }

    pub(super) fn set_len(&mut self, bytes: u64) {
        let len = size(bytes);
        if len < self.bytes.len() {
            // What is cut off may come back.
            self.remember(len, self.bytes.len().min(self.durable_len.max(len)));
        }
        self.bytes.resize(len, 0);
        self.lens.push(len);
    }

    pub(super) fn sync(&mut self) {
        self.durable_len = self.bytes.len();
        self.lens.clear();
        self.before.clear();
    }

    /// How many sectors have another content now than they had been given.
    pub(super) fn cut(&mut self, loss: Loss, random: &mut impl Rng) -> u64 {
        let percent = match loss {
            Loss::Nothing => {
                self.sync();
                return 0;
            }
            Loss::All => 0,
            Loss::Some(percent) => percent,
        };
        let mut changed = 0;
        self.lens.insert(0, self.durable_len);
        let len =
            if percent == 0 { self.durable_len } else { self.lens[random.random_range(0..self.lens.len())] };
        // As long as it ever was, so that every sector has its place.
        let longest = self.lens.iter().copied().max().unwrap_or_default();
        self.bytes.resize(longest, 0);
        for (place, before) in std::mem::take(&mut self.before) {
            if random.random_range(0..100) < percent {
                continue;
            }
            let version = if percent == 0 { 0 } else { random.random_range(0..before.len()) };
            let start = place * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(self.bytes.len());
            if start < end {
                changed += u64::from(self.bytes[start..end] != before[version][..end - start]);
                self.bytes[start..end].copy_from_slice(&before[version][..end - start]);
            }
        }
        self.bytes.truncate(len);
        self.sync();
        changed
    }

    /// Keeps what the sectors of a range hold, before they change.
    fn remember(&mut self, start: usize, end: usize) {
        if start >= end {
            return;
        }
        for place in start / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES {
            let mut sector = [0; SECTOR_BYTES];
            let from = (place * SECTOR_BYTES).min(self.bytes.len());
            let there = &self.bytes[from..(from + SECTOR_BYTES).min(self.bytes.len())];
            sector[..there.len()].copy_from_slice(there);
            let before = self.before.entry(place).or_default();
            if before.len() == VERSIONS_MAX {
                // Never the first one, which is on the disk.
                before.remove(1);
            }
            before.push(sector);
        }
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a file of this disk fits into memory")
}
