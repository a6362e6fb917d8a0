//! A lab of microVMs, as a user would type it on any machine that has QEMU.

use std::path::Path;

use serde_json::Value as Json;

use super::home::{Home, await_nothing, free_ports};
use super::{address, check_cut_and_heal, leader, set};
use crate::host;
use crate::lab::{bench, topology};

#[test]
fn lab_of_machines_answers_on_its_ports_is_cut_in_time_and_leaves_nothing() {
    if host::qemu().is_none() {
        return;
    }
    let Some((_turn, directory)) = bench() else { return };
    let home = Home(directory.path());
    let (out, scenario, port) = (home.out("a"), topology("three-nodes"), free_ports(3).to_string());
    let words = ["up", "--driver", "qemu", scenario.to_str().unwrap(), "--seed", "1", "--publish", &port];
    let welcome = home.done(&[&words[..], &["--out", &out, "--detach"]].concat());
    assert!(welcome.contains(&format!("curl http://127.0.0.1:{port}/kv/write")), "{welcome}");
    let status = home.status();
    assert!(status["driver"].as_str().unwrap().starts_with("qemu with "), "{status:#}");
    let old = leader(&status).expect("somebody leads").to_owned();
    let at_leader = address(&status, &old);
    assert_eq!(set(at_leader, "1").unwrap().0, 200);
    check_cut_and_heal(&home, &old, at_leader);
    let machines: Vec<Json> =
        ["n1", "n2", "n3"].map(|name| super::node(&home.status(), name).clone()).to_vec();
    assert!(machines.iter().all(|machine| machine["state"] == "running"), "{machines:?}");
    assert_eq!(home.done(&["down"]), format!("a is down; what it has written is in {out}\n"));
    await_nothing(&out);
    assert_eq!(home.sockets(), [""; 0]);
    assert!(!Path::new(&out).join("boot").exists(), "nobody boots from there any more");
}
