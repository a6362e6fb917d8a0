//! What the fabrics cost: `cargo bench -p aspen-lab --bench fabric`.
//!
//! Frames a second, echo round trips without delay and over 10 ms each way, and the frames that a loss of 5 % takes of
//! 100,000, which must be exactly those that the seed says. Beside each figure is that of a plain relay between the
//! same two ports, one thread that judges nothing, measured in turns: the ratio is what the switch adds. Everything
//! runs over Unix datagram sockets, which need no privilege, and again over TAPs where this process may make them. There
//! the kernel's fabric takes its turns, too: a bridge between the same two namespaces, over veth pairs, its links whole.

#![allow(clippy::print_stdout, reason = "it prints its table")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails says where")]

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aspen_lab::causes::causes;
use aspen_lab::fabric::kernel::{KernelError, KernelFabric, PortKind};
use aspen_lab::fabric::namespace::Namespace;
use aspen_lab::fabric::switch::{PortSpec, Switch};
use aspen_lab::fabric::tap::{self, TapConfig};
use aspen_lab::fabric::{NetworkPort, NetworkPorts, Port, TapError};
use aspen_lab::limits::{FRAME_BYTES_MAX, PORT_BURST_FRAMES};
use aspen_lab::link::{DropReason, Fate, LinkId, LinkRule, fate};
use aspen_lab::plan::MacAddress;
use aspen_lab::program::ProgramLog;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const SEED: u64 = 1;
/// Measured in turns so often; the median counts.
const ROUNDS: usize = 5;
const FRAMES: u32 = 100_000;
const ECHOES: usize = 5_000;
const ECHOES_DELAYED: usize = 300;
const DELAY: Duration = Duration::from_millis(10);
/// An answer that takes longer will not come.
const SILENCE: Duration = Duration::from_secs(5);
/// Bytes of a frame on the sockets, where it is all there is, and of a datagram on TAPs.
const SMALL: usize = 64;
const LARGE: usize = 1_400;
/// Frames under way between namespaces.
const WINDOW_LARGE: u32 = 64;

/// One machine: it sends numbered frames to the other, and receives the other's.
enum Machine {
    /// Whole frames over a socket.
    Frames { socket: UnixDatagram, header: [u8; 14] },
    /// Datagrams over a TAP.
    Datagrams(UdpSocket),
}

impl Machine {
    fn send(&self, mark: u32, bytes: usize) {
        let mut frame = [0; LARGE];
        match self {
            Self::Frames { socket, header } => {
                frame[..14].copy_from_slice(header);
                frame[14..18].copy_from_slice(&mark.to_be_bytes());
                socket.send(&frame[..bytes]).unwrap();
            }
            Self::Datagrams(socket) => {
                frame[..4].copy_from_slice(&mark.to_be_bytes());
                socket.send(&frame[..bytes]).unwrap();
            }
        }
    }

    /// The next frame's number and length; none after a silence.
    fn recv(&self) -> Option<(u32, usize)> {
        let mut frame = [0; FRAME_BYTES_MAX];
        let (bytes, place) = match self {
            Self::Frames { socket, .. } => (socket.recv(&mut frame), 14),
            Self::Datagrams(socket) => (socket.recv(&mut frame), 0),
        };
        let bytes = bytes.ok()?;
        Some((u32::from_be_bytes(frame[place..place + 4].try_into().unwrap()), bytes))
    }
}

/// Two machines and the ports behind which they are.
struct Rig {
    machines: [Machine; 2],
    ports: [Box<dyn Port>; 2],
    /// Frames that may be under way and not be lost: more fill the queue of a socket.
    window: u32,
}

fn mac(port: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, port])
}

fn over_sockets() -> Rig {
    let pair = |port: u8| {
        let (socket, end) = UnixDatagram::pair().unwrap();
        end.set_nonblocking(true).unwrap();
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        let mut header = [0; 14];
        header[..6].copy_from_slice(&mac(1 - port).0);
        header[6..12].copy_from_slice(&mac(port).0);
        // For experiments (IEEE 802, local experimental EtherType 1).
        header[12..].copy_from_slice(&[0x88, 0xb5]);
        (Machine::Frames { socket, header }, Box::new(end) as Box<dyn Port>)
    };
    let [(a, port_a), (b, port_b)] = [pair(0), pair(1)];
    // The kernel queues 10 datagrams (unix(7), max_dgram_qlen).
    Rig { machines: [a, b], ports: [port_a, port_b], window: 8 }
}

/// Each machine in a network namespace of its own; the host's is not touched.
fn over_taps() -> Result<Rig, TapError> {
    let machine = |port: u8| -> Result<(Machine, Box<dyn Port>), TapError> {
        let namespace = Namespace::create()?;
        let end = tap::create(&namespace, &interface(port))?;
        Ok((datagrams::<TapError>(&namespace, port)?, Box::new(end)))
    };
    let [(a, port_a), (b, port_b)] = [machine(0)?, machine(1)?];
    Ok(Rig { machines: [a, b], ports: [port_a, port_b], window: WINDOW_LARGE })
}

