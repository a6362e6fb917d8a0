//! Backups of real nodes: taken under load, looked at, damaged, and made new clusters of.
#![allow(clippy::disallowed_methods, reason = "a test starts what it tests")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aspen_node::backup::Header;
use aspen_node::limits::BACKUPS_MAX;
use aspen_node::network::secret::new_secret;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http_client::{get, post, raw};
use crate::nodes::{Nodes, Over, contents, position, set, validate};
use crate::programs::client;

fn aspen(node: SocketAddr, words: &[&str]) -> Output {
    Command::new(client()).args(["--node", &node.to_string()]).args(words).output().unwrap()
}

/// What is printed as JSON, where all is well.
#[track_caller]
fn types(node: SocketAddr, words: &[&str]) -> Value {
    let output = aspen(node, &[&["--json"], words].concat());
    assert!(output.status.success(), "{words:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What is said, where something is wrong.
#[track_caller]
fn fails(node: SocketAddr, words: &[&str], code: i32) -> String {
    let output = aspen(node, words);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Restores a backup into the data directory of a node that does not run: what is printed.
#[track_caller]
fn restore(nodes: &Nodes, id: u64, file: &Path) -> Value {
    types(
        nodes.http(id),
        &restore_words(nodes, id, word(file), word(&nodes.data(id))).each_ref().map(String::as_str),
    )
}

fn restore_words(nodes: &Nodes, id: u64, file: &str, dir: &str) -> [String; 10] {
    let (raft, http) = (nodes.member(id).raft.to_string(), nodes.http(id).to_string());
    let id = id.to_string();
    ["backup", "restore", file, "--data-dir", dir, "--raft", &raft, "--http", &http, &format!("--id={id}")]
        .map(str::to_owned)
}

fn secret(folder: &TempDir, name: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, new_secret()).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    word(&path).to_owned()
}

fn ready(nodes: &Nodes, id: u64) {
    nodes.comes("leader", || get(nodes.http(id), "/health").ok().filter(|(status, _)| *status == 200));
}

fn key(number: u64) -> String {
    format!("key {number}")
}

/// Every record of a node, revisions and all; of a vault or of none.
fn records(nodes: &Nodes, id: u64, vault: Option<&str>) -> Value {
    nodes.succeeds(id, "/kv/scan", &json!({ "vault": vault }))["entries"].take()
}

/// Three nodes of four have founded a cluster, and each knows who leads it.
fn three_of_four() -> ([u64; 3], Nodes) {
    let (ids, mut nodes) = ([1, 2, 3], Nodes::new(4));
    for id in ids {
        nodes.start(id, &ids);
    }
    for id in ids {
        nodes.answers(id);
    }
    post(nodes.http(1), "/cluster/init", &json!({})).unwrap();
    for id in ids {
        ready(&nodes, id);
    }
    (ids, nodes)
}

#[test]
fn backup_from_a_follower_has_every_write_acknowledged_before_and_holds_up_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("b");
    let (ids, mut nodes) = three_of_four();
    // 20 MB: more than what lies between a node and a client that does not read.
    let value = "v".repeat(100_000);
    for number in 0..200 {
        nodes.succeeds(1, "/kv/write", &set(&key(number), &value));
    }
    let status = |id: u64| get(nodes.http(id), "/cluster/status").unwrap().1;
    let follower = ids.into_iter().find(|id| status(*id)["role"] == "follower").unwrap();
    let (is_over, acknowledged) = (AtomicBool::new(false), AtomicU64::new(200));
    let (before, saved, after) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let number = acknowledged.load(Ordering::Relaxed);
                if post(nodes.http(1), "/kv/write", &set(&key(number), "v"))
                    .is_ok_and(|(status, _)| status == 200)
                {
                    acknowledged.store(number + 1, Ordering::Relaxed);
                }
            }
        });
        let over = Over(&is_over);
        nodes.comes("write", || (acknowledged.load(Ordering::Relaxed) > 210).then_some(()));
        let before = acknowledged.load(Ordering::Relaxed);
        let saved = types(nodes.http(follower), &["backup", "save", word(&file)]);
        let after = acknowledged.load(Ordering::Relaxed);
        drop(over);
        (before, saved, after)
    });
    assert!(after > before, "nothing was written while the backup was taken");
    let keys = saved["keys"].as_u64().unwrap();
    // One more may have been written, and its answer been under way.
    assert!(
        (before..=after + 1).contains(&keys),
        "{keys} keys, {before} were acknowledged before, {after} after"
    );
    assert_eq!((&saved["node"], &saved["cluster_id"]), (&json!(follower), &Value::Null));
    assert_eq!(types(nodes.http(1), &["backup", "inspect", word(&file)]), saved);

    // Clients that take a backup and do not read it are so many at most, and nothing is left of them.
    let stuck: Vec<TcpStream> = (0..BACKUPS_MAX).map(|_| begun(nodes.http(follower))).collect();
    let refused = raw(nodes.http(follower), "GET", "/cluster/backup", &[], b"").unwrap();
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (429, &json!("too_many_backups")));
    drop(stuck);
    nodes.comes("backup", || {
        aspen(nodes.http(follower), &["backup", "save", "--force", "--stale", word(&file)])
            .status
            .success()
            .then_some(())
    });
    assert_eq!(
        types(nodes.http(1), &["backup", "inspect", word(&file)])["keys"].as_u64().unwrap(),
        contents(&nodes, follower, "").len() as u64
    );

    restore(&nodes, 4, &file);
    nodes.start_alone(4, &[]);
    ready(&nodes, 4);
    let held: BTreeMap<_, _> = contents(&nodes, 4, "");
    assert!((0..before).all(|number| held.contains_key(&key(number))), "{} keys are there", held.len());
    // One of the old nodes becomes a member of the new cluster, as an operator does it.
    nodes.end(3, Signal::SIGKILL);
    nodes.give_data(3, |_| {});
    nodes.start(3, &[3, 4]);
    let member = nodes.member(3);
    let wish =
        json!({ "id": 3, "endpoint_id": member.endpoint_id, "raft": member.raft, "http": member.http });
    nodes.succeeds(4, "/cluster/add-learner", &wish);
    nodes.comes("snapshot", || position(&nodes, 3, "snapshot"));
    assert!(contents(&nodes, 3, "") == held);
}

