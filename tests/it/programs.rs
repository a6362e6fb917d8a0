//! Programs of this workspace that cargo does not build for these tests by itself. They are built like the tests, so that only our own
//! crates are built again.
#![allow(clippy::disallowed_methods, reason = "a test builds what it tests")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The node with its planted bugs and the points at which it can be made to die.
pub(crate) fn planted_node() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let features = ["--features", "aspen-node/planted-bugs,aspen-node/failpoints"];
    let words = [&["--example", "aspen-node-planted"], &features[..]].concat();
    BUILT.get_or_init(|| built(&words, "examples/aspen-node-planted")).clone()
}

/// The client of a cluster.
pub(crate) fn client() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    // With a test beside it: only then are the features of dependencies what tests want of them, and nothing is built twice.
    BUILT.get_or_init(|| built(&["--bin", "aspen", "--test", "it"], "aspen")).clone()
}

fn built(what: &[&str], path: &str) -> PathBuf {
    let profile_dir = Path::new(env!("CARGO_BIN_EXE_lab")).parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--locked", "--workspace"]).args(what).arg("--target-dir");
    build.arg(profile_dir.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile_dir.ends_with("release") {
        build.arg("--release");
    }
    // What cargo tells a test of its package is news to the build scripts of dependencies, which would run again.
    let told = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "OUT_DIR"];
    for (name, _) in std::env::vars_os() {
        if told.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            build.env_remove(name);
        }
    }
    assert!(build.status().unwrap().success());
    profile_dir.join(path)
}
