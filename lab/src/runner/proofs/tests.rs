//! Every proof, on data that shows the effect and on data that does not.

use std::collections::BTreeMap;

use super::*;
use crate::cluster::{Held, link_id};
use crate::fabric::FabricKind;
use crate::link::{Fate, LinkRule, fate};
use crate::plan::{NodeIndex, Plan};
use crate::runner::links::Piece;
use crate::scenario::Scenario;

const LINK: NodePair = (NodeIndex(0), NodeIndex(1));
const BACK: NodePair = (NodeIndex(1), NodeIndex(0));

fn plan() -> Plan {
    let text = "name: t\nabout: t.\nnodes: { count: 2 }\nchecks: [linearizable]\n";
    Plan::new(&Scenario::parse("t.yaml", text).unwrap(), 1)
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn slow(latency: u64, jitter: u64) -> LinkRule {
    LinkRule { latency: millis(latency), jitter: millis(jitter), ..LinkRule::default() }
}

fn lossy(loss_per_million: u32) -> LinkRule {
    LinkRule { loss_per_million, ..LinkRule::default() }
}

#[track_caller]
fn check(proof: &Proof, is_seen: bool, detail: &str) {
    assert_eq!((proof.is_seen, proof.detail.as_str()), (is_seen, detail), "{}", proof.what);
}

#[test]
fn probes_have_to_be_answered_or_not() {
    let yes = (LINK, Probe::Answered(millis(1)));
    let no = (BACK, Probe::Unanswered);
    check(&probes(&plan(), "it", &[yes], true), true, "1 probe");
    check(&probes(&plan(), "it", &[yes, no], true), false, "no answer over n2 -> n1");
    check(&probes(&plan(), "it", &[no], false), true, "1 probe");
    check(&probes(&plan(), "it", &[yes, no], false), false, "answered over n1 -> n2");
}

fn counts(judged: u64, delivered: u64, dropped_cut: u64) -> FrameCounts {
    FrameCounts { judged, delivered, dropped_cut, ..FrameCounts::default() }
}

#[test]
fn cut_has_to_swallow_and_let_nothing_through() {
    let cut_with = |ended, silent: &[NodePair]| {
        let began = counts(10, 10, 0);
        let counted = [(LINK, vec![Piece { rule: LinkRule::CUT, began, ended }])].into();
        cut(&plan(), &counted, &silent.iter().copied().collect())
    };
    let cut_of = |ended| cut_with(ended, &[]);
    check(&cut_of(counts(13, 10, 3)), true, "3 frames dropped on 1 link, 0 delivered");
    check(&cut_of(counts(10, 10, 0)), false, "n1 -> n2: 0 dropped, 0 delivered");
    check(&cut_of(counts(13, 11, 2)), false, "n1 -> n2: 2 dropped, 1 delivered");
    // Sabotage: everything passes.
    check(&cut_of(counts(13, 13, 0)), false, "n1 -> n2: 0 dropped, 3 delivered");
    // A machine that is off sends nothing, but what it leaves alone is not cut.
    check(&cut_with(counts(10, 10, 0), &[LINK]), false, "nobody was there to send over any of the links");
    check(&cut_with(counts(12, 10, 2), &[LINK]), true, "2 frames dropped on 1 link, 0 delivered");
    check(&cut_with(counts(11, 11, 0), &[LINK]), false, "n1 -> n2: 0 dropped, 1 delivered");
}

#[track_caller]
fn check_round_trips(
    added: &[(NodePair, LinkRule)],
    before: &[u64],
    during: &[u64],
    want: Option<(bool, &str)>,
) {
    check_round_trips_over(&[], added, before, during, want);
}

/// The same on links to which something is done already.
#[track_caller]
fn check_round_trips_over(
    standing: &[(NodePair, LinkRule)],
    added: &[(NodePair, LinkRule)],
    before: &[u64],
    during: &[u64],
    want: Option<(bool, &str)>,
) {
    let [standing, added]: [Rules; 2] = [standing, added].map(|rules| rules.iter().copied().collect());
    let both = |pair: &NodePair| {
        let parts = [&standing, &added].into_iter().filter_map(|rules| rules.get(pair)).copied();
        (*pair, LinkRule::composed(&parts.collect::<Vec<_>>()))
    };
    let ruled: Rules = standing.keys().chain(added.keys()).map(both).collect();
    let times = |ms: &[u64]| RoundTrips::from([(LINK, ms.iter().copied().map(millis).collect())]);
    let (before, during) = (times(before), times(during));
    let proof = round_trips(&plan(), &added, [(&before, &standing), (&during, &ruled)]);
    assert_eq!(proof.as_ref().map(|proof| (proof.is_seen, proof.detail.as_str())), want);
}

#[test]
fn round_trips_have_to_take_what_was_added_and_to_grow() {
    let one_way = [(LINK, slow(40, 0))];
    let seen = "1 link, the least of them n1 -> n2: 1.0 ms before, 41.0 ms during, 40.0 ms added";
    check_round_trips(&one_way, &[9, 13, 1], &[90, 41, 42], Some((true, seen)));
    let unseen = "n1 -> n2: 1.0 ms before, 37.0 ms during, 40.0 ms added";
    check_round_trips(&one_way, &[1, 1, 1], &[90, 37, 90], Some((false, unseen)));
    let both = [(LINK, slow(40, 5)), (BACK, slow(40, 5))];
    let seen = "1 link, the least of them n1 -> n2: 0.0 ms before, 72.0 ms during, 80.0 ms added";
    check_round_trips(&both, &[0, 0, 0], &[72, 72, 72], Some((true, seen)));
    let unseen = "n1 -> n2: 0.0 ms before, 40.0 ms during, 80.0 ms added";
    check_round_trips(&both, &[0, 0, 0], &[40, 40, 40], Some((false, unseen)));
    // A host that was as busy before as it is now.
    let seen = "1 link, the least of them n1 -> n2: 9.0 ms before, 76.0 ms during, 80.0 ms added";
    check_round_trips(&both, &[9, 9, 9], &[76, 76, 76], Some((true, seen)));
    let unseen = "n1 -> n2: 45.0 ms before, 76.0 ms during, 80.0 ms added";
    check_round_trips(&both, &[45, 45, 45], &[76, 76, 76], Some((false, unseen)));
    // What was slow before is to be slow besides, and in both directions.
    let standing = [(LINK, slow(50, 0)), (BACK, slow(50, 0))];
    let exact = [(LINK, slow(40, 0)), (BACK, slow(40, 0))];
    let seen = "1 link, the least of them n1 -> n2: 100.0 ms before, 180.0 ms during, 80.0 ms added";
    check_round_trips_over(&standing, &exact, &[100; 3], &[180; 3], Some((true, seen)));
    let unseen = "n1 -> n2: 100.0 ms before, 140.0 ms during, 80.0 ms added";
    check_round_trips_over(&standing, &exact, &[100; 3], &[140; 3], Some((false, unseen)));
}

#[test]
fn round_trips_that_slack_may_hide_or_that_are_too_few_say_nothing() {
    for (latency, jitter) in [(1, 0), (4, 0), (5, 5), (40, 36)] {
        check_round_trips(&[(LINK, slow(latency, jitter))], &[3; 5], &[3; 7], None);
    }
    // The quickest may be one that has overtaken others.
    let overtaking = LinkRule { reorder_per_million: 50_000, ..slow(40, 0) };
    check_round_trips(&[(LINK, overtaking)], &[1; 7], &[41, 41, 41, 1, 41, 41, 41], None);
    check_round_trips(&[(LINK, slow(40, 0))], &[1; 5], &[1; 2], None);
    check_round_trips(&[(LINK, slow(40, 0))], &[1; 2], &[1; 7], None);
}

/// So many frames were judged from the eleventh on, of which these came through after so long in all.
#[track_caller]
fn check_held(rules: &[LinkRule], judged: u64, delivered: u64, held_for: Duration, want: (bool, &str)) {
    let held = |total| Held::Counted { total };
    let began = FrameCounts { held: held(millis(500)), ..counts(10, 10, 0) };
    let ended = FrameCounts { held: held(millis(500) + held_for), ..counts(10 + judged, 10 + delivered, 0) };
    let mut pieces: Vec<Piece> = rules.iter().map(|rule| Piece { rule: *rule, began, ended }).collect();
    // The first rule met all frames, the others none.
    for piece in &mut pieces[1..] {
        piece.began = ended;
    }
    let (counted, from) = ([(LINK, pieces)].into(), [(LINK, began)].into());
    check(&late(&plan(), FabricKind::Switch, &counted, &from), want.0, want.1);
}

#[test]
fn frames_have_to_be_held_for_the_latency() {
    let exact = [slow(40, 0)];
    check_held(&exact, 10, 10, millis(400), (true, "1 link, on average 40.0 ms to 40.0 ms"));
    check_held(&exact, 10, 10, millis(399), (false, "n1 -> n2: 39.9 ms, not 40.0 ms to 40.0 ms"));
    check_held(&exact, 10, 10, millis(601), (false, "n1 -> n2: 60.1 ms, not 40.0 ms to 40.0 ms"));
    check_held(&exact, 10, 0, millis(0), (false, "n1 -> n2: no frame was delivered"));
    // Two of them are still on their way.
    check_held(&exact, 12, 10, millis(400), (true, "1 link, on average 40.0 ms to 40.0 ms"));
    // Another fault came and went, and a cut holds nothing.
    let changed = [slow(40, 0), slow(60, 0), LinkRule::CUT];
    check_held(&changed, 10, 10, millis(450), (true, "1 link, on average 45.0 ms to 45.0 ms"));
}

#[test]
fn frames_have_to_be_held_for_what_the_seed_has_drawn_when_jitter_is_as_large_as_latency() {
    let rule = slow(5, 5);
    let delay = |n| match fate(&rule, 1, link_id(LINK), n) {
        Fate::Deliver(passage) => passage.delay,
        Fate::Drop(_) => Duration::ZERO,
    };
    let drawn: Duration = (10..110).map(delay).sum();
    let told = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let mean = told(drawn / 100);
    check_held(&[rule], 100, 100, drawn, (true, &format!("1 link, on average {mean} to {mean}")));
    let short = drawn.checked_sub(millis(1)).unwrap();
    let text = format!("n1 -> n2: {}, not {mean} to 10.0 ms", told(short / 100));
    check_held(&[rule], 100, 100, short, (false, &text));
    // Sabotage: everything passes at once.
    check_held(&[rule], 100, 100, millis(0), (false, &format!("n1 -> n2: 0.0 ms, not {mean} to 10.0 ms")));
}

fn share_of_loss(fabric: FabricKind, counted: &Counted) -> Proof {
    share(&plan(), fabric, counted, Share::Loss)
}

/// Frames `from` to `to`, of which so many were lost.
fn lost(rule: LinkRule, from: u64, to: u64, before: u64, after: u64) -> Piece {
    let at = |judged, dropped_loss| FrameCounts { judged, dropped_loss, ..FrameCounts::default() };
    Piece { rule, began: at(from, before), ended: at(to, after) }
}

#[test]
fn links_have_to_lose_what_the_seed_says() {
    let check_loss = |pieces: Vec<Piece>, is_seen, detail: &str| {
        check(&share_of_loss(FabricKind::Switch, &[(LINK, pieces)].into()), is_seen, detail);
    };
    let five = lossy(50_000);
    let drawn = Share::Loss.drawn(&five, 1, LINK, 1_000..2_000);
    assert!((20..90).contains(&drawn), "{drawn}");
    let seen = format!("{drawn} of 1000 frames on 1 link, 50.0 expected");
    check_loss(vec![lost(five, 1_000, 2_000, 7, 7 + drawn)], true, &seen);
    // One more, one less, or none at all.
    for wrong in [drawn + 1, drawn - 1, 0] {
        let unseen = format!("n1 -> n2: {wrong} frames lost, the seed says {drawn}");
        check_loss(vec![lost(five, 1_000, 2_000, 7, 7 + wrong)], false, &unseen);
    }
    // A rule that changed in between is judged piece by piece; a cut draws nothing.
    let pieces = vec![lost(five, 1_000, 2_000, 0, drawn), lost(LinkRule::CUT, 2_000, 2_500, drawn, drawn)];
    check_loss(pieces, true, &format!("{drawn} of 1500 frames on 1 link, 50.0 expected"));
}

#[test]
fn kernel_draws_by_itself_and_has_to_lose_about_its_share() {
    let check_loss = |lost_count: u64, is_seen, detail: &str| {
        let pieces = vec![lost(lossy(50_000), 1_000, 2_000, 7, 7 + lost_count)];
        check(&share_of_loss(FabricKind::Kernel, &[(LINK, pieces)].into()), is_seen, detail);
    };
    check_loss(50, true, "50 of 1000 frames on 1 link, 50.0 expected");
    check_loss(80, true, "80 of 1000 frames on 1 link, 50.0 expected");
    check_loss(90, false, "90 of 1000 frames were lost, 50.0 were to be expected");
    // Sabotage: nothing is lost.
    check_loss(0, false, "none of 1000 frames was lost, too few for this share to show");
}

#[test]
fn kernel_has_to_say_what_it_was_told() {
    let check_told =
        |rule: LinkRule, (latency, jitter): (u64, u64), delivered: u64, is_seen, detail: &str| {
            let told = Held::Told { latency: millis(latency), jitter: millis(jitter), bits_per_s: None };
            let began = FrameCounts { held: told, ..counts(10, 10, 0) };
            let piece = Piece { rule, began, ended: counts(10 + delivered, 10 + delivered, 0) };
            let counted = [(LINK, vec![piece])].into();
            check(&late(&plan(), FabricKind::Kernel, &counted, &BTreeMap::new()), is_seen, detail);
        };
    check_told(slow(40, 5), (40, 5), 3, true, "1 link, 3 frames delivered");
    let unlike = "n1 -> n2: 40.0 ms ± 0.0 ms says the kernel, not 40.0 ms ± 5.0 ms";
    check_told(slow(40, 5), (40, 0), 3, false, unlike);
    // Sabotage: it was told nothing.
    let nothing = "n1 -> n2: 0.0 ms ± 0.0 ms says the kernel, not 40.0 ms ± 0.0 ms";
    check_told(slow(40, 0), (0, 0), 3, false, nothing);
    check_told(slow(40, 0), (40, 0), 0, false, "n1 -> n2: no frame was delivered");
}

#[test]
fn loss_that_too_few_frames_met_proves_nothing() {
    let none = share_of_loss(FabricKind::Switch, &[(LINK, vec![lost(lossy(1), 0, 20, 0, 0)])].into());
    check(&none, false, "none of 20 frames was lost, too few for this share to show");
    let cut = share_of_loss(FabricKind::Switch, &[(LINK, vec![lost(LinkRule::CUT, 0, 20, 0, 0)])].into());
    check(&cut, false, "none of 20 frames was lost, too few for this share to show");
}

#[test]
fn what_is_done_to_a_share_is_counted_with_its_copies() {
    #[track_caller]
    fn check_share(what: Share, rule: LinkRule, wrong_by: u64) {
        let plan = plan();
        let drawn = |what: Share| what.drawn(&rule, 1, LINK, 0..2_000);
        let ended = FrameCounts {
            judged: 2_000,
            duplicated: drawn(Share::Duplicate),
            dropped_loss: drawn(Share::Loss),
            early: drawn(Share::Reorder),
            corrupted: drawn(Share::Corrupt),
            ..FrameCounts::default()
        };
        let piece = |ended| vec![Piece { rule, began: FrameCounts::default(), ended }];
        let seen = share(&plan, FabricKind::Switch, &[(LINK, piece(ended))].into(), what);
        assert!(seen.is_seen, "{seen:?}");
        let wrong = FrameCounts {
            duplicated: ended.duplicated - wrong_by,
            early: ended.early - wrong_by,
            corrupted: ended.corrupted - wrong_by,
            ..ended
        };
        let unseen = share(&plan, FabricKind::Switch, &[(LINK, piece(wrong))].into(), what);
        assert!(!unseen.is_seen && unseen.detail.contains("the seed says"), "{unseen:?}");
        let about = share(&plan, FabricKind::Kernel, &[(LINK, piece(wrong))].into(), what);
        assert!(about.is_seen, "{about:?}");
        let none = share(&plan, FabricKind::Kernel, &[(LINK, piece(counts(2_000, 2_000, 0)))].into(), what);
        assert!(!none.is_seen && none.detail.starts_with("none of 2000 frames was "), "{none:?}");
    }
    let rule = LinkRule {
        loss_per_million: 100_000,
        duplicate_per_million: 200_000,
        reorder_per_million: 50_000,
        corrupt_per_million: 30_000,
        ..slow(20, 0)
    };
    for what in [Share::Duplicate, Share::Reorder, Share::Corrupt] {
        check_share(what, rule, 1);
    }
}

#[test]
fn full_queue_of_a_kernels_link_with_a_rate_is_no_loss_too_many() {
    let rule = LinkRule { bits_per_s: Some(1_000_000), ..lossy(50_000) };
    let dropped =
        |fabric, rule, count| share_of_loss(fabric, &[(LINK, vec![lost(rule, 0, 1_000, 0, count)])].into());
    assert!(dropped(FabricKind::Kernel, rule, 300).is_seen);
    assert!(!dropped(FabricKind::Kernel, rule, 3).is_seen);
    assert!(!dropped(FabricKind::Kernel, lossy(50_000), 300).is_seen);
}

#[test]
fn frames_have_to_be_held_for_their_bits() {
    // A thousand bytes at a megabit a second take eight milliseconds.
    let rule = LinkRule { bits_per_s: Some(1_000_000), ..slow(10, 0) };
    let check_rate = |held_ms: u64, is_seen, detail: &str| {
        let began = counts(10, 10, 0);
        let held = Held::Counted { total: millis(held_ms) };
        let ended = FrameCounts { held, delivered_bytes: 10_000, ..counts(20, 20, 0) };
        let counted = [(LINK, vec![Piece { rule, began, ended }])].into();
        check(&late(&plan(), FabricKind::Switch, &counted, &[(LINK, began)].into()), is_seen, detail);
    };
    check_rate(180, true, "1 link, on average 18.0 ms to 18.0 ms");
    check_rate(2_000, true, "1 link, on average 200.0 ms to 200.0 ms");
    check_rate(100, false, "n1 -> n2: 10.0 ms, not 18.0 ms to 409.7 ms");
    let told = |bits_per_s| {
        let told = Held::Told { latency: millis(10), jitter: Duration::ZERO, bits_per_s };
        let began = FrameCounts { held: told, ..counts(10, 10, 0) };
        let counted = [(LINK, vec![Piece { rule, began, ended: counts(20, 20, 0) }])].into();
        late(&plan(), FabricKind::Kernel, &counted, &BTreeMap::new())
    };
    assert!(told(Some(1_000_000)).is_seen && told(Some(999_992)).is_seen);
    let unlike = "n1 -> n2: 10.0 ms ± 0.0 ms says the kernel, not 10.0 ms ± 0.0 ms at 1000000 bit/s";
    check(&told(None), false, unlike);
}

#[test]
fn many_links_are_named_in_part() {
    let all: Vec<String> = (1..=8).map(|number| format!("l{number}")).collect();
    assert_eq!(named(&all, ", "), "l1, l2, l3, l4, l5, l6, and 2 more");
}
