//! The books of one directed link: what the kernel counts, over everything that makes it begin anew. Pure.

use super::tc::{ClassCounts, Leaf};
use crate::link::LinkRule;

/// What one directed link did so far, as the kernel counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KernelCounters {
    /// Frames that came to this link. It is the sum of the others, but for frames that a cut took in flight: those are in
    /// it alone.
    pub judged: u64,
    /// Frames that were handed to the receiver's interface.
    pub delivered: u64,
    /// Bytes of the delivered frames.
    pub delivered_bytes: u64,
    /// Frames that a cut has swallowed, at the least: what it swallows in the instant before it is healed is not seen.
    pub dropped_cut: u64,
    /// Frames that netem has dropped: those that were drawn, and those for which its queue had no place.
    pub dropped_netem: u64,
    /// Frames on their way.
    pub in_flight: u64,
    /// What the kernel says it does.
    pub in_force: LinkRule,
}

/// What the kernel says of a link at one instant.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) class: Option<ClassCounts>,
    pub(super) leaf: Option<Leaf>,
    /// What was swallowed since it is cut, if it is.
    pub(super) cut: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    /// What cuts have swallowed that are healed.
    swallowed: u64,
    /// What earlier netems have dropped.
    dropped: u64,
    /// What cuts took in flight.
    emptied: u64,
    /// Counters are read one after the other, and a frame may move on between: what was seen once is not taken back.
    judged: u64,
}

impl Tally {
    pub(super) fn count(&mut self, seen: &Seen) -> KernelCounters {
        let Seen { class, leaf, cut } = *seen;
        let (delivered, delivered_bytes) = class.map_or((0, 0), |class| (class.frames, class.bytes));
        let dropped_cut = self.swallowed + cut.unwrap_or_default();
        let dropped_netem = self.dropped + leaf.map_or(0, |leaf| leaf.dropped);
        let in_flight = leaf.map_or(0, |leaf| leaf.held);
        self.judged = self.judged.max(delivered + dropped_cut + dropped_netem + in_flight + self.emptied);
        let in_force = match (cut, leaf) {
            (Some(_), _) => LinkRule::CUT,
            (None, None) => LinkRule::default(),
            (None, Some(leaf)) => LinkRule {
                cut: false,
                loss_per_million: leaf.loss_per_million,
                latency: leaf.latency,
                jitter: leaf.jitter,
            },
        };
        let judged = self.judged;
        KernelCounters { judged, delivered, delivered_bytes, dropped_cut, dropped_netem, in_flight, in_force }
    }

    /// A cut is healed that has swallowed so many frames, and its counter is gone.
    pub(super) fn heal(&mut self, swallowed: u64) {
        self.swallowed += swallowed;
    }

    /// A netem that had dropped so many frames is gone, with so many that it held.
    pub(super) fn empty(&mut self, dropped: u64, held: u64) {
        self.dropped += dropped;
        self.emptied += held;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn seen(frames: u64, dropped: u64, held: u64, cut: Option<u64>) -> Seen {
        let class = ClassCounts { sender: 0, frames, bytes: 100 * frames };
        let latency = Duration::from_millis(5);
        let leaf = Leaf {
            index: 7,
            sender: 0,
            latency,
            jitter: Duration::ZERO,
            loss_per_million: 10,
            dropped,
            held,
        };
        Seen { class: Some(class), leaf: Some(leaf), cut }
    }

    #[test]
    fn what_begins_anew_in_the_kernel_goes_on_in_the_books() {
        let mut tally = Tally::default();
        let first = tally.count(&seen(10, 2, 3, None));
        assert_eq!((first.judged, first.delivered, first.dropped_netem, first.in_flight), (15, 10, 2, 3));
        assert_eq!((first.in_force.latency, first.in_force.loss_per_million), (Duration::from_millis(5), 10));
        // A cut swallows four; of the three in flight one has left before they are taken away, and the next netem begins at
        // nothing.
        tally.empty(2, 2);
        let cut = tally.count(&seen(11, 0, 0, Some(4)));
        assert_eq!((cut.judged, cut.delivered, cut.dropped_cut, cut.dropped_netem), (19, 11, 4, 2));
        assert_eq!(cut.in_force, LinkRule::CUT);
        // After the heal the set no longer has the link.
        tally.heal(4);
        let healed = tally.count(&seen(12, 1, 0, None));
        assert_eq!((healed.judged, healed.dropped_cut, healed.dropped_netem), (21, 4, 3));
        assert_eq!(healed.delivered_bytes, 1_200);
    }

    #[test]
    fn reading_between_two_counters_takes_no_frame_back() {
        let mut tally = Tally::default();
        assert_eq!(tally.count(&seen(10, 0, 1, None)).judged, 11);
        // It was read as neither held nor delivered.
        assert_eq!(tally.count(&seen(10, 0, 0, None)).judged, 11);
        assert_eq!(tally.count(&seen(11, 0, 0, None)).judged, 11);
    }

    #[test]
    fn host_without_netem_has_whole_links_and_cuts() {
        let mut tally = Tally::default();
        let class = Some(ClassCounts { sender: 0, frames: 3, bytes: 300 });
        let whole = tally.count(&Seen { class, leaf: None, cut: None });
        assert_eq!((whole.judged, whole.in_force), (3, LinkRule::default()));
        let cut = tally.count(&Seen { class, leaf: None, cut: Some(1) });
        assert_eq!((cut.judged, cut.in_force), (4, LinkRule::CUT));
    }
}
