//! Histories as data: what must pass, what must fail, and what is said of it.

use std::fmt::Write;

use super::*;
use crate::history::{Answer, Call, HistoryWriter, OpId, read_history};

/// One operation of a test's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sketch {
    pub(super) client: String,
    pub(super) node: String,
    pub(super) key: String,
    pub(super) call_ns: u64,
    pub(super) return_ns: Option<u64>,
    pub(super) op: Op<String>,
    pub(super) outcome: Outcome<String>,
}

/// Writes the sketches as a file and reads it back. Their index is their id.
pub(super) fn history(sketches: &[Sketch]) -> History {
    let mut events = Vec::new();
    for (index, sketch) in sketches.iter().enumerate() {
        events.push((sketch.call_ns, false, index));
        events.extend(sketch.return_ns.map(|at_ns| (at_ns, true, index)));
    }
    events.sort_unstable();
    let mut writer = HistoryWriter::new(Vec::new());
    for (at_ns, is_return, index) in events {
        let Sketch { client, node, key, op, outcome, .. } = sketches[index].clone();
        let id = OpId(index as u64);
        if is_return {
            let outcome = match &outcome {
                Outcome::Read { value } => Outcome::Read { value: value.as_deref() },
                Outcome::Done => Outcome::Done,
                Outcome::CasFailed { actual } => Outcome::CasFailed { actual: actual.as_deref() },
                Outcome::Refused { reason } => Outcome::Refused { reason: reason.as_str() },
                Outcome::Unknown => Outcome::Unknown,
            };
            writer.answer(&Answer { id, at_ns, outcome }).unwrap();
        } else {
            let op = match &op {
                Op::Read => Op::Read,
                Op::Write { value } => Op::Write { value: value.as_str() },
                Op::Cas { expected, value } => Op::Cas { expected: expected.as_deref(), value },
                Op::Delete => Op::Delete,
            };
            writer
                .call(&Call {
                    id,
                    client: &client,
                    node: &node,
                    at_ns,
                    key: &key,
                    op,
                    max_staleness_ms: None,
                })
                .unwrap();
        }
    }
    read_history(&writer.into_inner()[..]).unwrap()
}

/// One line: `client node call return op[@key] arguments -> outcome`, times in milliseconds, `-` for none.
fn sketch(line: &str) -> Sketch {
    let (call, outcome) = line.split_once(" -> ").unwrap();
    let words: Vec<&str> = call.split_whitespace().collect();
    let (name, key) = words[4].split_once('@').unwrap_or((words[4], "k"));
    let value = |word: &str| (word != "absent").then(|| word.to_owned());
    let op = match name {
        "read" => Op::Read,
        "write" => Op::Write { value: words[5].to_owned() },
        "cas" => Op::Cas { expected: value(words[5]), value: words[6].to_owned() },
        "delete" => Op::Delete,
        other => panic!("no operation is called {other}"),
    };
    let outcome = match (outcome.trim(), name) {
        ("ok", _) => Outcome::Done,
        ("refused", _) => Outcome::Refused { reason: "no leader".to_owned() },
        ("unknown", _) => Outcome::Unknown,
        (found, "cas") => Outcome::CasFailed { actual: value(found) },
        (found, _) => Outcome::Read { value: value(found) },
    };
    Sketch {
        client: words[0].to_owned(),
        node: words[1].to_owned(),
        key: key.to_owned(),
        call_ns: words[2].parse::<u64>().unwrap() * 1_000_000,
        return_ns: words[3].parse().ok().map(|at_ms: u64| at_ms * 1_000_000),
        op,
        outcome,
    }
}

fn judge_text(text: &str) -> LinearizableResult {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    super::check(&history(&lines.map(sketch).collect::<Vec<_>>()), &Budget::default())
}

/// `want` is empty for a linearizable history, else the summary of its violation.
#[track_caller]
fn check(text: &str, want: &str) {
    let result = judge_text(text);
    let got: Vec<&str> = result.violations.iter().map(|violation| violation.summary.as_str()).collect();
    assert_eq!(got.join("\n"), want);
    assert_eq!(result.status(), if want.is_empty() { Status::Pass } else { Status::Fail });
    assert!(result.violations.iter().all(|violation| violation.is_minimal));
}

