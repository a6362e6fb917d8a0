//! The switch over socket pairs: no privileges, no kernel network.

use std::net::UdpSocket;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use super::*;
use crate::fabric::PortCounters;
use crate::limits::PER_MILLION;
use crate::link::{Fate, Passage, PortIndex, fate};

mod unreliable;

const SEED: u64 = 11;
/// Long enough for any frame that comes at all, short enough to wait for one that must not.
const SILENCE: Duration = Duration::from_millis(60);

struct Rig {
    switch: Switch,
    machines: Vec<UnixDatagram>,
}

fn mac(port: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, port])
}

fn rig(count: u8, sabotage: Option<Sabotage>) -> Rig {
    let mut machines = Vec::new();
    let mut ports = Vec::new();
    for port in 0..count {
        let (machine, end) = UnixDatagram::pair().unwrap();
        end.set_nonblocking(true).unwrap();
        machine.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        machines.push(machine);
        ports.push(PortSpec { mac: mac(port), port: Box::new(end) });
    }
    Rig { switch: Switch::start(SEED, sabotage, ports).unwrap(), machines }
}

fn frame(to: MacAddress, from: MacAddress, mark: u32) -> Vec<u8> {
    [&to.0[..], &from.0[..], &[0x88, 0xb5], &mark.to_be_bytes()[..]].concat()
}

impl Rig {
    fn send(&self, from: u8, to: u8, mark: u32) {
        self.machines[usize::from(from)].send(&frame(mac(to), mac(from), mark)).unwrap();
    }

    fn recv(&self, at: u8) -> u32 {
        let mut bytes = [0; 64];
        let length = self.machines[usize::from(at)].recv(&mut bytes).unwrap();
        u32::from_be_bytes(bytes[length - 4..length].try_into().unwrap())
    }

    #[track_caller]
    fn expect_silence(&self, at: u8) {
        let machine = &self.machines[usize::from(at)];
        machine.set_read_timeout(Some(SILENCE)).unwrap();
        let got = machine.recv(&mut [0; 64]);
        machine.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert!(got.is_err(), "a frame came");
    }

    fn set(&self, from: u16, to: u16, rule: LinkRule) -> Snapshot {
        self.switch.handle().set_rules(vec![(LinkId::new(from, to), rule)]).unwrap()
    }

    fn counters(&self, from: u16, to: u16) -> LinkCounters {
        let counters = self.switch.handle().counters(LinkId::new(from, to)).unwrap();
        let dropped =
            counters.dropped_cut + counters.dropped_loss + counters.dropped_queue + counters.dropped_port;
        assert_eq!(counters.judged + counters.duplicated, counters.delivered + dropped + counters.in_flight);
        counters
    }

    /// Waits until the switch has judged this many frames of a link.
    fn await_judged(&self, from: u16, to: u16, count: u64) -> LinkCounters {
        let start = Instant::now();
        loop {
            let counters = self.counters(from, to);
            if counters.judged >= count {
                return counters;
            }
            assert!(start.elapsed() < Duration::from_secs(5), "{counters:?}");
            std::thread::yield_now();
        }
    }
}

fn latency(latency_ms: u64) -> LinkRule {
    LinkRule { latency: Duration::from_millis(latency_ms), ..LinkRule::default() }
}

#[test]
fn unicast_reaches_its_machine_only() {
    let rig = rig(3, None);
    rig.send(0, 1, 7);
    assert_eq!(rig.recv(1), 7);
    rig.expect_silence(2);
    assert_eq!(rig.counters(0, 1).delivered, 1);
    assert_eq!(rig.counters(0, 2), LinkCounters::default());
}

#[test]
fn broadcast_is_judged_on_every_link_of_its_own() {
    let rig = rig(4, None);
    rig.set(0, 2, LinkRule::CUT);
    rig.machines[0].send(&frame(MacAddress([255; 6]), mac(0), 9)).unwrap();
    assert_eq!(rig.recv(1), 9);
    assert_eq!(rig.recv(3), 9);
    rig.expect_silence(2);
    rig.expect_silence(0);
    assert_eq!(rig.counters(0, 2).dropped_cut, 1);
}

