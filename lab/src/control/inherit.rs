//! Listening sockets that go from the outer process to the inner one: opened on the host before the split, so that a port
//! that is taken is known before anything starts, and used inside.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Lets a socket pass to the programs that this process starts, and says under which number.
///
/// # Errors
/// The kernel refuses.
pub(super) fn leave(socket: &(impl AsFd + AsRawFd)) -> io::Result<RawFd> {
    fcntl(socket.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(socket.as_raw_fd())
}

/// Takes a socket that was left for this process, so that the programs that it starts do not get it.
///
/// # Errors
/// Nothing was left under this number.
#[allow(unsafe_code, reason = "a descriptor that comes over exec is a bare number")]
pub(super) fn take(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the outer has opened it for this process and told the number in the order; nothing else here uses it.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::IntoRawFd;

    use super::*;

    fn is_inherited(socket: &impl AsFd) -> bool {
        let flags = fcntl(socket.as_fd(), FcntlArg::F_GETFD).unwrap();
        !FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC)
    }

    #[test]
    fn socket_passes_to_one_process_and_not_to_those_after_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(!is_inherited(&listener));
        leave(&listener).unwrap();
        assert!(is_inherited(&listener));
        let taken = take(listener.into_raw_fd()).unwrap();
        assert!(!is_inherited(&taken));
        let _client = TcpStream::connect(address).unwrap();
        assert!(TcpListener::from(taken).accept().is_ok());
    }

    #[test]
    fn input_and_outputs_are_no_sockets_that_were_left() {
        assert_eq!(take(1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