/// Asks for a backup, and reads no more than that it begins.
fn begun(node: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(node).unwrap();
    write!(stream, "GET /cluster/backup?consistency=stale HTTP/1.1\r\nhost: {node}\r\n\r\n").unwrap();
    let mut begin = [0; 15];
    stream.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200 OK");
    stream
}

#[test]
fn restored_node_serves_what_was_saved_and_others_join_it() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (secret(&folder, "old"), secret(&folder, "new"));
    let file = folder.path().join("b");
    let mut nodes = Nodes::new(3);
    nodes.start_alone(1, &["--bootstrap", "--secret-file", &old]);
    ready(&nodes, 1);
    let write = |body: &Value| nodes.succeeds(1, "/kv/write", body);
    for value in ["1", "2"] {
        write(&set("a", value));
    }
    write(&json!({ "command": { "Set": { "key_base64": "/wA=", "value_base64": "AP8=" } } }));
    write(&set("gone", "x"));
    write(&json!({ "command": { "Delete": { "key": "gone" } } }));
    write(&json!({ "vault": "cfg", "command": { "Set": { "key": "colour", "value": "green" } } }));
    write(&json!({ "vault": "old", "command": { "Set": { "key": "colour", "value": "red" } } }));
    assert_eq!(raw(nodes.http(1), "DELETE", "/vault/old", &[], b"").unwrap().status, 200);
    let saved = types(nodes.http(1), &["backup", "save", word(&file)]);
    let ticket = get(nodes.http(1), "/cluster/ticket").unwrap().1;
    assert_eq!(saved["cluster_id"], ticket["cluster_id"]);
    assert_eq!((&saved["keys"], &saved["vaults"]), (&json!(3), &json!(1)));
    let want = [None, Some("cfg")].map(|vault| records(&nodes, 1, vault));
    let vaults = get(nodes.http(1), "/vaults").unwrap().1["vaults"].take();
    let old_term = get(nodes.http(1), "/raft/state").unwrap().1["term"].as_u64().unwrap();

    // Its key was made before, so that others could be told of it.
    let restored = restore(&nodes, 2, &file);
    assert_eq!(restored["endpoint_id"], nodes.member(2).endpoint_id.as_str());
    let (is_sound, text) = validate(&nodes, 2);
    assert!(is_sound, "{text}");
    nodes.start_alone(2, &["--secret-file", &new]);
    ready(&nodes, 2);
    assert_eq!([None, Some("cfg")].map(|vault| records(&nodes, 2, vault)), want);
    assert_eq!(get(nodes.http(2), "/vaults").unwrap().1["vaults"], vaults);
    let state = get(nodes.http(2), "/raft/state").unwrap().1;
    assert!(state["term"].as_u64().unwrap() > old_term + (1 << 20), "{state}");
    // What a client knows of a revision stays true, and what is written comes after it.
    let known = want[0][0]["mod_revision"].as_u64().unwrap();
    let condition = [("if-match", format!("\"{known}\""))];
    let condition = condition.each_ref().map(|(name, value)| (*name, value.as_str()));
    let answer = raw(nodes.http(2), "PUT", "/kv/key/a", &condition, b"3").unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    // So much later that nothing of the old cluster's later days is taken for it.
    let saved = saved["revision"].as_u64().unwrap();
    assert!(answer.json()["revision"].as_u64().unwrap() > saved + (1 << 40), "{answer:?}");
    let (status, refused) = get(nodes.http(2), &format!("/kv/watch?from_revision={}", saved + 5)).unwrap();
    assert_eq!((status, &refused["error"]["code"]), (410, &json!("compacted")), "{refused}");

    let ticket = get(nodes.http(2), "/cluster/ticket").unwrap().1["ticket"].as_str().unwrap().to_owned();
    nodes.start_alone(3, &["--secret-file", &new, "--ticket", &ticket]);
    nodes.comes("snapshot on the newcomer", || position(&nodes, 3, "snapshot"));
    let number = get(nodes.http(3), "/cluster/status").unwrap().1["id"].clone();
    nodes.succeeds(2, "/cluster/promote-learner", &json!({ "id": number }));
    nodes.succeeds(2, "/kv/write", &set("by", "both"));
    nodes.comes("same digest", || {
        let [one, other] = [2, 3].map(|id| get(nodes.http(id), "/state/digest").unwrap().1);
        (one == other).then_some(())
    });
    // It starts again as any node does, and the old one has heard of nothing.
    assert_eq!(nodes.end(2, Signal::SIGTERM).code(), Some(0));
    assert!(validate(&nodes, 2).0);
    nodes.start_alone(2, &["--secret-file", &new]);
    nodes.succeeds(3, "/kv/write", &set("after", "a restart"));
    assert_eq!(nodes.succeeds(2, "/kv/read", &json!({ "key": "by" }))["value"], "both");
    let status = get(nodes.http(1), "/cluster/status").unwrap().1;
    assert_eq!((status["members"].as_array().unwrap().len(), &status["refused_connections"]), (1, &json!(0)));
    assert_eq!(records(&nodes, 1, None), want[0]);
}

