//! The power of the checks: `lab selftest` with the planted node, and what it says without one.
#![allow(clippy::disallowed_methods, reason = "a test builds and starts what it tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::lab::{bench, rounds, whole_bench};
use crate::programs::planted_node;
use crate::verify::judged_again;

fn selftest(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lab")).arg("selftest").args(words).output().unwrap()
}

/// What a check has found in a run's report: its details.
fn found(run: &Path, check: &str) -> Json {
    let report: Json = serde_json::from_str(&fs::read_to_string(run.join("report.json")).unwrap()).unwrap();
    let verdicts = report["verdicts"].as_array().unwrap();
    let said = |check: &str| verdicts.iter().find(|verdict| verdict["check"] == check).unwrap();
    assert_eq!(said("receipts")["status"], "pass", "{}", run.display());
    assert_eq!(report["node_version"], "0.1.0 (planted bugs)");
    said(check)["details"].clone()
}

#[test]
fn every_planted_bug_is_caught_by_name_and_the_sound_node_passes() {
    let Some((_turn, home)) = whole_bench() else { return };
    let (node, out, runs) = (planted_node(), home.path().join("selftest"), rounds().to_string());
    let output = selftest(&[
        "--runs",
        &runs,
        "--jobs",
        "2",
        "--node-bin",
        node.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let said = format!("{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    let rows = [
        ("stale-read", "leader-isolated", "linearizable"),
        ("ack-before-quorum", "leader-isolated", "linearizable"),
        ("cas-ignores-expected", "three-nodes", "linearizable"),
        ("lost-delete", "three-nodes", "linearizable"),
        ("scan-skips", "three-nodes", "linearizable"),
        ("watch-skips", "three-nodes", "state machine safety"),
        ("lease-unchecked", "lease-reads", "linearizable"),
        ("bound-unchecked", "three-regions", "bounded_staleness"),
        ("vote-not-persisted", "blackout", "durable vote"),
        ("apply-twice-after-restart", "left-behind", "state machine safety"),
        ("snapshot-drops-tail", "left-behind", "state machine safety"),
    ];
    for (bug, scenario, promise) in rows {
        let row = stdout.lines().find(|line| line.starts_with(bug)).unwrap();
        assert!(row.contains(scenario) && row.contains(&format!("{runs} of {runs}")), "{said}");
        for seed in 1..=rounds() {
            let run = out.join(format!("{bug}-{scenario}-{seed}"));
            judged_again(&run);
            if ["linearizable", "bounded_staleness"].contains(&promise) {
                // Which operations conflict, of which key.
                let violation = &found(&run, promise)["violations"][0];
                let operations = violation["operations"].as_array().unwrap();
                assert!(operations.len() >= 2 && violation["is_minimal"] == true, "{violation:#}");
            } else {
                let findings = found(&run, "raft")["findings"].clone();
                let promises = findings.as_array().unwrap().iter().map(|finding| &finding["promise"]);
                assert!(promises.into_iter().any(|named| named == promise), "{bug}: {findings:#}");
            }
        }
    }
    assert_eq!(stdout.lines().filter(|line| line.contains(" passed ")).count(), 6, "{said}");
    #[allow(clippy::print_stdout, reason = "the table is what one wants to see of this test")]
    {
        println!("{stdout}");
    }
}

#[test]
fn selftest_without_a_planted_node_says_how_to_get_one() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("selftest");
    let output = selftest(&["--out", out.to_str().unwrap()]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    let want = "lab: aspen-node 0.1.0 has no planted bugs: run `cargo run --release -p aspen-lab --features \
                planted-bugs --bin lab -- selftest`, or name a node that has them with --node-bin\n";
    assert_eq!(stderr, want);
    assert!(!out.exists(), "nothing was done, and nothing is left");

    let output = selftest(&["--bug", "stale-reed"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    assert!(
        stderr.contains("[possible values: stale-read, ack-before-quorum, cas-ignores-expected, "),
        "{stderr}"
    );
    let output = selftest(&["--runs", "0"]);
    assert_eq!(output.status.code(), Some(64));
}

/// A node that is asked for a bug which it does not have would look like a sound one that was caught at nothing.
#[test]
fn bug_without_a_planted_node_is_refused_by_node_and_lab() {
    let home = tempfile::tempdir().unwrap();
    let lab = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.args(words).env("ASPEN_PLANT", "stale-read").current_dir(home.path()).output().unwrap()
    };
    let node = lab(&[aspen_lab::cli::NODE_PART, "--id", "1"]);
    let stderr = String::from_utf8(node.stderr).unwrap();
    assert_eq!(node.status.code(), Some(64), "{stderr}");
    assert!(
        stderr.contains("ASPEN_PLANT is set to `stale-read`, but this program has no planted bugs"),
        "{stderr}"
    );
    let scenario = crate::lab::topology("three-nodes");
    let run = lab(&["run", scenario.to_str().unwrap(), "--out", "run"]);
    let stderr = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(64), "{stderr}");
    assert!(stderr.contains("ASPEN_PLANT is set, but aspen-node 0.1.0 has no planted bugs"), "{stderr}");
    assert!(!home.path().join("run").exists());
}

/// Everything that a run starts lives below it, and it lives below the selftest.
#[test]
fn killed_selftest_takes_its_run_along() {
    let Some((_turn, home)) = bench() else { return };
    let (node, out) = (planted_node(), home.path().join("selftest"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["selftest", "--bug", "cas-ignores-expected", "--node-bin", node.to_str().unwrap(), "--out"])
        .arg(&out)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let alive = || crate::lab::processes_with_argument(out.join("sound-three-nodes-1").to_str().unwrap());
    await_that("a run", deadline, || out.join("sound-three-nodes-1/nodes/n1/console.log").is_file());
    assert!(!alive().is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    await_that("the end of the run", deadline, || alive().is_empty());
}

#[track_caller]
fn await_that(what: &str, deadline: Instant, is_so: impl Fn() -> bool) {
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}
