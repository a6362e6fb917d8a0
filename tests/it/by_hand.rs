//! Real nodes on loopback, as README.md has them by hand: founded, written through a follower, read from another,
//! killed and restarted one by one, stopped. No lab, no namespaces.
#![allow(clippy::disallowed_methods, reason = "a test starts the program that it tests")]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use aspen_lab::cli::NODE_PART;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http_client::{get, post, request};
use crate::lab;

/// Longer than an election, a dial and a write together.
const COMES_MAX: Duration = Duration::from_secs(30);
/// A node's own bound, and a second for the process to end.
const STOP_MAX: Duration = Duration::from_secs(11);

/// The node, which `lab` can be: it is built with this test, and is the same code.
fn node_command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.arg(NODE_PART);
    command
}

/// A member: its addresses, and its process while it runs.
struct Member {
    id: u64,
    raft: SocketAddr,
    http: SocketAddr,
    endpoint_id: String,
    process: Option<Child>,
}

/// Nodes in one folder. Dropped, it kills what still runs.
struct Bench {
    directory: TempDir,
    members: Vec<Member>,
    _turn: lab::Turn,
}

impl Drop for Bench {
    fn drop(&mut self) {
        for process in self.members.iter_mut().filter_map(|member| member.process.as_mut()) {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Bench {
    /// Makes `count` identities, numbered from 1, on free ports. Nothing runs yet.
    fn new(count: u64) -> Self {
        let turn = lab::turn();
        let directory = tempfile::tempdir().unwrap();
        let any = (Ipv4Addr::LOCALHOST, 0);
        // All at once, so that no port is given twice.
        let sockets: Vec<_> =
            (0..count).map(|_| (UdpSocket::bind(any).unwrap(), TcpListener::bind(any).unwrap())).collect();
        let members = sockets.iter().zip(1..).map(|((raft, http), id)| Member {
            id,
            raft: raft.local_addr().unwrap(),
            http: http.local_addr().unwrap(),
            endpoint_id: endpoint_id(&directory.path().join(id.to_string())),
            process: None,
        });
        Self { members: members.collect(), directory, _turn: turn }
    }

    fn member(&self, id: u64) -> &Member {
        self.members.iter().find(|member| member.id == id).unwrap()
    }

    fn http(&self, id: u64) -> SocketAddr {
        self.member(id).http
    }

    /// Starts a node that knows these peers.
    fn start(&mut self, id: u64, peers: &[u64]) {
        let mut toml = String::new();
        for peer in peers.iter().map(|peer| self.member(*peer)) {
            let Member { id, raft, http, endpoint_id, .. } = peer;
            write!(toml, "[[peers]]\nid = {id}\nendpoint_id = '{endpoint_id}'\n").unwrap();
            write!(toml, "raft = '{raft}'\nhttp = '{http}'\n").unwrap();
        }
        let file = self.directory.path().join(format!("{id}.toml"));
        fs::write(&file, toml).unwrap();
        let log = File::options().create(true).append(true).open(self.log(id)).unwrap();
        let data = self.directory.path().join(id.to_string());
        let member = self.members.iter_mut().find(|member| member.id == id).unwrap();
        let mut command = node_command();
        command.arg("--config").arg(file).arg("--data-dir").arg(data);
        command.args(["--id", &id.to_string(), "--raft-listen", &member.raft.to_string()]);
        command.args(["--http-listen", &member.http.to_string()]);
        command.stdin(Stdio::null()).stderr(log);
        member.process = Some(command.spawn().unwrap());
    }

    fn log(&self, id: u64) -> PathBuf {
        self.directory.path().join(format!("{id}.log"))
    }

    /// Sends a signal and waits for the end.
    fn end(&mut self, id: u64, signal: Signal) -> ExitStatus {
        let member = self.members.iter_mut().find(|member| member.id == id).unwrap();
        let mut process = member.process.take().unwrap();
        kill(Pid::from_raw(process.id().cast_signed()), signal).unwrap();
        let asked = Instant::now();
        loop {
            match process.try_wait().unwrap() {
                Some(status) => return status,
                None if asked.elapsed() > STOP_MAX => {
                    process.kill().unwrap();
                    process.wait().unwrap();
                    panic!("node {id} still ran {STOP_MAX:?} after {signal}:\n{}", self.last_words(id));
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn last_words(&self, id: u64) -> String {
        fs::read_to_string(self.log(id)).unwrap_or_default()
    }

    /// Asks again and again until `what` is there.
    #[track_caller]
    fn comes<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            if began.elapsed() > COMES_MAX {
                let logs = self.members.iter().map(|member| self.last_words(member.id)).collect::<String>();
                panic!("no {what} within {COMES_MAX:?}:\n{logs}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a node answers at all.
    fn answers(&self, id: u64) {
        self.comes("answer", || get(self.http(id), "/raft/state").ok());
    }

    /// Waits until a node answers 200.
    #[track_caller]
    fn succeeds(&self, id: u64, path: &str, body: &Value) -> Value {
        self.comes(&format!("200 from {path} of node {id}"), || match post(self.http(id), path, body) {
            Ok((200, answer)) => Some(answer),
            Ok(_) | Err(_) => None,
        })
    }
}

fn endpoint_id(data: &Path) -> String {
    let output = node_command().arg("identity").arg("--data-dir").arg(data).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn set(key: &str, value: &str) -> Value {
    json!({ "command": { "Set": { "key": key, "value": value } } })
}

/// Three nodes that answer, and are no cluster yet.
fn three_nodes() -> ([u64; 3], Bench) {
    let ids = [1, 2, 3];
    let mut bench = Bench::new(3);
    for id in ids {
        bench.start(id, &ids);
    }
    for id in ids {
        bench.answers(id);
    }
    (ids, bench)
}

#[test]
fn three_nodes_by_hand() {
    let (ids, mut bench) = three_nodes();
    let (status, health) = get(bench.http(1), "/health").unwrap();
    assert_eq!((status, &health["ready"]), (503, &json!(false)), "{health}");
    let (status, founded) = request(bench.http(1), "POST", "/cluster/init", "").unwrap();
    assert_eq!((status, founded["members"].as_array().unwrap().len()), (200, 3), "{founded}");

    let leader = bench.comes("leader", || {
        let seen = ids.map(|id| get(bench.http(id), "/cluster/status").unwrap().1["leader"]["id"].as_u64());
        seen[0].filter(|_| seen.iter().all(|leader| *leader == seen[0]))
    });
    let [follower, other] = [leader % 3 + 1, (leader + 1) % 3 + 1];
    let (status, written) = post(bench.http(follower), "/kv/write", &set("greeting", "hello")).unwrap();
    assert_eq!(status, 200, "{written}");
    let (status, read) = post(bench.http(other), "/kv/read", &json!({ "key": "greeting" })).unwrap();
    assert_eq!((status, &read["value"]), (200, &json!("hello")), "{read}");
    assert_eq!(read["mod_revision"], written["revision"]);

    for id in ids {
        killed_node_comes_back(&mut bench, id, id % 3 + 1, &ids);
    }
    assert_equal_digests(&bench, &ids);
    for id in ids {
        let status = bench.end(id, Signal::SIGTERM);
        assert_eq!(status.code(), Some(0), "node {id}:\n{}", bench.last_words(id));
    }
}

/// A lab once took a node for one that had forgotten its vote: after a start it named none until it had a new one.
#[test]
fn node_that_is_alone_after_a_restart_names_its_durable_vote() {
    let (ids, mut bench) = three_nodes();
    request(bench.http(1), "POST", "/cluster/init", "").unwrap();
    let before = bench.comes("vote that a quorum has granted", || {
        let state = get(bench.http(2), "/raft/state").ok()?.1;
        (state["vote"]["is_committed"] == true).then_some(state)
    });
    for id in ids {
        bench.end(id, Signal::SIGKILL);
    }
    bench.start(2, &ids);
    bench.answers(2);
    let after = get(bench.http(2), "/raft/state").unwrap().1;
    assert_eq!(after["vote"], before["vote"], "{before} -> {after}");
}

/// Kills a node, writes while it is away, and finds it the same member when it is back.
fn killed_node_comes_back(bench: &mut Bench, id: u64, other: u64, ids: &[u64]) {
    let before = get(bench.http(id), "/raft/state").unwrap().1;
    bench.end(id, Signal::SIGKILL);
    let value = format!("without {id}");
    bench.succeeds(other, "/kv/write", &set("greeting", &value));
    bench.start(id, ids);
    let read = bench.succeeds(id, "/kv/read", &json!({ "key": "greeting" }));
    assert_eq!(read["value"], json!(value));
    let after = get(bench.http(id), "/raft/state").unwrap().1;
    assert_ne!(after["incarnation"], before["incarnation"]);
    assert!(after["term"].as_u64() >= before["term"].as_u64(), "{before} -> {after}");
    let status = get(bench.http(id), "/cluster/status").unwrap().1;
    assert_eq!(status["endpoint_id"], json!(bench.member(id).endpoint_id));
}

/// Waits until the nodes stand at one index, and finds the same state and the same log there.
fn assert_equal_digests(bench: &Bench, ids: &[u64]) {
    let answer = |id: &u64, path: &str| get(bench.http(*id), path).unwrap().1;
    let digests = bench.comes("equal index", || {
        let digests: Vec<Value> = ids.iter().map(|id| answer(id, "/state/digest")).collect();
        digests.iter().all(|digest| digest["index"] == digests[0]["index"]).then_some(digests)
    });
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    let path = format!("/raft/log/digest?from=0&to={}", digests[0]["index"]);
    let logs: Vec<Value> = ids.iter().map(|id| answer(id, &path)).collect();
    assert!(logs[0]["entries"].as_array().unwrap().len() > 4, "{logs:?}");
    assert!(logs.iter().all(|log| *log == logs[0]), "{logs:?}");
}

#[test]
fn unknown_endpoint_is_refused_and_counted() {
    let mut bench = Bench::new(2);
    bench.start(1, &[1]);
    // The stranger knows node 1 and wants it for a cluster of its own; node 1 does not know the stranger.
    bench.start(2, &[1, 2]);
    bench.answers(1);
    bench.answers(2);
    assert_eq!(request(bench.http(1), "POST", "/cluster/init", "").unwrap().0, 200);
    bench.succeeds(1, "/kv/write", &set("mine", "1"));
    let before = get(bench.http(1), "/raft/state").unwrap().1;
    assert_eq!(request(bench.http(2), "POST", "/cluster/init", "").unwrap().0, 200);

    let status = bench.comes("refused connection", || {
        let status = get(bench.http(1), "/cluster/status").unwrap().1;
        (status["refused_connections"].as_u64() > Some(0)).then_some(status)
    });
    assert_eq!(status["members"].as_array().unwrap().len(), 1, "{status}");
    let after = get(bench.http(1), "/raft/state").unwrap().1;
    assert_eq!((&after["term"], &after["role"]), (&before["term"], &json!("leader")));
    let stranger = get(bench.http(2), "/cluster/status").unwrap().1;
    assert_eq!(stranger["leader"], Value::Null, "{stranger}");
    let (status, refused) = post(bench.http(2), "/kv/write", &set("mine", "2")).unwrap();
    assert_eq!((status, &refused["error"]["code"]), (503, &json!("not_leader")), "{refused}");
}

#[track_caller]
fn check(to: SocketAddr, route: &str, body: &str, want: (u16, &str)) {
    let (method, path) = route.split_once(' ').unwrap();
    let (status, answer) = request(to, method, path, body).unwrap();
    let code = answer["error"]["code"].as_str().unwrap_or_default();
    assert_eq!((status, code), want, "{route} {body:.200}: {answer}");
}

/// Every refusal of docs/http.md that one healthy node can give.
#[test]
fn routes_answer_as_documented() {
    let mut bench = Bench::new(1);
    bench.start(1, &[1]);
    bench.answers(1);
    let to = bench.http(1);
    check(to, "POST /cluster/init", r#"{"members":[1,9]}"#, (400, "members"));
    check(to, "POST /cluster/init", r#"{"members":[]}"#, (400, "members"));
    check(to, "POST /cluster/init", "", (200, ""));
    check(to, "POST /cluster/init", "", (409, "already_initialized"));
    let written = bench.succeeds(1, "/kv/write", &set("a", "1"));
    let read = post(to, "/kv/read", &json!({ "key": "a", "consistency": "stale" })).unwrap().1;
    assert_eq!((&read["stale"], &read["revision"]), (&json!(true), &written["revision"]));
    check(to, "GET /health", "", (200, ""));
    check(to, "POST /kv/read", r#"{"key":"b"}"#, (404, "key_not_found"));
    check(to, "POST /kv/read", r#"{"key":""}"#, (400, "key_empty"));
    check(to, "POST /kv/read", r#"{"key":"a","key_base64":"YQ=="}"#, (400, "malformed"));
    check(to, "POST /kv/read", r#"{"key":"a","consistency":"lease"}"#, (400, "malformed"));
    check(to, "POST /kv/read", &json!({ "key": "k".repeat(1025) }).to_string(), (400, "key_too_large"));
    check(to, "POST /kv/write", &set("k", &"v".repeat(1 << 20)).to_string(), (200, ""));
    check(to, "POST /kv/write", &set("k", &"v".repeat((1 << 20) + 1)).to_string(), (400, "value_too_large"));
    check(to, "POST /kv/write", r#"{"command":{"SetMulti":{"pairs":[["a","b"]]}}}"#, (400, "malformed"));
    let swap = |expected: Value| json!({ "command": { "CompareAndSwap": { "key": "a", "expected": expected, "value": "2" } } });
    check(to, "POST /kv/write", &swap(Value::Null).to_string(), (409, "cas_failed"));
    check(to, "POST /kv/write", &swap(json!("1")).to_string(), (200, ""));
    let deleted = ["true", "false"].map(|_| post(to, "/kv/delete", &json!({ "key": "a" })).unwrap().1);
    assert_eq!(deleted.map(|answer| answer["deleted"].clone()), [json!(true), json!(false)]);
    check(to, "POST /kv/scan", r#"{"limit":0}"#, (400, "scan_limit"));
    check(to, "POST /kv/scan", r#"{"continuation_token":"xx"}"#, (400, "continuation_token"));
    check(to, "POST /kv/scan", "{}", (200, ""));
    check(to, "GET /raft/log/digest?from=2&to=1", "", (400, "log_range"));
    check(to, "GET /raft/log/digest?from=0&to=1000", "", (400, "beyond_log"));
    check(to, "GET /state/digest?at=64", "", (404, "digest_not_kept"));
    check(to, "GET /state/digest?at=0", "", (200, ""));
    check(to, "GET /nowhere", "", (404, "no_such_route"));
    check(to, "GET /kv/read", "", (405, "method_not_allowed"));
}
