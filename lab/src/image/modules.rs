//! The modules that are wanted of a kernel that has modules, in the order in which they can be loaded.
//!
//! Kernel packages bring no modules.dep; every module says itself what it depends on.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::bounded;
use super::elf::{self, ElfError};
use crate::limits::image::{MODULE_BYTES_MAX, MODULES_MAX};

/// The modules that somebody wants of a kernel.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Who that is, in the middle of a sentence.
    pub whose: &'static str,
    /// Without these it does not work.
    pub required: &'static [&'static str],
    /// Taken where the kernel has them.
    pub optional: &'static [&'static str],
}

/// What the appliance wants. Without the required ones no machine of the lab has a disk, a network or a control channel. The
/// others are other buses and disks, the power button, the hypervisor's clock, randomness, configuration from QEMU and SMBIOS,
/// the checksum of ext4 by the processor.
pub const APPLIANCE: Wanted = Wanted {
    whose: "the appliance",
    required: &["virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "ext4"],
    optional: &[
        "virtio_mmio",
        "virtio_rng",
        "virtio_scsi",
        "sd_mod",
        "nvme",
        "evdev",
        "button",
        "ptp_kvm",
        "qemu_fw_cfg",
        "dmi_sysfs",
        "crc32c_intel",
        "vmw_vsock_virtio_transport",
        "virtio_balloon",
    ],
};

/// A module, unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// Its path below `lib/modules/RELEASE`, without a suffix of compression.
    pub path: String,
    /// The ELF file.
    pub bytes: Vec<u8>,
    /// Its licence, as it says itself.
    pub licence: String,
}

/// Why there is no order of loading.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// A file or folder cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A wanted module is neither there nor built in.
    #[error("{} has no module {name}, and it is not built in: {whose} cannot do without it", .folder.display())]
    Missing {
        /// The folder of modules.
        folder: PathBuf,
        /// The module.
        name: &'static str,
        /// Who wants it.
        whose: &'static str,
    },
    /// A module depends on one that is not there.
    #[error("module {of} depends on {name}, which is neither in {} nor built in", .folder.display())]
    Dependency {
        /// The folder of modules.
        folder: PathBuf,
        /// What is missing.
        name: String,
        /// Who needs it.
        of: String,
    },
    /// A circle.
    #[error("module {0} depends on itself, through others")]
    Circle(String),
    /// Too many.
    #[error("{0} modules are wanted with their dependencies, at most {MODULES_MAX} are allowed")]
    Count(usize),
    /// A module for another machine, or a damaged one.
    #[error("cannot use module {}", .path.display())]
    Elf {
        /// The module's file.
        path: PathBuf,
        /// What is wrong.
        source: ElfError,
    },
}

/// Modules in the order of loading, and what was wanted but is not there.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Each after those that it depends on.
    pub modules: Vec<Module>,
    /// Optional modules that the kernel neither has nor has built in.
    pub absent: Vec<&'static str>,
}

/// Selects what is wanted from a folder `lib/modules/RELEASE`.
///
/// # Errors
/// [`ModulesError`].
pub fn select(folder: &Path, wanted: &Wanted) -> Result<Selection, ModulesError> {
    let Wanted { whose, required, optional } = *wanted;
    let tree = Tree::read(folder)?;
    let mut selection = Selection::default();
    let mut done = BTreeSet::new();
    for &name in required {
        if !tree.has(name) {
            return Err(ModulesError::Missing { folder: folder.to_owned(), name, whose });
        }
        tree.add(name, &mut vec![], &mut done, &mut selection.modules)?;
    }
    for &name in optional {
        if tree.has(name) {
            tree.add(name, &mut vec![], &mut done, &mut selection.modules)?;
        } else {
            selection.absent.push(name);
        }
    }
    let count = selection.modules.len();
    if count > MODULES_MAX { Err(ModulesError::Count(count)) } else { Ok(selection) }
}

/// What is in a folder of modules.
struct Tree<'a> {
    folder: &'a Path,
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

impl<'a> Tree<'a> {
    fn read(folder: &'a Path) -> Result<Self, ModulesError> {
        let mut files = BTreeMap::new();
        walk(&folder.join("kernel"), &mut files)?;
        let list = folder.join("modules.builtin");
        let list = std::fs::read_to_string(&list)
            .map_err(|source| ModulesError::Read { path: list.clone(), source })?;
        let mut built_in: BTreeSet<String> =
            list.lines().filter_map(|line| name_of(Path::new(line))).collect();
        // Names by which others ask for them. Older kernels have no such list.
        let described = std::fs::read(folder.join("modules.builtin.modinfo")).unwrap_or_default();
        for (key, value) in elf::key_values(&described) {
            if key.rsplit_once('.').is_some_and(|(_module, key)| key == "alias") {
                built_in.insert(value.replace('-', "_"));
            }
        }
        Ok(Self { folder, files, built_in })
    }

