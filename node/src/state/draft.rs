//! What a transaction writes, before it counts.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::{Records, Stamp, entry_bytes, successor};
use crate::types::{Key, KeyRange, Record, Value};

/// Changes on top of other records, which they do not touch before [`Self::write_out`].
pub(super) struct Draft<'a, R> {
    base: &'a mut R,
    /// What each key holds now, where it was touched.
    touched: BTreeMap<Key, Option<Record>>,
    /// Bytes below of the keys that were touched.
    displaced_bytes: u64,
    /// What was done, in its order.
    steps: Vec<Step>,
}

enum Step {
    Put(Key, Value, Stamp),
    Remove(Key),
}

impl<'a, R: Records> Draft<'a, R> {
    pub(super) fn new(base: &'a mut R) -> Self {
        Self { base, touched: BTreeMap::new(), displaced_bytes: 0, steps: Vec::new() }
    }

    /// Does to the records below what was done here.
    pub(super) fn write_out(self) -> Result<(), R::Error> {
        for step in self.steps {
            match step {
                Step::Put(key, value, stamp) => drop(self.base.put(&key, &value, stamp)?),
                Step::Remove(key) => drop(self.base.remove(&key)?),
            }
        }
        Ok(())
    }

    fn present(&mut self, key: &Key) -> Result<&mut Option<Record>, R::Error> {
        Ok(match self.touched.entry(key.clone()) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(free) => {
                let below = self.base.get(key)?;
                self.displaced_bytes += below.as_ref().map_or(0, |record| entry_bytes(key, record));
                free.insert(below)
            }
        })
    }
}

impl<R: Records> Records for Draft<'_, R> {
    type Error = R::Error;

    fn get(&mut self, key: &Key) -> Result<Option<Record>, R::Error> {
        self.present(key).cloned()
    }

    fn put(&mut self, key: &Key, value: &Value, stamp: Stamp) -> Result<Record, R::Error> {
        let present = self.present(key)?;
        let record = successor(present.as_ref(), value, stamp);
        *present = Some(record.clone());
        self.steps.push(Step::Put(key.clone(), value.clone(), stamp));
        Ok(record)
    }

    fn remove(&mut self, key: &Key) -> Result<bool, R::Error> {
        let existed = self.present(key)?.take().is_some();
        self.steps.push(Step::Remove(key.clone()));
        Ok(existed)
    }

    fn range(
        &mut self,
        range: &KeyRange,
        limit: u32,
        bytes_max: u64,
    ) -> Result<Vec<(Key, Record)>, R::Error> {
        // Each touched key can displace one of those below.
        let spare = u32::try_from(self.touched.len()).unwrap_or(u32::MAX);
        let bytes_below_max = bytes_max.saturating_add(self.displaced_bytes);
        let below = self.base.range(range, limit.saturating_add(spare), bytes_below_max)?;
        let mut merged: BTreeMap<Key, Option<Record>> =
            below.into_iter().map(|(key, record)| (key, Some(record))).collect();
        for (key, record) in self.touched.range(range.first().clone()..) {
            if range.is_behind(&key.0) {
                break;
            }
            merged.insert(key.clone(), record.clone());
        }
        let present = merged.into_iter().filter_map(|(key, record)| Some((key, record?)));
        Ok(present.take(limit as usize).collect())
    }
}
