//! Pages of runs that are made by hand: what must be on them, what must not, and how large they may be.

use serde_json::json;

use super::*;
use crate::check::linearizable::{self, Budget};
use crate::check::{Verdict, raft};
use crate::fabric::FabricKind;
use crate::history::{
    ClientIndex, History, KeyIndex, NodeNameIndex, Op, OpId, Operation, Outcome, read_history,
};
use crate::limits::page::PAGE_BYTES_MAX;
use crate::observations::{Incarnation, NodeState, NodeVote, Observation, Role, Seen};
use crate::plan::{NodeIndex, Plan};
use crate::runner::record::{Death, Event, FaultRecord, LeaderSeen, Proof, RunRecord};
use crate::scenario::Scenario;
use crate::workload::client::LoadCounts;

const MS: u64 = 1_000_000;

const SCENARIO: &str = "\
name: three
about: Three nodes & a <partition>.
nodes: { count: 3 }
faults:
  - { at: 1s, for: 2s, partition: [[leader], [rest]] }
checks: [linearizable, durable, raft, { recovers: { within: 5s } }, { minority_refuses: true }]
";

/// Reads what was overwritten long ago, from the old leader.
const STALE: &str = r#"{"call":1,"client":"c1","node":"n1","at_ns":1100000000,"op":"write","key":"KEY","value":"OLD"}
{"answer":1,"at_ns":1102000000,"outcome":"ok"}
{"call":2,"client":"c2","node":"n2","at_ns":2200000000,"op":"write","key":"KEY","value":"new"}
{"answer":2,"at_ns":2204000000,"outcome":"ok"}
{"call":3,"client":"r3","node":"n1","at_ns":2300000000,"op":"read","key":"KEY"}
{"answer":3,"at_ns":2301000000,"outcome":"ok","value":"OLD"}
"#;

/// A run that is to be told.
struct Told {
    report: Report,
    plan: Plan,
    history: History,
    observations: Vec<Observation>,
    events: Vec<Event>,
}

impl Told {
    fn page(&self) -> String {
        let Self { report, plan, history, observations, events } = self;
        page(&Sources { report, plan, history, observations, events, scenario: SCENARIO })
    }
}

fn state(at_ms: u64, node: u16, role: Role, term: u64) -> Observation {
    let vote = Some(NodeVote { term, voted_for: 1, is_committed: true });
    let state = NodeState {
        incarnation: Incarnation(1),
        role,
        term,
        vote,
        leader: Some(if term == 1 { 1 } else { 2 }),
        last_log_index: None,
        committed: None,
        applied: None,
        snapshot: None,
        purged: None,
    };
    Observation { at_ns: at_ms * MS, node: NodeIndex(node), seen: Seen::State(state) }
}

fn fault(number: u64) -> FaultRecord {
    FaultRecord {
        step: 0,
        repetition: 0,
        text: "partition n1 | n2 n3".to_owned(),
        began_ns: Some(number * 4_000 * MS + 1_500 * MS),
        ended_ns: Some(number * 4_000 * MS + 3_500 * MS),
        minority: vec![NodeIndex(0)],
        touched: [0, 1, 2].map(NodeIndex).to_vec(),
        retired: Vec::new(),
        removed: Vec::new(),
        links: [(0, 1), (1, 0), (0, 2), (2, 0)].map(|(from, to)| (NodeIndex(from), NodeIndex(to))).to_vec(),
        hit_leader_of_term: Some(1),
        proofs: vec![Proof {
            what: "frames were lost".to_owned(),
            is_seen: true,
            detail: "<12> frames".to_owned(),
        }],
        problem: None,
    }
}