    fn has(&self, name: &str) -> bool {
        self.files.contains_key(name) || self.built_in.contains(name)
    }

    /// Adds a module after those that it depends on. `above` are the modules that wait for it.
    fn add(
        &self,
        name: &str,
        above: &mut Vec<String>,
        done: &mut BTreeSet<String>,
        modules: &mut Vec<Module>,
    ) -> Result<(), ModulesError> {
        if self.built_in.contains(name) || done.contains(name) {
            return Ok(());
        }
        if above.iter().any(|waiting| waiting == name) {
            return Err(ModulesError::Circle(name.to_owned()));
        }
        let Some(path) = self.files.get(name) else {
            let of = above.last().cloned().unwrap_or_default();
            return Err(ModulesError::Dependency {
                folder: self.folder.to_owned(),
                name: name.to_owned(),
                of,
            });
        };
        let bytes = read_module(path)?;
        let information = elf::module_information(&bytes)
            .map_err(|source| ModulesError::Elf { path: path.clone(), source })?;
        above.push(name.to_owned());
        for needed in soft_dependencies(&information).filter(|needed| self.files.contains_key(needed)) {
            self.add(&needed, above, done, modules)?;
        }
        for needed in dependencies(&information) {
            self.add(&needed, above, done, modules)?;
        }
        above.pop();
        done.insert(name.to_owned());
        modules.push(self.module(name, path, bytes, &information));
        Ok(())
    }

    fn module(&self, name: &str, path: &Path, bytes: Vec<u8>, information: &[(String, String)]) -> Module {
        let below = path.strip_prefix(self.folder).unwrap_or(path).to_string_lossy();
        let plain = below.split_once(".ko").map_or(&*below, |(stem, _suffix)| stem);
        let licence = value(information, "license").unwrap_or("not stated").to_owned();
        Module { name: name.to_owned(), path: format!("{plain}.ko"), bytes, licence }
    }
}

fn value<'a>(information: &'a [(String, String)], key: &str) -> Option<&'a str> {
    information.iter().find_map(|(found, value)| (found == key).then_some(value.as_str()))
}

fn dependencies(information: &[(String, String)]) -> impl Iterator<Item = String> {
    let depends = value(information, "depends").unwrap_or_default();
    depends.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_"))
}

/// What should be loaded before, if it is there: `softdep=pre: A B post: C` (modprobe.d(5)).
fn soft_dependencies(information: &[(String, String)]) -> impl Iterator<Item = String> {
    let mut is_before = false;
    let lines = information.iter().filter(|(key, _value)| key == "softdep");
    let words = lines.flat_map(|(_key, line)| line.split_whitespace());
    words.filter_map(move |word| match word {
        "pre:" | "post:" => {
            is_before = word == "pre:";
            None
        }
        name => is_before.then(|| name.replace('-', "_")),
    })
}

fn walk(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), ModulesError> {
    let failed = |source| ModulesError::Read { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if entry.file_type().map_err(failed)?.is_dir() {
            walk(&path, files)?;
        } else if let Some(name) = name_of(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The name of a module by its file, if it is one.
fn name_of(path: &Path) -> Option<String> {
    let (stem, suffix) = path.file_name()?.to_str()?.split_once(".ko")?;
    matches!(suffix, "" | ".xz" | ".zst" | ".gz").then(|| stem.replace('-', "_"))
}

fn read_module(path: &Path) -> Result<Vec<u8>, ModulesError> {
    let failed = |source| ModulesError::Read { path: path.to_owned(), source };
    let packed = bounded::read_file(path, MODULE_BYTES_MAX).map_err(failed)?;
    let unpacked = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => bounded::read(liblzma::bufread::XzDecoder::new(&*packed), MODULE_BYTES_MAX),
        Some("zst") => {
            zstd::Decoder::with_buffer(&*packed).and_then(|decoder| bounded::read(decoder, MODULE_BYTES_MAX))
        }
        Some("gz") => bounded::read(flate2::bufread::GzDecoder::new(&*packed), MODULE_BYTES_MAX),
        _ => return Ok(packed),
    };
    unpacked.map_err(failed)
}

#[cfg(test)]
mod tests;
