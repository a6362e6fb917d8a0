//! What README.md does by hand: nodes founded, written through a follower, read from another, killed and restarted one by
//! one, stopped. No lab, no namespaces.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::http_client::{get, post, raw, request};
use crate::nodes::{Nodes, node_command, set, three_nodes, validate};

#[test]
fn three_nodes_by_hand() {
    let (ids, mut nodes) = three_nodes(&[]);
    let (status, health) = get(nodes.http(1), "/health").unwrap();
    assert_eq!((status, &health["ready"]), (503, &json!(false)), "{health}");
    let (status, founded) = request(nodes.http(1), "POST", "/cluster/init", "").unwrap();
    assert_eq!((status, founded["members"].as_array().unwrap().len()), (200, 3), "{founded}");

    let leader = nodes.comes("leader", || {
        let seen = ids.map(|id| get(nodes.http(id), "/cluster/status").unwrap().1["leader"]["id"].as_u64());
        seen[0].filter(|_| seen.iter().all(|leader| *leader == seen[0]))
    });
    let [follower, other] = [leader % 3 + 1, (leader + 1) % 3 + 1];
    let (status, written) = post(nodes.http(follower), "/kv/write", &set("greeting", "hello")).unwrap();
    assert_eq!(status, 200, "{written}");
    let (status, read) = post(nodes.http(other), "/kv/read", &json!({ "key": "greeting" })).unwrap();
    assert_eq!((status, &read["value"]), (200, &json!("hello")), "{read}");
    assert_eq!(read["mod_revision"], written["revision"]);

    for id in ids {
        killed_node_comes_back(&mut nodes, id, id % 3 + 1, &ids);
    }
    assert_equal_digests(&nodes, &ids);
    for id in ids {
        let status = nodes.end(id, Signal::SIGTERM);
        assert_eq!(status.code(), Some(0), "node {id}:\n{}", nodes.last_words(id));
    }
}

/// A lab once took a node for one that had forgotten its vote: after a start it named none until it had a new one.
#[test]
fn node_that_is_alone_after_a_restart_names_its_durable_vote() {
    let (ids, mut nodes) = three_nodes(&[]);
    request(nodes.http(1), "POST", "/cluster/init", "").unwrap();
    let before = nodes.comes("vote that a quorum has granted", || {
        let state = get(nodes.http(2), "/raft/state").ok()?.1;
        (state["vote"]["is_committed"] == true).then_some(state)
    });
    for id in ids {
        nodes.end(id, Signal::SIGKILL);
    }
    nodes.start(2, &ids);
    nodes.answers(2);
    let after = get(nodes.http(2), "/raft/state").unwrap().1;
    assert_eq!(after["vote"], before["vote"], "{before} -> {after}");
}

/// Kills a node, writes while it is away, and finds it the same member when it is back.
fn killed_node_comes_back(nodes: &mut Nodes, id: u64, other: u64, ids: &[u64]) {
    let before = get(nodes.http(id), "/raft/state").unwrap().1;
    nodes.end(id, Signal::SIGKILL);
    let value = format!("without {id}");
    nodes.succeeds(other, "/kv/write", &set("greeting", &value));
    nodes.start(id, ids);
    let read = nodes.succeeds(id, "/kv/read", &json!({ "key": "greeting" }));
    assert_eq!(read["value"], json!(value));
    let after = get(nodes.http(id), "/raft/state").unwrap().1;
    assert_ne!(after["incarnation"], before["incarnation"]);
    assert!(after["term"].as_u64() >= before["term"].as_u64(), "{before} -> {after}");
    let status = get(nodes.http(id), "/cluster/status").unwrap().1;
    assert_eq!(status["endpoint_id"], json!(nodes.member(id).endpoint_id));
}

