//! The changes that are held, and where everybody stands.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::api::ApiError;
use crate::limits::{CHANGE_BYTES, WATCH_BATCH_BYTES, WATCHERS_MAX};
use crate::types::{Change, ChangeKind, Interest, Record, Revised, Revision};

#[derive(Debug)]
pub(super) struct Feed {
    /// Oldest first. Invariant: all changes after `floor` and up to `latest`.
    held: VecDeque<Arc<Revised>>,
    held_bytes: u64,
    bytes_max: u64,
    /// What was changed up to here is held no longer.
    floor: Revision,
    latest: Revision,
    /// From which entry on it is noted what keys held before.
    previous_since: Option<Revision>,
    groups: BTreeMap<Interest, Group>,
    watcher_count: u32,
    next_id: u64,
    is_closed: bool,
}

/// Those who follow the same changes: each change is compared once for all of them.
#[derive(Debug, Default)]
struct Group {
    woken: Arc<Notify>,
    places: BTreeMap<u64, Place>,
}

/// Changes that a place has taken, of which some may not be those that it follows.
pub(super) struct Taken {
    pub(super) revised: Vec<Arc<Revised>>,
    /// There are no others up to here.
    pub(super) up_to: Revision,
    /// Nor behind that.
    pub(super) is_all: bool,
}

#[derive(Debug)]
struct Place {
    /// The first entry that is wanted.
    from: Revision,
    /// There is nothing to see before this entry; `None`: nothing at all.
    pending: Option<Revision>,
}

impl Feed {
    pub(super) fn new(applied: Revision, bytes_max: u64) -> Self {
        Self {
            held: VecDeque::new(),
            held_bytes: 0,
            bytes_max,
            floor: applied,
            latest: applied,
            previous_since: None,
            groups: BTreeMap::new(),
            watcher_count: 0,
            next_id: 0,
            is_closed: false,
        }
    }

    pub(super) fn keep(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
        self.trim();
    }

    pub(super) fn previous_since(&self) -> Option<Revision> {
        self.previous_since
    }

    pub(super) fn latest(&self) -> Revision {
        self.latest
    }

    pub(super) fn measures(&self) -> (u64, u64) {
        (self.watcher_count.into(), self.held_bytes)
    }

    pub(super) fn publish(&mut self, revised: Vec<Revised>, applied: Revision) {
        for revised in revised {
            for (interest, group) in &mut self.groups {
                if revised.changes.iter().any(|change| interest.includes(change)) {
                    group.note(revised.revision);
                }
            }
            self.held_bytes += bytes(&revised);
            self.held.push_back(Arc::new(revised));
        }
        self.latest = applied;
        self.trim();
    }

    pub(super) fn restart(&mut self, applied: Revision) {
        self.held.clear();
        self.held_bytes = 0;
        (self.floor, self.latest) = (applied, applied);
        for group in self.groups.values_mut() {
            for place in group.places.values_mut().filter(|place| place.from <= applied) {
                // What lies between is unknown.
                place.pending = Some(place.pending.unwrap_or(applied));
            }
            group.woken.notify_waiters();
        }
    }

    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.groups.values().for_each(|group| group.woken.notify_waiters());
    }

    /// A place of its own, what wakes it, and the first entry that it sees.
    pub(super) fn watch(
        &mut self,
        interest: &Interest,
        from: Option<Revision>,
        notes_previous: bool,
    ) -> Result<(u64, Arc<Notify>, Revision), ApiError> {
        self.check_open()?;
        if self.watcher_count >= WATCHERS_MAX {
            return Err(ApiError::TooManyWatchers { limit: WATCHERS_MAX });
        }
        let next = Revision(self.latest.0 + 1);
        // Entry 0 founds the cluster, and changes no key.
        let from = from.unwrap_or(next).max(Revision(1));
        self.check_held(from)?;
        if notes_previous {
            let since = *self.previous_since.get_or_insert(next);
            if from < since {
                return Err(ApiError::PreviousNotNoted { since });
            }
        }
        let id = self.next_id;
        self.next_id += 1;
        self.watcher_count += 1;
        let group = self.groups.entry(interest.clone()).or_default();
        group.places.insert(id, Place { from, pending: (from < next).then_some(from) });
        Ok((id, group.woken.clone(), from))
    }

    pub(super) fn leave(&mut self, interest: &Interest, id: u64) {
        if let Some(group) = self.groups.get_mut(interest) {
            group.places.remove(&id);
            self.watcher_count -= 1;
            if group.places.is_empty() {
                self.groups.remove(interest);
            }
        }
    }

    /// Some of the changes that a place has not seen.
    pub(super) fn take(&mut self, interest: &Interest, id: u64) -> Result<Taken, ApiError> {
        self.check_open()?;
        let group = self.groups.get_mut(interest).expect("a group is there as long as a place of it");
        let place = group.places.get_mut(&id).expect("a place is there until it is left");
        let Some(pending) = place.pending else {
            return Ok(Taken { revised: Vec::new(), up_to: self.latest, is_all: true });
        };
        if pending <= self.floor {
            return Err(self.compacted());
        }
        let first = self.held.partition_point(|revised| revised.revision < pending);
        let (mut taken, mut taken_bytes) = (Vec::new(), 0);
        for revised in self.held.range(first..) {
            if taken_bytes > WATCH_BATCH_BYTES {
                place.pending = Some(revised.revision);
                let up_to = Revision(revised.revision.0 - 1);
                return Ok(Taken { revised: taken, up_to, is_all: false });
            }
            taken_bytes += bytes(revised);
            taken.push(revised.clone());
        }
        place.pending = None;
        Ok(Taken { revised: taken, up_to: self.latest, is_all: true })
    }

    /// Drops the oldest changes. The newest entry stays, however much it has changed.
    fn trim(&mut self) {
        while self.held_bytes > self.bytes_max
            && self.held.len() > 1
            && let Some(oldest) = self.held.pop_front()
        {
            self.held_bytes -= bytes(&oldest);
            self.floor = oldest.revision;
        }
    }

    fn check_open(&self) -> Result<(), ApiError> {
        if self.is_closed { Err(ApiError::Stopping { reason: "it was asked to".to_owned() }) } else { Ok(()) }
    }

    fn check_held(&self, from: Revision) -> Result<(), ApiError> {
        if from <= self.floor { Err(self.compacted()) } else { Ok(()) }
    }

    fn compacted(&self) -> ApiError {
        ApiError::Compacted { oldest: Revision(self.floor.0 + 1) }
    }
}

impl Group {
    /// Wakes those that have not seen this entry.
    fn note(&mut self, revision: Revision) {
        for place in self.places.values_mut().filter(|place| revision >= place.from) {
            place.pending.get_or_insert(revision);
        }
        self.woken.notify_waiters();
    }
}

/// What an entry's changes take in memory, nearly.
fn bytes(revised: &Revised) -> u64 {
    let record = |record: &Record| record.value.0.len() as u64;
    let change = |change: &Change| {
        let (values, previous) = match &change.kind {
            ChangeKind::Put { record: new, previous, .. } => (record(new), previous.record()),
            ChangeKind::Deleted { previous, .. } => (0, previous.record()),
            ChangeKind::VaultDeleted => (0, None),
        };
        let key = change.key().map_or(0, |key| key.0.len() as u64);
        key + values + previous.map_or(0, record) + CHANGE_BYTES
    };
    revised.changes.iter().map(change).sum()
}
