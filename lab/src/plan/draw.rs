//! Randomness from the seed, one independent stream for each purpose.
//!
//! Streams keep purposes apart: one more draw for ports changes no key. A number, once given, is never given
//! to another purpose, or old seeds would stop replaying old runs.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What is drawn: the number of a `ChaCha` stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Purpose {
    /// The nodes' secret keys, in order.
    NodeKeys = 1,
    /// The part of the hardware addresses that all share.
    Mac = 2,
    /// Second and third byte of the network's address.
    Network = 3,
    /// Raft port, then HTTP port, node by node.
    Ports = 4,
    /// The first client's node, then the seeds of clients and readers, in order.
    Clients = 5,
    /// One word for each repetition of each fault, in the order of the file.
    Faults = 6,
    /// The cluster's secret.
    Secret = 7,
}

/// A stream.
#[derive(Debug)]
pub(super) struct Draws(ChaCha8Rng);

impl Draws {
    /// The stream of a purpose. The key is the seed and zeros, and not `seed_from_u64`, whose expansion
    /// belongs to a library and may change with it.
    pub(super) fn new(seed: u64, purpose: Purpose) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut stream = ChaCha8Rng::from_seed(key);
        stream.set_stream(purpose as u64);
        Self(stream)
    }

    /// Any 32 bits.
    pub(super) fn word(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// Any byte.
    pub(super) fn byte(&mut self) -> u8 {
        self.word().to_le_bytes()[0]
    }

    /// A number below `bound`. Its bias is below `bound` in 2^32, which does not matter for ports and nodes.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        below(self.word(), bound)
    }

    /// A hash's worth of bytes.
    pub(super) fn bytes32(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.0.fill_bytes(&mut bytes);
        bytes
    }
}

/// Scales a word to a number below `bound`, which is not 0 (Lemire 2019, without the rejection).
pub(super) fn below(word: u32, bound: u32) -> u32 {
    assert!(bound > 0, "there is no number below 0");
    ((u64::from(word) * u64::from(bound)) >> 32) as u32
}
