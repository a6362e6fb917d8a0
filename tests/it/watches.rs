//! Changes that are followed: every one once and in order, whatever happens to the nodes that tell them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aspen_node::api::Consistency;
use aspen_node::client::Credentials;
use aspen_node::client::watch::{WatchClient, WatchQuery, Watched};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::http_client::{get, post, raw, request};
use crate::members::leader;
use crate::nodes::{Nodes, Over, set, three_quick_nodes};

/// A watch, read event by event from its connection.
pub(crate) struct Watch {
    lines: std::io::Lines<BufReader<TcpStream>>,
}

impl Watch {
    /// Opens one; the status is 200.
    #[track_caller]
    pub(crate) fn open(to: SocketAddr, query: &str) -> Self {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(stream, "GET /kv/watch?{query} HTTP/1.1\r\nhost: {to}\r\n\r\n").unwrap();
        let mut lines = BufReader::new(stream).lines();
        let status = lines.next().unwrap().unwrap();
        assert!(status.contains(" 200 "), "{status}");
        let head: Vec<String> =
            lines.by_ref().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
        assert!(head.iter().any(|line| line == "content-type: text/event-stream"), "{head:?}");
        let mut watch = Self { lines };
        assert_eq!(watch.next().0, "begin");
        watch
    }

    /// The next event's kind, id and data; what comes between is the framing of HTTP.
    fn next(&mut self) -> (String, String, Value) {
        let (mut kind, mut id, mut data) = (String::new(), String::new(), Value::Null);
        loop {
            let line = self.lines.next().unwrap().unwrap();
            match line.split_once(": ") {
                Some(("event", text)) => text.clone_into(&mut kind),
                Some(("id", text)) => text.clone_into(&mut id),
                Some(("data", text)) => data = serde_json::from_str(text).unwrap(),
                _ if line.is_empty() && !data.is_null() => return (kind, id, data),
                _ => {}
            }
        }
    }

    /// The next changes, with their revision.
    #[track_caller]
    pub(crate) fn changes(&mut self) -> (u64, Vec<Value>) {
        loop {
            let (kind, id, data) = self.next();
            if kind == "change" {
                assert_eq!(data["revision"].to_string(), id);
                return (id.parse().unwrap(), data["changes"].as_array().unwrap().clone());
            }
            assert_eq!(kind, "progress", "{data}");
        }
    }

    /// How it ends.
    fn end(&mut self) -> Value {
        loop {
            let (kind, _, data) = self.next();
            if kind == "end" {
                return data["error"].clone();
            }
        }
    }
}

/// A node that has founded a cluster of its own.
fn one_node(words: &[&str]) -> Nodes {
    let mut nodes = Nodes::new(1);
    nodes.start_alone(1, &[&["--bootstrap"], words].concat());
    nodes.answers(1);
    nodes.succeeds(1, "/kv/write", &set("first", "of all"));
    nodes
}

fn written(nodes: &Nodes, command: &Value) -> u64 {
    nodes.succeeds(1, "/kv/write", &json!({ "command": command }))["revision"].as_u64().unwrap()
}

#[test]
fn watch_tells_what_it_is_asked_for_and_nothing_else() {
    let nodes = one_node(&[]);
    let to = nodes.http(1);
    let mut of_a = Watch::open(to, "prefix=a%2F&previous=true");
    let mut of_key = Watch::open(to, "key_base64=%2FwA%3D");
    let mut of_vault = Watch::open(to, "vault=v");
    let mut of_range = Watch::open(to, "start=b&end=c");
    let one = written(&nodes, &json!({ "Set": { "key": "a/1", "value": "x" } }));
    written(&nodes, &json!({ "Set": { "key": "b/1", "value": "x" } }));
    let operations = json!([
        { "Put": { "key": "a/1", "value": "y" } },
        { "Delete": { "key": "b/1" } },
        { "Put": { "key_base64": "/wA=", "value_base64": "AP8=" } },
    ]);
    let two = written(&nodes, &json!({ "Transaction": { "success": operations } }));
    let deleted = written(&nodes, &json!({ "DeleteMulti": { "keys": ["a/1", "a/none"] } }));
    let none =
        written(&nodes, &json!({ "CompareAndSwap": { "key": "b/2", "expected": null, "value": "z" } }));
    let in_vault = json!({ "vault": "v", "command": { "Set": { "key": "a/1", "value": "v" } } });
    let vault = nodes.succeeds(1, "/kv/write", &in_vault)["revision"].as_u64().unwrap();
    assert_eq!(request(to, "DELETE", "/vault/v", "").unwrap().0, 200);

    let put = |key: &str, value: &str, revision: u64| {
        json!({
            "type": "put", "key": key, "value": value, "create_revision": revision, "mod_revision": revision, "version": 1,
        })
    };
    let mut first = put("a/1", "x", one);
    first["previous"] = Value::Null;
    assert_eq!(of_a.changes(), (one, vec![first]));
    let (revision, changes) = of_a.changes();
    assert_eq!((revision, &changes[0]["value"], &changes[0]["version"]), (two, &json!("y"), &json!(2)));
    assert_eq!(changes[0]["previous"]["value"], "x");
    let (revision, changes) = of_a.changes();
    assert_eq!((revision, changes.len()), (deleted, 1));
    assert_eq!((&changes[0]["type"], &changes[0]["previous"]["value"]), (&json!("delete"), &json!("y")));
    let (revision, changes) = of_key.changes();
    assert_eq!((revision, &changes[0]["value_base64"]), (two, &json!("AP8=")));
    assert_eq!(of_vault.changes(), (vault, vec![put("a/1", "v", vault)]));
    assert_eq!(of_vault.changes().1, [json!({ "type": "vault_deleted" })]);
    assert_eq!(of_range.changes().1[0]["key"], "b/1");
    assert_eq!(of_range.changes(), (two, vec![json!({ "type": "delete", "key": "b/1" })]));
    assert_eq!(of_range.changes(), (none, vec![put("b/2", "z", none)]));

    // From before, and from where another one has ended.
    let mut again = Watch::open(to, &format!("prefix=a&from_revision={two}"));
    assert_eq!([again.changes().0, again.changes().0], [two, deleted]);
    // Nothing happens: it hears so, and from where it could go on.
    let (kind, id, _) = again.next();
    assert_eq!(kind, "progress");
    assert!(id.parse::<u64>().unwrap() > deleted);
}

