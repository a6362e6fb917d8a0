//! An address from a DHCP server, kept as long as the server lets us (RFC 2131).
//!
//! The client itself is smoltcp's. It sees frames only while it has something to say: a socket that takes every frame of
//! a busy interface for weeks would cost a node dearly.

use std::cell::Cell;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use aspen_init::config::MacAddress;
use aspen_init::limits::{DHCP_FRAME_BYTES_MAX, DHCP_LISTEN, DHCP_SLEEP_MAX};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet, SocketStorage};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::dhcpv4;
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, HardwareAddress, IpCidr, IpProtocol, Ipv4Packet,
    UdpPacket,
};

use super::super::clock::uptime;
use super::super::foreign::packet_socket;

/// What a server gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    /// The address.
    pub(super) address: Ipv4Addr,
    /// Length of its network's prefix, in bits.
    pub(super) prefix_bits: u8,
    /// The way out.
    pub(super) gateway: Option<Ipv4Addr>,
}

/// What a server decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// This is ours now, or still.
    Lease(Lease),
    /// Nothing is ours.
    Lost,
}

/// A client on one interface.
pub(super) struct Client {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    is_bound: bool,
}

impl Client {
    /// A client that has not begun.
    ///
    /// # Errors
    /// The kernel has no packet sockets.
    pub(super) fn new(interface_index: u32, mac: MacAddress) -> io::Result<Self> {
        Self::over(Box::new(move || packet_socket(interface_index)), mac, DHCP_LISTEN)
    }

    /// A client on whatever carries frames, which listens so long after each question.
    fn over(opener: Opener, mac: MacAddress, listen: Duration) -> io::Result<Self> {
        let mut wire = Wire { opener, fd: None, sent: Cell::new(uptime()), listen };
        wire.open()?;
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac.0)));
        // Its numbers tell our packets from a neighbour's that started at the same moment.
        config.random_seed = mac.0.iter().fold(super::super::clock::uptime_ms(), |seed, byte| {
            seed.wrapping_mul(0x100_0000_01b3) ^ u64::from(*byte)
        });
        let interface = Interface::new(config, &mut wire, now());
        let mut sockets = SocketSet::new(vec![SocketStorage::EMPTY]);
        let handle = sockets.add(dhcpv4::Socket::new());
        Ok(Self { wire, interface, sockets, handle, is_bound: false })
    }

    /// Waits for the next change.
    ///
    /// # Errors
    /// The interface is gone.
    pub(super) fn next(&mut self) -> io::Result<Change> {
        loop {
            self.wire.open()?;
            self.interface.poll(now(), &mut self.wire, &mut self.sockets);
            if let Some(change) = self.change() {
                return Ok(change);
            }
            let wait = self.interface.poll_delay(now(), &self.sockets);
            let most = if self.wire.is_silent() { DHCP_SLEEP_MAX } else { self.wire.listen };
            let wait = wait.map_or(most, |wait| most.min(wait.into()));
            let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
            match &self.wire.fd {
                // Until it has to be renewed there is nothing to hear.
                _ if self.is_bound && self.wire.is_silent() => {
                    self.wire.fd = None;
                    wait_for(&mut [], timeout)?;
                }
                Some(fd) => {
                    wait_for(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout)?;
                }
                None => {}
            }
        }
    }

    fn change(&mut self) -> Option<Change> {
        let event = self.sockets.get_mut::<dhcpv4::Socket<'_>>(self.handle).poll()?;
        let lease = match event {
            dhcpv4::Event::Configured(config) => Some(Lease {
                address: config.address.address(),
                prefix_bits: config.address.prefix_len(),
                gateway: config.router,
            }),
            dhcpv4::Event::Deconfigured => None,
        };
        let was_bound = std::mem::replace(&mut self.is_bound, lease.is_some());
        if lease.is_none() && !was_bound {
            // It begins by saying that it has nothing.
            return None;
        }
        // A lease is renewed from the address it is for.
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            if let Some(lease) = lease {
                // There is room for one: it was just cleared.
                let _ = addresses.push(IpCidr::new(lease.address.into(), lease.prefix_bits));
            }
        });
        let routes = self.interface.routes_mut();
        routes.remove_default_ipv4_route();
        if let Some(gateway) = lease.and_then(|lease| lease.gateway) {
            // It had room for the one that was removed.
            let _ = routes.add_default_ipv4_route(gateway);
        }
        Some(lease.map_or(Change::Lost, Change::Lease))
    }
}

/// Waits; a signal that comes meanwhile is as if nothing had come yet.
fn wait_for(fds: &mut [PollFd<'_>], timeout: PollTimeout) -> io::Result<()> {
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn now() -> Instant {
    Instant::from_micros(i64::try_from(uptime().as_micros()).unwrap_or(i64::MAX))
}

/// Opens the way to the interface: a socket that takes and sends whole frames and never blocks.
type Opener = Box<dyn Fn() -> io::Result<OwnedFd> + Send>;

/// The interface as smoltcp sees it: nothing but answers of DHCP servers and of ARP come in, since the kernel sees to
/// the rest.
struct Wire {
    opener: Opener,
    fd: Option<OwnedFd>,
    // Uptime at the last frame that was sent: an answer may come for a while.
    sent: Cell<Duration>,
    // How long that is.
    listen: Duration,
}

impl Wire {
    fn is_silent(&self) -> bool {
        uptime().saturating_sub(self.sent.get()) >= self.listen
    }

    fn open(&mut self) -> io::Result<()> {
        if self.fd.is_none() {
            self.fd = Some((self.opener)()?);
        }
        Ok(())
    }
}

/// Whether a frame is for us to read.
fn is_wanted(frame: &[u8]) -> bool {
    let Ok(frame) = EthernetFrame::new_checked(frame) else { return false };
    match frame.ethertype() {
        EthernetProtocol::Arp => frame.payload().get(7) == Some(&2),
        EthernetProtocol::Ipv4 => Ipv4Packet::new_checked(frame.payload()).is_ok_and(|packet| {
            let is_udp = packet.next_header() == IpProtocol::Udp;
            is_udp && UdpPacket::new_checked(packet.payload()).is_ok_and(|packet| packet.dst_port() == 68)
        }),
        _ => false,
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Sender<'_>)> {
        let fd = self.fd.as_ref()?;
        let mut frame = vec![0; DHCP_FRAME_BYTES_MAX];
        loop {
            // An interface that is down comes up again, or the next attempt times out.
            let count = recv(fd.as_raw_fd(), &mut frame, MsgFlags::empty()).ok()?;
            if is_wanted(&frame[..count]) {
                frame.truncate(count);
                return Some((Received(frame), Sender { fd, sent: &self.sent }));
            }
        }
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sender<'_>> {
        self.fd.as_ref().map(|fd| Sender { fd, sent: &self.sent })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = DHCP_FRAME_BYTES_MAX;
        capabilities
    }
}

struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sender<'a> {
    fd: &'a OwnedFd,
    sent: &'a Cell<Duration>,
}

impl phy::TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        // A frame that is lost here is as one that is lost on the wire: it is sent again.
        let _ = send(self.fd.as_raw_fd(), &frame, MsgFlags::empty());
        self.sent.set(uptime());
        result
    }
}

#[cfg(test)]
mod tests;
