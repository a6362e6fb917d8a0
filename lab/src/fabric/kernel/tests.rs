//! A bridge, its ports and its rules, in real namespaces. They need root (or the capabilities `CAP_SYS_ADMIN` and
//! `CAP_NET_ADMIN`) and nft, and make everything in namespaces of their own. What needs netem says so.

mod unreliable;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::Instant;

use super::*;
use crate::fabric::FabricError;
use crate::host;
use crate::limits::{MTU_BYTES, POLL_INTERVAL};
use crate::link::PortIndex;
use crate::machine::ProbeError;
use crate::machine::probe::probe;

const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Shorter than the first repetition of a SYN.
const SILENCE: Duration = Duration::from_millis(400);
const LINK: LinkId = LinkId { from: PortIndex(0), to: PortIndex(1) };

struct Rig {
    fabric: KernelFabric,
    machines: Vec<Namespace>,
}

fn mac(port: u16) -> MacAddress {
    MacAddress([2, 0, 0, 0, 2, u8::try_from(port).unwrap()])
}

fn address(port: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 98, 0, u8::try_from(port).unwrap() + 1)
}

fn interface(port: u16, count: u16) -> TapConfig {
    let others = (0..count).filter(|other| *other != port);
    TapConfig::ipv4("eth0", mac(port), address(port), others.map(|other| (address(other), mac(other))))
}

/// A fabric of one network with these ports, or `None` where the host does not allow it.
#[track_caller]
fn build(
    sabotage: Option<Sabotage>,
    ports: impl IntoIterator<Item = (MacAddress, PortKind)>,
) -> Option<KernelFabric> {
    build_all(sabotage, &[NetworkPorts::usual(ports)])
}

#[track_caller]
fn build_all(sabotage: Option<Sabotage>, networks: &[NetworkPorts]) -> Option<KernelFabric> {
    let log = ProgramLog::open(Path::new("/dev/null")).unwrap();
    match KernelFabric::build(5, sabotage, networks, log) {
        Ok(fabric) => Some(fabric),
        Err(error) => {
            host::lacks("bridge", &format!("bridge with nftables: {}", crate::causes::causes(&error)));
            None
        }
    }
}

/// So many machines on a fabric, or `None` where the host does not allow it.
fn rig(count: u16, sabotage: Option<Sabotage>) -> Option<Rig> {
    let fabric = build(sabotage, (0..count).map(|port| (mac(port), PortKind::Veth)))?;
    let machine = |port: u16| {
        let namespace = Namespace::create().unwrap();
        fabric.connect(NetworkPort::first(port), &namespace, &interface(port, count)).unwrap();
        namespace
    };
    let machines = (0..count).map(machine).collect();
    fabric.await_ports().unwrap();
    Some(Rig { fabric, machines })
}

impl Rig {
    fn probe(&self, from: usize, to: u16, timeout: Duration) -> Result<Duration, ProbeError> {
        probe(&self.machines[from], SocketAddr::from((address(to), 4711)), timeout)
    }

    #[track_caller]
    fn expect_silence(&self, from: usize, to: u16) {
        let outcome = self.probe(from, to, SILENCE);
        assert!(matches!(outcome, Err(ProbeError::Unanswered(_))), "{outcome:?}");
    }

    fn set(&self, rules: &[(LinkId, LinkRule)]) -> KernelSnapshot {
        self.fabric.set_rules(rules).unwrap()
    }

    fn set_both(&self, rule: LinkRule) -> KernelSnapshot {
        self.set(&[(LINK, rule), (LINK.reversed(), rule)])
    }

    fn counters(&self, link: LinkId) -> KernelCounters {
        self.fabric.snapshot().unwrap().link(link)
    }

    /// The counters when they are so: a frame that was sent may still be on its way through the kernel.
    #[track_caller]
    fn settled(&self, is_so: impl Fn(&KernelSnapshot) -> bool) -> KernelSnapshot {
        let start = Instant::now();
        loop {
            let seen = self.fabric.snapshot().unwrap();
            if is_so(&seen) {
                return seen;
            }
            assert!(start.elapsed() < ANSWER_MAX, "{seen:?}");
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Sends numbered datagrams from one machine to another.
    fn send(&self, from: usize, to: u16, count: u32) {
        let to = SocketAddr::from((address(to), 4712));
        let sent = self.machines[from].run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            (0..count).all(|number| socket.send_to(&number.to_be_bytes(), to).is_ok())
        });
        assert!(sent.unwrap());
    }
}

