//! sbom.spdx.json: every piece of software inside the image, with version and licence (SPDX 2.3).

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::digest::{self, Digest};
use super::manifest::Input;
use crate::session::outer::utc;

/// The document's name in an image's folder.
pub const FILE: &str = "sbom.spdx.json";

/// Why there is no SBOM.
#[derive(Debug, thiserror::Error)]
pub enum SbomError {
    /// Built without the list.
    #[error(
        "this lab was built without the list of crates that an SBOM needs: build it where cargo metadata works, with the \
         registry's files or a network"
    )]
    NoCrates,
    /// A list that is none.
    #[error("the list of crates inside this lab cannot be read")]
    Crates(#[from] serde_json::Error),
}

/// A crate that the appliance's programs are linked from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Crate {
    name: String,
    version: String,
    licence: Option<String>,
    repository: Option<String>,
    /// The crate that brings it along, for code of others inside a crate.
    part_of: Option<String>,
}

/// Something that programs are linked with, and that is no crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Its name.
    pub name: &'static str,
    /// Its version, as the program names it.
    pub version: String,
    /// Its licence, as an SPDX expression.
    pub licence: &'static str,
    /// Where its source is.
    pub source: &'static str,
}

/// Writes the document for an image that is made of these inputs.
///
/// # Errors
/// [`SbomError`].
pub fn document(
    version: &str,
    epoch: u64,
    inputs: &[Input],
    libraries: &[Library],
) -> Result<Vec<u8>, SbomError> {
    let crates = crates()?;
    let mut packages = vec![appliance(version)];
    packages.extend(inputs.iter().map(input));
    packages.extend(libraries.iter().map(library));
    packages.extend(crates.iter().map(package));
    let relationships: Vec<Value> = packages
        .iter()
        .skip(1)
        .map(|package| {
            json!({
                "spdxElementId": APPLIANCE,
                "relationshipType": "CONTAINS",
                "relatedSpdxElement": package["SPDXID"],
            })
        })
        .chain([json!({
            "spdxElementId": "SPDXRef-DOCUMENT",
            "relationshipType": "DESCRIBES",
            "relatedSpdxElement": APPLIANCE,
        })])
        .collect();
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("aspen-appliance-{version}"),
        "documentNamespace": format!("urn:aspen:appliance:{}", identity(inputs)),
        "creationInfo": { "created": time(epoch), "creators": [format!("Tool: aspen-lab-{}", env!("CARGO_PKG_VERSION"))] },
        "packages": packages,
        "relationships": relationships,
    });
    let mut text = serde_json::to_vec_pretty(&document)?;
    text.push(b'\n');
    Ok(text)
}

/// Everything that the appliance's programs are linked from by cargo: crates, and what they bring along.
fn crates() -> Result<Vec<Crate>, SbomError> {
    let crates: Vec<Crate> = serde_json::from_str(include_str!(concat!(env!("OUT_DIR"), "/crates.json")))?;
    if crates.is_empty() { Err(SbomError::NoCrates) } else { Ok(crates) }
}

/// One SPDX expression for the programs: the licences of all crates, and these.
///
/// # Errors
/// [`SbomError`].
pub(super) fn licences(more: &[&str]) -> Result<String, SbomError> {
    // The same choice in whatever order is one.
    let sorted = |licence: &str| {
        let mut choices: Vec<&str> = licence.split(" OR ").collect();
        choices.sort_unstable();
        if licence.contains(['(', ')']) { licence.to_owned() } else { choices.join(" OR ") }
    };
    let crates = crates()?;
    let named = crates.iter().filter(|part| part.licence.is_some()).map(licence);
    let all: BTreeSet<String> = more
        .iter()
        .map(|licence| (*licence).to_owned())
        .chain(named)
        .flat_map(|licence| conjuncts(&licence).into_iter().map(sorted).collect::<Vec<_>>())
        .collect();
    let group = |licence: &String| {
        if licence.contains(' ') { format!("({licence})") } else { licence.clone() }
    };
    Ok(all.iter().map(group).collect::<Vec<_>>().join(" AND "))
}

/// The parts of an SPDX expression all of which count, each without the parentheses around it.
fn conjuncts(licence: &str) -> Vec<&str> {
    let (mut parts, mut begin, mut depth) = (Vec::new(), 0, 0_u32);
    for (place, character) in licence.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ' ' if depth == 0 && licence[place..].starts_with(" AND ") => {
                parts.push(&licence[begin..place]);
                begin = place + " AND ".len();
            }
            _ => {}
        }
    }
    parts.push(&licence[begin..]);
    let bare = |part| str::strip_prefix(part, '(').and_then(|part| part.strip_suffix(')')).unwrap_or(part);
    parts.into_iter().map(bare).collect()
}

const APPLIANCE: &str = "SPDXRef-appliance";

fn appliance(version: &str) -> Value {
    json!({
        "SPDXID": APPLIANCE,
        "name": "aspen-appliance",
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
    })
}

fn input(input: &Input) -> Value {
    json!({
        "SPDXID": format!("SPDXRef-input-{}", identifier(&input.name)),
        "name": input.name,
        "versionInfo": input.origin,
        "sourceInfo": input.source,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "checksums": [{ "algorithm": "SHA256", "checksumValue": input.sha256 }],
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": input.licence,
        "copyrightText": "NOASSERTION",
    })
}

