//! Images that the lab boots: built on first use, kept by what they are made of, and checked before every use.

use std::io;
use std::path::{Path, PathBuf};

use super::assemble::{self, AssembleError, Extent, Materials, Sources, files};
use super::debian::{self, DebianError};
use super::digest::{self, Digest, of_bytes};
use super::manifest::{self, FORMAT, Manifest, ManifestError};
use super::programs::{self, ProgramsError};
use super::sign::{self, SignError};
use super::workshop::{Workshop, WorkshopError, make_folder, variable};

/// Names a folder of an image that is booted instead of a built one.
pub const IMAGE_VARIABLE: &str = "ASPEN_IMAGE";
/// Names a public key by which that image has to be signed.
pub const KEY_VARIABLE: &str = "ASPEN_IMAGE_KEY";
/// Names a kernel to build the image from, instead of Debian's.
pub const KERNEL_VARIABLE: &str = "ASPEN_KERNEL";

/// Why there is no image to boot.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It cannot be built.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// The programs cannot be built.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// The kernel's package.
    #[error(transparent)]
    Debian(#[from] DebianError),
    /// A kernel that only a boot loader can start, without one.
    #[error(
        "{0} cannot be entered as PVH guests are, and there is no bzImage beside it: build the image from a bzImage, or from a kernel with CONFIG_PVH=y"
    )]
    Unbootable(PathBuf),
    /// The workshop.
    #[error(transparent)]
    Workshop(#[from] WorkshopError),
    /// It is not what its manifest says.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// It is not signed as it has to be.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A file or folder.
    #[error("cannot use {}", .path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A key for an image that nobody signed.
    #[error(
        "{KEY_VARIABLE} is set, but {IMAGE_VARIABLE} is not: an image that is built here is signed by nobody"
    )]
    KeyWithoutImage,
}

/// An image that is whole, and may be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFolder {
    folder: PathBuf,
    manifest: Manifest,
    identity: Digest,
}

impl ImageFolder {
    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it is made of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The kernel as an ELF file.
    pub fn vmlinux(&self) -> PathBuf {
        self.folder.join(files::VMLINUX)
    }

    /// The kernel as boot loaders take it, if the image has it.
    pub fn bzimage(&self) -> Option<PathBuf> {
        let is_there = self.manifest.outputs.iter().any(|output| output.path == files::BZIMAGE);
        is_there.then(|| self.folder.join(files::BZIMAGE))
    }

    /// What the kernel unpacks into memory.
    pub fn initramfs(&self) -> PathBuf {
        self.folder.join(files::INITRAMFS)
    }

    /// The node's version.
    pub fn version(&self) -> &str {
        &self.manifest.version
    }

    /// `uname -r` of its kernel.
    pub fn release(&self) -> &str {
        &self.manifest.kernel.release
    }

    /// What a hypervisor boots, and the lab has tried: the kernel as boot loaders take it, or else as an ELF file that can be
    /// entered without one.
    ///
    /// # Errors
    /// [`ImageError::Unbootable`].
    pub fn kernel(&self) -> Result<PathBuf, ImageError> {
        match self.bzimage() {
            Some(bzimage) => Ok(bzimage),
            None if self.manifest.kernel.pvh => Ok(self.vmlinux()),
            None => Err(ImageError::Unbootable(self.vmlinux())),
        }
    }

    /// What identifies the image in reports: the SHA-256 of its manifest, which has those of its files.
    pub fn identity(&self) -> Digest {
        self.identity
    }
}

/// The image to boot: that of `ASPEN_IMAGE`, or one built from this checkout and Debian's kernel, or that of
/// `ASPEN_KERNEL`, and kept for the next time. What takes long is told.
///
/// # Errors
/// [`ImageError`].
pub fn ensure(tell: &mut dyn FnMut(&str)) -> Result<ImageFolder, ImageError> {
    let key = variable(KEY_VARIABLE);
    if let Some(folder) = variable(IMAGE_VARIABLE) {
        return open(&folder, key.as_deref());
    }
    if key.is_some() {
        return Err(ImageError::KeyWithoutImage);
    }
    let mut workshop = Workshop::of_user(tell)?;
    built(variable(KERNEL_VARIABLE), &mut workshop)
}

