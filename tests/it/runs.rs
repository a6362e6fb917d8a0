//! Whole runs: real nodes, real faults, real verdicts.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use aspen_lab::runner::record::{FaultRecord, RunRecord};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::disks::has_volumes;
use crate::lab::{
    MACHINE_TOPOLOGIES, Run, Running, TOPOLOGIES, VOLUME_TOPOLOGIES, bench, processes_with_argument, rounds,
    run, topology, whole_bench, write_scenario,
};
use crate::verify::judged_again;

/// A cut that takes a few seconds.
const SHORT: &str = "nodes: { count: 3 }\nduration: 8s\nfaults:\n  \
                     - { at: 1s, for: 4s, partition: [[leader], [rest]] }\nchecks: [linearizable]\n";

/// The regions of three-regions' nodes.
const REGIONS: [&str; 5] = ["eu", "eu", "us", "us", "asia"];

#[track_caller]
fn row(run: &Run, name: &str, seed: u64) -> String {
    assert_eq!(run.code, Some(0), "{name}, seed {seed}: {}", run.output());
    // Judged by the same code as the report is written by.
    let record: RunRecord = serde_json::from_value(run.report()["record"].clone()).unwrap();
    let answered = record.counts.answered;
    assert!(answered >= 1_000, "{name}, seed {seed}: only {answered} operations answered");
    let faults = &record.faults;
    assert!(faults.iter().all(FaultRecord::has_receipt), "{name}, seed {seed}: {}", run.output());
    let lost = faults.iter().filter(|fault| fault.hit_leader_of_term.is_some());
    let elections = lost.clone().filter(|fault| record.election_after(fault).is_some()).count();
    assert_eq!(elections, lost.count(), "{name}, seed {seed}: {}", run.output());
    let hits = match name {
        // No fault of theirs costs a leader its office.
        "three-nodes" | "flapping" => 0..=0,
        "crash-storm" => 4..=4,
        "pause-leader" => 3..=3,
        "one-way-cut" | "blackout" | "lease-reads" | "two-networks" => 2..=2,
        // Besides the leader they aim at nodes that may lead.
        "rolling-restart" => 2..=5,
        "grow-and-shrink" => 1..=3,
        "power-cut" => 2..=7,
        _ => 1..=1,
    };
    assert!(hits.contains(&elections), "{name}, seed {seed}: {elections} faults cost a leader its office");
    if name == "lossy-wan" {
        let links = record.links.as_ref().unwrap();
        assert!(links.proofs.len() == 3 && links.has_receipt(), "{}", run.output());
    }
    if name == "lease-reads" {
        assert!(record.counts.by_lease >= Some(1_000), "{}", run.output());
    }
    if name == "three-regions" {
        // It is where it is wanted, is lost, and comes back.
        let leaders: Vec<&str> = record.leaders.iter().map(|seen| REGIONS[seen.node.position()]).collect();
        let is_back = leaders
            .iter()
            .position(|region| *region != "eu")
            .is_some_and(|lost| leaders[lost..].contains(&"eu"));
        assert!(is_back, "seed {seed}: {leaders:?} have led: {}", run.output());
    }
    if name == "left-behind" {
        assert!(snapshots_taken(&run.directory) >= 2, "{}", run.output());
    }
    format!("{name:<16} {seed:>4} {answered:>9} {:>7} {elections:>9}", faults.len())
}

/// How often a node was sent a snapshot, as the consoles have it.
fn snapshots_taken(directory: &Path) -> usize {
    let consoles =
        fs::read_dir(directory.join("nodes")).unwrap().map(|node| node.unwrap().path().join("console.log"));
    consoles.map(|console| fs::read_to_string(console).unwrap().matches("a snapshot is here").count()).sum()
}

#[test]
fn every_topology_passes_with_every_receipt() {
    let Some((_turn, home)) = whole_bench() else { return };
    let mut table = "scenario         seed  answered  faults elections\n".to_owned();
    // A file system of our own is something that a host may not have.
    let own: &[&str] = if has_volumes() { &VOLUME_TOPOLOGIES } else { &[] };
    let topologies = [&TOPOLOGIES[..], own].concat();
    let runs: Vec<(&str, u64)> =
        topologies.iter().flat_map(|name| (1..=rounds()).map(move |seed| (*name, seed))).collect();
    for pair in runs.chunks(2) {
        let running: Vec<Running> = pair
            .iter()
            .map(|(name, seed)| {
                let (file, number) = (topology(name), seed.to_string());
                let words = [file.to_str().unwrap(), "--seed", &number, "--quiet"];
                Running::start(home.path(), &format!("{name}-{seed}"), &words, &[])
            })
            .collect();
        for (run, (name, seed)) in running.into_iter().map(Running::finish).zip(pair) {
            writeln!(table, "{}", row(&run, name, *seed)).unwrap();
            judged_again(&run.directory);
            assert!(run.directory.join("junit.xml").is_file() && run.directory.join("verdict.txt").is_file());
        }
    }
    #[allow(clippy::print_stdout, reason = "the table is what one wants to see of this test")]
    {
        println!("{table}");
    }
}

