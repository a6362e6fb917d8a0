//! Machines on the switch, in real namespaces. They need root (or the capabilities `CAP_SYS_ADMIN` and
//! `CAP_NET_ADMIN`) and a /dev/net/tun, and make everything in namespaces of their own.

use std::net::{Ipv4Addr, SocketAddr};

use super::*;
use crate::fabric::switch::{PortSpec, Switch, SwitchHandle};
use crate::fabric::tap::{self, TapConfig};
use crate::fabric::{LinkCounters, Sabotage, Snapshot};
use crate::host;
use crate::link::{LinkId, LinkRule};
use crate::machine::ProbeError;
use crate::machine::probe::probe;
use crate::plan::MacAddress;

const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Shorter than the first repetition of a SYN.
const SILENCE: Duration = Duration::from_millis(400);

struct Rig {
    machines: Vec<ProcessMachine>,
    // After the machines: they are killed before the switch goes.
    switch: Switch,
    _directory: tempfile::TempDir,
}

fn mac(port: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 1, port])
}

fn address(port: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, port + 1)
}

/// Two machines that run `program`, or `None` where the host does not allow namespaces.
fn rig(program: &Program, sabotage: Option<Sabotage>) -> Option<Rig> {
    let directory = tempfile::tempdir().unwrap();
    let log = ProgramLog::open(&directory.path().join("programs.log")).unwrap();
    let mut machines = Vec::new();
    let mut ports = Vec::new();
    for port in 0..2 {
        let others = (0..2).filter(|other| *other != port);
        let neighbours = others.map(|other| (address(other), mac(other)));
        let tap = TapConfig::ipv4("aspen0", mac(port), address(port), neighbours);
        let console = directory.path().join(format!("console-{port}.log"));
        let made = Namespace::create().and_then(|namespace| {
            let end = tap::create(&namespace, &tap)?;
            Ok((namespace, end))
        });
        match made {
            Ok((namespace, end)) => {
                let name = format!("n{port}");
                let machine = ProcessMachine::new(&name, namespace, program.clone(), console, log.clone());
                machines.push(machine.unwrap());
                ports.push(PortSpec { mac: mac(port), port: Box::new(end) });
            }
            Err(error) => {
                host::lacks("netns", &format!("network namespace with taps: {error:?}"));
                return None;
            }
        }
    }
    Some(Rig { machines, switch: Switch::start(5, sabotage, ports).unwrap(), _directory: directory })
}

fn sleeper() -> Program {
    Program::new("/bin/sleep").arg("600")
}

impl Rig {
    fn handle(&self) -> SwitchHandle {
        self.switch.handle()
    }

    fn probe(&self, from: u8, to: u8, timeout: Duration) -> Result<Duration, ProbeError> {
        let to = SocketAddr::from((address(to), 4711));
        probe(self.machines[usize::from(from)].namespace(), to, timeout)
    }

    #[track_caller]
    fn expect_silence(&self, from: u8, to: u8) {
        let outcome = self.probe(from, to, SILENCE);
        assert!(matches!(outcome, Err(ProbeError::Unanswered(_))), "{outcome:?}");
    }

    fn set_both(&self, rule: LinkRule) -> Snapshot {
        let link = LinkId::new(0, 1);
        self.handle().set_rules(vec![(link, rule), (link.reversed(), rule)]).unwrap()
    }

    fn since(&self, link: LinkId, earlier: &Snapshot) -> LinkCounters {
        self.handle().counters(link).unwrap().since(&earlier.link(link))
    }
}

#[test]
fn probe_is_answered_over_the_switch_and_not_over_a_cut() {
    let Some(rig) = rig(&sleeper(), None) else { return };
    let link = LinkId::new(0, 1);
    let rtt = rig.probe(0, 1, ANSWER_MAX).unwrap();
    assert!(rtt < Duration::from_millis(500), "{rtt:?}");
    let before = rig.handle().snapshot().unwrap();
    assert_eq!(before.link(link).delivered, 1, "one SYN and nothing else");
    assert_eq!(before.link(link.reversed()).delivered, 1, "one RST and nothing else");

    let cut = rig.set_both(LinkRule::CUT);
    rig.expect_silence(0, 1);
    rig.expect_silence(1, 0);
    for direction in [link, link.reversed()] {
        let counters = rig.since(direction, &cut);
        assert!(counters.judged > 0, "{counters:?}");
        assert_eq!(counters.dropped_cut, counters.judged);
        assert_eq!(counters.delivered, 0);
    }
    rig.set_both(LinkRule::default());
    rig.probe(0, 1, ANSWER_MAX).unwrap();
    rig.probe(1, 0, ANSWER_MAX).unwrap();
}

#[test]
fn one_way_cut_stops_one_direction_only() {
    let Some(rig) = rig(&sleeper(), None) else { return };
    let link = LinkId::new(0, 1);
    let cut = rig.handle().set_rules(vec![(link, LinkRule::CUT)]).unwrap();
    // The SYN of 1 arrives and its RST is lost; the SYN of 0 is lost.
    rig.expect_silence(1, 0);
    let there = rig.since(link.reversed(), &cut);
    assert!(there.delivered > 0, "{there:?}");
    assert_eq!(there.dropped_cut, 0);
    let back = rig.since(link, &cut);
    assert_eq!(back.dropped_cut, back.judged);
    assert_eq!(back.judged, there.delivered, "a RST for every SYN");
    rig.expect_silence(0, 1);
}

