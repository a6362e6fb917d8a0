//! `lab bench`, beside etcd: that it measures, and what it says where etcd is missing.
#![allow(clippy::disallowed_methods, reason = "a test starts the program that it tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::host;
use crate::lab::whole_turn;

fn bench(folder: &Path, path: Option<&str>, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.arg("bench").args(words).current_dir(folder);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    command.output().unwrap()
}

#[test]
fn both_systems_are_measured_and_nothing_is_left() {
    if host::program(&["etcd"]).is_none() {
        return host::lacks("etcd", "etcd (apt-get install etcd-server)");
    }
    let (_turn, home) = (whole_turn(), tempfile::tempdir().unwrap());
    let short =
        ["--versus", "etcd", "--rounds", "1", "--seconds", "1", "--clients", "2", "--keys", "100", "--json"];
    let output = bench(home.path(), None, &short);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rounds = results["rounds"].as_array().unwrap();
    for interface in ["aspen_http", "etcd_gateway", "etcd_grpc"] {
        let [round] = &rounds.iter().filter(|round| round["interface"] == interface).collect::<Vec<_>>()[..]
        else {
            panic!("{results:#}");
        };
        for (figure, work) in round["figures"].as_array().unwrap().iter().zip(["put", "get", "stale"]) {
            let rate = figure["operations_per_s"].as_f64().unwrap();
            // Slow as a test host may be: a client that is only refused would have no rate.
            assert!(rate > 1.0 && figure["failures"] == json!({}), "{figure}");
            assert_eq!((&figure["work"], &figure["clients"]), (&json!(work), &json!(2)));
        }
    }
    assert_eq!(rounds.len(), 3);
    if host::program(&["strace"]).is_some() {
        let syncs = results["syncs"].as_array().unwrap();
        let of: Vec<_> = syncs.iter().map(|syncs| (&syncs["interface"], &syncs["clients"])).collect();
        let want = ["aspen_http", "etcd_gateway", "etcd_grpc"].map(|interface| (json!(interface), json!(2)));
        assert_eq!(of, want.each_ref().map(|(interface, clients)| (interface, clients)));
        // Two writes share a sync at most, and a quorum is two members of three.
        let is_durable = |syncs: &Value| syncs["per_1000"].as_f64().is_some_and(|syncs| syncs > 300.0);
        assert!(syncs.iter().all(is_durable), "{syncs:#?}");
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "the folder of the benchmark is left");
}

#[test]
fn what_is_missing_is_named_with_the_command_that_gets_it() {
    let home = tempfile::tempdir().unwrap();
    let output = bench(home.path(), Some("/nonexistent"), &["--versus", "etcd"]);
    assert_eq!(output.status.code(), Some(3));
    let want = "lab: etcd is not on the search path: apt-get install etcd-server\n";
    assert_eq!(String::from_utf8(output.stderr).unwrap(), want);
}

#[test]
fn syncs_are_not_counted_where_strace_is_missing_and_everything_else_is_measured() {
    let (_turn, home) = (whole_turn(), tempfile::tempdir().unwrap());
    let short = ["--rounds", "1", "--seconds", "1", "--clients", "1", "--work", "put", "--keys", "10"];
    let output = bench(home.path(), Some("/nonexistent"), &short);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let want = "\nfsyncs of each member for 1000 writes: not measured: strace is not installed\n";
    assert!(text.contains(want), "{text}");
}

/// A slow disk is a program around each node, and neither of them is left.
#[test]
fn nodes_on_a_slow_disk_end_with_the_benchmark() {
    if host::program(&["strace"]).is_none() {
        return host::lacks("etcd", "strace (apt-get install strace)");
    }
    let (_turn, home) = (whole_turn(), tempfile::tempdir().unwrap());
    let slow =
        ["--fsync-delay-ms", "20", "--rounds", "1", "--seconds", "1", "--clients", "1", "--work", "put"];
    let output = bench(home.path(), None, &[&slow[..], &["--keys", "10", "--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let figure = &results["rounds"][0]["figures"][0];
    // A write needs a sync of the leader and one of a follower, which go on at once.
    assert!(figure["p50_us"].as_u64().unwrap() > 20_000, "{figure}");
    let folder = home.path().to_str().unwrap();
    let left = fs::read_dir("/proc").unwrap().flatten().filter_map(|process| {
        let line = fs::read(process.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(folder).then_some(line)
    });
    assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new());
}

/// The leader goes in both ways, and somebody else leads on.
#[test]
fn outages_are_measured_while_the_leader_goes() {
    let (_turn, home) = (whole_turn(), tempfile::tempdir().unwrap());
    let output = bench(home.path(), None, &["--outages", "2", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let outages = results["outages"].as_array().unwrap();
    let of = |end: &str| {
        let of_it = outages.iter().filter(|outage| outage["end"] == end);
        of_it.map(|outage| outage["longest_us"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let (restarts, kills) = (of("restart"), of("kill"));
    assert_eq!((restarts.len(), kills.len()), (2, 2), "{results:#}");
    // Nobody is elected sooner after the last word of a leader that dies.
    assert!(kills.iter().all(|us| *us > 500_000), "{kills:?}");
    assert!(
        restarts.iter().chain(&kills).all(|us| *us < 20_000_000),
        "an outage that does not end: {restarts:?}, {kills:?}"
    );
}

/// Snapshots are built and sent while a client writes, and every step leaves its figures.
#[test]
fn large_state_is_measured_from_its_restart_to_a_new_member() {
    let (_turn, home) = (whole_turn(), tempfile::tempdir().unwrap());
    let output = bench(home.path(), None, &["--state-mib", "64", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let state = &results["state"];
    let number = |path: &str| {
        state.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path}: {results:#}"))
    };
    let bytes = number("/value_bytes");
    assert!(bytes >= 64 << 20 && number("/keys") > 1_000, "{results:#}");
    // Nothing makes it smaller: what is measured is as large as it is said to be.
    for file in ["/disk/state_bytes", "/disk/snapshot_bytes"] {
        assert!(number(file) >= bytes, "{file}: {results:#}");
    }
    let ends: Vec<&Value> =
        state["restarts"].as_array().unwrap().iter().map(|restart| &restart["end"]).collect();
    assert_eq!(ends, ["restart", "kill"]);
    for step in ["build", "quiet", "ship"] {
        let (took, longest) =
            (number(&format!("/{step}/took_us")), number(&format!("/{step}/longest_pause_us")));
        assert!(longest > 0 && longest <= took, "{step}: {results:#}");
    }
    assert!(number("/quiet/writes") > 0, "{results:#}");
    for process in ["build_leader", "ship_leader", "ship_newcomer"] {
        let [before, most] = ["before", "most"].map(|when| number(&format!("/{process}/{when}/rss_bytes")));
        // A process that does it all in memory has the whole state there.
        assert!(before > 1 << 20 && before <= most && most - before < bytes, "{process}: {results:#}");
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "the folder of the benchmark is left");
}

#[test]
fn large_state_is_a_benchmark_of_its_own_and_not_too_small() {
    let home = tempfile::tempdir().unwrap();
    for (words, want) in [
        (&["--state-mib", "64", "--versus", "etcd"][..], "cannot be used with"),
        (&["--state-mib", "63"][..], "63 is not in 64..=65536"),
    ] {
        let output = bench(home.path(), None, words);
        assert_eq!(output.status.code(), Some(64));
        let words = String::from_utf8(output.stderr).unwrap();
        assert!(words.contains(want), "{words}");
    }
}