/// The kernel's fabric between two namespaces, and the machines there.
fn over_bridge() -> Result<(KernelFabric, [Machine; 2]), KernelError> {
    let log = ProgramLog::open(Path::new("/dev/null")).unwrap();
    let networks = [NetworkPorts::usual([0, 1].map(|port| (mac(port), PortKind::Veth)))];
    let fabric = KernelFabric::build(SEED, None, &networks, log)?;
    let machine = |port: u8| -> Result<Machine, KernelError> {
        let namespace = Namespace::create()?;
        fabric.connect(NetworkPort::first(port.into()), &namespace, &interface(port))?;
        datagrams(&namespace, port)
    };
    let machines = [machine(0)?, machine(1)?];
    fabric.await_ports()?;
    Ok((fabric, machines))
}

fn address(port: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 1 + port)
}

fn interface(port: u8) -> TapConfig {
    TapConfig::ipv4("eth0", mac(port), address(port), [(address(1 - port), mac(1 - port))])
}

/// A machine in a namespace whose interface is up.
fn datagrams<E: From<TapError>>(namespace: &Namespace, port: u8) -> Result<Machine, E> {
    let socket = |port: u8| SocketAddrV4::new(address(port), 4_000);
    let udp = namespace.run(|| UdpSocket::bind(socket(port)).unwrap())?;
    udp.connect(socket(1 - port)).unwrap();
    udp.set_read_timeout(Some(SILENCE)).unwrap();
    Ok(Machine::Datagrams(udp))
}

/// What carries the frames. Dropping it stops it.
enum Carrier {
    Switch(Switch),
    Relay { is_stopped: Arc<AtomicBool>, thread: Option<JoinHandle<()>> },
}

impl Carrier {
    fn switch(ports: [Box<dyn Port>; 2]) -> Self {
        let specs = [0, 1].into_iter().zip(ports).map(|(index, port)| PortSpec { mac: mac(index), port });
        Self::Switch(Switch::start(SEED, None, specs.collect()).unwrap())
    }

    fn relay(ports: [Box<dyn Port>; 2]) -> Self {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stop = is_stopped.clone();
        let thread = Some(thread::spawn(move || relay(ports, &stop)));
        Self::Relay { is_stopped, thread }
    }

    /// Makes both directions alike.
    fn set(&self, rule: LinkRule) {
        let Self::Switch(switch) = self else { unreachable!("a relay has no rules") };
        switch.handle().set_rules(vec![(LinkId::new(0, 1), rule), (LinkId::new(1, 0), rule)]).unwrap();
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        if let Self::Relay { is_stopped, thread } = self {
            is_stopped.store(true, Ordering::Relaxed);
            thread.take().unwrap().join().unwrap();
        }
    }
}

/// Carries every frame to the other port.
fn relay(mut ports: [Box<dyn Port>; 2], is_stopped: &AtomicBool) {
    let mut frame = [0; FRAME_BYTES_MAX];
    while !is_stopped.load(Ordering::Relaxed) {
        let mut fds = [0, 1].map(|port: usize| PollFd::new(ports[port].as_fd(), PollFlags::POLLIN));
        poll(&mut fds, PollTimeout::from(50_u8)).unwrap();
        let ready = fds.map(|fd| fd.any().unwrap_or(false));
        for from in [0, 1].into_iter().filter(|port| ready[*port]) {
            for _ in 0..PORT_BURST_FRAMES {
                let Ok(bytes) = ports[from].recv(&mut frame) else { break };
                // Lost, as on the switch, if its machine does not read.
                let _full = ports[1 - from].send(&frame[..bytes]);
            }
        }
    }
}

/// Frames a second from the first machine to the second, none of them lost.
fn frames_per_second(machines: &[Machine; 2], window: u32, bytes: usize) -> f64 {
    let received = AtomicU32::new(0);
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            for mark in 0..FRAMES {
                assert_eq!(machines[1].recv(), Some((mark, bytes)), "a frame was lost or swapped");
                received.store(mark + 1, Ordering::Release);
            }
        });
        for mark in 0..FRAMES {
            while mark - received.load(Ordering::Acquire) >= window {
                assert!(start.elapsed() < Duration::from_mins(1), "frames do not come");
                thread::yield_now();
            }
            machines[0].send(mark, bytes);
        }
    });
    f64::from(FRAMES) / start.elapsed().as_secs_f64()
}

/// Round-trip times of small frames, one after the other, sorted.
fn echoes(machines: &[Machine; 2], count: usize) -> Vec<Duration> {
    let [here, there] = machines;
    let mut times = thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..count {
                let Some((mark, bytes)) = there.recv() else { return };
                there.send(mark, bytes);
            }
        });
        let echo = |mark: u32| {
            let start = Instant::now();
            here.send(mark, SMALL);
            assert_eq!(here.recv(), Some((mark, SMALL)), "an echo was lost");
            start.elapsed()
        };
        (0..u32::try_from(count).unwrap()).map(echo).collect::<Vec<_>>()
    });
    times.sort_unstable();
    times
}

