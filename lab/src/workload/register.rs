//! The register workload: reads, writes of unique values, and compare-and-swap, over a few keys.
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

    /// What to do next, and on which key.
    pub fn choose(&mut self) -> (String, Op<String>) {
        let key = key(self.random.random_range(0..self.keys));
        let draw = self.random.random_range(0..self.mix.read + self.mix.write + self.mix.cas);
        let op = if draw < self.mix.read {
            Op::Read
        } else if draw < self.mix.read + self.mix.write {
            Op::Write { value: self.value() }
        } else {
            let expected = self.seen.get(&key).cloned().flatten();
            Op::Cas { expected, value: self.value() }
        };
        (key, op)
    }

    /// Learns from an answer.
    pub fn learn(&mut self, key: &str, op: &Op<String>, outcome: &Outcome<String>) {
        let seen = match (op, outcome) {
            (Op::Read, Outcome::Read { value }) => value.clone(),
            (Op::Write { value } | Op::Cas { value, .. }, Outcome::Done) => Some(value.clone()),
            (Op::Cas { .. }, Outcome::CasFailed { actual }) => actual.clone(),
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
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn client(seed: u64, mix: Mix) -> RegisterClient<ChaCha8Rng> {
        RegisterClient::new("c1".to_owned(), 1, mix, ChaCha8Rng::seed_from_u64(seed))
    }

    #[test]
    fn values_are_unique_and_swaps_expect_what_was_seen() {
        let mut client = client(7, Mix { read: 0, write: 0, cas: 100 });
        let (key, first) = client.choose();
        assert_eq!(first, Op::Cas { expected: None, value: "c1-1".to_owned() });
        client.learn(&key, &first, &Outcome::CasFailed { actual: Some("c2-9".to_owned()) });
        let (_, second) = client.choose();
        assert_eq!(second, Op::Cas { expected: Some("c2-9".to_owned()), value: "c1-2".to_owned() });
    }

    #[test]
    fn same_seed_makes_the_same_choices() {
        let mix = Mix { read: 50, write: 30, cas: 20 };
        let choices = |seed| {
            let mut client = client(seed, mix);
            (0..100).map(|_| client.choose()).collect::<Vec<_>>()
        };
        assert_eq!(choices(1), choices(1));
        assert_ne!(choices(1), choices(2));
    }
}
