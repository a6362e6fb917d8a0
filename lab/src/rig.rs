//! `lab rig`: a host in a box. Any command of the lab runs in a virtual machine that is a complete host, with KVM, netem,
//! bridges and nftables, whatever this one lacks; what it makes comes out, and nothing else is left.
//!
//! Three processes here. The lab that was started holds the terminal; QEMU is its child and dies with it; in the guest the
//! first program is this lab again. What a command names goes in at its own path, in the initramfs; what it writes goes to a
//! disk that is thrown away, but for what is new where it puts its results. The guest has no network.

mod bundle;
mod errand;
mod guest;
mod host;
mod kernel;
mod libraries;
mod out;
mod pack;
mod shell;
mod terminal;
mod vmm;
mod wire;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use self::bundle::{Bundle, BundleError};
use self::errand::{Errand, ErrandError, Machines};
use self::host::{Logs, ServeError, Signals};
use self::kernel::{GuestKernel, GuestKernelError};
use self::out::{Out, OutError};
use self::vmm::Guest;
use crate::check::counted;
use crate::cli::RigArgs;
use crate::image::ImageError;
use crate::image::debian::DebianError;
use crate::image::workshop::{Workshop, WorkshopError};
use crate::limits::rig::{CPUS_DEFAULT_MAX, DISK_BYTES, FREE_BYTES_MIN, MEMORY_MIB_MIN, UP_MAX};
use crate::machine::qemu::arguments::Accelerator;
use crate::machine::qemu::trial::{self, TrialError};
use crate::memory::{self, Free};
use crate::program::{Program, ProgramError, ProgramLog};
use crate::scenario::{Scenario, ScenarioErrors};
use crate::scratch::Scratch;
use crate::session::outer::OuterError;

/// Set in a guest: the beginning of the command that makes one.
pub const VARIABLE: &str = "ASPEN_RIG";
/// Where in the guest an image is that was built for it.
pub(crate) const IMAGE_FOLDER: &str = "/usr/share/aspen/image";

