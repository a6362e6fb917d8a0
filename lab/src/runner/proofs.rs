//! What was measured and counted on links, to proofs. Pure: the clocks and counters were read before.

mod late;
mod share;

use std::collections::BTreeSet;
use std::time::Duration;

pub(super) use self::late::late;
pub(super) use self::share::{Share, share};

use super::links::{Counted, RoundTrips, Rules, link_name};
use super::record::Proof;
use crate::check::counted as count_of;
use crate::cluster::{FrameCounts, NodePair, Probe};
use crate::limits::{LINKS_NAMED_MAX, PROBES_ANSWERED_MIN, ROUND_TRIP_TOLERANCE};
use crate::link::LinkRule;
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

/// Whether the quickest round trip over every link took all that is done to the link and to the way back, of which the
/// [slack](crate::link::LinkRule::slack) then and before may hide some, and grew by half of what was added at least. The quickest: a
/// host that is busy makes round trips longer, never shorter; but on one that always is, the quickest one before may have taken much
/// longer than the link does. Says nothing of links on which slack may hide nearly all, or of whose round trips too few were answered in
/// time: those are left to [`late`]. `trips` are those before and those during, each with all that is done to the links then.
pub(super) fn round_trips(plan: &Plan, added: &Rules, trips: [(&RoundTrips, &Rules); 2]) -> Option<Proof> {
    let [(before, ruled_before), (during, ruled)] = trips;
    let both_ways = |rules: &Rules, (from, to): NodePair, of: fn(&LinkRule) -> Duration| -> Duration {
        [(from, to), (to, from)].iter().filter_map(|pair| rules.get(pair)).map(of).sum()
    };
    let mut missing = Vec::new();
    let mut least: Option<(Duration, String)> = None;
    let mut timed = 0;
    for (pair, times) in during {
        let wanted = both_ways(added, *pair, |rule| rule.latency);
        let slack =
            both_ways(ruled_before, *pair, LinkRule::slack) + both_ways(ruled, *pair, LinkRule::slack);
        let sure = wanted.saturating_sub(slack);
        let both = (before.get(pair).and_then(|times| quickest(times)), quickest(times));
        let (Some(was), Some(is)) = both else { continue };
        if sure <= 2 * ROUND_TRIP_TOLERANCE {
            continue;
        }
        timed += 1;
        let name = link_name(plan, *pair);
        let detail = format!("{name}: {} before, {} during, {} added", ms(was), ms(is), ms(wanted));
        let grown = is.saturating_sub(was);
        let all = both_ways(ruled, *pair, |rule| rule.latency).saturating_sub(slack);
        if is < all.saturating_sub(ROUND_TRIP_TOLERANCE) || grown < sure / 2 {
            missing.push(detail);
        } else if least.as_ref().is_none_or(|(least, _)| grown < *least) {
            least = Some((grown, detail));
        }
    }
    let least = least.map(|(_, detail)| detail).unwrap_or_default();
    let seen = format!("{}, the least of them {least}", count_of(timed, "link"));
    (timed > 0).then(|| proof("round trips took longer by what was added to their links", &missing, seen))
}

/// The shortest of enough times.
fn quickest(times: &[Duration]) -> Option<Duration> {
    times.iter().copied().min().filter(|_| times.len() >= PROBES_ANSWERED_MIN)
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
