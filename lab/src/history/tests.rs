//! What is written is read back; what is not as docs/history.md says is refused with line and reason.

use super::*;

const CALL: &str =
    r#"{"call":7,"client":"c1","node":"n2","at_ns":123,"op":"cas","key":"k3","expected":null,"value":"v9"}"#;
const READ: &str = r#"{"call":8,"client":"c1","node":"n2","at_ns":130,"op":"read","key":"k3"}"#;

#[test]
fn every_operation_and_outcome_is_read_back() {
    let calls = [
        Op::Read,
        Op::Write { value: "a \"quoted\" line\n" },
        Op::Cas { expected: None, value: "v" },
        Op::Cas { expected: Some(""), value: "ü" },
        Op::Delete,
        Op::Read,
        Op::Read,
    ];
    let outcomes = [
        Outcome::Read { value: Some("v") },
        Outcome::Done,
        Outcome::Done,
        Outcome::CasFailed { actual: None },
        Outcome::Refused { reason: "no leader" },
        Outcome::Unknown,
    ];
    let mut writer = HistoryWriter::new(Vec::new());
    for (index, &op) in (0_u64..).zip(&calls) {
        let (id, at_ns) = (OpId(u64::MAX - index), index * 10);
        writer
            .call(&Call { id, client: "c1", node: "n1", at_ns, key: "k", op, max_staleness_ms: None })
            .unwrap();
        if let Some(&outcome) = outcomes.get(usize::try_from(index).unwrap()) {
            writer.answer(&Answer { id, at_ns: at_ns + 5, outcome }).unwrap();
        }
    }
    let history = read_history(&writer.into_inner()[..]).unwrap();
    for (index, operation) in history.operations.iter().enumerate() {
        assert_eq!(operation.op.map(|value| history.value(value)), calls[index]);
        let want = outcomes.get(index).copied().unwrap_or(Outcome::Unknown);
        assert_eq!(operation.outcome.map(|value| history.value(value)), want);
        assert_eq!(operation.return_ns, outcomes.get(index).map(|_| index as u64 * 10 + 5));
        assert_eq!((history.client(operation.client), history.node(operation.node)), ("c1", "n1"));
        assert_eq!(history.key(operation.key), "k");
    }
    assert_eq!(history.operations.len(), calls.len());
}

#[test]
fn lines_are_as_documented() {
    let mut writer = HistoryWriter::new(Vec::new());
    let op = Op::Cas { expected: None, value: "v9" };
    writer
        .call(&Call {
            id: OpId(7),
            client: "c1",
            node: "n2",
            at_ns: 123,
            key: "k3",
            op,
            max_staleness_ms: None,
        })
        .unwrap();
    writer.answer(&Answer { id: OpId(7), at_ns: 456, outcome: Outcome::Done }).unwrap();
    let outcome = Outcome::CasFailed { actual: None };
    writer.answer(&Answer { id: OpId(8), at_ns: 457, outcome }).unwrap();
    let text = String::from_utf8(writer.into_inner()).unwrap();
    let answers = "{\"answer\":7,\"at_ns\":456,\"outcome\":\"ok\"}\n\
                   {\"answer\":8,\"at_ns\":457,\"outcome\":\"cas_failed\",\"actual\":null}\n";
    assert_eq!(text, format!("{CALL}\n{answers}"));
}

#[test]
fn how_old_a_read_may_be_is_kept() {
    let mut writer = HistoryWriter::new(Vec::new());
    let (id, max_staleness_ms) = (OpId(1), Some(250));
    let call = Call { id, client: "c", node: "n", at_ns: 9, key: "k", op: Op::Read, max_staleness_ms };
    writer.call(&call).unwrap();
    let text = String::from_utf8(writer.into_inner()).unwrap();
    assert!(text.ends_with("\"op\":\"read\",\"key\":\"k\",\"max_staleness_ms\":250}\n"), "{text}");
    assert_eq!(read_history(text.as_bytes()).unwrap().operations[0].max_staleness_ms, Some(250));
}

#[test]
fn documentation_shows_a_history() {
    let document = include_str!("../../../docs/history.md");
    let lines: Vec<&str> = document.lines().filter(|line| line.starts_with('{')).collect();
    let history = read_history(lines.join("\n").as_bytes()).unwrap();
    assert_eq!(history.operations.len(), 2);
}

