//! A probe: does a packet of one machine reach another, and does the answer come back?
//!
//! The SYN is sent from inside the probing machine's namespace, so that it crosses the fabric on the
//! machine's own link. The other kernel answers it without the help of any program, with a SYN-ACK or
//! a RST: a paused or killed process still answers on the process driver; what a probe measures is
//! the network. To ask whether a program lives, probe a port on which it listens and read from it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{ProbeError, Prober};
use crate::fabric::namespace::Namespace;
use crate::limits::PROBE_MAX;

/// Sends a TCP SYN from `from` to `to` and returns the time until it was answered, by a SYN-ACK or a
/// RST (RFC 9293, 3.5). The kernel repeats the SYN after a second.
///
/// # Errors
/// [`ProbeError::Unanswered`] after `timeout` (at most [`PROBE_MAX`]) of silence; anything else is a
/// fault of the host.
pub fn probe(from: &Namespace, to: SocketAddr, timeout: Duration) -> Result<Duration, ProbeError> {
    // A timeout of zero is refused by the standard library.
    let timeout = timeout.clamp(Duration::from_millis(1), PROBE_MAX);
    from.run(|| probe_here(to, timeout)).map_err(ProbeError::Namespace)?
}

/// Probes from inside a namespace.
#[derive(Debug)]
pub struct NamespaceProber {
    namespace: Namespace,
}

impl NamespaceProber {
    /// A prober inside `namespace`.
    pub fn new(namespace: Namespace) -> Self {
        Self { namespace }
    }
}

impl Prober for NamespaceProber {
    fn probe(&self, to: SocketAddr, timeout: Duration) -> Result<Duration, ProbeError> {
        probe(&self.namespace, to, timeout)
    }

    fn takes_part(&self) -> bool {
        // The kernel does it, whatever the node's process does.
        true
    }
}

fn probe_here(to: SocketAddr, timeout: Duration) -> Result<Duration, ProbeError> {
    let start = Instant::now();
    match TcpStream::connect_timeout(&to, timeout) {
        Ok(_accepted) => Ok(start.elapsed()),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Ok(start.elapsed()),
            // Unreachable: address resolution stayed without an answer.
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock | io::ErrorKind::HostUnreachable => {
                Err(ProbeError::Unanswered(timeout))
            }
            _ => Err(ProbeError::Local(error)),
        },
    }
}
