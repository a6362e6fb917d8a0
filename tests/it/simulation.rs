//! Runs that need no host: the nodes are in the lab's own process, on virtual time, and the seed decides about everything.

#![allow(clippy::disallowed_methods, reason = "a test starts the program that it tests")]

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::lab::{Run, Running, TOPOLOGIES, rounds, run, topology, write_scenario};
use crate::verify::judged_again;

/// What the simulation does not know.
const NOT_SIMULATED: [&str; 4] = ["lease-reads", "self-healing", "three-regions", "two-networks"];

#[track_caller]
fn passes(run: &Run, name: &str) {
    assert_eq!(run.code, Some(0), "{name}: {}", run.output());
    let answered = run.report()["record"]["counts"]["answered"].as_u64().unwrap();
    assert!(answered >= 1_000, "{name}: only {answered} operations answered");
    judged_again(&run.directory);
}

#[test]
fn every_topology_that_can_be_simulated_passes() {
    let home = tempfile::tempdir().unwrap();
    let simulated = TOPOLOGIES.iter().filter(|name| !NOT_SIMULATED.contains(name));
    let runs: Vec<(&str, u64)> =
        simulated.flat_map(|name| (1..=rounds()).map(move |seed| (*name, seed))).collect();
    for (name, seed) in runs {
        let (file, number) = (topology(name), seed.to_string());
        let words = [file.to_str().unwrap(), "--driver", "sim", "--seed", &number, "--quiet"];
        passes(&run(home.path(), &format!("{name}-{seed}"), &words, &[]), name);
    }
}

/// Everything that can happen to a node or a link, in as little time as it takes.
const STORY: &str = "nodes: { count: 5 }\nduration: 25s\nraft: { snapshot_entries: 100 }\n\
    links: [{ between: [n1, n2], latency: 20ms, jitter: 5ms }]\nfaults:\n  \
    - { at: 1s, for: 4s, partition: [[leader], [rest]] }\n  \
    - { at: 6s, kill: leader, restart_after: 2s }\n  \
    - { at: 7s, for: 3s, link: { from: follower, to: leader, loss: 20%, duplicate: 10% } }\n  \
    - { at: 12s, for: 3s, pause: leader }\n  \
    - { at: 13s, kill: follower, restart_after: 1s }\n  \
    - { at: 17s, restart: follower, restart_after: 1s }\n  \
    - { at: 17s, for: 3s, link: { between: [leader, rest], latency: 10ms, rate: 2Mbit/s, reorder: 5%, corrupt: 3% } }\n\
    checks: [linearizable, durable, raft, { recovers: { within: 10s } }]\n";

/// The bytes that a run has left of what has happened.
fn happened(directory: &Path) -> [Vec<u8>; 5] {
    ["plan.json", "history.jsonl", "observations.jsonl", "events.jsonl", "nodes/n1/console.log"]
        .map(|name| fs::read(directory.join(name)).unwrap())
}

#[test]
fn same_seed_makes_the_same_run_and_another_one_another() {
    let home = tempfile::tempdir().unwrap();
    let file = write_scenario(home.path(), "story", STORY);
    let start = |name: &str, seed: &str| {
        Running::start(home.path(), name, &[&file, "--driver", "sim", "--seed", seed], &[])
    };
    // Side by side, so that they are not equally fast.
    let runs = [start("one", "1"), start("again", "1"), start("other", "2")].map(Running::finish);
    let [one, again, other] = &runs;
    for run in &runs {
        passes(run, "story");
    }
    assert!(happened(&one.directory) == happened(&again.directory), "{}", one.output());
    assert!(happened(&one.directory)[1] != happened(&other.directory)[1]);
    let verdict = |run: &Run| fs::read_to_string(run.directory.join("verdict.txt")).unwrap();
    assert_eq!(verdict(one), verdict(again));
}

#[test]
fn faults_that_do_nothing_are_no_pass_in_a_simulation_either() {
    let home = tempfile::tempdir().unwrap();
    let cases = [
        (
            "ignore-cuts",
            "for: 3s, partition: [[leader], [rest]]",
            "every cut link swallowed at least one frame",
        ),
        ("ignore-latency", "for: 3s, link: { between: [n1, n2], latency: 30ms }", "round trips took longer"),
        ("ignore-loss", "for: 3s, link: { between: [n1, n2], loss: 9% }", "the links lost the very frames"),
        ("ignore-pauses", "for: 2s, pause: follower", "the process was stopped, first and last"),
        ("ignore-kills", "kill: follower, restart_after: 1s", "a new incarnation serves"),
    ];
    for (sabotage, fault, unseen) in cases {
        let rest = format!(
            "nodes: {{ count: 3 }}\nduration: 8s\nfaults: [{{ at: 1s, {fault} }}]\nchecks: [linearizable]\n"
        );
        let file = write_scenario(home.path(), sabotage, &rest);
        let words = [&file, "--driver", "sim", "--seed", "1", "--sabotage", sabotage, "--quiet"];
        let run = run(home.path(), &format!("{sabotage}-run"), &words, &[]);
        assert!(run.stdout.contains(&format!("NOT SEEN: {unseen}")), "{sabotage}: {}", run.output());
        assert_eq!(
            (run.code, &*run.status("receipts")),
            (Some(2), "invalid"),
            "{sabotage}: {}",
            run.output()
        );
    }
}