/// A heartbeat that had to wait for its connection came too late once, and the connection was given up for that: one after the other.
/// Where nothing is written, a leader has nothing but heartbeats to know that it leads.
#[test]
fn leader_far_from_the_others_serves_reads_of_an_idle_cluster() {
    let Some((_turn, home)) = bench() else { return };
    let rest = "nodes: { count: 3 }\nlinks:\n  - { between: [n1, n2], latency: 45ms }\n  - { between: [n1, n3], latency: 45ms }\n  \
                - { between: [n2, n3], latency: 45ms }\nraft: { heartbeat: 200ms, election: 1500ms..3s }\n\
                workload: { rate: 40/s, mix: { read: 100, write: 0, cas: 0 } }\nduration: 8s\nchecks: [linearizable]\n";
    let file = write_scenario(home.path(), "far", rest);
    let run = run(home.path(), "run", &[&file, "--seed", "1", "--quiet"], &[]);
    assert_eq!(run.code, Some(0), "{}", run.output());
}

#[test]
fn every_file_of_topologies_is_run() {
    let entries = fs::read_dir(topology("three-nodes").parent().unwrap()).unwrap();
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut known: Vec<_> = [TOPOLOGIES.as_slice(), &VOLUME_TOPOLOGIES, &MACHINE_TOPOLOGIES]
        .concat()
        .iter()
        .map(|name| format!("{name}.yaml"))
        .collect();
    found.sort();
    known.sort();
    assert_eq!(found, known);
}

#[test]
fn two_runs_side_by_side_pass_and_equal_seeds_plan_the_same() {
    let Some((_turn, home)) = whole_bench() else { return };
    let file = write_scenario(home.path(), "short", SHORT);
    let runs: Vec<Running> = [("a", "5"), ("b", "5"), ("c", "6")]
        .iter()
        .map(|(name, seed)| Running::start(home.path(), name, &[&file, "--seed", seed, "--quiet"], &[]))
        .collect();
    let runs: Vec<Run> = runs.into_iter().map(Running::finish).collect();
    for run in &runs {
        assert_eq!(run.code, Some(0), "{}", run.output());
    }
    let plan = |run: &Run| fs::read_to_string(run.directory.join("plan.json")).unwrap();
    assert_eq!(plan(&runs[0]), plan(&runs[1]));
    assert_ne!(plan(&runs[0]), plan(&runs[2]));
}

#[test]
fn interrupted_run_is_judged_and_written() {
    let Some((_turn, home)) = bench() else { return };
    let file = write_scenario(home.path(), "interrupted", &SHORT.replace("8s", "60s"));
    let running = Running::start(home.path(), "run", &[&file, "--seed", "1"], &[]);
    running.await_event("receipt complete");
    let run = running.end_by_two(Signal::SIGHUP);
    assert_eq!(run.code, Some(2), "{}", run.output());
    assert!(run.stdout.contains("the run was ended early"), "{}", run.output());
    assert_eq!(run.report()["record"]["is_interrupted"], true);
    assert_eq!(run.status("linearizable"), "pass");
}

#[test]
fn run_that_is_interrupted_twice_ends_at_once() {
    let Some((_turn, home)) = bench() else { return };
    let file = write_scenario(home.path(), "impatient", &SHORT.replace("8s", "60s"));
    let running = Running::start(home.path(), "run", &[&file, "--seed", "1"], &[]);
    running.await_event("in force");
    let run = running.end_by_two(Signal::SIGINT);
    assert_eq!(run.code, Some(2), "{}", run.output());
    let want =
        format!("stopped at once, without a verdict; what the run left is in {}\n", run.directory.display());
    assert!(run.stderr.ends_with(&want), "{}", run.output());
}

