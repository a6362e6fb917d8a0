//! Aspen's HTTP interface as a target (docs/http.md).
//!
//! The one decision that matters here: an error is a refusal only where the node says that nothing was written;
//! everything else leaves the outcome open.

use aspen_node::limits::SCAN_LIMIT_MAX;
use serde_json::{Value as Json, json};

use super::{Page, ask};
use crate::cluster::{Channel, Request, RequestError, Response};
use crate::history::{Op, Outcome};
use crate::observations::NodeState;
use crate::plan::Reads;

/// Where a node says how it stands in Raft.
pub(super) const STATE: &str = "/raft/state";

/// The request for an operation on a key.
pub fn request(key: &str, op: &Op<String>, reads: Reads) -> Request {
    match op {
        Op::Read => Request::post("/kv/read", &confirmed(json!({ "key": key }), reads)),
        Op::Write { value } => {
            Request::post("/kv/write", &json!({ "command": { "Set": { "key": key, "value": value } } }))
        }
        Op::Cas { expected, value } => {
            let swap = json!({ "key": key, "expected": expected, "value": value });
            Request::post("/kv/write", &json!({ "command": { "CompareAndSwap": swap } }))
        }
        Op::Delete => Request::post("/kv/delete", &json!({ "key": key })),
    }
}

/// The request for a scan of all keys that begin like this.
pub(super) fn scan_request(prefix: &str, reads: Reads) -> Request {
    Request::post("/kv/scan", &confirmed(json!({ "prefix": prefix, "limit": SCAN_LIMIT_MAX }), reads))
}

/// A read that says how it is to be confirmed, where that is not the way of the interface itself.
fn confirmed(mut body: Json, reads: Reads) -> Json {
    if reads == Reads::Lease {
        body["consistency"] = "lease".into();
    }
    body
}

/// The request for what a node itself has of a key.
pub(super) fn stale_request(key: &str) -> Request {
    Request::post("/kv/read", &json!({ "key": key, "consistency": "stale" }))
}

/// The request for what a node itself has of a key, if that is not older. In the time of the wall: machines that are slower than
/// planned have less of it, and never more, than the plan allows.
pub(super) fn bounded_request(key: &str, max_staleness_ms: u64) -> Request {
    Request::post("/kv/read", &json!({ "key": key, "max_staleness_ms": max_staleness_ms }))
}

/// A page of a scan.
pub(super) fn page(body: &Json) -> Option<Page> {
    let entries = body["entries"].as_array()?;
    let entries = entries.iter().map(|entry| (text(&entry["key"]), text(&entry["value"]))).collect();
    Some(Page { is_truncated: body["is_truncated"] != false, entries })
}

/// Whether an answer to a read says that a lease has confirmed it, also that the key is not there.
pub(crate) fn is_by_lease(response: &Response) -> bool {
    [&response.body, &response.body["error"]].iter().any(|body| body["confirmed_by"] == "lease")
}

/// One node's Raft state, if it answers in time.
pub(crate) async fn state(channel: &mut dyn Channel) -> Option<NodeState> {
    serde_json::from_value(ask(channel, Request::get(STATE)).await?).ok()
}

/// What the answer to an operation means for the history.
pub(super) fn outcome(op: &Op<String>, answer: Result<Response, RequestError>) -> Outcome<String> {
    let response = match answer {
        Ok(response) => response,
        Err(RequestError::NotSent(reason)) => return Outcome::Refused { reason },
        Err(RequestError::Lost(_)) => return Outcome::Unknown,
    };
    let error = &response.body["error"];
    let code = error["code"].as_str().unwrap_or_default();
    match (response.status, op) {
        (200, Op::Read) => match text(&response.body["value"]) {
            // A value that is no text was never written by us, and is no answer that we could judge.
            None => Outcome::Unknown,
            value => Outcome::Read { value },
        },
        (200, _) => Outcome::Done,
        (404, Op::Read) if code == "key_not_found" => Outcome::Read { value: None },
        (409, Op::Cas { .. }) if code == "cas_failed" => {
            Outcome::CasFailed { actual: text(&error["actual"]) }
        }
        (400..=499 | 503 | 507, _) if is_refusal(code) => Outcome::Refused { reason: code.to_owned() },
        _ => Outcome::Unknown,
    }
}

