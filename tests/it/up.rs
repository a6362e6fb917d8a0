//! `lab up` and the commands that work on a lab that is up, as a user would type them.

mod early;
mod home;
mod machines;

use std::fs;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use aspen_lab::program::ProcessStat;
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};

use self::home::{Foreground, Home, await_nothing, free_ports, processes};
use crate::http_client::{get, post};
use crate::lab::{bench, node_that, topology, write_scenario};

/// What docs/up.md promises of cuts and heals.
const ACT_MAX: Duration = Duration::from_millis(100);

/// What is waited for at most, unless it is promised sooner, of a lab that goes at the pace of its plan.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The same of any lab, by its status.
fn wait_max(status: &Json) -> Duration {
    let slowdown = status["slowdown"].as_str().map_or(1.0, |slowdown| slowdown.parse().unwrap());
    WAIT_MAX.mul_f64(slowdown)
}

fn node<'a>(status: &'a Json, name: &str) -> &'a Json {
    status["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).unwrap()
}

/// The name of the node that leads the latest term.
fn leader(status: &Json) -> Option<&str> {
    let nodes = status["nodes"].as_array()?.iter().filter(|node| node["role"] == "leader");
    nodes.max_by_key(|node| node["term"].as_u64())?["name"].as_str()
}

fn address(status: &Json, name: &str) -> SocketAddr {
    node(status, name)["url"].as_str().unwrap().strip_prefix("http://").unwrap().parse().unwrap()
}

fn set(to: SocketAddr, value: &str) -> io::Result<(u16, Json)> {
    post(to, "/kv/write", &json!({ "command": { "Set": { "key": "k", "value": value } } }))
}

#[test]
fn lab_in_the_background_is_worked_on_by_hand_and_leaves_nothing() {
    let Some((_turn, directory)) = bench() else { return };
    let home = Home(directory.path());
    let (out, scenario) = (home.out("a"), topology("three-nodes"));
    let port = free_ports(3).to_string();
    let words = [
        "up",
        "--driver",
        "process",
        scenario.to_str().unwrap(),
        "--seed",
        "1",
        "--publish",
        &port,
        "--out",
        &out,
        "--detach",
    ];
    let welcome = home.done(&words);
    let curl = welcome.lines().find_map(|line| line.strip_prefix("  curl ")).unwrap();
    assert!(curl.starts_with(&format!("http://127.0.0.1:{port}/kv/write -d '")), "{welcome}");

    let status = home.status();
    let old = leader(&status).expect("somebody leads").to_owned();
    let at_leader = address(&status, &old);
    assert_eq!(set(at_leader, "1").unwrap().0, 200);
    check_cut_and_heal(&home, &old, at_leader);
    check_link_that_stays_cut(&home);
    check_pause_and_kill(&home, &status);

    let events = fs::read_to_string(Path::new(&out).join("events.jsonl")).unwrap();
    for text in
        [&format!("\"text\":\"cut {old} | "), "\"kind\":\"hand\",\"subject\":\"n3\",\"text\":\"is paused\""]
    {
        assert!(events.contains(text), "{text} is not in {events}");
    }
    let pid = u32::try_from(home.status()["pid"].as_u64().unwrap()).unwrap();
    check_privileges(&out);
    let said = home.done(&["down"]);
    assert_eq!(said, format!("a is down; what it has written is in {out}\n"));
    assert!(ProcessStat::read(pid).is_none_or(|stat| stat.has_ended()), "the process is gone");
    await_nothing(&out);
    assert_eq!(home.sockets(), [""; 0]);
    assert!(!Path::new(&out).join("control").exists());
    TcpListener::bind(at_leader).expect("the port is free again");
    home.fails(&["status"], 2, "lab: no lab is up: `cargo lab up topologies/three-nodes.yaml` starts one\n");
}

