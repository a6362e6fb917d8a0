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
    #[error("a kernel does not come to its end on {CLOUD_HYPERVISOR}; the end of what was said: {0:?}")]
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
    let output =
        match Program::new(&path).arg("--version").unprivileged().run_short(HYPERVISOR_VERSION_MAX, log) {
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

/// Lets KVM run the smallest guest, once by itself and once in Cloud Hypervisor.
///
/// # Errors
/// It does not come to its end.
pub fn smallest_guest(installed: &Installed, directory: &Path, log: &ProgramLog) -> Result<(), TrialError> {
    kvm::try_guest(log)?;
    let path = directory.join("trial.elf");
    fs::write(&path, guest::elf()).map_err(|source| ProgramError::File { path: path.clone(), source })?;
    let tried = boot(leashed(&installed.path), &path, guest::WORD, directory, log);
    remove(&path);
    tried
}

/// Lets Cloud Hypervisor boot a kernel that finds nothing to do.
///
/// # Errors
/// It does not come to its end.
pub fn kernel(
    installed: &Installed,
    kernel: &Path,
    directory: &Path,
    log: &ProgramLog,
) -> Result<(), TrialError> {
    // It has done all that it does without a disk, and would start again.
    boot(leashed(&installed.path), kernel, NO_DISK, directory, log)
}

/// Has a hypervisor boot a kernel until it says something on its console.
fn boot(
    hypervisor: Program,
    kernel: &Path,
    words: &str,
    directory: &Path,
    log: &ProgramLog,
) -> Result<(), TrialError> {
    // What it says itself is no word of the kernel's.
    let [output, complaints] =
        ["kernel-trial.log", "kernel-trial-errors.log"].map(|name| directory.join(name));
    remove(&output);
    let program = hypervisor
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
        .args(["--cmdline", KERNEL_WORDS])
        .errors_to(&complaints);
    let mut running = program.start(None, &output, log)?;
    let deadline = Instant::now() + KERNEL_TRIAL_MAX;
    let has_ended = loop {
        if tail(&output).is_ok_and(|text| text.contains(words)) {
            break true;
        }
        if running.exited().is_some() || Instant::now() > deadline {
            break false;
        }
        thread::sleep(POLL_INTERVAL);
    };
    let said = [&output, &complaints].map(|file| tail(file).unwrap_or_default()).concat();
    running.kill()?;
    remove(&output);
    remove(&complaints);
    if has_ended { Ok(()) } else { Err(TrialError::Kernel(said)) }
}

/// What was written for a trial; what cannot be removed harms nobody.
fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

/// A kernel of a few bytes: says a word on the serial port and stands still.
mod guest {
    /// What it says.
    pub(super) const WORD: &str = "aspen";
    /// 32-bit code (Intel SDM volume 2), and the word.
    const CODE: [u8; 26] = [
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8: the first serial port
        0xbe, 0x15, 0x00, 0x10, 0x00, // mov esi, ADDRESS + 21: the word
        0xb9, 0x05, 0x00, 0x00, 0x00, // mov ecx, 5: its length
        0xac, // lodsb
        0xee, // out dx, al
        0xe2, 0xfc, // loop to the lodsb
        0xf4, // hlt
        0xeb, 0xfd, // jmp to the hlt
        b'a', b's', b'p', b'e', b'n',
    ];
    /// Where it is in memory: behind everything that firmware leaves there.
    const ADDRESS: u64 = 0x10_0000;
    /// Sizes of the headers (`elf(5)`), and of the note.
    const FILE_HEADER: u64 = 64;
    const PROGRAM_HEADER: u64 = 56;
    const NOTE: u64 = 20;
    /// Where note and code are in the file.
    const NOTE_OFFSET: u64 = FILE_HEADER + 2 * PROGRAM_HEADER;
    const CODE_OFFSET: u64 = NOTE_OFFSET + NOTE;

    /// An ELF file with the note by which a hypervisor knows where a kernel begins (`XEN_ELFNOTE_PHYS32_ENTRY`, "x86/HVM direct boot
    /// ABI" of Xen).
    pub(super) fn elf() -> Vec<u8> {
        const LOAD: u32 = 1;
        const NOTES: u32 = 4;
        const READ_AND_EXECUTE: u32 = 5;
        const ENTRY: u32 = 18;
        let mut file = Vec::new();
        // 64 bits, little endian, version 1; an executable for x86-64.
        file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        file.extend([2_u16, 62].map(u16::to_le_bytes).concat());
        file.extend(1_u32.to_le_bytes());
        // The entry point, the program headers, and no section headers.
        file.extend([ADDRESS, FILE_HEADER, 0].map(u64::to_le_bytes).concat());
        file.extend(0_u32.to_le_bytes());
        let sizes = [FILE_HEADER, PROGRAM_HEADER].map(|size| u16::try_from(size).expect("some bytes"));
        file.extend([sizes[0], sizes[1], 2, 64, 0, 0].map(u16::to_le_bytes).concat());
        for (kind, offset, address, bytes) in
            [(LOAD, CODE_OFFSET, ADDRESS, CODE.len() as u64), (NOTES, NOTE_OFFSET, 0, NOTE)]
        {
            file.extend([kind, READ_AND_EXECUTE].map(u32::to_le_bytes).concat());
            file.extend([offset, address, address, bytes, bytes, 4].map(u64::to_le_bytes).concat());
        }
        // The sizes of its name and of what it says, and its kind.
        file.extend([4, 4, ENTRY].map(u32::to_le_bytes).concat());
        file.extend(b"Xen\0");
        file.extend(u32::try_from(ADDRESS).expect("below 4 GiB").to_le_bytes());
        file.extend(CODE);
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::qemu::arguments::QEMU;

    #[test]
    fn smallest_kernel_has_its_code_where_its_headers_say() {
        let elf = guest::elf();
        let at = |offset: usize| u64::from_le_bytes(elf[offset..offset + 8].try_into().unwrap());
        // The first program header, at byte 64: file offset, address and length.
        let (offset, address, length) = (at(72), at(80), at(96));
        assert_eq!((address, at(24)), (0x10_0000, 0x10_0000));
        let (from, to) = (usize::try_from(offset).unwrap(), usize::try_from(offset + length).unwrap());
        assert_eq!((to, &elf[from + 21..]), (elf.len(), guest::WORD.as_bytes()));
        // The second one's note ends where the code begins, with the address.
        assert_eq!((at(128) + at(152), &elf[from - 8..from]), (offset, &b"Xen\0\0\0\x10\0"[..]));
    }

    /// A script that is given the words of a hypervisor.
    fn shell(script: &str) -> Program {
        Program::new("/bin/sh").args(["-c", script, "hypervisor"])
    }

    /// QEMU boots the same note, and emulates where KVM runs nothing.
    #[test]
    fn smallest_kernel_says_its_word() {
        let Some(qemu) = Program::find(QEMU) else { return };
        let home = tempfile::tempdir().unwrap();
        let log = ProgramLog::open(&home.path().join("programs.log")).unwrap();
        let kernel = home.path().join("trial.elf");
        fs::write(&kernel, guest::elf()).unwrap();
        let emulated = format!(
            "exec {} -M q35,accel=tcg -m 128M -nodefaults -display none -serial stdio -kernel {}",
            qemu.display(),
            kernel.display()
        );
        boot(shell(&emulated), &kernel, guest::WORD, home.path(), &log).unwrap();
    }

    #[test]
    fn what_a_hypervisor_says_itself_is_no_word_of_a_kernel() {
        let home = tempfile::tempdir().unwrap();
        let log = ProgramLog::open(&home.path().join("programs.log")).unwrap();
        let tried = |script: &str| boot(shell(script), Path::new("/k"), guest::WORD, home.path(), &log);
        tried("echo aspen; exec sleep 60").unwrap();
        let error = tried("echo no aspen here >&2; exit 1").unwrap_err();
        assert!(error.to_string().ends_with("the end of what was said: \"no aspen here\\n\""), "{error}");
    }

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
