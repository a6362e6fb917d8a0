//! The two static programs of the appliance: given, or built here by cargo from the sources around.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::bounded;
use super::elf::{self, ElfError};
use super::workshop::{Workshop, WorkshopError};
use crate::limits::NODE_VERSION_MAX;
use crate::limits::image::{PROGRAM_BYTES_MAX, PROGRAMS_BUILD_MAX};
use crate::program::{Program, ProgramError, ProgramLog};

mod toolchain;

pub use self::toolchain::Toolchain;

/// The platform of the appliance's programs.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The same setting as in .cargo/config.toml, so that `cargo lab` has built nearly everything.
const STATIC: &str = "target.x86_64-unknown-linux-gnu.rustflags=['-C', 'target-feature=+crt-static']";

/// Why there are no programs.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// No sources here.
    #[error(
        "here are no sources to build the appliance's programs from: run this in a checkout, name an image that is built \
         (ASPEN_IMAGE=FOLDER), or give `lab image build` both --init PROGRAM and --node PROGRAM"
    )]
    NoSources,
    /// One without the other.
    #[error("give both --init and --node, or neither: they have to be of one version")]
    OneOnly,
    /// Cargo fails.
    #[error(
        "cannot build the appliance's programs; where there is no Rust, name an image that is built (ASPEN_IMAGE=FOLDER), or \
         give `lab image build` both --init PROGRAM and --node PROGRAM"
    )]
    Build(#[source] WorkshopError),
    /// The workshop.
    #[error(transparent)]
    Workshop(#[from] WorkshopError),
    /// Cargo says something else than expected.
    #[error("cargo built no program {0}")]
    NotBuilt(&'static str),
    /// A file.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Not for the appliance.
    #[error("{} cannot run in the appliance", .path.display())]
    Elf {
        /// The program.
        path: PathBuf,
        /// What is wrong with it.
        source: ElfError,
    },
    /// It does not say what it is.
    #[error("cannot ask {} for its version", .path.display())]
    Version {
        /// The program.
        path: PathBuf,
        /// Why.
        source: ProgramError,
    },
    /// The two do not belong together.
    #[error("--init is of version {init}, --node of {node}: give two of one version")]
    Versions {
        /// What PID 1 says.
        init: String,
        /// What the node says.
        node: String,
    },
    /// It is something else.
    #[error("{} is no {name}: it calls itself {found:?}", .path.display())]
    Another {
        /// The program.
        path: PathBuf,
        /// What is wanted.
        name: &'static str,
        /// What it says.
        found: String,
    },
}

/// A program as it goes into the appliance.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct StaticProgram {
    /// Its bytes, without what only debuggers read.
    pub bytes: Vec<u8>,
    /// What it was linked with besides its crates.
    pub toolchain: Toolchain,
}

/// Both programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// PID 1.
    pub init: StaticProgram,
    /// The node.
    pub node: StaticProgram,
    /// What the node says of its version.
    pub version: String,
}

/// Reads the given programs, or builds them.
///
/// # Errors
/// [`ProgramsError`].
pub fn programs(
    init: Option<&Path>,
    node: Option<&Path>,
    workshop: &mut Workshop<'_>,
) -> Result<Programs, ProgramsError> {
    let (init, node) = match (init, node) {
        (Some(init), Some(node)) => (init.to_owned(), node.to_owned()),
        (None, None) => build(workshop)?,
        _ => return Err(ProgramsError::OneOnly),
    };
    let version = version(&node, "aspen-node", workshop)?;
    let of_init = self::version(&init, "aspen-init", workshop)?;
    if word(&of_init) != word(&version) {
        return Err(ProgramsError::Versions { init: of_init, node: version });
    }
    Ok(Programs { init: read(&init)?, node: read(&node)?, version })
}

fn read(path: &Path) -> Result<StaticProgram, ProgramsError> {
    let failed = |source| ProgramsError::Read { path: path.to_owned(), source };
    let bytes = bounded::read_file(path, PROGRAM_BYTES_MAX).map_err(failed)?;
    let toolchain = Toolchain::of(&bytes);
    let bytes =
        elf::static_program(&bytes).map_err(|source| ProgramsError::Elf { path: path.to_owned(), source })?;
    Ok(StaticProgram { bytes, toolchain })
}

/// A version without what is said of how it was built.
fn word(version: &str) -> &str {
    version.split(' ').next().unwrap_or_default()
}

/// What a program says of itself, without its name.
fn version(program: &Path, name: &'static str, workshop: &Workshop<'_>) -> Result<String, ProgramsError> {
    let failed = |source| ProgramsError::Version { path: program.to_owned(), source };
    let log = ProgramLog::open(&workshop.folder().join("programs.log")).map_err(failed)?;
    // A relative path would be looked for on the search path.
    let path = std::path::absolute(program).unwrap_or_else(|_| program.to_owned());
    let output = Program::new(path).arg("--version").run_short(NODE_VERSION_MAX, &log).map_err(failed)?;
    let found = output.stdout.lines().next().unwrap_or_default().to_owned();
    let version = found.strip_prefix(name).and_then(|rest| rest.strip_prefix(' '));
    let version = version.map(|version| version.trim().to_owned());
    version.ok_or(ProgramsError::Another { path: program.to_owned(), name, found })
}

