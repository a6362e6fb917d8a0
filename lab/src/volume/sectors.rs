//! What a file holds, and what its sectors held since it was synced.

use std::collections::BTreeMap;

use rand::{Rng, RngExt};

use super::Loss;

/// What a disk writes at once, or not at all.
pub(crate) const SECTOR_BYTES: usize = 512;
/// Contents of a sector that are kept between two syncs; of more, the latest ones.
const VERSIONS_MAX: usize = 8;

pub(crate) type Sector = [u8; SECTOR_BYTES];

/// What changed sectors held since the last sync.
#[derive(Debug, Default)]
pub(crate) struct Unsynced {
    /// By their places, the content on the disk first.
    before: BTreeMap<u64, Vec<Sector>>,
    /// What is on the disk where a sync has failed: nothing is to be written there, although programs see something else.
    lost: BTreeMap<u64, Sector>,
    /// How many contents that are, over all sectors.
    contents_count: usize,
}

impl Unsynced {
    /// Keeps what a sector holds, before it changes.
    pub(crate) fn remember(&mut self, place: u64, sector: &Sector) {
        // Most change once, and a list has room for four otherwise.
        let before = self.before.entry(place).or_insert_with(|| Vec::with_capacity(1));
        if before.is_empty()
            && let Some(lost) = self.lost.remove(&place)
        {
            before.push(lost);
            self.contents_count += 1;
        }
        if before.len() == VERSIONS_MAX {
            // Never the first one, which is on the disk.
            before.remove(1);
        } else {
            self.contents_count += 1;
        }
        before.push(*sector);
    }

    /// How many sectors have changed.
    pub(crate) fn sectors_count(&self) -> usize {
        self.before.len()
    }

    /// How many contents are kept.
    pub(crate) fn contents_count(&self) -> usize {
        self.contents_count
    }

    /// Everything that was to be written has reached the disk.
    pub(crate) fn sync(&mut self) {
        self.before.clear();
        self.contents_count = 0;
    }

    /// Nothing has, and is taken for written all the same.
    pub(super) fn fail_sync(&mut self) {
        for (place, before) in std::mem::take(&mut self.before) {
            self.lost.insert(place, before[0]);
        }
        self.contents_count = 0;
    }

    /// Nothing is left on the disk from this place on.
    fn cut_off(&mut self, end: u64) {
        self.lost.retain(|place, _| *place < end);
    }

    /// What sectors hold again that a power cut takes, by their places: each is spared with this probability in percent. Of what a
    /// failed sync was to write a part may have been written.
    pub(crate) fn cut(&self, percent: u8, random: &mut impl Rng) -> Vec<(u64, Sector)> {
        let failed = self.lost.iter().map(|(place, sector)| (*place, std::slice::from_ref(sector)));
        let unsynced = self.before.iter().map(|(place, before)| (*place, before.as_slice()));
        let mut taken = Vec::new();
        for (place, before) in failed.chain(unsynced) {
            if random.random_range(0..100) < percent {
                continue;
            }
            let version = if percent == 0 { 0 } else { random.random_range(0..before.len()) };
            taken.push((place, before[version]));
        }
        taken
    }
}

/// A file's bytes.
#[derive(Debug, Default)]
pub(super) struct Content {
    bytes: Vec<u8>,
    /// Its length on the disk.
    durable_len: usize,
    /// The lengths that it had since, the present one included.
    lens: Vec<usize>,
    unsynced: Unsynced,
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Its length on the disk.
    pub(super) fn durable_len(&self) -> u64 {
        self.durable_len as u64
    }

    /// Bytes that a sync would add to those on the disk.
    pub(super) fn more(&self) -> u64 {
        if self.lens.is_empty() { 0 } else { self.len().saturating_sub(self.durable_len()) }
    }

    pub(super) fn read(&self, offset: u64, length: u32) -> &[u8] {
        let end = size(offset.saturating_add(u64::from(length))).min(self.bytes.len());
        self.bytes.get(size(offset)..end).unwrap_or_default()
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (start, end) = (size(offset), size(offset) + bytes.len());
        if end > self.bytes.len() {
            self.set_len(end as u64);
        } else if self.lens.is_empty() && (end > self.durable_len || self.bytes.len() < self.durable_len) {
            // A failed sync has lost the length, which is to be written now as well.
            self.lens.push(self.bytes.len());
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
        if let Some(shortest) = self.lens.iter().min() {
            // What was cut off is gone, also where an earlier sync could not take it away.
            self.unsynced.cut_off(shortest.div_ceil(SECTOR_BYTES) as u64);
            self.durable_len = self.bytes.len();
        }
        self.lens.clear();
        self.unsynced.sync();
    }

    /// Syncs nothing, and takes everything for synced that was to be.
    pub(super) fn fail_sync(&mut self) {
        self.lens.clear();
        self.unsynced.fail_sync();
    }

    /// How many sectors have another content now than they had been given.
    pub(super) fn cut(&mut self, loss: Loss, random: &mut impl Rng) -> u64 {
        if loss == Loss::Nothing {
            self.sync();
        }
        let percent = if let Loss::Some(percent) = loss { percent } else { 0 };
        let mut changed = 0;
        self.lens.insert(0, self.durable_len);
        let len =
            if percent == 0 { self.durable_len } else { self.lens[random.random_range(0..self.lens.len())] };
        // As long as it ever was, so that every sector has its place.
        let longest = self.lens.iter().copied().max().unwrap_or_default();
        self.bytes.resize(longest, 0);
        for (place, sector) in self.unsynced.cut(percent, random) {
            let start = size(place) * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(self.bytes.len());
            if start < end {
                changed += u64::from(self.bytes[start..end] != sector[..end - start]);
                self.bytes[start..end].copy_from_slice(&sector[..end - start]);
            }
        }
        self.bytes.truncate(len);
        self.unsynced = Unsynced::default();
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
            self.unsynced.remember(place as u64, &sector);
        }
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a file of this disk fits into memory")
}
