//! Both fabrics: links do what is asked of them, runs pass on either and leave receipts, and what a host lacks is told before
//! anything starts.

#![allow(clippy::disallowed_methods, reason = "a test starts the program that it tests")]

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value as Json;

use crate::host;
use crate::lab::{
    Run, Running, TOPOLOGIES, bench, rounds, run, topology, whole_bench, whole_turn, write_scenario,
};

/// The exit code of a host that lacks something.
const REFUSED: i32 = 3;

/// A run in an emulated host, beside compilers.
const RUN_MAX: Duration = Duration::from_mins(10);

/// Every kind of link and both of its ends: one that nothing is done to comes first and last.
const ROWS_COUNT: usize = 15;

fn lab(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lab")).args(words).output().unwrap()
}

#[track_caller]
fn expect_conformance(checked: &Output) {
    let (stdout, stderr) =
        (String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
    assert_eq!(checked.status.code(), Some(0), "{stdout}\n{stderr}");
    let rows: Vec<Json> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), ROWS_COUNT, "{stdout}");
    for row in &rows {
        assert_eq!(row["complaints"], Json::Array(vec![]), "{row}");
    }
    let cut = rows.iter().find(|row| row["asked"] == "cut").unwrap();
    assert_eq!(cut["measured"], "0 of 200 arrived");
}

#[test]
fn links_of_the_switch_do_what_is_asked_of_them() {
    let Some(_turn) = whole_bench() else { return };
    expect_conformance(&lab(&["fabric-check", "--fabric", "switch", "--json"]));
}

/// In a guest that is a complete host, where this one lacks netem.
#[test]
fn links_of_the_kernels_fabric_do_what_is_asked_of_them() {
    let Some(bench) = whole_bench() else { return };
    let here = lab(&["fabric-check", "--fabric", "kernel", "--json"]);
    if here.status.code() != Some(REFUSED) {
        return expect_conformance(&here);
    }
    let refusal = String::from_utf8_lossy(&here.stderr).into_owned();
    assert!(refusal.contains("this host has no "), "{refusal}");
    drop(bench);
    if host::qemu().is_none() || host::program(&["mke2fs"]).is_none() {
        return host::lacks("qemu", &refusal);
    }
    let _turn = whole_turn();
    expect_conformance(&lab(&["rig", "fabric-check", "--fabric", "kernel", "--json"]));
}

/// Runs three nodes on the kernel's fabric, with this fault; none where this host has no such fabric.
fn on_the_kernels_fabric(name: &str, fault: &str, more: &[&str]) -> Option<Run> {
    let (_turn, home) = bench()?;
    let rest = format!(
        "nodes: {{ count: 3 }}\nduration: 12s\nfaults:\n  - {fault}\nchecks: [linearizable, {{ recovers: {{ within: 8s }} }}]\n"
    );
    let file = write_scenario(home.path(), name, &rest);
    let words = [&[file.as_str(), "--seed", "1", "--fabric", "kernel", "--quiet"], more].concat();
    let run = run(home.path(), "run", &words, &[]);
    if run.code == Some(REFUSED) && run.stderr.contains("this host has no ") {
        assert!(!run.directory.exists(), "nothing is left of a run that did not begin");
        host::lacks("bridge", &run.stderr);
        return None;
    }
    // The directory goes with this function.
    if run.directory.exists() {
        assert_eq!(run.report()["fabric"], "kernel");
    }
    Some(run)
}

const PARTITION: &str = "{ at: 1s, for: 3s, partition: [[leader], [rest]] }";

#[test]
fn partition_on_the_kernels_fabric_passes_with_its_receipt() {
    let Some(run) = on_the_kernels_fabric("partition", PARTITION, &[]) else { return };
    assert_eq!(run.code, Some(0), "{}", run.output());
    let replay = run.stdout.lines().next().unwrap_or_default();
    assert!(replay.ends_with(" --seed 1 --driver process --fabric kernel"), "{replay}");
    assert!(run.stdout.contains("3 nodes (process on the kernel's fabric)"), "{}", run.output());
    for seen in ["before it, a probe over every link was answered", "frames dropped on 4 links, 0 delivered"]
    {
        assert!(run.stdout.contains(seen), "{seen}: {}", run.output());
    }
}

#[test]
fn cut_that_cuts_nothing_on_the_kernels_fabric_is_no_pass() {
    let sabotage = ["--sabotage", "ignore-cuts"];
    let Some(run) = on_the_kernels_fabric("sabotaged", PARTITION, &sabotage) else { return };
    assert_eq!(run.code, Some(2), "{}", run.output());
    for unseen in
        ["during it, no probe over any link was answered", "every cut link swallowed at least one frame"]
    {
        assert!(run.stdout.contains(&format!("NOT SEEN: {unseen}")), "{unseen}: {}", run.output());
    }
}

#[test]
fn what_would_leave_no_receipt_on_the_kernels_fabric_is_refused_before_anything_starts() {
    let fault = "{ at: 1s, for: 3s, link: { between: [n1, n2], corrupt: 5% } }";
    let Some(run) = on_the_kernels_fabric("corrupt", fault, &[]) else { return };
    assert_eq!(run.code, Some(REFUSED), "{}", run.output());
    let want = "the kernel does not count what `corrupt` does to frames, so that it would leave no receipt: take --fabric switch";
    assert!(run.stderr.contains(want), "{}", run.stderr);
    assert!(!run.directory.exists(), "nothing is left of a run that did not begin");
}

/// One topology over links with latency and losses where this host has netem; with `ASPEN_LONG` every one, and in a guest that is a
/// complete host, where this one lacks it.
#[test]
fn topologies_pass_on_the_kernels_fabric() {
    let Some((_turn, home)) = whole_bench() else { return };
    for name in TOPOLOGIES.iter().filter(|name| rounds() > 1 || **name == "lossy-wan") {
        let file = topology(name);
        let words = [file.to_str().unwrap(), "--seed", "1", "--fabric", "kernel", "--quiet"];
        let mut run = run(home.path(), name, &words, &[]);
        if run.code == Some(REFUSED) {
            if rounds() == 1 {
                return host::lacks("netem", &run.stderr);
            }
            if host::qemu().is_none() || host::program(&["mke2fs"]).is_none() {
                return host::lacks("qemu", &run.stderr);
            }
            run = Running::start_below(home.path(), name, &["rig"], &words, &[]).finish_within(RUN_MAX);
        }
        assert_eq!(run.code, Some(0), "{name}: {}", run.output());
        assert_eq!(run.report()["fabric"], "kernel", "{name}");
    }
}

/// The same fault on both, as far as this host can: what is asked of links means the same on either.
#[test]
fn doubled_and_limited_frames_leave_their_receipts_on_the_switch() {
    let Some((_turn, home)) = bench() else { return };
    let rest = "nodes: { count: 3 }\nduration: 10s\nfaults:\n  - { at: 1s, for: 5s, link: { between: [leader, rest], \
                latency: 20ms, duplicate: 20%, reorder: 10%, corrupt: 5%, rate: 10Mbit/s } }\nchecks: [linearizable]\n";
    let file = write_scenario(home.path(), "unreliable", rest);
    let run = run(home.path(), "run", &[&file, "--seed", "1", "--quiet"], &[]);
    assert_eq!(run.code, Some(0), "{}", run.output());
    for what in ["doubled", "let overtake", "changed"] {
        let receipt = format!("receipt: the links {what} the very frames that the seed says");
        assert!(run.stdout.contains(&receipt), "{receipt}: {}", run.output());
    }
}
