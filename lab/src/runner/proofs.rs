//! What was measured and counted on links, to proofs. Pure: the clocks and counters were read before.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use super::links::{Counted, Piece, RoundTrips, Rules, link_name};
use super::record::Proof;
use crate::check::counted as count_of;
use crate::cluster::{FrameCounts, Held, NodePair, Probe, link_id};
use crate::fabric::FabricKind;
use crate::limits::{
    HELD_TOLERANCE, LINKS_NAMED_MAX, LOSS_SIGMA_MAX, PROBES_ANSWERED_MIN, ROUND_TRIP_TOLERANCE,
    TOLD_TOLERANCE,
};
use crate::link::{DropReason, Fate, LinkRule, fate};
use crate::plan::Plan;

/// Whether every probe was answered, or none.
pub(super) fn probes(plan: &Plan, what: &str, probes: &[(NodePair, Probe)], want_answers: bool) -> Proof {
    let is_wanted = |probe: &Probe| matches!(probe, Probe::Answered(_)) == want_answers;
    let unwanted = probes.iter().filter(|(_, probe)| !is_wanted(probe));
    let unwanted: Vec<String> = unwanted.map(|(pair, _)| link_name(plan, *pair)).collect();
    let detail = match (unwanted.is_empty(), want_answers) {
        (true, _) => count_of(probes.len() as u64, "probe"),
        (false, true) => format!("no answer over {}", named(&unwanted, ", ")),
        (false, false) => format!("answered over {}", named(&unwanted, ", ")),
    };
    Proof { what: what.to_owned(), is_seen: unwanted.is_empty(), detail }
}

/// Whether every cut link swallowed at least one frame and let none through. Those over which nobody could send have nothing to
/// swallow, but not all links are such.
pub(super) fn cut(plan: &Plan, counted: &Counted, silent: &BTreeSet<NodePair>) -> Proof {
    let mut dropped_total = 0;
    let mut missing = Vec::new();
    for (pair, pieces) in counted {
        let count = |of: fn(&FrameCounts) -> u64| -> u64 {
            pieces.iter().map(|piece| of(&piece.ended) - of(&piece.began)).sum()
        };
        let (dropped, delivered) = (count(|counts| counts.dropped_cut), count(|counts| counts.delivered));
        dropped_total += dropped;
        if (dropped == 0 && !silent.contains(pair)) || delivered > 0 {
            missing.push(format!("{}: {dropped} dropped, {delivered} delivered", link_name(plan, *pair)));
        }
    }
    if missing.is_empty() && dropped_total == 0 {
        missing.push("nobody was there to send over any of the links".to_owned());
    }
    let seen = format!(
        "{} dropped on {}, 0 delivered",
        count_of(dropped_total, "frame"),
        count_of(counted.len() as u64, "link")
    );
    proof("every cut link swallowed at least one frame and let none through", &missing, seen)
}

/// Whether the median round trip over every link grew by what was added to the link and to the way back, of which the
/// jitter then and before (`jitter`) may hide some. Says nothing of links on which it may hide nearly all, or of whose
/// round trips too few were answered in time: those are left to [`held`].
pub(super) fn round_trips(
    plan: &Plan,
    added: &Rules,
    before: &RoundTrips,
    during: &RoundTrips,
    jitter: impl Fn(NodePair) -> Duration,
) -> Option<Proof> {
    let mut missing = Vec::new();
    let mut least: Option<(Duration, String)> = None;
    let mut timed = 0;
    for (pair @ (from, to), times) in during {
        let latency = |pair: &NodePair| added.get(pair).map_or(Duration::ZERO, |rule| rule.latency);
        let wanted = latency(&(*from, *to)) + latency(&(*to, *from));
        let sure = wanted.saturating_sub(jitter((*from, *to)) + jitter((*to, *from)));
        let medians = (before.get(pair).and_then(|times| median(times)), median(times));
        let (Some(was), Some(is)) = medians else { continue };
        if sure <= 2 * ROUND_TRIP_TOLERANCE {
            continue;
        }
        timed += 1;
        let name = link_name(plan, *pair);
        let detail = format!("{name}: {} before, {} during, {} added", ms(was), ms(is), ms(wanted));
        let grown = is.saturating_sub(was);
        if grown < sure.saturating_sub(ROUND_TRIP_TOLERANCE) {
            missing.push(detail);
        } else if least.as_ref().is_none_or(|(least, _)| grown < *least) {
            least = Some((grown, detail));
        }
    }
    let least = least.map(|(_, detail)| detail).unwrap_or_default();
    let seen = format!("{}, the least of them {least}", count_of(timed, "link"));
    (timed > 0).then(|| proof("round trips took longer by what was added to their links", &missing, seen))
}

/// The middle of enough times.
fn median(times: &[Duration]) -> Option<Duration> {
    let mut times = times.to_vec();
    times.sort_unstable();
    (times.len() >= PROBES_ANSWERED_MIN).then(|| times[times.len() / 2])
}