fn record() -> RunRecord {
    let event =
        Event { at_ns: 0, kind: EventKind::Phase, subject: "boot".to_owned(), text: "3 <nodes>".to_owned() };
    RunRecord {
        origin_ns: 500 * MS,
        load_ended_ns: 5_500 * MS,
        counts: LoadCounts { answered: 3, refused: 0, unknown: 0, by_lease: None },
        settled: None,
        costs: None,
        faults: vec![fault(0)],
        links: None,
        leaders: vec![LeaderSeen { at_ns: 400 * MS, node: NodeIndex(0), term: 1 }],
        deaths: Vec::new(),
        events: vec![event],
        defects: Vec::new(),
        is_interrupted: false,
        shortage: None,
    }
}

fn told(verdicts: Vec<Verdict>, history: &str) -> Told {
    let scenario = Scenario::parse("three.yaml", SCENARIO).unwrap();
    let status = crate::check::overall(&verdicts);
    let report = Report {
        replay: "cargo lab run 'a <b>.yaml' --seed 77 --driver process".to_owned(),
        scenario: scenario.name().to_owned(),
        about: scenario.about().to_owned(),
        seed: 77,
        driver: "process".to_owned(),
        fabric: FabricKind::Switch,
        slowdown: None,
        lab_version: "0.1.0".to_owned(),
        node_version: "0.1.0 (planted bugs)".to_owned(),
        kernel: "6.18.44".to_owned(),
        status,
        exit_code: crate::report::exit_code(status),
        verdicts,
        record: Some(record()),
        aborted: None,
    };
    let observations = (0..20).flat_map(|look| {
        let at_ms = 500 + look * 250;
        let role = |leads: bool| if leads { Role::Leader } else { Role::Follower };
        let term = if at_ms < 2_000 { 1 } else { 2 };
        [
            state(at_ms, 0, role(true), 1),
            state(at_ms, 1, role(term == 2), term),
            state(at_ms, 2, role(false), term),
        ]
    });
    Told {
        report,
        plan: Plan::new(&scenario, 77),
        history: read_history(history.as_bytes()).unwrap(),
        observations: observations.collect(),
        events: Vec::new(),
    }
}

fn stale(key: &str, value: &str) -> Told {
    let quoted = |text: &str| serde_json::to_string(text).unwrap().trim_matches('"').to_owned();
    let text = STALE.replace("KEY", &quoted(key)).replace("OLD", &quoted(value));
    let verdict = linearizable::check(&read_history(text.as_bytes()).unwrap(), &Budget::default());
    let verdict = verdict.since(record().origin_ns).verdict();
    told(vec![verdict], &text)
}

fn verdict(check: &str, status: Status, details: serde_json::Value) -> Verdict {
    let summary = format!("what {check} says");
    Verdict { check: check.to_owned(), status, summary, looked_at: [("keys".to_owned(), 7)].into(), details }
}

#[track_caller]
fn has(page: &str, wants: &[&str]) {
    for want in wants {
        assert!(page.contains(want), "{want:?} is not on the page:\n{page}");
    }
}

#[test]
fn page_begins_with_the_replay_command_and_names_all_that_the_run_depends_on() {
    let page = told(Vec::new(), "").page();
    let replay = "replay: cargo lab run &#39;a &lt;b&gt;.yaml&#39; --seed 77 --driver process";
    assert_eq!(page.lines().next(), Some(format!("<!-- {replay} -->").as_str()));
    let seen = page.split_once("<main>").unwrap().1;
    assert!(seen.starts_with("<header><p class=\"replay\">replay: <code>cargo lab run "), "{seen}");
    has(&page, &["<dt>seed</dt><dd>77</dd>", "3 (process)", "0.1.0 (planted bugs)", "6.18.44"]);
    has(
        &page,
        &[
            "Three nodes &amp; a &lt;partition&gt;.",
            "partition: [[leader], [rest]]",
            "F1 partition n1 | n2 n3",
        ],
    );
    has(&page, &["frames were lost", "(&lt;12&gt; frames)", "no later leader was seen", "3 &lt;nodes&gt;"]);
}

