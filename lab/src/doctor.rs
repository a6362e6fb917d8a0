//! `lab doctor`: what this host can do, found out by doing it.
//!
//! Inside a sandbox it builds two machines on a switch, sends a probe from one to the other, cuts the
//! link and heals it. It needs no node and no scenario, and changes nothing outside its namespaces.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fabric::FabricError;
use crate::fabric::switch::{PortSpec, Switch, SwitchHandle};
use crate::fabric::tap::TapConfig;
use crate::limits::{DOCTOR_ANSWER_MAX, DOCTOR_SILENCE};
use crate::link::{LinkId, LinkRule};
use crate::machine::probe::probe;
use crate::machine::process::ProcessMachine;
use crate::machine::{Machine, MachineError, ProbeError};
use crate::plan::MacAddress;
use crate::program::{Exit, Program, ProgramError, ProgramLog};
use crate::sandbox::{self, Inner, SandboxError};

/// First argument of the inner process of `lab doctor`.
pub const INNER: &str = "doctor";
/// Keeps the sandbox until it is stopped; for those who want to look around in it.
pub const HOLD: &str = "--hold";

/// Why `lab doctor` found something missing.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// No sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The inner process could not be waited for.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The switch.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// A probe that had to be answered was not.
    #[error("a probe over a whole link failed")]
    Probe(#[from] ProbeError),
    /// A cut that cuts nothing.
    #[error("a probe over a cut link was answered")]
    CutIgnored,
    /// The pipe between the two processes.
    #[error("cannot report from inside the sandbox")]
    Report(#[from] io::Error),
    /// The inner process did not come to its end.
    #[error("the sandbox ended with {0}")]
    Ended(Exit),
}

/// What the inner process reports, one JSON object a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Finding {
    Sandbox { pid: u32 },
    Probe { rtt_us: u64 },
    Cut { frames_dropped: u64 },
    Healed { rtt_us: u64 },
    Holding,
}

/// The outer half: starts the sandbox and writes each finding to `report` as a line of text.
///
/// # Errors
/// What is missing or broken on this host.
pub fn run(hold: bool, report: &mut impl Write) -> Result<(), DoctorError> {
    let hold = hold.then(|| HOLD.into());
    let mut sandbox = sandbox::start(std::iter::once(INNER.into()).chain(hold))?;
    if let Some(events) = sandbox.take_events() {
        for line in BufReader::new(events).lines() {
            // A line that is cut off is the end of the inner process, which is told below.
            let Ok(finding) = serde_json::from_str(&line?) else { break };
            writeln!(report, "{}", text(&finding))?;
            report.flush()?;
        }
    }
    match sandbox.wait(DOCTOR_ANSWER_MAX)? {
        Exit::Code(0) => Ok(()),
        exit => Err(DoctorError::Ended(exit)),
    }
}

fn text(finding: &Finding) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _infallible = match finding {
        Finding::Sandbox { pid } => write!(text, "sandbox  namespaces of its own, pid {pid} inside"),
        Finding::Probe { rtt_us } => write!(text, "fabric   a probe over the switch took {rtt_us} us"),
        Finding::Cut { frames_dropped } => {
            write!(text, "cut      a probe went unanswered, {frames_dropped} frames dropped")
        }
        Finding::Healed { rtt_us } => write!(text, "heal     a probe took {rtt_us} us"),
        Finding::Holding => write!(text, "holding  until stopped"),
    };
    text
}

/// The inner half.
///
/// # Errors
/// What is broken.
pub fn run_inner(inner: Inner) -> Result<(), DoctorError> {
    let mut events = &inner.events;
    let mut tell = |finding: Finding| -> Result<(), DoctorError> {
        let mut line = serde_json::to_vec(&finding).map_err(io::Error::from)?;
        line.push(b'\n');
        Ok(events.write_all(&line)?)
    };
    tell(Finding::Sandbox { pid: std::process::id() })?;
    let (machines, switch) = build()?;
    let to = SocketAddr::from((address(1), 9));
    let probe_whole = || probe(machines[0].namespace(), to, DOCTOR_ANSWER_MAX);
    tell(Finding::Probe { rtt_us: micros(probe_whole()?) })?;
    tell(Finding::Cut { frames_dropped: cut(&switch.handle(), &machines[0], to)? })?;
    switch.handle().set_rules(both_ways(LinkRule::default()))?;
    tell(Finding::Healed { rtt_us: micros(probe_whole()?) })?;
    if inner.arguments.iter().any(|argument| argument == HOLD) {
        tell(Finding::Holding)?;
        // An error is the end of the control thread, and that ends the process.
        let _stopped = inner.control.recv();
    }
    Ok(())
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
        let other = 1 - port;
        let tap = TapConfig {
            name: "lab-tap".to_owned() + &port.to_string(),
            mac: mac(port),
            address: address(port),
            prefix_bits: 24,
            neighbours: vec![(address(other), mac(other))],
        };
        let name = format!("doctor-{port}");
        let (mut machine, end) =
            ProcessMachine::new(&name, program.clone(), nowhere.clone(), log.clone(), &tap)?;
        machine.start()?;
        machines.push(machine);
        ports.push(PortSpec { mac: mac(port), port: Box::new(end) });
    }
    Ok((machines, Switch::start(0, None, ports)?))
}

fn mac(port: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, port])
}

fn address(port: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, port + 1)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
