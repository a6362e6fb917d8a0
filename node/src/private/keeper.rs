//! Files that are read again when they have changed, so that what they hold is replaced without a stop.

use std::error::Error;
use std::fmt::{self, Debug};
use std::fs;
use std::future::pending;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::causes::with_causes;
use crate::limits::CREDENTIALS_LOOK_INTERVAL;

type BoxedError = Box<dyn Error + Send + Sync>;

/// Reads files, and tells those who want to know what they hold.
pub struct FileKeeper<T> {
    /// What they hold, for people: "the tokens".
    what: &'static str,
    paths: Vec<PathBuf>,
    read: Box<dyn Fn() -> Result<T, BoxedError> + Send>,
    /// How each of them was when they were read last.
    seen: Vec<Option<State>>,
    /// What was wrong with them since, as far as it was said.
    said: Option<String>,
    sender: watch::Sender<T>,
}

impl<T> Debug for FileKeeper<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileKeeper").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> FileKeeper<T> {
    /// Reads the files at `paths`; what they hold, as it changes.
    ///
    /// # Errors
    /// They do not hold what they should.
    pub fn new<E: Error + Send + Sync + 'static>(
        what: &'static str,
        paths: Vec<PathBuf>,
        read: impl Fn() -> Result<T, E> + Send + 'static,
    ) -> Result<(Self, watch::Receiver<T>), E> {
        // First, so that a change meanwhile is noticed later.
        let seen = paths.iter().map(|path| State::of(path)).collect();
        let (sender, held) = watch::channel(read()?);
        let read = Box::new(move || read().map_err(BoxedError::from));
        Ok((Self { what, paths, read, seen, said: None, sender }, held))
    }

    /// Looks at them for as long as it runs. What is wrong is logged, and what was there before counts on.
    pub async fn run(self) {
        if self.paths.is_empty() {
            return pending().await;
        }
        let mut keeper = self;
        loop {
            sleep(CREDENTIALS_LOOK_INTERVAL).await;
            let look = spawn_blocking(move || {
                keeper.look();
                keeper
            });
            // The node stops.
            let Ok(back) = look.await else { return };
            keeper = back;
        }
    }

    fn look(&mut self) {
        let found: Vec<_> = self.paths.iter().map(|path| State::of(path)).collect();
        if found == self.seen {
            return;
        }
        match (self.read)() {
            Ok(held) => {
                (self.seen, self.said) = (found, None);
                self.sender.send_replace(held);
                tracing::info!("{} were read again, and count as they are now", self.what);
            }
            Err(error) => {
                let text = with_causes(&*error);
                // It is tried again until it is right, and said once.
                if self.said.as_ref() != Some(&text) {
                    tracing::warn!(
                        error = text,
                        "{} cannot be used as they are now, and what was read before counts on",
                        self.what
                    );
                    self.said = Some(text);
                }
            }
        }
    }
}

/// A file, told from itself at another time. What is in it is not read for that: it may be a secret.
#[derive(Debug, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    mode: u32,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl State {
    /// As it is now; nothing where it is not.
    fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self {
            device: file.dev(),
            inode: file.ino(),
            mode: file.mode(),
            bytes: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("no number")]
    struct NoNumber;

    #[test]
    fn what_is_wrong_does_not_take_the_place_of_what_was_right() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        fs::write(&path, "1").unwrap();
        let read = {
            let path = path.clone();
            move || fs::read_to_string(&path).ok().and_then(|text| text.parse::<u8>().ok()).ok_or(NoNumber)
        };
        let (mut keeper, held) = FileKeeper::new("numbers", vec![path.clone()], read).unwrap();
        for (text, want) in [("22", 22), ("x", 22), ("3", 3)] {
            fs::write(&path, text).unwrap();
            keeper.look();
            assert_eq!(*held.borrow(), want, "{text}");
        }
        fs::remove_file(&path).unwrap();
        keeper.look();
        assert_eq!((*held.borrow(), keeper.said.as_deref()), (3, Some("no number")));
    }

    /// What was wrong may be put right without a change of what is in it.
    #[test]
    fn file_that_could_not_be_read_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        fs::write(&path, "1").unwrap();
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let read = {
            let path = path.clone();
            move || {
                let is_private = fs::metadata(&path).is_ok_and(|file| file.mode().trailing_zeros() >= 6);
                is_private.then(|| fs::read_to_string(&path).unwrap()).ok_or(NoNumber)
            }
        };
        mode(0o600);
        let (mut keeper, held) = FileKeeper::new("numbers", vec![path.clone()], read).unwrap();
        fs::write(&path, "22").unwrap();
        mode(0o644);
        keeper.look();
        assert_eq!(*held.borrow(), "1");
        mode(0o600);
        keeper.look();
        assert_eq!(*held.borrow(), "22");
    }
}
