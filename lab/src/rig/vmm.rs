//! The guest as a process of QEMU: its command line, and a start that leaves nothing behind.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::SigSet;
use nix::unistd::setsid;

use super::wire::PORT;
use crate::machine::qemu::arguments::{Accelerator, SANDBOX, option};
use crate::machine::qemu::trial::{self, Qemu};
use crate::program::privileges::{FILES, give_up};
use crate::program::{Program, ProgramError, ProgramLog, Running};
use crate::sandbox;

/// First argument of the process that becomes QEMU; the others are the process that waits for it, and QEMU's command line.
pub(super) const STAGE: &str = "__rig-vmm";

/// Words for the guest's kernel: all that it says goes to the console, which is read when something goes wrong. One that
/// panics restarts at once, which ends the machine; emulated timers need no check.
const KERNEL_WORDS: &str = "console=ttyS0 panic=-1 no_timer_check";

/// A guest before it is started.
#[derive(Debug)]
pub(super) struct Guest<'a> {
    pub(super) qemu: &'a Path,
    pub(super) accelerator: Accelerator,
    pub(super) cpus: u32,
    pub(super) memory_mib: u32,
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    pub(super) disk: &'a Path,
    pub(super) console: &'a Path,
}

/// A guest that runs, with what it says and what is said to it.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) running: Running,
    pub(super) from: PipeReader,
    pub(super) to: PipeWriter,
}

/// QEMU with a machine that has a disk, a console, and a port to its host; and no network at all.
pub(super) fn command_line(guest: &Guest<'_>) -> Vec<OsString> {
    let (accelerator, processor) = match guest.accelerator {
        // What is emulated has AMD's virtualisation, with nested pages, so that there is KVM in the guest.
        Accelerator::Tcg => ("tcg,thread=multi", "max,+svm"),
        Accelerator::Kvm => ("kvm", "host"),
    };
    // Nobody reads the disk after the guest, so nothing has to reach it. A full disk of the host is an error of the guest's,
    // since a guest that stands still because of it would say nothing.
    let disk = format!(
        "if=none,id=disk,format=raw,cache=unsafe,werror=report,discard=unmap,file={}",
        option(guest.disk)
    );
    let console = format!("file,id=console,path={}", option(guest.console));
    let (cpus, memory) = (guest.cpus.to_string(), format!("{}M", guest.memory_mib));
    let port = format!("virtserialport,chardev=rig,name={PORT}");
    let words = [
        ["-M", "q35"],
        ["-accel", accelerator],
        ["-cpu", processor],
        ["-smp", &cpus],
        ["-m", &memory],
        ["-display", "none"],
        ["-append", KERNEL_WORDS],
        ["-chardev", &console],
        ["-serial", "chardev:console"],
        ["-device", "virtio-serial-pci"],
        ["-chardev", "stdio,id=rig,signal=off"],
        ["-device", &port],
        ["-device", "virtio-rng-pci"],
        ["-drive", &disk],
        ["-device", "virtio-blk-pci,drive=disk"],
    ];
    let alone = ["-nodefaults", "-no-user-config", "-no-reboot"];
    let words = SANDBOX.into_iter().chain(alone).chain(words.into_iter().flatten()).map(OsString::from);
    let boot = [["-kernel".into(), guest.kernel.into()], ["-initrd".into(), guest.initramfs.into()]];
    std::iter::once(guest.qemu.into()).chain(words).chain(boot.into_iter().flatten()).collect()
}

/// Starts it in a session of its own, and so that it ends with this process, or rather with this thread. What QEMU itself has
/// to say goes to `complaints`.
///
/// # Errors
/// It cannot be started.
pub(super) fn start(program: &[OsString], complaints: &Path) -> Result<Started, ProgramError> {
    let stage = Program::new("/proc/self/exe")
        .arg(STAGE)
        .arg(std::process::id().to_string())
        .args(program.iter().cloned())
        .inherit_environment();
    let failed = |source| ProgramError::Start { command: stage.to_string(), source };
    let (its_input, to) = io::pipe().map_err(failed)?;
    let (from, its_output) = io::pipe().map_err(failed)?;
    let errors = File::create(complaints);
    let errors = errors.map_err(|source| ProgramError::File { path: complaints.to_owned(), source })?;
    let ends = [Stdio::from(its_input), Stdio::from(its_output), Stdio::from(errors)];
    Ok(Started { running: stage.start_on(ends)?, from, to })
}

