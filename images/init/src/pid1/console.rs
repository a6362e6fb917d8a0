//! The console: one line at a time, whole, whoever writes it.
//!
//! Nobody can be told when the console itself fails; the machine goes on without it.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use aspen_init::report::{Line, without_marks};
use nix::sys::termios::tcdrain;

/// Where the lines go.
#[derive(Debug)]
pub(super) struct Console {
    // Nothing, when there is none.
    file: Mutex<Option<File>>,
}

impl Console {
    /// The console of this machine.
    pub(super) fn open() -> Self {
        Self::at(Path::new("/dev/console"))
    }

    /// Any file.
    pub(super) fn at(path: &Path) -> Self {
        Self { file: Mutex::new(OpenOptions::new().append(true).open(path).ok()) }
    }

    /// Something that a human may want to know.
    pub(super) fn say(&self, text: impl Display) {
        self.write(&format!("aspen-init: {text}\n"));
    }

    /// Something that a program reads.
    pub(super) fn report(&self, line: &Line) {
        self.write(&format!("{line}\n"));
    }

    /// A line of somebody else, who may write anything, but nothing that a program takes for ours.
    pub(super) fn relay(&self, line: &str) {
        self.write(&format!("{}\n", without_marks(line)));
    }

    /// Waits until everything is out.
    pub(super) fn drain(&self) {
        if let Some(file) = &*self.file.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = tcdrain(file);
        }
    }

    fn write(&self, text: &str) {
        if let Some(file) = &mut *self.file.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = file.write_all(text.as_bytes());
        }
    }
}