/// Builds both with cargo, beside the lab, and returns where they are.
pub(super) fn build(workshop: &mut Workshop<'_>) -> Result<(PathBuf, PathBuf), ProgramsError> {
    let sources = sources().ok_or(ProgramsError::NoSources)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // With the features that the lab wants of what they share, too: after `cargo lab` no dependency is built again.
    let program = Program::new(cargo)
        .args(["build", "--release", "--message-format=json-render-diagnostics"])
        .args([format!("--target={TARGET}"), format!("--config={STATIC}")])
        .args(["--package=aspen-lab", "--package=aspen-node", "--package=aspen-init"])
        .args(["--bin=aspen-node", "--bin=aspen-init"])
        .in_folder(&sources);
    let kept = std::env::vars_os().filter(|(name, _value)| !is_cargos_own(&name.to_string_lossy()));
    let program = kept.fold(program, |program, (name, value)| program.env(name, value));
    // The log is read again, and must be that of this build.
    let _turn = workshop.turn("programs")?;
    let log = workshop.folder().join("cargo.log");
    workshop
        .long("building the appliance's programs", &program, &log, PROGRAMS_BUILD_MAX)
        .map_err(ProgramsError::Build)?;
    let text = std::fs::read_to_string(&log).map_err(|source| ProgramsError::Read { path: log, source })?;
    let built = |name| executable(&text, name).ok_or(ProgramsError::NotBuilt(name));
    Ok((built("aspen-init")?, built("aspen-node")?))
}

/// What cargo sets for the program that it runs, and what would make this build another than that of the lab. `OUT_DIR` is
/// one: crates whose build scripts watch it would be built again, and with them most of the node.
fn is_cargos_own(name: &str) -> bool {
    let families = ["CARGO_PKG_", "CARGO_BIN_", "CARGO_MANIFEST_"];
    let names = ["OUT_DIR", "CARGO_TARGET_TMPDIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"];
    families.iter().any(|family| name.starts_with(family)) || names.contains(&name)
}

/// A line of cargo's output (`cargo build --message-format=json`).
#[derive(Deserialize)]
struct Message {
    reason: String,
    target: Option<MessageTarget>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct MessageTarget {
    name: String,
}

fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let parsed = messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let mut built = parsed.filter(|message| message.reason == "compiler-artifact");
    built.find_map(|message| {
        message.executable.filter(|_| message.target.is_some_and(|target| target.name == name))
    })
}

/// The checkout around the working folder.
pub(crate) fn sources() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    here.ancestors().find(|folder| is_checkout(folder)).map(Path::to_owned)
}

fn is_checkout(folder: &Path) -> bool {
    ["Cargo.lock", "images/init/Cargo.toml", "node/Cargo.toml"].iter().all(|file| folder.join(file).is_file())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn executable_is_found_among_the_messages_of_cargo() {
        let messages = "   Compiling x\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"aspen-init\"},\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"aspen-init\"},\"executable\":\"/t/aspen-init\"}\n\
            {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable(messages, "aspen-init"), Some(PathBuf::from("/t/aspen-init")));
        assert_eq!(executable(messages, "aspen-node"), None);
    }

    #[test]
    fn cargo_gets_the_users_settings_and_not_those_of_the_cargo_that_runs_the_lab() {
        for name in ["OUT_DIR", "CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "CARGO_BIN_EXE_lab", "RUSTFLAGS"] {
            assert!(is_cargos_own(name), "{name}");
        }
        for name in ["PATH", "HOME", "CARGO_HOME", "CARGO_TARGET_DIR", "RUSTUP_TOOLCHAIN", "CC"] {
            assert!(!is_cargos_own(name), "{name}");
        }
    }

    #[test]
    fn program_that_is_missing_or_is_another_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let mut tell = |_: &str| {};
        let mut workshop = Workshop::open(home.path(), &mut tell).unwrap();
        let env = Path::new("/usr/bin/env");
        let error = programs(Some(env), None, &mut workshop).unwrap_err().to_string();
        assert_eq!(error, "give both --init and --node, or neither: they have to be of one version");
        let error = programs(Some(env), Some(env), &mut workshop).unwrap_err().to_string();
        assert!(
            error.starts_with("/usr/bin/env is no aspen-node: it calls itself \"env (GNU coreutils)"),
            "{error}"
        );
        // Two programs that are no two of one version.
        let script = |name: &str, said: &str| {
            let path = home.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\necho '{said}'\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let node = script("node", "aspen-node 0.2.0 (planted bugs)");
        let error = programs(Some(&script("a", "aspen-init 0.1.0")), Some(&node), &mut workshop);
        let want = "--init is of version 0.1.0, --node of 0.2.0 (planted bugs): give two of one version";
        assert_eq!(error.unwrap_err().to_string(), want);
        let error = programs(Some(&node), Some(&node), &mut workshop).unwrap_err().to_string();
        assert!(error.contains("is no aspen-init: it calls itself \"aspen-node 0.2.0"), "{error}");
        // The version does not make it a program.
        let init = script("b", "aspen-init 0.2.0");
        let error = programs(Some(&init), Some(&node), &mut workshop).unwrap_err().to_string();
        assert_eq!(error, format!("{} cannot run in the appliance", init.display()));
        let nowhere = Path::new("/nowhere/node");
        let error = programs(Some(env), Some(nowhere), &mut workshop).unwrap_err().to_string();
        assert_eq!(error, "cannot ask /nowhere/node for its version");
        let error = read(env).unwrap_err().to_string();
        assert_eq!(error, "/usr/bin/env cannot run in the appliance");
    }
}