#[test]
fn hostile_values_stay_values() {
    for (key, value) in [
        ("</script>", "\"><img src=x onerror=alert(1)>"),
        ("--><script>alert(1)</script>", "'><svg onload=alert(1)>"),
        ("]]></style><script>", "&lt;img src=x&gt;"),
        ("\u{202e}\u{0}", "\u{1b}[31m"),
    ] {
        let mut told = stale(key, value);
        for text in [&mut told.report.about, &mut told.report.kernel, &mut told.report.replay] {
            text.push_str(value);
        }
        told.report.aborted = Some(format!("{key}\n{value}"));
        let record = told.report.record.as_mut().unwrap();
        let fault = &mut record.faults[0];
        let proof = &mut fault.proofs[0];
        for text in [&mut fault.text, &mut proof.what, &mut proof.detail] {
            text.push_str(value);
        }
        fault.problem = Some(value.to_owned());
        let death = Death {
            at_ns: 1,
            node: NodeIndex(1),
            exit: value.to_owned(),
            console_end: key.to_owned(),
            is_of_hypervisor: false,
        };
        record.deaths.push(death);
        told.report.verdicts.push(verdict("alive", Status::Fail, json!({})));
        let page = told.page();
        for bad in ["<img", "<script", "</script", "<svg onload", "\u{202e}", "\u{0}", "\u{1b}"] {
            assert!(!page.contains(bad), "{bad:?} for {key:?} and {value:?}");
        }
        assert_eq!(page.matches("</style>").count(), 1);
        assert_eq!(page.matches("-->").count(), 1);
    }
    has(
        &stale("</script>", "\"><img src=x onerror=alert(1)>").page(),
        &["&lt;/script&gt;", "&gt;&lt;img src=x onerror"],
    );
}

#[test]
fn failure_alone_tells_what_went_wrong_and_where() {
    let page = stale("lamp", "off").page();
    let order = [
        "✗ FAIL",
        "A promise was broken (linearizable), exit code 1.",
        "What went wrong",
        "r3 read off from n1",
        "Timeline",
    ];
    let places: Vec<usize> =
        order.iter().map(|text| page.find(text).unwrap_or_else(|| panic!("{text}"))).collect();
    assert!(places.is_sorted(), "{places:?}");
    // The drawing and the table say what the node took itself for, and what it was under.
    has(&page, &["read -&gt; off  (n1 then: leader in term 1, under F1, without a majority)"]);
    has(
        &page,
        &["c2 → n2", "✗ conflict", "class=\"arrow\"", "write new -&gt; ok", "follower of n1 in term 1"],
    );
    // Times of the scenario, everywhere.
    has(&page, &["<td class=\"number\">1.800000 s</td>", "r3 read off from n1 at 1.801 s"]);
    has(&page, &["✗ linearizable: key lamp"]);
}

#[test]
fn every_check_says_what_it_found_in_words() {
    let differs = json!({ "differences": ["key a is 1 on n1, but 2 on n2"] });
    let late = json!([{ "fault": "kill n1", "what": "n2 answers", "took_ms": 6100 }, { "fault": "kill n1", "what": "n1 answers", "took_ms": null }]);
    let finding = raft::Finding {
        at_ns: 1_500 * MS,
        promise: "election safety".to_owned(),
        text: "n1 & n2".to_owned(),
    };
    let undecided = json!({ "undecided": [{ "key": "k9", "reason": { "configurations": 10 } }] });
    let mut told = told(
        vec![
            verdict("receipts", Status::Invalid, json!({ "missing": ["kill n1: it lives"] })),
            verdict("alive", Status::Fail, json!({ "deaths": [] })),
            verdict("linearizable", Status::Unknown, undecided),
            verdict("durable", Status::Fail, differs),
            verdict("raft", Status::Fail, json!({ "findings": [finding], "more": 3 })),
            verdict("recovers", Status::Fail, late),
            verdict("minority_refuses", Status::Fail, json!({ "answered": ["n1 gave r8 a read"] })),
        ],
        "",
    );
    let console_end = "thread 'main' panicked".to_owned();
    let death = Death {
        at_ns: 2_500 * MS,
        node: NodeIndex(2),
        exit: "signal 6 (SIGABRT)".to_owned(),
        console_end,
        is_of_hypervisor: false,
    };
    told.report.record.as_mut().unwrap().deaths.push(death);
    let page = told.page();
    has(
        &page,
        &[
            "kill n1: it lives",
            "key k9: the search needs more than 10 configurations",
            "key a is 1 on n1, but 2 on n2",
        ],
    );
    has(
        &page,
        &[
            "<td>1.000 s</td><td>election safety</td><td>n1 &amp; n2</td>",
            "and 3 more",
            "raft: election safety",
        ],
    );
    has(
        &page,
        &[
            "<td>✗ late</td><td>kill n1</td><td>n2 answers</td><td>6.10 s</td><td>5.00 s</td>",
            "<td>never</td>",
        ],
    );
    has(
        &page,
        &[
            "n1 gave r8 a read",
            "n3 ended by itself with signal 6 (SIGABRT)",
            "thread &#39;main&#39; panicked",
        ],
    );
    for raw in ["took_ms", "at_ns", "&quot;", "promise\""] {
        assert!(!page.contains(raw), "{raw:?} is not for people");
    }
}

