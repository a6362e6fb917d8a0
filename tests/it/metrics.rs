//! What a node measures, read by Prometheus's own tool.
#![allow(clippy::disallowed_methods, reason = "a test starts the tool that judges")]

use std::io::Write;
use std::process::{Command, Stdio};

use crate::host;
use crate::http_client::{get, raw, request};
use crate::nodes::{set, three_nodes};

#[test]
fn metrics_are_what_prometheus_reads() {
    let (_, nodes) = three_nodes(&[]);
    request(nodes.http(1), "POST", "/cluster/init", "").unwrap();
    for number in 0..20 {
        nodes.succeeds(1, "/kv/write", &set(&format!("k{number}"), "v"));
    }
    // A method and a path that anybody could make up are no labels.
    let _ = raw(nodes.http(1), "BREW", "/coffee/1", &[], b"").unwrap();
    let text = nodes.comes("metrics of the leader", || {
        let (_, state) = get(nodes.http(1), "/raft/state").ok()?;
        let answer = raw(nodes.http(1), "GET", "/metrics", &[], b"").ok()?;
        assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4"));
        (state["role"] == "leader").then(|| String::from_utf8(answer.body).unwrap())
    });
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse::<f64>().unwrap()
    };
    assert_eq!((value("aspen_raft_is_leader"), value("aspen_raft_voters")), (1.0, 3.0));
    assert!(value("aspen_raft_replicated_index{node=\"2\"}") >= 1.0);
    assert!(value("aspen_apply_entries_sum") >= 20.0 && value("aspen_log_commit_seconds_sum") > 0.0);
    let writes = "aspen_http_request_seconds_count{method=\"POST\",route=\"/kv/write\",status=\"200\"}";
    assert!(value(writes) >= 20.0);
    assert!(value("aspen_http_request_seconds_count{method=\"other\",route=\"none\",status=\"404\"}") >= 1.0);
    assert!(value("aspen_disk_available_bytes") > value("aspen_disk_reserve_bytes"));
    assert!(value("process_resident_memory_bytes") > 1e6);

    let Some(promtool) = host::program(&["promtool"]) else {
        return host::lacks("promtool", "promtool (apt-get install prometheus)");
    };
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}
