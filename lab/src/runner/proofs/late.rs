//! That frames were late by what was done to their links: as the switch has measured it, or as the kernel was told.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{ms, proof};
use crate::check::counted as count_of;
use crate::cluster::{FrameCounts, Held, NodePair, link_id};
use crate::fabric::FabricKind;
use crate::limits::{FULL_FRAME_BYTES, HELD_TOLERANCE, TOLD_RATE_BITS, TOLD_RATE_PARTS, TOLD_TOLERANCE};
use crate::link::{Fate, LinkRule, copy_fate, fate};
use crate::plan::Plan;
use crate::runner::links::{Counted, Piece, link_name};
use crate::runner::record::Proof;

/// Whether frames were late by what was done to their links, as far as the fabric can say.
pub(in crate::runner) fn late(
    plan: &Plan,
    fabric: FabricKind,
    counted: &Counted,
    from: &BTreeMap<NodePair, FrameCounts>,
) -> Proof {
    match fabric {
        FabricKind::Switch => held(plan, counted, from),
        FabricKind::Kernel => told(plan, counted),
    }
}

/// Whether the kernel says of every link that it does what is to be done to it, and has delivered frames.
fn told(plan: &Plan, counted: &Counted) -> Proof {
    let mut missing = Vec::new();
    let mut delivered_total = 0;
    for (pair, pieces) in counted {
        let name = link_name(plan, *pair);
        for Piece { rule, began, .. } in pieces.iter().filter(|piece| !piece.rule.cut) {
            let Held::Told { latency, jitter, bits_per_s } = began.held else { continue };
            let told = LinkRule { latency, jitter, bits_per_s, ..LinkRule::PERFECT };
            if !is_so(&told, rule) {
                missing.push(format!("{name}: {} says the kernel, not {}", in_words(&told), in_words(rule)));
            }
        }
        let delivered: u64 =
            pieces.iter().map(|piece| piece.ended.delivered.saturating_sub(piece.began.delivered)).sum();
        if delivered == 0 {
            missing.push(format!("{name}: no frame was delivered"));
        }
        delivered_total += delivered;
    }
    let links = count_of(counted.len() as u64, "link");
    let seen = format!("{links}, {} delivered", count_of(delivered_total, "frame"));
    proof("the kernel says of every link that it holds frames for as long as it was told", &missing, seen)
}

/// Whether the kernel was told to be so slow, but for what is rounded on the way.
fn is_so(told: &LinkRule, wanted: &LinkRule) -> bool {
    let same = |told: Duration, wanted: Duration| told.abs_diff(wanted) <= TOLD_TOLERANCE;
    let same_rate = match (told.bits_per_s, wanted.bits_per_s) {
        (None, None) => true,
        (Some(told), Some(wanted)) => told.abs_diff(wanted) <= wanted / TOLD_RATE_PARTS + TOLD_RATE_BITS,
        _ => false,
    };
    same(told.latency, wanted.latency) && same(told.jitter, wanted.jitter) && same_rate
}

/// A latency with its jitter, and a rate if there is one.
fn in_words(rule: &LinkRule) -> String {
    let late = format!("{} ± {}", ms(rule.latency), ms(rule.jitter));
    rule.bits_per_s.map_or_else(|| late.clone(), |rate| format!("{late} at {rate} bit/s"))
}

/// The sum of the times for which a switch has held frames.
fn held_total(counts: &FrameCounts) -> Duration {
    match counts.held {
        Held::Counted { total } => total,
        Held::Told { .. } => Duration::ZERO,
    }
}

