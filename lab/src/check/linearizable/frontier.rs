//! The best configurations of the search: none is at least as good as another one with the same value.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

use super::register::{ABSENT, Value};

/// A set of operations in flight, by slot: 64 for each word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mask<const W: usize>([u64; W]);

impl<const W: usize> Mask<W> {
    pub(super) const EMPTY: Self = Self([0; W]);

    pub(super) fn has(self, slot: u32) -> bool {
        self.0[slot as usize / 64] & (1 << (slot % 64)) != 0
    }

    pub(super) fn set(&mut self, slot: u32) {
        self.0[slot as usize / 64] |= 1 << (slot % 64);
    }

    pub(super) fn clear(&mut self, slot: u32) {
        self.0[slot as usize / 64] &= !(1 << (slot % 64));
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & !other.0[word]))
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::EMPTY
    }
}

/// What may still be done; more is better, see [`super::search`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bits<const W: usize> {
    pub(super) usable: Mask<W>,
    pub(super) safe: Mask<W>,
}

impl<const W: usize> Bits<W> {
    fn at_least(self, other: Self) -> bool {
        other.usable.without(self.usable).is_empty() && other.safe.without(self.safe).is_empty()
    }
}

/// The register's value, and what became of the operations in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Configuration<const W: usize> {
    pub(super) value: Value,
    pub(super) bits: Bits<W>,
}

/// Configurations, of which each is the best of its kind.
#[derive(Debug)]
pub(super) struct Frontier<const W: usize> {
    by_value: HashMap<Value, Vec<Bits<W>>, BuildHasherDefault<DefaultHasher>>,
    count: usize,
}

impl<const W: usize> Frontier<W> {
    pub(super) fn empty() -> Self {
        Self { by_value: HashMap::default(), count: 0 }
    }

    /// The key is absent and nothing is in flight.
    pub(super) fn initial() -> Self {
        let mut frontier = Self::empty();
        frontier
            .insert(Configuration { value: ABSENT, bits: Bits { usable: Mask::EMPTY, safe: Mask::EMPTY } });
        frontier
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Adds it unless one that is at least as good is there; drops those that it beats.
    pub(super) fn insert(&mut self, configuration: Configuration<W>) -> bool {
        let group = self.by_value.entry(configuration.value).or_default();
        if group.iter().any(|bits| bits.at_least(configuration.bits)) {
            return false;
        }
        self.count -= group.len();
        group.retain(|&bits| !configuration.bits.at_least(bits));
        group.push(configuration.bits);
        self.count += group.len();
        true
    }

    /// Changes the bits of one slot that none had before, in the configurations with this value or in all.
    pub(super) fn for_each(&mut self, value: Option<Value>, mut change: impl FnMut(&mut Bits<W>)) {
        match value {
            Some(value) => self.by_value.get_mut(&value).into_iter().flatten().for_each(&mut change),
            None => self.by_value.values_mut().flatten().for_each(&mut change),
        }
    }

    /// Takes all configurations out.
    pub(super) fn take(&mut self) -> Vec<Configuration<W>> {
        self.count = 0;
        let groups = self.by_value.drain();
        groups
            .flat_map(|(value, group)| group.into_iter().map(move |bits| Configuration { value, bits }))
            .collect()
    }
}
