//! Data directories that earlier versions have written: each is opened, and holds what it held.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::http_client::{post, request};
use crate::nodes::{Nodes, validate};

/// Unpacks a data directory of `tests/it/formats`.
fn unpack(format: &str, to: &Path) {
    unpack_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/it/formats").join(format), to);
}

fn unpack_folder(folder: &Path, to: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let inner = to.join(path.file_name().unwrap());
            fs::create_dir(&inner).unwrap();
            unpack_folder(&path, &inner);
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let (name, bytes) = match path.extension() {
            Some(extension) if extension == "zst" => {
                (path.file_stem(), zstd::decode_all(&bytes[..]).unwrap())
            }
            _ => (path.file_name(), bytes),
        };
        let file = to.join(name.unwrap());
        fs::write(&file, bytes).unwrap();
        // As a node makes its files, and as git does not keep them.
        fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    }
}

/// Written by the first version: one node, four keys written, one of them twice, one removed.
#[test]
fn data_directory_of_format_1_is_opened_and_goes_on() {
    let mut nodes = Nodes::new(1);
    nodes.give_data(1, |data| unpack("1", data));
    nodes.start(1, &[1]);
    let read = nodes.succeeds(1, "/kv/read", &json!({ "key": "k1" }));
    let record = [&read["value"], &read["create_revision"], &read["mod_revision"], &read["version"]];
    assert_eq!(record, [&json!("again"), &json!(2), &json!(5), &json!(2)]);
    let page = nodes.succeeds(1, "/kv/scan", &json!({ "detail": "keys" }));
    let keys = json!([{ "key": "k1" }, { "key": "k3" }, { "key": "lock" }, { "key_base64": "/wA=" }]);
    assert_eq!(page["entries"], keys);
    let command = json!({ "SetMulti": { "pairs": [["k1", "new"], ["k2", "back"]] } });
    let written = post(nodes.http(1), "/kv/write", &json!({ "command": command })).unwrap();
    assert_eq!(written.0, 200, "{}", written.1);
    let read = nodes.succeeds(1, "/kv/read", &json!({ "key": "k1" }));
    assert_eq!((&read["value"], &read["version"]), (&json!("new"), &json!(3)));
}

/// Written by a version without leases: one node, four keys, one of them twice, one removed; a vault, and one that was removed; a
/// snapshot, and one more key after it.
#[test]
fn data_directory_of_format_2_is_opened_and_takes_leases() {
    let mut nodes = Nodes::new(1);
    nodes.give_data(1, |data| unpack("2", data));
    assert!(validate(&nodes, 1).0, "{}", validate(&nodes, 1).1);
    nodes.start(1, &[1]);
    let keys = |vault: Value| nodes.succeeds(1, "/kv/scan", &json!({ "vault": vault }))["entries"].clone();
    let record = |key: &str, value: &str, created: u64, modified: u64, version: u64| {
        json!({
            "key": key, "value": value, "create_revision": created, "mod_revision": modified, "version": version,
        })
    };
    let plain = [
        record("k1", "again", 2, 3, 2),
        record("k3", "three", 4, 4, 1),
        record("k4", "after the snapshot", 9, 9, 1),
    ];
    assert_eq!(keys(Value::Null), json!(plain));
    assert_eq!(keys("cfg".into()), json!([record("colour", "green", 6, 6, 1)]));
    let lease = nodes.succeeds(1, "/leases", &json!({ "ttl_ms": 600_000 }))["lease"].clone();
    for key in ["k1", "k5"] {
        let command = json!({ "Set": { "key": key, "value": "with a lease" } });
        nodes.succeeds(1, "/kv/write", &json!({ "lease": lease, "command": command }));
    }
    assert_eq!(nodes.succeeds(1, "/kv/read", &json!({ "key": "k1" }))["lease"], lease);
    assert_eq!(request(nodes.http(1), "DELETE", &format!("/lease/{lease}"), "").unwrap().1["deleted"], 2);
    assert_eq!(keys(Value::Null), json!(plain[1..]));
    nodes.end(1, Signal::SIGTERM);
    assert!(validate(&nodes, 1).0, "{}", validate(&nodes, 1).1);
}
