//! What goes in: programs with the libraries that they want, files, folders, modules; an initramfs in the end.
//!
//! Everything has in the guest the path that it has here, so that a command means the same there.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::libraries::{CACHE_FILE, Libraries};
use crate::image::elf::{self, ElfError};
use crate::image::initramfs::{Entry, Initramfs};
use crate::image::modules::Module;
use crate::limits::rig::{FILES_BYTES_MAX, FILES_MAX};

/// Why something cannot go in.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file or folder cannot be read.
    #[error("cannot read {}, which the guest needs", .path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program that is none.
    #[error("cannot take {} into the guest", .path.display())]
    Elf {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        source: ElfError,
    },
    /// A library that is not there.
    #[error("{} wants the library {name}, which is not here: a static program needs none", .of.display())]
    Library {
        /// Its name.
        name: String,
        /// Who wants it.
        of: PathBuf,
    },
    /// A path that is no text.
    #[error("the path {0:?} is no UTF-8, and has to be to go into the guest")]
    NoText(PathBuf),
    /// Too much.
    #[error(
        "what goes into the guest has more than {} MiB, which are all that is allowed; with {} it became too much",
        FILES_BYTES_MAX >> 20, .0.display()
    )]
    TooLarge(PathBuf),
    /// Too many.
    #[error("{} has more than {FILES_MAX} files, which are all that may go into the guest", .0.display())]
    TooMany(PathBuf),
}

/// What goes in.
#[derive(Debug)]
pub(super) struct Bundle {
    initramfs: Initramfs,
    libraries: Libraries,
    /// What is in already.
    has: BTreeSet<PathBuf>,
    bytes: u64,
}

impl Bundle {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        let mut initramfs = Initramfs::default();
        // What the kernel opens as the input and output of the first program, before there is a devtmpfs.
        initramfs.add("/dev/console", Entry::Device(5, 1));
        Self { initramfs, libraries: Libraries::of_host(), has: BTreeSet::new(), bytes: 0 }
    }

    /// Adds an empty folder.
    pub(super) fn folder(&mut self, path: &Path) -> Result<(), BundleError> {
        if path != Path::new("/") && self.has.insert(path.to_owned()) {
            self.initramfs.add(text(path)?, Entry::Folder);
        }
        Ok(())
    }

    /// Adds a link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.initramfs.add(path, Entry::Link(target.to_owned()));
    }

    /// The same, but where something has gone in there already.
    pub(super) fn link_unless_there(&mut self, path: &str, target: &str) {
        if !self.has.contains(Path::new(path)) {
            self.link(path, target);
        }
    }

    /// Adds a text.
    pub(super) fn text(&mut self, path: &str, text: &str) {
        self.initramfs.add_file(path, text);
    }

    /// How much it is, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds the modules of a kernel.
    pub(super) fn modules(&mut self, release: &str, modules: &[Module], list: &str) {
        self.initramfs.add_modules(release, modules, list);
    }

    /// Adds a file, or a folder with everything in it, at its own path.
    pub(super) fn tree(&mut self, path: &Path) -> Result<(), BundleError> {
        let mut count = 0;
        let mut waiting = vec![path.to_owned()];
        while let Some(here) = waiting.pop() {
            count += 1;
            if count > FILES_MAX {
                return Err(BundleError::TooMany(path.to_owned()));
            }
            let failed = |source| BundleError::Read { path: here.clone(), source };
            let found = fs::metadata(&here).map_err(failed)?;
            if found.is_dir() {
                self.folder(&here)?;
                for entry in fs::read_dir(&here).map_err(failed)? {
                    waiting.push(entry.map_err(failed)?.path());
                }
            } else if found.is_file() {
                self.file(&here)?;
            }
        }
        Ok(())
    }

    /// Adds a file at its own path.
    pub(super) fn file(&mut self, path: &Path) -> Result<(), BundleError> {
        self.file_as(path, path)
    }

    /// The same at another path.
    pub(super) fn file_as(&mut self, from: &Path, to: &Path) -> Result<(), BundleError> {
        if self.has.contains(to) {
            return Ok(());
        }
        let bytes = self.read(from)?;
        self.add(to, bytes, is_executable(from))
    }

    /// Adds a program of this host at its own path, with everything that it wants.
    pub(super) fn program(&mut self, path: &Path) -> Result<(), BundleError> {
        self.program_as(path, path)
    }

    /// The same at another path.
    pub(super) fn program_as(&mut self, from: &Path, to: &Path) -> Result<(), BundleError> {
        if self.has.contains(to) {
            return Ok(());
        }
        let bytes = self.read(from)?;
        if let Some(interpreter) = script_interpreter(&bytes) {
            self.program(&interpreter)?;
            return self.add(to, bytes, true);
        }
        let failed = |source| BundleError::Elf { path: from.to_owned(), source };
        let linkage = elf::linkage(&bytes).map_err(failed)?;
        self.add(to, elf::loaded(&bytes).map_err(failed)?, true)?;
        if let Some(interpreter) = &linkage.interpreter {
            self.file(Path::new(interpreter))?;
            if Path::new(CACHE_FILE).is_file() {
                self.file(Path::new(CACHE_FILE))?;
            }
        }
        self.libraries_of(from, &linkage)
    }

    /// Adds the libraries that a program wants, and those that they want.
    fn libraries_of(&mut self, program: &Path, linkage: &elf::Linkage) -> Result<(), BundleError> {
        let mut waiting = vec![(program.to_owned(), linkage.clone())];
        while let Some((of, linkage)) = waiting.pop() {
            for name in &linkage.needed {
                let missing = || BundleError::Library { name: name.clone(), of: of.clone() };
                let path = self.libraries.find(name, &of, &linkage).ok_or_else(missing)?;
                if self.has.contains(&path) {
                    continue;
                }
                let bytes = self.read(&path)?;
                let own = elf::linkage(&bytes);
                let mut own = own.map_err(|source| BundleError::Elf { path: path.clone(), source })?;
                // What a program says of folders (DT_RPATH) holds for its libraries, too.
                own.folders.extend(linkage.folders.iter().cloned());
                self.add(&path, bytes, true)?;
                waiting.push((path, own));
            }
        }
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, BundleError> {
        let failed = |source| BundleError::Read { path: path.to_owned(), source };
        // Before it is read: it may be the wrong file by far.
        let bytes = fs::metadata(path).map_err(failed)?.len();
        if self.bytes.saturating_add(bytes) > FILES_BYTES_MAX {
            return Err(BundleError::TooLarge(path.to_owned()));
        }
        fs::read(path).map_err(failed)
    }

    fn add(&mut self, path: &Path, bytes: Vec<u8>, is_program: bool) -> Result<(), BundleError> {
        self.bytes += bytes.len() as u64;
        self.has.insert(path.to_owned());
        self.initramfs.add(text(path)?, Entry::File { bytes, is_program });
        Ok(())
    }

    /// Writes it as the kernel takes it.
    pub(super) fn write(&self, to: impl Write) -> io::Result<()> {
        let mut to = io::BufWriter::new(to);
        // Nobody compares the times of these files.
        self.initramfs.write_unpacked(1, &mut to)?;
        to.flush()
    }
}

