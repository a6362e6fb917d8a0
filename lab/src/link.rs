//! The link model: what becomes of one frame on one directed link.
//!
//! [`fate`] is a pure function of its arguments, so that the switch, a simulation and a test agree
//! about every frame, and a run with the same seed loses the same frames. It does not keep a clock,
//! a queue or a counter; [`in_order`] is the one rule about neighbours that its callers share. The kernel's netem means the
//! same by the same rule, with draws of its own.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::limits::{
    FULL_FRAME_BYTES, LINK_DELAY_MAX, LINK_QUEUE_FRAMES_MAX, LINK_QUEUE_FRAMES_MIN, LINK_QUEUE_TIME,
    PER_MILLION,
};

/// A port of the fabric, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PortIndex(pub u16);

/// A directed link: the way from one port to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LinkId {
    /// The port that sends.
    pub from: PortIndex,
    /// The port that receives.
    pub to: PortIndex,
}

impl LinkId {
    /// The link between two ports, given by their numbers.
    pub fn new(from: u16, to: u16) -> Self {
        Self { from: PortIndex(from), to: PortIndex(to) }
    }

    /// The same pair in the other direction.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { from: self.to, to: self.from }
    }
}

/// How one directed link treats its frames. The default is a perfect link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkRule {
    /// Nothing passes: a pulled cable.
    pub cut: bool,
    /// Share of frames that is lost, in parts per million, 0 to [`PER_MILLION`].
    pub loss_per_million: u32,
    /// Time that a frame takes, one way.
    pub latency: Duration,
    /// Largest deviation from `latency` in either direction, uniformly distributed. No frame takes
    /// less than no time.
    pub jitter: Duration,
    /// Share of frames of which a copy follows, in parts per million. A copy is lost, late or changed on its own, and has no
    /// copy.
    pub duplicate_per_million: u32,
    /// Share of frames that take no time and overtake those under way, in parts per million.
    pub reorder_per_million: u32,
    /// Share of frames of which one bit is turned, in parts per million.
    pub corrupt_per_million: u32,
    /// Bits that pass in a second, if that is limited: each frame takes its time after the one before it.
    pub bits_per_s: Option<u64>,
}

impl LinkRule {
    /// The rule of a perfect link.
    pub const PERFECT: Self = Self {
        cut: false,
        loss_per_million: 0,
        latency: Duration::ZERO,
        jitter: Duration::ZERO,
        duplicate_per_million: 0,
        reorder_per_million: 0,
        corrupt_per_million: 0,
        bits_per_s: None,
    };

    /// The rule of a cut link.
    pub const CUT: Self = Self { cut: true, ..Self::PERFECT };

    /// The rule of a link to which all of this is done at once: a cut wins, latencies and jitters add up to
    /// [`LINK_DELAY_MAX`], the lowest rate holds, and losses are independent of each other: of two, 1 - (1 - p)(1 - q) is
    /// lost, rounded to parts per million; the same goes for copies, overtaking and turned bits. The order does not matter.
    pub fn composed(rules: &[Self]) -> Self {
        if rules.iter().any(|rule| rule.cut) {
            return Self::CUT;
        }
        let either = |part: fn(&Self) -> u32| either(rules.iter().map(part).collect());
        let sum = |part: fn(&Self) -> Duration| {
            let sum = rules.iter().map(part).fold(Duration::ZERO, Duration::saturating_add);
            sum.min(LINK_DELAY_MAX)
        };
        Self {
            cut: false,
            loss_per_million: either(|rule| rule.loss_per_million),
            latency: sum(|rule| rule.latency),
            jitter: sum(|rule| rule.jitter),
            duplicate_per_million: either(|rule| rule.duplicate_per_million),
            reorder_per_million: either(|rule| rule.reorder_per_million),
            corrupt_per_million: either(|rule| rule.corrupt_per_million),
            bits_per_s: rules.iter().filter_map(|rule| rule.bits_per_s).min(),
        }
    }

    /// Whether there is room for one more frame on the link, on which are so many already, and with it so many bytes. One with a
    /// rate holds [`queue_frames_max`](Self::queue_frames_max) full frames, or the more of smaller ones.
    pub fn has_room(&self, frames: u64, bytes_with_it: u64) -> bool {
        match self.bits_per_s {
            None => frames < u64::from(self.queue_frames_max()),
            Some(_) => bytes_with_it <= self.queue_bytes_max(),
        }
    }