#[test]
fn run_that_was_aborted_or_interrupted_has_a_page() {
    let mut told = told(Vec::new(), "");
    let record = told.report.record.take().unwrap();
    told.events = record.events.clone();
    told.observations.clear();
    told.report.status = Status::Invalid;
    told.report.aborted = Some("the run was aborted\nbecause: n2 does not answer".to_owned());
    has(
        &told.page(),
        &["! INVALID", "because: n2 does not answer", "No operation was called.", "3 &lt;nodes&gt;"],
    );
    told.report.record = Some(RunRecord { is_interrupted: true, faults: Vec::new(), ..record });
    has(&told.page(), &["<dt>ended early</dt><dd>by the user</dd>", "No fault was due."]);
}

#[test]
fn an_hour_of_fifty_nodes_and_a_million_operations_fits_a_page() {
    const HOUR_MS: u64 = 3_600_000;
    let mut told = stale("lamp", "off");
    let scenario = SCENARIO.replace("count: 3", "count: 50");
    told.plan = Plan::new(&Scenario::parse("three.yaml", &scenario).unwrap(), 1);
    for list in ["violations", "findings"] {
        let one = json!({ "at_ns": 7, "promise": "x".repeat(900), "text": "y".repeat(4000) });
        let one = if list == "findings" { one } else { told.report.verdicts[0].details[list][0].clone() };
        told.report.verdicts[0].details[list] = json!(vec![one; 16]);
    }
    let record = told.report.record.as_mut().unwrap();
    record.faults = (0..900).map(fault).collect();
    record.events = vec![record.events[0].clone(); 10_000];
    let console_end = "<".repeat(16_384);
    let death = |node| Death {
        at_ns: 9,
        node: NodeIndex(node),
        exit: String::new(),
        console_end: console_end.clone(),
        is_of_hypervisor: false,
    };
    record.deaths = (0..50).map(death).collect();
    told.report.verdicts.push(verdict("alive", Status::Fail, json!({})));
    let history = &mut told.history;
    let (client, node, key) = (ClientIndex(0), NodeNameIndex(0), KeyIndex(0));
    let read = |id: u64| {
        let (call_ns, outcome) = (id * HOUR_MS, Outcome::Read { value: None });
        let return_ns = Some(call_ns + id % 1_000 * 10_000);
        Operation {
            id: OpId(id),
            client,
            node,
            key,
            op: Op::Read,
            max_staleness_ms: None,
            call_ns,
            return_ns,
            outcome,
        }
    };
    history.operations.extend((0..1_000_000).map(read));
    // Every node says something else each time.
    told.observations = (0..HOUR_MS / 250)
        .flat_map(|look| (0..50).map(move |node| state(look * 250, node, Role::Candidate, look)))
        .collect();
    let bytes = told.page().len();
    assert!(bytes < PAGE_BYTES_MAX, "{bytes} bytes");
}
