//! Images that the lab boots: built on first use, kept by what they are made of, and checked before every use.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::assemble::{self, AssembleError, Extent, Materials, Sources, files};
use super::data;
use super::debian::{self, DebianError};
use super::digest::{self, Digest, of_bytes};
use super::manifest::{FORMAT, Manifest, ManifestError};
use super::programs::{self, ProgramsError};
use super::sign::{self, SignError};
use super::workshop::{Workshop, WorkshopError, make_folder, variable};
use crate::limits::image::IMAGES_KEPT_MAX;

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

/// What a hypervisor is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFiles {
    /// The kernel.
    pub kernel: PathBuf,
    /// What it unpacks into memory.
    pub initramfs: PathBuf,
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

    /// The kernel as an ELF file.
    pub fn vmlinux(&self) -> PathBuf {
        self.folder.join(files::VMLINUX)
    }

    /// The kernel as boot loaders take it, if the image has it.
    pub fn bzimage(&self) -> Option<PathBuf> {
        self.manifest.has(files::BZIMAGE).then(|| self.folder.join(files::BZIMAGE))
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

    /// Copies what is booted into a folder of the lab's own, which is made, and checks the copies: what was verified is what
    /// is booted, whoever changes the image meanwhile.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn copy_for_boot(&self, to: &Path) -> Result<BootFiles, ImageError> {
        let failed = |path: &Path, source| ImageError::File { path: path.to_owned(), source };
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(to);
        made.map_err(|source| failed(to, source))?;
        let copy = |path: PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let copied = to.join(name);
            std::fs::copy(&path, &copied).map_err(|source| failed(&path, source))?;
            let found = digest::of_file(&copied).map_err(|source| failed(&copied, source))?;
            let output = self.manifest.outputs.iter().find(|output| output.path == name);
            match output.map(|output| output.sha256) {
                Some(want) if found == want => Ok(copied),
                Some(want) => Err(ManifestError::Changed { path, found, want }.into()),
                None => Err(ImageError::from(ManifestError::Unknown(path))),
            }
        };
        Ok(BootFiles { kernel: copy(self.kernel()?)?, initramfs: copy(self.initramfs())? })
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
    let text = Manifest::text(&folder)?;
    if let Some(key) = key {
        sign::verify_text(&text, &folder, key)?;
    }
    let manifest = Manifest::parse(&text, &folder)?;
    manifest.check(&folder, Some(&only))?;
    let identity = of_bytes(&text);
    Ok(ImageFolder { folder, manifest, identity })
}

