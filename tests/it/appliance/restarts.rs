//! A node that ends by itself is started again, and what it said last is kept.

#![allow(clippy::disallowed_methods, reason = "a test asks other programs what the tested one has done")]

use std::process::Command;

use aspen_init::limits::NODE_FAILURES_MAX;
use aspen_init::report::{Line, NodeExit, Reason, parse_line};

use super::{Bench, CONFIG, await_exit};
use crate::host;

#[test]
fn node_that_ends_is_started_again_until_it_is_given_up_and_its_last_words_are_kept() {
    if host::program(&["debugfs"]).is_none() {
        host::lacks("qemu", "debugfs (apt-get install e2fsprogs)");
        return;
    }
    let Some(bench) = Bench::open() else { return };
    // It cannot listen where nobody is.
    let config = bench.config("config.raw", &CONFIG.replace("0.0.0.0:7001", "10.9.9.9:7001"));
    let data = bench.disk("data.raw", 128, 0, b"");
    let mut machine = bench.start(&[(&config, ""), (&data, super::DATA)], "");
    let exit = await_exit(&mut machine);
    let console = machine.console();
    assert_eq!(exit.reason, Reason::Node, "{console}");
    let ends: Vec<NodeExit> = console
        .lines()
        .filter_map(parse_line)
        .filter_map(|line| if let Line::NodeExit(exit) = line { Some(exit) } else { None })
        .collect();
    let restarts: Vec<u64> = ends.iter().map(|end| end.restarts).collect();
    assert!(restarts.iter().copied().eq(0..u64::from(NODE_FAILURES_MAX)), "{restarts:?}\n{console}");
    assert!(ends.iter().all(|end| end.node_exit != "code 0"), "{ends:?}");
    let words = Command::new("debugfs").args(["-R", "cat /last-words"]).arg(&data).output().unwrap();
    let words = String::from_utf8_lossy(&words.stdout).into_owned();
    let last = format!("start {NODE_FAILURES_MAX}\n");
    for want in ["# ended with code ", last.as_str(), "10.9.9.9:7001"] {
        assert!(words.contains(want), "{want:?} is not in\n{words}");
    }
}
