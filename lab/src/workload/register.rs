//! The register workload: reads, writes of unique values, compare-and-swap, deletes and scans, over a few keys.
//!
//! Only the last quarter of the keys is deleted: where a key can become absent again and again, the checker has to search, which
//! it need not for the others.
//!
//! Pure: what a client does next follows from its seed and from what it was answered.

use std::collections::HashMap;

use rand::{Rng, RngExt};

use crate::history::{Op, Outcome};
use crate::plan::Mix;

/// The name of a key, by its number from 0.
pub fn key(number: u32) -> String {
    format!("k{number}")
}

/// What a client does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// An operation on a key.
    One {
        /// Which key.
        key: String,
        /// What.
        op: Op<String>,
    },
    /// A scan of the keys with a prefix.
    Scan {
        /// Itself a key.
        prefix: String,
        /// Every key of the workload that begins so.
        keys: Vec<String>,
    },
}

/// The choices of one client.
#[derive(Debug)]
pub struct RegisterClient<R> {
    name: String,
    keys: u32,
    mix: Mix,
    random: R,
    /// Values written so far: every value of a client is another one.
    written: u64,
    /// What this client last saw under a key: what its next swap expects.
    seen: HashMap<String, Option<String>>,
}

impl<R: Rng> RegisterClient<R> {
    /// A client whose values begin with its name.
    pub fn new(name: String, keys: u32, mix: Mix, random: R) -> Self {
        Self { name, keys, mix, random, written: 0, seen: HashMap::new() }
    }

    /// What to do next.
    pub fn choose(&mut self) -> Choice {
        let Mix { read, write, cas, delete, .. } = self.mix;
        let mut key = key(self.random.random_range(0..self.keys));
        let draw = self.random.random_range(0..self.mix.sum());
        let op = if draw < read {
            Op::Read
        } else if draw < read + write {
            Op::Write { value: self.value() }
        } else if draw < read + write + cas {
            let expected = self.seen.get(&key).cloned().flatten();
            Op::Cas { expected, value: self.value() }
        } else if draw < read + write + cas + delete {
            let first = (self.keys - self.keys / 4).min(self.keys - 1);
            key = self::key(self.random.random_range(first..self.keys));
            Op::Delete
        } else {
            let begins = |other: &String| other.starts_with(&key);
            let keys = (0..self.keys).map(self::key).filter(begins).collect();
            return Choice::Scan { prefix: key, keys };
        };
        Choice::One { key, op }
    }

    /// Learns from an answer.
    pub fn learn(&mut self, key: &str, op: &Op<String>, outcome: &Outcome<String>) {
        let seen = match (op, outcome) {
            (Op::Read, Outcome::Read { value }) => value.clone(),
            (Op::Write { value } | Op::Cas { value, .. }, Outcome::Done) => Some(value.clone()),
            (Op::Cas { .. }, Outcome::CasFailed { actual }) => actual.clone(),
            (Op::Delete, Outcome::Done) => None,
            _ => return,
        };
        self.seen.insert(key.to_owned(), seen);
    }

    /// A number below `bound`, for the client's other choices.
    pub fn draw(&mut self, bound: u32) -> u32 {
        self.random.random_range(0..bound.max(1))
    }

    fn value(&mut self) -> String {
        self.written += 1;
        format!("{}-{}", self.name, self.written)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const NOTHING: Mix = Mix { read: 0, write: 0, cas: 0, delete: 0, scan: 0 };

    fn client(seed: u64, keys: u32, mix: Mix) -> RegisterClient<ChaCha8Rng> {
        RegisterClient::new("c1".to_owned(), keys, mix, ChaCha8Rng::seed_from_u64(seed))
    }

    fn one(choice: Choice) -> (String, Op<String>) {
        match choice {
            Choice::One { key, op } => (key, op),
            scan @ Choice::Scan { .. } => panic!("{scan:?}"),
        }
    }

    #[test]
    fn only_the_last_quarter_is_deleted_and_a_scan_covers_what_begins_like_a_key() {
        let mut deletes = client(1, 16, Mix { delete: 100, ..NOTHING });
        let found: BTreeSet<String> = (0..200).map(|_| one(deletes.choose()).0).collect();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["k12", "k13", "k14", "k15"]);
        assert_eq!(one(client(1, 1, Mix { delete: 100, ..NOTHING }).choose()).0, "k0");
        let mut scans = client(1, 12, Mix { scan: 100, ..NOTHING });
        let mut covered = |prefix: &str| loop {
            if let Choice::Scan { prefix: found, keys } = scans.choose()
                && found == prefix
            {
                break keys;
            }
        };
        assert_eq!(covered("k1"), ["k1", "k10", "k11"]);
    }

    #[test]
    fn values_are_unique_and_swaps_expect_what_was_seen() {
        let mut client = client(7, 1, Mix { cas: 100, ..NOTHING });
        let (key, first) = one(client.choose());
        assert_eq!(first, Op::Cas { expected: None, value: "c1-1".to_owned() });
        client.learn(&key, &first, &Outcome::CasFailed { actual: Some("c2-9".to_owned()) });
        let (_, second) = one(client.choose());
        assert_eq!(second, Op::Cas { expected: Some("c2-9".to_owned()), value: "c1-2".to_owned() });
    }

    #[test]
    fn same_seed_makes_the_same_choices() {
        let mix = Mix { read: 40, write: 20, cas: 20, delete: 10, scan: 10 };
        let choices = |seed| {
            let mut client = client(seed, 4, mix);
            (0..100).map(|_| client.choose()).collect::<Vec<_>>()
        };
        assert_eq!(choices(1), choices(1));
        assert_ne!(choices(1), choices(2));
    }
}