#[test]
fn empty_history_is_linearizable() {
    check("", "");
}

#[test]
fn keys_start_absent() {
    check("c1 n1 0 1 read -> absent", "");
    check("c1 n1 0 1 cas absent v1 -> ok \n c2 n1 2 3 read -> v1", "");
    check("c1 n1 0 1 cas v1 v2 -> absent", "");
}

#[test]
fn stale_read_is_caught() {
    check(
        "c2 n2 0 10 write v17 -> ok
         c5 n4 20 30 write v18 -> ok
         c3 n1 2000 2010 read -> v17",
        "key k: c3 read v17 from n1 at 2.010 s, although c5 wrote v18 through n4, acknowledged at 0.030 s, \
         1.970 s before c3 asked. That was older: c2 wrote v17 through n2, acknowledged at 0.010 s",
    );
}

#[test]
fn lost_write_is_caught() {
    check(
        "c1 n1 0 10 write v1 -> ok
         c2 n2 20 30 read -> absent",
        "key k: c2 read from n2 at 0.030 s that the key is absent, although c1 wrote v1 through n1, \
         acknowledged at 0.010 s, 10.000 ms before c2 asked. It was never made absent again",
    );
}

#[test]
fn value_that_nobody_wrote_is_caught() {
    check("c1 n1 0 10 read -> v9", "key k: c1 read v9 from n1 at 0.010 s, but nobody ever wrote v9");
    check(
        "c1 n1 0 10 read -> v9
         c2 n2 11 20 write v9 -> ok",
        "key k: c1 read v9 from n1 at 0.010 s, 1.000 ms before c2 first asked n2 to write it",
    );
    check(
        "c1 n1 0 10 write v9 -> refused
         c2 n2 0 20 read -> v9",
        "key k: c2 read v9 from n2 at 0.020 s, but nobody ever wrote v9",
    );
}

#[test]
fn two_cas_from_one_value_are_caught() {
    let text = "c1 n1 0 10 write v1 -> ok
         c2 n2 20 30 cas v1 v2 -> ok
         c3 n3 25 35 cas v1 v3 -> ok";
    let want = "key k: c2 swapped v1 for v2 through n2, acknowledged at 0.030 s, and c3 swapped v1 for v3 \
                through n3, acknowledged at 0.035 s: both started from v1, which was there once";
    check(text, want);
    check(&format!("{text}\n c1 n1 0 50 write v1 -> ok"), "");
}

#[test]
fn cas_that_fails_on_what_it_expected_is_caught() {
    check(
        "c1 n1 0 10 write v1 -> ok
         c2 n2 20 30 cas v1 v2 -> v1",
        "key k: the compare-and-swap of c2 on n2 failed at 0.030 s because it found v1, which is what it expected",
    );
}

#[test]
fn ring_of_cas_is_caught() {
    let result = judge_text(
        "c1 n1 0 90 cas v1 v2 -> ok
         c2 n2 0 90 cas v2 v3 -> ok
         c3 n3 0 90 cas v3 v1 -> ok",
    );
    assert_eq!(result.violations[0].operations.len(), 3, "{result:#?}");
}

#[test]
fn unknown_write_may_show_up_late_or_never() {
    let late = "c1 n1 0 10 write v1 -> unknown
         c2 n2 20 30 write v2 -> ok
         c2 n2 40 50 read -> v2
         c2 n2 60 70 read -> v1";
    check(late, "");
    check("c1 n1 0 - write v1 -> unknown \n c2 n2 20 30 read -> absent", "");
    check(
        &format!("{late}\n c3 n3 80 90 read -> v2"),
        "key k: c3 read v2 from n3 at 0.090 s, although c2 read v1 from n2 at 0.070 s, 10.000 ms before c3 \
         asked. That was older: c2 wrote v2 through n2, acknowledged at 0.030 s",
    );
}

