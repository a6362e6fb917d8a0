//! Rules about documents and manifests.

use std::path::{Component as Part, Path, PathBuf};

/// A row of ARCHITECTURE.md's table of components.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Component {
    type_name: String,
    file: String,
    test_file: String,
    test: String,
}

/// The rows of the table under "Components". A row that cannot be read is one whose parts do not exist.
pub(super) fn components(architecture: &str) -> Vec<Component> {
    let (_, section) = architecture.split_once("\n## Components\n").unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let row = |line: &str| {
        let cells: Vec<&str> =
            line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let cell = |place: usize| cells.get(place).copied().unwrap_or_default();
        let (test_file, test) = cell(3).split_once("::").unwrap_or_default();
        let [type_name, file, test_file, test] = [cell(1), cell(2), test_file, test].map(str::to_owned);
        Component { type_name, file, test_file, test }
    };
    rows.map(row).collect()
}

/// What a row names and the sources do not have.
pub(super) fn check_component(row: &Component, text: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let Component { type_name, file, test_file, test } = row;
    let mut complaints = Vec::new();
    if !text(file).is_some_and(|text| defines_type(&text, type_name)) {
        complaints.push(format!("ARCHITECTURE.md: no type `{type_name}` in {file}"));
    }
    if !text(test_file).is_some_and(|text| defines_test(&text, test)) {
        complaints.push(format!("ARCHITECTURE.md: no test `{test}` in {test_file}"));
    }
    complaints
}

fn defines_type(text: &str, name: &str) -> bool {
    let whose = ["pub(super) ", "pub(crate) ", "pub "];
    text.lines().map(|line| whose.iter().find_map(|whose| line.strip_prefix(whose)).unwrap_or(line)).any(
        |line| {
            let rest =
                ["struct ", "enum ", "trait ", "type "].iter().find_map(|kind| line.strip_prefix(kind));
            let rest = rest.and_then(|rest| rest.strip_prefix(name));
            !name.is_empty()
                && rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        },
    )
}

/// Whether there is such a function, with a test attribute just above it.
fn defines_test(text: &str, name: &str) -> bool {
    let head = format!("fn {name}(");
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    lines.iter().enumerate().any(|(place, line)| {
        let attributes = lines[..place].iter().rev().take_while(|line| line.starts_with("#["));
        line.trim_start_matches("async ").starts_with(&head)
            && attributes.into_iter().any(|line| *line == "#[test]" || line.starts_with("#[tokio::test"))
    })
}

/// Routes without a heading and error codes without a row in docs/http.md.
pub(super) fn undocumented(routes: &str, codes: &str, document: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for route in routes.lines().filter_map(|line| line.trim_start().strip_prefix(".route(\"")) {
        let (path, method) = route.split_once("\", ").unwrap_or_default();
        let method = method.split('(').next().unwrap_or_default().to_uppercase();
        if !document.lines().any(|line| line == format!("## {method} {path}")) {
            complaints.push(format!("docs/http.md: no heading `## {method} {path}`"));
        }
    }
    for line in codes.lines().filter(|line| line.contains("=> ")) {
        let code = line.split('"').nth(1).unwrap_or_default();
        if !code.is_empty() && !document.contains(&format!("`{code}`")) {
            complaints.push(format!("docs/http.md: no error code `{code}`"));
        }
    }
    complaints
}

/// Links of a document to files and headings that are not there.
pub(super) fn broken_links(path: &str, document: &str, text: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let is_local = |link: &&str| !link.contains("://") && !link.contains(' ');
    let links = document.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(is_local);
    let is_broken = |link: &&str| {
        let (file, heading) = link.split_once('#').unwrap_or((link, ""));
        let file = if file.is_empty() { path.to_owned() } else { beside(path, file) };
        let text = text(&file);
        !text.is_some_and(|text| {
            heading.is_empty() || text.lines().filter_map(anchor).any(|found| found == heading)
        })
    };
    links.filter(is_broken).map(|link| format!("{path}: {link} leads nowhere")).collect()
}

/// A file that is named as seen from another one.
fn beside(path: &str, file: &str) -> String {
    let mut found = PathBuf::new();
    for part in Path::new(path).parent().unwrap_or(Path::new("")).join(file).components() {
        if part == Part::ParentDir {
            found.pop();
        } else {
            found.push(part);
        }
    }
    found.display().to_string()
}

/// How a heading is called in links.
fn anchor(line: &str) -> Option<String> {
    let title = line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))?;
    let kept = title
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .collect::<String>();
    Some(kept.replace(' ', "-"))
}

