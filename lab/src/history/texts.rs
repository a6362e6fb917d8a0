//! A table of texts: each distinct text is kept once and named by its index.
//!
//! A million distinct values cost their bytes and 12 more each, where a map from `String` would cost a
//! hundred.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use crate::limits::HISTORY_TEXT_BYTES_MAX;

/// No text sits in this place of the table.
const EMPTY: u32 = u32::MAX;

/// Places in the table of the first text.
const PLACES_MIN: usize = 16;

/// Distinct texts, each named by its index in the order of first appearance.
#[derive(Debug, Clone, Default)]
pub struct Texts {
    /// All texts, one after the other.
    bytes: String,
    /// Where each text ends in `bytes`.
    ends: Vec<u32>,
    /// Open addressing, linear probing. Invariant: the length is 0 or a power of two, at most half is taken.
    places: Vec<u32>,
}

impl Texts {
    /// The index of `text`, which is added if it is new. `None`: the table is full
    /// ([`HISTORY_TEXT_BYTES_MAX`]).
    pub fn intern(&mut self, text: &str) -> Option<u32> {
        if (self.ends.len() + 1) * 2 > self.places.len() {
            self.grow();
        }
        let place = self.place_of(text);
        if self.places[place] != EMPTY {
            return Some(self.places[place]);
        }
        let index = u32::try_from(self.ends.len()).ok().filter(|&index| index != EMPTY)?;
        let end =
            u32::try_from(self.bytes.len() + text.len()).ok().filter(|&end| end < HISTORY_TEXT_BYTES_MAX)?;
        self.bytes.push_str(text);
        self.ends.push(end);
        self.places[place] = index;
        Some(index)
    }

    /// The text of this index.
    ///
    /// # Panics
    /// The index is not from this table.
    pub fn get(&self, index: u32) -> &str {
        let index = index as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..self.ends[index] as usize]
    }

    /// How many distinct texts there are.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// Where `text` is, or would go. The table must have a free place.
    fn place_of(&self, text: &str) -> usize {
        let mask = self.places.len() - 1;
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(text);
        let mut place = usize::try_from(hash & mask as u64).unwrap_or(0);
        while self.places[place] != EMPTY && self.get(self.places[place]) != text {
            place = (place + 1) & mask;
        }
        place
    }

    fn grow(&mut self) {
        let count = (self.places.len() * 2).max(PLACES_MIN);
        self.places = vec![EMPTY; count];
        for index in 0..self.ends.len() {
            let place = self.place_of(self.get(u32::try_from(index).unwrap_or(EMPTY)));
            self.places[place] = u32::try_from(index).unwrap_or(EMPTY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_keeps_its_index_while_the_table_grows() {
        let mut texts = Texts::default();
        for round in 0..2 {
            for index in 0..1000 {
                assert_eq!(texts.intern(&format!("v{index}")), Some(index), "round {round}");
            }
        }
        assert_eq!(texts.count(), 1000);
        assert_eq!(texts.get(0), "v0");
        assert_eq!(texts.get(999), "v999");
    }

    #[test]
    fn the_empty_text_is_a_text() {
        let mut texts = Texts::default();
        assert_eq!(texts.intern("a"), Some(0));
        assert_eq!(texts.intern(""), Some(1));
        assert_eq!(texts.intern(""), Some(1));
        assert_eq!(texts.get(1), "");
    }
}
