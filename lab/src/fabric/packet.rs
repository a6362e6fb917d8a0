//! The host's side of a TAP that a hypervisor owns, seen by a packet socket (packet(7)).
//!
//! The hypervisor reads and writes the TAP's own descriptor, which it is started with and for which it needs no privilege. The
//! other side is an interface in a namespace of its own that has no address and answers nothing: what the machine sends arrives
//! there and is seen by the socket, and what the socket sends goes to the machine.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, bind, setsockopt, socket};

use super::namespace::Namespace;
use super::tap;
use super::{Port, TapError};
use crate::limits::FRAME_BYTES_MAX;
use crate::limits::machines::FRAMES_QUEUED_BYTES;

/// What stands before each frame on the descriptor of a hypervisor at most: `struct virtio_net_hdr` (virtio 1.2, 5.1.6), with the
/// number of buffers that some ask the kernel for.
const HEADER_BYTES_MAX: usize = 12;

/// A TAP for one machine, over all its starts.
#[derive(Debug)]
pub struct MachineTap {
    /// Where its host's side is, and where its hypervisor runs.
    namespace: Namespace,
    descriptor: Arc<OwnedFd>,
}

/// The switch's end of it.
#[derive(Debug)]
pub struct PacketPort {
    socket: File,
}

impl AsFd for PacketPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Port for PacketPort {
    fn recv(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        self.socket.read(frame)
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        // A packet socket takes a frame whole or not at all.
        self.socket.write(frame).map(|_bytes| ())
    }

    fn outlives_errors(&self) -> bool {
        // An interface that goes down is announced once.
        true
    }
}

impl MachineTap {
    /// Makes it in the machine's namespace, where nothing else is but the TAPs of its other networks, with the port that carries
    /// its frames. `network` is the position of its network.
    ///
    /// # Errors
    /// `/dev/net/tun` is missing or closed to the user, or the kernel refuses the device, a setting or the socket.
    pub fn create(machine: &Namespace, network: usize, mtu: u32) -> Result<(Self, PacketPort), TapError> {
        let name = format!("vm{network}");
        let (descriptor, port) = machine.run(|| {
            tap::ipv6_off()?;
            let descriptor = tap::open_for_hypervisor(&name)?;
            tap::set_up_bare(&name, mtu)?;
            let port = packet_socket(&name)
                .map_err(|source| TapError::Io { doing: "opening a packet socket on a tap", source })?;
            Ok((descriptor, port))
        })??;
        Ok((Self { namespace: machine.try_clone()?, descriptor: Arc::new(descriptor) }, port))
    }

    /// One whose other side is in a namespace already, where somebody else carries its frames.
    pub(super) fn of(namespace: Namespace, descriptor: Arc<OwnedFd>) -> Self {
        Self { namespace, descriptor }
    }

    /// Its descriptor, for the hypervisor's next start, and where that runs. Frames that wait there for a machine that is gone
    /// are lost.
    ///
    /// # Errors
    /// The descriptor cannot be read, or there are too many.
    pub fn connect(&self) -> Result<(Arc<OwnedFd>, Namespace), TapError> {
        let failed = |source| TapError::Io { doing: "emptying a tap", source };
        let mut file = File::from(self.descriptor.try_clone().map_err(failed)?);
        let mut frame = [0; HEADER_BYTES_MAX + FRAME_BYTES_MAX];
        loop {
            match file.read(&mut frame) {
                Ok(_lost) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(failed(error)),
            }
        }
        Ok((self.descriptor.clone(), self.namespace.try_clone()?))
    }
}

/// A socket that sees and sends whole frames of one interface of the calling thread's namespace.
fn packet_socket(name: &str) -> io::Result<PacketPort> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
    // The address of an interface as the kernel gives it names the interface by its number.
    let address = getifaddrs()?
        .filter(|interface| interface.interface_name == name)
        .find_map(|interface| Some(*interface.address?.as_link_addr()?))
        .ok_or(Errno::ENODEV)?;
    // Where the host does not allow it, the switch has the host's default of time to take a frame.
    let _ = setsockopt(&socket, RcvBufForce, &FRAMES_QUEUED_BYTES);
    bind(socket.as_raw_fd(), &address)?;
    Ok(PacketPort { socket: File::from(socket) })
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::limits::MTU_BYTES;

    /// What the kernel puts before a frame unless it is asked for more.
    const HEADER_BYTES: usize = 10;

    /// Addresses, a type that belongs to nobody (IEEE 802, local experiments), and a text.
    fn frame(text: &str) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
        frame.extend_from_slice(text.as_bytes());
        frame.resize(60, 0);
        frame
    }

    /// The next frame, once it is there.
    fn next(mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> Vec<u8> {
        let mut bytes = [0; HEADER_BYTES_MAX + FRAME_BYTES_MAX];
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match read(&mut bytes) {
                Ok(count) => return bytes[..count].to_vec(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn frames_cross_whole_and_none_waits_for_the_next_life() {
        let machine = Namespace::create().unwrap();
        let (tap, mut port) = MachineTap::create(&machine, 0, MTU_BYTES).unwrap();
        let (descriptor, _namespace) = tap.connect().unwrap();
        let mut machine = File::from(descriptor.try_clone().unwrap());
        let header = vec![0; HEADER_BYTES];
        machine.write_all(&[header.clone(), frame("out")].concat()).unwrap();
        assert_eq!(next(|bytes| port.recv(bytes)), frame("out"));
        port.send(&frame("in")).unwrap();
        let got = next(|bytes| machine.read(bytes));
        assert_eq!((&got[..HEADER_BYTES], &got[HEADER_BYTES..]), (&header[..], &frame("in")[..]));
        // Nobody is there to read it.
        port.send(&frame("late")).unwrap();
        tap.connect().unwrap();
        port.send(&frame("new")).unwrap();
        assert_eq!(next(|bytes| machine.read(bytes))[HEADER_BYTES..], frame("new"));
        // What the port has sent does not come back to it.
        machine.write_all(&[header, frame("last")].concat()).unwrap();
        assert_eq!(next(|bytes| port.recv(bytes)), frame("last"));
    }
}
