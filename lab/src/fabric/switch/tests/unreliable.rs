//! Links that double frames, let them overtake, change them, or have a rate.

use super::*;
use crate::link::copy_fate;

const LINK: LinkId = LinkId { from: PortIndex(0), to: PortIndex(1) };

#[test]
fn copies_arrive_of_the_very_frames_that_the_seed_says() {
    let rig = rig(2, None);
    let rule = LinkRule { duplicate_per_million: 300_000, loss_per_million: 200_000, ..LinkRule::PERFECT };
    rig.set(0, 1, rule);
    let mut copies = 0;
    for n in 0..100 {
        rig.send(0, 1, n);
        let copy = copy_fate(&rule, SEED, LINK, n.into());
        copies += u64::from(copy.is_some());
        // The frame, and then its copy; either may be lost.
        for fate in [Some(fate(&rule, SEED, LINK, n.into())), copy].into_iter().flatten() {
            if matches!(fate, Fate::Deliver(_)) {
                assert_eq!(rig.recv(1), n);
            }
        }
    }
    let counters = rig.counters(0, 1);
    assert_eq!((counters.judged, counters.duplicated), (100, copies));
    assert!((10..60).contains(&copies), "{copies}");
}

#[test]
fn early_frame_overtakes_those_under_way() {
    let rig = rig(2, None);
    let rule = LinkRule { reorder_per_million: 500_000, ..latency(300) };
    let is_early =
        |n: u32| matches!(fate(&rule, SEED, LINK, n.into()), Fate::Deliver(passage) if passage.is_early);
    rig.set(0, 1, rule);
    for n in 0..20 {
        rig.send(0, 1, n);
    }
    let (early, late): (Vec<u32>, Vec<u32>) = (0..20).partition(|n| is_early(*n));
    assert!(!early.is_empty() && !late.is_empty());
    let got: Vec<u32> = (0..20).map(|_| rig.recv(1)).collect();
    assert_eq!(got, [early.clone(), late].concat());
    assert_eq!(rig.counters(0, 1).early, early.len() as u64);
}

#[test]
fn one_bit_is_turned_in_the_very_frames_that_the_seed_says() {
    let rig = rig(2, None);
    let rule = LinkRule { corrupt_per_million: 300_000, ..LinkRule::PERFECT };
    rig.set(0, 1, rule);
    let mut changed = 0;
    for n in 0..50 {
        let sent = frame(mac(1), mac(0), n);
        rig.machines[0].send(&sent).unwrap();
        let mut got = [0; 64];
        let length = rig.machines[1].recv(&mut got).unwrap();
        let Fate::Deliver(passage) = fate(&rule, SEED, LINK, n.into()) else { panic!("nothing is lost") };
        let mut want = sent.clone();
        if let Some(bit) = passage.turned_bit(sent.len()) {
            want[bit / 8] ^= 1 << (bit % 8);
            changed += 1;
        }
        assert_eq!(&got[..length], &want[..]);
    }
    assert_eq!(rig.counters(0, 1).corrupted, changed);
    assert!(changed > 0);
}

#[test]
fn frames_follow_each_other_at_the_rate_of_the_link() {
    let rig = rig(2, None);
    let bytes = frame(mac(1), mac(0), 0).len();
    // Each frame takes ten milliseconds.
    let rule = LinkRule { bits_per_s: Some(bytes as u64 * 8 * 100), ..latency(20) };
    rig.set(0, 1, rule);
    let start = Instant::now();
    for n in 0..10 {
        rig.send(0, 1, n);
    }
    for n in 0..10 {
        assert_eq!(rig.recv(1), n);
        let least = Duration::from_millis(20 + 10 * (u64::from(n) + 1));
        assert!(start.elapsed() >= least, "{n}: {:?}", start.elapsed());
    }
}

/// A link of 1 Mbit/s and 100 ms once held 32 frames however small, and small ones got a quarter of its rate.
#[test]
fn queue_of_a_link_with_a_rate_has_room_for_its_bytes() {
    let rig = rig(2, None);
    // Nothing leaves before all are there.
    let rule = LinkRule { bits_per_s: Some(40_000), ..latency(20_000) };
    rig.set(0, 1, rule);
    let bytes = frame(mac(1), mac(0), 0).len() as u64;
    let fit = rule.queue_bytes_max() / bytes;
    assert!(fit > 4 * u64::from(rule.queue_frames_max()));
    for _ in 0..fit + 100 {
        rig.send(0, 1, 0);
    }
    let counters = rig.await_judged(0, 1, fit + 100);
    assert_eq!((counters.in_flight, counters.dropped_queue), (fit, 100));
}
