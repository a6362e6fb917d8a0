//! Data directories that earlier versions have written: each is opened, and holds what it held.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use crate::http_client::post;
use crate::nodes::Nodes;

/// Unpacks a data directory of `tests/it/formats`.
fn unpack(format: &str, to: &Path) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/it/formats").join(format);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
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