/// Whether frames were late by what was done to their links, as far as the fabric can say.
pub(super) fn late(
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
            let Held::Told { latency, jitter } = began.held else { continue };
            let is_so = |told: Duration, wanted: Duration| told.abs_diff(wanted) <= TOLD_TOLERANCE;
            if !is_so(latency, rule.latency) || !is_so(jitter, rule.jitter) {
                let wanted = spread(rule.latency, rule.jitter);
                missing.push(format!("{name}: {} says the kernel, not {wanted}", spread(latency, jitter)));
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

/// A latency with its jitter.
fn spread(latency: Duration, jitter: Duration) -> String {
    format!("{} ± {}", ms(latency), ms(jitter))
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
        let least =
            drawn_delays(plan.seed, *pair, pieces, &began) / u32::try_from(delivered).unwrap_or(u32::MAX);
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
    open.map(|rule| rule.latency + rule.jitter).max().unwrap_or_default()
}

/// The delays that the seed has drawn for the frames delivered since `from`, at the least: no frame leaves before it is
/// due. Which ones they are is known but for those that were on their way at one of the ends.
fn drawn_delays(seed: u64, pair: NodePair, pieces: &[Piece], from: &FrameCounts) -> Duration {
    let mut drawn = Duration::ZERO;
    let mut passed = 0;
    for Piece { rule, began, ended } in pieces {
        for n in began.judged.max(from.judged)..ended.judged {
            if let Fate::Deliver(delay) = fate(rule, seed, link_id(pair), n) {
                drawn += delay;
                passed += 1;
            }
        }
    }
    let ended = pieces.last().map(|piece| piece.ended).unwrap_or_default();
    let under_way = from.judged - from.delivered - from.dropped_cut - from.dropped_loss;
    let unknown = (passed + under_way).saturating_sub(ended.delivered.saturating_sub(from.delivered));
    drawn.saturating_sub(delay_max(pieces) * u32::try_from(unknown).unwrap_or(u32::MAX))
}

/// Whether the links lost enough frames to have had an effect, and about as many as their loss lets expect; on the switch, the
/// very frames that the seed says. The kernel draws by itself.
pub(super) fn loss(plan: &Plan, fabric: FabricKind, counted: &Counted) -> Proof {
    let mut missing = Vec::new();
    let (mut judged, mut lost) = (0, 0);
    let (mut mean, mut variance) = (0.0, 0.0);
    for (pair, pieces) in counted {
        let (mut link_lost, mut link_drawn) = (0, 0);
        for Piece { rule, began, ended } in pieces {
            link_lost += ended.dropped_loss - began.dropped_loss;
            link_drawn += drawn(rule, plan.seed, *pair, began.judged..ended.judged);
            let frames = ended.judged - began.judged;
            judged += frames;
            let share = if rule.cut { 0.0 } else { f64::from(rule.loss_per_million) / 1e6 };
            mean += as_f64(frames) * share;
            variance += as_f64(frames) * share * (1.0 - share);
        }
        if fabric == FabricKind::Switch && link_lost != link_drawn {
            let name = link_name(plan, *pair);
            missing.push(format!("{name}: {link_lost} frames lost, the seed says {link_drawn}"));
        }
        lost += link_lost;
    }
    // Of less than one frame nobody can say how far it is from what was expected.
    let deviation_max = LOSS_SIGMA_MAX * f64::sqrt(variance).max(1.0);
    if missing.is_empty() && lost == 0 {
        missing.push(format!("none of {judged} frames was lost, too few for this loss to show"));
    } else if missing.is_empty() && (as_f64(lost) - mean).abs() > deviation_max {
        missing.push(format!("{lost} of {judged} frames were lost, {mean:.1} were to be expected"));
    }
    let seen = format!(
        "{lost} of {} on {}, {mean:.1} expected",
        count_of(judged, "frame"),
        count_of(counted.len() as u64, "link")
    );
    let what = match fabric {
        FabricKind::Switch => "the links lost the very frames that the seed says",
        FabricKind::Kernel => "the links lost about as many frames as their loss lets expect",
    };
    proof(what, &missing, seen)
}

/// How many of these frames the rule takes.
fn drawn(rule: &LinkRule, seed: u64, pair: NodePair, frames: Range<u64>) -> u64 {
    let is_lost = |n: &u64| fate(rule, seed, link_id(pair), *n) == Fate::Drop(DropReason::Loss);
    if rule.cut || rule.loss_per_million == 0 { 0 } else { frames.filter(is_lost).count() as u64 }
}

#[allow(clippy::cast_precision_loss, reason = "frames of an hour are far fewer than 2^52")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

fn proof(what: &str, missing: &[String], seen: String) -> Proof {
    let detail = if missing.is_empty() { seen } else { named(missing, "; ") };
    Proof { what: what.to_owned(), is_seen: missing.is_empty(), detail }
}

/// The first few of many.
fn named(all: &[String], separator: &str) -> String {
    let shown = all[..all.len().min(LINKS_NAMED_MAX)].join(separator);
    match all.len().saturating_sub(LINKS_NAMED_MAX) {
        0 => shown,
        more => format!("{shown}{separator}and {more} more"),
    }
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests;
