//! Connecting to Unix sockets within a bound.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, socket};

use crate::limits::POLL_INTERVAL;

/// Connects, and does not wait for ever where the queue of connections stays full: then nobody takes them out of it.
///
/// # Errors
/// Nobody listens, or nobody takes the connection within the time.
pub(crate) fn connect(address: &UnixAddr, within: Duration) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let deadline = Instant::now() + within;
    loop {
        match nix::sys::socket::connect(socket.as_raw_fd(), address) {
            Ok(()) => break,
            // The queue is full (connect(2)).
            Err(Errno::EAGAIN | Errno::EINTR) if Instant::now() < deadline => thread::sleep(POLL_INTERVAL),
            Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};

    use super::*;

    #[test]
    fn who_takes_no_connection_is_not_waited_for_for_ever() {
        let name = format!("aspen-test/{}/connect", std::process::id());
        let address = UnixAddr::new_abstract(name.as_bytes()).unwrap();
        let soon = Duration::from_millis(50);
        assert_eq!(connect(&address, soon).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let waiting = connect(&address, soon).unwrap();
        assert_eq!(connect(&address, soon).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop((waiting, listener));
    }
}