/// The node that was paused once did not stop within its bound: QUIC took the pause for a round trip, and kept its closed
/// connections for three of those.
#[test]
fn interrupted_run_wakes_whom_it_has_paused() {
    let Some((_turn, home)) = bench() else { return };
    let rest = SHORT.replace("8s", "60s").replace("partition: [[leader], [rest]]", "pause: leader");
    let file = write_scenario(home.path(), "asleep", &rest.replace("for: 4s", "for: 50s"));
    let running = Running::start(home.path(), "run", &[&file, "--seed", "1"], &[]);
    running.await_event("in force");
    let run = running.interrupt();
    assert_eq!(run.code, Some(2), "{}", run.output());
    // It ended when it was asked to, like the others.
    assert_eq!(run.status("alive"), "pass", "{}", run.output());
    assert!(run.stdout.contains("NO RECEIPT: the run ended before the fault did"), "{}", run.output());
}

/// What the plan had killed was once taken for a node that had ended by itself, and a promise for broken.
#[test]
fn interrupted_run_does_not_blame_whom_it_has_killed() {
    let Some((_turn, home)) = bench() else { return };
    let fault = "{ at: 1s, kill: leader, restart_after: 50s }";
    let scenario =
        format!("nodes: {{ count: 3 }}\nduration: 60s\nfaults: [{fault}]\nchecks: [linearizable]\n");
    let file = write_scenario(home.path(), "dead", &scenario);
    let running = Running::start(home.path(), "run", &[&file, "--seed", "1"], &[]);
    running.await_event("ended by signal 9");
    let run = running.interrupt();
    assert_eq!(run.code, Some(2), "{}", run.output());
    assert_eq!(run.status("alive"), "pass", "{}", run.output());
    assert!(run.stdout.contains("NO RECEIPT: the run ended before the fault did"), "{}", run.output());
}

#[test]
fn node_that_dies_by_itself_fails_the_run_with_the_end_of_its_log() {
    let Some((_turn, home)) = bench() else { return };
    let file = write_scenario(home.path(), "death", &SHORT.replace("8s", "60s"));
    let running = Running::start(home.path(), "run", &[&file, "--seed", "1"], &[]);
    running.await_event("receipt complete");
    let config = running.directory().join("nodes/n2/node.toml");
    let node = *processes_with_argument(config.to_str().unwrap()).first().expect("the node runs");
    kill(Pid::from_raw(node), Signal::SIGABRT).unwrap();
    let run = running.finish();
    assert_eq!(run.code, Some(1), "{}", run.output());
    assert_eq!(run.status("alive"), "fail");
    assert!(run.stdout.contains("n2 ended by itself with signal 6 (SIGABRT)"), "{}", run.output());
    assert!(run.stdout.contains("INFO aspen_node::run: ready"), "the end of its log: {}", run.output());
}

#[test]
fn what_is_wrong_is_said_before_anything_starts() {
    let home = tempfile::tempdir().unwrap();
    let good = write_scenario(home.path(), "good", SHORT);
    let check = |name: &str, words: &[&str], code: i32, want: &str| {
        let run = run(home.path(), name, words, &[]);
        assert_eq!(run.code, Some(code), "{}", run.output());
        assert!(run.stderr.contains(want), "{want:?} in {}", run.output());
        assert!(!run.directory.join("nodes").exists(), "nothing was started");
    };
    let all = write_scenario(
        home.path(),
        "bad",
        "nodes: { count: 3 }\nfaults:\n  \
        - { at: 1, for: 4s, partition: [[leader, n1, n2, n3]] }\n  - { at: 1s, kill: n9, restart_after: 1s }\n",
    );
    check("all", &[&all], 64, "bad.yaml:5:11: ");
    check("all", &[&all], 64, "bad.yaml:6:");
    let missing = home.path().join("missing.yaml");
    check("missing", &[missing.to_str().unwrap()], 64, "because: No such file or directory");
    check("driver", &[&good, "--driver", "magic"], 64, "magic");
    check("no-program", &[&good, "--node-bin", "/does/not/exist"], 64, "is not a node's program");
    let old = home.path().join("old-node");
    fs::write(&old, "#!/bin/sh\necho aspen-node 0.0.1\n").unwrap();
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).unwrap();
    let want = "says it is `aspen-node 0.0.1`, `aspen-node 0.1.0` is needed";
    check("other-version", &[&good, "--node-bin", old.to_str().unwrap()], 64, want);
    fs::create_dir(home.path().join("taken")).unwrap();
    check("taken", &[&good], 64, "exists: --out names a directory that the lab makes");
    check("good.yaml/below", &[&good], 64, "cannot write");
}