/// The lab can neither load a module nor set the host's clock or restart it, a node has no capability but those for files, and none
/// gets that back.
#[track_caller]
fn check_privileges(out: &str) {
    // CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_BOOT, CAP_SYS_TIME, CAP_SYSLOG (linux/capability.h).
    let beyond = [16, 17, 22, 25, 34].iter().fold(0_u64, |mask, bit| mask | 1 << bit);
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    let is_inside = |pid: &i32| namespace(&pid.to_string()) != namespace("self");
    let mut inside: Vec<i32> = processes(out).into_iter().filter(is_inside).collect();
    inside.sort_unstable();
    assert_eq!(inside.len(), 4, "the lab, which was there first, and three nodes");
    // All but CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
    let node = !(1 << 1 | 1 << 2);
    for (pid, denied) in inside.into_iter().zip([beyond, node, node, node]) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(u64::from_str_radix(line(set), 16).unwrap() & denied, 0, "{set} of {pid}");
        }
        assert_eq!(line("NoNewPrivs:"), if denied == beyond { "0" } else { "1" }, "{pid}");
    }
}

/// A command that may be repeated takes effect in time, its own start and end included: the median of five, since on a host
/// that does other work one or two may wait for a processor.
#[track_caller]
fn check_acts_in_time(home: &Home<'_>, words: &[&str]) {
    let took = |_| {
        let began = Instant::now();
        home.done(words);
        began.elapsed()
    };
    let mut times: Vec<Duration> = (0..5).map(took).collect();
    times.sort();
    assert!(times[2] < ACT_MAX, "{words:?} took {times:?}");
}

#[track_caller]
fn check_cut_and_heal(home: &Home<'_>, old: &str, at_leader: SocketAddr) {
    let said = home.done(&["cut", "leader"]);
    assert!(said.contains(&format!("cut {old} | ")) && said.contains("  cut  hand  "), "{said}");
    // From now on nothing passes: a write on the side without a majority is not acknowledged.
    assert!(matches!(set(at_leader, "2").unwrap().0, 503 | 504), "a minority has acknowledged a write");
    let cut =
        home.await_status("another node leads", |status| leader(status).is_some_and(|name| name != old));
    let links = cut["links"].as_array().unwrap();
    assert_eq!(links.len(), 4, "{links:?}");
    assert!(links.iter().all(|link| link["is_cut"] == true && link["is_by_hand"] == true), "{links:?}");
    let dropped: u64 = links.iter().map(|link| link["frames_dropped"].as_u64().unwrap()).sum();
    assert!(dropped > 0, "{links:?}");
    check_health(&cut, old, "partitioned");
    check_acts_in_time(home, &["cut", old]);
    let table = home.done(&["status"]);
    assert!(table.contains("FRAMES DROPPED") && table.contains(" <-> "), "{table}");

    let said = home.done(&["heal"]);
    assert!(
        said.starts_with("heal: 4 links, in force after ") && said.ends_with("every link is perfect\n"),
        "{said}"
    );
    let deadline = Instant::now() + wait_max(&cut);
    while set(at_leader, "3").unwrap().0 != 200 {
        assert!(Instant::now() < deadline, "it does not serve again");
    }
    check_health(&cut, old, "healthy");
    let said =
        home.done(&["link", "n1", "n2", "--latency", "50ms", "--jitter", "5ms", "--loss", "1%", "--one-way"]);
    assert!(said.contains("n1 -> n2  50 ms ± 5 ms, 1 % loss  hand"), "{said}");
    home.done(&["cut", "--from", "n2", "--to", "n3"]);
    let links = home.status()["links"].clone();
    let shown = |place: usize| {
        (links[place]["from"].clone(), links[place]["to"].clone(), links[place]["is_cut"].clone())
    };
    assert_eq!(shown(0), (json!("n1"), json!("n2"), json!(false)));
    assert_eq!(shown(1), (json!("n2"), json!("n3"), json!(true)));
    home.done(&["heal", "n1", "n2"]);
    assert_eq!(home.status()["links"].as_array().unwrap().len(), 1);
    home.done(&["heal", "n2"]);
    assert_eq!(home.status()["links"], json!([]));
    check_acts_in_time(home, &["heal", "n1"]);
}

