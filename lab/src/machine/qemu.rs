//! The QEMU driver: a node is a virtual machine on the processor, or on an emulated one.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use self::arguments::{STATE_DESCRIPTOR, TAP_DESCRIPTOR};
use self::qmp::{Qmp, QmpError};
use super::vm::control::ControlSocket;
use super::vm::{Hypervisor, HypervisorError, Launch, RunState};
use crate::fabric::packet::MachineTap;
use crate::limits::machines::{QEMU_START_MAX, SAVE_LOOK_INTERVAL, SAVE_MAX};
use crate::program::Program;

pub mod arguments;
pub mod nodes;
pub mod qmp;
pub mod trial;

/// The file of what was saved, in its folder.
const STATE: &str = "state";

/// One machine's QEMU, over all its starts.
#[derive(Debug)]
pub(super) struct Qemu {
    program: Program,
    /// What it boots.
    reads: Vec<PathBuf>,
    /// Its places on the kernel's fabric, network by network, if it is there.
    taps: Vec<MachineTap>,
    /// The abstract socket of the machine protocol.
    qmp_socket: String,
    /// The abstract socket of the control channel.
    control_socket: String,
    /// The connection to the process that runs.
    qmp: Option<Qmp>,
}

impl Qemu {
    pub(super) fn new(
        program: Program,
        reads: Vec<PathBuf>,
        taps: Vec<MachineTap>,
        qmp_socket: String,
        control_socket: String,
    ) -> Self {
        Self { program, reads, taps, qmp_socket, control_socket, qmp: None }
    }

    /// Talks with QEMU, over the connection that there is or a new one.
    fn qmp<T>(&mut self, talk: impl FnOnce(&mut Qmp) -> Result<T, QmpError>) -> Result<T, HypervisorError> {
        let mut qmp = match self.qmp.take() {
            Some(qmp) => qmp,
            None => Qmp::connect(&self.qmp_socket, QEMU_START_MAX)?,
        };
        let answer = talk(&mut qmp)?;
        // A connection on which something went wrong may hold the rest of an answer.
        self.qmp = Some(qmp);
        Ok(answer)
    }

    /// Waits until the machine is written down.
    fn await_saved(&mut self) -> Result<(), HypervisorError> {
        let start = Instant::now();
        while !self.qmp(Qmp::is_saved)? {
            if start.elapsed() > SAVE_MAX {
                return Err(QmpError::Slow { doing: "writing the machine down", limit: SAVE_MAX }.into());
            }
            thread::sleep(SAVE_LOOK_INTERVAL);
        }
        Ok(())
    }
}

fn unsaved(path: &Path, source: io::Error) -> HypervisorError {
    HypervisorError::Saved { path: path.to_owned(), source }
}

/// Writes what comes from a socket into a new file, on a thread of its own. A socket, since not every QEMU takes a file.
struct Receiver {
    thread: JoinHandle<io::Result<u64>>,
    /// Our end, for whoever gives up.
    near: UnixStream,
}

impl Receiver {
    /// Begins to receive; the other end.
    fn start(path: &Path) -> io::Result<(Self, UnixStream)> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let (near, far) = UnixStream::pair()?;
        let mut from = near.try_clone()?;
        let receive = move || {
            let copied = io::copy(&mut from, &mut file);
            // Where no more can be written, QEMU has to know that nobody reads on.
            let _closed = from.shutdown(Shutdown::Both);
            copied
        };
        let thread = thread::Builder::new().name("save".to_owned()).spawn(receive)?;
        Ok((Self { thread, near }, far))
    }

    /// Waits until all is written that comes; where nobody waits for more, nothing more comes.
    fn finish(self, is_whole: bool) -> io::Result<u64> {
        if !is_whole {
            // It may be closed already.
            let _closed = self.near.shutdown(Shutdown::Both);
        }
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Sends a file to a socket, on a thread of its own, as long as anybody reads it.
fn send_file(path: &Path) -> Result<Arc<OwnedFd>, HypervisorError> {
    let failed = |source| unsaved(path, source);
    let mut file = File::open(path).map_err(failed)?;
    let (mut near, far) = UnixStream::pair().map_err(failed)?;
    // QEMU stops to read when it has what it needs, or complains of what it lacks.
    let send = move || drop(io::copy(&mut file, &mut near));
    thread::Builder::new().name("load".to_owned()).spawn(send).map_err(failed)?;
    Ok(Arc::new(far.into()))
}

impl Hypervisor for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    /// Abstract sockets are gone with the process that had them: the next one's are new though they have the same names.
    fn launch(&mut self, saved: Option<&Path>) -> Result<Launch, HypervisorError> {
        let control = ControlSocket::Abstract(self.control_socket.clone());
        let (mut program, reads) = (self.program.clone(), self.reads.clone());
        for (number, tap) in (TAP_DESCRIPTOR..).zip(&self.taps) {
            // It stays where the lab is, whose sockets it has.
            let (descriptor, _namespace) = tap.connect()?;
            program = program.descriptor(descriptor, number);
        }
        if let Some(folder) = saved {
            let socket = send_file(&folder.join(STATE))?;
            program = program
                .descriptor(socket, STATE_DESCRIPTOR)
                .args(["-incoming".to_owned(), format!("fd:{STATE_DESCRIPTOR}")]);
        }
        Ok(Launch { program, namespace: None, control, reads, prints_console: false })
    }

    fn forget(&mut self) {
        self.qmp = None;
    }

    fn save(&mut self, folder: &Path) -> Result<(), HypervisorError> {
        let path = folder.join(STATE);
        let (receiver, socket) = Receiver::start(&path).map_err(|source| unsaved(&path, source))?;
        let begun = self.qmp(|qmp| qmp.save_to(socket.as_fd()));
        // QEMU has it now, and with its end ends what is written.
        drop(socket);
        let saved = begun.and_then(|()| self.await_saved());
        // Where nothing could be written, that is why QEMU could not save.
        receiver.finish(saved.is_ok()).map_err(|source| unsaved(&path, source))?;
        saved
    }

    fn is_loaded(&mut self) -> Result<bool, HypervisorError> {
        // Everything else is on the way there.
        Ok(self.qmp(Qmp::query_status)?.status == "paused")
    }

    fn state(&mut self) -> Result<RunState, HypervisorError> {
        let state = self.qmp(Qmp::query_status)?;
        Ok(RunState { name: state.status, is_running: state.running })
    }

    fn run(&mut self, is_running: bool) -> Result<(), HypervisorError> {
        self.qmp(|qmp| if is_running { qmp.cont() } else { qmp.stop() })
    }

    fn press_power_button(&mut self) -> Result<(), HypervisorError> {
        self.qmp(Qmp::system_powerdown)
    }

    fn processors(&mut self, _pid: u32) -> Result<Vec<u32>, HypervisorError> {
        let processors = self.qmp(Qmp::query_cpus)?;
        Ok(processors.iter().map(|processor| processor.thread_id).collect())
    }
}