    /// Most bytes in flight on a link with a rate.
    pub fn queue_bytes_max(&self) -> u64 {
        u64::from(self.queue_frames_max()) * FULL_FRAME_BYTES as u64
    }

    /// Most full frames in flight on the link. One with a rate holds what it passes in its latency, as a cable does, and what a
    /// router in front of it would queue.
    pub fn queue_frames_max(&self) -> u32 {
        let most = u32::try_from(LINK_QUEUE_FRAMES_MAX).expect("some thousands");
        let Some(bits_per_s) = self.bits_per_s else { return most };
        let held = self.latency + self.jitter + LINK_QUEUE_TIME;
        let bits = u128::from(bits_per_s) * held.as_nanos() / 1_000_000_000;
        let frames = bits / (8 * FULL_FRAME_BYTES as u128);
        u32::try_from(frames).unwrap_or(most).clamp(LINK_QUEUE_FRAMES_MIN, most)
    }

    /// By how much a frame may be quicker than the latency: all of it, where some overtake others.
    pub fn slack(&self) -> Duration {
        if self.reorder_per_million > 0 { self.latency.max(self.jitter) } else { self.jitter }
    }

    /// The time in which so many bytes pass.
    pub fn transmission(&self, bytes: usize) -> Duration {
        let Some(bits_per_s) = self.bits_per_s else { return Duration::ZERO };
        let nanos = bytes as u128 * 8 * 1_000_000_000 / u128::from(bits_per_s.max(1));
        u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos).min(LINK_DELAY_MAX)
    }

    /// Whether a frame's fate under this rule depends on the seed.
    fn is_random(&self) -> bool {
        self.loss_per_million > 0
            || !self.jitter.is_zero()
            || self.duplicate_per_million > 0
            || self.reorder_per_million > 0
            || self.corrupt_per_million > 0
    }
}

/// The probability that any of these happens, which know nothing of each other.
fn either(mut probabilities: Vec<u32>) -> u32 {
    /// Parts of a probability while others are multiplied with it: two products are exact, further ones nearly so.
    const WHOLE: u128 = (PER_MILLION as u128).pow(3);
    let ppm = u128::from(PER_MILLION);
    // In the order of size, so that rounding does not depend on the order of the rules.
    probabilities.sort_unstable();
    let none = probabilities.iter().fold(WHOLE, |none, one| none * (ppm - u128::from(*one)) / ppm);
    let any = ((WHOLE - none) * ppm + WHOLE / 2) / WHOLE;
    u32::try_from(any).expect("a probability is at most 1")
}

/// Why a frame does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// The link is cut.
    Cut,
    /// The link is lossy and this frame was drawn.
    Loss,
}

/// How a frame arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Passage {
    /// After this time, and after the frames before it, unless it overtakes them.
    pub delay: Duration,
    /// It takes no time and overtakes the frames under way.
    pub is_early: bool,
    /// Which of its bits is turned, as a draw from all of them ([`Passage::turned_bit`]).
    turned: Option<u64>,
}

impl Passage {
    /// Untouched, after this time.
    pub fn after(delay: Duration) -> Self {
        Self { delay, is_early: false, turned: None }
    }

    /// Whether a bit of it is turned.
    pub fn is_corrupt(&self) -> bool {
        self.turned.is_some()
    }