fn percentile_us(sorted: &[Duration], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100].as_secs_f64() * 1e6
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Measures all carriers in turns, each time with new ports, and prints the medians and how many times that of the relay they are.
fn compare(name: &str, rig: impl Fn() -> Rig, has_bridge: bool, measure: impl Fn(&[Machine; 2], u32) -> f64) {
    let mut figures = [Vec::new(), Vec::new()];
    let mut bridge = Vec::new();
    for _ in 0..ROUNDS {
        for (place, carry) in [(0, Carrier::relay as fn(_) -> _), (1, Carrier::switch as fn(_) -> _)] {
            let Rig { machines, ports, window } = rig();
            let _carrier: Carrier = carry(ports);
            figures[place].push(measure(&machines, window));
        }
        if has_bridge {
            let (_fabric, machines) = over_bridge().unwrap();
            bridge.push(measure(&machines, WINDOW_LARGE));
        }
    }
    let [relay, switch] = figures.map(median);
    print!("  {name:<38}{relay:>10.0}{switch:>10.0}{:>8.2}", switch / relay);
    if has_bridge {
        let bridge = median(bridge);
        print!("{bridge:>10.0}{:>8.2}", bridge / relay);
    }
    println!();
}

/// Echoes over a delay in each direction: never faster than the delay.
fn delayed(rig: Rig) {
    let carrier = Carrier::switch(rig.ports);
    carrier.set(LinkRule { latency: DELAY, ..LinkRule::default() });
    let times = echoes(&rig.machines, ECHOES_DELAYED);
    assert!(times[0] >= 2 * DELAY, "an echo took {:?}, its delays alone are {:?}", times[0], 2 * DELAY);
    let (half, most) = (percentile_us(&times, 50), percentile_us(&times, 99));
    println!("  echo over 10 ms each way, 20 ms in all: p50 {half:.0} us, p99 {most:.0} us");
}

/// Frames that a loss of 5 % takes: those that the seed says, and about as many as one expects.
fn lossy(rig: Rig) {
    let rule = LinkRule { loss_per_million: 50_000, ..LinkRule::default() };
    let link = LinkId::new(0, 1);
    let carrier = Carrier::switch(rig.ports);
    carrier.set(rule);
    let is_lost = |mark: &u32| fate(&rule, SEED, link, u64::from(*mark)) == Fate::Drop(DropReason::Loss);
    let marks: Vec<u32> = (0..FRAMES).collect();
    let mut lost = 0;
    for burst in marks.chunks(rig.window as usize) {
        for mark in burst {
            rig.machines[0].send(*mark, SMALL);
        }
        for mark in burst.iter().filter(|mark| !is_lost(mark)) {
            assert_eq!(rig.machines[1].recv(), Some((*mark, SMALL)), "the seed says that this one comes");
        }
        lost += burst.iter().filter(|mark| is_lost(mark)).count();
    }
    let Carrier::Switch(switch) = &carrier else { unreachable!("it was made a switch") };
    assert_eq!(switch.handle().counters(link).unwrap().dropped_loss, lost as u64);
    let lost = f64::from(u32::try_from(lost).unwrap());
    let (mean, sigma) = (f64::from(FRAMES) * 0.05, (f64::from(FRAMES) * 0.05 * 0.95).sqrt());
    let sigmas = (lost - mean) / sigma;
    assert!(sigmas.abs() <= 5.0, "{lost} frames were lost, {sigmas} sigma from {mean}");
    println!(
        "  5 % loss: {lost} of {FRAMES} frames lost, each as seed {SEED} says, {sigmas:+.2} sigma from {mean}"
    );
}

fn measure(rig: impl Fn() -> Rig, has_bridge: bool) {
    print!("  {:<38}{:>10}{:>10}{:>8}", "", "relay", "switch", "ratio");
    println!("{}", if has_bridge { "    kernel   ratio" } else { "" });
    let window = rig().window;
    for bytes in [SMALL, LARGE] {
        let name = format!("frames/s, {bytes} B, {window} under way");
        compare(&name, &rig, has_bridge, |machines, window| frames_per_second(machines, window, bytes));
    }
    for percent in [50, 99] {
        let name = format!("echo without delay, p{percent}, us");
        compare(&name, &rig, has_bridge, |machines, _| percentile_us(&echoes(machines, ECHOES), percent));
    }
    delayed(rig());
    lossy(rig());
}

fn main() {
    println!("over Unix datagram sockets (no privilege), medians of {ROUNDS}:");
    measure(over_sockets, false);
    match over_taps() {
        Ok(_) => {
            println!("over TAPs, each in a network namespace, medians of {ROUNDS}:");
            let bridge = over_bridge();
            if let Err(error) = &bridge {
                println!("SKIPPED: the kernel's fabric, which cannot be had here: {}", causes(error));
            }
            measure(|| over_taps().unwrap(), bridge.is_ok());
        }
        Err(error) => println!("SKIPPED: over TAPs, which this process may not make: {}", causes(&error)),
    }
}
