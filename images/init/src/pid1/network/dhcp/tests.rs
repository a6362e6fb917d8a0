//! A client at one end of a wire, and a server at the other.

use std::os::unix::net::UnixDatagram;
use std::thread;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetRepr, IpAddress,
    Ipv4Repr, UdpRepr,
};

use super::*;

const OURS: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const GIVEN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 77);

/// A frame of a server to a client.
fn frame(dhcp: &DhcpRepr<'_>) -> Vec<u8> {
    let checksums = ChecksumCapabilities::default();
    let udp = UdpRepr { src_port: 67, dst_port: 68 };
    let payload_len = udp.header_len() + dhcp.buffer_len();
    let ip = Ipv4Repr {
        src_addr: SERVER,
        dst_addr: GIVEN,
        next_header: IpProtocol::Udp,
        payload_len,
        hop_limit: 64,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress([2, 0, 0, 0, 0, 9]),
        dst_addr: EthernetAddress(OURS.0),
        ethertype: EthernetProtocol::Ipv4,
    };
    let mut bytes = vec![0; ethernet.buffer_len() + ip.buffer_len() + payload_len];
    let mut frame = EthernetFrame::new_unchecked(bytes.as_mut_slice());
    ethernet.emit(&mut frame);
    let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut packet, &checksums);
    let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
    let ends: [IpAddress; 2] = [SERVER.into(), GIVEN.into()];
    let emit = |payload: &mut [u8]| dhcp.emit(&mut DhcpPacket::new_unchecked(payload)).unwrap();
    udp.emit(&mut datagram, &ends[0], &ends[1], dhcp.buffer_len(), emit, &checksums);
    bytes
}

/// A server at the other end of a wire.
struct Server {
    wire: UnixDatagram,
    lease_s: u32,
}

impl Server {
    /// Answers so many questions of a client, with this gateway, and returns what kinds of questions they were.
    fn serve(&self, questions: usize, gateway: Ipv4Addr) -> Vec<DhcpMessageType> {
        let mut asked = Vec::new();
        while asked.len() < questions {
            let (kind, bytes) = self.next(gateway);
            asked.push(kind);
            // Other traffic comes first, and is none of the client's business.
            self.wire.send(&[0xff; 60]).unwrap();
            self.wire.send(&bytes).unwrap();
        }
        asked
    }

    /// The next question, and the answer to it.
    fn next(&self, gateway: Ipv4Addr) -> (DhcpMessageType, Vec<u8>) {
        let mut bytes = [0; DHCP_FRAME_BYTES_MAX];
        self.wire.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        loop {
            let count = self.wire.recv(&mut bytes).unwrap();
            let ethernet = EthernetFrame::new_checked(&bytes[..count]).unwrap();
            if ethernet.ethertype() == EthernetProtocol::Arp {
                self.resolve(ethernet.payload());
                continue;
            }
            let Ok(ip) = Ipv4Packet::new_checked(ethernet.payload()) else { continue };
            let Ok(udp) = UdpPacket::new_checked(ip.payload()) else { continue };
            let packet = DhcpPacket::new_checked(udp.payload()).unwrap();
            let mut dhcp = DhcpRepr::parse(&packet).unwrap();
            let kind = dhcp.message_type;
            dhcp.message_type = match kind {
                DhcpMessageType::Discover => DhcpMessageType::Offer,
                _ => DhcpMessageType::Ack,
            };
            (dhcp.your_ip, dhcp.server_ip) = (GIVEN, SERVER);
            (dhcp.router, dhcp.subnet_mask) = (Some(gateway), Some(Ipv4Addr::new(255, 255, 0, 0)));
            (dhcp.server_identifier, dhcp.lease_duration) = (Some(SERVER), Some(self.lease_s));
            (dhcp.requested_ip, dhcp.client_identifier, dhcp.parameter_request_list) = (None, None, None);
            (dhcp.max_size, dhcp.additional_options) = (None, &[]);
            return (kind, frame(&dhcp));
        }
    }

    /// Says where the server is: it is asked for by name once a lease is to be renewed.
    fn resolve(&self, question: &[u8]) {
        let question = ArpRepr::parse(&ArpPacket::new_checked(question).unwrap()).unwrap();
        let ArpRepr::EthernetIpv4 { source_hardware_addr, source_protocol_addr, .. } = question else {
            return;
        };
        let answer = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: EthernetAddress([2, 0, 0, 0, 0, 9]),
            source_protocol_addr: SERVER,
            target_hardware_addr: source_hardware_addr,
            target_protocol_addr: source_protocol_addr,
        };
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress([2, 0, 0, 0, 0, 9]),
            dst_addr: source_hardware_addr,
            ethertype: EthernetProtocol::Arp,
        };
        let mut bytes = vec![0; ethernet.buffer_len() + answer.buffer_len()];
        let mut frame = EthernetFrame::new_unchecked(bytes.as_mut_slice());
        ethernet.emit(&mut frame);
        answer.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
        self.wire.send(&bytes).unwrap();
    }
}

/// A client that listens so long after each question, and a server that gives leases of so many seconds.
fn pair(listen: Duration, lease_s: u32) -> (Client, Server) {
    let (ours, wire) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let opener = move || ours.try_clone().map(OwnedFd::from);
    (Client::over(Box::new(opener), OURS, listen).unwrap(), Server { wire, lease_s })
}

const LEASE: Lease = Lease { address: GIVEN, prefix_bits: 16, gateway: Some(SERVER) };

#[test]
fn server_is_asked_and_its_lease_taken() {
    let (mut client, server) = pair(DHCP_LISTEN, 3600);
    let server = thread::spawn(move || server.serve(2, SERVER));
    assert_eq!(client.next().unwrap(), Change::Lease(LEASE));
    assert_eq!(server.join().unwrap(), [DhcpMessageType::Discover, DhcpMessageType::Request]);
}

#[test]
fn lease_is_renewed_by_a_client_that_had_stopped_listening_and_lost_when_nobody_answers() {
    let other = Ipv4Addr::new(10, 9, 0, 2);
    let (mut client, server) = pair(Duration::from_millis(100), 2);
    let server = thread::spawn(move || {
        let first = server.serve(2, SERVER);
        // The half of a lease later, and to the server alone. From now on it is silent.
        let renewed = server.serve(1, other);
        (first, renewed, server)
    });
    assert_eq!(client.next().unwrap(), Change::Lease(LEASE));
    let renewed = Lease { gateway: Some(other), ..LEASE };
    assert_eq!(client.next().unwrap(), Change::Lease(renewed));
    let (_first, asked, server) = server.join().unwrap();
    assert_eq!(asked, [DhcpMessageType::Request]);
    assert_eq!(client.next().unwrap(), Change::Lost);
    // It begins again, and what comes in meanwhile is nothing new.
    let server = thread::spawn(move || {
        loop {
            let asked = server.serve(1, SERVER);
            if asked == [DhcpMessageType::Discover] {
                return server.serve(1, SERVER);
            }
        }
    });
    assert_eq!(client.next().unwrap(), Change::Lease(LEASE));
    assert_eq!(server.join().unwrap(), [DhcpMessageType::Request]);
}

#[test]
fn frames_of_others_are_not_looked_at() {
    assert!(!is_wanted(&[]));
    assert!(!is_wanted(&[0; 60]));
    let mut arp = vec![0; 42];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    arp[21] = 1;
    assert!(!is_wanted(&arp), "the kernel answers questions");
    arp[21] = 2;
    assert!(is_wanted(&arp));
}