#[test]
fn foreign_source_unknown_destination_and_runts_are_dropped_and_counted() {
    let rig = rig(2, None);
    rig.machines[0].send(&frame(mac(1), mac(9), 1)).unwrap();
    rig.machines[0].send(&frame(mac(9), mac(0), 1)).unwrap();
    rig.machines[0].send(&frame(mac(0), mac(0), 1)).unwrap();
    rig.machines[0].send(&[1, 2, 3]).unwrap();
    rig.send(0, 1, 5);
    assert_eq!(rig.recv(1), 5);
    let want = PortCounters {
        received: 5,
        dropped_source: 1,
        dropped_unknown: 2,
        dropped_malformed: 1,
        failed: false,
    };
    assert_eq!(rig.switch.handle().snapshot().unwrap().ports[0], want);
    assert_eq!(rig.counters(0, 1).judged, 1);
}

#[test]
fn cut_is_one_way_until_it_is_made_two_way_and_heals() {
    let rig = rig(2, None);
    rig.set(0, 1, LinkRule::CUT);
    rig.send(0, 1, 1);
    rig.send(1, 0, 2);
    assert_eq!(rig.recv(0), 2);
    rig.expect_silence(1);
    let healed = rig.set(0, 1, LinkRule::default());
    assert_eq!(healed.link(LinkId::new(0, 1)).dropped_cut, 1);
    assert_eq!(healed.link(LinkId::new(0, 1)).delivered, 0);
    rig.send(0, 1, 3);
    assert_eq!(rig.recv(1), 3);
}

#[test]
fn latency_loss_and_a_one_way_cut_combine_on_one_link_and_spare_the_others() {
    const FRAMES: u32 = 200;
    let rig = rig(3, None);
    let lossy = LinkRule { loss_per_million: 500_000, ..LinkRule::default() };
    let both = LinkRule::composed(&[latency(30), lossy]);
    rig.set(0, 1, both);
    let start = Instant::now();
    for mark in 0..FRAMES {
        rig.send(0, 1, mark);
        // The way back and the way to somebody else stay perfect.
        rig.send(1, 0, mark);
        rig.send(0, 2, mark);
        assert_eq!((rig.recv(0), rig.recv(2)), (mark, mark));
    }
    let kept: Vec<u32> = (0..FRAMES)
        .filter(|n| {
            fate(&both, SEED, LinkId::new(0, 1), u64::from(*n)) == Fate::Deliver(Passage::after(both.latency))
        })
        .collect();
    assert!(!kept.is_empty() && kept.len() < FRAMES as usize, "{}", kept.len());
    let got: Vec<u32> = kept.iter().map(|_| rig.recv(1)).collect();
    assert_eq!(got, kept);
    assert!(start.elapsed() >= both.latency);
    let counters = rig.counters(0, 1);
    assert!(counters.held_mean().unwrap() >= both.latency, "{counters:?}");
    // A cut on top of it lets nothing through; when it heals, latency and loss are there as before.
    rig.set(0, 1, LinkRule::composed(&[latency(30), lossy, LinkRule::CUT]));
    rig.send(0, 1, 0);
    rig.send(1, 0, 1);
    assert_eq!(rig.recv(0), 1);
    rig.expect_silence(1);
    assert_eq!(rig.counters(0, 1).dropped_cut, 1);
    rig.set(0, 1, both);
    assert_eq!(rig.counters(0, 1).dropped_loss, u64::from(FRAMES) - kept.len() as u64);
    for (from, to) in [(1, 0), (0, 2)] {
        let spared = rig.counters(from, to);
        assert_eq!(spared.judged, spared.delivered, "{spared:?}");
        assert_eq!(spared.held_total, Duration::ZERO);
    }
}

#[test]
fn cut_takes_the_frames_in_flight() {
    let rig = rig(2, None);
    rig.set(0, 1, latency(40));
    rig.send(0, 1, 1);
    rig.send(0, 1, 2);
    assert_eq!(rig.await_judged(0, 1, 2).in_flight, 2);
    rig.set(0, 1, LinkRule::CUT);
    rig.set(0, 1, LinkRule::default());
    rig.expect_silence(1);
    assert_eq!(rig.counters(0, 1).dropped_cut, 2);
    rig.send(0, 1, 3);
    assert_eq!(rig.recv(1), 3);
}

#[test]
fn sabotaged_cut_shows_in_the_counters() {
    let rig = rig(2, Some(Sabotage::IgnoreCuts));
    rig.set(0, 1, LinkRule::CUT);
    rig.send(0, 1, 4);
    assert_eq!(rig.recv(1), 4);
    let counters = rig.counters(0, 1);
    assert_eq!((counters.judged, counters.delivered, counters.dropped_cut), (1, 1, 0));
}

