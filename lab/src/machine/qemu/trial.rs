//! Whether KVM runs a guest here, found out by letting it run one.
//!
//! A device file that opens proves nothing: a host may have it and refuse what a guest needs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::arguments::{Accelerator, QEMU, QEMU_INSTALL, SANDBOX, option};
use crate::causes::causes;
use crate::limits::machines::{
    EMULATED_TRIAL_MAX, HYPERVISOR_VERSION_MAX, KERNEL_TRIAL_MAX, KVM_TRIAL_MAX, QEMU_VERSION_MIN,
};
use crate::machine::vm::{KERNEL_WORDS, NO_DISK};
use crate::program::leash::leashed;
use crate::program::{Program, ProgramError, ProgramLog};

/// What the guests of a trial say.
const WORD: u8 = b'K';

/// Why no guest runs.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// No QEMU.
    #[error("{QEMU} is not installed: run `{QEMU_INSTALL}`")]
    Missing,
    /// One that lacks something.
    #[error(
        "{} is of version {version}, {}.{} or later is needed: take one of a newer system", .path.display(), QEMU_VERSION_MIN.0, QEMU_VERSION_MIN.1
    )]
    Old {
        /// Its program.
        path: PathBuf,
        /// As it says itself.
        version: String,
    },
    /// The disk of the smallest guest.
    #[error("cannot write {}", .path.display())]
    Disk {
        /// Where it should be.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// QEMU ends with an error, or the guest does not come to its end.
    #[error("{0}")]
    Guest(&'static str, #[source] ProgramError),
    /// It ended well and said nothing.
    #[error("the guest ended without a word")]
    Silent,
}

impl TrialError {
    /// On one line: what the emulator said itself, if it did, otherwise the causes.
    pub fn in_short(&self) -> String {
        let said = match self {
            Self::Guest(_, ProgramError::TimedOut { limit, .. }) => {
                return format!("the guest did not come to its end within {} s", limit.as_secs());
            }
            Self::Guest(_, ProgramError::Failed { stderr, .. }) => {
                stderr.lines().find(|line| !line.is_empty())
            }
            _ => None,
        };
        let whole = || causes(self).replace("\nbecause: ", ": ").replace('\n', " ");
        said.map_or_else(whole, str::to_owned)
    }
}

/// The QEMU that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    /// Its program.
    pub path: PathBuf,
    /// Its version, as it says itself.
    pub version: String,
}

/// Finds QEMU on the search path.
///
/// # Errors
/// There is none, or it does not run.
pub fn find(log: &ProgramLog) -> Result<Qemu, TrialError> {
    let path = Program::find(QEMU).ok_or(TrialError::Missing)?;
    let output = Program::new(&path).arg("--version").unprivileged().run_short(HYPERVISOR_VERSION_MAX, log);
    let output = output.map_err(|error| TrialError::Guest("qemu does not name its version", error))?;
    let line = output.stdout.lines().next().unwrap_or_default();
    let version = line.trim_start_matches("QEMU emulator version ").to_owned();
    if is_old(&version) { Err(TrialError::Old { path, version }) } else { Ok(Qemu { path, version }) }
}

/// Whether a version is known to be too old; what cannot be read is given a try.
fn is_old(version: &str) -> bool {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < QEMU_VERSION_MIN)
}

/// Runs the smallest guest: a boot sector that says a word and ends the machine.
///
/// # Errors
/// It does not come to its end.
pub fn smallest_guest(
    qemu: &Qemu,
    accelerator: Accelerator,
    directory: &Path,
    log: &ProgramLog,
) -> Result<(), TrialError> {
    let path = directory.join("trial.raw");
    fs::write(&path, boot_sector()).map_err(|source| TrialError::Disk { path: path.clone(), source })?;
    let disk = format!("if=ide,format=raw,readonly=off,file={}", option(&path));
    let limit = match accelerator {
        Accelerator::Kvm => KVM_TRIAL_MAX,
        Accelerator::Tcg => EMULATED_TRIAL_MAX,
    };
    // The older machine boots a disk without the driver that its firmware lacks on a q35.
    let ended = machine(qemu, "pc", accelerator)
        .args(["-chardev", "stdio,id=word", "-device", "isa-debugcon,iobase=0xe9,chardev=word", "-drive"])
        .arg(disk)
        .run_short(limit, log);
    // Written for this trial; one that cannot be removed harms nobody.
    let _ = fs::remove_file(&path);
    let output = ended.map_err(|error| TrialError::Guest("the smallest guest does not run", error))?;
    if output.stdout.as_bytes().contains(&WORD) { Ok(()) } else { Err(TrialError::Silent) }
}

/// Runs a kernel that finds nothing to do: it says that it panics, and restarts, which ends the machine.
///
/// # Errors
/// It does not come to its end.
pub fn kernel(
    qemu: &Qemu,
    accelerator: Accelerator,
    kernel: &Path,
    log: &ProgramLog,
) -> Result<(), TrialError> {
    let ended = machine(qemu, "q35", accelerator)
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", KERNEL_WORDS, "-serial", "stdio"])
        .run_short(KERNEL_TRIAL_MAX, log);
    let output = ended.map_err(|error| TrialError::Guest("the kernel does not run", error))?;
    // It has done all that it does without a disk. A panic before that is what the trial looks for.
    if output.stdout.contains(NO_DISK) { Ok(()) } else { Err(TrialError::Silent) }
}

/// A machine without devices.
fn machine(qemu: &Qemu, kind: &str, accelerator: Accelerator) -> Program {
    // In no sandbox that would end it with the lab.
    leashed(&qemu.path)
        .args(SANDBOX)
        .args(["-M", &format!("{kind},accel={}", accelerator.name()), "-cpu", "max"])
        .args(["-m", "128M", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
}

/// 16-bit code (Intel SDM volume 2) and the mark by which firmware knows it.
fn boot_sector() -> [u8; 512] {
    let code = [
        0xb0, WORD, // mov al, WORD
        0xe6, 0xe9, // out 0xe9, al: the debug console
        0xb0, 0xfe, // mov al, 0xfe: reset the processor
        0xe6, 0x64, // out 0x64, al: the keyboard controller
        0xf4, // hlt
        0xeb, 0xfd, // jmp to the hlt
    ];
    let mut sector = [0; 512];
    sector[..code.len()].copy_from_slice(&code);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_are_known_by_their_numbers() {
        for (version, want) in [
            ("6.2.0 (Debian 1:6.2+dfsg-2ubuntu6.24)", true),
            ("7.1.0", true),
            ("7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", false),
            ("10.0.3", false),
            ("something else", false),
        ] {
            assert_eq!(is_old(version), want, "{version}");
        }
    }
}