#[test]
fn what_cannot_be_saved_or_restored_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (file, dir) = (folder.path().join("b"), folder.path().join("data"));
    let mut nodes = Nodes::new(1);
    nodes.start(1, &[1]);
    nodes.answers(1);
    let node = nodes.http(1);
    let save = ["backup", "save", word(&file)];
    let said = fails(node, &[&save[..], &["--stale"]].concat(), 3);
    assert_eq!(said, "aspen: no leader is known: try again later\n");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "nothing is left of a backup that did not come");
    post(node, "/cluster/init", &json!({})).unwrap();
    ready(&nodes, 1);
    nodes.succeeds(1, "/kv/write", &set("k", "v"));
    let (status, error) = get(node, "/cluster/backup?consistency=fresh").unwrap();
    assert_eq!((status, &error["error"]["code"]), (400, &json!("malformed")), "{error}");

    types(node, &save);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let sound = fs::read(&file).unwrap();
    nodes.succeeds(1, "/kv/write", &set("k", "w"));
    let said = fails(node, &save, 3);
    assert!(said.ends_with("b is there already: take another name, or --force to replace it\n"), "{said}");
    assert!(fs::read(&file).unwrap() == sound);
    types(node, &[&save[..], &["--force"]].concat());
    let sound = fs::read(&file).unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no unfinished file is left");

    let end = sound.iter().position(|byte| *byte == b'\n').unwrap();
    let flipped = |place: usize| {
        let mut bytes = sound.clone();
        bytes[place] ^= 1;
        bytes
    };
    let newer = Header { format: 2, ..Header::parse(&sound[..end]).unwrap() }.to_line();
    let cases = [
        (sound[..sound.len() - 100].to_vec(), "it is cut off: of ", 1),
        (flipped(end + 5_000), "its bytes are not those of its digest", 1),
        (flipped(40), "its first line is damaged", 1),
        (sound[end + 1..].to_vec(), "it is no backup of Aspen", 1),
        (
            [&newer, &sound[end + 1..]].concat(),
            "it has format 2, this version reads 1 to 1: use a newer aspen",
            3,
        ),
    ];
    let restore = restore_words(&nodes, 1, word(&file), word(&dir));
    let restore = restore.each_ref().map(String::as_str);
    for (bytes, want, code) in cases {
        fs::write(&file, &bytes).unwrap();
        for words in [&["backup", "inspect", word(&file)][..], &restore] {
            let said = fails(node, words, code);
            assert!(said.contains(want), "{words:?}: {said}");
        }
        assert!(fs::read(&file).unwrap() == bytes && !dir.exists(), "{want}: something has changed");
    }

    fs::write(&file, &sound).unwrap();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("log.redb"), "of somebody").unwrap();
    let said = fails(node, &restore, 3);
    assert!(said.contains("has something in it, \"log.redb\""), "{said}");
    assert_eq!(fs::read(dir.join("log.redb")).unwrap(), b"of somebody");
    // Nor is a directory taken that a node uses.
    let said = fails(
        node,
        &restore_words(&nodes, 1, word(&file), word(&nodes.data(1))).each_ref().map(String::as_str),
        3,
    );
    assert!(said.contains("has something in it"), "{said}");
    nodes.succeeds(1, "/kv/read", &json!({ "key": "k" }));
    assert!(!nodes.data(1).join("restoring").exists());
}

