//! Runs on virtual machines of Cloud Hypervisor: here where KVM runs the appliance's kernel, and in a rig elsewhere.

use std::time::Duration;

use crate::host;
use crate::lab::{Run, Running, bench, rounds, topology, write_scenario};

/// A cut, a pause and a power cut, in as little time as they take.
const STORY: &str = "nodes: { count: 3 }\nworkload: { rate: 20/s }\nduration: 20s\nfaults:\n  \
                     - { at: 1s, for: 3s, partition: [[leader], [rest]] }\n  \
                     - { at: 7s, for: 1s, pause: follower }\n  \
                     - { at: 11s, kill: n2, restart_after: 1s }\n\
                     checks: [linearizable, durable, raft, { recovers: { within: 10s } }]\n";
/// Machines in an emulated machine, at the largest slowdown, beside compilers.
const RUN_MAX: Duration = Duration::from_mins(20);

#[test]
fn machines_of_cloud_hypervisor_pass_with_every_receipt() {
    let Some(hypervisor) = host::program(&["cloud-hypervisor"]) else {
        return host::lacks("cloud-hypervisor", "cloud-hypervisor on the search path");
    };
    let Some((_turn, home)) = bench() else { return };
    let story = write_scenario(home.path(), "story", STORY);
    let others = ["split-brain", "leader-isolated", "lossy-wan", "crash-storm"].map(topology);
    let others = others.iter().map(|file| file.to_str().unwrap());
    let files = [story.as_str()].into_iter().chain(others.filter(|_| rounds() > 1));
    let words = |file| [file, "--seed", "1", "--driver", "cloud-hypervisor"];
    let rig = ["rig", "--cpus", "1", "--cloud-hypervisor", hypervisor.to_str().unwrap()];
    for (number, file) in files.enumerate() {
        let name = format!("run-{number}");
        let here = Running::start(home.path(), &name, &words(file), &[]).finish_within(RUN_MAX);
        let run = match here.code {
            Some(3) => {
                let run = Running::start_below(home.path(), &name, &rig, &words(file), &[]);
                run.finish_within(RUN_MAX)
            }
            _ => here,
        };
        check(&run);
    }
}

#[track_caller]
fn check(run: &Run) {
    assert_eq!(run.code, Some(0), "{}", run.output());
    let report = run.report();
    assert_eq!(report["driver"], "cloud-hypervisor");
    for fault in report["record"]["faults"].as_array().unwrap() {
        let proofs = fault["proofs"].as_array().unwrap();
        assert!(!proofs.is_empty() && proofs.iter().all(|proof| proof["is_seen"] == true), "{fault}");
    }
}
