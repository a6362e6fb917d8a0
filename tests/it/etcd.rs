//! etcd under the faults that Aspen has to stand, judged by the same checks: a verdict of the lab is not one about Aspen alone.

use std::fs;

use crate::host;
use crate::lab::{Running, bench, rounds, topology};
use crate::verify::judged_again;

#[test]
fn etcd_keeps_what_aspen_keeps() {
    if host::program(&["etcd"]).is_none() {
        return host::lacks("etcd", "etcd (apt-get install etcd-server)");
    }
    let Some((_turn, home)) = bench() else { return };
    let files = ["split-brain", "leader-isolated"].map(|name| {
        let text = fs::read_to_string(topology(name)).unwrap();
        assert!(text.contains("  - raft\n"), "{text}");
        let path = home.path().join(format!("{name}.yaml"));
        fs::write(&path, text.replace("  - raft\n", "") + "\ntarget: etcd\n").unwrap();
        (name, path)
    });
    for seed in 1..=rounds() {
        let seed = seed.to_string();
        let running = files.each_ref().map(|(name, path)| {
            let words = [path.to_str().unwrap(), "--seed", &seed, "--quiet"];
            Running::start(home.path(), &format!("{name}-{seed}"), &words, &[])
        });
        for run in running.map(Running::finish) {
            assert_eq!(run.code, Some(0), "{}", run.output());
            for check in ["receipts", "linearizable", "durable", "recovers", "minority_refuses"] {
                assert_eq!(run.status(check), "pass", "{}", run.output());
            }
            assert!(run.report()["node_version"].as_str().unwrap().starts_with("etcd 3."));
            judged_again(&run.directory);
        }
    }
}
