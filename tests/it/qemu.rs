//! Runs on virtual machines: the appliance on QEMU, with KVM where it runs a guest and emulated elsewhere.

#![allow(clippy::disallowed_methods, reason = "a test starts the program that it tests")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use aspen_init::report::{Line, Reason, parse_line};
use aspen_lab::image;
use aspen_lab::image::digest::of_bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host;
use crate::lab::{
    LOOK_INTERVAL, MACHINE_TOPOLOGIES, Run, Running, TOPOLOGIES, Turn, VOLUME_TOPOLOGIES, bench,
    processes_with_argument, rounds, run, time_story, topology, whole_bench, write_scenario,
};

/// A cut, a pause, a power cut, and a cut round the machine that is off, in as little time as they take.
const STORY: &str = "nodes: { count: 3 }\nworkload: { rate: 60/s }\nduration: 20s\nfaults:\n  \
                     - { at: 1s, for: 4s, partition: [[leader], [rest]] }\n  \
                     - { at: 8s, for: 1s, pause: follower }\n  \
                     - { at: 12s, kill: n2, restart_after: 2s }\n  \
                     - { at: 12500ms, for: 1s, partition: [[n2], [rest]] }\n\
                     checks: [linearizable, durable, raft, { recovers: { within: 10s } }]\n";
/// The same power cut alone.
const KILL: &str = "nodes: { count: 3 }\nworkload: { rate: 60/s }\nduration: 8s\nfaults:\n  \
                    - { at: 1s, kill: n1, restart_after: 1s }\nchecks: [linearizable]\n";
/// The power of a disk with what is in its cache, first of one machine and then of all.
const CUTS: &str = "nodes: { count: 3 }\nworkload: { rate: 60/s }\nduration: 20s\nfaults:\n  \
                    - { at: 1s, power_cut: leader, restart_after: 1s }\n  \
                    - { at: 9s, power_cut: n1, restart_after: 1s }\n  \
                    - { at: 9s, power_cut: n2, restart_after: 1s }\n  \
                    - { at: 9s, power_cut: n3, restart_after: 1s }\n\
                    checks: [linearizable, durable, raft, { recovers: { within: 10s } }]\n";
/// A pause for three times as long as an election takes at most, in the middle of a lease.
const LEASES: &str = "nodes: { count: 3 }\nworkload: { rate: 60/s, reads: lease }\nduration: 14s\nfaults:\n  \
                      - { at: 2s, for: 6s, pause: leader }\n\
                      checks: [linearizable, durable, raft, { recovers: { within: 10s } }]\n";
/// Power cuts in each round, under writes only. No machine boots before the one before it serves again.
const POWER_CUTS: u64 = 3;
/// What shows that a disk has lost its power.
const LOST: &str = "its disk lost something of what was not synced";
/// Three emulated machines, measured, booted and run at the largest slowdown, on a host that builds the image first.
pub(crate) const RUN_MAX: Duration = Duration::from_mins(15);

/// The right to run a cluster of virtual machines; none where this host has no QEMU.
pub(crate) fn machines() -> Option<(Turn, tempfile::TempDir)> {
    host::qemu()?;
    whole_bench()
}

#[track_caller]
fn run_machines(home: &Path, scenario: &str, more: &[&str]) -> Run {
    let file = write_scenario(home, "story", scenario);
    let words = [&[file.as_str(), "--seed", "1", "--driver", "qemu"], more].concat();
    Running::start(home, "run", &words, &[]).finish_within(RUN_MAX * u32::try_from(rounds()).unwrap())
}

/// What programs can read on a node's console.
fn console(run: &Run, node: &str) -> Vec<Line> {
    let bytes = fs::read(run.directory.join("nodes").join(node).join("console.log")).unwrap();
    String::from_utf8_lossy(&bytes).lines().filter_map(parse_line).collect()
}