/// The image in the workshop's cache that is made of the programs of this checkout and this kernel, or a new one.
///
/// # Errors
/// [`ImageError`].
pub fn built(kernel: Option<PathBuf>, workshop: &mut Workshop<'_>) -> Result<ImageFolder, ImageError> {
    let _turn = workshop.turn("images")?;
    let (init, node) = programs::build(workshop)?;
    let failed = |path: &Path, source| ImageError::File { path: path.to_owned(), source };
    let mut made_of = made_by(workshop)?;
    for path in
        [Some(&init), Some(&node), kernel.as_ref().filter(|path| path.is_file())].into_iter().flatten()
    {
        made_of.push(digest::of_file(path).map_err(|source| failed(path, source))?.to_string());
    }
    let kernel = if let Some(path) = kernel {
        path
    } else {
        const INSTEAD: &str = "ASPEN_KERNEL=PATH";
        let named = debian::newest_kernel(INSTEAD, workshop)?;
        made_of.push(format!("{} {}", named.package, named.version));
        debian::fetch(&named, INSTEAD, workshop)?
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
    let sources = Sources { kernel: Some(kernel), init: Some(init), node: Some(node), stub: None };
    make_folder(&images)?;
    remove_halves(&images).map_err(|source| failed(&images, source))?;
    let half = images.join(".half");
    let materials = Materials::gather(&sources, workshop)?;
    assemble::assemble(&half, &sources, &materials, Extent::Boot, workshop)?;
    // Renamed when it is whole.
    std::fs::rename(&half, &folder).map_err(|source| failed(&folder, source))?;
    // What cannot be removed is in nobody's way.
    let _left = remove_oldest(&images);
    open(&folder, None)
}

/// Leaves the images that were made last. A run boots copies of its own, so that nobody misses the others.
fn remove_oldest(images: &Path) -> io::Result<()> {
    let mut made = Vec::new();
    for entry in std::fs::read_dir(images)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            made.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    made.sort();
    let surplus = made.len().saturating_sub(IMAGES_KEPT_MAX);
    made.iter().take(surplus).try_for_each(|(_made, folder)| std::fs::remove_dir_all(folder))
}

/// What an image depends on besides what goes into it: the code that makes it, the time in its files, the maker of its file
/// system.
fn made_by(workshop: &Workshop<'_>) -> Result<Vec<String>, ImageError> {
    Ok(vec![
        format!("format {FORMAT}"),
        format!("code {}", env!("ASPEN_IMAGE_CODE")),
        format!("epoch {}", assemble::epoch_here()?),
        data::maker(workshop).map_err(AssembleError::from)?,
    ])
}

/// Removes what builds have left that were ended: nobody else builds now.
fn remove_halves(images: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(images)? {
        let entry = entry?;
        let is_half = entry.file_name().to_string_lossy().starts_with('.');
        if is_half && entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Names and digests of the files that lie directly in a kernel's folder and in its `boot`, and of all its modules.
fn files_of(folder: &Path) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["", "boot", "lib/modules", "usr/lib/modules"].map(|below| folder.join(below)).into();
    folders.retain(|folder| folder.is_dir());
    while let Some(here) = folders.pop() {
        let has_modules = here.components().any(|part| part.as_os_str() == "modules") && here != *folder;
        for entry in std::fs::read_dir(here)? {
            let entry = entry?;
            // What a link leads to is read as if it were there; the sources that a kernel was built from are not.
            let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
            let is_here = !entry.file_type()?.is_symlink() || entry.file_name() == "kernel";
            if metadata.is_file() {
                let digest = digest::of_file(&entry.path())?;
                lines.push(format!("{} {digest}", entry.path().display()));
            } else if metadata.is_dir() && has_modules && is_here {
                folders.push(entry.path());
            }
        }
    }
    lines.sort();
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    use super::super::manifest::tests::sample;
    use super::*;

    #[test]
    fn images_that_were_made_last_are_left() {
        let home = tempfile::tempdir().unwrap();
        let folders: Vec<PathBuf> =
            (0..IMAGES_KEPT_MAX + 2).map(|number| home.path().join(number.to_string())).collect();
        for (folder, minutes) in folders.iter().zip((0..200).rev()) {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("vmlinux"), "").unwrap();
            let made = SystemTime::UNIX_EPOCH + Duration::from_hours(1_000) - Duration::from_mins(minutes);
            std::fs::File::open(folder).unwrap().set_modified(made).unwrap();
        }
        remove_oldest(home.path()).unwrap();
        let left: Vec<bool> = folders.iter().map(|folder| folder.is_dir()).collect();
        assert!(left.iter().enumerate().all(|(number, is_left)| *is_left == (number >= 2)), "{left:?}");
    }

    #[test]
    fn kernels_folder_is_known_by_its_files_and_its_modules() {
        let home = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = home.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        };
        for path in ["boot/vmlinuz-6.1", "config", "build/object.o", "lib/modules/6.1/kernel/fs/ext4.ko"] {
            write(path);
        }
        let lines = files_of(home.path()).unwrap();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[2].contains("/ext4.ko ") && !lines.concat().contains("object.o"), "{lines:?}");
        // What links lead to is read, but for the sources that modules were built from.
        let link = |to: &str, from: &str| symlink(home.path().join(to), home.path().join(from)).unwrap();
        link("build/object.o", "bzImage");
        link("build", "lib/modules/6.1/build");
        link("nowhere", "lib/modules/6.1/source");
        let linked = files_of(home.path()).unwrap();
        assert_eq!(linked.len(), 4, "{linked:?}");
        std::fs::write(home.path().join("build/object.o"), "y").unwrap();
        assert_ne!(files_of(home.path()).unwrap(), linked);
    }

    #[test]
    fn what_ended_builds_left_is_removed_and_images_stay() {
        let home = tempfile::tempdir().unwrap();
        for name in [".4711", ".half", "0123456789abcdef"] {
            std::fs::create_dir_all(home.path().join(name).join("oci")).unwrap();
        }
        remove_halves(home.path()).unwrap();
        let left: Vec<_> =
            std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [home.path().join("0123456789abcdef")]);
    }

    #[test]
    fn image_that_is_not_signed_is_refused_where_a_key_is_wanted() {
        let (home, manifest) = sample();
        let image = open(home.path(), None).unwrap();
        assert_eq!(image.version(), manifest.version.as_str());
        assert_eq!(image.bzimage(), None);
        assert_eq!(image.kernel().unwrap(), home.path().join("vmlinux"));
        assert_eq!(image.identity(), digest::of_file(&home.path().join("manifest.json")).unwrap());
        let boot = image.copy_for_boot(&home.path().join("run/boot")).unwrap();
        assert_eq!(boot.kernel, home.path().join("run/boot/vmlinux"));
        assert_eq!(std::fs::read(&boot.initramfs).unwrap(), std::fs::read(image.initramfs()).unwrap());
        let mut flat = image.clone();
        flat.manifest.kernel.pvh = false;
        let error = flat.kernel().unwrap_err().to_string();
        assert!(error.contains("/vmlinux cannot be entered as PVH guests are"), "{error}");
        let key = home.path().join("key.pub");
        let error = open(home.path(), Some(&key)).unwrap_err().to_string();
        assert_eq!(error, format!("cannot use {}", key.display()));
        // Changed after it was opened, and before it is booted.
        std::fs::write(image.initramfs(), "another").unwrap();
        let error = image.copy_for_boot(&home.path().join("run/boot")).unwrap_err().to_string();
        assert!(error.contains("initramfs.cpio.zst is not what the manifest says"), "{error}");
        let error = ImageError::KeyWithoutImage.to_string();
        assert!(error.starts_with("ASPEN_IMAGE_KEY is set, but ASPEN_IMAGE is not"), "{error}");
    }
}
