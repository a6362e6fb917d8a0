//! Files that are read again when they have changed, so that what they hold is replaced without a stop.

use std::error::Error;
use std::fmt::{self, Debug, Write as _};
use std::fs::{self, File};
use std::future::pending;
use std::io::Read;
use std::path::{Path, PathBuf};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::limits::{CREDENTIALS_LOOK_INTERVAL, TLS_FILE_BYTES_MAX};

type BoxedError = Box<dyn Error + Send + Sync>;

/// Reads files, and tells those who want to know what they hold.
pub struct FileKeeper<T> {
    /// What they hold, for people: "the tokens".
    what: &'static str,
    paths: Vec<PathBuf>,
    read: Box<dyn Fn() -> Result<T, BoxedError> + Send>,
    /// What was in each of them when they were read last.
    seen: Vec<Option<blake3::Hash>>,
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
        let seen = paths.iter().map(|path| content(path)).collect();
        let (sender, held) = watch::channel(read()?);
        let read = Box::new(move || read().map_err(BoxedError::from));
        Ok((Self { what, paths, read, seen, sender }, held))
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
        let found: Vec<_> = self.paths.iter().map(|path| content(path)).collect();
        if found == self.seen {
            return;
        }
        self.seen = found;
        match (self.read)() {
            Ok(held) => {
                self.sender.send_replace(held);
                tracing::info!("{} have changed, and count as they are now", self.what);
            }
            Err(error) => {
                let (mut text, mut cause) = (error.to_string(), error.source());
                while let Some(reason) = cause {
                    // Writing to a String cannot fail.
                    let _ = write!(text, ": {reason}");
                    cause = reason.source();
                }
                tracing::warn!(
                    error = text,
                    "{} have changed, and what was there before counts on",
                    self.what
                );
            }
        }
    }
}

/// What is in a file, told apart; nothing where it cannot be read.
fn content(path: &Path) -> Option<blake3::Hash> {
    // What never ends cannot be looked at.
    fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(TLS_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    Some(blake3::hash(&bytes))
}

#[cfg(test)]
mod tests {
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
        for (text, want) in [("2", 2), ("x", 2), ("3", 3)] {
            fs::write(&path, text).unwrap();
            keeper.look();
            assert_eq!(*held.borrow(), want, "{text}");
        }
        fs::remove_file(&path).unwrap();
        keeper.look();
        assert!(!held.has_changed().unwrap() || *held.borrow() == 3);
    }
}