/// The members that the root manifest lists, on one line.
pub(super) fn members(manifest: &str) -> Vec<String> {
    let line = manifest.lines().find_map(|line| line.strip_prefix("members = [")).unwrap_or_default();
    line.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Without this section none of the workspace's lints applies.
pub(super) fn lints_missing(manifest: &str) -> bool {
    let mut lines = manifest.lines().skip_while(|line| *line != "[lints]").skip(1);
    lines.next() != Some("workspace = true")
}

/// Folders of somebody's machine, and settings that take crates from elsewhere. In halves, or this file would be one.
const MACHINE_WORDS: [&str; 7] = [
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("/wo", "rk/"),
    concat!("/fa", "rm/"),
    concat!("replace", "-with"),
    concat!("[sour", "ce."),
];

/// Words in a text that are true on one machine only.
pub(super) fn machine_words(path: &str, text: &str) -> Vec<String> {
    let found = |line: &str| MACHINE_WORDS.iter().find(|word| line.contains(**word)).copied();
    let lines = (1..).zip(text.lines());
    lines.filter_map(|(number, line)| Some(format!("{path}:{number}: {}", found(line)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn component_that_does_not_exist_is_found() {
        let table = "# A\n## Components\n\n| c | t | f | p |\n|---|---|---|---|\n| x | `Log` | `a.rs` | `a.rs::is_kept` |\n";
        let rows = components(table);
        assert_eq!(rows.len(), 1);
        let check = |text: &str| check_component(&rows[0], |path| (path == "a.rs").then(|| text.to_owned()));
        assert_eq!(check("pub struct Log;\n#[test]\nfn is_kept() {}\n"), [""; 0]);
        assert_eq!(
            check("pub struct Logs;\n#[test]\nfn is_kept() {}\n"),
            ["ARCHITECTURE.md: no type `Log` in a.rs"]
        );
        // A function is no test, and a test elsewhere is not this one.
        let no_test = ["ARCHITECTURE.md: no test `is_kept` in a.rs"];
        assert_eq!(check("enum Log {}\nfn is_kept() {}\n"), no_test);
        assert_eq!(check("enum Log {}\n#[test]\nfn other() {}\n\nfn is_kept() {}\n"), no_test);
        let broken = components(&table.replace("`a.rs::is_kept`", ""));
        assert_eq!(check_component(&broken[0], |_| Some("struct Log;".to_owned())).len(), 1);
    }

    #[test]
    fn undocumented_route_and_code_are_found() {
        let routes = "    .route(\"/kv/read\", post(kv::read))\n    .route(\"/health\", get(health))\n";
        let codes = "ApiError::A => (StatusCode::X, \"no_quorum\"),\nBad::B => \"malformed\",\n";
        let document = "## POST /kv/read\n| 400 | `malformed` |\n";
        assert_eq!(
            undocumented(routes, codes, document),
            ["docs/http.md: no heading `## GET /health`", "docs/http.md: no error code `no_quorum`",]
        );
    }

    #[test]
    fn link_that_leads_nowhere_is_found() {
        let text = |path: &str| (path == "docs/b.md").then(|| "# B\n\n## GET /kv, `raw`\n".to_owned());
        let check = |document: &str| broken_links("docs/a.md", document, text);
        assert_eq!(check("[b](b.md) [b](../docs/b.md#get-kv-raw) [c](https://c.test/#d)"), [""; 0]);
        let want = ["docs/a.md: b.md#raw leads nowhere", "docs/a.md: c.md leads nowhere"];
        assert_eq!(check("[b](b.md#raw), [c](c.md)"), want);
    }

    #[test]
    fn member_without_lints_is_found() {
        assert_eq!(members("[workspace]\nmembers = [\"a\", \"b\"]\n"), ["a", "b"]);
        assert!(lints_missing("[package]\nname = \"a\"\n"));
        assert!(lints_missing("[lints]\n\n[dependencies]\n"));
        assert!(!lints_missing("[lints]\nworkspace = true\n"));
    }

    #[test]
    fn path_of_a_machine_is_found() {
        let path = concat!("/ho", "me/me/aspen");
        assert_eq!(machine_words("a.md", &format!("ok\nsee {path}\n")), [format!("a.md:2: /ho{}", "me/")]);
        assert_eq!(machine_words("a.md", "src/network/iroh.rs, $HOME/.cache\n"), [""; 0]);
    }
}