/// How a member looks from the node that leads.
#[track_caller]
fn check_health(status: &Json, name: &str, want: &str) {
    let at_leader = address(status, leader(status).unwrap());
    let raft_id =
        node(status, name)["name"].as_str().unwrap().trim_start_matches('n').parse::<u64>().unwrap();
    let deadline = Instant::now() + wait_max(status);
    loop {
        let (_, seen) = get(at_leader, "/cluster/status").unwrap();
        let member = seen["members"].as_array().unwrap().iter().find(|member| member["id"] == raft_id);
        if member.is_some_and(|member| member["health"] == want) {
            return;
        }
        assert!(Instant::now() < deadline, "{name} does not look {want}: {seen}");
        std::thread::sleep(crate::lab::LOOK_INTERVAL);
    }
}

/// A change of a link that is cut does not mend it, and does not say so.
#[track_caller]
fn check_link_that_stays_cut(home: &Home<'_>) {
    home.done(&["cut", "n1", "n2"]);
    let said = home.done(&["link", "n1", "n2", "--loss", "0%"]);
    let want = "link n1 <-> n2: no loss: 2 links; 2 still cut, until `lab heal`, in force after ";
    assert!(said.starts_with(want) && said.contains("n1 <-> n2  cut  hand"), "{said}");
    home.done(&["heal"]);
}

#[track_caller]
fn check_pause_and_kill(home: &Home<'_>, status: &Json) {
    assert_eq!(home.done(&["pause", "n3"]), "n3 is paused\n");
    assert_eq!(node(&home.status(), "n3")["state"], "paused");
    home.fails(&["pause", "n3"], 1, "lab: n3 is paused: `lab resume n3` lets it go on\n");
    assert_eq!(home.done(&["resume", "n3"]), "n3 goes on\n");
    home.await_status("n3 follows again", |status| node(status, "n3")["role"] != "unreachable");

    let published = address(status, "n2");
    let mut open = TcpStream::connect(published).unwrap();
    open.set_read_timeout(Some(WAIT_MAX)).unwrap();
    assert_eq!(home.done(&["kill", "n2"]), "n2 was killed\n");
    assert_eq!(node(&home.status(), "n2")["state"], "down");
    // A connection that was open is closed, and so is a new one: neither hangs.
    assert_eq!(open.read(&mut [0]).unwrap_or(0), 0);
    assert!(get(published, "/health").is_err());
    home.fails(&["kill", "n2"], 1, "lab: n2 is down already: `lab start n2` starts it\n");
    // It prints nothing more.
    let end = home.done(&["console", "n2", "--lines", "2"]);
    assert_eq!(end.lines().count(), 2, "{end}");
    let known = "nodes are n1, n2, n3; roles are leader, follower, random, rest";
    home.fails(&["kill", "n9"], 64, &format!("lab: there is no \"n9\": {known}\n"));
    home.fails(&["console", "n9"], 64, "lab: there is no node \"n9\": nodes are n1, n2, n3\n");
    let said = home.done(&["start", "n2"]);
    assert!(said.starts_with("n2 was started, and answers after "), "{said}");
    home.await_status("n2 follows again", |status| node(status, "n2")["applied_index"].as_u64() > Some(0));
    let deadline = Instant::now() + WAIT_MAX;
    while !get(published, "/health").is_ok_and(|(status, _)| status == 200) {
        assert!(Instant::now() < deadline, "n2 is of no use again");
    }
    let console = home.done(&["console", "n2"]);
    assert!(console.contains("aspen_node"), "{console}");
}

