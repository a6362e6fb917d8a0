use std::time::Duration;

use proptest::prelude::*;

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
    for name in [
        "blackout",
        "crash-storm",
        "flapping",
        "leader-isolated",
        "lease-reads",
        "left-behind",
        "lossy-wan",
        "one-way-cut",
        "pause-leader",
        "split-brain",
        "three-nodes",
        "three-regions",
        "two-networks",
    ] {
        assert!(names.iter().any(|there| there == name), "{name} is missing from {names:?}");
    }
}

#[test]
fn example_of_the_documentation_is_valid() {
    let document = include_str!("../../../docs/scenario.md");
    let (_, example) = document.split_once("```yaml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    assert_eq!(valid(example).faults().len(), 5);
}

#[test]
fn defaults_fill_what_is_left_out() {
    let scenario = valid(VALID);
    assert_eq!(scenario.nodes(), ["n1", "n2", "n3"]);
    assert_eq!(scenario.raft().heartbeat, Duration::from_millis(200));
    assert_eq!(scenario.raft().election_max, Duration::from_secs(2));
    assert_eq!(scenario.workload().rate_per_s, 200);
    assert_eq!(scenario.workload().mix, Mix { read: 50, write: 30, cas: 20, delete: 0, scan: 0 });
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
        FaultAction::Link {
            from: vec![Selector::Node(NodeIndex(0))],
            to: vec![Selector::Random],
            is_both_ways: false,
            effect: LinkEffect { loss_per_million: 1_000_000, ..LinkEffect::default() },
        }
    );
    assert_eq!(scenario.duration(), Duration::from_secs(75));
}

#[test]
fn networks_are_one_of_the_seed_where_nothing_is_said() {
    let [only] = valid(VALID).networks().to_vec().try_into().unwrap();
    assert_eq!((only.name, only.mtu, only.subnets), (None, 1500, vec![Subnet::Drawn(Family::V4)]));
    assert_eq!(only.nodes, [NodeIndex(0), NodeIndex(1), NodeIndex(2)]);
    let scenario = valid(&VALID.replace(
        "checks:",
        "networks:
  - { id: cluster, subnet: [fd00:7::/64, ipv4], mtu: 1280 }
  - { id: clients, nodes: [n3, n1] }
checks:",
    ));
    let [cluster, clients] = scenario.networks() else { panic!("{:?}", scenario.networks()) };
    let given = Subnet::Given("fd00:7::/64".parse().unwrap());
    assert_eq!(
        (cluster.mtu, cluster.subnets.as_slice()),
        (1280, [given, Subnet::Drawn(Family::V4)].as_slice())
    );
    assert_eq!(
        (clients.name.as_deref(), clients.nodes.as_slice()),
        (Some("clients"), [NodeIndex(0), NodeIndex(2)].as_slice())
    );
}

#[test]
fn later_lines_replace_the_keys_that_they_give() {
    let zones = "nodes: [{ id: a, zone: eu }, { id: b, zone: eu }, { id: c, zone: us }]";
    let scenario = valid(&VALID.replace("nodes: { count: 3 }", zones).replace(
        "checks:",
        "links:
  - { between: [eu, us], latency: 40ms, jitter: 5ms, loss: 0.1% }
  - { from: a, to: c, loss: 2%, duplicate: 3%, rate: 1.5Mbit/s }
  - { between: [b, us], latency: 0ms, jitter: 0ms, loss: 0% }
  - { between: [eu, eu], latency: 1ms }
faults:
  - { at: 1s, for: 1s, partition: [[eu], [rest]] }
  - { at: 1s, for: 1s, link: { between: [leader, eu], loss: 0.0001% } }
  - { at: 1s, for: 1s, pause: follower }
checks:",
    ));
    let link = |from, to, latency_ms, jitter_ms, loss_per_million| {
        let effect = LinkEffect { latency_ms, jitter_ms, loss_per_million, ..LinkEffect::default() };
        StandingLink { from: NodeIndex(from), to: NodeIndex(to), effect }
    };
    let mut want =
        [link(0, 1, 1, 0, 0), link(0, 2, 40, 5, 20_000), link(1, 0, 1, 0, 0), link(2, 0, 40, 5, 1_000)];
    (want[1].effect.duplicate_per_million, want[1].effect.bits_per_s) = (30_000, Some(1_500_000));
    assert_eq!(scenario.links(), want);
    assert_eq!(scenario.zones(), [Some("eu".to_owned()), Some("eu".to_owned()), Some("us".to_owned())]);
    let eu = vec![Selector::Node(NodeIndex(0)), Selector::Node(NodeIndex(1))];
    let [partition, link, pause] = scenario.faults() else { panic!("three faults") };
    let groups = vec![eu.clone(), vec![Selector::Rest]];
    assert_eq!(partition.action, FaultAction::Partition { groups });
    let effect = LinkEffect { loss_per_million: 1, ..LinkEffect::default() };
    let from = vec![Selector::Leader];
    assert_eq!(link.action, FaultAction::Link { from, to: eu, is_both_ways: true, effect });
    assert_eq!(pause.action, FaultAction::Pause { who: Selector::Follower });
}

