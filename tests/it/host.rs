//! What this host has and lacks.

use std::env;
use std::path::PathBuf;

/// The first of these programs that is on the PATH, or where only root's has it.
pub(crate) fn program(names: &[&str]) -> Option<PathBuf> {
    let paths = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&paths)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)))
        .find(|path| path.is_file())
}

/// Says loudly that a test is skipped for what is missing. Where `LAB_REQUIRE`, a list of words with commas, has this
/// word, the test fails instead.
#[track_caller]
pub(crate) fn lacks(word: &str, missing: &str) {
    let required = env::var("LAB_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|found| found == word),
        "LAB_REQUIRE wants {word}: {missing} is missing"
    );
    #[allow(clippy::print_stderr, reason = "a skipped test says so")]
    {
        eprintln!("SKIPPED: no {missing}");
    }
}

/// QEMU, if it is here; if not, the test is skipped.
#[track_caller]
pub(crate) fn qemu() -> Option<PathBuf> {
    let found = program(&["qemu-system-x86_64"]);
    if found.is_none() {
        lacks("qemu", "qemu-system-x86_64 (apt-get install qemu-system-x86)");
    }
    found
}