#[test]
fn probe_is_answered_over_the_bridge_and_not_over_a_cut() {
    let Some(rig) = rig(2, None) else { return };
    let rtt = rig.probe(0, 1, ANSWER_MAX).unwrap();
    assert!(rtt < Duration::from_millis(500), "{rtt:?}");
    let before = rig.fabric.snapshot().unwrap();
    for direction in [LINK, LINK.reversed()] {
        let counters = before.link(direction);
        assert_eq!((counters.judged, counters.delivered), (1, 1), "one SYN or one RST, and nothing else");
    }
    assert_eq!(before.unclassified, 0);

    let cut = rig.set_both(LinkRule::CUT);
    rig.expect_silence(0, 1);
    rig.expect_silence(1, 0);
    let during = rig.fabric.snapshot().unwrap();
    for direction in [LINK, LINK.reversed()] {
        let (before, during) = (cut.link(direction), during.link(direction));
        assert!(during.in_force.cut);
        assert!(during.dropped_cut > before.dropped_cut, "{during:?}");
        assert_eq!(during.judged - before.judged, during.dropped_cut - before.dropped_cut);
        assert_eq!(during.delivered, before.delivered);
    }
    let healed = rig.set_both(LinkRule::default());
    assert_eq!(healed.link(LINK).delivered, cut.link(LINK).delivered, "read before the heal");
    assert!(!healed.link(LINK).in_force.cut);
    rig.probe(0, 1, ANSWER_MAX).unwrap();
    rig.probe(1, 0, ANSWER_MAX).unwrap();
    let after = rig.counters(LINK);
    assert_eq!(after.dropped_cut, healed.link(LINK).dropped_cut, "what was swallowed stays in the books");
    assert_eq!(after.judged, after.delivered + after.dropped_cut);
}

#[test]
fn one_way_cut_stops_one_direction_and_no_other_link() {
    let Some(rig) = rig(3, None) else { return };
    let cut = rig.set(&[(LINK, LinkRule::CUT)]);
    // The SYN of 1 arrives and its RST is lost; the SYN of 0 is lost.
    rig.expect_silence(1, 0);
    rig.expect_silence(0, 1);
    let after = rig.fabric.snapshot().unwrap();
    assert_eq!(after.link(LINK).delivered, cut.link(LINK).delivered);
    assert!(after.link(LINK).dropped_cut >= 2);
    assert!(after.link(LINK.reversed()).delivered > 0);
    assert_eq!(after.link(LINK.reversed()).dropped_cut, 0);
    rig.probe(0, 2, ANSWER_MAX).unwrap();
    rig.probe(2, 1, ANSWER_MAX).unwrap();
}

/// A frame to a group has no receiver's address: a cut that went by that would let it through.
#[test]
fn cut_stops_frames_to_everybody_on_its_link_only() {
    let Some(rig) = rig(3, None) else { return };
    let broadcast = || {
        let sent = rig.machines[0].run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.send_to(b"everybody", (Ipv4Addr::new(10, 98, 0, 255), 4712)).unwrap()
        });
        assert_eq!(sent.unwrap(), 9);
    };
    let other = LinkId::new(0, 2);
    broadcast();
    rig.settled(|seen| (seen.link(LINK).delivered, seen.link(other).delivered) == (1, 1));
    rig.set(&[(LINK, LinkRule::CUT)]);
    broadcast();
    let after = rig.settled(|seen| seen.link(LINK).judged + seen.link(other).judged == 4);
    assert_eq!((after.link(LINK).delivered, after.link(LINK).dropped_cut), (1, 1));
    assert_eq!((after.link(other).delivered, after.link(other).dropped_cut), (2, 0));
    assert_eq!(after.unclassified, 0);
}

