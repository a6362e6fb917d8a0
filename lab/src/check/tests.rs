//! The checks that look at faults, on small runs.

use std::time::Duration;

use super::linearizable::Budget;
use super::{Evidence, Status, alive, judge, minority_refuses, overall, receipts, recovers};
use crate::history::{Answer, Call, History, HistoryWriter, Op, OpId, Outcome, read_history};
use crate::plan::{NodeIndex, Plan};
use crate::runner::record::{Death, FaultRecord, LinksRecord, Proof, RunRecord};
use crate::scenario::Scenario;
use crate::workload::client::LoadCounts;

const SECOND: u64 = 1_000_000_000;

fn plan() -> Plan {
    let text = "name: t\nabout: t.\nnodes: { count: 3 }\nfaults:\n  \
                - { at: 1s, for: 1s, partition: [[n1], [rest]] }\n\
                checks: [linearizable, { recovers: { within: 2s } }, { minority_refuses: true }]\n";
    Plan::new(&Scenario::parse("t.yaml", text).unwrap(), 1)
}

fn fault(began_s: u64, ended_s: Option<u64>) -> FaultRecord {
    FaultRecord {
        step: 0,
        repetition: 0,
        text: "partition n1 | n2 n3".to_owned(),
        began_ns: Some(began_s * SECOND),
        ended_ns: ended_s.map(|at_s| at_s * SECOND),
        minority: vec![NodeIndex(0)],
        touched: vec![NodeIndex(0)],
        retired: Vec::new(),
        removed: Vec::new(),
        links: Vec::new(),
        hit_leader_of_term: Some(1),
        proofs: vec![Proof { what: "it".to_owned(), is_seen: true, detail: String::new() }],
        problem: None,
    }
}

pub(super) fn record(faults: Vec<FaultRecord>, load_ended_s: u64) -> RunRecord {
    RunRecord {
        origin_ns: 0,
        load_ended_ns: load_ended_s * SECOND,
        counts: LoadCounts { answered: 1_000, refused: 0, unknown: 0, by_lease: None },
        settled: None,
        costs: None,
        faults,
        links: None,
        leaders: vec![],
        deaths: vec![],
        events: vec![],
        defects: vec![],
        is_interrupted: false,
        shortage: None,
    }
}

/// One write of n1 for each pair of call and answer, in tenths of a second; without an answer it was refused.
fn history(writes: &[(u64, Option<u64>)]) -> History {
    let mut out = HistoryWriter::new(Vec::new());
    for (number, (call, answer)) in (0..).zip(writes) {
        let (id, client, value) = (OpId(number), format!("c{number}"), format!("v{number}"));
        let op = Op::Write { value: value.as_str() };
        let at_ns = call * SECOND / 10;
        out.call(&Call { id, client: &client, node: "n1", at_ns, key: "k", op, max_staleness_ms: None })
            .unwrap();
        let outcome = answer.map_or(Outcome::Refused { reason: "no_quorum" }, |_| Outcome::Done);
        let at_ns = answer.unwrap_or(*call) * SECOND / 10;
        out.answer(&Answer { id, at_ns, outcome }).unwrap();
    }
    read_history(&out.into_inner()[..]).unwrap()
}

#[track_caller]
fn check_recovers(writes: &[(u64, Option<u64>)], record: &RunRecord, want: Status) {
    let verdict = recovers::check(&plan(), &history(writes), record, Duration::from_secs(2));
    assert_eq!(verdict.status, want, "{}", verdict.summary);
}

#[test]
fn recovery_has_to_come_in_time() {
    let one = || record(vec![fault(1, Some(2))], 10);
    check_recovers(&[(21, Some(22))], &one(), Status::Pass);
    check_recovers(&[(21, Some(45))], &one(), Status::Fail);
    check_recovers(&[], &one(), Status::Fail);
    // What was called before the heal proves nothing.
    check_recovers(&[(19, Some(21))], &one(), Status::Fail);
    // Nor does a cluster that is late on a host that is too slow for it.
    let too_slow = || RunRecord { shortage: Some("10: …".to_owned()), ..one() };
    check_recovers(&[(21, Some(45))], &too_slow(), Status::Invalid);
    check_recovers(&[(21, Some(22))], &too_slow(), Status::Pass);
}

#[test]
fn recovery_that_the_load_did_not_wait_for_is_no_failure() {
    check_recovers(&[], &record(vec![fault(1, Some(2))], 3), Status::Invalid);
    check_recovers(&[], &record(vec![fault(1, None)], 3), Status::Invalid);
}

#[test]
fn recovery_is_due_only_when_every_fault_is_over() {
    let overlapping = || record(vec![fault(1, Some(2)), fault(1, Some(5))], 10);
    check_recovers(&[(51, Some(52))], &overlapping(), Status::Pass);
    check_recovers(&[(51, Some(75))], &overlapping(), Status::Fail);
}

