//! The rules of deny.toml, judged from what cargo says of the dependencies: licences, crates that may not be there, sources.
//! cargo-deny reads the same file; it takes minutes to build, and this goes with every run of the tests.

use std::collections::BTreeSet;

use serde::Deserialize;

/// The part of deny.toml that is checked here.
#[derive(Debug, Deserialize)]
pub(super) struct Rules {
    pub(super) graph: Graph,
    licenses: Licences,
    bans: Bans,
    sources: Sources,
}

#[derive(Debug, Deserialize)]
pub(super) struct Graph {
    /// Platforms whose dependencies count.
    pub(super) targets: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Licences {
    allow: BTreeSet<String>,
    exceptions: Vec<Exception>,
}

#[derive(Debug, Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Debug, Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    unknown_registry: String,
    unknown_git: String,
}

/// What `cargo metadata` says (cargo-metadata(1)).
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    pub(super) packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
pub(super) struct Package {
    id: String,
    name: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
}

/// The registry from which everything comes that is not of the workspace itself.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// What is against the rules in any of the workspaces.
pub(super) fn complaints(rules: &Rules, workspaces: &[Metadata]) -> Vec<String> {
    let packages = workspaces.iter().flat_map(used);
    let mut found: Vec<String> = packages.clone().flat_map(|package| of_package(rules, package)).collect();
    let is_used = |name: &str| packages.clone().any(|package| package.name == name);
    let idle = rules.licenses.exceptions.iter().filter(|exception| !is_used(&exception.name));
    found.extend(
        idle.map(|exception| format!("deny.toml: nobody needs the exception for {}", exception.name)),
    );
    found
}

/// The packages that something depends on.
fn used(metadata: &Metadata) -> impl Iterator<Item = &Package> + Clone {
    let used: BTreeSet<&str> = metadata.resolve.nodes.iter().map(|node| node.id.as_str()).collect();
    metadata.packages.iter().filter(move |package| used.contains(package.id.as_str()))
}

fn of_package(rules: &Rules, package: &Package) -> Vec<String> {
    let Package { name, license, source, .. } = package;
    let mut found = Vec::new();
    let exceptions = rules.licenses.exceptions.iter().filter(|exception| exception.name == *name);
    let allowed: BTreeSet<&str> = exceptions
        .flat_map(|exception| &exception.allow)
        .chain(&rules.licenses.allow)
        .map(String::as_str)
        .collect();
    match license {
        Some(license) if is_allowed(license, &allowed) => {}
        Some(license) => found.push(format!("{name}: its licence, {license}, is not allowed by deny.toml")),
        None => found.push(format!("{name} names no licence")),
    }
    if let Some(ban) = rules.bans.deny.iter().find(|ban| ban.name == *name) {
        found.push(format!("{name} is banned by deny.toml: {}", ban.reason));
    }
    let is_git = source.as_ref().is_some_and(|source| source.starts_with("git+"));
    let setting = if is_git { &rules.sources.unknown_git } else { &rules.sources.unknown_registry };
    if setting == "deny" && source.as_ref().is_some_and(|source| source != REGISTRY) {
        found.push(format!("{name} comes from {}", source.as_deref().unwrap_or_default()));
    }
    found
}

/// Whether what is allowed satisfies an expression (SPDX 2.3, annex D; a slash is its older way to say OR).
fn is_allowed(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    let is_so = either(&mut words, allowed);
    is_so && words.is_empty()
}

fn either(words: &mut Vec<&str>, allowed: &BTreeSet<&str>) -> bool {
    let mut is_so = both(words, allowed);
    while words.last() == Some(&"OR") {
        words.pop();
        // Read in any case.
        is_so |= both(words, allowed);
    }
    is_so
}

fn both(words: &mut Vec<&str>, allowed: &BTreeSet<&str>) -> bool {
    let mut is_so = one(words, allowed);
    while words.last() == Some(&"AND") {
        words.pop();
        is_so &= one(words, allowed);
    }
    is_so
}

fn one(words: &mut Vec<&str>, allowed: &BTreeSet<&str>) -> bool {
    let Some(word) = words.pop() else { return false };
    if word == "(" {
        let is_so = either(words, allowed);
        return words.pop() == Some(")") && is_so;
    }
    if words.last() == Some(&"WITH") {
        words.pop();
        let with = words.pop().unwrap_or_default();
        return allowed.contains(format!("{word} WITH {with}").as_str());
    }
    allowed.contains(word)
}

#[test]
fn licences_are_judged_as_expressions() {
    let allowed = BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]);
    let check =
        |expression: &str, want: bool| assert_eq!(is_allowed(expression, &allowed), want, "{expression}");
    check("MIT", true);
    check("GPL-3.0", false);
    check("GPL-3.0 OR MIT", true);
    check("GPL-3.0/MIT", true);
    check("GPL-3.0 AND MIT", false);
    check("MIT OR GPL-3.0 AND GPL-2.0", true);
    check("(MIT OR GPL-3.0) AND ISC", true);
    check("(MIT OR ISC) AND GPL-3.0", false);
    check("Apache-2.0 WITH LLVM-exception", true);
    check("Apache-2.0", false);
    check("MIT WITH LLVM-exception", false);
    check("MIT GPL-3.0", false);
    check("(MIT", false);
    check("", false);
}

#[test]
fn what_is_against_the_rules_is_named() {
    let rules = "[graph]\ntargets = []\n[licenses]\nallow = [\"MIT\"]\nexceptions = [{ crate = \"b\", allow = [\"MPL-2.0\"] }, \
                 { crate = \"z\", allow = [] }]\n[bans]\ndeny = [{ crate = \"c\", reason = \"no cmake\" }]\n[sources]\n\
                 unknown-registry = \"deny\"\nunknown-git = \"deny\"\n";
    let package = |name: &str, license: &str, source: &str| {
        let (id, name, source) = (name.to_owned(), name.to_owned(), Some(source.to_owned()));
        Package { id, name, license: Some(license.to_owned()), source }
    };
    let packages = vec![
        package("a", "MPL-2.0", REGISTRY),
        package("b", "MPL-2.0", REGISTRY),
        package("c", "MIT", "git+https://example.org/c"),
        package("unused", "GPL-3.0", REGISTRY),
    ];
    let nodes = ["a", "b", "c"].map(|id| Node { id: id.to_owned() }).into();
    let found =
        complaints(&toml::from_str(rules).unwrap(), &[Metadata { packages, resolve: Resolve { nodes } }]);
    let want = [
        "a: its licence, MPL-2.0, is not allowed by deny.toml",
        "c is banned by deny.toml: no cmake",
        "c comes from git+https://example.org/c",
        "deny.toml: nobody needs the exception for z",
    ];
    assert_eq!(found, want);
}
