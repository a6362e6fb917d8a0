//! The link model, as data and by property.

use proptest::prelude::*;

use super::*;

const LINK: LinkId = LinkId { from: PortIndex(1), to: PortIndex(2) };

fn lossy(loss_per_million: u32) -> LinkRule {
    LinkRule { loss_per_million, ..LinkRule::default() }
}

fn lost_of(rule: &LinkRule, seed: u64, link: LinkId, count: u64) -> u64 {
    (0..count).map(|n| u64::from(fate(rule, seed, link, n) == Fate::Drop(DropReason::Loss))).sum()
}

#[test]
fn perfect_link_delivers_at_once() {
    assert_eq!(fate(&LinkRule::default(), 7, LINK, 0), Fate::Deliver(Passage::after(Duration::ZERO)));
}

#[test]
fn cut_wins_over_everything_else() {
    let rule = LinkRule { cut: true, loss_per_million: PER_MILLION, ..LinkRule::default() };
    assert_eq!(fate(&rule, 7, LINK, 0), Fate::Drop(DropReason::Cut));
}

fn rule(latency_ms: u64, jitter_ms: u64, loss_per_million: u32) -> LinkRule {
    let ms = Duration::from_millis;
    LinkRule { loss_per_million, latency: ms(latency_ms), jitter: ms(jitter_ms), ..LinkRule::PERFECT }
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
    assert_eq!(fate(&rule, 1, LINK, 12), Fate::Deliver(Passage::after(Duration::from_nanos(35_999_024))));
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

/// What becomes of many frames and of their copies.
fn fates_of(rule: &LinkRule, count: u64) -> (Vec<Fate>, Vec<Option<Fate>>) {
    let own = (0..count).map(|n| fate(rule, 3, LINK, n)).collect();
    (own, (0..count).map(|n| copy_fate(rule, 3, LINK, n)).collect())
}

#[track_caller]
fn is_about(count: usize, of: usize, per_million: u32) {
    let count_of = |count: usize| f64::from(u32::try_from(count).unwrap());
    let share = f64::from(per_million) / 1e6;
    let sigma = (count_of(of) * share * (1.0 - share)).sqrt();
    assert!((count_of(count) - count_of(of) * share).abs() <= 5.0 * sigma, "{count} of {of}");
}

#[test]
fn shares_are_kept_and_know_nothing_of_each_other() {
    let rule = LinkRule {
        loss_per_million: 100_000,
        duplicate_per_million: 200_000,
        reorder_per_million: 300_000,
        corrupt_per_million: 50_000,
        ..rule(40, 0, 0)
    };
    let (own, copies) = fates_of(&rule, 100_000);
    let copies: Vec<Fate> = copies.into_iter().flatten().collect();
    is_about(copies.len(), 100_000, 200_000);
    for fates in [own, copies] {
        let passages: Vec<Passage> = fates
            .iter()
            .filter_map(|fate| match fate {
                Fate::Deliver(passage) => Some(*passage),
                Fate::Drop(_) => None,
            })
            .collect();
        is_about(fates.len() - passages.len(), fates.len(), 100_000);
        let count = |is_one: fn(&Passage) -> bool| passages.iter().filter(|passage| is_one(passage)).count();
        is_about(count(|passage| passage.is_early), passages.len(), 300_000);
        is_about(count(Passage::is_corrupt), passages.len(), 50_000);
        is_about(count(|passage| passage.is_early && passage.is_corrupt()), passages.len(), 15_000);
        let is_right = |passage: &Passage| passage.delay.is_zero() == passage.is_early;
        assert!(passages.iter().all(is_right), "who overtakes takes no time, and nobody else");
    }
}

#[test]
fn copy_is_drawn_for_on_its_own() {
    let rule =
        LinkRule { duplicate_per_million: PER_MILLION, loss_per_million: 500_000, ..LinkRule::PERFECT };
    let (own, copies) = fates_of(&rule, 10_000);
    let alike = own.iter().zip(&copies).filter(|(own, copy)| Some(**own) == **copy).count();
    is_about(alike, 10_000, 500_000);
    assert_eq!(copy_fate(&LinkRule::CUT, 3, LINK, 0), None);
    assert_eq!(copy_fate(&lossy(1), 3, LINK, 0), None);
}

#[test]
fn every_bit_of_a_frame_may_be_turned() {
    let rule = LinkRule { corrupt_per_million: PER_MILLION, ..LinkRule::PERFECT };
    let mut turned = [0; 16];
    for fate in fates_of(&rule, 10_000).0 {
        let Fate::Deliver(passage) = fate else { panic!("nothing is lost") };
        turned[passage.turned_bit(2).unwrap()] += 1;
        assert_eq!(passage.turned_bit(0), Some(0), "of nothing, the first");
    }
    for count in turned {
        is_about(count, 10_000, PER_MILLION / 16);
    }
}

#[test]
fn rate_gives_every_frame_its_time_and_the_link_its_queue() {
    let limited = |bits_per_s| LinkRule { bits_per_s: Some(bits_per_s), ..rule(100, 0, 0) };
    assert_eq!(limited(1_000_000).transmission(1_250), Duration::from_millis(10));
    assert_eq!(rule(100, 0, 0).transmission(1_250), Duration::ZERO);
    // 0.3 s of full frames, but never too few and never more than any other link has.
    assert_eq!(limited(100_000_000).queue_frames_max(), 2_476);
    assert_eq!(limited(1_000_000).queue_frames_max(), 32);
    assert_eq!(limited(10_000_000_000).queue_frames_max(), 8_192);
    assert_eq!(rule(100, 0, 0).queue_frames_max(), 8_192);
}

#[test]
fn of_several_rates_the_lowest_holds_and_shares_are_put_together() {
    let one = LinkRule { bits_per_s: Some(10), duplicate_per_million: 500_000, ..LinkRule::PERFECT };
    let two = LinkRule {
        bits_per_s: Some(20),
        duplicate_per_million: 500_000,
        reorder_per_million: 7,
        ..LinkRule::PERFECT
    };
    let want = LinkRule {
        bits_per_s: Some(10),
        duplicate_per_million: 750_000,
        reorder_per_million: 7,
        ..LinkRule::PERFECT
    };
    assert_eq!(LinkRule::composed(&[one, two, LinkRule::PERFECT]), want);
    assert_eq!(LinkRule::composed(&[two, LinkRule::CUT]), LinkRule::CUT);
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
        Fate::Deliver(passage) => passage.delay,
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
            loss_per_million,
            latency: Duration::from_millis(latency_ms),
            jitter: Duration::from_millis(jitter_ms),
            ..LinkRule::PERFECT
        };
        let link = LinkId::new(from, to);
        let first = fate(&rule, seed, link, n);
        prop_assert_eq!(first, fate(&rule, seed, link, n));
        if let Fate::Deliver(Passage { delay, .. }) = first {
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
