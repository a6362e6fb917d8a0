//! What is refused, with the exact text of the refusal.

use super::*;
use crate::limits::{MISTAKES_MAX, SCENARIO_BYTES_MAX};

/// The exact text of the refusal.
#[track_caller]
fn check(text: &str, want: &str) {
    let errors = Scenario::parse("s.yaml", text).expect_err("accepted").to_string();
    assert_eq!(errors, want, "for:\n{text}");
}

/// Adds lines to a scenario that is valid without them, as line 5 and on.
#[track_caller]
fn check_added(lines: &str, want: &str) {
    check(&format!("{VALID}{lines}"), want);
}

/// The cases are data: see the head of refusals.txt.
#[test]
fn every_kind_of_mistake_is_refused_with_its_place() {
    let data: String = include_str!("refusals.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .fold(String::new(), |text, line| text + line + "\n");
    let mut cases_count = 0;
    for case in data.split("<<<").skip(1) {
        let (input, want) = case.split_once(">>>\n").unwrap();
        match input.strip_prefix(" the valid one and\n") {
            Some(lines) => check_added(lines, want.trim_end()),
            None => check(input.strip_prefix('\n').unwrap(), want.trim_end()),
        }
        cases_count += 1;
    }
    assert_eq!(cases_count, 122);
}

#[test]
fn characters_that_cannot_be_seen_have_places_too() {
    check("a: \t b\n\u{1}", "s.yaml:2:1: character U+0001 is not allowed in yaml");
    check(
        "\u{feff}name: X\nabout: y\nnodes: { count: 1 }\nchecks: [linearizable]\n",
        "s.yaml:1:7: name is \"X\", 1 to 40 of a-z, 0-9 and - are allowed",
    );
    check(
        "checks: [durabel]\r\nfaults:\r\n  - at: 3s\r\n    at: 4s\r\n    for: 1\r\n    link:\r\n      from: n1\r\n      to: n9\r\n      loss: 100%\r\nnodes: { count: 3 }\r\nabout: ä\r\nname: ÄÖ\r\n",
        "\
s.yaml:1:10: unknown check \"durabel\", did you mean durable? checks are linearizable, durable, raft, recovers, minority_refuses, bounded_staleness
s.yaml:4:5: key at is given twice
s.yaml:5:10: for is 1, a duration needs a unit: 1s, 1ms, 1us or 1m
s.yaml:8:11: unknown node \"n9\": nodes are n1, n2, n3; roles are leader, follower, random, rest
s.yaml:12:7: name is \"ÄÖ\", 1 to 40 of a-z, 0-9 and - are allowed",
    );
}

#[test]
fn faults_beyond_the_bound_are_refused() {
    let fault = "  - { at: 5s, kill: n1, restart_after: 1s }\n";
    check_added(
        &format!("faults:\n{}", fault.repeat(101)),
        "s.yaml:6:3: faults: 101, 0 to 100 are allowed; every and times repeat one",
    );
}

#[test]
fn aliases_that_multiply_are_refused() {
    let text = format!("a: &a [{}1]\nb: [{}1]\n", "1,".repeat(999), "*a,".repeat(999));
    check(&text, "s.yaml:1:4: not valid yaml: b[64]: more than 65536 values, aliases multiply them");
}

#[test]
fn mistakes_beyond_the_bound_are_counted() {
    let lines = "zzzzzzzz: 1\n".repeat(MISTAKES_MAX + 30);
    let errors = Scenario::parse("s.yaml", &format!("{VALID}{lines}")).unwrap_err().to_string();
    assert_eq!(errors.lines().count(), MISTAKES_MAX + 1);
    assert_eq!(errors.lines().last(), Some("s.yaml: 30 more mistakes are not shown"));
}

#[test]
fn files_that_are_not_text_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.yaml");
    let refusal = || Scenario::load(&path).unwrap_err();
    let shown = path.display();

    let error = refusal();
    assert_eq!(error.to_string(), format!("{shown}: cannot be read"));
    assert_eq!(
        std::error::Error::source(&error).unwrap().to_string(),
        "No such file or directory (os error 2)"
    );

    std::fs::write(&path, b"name: x\nabout: \xc3\xa4\xff\n").unwrap();
    assert_eq!(refusal().to_string(), format!("{shown}:2:9: byte 0xff is not utf-8"));

    let longest = usize::try_from(SCENARIO_BYTES_MAX).unwrap();
    std::fs::write(&path, format!("{VALID}{}", "#".repeat(longest - VALID.len()))).unwrap();
    assert_eq!(Scenario::load(&path).unwrap().name(), "small");
    std::fs::write(&path, "#".repeat(longest + 1)).unwrap();
    assert_eq!(
        refusal().to_string(),
        format!("{shown}: longer than 65536 bytes, a scenario may have 0 to 65536")
    );
}