/// Waits until the nodes stand at one index, and finds the same state and the same log there.
fn assert_equal_digests(nodes: &Nodes, ids: &[u64]) {
    let answer = |id: &u64, path: &str| get(nodes.http(*id), path).unwrap().1;
    let digests = nodes.comes("equal index", || {
        let digests: Vec<Value> = ids.iter().map(|id| answer(id, "/state/digest")).collect();
        digests.iter().all(|digest| digest["index"] == digests[0]["index"]).then_some(digests)
    });
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    let path = format!("/raft/log/digest?from=0&to={}", digests[0]["index"]);
    let logs: Vec<Value> = ids.iter().map(|id| answer(id, &path)).collect();
    assert!(logs[0]["entries"].as_array().unwrap().len() > 4, "{logs:?}");
    assert!(logs.iter().all(|log| *log == logs[0]), "{logs:?}");
}

/// Its log has an entry, and it has voted for nobody: that was once taken for damage.
#[test]
fn founder_that_is_killed_before_anybody_is_elected_starts_again() {
    let mut nodes = Nodes::new(3);
    nodes.start(1, &[1, 2, 3]);
    nodes.answers(1);
    assert_eq!(request(nodes.http(1), "POST", "/cluster/init", "").unwrap().0, 200);
    nodes.end(1, Signal::SIGKILL);
    nodes.start(1, &[1, 2, 3]);
    nodes.answers(1);
    nodes.start(2, &[1, 2, 3]);
    nodes.succeeds(1, "/kv/write", &set("founded", "1"));
}

#[test]
fn unknown_endpoint_is_refused_and_counted() {
    let mut nodes = Nodes::new(2);
    nodes.start(1, &[1]);
    // The stranger knows node 1 and wants it for a cluster of its own; node 1 does not know the stranger.
    nodes.start(2, &[1, 2]);
    nodes.answers(1);
    nodes.answers(2);
    assert_eq!(request(nodes.http(1), "POST", "/cluster/init", "").unwrap().0, 200);
    nodes.succeeds(1, "/kv/write", &set("mine", "1"));
    let before = get(nodes.http(1), "/raft/state").unwrap().1;
    assert_eq!(request(nodes.http(2), "POST", "/cluster/init", "").unwrap().0, 200);

    let status = nodes.comes("refused connection", || {
        let status = get(nodes.http(1), "/cluster/status").unwrap().1;
        (status["refused_connections"].as_u64() > Some(0)).then_some(status)
    });
    assert_eq!(status["members"].as_array().unwrap().len(), 1, "{status}");
    let after = get(nodes.http(1), "/raft/state").unwrap().1;
    assert_eq!((&after["term"], &after["role"]), (&before["term"], &json!("leader")));
    let stranger = get(nodes.http(2), "/cluster/status").unwrap().1;
    assert_eq!(stranger["leader"], Value::Null, "{stranger}");
    let (status, refused) = post(nodes.http(2), "/kv/write", &set("mine", "2")).unwrap();
    assert_eq!((status, &refused["error"]["code"]), (503, &json!("not_leader")), "{refused}");
}

#[track_caller]
fn check(to: SocketAddr, route: &str, body: &str, want: (u16, &str)) {
    let (method, path) = route.split_once(' ').unwrap();
    let (status, answer) = request(to, method, path, body).unwrap();
    let code = answer["error"]["code"].as_str().unwrap_or_default();
    assert_eq!((status, code), want, "{route} {body:.200}: {answer}");
}

/// A node that waits for a leader answers as soon as its client wants.
#[test]
fn client_that_waits_for_less_is_answered_in_time() {
    let mut nodes = Nodes::new(1);
    nodes.start(1, &[1]);
    nodes.answers(1);
    let asked = |value: &str| {
        let body = set("k", "v").to_string();
        let answer = raw(nodes.http(1), "POST", "/kv/write", &[("aspen-timeout-ms", value)], body.as_bytes());
        let answer = answer.unwrap();
        (answer.status, answer.json()["error"]["message"].as_str().unwrap().to_owned())
    };
    let late = "not finished within 200 ms: the outcome is unknown, the write may still take effect";
    assert_eq!(asked("200"), (504, late.to_owned()));
    let wrong = "aspen-timeout-ms is \"0\", a whole number of milliseconds from 1 on is allowed";
    assert_eq!(asked("0"), (400, wrong.to_owned()));
    // Without a leader it is refused after 3 s, whatever more a client would wait for.
    assert_eq!(asked("60000").0, 503);
}

