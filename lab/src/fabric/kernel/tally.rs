//! The books of one directed link: what the kernel counts, over everything that makes it begin anew. Pure.

use super::tc::{ClassCounts, Leaf};
use crate::link::LinkRule;

/// What one directed link did so far, as the kernel counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KernelCounters {
    /// Frames that came to this link, without copies. With those it is the sum of what was delivered, dropped or is on its
    /// way, but for frames that a cut took in flight: those are in it alone.
    pub judged: u64,
    /// Frames that were handed to the receiver's interface.
    pub delivered: u64,
    /// Bytes of the delivered frames.
    pub delivered_bytes: u64,
    /// Frames that a cut has swallowed, at the least: what it swallows in the instant before it is healed is not seen.
    pub dropped_cut: u64,
    /// Frames that netem has dropped: those that were drawn, and those for which its queue had no place.
    pub dropped_netem: u64,
    /// Copies that were made of frames.
    pub duplicated: u64,
    /// Frames that overtook those under way.
    pub early: u64,
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
    /// Copies that were made by the rule of now, if there is one, and what that says, in parts per million.
    pub(super) copies: Option<Copies>,
}

/// A rule by which a link's frames are copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Copies {
    pub(super) made: u64,
    pub(super) per_million: u32,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    /// What cuts have swallowed that are healed.
    swallowed: u64,
    /// What earlier netems have dropped.
    dropped: u64,
    /// What earlier netems have let overtake.
    early: u64,
    /// Copies that earlier rules have made.
    copies: u64,
    /// What cuts took in flight.
    emptied: u64,
    /// Counters are read one after the other, and a frame may move on between: what was seen once is not taken back.
    judged: u64,
}

impl Tally {
    pub(super) fn count(&mut self, seen: &Seen) -> KernelCounters {
        let Seen { class, leaf, cut, copies } = *seen;
        let (delivered, delivered_bytes) = class.map_or((0, 0), |class| (class.frames, class.bytes));
        let dropped_cut = self.swallowed + cut.unwrap_or_default();
        let dropped_netem = self.dropped + leaf.map_or(0, |leaf| leaf.dropped);
        let in_flight = leaf.map_or(0, |leaf| leaf.held);
        let early = self.early + leaf.map_or(0, |leaf| leaf.early);
        let duplicated = self.copies + copies.map_or(0, |copies| copies.made);
        let all = delivered + dropped_cut + dropped_netem + in_flight + self.emptied;
        self.judged = self.judged.max(all.saturating_sub(duplicated));
        let in_force = match (cut, leaf) {
            (Some(_), _) => LinkRule::CUT,
            (None, leaf) => LinkRule {
                duplicate_per_million: copies.map_or(0, |copies| copies.per_million),
                ..leaf.map_or(LinkRule::PERFECT, |leaf| leaf.rule)
            },
        };
        KernelCounters {
            judged: self.judged,
            delivered,
            delivered_bytes,
            dropped_cut,
            dropped_netem,
            duplicated,
            early,
            in_flight,
            in_force,
        }
    }

    /// A cut is healed that has swallowed so many frames, and its counter is gone.
    pub(super) fn heal(&mut self, swallowed: u64) {
        self.swallowed += swallowed;
    }

    /// A rule that has made so many copies is gone.
    pub(super) fn forget_copies(&mut self, made: u64) {
        self.copies += made;
    }

    /// A netem that had done this is gone, with so many frames that it held.
    pub(super) fn empty(&mut self, leaf: &Leaf, held: u64) {
        self.dropped += leaf.dropped;
        self.early += leaf.early;
        self.emptied += held;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn leaf(dropped: u64, held: u64) -> Leaf {
        let rule = LinkRule { latency: Duration::from_millis(5), loss_per_million: 10, ..LinkRule::PERFECT };
        Leaf { index: 7, sender: 0, rule, early: 1, dropped, held }
    }

    fn seen(frames: u64, dropped: u64, held: u64, cut: Option<u64>) -> Seen {
        let class = ClassCounts { sender: 0, frames, bytes: 100 * frames };
        Seen { class: Some(class), leaf: Some(leaf(dropped, held)), cut, copies: None }
    }

    #[test]
    fn what_begins_anew_in_the_kernel_goes_on_in_the_books() {
        let mut tally = Tally::default();
        let first = tally.count(&seen(10, 2, 3, None));
        assert_eq!((first.judged, first.delivered, first.dropped_netem, first.in_flight), (15, 10, 2, 3));
        assert_eq!((first.in_force.latency, first.in_force.loss_per_million), (Duration::from_millis(5), 10));
        // A cut swallows four; of the three in flight one has left before they are taken away, and the next netem begins at
        // nothing.
        tally.empty(&leaf(2, 3), 2);
        let cut = tally.count(&seen(11, 0, 0, Some(4)));
        assert_eq!((cut.judged, cut.delivered, cut.dropped_cut, cut.dropped_netem), (19, 11, 4, 2));
        assert_eq!(cut.in_force, LinkRule::CUT);
        // After the heal the set no longer has the link.
        tally.heal(4);
        let healed = tally.count(&seen(12, 1, 0, None));
        assert_eq!((healed.judged, healed.dropped_cut, healed.dropped_netem), (21, 4, 3));
        assert_eq!((healed.delivered_bytes, healed.early), (1_200, 2));
    }

    #[test]
    fn copies_are_no_frames_that_came() {
        let mut tally = Tally::default();
        let copies = Copies { made: 4, per_million: 500_000 };
        let doubled = tally.count(&Seen { copies: Some(copies), ..seen(12, 2, 0, None) });
        assert_eq!((doubled.judged, doubled.duplicated), (10, 4));
        assert_eq!(doubled.in_force.duplicate_per_million, 500_000);
        tally.forget_copies(4);
        let after = tally.count(&seen(13, 2, 0, None));
        assert_eq!((after.judged, after.duplicated, after.in_force.duplicate_per_million), (11, 4, 0));
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
        let whole = tally.count(&Seen { class, ..Seen::default() });
        assert_eq!((whole.judged, whole.in_force), (3, LinkRule::default()));
        let cut = tally.count(&Seen { class, cut: Some(1), ..Seen::default() });
        assert_eq!((cut.judged, cut.in_force), (4, LinkRule::CUT));
    }
}