/// Whether the frames that every link delivered since `from` were held for as long as the seed says, on average.
fn held(plan: &Plan, counted: &Counted, from: &BTreeMap<NodePair, FrameCounts>) -> Proof {
    let mut missing = Vec::new();
    let mut means = Vec::new();
    for (pair, pieces) in counted {
        let name = link_name(plan, *pair);
        let began = from.get(pair).copied().unwrap_or_default();
        let ended = pieces.last().map(|piece| piece.ended).unwrap_or_default();
        let delivered = ended.delivered.saturating_sub(began.delivered);
        let held = held_total(&ended).saturating_sub(held_total(&began));
        let Some(mean) = u32::try_from(delivered).ok().and_then(|delivered| held.checked_div(delivered))
        else {
            missing.push(format!("{name}: no frame was delivered"));
            continue;
        };
        let drawn = drawn_delays(plan.seed, *pair, pieces, &began) + transmissions(pieces, &began);
        let least = drawn / u32::try_from(delivered).unwrap_or(u32::MAX);
        let most = delay_max(pieces);
        if mean < least || mean > most + HELD_TOLERANCE {
            missing.push(format!("{name}: {}, not {} to {}", ms(mean), ms(least), ms(most)));
        }
        means.push(mean);
    }
    let range =
        (means.iter().min().copied().unwrap_or_default(), means.iter().max().copied().unwrap_or_default());
    let seen =
        format!("{}, on average {} to {}", count_of(counted.len() as u64, "link"), ms(range.0), ms(range.1));
    proof("the frames of every link were held for as long as the seed says", &missing, seen)
}

/// The longest time for which a frame may be held, over all rules that let any pass.
fn delay_max(pieces: &[Piece]) -> Duration {
    let open = pieces.iter().map(|piece| piece.rule).filter(|rule| !rule.cut);
    let most = open.map(|rule| {
        // Behind a full queue, and then itself.
        let bytes =
            usize::try_from(rule.queue_bytes_max()).unwrap_or(usize::MAX).saturating_add(FULL_FRAME_BYTES);
        rule.latency + rule.jitter + rule.transmission(bytes)
    });
    most.max().unwrap_or_default()
}

/// The time that the frames delivered since `from` took for their bits alone, at the least; nothing where the rate has
/// changed, or some had no part in it.
fn transmissions(pieces: &[Piece], from: &FrameCounts) -> Duration {
    let [first, others @ ..] = pieces else { return Duration::ZERO };
    let rule = &first.rule;
    let is_one = others.iter().all(|piece| piece.rule.bits_per_s == rule.bits_per_s);
    if !is_one || rule.reorder_per_million > 0 {
        return Duration::ZERO;
    }
    let ended = pieces.last().map(|piece| piece.ended).unwrap_or_default();
    let bytes = ended.delivered_bytes.saturating_sub(from.delivered_bytes);
    // Those that were on their way came under whatever rule was before.
    let unknown = under_way(from) * FULL_FRAME_BYTES as u64;
    rule.transmission(usize::try_from(bytes.saturating_sub(unknown)).unwrap_or(usize::MAX))
}

/// Frames that had come to a link and not left it.
fn under_way(counts: &FrameCounts) -> u64 {
    let gone = counts.delivered + counts.dropped_cut + counts.dropped_loss + counts.dropped_queue;
    (counts.judged + counts.duplicated).saturating_sub(gone)
}

/// The delays that the seed has drawn for the frames delivered since `from`, at the least: no frame leaves before it is
/// due. Which ones they are is known but for those that were on their way at one of the ends.
fn drawn_delays(seed: u64, pair: NodePair, pieces: &[Piece], from: &FrameCounts) -> Duration {
    let mut drawn = Duration::ZERO;
    let mut passed = 0;
    for Piece { rule, began, ended } in pieces {
        for n in began.judged.max(from.judged)..ended.judged {
            let fates = [Some(fate(rule, seed, link_id(pair), n)), copy_fate(rule, seed, link_id(pair), n)];
            for fate in fates.into_iter().flatten() {
                if let Fate::Deliver(passage) = fate {
                    drawn += passage.delay;
                    passed += 1;
                }
            }
        }
    }
    let ended = pieces.last().map(|piece| piece.ended).unwrap_or_default();
    let unknown = (passed + under_way(from)).saturating_sub(ended.delivered.saturating_sub(from.delivered));
    let open = pieces.iter().map(|piece| piece.rule).filter(|rule| !rule.cut);
    let most = open.map(|rule| rule.latency + rule.jitter).max().unwrap_or_default();
    drawn.saturating_sub(most * u32::try_from(unknown).unwrap_or(u32::MAX))
}
