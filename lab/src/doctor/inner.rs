//! The half of `lab doctor` inside the sandbox: two machines on a switch, and every fault done to them.
//!
//! It needs no node and no scenario, and changes nothing outside its namespaces.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::kernel::KernelFinding;
use super::{DoctorError, HOLD, kernel};
use crate::fabric::namespace::Namespace;
use crate::fabric::switch::{PortSpec, Switch, SwitchHandle};
use crate::fabric::tap::{self, TapConfig};
use crate::limits::{DOCTOR_ANSWER_MAX, DOCTOR_LATENCY, DOCTOR_SILENCE};
use crate::link::{LinkId, LinkRule};
use crate::machine::probe::probe;
use crate::machine::process::ProcessMachine;
use crate::machine::{Machine, MachineError, ProbeError};
use crate::plan::MacAddress;
use crate::program::{Exit, Program, ProgramLog};
use crate::sandbox::Inner;

/// What the inner process reports, one JSON object a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Finding {
    /// The sandbox is there.
    Sandbox {
        /// The inner process's own id.
        pid: u32,
    },
    /// A probe crossed the switch.
    Probe {
        /// There and back.
        rtt_us: u64,
    },
    /// A cut held, and a heal took it back.
    Cut {
        /// What the cut took.
        frames_dropped: u64,
        /// After the heal, there and back.
        rtt_us: u64,
    },
    /// A slow link was slow.
    Latency {
        /// There and back.
        rtt_us: u64,
    },
    /// What the kernel's fabric does.
    Kernel(KernelFinding),
    /// A process stood still and went on.
    Pause,
    /// A process was killed.
    Kill {
        /// How it ended.
        exit: Exit,
    },
    /// It waits.
    Holding,
}

/// Tries everything out.
///
/// # Errors
/// What is broken.
pub fn run_inner(inner: Inner) -> Result<(), DoctorError> {
    let mut events = &inner.events;
    let mut tell = |finding: Finding| -> Result<(), DoctorError> {
        let mut line = serde_json::to_vec(&finding).map_err(|error| DoctorError::Report(error.into()))?;
        line.push(b'\n');
        events.write_all(&line).map_err(DoctorError::Report)
    };
    tell(Finding::Sandbox { pid: std::process::id() })?;
    let (mut machines, switch) = build()?;
    let (switch, to) = (switch.handle(), SocketAddr::from((address(1), 9)));
    let from = machines[0].namespace().try_clone().map_err(ProbeError::Namespace)?;
    let probe_whole = || probe(&from, to, DOCTOR_ANSWER_MAX);
    tell(Finding::Probe { rtt_us: micros(probe_whole()?) })?;
    let frames_dropped = cut(&switch, &machines[0], to)?;
    switch.set_rules(both_ways(LinkRule::default()))?;
    tell(Finding::Cut { frames_dropped, rtt_us: micros(probe_whole()?) })?;
    switch.set_rules(both_ways(LinkRule { latency: DOCTOR_LATENCY, ..LinkRule::default() }))?;
    let slow = probe_whole()?;
    if slow < 2 * DOCTOR_LATENCY {
        return Err(DoctorError::LatencyIgnored(slow));
    }
    switch.set_rules(both_ways(LinkRule::default()))?;
    tell(Finding::Latency { rtt_us: micros(slow) })?;
    tell(Finding::Kernel(kernel::look()))?;
    pause(&mut machines[0])?;
    tell(Finding::Pause)?;
    tell(Finding::Kill { exit: machines[1].kill()? })?;
    if inner.arguments.iter().any(|argument| argument == HOLD) {
        tell(Finding::Holding)?;
        // An error is the end of the control thread, and that ends the process.
        let _stopped = inner.control.recv();
    }
    Ok(())
}

/// Freezes a machine and lets it go on.
fn pause(machine: &mut ProcessMachine) -> Result<(), DoctorError> {
    machine.pause()?;
    if !machine.observe()?.is_paused {
        return Err(DoctorError::PauseIgnored);
    }
    Ok(machine.resume()?)
}

/// Cuts the link and probes it; the number of frames that the cut took.
fn cut(switch: &SwitchHandle, from: &ProcessMachine, to: SocketAddr) -> Result<u64, DoctorError> {
    let before = switch.set_rules(both_ways(LinkRule::CUT))?;
    match probe(from.namespace(), to, DOCTOR_SILENCE) {
        Err(ProbeError::Unanswered(_)) => {}
        Ok(_rtt) => return Err(DoctorError::CutIgnored),
        Err(error) => return Err(error.into()),
    }
    let link = LinkId::new(0, 1);
    Ok(switch.counters(link)?.since(&before.link(link)).dropped_cut)
}

fn both_ways(rule: LinkRule) -> Vec<(LinkId, LinkRule)> {
    let link = LinkId::new(0, 1);
    vec![(link, rule), (link.reversed(), rule)]
}

fn build() -> Result<(Vec<ProcessMachine>, Switch), DoctorError> {
    let nowhere = PathBuf::from("/dev/null");
    let log = ProgramLog::open(&nowhere)?;
    // Any program that does nothing for longer than anybody holds the sandbox.
    let program = Program::new("sleep").arg("1000000");
    let mut machines = Vec::new();
    let mut ports = Vec::new();
    for port in 0..2 {
        let tap = interface(port);
        let name = format!("doctor-{port}");
        let network = |source| MachineError::Network { name: name.clone(), source };
        let namespace = Namespace::create().map_err(network)?;
        let end = tap::create(&namespace, &tap).map_err(network)?;
        let mut machine =
            ProcessMachine::new(&name, namespace, program.clone(), nowhere.clone(), log.clone())?;
        machine.start()?;
        machines.push(machine);
        ports.push(PortSpec { mac: mac(port), port: Box::new(end) });
    }
    Ok((machines, Switch::start(0, None, ports)?))
}

/// The interface of one of two machines.
pub(super) fn interface(port: u8) -> TapConfig {
    let other = 1 - port;
    TapConfig::ipv4(&format!("lab-tap{port}"), mac(port), address(port), [(address(other), mac(other))])
}

pub(super) fn mac(port: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, port])
}

pub(super) fn address(port: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, port + 1)
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