/// Whether an error code says that nothing was written, neither now nor later.
fn is_refusal(code: &str) -> bool {
    matches!(
        code,
        "not_leader"
            | "no_quorum"
            | "too_stale"
            | "removed"
            | "joining"
            | "too_many_operations"
            | "disk_full"
            | "malformed"
            | "key_empty"
    ) || code.ends_with("_too_large")
}

fn text(value: &Json) -> Option<String> {
    value.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::Dialect;
    use super::*;
    use crate::plan::Target;

    #[track_caller]
    fn check(op: Op<String>, status: u16, body: Json, want: Outcome<String>) {
        assert_eq!(outcome(&op, Ok(Response { status, body })), want);
    }

    fn error(code: &str) -> Json {
        json!({ "error": { "code": code } })
    }

    #[test]
    fn answers_mean_what_the_interface_says() {
        let write = || Op::Write { value: "v".to_owned() };
        let cas = || Op::Cas { expected: None, value: "v".to_owned() };
        let refused = |reason: &str| Outcome::Refused { reason: reason.to_owned() };
        check(Op::Read, 200, json!({ "value": "v" }), Outcome::Read { value: Some("v".to_owned()) });
        check(Op::Read, 404, error("key_not_found"), Outcome::Read { value: None });
        check(write(), 200, json!({ "revision": 1 }), Outcome::Done);
        check(write(), 503, error("not_leader"), refused("not_leader"));
        check(write(), 504, error("timeout"), Outcome::Unknown);
        check(write(), 503, error("stopping"), Outcome::Unknown);
        check(write(), 500, Json::Null, Outcome::Unknown);
        let failed = json!({ "error": { "code": "cas_failed", "actual": "w" } });
        check(cas(), 409, failed, Outcome::CasFailed { actual: Some("w".to_owned()) });
    }

    #[test]
    fn scan_reads_every_key_that_it_covers() {
        let keys = ["k1", "k10", "k11"].map(str::to_owned);
        let dialect = Dialect { target: Target::Aspen, reads: Reads::Linearizable };
        let entry = |key: &str, value: &str| json!({ "key": key, "value": value });
        let check = |status, body: Json, want: [Outcome<String>; 3]| {
            assert_eq!(dialect.scan_outcomes(&keys, Ok(Response { status, body })), want);
        };
        let read = |value: Option<&str>| Outcome::Read { value: value.map(str::to_owned) };
        let page = |entries: Json| json!({ "is_truncated": false, "entries": entries });
        check(
            200,
            page(json!([entry("k1", "a"), entry("k11", "b")])),
            [read(Some("a")), read(None), read(Some("b"))],
        );
        let twice = page(json!([entry("k1", "a"), entry("k1", "a")]));
        check(200, twice, [read(Some("k1 is there twice")), read(None), read(None)]);
        let impossible = |what: &str| [read(Some(what)), read(Some(what)), read(Some(what))];
        check(200, json!({ "is_truncated": true, "entries": [] }), impossible("a page that ends too early"));
        check(200, json!({ "is_truncated": false }), impossible("a page without entries"));
        check(200, page(json!([entry("k11", "a"), entry("k1", "b")])), impossible("a page out of order"));
        check(200, page(json!([entry("k2", "a")])), impossible("a page with a key that was not asked for"));
        let refused = || Outcome::Refused { reason: "no_quorum".to_owned() };
        check(503, error("no_quorum"), [refused(), refused(), refused()]);
    }

    #[test]
    fn only_a_request_that_was_not_sent_is_refused() {
        let op = Op::Write { value: "v".to_owned() };
        let not_sent = Err(RequestError::NotSent("refused".to_owned()));
        assert_eq!(outcome(&op, not_sent), Outcome::Refused { reason: "refused".to_owned() });
        assert_eq!(outcome(&op, Err(RequestError::Lost(String::new()))), Outcome::Unknown);
    }
}
