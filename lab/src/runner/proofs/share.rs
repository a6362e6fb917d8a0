//! That links did to a share of their frames what was drawn: on the switch to the very frames that the seed says, on the kernel's
//! fabric to about as many as can be expected.

use std::ops::Range;

use super::{as_f64, proof};
use crate::check::counted as count_of;
use crate::cluster::{FrameCounts, NodePair, link_id};
use crate::fabric::FabricKind;
use crate::limits::LOSS_SIGMA_MAX;
use crate::link::{DropReason, Fate, LinkRule, copy_fate, fate};
use crate::plan::Plan;
use crate::runner::links::{Counted, Piece, link_name};
use crate::runner::record::Proof;

/// What is done to a share of the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::runner) enum Share {
    /// They are lost.
    Loss,
    /// A copy follows.
    Duplicate,
    /// They overtake others.
    Reorder,
    /// A bit is turned.
    Corrupt,
}

impl Share {
    /// All of them.
    pub(in crate::runner) const ALL: [Self; 4] = [Self::Loss, Self::Duplicate, Self::Reorder, Self::Corrupt];

    /// The share that a rule asks for, in parts per million.
    pub(in crate::runner) fn per_million(self, rule: &LinkRule) -> u32 {
        match self {
            _ if rule.cut => 0,
            Self::Loss => rule.loss_per_million,
            Self::Duplicate => rule.duplicate_per_million,
            Self::Reorder => rule.reorder_per_million,
            Self::Corrupt => rule.corrupt_per_million,
        }
    }

    fn counted(self, counts: &FrameCounts) -> u64 {
        match self {
            Self::Loss => counts.dropped_loss,
            Self::Duplicate => counts.duplicated,
            Self::Reorder => counts.early,
            Self::Corrupt => counts.corrupted,
        }
    }

    /// What has become of such a frame.
    fn word(self) -> &'static str {
        match self {
            Self::Loss => "lost",
            Self::Duplicate => "doubled",
            Self::Reorder => "early",
            Self::Corrupt => "changed",
        }
    }

    fn claim(self, fabric: FabricKind) -> String {
        let what = match self {
            Self::Loss => "lost",
            Self::Duplicate => "doubled",
            Self::Reorder => "let overtake",
            Self::Corrupt => "changed",
        };
        match fabric {
            FabricKind::Switch => format!("the links {what} the very frames that the seed says"),
            FabricKind::Kernel => format!("the links {what} about as many frames as can be expected"),
        }
    }

    /// Of how many frames it could have been, and how many of them are to be expected.
    fn expected(self, rule: &LinkRule, began: &FrameCounts, ended: &FrameCounts) -> (u64, f64) {
        let own = ended.judged.saturating_sub(began.judged);
        let copies = ended.duplicated.saturating_sub(began.duplicated);
        let share = |part: Self| f64::from(part.per_million(rule)) / 1e6;
        match self {
            Self::Duplicate => (own, share(self)),
            Self::Loss => (own + copies, share(self)),
            // What is lost is neither early nor changed.
            Self::Reorder | Self::Corrupt => (own + copies, share(self) * (1.0 - share(Self::Loss))),
        }
    }

    /// To how many of these frames and their copies the seed does it.
    pub(super) fn drawn(self, rule: &LinkRule, seed: u64, pair: NodePair, frames: Range<u64>) -> u64 {
        if self.per_million(rule) == 0 {
            return 0;
        }
        let is_it = |fate: Fate| match (self, fate) {
            (Self::Loss, Fate::Drop(reason)) => reason == DropReason::Loss,
            (Self::Reorder, Fate::Deliver(passage)) => passage.is_early,
            (Self::Corrupt, Fate::Deliver(passage)) => passage.is_corrupt(),
            _ => false,
        };
        let count = |n: u64| {
            let copy = copy_fate(rule, seed, link_id(pair), n);
            if self == Self::Duplicate {
                return u64::from(copy.is_some());
            }
            let fates = [Some(fate(rule, seed, link_id(pair), n)), copy];
            fates.into_iter().flatten().filter(|fate| is_it(*fate)).count() as u64
        };
        frames.map(count).sum()
    }
}

/// Whether the links did it to enough frames to have had an effect, and to about as many as can be expected; on the switch, to
/// the very frames that the seed says. The kernel draws by itself.
pub(in crate::runner) fn share(plan: &Plan, fabric: FabricKind, counted: &Counted, what: Share) -> Proof {
    let word = what.word();
    let mut missing = Vec::new();
    let (mut frames, mut seen) = (0, 0);
    let (mut mean, mut variance) = (0.0, 0.0);
    for (pair, pieces) in counted {
        let (mut link_seen, mut link_drawn) = (0, 0);
        for Piece { rule, began, ended } in pieces {
            link_seen += what.counted(ended).saturating_sub(what.counted(began));
            if fabric == FabricKind::Switch {
                link_drawn += what.drawn(rule, plan.seed, *pair, began.judged..ended.judged);
            }
            let (of, share) = what.expected(rule, began, ended);
            frames += of;
            mean += as_f64(of) * share;
            variance += as_f64(of) * share * (1.0 - share);
        }
        if fabric == FabricKind::Switch && link_seen != link_drawn {
            let name = link_name(plan, *pair);
            missing.push(format!("{name}: {link_seen} frames {word}, the seed says {link_drawn}"));
        }
        seen += link_seen;
    }
    // Of less than one frame nobody can say how far it is from what was expected.
    let deviation_max = LOSS_SIGMA_MAX * f64::sqrt(variance).max(1.0);
    if missing.is_empty() && seen == 0 {
        missing.push(format!("none of {frames} frames was {word}, too few for this share to show"));
    } else if missing.is_empty()
        && (as_f64(seen) - mean).abs() > deviation_max
        && !(as_f64(seen) > mean && counts_full_queues(fabric, counted, what))
    {
        missing.push(format!("{seen} of {frames} frames were {word}, {mean:.1} were to be expected"));
    }
    let told = format!(
        "{seen} of {} on {}, {mean:.1} expected",
        count_of(frames, "frame"),
        count_of(counted.len() as u64, "link")
    );
    proof(&what.claim(fabric), &missing, told)
}

/// Whether frames for which a queue had no place are among those that are counted: netem counts both together, and a link with
/// a rate has such a queue.
fn counts_full_queues(fabric: FabricKind, counted: &Counted, what: Share) -> bool {
    let mut rules = counted.values().flatten().map(|piece| piece.rule);
    fabric == FabricKind::Kernel && what == Share::Loss && rules.any(|rule| rule.bits_per_s.is_some())
}