/// Whoever kills a hypervisor has said nothing of the node in it: such a run cannot be judged.
#[test]
fn hypervisor_that_dies_is_not_taken_for_its_node() {
    let Some((_turn, home)) = machines() else { return };
    let quiet = "nodes: { count: 3 }\nworkload: { rate: 20/s }\nduration: 2m\nchecks: [linearizable]\n";
    let file = write_scenario(home.path(), "quiet", quiet);
    let run = Running::start(home.path(), "run", &[&file, "--seed", "1", "--driver", "qemu"], &[]);
    let events = home.path().join("run/events.jsonl");
    let began = Instant::now();
    while !fs::read_to_string(&events).is_ok_and(|text| text.contains("\"subject\":\"load\"")) {
        assert!(began.elapsed() < RUN_MAX, "the load does not begin");
        std::thread::sleep(LOOK_INTERVAL);
    }
    let folder = home.path().join("run/nodes/n2");
    let of_n2 = processes_with_argument("-serial").into_iter().find(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&*folder.to_string_lossy())
    });
    kill(Pid::from_raw(of_n2.expect("n2 has a process")), Signal::SIGKILL).unwrap();
    let run = run.finish_within(RUN_MAX);
    assert_eq!(run.code, Some(2), "{}", run.output());
    let said = run.output();
    assert!(said.contains("the hypervisor of n2 has ended, not its node: signal 9"), "{said}");
}

#[test]
fn machines_are_cut_off_paused_and_switched_off_and_pass_with_every_receipt() {
    let Some((_turn, home)) = machines() else { return };
    let run = run_machines(home.path(), STORY, &[]);
    assert_eq!(run.code, Some(0), "{}", run.output());
    let report = run.report();
    let faults = report["record"]["faults"].as_array().unwrap();
    assert_eq!(faults.len(), 4);
    for fault in faults {
        let proofs = fault["proofs"].as_array().unwrap();
        assert!(!proofs.is_empty() && proofs.iter().all(|proof| proof["is_seen"] == true), "{fault}");
    }
    assert!(report["driver"].as_str().unwrap().starts_with("qemu with "), "{}", report["driver"]);
    assert!(report["replay"].as_str().unwrap().contains("--driver qemu"), "{}", report["replay"]);
    // The machine that lost its power booted twice, from the same disk; in the end every node was stopped by the button.
    let killed = faults[2]["touched"][0].as_u64().unwrap();
    for node in 0..3 {
        let lines = console(&run, &format!("n{}", node + 1));
        let boots_count = lines.iter().filter(|line| matches!(line, Line::Ready(_))).count();
        assert_eq!(boots_count, if node == killed { 2 } else { 1 }, "n{}", node + 1);
        let Some(Line::Exit(exit)) = lines.last() else { panic!("n{}: {lines:?}", node + 1) };
        assert_eq!(exit.node_exit.as_deref(), Some("code 0"), "n{}", node + 1);
    }
}

#[test]
fn machines_that_are_saved_and_put_back_lose_nothing_that_was_acknowledged() {
    let Some((_turn, home)) = machines() else { return };
    let run = run_machines(home.path(), &time_story(60), &[]);
    assert_eq!(run.code, Some(0), "{}", run.output());
    let report = run.report();
    let faults = report["record"]["faults"].as_array().unwrap();
    assert_eq!(faults.len(), 5);
    let out = faults.iter().find(|fault| fault["text"].as_str().unwrap().starts_with("rollback")).unwrap();
    let out = out["retired"][0].as_u64().unwrap();
    for node in 0..3 {
        let lines = console(&run, &format!("n{}", node + 1));
        // Whoever goes on from where it was does not boot.
        let boots_count = lines.iter().filter(|line| matches!(line, Line::Ready(_))).count();
        assert_eq!(boots_count, 1, "n{}", node + 1);
        let Some(Line::Exit(exit)) = lines.last() else { panic!("n{}: {lines:?}", node + 1) };
        let want = if node == out { Reason::PutBack } else { Reason::PowerButton };
        assert_eq!(exit.reason, want, "n{}", node + 1);
        assert!(!run.directory.join(format!("nodes/n{}/suspended", node + 1)).exists());
    }
}

#[test]
fn machine_that_is_not_suspended_put_back_wrong_or_cut_off_is_no_pass() {
    let Some((_turn, home)) = machines() else { return };
    let check = |fault: &str, sabotage: &str, unseen: &str| {
        let scenario = format!(
            "nodes: {{ count: 3 }}\nworkload: {{ rate: 60/s }}\nduration: 8s\nfaults:\n  - {fault}\nchecks: [linearizable]\n"
        );
        let run = run_machines(home.path(), &scenario, &["--sabotage", sabotage]);
        assert_eq!(run.code, Some(2), "{}", run.output());
        assert!(run.output().contains(unseen), "{}", run.output());
        fs::remove_dir_all(&run.directory).unwrap();
    };
    check(
        "{ at: 1s, for: 1s, suspend: n1 }",
        "ignore-suspends",
        "not seen that its machine was saved and was gone, first and last",
    );
    check(
        "{ at: 1s, by: 1s, rollback: n1 }",
        "ignore-rollbacks",
        "not seen that its node was the same and had forgotten what was committed",
    );
    check("{ at: 1s, for: 1s, clock: n1, step: 5s }", "ignore-clocks", "not seen that its clock jumped");
    check(
        "{ at: 1s, power_cut: n1, restart_after: 1s }",
        "ignore-power-cuts",
        "not seen that its disk lost something of what was not synced",
    );
}

