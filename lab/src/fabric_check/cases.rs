//! What is asked of the links, one after the other. Pure.

use std::time::Duration;

use crate::link::{LinkId, LinkRule};

/// Machines, each of which has a link to every other.
pub(super) const MACHINES: u16 = 3;

/// One link, and what is sent over it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Case {
    pub(super) link: LinkId,
    pub(super) rule: LinkRule,
    /// Datagrams that are sent over it.
    pub(super) count: u32,
    /// Time from one to the next.
    pub(super) spacing: Duration,
    /// Bytes of each that it carries.
    pub(super) bytes: usize,
}

impl Case {
    /// The bytes of each frame: Ethernet, IPv4 and UDP have their headers in front.
    pub(super) fn frame_bytes(&self) -> usize {
        14 + 20 + 8 + self.bytes
    }

    /// Whether frames are so far apart that jitter does not push one before it into the next.
    pub(super) fn is_sparse(&self) -> bool {
        self.spacing >= 2 * self.rule.jitter
    }
}

/// Every directed link.
pub(super) fn links() -> Vec<LinkId> {
    let pairs = (0..MACHINES).flat_map(|from| (0..MACHINES).map(move |to| (from, to)));
    pairs.filter(|(from, to)| from != to).map(|(from, to)| LinkId::new(from, to)).collect()
}

/// All cases, over all links in turn. The first and the last ask for nothing.
pub(super) fn all() -> Vec<Case> {
    let ms = Duration::from_millis;
    let none = LinkRule::PERFECT;
    let late = |latency: u64, jitter: u64| LinkRule { latency: ms(latency), jitter: ms(jitter), ..none };
    let lossy = |loss_per_million| LinkRule { loss_per_million, ..none };
    let everything = LinkRule {
        loss_per_million: 30_000,
        duplicate_per_million: 60_000,
        reorder_per_million: 80_000,
        ..late(80, 5)
    };
    let rules = [
        (none, 250, ms(4), 100),
        (late(10, 0), 250, ms(4), 100),
        (late(100, 0), 250, ms(4), 100),
        (late(50, 20), 120, ms(42), 100),
        // So close that one may catch up with the one before it, and must not overtake it.
        (late(30, 10), 1_000, ms(1), 100),
        (lossy(50_000), 2_000, ms(1), 100),
        (lossy(500_000), 600, ms(1), 100),
        (LinkRule::CUT, 200, ms(2), 100),
        (LinkRule { duplicate_per_million: 100_000, ..none }, 1_000, ms(1), 100),
        (LinkRule { reorder_per_million: 200_000, ..late(80, 0) }, 600, ms(2), 100),
        (LinkRule { corrupt_per_million: 100_000, ..none }, 1_000, ms(1), 1_000),
        (LinkRule { bits_per_s: Some(10_000_000), ..none }, 200, Duration::from_micros(500), 1_208),
        (LinkRule { bits_per_s: Some(1_000_000), ..late(50, 0) }, 50, ms(5), 1_208),
        (everything, 1_500, ms(2), 100),
        (none, 250, ms(4), 100),
    ];
    let links = links();
    let case = |(number, (rule, count, spacing, bytes)): (usize, (LinkRule, u32, Duration, usize))| {
        let link = links[number % links.len()];
        Case { link, rule, count, spacing, bytes }
    };
    rules.into_iter().enumerate().map(case).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_has_its_turn_and_no_queue_is_too_short() {
        let all = all();
        assert!(links().iter().all(|link| all.iter().any(|case| case.link == *link)));
        assert_eq!((all[0].rule, all[all.len() - 1].rule), (LinkRule::PERFECT, LinkRule::PERFECT));
        for case in all {
            // Of what comes, this is left when all has come.
            let sent_for = case.spacing * case.count;
            let needed = case.rule.transmission(case.frame_bytes()) * case.count;
            let left = needed.saturating_sub(sent_for).as_secs_f64();
            let frame = case.rule.transmission(case.frame_bytes()).as_secs_f64().max(1e-9);
            assert!(left / frame < f64::from(case.rule.queue_frames_max()), "{case:?}");
        }
    }
}
