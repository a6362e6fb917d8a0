//! Snapshots between real nodes: a follower that has missed what the others have purged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::http_client::{get, post, request};
use crate::nodes::{contents, position, set, three_nodes, validate};

/// An earlier system of this shape sent a snapshot in one message, and lost what was written meanwhile.
#[test]
fn follower_that_missed_what_was_purged_gets_a_snapshot_while_writes_go_on() {
    let (ids, mut nodes) = three_nodes(&["--snapshot-entries", "100"]);
    request(nodes.http(1), "POST", "/cluster/init", "").unwrap();
    // 24 MiB of state: more than one message carries.
    let value = "v".repeat(100_000);
    let key = |number: u32| format!("key {number}");
    for number in 0..5 {
        nodes.succeeds(1, "/kv/write", &set(&key(number), &value));
    }
    nodes.end(3, Signal::SIGKILL);
    for number in 5..250 {
        nodes.succeeds(1, "/kv/write", &set(&key(number), &value));
    }
    let made = nodes.comes("snapshot", || {
        let (status, answer) = request(nodes.http(1), "POST", "/cluster/snapshot", "").unwrap();
        (status == 200).then_some(answer)
    });
    assert!(made["bytes"].as_u64() > Some(24_000_000), "{made}");
    // Entries that are in memory stay in the log, too: after a restart there are none.
    for id in [1, 2] {
        assert_eq!(nodes.end(id, Signal::SIGTERM).code(), Some(0));
        nodes.start(id, &ids);
    }
    for id in [1, 2] {
        nodes.comes("purged log", || position(&nodes, id, "purged").filter(|purged| *purged > 100));
    }
    let error = get(nodes.http(1), "/raft/log/digest?from=0&to=1").unwrap();
    assert_eq!((error.0, &error.1["error"]["code"]), (400, &json!("beyond_log")), "{}", error.1);

    let is_over = AtomicBool::new(false);
    nodes.start(3, &ids);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0;
            while written == 0 || !is_over.load(Ordering::Relaxed) {
                let body = set(&format!("later {written}"), "v");
                if post(nodes.http(1), "/kv/write", &body).is_ok_and(|(status, _)| status == 200) {
                    written += 1;
                }
            }
            written
        });
        nodes.comes("snapshot on the follower", || position(&nodes, 3, "snapshot"));
        is_over.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    let mut want: BTreeMap<_, _> = (0..250).map(|number| (key(number), value.clone())).collect();
    want.extend((0..written).map(|number| (format!("later {number}"), "v".to_owned())));
    for id in ids {
        nodes.succeeds(id, "/kv/read", &json!({ "key": key(0) }));
        let held: BTreeMap<_, _> =
            contents(&nodes, id, "").into_iter().map(|(key, (value, _))| (key, value)).collect();
        assert!(held == want, "node {id} does not hold what was acknowledged");
    }
    let digests = nodes.comes("equal index", || {
        let digests = ids.map(|id| get(nodes.http(id), "/state/digest").unwrap().1);
        digests.iter().all(|digest| digest["index"] == digests[0]["index"]).then_some(digests)
    });
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");

    // It starts again from what it was sent, and its log goes on behind it.
    nodes.end(3, Signal::SIGKILL);
    let (is_sound, text) = validate(&nodes, 3);
    assert!(is_sound && text.contains("snapshot: covers entry"), "{text}");
    nodes.start(3, &ids);
    let written = nodes.succeeds(3, "/kv/write", &set("last", "v"));
    let read = nodes.succeeds(3, "/kv/read", &json!({ "key": "last" }));
    assert_eq!(read["mod_revision"], written["revision"]);
}
