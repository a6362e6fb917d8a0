//! What is done to links: how slow, lossy and unreliable they are.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::PER_MILLION;
use crate::link::LinkRule;

/// What is done to one directed link, on top of what is done to it already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkEffect {
    /// Added to the time that a frame takes one way, in milliseconds.
    pub latency_ms: u32,
    /// Largest deviation from the latency, in milliseconds; at most the latency.
    pub jitter_ms: u32,
    /// Share of frames that is lost, in parts per million; all of them is a cut.
    pub loss_per_million: u32,
    /// Share of frames of which a copy follows, in parts per million.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub duplicate_per_million: u32,
    /// Share of frames that overtake those under way, in parts per million; only where there is a latency.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reorder_per_million: u32,
    /// Share of frames of which one bit is turned, in parts per million.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub corrupt_per_million: u32,
    /// Bits that pass in a second, if that is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_s: Option<u64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl LinkEffect {
    /// Whether nothing passes.
    pub fn is_cut(&self) -> bool {
        self.loss_per_million == PER_MILLION
    }

    /// The rule of a link to which nothing else is done.
    pub fn rule(&self) -> LinkRule {
        if self.is_cut() {
            return LinkRule::CUT;
        }
        LinkRule {
            cut: false,
            loss_per_million: self.loss_per_million,
            latency: Duration::from_millis(self.latency_ms.into()),
            jitter: Duration::from_millis(self.jitter_ms.into()),
            duplicate_per_million: self.duplicate_per_million,
            reorder_per_million: self.reorder_per_million,
            corrupt_per_million: self.corrupt_per_million,
            bits_per_s: self.bits_per_s,
        }
    }

    /// The effect of a rule that is no cut, as far as whole milliseconds tell it.
    pub fn of(rule: &LinkRule) -> Self {
        let ms = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        Self {
            latency_ms: ms(rule.latency),
            jitter_ms: ms(rule.jitter),
            loss_per_million: rule.loss_per_million,
            duplicate_per_million: rule.duplicate_per_million,
            reorder_per_million: rule.reorder_per_million,
            corrupt_per_million: rule.corrupt_per_million,
            bits_per_s: rule.bits_per_s,
        }
    }

    /// A sentence about links between these nodes: `cut n1 -> n2`, `link n1 <-> n2: 40 ms ± 5 ms, 1 % loss`.
    pub fn text(&self, from: &str, to: &str, is_both_ways: bool) -> String {
        let arrow = if is_both_ways { "<->" } else { "->" };
        if self.is_cut() {
            format!("cut {from} {arrow} {to}")
        } else {
            format!("link {from} {arrow} {to}: {self}")
        }
    }
}

impl fmt::Display for LinkEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        match (self.latency_ms, self.jitter_ms) {
            (0, 0) => {}
            (latency_ms, 0) => parts.push(format!("{latency_ms} ms")),
            (latency_ms, jitter_ms) => parts.push(format!("{latency_ms} ms ± {jitter_ms} ms")),
        }
        let shares = [
            (self.loss_per_million, "loss"),
            (self.duplicate_per_million, "doubled"),
            (self.reorder_per_million, "early"),
            (self.corrupt_per_million, "changed"),
        ];
        let shares = shares.into_iter().filter(|(share, _)| *share > 0);
        parts.extend(shares.map(|(share, what)| format!("{} {what}", percent(share))));
        parts.extend(self.bits_per_s.map(rate));
        f.write_str(&parts.join(", "))
    }
}

/// `0.1 %`.
pub(crate) fn percent(per_million: u32) -> String {
    format!("{} %", f64::from(per_million) / 1e4)
}

/// `10 Mbit/s`, in the largest unit of which there is a whole number.
pub(crate) fn rate(bits_per_s: u64) -> String {
    let units = [(1_000_000_000, "Gbit/s"), (1_000_000, "Mbit/s"), (1_000, "kbit/s")];
    let unit = units.into_iter().find(|(bits, _)| bits_per_s.is_multiple_of(*bits));
    unit.map_or_else(|| format!("{bits_per_s} bit/s"), |(bits, unit)| format!("{} {unit}", bits_per_s / bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(effect: LinkEffect, want: &str) {
        assert_eq!(effect.to_string(), want);
        assert_eq!(LinkEffect::of(&effect.rule()), effect);
    }

    #[test]
    fn effect_says_what_it_does_and_nothing_else() {
        let none = LinkEffect::default();
        check(
            LinkEffect { latency_ms: 40, jitter_ms: 5, loss_per_million: 1_000, ..none },
            "40 ms ± 5 ms, 0.1 % loss",
        );
        let all = LinkEffect {
            latency_ms: 20,
            duplicate_per_million: 20_000,
            reorder_per_million: 50_000,
            corrupt_per_million: 100,
            bits_per_s: Some(10_000_000),
            ..none
        };
        check(all, "20 ms, 2 % doubled, 5 % early, 0.01 % changed, 10 Mbit/s");
        check(LinkEffect { bits_per_s: Some(1_500_000), ..none }, "1500 kbit/s");
        check(LinkEffect { bits_per_s: Some(9_601), ..none }, "9601 bit/s");
    }

    /// plan.json of a scenario keeps its bytes when the grammar grows.
    #[test]
    fn what_is_not_done_is_not_written() {
        let effect = LinkEffect { latency_ms: 40, ..LinkEffect::default() };
        let text = serde_json::to_string(&effect).unwrap();
        assert_eq!(text, r#"{"latency_ms":40,"jitter_ms":0,"loss_per_million":0}"#);
        assert_eq!(serde_json::from_str::<LinkEffect>(&text).unwrap(), effect);
    }
}
