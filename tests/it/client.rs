//! `aspen` as one types it: what it prints, and its exit codes.
#![allow(clippy::disallowed_methods, reason = "a test starts what it tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;

use crate::http_client::get;
use crate::members::leader;
use crate::nodes::{Nodes, set, three_nodes, three_quick_nodes};
use crate::programs::client;

struct Typist<'a> {
    program: PathBuf,
    nodes: &'a Nodes,
}

impl Typist<'_> {
    fn types_into(&self, words: &[&str], input: &[u8]) -> Output {
        let nodes = [1, 2, 3].map(|id| self.nodes.http(id).to_string()).join(",");
        let mut child = Command::new(&self.program)
            .args(words)
            .env("ASPEN_NODE", nodes)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that reads nothing may have closed it already.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    /// What is printed, where all is well.
    #[track_caller]
    fn types(&self, words: &[&str]) -> String {
        let output = self.types_into(words, b"");
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is said, where something is wrong.
    #[track_caller]
    fn fails(&self, words: &[&str], code: i32) -> String {
        let output = self.types_into(words, b"");
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

/// Runs a program on a terminal of its own, by `script(1)`: what it shows until what it is to show is there and a key is pressed.
fn on_a_terminal(program: &Path, words: &str, want: &str, key: u8) -> (String, Option<i32>) {
    let line = format!("stty rows 30 cols 120; exec timeout --foreground 60 {} {words}", program.display());
    let mut child = Command::new("script")
        .args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut shown, mut part, mut is_pressed) = (String::new(), [0; 4096], false);
    while let count @ 1.. = output.read(&mut part).unwrap() {
        shown.push_str(&String::from_utf8_lossy(&part[..count]));
        if !is_pressed && shown.contains(want) {
            is_pressed = true;
            input.write_all(&[key]).unwrap();
        }
        assert!(shown.len() < 1 << 20, "`{want}` does not come:\n{shown}");
    }
    let code = child.wait().unwrap().code();
    (shown, code)
}

#[test]
fn cluster_is_shown_on_a_terminal_and_nowhere_else() {
    let (_, nodes) = three_nodes(&[]);
    let aspen = Typist { program: client(), nodes: &nodes };
    let refused = aspen.fails(&["tui"], 3);
    assert!(refused.contains("needs a terminal"), "{refused}");
    aspen.types(&["cluster", "init"]);
    nodes.comes("leader", || get(nodes.http(1), "/health").ok().filter(|(status, _)| *status == 200));
    let words = format!("--node {} tui", nodes.http(2));
    let (shown, code) = on_a_terminal(&aspen.program, &words, "follower", b'q');
    assert_eq!(code, Some(0), "{shown}");
    for word in ["leader", "healthy", &nodes.http(3).to_string()] {
        assert!(shown.contains(word), "`{word}` is not in {shown}");
    }
    // The terminal is as it was.
    assert!(shown.contains("\u{1b}[?1049h") && shown.contains("\u{1b}[?1049l"), "{shown}");
}

#[test]
fn commands_do_what_they_say() {
    let (_, nodes) = three_nodes(&[]);
    let aspen = Typist { program: client(), nodes: &nodes };
    assert_eq!(aspen.types(&["cluster", "status"]), "no cluster yet: `aspen cluster init` founds one\n");
    assert!(aspen.types(&["cluster", "init"]).contains("3 members, 3 of them vote"));
    nodes.comes("leader", || get(nodes.http(1), "/health").ok().filter(|(status, _)| *status == 200));

    assert!(aspen.types(&["kv", "put", "greeting", "hello"]).starts_with("revision "));
    assert_eq!(aspen.types(&["kv", "get", "greeting"]), "hello");
    assert_eq!(aspen.fails(&["kv", "get", "nothing"], 1), "aspen: the key does not exist\n");
    let swap = ["kv", "cas", "greeting", "world", "--expect"];
    let said = aspen.fails(&[&swap[..], &["hallo"]].concat(), 1);
    assert!(said.ends_with("nothing was written; it holds \"hello\"\n"), "{said}");
    aspen.types(&[&swap[..], &["hello"]].concat());

    // Bytes come back as they were, and a line stays one.
    assert!(aspen.types_into(&["kv", "put", "raw"], b"\xff\0\n").status.success());
    assert_eq!(aspen.types_into(&["kv", "get", "raw"], b"").stdout, b"\xff\0\n");
    assert_eq!(aspen.types(&["kv", "scan"]), "greeting\tworld\nraw\t\\xff\\x00\\n\n");
    assert_eq!(aspen.types(&["kv", "scan", "--keys", "r"]), "raw\n");
    assert_eq!(aspen.types(&["kv", "scan", "--count"]), "2\n");
    assert_eq!(aspen.types(&["kv", "get", "greeting", "--max-staleness", "0"]), "world");
    assert_eq!(aspen.types(&["kv", "scan", "g", "--max-staleness", "60000"]), "greeting\tworld\n");
    let said = aspen.fails(&["kv", "get", "a", "--max-staleness", "1", "--consistency", "stale"], 64);
    assert!(said.contains("cannot be used with"), "{said}");
    aspen.types(&["kv", "put", "a", "1", "--vault", "v"]);
    assert_eq!(aspen.types(&["kv", "vaults"]), "v\n");
    assert_eq!(aspen.types(&["kv", "get", "a", "--vault", "v", "--consistency", "lease"]), "1");
    assert!(aspen.types(&["kv", "delete", "greeting", "raw", "nothing"]).starts_with("2 removed, revision "));
    let none = aspen.types_into(&["--json", "kv", "get", "none"], b"");
    let said: serde_json::Value = serde_json::from_slice(&none.stdout).unwrap();
    assert_eq!((none.status.code(), &said["error"]["code"]), (Some(1), &"key_not_found".into()), "{said}");
    assert!(aspen.fails(&["kv", "cas", "k", "v"], 64).contains("<--expect <VALUE>|--absent>"));
    assert!(aspen.types(&["cluster", "remove", "77"]).starts_with("node 77 is no member"));
    let read = aspen.types(&["--json", "kv", "get", "a", "--vault", "v"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&read).unwrap()["value"], "1");

    // A benchmark takes its own keys away again, and no others.
    aspen.types(&["kv", "put", "bench/mine", "v"]);
    let load = ["--clients", "2", "--keys", "150", "--seconds", "1", "--warm-up", "0"];
    let said = aspen.types(&[&["bench", "put"], &load[..]].concat());
    assert!(said.contains("`aspen bench clean` removes them"), "{said}");
    // More than one command removes.
    for first in [1_000, 1_100] {
        let pairs: Vec<_> =
            (first..first + 80).map(|number| [format!("bench/{number:010}"), String::new()]).collect();
        nodes.succeeds(1, "/kv/write", &serde_json::json!({ "command": { "SetMulti": { "pairs": pairs } } }));
    }
    let there: u64 = aspen.types(&["kv", "scan", "bench/", "--count"]).trim().parse().unwrap();
    assert!(there > 160, "{there}");
    assert_eq!(aspen.types(&["bench", "clean"]), format!("{} keys removed\n", there - 1));
    assert_eq!(aspen.types(&["kv", "scan", "--keys", "bench/"]), "bench/mine\n");
    let said = aspen.fails(&["backup", "save", "no/such/folder/file"], 3);
    assert!(said.contains("there is no folder no/such/folder for the backup: make it first"), "{said}");

    assert!(aspen.types(&["cluster", "transfer", "2"]).contains("node 2 leads"));
    assert!(aspen.types(&["cluster", "snapshot"]).starts_with("covers everything up to revision "));
    let said = aspen.types(&["cluster", "remove", "3"]);
    assert!(said.starts_with("node 3 is no member any more: if it still runs, stop it"), "{said}");
    assert!(aspen.types(&["cluster", "status"]).contains("2 members, 2 of them vote"));
    aspen.types(&["cluster", "add-learner", "3"]);
    aspen.types(&["cluster", "promote", "3"]);
    let said = aspen.fails(&["cluster", "promote", "9"], 3);
    assert_eq!(said, "aspen: node 9 is no member: add it as a learner first\n");
}

#[test]
fn changes_are_followed_and_keys_end_with_leases_as_typed() {
    let (ids, nodes) = three_quick_nodes();
    let aspen = Typist { program: client(), nodes: &nodes };
    let lease = aspen.types(&["lease", "grant", "600"]).trim().to_owned();
    aspen.types(&["kv", "put", "a", "1\n", "--lease", &lease]);
    assert_eq!(aspen.types(&["lease", "keep", &lease]), "lives for another 600 s\n");
    // The leader knows what is left, whoever is asked.
    let follower = leader(&nodes, &ids) % 3 + 1;
    let listed = aspen.types(&["--node", &nodes.http(follower).to_string(), "lease", "list"]);
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["lease", "lives_s", "left_s", "keys"]);
    let (left, others) = (lines[1][2], (lines[1][0], lines[1][1], lines[1][3]));
    assert_eq!(others, (&lease[..], "600", "1"), "{listed}");
    assert!(left.parse::<f64>().is_ok_and(|left| left <= 600.0), "{listed}");
    let transaction =
        r#"{"compare":[{"key":"b","exists":false}],"success":[{"Put":{"key":"b","value":"2"}}]}"#;
    let answer = aspen.types_into(&["kv", "txn"], transaction.as_bytes()).stdout;
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["succeeded"], true);
    let said = aspen.fails(&["kv", "txn", r#"{"compare":[],"sucess":[]}"#], 64);
    assert!(said.starts_with("aspen: the transaction is refused: unknown field `sucess`"), "{said}");
    assert!(said.contains(" at line 1 column 22\n"), "{said}");
    assert!(
        aspen.types(&["lease", "revoke", &lease]).starts_with("ended, keys removed with it: 1, revision ")
    );
    assert!(aspen.fails(&["lease", "keep", &lease], 1).contains(&format!("there is no lease {lease}")));
    assert!(aspen.fails(&["lease", "keep", "--forever", &lease], 1).contains("there is no lease"));
    let long = aspen.types_into(&["kv", "put", "long"], &vec![b'v'; 9 << 20]);
    let said = String::from_utf8(long.stderr).unwrap();
    let want = "aspen: nothing was written: the value has 9437184 bytes, 0 to 1048576 are allowed\n";
    assert_eq!((long.status.code(), &said[..]), (Some(64), want));
    assert!(aspen.fails(&["lease", "grant", "0.5"], 64).contains("such as 10 or 1.5, from 1 to 2592000"));

    let watch = ["kv", "watch", "--no-follow", "--from", &lease];
    let told = aspen.types(&watch);
    let without_revisions: Vec<&str> =
        told.lines().filter_map(|line| Some(line.split_once('\t')?.1)).collect();
    assert_eq!(without_revisions, ["put\ta\t1\\n", "put\tb\t2", "delete\ta"]);
    let (revision, _) = told.lines().nth(1).unwrap().split_once('\t').unwrap();
    assert_eq!(revision, answer["revision"].to_string());
    assert_eq!(aspen.types(&[&watch[..], &["b"]].concat()), format!("{revision}\tput\tb\t2\n"));
    assert!(
        aspen
            .fails(&["kv", "watch", "--from", "1", "--previous"], 3)
            .contains("nobody has asked for it earlier")
    );
    // A refusal is JSON where answers are.
    let refused = aspen.types_into(&["--json", "kv", "watch", "--from", "1", "--previous"], b"");
    let refused: serde_json::Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(refused["error"]["code"], "previous_not_noted", "{refused}");
}

/// It prints as it goes, and ends when nobody reads any more.
#[test]
fn watch_prints_changes_as_they_happen() {
    let (_, nodes) = three_quick_nodes();
    let mut child = Command::new(client())
        .args(["--node", &nodes.http(1).to_string(), "kv", "watch", "k"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // It has begun once it tells of something.
    let mut number = 0;
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(|| lines.next().unwrap().unwrap());
        while !first.is_finished() {
            nodes.succeeds(2, "/kv/write", &set("k", &number.to_string()));
            number += 1;
        }
        first.join().unwrap()
    });
    let first: u32 = first.rsplit_once('\t').unwrap().1.parse().unwrap();
    for want in first + 1..number {
        let line = lines.next().unwrap().unwrap();
        assert!(line.ends_with(&format!("\tput\tk\t{want}")), "{line}");
    }
    drop(lines);
    let status = nodes.comes("end of the watch", || {
        nodes.succeeds(2, "/kv/write", &set("k", "unread"));
        child.try_wait().unwrap()
    });
    assert_eq!(status.code(), Some(0));
}

#[test]
fn client_goes_to_the_next_node_and_says_when_there_is_none() {
    let (ids, mut nodes) = three_nodes(&[]);
    let program = client();
    Typist { program: program.clone(), nodes: &nodes }.types(&["cluster", "init"]);
    for id in ids {
        nodes.comes("member", || get(nodes.http(id), "/health").ok().filter(|(status, _)| *status == 200));
    }
    nodes.end(1, Signal::SIGKILL);
    let aspen = Typist { program: program.clone(), nodes: &nodes };
    // The first write may be on its way to the dead one, and nobody knows then what has become of it.
    nodes.comes("write", || aspen.types_into(&["kv", "put", "k", "v"], b"").status.success().then_some(()));
    let status = aspen.types(&["cluster", "status"]);
    assert!(
        status.lines().any(|line| line.starts_with("1 ") && line.ends_with("does not answer")),
        "{status}"
    );
    for id in &ids[1..] {
        nodes.end(*id, Signal::SIGKILL);
    }
    let aspen = Typist { program, nodes: &nodes };
    let said = aspen.fails(&["kv", "put", "k", "v"], 3);
    assert!(said.starts_with("aspen: no node can be reached:\n  cannot connect to 127.0.0.1:"), "{said}");
    assert!(aspen.fails(&["kv", "put"], 64).contains("required arguments were not provided"));
    assert!(aspen.types(&["completions", "bash"]).contains("_aspen"));
    assert!(aspen.types(&["man"]).starts_with(".ie"));
}