fn text(path: &Path) -> Result<&str, BundleError> {
    path.to_str().ok_or_else(|| BundleError::NoText(path.to_owned()))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o111 != 0)
}

/// What runs a script (execve(2)).
fn script_interpreter(bytes: &[u8]) -> Option<PathBuf> {
    let line = bytes.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let path = String::from_utf8_lossy(line).split_whitespace().next()?.to_owned();
    Some(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(bundle: &Bundle) -> Vec<String> {
        bundle.initramfs.entries().map(|(path, _entry)| path.to_owned()).collect()
    }

    #[test]
    fn program_brings_its_loader_and_its_libraries() {
        let own = std::env::current_exe().unwrap();
        let mut bundle = Bundle::new();
        bundle.program_as(&own, Path::new("/init")).unwrap();
        let paths = paths(&bundle);
        for want in ["/init", "/libc.so.6", "/ld-linux-x86-64.so.2"] {
            assert!(paths.iter().any(|path| path.ends_with(want)), "{want}: {paths:?}");
        }
        let bytes = bundle.bytes;
        bundle.program_as(&own, Path::new("/init")).unwrap();
        assert_eq!(bundle.bytes, bytes, "what is in goes in once");
    }

    #[test]
    fn script_brings_what_runs_it() {
        let home = tempfile::tempdir().unwrap();
        let script = home.path().join("node");
        fs::write(&script, "#! /bin/sh -e\nexit 0\n").unwrap();
        let mut bundle = Bundle::new();
        bundle.program(&script).unwrap();
        let paths = paths(&bundle);
        assert!(paths.iter().any(|path| path == "/bin/sh"), "{paths:?}");
        assert!(paths.iter().any(|path| path == script.to_str().unwrap()), "{paths:?}");
    }

    #[test]
    fn folder_brings_all_that_is_in_it() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("image/deep")).unwrap();
        fs::write(home.path().join("image/deep/file"), "x").unwrap();
        let mut bundle = Bundle::new();
        bundle.tree(&home.path().join("image")).unwrap();
        let file = home.path().join("image/deep/file");
        assert!(paths(&bundle).iter().any(|path| path == file.to_str().unwrap()));
    }

    #[test]
    fn what_cannot_go_in_is_named() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        let mut bundle = Bundle::new();
        let error = bundle.file(&path).unwrap_err().to_string();
        assert_eq!(error, format!("cannot read {}, which the guest needs", path.display()));
        let large = fs::File::create(&path).unwrap();
        large.set_len(FILES_BYTES_MAX + 1).unwrap();
        let error = bundle.file(&path).unwrap_err().to_string();
        let want = "what goes into the guest has more than 1024 MiB, which are all that is allowed; with ";
        assert!(error.starts_with(want), "{error}");
        fs::write(&path, "text").unwrap();
        let error = bundle.program(&path).unwrap_err().to_string();
        assert_eq!(error, format!("cannot take {} into the guest", path.display()));
        let lost = elf::Linkage { needed: vec!["libnowhere.so.7".to_owned()], ..elf::Linkage::default() };
        let error = bundle.libraries_of(&path, &lost).unwrap_err().to_string();
        let want = "wants the library libnowhere.so.7, which is not here: a static program needs none";
        assert!(error.ends_with(want), "{error}");
    }
}
