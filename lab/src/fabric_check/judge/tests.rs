//! What is heard of links that do as they were asked, and of links that do not.

use super::*;
use crate::limits::PER_MILLION;
use crate::link::{LinkId, LinkRule};

const SEED: u64 = 7;
const BASELINE: Duration = Duration::from_micros(200);

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn case(rule: LinkRule, count: u32, spacing_ms: u64) -> Case {
    Case { link: LinkId::new(0, 1), rule, count, spacing: millis(spacing_ms), bytes: 100 }
}

/// What is heard, and counted, over a link with this rule, as the switch does it.
fn as_asked(case: &Case) -> (Vec<Arrival>, [FrameCounts; 2]) {
    let before = FrameCounts { judged: 1_000, delivered: 900, dropped_loss: 100, ..FrameCounts::default() };
    let mut after = before;
    let mut heard: Vec<Arrival> = Vec::new();
    let mut last = Duration::ZERO;
    for number in 0..case.count {
        let n = before.judged + u64::from(number);
        after.judged += 1;
        let copy = copy_fate(&case.rule, SEED, case.link, n);
        after.duplicated += u64::from(copy.is_some());
        for fate in [Some(fate(&case.rule, SEED, case.link, n)), copy].into_iter().flatten() {
            let passage = match fate {
                Fate::Deliver(passage) => passage,
                Fate::Drop(_) if case.rule.cut => {
                    after.dropped_cut += 1;
                    continue;
                }
                Fate::Drop(_) => {
                    after.dropped_loss += 1;
                    continue;
                }
            };
            after.delivered += 1;
            let sent = case.spacing * number;
            let arrives = (sent + passage.delay).max(if passage.is_early { Duration::ZERO } else { last });
            let due = arrives
                + if passage.is_early { Duration::ZERO } else { case.rule.transmission(case.frame_bytes()) };
            if !passage.is_early {
                last = due;
            }
            if passage.turned_bit(case.frame_bytes()).is_none_or(|bit| bit == 0 || (48..96).contains(&bit)) {
                heard.push(Arrival { number, delay: due.saturating_sub(sent) + BASELINE, at: due });
            }
        }
    }
    heard.sort_by_key(|arrival| arrival.at);
    (heard, [before, after])
}

fn judged(
    case: &Case,
    fabric: FabricKind,
    arrivals: &[Arrival],
    counts: [FrameCounts; 2],
) -> (String, Vec<String>) {
    let (measured, complaints) =
        judge(&Heard { case, fabric, seed: SEED, arrivals, counts, baseline: BASELINE });
    (measured, complaints.into_iter().map(|complaint| complaint.text).collect())
}

#[track_caller]
fn passes(rule: LinkRule, count: u32, spacing_ms: u64) -> String {
    let case = case(rule, count, spacing_ms);
    let (arrivals, counts) = as_asked(&case);
    let mut words = String::new();
    for fabric in [FabricKind::Switch, FabricKind::Kernel] {
        let (measured, complaints) = judged(&case, fabric, &arrivals, counts);
        assert!(complaints.is_empty(), "{fabric}: {measured}: {complaints:?}");
        words = measured;
    }
    words
}

fn late(latency: u64, jitter: u64) -> LinkRule {
    LinkRule { latency: millis(latency), jitter: millis(jitter), ..LinkRule::PERFECT }
}

#[test]
fn links_that_do_as_they_were_asked_have_nothing_against_them() {
    assert_eq!(passes(LinkRule::PERFECT, 500, 2), "500 of 500 arrived");
    assert_eq!(passes(late(10, 0), 500, 2), "500 of 500 arrived, +10.0 ms");
    assert!(passes(late(50, 20), 120, 42).contains("(90 % between 3"));
    passes(late(30, 10), 1_000, 1);
    passes(LinkRule { loss_per_million: 50_000, ..LinkRule::PERFECT }, 2_000, 1);
    assert_eq!(passes(LinkRule::CUT, 200, 1), "0 of 200 arrived");
    passes(LinkRule { duplicate_per_million: 100_000, ..LinkRule::PERFECT }, 1_000, 1);
    passes(LinkRule { reorder_per_million: 200_000, ..late(30, 0) }, 1_000, 1);
    passes(LinkRule { corrupt_per_million: 100_000, ..LinkRule::PERFECT }, 1_000, 1);
    let all = LinkRule {
        loss_per_million: 30_000,
        duplicate_per_million: 60_000,
        reorder_per_million: 80_000,
        ..late(40, 5)
    };
    passes(all, 2_000, 1);
    let measured = passes(LinkRule { bits_per_s: Some(1_000_000), ..late(50, 0) }, 100, 1);
    assert_eq!(measured, "100 of 100 arrived, 1.00 Mbit/s, at the least +51.1 ms");
}