#[test]
fn frames_from_a_strangers_address_go_nowhere() {
    let Some(rig) = rig(3, None) else { return };
    // Another machine's address, from a port that is not that machine's.
    let namespace = Namespace::create().unwrap();
    let log = ProgramLog::open(Path::new("/dev/null")).unwrap();
    let ports = [(mac(0), PortKind::Veth), (mac(1), PortKind::Veth)];
    let fabric = KernelFabric::build(5, None, &[NetworkPorts::usual(ports)], log).unwrap();
    let stranger = TapConfig { mac: mac(9), ..interface(0, 2) };
    fabric.connect(NetworkPort::first(0), &namespace, &stranger).unwrap();
    fabric
        .connect(
            NetworkPort::first(1),
            &rig.machines[2],
            &TapConfig { name: "eth1".to_owned(), ..interface(1, 2) },
        )
        .unwrap();
    fabric.await_ports().unwrap();
    let outcome = probe(&namespace, SocketAddr::from((address(1), 4711)), SILENCE);
    assert!(matches!(outcome, Err(ProbeError::Unanswered(_))), "{outcome:?}");
    assert_eq!(fabric.snapshot().unwrap().link(LINK), KernelCounters::default());
}

/// Each network is a bridge of its own, and only the first has links that are cut and counted.
#[test]
fn networks_of_one_fabric_know_nothing_of_each_other() {
    let ports = |first: u16| NetworkPorts::usual((first..first + 2).map(|port| (mac(port), PortKind::Veth)));
    let Some(fabric) = build_all(None, &[ports(0), ports(2)]) else { return };
    let machines = [0, 1].map(|_| Namespace::create().unwrap());
    let address_in = |network: u8, port: u8| Ipv4Addr::new(10, 98, network, port + 1);
    for (port, machine) in (0_u8..).zip(&machines) {
        for network in [0_u8, 1] {
            let mac_of = |port: u8| mac(u16::from(network * 2 + port));
            let neighbour = (address_in(network, 1 - port), mac_of(1 - port));
            let name = format!("eth{network}");
            let config = TapConfig::ipv4(&name, mac_of(port), address_in(network, port), [neighbour]);
            let at = NetworkPort { network: network.into(), port: PortIndex(port.into()) };
            fabric.connect(at, machine, &config).unwrap();
        }
    }
    fabric.await_ports().unwrap();
    let answers =
        |network: u8| probe(&machines[0], SocketAddr::from((address_in(network, 1), 4711)), SILENCE).is_ok();
    assert!(answers(0) && answers(1));
    fabric.set_rules(&[(LINK, LinkRule::CUT)]).unwrap();
    let before = fabric.snapshot().unwrap();
    assert!(!answers(0) && answers(1));
    let after = fabric.snapshot().unwrap();
    assert!(after.link(LINK).dropped_cut > before.link(LINK).dropped_cut);
    assert_eq!(
        after.link(LINK).delivered,
        before.link(LINK).delivered,
        "the other network's are not counted"
    );
    assert_eq!(after.unclassified, 0);
}

#[test]
fn no_frame_is_longer_than_a_cable_carries() {
    let Some(rig) = rig(2, None) else { return };
    let bytes = 1 << 20;
    let listener = rig.machines[1].run(|| TcpListener::bind((address(1), 4713)).unwrap()).unwrap();
    let receiver = thread::spawn(move || {
        let mut received = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
        received.len()
    });
    rig.machines[0]
        .run(|| TcpStream::connect((address(1), 4713)).unwrap().write_all(&vec![7; bytes]).unwrap())
        .unwrap();
    assert_eq!(receiver.join().unwrap(), bytes);
    let counters = rig.counters(LINK);
    let payload_max = u64::from(MTU_BYTES) - 40;
    assert!(counters.delivered >= bytes as u64 / payload_max, "{counters:?}");
    assert!(counters.delivered_bytes <= counters.delivered * (u64::from(MTU_BYTES) + 14), "{counters:?}");
}

#[test]
fn sabotaged_cut_is_seen_by_probe_and_counters() {
    let Some(rig) = rig(2, Some(Sabotage::IgnoreCuts)) else { return };
    let cut = rig.set_both(LinkRule::CUT);
    rig.probe(0, 1, ANSWER_MAX).unwrap();
    let counters = rig.counters(LINK);
    assert_eq!((counters.delivered, counters.dropped_cut), (cut.link(LINK).delivered + 1, 0));
    assert!(!counters.in_force.cut);
}

