//! etcd as a target: how a member is started, and its JSON gateway (etcd 3.4, "Why gRPC gateway"), in which keys and values are
//! Base64 and what is empty, false or zero is left out.

use std::path::Path;
use std::time::Duration;

use aspen_node::limits::SCAN_LIMIT_MAX;
use data_encoding::BASE64;
use serde_json::{Value as Json, json};

use super::{Page, ask};
use crate::cluster::{Channel, Request, RequestError, Response};
use crate::history::{Op, Outcome};
use crate::limits::NODE_VERSION_MAX;
use crate::observations::{Incarnation, LogPosition, NodeState, Role};
use crate::program::{Program, ProgramError, ProgramLog};

/// Its program.
pub const ETCD: &str = "etcd";
/// The package that has it.
pub const PACKAGE: &str = "etcd-server";
/// What it answers once it serves clients.
pub(super) const VERSION: &str = "/version";

/// The version that a program names; nothing if it is another one.
///
/// # Errors
/// It does not run.
pub(crate) fn version(program: &Path, log: &ProgramLog) -> Result<Option<String>, ProgramError> {
    let output = Program::new(program).arg("--version").unprivileged().run_short(NODE_VERSION_MAX, log)?;
    Ok(output.stdout.lines().find_map(|line| line.strip_prefix("etcd Version: ").map(str::to_owned)))
}

/// A member of a cluster to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its name.
    pub(crate) name: String,
    /// Where its peers find it.
    pub(crate) peer: std::net::SocketAddr,
    /// Where clients find it.
    pub(crate) client: std::net::SocketAddr,
}

/// The command of one member of a new cluster.
pub(crate) fn command(program: Program, members: &[Member], place: usize, data: &Path) -> Program {
    let url = |address| format!("http://{address}");
    let cluster: Vec<String> =
        members.iter().map(|member| format!("{}={}", member.name, url(member.peer))).collect();
    let Member { name, peer, client } = &members[place];
    program
        .args(["--name", name])
        .arg("--data-dir")
        .arg(data)
        .args(["--listen-peer-urls", &url(*peer), "--initial-advertise-peer-urls", &url(*peer)])
        .args(["--listen-client-urls", &url(*client), "--advertise-client-urls", &url(*client)])
        .args(["--initial-cluster", &cluster.join(",")])
        .args(["--initial-cluster-state", "new", "--log-level", "warn", "--logger", "zap"])
        // Its largest: by itself it takes no more than 2 GiB.
        .args(["--quota-backend-bytes", "8589934592"])
}

/// A command with these times of Raft. A follower waits for once to twice the time-out.
pub(crate) fn timed(program: Program, heartbeat: Duration, election: Duration) -> Program {
    // It refuses less than five heartbeats.
    let election = election.max(5 * heartbeat);
    program
        .args(["--heartbeat-interval", &heartbeat.as_millis().to_string()])
        .args(["--election-timeout", &election.as_millis().to_string()])
}

/// The request for an operation on a key.
pub(super) fn request(key: &str, op: &Op<String>) -> Request {
    let base64 = |text: &str| BASE64.encode(text.as_bytes());
    let put = |value: &str| json!({ "key": base64(key), "value": base64(value) });
    match op {
        Op::Read => Request::post("/v3/kv/range", &json!({ "key": base64(key) })),
        Op::Write { value } => Request::post("/v3/kv/put", &put(value)),
        Op::Delete => Request::post("/v3/kv/deleterange", &json!({ "key": base64(key) })),
        Op::Cas { expected, value } => {
            // A key that is not there has no version.
            let (target, name, operand) = match expected {
                Some(expected) => ("VALUE", "value", base64(expected)),
                None => ("VERSION", "version", "0".to_owned()),
            };
            let compare = json!({ "key": base64(key), "result": "EQUAL", "target": target, name: operand });
            let body = json!({
                "compare": [compare],
                "success": [{ "request_put": put(value) }],
                "failure": [{ "request_range": { "key": base64(key) } }],
            });
            Request::post("/v3/kv/txn", &body)
        }
    }
}

/// The request for what a member itself has of a key.
pub(super) fn stale_request(key: &str) -> Request {
    let body = json!({ "key": BASE64.encode(key.as_bytes()), "serializable": true });
    Request::post("/v3/kv/range", &body)
}

/// The request for a scan of all keys that begin like this.
pub(super) fn scan_request(prefix: &str) -> Request {
    // The first key behind them: no prefix of ours ends with the last byte there is.
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    let body = json!({
        "key": BASE64.encode(prefix.as_bytes()),
        "range_end": BASE64.encode(&end),
        "limit": SCAN_LIMIT_MAX,
    });
    Request::post("/v3/kv/range", &body)
}

/// A page of a scan.
pub(super) fn page(body: &Json) -> Option<Page> {
    let none = Vec::new();
    let entries = match &body["kvs"] {
        Json::Null if body["header"].is_object() => &none,
        entries => entries.as_array()?,
    };
    let entries = entries.iter().map(|entry| (text(&entry["key"]), text(&entry["value"]))).collect();
    Some(Page { is_truncated: body["more"] == true, entries })
}

