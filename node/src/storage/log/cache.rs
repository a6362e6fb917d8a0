//! The part of the log that is in memory: what is not durable yet, and recent entries. Pure: the caller locks it.

use std::collections::VecDeque;
use std::ops::Range;

use super::super::entry::entry_size;
use crate::limits::LOG_CACHE_BYTES_MAX;
use crate::types::raft_types::{Entry, LogId, Vote};

/// The tail of the log, and its bounds.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// Invariant: contiguous, ends with `last`, and holds every entry that is not durable.
    tail: VecDeque<Entry>,
    /// Bytes in `tail`, about.
    bytes: u64,
    /// Bytes that were ever appended, about.
    appended: u64,
    /// Entries up to here are on disk, so they may leave memory.
    durable: Option<u64>,
    /// Where the log begins: behind what was purged, or where the first entry was put into an empty log.
    first: u64,
    last: Option<LogId>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// Counts truncations and purges, so that a reader of the disk notices one.
    generation: u64,
}

impl Cache {
    /// Takes over what was found on disk.
    pub(super) fn restore(
        &mut self,
        purged: Option<LogId>,
        last: Option<LogId>,
        vote: Option<Vote>,
        committed: Option<LogId>,
    ) {
        self.durable = last.map(|id| id.index);
        self.first = purged.map_or(0, |id| id.index + 1);
        self.last = last;
        self.purged = purged;
        self.vote = vote;
        self.committed = committed;
    }

    pub(super) fn last(&self) -> Option<LogId> {
        self.last
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn first_in_memory(&self) -> Option<u64> {
        self.tail.front().map(|entry| entry.log_id.index)
    }

    pub(super) fn appended_bytes(&self) -> u64 {
        self.appended
    }

    pub(super) fn durable(&self) -> Option<u64> {
        self.durable
    }

    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    pub(super) fn vote(&self) -> Option<Vote> {
        self.vote
    }

    /// Only a durable vote may be seen.
    pub(super) fn set_vote(&mut self, vote: Vote) {
        self.vote = Some(vote);
    }

    pub(super) fn committed(&self) -> Option<LogId> {
        self.committed
    }

    pub(super) fn set_committed(&mut self, committed: Option<LogId>) {
        self.committed = committed;
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The part of `from..until` that the log has.
    pub(super) fn clamp(&self, from: u64, until: u64) -> Range<u64> {
        let end = self.last.map_or(0, |id| id.index + 1);
        let from = from.max(self.first);
        from..until.min(end).max(from)
    }

    /// Splits a clamped range: what has to be read from disk, and what memory has of the rest, up to `bytes_max`.
    pub(super) fn read(&self, range: Range<u64>, bytes_max: u64) -> (Range<u64>, Vec<Entry>) {
        let Some(first) = self.tail.front().map(|entry| entry.log_id.index) else {
            return (range, Vec::new());
        };
        let disk = range.start..range.end.min(first).max(range.start);
        let mut found: Vec<Entry> = Vec::new();
        let mut bytes = 0_u64;
        for index in disk.end..range.end {
            let entry = &self.tail[offset(index, first)];
            bytes = bytes.saturating_add(entry_size(entry));
            if bytes > bytes_max && !(found.is_empty() && disk.is_empty()) {
                break;
            }
            found.push(entry.clone());
        }
        (disk, found)
    }

    /// Adds an entry, which is readable from now on.
    pub(super) fn append(&mut self, entry: Entry) {
        let log_id = entry.log_id;
        let next = self.last.or(self.purged).map_or(log_id.index, |id| id.index + 1);
        assert_eq!(log_id.index, next, "openraft appends without holes");
        if self.last.is_none() {
            self.first = log_id.index;
        }
        let bytes = entry_size(&entry);
        self.bytes += bytes;
        self.appended += bytes;
        self.tail.push_back(entry);
        self.last = Some(log_id);
    }

    /// Entries up to `index` are on disk; the oldest of them leave memory.
    pub(super) fn flushed(&mut self, index: u64) {
        self.durable = self.durable.max(Some(index));
        while self.bytes > LOG_CACHE_BYTES_MAX
            && self.tail.front().is_some_and(|entry| Some(entry.log_id.index) <= self.durable)
        {
            self.pop_front();
        }
    }

    /// The disk has forgotten the entries after `last`, too.
    pub(super) fn truncated(&mut self, last: Option<u64>) {
        self.durable = self.durable.min(last);
    }

    /// Forgets the entries after `last`.
    pub(super) fn truncate_after(&mut self, last: Option<LogId>) {
        let index = last.map(|id| id.index);
        while self.tail.back().is_some_and(|entry| Some(entry.log_id.index) > index) {
            if let Some(entry) = self.tail.pop_back() {
                self.bytes -= entry_size(&entry);
            }
        }
        // What is not there stays absent: a log that ends before `last` keeps its end.
        self.last = self.last.min(last).filter(|id| self.purged.is_none_or(|purged| id.index > purged.index));
        self.generation += 1;
    }

    /// Forgets the entries up to `upto`.
    pub(super) fn purge(&mut self, upto: LogId) {
        while self.tail.front().is_some_and(|entry| entry.log_id.index <= upto.index) {
            self.pop_front();
        }
        self.purged = self.purged.max(Some(upto));
        self.first = self.first.max(upto.index + 1);
        self.last = self.last.filter(|id| id.index > upto.index);
        self.generation += 1;
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.tail.pop_front() {
            self.bytes -= entry_size(&entry);
        }
    }
}

fn offset(index: u64, first: u64) -> usize {
    usize::try_from(index - first).expect("the cache is bounded in bytes")
}
