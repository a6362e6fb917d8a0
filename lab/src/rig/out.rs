//! What comes out of the guest, put where the same command would have put it here.
//!
//! It only adds: what is there already stays as it is, whatever the guest has made of it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use super::wire::{Entry, EntryKind};
use crate::limits::rig::OUT_FILE_BYTES_MAX;

/// Why something did not come out.
#[derive(Debug, thiserror::Error)]
pub enum OutError {
    /// It cannot be written.
    #[error("what the guest has made cannot be brought out: cannot write {}", .path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The guest speaks of a place that is none of these.
    #[error("the guest wants to bring out {path:?}, which is not below a folder that it was given")]
    Outside {
        /// As the guest says it.
        path: PathBuf,
    },
}

/// Where things come out.
#[derive(Debug)]
pub(super) struct Out {
    roots: Vec<PathBuf>,
    /// The file that comes out now.
    file: Option<(PathBuf, File, u64)>,
    /// What was there already.
    kept: Vec<PathBuf>,
    /// Folders that get their mode in the end, since one that nobody may write can have something in it.
    modes: Vec<(PathBuf, u32)>,
}

impl Out {
    /// Below these folders, which need not exist.
    pub(super) fn new(roots: Vec<PathBuf>) -> Self {
        Self { roots, file: None, kept: vec![], modes: vec![] }
    }

    /// Begins something.
    ///
    /// # Errors
    /// [`OutError`].
    pub(super) fn begin(&mut self, entry: Entry) -> Result<(), OutError> {
        self.file = None;
        let path = self.place(&entry)?;
        let failed = |source| OutError::Write { path: path.clone(), source };
        let made = match entry.kind {
            EntryKind::Folder { mode } => self.folder(&path, mode),
            EntryKind::File { bytes, .. } if bytes > OUT_FILE_BYTES_MAX => {
                Err(io::ErrorKind::FileTooLarge.into())
            }
            EntryKind::File { mode, bytes } => {
                let file = OpenOptions::new().write(true).create_new(true).mode(mode & 0o777).open(&path);
                file.and_then(|file| {
                    file.set_len(bytes)?;
                    self.file = Some((path.clone(), file, bytes));
                    Ok(())
                })
            }
            EntryKind::Link { target } => symlink(PathBuf::from(target), &path),
        };
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.kept.push(path);
                Ok(())
            }
            made => made.map_err(failed),
        }
    }

    /// Writes bytes of the file that came last.
    ///
    /// # Errors
    /// [`OutError`].
    pub(super) fn data(&mut self, place: u64, bytes: &[u8]) -> Result<(), OutError> {
        // That of a file that was there already goes nowhere.
        let Some((path, file, length)) = &self.file else { return Ok(()) };
        let failed = |source| OutError::Write { path: path.clone(), source };
        if place.saturating_add(bytes.len() as u64) > *length {
            return Err(failed(io::ErrorKind::FileTooLarge.into()));
        }
        file.write_all_at(bytes, place).map_err(failed)
    }

    /// Comes to an end: the paths that were there already.
    ///
    /// # Errors
    /// [`OutError`].
    pub(super) fn finish(&mut self) -> Result<Vec<PathBuf>, OutError> {
        self.file = None;
        for (path, mode) in self.modes.drain(..).rev() {
            let set = fs::set_permissions(&path, Permissions::from_mode(mode));
            set.map_err(|source| OutError::Write { path, source })?;
        }
        Ok(std::mem::take(&mut self.kept))
    }

    fn folder(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {
                self.modes.push((path.to_owned(), mode & 0o777));
                Ok(())
            }
            // A folder that is there takes what is new. A link to one is the user's own way to it, or is none of ours.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let is_root = self.roots.iter().any(|root| root == path);
                let is_folder = if is_root { path.is_dir() } else { fs::symlink_metadata(path)?.is_dir() };
                if is_folder { Ok(()) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    /// Where it goes: below its root, in a folder that is one.
    fn place(&self, entry: &Entry) -> Result<PathBuf, OutError> {
        let path = PathBuf::from(entry.path.clone());
        let outside = || OutError::Outside { path: path.clone() };
        let root = self.roots.get(entry.root).ok_or_else(outside)?;
        if path.as_os_str().is_empty() {
            // Nobody has named those above it to the guest.
            let above = root.parent().unwrap_or(Path::new("/"));
            let made = fs::create_dir_all(above);
            made.map_err(|source| OutError::Write { path: above.to_owned(), source })?;
            return Ok(root.clone());
        }
        if !path.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(outside());
        }
        let to = root.join(&path);
        // A link that the guest has made leads elsewhere; folders come before what is in them.
        let mut above = to.ancestors().skip(1).take_while(|folder| folder.starts_with(root));
        let is_folder = |folder: &Path| fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir());
        if above.all(|folder| folder == root || is_folder(folder)) { Ok(to) } else { Err(outside()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: EntryKind) -> Entry {
        Entry { root: 0, path: Path::new(path).into(), kind }
    }

    const FOLDER: EntryKind = EntryKind::Folder { mode: 0o500 };

    fn file(bytes: u64) -> EntryKind {
        EntryKind::File { mode: 0o640, bytes }
    }

    #[test]
    fn folders_files_and_links_come_out_as_they_are_and_holes_stay_holes() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("deep/runs");
        let mut out = Out::new(vec![root.clone()]);
        out.begin(entry("", FOLDER)).unwrap();
        out.begin(entry("a", FOLDER)).unwrap();
        out.begin(entry("a/disk", file(1 << 30))).unwrap();
        out.data((1 << 30) - 3, b"end").unwrap();
        let target = Path::new("a/disk").into();
        out.begin(entry("link", EntryKind::Link { target })).unwrap();
        assert_eq!(out.finish().unwrap(), Vec::<PathBuf>::new());
        let found = fs::metadata(root.join("a/disk")).unwrap();
        assert_eq!((found.len(), found.permissions().mode() & 0o777), (1 << 30, 0o640));
        assert!(std::os::unix::fs::MetadataExt::blocks(&found) < 1000, "it is sparse");
        assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new("a/disk"));
        assert_eq!(fs::metadata(root.join("a")).unwrap().permissions().mode() & 0o777, 0o500);
        fs::set_permissions(root.join("a"), Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn what_is_there_stays_as_it_is_and_is_told() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("notes"), "mine").unwrap();
        let mut out = Out::new(vec![home.path().to_owned()]);
        out.begin(entry("", FOLDER)).unwrap();
        out.begin(entry("notes", file(3))).unwrap();
        out.data(0, b"its").unwrap();
        assert_eq!(out.finish().unwrap(), [home.path().join("notes")]);
        assert_eq!(fs::read_to_string(home.path().join("notes")).unwrap(), "mine");
    }

    #[test]
    fn nothing_comes_out_beside_its_folder() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("runs");
        let mut out = Out::new(vec![root.clone()]);
        out.begin(entry("", FOLDER)).unwrap();
        out.begin(entry("link", EntryKind::Link { target: home.path().into() })).unwrap();
        for path in ["../x", "/etc/x", "a/../../x", "link/x", "nowhere/x"] {
            let error = out.begin(entry(path, file(0))).unwrap_err().to_string();
            assert!(error.ends_with("which is not below a folder that it was given"), "{path}: {error}");
        }
        let elsewhere = Entry { root: 1, ..entry("x", file(0)) };
        assert!(matches!(out.begin(elsewhere), Err(OutError::Outside { .. })));
        out.begin(entry("small", file(2))).unwrap();
        assert!(out.data(1, b"ab").is_err(), "it is longer than was said");
        assert!(!home.path().join("x").exists());
    }
}