#[test]
fn simulated_run_ends_when_it_is_told_to_though_a_node_stands_still() {
    let home = tempfile::tempdir().unwrap();
    let rest =
        "nodes: { count: 3 }\nfaults: [{ at: 1s, for: 50m, pause: follower }]\nchecks: [linearizable]\n";
    let file = write_scenario(home.path(), "long", rest);
    let running = Running::start(home.path(), "long-run", &[&file, "--driver", "sim", "--seed", "1"], &[]);
    running.await_event("in force");
    let run = running.interrupt();
    assert_eq!(run.code, Some(2), "{}", run.output());
    assert_eq!(run.status("linearizable"), "pass", "{}", run.output());
    let console = fs::read_to_string(run.directory.join("nodes/n1/console.log")).unwrap();
    assert!(console.lines().count() > 0, "{}", run.output());
}

/// A link on which more waits than its queue holds is not shut for good.
#[test]
fn link_that_was_too_slow_for_what_was_sent_recovers() {
    let home = tempfile::tempdir().unwrap();
    let rest = "nodes: { count: 3 }\nduration: 40s\nfaults:\n  \
                - { at: 1s, for: 15s, link: { between: [leader, rest], latency: 400ms, rate: 100kbit/s } }\n\
                checks: [linearizable, durable, { recovers: { within: 10s } }]\n";
    let file = write_scenario(home.path(), "narrow", rest);
    for seed in ["1", "2", "3"] {
        let words = [&file, "--driver", "sim", "--seed", seed, "--quiet"];
        passes(&run(home.path(), &format!("narrow-{seed}"), &words, &[]), "narrow");
    }
}

#[test]
fn what_cannot_be_simulated_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let check = |name: &str, words: &[&str], code: i32, want: &str| {
        let file = topology(name);
        let words = [&[file.to_str().unwrap(), "--driver", "sim"], words].concat();
        let refused = run(home.path(), "refused", &words, &[]);
        assert_eq!(refused.code, Some(code), "{name}: {}", refused.output());
        assert!(refused.stderr.contains(want), "{name}: {}", refused.output());
        assert!(!refused.directory.exists());
    };
    for name in NOT_SIMULATED {
        check(name, &[], 3, "which the simulation does not know: take --driver process");
    }
    check("suspend-leader", &[], 3, "take --driver qemu");
    check("power-cut", &[], 3, "take --driver process");
    check("three-nodes", &["--fabric", "kernel"], 64, "--fabric kernel is of no use to --driver sim");
    check("three-nodes", &["--node-bin", "/bin/true"], 64, "--node-bin is of no use to --driver sim");
}

#[test]
fn simulated_cluster_is_none_to_work_on_by_hand() {
    let file = topology("three-nodes");
    let words = ["up", file.to_str().unwrap(), "--driver", "sim"];
    let refused = Command::new(env!("CARGO_BIN_EXE_lab")).args(words).output().unwrap();
    assert_eq!(refused.status.code(), Some(64));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("the driver sim is on virtual time, in which nobody can type"), "{said}");
}

#[test]
fn exploration_counts_what_passes_and_keeps_what_does_not() {
    let home = tempfile::tempdir().unwrap();
    let explore = |name: &str, rest: &str, words: &[&str]| {
        let file = write_scenario(home.path(), name, rest);
        let out = home.path().join(format!("{name}-runs"));
        let explored = Command::new(env!("CARGO_BIN_EXE_lab"))
            .args(["explore", &file, "--out", out.to_str().unwrap()])
            .args(words)
            .output()
            .unwrap();
        (explored.status.code(), String::from_utf8(explored.stdout).unwrap(), out)
    };
    let healthy = "nodes: { count: 3 }\nduration: 2s\nchecks: [linearizable]\n";
    let (code, said, out) = explore("healthy", healthy, &["--seeds", "5..8", "--jobs", "2"]);
    assert_eq!(code, Some(0), "{said}");
    let lines: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    let seeds: Vec<&str> = lines[1..5].iter().map(|line| line[1]).collect();
    assert_eq!((seeds, lines[1][2]), (vec!["5", "6", "7", "8"], "PASS"), "{said}");
    assert!(said.contains("4 runs in ") && said.ends_with(": 4 PASS\n"), "{said}");
    assert!(!out.exists());
    // No cluster elects a leader that quickly.
    let hasty = "nodes: { count: 3 }\nduration: 8s\nfaults: [{ at: 1s, kill: leader, restart_after: 1s }]\n\
                 checks: [linearizable, { recovers: { within: 100ms } }]\n";
    let (code, said, out) = explore("hasty", hasty, &["--seeds", "3"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("seed 3") && said.contains("FAIL") && said.contains("\n    recovers: "), "{said}");
    assert!(out.join("seed-3").join("report.html").is_file());
    let (code, said, _) = explore("bad", healthy, &["--seeds", "8..5"]);
    assert_eq!((code, said.as_str()), (Some(64), ""));
}