    /// The bit that is turned in a frame of so many bytes, from 0; the least significant one of the first byte comes first.
    pub fn turned_bit(&self, bytes: usize) -> Option<usize> {
        let bit = below(self.turned?, bytes as u64 * 8);
        usize::try_from(bit).ok()
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It arrives.
    Deliver(Passage),
    /// It does not arrive.
    Drop(DropReason),
}

/// The fate of frame number `n` (from 0) of `link` under `rule`; that of its copy is [`copy_fate`].
///
/// The randomness is counter-based: `ChaCha8` keyed by the seed, one stream a link, one block a frame.
/// Therefore a frame's draw depends neither on the frames before it nor on the other links, and a
/// rule that changes in the middle of a run shifts no later draw.
pub fn fate(rule: &LinkRule, seed: u64, link: LinkId, n: u64) -> Fate {
    debug_assert!(rule.loss_per_million <= PER_MILLION);
    if rule.cut {
        return Fate::Drop(DropReason::Cut);
    }
    if !rule.is_random() {
        return Fate::Deliver(Passage::after(rule.latency.min(LINK_DELAY_MAX)));
    }
    Draws::of_frame(seed, link, n, Frame::Itself).fate(rule)
}

/// The fate of the copy of frame number `n`, if it has one; whether the frame itself arrives does not matter to it.
pub fn copy_fate(rule: &LinkRule, seed: u64, link: LinkId, n: u64) -> Option<Fate> {
    if rule.cut || rule.duplicate_per_million == 0 {
        return None;
    }
    let is_copied =
        happens(Draws::of_frame(seed, link, n, Frame::Itself).duplicate, rule.duplicate_per_million);
    is_copied.then(|| Draws::of_frame(seed, link, n, Frame::Copy).fate(rule))
}

/// A frame, or its copy.
#[derive(Clone, Copy)]
enum Frame {
    Itself,
    Copy,
}

/// Everything that is drawn for one frame. All of it is always drawn, so that nothing depends on what else is switched on.
struct Draws {
    loss: u64,
    jitter: u64,
    duplicate: u64,
    reorder: u64,
    corrupt: u64,
    turned: u64,
}

impl Draws {
    fn of_frame(seed: u64, link: LinkId, n: u64, which: Frame) -> Self {
        // The key is spelled out here rather than derived by the crate, whose derivation may change
        // between versions: a seed in a report must lose the same frames for ever.
        let mut key = *b"........ aspen link model key v1";
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut draws = ChaCha8Rng::from_seed(key);
        let copies = match which {
            Frame::Itself => 0,
            Frame::Copy => 1 << 32,
        };
        draws.set_stream(copies | (u64::from(link.from.0) << 16) | u64::from(link.to.0));
        draws.set_word_pos(u128::from(n) * 16);
        // In this order for ever, for the same reason; a block has two more.
        Self {
            loss: draws.next_u64(),
            jitter: draws.next_u64(),
            duplicate: draws.next_u64(),
            reorder: draws.next_u64(),
            corrupt: draws.next_u64(),
            turned: draws.next_u64(),
        }
    }

    fn fate(&self, rule: &LinkRule) -> Fate {
        if happens(self.loss, rule.loss_per_million) {
            return Fate::Drop(DropReason::Loss);
        }
        let is_early = happens(self.reorder, rule.reorder_per_million);
        let delay = if is_early { Duration::ZERO } else { delay(rule, self.jitter) };
        let turned = happens(self.corrupt, rule.corrupt_per_million).then_some(self.turned);
        Fate::Deliver(Passage { delay, is_early, turned })
    }
}

fn happens(draw: u64, per_million: u32) -> bool {
    below(draw, u64::from(PER_MILLION)) < u64::from(per_million)
}

/// When a frame of a link arrives, given when it would by its own delay and when the frame before it
/// on the same link does. Links keep order: jitter spreads frames but never swaps them.
pub fn in_order<Time: Ord>(due: Time, previous_due: Option<Time>) -> Time {
    match previous_due {
        Some(previous) => due.max(previous),
        None => due,
    }
}

/// The draw scaled to 0..`bound`. The bias is below `bound` / 2^64.
fn below(draw: u64, bound: u64) -> u64 {
    let scaled = (u128::from(draw) * u128::from(bound)) >> 64;
    u64::try_from(scaled).expect("the product of a 64-bit draw and a 64-bit bound has 64 high bits")
}

/// Latency with jitter: uniform over latency ± jitter, in nanoseconds.
fn delay(rule: &LinkRule, jitter_draw: u64) -> Duration {
    let jitter = rule.jitter.min(LINK_DELAY_MAX);
    let latency = rule.latency.min(LINK_DELAY_MAX);
    let width_ns = 2 * u64::try_from(jitter.as_nanos()).expect("a minute of nanoseconds fits 64 bits") + 1;
    let later = latency + Duration::from_nanos(below(jitter_draw, width_ns));
    later.saturating_sub(jitter).min(LINK_DELAY_MAX)
}

#[cfg(test)]
mod tests;