#[test]
fn faults_are_told_as_a_person_would() {
    let scenario = valid(&format!(
        "{VALID}faults:
  - {{ at: 1s, for: 1s, partition: [[leader, n1], [rest]] }}
  - {{ at: 1s, for: 1s, link: {{ between: [leader, rest], latency: 40ms, jitter: 5ms, loss: 0.1% }} }}
  - {{ at: 1s, for: 1s, link: {{ from: leader, to: rest, latency: 40ms }} }}
  - {{ at: 1s, for: 1s, link: {{ from: n1, to: n2, loss: 100% }} }}
  - {{ at: 1s, for: 1s, pause: n2 }}
  - {{ at: 1s, for: 1s, suspend: follower }}
  - {{ at: 1s, by: 2s, rollback: leader }}
  - {{ at: 1s, for: 1s, clock: n1, step: -1.5s }}
  - {{ at: 1s, for: 10s, clock: leader, drift: 2.5% }}
"
    ));
    assert_eq!(scenario.faults()[6].planned_end(), Duration::from_secs(3));
    let texts: Vec<String> = scenario.faults().iter().map(|fault| fault.action.to_string()).collect();
    assert_eq!(
        texts,
        [
            "partition leader node 1 | rest",
            "link leader <-> rest: 40 ms ± 5 ms, 0.1 % loss",
            "link leader -> rest: 40 ms",
            "cut node 1 -> node 2",
            "pause node 2",
            "suspend follower",
            "rollback leader",
            "clock node 1: 1500ms behind",
            "clock leader: 2.5 % fast",
        ]
    );
}

/// The most eventful of the topologies, and one with every kind of value.
const SEEDS: [&str; 3] = [
    include_str!("../../../topologies/crash-storm.yaml"),
    "name: all\nabout: &a All.\nnodes: [{ id: a }, { id: b }, { id: c }]\nraft: { heartbeat: 100ms, election: 1s..2s }\n\
     faults:\n  - { at: 1s, for: 1s, partition: [[leader, follower], [rest]] }\n  - at: 1m\n    for: 1s\n    link:\n      \
     from: a\n      to: random\n      loss: 100%\nchecks: [linearizable, { minority_refuses: true }]\n",
    "name: wan\nabout: Zones.\nnodes: [{ id: a, zone: eu }, { id: b, zone: us }, { id: c }]\nlinks:\n  - { between: [eu, us], \
     latency: 40ms, jitter: 5ms, loss: 0.1% }\n  - { from: c, to: eu, loss: 1% }\nfaults:\n  - { at: 1s, for: 2s, pause: leader }\n  \
     - { at: 1s, for: 2s, link: { between: [leader, us], latency: 2ms } }\nchecks: [linearizable]\n",
];

/// What breaks scenarios: YAML's own characters, units, numbers at the edge, aliases and tags.
const SPLINTERS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "-",
    "#",
    "\n",
    "\r\n",
    "  ",
    "\t",
    "&a ",
    "*a",
    "!t ",
    "!!int ",
    "\"",
    "'",
    "|\n",
    ">-\n",
    "? ",
    "<<: ",
    "---\n",
    "~",
    "0",
    "-1",
    "1e99",
    "99999999999999999999",
    "0.1s",
    "100%",
    "200/s",
    "leader",
    "rest",
    "at: ",
    "link: ",
    "links: ",
    "between: [a, a]",
    "latency: 5ms",
    "kill: ",
    "pause: ",
    "every: 1s",
    "times: 3",
    "\u{feff}",
    "ä",
];

fn splinter() -> impl Strategy<Value = String> {
    prop_oneof![proptest::sample::select(SPLINTERS).prop_map(str::to_owned), any::<String>()]
}

/// Whatever the text, the answer is a scenario or mistakes that stand in the file's order.
#[track_caller]
fn check_answer(text: &str) -> Result<(), TestCaseError> {
    match Scenario::parse("s.yaml", text) {
        Ok(scenario) => {
            for fault in scenario.faults() {
                prop_assert!(fault.planned_end() <= scenario.duration());
            }
        }
        Err(ScenarioErrors::Mistakes(Mistakes { list, .. })) => {
            prop_assert!(!list.is_empty());
            prop_assert!(list.is_sorted_by_key(|at| (at.line, at.column)));
        }
        Err(error) => prop_assert!(false, "{error}"),
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        check_answer(&text)?;
    }

    #[test]
    fn any_broken_scenario_is_answered(
        seed in proptest::sample::select(&SEEDS[..]),
        breaks in proptest::collection::vec((any::<proptest::sample::Index>(), 0_usize..4, splinter()), 1..6),
    ) {
        let mut chars: Vec<char> = seed.chars().collect();
        for (at, removed_count, splinter) in breaks {
            let at = at.index(chars.len() + 1);
            let end = (at + removed_count).min(chars.len());
            chars.splice(at..end, splinter.chars());
        }
        check_answer(&chars.into_iter().collect::<String>())?;
    }
}

mod refusals;
