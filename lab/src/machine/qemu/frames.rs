//! A machine's port on the switch: two sockets on the loopback interface of the lab, of which QEMU has one.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;

use crate::fabric::TapError;
use crate::limits::machines::FRAMES_QUEUED_BYTES;

/// QEMU's end, over all starts of its machine: what is sent to a machine that is off is lost.
#[derive(Debug)]
pub(in crate::machine) struct FramePort {
    /// Where it takes frames.
    near: SocketAddr,
    /// Where it sends them.
    switch: SocketAddr,
}

impl FramePort {
    /// The end of a machine that was not started yet, and the switch's, which takes frames from nobody else. The first is
    /// reserved as long as the third lives: no two machines are given the same.
    pub(super) fn create() -> io::Result<(Self, UdpSocket, UdpSocket)> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (switch, reserved) = (UdpSocket::bind(any)?, UdpSocket::bind(any)?);
        switch.connect(reserved.local_addr()?)?;
        switch.set_nonblocking(true)?;
        take_many(&switch);
        Ok((Self { near: reserved.local_addr()?, switch: switch.local_addr()? }, switch, reserved))
    }

    /// QEMU's end for one start.
    ///
    /// # Errors
    /// The last one is still there.
    pub(super) fn connect(&self) -> Result<OwnedFd, TapError> {
        let connected = UdpSocket::bind(self.near).and_then(|socket| {
            socket.connect(self.switch)?;
            socket.set_nonblocking(true)?;
            take_many(&socket);
            Ok(socket)
        });
        let socket =
            connected.map_err(|source| TapError::Io { doing: "opening the port of a machine", source })?;
        Ok(socket.into())
    }
}

/// Lets many frames wait in a socket. Where the host does not allow it, whoever reads has the host's default of time.
fn take_many(socket: &impl AsFd) {
    let _ = setsockopt(socket, RcvBufForce, &FRAMES_QUEUED_BYTES);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next datagram; the loopback interface has it at once.
    fn next(socket: &UdpSocket) -> Option<Vec<u8>> {
        let mut bytes = [0; 16];
        socket.recv(&mut bytes).ok().map(|count| bytes[..count].to_vec())
    }

    #[test]
    fn frames_of_a_machine_come_from_its_socket_only_and_none_waits_for_its_next_life() {
        let (port, switch, reserved) = FramePort::create().unwrap();
        drop(reserved);
        let machine = UdpSocket::from(port.connect().unwrap());
        assert!(port.connect().is_err(), "one machine has it");
        let stranger = UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        stranger.send_to(b"stranger", switch.local_addr().unwrap()).unwrap();
        machine.send(b"out").unwrap();
        assert_eq!((next(&switch), next(&switch)), (Some(b"out".to_vec()), None));
        switch.send(b"in").unwrap();
        switch.send(b"unread").unwrap();
        assert_eq!(next(&machine), Some(b"in".to_vec()));
        drop(machine);
        // The first is lost on the way, and the second learns of it.
        switch.send(b"lost").unwrap();
        assert_eq!(switch.send(b"refused").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let machine = UdpSocket::from(port.connect().unwrap());
        switch.send(b"new").unwrap();
        assert_eq!((next(&machine), next(&machine)), (Some(b"new".to_vec()), None));
    }
}
