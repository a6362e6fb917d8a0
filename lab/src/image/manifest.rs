//! manifest.json: what an image is made of and what it consists of, each with its SHA-256; licences and where sources are.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::assemble::files;
use super::bounded;
use super::digest::{self, Digest};
use crate::limits::image::MANIFEST_BYTES_MAX;

/// The manifest's name in an image's folder.
pub const FILE: &str = "manifest.json";
/// The signature's name beside it.
pub const SIGNATURE_FILE: &str = "manifest.json.sig";
/// The version of the manifest that this lab writes and reads.
pub const FORMAT: u32 = 1;

/// Why there is no manifest, or an image is not what its manifest says.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file.
    #[error("cannot use {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Not a manifest.
    #[error("{} is no manifest of an image", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Of another version.
    #[error("{} has format {found}, {FORMAT} is understood: build the image with this lab", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// For another machine.
    #[error("the image in {} is for {found}; this lab boots x86_64 only", .path.display())]
    Architecture {
        /// The folder.
        path: PathBuf,
        /// What it is for.
        found: String,
    },
    /// An image without a part of it.
    #[error("the manifest of {} names no {file}: build the image again", .folder.display())]
    Lacks {
        /// The folder.
        folder: PathBuf,
        /// What is missing.
        file: &'static str,
    },
    /// A path that leaves the folder.
    #[error("the manifest names {0:?}, which is no path inside the image's folder")]
    Outside(String),
    /// A file has changed.
    #[error("{} is not what the manifest says: its SHA-256 is {found}, not {want}", .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: Digest,
        /// What it should be.
        want: Digest,
    },
    /// A file that nobody vouches for.
    #[error("{} is in the image's folder, but not in its manifest: remove it", .0.display())]
    Unknown(PathBuf),
}

/// The whole manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this document.
    pub format: u32,
    /// What the image is.
    pub name: String,
    /// The node's version.
    pub version: String,
    /// The machine that it is for.
    pub architecture: String,
    /// The one time in all its files, in seconds since 1970.
    pub source_date_epoch: u64,
    /// Its kernel.
    pub kernel: KernelFacts,
    /// Everything that it was made of.
    pub inputs: Vec<Input>,
    /// Every file of the image but the manifest and its signature.
    pub outputs: Vec<Output>,
    /// What takes how much room in the initramfs, unpacked.
    pub parts: Vec<Part>,
}

/// What one wants to know of the kernel before it is booted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelFacts {
    /// `uname -r`.
    pub release: String,
    /// Who built it and when.
    pub version_line: String,
    /// Whether hypervisors can enter the ELF file.
    pub pvh: bool,
    /// Modules in the initramfs, in load order.
    pub modules: Vec<String>,
    /// Modules that would be taken, if the kernel had them.
    pub absent_modules: Vec<String>,
}

/// Something that the image was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// What it is to the image.
    pub name: String,
    /// Its content.
    pub sha256: Digest,
    /// Its size.
    pub bytes: u64,
    /// Where it comes from, with its version.
    pub origin: String,
    /// Its licence, as an SPDX expression.
    pub licence: String,
    /// Where its source is.
    pub source: String,
}

/// A file of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Its path in the image's folder.
    pub path: String,
    /// Its content.
    pub sha256: Digest,
    /// Its size.
    pub bytes: u64,
}

/// A part of the initramfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// What it is.
    pub name: String,
    /// Its size, unpacked.
    pub bytes: u64,
}

impl Manifest {
    /// Reads the manifest of an image's folder.
    ///
    /// # Errors
    /// It cannot be read, or is of another version or machine.
    pub fn read(folder: &Path) -> Result<Self, ManifestError> {
        Self::parse(&Self::text(folder)?, folder)
    }

    /// The bytes of the manifest of an image's folder: read once, so that what is checked of them is what is used.
    pub(super) fn text(folder: &Path) -> Result<Vec<u8>, ManifestError> {
        let path = folder.join(FILE);
        bounded::read_file(&path, MANIFEST_BYTES_MAX).map_err(|source| ManifestError::File { path, source })
    }

