//! The kernel of an image: from a Debian package, a folder, a bzImage or an ELF file.
//!
//! It is taken as it is, and never installed.

use std::io;
use std::path::{Path, PathBuf};

use super::bounded;
use super::debian::{self, DebianError};
use super::elf::{self, ElfError};
use super::workshop::Workshop;
use crate::limits::image::KERNEL_UNPACKED_BYTES_MAX;

pub mod build;
pub mod options;
pub mod payload;

use self::options::{Needs, OptionsError};
use self::payload::PayloadError;

/// A kernel, read.
#[derive(Debug)]
pub struct Kernel {
    /// As boot loaders and firmware take it; none when only the ELF file was given.
    pub bzimage: Option<Vec<u8>>,
    /// As hypervisors take it that boot ELF files.
    pub vmlinux: Vec<u8>,
    /// `uname -r`.
    pub release: String,
    /// Who built it and when, as it says itself.
    pub version_line: String,
    /// Whether it can be entered as PVH guests are.
    pub has_pvh: bool,
    /// Where its modules are, `…/lib/modules/RELEASE`, if it has any.
    pub modules: Option<PathBuf>,
    /// Where it comes from.
    pub origin: String,
}

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A file cannot be read.
    #[error("cannot read the kernel {}", .path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A folder without a kernel.
    #[error(
        "{} holds no kernel: vmlinuz-RELEASE, bzImage or vmlinux is looked for there and in its folder boot", .0.display()
    )]
    NoKernel(PathBuf),
    /// A folder with more than one.
    #[error("{} holds {} kernels ({}): name one of them", .path.display(), .names.len(), .names.join(", "))]
    ManyKernels {
        /// The folder.
        path: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// Not a kernel.
    #[error("{} is neither a Debian package nor a bzImage nor an ELF file", .0.display())]
    NotAKernel(PathBuf),
    /// For another machine.
    #[error("{} is a kernel for {machine}; the appliance is for x86_64 only", .path.display())]
    Machine {
        /// The file.
        path: PathBuf,
        /// What it is for.
        machine: &'static str,
    },
    /// The bzImage.
    #[error("cannot use the kernel {}", .path.display())]
    Payload {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PayloadError,
    },
    /// The ELF file, also the one inside a bzImage.
    #[error("cannot use the kernel {}", .path.display())]
    Elf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ElfError,
    },
    /// No version.
    #[error("{} does not name its version: is it a Linux kernel?", .0.display())]
    NoVersion(PathBuf),
    /// The configuration inside it.
    #[error("cannot read the configuration inside the kernel {}", .path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// Its options.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The package.
    #[error(transparent)]
    Debian(#[from] DebianError),
}

