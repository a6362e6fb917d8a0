//! An image's folder, from a kernel and two programs to every form in which hypervisors and clouds take it.
//!
//! The same inputs give the same bytes, in every folder and on every machine.

use std::io;
use std::path::{Path, PathBuf};

use aspen_init::blocks::BlocksError;
use aspen_node::storage::space::is_disk_full;

use super::bounded;
use super::data::{self, DataError};
use super::debian::{self, DebianError};
use super::disk::{self, DiskError};
use super::initramfs::InitramfsError;
use super::kernel::{Kernel, KernelError, options};
use super::manifest::{self, Input, Manifest, ManifestError};
use super::modules::{self, ModulesError, Selection};
use super::oci::{self, Layer, LayerFile, OciError};
use super::origins;
use super::programs::{self, Programs, ProgramsError};
use super::qcow2::{self, Qcow2Error};
use super::sbom::{self, SbomError};
use super::uki::{self, UkiError};
use super::workshop::{Workshop, WorkshopError};
use crate::limits::image::UKI_BYTES_MAX;

mod content;

use self::content::{initramfs, kernel_facts, os_release};

/// The files of an image.
pub mod files {
    /// The kernel as an ELF file.
    pub const VMLINUX: &str = "vmlinux";
    /// The kernel as boot loaders take it.
    pub const BZIMAGE: &str = "bzImage";
    /// What the kernel unpacks into memory.
    pub const INITRAMFS: &str = "initramfs.cpio.zst";
    /// Kernel, initramfs and command line as one EFI program.
    pub const UKI: &str = "aspen.efi";
    /// The disk.
    pub const RAW: &str = "disk.raw";
    /// The disk for QEMU and clouds.
    pub const QCOW2: &str = "disk.qcow2";
    /// The OCI layout.
    pub const OCI: &str = "oci";
    /// The OCI layout for `KubeVirt`.
    pub const CONTAINER_DISK: &str = "container-disk";
}

