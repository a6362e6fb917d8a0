//! The link model: what becomes of one frame on one directed link.
//!
//! [`fate`] is a pure function of its arguments, so that the switch, a simulation and a test agree
//! about every frame, and a run with the same seed loses the same frames. It does not keep a clock,
//! a queue or a counter; [`in_order`] is the one rule about neighbours that its callers share.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::limits::{LINK_DELAY_MAX, LINK_QUEUE_FRAMES_MAX, PER_MILLION};

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
}

impl LinkRule {
    /// The rule of a cut link.
    pub const CUT: Self =
        Self { cut: true, loss_per_million: 0, latency: Duration::ZERO, jitter: Duration::ZERO };

    /// The rule of a link to which all of this is done at once: a cut wins, latencies and jitters add up to
    /// [`LINK_DELAY_MAX`], and losses are independent of each other: of two, 1 - (1 - p)(1 - q) is lost, rounded to parts
    /// per million. The order does not matter.
    pub fn composed(rules: &[Self]) -> Self {
        /// Parts of a probability while losses are multiplied: two products are exact, further ones nearly so.
        const WHOLE: u128 = (PER_MILLION as u128).pow(3);
        let ppm = u128::from(PER_MILLION);
        if rules.iter().any(|rule| rule.cut) {
            return Self::CUT;
        }
        // In the order of size, so that rounding does not depend on the order of the rules.
        let mut losses: Vec<u32> = rules.iter().map(|rule| rule.loss_per_million).collect();
        losses.sort_unstable();
        let kept = losses.iter().fold(WHOLE, |kept, loss| kept * (ppm - u128::from(*loss)) / ppm);
        let lost = ((WHOLE - kept) * ppm + WHOLE / 2) / WHOLE;
        let sum = |part: fn(&Self) -> Duration| {
            let sum = rules.iter().map(part).fold(Duration::ZERO, Duration::saturating_add);
            sum.min(LINK_DELAY_MAX)
        };
        Self {
            cut: false,
            loss_per_million: u32::try_from(lost).expect("a probability is at most 1"),
            latency: sum(|rule| rule.latency),
            jitter: sum(|rule| rule.jitter),
        }
    }

    /// Most frames in flight on the link.
    pub fn queue_frames_max(&self) -> u32 {
        u32::try_from(LINK_QUEUE_FRAMES_MAX).expect("some thousands")
    }

    /// Whether a frame's fate under this rule depends on the seed.
    fn is_random(&self) -> bool {
        self.loss_per_million > 0 || !self.jitter.is_zero()
    }
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

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It arrives after this time.
    Deliver(Duration),
    /// It does not arrive.
    Drop(DropReason),
}

/// The fate of frame number `n` (from 0) of `link` under `rule`.
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
        return Fate::Deliver(rule.latency.min(LINK_DELAY_MAX));
    }
    let mut draws = frame_draws(seed, link, n);
    // Both draws are always taken, so that jitter does not depend on whether loss is switched on.
    let loss_draw = draws.next_u64();
    let jitter_draw = draws.next_u64();
    if below(loss_draw, u64::from(PER_MILLION)) < u64::from(rule.loss_per_million) {
        return Fate::Drop(DropReason::Loss);
    }
    Fate::Deliver(delay(rule, jitter_draw))
}

/// When a frame of a link arrives, given when it would by its own delay and when the frame before it
/// on the same link does. Links keep order: jitter spreads frames but never swaps them.
pub fn in_order<Time: Ord>(due: Time, previous_due: Option<Time>) -> Time {
    match previous_due {
        Some(previous) => due.max(previous),
        None => due,
    }
}

