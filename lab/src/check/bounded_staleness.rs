//! `bounded_staleness`: no read whose age is bounded is older than that.
//!
//! A read that may be as old as B sees everything that was acknowledged B before it was called. So it takes effect at one instant between
//! then and its return, as a linearizable read does between its call and its return: with every such read called that much earlier, the
//! whole history has to be linearizable. What no read ever saw, and what nobody wrote, is found as well.

use serde_json::json;

use super::linearizable::{self, BoundedReads, Budget};
use super::recovers::is_answered;
use super::{Status, Verdict, counted};
use crate::history::{History, Operation};

/// The name of the check.
pub const NAME: &str = "bounded_staleness";

/// Judges every read whose age is bounded, together with all else.
pub fn check(history: &History, budget: &Budget, origin_ns: u64) -> Verdict {
    let bounded = || history.operations.iter().filter(|operation| operation.max_staleness_ms.is_some());
    let asked = bounded().count() as u64;
    let answered = bounded().filter(|operation: &&Operation| is_answered(operation)).count() as u64;
    let result = linearizable::check_with(history, BoundedReads::Judged, budget).since(origin_ns);
    let (status, summary) = match (result.violations.first(), result.undecided.first()) {
        _ if answered == 0 => (Status::Invalid, format!("none of {asked} reads of bounded age was answered")),
        (Some(first), _) => {
            let more = match result.violations.len() + result.more_keys.len() {
                1 => String::new(),
                failed => format!(", and {} more", counted(failed as u64 - 1, "key")),
            };
            (Status::Fail, format!("older than it may be: {}{more}", first.summary))
        }
        (None, Some(first)) => {
            (Status::Unknown, format!("key {} was not decided: {}", first.key, first.reason))
        }
        (None, None) => {
            let reads = counted(answered, "read");
            (Status::Pass, format!("{reads} of bounded age can be explained, together with all else"))
        }
    };
    Verdict {
        check: NAME.to_owned(),
        status,
        summary,
        looked_at: [("bounded_reads".to_owned(), asked), ("answered".to_owned(), answered)].into(),
        details: json!({
            "violations": result.violations,
            "more_keys": result.more_keys,
            "undecided": result.undecided,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, Call, HistoryWriter, Op, OpId, Outcome, read_history};

    const MS: u64 = 1_000_000;

    /// `a` is written from 0 to 10 ms, `b` from 1,000 to 1,010 ms, and a read of 2 s sees `value` in this time.
    fn history(value: Option<&str>, bound_ms: Option<u64>, called_ms: u64) -> History {
        let mut out = HistoryWriter::new(Vec::new());
        let write = |value| (Op::Write { value }, None, Outcome::Done);
        let read = (Op::Read, bound_ms, Outcome::Read { value });
        let operations = [(0, 10, write("a")), (1_000, 1_010, write("b")), (called_ms, called_ms + 5, read)];
        for (number, (call_ms, answer_ms, (op, max_staleness_ms, outcome))) in (0..).zip(operations) {
            let (id, client) = (OpId(number), format!("c{number}"));
            let at_ns = call_ms * MS;
            out.call(&Call { id, client: &client, node: "n", at_ns, key: "k", op, max_staleness_ms })
                .unwrap();
            out.answer(&Answer { id, at_ns: answer_ms * MS, outcome }).unwrap();
        }
        read_history(&out.into_inner()[..]).unwrap()
    }

    #[track_caller]
    fn judge(value: Option<&str>, bound_ms: Option<u64>, called_ms: u64, want: Status) -> String {
        let history = history(value, bound_ms, called_ms);
        let verdict = check(&history, &Budget::default(), 0);
        assert_eq!(verdict.status, want, "{}", verdict.summary);
        // The strict check does not look at it.
        assert_eq!(linearizable::check(&history, &Budget::default()).status(), Status::Pass);
        verdict.summary
    }

    #[test]
    fn read_may_be_as_old_as_its_bound_and_no_older() {
        judge(Some("b"), Some(500), 1_200, Status::Pass);
        judge(Some("a"), Some(500), 1_200, Status::Pass);
        // When it was called 500 ms had passed since the answer, and no more.
        judge(Some("a"), Some(500), 1_510, Status::Pass);
        let summary = judge(Some("a"), Some(500), 1_511, Status::Fail);
        assert!(
            summary.contains("older than it may be: key k: c2 read a from n at 1.516 s, although"),
            "{summary}"
        );
        judge(Some("b"), Some(500), 1_511, Status::Pass);
        judge(None, Some(1_000), 1_005, Status::Pass);
        judge(None, Some(1_000), 1_011, Status::Fail);
        judge(Some("a"), Some(10_000), 1_511, Status::Pass);
    }

    #[test]
    fn read_may_not_come_before_what_it_saw_was_written() {
        judge(Some("b"), Some(5_000), 900, Status::Fail);
        judge(Some("c"), Some(5_000), 1_200, Status::Fail);
    }

    #[test]
    fn nothing_that_may_be_old_is_nothing_to_judge() {
        let verdict = check(&history(Some("b"), None, 1_200), &Budget::default(), 0);
        assert_eq!(
            (verdict.status, verdict.summary.as_str()),
            (Status::Invalid, "none of 0 reads of bounded age was answered")
        );
    }
}