fn library(library: &Library) -> Value {
    json!({
        "SPDXID": format!("SPDXRef-library-{}-{}", identifier(library.name), identifier(&library.version)),
        "name": library.name,
        "versionInfo": library.version,
        "downloadLocation": library.source,
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": library.licence,
        "copyrightText": "NOASSERTION",
    })
}

/// With an old manifest's way to write a choice made the usual one.
fn licence(part: &Crate) -> String {
    let choice = |licence: &String| licence.split('/').map(str::trim).collect::<Vec<_>>().join(" OR ");
    part.licence.as_ref().map_or("NOASSERTION".to_owned(), choice)
}

fn package(part: &Crate) -> Value {
    let kind = if part.part_of.is_some() { "generic" } else { "cargo" };
    let git = if part.part_of.is_some() { "" } else { "git+" };
    let mut package = json!({
        "SPDXID": format!("SPDXRef-crate-{}-{}", identifier(&part.name), identifier(&part.version)),
        "name": part.name,
        "versionInfo": part.version,
        "downloadLocation": part.repository.as_ref().map_or("NOASSERTION".to_owned(), |place| format!("{git}{place}")),
        "filesAnalyzed": false,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": format!("pkg:{kind}/{}@{}", part.name, part.version),
        }],
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": licence(part),
        "copyrightText": "NOASSERTION",
    });
    if let Some(of) = &part.part_of {
        package["sourceInfo"] = json!(format!("inside the crate {of}"));
    }
    package
}

/// What an SPDX identifier may be made of: letters, digits, dots and hyphens.
fn identifier(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

fn identity(inputs: &[Input]) -> Digest {
    let all: Vec<u8> = inputs.iter().flat_map(|input| input.sha256.0).collect();
    digest::of_bytes(&all)
}

/// `1980-01-01T00:00:00Z`.
fn time(epoch: u64) -> String {
    let packed = utc(Duration::from_secs(epoch));
    let part = |from: usize, to: usize| &packed[from..to];
    let (date, clock) =
        ([part(0, 4), part(4, 6), part(6, 8)].join("-"), [part(9, 11), part(11, 13), part(13, 15)].join(":"));
    format!("{date}T{clock}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_names_every_input_and_crate_once_with_its_licence() {
        let kernel = Input {
            name: "kernel".to_owned(),
            sha256: digest::of_bytes(b"kernel"),
            bytes: 6,
            origin: "Linux 6.1".to_owned(),
            licence: "GPL-2.0-only WITH Linux-syscall-note".to_owned(),
            source: "linux 6.1".to_owned(),
        };
        let glibc =
            Library { name: "glibc", version: "2.36".to_owned(), licence: "LGPL-2.1-or-later", source: "x" };
        let made =
            || document("0.1.0", 315_532_800, std::slice::from_ref(&kernel), std::slice::from_ref(&glibc));
        let text = made().unwrap();
        assert!(text == made().unwrap());
        let document: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(document["creationInfo"]["created"], "1980-01-01T00:00:00Z");
        let packages = document["packages"].as_array().unwrap();
        assert_eq!(packages.len(), 3 + crates().unwrap().len());
        let mut ids: Vec<&str> = packages.iter().map(|package| package["SPDXID"].as_str().unwrap()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), packages.len());
        let licence = |name: &str| {
            let package = packages.iter().find(|package| package["name"] == name);
            package.map(|package| package["licenseDeclared"].as_str().unwrap().to_owned())
        };
        assert_eq!(licence("aspen-init").as_deref(), Some("MIT OR Apache-2.0"));
        assert_eq!(licence("openraft").as_deref(), Some("MIT OR Apache-2.0"));
        assert_eq!(licence("kernel").as_deref(), Some("GPL-2.0-only WITH Linux-syscall-note"));
        // What is no crate, and what is inside one.
        assert_eq!(licence("glibc").as_deref(), Some("LGPL-2.1-or-later"));
        assert_eq!(licence("sqlite").as_deref(), Some("blessing"));
        let sqlite = packages.iter().find(|package| package["name"] == "sqlite").unwrap();
        let version = sqlite["versionInfo"].as_str().unwrap();
        assert!(version.starts_with("3."), "{version}");
        assert_eq!(sqlite["sourceInfo"], "inside the crate libsqlite3-sys");
        assert_eq!(sqlite["externalRefs"][0]["referenceLocator"], format!("pkg:generic/sqlite@{version}"));
        // What only tests need is not in the appliance.
        assert_eq!(licence("proptest"), None);
        assert!(packages.iter().skip(2).all(|package| package["licenseDeclared"] != "NOASSERTION"));
    }

    #[test]
    fn licence_that_is_several_is_each_of_them() {
        assert_eq!(conjuncts("(MIT OR Apache-2.0) AND Unicode-3.0"), ["MIT OR Apache-2.0", "Unicode-3.0"]);
        assert_eq!(conjuncts("MIT OR Apache-2.0"), ["MIT OR Apache-2.0"]);
        assert_eq!(conjuncts("A AND (B AND C OR D)"), ["A", "B AND C OR D"]);
    }

    #[test]
    fn licences_of_the_programs_are_those_of_everything_inside() {
        let all = licences(&["LGPL-2.1-or-later"]).unwrap();
        let parts: Vec<&str> = all.split(" AND ").collect();
        assert!(!all.contains("(MIT OR Apache-2.0)") && !all.contains("  "), "{all}");
        for wanted in ["LGPL-2.1-or-later", "(Apache-2.0 OR MIT)", "blessing", "MIT"] {
            assert_eq!(parts.iter().filter(|part| **part == wanted).count(), 1, "{wanted}: {all}");
        }
    }
}
