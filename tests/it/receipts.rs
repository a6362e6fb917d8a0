//! Each kind of fault is switched off in secret while everything else believes that it happened: its receipt must be missed.

use crate::disks::has_volumes;
use crate::lab::{bench, run, write_scenario};

/// Runs a short scenario with this part and a fault switched off, and wants the receipt to miss all of `unseen`.
#[track_caller]
fn check(sabotage: &str, part: &str, unseen: &[&str]) {
    let Some((_turn, home)) = bench() else { return };
    let rest = format!("nodes: {{ count: 3 }}\nduration: 8s\n{part}\nchecks: [linearizable]\n");
    let file = write_scenario(home.path(), sabotage, &rest);
    let words = [&file, "--seed", "1", "--sabotage", sabotage, "--quiet"];
    let run = run(home.path(), "sabotaged", &words, &[]);
    for what in unseen {
        assert!(run.stdout.contains(&format!("NOT SEEN: {what}")), "{what}: {}", run.output());
    }
    assert_eq!(run.stdout.matches("NOT SEEN").count(), unseen.len(), "{}", run.output());
    assert_eq!(run.status("receipts"), "invalid", "{}", run.output());
    // Whoever replays the run must see the same.
    let replay = run.stdout.lines().next().unwrap_or_default();
    assert!(replay.ends_with(&format!(" --sabotage {sabotage}")), "{replay}");
    // No promise was broken: nodes that the plan calls cut off have answered, and rightly so.
    assert_eq!(run.status("linearizable"), "pass", "{}", run.output());
    assert_eq!(run.code, Some(2), "{}", run.output());
}

#[test]
fn cut_that_cuts_nothing_is_no_pass() {
    check(
        "ignore-cuts",
        "faults:\n  - { at: 1s, for: 3s, partition: [[leader], [rest]] }",
        &["during it, no probe over any link was answered", "every cut link swallowed at least one frame"],
    );
}

#[test]
fn latency_that_delays_nothing_is_no_pass() {
    check(
        "ignore-latency",
        "faults:\n  - { at: 1s, for: 3s, link: { between: [leader, rest], latency: 30ms, jitter: 5ms } }",
        &[
            "round trips took longer by what was added",
            "the frames of every link were held for as long as the seed says",
        ],
    );
}

#[test]
fn loss_that_loses_nothing_is_no_pass() {
    check(
        "ignore-loss",
        "faults:\n  - { at: 1s, for: 3s, link: { between: [leader, rest], loss: 5% } }",
        &["the links lost the very frames that the seed says"],
    );
}

#[test]
fn links_that_are_perfect_against_the_scenario_are_no_pass() {
    let links = "links:\n  - { between: [n1, n2], latency: 30ms, jitter: 5ms, loss: 1% }";
    check(
        "ignore-latency",
        links,
        &[
            "round trips took longer by what was added",
            "the frames of every link were held for as long as the seed says",
        ],
    );
    check("ignore-loss", links, &["the links lost the very frames that the seed says"]);
}

#[test]
fn pause_that_freezes_nobody_is_no_pass() {
    check(
        "ignore-pauses",
        "faults:\n  - { at: 1s, for: 2s, pause: follower }",
        &[
            "the process was stopped, first and last",
            "the process used no processor time",
            "during it, the node did not answer",
        ],
    );
}

#[test]
fn kill_that_kills_nobody_is_no_pass() {
    check(
        "ignore-kills",
        "faults:\n  - { at: 1s, kill: follower, restart_after: 1s }",
        &["the process ended by signal 9 and was gone", "a new incarnation serves"],
    );
}

#[test]
fn power_cut_that_loses_nothing_is_no_pass() {
    if has_volumes() {
        check(
            "ignore-power-cuts",
            "faults:\n  - { at: 1s, power_cut: follower, restart_after: 1s }",
            &["its disk lost something of what was not synced"],
        );
    }
}
