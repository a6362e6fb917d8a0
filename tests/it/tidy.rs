//! The rules of the repository that no compiler checks: fences round foreign interfaces, the order of imports and of
//! modules, and that what the documents name exists.
//!
//! Each rule is a function from texts to complaints, and is itself tested on a text that breaks it. They read lines,
//! not syntax: what rustfmt makes of a file is regular enough.

#![allow(clippy::disallowed_methods, reason = "a test asks cargo what the program is made of")]

mod dependencies;
mod documents;
mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aspen_lab::scenario::Scenario;

use self::dependencies::{Metadata, Rules};
use self::source::File;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A text of the repository.
fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file of the repository below a folder, without what builds and runs leave behind.
fn files_below(folder: &str) -> Vec<String> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            let name = entry.file_name();
            if kind.is_dir() {
                if name != "target" && name != "runs" && name != ".git" {
                    folders.push(entry.path());
                }
            } else if kind.is_file() && name != ".git" {
                found.push(entry.path().strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn rust_files() -> Vec<File> {
    let paths = ["node", "lab", "images", "tests"].into_iter().flat_map(files_below);
    let rust = paths.filter(|path| Path::new(path).extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| File { text: read(&path), path }).collect()
}

/// Fails with all complaints at once.
#[track_caller]
fn none(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<String> = complaints.into_iter().collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn foreign_interfaces_stay_behind_their_fences() {
    let files = rust_files();
    assert!(files.len() > 50, "the walk found {} files only", files.len());
    // The rules' own samples break the rules.
    let judged = files.iter().filter(|file| !file.path.starts_with("tests/it/tidy/"));
    none(judged.flat_map(source::fences));
}

#[test]
fn imports_come_as_std_crates_own() {
    none(rust_files().iter().flat_map(source::import_order));
}

#[test]
fn a_module_of_the_node_names_only_those_above_it() {
    let order = source::module_order(&read("node/src/lib.rs"));
    assert!(order.len() >= 10, "{order:?}");
    none(rust_files().iter().flat_map(|file| source::modules(file, &order)));
}

#[test]
fn components_name_types_and_tests_that_exist() {
    let rows = documents::components(&read("ARCHITECTURE.md"));
    assert!(rows.len() >= 20, "the table has {} rows only", rows.len());
    let text = |path: &str| fs::read_to_string(root().join(path)).ok();
    none(rows.iter().flat_map(|row| documents::check_component(row, text)));
}

#[test]
fn every_route_and_error_code_is_documented() {
    let (routes, codes) = (read("node/src/http.rs"), read("node/src/http/error.rs"));
    none(documents::undocumented(&routes, &codes, &read("docs/http.md")));
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let is_document = |path: &String| Path::new(path).extension().is_some_and(|extension| extension == "md");
    let documents: Vec<String> = files_below("").into_iter().filter(is_document).collect();
    assert!(documents.len() >= 8, "{documents:?}");
    // A folder has no headings.
    let text = |path: &str| {
        let path = root().join(path);
        if path.is_dir() { Some(String::new()) } else { fs::read_to_string(path).ok() }
    };
    none(documents.iter().flat_map(|path| documents::broken_links(path, &read(path), text)));
}

#[test]
fn every_key_of_the_appliance_is_documented() {
    let text = read("docs/image.md");
    let is_missing = |key: &&str| !text.contains(&format!("| `{key}` |"));
    none(
        aspen_init::config::KEYS
            .into_iter()
            .filter(is_missing)
            .map(|key| format!("docs/image.md has no {key}")),
    );
}

#[test]
fn every_scenario_parses() {
    let files = files_below("topologies");
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let loaded = Scenario::load(&root().join(&file));
        assert!(loaded.is_ok(), "{}", loaded.unwrap_err());
    }
}

#[test]
fn every_member_takes_the_lints_of_the_workspace() {
    let members = documents::members(&read("Cargo.toml"));
    assert!(members.len() >= 2, "{members:?}");
    none(members.iter().filter_map(|member| {
        let manifest = format!("{member}/Cargo.toml");
        documents::lints_missing(&read(&manifest))
            .then(|| format!("{manifest}: [lints] workspace = true is missing"))
    }));
}

#[test]
fn dependencies_keep_the_rules_of_deny_toml() {
    let rules: Rules = toml::from_str(&read("deny.toml")).unwrap();
    assert!(!rules.graph.targets.is_empty());
    none(rules.graph.targets.iter().flat_map(|target| {
        let workspaces = ["Cargo.toml", "tests/fuzz/Cargo.toml"].map(|manifest| metadata(manifest, target));
        dependencies::complaints(&rules, &workspaces)
    }));
}

/// What cargo says of a workspace, whose lock file has to fit.
fn metadata(manifest: &str, target: &str) -> Metadata {
    let words = ["metadata", "--locked", "--format-version", "1", "--filter-platform", target];
    let mut cargo = Command::new(env!("CARGO"));
    let output = cargo.args(words).args(["--manifest-path", manifest]).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{manifest}: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        metadata.packages.len() > 100,
        "{manifest}: cargo names {} packages only",
        metadata.packages.len()
    );
    metadata
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let texts = files_below("").into_iter().filter(|path| path != "Cargo.lock");
    none(texts.flat_map(|path| {
        // What is no text names no path.
        let text = fs::read_to_string(root().join(&path)).unwrap_or_default();
        documents::machine_words(&path, &text)
    }));
}

#[test]
fn ci_runs_the_test_command_of_the_readme() {
    let command = "cargo test --workspace";
    assert!(read("README.md").lines().any(|line| line == command));
    assert!(read(".ci/run").lines().any(|line| line.ends_with(command)));
}