/// Every refusal of docs/http.md that one healthy node can give.
#[test]
fn routes_answer_as_documented() {
    let mut nodes = Nodes::new(1);
    nodes.start(1, &[1]);
    nodes.answers(1);
    let to = nodes.http(1);
    check(to, "POST /cluster/init", r#"{"members":[1,9]}"#, (400, "members"));
    check(to, "POST /cluster/init", r#"{"members":[]}"#, (400, "members"));
    check(to, "POST /cluster/init", "", (200, ""));
    check(to, "POST /cluster/init", "", (409, "already_initialized"));
    let written = nodes.succeeds(1, "/kv/write", &set("a", "1"));
    // A write is acknowledged before it is applied: only what was read can be seen by a stale read.
    nodes.succeeds(1, "/kv/read", &json!({ "key": "a" }));
    let read = post(to, "/kv/read", &json!({ "key": "a", "consistency": "stale" })).unwrap().1;
    assert_eq!((&read["stale"], &read["revision"]), (&json!(true), &written["revision"]));
    check(to, "GET /health", "", (200, ""));
    check(to, "POST /kv/read", r#"{"key":"b"}"#, (404, "key_not_found"));
    check(to, "POST /kv/read", r#"{"key":""}"#, (400, "key_empty"));
    check(to, "POST /kv/read", r#"{"key":"a","key_base64":"YQ=="}"#, (400, "malformed"));
    check(to, "POST /kv/read", r#"{"key":"a","consistency":"fresh"}"#, (400, "malformed"));
    check(to, "POST /kv/read", &json!({ "key": "k".repeat(1025) }).to_string(), (400, "key_too_large"));
    check(to, "POST /kv/write", &set("k", &"v".repeat(1 << 20)).to_string(), (200, ""));
    check(to, "POST /kv/write", &set("k", &"v".repeat((1 << 20) + 1)).to_string(), (400, "value_too_large"));
    check(to, "POST /kv/write", r#"{"command":{"SetMany":{"pairs":[["a","b"]]}}}"#, (400, "malformed"));
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

fn command(name: &str, body: Value) -> Value {
    json!({ "command": { name: body } })
}

/// The examples of docs/http.md beyond one key, on one node.
#[test]
fn many_keys_transactions_and_vaults_do_as_documented() {
    let mut nodes = Nodes::new(1);
    nodes.start(1, &[1]);
    nodes.answers(1);
    let to = nodes.http(1);
    assert_eq!(request(to, "POST", "/cluster/init", "").unwrap().0, 200);
    let pairs = json!([["a/1", "1"], ["a/2", "2"], { "key": "a/3", "value_base64": "AP8=" }]);
    nodes.succeeds(1, "/kv/write", &command("SetMulti", json!({ "pairs": pairs })));
    let keys = json!(["a/2", "a/4", { "key_base64": "YS8z" }]);
    let deleted = nodes.succeeds(1, "/kv/write", &command("DeleteMulti", json!({ "keys": keys })));
    assert_eq!(deleted["deleted"], json!(2));
    let transaction = command(
        "Transaction",
        json!({
            "compare": [{ "key": "lock", "exists": false }, { "key": "a/1", "relation": "less", "version": 2 }],
            "success": [{ "Put": { "key": "lock", "value": "me" } }, { "Get": { "key": "a/1" } }],
            "failure": [{ "Range": { "prefix": "lock", "limit": 1 } }],
        }),
    );
    let first = nodes.succeeds(1, "/kv/write", &transaction);
    assert_eq!(
        (&first["succeeded"], &first["results"][1]["record"]["value"]),
        (&json!(true), &json!("1")),
        "{first}"
    );
    let second = nodes.succeeds(1, "/kv/write", &transaction);
    let found = &second["results"][0]["entries"][0];
    assert_eq!((&second["succeeded"], &found["value"]), (&json!(false), &json!("me")), "{second}");
    assert_eq!(found["mod_revision"], first["revision"]);

    let many: Vec<_> = (0..101).map(|number| json!([number.to_string(), "v"])).collect();
    let too_many = command("SetMulti", json!({ "pairs": many }));
    check(to, "POST /kv/write", &too_many.to_string(), (400, "batch_too_large"));
    let bare = command("Transaction", json!({ "compare": [{ "key": "k" }] }));
    check(to, "POST /kv/write", &bare.to_string(), (400, "malformed"));
    // The one that is refused stops nobody, now or after a restart.
    nodes.end(1, Signal::SIGKILL);
    nodes.start(1, &[1]);
    let counted = nodes.succeeds(1, "/kv/scan", &json!({ "prefix": "a/", "detail": "count" }));
    assert_eq!(counted["count"], json!(1));

    let set = json!({ "vault": "cfg", "command": { "Set": { "key": "a/1", "value": "green" } } });
    let written = nodes.succeeds(1, "/kv/write", &set);
    assert_eq!(
        nodes.succeeds(1, "/kv/read", &json!({ "vault": "cfg", "key": "a/1" }))["value"],
        json!("green")
    );
    assert_eq!(nodes.succeeds(1, "/kv/read", &json!({ "key": "a/1" }))["value"], json!("1"));
    let vaults = get(to, "/vaults").unwrap().1["vaults"].clone();
    assert_eq!(vaults, json!([{ "name": "cfg", "create_revision": written["revision"] }]));
    check(to, "PUT /vault/empty", "", (200, ""));
    check(to, "GET /vault/empty", "", (200, ""));
    check(to, "GET /vault/no%20name", "", (400, "vault_name"));
    check(to, "DELETE /vault/cfg", "", (200, ""));
    check(to, "GET /vault/cfg", "", (404, "vault_not_found"));
    check(to, "POST /kv/read", r#"{"vault":"cfg","key":"a/1"}"#, (404, "vault_not_found"));
    check(to, "POST /kv/read", r#"{"vault":"a b","key":"a/1"}"#, (400, "vault_name"));
}

/// Bytes that are no text go in and come out as they are, also in the key.
#[test]
fn raw_bytes_go_in_and_out_by_key_and_under_conditions() {
    let mut nodes = Nodes::new(1);
    nodes.start(1, &[1]);
    nodes.answers(1);
    let to = nodes.http(1);
    assert_eq!(request(to, "POST", "/cluster/init", "").unwrap().0, 200);
    nodes.succeeds(1, "/kv/write", &set("first", "1"));
    let path = "/kv/key/photos/%ff%00%2F1";
    let send =
        |method: &str, headers: &[(&str, &str)], body: &[u8]| raw(to, method, path, headers, body).unwrap();
    let bytes = [0_u8, 255, 10, 13];
    assert_eq!(send("GET", &[], b"").status, 404);
    let written = send("PUT", &[("if-none-match", "*")], &bytes);
    assert_eq!(written.status, 200);
    assert_eq!(send("PUT", &[("if-none-match", "*")], b"other").status, 412);
    let read = send("GET", &[], b"");
    assert_eq!((read.status, &read.body[..]), (200, &bytes[..]));
    let tag = read.header("etag").unwrap().to_owned();
    assert_eq!(written.json()["revision"].to_string(), tag.trim_matches('"'));
    assert_eq!(send("GET", &[("if-none-match", &tag)], b"").status, 304);
    assert_eq!(send("PUT", &[("if-match", &tag)], b"new").status, 200);
    let refused = send("PUT", &[("if-match", &tag)], b"newer");
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (412, &json!("precondition_failed")));
    let refused = send("GET", &[("if-match", &tag)], b"");
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (412, &json!("precondition_failed")));
    let by_json = nodes.succeeds(1, "/kv/read", &json!({ "key_base64": "cGhvdG9zL/8ALzE=" }));
    assert_eq!((&by_json["value"], &by_json["version"]), (&json!("new"), &json!(2)));
    let large = vec![b'v'; (1 << 20) + 1];
    assert_eq!(send("PUT", &[], &large).json()["error"]["code"], json!("value_too_large"));
    let larger = vec![b'v'; (8 << 20) + 1];
    assert_eq!(send("PUT", &[], &larger).json()["error"]["code"], json!("body_too_large"));
    assert_eq!(send("DELETE", &[("if-match", "*")], b"").json()["deleted"], json!(true));
    assert_eq!(send("DELETE", &[], b"").json()["deleted"], json!(false));
    assert_eq!(raw(to, "PUT", "/kv/key/a?vault=v", &[], b"x").unwrap().status, 200);
    assert_eq!(raw(to, "GET", "/kv/key/a?vault=v", &[], b"").unwrap().body, b"x");
    check(to, "GET /kv/key/a?volt=v", "", (400, "malformed"));
}

/// Where settings come from, and what is said of one that nobody has typed.
#[test]
fn settings_come_from_flags_environment_and_file() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("node.toml");
    fs::write(&file, "id = 2\nheartbeat_ms = 150\n").unwrap();
    let node = |words: &[&str], environment: &[(&str, &str)]| {
        let mut command = node_command();
        command.args(words).envs(environment.iter().copied()).output().unwrap()
    };
    let words = ["config", "--config", file.to_str().unwrap(), "--data-dir", "d"];
    let output = node(&words, &[("ASPEN_ID", "3"), ("ASPEN_HTTP_LISTEN", "127.0.0.1:9000")]);
    let text = String::from_utf8(output.stdout).unwrap();
    for (setting, source) in [
        ("id = 3", "ASPEN_ID"),
        ("http_listen = \"127.0.0.1:9000\"", "ASPEN_HTTP_LISTEN"),
        ("heartbeat_ms = 150", file.to_str().unwrap()),
        ("data_dir = \"d\"", "a flag"),
        ("disk_reserve_mib = 64", "default"),
        ("watch_history_mib = 32", "default"),
    ] {
        let want = format!("{setting:<40} # {source}");
        assert!(text.lines().any(|line| line == want), "{want} is not in\n{text}");
    }
    for (variable, value, wrong) in [
        ("ASPEN_HEARTBEAT_MS", "fast", "invalid value 'fast' for '--heartbeat-ms <MS>'"),
        ("ASPEN_PEERS", "id=1;id=2", "invalid value 'id=1' for '--peer <PEER>'"),
    ] {
        let output = node(&words, &[(variable, value)]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains(wrong), "{said}");
        assert!(said.ends_with(&format!("The value is that of {variable} in the environment.\n")), "{said}");
        // It is no setting of this command.
        let output =
            node(&["identity", "--data-dir", home.path().join("n").to_str().unwrap()], &[(variable, value)]);
        assert!(output.status.success(), "{output:?}");
    }
    // An empty one says nothing.
    let output = node(&words, &[("ASPEN_ID", ""), ("ASPEN_LOG", ""), ("ASPEN_PEERS", "")]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("id = 2") && text.contains("log = \"aspen_node=info,error\""), "{text}");
}

/// A line for a machine is one object, also where a node ends with an error.
#[test]
fn log_is_json_where_that_is_asked() {
    let mut nodes = Nodes::new(2);
    let words = ["--bootstrap", "--log-format", "json"];
    nodes.start_alone(1, &words);
    nodes.succeeds(1, "/kv/write", &set("k", "v"));
    assert!(nodes.end(1, Signal::SIGTERM).success());
    let lines = |nodes: &Nodes, id: u64| -> Vec<Value> {
        nodes.last_words(id).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let said = lines(&nodes, 1);
    let ready = said.iter().find(|line| line["message"] == "ready").unwrap();
    assert_eq!((&ready["level"], &ready["id"]), (&json!("INFO"), &json!("1")), "{ready}");
    assert!(ready["timestamp"].is_string() && ready["target"] == "aspen_node::run", "{ready}");

    // Its directory has a file where its log should be a file.
    fs::create_dir(nodes.data(2).join("log.redb")).unwrap();
    nodes.start_alone(2, &words);
    assert!(!nodes.ended(2).success());
    let said = lines(&nodes, 2);
    let last = said.last().unwrap();
    assert!(last["level"] == "ERROR" && last["because"].is_array(), "{last}");
}

/// It needs no directory, and keeps nothing.
#[test]
fn node_in_memory_answers_clients_and_says_what_it_has_not() {
    let mut nodes = Nodes::new(1);
    nodes.start_alone(1, &["--control", "deterministic"]);
    let at = nodes.http(1);
    nodes.comes("an answer", || get(at, "/health").ok());
    let (status, answer) = post(at, "/kv/write", &set("k", "v")).unwrap();
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("not_leader")), "{answer}");
    assert_eq!(post(at, "/cluster/init", &json!({})).unwrap().0, 200);
    assert_eq!(get(at, "/health").unwrap().1["ready"], json!(true));
    for value in ["v", "w"] {
        nodes.succeeds(1, "/kv/write", &set("k", value));
    }
    assert_eq!(nodes.succeeds(1, "/kv/read", &json!({ "key": "k" }))["value"], "w");
    assert_eq!(nodes.succeeds(1, "/kv/scan", &json!({}))["entries"].as_array().unwrap().len(), 1);
    for path in ["/raft/state", "/metrics", "/state/digest"] {
        let (status, answer) = get(at, path).unwrap();
        assert_eq!((status, &answer["error"]["code"]), (501, &json!("unsupported")), "{path}: {answer}");
    }
    assert_eq!(post(at, "/cluster/snapshot", &json!({})).unwrap().0, 501);
    assert_eq!(nodes.end(1, Signal::SIGTERM).code(), Some(0));
    nodes.start_alone(1, &["--control", "deterministic", "--ticket", "x"]);
    assert_eq!(nodes.ended(1).code(), Some(64));
    nodes.start_alone(1, &["--control", "deterministic", "--bootstrap"]);
    nodes.comes("a fresh start", || {
        post(at, "/kv/read", &json!({ "key": "k" })).ok().filter(|(status, _)| *status == 404)
    });
}

/// What a directory has that its node would not start with, `validate` finds, too, and neither of the two ends otherwise than with a word.
#[test]
fn directory_with_which_no_node_starts_is_not_called_sound() {
    let mut nodes = Nodes::new(2);
    nodes.start_alone(1, &["--bootstrap"]);
    nodes.succeeds(1, "/kv/write", &set("k", "v"));
    assert_eq!(nodes.end(1, Signal::SIGTERM).code(), Some(0));
    let data = nodes.data(1);
    let other_key = fs::read(nodes.data(2).join("identity.key")).unwrap();
    let (is_sound, text) = validate(&nodes, 1);
    assert!(is_sound && text.contains("key: ") && text.contains("cluster: "), "{text}");
    let mut check = |name: &str, broken: Option<Vec<u8>>, want: &str| {
        let path = data.join(name);
        let whole = fs::read(&path).ok();
        match broken {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let (is_sound, text) = validate(&nodes, 1);
        let line = text.lines().find(|line| line.starts_with("WRONG") && line.contains(want));
        assert!(!is_sound && line.is_some(), "{name}: {text}");
        nodes.start_alone(1, &["--restart-on-failure=false"]);
        let code = nodes.ended(1).code();
        assert!([Some(1), Some(65)].contains(&code), "{name}: {code:?}\n{}", nodes.last_words(1));
        match whole {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        fs::set_permissions(data.join("identity.key"), PermissionsExt::from_mode(0o600)).unwrap();
    };
    let broken = |name: &str| {
        let mut bytes = fs::read(data.join(name)).unwrap();
        // No page of redb is such, but the first, which says where the others are.
        bytes[4096..].fill(0xa5);
        Some(bytes)
    };
    check("identity.key", None, "is gone, and with another key");
    check("identity.key", Some(other_key), "identity.key is another one than it was: the node had key ");
    check("log.redb", None, "is gone, and with it what the node has promised");
    check("log.redb", broken("log.redb"), "log.redb");
    check("cluster.redb", broken("cluster.redb"), "is damaged");
    check(
        "cluster.redb",
        Some(fs::read(data.join("cluster.redb")).unwrap()[..30_000].to_vec()),
        "is damaged",
    );
    check("retired", Some(b"a test\n".to_vec()), "(a test)");
    let empty = tempfile::tempdir().unwrap();
    let said = node_command().arg("validate").arg("--data-dir").arg(empty.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).contains("WRONG there is no node in"));
    nodes.start_alone(1, &[]);
    nodes.succeeds(1, "/kv/read", &json!({ "key": "k" }));
}