#[test]
fn sabotaged_loss_and_latency_show_in_the_counters() {
    let rule = LinkRule { loss_per_million: PER_MILLION, ..latency(30) };
    let lossless = rig(2, Some(Sabotage::IgnoreLoss));
    lossless.set(0, 1, rule);
    lossless.send(0, 1, 4);
    assert_eq!(lossless.recv(1), 4);
    let counters = lossless.counters(0, 1);
    assert_eq!((counters.judged, counters.delivered, counters.dropped_loss), (1, 1, 0));
    assert!(counters.held_mean().unwrap() >= Duration::from_millis(30), "{counters:?}");

    let fast = rig(2, Some(Sabotage::IgnoreLatency));
    fast.set(0, 1, latency(30));
    fast.send(0, 1, 4);
    assert_eq!(fast.recv(1), 4);
    assert_eq!(fast.counters(0, 1).held_mean(), Some(Duration::ZERO));
    fast.set(0, 1, rule);
    fast.send(0, 1, 5);
    fast.await_judged(0, 1, 2);
    assert_eq!(fast.counters(0, 1).dropped_loss, 1);
}

#[test]
fn latency_is_never_undercut_and_order_is_kept_when_it_shrinks() {
    let rig = rig(2, None);
    rig.set(0, 1, latency(30));
    let start = Instant::now();
    rig.send(0, 1, 1);
    rig.await_judged(0, 1, 1);
    rig.set(0, 1, LinkRule::default());
    rig.send(0, 1, 2);
    assert_eq!(rig.recv(1), 1);
    assert!(start.elapsed() >= Duration::from_millis(30));
    assert_eq!(rig.recv(1), 2);
    let counters = rig.counters(0, 1);
    assert!(counters.held_mean().unwrap() >= Duration::from_millis(15), "{counters:?}");
}

#[test]
fn switch_loses_exactly_the_frames_that_the_model_says() {
    let rig = rig(2, None);
    let rule = LinkRule { loss_per_million: 300_000, ..LinkRule::default() };
    rig.set(0, 1, rule);
    let link = LinkId { from: PortIndex(0), to: PortIndex(1) };
    for n in 0..200 {
        rig.send(0, 1, n);
    }
    let expected: Vec<u32> = (0..200)
        .filter(|n| fate(&rule, SEED, link, u64::from(*n)) == Fate::Deliver(Passage::after(Duration::ZERO)))
        .collect();
    let got: Vec<u32> = expected.iter().map(|_| rig.recv(1)).collect();
    assert_eq!(got, expected);
    assert_eq!(rig.await_judged(0, 1, 200).dropped_loss, 200 - expected.len() as u64);
}

#[test]
fn loss_of_5_percent_takes_the_frames_of_the_seed_and_about_as_many_as_expected() {
    const FRAMES: u32 = 100_000;
    let rig = rig(2, None);
    let rule = LinkRule { loss_per_million: 50_000, ..LinkRule::default() };
    rig.set(0, 1, rule);
    let link = LinkId::new(0, 1);
    let marks: Vec<u32> = (0..FRAMES).collect();
    let mut lost = 0_u32;
    // As many as the queue of a socket surely holds.
    for burst in marks.chunks(8) {
        for mark in burst {
            rig.send(0, 1, *mark);
        }
        for mark in burst {
            match fate(&rule, SEED, link, u64::from(*mark)) {
                Fate::Deliver(_) => assert_eq!(rig.recv(1), *mark),
                Fate::Drop(_) => lost += 1,
            }
        }
    }
    assert_eq!(rig.await_judged(0, 1, u64::from(FRAMES)).dropped_loss, u64::from(lost));
    let (mean, sigma) = (f64::from(FRAMES) * 0.05, (f64::from(FRAMES) * 0.05 * 0.95).sqrt());
    assert!((f64::from(lost) - mean).abs() <= 5.0 * sigma, "{lost} frames lost, sigma {sigma}");
}

#[test]
fn machine_that_does_not_read_loses_frames_and_holds_up_nobody() {
    let rig = rig(3, None);
    for n in 0..2000 {
        rig.send(0, 1, n);
    }
    rig.send(0, 2, 1);
    assert_eq!(rig.recv(2), 1);
    let counters = rig.await_judged(0, 1, 2000);
    assert!(counters.dropped_port > 0, "{counters:?}");
}

