//! The row about the kernel's fabric: two machines on one, a probe, a cut, and a link that is slow.

use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::DoctorError;
use super::inner::{address, interface, mac, micros};
use super::rows::{Fix, Row};
use crate::causes::causes;
use crate::check::counted;
use crate::fabric::kernel::{KernelError, KernelFabric, Part, PortKind};
use crate::fabric::namespace::Namespace;
use crate::fabric::{NetworkPort, NetworkPorts};
use crate::limits::{DOCTOR_ANSWER_MAX, DOCTOR_LATENCY, DOCTOR_SILENCE};
use crate::link::{LinkId, LinkRule};
use crate::machine::ProbeError;
use crate::machine::probe::probe;
use crate::program::ProgramLog;

/// What the inner process found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum KernelFinding {
    /// It does everything that is asked of links.
    Works {
        /// A probe there and back.
        rtt_us: u64,
        /// What a cut has swallowed.
        frames_dropped: u64,
        /// A probe there and back over slow links.
        slow_us: u64,
    },
    /// Something is missing, or does not do what it should.
    Lacks {
        /// What, each cause after the other.
        why: String,
        /// Whether a package gets it.
        is_nft: bool,
    },
}

/// The row of the table.
pub(super) fn row(finding: &KernelFinding) -> Row {
    let row = |found| Row::new("fabric", "kernel", found);
    match finding {
        KernelFinding::Works { rtt_us, frames_dropped, slow_us } => row(Ok(format!(
            "a probe took {rtt_us} us, one over {} ms each way {slow_us} us; a cut swallowed {}",
            DOCTOR_LATENCY.as_millis(),
            counted(*frames_dropped, "frame")
        ))),
        KernelFinding::Lacks { why, is_nft: true } => row(Err(why.clone())).fix(Fix::Packages("nftables")),
        // No package gets a kernel what it lacks, and the switch does the same everywhere.
        KernelFinding::Lacks { why, is_nft: false } => row(Err(why.clone())).replaced(),
    }
}

/// Tries it out, inside the sandbox.
pub(super) fn look() -> KernelFinding {
    match try_it() {
        Ok(finding) => finding,
        Err(error) => {
            let is_nft = matches!(&error, DoctorError::Kernel(KernelError::Lacks { part: Part::Nft, .. }));
            KernelFinding::Lacks { why: causes(&error).replace("\nbecause: ", ": "), is_nft }
        }
    }
}

fn try_it() -> Result<KernelFinding, DoctorError> {
    let log = ProgramLog::open(Path::new("/dev/null")).map_err(|error| Part::Nft.lacking(error))?;
    let networks = [NetworkPorts::usual([0, 1].map(|port| (mac(port), PortKind::Veth)))];
    let fabric = KernelFabric::build(0, None, &networks, log)?;
    let mut machines = Vec::new();
    for port in [0, 1] {
        let machine = Namespace::create().map_err(KernelError::from)?;
        fabric.connect(NetworkPort::first(port.into()), &machine, &interface(port))?;
        machines.push(machine);
    }
    fabric.await_ports()?;
    let probe = |patience| probe(&machines[0], SocketAddr::from((address(1), 9)), patience);
    let rtt_us = micros(probe(DOCTOR_ANSWER_MAX)?);
    let link = LinkId::new(0, 1);
    let both = |rule| [(link, rule), (link.reversed(), rule)];
    let before = fabric.set_rules(&both(LinkRule::CUT))?;
    match probe(DOCTOR_SILENCE) {
        Err(ProbeError::Unanswered(_)) => {}
        Ok(_rtt) => return Err(DoctorError::CutIgnored),
        Err(error) => return Err(error.into()),
    }
    let after = fabric.snapshot()?;
    let frames_dropped = after.link(link).dropped_cut - before.link(link).dropped_cut;
    let slow = LinkRule { latency: DOCTOR_LATENCY, ..LinkRule::PERFECT };
    fabric.require([slow, LinkRule { duplicate_per_million: 1, ..LinkRule::PERFECT }])?;
    fabric.set_rules(&both(slow))?;
    let late = probe(DOCTOR_ANSWER_MAX)?;
    if late < 2 * DOCTOR_LATENCY {
        return Err(DoctorError::LatencyIgnored(late));
    }
    Ok(KernelFinding::Works { rtt_us, frames_dropped, slow_us: micros(late) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_without_the_fabric_is_not_wanting_and_nft_can_be_had() {
        let lacks = |is_nft| row(&KernelFinding::Lacks { why: "no".to_owned(), is_nft });
        assert_eq!((lacks(false).wanting(), lacks(false).fix), (None, None));
        assert_eq!(lacks(true).wanting().as_deref(), Some("fabric kernel"));
        assert_eq!(lacks(true).fix, Some(Fix::Packages("nftables")));
        assert_eq!(row(&KernelFinding::Works { rtt_us: 1, frames_dropped: 1, slow_us: 1 }).wanting(), None);
    }
}