#[test]
fn empty_file_is_an_empty_history() {
    assert!(read_history(&b""[..]).unwrap().operations.is_empty());
}

/// The lines after [`CALL`] and [`READ`], and what is said of them.
#[track_caller]
fn check(lines: &str, want: &str) {
    let error = read_history(format!("{CALL}\n{READ}\n{lines}").as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), want);
}

#[test]
fn bad_lines_are_refused_with_line_and_reason() {
    check(CALL, "line 3: id 7 was called before");
    check(r#"{"answer":9,"at_ns":456,"outcome":"ok"}"#, "line 3: id 9 is answered before it is called");
    let answer = r#"{"answer":7,"at_ns":456,"outcome":"ok"}"#;
    check(&format!("{answer}\n{answer}"), "line 4: id 7 was answered before");
    check(
        r#"{"answer":7,"at_ns":129,"outcome":"ok"}"#,
        "line 3: time runs backwards for client \"c1\": 129 ns after 130 ns",
    );
    check(
        r#"{"answer":8,"at_ns":456,"outcome":"cas_failed","actual":null}"#,
        "line 3: id 8 is no cas, so its outcome cannot be cas_failed",
    );
    check(r#"{"at_ns":456,"outcome":"ok"}"#, "line 3: a record has either call or answer");
    check(r#"{"call":1,"answer":1,"at_ns":456}"#, "line 3: a record has either call or answer");
    check(
        r#"{"answer":7,"at"#,
        "line 3: cut off; the history is not complete, delete this line to judge the rest",
    );
    check(&" ".repeat(1 << 21), "line 3: longer than 1048576 bytes");
}

#[test]
fn fields_must_fit_the_record() {
    check(r#"{"answer":8,"at_ns":456,"outcome":"ok"}"#, "line 3: value is missing in this answer that is ok");
    check(
        r#"{"answer":7,"at_ns":456,"outcome":"ok","value":null}"#,
        "line 3: value does not belong in this answer that is ok",
    );
    check(
        r#"{"answer":7,"at_ns":456,"outcome":"cas_failed"}"#,
        "line 3: actual is missing in this answer that is cas_failed",
    );
    check(r#"{"answer":7,"at_ns":456}"#, "line 3: outcome is missing in this record");
    check(
        r#"{"call":9,"client":"c1","node":"n2","at_ns":456,"op":"cas","key":"k","value":"v"}"#,
        "line 3: expected is missing in this call of cas",
    );
    check(
        r#"{"call":9,"client":"c1","node":"n2","at_ns":456,"op":"write","key":"k","value":null}"#,
        "line 3: value is missing in this call of write",
    );
    check(
        r#"{"call":9,"client":"c1","node":"n2","at_ns":456,"op":"delete","key":"k","value":"v"}"#,
        "line 3: value does not belong in this call of delete",
    );
    check(
        r#"{"call":9,"client":"c1","node":"n2","at_ns":456,"op":"delete","key":"k","max_staleness_ms":5}"#,
        "line 3: max_staleness_ms does not belong in this call of delete",
    );
    check(
        r#"{"call":9,"node":"n2","at_ns":456,"op":"read","key":"k"}"#,
        "line 3: client is missing in this call of read",
    );
}

#[test]
fn malformed_lines_name_column_and_cause() {
    check("\n", "line 3, column 0: EOF while parsing a value");
    check("7\n", "line 3, column 1: invalid type: integer `7`, expected an object");
    check("{\"answer\":7,\"at\n", "line 3, column 15: EOF while parsing a string");
    check(
        r#"{"answer":7,"at_ns":1,"outcome":"perhaps"}"#,
        "line 3, column 41: unknown variant `perhaps`, expected one of `ok`, `cas_failed`, `refused`, `unknown`",
    );
    check(r#"{"answer":7,"answer":7,"at_ns":1}"#, "line 3, column 20: duplicate field `answer`");
    check(r#"{"answer":-7,"at_ns":1}"#, "line 3, column 12: invalid value: integer `-7`, expected u64");
    check(
        r#"{"answer":7,"at_ns":1.5}"#,
        "line 3, column 23: invalid type: floating point `1.5`, expected u64",
    );
    let error = read_history(&br#"{"answer":7,"colour":"red"}"#[..]).unwrap_err().to_string();
    assert!(error.starts_with("line 1, column 20: unknown field `colour`, expected one of"), "{error}");
}
