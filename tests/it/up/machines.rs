//! A lab of microVMs, as a user would type it on any machine that has QEMU.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::home::{Foreground, Home, await_nothing, free_ports, processes};
use super::{address, check_cut_and_heal, leader, set};
use crate::lab::{LOOK_INTERVAL, topology};
use crate::qemu::{RUN_MAX, machines};

#[test]
fn lab_of_machines_answers_on_its_ports_is_cut_in_time_and_leaves_nothing() {
    let Some((_turn, directory)) = machines() else { return };
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
    check_that_hypervisors_are_confined(&out);
    assert_eq!(home.done(&["down"]), format!("a is down; what it has written is in {out}\n"));
    await_nothing(&out);
    assert_eq!(home.sockets(), [""; 0]);
    assert!(!Path::new(&out).join("boot").exists(), "nobody boots from there any more");
}

/// `lab status` and `lab down` were refused once as long as a machine was measured, and Ctrl-C was the only way out.
#[test]
fn lab_that_measures_its_machines_says_so_and_ends_at_once() {
    let Some((_turn, directory)) = machines() else { return };
    let home = Home(directory.path());
    let (out, scenario) = (home.out("a"), topology("three-nodes"));
    let words = ["up", scenario.to_str().unwrap(), "--driver", "qemu", "--out", &out];
    let up = home.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut up = Foreground(up);
    // An image may have to be built before.
    let deadline = Instant::now() + RUN_MAX;
    while !home.lab(&["status"]).stdout.starts_with("a: calibrating for ") {
        assert!(Instant::now() < deadline && up.0.try_wait().unwrap().is_none(), "it does not measure");
        thread::sleep(LOOK_INTERVAL);
    }
    let began = Instant::now();
    home.done(&["down"]);
    let took = began.elapsed();
    assert_eq!(up.0.wait().unwrap().code(), Some(0));
    assert!(took < Duration::from_secs(5), "it took {took:?}");
}

/// Every QEMU of the lab has no capability, gains none, filters its system calls, and sees of the run nothing but what it boots
/// and its own machine's folder.
fn check_that_hypervisors_are_confined(out: &str) {
    let is_qemu = |pid: &i32| {
        fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.to_string_lossy().contains("qemu"))
    };
    let pids: Vec<i32> = processes(out).into_iter().filter(is_qemu).collect();
    assert_eq!(pids.len(), 3, "one for each machine");
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap().trim().to_owned()
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(value(set), "0000000000000000", "{set}");
        }
        assert_eq!((value("NoNewPrivs"), value("Seccomp")), ("1".to_owned(), "2".to_owned()));
        let root = format!("/proc/{pid}/root");
        let names = |folder: &str| -> Vec<String> {
            let entries = fs::read_dir(format!("{root}{folder}")).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(out), ["boot", "nodes"]);
        assert_eq!(names(&format!("{out}/nodes")).len(), 1, "its own machine's folder");
        assert!(
            names(&format!("{out}/nodes/{}", names(&format!("{out}/nodes"))[0]))
                .contains(&"data.raw".to_owned())
        );
        assert!(!Path::new(&root).join("proc").exists() && !Path::new(&root).join("home").exists());
        assert!(fs::write(format!("{root}{out}/boot/new"), "").is_err(), "what it boots is read-only");
    }
}
