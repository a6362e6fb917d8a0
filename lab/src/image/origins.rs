//! Where each input comes from, under which licence, and where its source is.

use super::assemble::Materials;
use super::digest;
use super::manifest::Input;
use super::programs::{Programs, Toolchain};
use super::sbom::{self, Library, SbomError};
use super::uki;

/// The licence of Linux (COPYING in its sources).
const LINUX: &str = "GPL-2.0-only WITH Linux-syscall-note";
/// The licence of Rust's standard library.
const RUST: &str = "MIT OR Apache-2.0";
/// The licence of the C library with which every static program is linked.
const LIBC: &str = "LGPL-2.1-or-later";

/// Kernel, modules and programs.
pub(super) fn inputs(materials: &Materials) -> Result<Vec<Input>, SbomError> {
    let kernel = &materials.kernel;
    let linux_source = linux_source(&kernel.origin, &kernel.release);
    let bytes = kernel.bzimage.as_ref().unwrap_or(&kernel.vmlinux);
    let mut inputs = vec![input("kernel", bytes, kernel.origin.clone(), LINUX, linux_source.clone())];
    inputs.extend(materials.selection.modules.iter().map(|module| {
        let licence =
            if module.licence.starts_with("Dual") { "GPL-2.0-only OR BSD-2-Clause" } else { "GPL-2.0-only" };
        let name = format!("module {}", module.name);
        input(&name, &module.bytes, kernel.origin.clone(), licence, linux_source.clone())
    }));
    let version = &materials.programs.version;
    let sources =
        format!("the Aspen repository at version {version}; its crates and libraries are in {}", sbom::FILE);
    // Of everything inside either: what holds for both holds for each.
    let licence = sbom::licences(&[RUST, LIBC])?;
    for (name, program) in
        [("aspen-init", &materials.programs.init), ("aspen-node", &materials.programs.node)]
    {
        inputs.push(input(name, &program.bytes, format!("{name} {version}"), &licence, sources.clone()));
    }
    Ok(inputs)
}

/// What the programs are linked with besides their crates, each version once.
pub(super) fn libraries(programs: &Programs) -> Vec<Library> {
    let mut found = Vec::new();
    for Toolchain { rust, glibc } in [&programs.init.toolchain, &programs.node.toolchain] {
        let rust = rust.clone().map(|version| Library {
            name: "rust-std",
            version,
            licence: RUST,
            source: "https://github.com/rust-lang/rust",
        });
        let glibc = glibc.clone().map(|version| Library {
            name: "glibc",
            version,
            licence: LIBC,
            source: "https://sourceware.org/git/glibc.git",
        });
        found.extend(
            [rust, glibc]
                .into_iter()
                .flatten()
                .filter(|library| !found.contains(library))
                .collect::<Vec<_>>(),
        );
    }
    found
}

/// The stub of the EFI program.
pub(super) fn stub(bytes: &[u8]) -> Input {
    let version = uki::stub_version(bytes).unwrap_or_else(|| "of no stated version".to_owned());
    let source = format!("source package systemd of the distribution that names {version}");
    input("EFI stub", bytes, version, "LGPL-2.1-or-later", source)
}

fn linux_source(origin: &str, release: &str) -> String {
    match origin.strip_prefix("Debian package ").and_then(|named| named.split_once(' ')) {
        Some((_package, version)) => {
            format!("Debian source package linux {version}: apt-get source linux={version}")
        }
        None => format!(
            "the source tree of Linux {release} and the options of images/kernel.fragment, if lab image kernel built it"
        ),
    }
}

fn input(name: &str, bytes: &[u8], origin: String, licence: &str, source: String) -> Input {
    Input {
        name: name.to_owned(),
        sha256: digest::of_bytes(bytes),
        bytes: bytes.len() as u64,
        origin,
        licence: licence.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_of_a_kernel_is_named_by_where_it_comes_from() {
        assert_eq!(
            linux_source("Debian package linux-image-6.1.0-56-cloud-amd64 6.1.192-2", "6.1.0-56-cloud-amd64"),
            "Debian source package linux 6.1.192-2: apt-get source linux=6.1.192-2"
        );
        assert!(
            linux_source("Linux 6.1.192-aspen", "6.1.192-aspen")
                .starts_with("the source tree of Linux 6.1.192-aspen")
        );
    }
}
