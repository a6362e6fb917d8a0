use std::fmt::Write;

use super::*;
use crate::check::tests::record;
use crate::history::read_history;
use crate::runner::record::Settled;

/// Histories of key `k` on nodes `a` and `b`, an operation a line: client, node, call, return (`-`: unknown), and what.
fn history(text: &str) -> History {
    let mut lines = String::new();
    for (id, line) in text.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [client, node, call, back, what @ ..] = &words[..] else { panic!("{line}") };
        let text = |word: &str| if word == "nil" { "null".to_owned() } else { format!("{word:?}") };
        let (op, answer) = match what {
            ["write", value] => {
                (format!(r#""op":"write","value":"{value}""#), r#""outcome":"ok""#.to_owned())
            }
            ["cas", from, to] => (
                format!(r#""op":"cas","expected":{},"value":"{to}""#, text(from)),
                r#""outcome":"ok""#.to_owned(),
            ),
            ["read", value] => {
                (r#""op":"read""#.to_owned(), format!(r#""outcome":"ok","value":{}"#, text(value)))
            }
            _ => panic!("{line}"),
        };
        let who = format!(r#""client":"{client}","node":"{node}","key":"k""#);
        let _ = writeln!(lines, "{{\"call\":{id},\"at_ns\":{call},{who},{op}}}");
        if *back != "-" {
            let _ = writeln!(lines, "{{\"answer\":{id},\"at_ns\":{back},{answer}}}");
        }
    }
    read_history(lines.as_bytes()).unwrap()
}

#[track_caller]
fn check_history(text: &str, want: Status, part: &str) {
    let mut run = record(vec![], 10);
    run.settled = Some(Settled { index: Some(9), problem: None });
    let verdict = check(&history(text), &run, &Budget::default());
    assert_eq!(verdict.status, want, "{}", verdict.summary);
    assert!(verdict.summary.contains(part), "{}", verdict.summary);
}

#[test]
fn last_acknowledged_write_on_every_member_passes() {
    check_history(
        "c1 a 10 20 write v1
         c2 b 30 40 write v2
         settle-a a 100 101 read v2
         settle-b b 100 101 read v2
         settle a 102 103 read v2",
        Status::Pass,
        "every member holds the same",
    );
}

#[test]
fn lost_write_is_named() {
    check_history(
        "c1 a 10 20 write v1
         c2 b 30 40 write v2
         settle-a a 100 101 read v1
         settle-b b 100 101 read v1
         settle a 102 103 read v1",
        Status::Fail,
        "not what was acknowledged last: key k: settle-a read v1 from a",
    );
    check_history(
        "c1 a 10 20 write v1
         settle-a a 100 101 read nil
         settle a 102 103 read nil",
        Status::Fail,
        "that the key is absent",
    );
}

#[test]
fn lost_swap_is_found_even_where_swaps_contradict_each_other() {
    // Both swaps started from v1: linearizable fails whatever was read in the end, and durable must not lean on it.
    let contradiction = "c1 a 10 20 write v1
                         c2 b 30 40 cas v1 v2
                         c3 b 50 60 cas v1 v3";
    let kept = format!("{contradiction}\nsettle a 102 103 read v3");
    check_history(&kept, Status::Pass, "acknowledged last under 1 key");
    let lost = format!("{contradiction}\nsettle a 102 103 read v2");
    check_history(&lost, Status::Fail, "not what was acknowledged last");
}

#[test]
fn write_of_unknown_outcome_may_be_there_or_not() {
    for last in ["v1", "v2"] {
        let text = format!("c1 a 10 20 write v1\nc2 b 30 - write v2\nsettle a 102 103 read {last}");
        check_history(&text, Status::Pass, "");
    }
}

#[test]
fn stale_read_of_the_load_is_not_judged_here() {
    check_history(
        "c1 a 10 20 write v1
         c2 b 30 40 write v2
         c3 a 50 60 read v1
         settle a 102 103 read v2",
        Status::Pass,
        "",
    );
}

#[test]
fn members_that_differ_fail() {
    check_history(
        "c1 a 10 20 write v1
         c2 b 30 - write v2
         settle-a a 100 101 read v1
         settle-b b 100 101 read v2
         settle a 102 103 read v2",
        Status::Fail,
        "members differ: key k is v1 on a, but v2 on a, b",
    );
}

#[test]
fn members_that_could_not_be_compared_are_no_pass_and_no_failure() {
    let mut run = record(vec![], 10);
    let judged = |run: &RunRecord| check(&history("c1 a 10 20 write v1"), run, &Budget::default());
    assert_eq!(judged(&run).status, Status::Invalid);
    run.settled = Some(Settled { index: None, problem: Some("b does not answer".to_owned()) });
    assert_eq!(judged(&run).status, Status::Unknown);
    // Nobody read anything.
    run.settled = Some(Settled { index: Some(1), problem: None });
    assert_eq!(judged(&run).status, Status::Invalid);
}