/// The generator of one frame.
fn frame_draws(seed: u64, link: LinkId, n: u64) -> ChaCha8Rng {
    // The key is spelled out here rather than derived by the crate, whose derivation may change
    // between versions: a seed in a report must lose the same frames for ever.
    let mut key = *b"........ aspen link model key v1";
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut draws = ChaCha8Rng::from_seed(key);
    draws.set_stream((u64::from(link.from.0) << 16) | u64::from(link.to.0));
    draws.set_word_pos(u128::from(n) * 16);
    draws
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINK: LinkId = LinkId { from: PortIndex(1), to: PortIndex(2) };

    fn lossy(loss_per_million: u32) -> LinkRule {
        LinkRule { loss_per_million, ..LinkRule::default() }
    }

    fn lost_of(rule: &LinkRule, seed: u64, link: LinkId, count: u64) -> u64 {
        (0..count).map(|n| u64::from(fate(rule, seed, link, n) == Fate::Drop(DropReason::Loss))).sum()
    }

    #[test]
    fn perfect_link_delivers_at_once() {
        assert_eq!(fate(&LinkRule::default(), 7, LINK, 0), Fate::Deliver(Duration::ZERO));
    }

    #[test]
    fn cut_wins_over_everything_else() {
        let rule = LinkRule { cut: true, loss_per_million: PER_MILLION, ..LinkRule::default() };
        assert_eq!(fate(&rule, 7, LINK, 0), Fate::Drop(DropReason::Cut));
    }

    fn rule(latency_ms: u64, jitter_ms: u64, loss_per_million: u32) -> LinkRule {
        let ms = Duration::from_millis;
        LinkRule { cut: false, loss_per_million, latency: ms(latency_ms), jitter: ms(jitter_ms) }
    }

    #[test]
    fn rules_on_one_link_add_up_and_a_cut_wins() {
        #[track_caller]
        fn check(rules: &[LinkRule], want: LinkRule) {
            assert_eq!(LinkRule::composed(rules), want, "{rules:?}");
        }
        check(&[], LinkRule::default());
        check(&[rule(40, 5, 1_000)], rule(40, 5, 1_000));
        check(&[rule(40, 5, 0), rule(10, 1, 0)], rule(50, 6, 0));
        // Half of the half that is left; a tenth and a fifth; and what is below a millionth is rounded.
        check(&[rule(0, 0, 500_000), rule(0, 0, 500_000)], rule(0, 0, 750_000));
        check(&[rule(0, 0, 100_000), rule(0, 0, 200_000)], rule(0, 0, 280_000));
        check(&[rule(0, 0, 1_000), rule(0, 0, 1_000)], rule(0, 0, 1_999));
        check(&[rule(0, 0, 1), rule(0, 0, 1)], rule(0, 0, 2));
        check(&[rule(40, 5, 1_000), LinkRule::CUT, rule(1, 1, 1)], LinkRule::CUT);
        check(&[rule(80_000, 0, 0), rule(80_000, 0, 0)], rule(120_000, 0, 0));
    }

    #[test]
    fn seeds_keep_their_fates_between_versions() {
        // A change of these numbers makes every printed seed worthless.
        assert_eq!(lost_of(&lossy(50_000), 1, LINK, 100_000), 5042);
        let rule = LinkRule {
            latency: Duration::from_millis(40),
            jitter: Duration::from_millis(5),
            ..LinkRule::default()
        };
        assert_eq!(fate(&rule, 1, LINK, 12), Fate::Deliver(Duration::from_nanos(35_999_024)));
    }

    #[test]
    fn loss_is_within_five_sigma_over_100_000_frames() {
        for (seed, loss_per_million) in [(1, 10_000), (2, 50_000), (3, 500_000), (4, 999_000), (5, 100)] {
            let p = f64::from(loss_per_million) / 1e6;
            let sigma = (100_000.0 * p * (1.0 - p)).sqrt();
            let lost = u32::try_from(lost_of(&lossy(loss_per_million), seed, LINK, 100_000)).unwrap();
            let deviation = (f64::from(lost) - 100_000.0 * p).abs();
            assert!(deviation <= 5.0 * sigma, "{loss_per_million} ppm: {lost} lost, sigma {sigma}");
        }
    }

    #[test]
    fn loss_of_nothing_and_of_everything_is_exact() {
        assert_eq!(lost_of(&lossy(0), 9, LINK, 10_000), 0);
        assert_eq!(lost_of(&lossy(PER_MILLION), 9, LINK, 10_000), 10_000);
    }

    #[test]
    fn links_and_seeds_draw_independently() {
        let rule = lossy(500_000);
        let fates = |seed, link| (0..256).map(|n| fate(&rule, seed, link, n)).collect::<Vec<_>>();
        assert_ne!(fates(1, LINK), fates(1, LINK.reversed()));
        assert_ne!(fates(1, LINK), fates(2, LINK));
        assert_ne!(fates(1, LINK), fates(1, LinkId::new(0, 2)));
    }

    #[test]
    fn jitter_reaches_both_ends_of_its_range() {
        let rule = LinkRule {
            latency: Duration::from_millis(10),
            jitter: Duration::from_millis(4),
            ..LinkRule::default()
        };
        let delays = (0..10_000).map(|n| match fate(&rule, 3, LINK, n) {
            Fate::Deliver(delay) => delay,
            Fate::Drop(reason) => panic!("dropped: {reason:?}"),
        });
        let (low, high) = delays.fold((Duration::MAX, Duration::ZERO), |(l, h), d| (l.min(d), h.max(d)));
        assert!(low < Duration::from_micros(6_050), "{low:?}");
        assert!(high > Duration::from_micros(13_950), "{high:?}");
    }

    proptest! {
        #[test]
        fn same_arguments_have_the_same_fate(
            seed: u64, from: u16, to: u16, n in 0_u64..1 << 60,
            loss_per_million in 0..=PER_MILLION, latency_ms in 0_u64..60_000, jitter_ms in 0_u64..60_000,
        ) {
            let rule = LinkRule {
                cut: false,
                loss_per_million,
                latency: Duration::from_millis(latency_ms),
                jitter: Duration::from_millis(jitter_ms),
            };
            let link = LinkId::new(from, to);
            let first = fate(&rule, seed, link, n);
            prop_assert_eq!(first, fate(&rule, seed, link, n));
            if let Fate::Deliver(delay) = first {
                prop_assert!(delay <= (rule.latency + rule.jitter).min(LINK_DELAY_MAX));
                prop_assert!(delay >= rule.latency.saturating_sub(rule.jitter));
            }
        }

        #[test]
        fn composition_knows_no_order_and_loses_no_less(
            parts in prop::collection::vec((0_u64..5_000, 0_u64..5_000, 0..=PER_MILLION), 0..8), turn: usize,
        ) {
            let mut rules: Vec<LinkRule> =
                parts.into_iter().map(|(latency, jitter, loss)| rule(latency, jitter, loss)).collect();
            let all = LinkRule::composed(&rules);
            prop_assert!(all.loss_per_million <= PER_MILLION);
            for one in &rules {
                prop_assert!(all.loss_per_million >= one.loss_per_million);
                prop_assert!(all.latency >= one.latency && all.jitter >= one.jitter);
            }
            // One fault is lifted: what is left is what it would be without it.
            let length = rules.len();
            if length > 0 {
                rules.rotate_left(turn % length);
                prop_assert_eq!(LinkRule::composed(&rules), all);
                rules.push(LinkRule::default());
                prop_assert_eq!(LinkRule::composed(&rules), all);
            }
        }

        #[test]
        fn loss_does_not_change_the_delay_of_what_arrives(seed: u64, n in 0_u64..1 << 40) {
            let calm = LinkRule { jitter: Duration::from_millis(5), ..LinkRule::default() };
            let rough = LinkRule { loss_per_million: 300_000, ..calm };
            if let Fate::Deliver(delay) = fate(&rough, seed, LINK, n) {
                prop_assert_eq!(Fate::Deliver(delay), fate(&calm, seed, LINK, n));
            }
        }

        #[test]
        fn frames_of_a_link_keep_their_order(delays in prop::collection::vec(0_u64..1000, 1..50)) {
            let mut previous = None;
            for (sent, delay) in delays.into_iter().enumerate() {
                let due = in_order(sent as u64 + delay, previous);
                prop_assert!(Some(due) >= previous);
                previous = Some(due);
            }
        }
    }
}