#[test]
fn rules_that_cannot_be_had_change_nothing() {
    #[track_caller]
    fn check(rig: &Rig, link: LinkId, rule: LinkRule, want: &str) {
        let refused = rig.fabric.set_rules(&[(LINK, LinkRule::CUT), (link, rule)]).unwrap_err();
        assert!(refused.to_string().contains(want), "{refused}");
        assert!(!rig.counters(LINK).in_force.cut);
    }
    let Some(rig) = rig(2, None) else { return };
    check(&rig, LinkId::new(0, 2), LinkRule::default(), "no link from port 0 to port 2");
    let jitter =
        LinkRule { latency: Duration::from_secs(5), jitter: Duration::from_secs(3), ..LinkRule::default() };
    check(
        &rig,
        LINK,
        jitter,
        "a jitter of 3s, and netem draws at most 2.147483647s: make it smaller, or take --fabric switch",
    );
    let slow = LinkRule { latency: Duration::from_millis(20), ..LinkRule::default() };
    if !rig.fabric.has_netem {
        check(
            &rig,
            LINK,
            slow,
            "this host has no netem (CONFIG_NET_SCH_NETEM); links cannot be slow or lossy without it",
        );
        let refused = rig.fabric.require([LinkRule::CUT, slow]).unwrap_err();
        assert!(refused.is_refused());
        rig.fabric.require([LinkRule::CUT, LinkRule::default()]).unwrap();
    }
}

#[test]
fn tap_port_carries_the_frames_of_a_hypervisor() {
    let Some(fabric) = build(None, [(mac(0), PortKind::Veth), (mac(1), PortKind::Tap)]) else { return };
    let machine = Namespace::create().unwrap();
    fabric.connect(NetworkPort::first(0), &machine, &interface(0, 2)).unwrap();
    fabric.await_ports().unwrap();
    let (descriptor, _namespace) = fabric.tap(NetworkPort::first(1)).unwrap().connect().unwrap();
    let mut hypervisor = File::from(descriptor.try_clone().unwrap());
    let to = SocketAddr::from((address(1), 4712));
    let socket = machine.run(|| UdpSocket::bind((address(0), 4712)).unwrap()).unwrap();
    socket.set_read_timeout(Some(ANSWER_MAX)).unwrap();
    socket.send_to(b"hello", to).unwrap();
    let start = Instant::now();
    let mut bytes = [0; 2_000];
    let count = loop {
        match hypervisor.read(&mut bytes) {
            Ok(count) => break count,
            Err(error) => assert!(start.elapsed() < ANSWER_MAX, "{error}"),
        }
        thread::sleep(POLL_INTERVAL);
    };
    // A header of ten bytes stands before each frame (virtio 1.2, 5.1.6).
    let frame = &mut bytes[10..count];
    assert_eq!((&frame[..6], &frame[6..12]), (mac(1).0.as_slice(), mac(0).0.as_slice()));
    assert!(frame.ends_with(b"hello"));
    // The answer: the same datagram with its addresses and ports swapped, whose checksums are the same.
    for (first, second, length) in [(0, 6, 6), (26, 30, 4), (34, 36, 2)] {
        let (left, right) = frame.split_at_mut(second);
        left[first..first + length].swap_with_slice(&mut right[..length]);
    }
    hypervisor.write_all(&bytes[..count]).unwrap();
    let mut answer = [0; 100];
    assert_eq!(socket.recv(&mut answer).unwrap(), 5);
    assert_eq!(fabric.snapshot().unwrap().link(LINK.reversed()).delivered, 1);
}

#[test]
fn what_a_host_lacks_is_told_with_what_to_do() {
    let lacks = |part: Part| part.lacking(io::Error::from(Errno::ENOENT)).to_string();
    assert_eq!(
        lacks(Part::Netem),
        "this host has no netem (CONFIG_NET_SCH_NETEM); links cannot be slow or lossy without it: load it (`sudo modprobe \
         sch_netem`), run the command in `lab rig`, or take --fabric switch"
    );
    assert_eq!(
        lacks(Part::Nft),
        "this host has no program nft; get it (`sudo apt-get install nftables`), or take --fabric switch"
    );
    let unknown =
        TapError::Netlink { doing: "adding an htb", name: "port0".to_owned(), source: Errno::ENOENT.into() };
    assert!(Part::Htb.refused(unknown).is_refused());
    let forbidden =
        TapError::Netlink { doing: "adding an htb", name: "port0".to_owned(), source: Errno::EPERM.into() };
    let forbidden = Part::Htb.refused(forbidden);
    assert_eq!(
        (forbidden.is_refused(), forbidden.to_string().as_str()),
        (false, "adding an htb of interface port0")
    );
    let _: FabricError = forbidden.into();
}
