//! More than a node does at once, over real connections: what is too much is refused with 429 and when to come again, and all else is done.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::http_client::{Answer, get, raw, request};
use crate::nodes::{Nodes, set, three_nodes};

/// As many operations as a node works on at once.
const OPERATIONS_MAX: usize = 1_000;
/// How many more are asked for.
const MORE: usize = 100;
/// The largest body that a node takes, and how many of them it holds at once.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
const BODIES_MAX: usize = 32;
/// Longer than any operation takes.
const ENDS: Duration = Duration::from_secs(20);

/// A connection on which nothing is asked yet.
fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(ENDS)).unwrap();
    stream
}

/// Begins a write of so many bytes, whose answer is not waited for.
fn begin(stream: &mut TcpStream, bytes: usize, body: &[u8]) {
    let to = stream.peer_addr().unwrap();
    let head = format!(
        "POST /kv/write HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\ncontent-length: {bytes}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
}

/// What came back.
fn end(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[track_caller]
fn check_refused(answer: &Answer, text: &str) {
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")), "{answer:?}");
    let error = &answer.json()["error"];
    assert_eq!(
        (error["code"].as_str(), error["message"].as_str()),
        (Some("too_many_operations"), Some(text))
    );
}

#[test]
fn operations_beyond_the_bound_are_told_to_come_again() {
    // A leader that is alone says so after an election's time, and all are to have asked by then.
    let (_, nodes) =
        three_nodes(&["--heartbeat-ms", "500", "--election-ms-min", "4000", "--election-ms-max", "5000"]);
    request(nodes.http(1), "POST", "/cluster/init", "").unwrap();
    nodes.succeeds(1, "/kv/write", &set("first", "of all"));
    let leader =
        nodes.comes("leader", || get(nodes.http(1), "/cluster/status").ok()?.1["leader"]["id"].as_u64());
    let mut asked: Vec<_> = (0..OPERATIONS_MAX + MORE).map(|_| connect(nodes.http(leader))).collect();
    let others = [1, 2, 3].into_iter().filter(|id| *id != leader);
    // Nobody else answers, so that writes are under way until their time is over.
    others.clone().for_each(|id| nodes.signal(id, Signal::SIGSTOP));
    let body = set("k", "v").to_string();
    for stream in &mut asked {
        begin(stream, body.len(), body.as_bytes());
    }
    let answers: Vec<String> = asked.into_iter().map(end).collect();
    others.for_each(|id| nodes.signal(id, Signal::SIGCONT));
    let refused: Vec<&String> = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 429 ")).collect();
    assert!((1..=MORE).contains(&refused.len()), "{} of {}", refused.len(), answers.len());
    for answer in refused {
        assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
        assert!(answer.contains("1000 operations are under way on this node, try again later"), "{answer}");
    }
    nodes.succeeds(leader, "/kv/write", &set("k", "after"));
}

/// A thousand bodies of the largest kind were 8 GiB of memory.
#[test]
fn bodies_beyond_the_bound_are_told_to_come_again() {
    let mut nodes = Nodes::new(1);
    nodes.start_alone(1, &["--control", "deterministic", "--bootstrap"]);
    let small = set("k", &"v".repeat(1_000));
    nodes.succeeds(1, "/kv/write", &small);
    let to = nodes.http(1);
    // All but the end of each.
    let part = vec![b' '; BODY_BYTES_MAX - 1];
    let mut held: Vec<_> = (0..BODIES_MAX).map(|_| connect(to)).collect();
    for stream in &mut held {
        begin(stream, BODY_BYTES_MAX, &part);
    }
    let small = small.to_string();
    let write = || raw(to, "POST", "/kv/write", &[], small.as_bytes()).unwrap();
    let refused = nodes.comes("refusal", || Some(write()).filter(|answer| answer.status == 429));
    let text = "nothing was done, the bodies of the requests under way on this node have 256 MiB, which is all that it holds at once: \
                try again later";
    check_refused(&refused, text);
    // Who asks without a body is answered.
    assert_eq!(raw(to, "GET", "/health", &[], b"").unwrap().status, 200);
    drop(held);
    nodes.comes("room again", || Some(write()).filter(|answer| answer.status == 200));
}