    /// Reads a manifest from its bytes.
    pub(super) fn parse(text: &[u8], folder: &Path) -> Result<Self, ManifestError> {
        let path = folder.join(FILE);
        let json = |source| ManifestError::Json { path: path.clone(), source };
        // The version first: another one may have other fields.
        let any: serde_json::Value = serde_json::from_slice(text).map_err(json)?;
        if let Some(found) = any.get("format").and_then(serde_json::Value::as_u64)
            && found != u64::from(FORMAT)
        {
            return Err(ManifestError::Format { path, found: u32::try_from(found).unwrap_or(u32::MAX) });
        }
        let manifest: Self = serde_json::from_value(any).map_err(json)?;
        if manifest.architecture != "x86_64" {
            return Err(ManifestError::Architecture {
                path: folder.to_owned(),
                found: manifest.architecture,
            });
        }
        match manifest.lacks() {
            Some(file) => Err(ManifestError::Lacks { folder: folder.to_owned(), file }),
            None => Ok(manifest),
        }
    }

    /// Whether it names such a file.
    pub fn has(&self, file: &str) -> bool {
        self.outputs.iter().any(|output| output.path == file)
    }

    /// The first file that an image of its kind has to have, and that it does not name.
    fn lacks(&self) -> Option<&'static str> {
        let mut needed = vec![files::VMLINUX, files::INITRAMFS, super::sbom::FILE];
        // Only boot loaders and firmware need the other form of the kernel, and the forms of the disk come together.
        let of_the_disk = [files::BZIMAGE, files::UKI, files::RAW, files::QCOW2];
        if of_the_disk[1..].iter().any(|file| self.has(file)) {
            needed.extend(of_the_disk);
        }
        needed.into_iter().find(|file| !self.has(file))
    }

    /// Writes it into an image's folder.
    pub(super) fn write(&self, folder: &Path) -> Result<(), ManifestError> {
        let path = folder.join(FILE);
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|source| ManifestError::Json { path: path.clone(), source })?;
        text.push(b'\n');
        std::fs::write(&path, text).map_err(|source| ManifestError::File { path, source })
    }

    /// Checks that the files are those that it names: these only, or all of them and no others.
    ///
    /// # Errors
    /// The first that differs.
    pub fn check(&self, folder: &Path, only: Option<&[&str]>) -> Result<(), ManifestError> {
        for output in &self.outputs {
            if only.is_some_and(|only| !only.contains(&output.path.as_str())) {
                continue;
            }
            let is_inside = |part: &str| !matches!(part, "" | "." | "..");
            if !output.path.split('/').all(is_inside) {
                return Err(ManifestError::Outside(output.path.clone()));
            }
            let path = folder.join(&output.path);
            let found = digest::of_file(&path);
            let found = found.map_err(|source| ManifestError::File { path: path.clone(), source })?;
            if found != output.sha256 {
                return Err(ManifestError::Changed { path, found, want: output.sha256 });
            }
        }
        // A file that the manifest does not name was not checked, whoever has put it there.
        let is_asked_for = |path: &str| only.is_none_or(|only| only.contains(&path));
        match files(folder)?.into_iter().find(|path| is_asked_for(path) && !self.has(path)) {
            Some(unknown) => Err(ManifestError::Unknown(folder.join(unknown))),
            None => Ok(()),
        }
    }
}

/// Describes every file of a folder.
///
/// # Errors
/// One cannot be read.
pub(super) fn outputs(folder: &Path) -> Result<Vec<Output>, ManifestError> {
    let describe = |path: String| {
        let file = folder.join(&path);
        let failed = |source| ManifestError::File { path: file.clone(), source };
        let bytes = std::fs::metadata(&file).map_err(failed)?.len();
        Ok(Output { path, sha256: digest::of_file(&file).map_err(failed)?, bytes })
    };
    files(folder)?.into_iter().map(describe).collect()
}

/// Every file of an image's folder but the manifest and its signature, sorted.
fn files(folder: &Path) -> Result<Vec<String>, ManifestError> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        let here = folder.join(&below);
        let failed = |source| ManifestError::File { path: here.clone(), source };
        for entry in std::fs::read_dir(&here).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = below.join(entry.file_name());
            if entry.file_type().map_err(failed)?.is_dir() {
                folders.push(path);
            } else {
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    found.retain(|path| path != FILE && path != SIGNATURE_FILE);
    found.sort();
    Ok(found)
}

#[cfg(test)]
pub(super) mod tests;
