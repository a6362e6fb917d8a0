//! `lab verify`: histories that somebody wrote by hand, files that are none, and runs that are judged again.
#![allow(clippy::disallowed_methods, reason = "a test starts the program that it tests")]

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value as Json;

use crate::lab::{bench, run, topology};

/// What `lab verify` said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `lab verify` with `input` on its standard input.
fn verify(words: &[&str], input: &str) -> Said {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lab"))
        .arg("verify")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may not want to read: then the pipe is closed.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn histories() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/it/histories")
}

/// The story of each file, and a line of what is said about it.
const STORIES: [(&str, i32, &str); 6] = [
    // Ann has her seat acknowledged by a leader that is cut off. The next leader never had that entry, and Cleo, two
    // seconds later, finds the seat free. Bob's seat, on another key, came through.
    ("lost-write.jsonl", 1, "1   ann     n1    0.001000 s  0.004000 s  write ann -> ok"),
    // Two clients each create the lock where nothing was, and both are told that it worked. No read is needed to see
    // that one of them was lied to.
    ("two-swaps.jsonl", 1, "11  bob     n2    0.002000 s  0.008000 s  swap nothing for bob -> ok"),
    // The lamp was on, gone, on again, and then off. Bob still sees it on. That value was written twice, so that only
    // the search can tell that neither of them explains it.
    ("stale-repeated.jsonl", 1, "4   ann     n1    0.007000 s  0.008000 s  write off -> ok"),
    // Ann's write times out, is not seen at first, and takes effect after Bob's later write: an unknown outcome may.
    // Cleo's write was never answered and never seen.
    ("late-write.jsonl", 0, "PASS     linearizable: all 6 operations on 1 key can be explained"),
    // Bob takes what may be a second old. That the lamp is off is not that old at first; half a second later it is too old.
    ("too-old.jsonl", 1, "3   bob     n3    2.500000 s  2.501000 s  read -> nothing"),
    // A key that starts absent, a value that comes back after a delete, a swap that failed, a write that was refused.
    ("returning-value.jsonl", 0, "PASS     linearizable: all 7 operations on 1 key can be explained"),
];

#[test]
fn histories_of_the_repository_are_judged_as_their_stories_say() {
    for (name, code, want) in STORIES {
        let path = histories().join(name);
        let said = verify(&[path.to_str().unwrap()], "");
        assert_eq!(said.code, Some(code), "{said:?}");
        assert!(said.stdout.contains(want), "{want:?} in {}", said.stdout);
        assert!(said.stdout.ends_with(&format!("linearizable), exit code {code}\n")), "{}", said.stdout);
        // The same from another program's pipe.
        let piped = verify(&["-"], &fs::read_to_string(&path).unwrap());
        let body = |said: &Said| said.stdout.split_once('\n').unwrap().1.to_owned();
        assert_eq!((piped.code, body(&piped)), (said.code, body(&said)));
    }
    let files = fs::read_dir(histories()).unwrap().count();
    assert_eq!(files, STORIES.len(), "every history has its story");
}

#[test]
fn a_conflict_is_printed_with_all_its_operations() {
    let path = histories().join("stale-repeated.jsonl");
    let said = verify(&[path.to_str().unwrap()], "");
    let want = "           key lamp, what conflicts (none can be left out):
             id  client  node  called      answered    what
             3   ann     n1    0.005000 s  0.006000 s  write on -> ok (where that value came from)
             4   ann     n1    0.007000 s  0.008000 s  write off -> ok
             5   bob     n3    0.009000 s  0.010000 s  read -> on
";
    assert!(said.stdout.contains(want), "{}", said.stdout);

    let said = verify(&["--json", path.to_str().unwrap()], "");
    let json: Json = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((said.code, &json["status"], &json["exit_code"]), (Some(1), &"fail".into(), &1.into()));
    let violation = &json["verdicts"][0]["details"]["violations"][0];
    assert_eq!(violation["operations"].as_array().unwrap().len(), 3, "{json:#}");
}