#[test]
fn recovery_that_the_next_fault_interrupts_is_due_after_that_one() {
    let in_a_row = |again| record(vec![fault(1, Some(2)), fault(again, Some(again + 1))], 20);
    check_recovers(&[(41, Some(42))], &in_a_row(3), Status::Pass);
    check_recovers(&[(41, Some(65))], &in_a_row(3), Status::Fail);
    // The next one came when it was late already.
    check_recovers(&[(71, Some(72))], &in_a_row(5), Status::Fail);
    // A next one that never ends leaves nothing to wait for.
    check_recovers(&[], &record(vec![fault(1, Some(2)), fault(3, None)], 20), Status::Invalid);
}

#[track_caller]
fn check_minority(writes: &[(u64, Option<u64>)], record: &RunRecord, want: Status) {
    let verdict = minority_refuses::check(&plan(), &history(writes), record);
    assert_eq!(verdict.status, want, "{}", verdict.summary);
}

#[test]
fn minority_must_be_asked_and_must_refuse() {
    let one = || record(vec![fault(1, Some(2))], 10);
    check_minority(&[(12, None)], &one(), Status::Pass);
    check_minority(&[(12, Some(13))], &one(), Status::Fail);
    check_minority(&[(5, Some(13)), (25, Some(26))], &one(), Status::Invalid);
    // One who waits all the time for what was called before has asked, too.
    check_minority(&[(9, Some(21))], &one(), Status::Pass);
    let mut without_receipt = one();
    without_receipt.faults[0].proofs[0].is_seen = false;
    check_minority(&[(12, Some(13))], &without_receipt, Status::Invalid);
}

#[test]
fn run_without_its_receipts_is_invalid() {
    let check = |record: &RunRecord, want: Status| {
        let verdict = receipts::check(&plan(), record);
        assert_eq!(verdict.status, want, "{}", verdict.summary);
    };
    check(&record(vec![fault(1, Some(2))], 10), Status::Pass);
    check(&record(vec![], 10), Status::Invalid);
    let mut unseen = record(vec![fault(1, Some(2))], 10);
    unseen.faults[0].proofs[0].is_seen = false;
    check(&unseen, Status::Invalid);
    let mut idle = record(vec![fault(1, Some(2))], 10);
    idle.counts.answered = 99;
    check(&idle, Status::Invalid);
    let mut defect = record(vec![fault(1, Some(2))], 10);
    defect.defects.push("the switch has lost the port of n1".to_owned());
    check(&defect, Status::Invalid);
}

#[test]
fn links_of_the_whole_run_need_their_receipt() {
    let text = "name: t\nabout: t.\nnodes: { count: 3 }\nlinks: [{ from: n1, to: n2, latency: 5ms }]\n\
                checks: [linearizable]\n";
    let plan = Plan::new(&Scenario::parse("t.yaml", text).unwrap(), 1);
    let check = |links: Option<LinksRecord>, want: Status, summary: &str| {
        let verdict = receipts::check(&plan, &RunRecord { links, ..record(vec![], 10) });
        assert_eq!((verdict.status, verdict.summary.as_str()), (want, summary));
    };
    let proof = |is_seen| Proof { what: "it".to_owned(), is_seen, detail: "4 ms".to_owned() };
    let links = |proofs| Some(LinksRecord { text: "links".to_owned(), links: vec![], proofs });
    check(None, Status::Invalid, "the links of the whole run were not judged");
    check(links(vec![]), Status::Invalid, "links: nothing was proven");
    check(links(vec![proof(true), proof(false)]), Status::Invalid, "links: not seen that it (4 ms)");
    check(
        links(vec![proof(true)]),
        Status::Pass,
        "the links of the whole run and 0 of 0 faults left a receipt, 1000 operations answered",
    );
}

#[test]
fn broken_promise_outweighs_a_missing_receipt() {
    let mut run = record(vec![], 10);
    run.deaths.push(Death {
        at_ns: 0,
        node: NodeIndex(0),
        exit: "signal 6".to_owned(),
        console_end: "x".to_owned(),
        is_of_hypervisor: false,
    });
    assert_eq!(alive::check(&plan(), &run).status, Status::Fail);
    // What ended under a node is no word about it.
    let mut lost = record(vec![], 10);
    lost.deaths.push(Death { is_of_hypervisor: true, ..run.deaths[0].clone() });
    let verdict = alive::check(&plan(), &lost);
    assert_eq!(verdict.status, Status::Invalid);
    assert!(
        verdict.summary.starts_with("the hypervisor of n1 has ended, not its node: signal 6"),
        "{}",
        verdict.summary
    );
    let (plan, history) = (plan(), history(&[]));
    let evidence = Evidence { plan: &plan, history: &history, record: &run, observations: &[] };
    let verdicts = judge(&evidence, &Budget::default());
    assert_eq!(verdicts.len(), 5);
    assert_eq!(overall(&verdicts), Status::Fail);
}
