//! A machine's data disk that loses its power: the lab itself serves it to the hypervisor, and keeps what a disk's cache would
//! lose.
//!
//! It is connected anew at every start of its machine, over a socket in the machine's folder, and outlives it.

mod device;
mod disk;
mod request;

#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use self::device::{Device, Shared};
use self::disk::Disk;
use crate::limits::machines::POWER_CUT_CHANCES_MAX;
use crate::volume::{Loss, Lost};

/// The socket over which a hypervisor has its machine's disk, as its folder has it.
pub(in crate::machine) const SOCKET: &str = "data.socket";

/// Why a disk is not there.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// Its file.
    #[error("cannot use {} as a disk", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// What its hypervisor connects to.
    #[error("cannot listen at {}", .path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// What answers.
    #[error("cannot make a device of {}: {why}", .path.display())]
    Device {
        /// The disk's file.
        path: PathBuf,
        /// In the words of the library.
        why: String,
    },
}

/// A disk that the lab serves.
#[derive(Debug)]
pub(in crate::machine) struct ServedDisk {
    path: PathBuf,
    shared: Arc<Shared>,
    serving: Option<Serving>,
}

/// What answers the machine of one life.
#[derive(Debug)]
struct Serving {
    listener: UnixListener,
    thread: JoinHandle<()>,
}

impl ServedDisk {
    /// The disk in a file. Nobody is connected with it.
    ///
    /// # Errors
    /// The file cannot be read and written.
    pub(in crate::machine) fn open(path: &Path) -> Result<Self, BlockError> {
        let disk = Disk::open(path).map_err(|source| BlockError::File { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), shared: Arc::new(Shared::new(disk)), serving: None })
    }

    /// Gives it its power, and waits in the background for the one hypervisor that connects.
    ///
    /// # Errors
    /// There can be no socket beside its file, or no thread.
    pub(in crate::machine) fn connect(&mut self) -> Result<(), BlockError> {
        self.disconnect();
        let failed = |why: String| BlockError::Device { path: self.path.clone(), why };
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let device = Device::new(self.shared.clone(), memory.clone());
        let device = Arc::new(device.map_err(|error| failed(error.to_string()))?);
        let daemon = VhostUserDaemon::new("disk".to_owned(), device, memory);
        let mut daemon = daemon.map_err(|error| failed(error.to_string()))?;
        let socket = self.path.with_file_name(SOCKET);
        let unheard = |source| BlockError::Socket { path: socket.clone(), source };
        let listener = listen(&socket).map_err(unheard)?;
        let mut accepting = Listener::from(listener.try_clone().map_err(unheard)?);
        let serve = move || {
            // A hypervisor that ends, as it may at any time, breaks the connection. One that is refused something says so itself.
            if daemon.start(&mut accepting).is_ok() {
                let _broken = daemon.wait();
            }
        };
        self.shared.disk().turn_on();
        let thread = thread::Builder::new().name("disk".to_owned()).spawn(serve).map_err(unheard)?;
        self.serving = Some(Serving { listener, thread });
        Ok(())
    }

    /// Waits until nothing of its machine is left, whose hypervisor has ended.
    pub(in crate::machine) fn disconnect(&mut self) {
        let Some(Serving { listener, thread }) = self.serving.take() else { return };
        // Whoever still waits for a connection stops: it has failed then, or was shut down already.
        let _shut = shutdown(listener.as_raw_fd(), Shutdown::Both);
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
        // It is in nobody's way.
        let _removed = fs::remove_file(self.path.with_file_name(SOCKET));
    }

    /// Has its power fail as soon as that shows, at a moment that `draw` decides: from then on it answers nobody.
    pub(in crate::machine) fn fail(&self, draw: u32) {
        let mut random = ChaCha8Rng::seed_from_u64(draw.into());
        // Another one than that of what is lost: the moment says nothing of it.
        random.set_stream(1);
        self.shared.disk().fail_at(random.random_range(1..=POWER_CUT_CHANCES_MAX));
    }

    /// Why its file did not do what a disk does, if it did not: the machine has seen an error of its disk then.
    pub(in crate::machine) fn failure(&self) -> Option<String> {
        let disk = self.shared.disk();
        disk.failure()
            .map(|why| format!("{}, which is a machine's disk, has failed: {why}", self.path.display()))
    }

    /// Waits until its power has failed, or so long.
    pub(in crate::machine) fn await_failure(&self, limit: Duration) {
        self.shared.await_off(limit);
    }

    /// Takes what was not flushed, or a part of it that `draw` decides. Its machine has to be gone.
    ///
    /// # Errors
    /// Its file cannot be read or written.
    pub(in crate::machine) fn cut(&mut self, draw: u32) -> Result<Lost, BlockError> {
        self.disconnect();
        let mut random = ChaCha8Rng::seed_from_u64(draw.into());
        let loss = Loss::draw_felt(&mut random);
        let cut = self.shared.disk().cut(loss, &mut random);
        cut.map_err(|source| BlockError::File { path: self.path.clone(), source })
    }
}

impl Drop for ServedDisk {
    fn drop(&mut self) {
        self.disconnect();
    }
}

/// Listens at a path, whatever its length.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // By the folder's descriptor: the path of a socket has 107 bytes at most, and that of a run may have more.
    let folder = File::open(folder)?;
    UnixListener::bind(Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}
