//! The QEMU driver: a node is a virtual machine on the processor, or on an emulated one.
//!
//! A machine is one process of QEMU, in a network namespace in which nothing is. It has what it talks over as open descriptors:
//! the sockets on which it listens for the lab, and those of its network cards.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use self::arguments::{CARD_DESCRIPTOR, CONTROL_DESCRIPTOR, QMP_DESCRIPTOR, STATE_DESCRIPTOR};
use self::frames::FramePort;
use self::qmp::{Qmp, QmpError};
use super::vm::control::ControlSocket;
use super::vm::{Hypervisor, HypervisorError, Launch, RunState};
use crate::fabric::TapError;
use crate::fabric::namespace::Namespace;
use crate::fabric::packet::MachineTap;
use crate::limits::machines::{SAVE_LOOK_INTERVAL, SAVE_MAX};
use crate::program::Program;

pub mod arguments;
mod frames;
pub mod nodes;
pub mod qmp;
pub mod trial;

/// The file of what was saved, in its folder.
const STATE: &str = "state";

/// What a network card is connected with, over all starts of its machine.
#[derive(Debug)]
pub(super) enum Port {
    /// On the switch.
    Frames(FramePort),
    /// On the kernel's fabric.
    Tap(MachineTap),
}

impl Port {
    /// For the next start. What waits there for a machine that is gone is lost.
    fn connect(&self) -> Result<Arc<OwnedFd>, TapError> {
        match self {
            Self::Frames(port) => Ok(Arc::new(port.connect()?)),
            Self::Tap(tap) => tap.connect().map(|(descriptor, _namespace)| descriptor),
        }
    }
}

/// Abstract sockets in the lab's network namespace, on which QEMU listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sockets {
    /// Of the machine protocol.
    pub(super) qmp: String,
    /// Of the appliance's control channel.
    pub(super) control: String,
}

/// One machine's QEMU, over all its starts.
#[derive(Debug)]
pub(super) struct Qemu {
    program: Program,
    /// What it boots.
    reads: Vec<PathBuf>,
    /// Where it runs.
    namespace: Namespace,
    /// Card by card.
    ports: Vec<Port>,
    sockets: Sockets,
    /// The connection to the process that runs.
    qmp: Option<Qmp>,
}

impl Qemu {
    /// `program` has all its arguments.
    ///
    /// # Errors
    /// No network namespace can be made.
    pub(super) fn new(
        program: Program,
        reads: Vec<PathBuf>,
        ports: Vec<Port>,
        sockets: Sockets,
    ) -> Result<Self, TapError> {
        Ok(Self { program, reads, namespace: Namespace::create()?, ports, sockets, qmp: None })
    }

    /// Talks with QEMU, over the connection that there is or a new one.
    fn qmp<T>(&mut self, talk: impl FnOnce(&mut Qmp) -> Result<T, QmpError>) -> Result<T, HypervisorError> {
        let mut qmp = match self.qmp.take() {
            Some(qmp) => qmp,
            None => Qmp::connect(&self.sockets.qmp)?,
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

/// A socket that listens by this name, of which nothing is left when all who have it are gone.
fn listener(name: &str) -> Result<Arc<OwnedFd>, QmpError> {
    let bound = SocketAddr::from_abstract_name(name).and_then(|address| UnixListener::bind_addr(&address));
    let listener = bound.map_err(|source| QmpError::Io { doing: "listening for qemu", source })?;
    Ok(Arc::new(listener.into()))
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

    /// The sockets of the last process went with it: the next one's are new though they have the same names.
    fn launch(&mut self, saved: Option<&Path>) -> Result<Launch, HypervisorError> {
        let mut program = self
            .program
            .clone()
            .descriptor(listener(&self.sockets.qmp)?, QMP_DESCRIPTOR)
            .descriptor(listener(&self.sockets.control)?, CONTROL_DESCRIPTOR);
        for (number, port) in (CARD_DESCRIPTOR..).zip(&self.ports) {
            program = program.descriptor(port.connect()?, number);
        }
        if let Some(folder) = saved {
            let socket = send_file(&folder.join(STATE))?;
            program = program
                .descriptor(socket, STATE_DESCRIPTOR)
                .args(["-incoming".to_owned(), format!("fd:{STATE_DESCRIPTOR}")]);
        }
        let namespace = Some(self.namespace.try_clone()?);
        let control = ControlSocket::Abstract(self.sockets.control.clone());
        Ok(Launch { program, namespace, control, reads: self.reads.clone(), prints_console: false })
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