#[test]
fn processes_are_refused_what_only_machines_can_have() {
    let Some((_turn, home)) = bench() else { return };
    let file = write_scenario(home.path(), "time", &time_story(60));
    let run = run(home.path(), "run", &[&file, "--driver", "process"], &[]);
    assert_eq!(run.code, Some(3), "{}", run.output());
    let want = "the scenario has the fault suspend, for which every node needs a machine of its own, and this driver has none: \
                take --driver qemu";
    assert!(run.stderr.contains(want), "{}", run.stderr);
    assert!(!run.directory.exists());
}

#[test]
fn machines_that_lose_their_power_under_writes_lose_nothing_that_was_acknowledged() {
    let Some((_turn, home)) = machines() else { return };
    let times = POWER_CUTS * rounds();
    let duration_s = 4 + 2 * times;
    let scenario = format!(
        "nodes: {{ count: 3 }}\nworkload: {{ rate: 60/s, mix: {{ read: 0, write: 80, cas: 20 }} }}\nduration: {duration_s}s\nfaults:\n  \
         - {{ at: 1s, kill: random, restart_after: 500ms, every: 1s, times: {times} }}\n\
         checks: [linearizable, durable, raft, {{ recovers: {{ within: 10s }} }}]\n"
    );
    let run = run_machines(home.path(), &scenario, &[]);
    assert_eq!(run.code, Some(0), "{}", run.output());
    let lines = (1..=3).flat_map(|node| console(&run, &format!("n{node}")));
    let boots = lines.filter(|line| matches!(line, Line::Ready(_))).count() as u64;
    assert_eq!(boots, 3 + times, "every machine that lost its power came back by itself");
}

/// Under one machine, and then under all of them at once; with `ASPEN_LONG` as often as the topology has it.
#[test]
fn machines_whose_disks_lose_what_was_not_flushed_keep_what_was_acknowledged() {
    let Some((_turn, home)) = machines() else { return };
    let whole = topology("power-cut").to_str().unwrap().to_owned();
    let (file, cuts) = if rounds() > 1 { (whole, 9) } else { (write_scenario(home.path(), "cuts", CUTS), 4) };
    for seed in 1..=rounds() {
        let seed = seed.to_string();
        let words = [file.as_str(), "--seed", &seed, "--driver", "qemu"];
        let run = Running::start(home.path(), &format!("cut-{seed}"), &words, &[]).finish_within(RUN_MAX);
        assert_eq!(run.code, Some(0), "seed {seed}: {}", run.output());
        let report = run.report();
        let faults = report["record"]["faults"].as_array().unwrap();
        assert_eq!(faults.len(), cuts);
        for fault in faults {
            let proofs = fault["proofs"].as_array().unwrap();
            let lost = proofs.iter().find(|proof| proof["what"] == LOST).unwrap();
            assert!(proofs.iter().all(|proof| proof["is_seen"] == true), "{fault}");
            let detail = lost["detail"].as_str().unwrap();
            assert!(!["lost 0 sectors", " 0 syncs"].iter().any(|none| detail.contains(none)), "{fault}");
        }
        let lines = (1..=3).flat_map(|node| console(&run, &format!("n{node}")));
        let boots = lines.filter(|line| matches!(line, Line::Ready(_))).count();
        assert_eq!(boots, 3 + faults.len(), "every machine that lost its power came back by itself");
    }
}

#[test]
fn power_cut_that_cuts_nothing_is_no_pass() {
    let Some((_turn, home)) = machines() else { return };
    let run = run_machines(home.path(), KILL, &["--sabotage", "ignore-kills"]);
    assert_eq!(run.code, Some(2), "{}", run.output());
    assert!(run.stdout.contains("NOT SEEN: a new incarnation serves"), "{}", run.output());
    let proofs = &run.report()["record"]["faults"][0]["proofs"];
    let restarted =
        proofs.as_array().unwrap().iter().find(|proof| proof["what"] == "a new incarnation serves");
    assert_eq!(restarted.unwrap()["is_seen"], false, "{proofs}");
}