/// The guest's first program: this lab.
const INIT: &str = "/init";
/// Where the first program finds the list of modules.
const MODULES_LIST: &str = "/etc/aspen/modules";
/// The same for the module that gives other processors KVM: one of them refuses to be loaded beside the other.
const OTHER_KVM_LIST: &str = "/etc/aspen/modules-other-kvm";
/// Why a command was not run in a guest, or did not come to its end there.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
    /// The command.
    #[error(transparent)]
    Errand(#[from] ErrandError),
    /// The scenario.
    #[error(transparent)]
    Scenario(#[from] ScenarioErrors),
    /// Something else that the command names.
    #[error("cannot read {}", .path.display())]
    Named {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Where what the command makes would go.
    #[error("cannot write {}, where what the command makes would go: name another folder with --out", .path.display())]
    NoPlace {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// QEMU.
    #[error(transparent)]
    Qemu(#[from] TrialError),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] GuestKernelError),
    /// What goes in.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The image that machines in the guest would boot.
    #[error("there is no image for the machines in the guest to boot")]
    Image(#[source] ImageError),
    /// The shell.
    #[error("there is no shell for the guest: install busybox, or run `apt-get update` for it to be fetched")]
    Shell(#[source] DebianError),
    /// A program.
    #[error("{option} {} is no file", .path.display())]
    NoProgram {
        /// What names it.
        option: &'static str,
        /// Where it would be.
        path: PathBuf,
    },
    /// What the command would make is there.
    #[error(transparent)]
    Taken(OuterError),
    /// The cache.
    #[error(transparent)]
    Workshop(#[from] WorkshopError),
    /// A file for the guest.
    #[error("cannot write {}", .path.display())]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No room.
    #[error(
        "{} has {free_mib} MiB of free space, the guest's files need {} MiB at least: make room, or set XDG_CACHE_HOME to a \
         folder with more",
        .folder.display(), FREE_BYTES_MIN >> 20
    )]
    NoSpace {
        /// Where they would be.
        folder: PathBuf,
        /// What there is.
        free_mib: u64,
    },
    /// No memory.
    #[error(
        "{free} of memory to spare, and the guest would have {memory_mib} MiB: end something, or give --memory-mib"
    )]
    NoMemory {
        /// What there is.
        free: Free,
        /// What was asked for.
        memory_mib: u32,
    },
    /// Too little memory for what goes in.
    #[error(
        "what goes into the guest has {files_mib} MiB, for which {memory_mib} MiB of memory are too few: give --memory-mib \
         {least_mib} or more"
    )]
    Crowded {
        /// What goes in.
        files_mib: u64,
        /// What was asked for.
        memory_mib: u32,
        /// What it takes.
        least_mib: u64,
    },
    /// The guest's disk.
    #[error("cannot make the guest's disk with mke2fs: install the package e2fsprogs")]
    Disk(#[source] WorkshopError),
    /// The working folder, or this program.
    #[error("cannot find out {0}")]
    Here(&'static str, #[source] io::Error),
    /// QEMU does not start.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The terminal's signals.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// The guest.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// What comes out.
    #[error(transparent)]
    Out(#[from] OutError),
}

impl RigError {
    /// The exit code that goes with it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Errand(_)
            | Self::NoProgram { .. }
            | Self::Taken(_)
            | Self::Scenario(_)
            | Self::Named { .. } => 64,
            Self::Serve(error) => error.exit_code(),
            Self::Out(_) | Self::Signals(_) => 2,
            _ => 3,
        }
    }
}

/// Whether this process runs in a guest of [`run`].
pub fn is_inside() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Does the part of a rig that this process is, if it is one; it does not come back from most of them. To be called before
/// the process has a second thread.
pub fn dispatch() -> Option<ExitCode> {
    if guest::is_first() {
        guest::run();
    }
    let mut words = std::env::args_os().skip(1);
    let failed = match words.next()?.to_str()? {
        vmm::STAGE => vmm::become_vmm(words),
        guest::SESSION => guest::become_session(words),
        _ => return None,
    };
    // Whoever has started this process reads its error output.
    let _ = writeln!(io::stderr(), "lab: cannot start what the rig needs: {failed}");
    Some(ExitCode::from(127))
}

/// Runs a command in a guest: its exit code.
///
/// # Errors
/// [`RigError`].
pub fn run(args: &RigArgs) -> Result<u8, RigError> {
    let folder = std::env::current_dir().map_err(|source| RigError::Here("the working folder", source))?;
    let mut errand = match Errand::of(&args.words, &folder) {
        // --help is no error. A closed terminal cannot be told anything.
        Err(ErrandError::Words(error)) if !error.use_stderr() => {
            let _ = error.print();
            return Ok(0);
        }
        errand => errand?,
    };
    if errand.is_shell && args.cloud_hypervisor.is_some() {
        // Whoever brings a hypervisor along has something to boot in mind.
        errand.machines = Machines::Perhaps;
    }
    errand.files.extend(args.with.iter().map(|path| folder.join(path)));
    let signals = Signals::listen().map_err(RigError::Signals)?;
    let ended = run_errand(args, &errand, &folder, &signals);
    signals.settle();
    ended
}

fn run_errand(args: &RigArgs, errand: &Errand, folder: &Path, signals: &Signals) -> Result<u8, RigError> {
    check_named(errand, args.kernel.as_deref())?;
    check_out(errand)?;
    let mut tell = |text: &str| say(text);
    let mut workshop = Workshop::of_user(&mut tell)?;
    let began = Instant::now();
    let qemu = trial::find(&ProgramLog::open(&workshop.folder().join("programs.log"))?)?;
    let kernel = GuestKernel::find(args.kernel.as_deref(), &mut workshop)?;
    let image = pack::image_for(errand, &mut workshop)?;
    let rigs = workshop.folder().join("rigs");
    let made = fs::create_dir_all(&rigs);
    made.map_err(|source| RigError::Write { path: rigs.clone(), source })?;
    check_room(&rigs)?;
    let scratch = signals.with(|| Scratch::make(&rigs, "rig-"));
    let scratch = scratch.map_err(|(path, source)| RigError::Write { path, source })?;
    let (bundle, order) = pack::pack(args, errand, &kernel, image.as_ref(), folder, &mut workshop)?;
    check_memory(args.memory_mib, bundle.bytes())?;
    let files = Files::write(scratch.path(), &bundle, &kernel, &workshop)?;
    drop(bundle);
    let log = ProgramLog::open(&workshop.folder().join("programs.log"))?;
    let (accelerator, how, why) = vmm::accelerator(&qemu, args.emulate, &files.kernel, scratch.path(), &log);
    let cpus = args.cpus.unwrap_or_else(|| cpus_default(accelerator, errand.machines));
    let memory_mib = args.memory_mib;
    let program = vmm::command_line(&Guest {
        qemu: &qemu.path,
        accelerator,
        cpus,
        memory_mib,
        kernel: &files.kernel,
        initramfs: &files.initramfs,
        disk: &files.disk,
        console: &files.logs.console,
    });
    let mut out = Out::new(errand.out.clone());
    say(&format!("rig: a guest boots, {how}{}", why.map(|why| format!(" ({why})")).unwrap_or_default()));
    let started = vmm::start(&program, &files.logs.complaints)?;
    let ended = host::serve(signals, started, order, &mut out, &files.logs, UP_MAX, &mut |release| {
        files.forget();
        say(&format!(
            "rig: Linux {release} on QEMU {}, {how}, {}, {memory_mib} MiB, up after {:.1} s",
            qemu.version,
            counted(cpus.into(), "processor"),
            began.elapsed().as_secs_f64()
        ));
    })?;
    let kept = out.finish()?;
    for path in kept {
        say(&format!(
            "rig: {} is here already, and stays as it is; that of the guest is gone",
            path.display()
        ));
    }
    for note in ended.notes {
        say(&format!("rig: {note}"));
    }
    Ok(ended.code)
}

/// Says something of the rig's own, beside what the command says.
fn say(text: &str) {
    // A closed terminal is no reason to end.
    let _ = writeln!(io::stderr(), "{text}");
}

/// The files of a guest.
#[derive(Debug)]
struct Files {
    kernel: PathBuf,
    initramfs: PathBuf,
    disk: PathBuf,
    logs: Logs,
}

impl Files {
    fn write(
        folder: &Path,
        bundle: &Bundle,
        kernel: &GuestKernel,
        workshop: &Workshop<'_>,
    ) -> Result<Self, RigError> {
        let [kernel_path, initramfs, disk, console, complaints] =
            ["kernel", "initramfs", "disk.raw", "console.log", "qemu.log"].map(|name| folder.join(name));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| RigError::Write { path, source }
        };
        fs::write(&kernel_path, &kernel.image).map_err(failed(&kernel_path))?;
        let written = File::create(&initramfs).and_then(|file| bundle.write(file));
        written.map_err(failed(&initramfs))?;
        let made = File::create(&disk).and_then(|file| file.set_len(DISK_BYTES));
        made.map_err(failed(&disk))?;
        let ext4 = Program::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-N", "1048576"])
            // What is thrown away needs no journal, and what is new is empty.
            .args(["-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"])
            .arg(&disk)
            // Not what the machine's /etc/mke2fs.conf says.
            .env("MKE2FS_CONFIG", "/dev/null");
        workshop.helper(ext4).map_err(RigError::Disk)?;
        Ok(Self { kernel: kernel_path, initramfs, disk, logs: Logs { console, complaints } })
    }

    /// Removes what QEMU has open: should everything be killed, nothing large is left.
    fn forget(&self) {
        for path in [&self.kernel, &self.initramfs, &self.disk] {
            // What cannot be removed now goes with the folder.
            let _ = fs::remove_file(path);
        }
    }
}

/// As many as here. An emulated processor that runs machines has to be alone: with a second one QEMU 7.2 hands the guest an
/// interrupt in between a machine and its host, where the kernel has no stack for it, and the guest panics.
fn cpus_default(accelerator: Accelerator, machines: Machines) -> u32 {
    if accelerator == Accelerator::Tcg && matches!(machines, Machines::Perhaps | Machines::Wanted) {
        return 1;
    }
    let here = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(here).unwrap_or(CPUS_DEFAULT_MAX).min(CPUS_DEFAULT_MAX)
}

/// Whether there is room for the guest's files.
fn check_room(folder: &Path) -> Result<(), RigError> {
    let found = statvfs(folder);
    let found = found.map_err(|errno| RigError::Write { path: folder.to_owned(), source: errno.into() })?;
    let free = found.blocks_available() * found.fragment_size();
    if free >= FREE_BYTES_MIN {
        return Ok(());
    }
    Err(RigError::NoSpace { folder: folder.to_owned(), free_mib: free >> 20 })
}

/// Whether what is made can be put where it belongs: a guest's work would be lost otherwise.
fn check_out(errand: &Errand) -> Result<(), RigError> {
    if let Some(path) = errand.makes.as_ref().filter(|path| path.symlink_metadata().is_ok()) {
        return Err(RigError::Taken(OuterError::OutExists(path.clone())));
    }
    errand.out.iter().try_for_each(|path| {
        let there = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
        let writable = access(there, AccessFlags::W_OK | AccessFlags::X_OK);
        writable.map_err(|errno| RigError::NoPlace { path: path.clone(), source: errno.into() })
    })
}

/// Whether the command names what is there, before anything is made.
fn check_named(errand: &Errand, kernel: Option<&Path>) -> Result<(), RigError> {
    if let Some(file) = &errand.scenario {
        Scenario::load(file)?;
    }
    errand.named().map(PathBuf::as_path).chain(kernel).try_for_each(|path| {
        fs::metadata(path).map(drop).map_err(|source| RigError::Named { path: path.to_owned(), source })
    })?;
    match errand.programs.iter().find(|path| path.is_dir()) {
        Some(path) => Err(RigError::NoProgram { option: "--node-bin", path: path.clone() }),
        None => Ok(()),
    }
}

/// Whether there is memory for the guest, and enough of it for what goes in.
fn check_memory(memory_mib: u32, files_bytes: u64) -> Result<(), RigError> {
    let files_mib = files_bytes >> 20;
    // Packed and unpacked, for a moment; and half of the memory is the most that unpacked files get.
    let least_mib = 2 * files_mib + u64::from(MEMORY_MIB_MIN) / 2;
    if u64::from(memory_mib) < least_mib {
        return Err(RigError::Crowded { files_mib, memory_mib, least_mib });
    }
    match memory::free() {
        Some(free) if free.mib < u64::from(memory_mib) => Err(RigError::NoMemory { free, memory_mib }),
        // A kernel that does not say is taken at its word later.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_without_room_is_told() {
        // A file system that has no blocks.
        let error = check_room(Path::new("/proc")).unwrap_err();
        let want = "/proc has 0 MiB of free space, the guest's files need 2048 MiB at least: make room, or set XDG_CACHE_HOME to a \
                    folder with more";
        assert_eq!((error.exit_code(), error.to_string().as_str()), (3, want));
    }

    #[test]
    fn memory_that_is_too_little_is_told() {
        let error = check_memory(1024, 400 << 20).unwrap_err();
        let want = "what goes into the guest has 400 MiB, for which 1024 MiB of memory are too few: give --memory-mib 1312 or more";
        assert_eq!(error.to_string(), want);
        let error = check_memory(u32::MAX, 0).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().ends_with("give --memory-mib"), "{error}");
    }
}