#[test]
fn values_that_change_back_are_caught() {
    check(
        "c1 n1 0 90 write v1 -> ok
         c2 n2 0 90 write v2 -> ok
         c3 n3 10 20 read -> v1
         c3 n3 30 40 read -> v2
         c4 n4 50 60 read -> v1",
        "key k: no order explains these 3 operations together: c3 read v1 from n3 at 0.020 s; \
         c3 read v2 from n3 at 0.040 s; c4 read v1 from n4 at 0.060 s",
    );
}

#[test]
fn unknown_cas_that_was_seen_did_happen() {
    let result = judge_text(
        "c1 n1 0 10 write v1 -> ok
         c2 n2 20 - cas v1 v2 -> unknown
         c3 n3 20 30 cas v1 v3 -> ok
         c4 n4 40 50 read -> v2",
    );
    assert_eq!(result.status(), Status::Fail);
}

#[test]
fn deletes_make_the_key_absent_again() {
    let text = "c1 n1 0 10 write v1 -> ok
         c1 n1 20 30 delete -> ok
         c1 n1 40 50 read -> absent";
    check(text, "");
    check(
        &format!("{text}\n c2 n2 60 70 read -> v1"),
        "key k: c2 read v1 from n2 at 0.070 s, although c1 read from n1 at 0.050 s that the key is absent, \
         10.000 ms before c2 asked. That was older: c1 wrote v1 through n1, acknowledged at 0.010 s",
    );
}

#[test]
fn keys_are_judged_apart() {
    check("c1 n1 0 10 write@a v1 -> ok \n c1 n1 20 30 read@b -> absent", "");
    check(
        "c1 n1 0 10 write@a v1 -> ok \n c1 n1 20 30 read@b -> v1",
        "key b: c1 read v1 from n1 at 0.030 s, but nobody ever wrote v1",
    );
}

#[test]
fn operations_that_touch_in_time_overlap() {
    check("c1 n1 0 10 write v1 -> ok \n c2 n2 10 20 read -> absent", "");
}

#[test]
fn budget_that_ends_is_unknown() {
    let text = "c1 n1 0 50 write v1 -> ok
         c1 n1 0 50 write v2 -> ok
         c1 n1 0 50 delete -> ok
         c1 n1 10 90 read -> v2";
    let sketches: Vec<Sketch> = text.lines().map(str::trim).map(sketch).collect();
    let history = history(&sketches);
    let budget = Budget { configurations_max: 1, ..Budget::default() };
    let result = super::check(&history, &budget);
    assert_eq!(result.status(), Status::Unknown, "{result:?}");
    assert_eq!(
        result.verdict().summary,
        "1 of 1 key not decided: key k: the search needs more than 1 configurations"
    );
    assert_eq!(super::check(&history, &Budget::default()).status(), Status::Pass);
}

#[test]
fn too_much_in_flight_is_unknown() {
    let count = u64::from(CHECK_PENDING_MAX) + 1;
    let line = |client: u64| sketch(&format!("c{client} n1 0 10 delete -> ok"));
    let result = super::check(&history(&(0..count).map(line).collect::<Vec<_>>()), &Budget::default());
    assert_eq!(result.undecided[0].reason, Exhausted::Pending(CHECK_PENDING_MAX + 1));
}

#[test]
fn conflict_is_found_among_many_operations() {
    let mut text = String::new();
    for at in 0..500 {
        let (call, ret) = (at * 10, at * 10 + 12);
        writeln!(text, "c{} n1 {call} {ret} write v{} -> ok", at % 4, at % 7).unwrap();
    }
    text += "c9 n2 5100 5110 read -> v0\n";
    let result = judge_text(&text);
    assert_eq!(result.violations[0].operations.len(), 3, "{}", result.verdict().summary);
    assert!(result.violations[0].is_minimal);
}

#[test]
fn verdict_says_what_was_looked_at() {
    let verdict = judge_text("c1 n1 0 10 write v1 -> ok \n c2 n2 20 30 read -> v1").verdict();
    assert_eq!(verdict.summary, "all 2 operations on 1 key can be explained");
    assert_eq!(verdict.looked_at["operations"], 2);
    assert_eq!(verdict.looked_at["reads"], 1);
    assert_eq!(serde_json::to_value(&verdict).unwrap()["status"], "pass");
}