/// Eight writes at once, of four values that each come twice, and eight reads that see every one of them: many orders
/// have to be kept in mind.
fn hard() -> String {
    let mut text = String::new();
    for id in 0..16 {
        let (client, value) = (id, id % 4);
        let op = if id < 8 { format!(r#""write","value":"{value}""#) } else { r#""read""#.to_owned() };
        let call =
            format!(r#"{{"call":{id},"client":"c{client}","node":"n1","at_ns":{id},"key":"k","op":{op}}}"#);
        writeln!(text, "{call}").unwrap();
    }
    for id in 0..16 {
        let seen = if id < 8 { String::new() } else { format!(r#","value":"{}""#, id % 4) };
        writeln!(text, r#"{{"answer":{id},"at_ns":{},"outcome":"ok"{seen}}}"#, 100 + id).unwrap();
    }
    text
}

#[test]
fn a_budget_that_ends_leaves_the_verdict_open() {
    let said = verify(&["-", "--configurations", "1"], &hard());
    assert_eq!(said.code, Some(2), "{said:?}");
    let want =
        "UNKNOWN  linearizable: 1 of 1 key not decided: key k: the search needs more than 1 configurations";
    assert!(said.stdout.contains(want), "{}", said.stdout);
    let said = verify(&["-"], &hard());
    assert_eq!(said.code, Some(0), "{said:?}");
    let said = verify(&["-"], "");
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.stdout.contains("no operation was answered: there is nothing to judge"), "{}", said.stdout);
}

const CALL: &str = r#"{"call":7,"client":"c1","node":"n1","at_ns":1,"op":"read","key":"k"}"#;
const ANSWER: &str = r#"{"answer":7,"at_ns":2,"outcome":"ok","value":null}"#;

#[test]
fn bad_histories_are_refused_with_line_and_reason() {
    #[track_caller]
    fn check(input: &str, want: &str) {
        let said = verify(&["-"], input);
        assert_eq!((said.code, said.stdout.as_str()), (Some(64), ""), "{said:?}");
        assert_eq!(said.stderr, format!("lab: - cannot be judged\n  because: {want}\n"));
    }
    let cut_off = &ANSWER[..ANSWER.len() - 9];
    check(
        &format!("{CALL}\n{cut_off}"),
        "line 2: cut off; the history is not complete, delete this line to judge the rest",
    );
    check(&format!("{CALL}\nanswered\n"), "line 2, column 1: expected value");
    check(&format!("{ANSWER}\n{CALL}\n"), "line 1: id 7 is answered before it is called");
    check(&format!("{CALL}\n{ANSWER}\n{CALL}\n"), "line 3: id 7 was called before");
    check(&format!("{CALL}\n{ANSWER}\n{ANSWER}\n"), "line 3: id 7 was answered before");
    check(&format!("{CALL}\n{{\"answer\":7}}\n"), "line 2, column 12: missing field `at_ns`");
    check(&format!("{CALL}\n\u{0}\u{1}\n"), "line 2, column 1: expected value");
}

#[test]
fn what_is_no_run_is_refused_with_its_reason() {
    let home = tempfile::tempdir().unwrap();
    let check = |path: &Path, want: &str| {
        let said = verify(&[path.to_str().unwrap()], "");
        assert_eq!((said.code, said.stdout.as_str()), (Some(64), ""), "{said:?}");
        assert!(
            said.stderr.starts_with("lab: ") && said.stderr.contains(want),
            "{want:?} in {}",
            said.stderr
        );
    };
    check(&home.path().join("nowhere"), "because: No such file or directory");
    check(home.path(), "is no run directory: there is no plan.json in it");
    fs::write(home.path().join("plan.json"), "{}").unwrap();
    check(
        home.path(),
        "did not come to its end, there is no report.json in it: judge its history.jsonl alone",
    );
    fs::write(home.path().join("report.json"), "{\"replay\":").unwrap();
    check(home.path(), "plan.json is no plan of this version\n  because: missing field");
    assert_eq!(verify(&["--time", "5", "-"], "").code, Some(64));
    assert_eq!(verify(&["--configurations", "0", "-"], "").code, Some(64));
}

/// Judges a finished run again: the same words, the same code.
#[track_caller]
pub(crate) fn judged_again(directory: &Path) {
    let report: Json =
        serde_json::from_str(&fs::read_to_string(directory.join("report.json")).unwrap()).unwrap();
    let path = directory.to_str().unwrap();
    let said = verify(&[path], "");
    assert_eq!(said.code.map(Json::from).as_ref(), Some(&report["exit_code"]), "{said:?}");
    assert_eq!(said.stdout, fs::read_to_string(directory.join("verdict.txt")).unwrap());
    let json: Json = serde_json::from_str(&verify(&["--json", path], "").stdout).unwrap();
    assert_eq!((&json["verdicts"], &json["status"]), (&report["verdicts"], &report["status"]));
}

#[test]
fn stored_run_judged_again_gives_the_same_verdicts_or_says_what_does_not_fit() {
    let Some((_turn, home)) = bench() else { return };
    let scenario = home.path().join("short.yaml");
    let text = fs::read_to_string(topology("leader-isolated")).unwrap();
    let text = text.replace("duration: 30s", "duration: 8s").replace("at: 5s, for: 12s", "at: 1s, for: 4s");
    fs::write(&scenario, text).unwrap();
    let run = run(home.path(), "run", &[scenario.to_str().unwrap(), "--seed", "1", "--quiet"], &[]);
    assert_eq!(run.code, Some(0), "{}", run.output());
    judged_again(&run.directory);

    let refused = |name: &str, text: &str, want: &str| {
        let path = run.directory.join(name);
        let before = fs::read_to_string(&path).unwrap();
        fs::write(&path, text).unwrap();
        let said = verify(&[run.directory.to_str().unwrap()], "");
        fs::write(&path, before).unwrap();
        assert_eq!((said.code, said.stdout.as_str()), (Some(64), ""), "{said:?}");
        assert!(said.stderr.contains(want), "{want:?} in {}", said.stderr);
    };
    let text = |name: &str| fs::read_to_string(run.directory.join(name)).unwrap();
    refused("report.json", "{}", "cannot read ");
    refused(
        "report.json",
        &text("report.json").replace("\"seed\": 1", "\"seed\": 2"),
        "are not of one run: the plan is",
    );
    let half: String =
        text("history.jsonl").lines().take(100).fold(String::new(), |half, line| half + line + "\n");
    refused("history.jsonl", &half, "answered operations, the report counts");
    let report = text("report.json").replace("\"touched\": [", "\"touched\": [7,");
    refused("report.json", &report, "report or observations name node 8, the plan has 3");
    judged_again(&run.directory);
}
