//! Probes: whether another machine's kernel answers, and after how long.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aspen_init::control::{Outcome, Probed};
use aspen_init::limits::{PROBE_MS_MAX, PROBES_MAX};

/// The right to have one probe under way; whoever drops it gives it back.
pub(super) struct ProbeTurn(Arc<AtomicUsize>);

impl ProbeTurn {
    /// Takes one of [`PROBES_MAX`], if there is one.
    pub(super) fn take(count: &Arc<AtomicUsize>) -> Option<Self> {
        let turn = Self(Arc::clone(count));
        let before = count.fetch_add(1, Ordering::Relaxed);
        (before < PROBES_MAX).then_some(turn)
    }
}

impl Drop for ProbeTurn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends a SYN and waits for what comes back (RFC 9293, 3.5).
pub(super) fn probe(to: SocketAddr, within_ms: u64) -> Outcome<Probed> {
    if !(1..=PROBE_MS_MAX).contains(&within_ms) {
        return Outcome::Error(format!("within_ms is {within_ms}, 1 to {PROBE_MS_MAX} are allowed"));
    }
    let start = Instant::now();
    let answered = TcpStream::connect_timeout(&to, Duration::from_millis(within_ms));
    let after = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    match answered {
        Ok(_accepted) => Outcome::Ok(Probed::AnsweredUs(after)),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => {
                Outcome::Ok(Probed::AnsweredUs(after))
            }
            // Unreachable: address resolution stayed without an answer.
            ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::HostUnreachable => {
                Outcome::Ok(Probed::Unanswered(true))
            }
            _ => Outcome::Error(format!("cannot probe {to}: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn closed_port_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = listener.local_addr().unwrap();
        drop(listener);
        assert!(matches!(probe(closed, 5000), Outcome::Ok(Probed::AnsweredUs(_))));
    }
}
