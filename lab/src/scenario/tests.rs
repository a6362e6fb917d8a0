use std::time::Duration;

use super::*;

const VALID: &str = "\
name: small
about: A test.
nodes: { count: 3 }
checks: [linearizable]
";

#[track_caller]
fn valid(text: &str) -> Scenario {
    Scenario::parse("s.yaml", text).unwrap_or_else(|errors| panic!("refused:\n{errors}"))
}

#[test]
fn every_topology_is_a_valid_scenario() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../topologies");
    let mut names: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let scenario = Scenario::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(Some(scenario.name()), path.file_stem().and_then(|stem| stem.to_str()));
        assert!(scenario.duration() <= Duration::from_secs(40), "{} takes too long", scenario.name());
        names.push(scenario.name().to_owned());
    }
    for name in ["crash-storm", "leader-isolated", "split-brain", "three-nodes"] {
        assert!(names.iter().any(|there| there == name), "{name} is missing from {names:?}");
    }
}

#[test]
fn defaults_fill_what_is_left_out() {
    let scenario = valid(VALID);
    assert_eq!(scenario.nodes(), ["n1", "n2", "n3"]);
    assert_eq!(scenario.raft().heartbeat, Duration::from_millis(200));
    assert_eq!(scenario.raft().election_max, Duration::from_secs(2));
    assert_eq!(scenario.workload().rate_per_s, 200);
    assert_eq!(scenario.workload().mix, Mix { read: 50, write: 30, cas: 20 });
    assert_eq!(scenario.duration(), Duration::from_secs(10));
    assert_eq!(scenario.text_hash(), blake3::hash(VALID.as_bytes()).as_bytes());
}

#[test]
fn faults_mean_what_they_say() {
    let scenario = valid(&format!(
        "{VALID}faults:
  - {{ at: 5s, for: 10s, partition: [[leader, follower], [rest]] }}
  - {{ at: 20s, kill: n2, restart_after: 1.5s, every: 6s, times: 3 }}
  - {{ at: 1m, for: 5000000us, link: {{ from: n1, to: random, loss: 100.0% }} }}
"
    ));
    let [partition, kill, link] = scenario.faults() else { panic!("three faults") };
    assert_eq!(
        partition.action,
        FaultAction::Partition {
            groups: vec![vec![Selector::Leader, Selector::Follower], vec![Selector::Rest]]
        }
    );
    assert_eq!(kill.action, FaultAction::Kill { who: Selector::Node(NodeIndex(1)) });
    assert_eq!(kill.planned_end(), Duration::from_millis(20_000 + 3 * 1_500 + 2 * 6_000));
    assert_eq!(
        link.action,
        FaultAction::CutOneWay { from: Selector::Node(NodeIndex(0)), to: Selector::Random }
    );
    assert_eq!(scenario.duration(), Duration::from_secs(75));
}