#[test]
fn port_whose_machine_is_gone_does_not_end_the_switch() {
    let mut rig = rig(3, None);
    drop(rig.machines.remove(1));
    rig.machines.insert(1, UnixDatagram::unbound().unwrap());
    rig.send(0, 1, 1);
    rig.send(0, 2, 2);
    assert_eq!(rig.recv(2), 2);
    assert_eq!(rig.await_judged(0, 1, 1).dropped_port, 1);
}

/// A port whose errors are taken by somebody else before it can read them.
struct Robbed(UdpSocket);

impl AsFd for Robbed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Port for Robbed {
    fn recv(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        let _taken = self.0.take_error()?;
        Port::recv(&mut self.0, frame)
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        Port::send(&mut self.0, frame)
    }

    fn outlives_errors(&self) -> bool {
        self.0.outlives_errors()
    }
}

/// A frame to an emulator whose socket was not open came back as an error of the port, for which the switch gave the port up:
/// machines could send, and nobody heard them. With a second frame close behind, which took the error away before the switch
/// looked for it, it did so even when it passed over such errors.
#[test]
fn port_to_a_machine_that_is_not_there_yet_is_read_once_it_is() {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let (ours, theirs) = (UdpSocket::bind(any).unwrap(), UdpSocket::bind(any).unwrap());
    ours.connect(theirs.local_addr().unwrap()).unwrap();
    ours.set_nonblocking(true).unwrap();
    let (late, back) = (theirs.local_addr().unwrap(), ours.local_addr().unwrap());
    drop(theirs);
    let (machine, end) = UnixDatagram::pair().unwrap();
    end.set_nonblocking(true).unwrap();
    machine.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let ports = vec![
        PortSpec { mac: mac(0), port: Box::new(end) },
        PortSpec { mac: mac(1), port: Box::new(Robbed(ours)) },
    ];
    let rig = Rig { switch: Switch::start(SEED, None, ports).unwrap(), machines: vec![machine] };
    for mark in 1..=3 {
        rig.send(0, 1, mark);
        rig.await_judged(0, 1, u64::from(mark));
    }
    let theirs = UdpSocket::bind(late).unwrap();
    theirs.connect(back).unwrap();
    theirs.send(&frame(mac(0), mac(1), 7)).unwrap();
    assert_eq!(rig.recv(0), 7);
}

#[test]
fn rules_out_of_bounds_change_nothing() {
    let rig = rig(2, None);
    let handle = rig.switch.handle();
    let good = (LinkId::new(0, 1), LinkRule::CUT);
    let text = |rule| handle.set_rules(vec![good, rule]).unwrap_err().to_string();
    assert_eq!(text((LinkId::new(0, 2), LinkRule::CUT)), "no link from port 0 to port 2");
    assert_eq!(text((LinkId::new(1, 1), LinkRule::CUT)), "no link from port 1 to port 1");
    let loss = LinkRule { loss_per_million: 1_000_001, ..LinkRule::default() };
    assert_eq!(text((LinkId::new(1, 0), loss)), "a share of 1000001 per million, 0 to 1000000 are allowed");
    assert_eq!(text((LinkId::new(1, 0), latency(120_001))), "a delay of 120.001s, at most 120s is allowed");
    rig.send(0, 1, 1);
    assert_eq!(rig.recv(1), 1);
}

#[test]
fn doubled_and_group_addresses_are_refused() {
    let ports = |macs: [MacAddress; 2]| {
        macs.map(|mac| PortSpec { mac, port: Box::new(UnixDatagram::unbound().unwrap()) }).into()
    };
    let text = |macs| Switch::start(0, None, ports(macs)).unwrap_err().to_string();
    let doubled = "port 1 has the mac address 02:00:00:00:00:01, which is a group's or another port's";
    assert_eq!(text([mac(1), mac(1)]), doubled);
    assert!(text([MacAddress([255; 6]), mac(1)]).starts_with("port 0"));
    assert_eq!(
        Switch::start(0, None, vec![]).unwrap_err().to_string(),
        "a switch of 0 ports, 1 to 65 are allowed"
    );
}

#[test]
fn handle_of_a_stopped_switch_says_so() {
    let rig = rig(2, None);
    let handle = rig.switch.handle();
    rig.switch.stop().unwrap();
    assert!(matches!(handle.snapshot(), Err(FabricError::Stopped)));
}