#[test]
fn watch_that_cannot_be_is_refused() {
    let nodes = one_node(&["--watch-history-mib", "1"]);
    let to = nodes.http(1);
    let refused = |query: &str| {
        let (status, answer) = get(to, &format!("/kv/watch?{query}")).unwrap();
        (status, answer["error"]["code"].as_str().unwrap().to_owned(), answer)
    };
    for (query, code) in [
        ("prefix=a&key=b", "malformed"),
        ("perfix=a", "malformed"),
        ("from_revision=x", "malformed"),
        ("vault=a%20b", "vault_name"),
        ("key=", "key_empty"),
    ] {
        let got = refused(query);
        assert_eq!((got.0, got.1.as_str()), (400, code), "{query}: {}", got.2);
    }
    let mut stalled = Watch::open(to, "prefix=k");
    // 40 MB: more than the system holds for who does not read.
    let value = "v".repeat(1_000_000);
    for number in 0..40 {
        written(&nodes, &json!({ "Set": { "key": format!("k{number}"), "value": value } }));
    }
    let (status, code, answer) = refused("from_revision=1");
    assert_eq!((status, code.as_str()), (410, "compacted"));
    let oldest = answer["error"]["oldest_revision"].as_u64().unwrap();
    let mut held = Watch::open(to, &format!("from_revision={oldest}"));
    assert!(held.changes().0 >= oldest);
    assert_eq!(refused(&format!("previous=true&from_revision={oldest}")).1, "previous_not_noted");
    // Whoever does not read loses its place, and is told so behind what was sent to it before.
    assert_eq!(stalled.changes().1[0]["key"], "k0");
    assert_eq!(stalled.end()["code"], "compacted");
    // The node has been asked to stop: it does not wait for those who follow it, and tells them.
    let mut nodes = nodes;
    assert_eq!(nodes.end(1, Signal::SIGTERM).code(), Some(0));
    assert_eq!(held.end()["code"], "stopping");
}

/// Three nodes, of which two are lost: nothing can change any more, and that is said.
#[test]
fn watch_ends_where_no_leader_is_heard_of_unless_it_may_be_stale() {
    let (ids, mut nodes) = three_quick_nodes();
    let alone = leader(&nodes, &ids);
    let to = nodes.http(alone);
    let (mut watch, mut stale) = (Watch::open(to, "prefix=k"), Watch::open(to, "prefix=k&consistency=stale"));
    let written = nodes.succeeds(alone, "/kv/write", &set("k", "v"));
    let written = written["revision"].as_u64().unwrap();
    assert_eq!((watch.changes().0, stale.changes().0), (written, written));
    for other in ids.into_iter().filter(|id| *id != alone) {
        nodes.end(other, Signal::SIGKILL);
    }
    assert_eq!(watch.end()["code"], "no_quorum");
    let told = [stale.next().0, stale.next().0];
    assert_eq!(told, ["progress", "progress"]);
}

/// Writes as long as it is told to, and returns what was acknowledged: revision, key and value.
fn write_until(nodes: &[SocketAddr], writer: usize, is_over: &AtomicBool) -> BTreeMap<u64, (String, String)> {
    let mut acknowledged = BTreeMap::new();
    for number in 0.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let (key, value) = (format!("k/{writer}/{}", number % 10), format!("{writer}.{number}"));
        let to = nodes[(writer + number) % nodes.len()];
        let answer = post(to, "/kv/write", &set(&key, &value));
        if let Ok((200, answer)) = answer {
            acknowledged.insert(answer["revision"].as_u64().unwrap(), (key, value));
        }
    }
    acknowledged
}

