//! The operations of a conflict as a table, so that the terminal alone explains what went wrong.

use std::fmt::Write;

use crate::check::Verdict;
use crate::check::linearizable::{Role, Violation, WitnessOperation, shown};
use crate::history::{Op, Outcome};
use crate::limits::REPORT_OPERATIONS_MAX;

/// The conflicts that a verdict holds, each line indented by `indent`, times counted from `origin_ns`; nothing for a
/// verdict that holds none.
pub(super) fn conflicts(verdict: &Verdict, indent: &str, origin_ns: u64) -> String {
    let violations: Vec<Violation> =
        serde_json::from_value(verdict.details["violations"].clone()).unwrap_or_default();
    let more_keys: Vec<String> =
        serde_json::from_value(verdict.details["more_keys"].clone()).unwrap_or_default();
    let mut out = String::new();
    for violation in &violations {
        // Writing to a String cannot fail.
        let _ = write_violation(&mut out, violation, indent, origin_ns);
    }
    if !more_keys.is_empty() {
        let keys: Vec<String> = more_keys.iter().map(|key| shown(key)).collect();
        let _ = writeln!(out, "{indent}not explained: {}", keys.join(", "));
    }
    out
}

fn write_violation(
    out: &mut String,
    violation: &Violation,
    indent: &str,
    origin_ns: u64,
) -> std::fmt::Result {
    let count = violation.operations.iter().filter(|one| one.role == Role::Conflict).count();
    let minimal = match (violation.is_minimal, count) {
        (true, 1) => "on its own",
        (true, _) => "none can be left out",
        (false, _) => "perhaps more than needed",
    };
    writeln!(out, "{indent}key {}, what conflicts ({minimal}):", shown(&violation.key))?;
    let rows: Vec<[String; 5]> =
        violation.operations.iter().take(REPORT_OPERATIONS_MAX).map(|one| row(one, origin_ns)).collect();
    let head = ["id", "client", "node", "called", "answered"].map(str::to_owned);
    let width = |column: usize| {
        let texts = std::iter::once(&head).chain(&rows).map(|row| row[column].chars().count());
        texts.max().unwrap_or_default()
    };
    let widths = [0, 1, 2, 3, 4].map(width);
    let mut write_row = |row: &[String; 5], last: &str| {
        write!(out, "{indent}  ")?;
        for (text, width) in row.iter().zip(widths) {
            write!(out, "{text:<width$}  ")?;
        }
        writeln!(out, "{last}")
    };
    write_row(&head, "what")?;
    for (row, one) in rows.iter().zip(&violation.operations) {
        let note = if one.role == Role::Source { " (where that value came from)" } else { "" };
        write_row(row, &format!("{}{note}", what(one)))?;
    }
    if let Some(more) = violation.operations.len().checked_sub(REPORT_OPERATIONS_MAX + 1) {
        writeln!(out, "{indent}  and {} more", more + 1)?;
    }
    Ok(())
}

fn row(one: &WitnessOperation, origin_ns: u64) -> [String; 5] {
    let instant = |at_ns| instant(at_ns, origin_ns);
    let answered = one.return_ns.map_or_else(|| "never".to_owned(), instant);
    [one.id.0.to_string(), shown(&one.client), shown(&one.node), instant(one.call_ns), answered]
}

/// What was asked for, and what came of it.
pub(super) fn what(one: &WitnessOperation) -> String {
    let value = |value: &Option<String>| value.as_deref().map_or_else(|| "nothing".to_owned(), shown);
    let asked = match &one.op {
        Op::Read => "read".to_owned(),
        Op::Write { value } => format!("write {}", shown(value)),
        Op::Cas { expected, value: new } => format!("swap {} for {}", value(expected), shown(new)),
        Op::Delete => "delete".to_owned(),
    };
    match &one.outcome {
        Outcome::Read { value: seen } => format!("{asked} -> {}", value(seen)),
        Outcome::Done => format!("{asked} -> ok"),
        Outcome::CasFailed { actual } => format!("{asked} -> failed, found {}", value(actual)),
        Outcome::Refused { reason } => format!("{asked} -> refused: {}", shown(reason)),
        Outcome::Unknown => format!("{asked} -> outcome unknown"),
    }
}

/// Seconds, to the microsecond: operations that conflict are often closer than a millisecond.
pub(super) fn instant(at_ns: u64, origin_ns: u64) -> String {
    let (sign, us) = (if at_ns < origin_ns { "-" } else { "" }, at_ns.abs_diff(origin_ns) / 1_000);
    format!("{sign}{}.{:06} s", us / 1_000_000, us % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::linearizable::{Budget, check};
    use crate::history::read_history;

    #[test]
    fn every_operation_of_a_conflict_is_shown() {
        let history = r#"{"call":1,"client":"c1","node":"n1","at_ns":1000,"op":"write","key":"k","value":"a"}
{"answer":1,"at_ns":2000,"outcome":"ok"}
{"call":2,"client":"c1","node":"n1","at_ns":3000,"op":"write","key":"k","value":"b c"}
{"answer":2,"at_ns":4500,"outcome":"ok"}
{"call":3,"client":"c2","node":"n2","at_ns":1000005000,"op":"read","key":"k"}
{"answer":3,"at_ns":1000006000,"outcome":"ok","value":"a"}
"#;
        let verdict = check(&read_history(history.as_bytes()).unwrap(), &Budget::default()).verdict();
        let want = r#"> key k, what conflicts (none can be left out):
>   id  client  node  called      answered    what
>   1   c1      n1    0.000001 s  0.000002 s  write a -> ok (where that value came from)
>   2   c1      n1    0.000003 s  0.000004 s  write "b c" -> ok
>   3   c2      n2    1.000005 s  1.000006 s  read -> a
"#;
        assert_eq!(conflicts(&verdict, "> ", 0), want);
        // In a run, times count from the first answered operation; a call may have been made before it.
        let since = conflicts(&verdict, "", 2_000);
        assert!(since.contains("c1      n1    -0.000001 s  0.000000 s  write a"), "{since}");
    }
}
