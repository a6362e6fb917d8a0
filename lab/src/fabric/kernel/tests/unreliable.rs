//! Links that are slow or unreliable. All but copies of frames need netem.

use std::collections::BTreeSet;

use super::*;

/// So many machines on a fabric with netem.
fn rig_with_netem(count: u16) -> Option<Rig> {
    let rig = rig(count, None)?;
    if !rig.fabric.has_netem {
        host::lacks("netem", "netem");
        return None;
    }
    Some(rig)
}

#[test]
fn netem_delays_its_link_and_no_other() {
    let Some(rig) = rig_with_netem(3) else { return };
    let slow = LinkRule { latency: Duration::from_millis(20), ..LinkRule::default() };
    rig.set(&[(LINK, slow)]);
    let rtt = rig.probe(0, 1, ANSWER_MAX).unwrap();
    assert!(rtt >= Duration::from_millis(20) && rtt < Duration::from_millis(200), "{rtt:?}");
    let rtt = rig.probe(0, 2, ANSWER_MAX).unwrap();
    assert!(rtt < Duration::from_millis(20), "{rtt:?}");
    assert_eq!(rig.counters(LINK).in_force, slow);
    // The frames that it holds are not lost by a change, and leave when they were to leave.
    let slower = LinkRule { latency: Duration::from_secs(1), ..LinkRule::default() };
    rig.set(&[(LINK, slower)]);
    rig.send(0, 1, 10);
    rig.settled(|seen| seen.link(LINK).in_flight == 10);
    rig.set(&[(LINK, LinkRule::default())]);
    let after = rig.settled(|seen| seen.link(LINK).in_flight == 0).link(LINK);
    assert_eq!((after.judged, after.dropped_netem), (after.delivered, 0));
}

#[test]
fn cut_takes_frames_in_flight_like_a_pulled_cable() {
    let Some(rig) = rig_with_netem(2) else { return };
    let slow = LinkRule { latency: Duration::from_secs(5), ..LinkRule::default() };
    rig.set(&[(LINK, slow)]);
    rig.send(0, 1, 10);
    rig.settled(|seen| seen.link(LINK).in_flight == 10);
    let cut = rig.set(&[(LINK, LinkRule::CUT)]).link(LINK);
    assert_eq!((cut.in_flight, cut.delivered, cut.judged), (0, 0, 10));
    rig.set(&[(LINK, LinkRule::default())]);
    rig.send(0, 1, 3);
    let after = rig.settled(|seen| seen.link(LINK).delivered == 3).link(LINK);
    assert_eq!((after.judged, after.dropped_netem), (13, 0));
}

#[test]
fn netem_loses_its_share() {
    let Some(rig) = rig_with_netem(2) else { return };
    let lossy = LinkRule { loss_per_million: 200_000, ..LinkRule::default() };
    rig.set(&[(LINK, lossy)]);
    rig.send(0, 1, 5_000);
    let counters = rig.settled(|seen| seen.link(LINK).judged == 5_000).link(LINK);
    assert_eq!(counters.judged, counters.delivered + counters.dropped_netem);
    // Five standard deviations of 28 frames each.
    assert!(counters.dropped_netem.abs_diff(1_000) <= 142, "{counters:?}");
}

#[test]
fn frames_are_copied_and_counted_without_netem() {
    let Some(rig) = rig(2, None) else { return };
    let doubling = LinkRule { duplicate_per_million: 100_000, ..LinkRule::default() };
    if let Err(error) = rig.fabric.require([doubling]) {
        return host::lacks("bridge", &format!("copies of frames: {}", crate::causes::causes(&error)));
    }
    rig.set(&[(LINK, doubling)]);
    rig.send(0, 1, 2_000);
    let counters = rig.settled(|seen| seen.link(LINK).judged == 2_000).link(LINK);
    assert_eq!((counters.in_force, counters.delivered), (doubling, 2_000 + counters.duplicated));
    // Five standard deviations of 13 frames each.
    assert!(counters.duplicated.abs_diff(200) <= 67, "{counters:?}");
    rig.set(&[(LINK, LinkRule::default())]);
    rig.send(0, 1, 100);
    let after = rig.settled(|seen| seen.link(LINK).judged == 2_100).link(LINK);
    assert_eq!((after.in_force, after.duplicated), (LinkRule::default(), counters.duplicated));
}

#[test]
fn early_frames_overtake_those_under_way_and_keep_their_order() {
    let Some(rig) = rig_with_netem(2) else { return };
    let early =
        LinkRule { latency: Duration::from_secs(1), reorder_per_million: 200_000, ..LinkRule::default() };
    rig.set(&[(LINK, early)]);
    let socket = rig.machines[1].run(|| UdpSocket::bind((address(1), 4712)).unwrap()).unwrap();
    socket.set_read_timeout(Some(ANSWER_MAX)).unwrap();
    rig.send(0, 1, 100);
    let arrived: Vec<u32> = (0..100)
        .map(|_| {
            let mut number = [0; 4];
            assert_eq!(socket.recv(&mut number).unwrap(), 4);
            u32::from_be_bytes(number)
        })
        .collect();
    let counters = rig.settled(|seen| seen.link(LINK).delivered == 100).link(LINK);
    assert_eq!(counters.in_force, early);
    // Five standard deviations of four frames each.
    assert!(counters.early.abs_diff(20) <= 20 && counters.early > 0, "{counters:?}");
    let (overtook, waited) = arrived.split_at(usize::try_from(counters.early).unwrap());
    assert!(overtook.is_sorted() && waited.is_sorted(), "{} early: {arrived:?}", counters.early);
    assert_eq!(arrived.iter().collect::<BTreeSet<_>>().len(), 100);
}

#[test]
fn frames_leave_no_faster_than_the_rate() {
    let Some(rig) = rig_with_netem(2) else { return };
    let narrow = LinkRule { bits_per_s: Some(100_000), ..LinkRule::default() };
    rig.set(&[(LINK, narrow)]);
    let start = Instant::now();
    rig.send(0, 1, 100);
    let counters = rig.settled(|seen| seen.link(LINK).delivered == 100).link(LINK);
    let took = start.elapsed();
    assert_eq!((counters.in_force, counters.dropped_netem), (narrow, 0));
    // 46 bytes each: Ethernet's, IPv4's and UDP's headers and a number.
    assert_eq!(counters.delivered_bytes, 4_600);
    assert!(took >= Duration::from_millis(360) && took < ANSWER_MAX, "{took:?}");
}