/// A link with `done` is taken for one with `asked`.
#[track_caller]
fn fails(asked: LinkRule, done: LinkRule, fabric: FabricKind, want: &str) {
    let done = case(done, 1_000, 2);
    let (arrivals, counts) = as_asked(&done);
    let (measured, complaints) = judged(&Case { rule: asked, ..done }, fabric, &arrivals, counts);
    assert!(complaints.iter().any(|complaint| complaint.contains(want)), "{measured}: {complaints:?}");
}

#[test]
fn jitter_that_is_none_is_told_where_frames_are_far_apart() {
    let done = case(late(50, 0), 120, 42);
    let (arrivals, counts) = as_asked(&done);
    let (_, complaints) = judged(&Case { rule: late(50, 20), ..done }, FabricKind::Kernel, &arrivals, counts);
    let want = [
        "at the least 50.0 ms are added, 32.0 ms were asked for",
        "at the most 50.0 ms are added, 68.0 ms were asked for",
    ];
    assert_eq!(complaints, want);
}

#[test]
fn links_that_do_something_else_are_told() {
    use FabricKind::{Kernel, Switch};
    let lossy = |loss_per_million| LinkRule { loss_per_million, ..LinkRule::PERFECT };
    fails(late(10, 0), LinkRule::PERFECT, Kernel, "in the middle 0.0 ms are added, 10.0 ms were asked for");
    fails(late(10, 0), late(13, 0), Switch, "in the middle 13.0 ms are added");
    fails(
        late(100, 40),
        late(100, 0),
        Kernel,
        "100.0 ms to 100.0 ms are added, 60.0 ms to 140.0 ms were asked for",
    );

    fails(lossy(50_000), LinkRule::PERFECT, Kernel, "1000 of 1000 arrived, 950.0 were to be expected");
    fails(lossy(50_000), lossy(51_000), Switch, "frames fared otherwise than the seed says");
    fails(LinkRule::CUT, lossy(990_000), Kernel, "arrived, 0.0 were to be expected");
    fails(LinkRule::CUT, lossy(PER_MILLION), Kernel, "does not count every frame that the cut swallowed");
    fails(LinkRule::PERFECT, lossy(10_000), Kernel, "of 1000 arrived, 1000.0 were to be expected");
    let doubled = LinkRule { duplicate_per_million: 100_000, ..LinkRule::PERFECT };
    fails(doubled, LinkRule::PERFECT, Kernel, "0 of 1000 arrived twice, 100.0 were to be expected");
    fails(LinkRule::PERFECT, doubled, Kernel, "arrived twice, 0.0 were to be expected");
    let early = LinkRule { reorder_per_million: 200_000, ..late(30, 0) };
    fails(early, late(30, 0), Switch, "0 frames were early, the seed says");
    fails(late(30, 0), early, Kernel, "frames have overtaken others that were to keep their order");
    let corrupt = LinkRule { corrupt_per_million: 100_000, ..LinkRule::PERFECT };
    fails(corrupt, LinkRule::PERFECT, Kernel, "1000 of 1000 arrived");
    let limited = |bits_per_s| LinkRule { bits_per_s: Some(bits_per_s), ..LinkRule::PERFECT };
    fails(limited(500_000), limited(400_000), Kernel, "0.40 Mbit/s pass, 0.50 were asked for");
    fails(
        limited(500_000),
        LinkRule::PERFECT,
        Kernel,
        "a frame takes 0.0 ms, and 2.3 ms at the least were asked for",
    );
}

#[test]
fn fabric_that_counts_something_else_is_told() {
    let case = case(LinkRule::PERFECT, 100, 1);
    let (arrivals, [before, mut after]) = as_asked(&case);
    after.judged -= 1;
    after.delivered -= 1;
    let (_, complaints) = judged(&case, FabricKind::Kernel, &arrivals, [before, after]);
    let want = [
        "the fabric counts 99 frames and 0 copies, 99 delivered and 0 dropped, of 100",
        "the fabric counts 99 frames delivered, 100 were heard",
    ];
    assert_eq!(complaints, want);
}

#[test]
fn link_that_suffers_beside_another_is_told() {
    let arrivals: Vec<Arrival> =
        (0..10).map(|number| Arrival { number, delay: millis(8), at: millis(number.into()) }).collect();
    let check = |arrivals: &[Arrival], latency| {
        is_untouched(arrivals, 10, BASELINE, millis(latency)).map(|complaint| complaint.text)
    };
    assert_eq!(check(&arrivals, 20), None);
    assert_eq!(check(&arrivals, 10).unwrap(), "its frames take 7.8 ms longer");
    assert_eq!(check(&arrivals[1..], 20).unwrap(), "9 of 10 arrived, or not in their order");
}
