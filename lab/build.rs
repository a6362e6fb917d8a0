//! Lists the crates inside the appliance's programs, with their licences: `lab image build` writes them into its SBOM, also
//! where neither cargo nor the sources are.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// The programs of the appliance.
const PROGRAMS: [&str; 2] = ["aspen-node", "aspen-init"];

/// What decides how an image of given parts looks, besides the libraries in Cargo.lock.
const IMAGE_CODE: [&str; 6] = [
    "build.rs",
    "src/image",
    "src/limits/image.rs",
    "../images/init/src/blocks.rs",
    "../images/init/src/layout.rs",
    "../Cargo.lock",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rustc-env=ASPEN_IMAGE_CODE={:016x}", image_code()?);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../Cargo.lock");
    let path = Path::new(&std::env::var("OUT_DIR")?).join("crates.json");
    // A build without the registry's files still makes a lab. It can do all but write an SBOM, and says so then.
    let crates = metadata().and_then(|metadata| crates(&metadata)).unwrap_or_else(|error| {
        println!("cargo::warning=cargo metadata fails, so this lab cannot build images: {error}");
        vec![]
    });
    Ok(fs::write(path, serde_json::to_vec(&crates)?)?)
}

/// A number for the code that makes images: those in the cache are of one code only.
fn image_code() -> io::Result<u64> {
    // The one without keys: the same number in every build.
    let mut hasher = DefaultHasher::new();
    let mut waiting: Vec<PathBuf> = IMAGE_CODE.map(PathBuf::from).into();
    while let Some(path) = waiting.pop() {
        println!("cargo::rerun-if-changed={}", path.display());
        if path.is_dir() {
            let entries: io::Result<Vec<_>> =
                fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect();
            let mut entries = entries?;
            entries.sort();
            waiting.extend(entries);
        } else {
            (&path, fs::read(&path)?).hash(&mut hasher);
        }
    }
    Ok(hasher.finish())
}

fn metadata() -> Result<Value, Box<dyn Error>> {
    #[allow(clippy::disallowed_methods, reason = "a build script has no log of programs")]
    let mut command = Command::new(std::env::var("CARGO")?);
    // The platform of the appliance, whatever the lab is built for.
    let platform = "--filter-platform=x86_64-unknown-linux-gnu";
    let output = command.args(["metadata", "--format-version=1", "--locked", platform]).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ").into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Every crate that the programs are linked from, sorted.
fn crates(metadata: &Value) -> Result<Vec<Value>, Box<dyn Error>> {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let id = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> =
        list(metadata, "packages").into_iter().map(|package| (id(&package, "id"), package)).collect();
    let nodes: BTreeMap<String, Value> =
        list(&metadata["resolve"], "nodes").into_iter().map(|node| (id(&node, "id"), node)).collect();
    let is_program = |package: &&Value| PROGRAMS.contains(&package["name"].as_str().unwrap_or_default());
    let mut waiting: Vec<String> =
        packages.values().filter(is_program).map(|package| id(package, "id")).collect();
    if waiting.len() != PROGRAMS.len() {
        return Err("the workspace lacks a program of the appliance".into());
    }
    let mut found = BTreeSet::new();
    while let Some(next) = waiting.pop() {
        if !found.insert(next.clone()) {
            continue;
        }
        for dependency in nodes.get(&next).map(|node| list(node, "deps")).unwrap_or_default() {
            let is_linked = list(&dependency, "dep_kinds").iter().any(|kind| kind["kind"].is_null());
            let needed = id(&dependency, "pkg");
            let runs_in_compiler = packages.get(&needed).is_some_and(|package| {
                list(package, "targets")
                    .iter()
                    .any(|target| list(target, "kind").contains(&json!("proc-macro")))
            });
            if is_linked && !runs_in_compiler {
                waiting.push(needed);
            }
        }
    }
    let described = found.iter().filter_map(|id| packages.get(id)).map(|package| {
        json!({
            "name": package["name"],
            "version": package["version"],
            "licence": package["license"],
            "repository": package["repository"],
        })
    });
    let mut described: Vec<Value> = described.collect();
    described.extend(sqlite(found.iter().filter_map(|id| packages.get(id)))?);
    described.sort_by_key(|package| (id(package, "name"), id(package, "version")));
    Ok(described)
}

/// SQLite, which a crate brings along as a whole with its version in its header. What ring and blake3 have of others is under
/// the licences that they name themselves.
fn sqlite<'a>(mut packages: impl Iterator<Item = &'a Value>) -> Result<Option<Value>, Box<dyn Error>> {
    const CRATE: &str = "libsqlite3-sys";
    let Some(package) = packages.find(|package| package["name"] == CRATE) else { return Ok(None) };
    let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
    let header = fs::read_to_string(manifest.with_file_name("sqlite3").join("sqlite3.h"))?;
    let version = header.lines().find_map(|line| {
        let rest = line.strip_prefix("#define SQLITE_VERSION ")?;
        Some(rest.trim().trim_matches('"').to_owned())
    });
    Ok(Some(json!({
        "name": "sqlite",
        "version": version.ok_or("sqlite3.h names no version")?,
        "licence": "blessing",
        "repository": "https://www.sqlite.org/src",
        "part_of": CRATE,
    })))
}