/// An image in a folder; what is booted of it is checked against its manifest, and that against the key's signature if
/// there is a key.
///
/// # Errors
/// [`ImageError`].
pub fn open(folder: &Path, key: Option<&Path>) -> Result<ImageFolder, ImageError> {
    let folder =
        std::path::absolute(folder).map_err(|source| ImageError::File { path: folder.to_owned(), source })?;
    let only = [files::VMLINUX, files::BZIMAGE, files::INITRAMFS];
    let manifest = if let Some(key) = key {
        sign::verify(&folder, key, Some(&only))?
    } else {
        let manifest = Manifest::read(&folder)?;
        manifest.check(&folder, Some(&only))?;
        manifest
    };
    let path = folder.join(manifest::FILE);
    let identity = digest::of_file(&path).map_err(|source| ImageError::File { path, source })?;
    Ok(ImageFolder { folder, manifest, identity })
}

/// The image in the workshop's cache that is made of the programs of this checkout and this kernel, or a new one.
///
/// # Errors
/// [`ImageError`].
pub fn built(kernel: Option<PathBuf>, workshop: &mut Workshop<'_>) -> Result<ImageFolder, ImageError> {
    let (init, node) = programs::build(workshop)?;
    let failed = |path: &Path, source| ImageError::File { path: path.to_owned(), source };
    let mut made_of = vec![format!("format {FORMAT}")];
    for path in
        [Some(&init), Some(&node), kernel.as_ref().filter(|path| path.is_file())].into_iter().flatten()
    {
        made_of.push(digest::of_file(path).map_err(|source| failed(path, source))?.to_string());
    }
    let kernel = if let Some(path) = kernel {
        path
    } else {
        let named = debian::newest_kernel(workshop)?;
        made_of.push(format!("{} {}", named.package, named.version));
        debian::fetch(&named, "--kernel PATH", workshop)?
    };
    if kernel.is_dir() {
        // A folder may change without changing its name: what is read of it decides.
        made_of.extend(files_of(&kernel).map_err(|source| failed(&kernel, source))?);
    }
    let images = workshop.folder().join("images");
    let name = of_bytes(made_of.join("\n").as_bytes()).to_string();
    let folder = images.join(&name[..16]);
    if folder.is_dir() {
        match open(&folder, None) {
            Ok(image) => return Ok(image),
            Err(error) => {
                workshop.tell(&format!("building the image again: {error}"));
                std::fs::remove_dir_all(&folder)
                    .map_err(|source| ImageError::File { path: folder.clone(), source })?;
            }
        }
    }
    make_folder(&images)?;
    let sources = Sources { kernel: Some(kernel), init: Some(init), node: Some(node), stub: None };
    let half = images.join(format!(".{}", std::process::id()));
    let made = Materials::gather(&sources, workshop)
        .and_then(|materials| assemble::assemble(&half, &sources, &materials, Extent::Boot, workshop));
    let renamed = made.map_err(ImageError::from).and_then(|_manifest| {
        // Renamed when it is whole; if another lab was faster, its image is as good.
        match std::fs::rename(&half, &folder) {
            Err(source) if !folder.is_dir() => Err(ImageError::File { path: folder.clone(), source }),
            _ => Ok(()),
        }
    });
    let _left = std::fs::remove_dir_all(&half);
    renamed?;
    open(&folder, None)
}

/// Names and digests of the files that lie directly in a kernel's folder and in its `boot`.
fn files_of(folder: &Path) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    for folder in [folder.to_owned(), folder.join("boot")].into_iter().filter(|folder| folder.is_dir()) {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let digest = digest::of_file(&entry.path())?;
                lines.push(format!("{} {digest}", entry.path().display()));
            }
        }
    }
    lines.sort();
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::sample;
    use super::*;

    #[test]
    fn image_that_is_not_signed_is_refused_where_a_key_is_wanted() {
        let (home, manifest) = sample();
        let image = open(home.path(), None).unwrap();
        assert_eq!(image.version(), manifest.version.as_str());
        assert_eq!(image.bzimage(), None);
        assert_eq!(image.kernel().unwrap(), home.path().join("vmlinux"));
        assert_eq!(image.identity(), digest::of_file(&home.path().join("manifest.json")).unwrap());
        let mut flat = image.clone();
        flat.manifest.kernel.pvh = false;
        let error = flat.kernel().unwrap_err().to_string();
        assert!(error.contains("/vmlinux cannot be entered as PVH guests are"), "{error}");
        let key = home.path().join("key.pub");
        let error = open(home.path(), Some(&key)).unwrap_err().to_string();
        assert_eq!(error, format!("cannot use {}", key.display()));
        let error = ImageError::KeyWithoutImage.to_string();
        assert!(error.starts_with("ASPEN_IMAGE_KEY is set, but ASPEN_IMAGE is not"), "{error}");
    }
}