/// Becomes QEMU, with no capability but those for files, and in a session of its own, so that the terminal's signals are not for
/// it; ends with the process that has started it. Comes back only if that fails.
pub(super) fn become_vmm(mut words: impl Iterator<Item = OsString>) -> io::Error {
    let parent = words.next().and_then(|word| word.to_str()?.parse().ok());
    let (Some(parent), Some(program)) = (parent, words.next()) else {
        return io::ErrorKind::InvalidInput.into();
    };
    // A mask is inherited.
    let ready = SigSet::empty().thread_set_mask().and_then(|()| setsid());
    if let Err(errno) = ready {
        return errno.into();
    }
    if let Err(error) = give_up(&FILES) {
        return io::Error::other(error);
    }
    sandbox::end_with(parent);
    Program::new(PathBuf::from(program)).args(words).inherit_environment().become_it()
}

/// What executes the guest: the processor, if it runs a guest that can run guests itself; otherwise QEMU emulates one that
/// can. Why, in a few words, and what there is to say of that besides.
pub(super) fn accelerator(
    qemu: &Qemu,
    emulate: bool,
    kernel: &Path,
    scratch: &Path,
    log: &ProgramLog,
) -> (Accelerator, &'static str, Option<String>) {
    if emulate {
        return (Accelerator::Tcg, "emulated, as asked", None);
    }
    let tried = trial::smallest_guest(qemu, Accelerator::Kvm, scratch, log)
        .and_then(|()| trial::kernel(qemu, Accelerator::Kvm, kernel, log));
    if let Err(error) = tried {
        return (Accelerator::Tcg, "emulated, since KVM runs no guest here", Some(error.in_short()));
    }
    let has_nested = ["kvm_intel", "kvm_amd"].iter().any(|module| {
        let said = std::fs::read_to_string(format!("/sys/module/{module}/parameters/nested"));
        said.is_ok_and(|said| is_on(&said))
    });
    if has_nested {
        (Accelerator::Kvm, "with KVM, nested", None)
    } else {
        let why = "the parameter `nested` of kvm_intel or kvm_amd is off";
        (Accelerator::Tcg, "emulated, since KVM here gives guests no KVM", Some(why.to_owned()))
    }
}

/// A module's switch, as sysfs shows it.
fn is_on(said: &str) -> bool {
    matches!(said.trim(), "Y" | "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(accelerator: Accelerator) -> String {
        let guest = Guest {
            qemu: Path::new("/usr/bin/qemu-system-x86_64"),
            accelerator,
            cpus: 2,
            memory_mib: 3072,
            kernel: Path::new("/a,b/kernel"),
            initramfs: Path::new("/a,b/initramfs"),
            disk: Path::new("/a,b/disk.raw"),
            console: Path::new("/a,b/console.log"),
        };
        command_line(&guest).join(&OsString::from(" ")).into_string().unwrap()
    }

    #[test]
    fn guest_has_virtualisation_and_no_network() {
        let emulated = line(Accelerator::Tcg);
        for want in [
            "-accel tcg,thread=multi -cpu max,+svm -smp 2 -m 3072M ",
            " -kernel /a,b/kernel -initrd /a,b/initramfs",
            " -nodefaults ",
            "path=/a,,b/console.log",
            "name=org.aspen.rig",
            "cache=unsafe,werror=report",
            "file=/a,,b/disk.raw",
            " -no-reboot ",
        ] {
            assert!(emulated.contains(want), "{want}: {emulated}");
        }
        assert!(!emulated.contains("-net"), "{emulated}");
        assert!(line(Accelerator::Kvm).contains("-accel kvm -cpu host "));
    }

    #[test]
    fn switch_of_a_module_is_read_as_either_module_shows_it() {
        assert!(is_on("Y\n") && is_on("1\n"));
        assert!(!is_on("N\n") && !is_on("0\n") && !is_on(""));
    }

    #[test]
    fn stage_without_its_words_is_none() {
        for words in [vec![], vec!["x", "qemu"], vec!["1"]] {
            let error = become_vmm(words.into_iter().map(OsString::from));
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
