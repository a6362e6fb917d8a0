//! Runs on virtual machines of Cloud Hypervisor: here where KVM runs the appliance's kernel, and in a rig elsewhere.

use std::fs;
use std::time::Duration;

use crate::host;
use crate::image::succeed;
use crate::lab::{
    MACHINE_TOPOLOGIES, Run, Running, rounds, time_story, topology, whole_bench, write_scenario,
};
use crate::rig;

/// A cut, a pause and a power cut, in as little time as they take.
const STORY: &str = "nodes: { count: 3 }\nworkload: { rate: 20/s }\nduration: 20s\nfaults:\n  \
                     - { at: 1s, for: 3s, partition: [[leader], [rest]] }\n  \
                     - { at: 7s, for: 1s, pause: follower }\n  \
                     - { at: 11s, kill: n2, restart_after: 1s }\n\
                     checks: [linearizable, durable, raft, { recovers: { within: 10s } }]\n";
/// Kills a lab in the middle of a fault, in a host of which everything can be seen: what was not there before has to be gone.
const KILLED: &str = r#"
cat > story.yaml <<'END'
name: story
about: A run that is killed in the middle of a fault.
nodes: { count: 3 }
workload: { rate: 20/s }
duration: 5m
faults: [{ at: 3s, for: 4m, $FAULT }]
checks: [linearizable]
END
targets() { for link in "$@"; do readlink "$link"; done | sort; }
programs() { targets /proc/[0-9]*/exe | grep -v -e busybox -e bash; }
look() {
  programs
  for space in net mnt pid user; do targets /proc/[0-9]*/ns/$space | sort -u; done
  ls /sys/class/net
  sort /proc/mounts
  find /tmp /run -mindepth 1 -not -path "$PWD*" | sort
}
look > before
lab run story.yaml --driver cloud-hypervisor --fabric "$FABRIC" --out run > said 2>&1 &
lab=$!
until grep -q '$SIGN' said; do
  kill -0 $lab || { cat said; exit 3; }
  grep -q 'nothing to break' said && { cat said; exit 3; }
  sleep 1
done
count=$(programs | grep -c cloud-hypervisor)
confined=0
for task in /proc/[0-9]*/task/*; do
  [ "$(cat "$task/comm")" = vmm ] || continue
  nothing='^(Cap(Inh|Prm|Eff|Bnd|Amb):[[:space:]]0+|NoNewPrivs:[[:space:]]1|Seccomp:[[:space:]]2)$'
  [ "$(grep -c -E "$nothing" "$task/status")" = 7 ] && confined=$((confined + 1))
done
kill -9 $lab
wait $lab
for second in $(seq 20); do
  look > after
  cmp -s before after && { echo "$count machines, $confined confined, nothing left"; exit 0; }
  sleep 1
done
diff before after
exit 4
"#;
/// Machines in an emulated machine, at the largest slowdown, beside compilers.
const RUN_MAX: Duration = Duration::from_mins(20);

#[test]
fn machines_of_cloud_hypervisor_pass_with_every_receipt() {
    let Some(hypervisor) = host::program(&["cloud-hypervisor"]) else {
        return host::lacks("cloud-hypervisor", "cloud-hypervisor on the search path");
    };
    let Some((_turn, home)) = whole_bench() else { return };
    let [story, time] = [("story", STORY), ("time", &time_story(20))]
        .map(|(name, text)| write_scenario(home.path(), name, text));
    let others = ["split-brain", "leader-isolated", "lossy-wan", "crash-storm", "pause-leader"];
    let others: Vec<_> = others.iter().chain(&MACHINE_TOPOLOGIES).map(|name| topology(name)).collect();
    let others = others.iter().map(|file| file.to_str().unwrap());
    let files = [story.as_str(), time.as_str()].into_iter().chain(others.filter(|_| rounds() > 1));
    let on_both = files.flat_map(|file| ["switch", "kernel"].map(|fabric| (file, fabric)));
    let words = |file, fabric| [file, "--seed", "1", "--driver", "cloud-hypervisor", "--fabric", fabric];
    let rig = ["rig", "--cpus", "1", "--cloud-hypervisor", hypervisor.to_str().unwrap()];
    for (number, (file, fabric)) in on_both.enumerate() {
        let name = format!("run-{number}");
        let words = words(file, fabric);
        let here = Running::start(home.path(), &name, &words, &[]).finish_within(RUN_MAX);
        let run = match here.code {
            Some(3) => Running::start_below(home.path(), &name, &rig, &words, &[]).finish_within(RUN_MAX),
            _ => here,
        };
        check(&run, fabric);
    }
}

#[test]
fn killed_lab_leaves_nothing_of_its_machines() {
    let Some(hypervisor) = host::program(&["cloud-hypervisor"]) else {
        return host::lacks("cloud-hypervisor", "cloud-hypervisor on the search path");
    };
    let Some((_turn, home)) = whole_bench() else { return };
    let image = home.path().join("image");
    let image = image.to_str().unwrap();
    succeed(env!("CARGO_BIN_EXE_lab"), &["image", "build", "--out", image]);
    let faults = [
        ("switch", "suspend: follower", "and ended", "2"),
        ("kernel", "partition: [[leader], [rest]]", "in force", "3"),
    ];
    for (fabric, fault, sign, count) in faults {
        let script = KILLED.replace("$FABRIC", fabric).replace("$FAULT", fault).replace("$SIGN", sign);
        let hypervisor = hypervisor.to_str().unwrap();
        let words = ["--cpus", "1", "--cloud-hypervisor", hypervisor, "shell"];
        let output = rig::run_within(home.path(), &words, &[("ASPEN_IMAGE", image)], &script, RUN_MAX);
        let (said, errors) = (rig::text(&output.stdout), rig::text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{said}{errors}");
        assert_eq!(said, format!("{count} machines, {count} confined, nothing left\n"));
        // What came out of the guest.
        for name in ["run", "before", "after", "said", "story.yaml"] {
            let path = home.path().join(name);
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
    }
}

#[track_caller]
fn check(run: &Run, fabric: &str) {
    assert_eq!(run.code, Some(0), "{}", run.output());
    let report = run.report();
    assert_eq!((&report["driver"], &report["fabric"]), (&"cloud-hypervisor".into(), &fabric.into()));
    for fault in report["record"]["faults"].as_array().unwrap() {
        let proofs = fault["proofs"].as_array().unwrap();
        assert!(!proofs.is_empty() && proofs.iter().all(|proof| proof["is_seen"] == true), "{fault}");
    }
}