/// The one time in all files, unless `SOURCE_DATE_EPOCH` names another: 1980-01-01, the first that FAT knows.
pub const EPOCH_DEFAULT: u64 = 315_532_800;
/// The last that the initramfs can hold.
const EPOCH_MAX: u32 = u32::MAX;
/// The command line inside the unified kernel image: a panic starts the machine again, and a torn partition table is read by its
/// spare one. A host that emulates and is busy can be late with the first ticks: a virtual timer needs no check.
pub const COMMAND_LINE: &str = "console=tty0 console=ttyS0,115200 panic=1 gpt no_timer_check";
/// User and group of `KubeVirt`'s QEMU.
const KUBEVIRT_OWNER: u64 = 107;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// A folder with something in it.
    #[error("{} is not empty: give a new folder with --out", .0.display())]
    NotEmpty(PathBuf),
    /// A file.
    #[error("cannot write {}{}", .path.display(), hint(source))]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The stub.
    #[error("cannot read the stub {}", .path.display())]
    Stub {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// `SOURCE_DATE_EPOCH`.
    #[error(
        "SOURCE_DATE_EPOCH is {0:?}, a whole number of seconds from {EPOCH_DEFAULT} to {EPOCH_MAX} is allowed"
    )]
    Epoch(String),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Its modules.
    #[error(transparent)]
    Modules(#[from] ModulesError),
    /// The programs.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// The empty file system.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Its blocks.
    #[error(transparent)]
    Blocks(#[from] BlocksError),
    /// The initramfs.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// The unified kernel image.
    #[error(transparent)]
    Uki(#[from] UkiError),
    /// The raw disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The qcow2.
    #[error(transparent)]
    Qcow2(#[from] Qcow2Error),
    /// The OCI layouts.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The SBOM.
    #[error(transparent)]
    Sbom(#[from] SbomError),
    /// A package.
    #[error(transparent)]
    Debian(#[from] DebianError),
    /// The workshop.
    #[error(transparent)]
    Workshop(#[from] WorkshopError),
}

/// What to do about it, where there is something to do.
fn hint(error: &io::Error) -> &'static str {
    if is_disk_full(error) { ": the disk is full, an image needs some 200 MB" } else { "" }
}

/// What is built from what. Whatever is not given is found.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    /// A kernel: a Debian package, a folder, a bzImage or an ELF file.
    pub kernel: Option<PathBuf>,
    /// PID 1.
    pub init: Option<PathBuf>,
    /// The node.
    pub node: Option<PathBuf>,
    /// The stub of unified kernel images.
    pub stub: Option<PathBuf>,
}

/// How much of an image is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Kernel and initramfs: what the lab boots.
    Boot,
    /// Everything.
    All,
}

/// What an image is made of, read and checked.
#[derive(Debug)]
pub struct Materials {
    pub(super) kernel: Kernel,
    pub(super) selection: Selection,
    pub(super) programs: Programs,
    pub(super) epoch: u32,
}

impl Materials {
    /// Finds, reads and checks everything.
    ///
    /// # Errors
    /// [`AssembleError`].
    pub fn gather(sources: &Sources, workshop: &mut Workshop<'_>) -> Result<Self, AssembleError> {
        const INSTEAD: &str = "--kernel PATH";
        let epoch = epoch_here()?;
        let (init, node) = (sources.init.as_deref(), sources.node.as_deref());
        let programs = programs::programs(init, node, workshop)?;
        let path = match &sources.kernel {
            Some(path) => path.clone(),
            None => debian::fetch(&debian::newest_kernel(INSTEAD, workshop)?, INSTEAD, workshop)?,
        };
        let kernel = Kernel::load(&path, &options::APPLIANCE, workshop)?;
        let selection = match &kernel.modules {
            Some(folder) => modules::select(folder, &modules::APPLIANCE)?,
            None => Selection::default(),
        };
        Ok(Self { kernel, selection, programs, epoch })
    }
}

/// The one time of an image that is built here.
pub(super) fn epoch_here() -> Result<u32, AssembleError> {
    epoch(std::env::var("SOURCE_DATE_EPOCH").ok())
}

fn epoch(variable: Option<String>) -> Result<u32, AssembleError> {
    let Some(text) = variable.filter(|text| !text.is_empty()) else {
        return Ok(u32::try_from(EPOCH_DEFAULT).unwrap_or_default());
    };
    let seconds = text.parse::<u32>().ok().filter(|seconds| u64::from(*seconds) >= EPOCH_DEFAULT);
    seconds.ok_or(AssembleError::Epoch(text))
}

/// Builds an image in a folder, which is made and has to be empty. Nothing stays of one that fails.
///
/// # Errors
/// [`AssembleError`].
pub fn assemble(
    folder: &Path,
    sources: &Sources,
    materials: &Materials,
    extent: Extent,
    workshop: &mut Workshop<'_>,
) -> Result<Manifest, AssembleError> {
    let was_there = folder.is_dir();
    std::fs::create_dir_all(folder).map_err(write_error(folder))?;
    if std::fs::read_dir(folder).map_err(write_error(folder))?.next().is_some() {
        return Err(AssembleError::NotEmpty(folder.to_owned()));
    }
    fill(folder, sources, materials, extent, workshop).inspect_err(|_| clear(folder, was_there))
}

/// Removes what a build has made. What cannot be removed is found by the next one.
fn clear(folder: &Path, was_there: bool) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let _left = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    }
    if !was_there {
        let _left = std::fs::remove_dir(folder);
    }
}

fn fill(
    folder: &Path,
    sources: &Sources,
    materials: &Materials,
    extent: Extent,
    workshop: &mut Workshop<'_>,
) -> Result<Manifest, AssembleError> {
    let ext4 = data::empty_ext4(folder, u64::from(materials.epoch), workshop)?;
    workshop.tell("packing the initramfs");
    let (initramfs, parts) = initramfs(materials, &ext4)?;
    let packed = initramfs.pack(materials.epoch)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(write_error(&path))
    };
    write(files::VMLINUX, &materials.kernel.vmlinux)?;
    write(files::INITRAMFS, &packed)?;
    let mut inputs = origins::inputs(materials)?;
    if let Some(bzimage) = &materials.kernel.bzimage {
        write(files::BZIMAGE, bzimage)?;
    }
    if extent == Extent::All {
        if let Some(bzimage) = &materials.kernel.bzimage {
            inputs.push(disks(folder, sources, materials, bzimage, &packed, &ext4, workshop)?);
        } else {
            workshop.tell("no bzImage was given, so there is no EFI program and no disk");
        }
        layouts(folder, materials, workshop)?;
    }
    let version = materials.programs.version.clone();
    let libraries = origins::libraries(&materials.programs);
    write(sbom::FILE, &sbom::document(&version, u64::from(materials.epoch), &inputs, &libraries)?)?;
    let manifest = Manifest {
        format: manifest::FORMAT,
        name: "aspen-appliance".to_owned(),
        version,
        architecture: "x86_64".to_owned(),
        source_date_epoch: u64::from(materials.epoch),
        kernel: kernel_facts(materials),
        inputs,
        outputs: manifest::outputs(folder)?,
        parts,
    };
    manifest.write(folder)?;
    Ok(manifest)
}

fn write_error(path: &Path) -> impl Fn(io::Error) -> AssembleError {
    let path = path.to_owned();
    move |source| AssembleError::Write { path: path.clone(), source }
}

