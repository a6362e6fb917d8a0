//! Labs that are not up yet: they can be seen, and ended at once, whatever they wait for.

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::WAIT_MAX;
use super::home::{Foreground, Home, await_nothing};
use crate::lab::{LOOK_INTERVAL, bench, node_that, topology};

/// A lab ends in so much, whatever it was about to do: the bounds of what it waited for are far longer.
const END_MAX: Duration = Duration::from_secs(5);

/// Starts a lab whose nodes never answer, and waits until `lab status` knows that it boots.
#[track_caller]
fn boots(home: &Home<'_>, out: &str, more: &[&str]) -> Foreground {
    let (scenario, node) = (topology("three-nodes"), node_that(home.0, "exec sleep 1000"));
    let words = ["up", scenario.to_str().unwrap(), "--node-bin", node.to_str().unwrap(), "--out", out];
    let mut command = home.command(&[&words, more].concat());
    let lab = Foreground(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let said = home.lab(&["status"]);
        if said.stdout.contains(": booting for ") {
            return lab;
        }
        assert!(Instant::now() < deadline, "no lab is seen: {said:?}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}

#[track_caller]
fn check_end(home: &Home<'_>, out: &str, began: Instant) {
    let took = began.elapsed();
    assert!(took < END_MAX, "it took {took:?}");
    await_nothing(out);
    assert_eq!(home.sockets(), [""; 0]);
}

#[test]
fn lab_that_is_not_up_yet_ends_at_once_when_it_is_told_to() {
    let Some((_turn, directory)) = bench() else { return };
    let home = Home(directory.path());
    let out = home.out("a");
    let mut lab = boots(&home, &out, &[]);
    let began = Instant::now();
    lab.signal(Signal::SIGINT);
    assert_eq!(lab.0.wait().unwrap().code(), Some(0), "it ended as asked");
    check_end(&home, &out, began);

    let out = home.out("b");
    let mut lab = boots(&home, &out, &[]);
    let began = Instant::now();
    assert_eq!(home.done(&["down"]), format!("b is down; what it has written is in {out}\n"));
    assert_eq!(lab.0.wait().unwrap().code(), Some(0), "it ended as asked");
    check_end(&home, &out, began);
}

/// A lab that nobody waits for any more once came up with nobody knowing.
#[test]
fn lab_in_the_background_is_known_although_the_command_that_waits_for_it_was_killed() {
    let Some((_turn, directory)) = bench() else { return };
    let home = Home(directory.path());
    let out = home.out("a");
    let mut waiting = boots(&home, &out, &["--detach"]);
    waiting.signal(Signal::SIGKILL);
    waiting.0.wait().unwrap();
    let status = home.status();
    assert_eq!((&status["name"], &status["phase"]), (&"a".into(), &"booting".into()));
    let began = Instant::now();
    home.done(&["down"]);
    check_end(&home, &out, began);
}