/// The node that tells is killed again and again, the leader among them; nothing is missing, and nothing is told twice.
#[test]
fn watch_goes_on_at_another_node_and_misses_nothing() {
    let (ids, mut nodes) = three_quick_nodes();
    leader(&nodes, &ids);
    let addresses = ids.map(|id| nodes.http(id));
    let is_over = AtomicBool::new(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Only one of them is named; it learns of the others.
    let mut query = WatchQuery::new(Consistency::Linearizable);
    query.parameters.push(("prefix", "k/".to_owned()));
    let mut watch = WatchClient::new(vec![addresses[0]], Credentials::default(), query);
    let mut told_by = match runtime.block_on(watch.next()).unwrap() {
        Watched::By(node) => node,
        other => panic!("{other:?}"),
    };
    let (acknowledged, told) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                scope.spawn({
                    let is_over = &is_over;
                    move || write_until(&addresses, writer, is_over)
                })
            })
            .collect();
        let over = Over(&is_over);
        let mut told: BTreeMap<u64, (String, String)> = BTreeMap::new();
        let (mut losses, mut last) = (0, 0);
        let mut next = async || loop {
            match watch.next().await.unwrap() {
                Watched::By(node) => return (Some(node), None),
                Watched::Lost { .. } | Watched::Ended => {}
                Watched::Changed(data) => return (None, Some(serde_json::from_str::<Value>(&data).unwrap())),
            }
        };
        let mut see = |told: &mut BTreeMap<u64, (String, String)>, data: &Value| {
            let revision = data["revision"].as_u64().unwrap();
            assert!(last < revision, "{revision} comes after {last}");
            last = revision;
            let change = &data["changes"][0];
            let text = |name: &str| change[name].as_str().unwrap().to_owned();
            told.insert(revision, (text("key"), text("value")));
        };
        while losses < 4 {
            let (by, data) = runtime.block_on(next());
            if let Some(by) = by {
                told_by = by;
                losses += 1;
            }
            if let Some(data) = data {
                see(&mut told, &data);
                if told.len() % 50 == 25 && told.len() / 50 >= losses {
                    let id = ids.into_iter().find(|id| nodes.http(*id) == told_by).unwrap();
                    nodes.end(id, Signal::SIGKILL);
                    nodes.start(id, &ids);
                }
            }
        }
        drop(over);
        let acknowledged: BTreeMap<_, _> =
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        let end = *acknowledged.last_key_value().unwrap().0;
        while told.last_key_value().is_none_or(|(revision, _)| *revision < end) {
            if let (_, Some(data)) = runtime.block_on(next()) {
                see(&mut told, &data);
            }
        }
        (acknowledged, told)
    });
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
    for (revision, write) in &acknowledged {
        assert_eq!(told.get(revision), Some(write), "revision {revision}");
    }
}

/// A thousand follow a hundred prefixes, fifty one of them: each sees its own, once and in order.
#[test]
fn thousand_watchers_see_their_own_and_none_waits_for_another() {
    let nodes = one_node(&["--watch-history-mib", "16"]);
    let to = nodes.http(1);
    let open = |prefix: usize| (prefix, Watch::open(to, &format!("prefix={prefix:02}/")));
    let mut watches: Vec<(usize, Watch)> = (0..1_000).map(|number| open(number % 100)).collect();
    watches.extend((0..50).map(|_| open(7)));
    let mut unread = Watch::open(to, "");
    let writes = 20_u32;
    let began = Instant::now();
    std::thread::scope(|scope| {
        // More than the buffers of a connection hold, which nobody else follows.
        scope.spawn(move || {
            for _ in 0..8 * writes {
                assert_eq!(post(to, "/kv/write", &set("large", &"v".repeat(256 << 10))).unwrap().0, 200);
            }
        });
        for writer in 0..10 {
            scope.spawn(move || {
                for number in 0..writes {
                    for prefix in (0..100).filter(|prefix| prefix % 10 == writer) {
                        let (status, answer) =
                            post(to, "/kv/write", &set(&format!("{prefix:02}/k"), &number.to_string()))
                                .unwrap();
                        assert_eq!(status, 200, "{answer}");
                    }
                }
            });
        }
    });
    let written = began.elapsed().as_secs_f64();
    // It was waited for by nobody, and what it has not taken is not held for it.
    assert_eq!(unread.end()["code"], "compacted");
    for (prefix, watch) in &mut watches {
        for number in 0..writes {
            let (_, changes) = watch.changes();
            assert_eq!(changes.len(), 1);
            assert_eq!(
                (&changes[0]["key"], &changes[0]["value"]),
                (&json!(format!("{prefix:02}/k")), &json!(number.to_string()))
            );
        }
    }
    #[allow(clippy::print_stdout, reason = "the figure is what one wants to see of this test")]
    {
        let told = began.elapsed().as_secs_f64();
        println!(
            "{:.0} small writes/s under 1,050 watchers and one that takes nothing; all was told {:.1} s after the last",
            100.0 * f64::from(writes) / written,
            told - written
        );
    }
    let metrics = String::from_utf8(raw(to, "GET", "/metrics", &[], b"").unwrap().body).unwrap();
    let value =
        |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    assert_eq!(value("aspen_watchers"), Some(1_050));
    assert!(value("aspen_watch_history_bytes").unwrap() <= 16 << 20);
}
