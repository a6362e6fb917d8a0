//! `lab bench`, beside etcd: that it measures, and what it says where etcd is missing.
#![allow(clippy::disallowed_methods, reason = "a test starts the program that it tests")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::host;
use crate::lab::turn;

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
    let (_turn, home) = (turn(), tempfile::tempdir().unwrap());
    let short = ["--versus", "etcd", "--rounds", "1", "--seconds", "1", "--clients", "2", "--json"];
    let output = bench(home.path(), None, &short);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let figures = results["figures"].as_array().unwrap();
    for interface in ["aspen_http", "etcd_gateway", "etcd_grpc"] {
        for work in ["put", "get", "stale"] {
            let is_it = |figure: &&Value| figure["interface"] == interface && figure["work"] == work;
            let figure = figures.iter().find(is_it).unwrap();
            let rate = figure["operations_per_s"].as_f64().unwrap();
            // Slow as a test host may be: a client that is only refused would have no rate.
            assert!(rate > 1.0 && figure["failed"] == 0 && figure["clients"] == 2, "{figure}");
        }
    }
    assert_eq!(figures.len(), 9);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "the folder of the benchmark is left");
}

#[test]
fn what_is_missing_is_named_with_the_command_that_gets_it() {
    let home = tempfile::tempdir().unwrap();
    let output = bench(home.path(), Some("/nonexistent"), &["--versus", "etcd"]);
    assert_eq!(output.status.code(), Some(3));
    let want = "lab: etcd is not on the search path: apt-get install etcd-server\n";
    assert_eq!(String::from_utf8(output.stderr).unwrap(), want);
}
