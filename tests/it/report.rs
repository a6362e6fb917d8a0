//! What a run leaves behind says all that one needs to have it again, also when it came to a bad end.

use std::fs;

use crate::lab::{Running, bench, node_that, run, write_scenario};

/// Everything but a fault.
const CALM: &str = "nodes: { count: 3 }\nduration: 3s\nchecks: [linearizable, durable, raft]\n";

#[test]
fn report_names_seed_versions_kernel_timeline_verdicts_and_the_replay_command() {
    let Some((_turn, home)) = bench() else { return };
    let file = write_scenario(home.path(), "calm", CALM);
    let run = run(home.path(), "run", &[&file, "--seed", "9"], &[]);
    assert_eq!(run.code, Some(0), "{}", run.output());
    let report = run.report();
    let replay = format!("cargo lab run {file} --seed 9 --driver process");
    assert_eq!(report["replay"], replay);
    assert_eq!(report["seed"], 9);
    assert_eq!(report["lab_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["node_version"], env!("CARGO_PKG_VERSION"));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(report["kernel"], kernel.trim());
    let record = &report["record"];
    assert!(!record["events"].as_array().unwrap().is_empty());
    assert!(record["leaders"][0]["term"].as_u64().unwrap() >= 1);
    for check in ["receipts", "alive", "linearizable", "durable", "raft"] {
        assert_eq!(run.status(check), "pass", "{}", run.output());
    }
    // Three answers of members and a linearizable one, for each of the 16 keys.
    let verdicts = report["verdicts"].as_array().unwrap();
    let durable = verdicts.iter().find(|verdict| verdict["check"] == "durable").unwrap();
    assert_eq!(durable["looked_at"]["final_reads"], 64);
    let verdict = fs::read_to_string(run.directory.join("verdict.txt")).unwrap();
    assert_eq!(verdict.lines().next(), Some(format!("replay: {replay}").as_str()));
}

#[test]
fn aborted_run_leaves_a_report_that_says_why() {
    let Some((_turn, home)) = bench() else { return };
    let file = write_scenario(home.path(), "silent", CALM);
    let node = node_that(home.path(), "exec sleep 600");
    let words = [&file, "--seed", "1", "--node-bin", node.to_str().unwrap(), "--open"];
    // No browser is to be found.
    let environment = [("BROWSER", "/does/not/exist"), ("PATH", "/does/not/exist")];
    let running = Running::start(home.path(), "run", &words, &environment);
    running.await_event("3 nodes");
    let run = running.interrupt();
    assert_eq!(run.code, Some(2), "{}", run.output());
    assert!(run.stdout.contains("the run was ended before the cluster was up"), "{}", run.output());
    let report = run.report();
    assert_eq!(report["status"], "invalid");
    assert!(report["aborted"].as_str().unwrap().contains("ended before the cluster was up"));
    assert!(run.directory.join("junit.xml").is_file());
    let page = run.directory.join("report.html");
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.contains("because: the run was ended before the cluster was up"), "{text}");
    // And where it is, since nothing shows it.
    let want =
        format!("cannot open a browser (/does/not/exist, xdg-open failed): the report is {}", page.display());
    assert!(run.stderr.contains(&want), "{want:?} in {}", run.output());
}