impl Kernel {
    /// Reads a kernel from a Debian package, a folder, a bzImage or an ELF file, and checks that it has what is needed.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn load(path: &Path, needs: &Needs, workshop: &mut Workshop<'_>) -> Result<Self, KernelError> {
        if path.extension().is_some_and(|extension| extension == "deb") {
            let package = debian::unpack(path, workshop)?;
            return Self::from_folder(&package.folder, package.origin, needs, workshop);
        }
        if path.is_dir() {
            return Self::from_folder(path, String::new(), needs, workshop);
        }
        Self::from_file(path, None, String::new(), needs, workshop)
    }

    /// A folder as a package leaves it, or with a kernel and perhaps `lib/modules` in it.
    fn from_folder(
        folder: &Path,
        origin: String,
        needs: &Needs,
        workshop: &mut Workshop<'_>,
    ) -> Result<Self, KernelError> {
        let found = candidates(folder)?;
        let image = match found.as_slice() {
            [] => return Err(KernelError::NoKernel(folder.to_owned())),
            [one] => one,
            many => {
                let names =
                    many.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
                return Err(KernelError::ManyKernels { path: folder.to_owned(), names: names.collect() });
            }
        };
        Self::from_file(image, Some(folder), origin, needs, workshop)
    }

    fn from_file(
        path: &Path,
        folder: Option<&Path>,
        origin: String,
        needs: &Needs,
        workshop: &mut Workshop<'_>,
    ) -> Result<Self, KernelError> {
        let bytes = bounded::read_file(path, KERNEL_UNPACKED_BYTES_MAX);
        let bytes = bytes.map_err(|source| KernelError::Read { path: path.to_owned(), source })?;
        // "ARM\x64" (Documentation/arch/arm64/booting.rst), "RSC\x05" (Documentation/arch/riscv/boot-image-header.rst).
        match bytes.get(0x38..0x3c) {
            Some(b"ARM\x64") => {
                return Err(KernelError::Machine { path: path.to_owned(), machine: "aarch64" });
            }
            Some(b"RSC\x05") => {
                return Err(KernelError::Machine { path: path.to_owned(), machine: "riscv64" });
            }
            _ => {}
        }
        let failed = |source| KernelError::Elf { path: path.to_owned(), source };
        let (bzimage, vmlinux, line) = if payload::is_bzimage(&bytes) {
            let unpacked = payload::unpack(&bytes);
            let vmlinux =
                unpacked.map_err(|source| KernelError::Payload { path: path.to_owned(), source })?;
            let line = payload::version_line(&bytes);
            (Some(bytes), vmlinux, line)
        } else if bytes.starts_with(b"\x7fELF") {
            let line = banner(&bytes);
            (None, bytes, line)
        } else {
            return Err(KernelError::NotAKernel(path.to_owned()));
        };
        elf::check_whole(&vmlinux).map_err(failed)?;
        let has_pvh = elf::has_pvh(&vmlinux).map_err(failed)?;
        let line = line.ok_or_else(|| KernelError::NoVersion(path.to_owned()))?;
        let release = line.split(' ').next().unwrap_or_default().to_owned();
        let modules = folder.and_then(|folder| modules_folder(folder, &release));
        // A file's own folder has the configuration of this version, or none of it.
        let beside = path.parent().map(|parent| parent.join(format!("config-{release}")));
        let config = folder.and_then(|folder| configuration(folder, &release));
        if let Some(config) = config.or(beside.filter(|config| config.is_file())) {
            options::check_file(&config, needs, modules.is_some())?;
        } else if let Some(config) = options::embedded(&vmlinux)
            .map_err(|source| KernelError::Configuration { path: path.to_owned(), source })?
        {
            options::check(&config, path, needs, modules.is_some())?;
        } else {
            workshop.tell(&format!(
                "{} brings no configuration, in itself or as config-{release} beside it: whether it has the options that \
                 {} needs shows when it boots",
                path.display(),
                needs.whose
            ));
        }
        let origin = if origin.is_empty() { format!("Linux {line}") } else { origin };
        Ok(Self { bzimage, vmlinux, release, version_line: line, has_pvh, modules, origin })
    }
}

/// The kernels in a folder: one by its Debian name, else one as it is built. A bzImage goes before the ELF file in it.
fn candidates(folder: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let failed = |path: &Path, source| KernelError::Read { path: path.to_owned(), source };
    for folder in [folder.join("boot"), folder.to_owned()] {
        if !folder.is_dir() {
            continue;
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(|source| failed(&folder, source))? {
            let entry = entry.map_err(|source| failed(&folder, source))?;
            if entry.file_name().to_string_lossy().starts_with("vmlinuz") {
                found.push(entry.path());
            }
        }
        for name in ["bzImage", "vmlinux"] {
            if found.is_empty() && folder.join(name).is_file() {
                found.push(folder.join(name));
            }
        }
        found.sort();
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(vec![])
}

/// Where a distribution or `make modules_install` leaves modules.
fn modules_folder(folder: &Path, release: &str) -> Option<PathBuf> {
    let places = ["lib/modules", "usr/lib/modules"].map(|place| folder.join(place).join(release));
    places.into_iter().find(|place| place.is_dir())
}

fn configuration(folder: &Path, release: &str) -> Option<PathBuf> {
    let places = [format!("boot/config-{release}"), format!("config-{release}"), "config".to_owned()];
    places.into_iter().map(|place| folder.join(place)).find(|place| place.is_file())
}

/// `linux_banner` in a kernel that is not packed.
fn banner(bytes: &[u8]) -> Option<String> {
    const START: &[u8] = b"Linux version ";
    // What follows a format string with the same beginning is no digit.
    let is_banner = |window: &[u8]| window.starts_with(START) && window[START.len()].is_ascii_digit();
    let place = bytes.windows(START.len() + 1).position(is_banner)? + START.len();
    let line = bytes[place..].split(|byte| matches!(byte, 0 | b'\n')).next()?;
    Some(String::from_utf8_lossy(line).into_owned())
}

#[cfg(test)]
mod tests;
