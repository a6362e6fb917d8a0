//! Network namespaces, held by descriptor: the kernel keeps one for as long as somebody holds it.
//!
//! No namespace gets a name or a mount, so that nothing is left when the lab ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use super::TapError;

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Makes a new, empty network namespace.
    ///
    /// # Errors
    /// No permission (`CAP_SYS_ADMIN` in the current user namespace), or too many namespaces.
    pub fn create() -> Result<Self, TapError> {
        // A namespace belongs to a thread: the caller's own stays what it was.
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| TapError::Io {
                doing: "making a network namespace",
                source: errno.into(),
            })?;
            Self::current()
        })?
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn current() -> Result<Self, TapError> {
        let file = File::open("/proc/thread-self/ns/net")
            .map_err(|source| TapError::Io { doing: "opening /proc/thread-self/ns/net", source })?;
        Ok(Self { file })
    }

    /// Another hold on the same namespace.
    ///
    /// # Errors
    /// Too many open files.
    pub fn try_clone(&self) -> Result<Self, TapError> {
        let file = self.file.try_clone();
        let file = file.map_err(|source| TapError::Io { doing: "holding a network namespace", source })?;
        Ok(Self { file })
    }

    /// Runs `work` on a thread inside the namespace and returns what it returned. Sockets and programs
    /// that it starts stay in the namespace.
    ///
    /// # Errors
    /// The thread could not be started or may not enter.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, TapError> {
        on_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| TapError::Io {
                doing: "entering a network namespace",
                source: errno.into(),
            })?;
            Ok(work())
        })?
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Runs `work` on a thread of its own, and panics where it panics.
fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, TapError> {
    thread::scope(|scope| {
        let spawned = thread::Builder::new().name("namespace".to_owned()).spawn_scoped(scope, work);
        let handle =
            spawned.map_err(|source: io::Error| TapError::Io { doing: "starting a thread", source })?;
        handle.join().map_err(|panic| std::panic::resume_unwind(panic))
    })
}