#[test]
fn lab_in_the_foreground_ends_in_order_by_a_signal_and_at_once_by_a_kill() {
    let Some((_turn, directory)) = bench() else { return };
    let home = Home(directory.path());
    let (out, scenario) = (home.out("a"), topology("three-nodes"));
    let mut lab =
        Foreground::start(&home, &["up", "--driver", "process", scenario.to_str().unwrap(), "--out", &out]);
    let mut follower = home.command(&["console", "n1", "--follow"]).stdout(Stdio::piped()).spawn().unwrap();
    // Once it shows something it has found the lab.
    let mut shown = follower.stdout.take().unwrap();
    shown.read_exact(&mut [0]).unwrap();
    lab.signal(Signal::SIGINT);
    assert_eq!(lab.0.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    shown.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("stopped"), "its last words are shown: {rest}");
    assert_eq!(follower.wait().unwrap().code(), Some(0), "a console that is followed ends with the lab");
    await_nothing(&out);
    assert_eq!(home.sockets(), [""; 0]);

    let out = home.out("b");
    let mut lab =
        Foreground::start(&home, &["up", "--driver", "process", scenario.to_str().unwrap(), "--out", &out]);
    assert_eq!(home.status()["name"], "b");
    assert_eq!(processes(&out).len(), 6, "outer, middle, inner, three nodes");
    lab.signal(Signal::SIGKILL);
    assert_eq!(lab.0.wait().unwrap().code(), None);
    await_nothing(&out);
    // Its socket is left, and noticed.
    assert_eq!(home.sockets().len(), 1);
    let ended = format!(
        "lab: the lab of {out} is not up any more: `cargo lab up topologies/three-nodes.yaml` starts one\n"
    );
    home.fails(&["status", "--lab", &out], 2, &ended);
    assert_eq!(home.sockets(), [""; 0]);
}

#[test]
fn of_several_labs_one_has_to_be_named() {
    let Some((_turn, directory)) = bench() else { return };
    let home = Home(directory.path());
    let alone = write_scenario(directory.path(), "alone", "nodes: { count: 1 }\nchecks: [linearizable]\n");
    for name in ["a", "b"] {
        let said = home.done(&["up", "--driver", "process", &alone, "--out", &home.out(name), "--detach"]);
        assert!(said.contains("start the lab with --publish 8080"), "{said}");
    }
    let both = home.lab(&["status"]);
    assert_eq!(both.code, Some(2));
    assert!(both.stderr.starts_with("lab: 2 labs are up, name one with --lab: "), "{both:?}");
    let both = home.lab(&["status", "--lab", "alone"]);
    assert!(both.stderr.starts_with("lab: 2 labs are up, name one with --lab: "), "{both:?}");
    let said = home.lab(&["cut", "n1", "--lab", "b"]);
    assert_eq!(
        (said.code, said.stderr.as_str()),
        (Some(64), "lab: nothing is left on the other side: all nodes are named\n")
    );
    assert!(home.done(&["status", "--lab", &home.out("a")]).starts_with("a: up for "));
    home.done(&["down", "--lab", "a"]);
    assert_eq!(home.status()["name"], "b");
    home.done(&["down"]);
    await_nothing(&home.out("a"));
    await_nothing(&home.out("b"));
}

#[test]
fn lab_that_cannot_be_says_why_and_leaves_nothing() {
    let Some((_turn, directory)) = bench() else { return };
    let home = Home(directory.path());
    let (out, scenario) = (home.out("a"), topology("three-nodes"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let words = [
        "up",
        "--driver",
        "process",
        scenario.to_str().unwrap(),
        "--publish",
        &port,
        "--out",
        &out,
        "--detach",
    ];
    let want = format!(
        "lab: cannot publish node n1 at 127.0.0.1:{port}: choose other ports with --publish\n  because: Address already in \
         use (os error 98)\n"
    );
    home.fails(&words, 64, &want);
    assert!(!Path::new(&out).exists(), "nothing was started");

    let broken = node_that(directory.path(), "echo no disk today\nexit 7");
    let words = [
        "up",
        "--driver",
        "process",
        scenario.to_str().unwrap(),
        "--node-bin",
        broken.to_str().unwrap(),
        "--out",
        &out,
        "--detach",
    ];
    let said = home.lab(&words);
    assert_eq!(said.code, Some(1), "{said:?}");
    for text in [
        "lab: the lab did not come up and ended with exit code 1; ",
        "ended at its start: exit code 7",
        "no disk today",
    ] {
        assert!(said.stderr.contains(text), "{text} is not in {said:?}");
    }
    await_nothing(&out);
    assert_eq!(home.sockets(), [""; 0]);
}