/// The EFI program and the disks; the stub as an input.
fn disks(
    folder: &Path,
    sources: &Sources,
    materials: &Materials,
    bzimage: &[u8],
    initramfs: &[u8],
    ext4: &[u8],
    workshop: &mut Workshop<'_>,
) -> Result<Input, AssembleError> {
    let path = stub(sources, workshop)?;
    let stub = bounded::read_file(&path, UKI_BYTES_MAX);
    let stub = stub.map_err(|source| AssembleError::Stub { path, source })?;
    workshop.tell("making the EFI program and the disks");
    let release = os_release(&materials.programs.version);
    let sections = [
        (".osrel", release.as_bytes()),
        (".cmdline", COMMAND_LINE.as_bytes()),
        (".uname", materials.kernel.release.as_bytes()),
        (".linux", bzimage),
        (".initrd", initramfs),
    ];
    let uki = uki::assemble(&stub, &sections)?;
    let efi = folder.join(files::UKI);
    std::fs::write(&efi, &uki).map_err(write_error(&efi))?;
    let raw = folder.join(files::RAW);
    disk::write(&raw, &uki, ext4)?;
    qcow2::convert(&raw, &folder.join(files::QCOW2))?;
    Ok(origins::stub(&stub))
}

/// The stub that was given, the one that is installed, or that of the package.
fn stub(sources: &Sources, workshop: &mut Workshop<'_>) -> Result<PathBuf, AssembleError> {
    const INSTALLED: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";
    let installed = Path::new("/").join(INSTALLED);
    if let Some(path) = &sources.stub {
        return Ok(path.clone());
    }
    if installed.is_file() {
        return Ok(installed);
    }
    let named = debian::newest(debian::STUB_PACKAGE, "--stub FILE", workshop)?;
    let package = debian::fetch(&named, "--stub FILE", workshop)?;
    Ok(debian::unpack(&package, workshop)?.folder.join(INSTALLED))
}

/// The OCI layouts.
fn layouts(folder: &Path, materials: &Materials, workshop: &mut Workshop<'_>) -> Result<(), AssembleError> {
    workshop.tell("packing the OCI layouts");
    let version = materials.programs.version.split(' ').next().unwrap_or_default();
    let is_there = |name: &str| folder.join(name).is_file();
    let file = |path: &str, from: &str| LayerFile { path: path.to_owned(), from: folder.join(from) };
    let boot = [files::VMLINUX, files::BZIMAGE, files::INITRAMFS, files::UKI];
    let epoch = u64::from(materials.epoch);
    let present = boot.iter().filter(|name| is_there(name)).map(|name| file(name, name)).collect();
    let layer = Layer { files: present, owner: 0, epoch };
    oci::write(&folder.join(files::OCI), "latest", version, &layer)?;
    if is_there(files::QCOW2) {
        let disk = vec![file("disk/disk.qcow2", files::QCOW2)];
        let layer = Layer { files: disk, owner: KUBEVIRT_OWNER, epoch };
        oci::write(&folder.join(files::CONTAINER_DISK), "latest", version, &layer)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_that_of_the_environment_or_the_first_that_fat_knows() {
        assert_eq!(epoch(None).unwrap(), 315_532_800);
        assert_eq!(epoch(Some("1700000000".to_owned())).unwrap(), 1_700_000_000);
        let error = epoch(Some("0".to_owned())).unwrap_err().to_string();
        let want =
            "SOURCE_DATE_EPOCH is \"0\", a whole number of seconds from 315532800 to 4294967295 is allowed";
        assert_eq!(error, want);
    }

    /// Found when a build failed for want of a stub: the next one found the folder full.
    #[test]
    fn failed_build_leaves_an_empty_folder_or_none() {
        let home = tempfile::tempdir().unwrap();
        let mut tell = |_: &str| {};
        let mut workshop = Workshop::open(&home.path().join("cache"), &mut tell).unwrap();
        let program = || programs::StaticProgram { bytes: vec![7; 100], ..Default::default() };
        let programs = Programs { init: program(), node: program(), version: "0.1.0".to_owned() };
        let kernel = Kernel {
            bzimage: Some(vec![7; 100]),
            vmlinux: vec![7; 100],
            release: "6.1.0".to_owned(),
            version_line: "6.1.0 #1".to_owned(),
            has_pvh: true,
            modules: None,
            origin: "a test".to_owned(),
        };
        let materials = Materials { kernel, selection: Selection::default(), programs, epoch: 315_532_800 };
        let stub = home.path().join("no-stub");
        let sources = Sources { stub: Some(stub.clone()), ..Sources::default() };
        let (new, old) = (home.path().join("new"), home.path().join("old"));
        std::fs::create_dir(&old).unwrap();
        for folder in [&new, &old] {
            let failed = assemble(folder, &sources, &materials, Extent::All, &mut workshop).unwrap_err();
            assert_eq!(failed.to_string(), format!("cannot read the stub {}", stub.display()));
        }
        assert!(!new.exists());
        assert_eq!(std::fs::read_dir(&old).unwrap().count(), 0);
        let manifest = assemble(&new, &sources, &materials, Extent::Boot, &mut workshop).unwrap();
        manifest.check(&new, None).unwrap();
        assert_eq!(Manifest::read(&new).unwrap(), manifest);
    }

    #[test]
    fn full_disk_is_called_that() {
        let error = write_error(Path::new("/x"))(io::ErrorKind::StorageFull.into()).to_string();
        assert_eq!(error, "cannot write /x: the disk is full, an image needs some 200 MB");
    }
}