/// The first half of the backup comes by a pipe, so that the restore is where one wants it when it is killed.
#[test]
fn restore_that_was_killed_leaves_nothing_that_starts_and_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("b");
    let mut nodes = Nodes::new(2);
    nodes.start_alone(1, &["--bootstrap"]);
    ready(&nodes, 1);
    nodes.succeeds(1, "/kv/write", &set("k", &"v".repeat(1_000_000)));
    types(nodes.http(1), &["backup", "save", word(&file)]);
    let bytes = fs::read(&file).unwrap();

    let pipe: PathBuf = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let words = restore_words(&nodes, 2, word(&pipe), word(&nodes.data(2)));
    let mut half = Command::new(client()).args(&words).stderr(Stdio::null()).spawn().unwrap();
    let mut end = File::options().write(true).open(&pipe).unwrap();
    end.write_all(&bytes[..bytes.len() / 2]).unwrap();
    let database = nodes.data(2).join("state.sqlite");
    nodes.comes("half a database", || fs::metadata(&database).ok().filter(|file| file.len() > 0));
    half.kill().unwrap();
    half.wait().unwrap();

    nodes.start_alone(2, &[]);
    assert_eq!(nodes.ended(2).code(), Some(1));
    let said = nodes.last_words(2);
    assert!(said.contains("has not come to its end: run `aspen backup restore` again"), "{said}");
    let (is_sound, text) = validate(&nodes, 2);
    assert!(
        !is_sound && text.contains("WRONG the restore of this directory has not come to its end"),
        "{text}"
    );

    restore(&nodes, 2, &file);
    assert!(validate(&nodes, 2).0);
    nodes.start_alone(2, &[]);
    ready(&nodes, 2);
    let read = nodes.succeeds(2, "/kv/read", &json!({ "key": "k" }));
    assert_eq!(read["value"].as_str().unwrap().len(), 1_000_000);
}