#[test]
fn latency_is_in_the_round_trip_and_in_the_counters() {
    let Some(rig) = rig(&sleeper(), None) else { return };
    let rule = LinkRule { latency: Duration::from_millis(20), ..LinkRule::default() };
    rig.set_both(rule);
    let rtt = rig.probe(0, 1, ANSWER_MAX).unwrap();
    assert!(rtt >= Duration::from_millis(40), "{rtt:?}");
    assert!(rtt < Duration::from_millis(400), "{rtt:?}");
    let held = rig.handle().counters(LinkId::new(0, 1)).unwrap().held_mean().unwrap();
    assert!(held >= Duration::from_millis(20), "{held:?}");
}

#[test]
fn sabotaged_cut_is_seen_by_probe_and_counters() {
    let Some(rig) = rig(&sleeper(), Some(Sabotage::IgnoreCuts)) else { return };
    let cut = rig.set_both(LinkRule::CUT);
    rig.probe(0, 1, ANSWER_MAX).unwrap();
    let counters = rig.since(LinkId::new(0, 1), &cut);
    assert_eq!((counters.delivered, counters.dropped_cut), (counters.judged, 0));
}

#[test]
fn killed_machine_restarts_with_the_same_network() {
    let Some(mut rig) = rig(&sleeper(), None) else { return };
    let machine = &mut rig.machines[1];
    assert!(matches!(machine.kill(), Err(MachineError::NotRunning(_))));
    machine.start().unwrap();
    assert_eq!(machine.start().unwrap_err().to_string(), "n1 runs already");
    let first = machine.pid();
    assert_eq!(machine.exited(), None);
    assert_eq!(machine.kill().unwrap(), Exit::Signal(9));
    assert_eq!(machine.exited(), Some(Exit::Signal(9)));
    assert_eq!(machine.observe().unwrap_err().to_string(), "n1 does not run");
    machine.start().unwrap();
    assert_ne!(machine.pid(), first);
    assert_eq!(machine.terminate(ANSWER_MAX).unwrap(), Exit::Signal(15));
    rig.probe(0, 1, ANSWER_MAX).unwrap();
}

#[test]
fn paused_machine_uses_no_processor_and_goes_on() {
    let busy = Program::new("/bin/sh").arg("-c").arg("while :; do :; done");
    let Some(mut rig) = rig(&busy, None) else { return };
    let machine = &mut rig.machines[0];
    machine.start().unwrap();
    let used = |machine: &ProcessMachine, at_least: u64| {
        let start = Instant::now();
        while machine.observe().unwrap().cpu_ticks < at_least && start.elapsed() < ANSWER_MAX {
            thread::sleep(POLL_INTERVAL);
        }
        machine.observe().unwrap()
    };
    assert!(used(machine, 1).cpu_ticks >= 1);
    machine.pause().unwrap();
    let paused = machine.observe().unwrap();
    assert!(paused.is_paused);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(machine.observe().unwrap(), paused);
    machine.resume().unwrap();
    assert!(used(machine, paused.cpu_ticks + 2).cpu_ticks > paused.cpu_ticks);
    machine.pause().unwrap();
    assert_eq!(machine.kill().unwrap(), Exit::Signal(9));
}

#[test]
fn paused_machine_stops_when_it_is_asked_to() {
    let Some(mut rig) = rig(&sleeper(), None) else { return };
    let machine = &mut rig.machines[0];
    machine.start().unwrap();
    machine.pause().unwrap();
    assert_eq!(machine.terminate(ANSWER_MAX).unwrap(), Exit::Signal(15));
}

#[test]
fn machine_that_ends_by_itself_is_noticed_with_its_last_words() {
    let dying = Program::new("/bin/sh").arg("-c").arg("echo disk is full >&2; exit 7");
    let Some(mut rig) = rig(&dying, None) else { return };
    let machine = &mut rig.machines[0];
    machine.start().unwrap();
    let start = Instant::now();
    while machine.exited().is_none() && start.elapsed() < ANSWER_MAX {
        thread::sleep(POLL_INTERVAL);
    }
    assert_eq!(machine.exited(), Some(Exit::Code(7)));
    assert_eq!(machine.console_tail(), "disk is full\n");
    assert_eq!(machine.kill().unwrap(), Exit::Code(7));
}

#[test]
fn program_is_born_into_the_machines_namespace() {
    let reader = Program::new("/bin/cat").arg("/proc/self/net/dev");
    let Some(mut rig) = rig(&reader, None) else { return };
    let machine = &mut rig.machines[0];
    machine.start().unwrap();
    let start = Instant::now();
    while machine.exited().is_none() && start.elapsed() < ANSWER_MAX {
        thread::sleep(POLL_INTERVAL);
    }
    let mut names: Vec<String> = machine
        .console_tail()
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect();
    names.sort();
    assert_eq!(names, ["aspen0", "lo"]);
}