/// Half of the initramfs is missing here, and its manifest knows: so the kernel finds no PID 1, and panics.
#[test]
fn machine_that_never_serves_is_told_with_the_end_of_its_console() {
    let Some((_turn, home)) = machines() else { return };
    let whole = image::ensure(&mut |_what_takes_long| {}).unwrap();
    let folder = home.path().join("image");
    fs::create_dir(&folder).unwrap();
    for name in ["bzImage", "vmlinux", "sbom.spdx.json"] {
        fs::copy(whole.folder().join(name), folder.join(name)).unwrap();
    }
    let bytes = fs::read(whole.folder().join("initramfs.cpio.zst")).unwrap();
    let half = &bytes[..bytes.len() / 2];
    fs::write(folder.join("initramfs.cpio.zst"), half).unwrap();
    let manifest = fs::read_to_string(whole.folder().join("manifest.json")).unwrap();
    let [old, new] = [&bytes, half].map(|bytes| of_bytes(bytes).to_string());
    let [old_bytes, new_bytes] = [&bytes, half].map(|bytes| format!("\"bytes\": {}", bytes.len()));
    assert!(manifest.contains(&old) && manifest.contains(&old_bytes), "{manifest}");
    fs::write(folder.join("manifest.json"), manifest.replace(&old, &new).replace(&old_bytes, &new_bytes))
        .unwrap();
    let run = run_machines(home.path(), KILL, &["--image", folder.to_str().unwrap()]);
    assert_eq!(run.code, Some(2), "{}", run.output());
    for want in ["ABORTED", "the trial machine ended before it served", "Kernel panic - not syncing"] {
        assert!(run.stdout.contains(want), "{want}: {}", run.output());
    }
}

/// No clock of an emulated machine counts its pauses, and so no lease confirms a read there. The topologies come with `ASPEN_LONG`,
/// since they take hours where machines are emulated: the stories above have each kind of fault in less time.
#[test]
fn leader_that_was_paused_reads_nothing_stale_and_every_topology_passes_on_machines() {
    let Some((_turn, home)) = machines() else { return };
    let run = run_machines(home.path(), LEASES, &[]);
    assert_eq!(run.code, Some(0), "{}", run.output());
    if run.report()["driver"] == "qemu with tcg" {
        let counted = "\n0 answers to reads and scans were confirmed by a lease\n";
        assert!(run.stdout.contains(counted), "{}", run.output());
    }
    let all = [TOPOLOGIES.as_slice(), &VOLUME_TOPOLOGIES, &MACHINE_TOPOLOGIES].concat();
    let names = all.iter().filter(|_| rounds() > 1);
    for (name, seed) in names.flat_map(|name| (1..=rounds()).map(move |seed| (name, seed))) {
        let (file, number) = (topology(name), seed.to_string());
        let words = [file.to_str().unwrap(), "--seed", &number, "--driver", "qemu"];
        let run = Running::start(home.path(), &format!("{name}-{seed}"), &words, &[]).finish_within(RUN_MAX);
        assert_eq!(run.code, Some(0), "{name}, seed {seed}: {}", run.output());
    }
}

#[test]
fn doctor_sees_that_an_emulated_guest_runs() {
    let Some((_turn, _home)) = machines() else { return };
    let output = Command::new(env!("CARGO_BIN_EXE_lab")).arg("doctor").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("driver   qemu, emulated   works  QEMU "), "{text}");
}

#[test]
fn host_without_qemu_is_told_which_command_gets_it() {
    let Some((_turn, home)) = bench() else { return };
    let file = write_scenario(home.path(), "story", KILL);
    let empty = [("PATH", home.path().to_str().unwrap())];
    let run_with = |driver: &str, name: &str| {
        run(home.path(), name, &[&file, "--seed", "1", "--driver", driver, "--quiet"], &empty)
    };
    let refused = run_with("qemu", "qemu");
    assert_eq!(refused.code, Some(3), "{}", refused.output());
    assert!(refused.stderr.contains("apt-get install qemu-system-x86"), "{}", refused.output());
    assert!(!refused.directory.exists(), "nothing is left of a run that did not begin");
    // Nobody asked for virtual machines: processes will do.
    let run = run_with("auto", "auto");
    assert_eq!(run.code, Some(0), "{}", run.output());
    assert_eq!(run.report()["driver"], "process");
}