/// What the answer to an operation means. An error may come after the entry was proposed: its outcome is open.
pub(super) fn outcome(op: &Op<String>, answer: Result<Response, RequestError>) -> Outcome<String> {
    let body = match answer {
        Ok(Response { status: 200, body }) if body["header"].is_object() => body,
        Err(RequestError::NotSent(reason)) => return Outcome::Refused { reason },
        Ok(_) | Err(RequestError::Lost(_)) => return Outcome::Unknown,
    };
    match op {
        Op::Read => read(&body),
        Op::Write { .. } | Op::Delete => Outcome::Done,
        Op::Cas { .. } if body["succeeded"] == true => Outcome::Done,
        Op::Cas { .. } if !body["responses"][0]["response_range"].is_object() => Outcome::Unknown,
        Op::Cas { .. } => match read(&body["responses"][0]["response_range"]) {
            Outcome::Read { value } => Outcome::CasFailed { actual: value },
            _ => Outcome::Unknown,
        },
    }
}

/// What the answer to a read of one key says.
fn read(answer: &Json) -> Outcome<String> {
    match (&answer["kvs"], text(&answer["kvs"][0]["value"])) {
        (Json::Null, _) => Outcome::Read { value: None },
        (_, None) => Outcome::Unknown,
        (_, value) => Outcome::Read { value },
    }
}

fn text(base64: &Json) -> Option<String> {
    let bytes = BASE64.decode(base64.as_str()?.as_bytes()).ok()?;
    String::from_utf8(bytes).ok()
}

/// Whether a member's answer to [`status_request`] says that it leads.
pub(crate) fn leads(status: &Json) -> bool {
    status["leader"].is_string() && status["leader"] == status["header"]["member_id"]
}

/// The request for what a member says of itself.
pub(crate) fn status_request() -> Request {
    Request::post("/v3/maintenance/status", &json!({}))
}

/// What a member says of itself. It names no vote. Its term is that of the last entry that it has applied: one that leads anew may
/// name its predecessor's for a moment.
pub(super) async fn state(channel: &mut dyn Channel) -> Option<NodeState> {
    let status = ask(channel, status_request()).await?;
    let metrics = ask(channel, Request::get("/metrics")).await?;
    node_state(&status, metrics.as_str()?)
}

fn node_state(status: &Json, metrics: &str) -> Option<NodeState> {
    let number = |name: &str| status[name].as_str()?.parse::<u64>().ok();
    let term = number("raftTerm")?;
    let position = |name: &str| Some(LogPosition { term, index: number(name)? });
    let last = position("raftIndex");
    Some(NodeState {
        incarnation: Incarnation(started_ms(metrics)?),
        role: if leads(status) { Role::Leader } else { Role::Follower },
        term,
        vote: None,
        leader: None,
        last_log_index: last.map(|last| last.index),
        committed: last,
        applied: position("raftAppliedIndex"),
        snapshot: None,
        purged: None,
    })
}

/// When the process has started, in milliseconds, to a clock tick: another time at each start.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a time of day in milliseconds is exact as a float, and small"
)]
fn started_ms(metrics: &str) -> Option<u64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix("process_start_time_seconds "))?;
    let seconds: f64 = line.trim().parse().ok()?;
    Some((seconds * 1_000.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(op: Op<String>, status: u16, body: Json, want: Outcome<String>) {
        assert_eq!(outcome(&op, Ok(Response { status, body })), want);
    }

    // As etcd 3.4.23 answered them.
    #[test]
    fn answers_mean_what_the_gateway_says() {
        let header = json!({ "cluster_id": "1", "member_id": "2", "revision": "3", "raft_term": "2" });
        let pair = json!({ "key": "azE=", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "djE=" });
        let value = |text: &str| Some(text.to_owned());
        let write = || Op::Write { value: "v1".to_owned() };
        let cas = || Op::Cas { expected: None, value: "v2".to_owned() };
        check(
            Op::Read,
            200,
            json!({ "header": header, "kvs": [pair], "count": "1" }),
            Outcome::Read { value: value("v1") },
        );
        check(Op::Read, 200, json!({ "header": header }), Outcome::Read { value: None });
        check(Op::Read, 200, Json::Null, Outcome::Unknown);
        check(write(), 200, json!({ "header": header }), Outcome::Done);
        check(Op::Delete, 200, json!({ "header": header, "deleted": "1" }), Outcome::Done);
        let done = json!({ "header": header, "succeeded": true, "responses": [{ "response_put": { "header": { "revision": "4" } } }] });
        check(cas(), 200, done, Outcome::Done);
        let failed = json!({ "header": header, "responses": [{ "response_range": { "kvs": [pair] } }] });
        check(cas(), 200, failed, Outcome::CasFailed { actual: value("v1") });
        let absent = json!({ "header": header, "responses": [{ "response_range": { "header": { "revision": "4" } } }] });
        check(cas(), 200, absent, Outcome::CasFailed { actual: None });
        check(cas(), 200, json!({ "header": header }), Outcome::Unknown);
        let error = json!({ "error": "etcdserver: request timed out", "code": 14 });
        check(write(), 503, error, Outcome::Unknown);
    }

    #[test]
    fn page_without_anything_is_one() {
        assert!(page(&json!({ "header": {} })).is_some_and(|page| page.entries.is_empty()));
        assert!(page(&Json::Null).is_none());
    }

    #[test]
    fn state_is_put_together_of_status_and_metrics() {
        let status = json!({
            "header": { "member_id": "7", "raft_term": "2" }, "leader": "7", "raftIndex": "9", "raftTerm": "2",
            "raftAppliedIndex": "8",
        });
        let metrics =
            "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 1.79592345638e+09\n";
        let state = node_state(&status, metrics).unwrap();
        assert_eq!((state.role, state.term, state.last_log_index), (Role::Leader, 2, Some(9)));
        assert_eq!(state.applied, Some(LogPosition { term: 2, index: 8 }));
        assert_eq!(state.incarnation, Incarnation(1_795_923_456_380));
    }
}
