//! Numbered datagrams from machine to machine, with the time at which each was sent and heard.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::FabricCheckError;
use super::cases::MACHINES;
use crate::fabric::namespace::Namespace;
use crate::fabric::tap::TapConfig;
use crate::limits::fabric::{CHECK_LOOK_INTERVAL, CHECK_SETTLE_MAX, CHECK_SILENCE};
use crate::link::LinkId;
use crate::plan::MacAddress;

/// The UDP port on which every machine listens.
const PORT: u16 = 9_000;

/// Datagrams over one link, one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow {
    pub(super) link: LinkId,
    pub(super) count: u32,
    pub(super) spacing: Duration,
    pub(super) bytes: usize,
}

/// A datagram that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    /// Its number, from 0.
    pub(super) number: u32,
    /// From its sending to its hearing.
    pub(super) delay: Duration,
    /// When it was heard, after the first was sent.
    pub(super) at: Duration,
}

/// What a datagram says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    sender: u16,
    number: u32,
    sent_ns: u64,
}

const HEAD_BYTES: usize = 14;

impl Head {
    fn write(self, bytes: &mut [u8]) {
        bytes[..2].copy_from_slice(&self.sender.to_be_bytes());
        bytes[2..6].copy_from_slice(&self.number.to_be_bytes());
        bytes[6..HEAD_BYTES].copy_from_slice(&self.sent_ns.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let part = |from: usize, to: usize| bytes.get(from..to);
        Some(Self {
            sender: u16::from_be_bytes(part(0, 2)?.try_into().ok()?),
            number: u32::from_be_bytes(part(2, 6)?.try_into().ok()?),
            sent_ns: u64::from_be_bytes(part(6, HEAD_BYTES)?.try_into().ok()?),
        })
    }
}

pub(super) fn mac(port: u16) -> MacAddress {
    let [high, low] = port.to_be_bytes();
    MacAddress([2, 0, 0, 0xfc, high, low])
}

fn address(port: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 252, 0, 1)) + u32::from(port))
}

/// The interface of one machine.
pub(super) fn interface(port: u16) -> TapConfig {
    let others = (0..MACHINES).filter(|other| *other != port);
    TapConfig::ipv4("eth0", mac(port), address(port), others.map(|other| (address(other), mac(other))))
}

/// The sockets of all machines, each in its namespace.
pub(super) struct Sockets {
    sockets: Vec<UdpSocket>,
}

impl Sockets {
    pub(super) fn open(machines: &[Namespace]) -> Result<Self, FabricCheckError> {
        let failed = |source| FabricCheckError::Io { doing: "opening a socket in a machine", source };
        let open = |(port, machine): (u16, &Namespace)| -> Result<UdpSocket, FabricCheckError> {
            let socket = machine.run(|| UdpSocket::bind((address(port), PORT)))?.map_err(failed)?;
            socket.set_read_timeout(Some(CHECK_LOOK_INTERVAL)).map_err(failed)?;
            Ok(socket)
        };
        let sockets = (0..).zip(machines).map(open).collect::<Result<_, _>>()?;
        Ok(Self { sockets })
    }

    /// Sends all flows at the same time, waits until `is_seen` says that the fabric has seen them, and then until nothing arrives
    /// any more for `patience` and then some; what was heard of each flow, in the order of hearing.
    pub(super) fn exchange(
        &self,
        flows: &[Flow],
        patience: Duration,
        mut is_seen: impl FnMut() -> Result<bool, FabricCheckError>,
    ) -> Result<Vec<Vec<Arrival>>, FabricCheckError> {
        let failed = |doing| move |source| FabricCheckError::Io { doing, source };
        let origin = Instant::now();
        let is_over = AtomicBool::new(false);
        let heard = thread::scope(|scope| {
            let receivers: Vec<_> = (0..)
                .zip(&self.sockets)
                .map(|(port, socket): (u16, _)| {
                    let is_over = &is_over;
                    scope.spawn(move || listen(socket, port, flows, origin, is_over, patience))
                })
                .collect();
            let senders: Vec<_> = flows
                .iter()
                .map(|flow| {
                    let socket = &self.sockets[usize::from(flow.link.from.0)];
                    scope.spawn(move || send(socket, flow, origin))
                })
                .collect();
            let sent: io::Result<()> = senders.into_iter().try_for_each(|sender| joined(sender.join()));
            let sent = sent.map_err(failed("sending a datagram"));
            let settled = sent.and_then(|()| {
                let start = Instant::now();
                while !is_seen()? && start.elapsed() < CHECK_SETTLE_MAX {
                    thread::sleep(CHECK_LOOK_INTERVAL);
                }
                Ok(())
            });
            is_over.store(true, Ordering::Relaxed);
            let heard: io::Result<Vec<_>> =
                receivers.into_iter().map(|receiver| joined(receiver.join())).collect();
            settled.and(heard.map_err(failed("receiving datagrams")))
        })?;
        // Each machine has heard what was sent to it.
        let of_flow = |(number, flow): (usize, &Flow)| heard[usize::from(flow.link.to.0)][number].clone();
        Ok(flows.iter().enumerate().map(of_flow).collect())
    }
}

fn joined<T>(ended: thread::Result<T>) -> T {
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("a check takes minutes")
}

fn send(socket: &UdpSocket, flow: &Flow, origin: Instant) -> io::Result<()> {
    let mut bytes = vec![0; flow.bytes.max(HEAD_BYTES)];
    let to = SocketAddr::from((address(flow.link.to.0), PORT));
    let began = origin.elapsed();
    for number in 0..flow.count {
        thread::sleep((began + flow.spacing * number).saturating_sub(origin.elapsed()));
        let head = Head { sender: flow.link.from.0, number, sent_ns: nanos(origin.elapsed()) };
        head.write(&mut bytes);
        socket.send_to(&bytes, to)?;
    }
    Ok(())
}

/// Hears what is sent to one machine: for each flow what arrived of it.
fn listen(
    socket: &UdpSocket,
    port: u16,
    flows: &[Flow],
    origin: Instant,
    is_over: &AtomicBool,
    patience: Duration,
) -> io::Result<Vec<Vec<Arrival>>> {
    let mut arrivals = vec![Vec::new(); flows.len()];
    let mut bytes = [0; 2_048];
    let mut last = None;
    loop {
        match socket.recv(&mut bytes) {
            Ok(length) => {
                let at = origin.elapsed();
                let Some(head) = Head::read(&bytes[..length]) else { continue };
                let is_it = |flow: &Flow| flow.link.from.0 == head.sender && flow.link.to.0 == port;
                let Some(number) = flows.iter().position(is_it) else { continue };
                let delay = at.saturating_sub(Duration::from_nanos(head.sent_ns));
                arrivals[number].push(Arrival { number: head.number, delay, at });
                last = None;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if is_over.load(Ordering::Relaxed) {
                    let silent_since = *last.get_or_insert_with(Instant::now);
                    if silent_since.elapsed() > patience + CHECK_SILENCE {
                        return Ok(arrivals);
                    }
                }
            }
            // An answer to something that nobody took.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_is_read_as_it_was_written() {
        let head = Head { sender: 2, number: 77, sent_ns: u64::MAX - 1 };
        let mut bytes = [0; 20];
        head.write(&mut bytes);
        assert_eq!(Head::read(&bytes), Some(head));
        assert_eq!(Head::read(&bytes[..HEAD_BYTES - 1]), None);
    }
}
