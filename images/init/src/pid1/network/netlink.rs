//! Links, addresses, neighbours and routes, by netlink: one request, one answer.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use aspen_init::config::MacAddress;
use aspen_init::limits::NETLINK_WAIT_MAX;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily as Family, RouteNetlinkMessage};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendmsg, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

/// What the way to the first interface's gateway costs, of which the cheapest is taken: the kernel's own for IPv6
/// (`IP6_RT_PRIO_USER`).
const GATEWAY_METRIC: u32 = 1024;

/// A connection to the kernel's routing tables (rtnetlink(7)).
#[derive(Debug)]
pub(super) struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens one.
    ///
    /// # Errors
    /// The kernel has no network.
    pub(super) fn open() -> io::Result<Self> {
        let protocol = SockProtocol::NetlinkRoute;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let seconds = i64::try_from(NETLINK_WAIT_MAX.as_secs()).map_err(io::Error::other)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(seconds, 0))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn set_up(&mut self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Sets the longest packet of an interface, in bytes.
    ///
    /// # Errors
    /// The kernel's, such as `EINVAL` for what its card does not carry.
    pub(super) fn set_mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::Mtu(mtu));
        self.request(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Adds an address, or does nothing when it is there. An IPv6 address can be used at once: the network is closed, and
    /// its addresses are given out by whoever made it.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn add_address(&mut self, index: u32, address: IpAddr, prefix_bits: u8) -> io::Result<()> {
        let message = address_message(index, address, prefix_bits);
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes an address.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn remove_address(&mut self, index: u32, address: IpAddr, prefix_bits: u8) -> io::Result<()> {
        let message = address_message(index, address, prefix_bits);
        self.request(RouteNetlinkMessage::DelAddress(message), 0)
    }

    /// Adds a neighbour that is never asked for.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn add_neighbour(&mut self, index: u32, address: IpAddr, mac: MacAddress) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        let destination = match address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        };
        message.attributes.push(NeighbourAttribute::Destination(destination));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        self.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Sends what has no other way to this gateway; of several, to that of the interface with the lowest rank.
    ///
    /// # Errors
    /// The kernel's, such as `ENETUNREACH` when no address of ours is in the gateway's network.
    pub(super) fn set_gateway(&mut self, index: u32, rank: u32, gateway: IpAddr) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(gateway);
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
        message.attributes.push(RouteAttribute::Oif(index));
        message.attributes.push(RouteAttribute::Priority(GATEWAY_METRIC + rank));
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let kernel = NetlinkAddr::new(0, 0);
        let sent =
            sendmsg(self.fd.as_raw_fd(), &[IoSlice::new(&bytes)], &[], MsgFlags::empty(), Some(&kernel))?;
        assert_eq!(sent, bytes.len(), "netlink takes a message whole");
        let mut answer = [0; 4096];
        loop {
            let count = recv(self.fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            if let Some(result) = acknowledged(&answer[..count], self.sequence) {
                return result;
            }
        }
    }
}

/// What an answer says, if it belongs to this request: length u32, type u16, flags u16, sequence u32, port u32, and the
/// negative error number (`struct nlmsgerr`, netlink(7)).
fn acknowledged(answer: &[u8], sequence: u32) -> Option<io::Result<()>> {
    const ERROR: u16 = 2;
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let of = u32::from_ne_bytes(answer.get(8..12)?.try_into().ok()?);
    let errno = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    let is_it = kind == ERROR && of == sequence;
    is_it.then(|| if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-errno)) })
}

fn address_message(index: u32, address: IpAddr, prefix_bits: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix_bits;
    message.header.index = index;
    if address.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    message
}

fn family(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::Inet } else { Family::Inet6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: u16, sequence: u32, errno: i32, want: Option<Result<(), i32>>) {
        let mut bytes = 20_u32.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0, 0]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(errno.to_ne_bytes());
        let got = acknowledged(&bytes, 7);
        let got = got.map(|result| result.map_err(|error| error.raw_os_error().unwrap()));
        assert_eq!(got, want);
    }

    #[test]
    fn answer_is_taken_by_its_number() {
        check(2, 7, 0, Some(Ok(())));
        check(2, 7, -17, Some(Err(17)));
        check(2, 6, 0, None);
        check(16, 7, 0, None);
        assert!(acknowledged(&[0; 8], 7).is_none());
    }
}
