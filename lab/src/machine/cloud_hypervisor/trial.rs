//! Which Cloud Hypervisor is installed, and whether it runs the appliance's kernel here.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use super::arguments::CLOUD_HYPERVISOR;
use crate::causes::causes;
use crate::limits::POLL_INTERVAL;
use crate::limits::machines::{CLOUD_HYPERVISOR_VERSION_MIN, HYPERVISOR_VERSION_MAX, KERNEL_TRIAL_MAX};
use crate::machine::kvm::{self, KvmError};
use crate::machine::vm::{KERNEL_WORDS, NO_DISK};
use crate::program::leash::leashed;
use crate::program::{Program, ProgramError, ProgramLog, tail};

/// Where it is to be had: no package of Debian has it.
const INSTALL: &str = "take a release of its project (and compare its SHA-256 with the one published beside it), build it from \
                       source, or let Nix have it (`nix develop`)";

/// What to do where it is missing. A rig is given it from outside.
fn instead() -> &'static str {
    if crate::rig::is_inside() {
        "give it to the guest, `lab rig --cloud-hypervisor PROGRAM …`"
    } else {
        INSTALL
    }
}

/// Why it is of no use here.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// There is none.
    #[error("{CLOUD_HYPERVISOR} is not on the search path: {}", instead())]
    Missing,
    /// It does not run, or does not say what it is.
    #[error("{} does not name its version", .path.display())]
    Version {
        /// The program.
        path: PathBuf,
        /// What came of asking it.
        #[source]
        source: Option<ProgramError>,
    },
    /// Too old.
    #[error("{} is of version {version}, {CLOUD_HYPERVISOR_VERSION_MIN} or later is needed: {INSTALL}", .path.display())]
    Old {
        /// The program.
        path: PathBuf,
        /// As it says itself.
        version: String,
    },
    /// KVM.
    #[error("KVM runs no guest here: {0}")]
    Kvm(#[from] KvmError),
    /// A program.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// It runs and the kernel does not.
    #[error(
        "the appliance's kernel does not come to its end on {CLOUD_HYPERVISOR}; the end of what was said: {0:?}"
    )]
    Kernel(String),
}

impl TrialError {
    /// On one line.
    pub fn in_short(&self) -> String {
        causes(self).replace("\nbecause: ", ": ").replace('\n', " ")
    }
}

/// The Cloud Hypervisor that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its program.
    pub path: PathBuf,
    /// Its version, as it says itself.
    pub version: String,
}

/// Finds it on the search path.
///
/// # Errors
/// There is none, or one that is too old.
pub fn find(log: &ProgramLog) -> Result<Installed, TrialError> {
    let path = Program::find(CLOUD_HYPERVISOR).ok_or(TrialError::Missing)?;
    let output = match Program::new(&path).arg("--version").run_short(HYPERVISOR_VERSION_MAX, log) {
        Ok(output) => output,
        Err(error) => return Err(TrialError::Version { path, source: Some(error) }),
    };
    match version(&output.stdout) {
        None => Err(TrialError::Version { path, source: None }),
        Some((major, version)) if major < CLOUD_HYPERVISOR_VERSION_MIN => {
            Err(TrialError::Old { path, version })
        }
        Some((_, version)) => Ok(Installed { path, version }),
    }
}

/// Its major version and the whole, from `cloud-hypervisor v53.0.0`.
fn version(output: &str) -> Option<(u32, String)> {
    let version = output.lines().next()?.split_ascii_whitespace().last()?.strip_prefix('v')?;
    Some((version.split('.').next()?.parse().ok()?, version.to_owned()))
}

/// Lets KVM run the smallest guest, and Cloud Hypervisor a kernel that finds nothing to do.
///
/// # Errors
/// One of them does not come to its end.
pub fn kernel(
    installed: &Installed,
    kernel: &Path,
    directory: &Path,
    log: &ProgramLog,
) -> Result<(), TrialError> {
    kvm::try_guest(log)?;
    let output = directory.join("kernel-trial.log");
    // In no sandbox that would end it with the lab.
    let program = leashed(&installed.path)
        .args([
            "--cpus",
            "boot=1",
            "--memory",
            "size=128M",
            "--serial",
            "tty",
            "--console",
            "off",
            "--kernel",
        ])
        .arg(kernel)
        .args(["--cmdline", KERNEL_WORDS]);
    let mut running = program.start(None, &output, log)?;
    let deadline = Instant::now() + KERNEL_TRIAL_MAX;
    let has_ended = loop {
        // It has done all that it does without a disk, and would start again.
        if tail(&output).is_ok_and(|text| text.contains(NO_DISK)) {
            break true;
        }
        if running.exited().is_some() || Instant::now() > deadline {
            break false;
        }
        thread::sleep(POLL_INTERVAL);
    };
    let said = tail(&output).unwrap_or_default();
    running.kill()?;
    // Written for this trial; one that cannot be removed harms nobody.
    let _ = fs::remove_file(&output);
    if has_ended { Ok(()) } else { Err(TrialError::Kernel(said)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_as_it_is_written() {
        assert_eq!(
            version("cloud-hypervisor v53.0.0\nMigration Protocol Versions: 0\n"),
            Some((53, "53.0.0".to_owned()))
        );
        assert_eq!(version("cloud-hypervisor v38.0\n"), Some((38, "38.0".to_owned())));
        assert_eq!(version("QEMU emulator version 7.2\n"), None);
        assert_eq!(version(""), None);
    }
}
