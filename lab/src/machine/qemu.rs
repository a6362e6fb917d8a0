//! The QEMU driver: a node is a virtual machine on the processor, or on an emulated one.

use std::path::PathBuf;

use self::arguments::TAP_DESCRIPTOR;
use self::qmp::{Qmp, QmpError};
use super::vm::control::ControlSocket;
use super::vm::{Hypervisor, HypervisorError, Launch, RunState};
use crate::fabric::packet::MachineTap;
use crate::limits::machines::QEMU_START_MAX;
use crate::program::Program;

pub mod arguments;
pub mod nodes;
pub mod qmp;
pub mod trial;

/// One machine's QEMU, over all its starts.
#[derive(Debug)]
pub(super) struct Qemu {
    program: Program,
    /// What it boots.
    reads: Vec<PathBuf>,
    /// Its place on the kernel's fabric, if it has one.
    tap: Option<MachineTap>,
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
        tap: Option<MachineTap>,
        qmp_socket: String,
        control_socket: String,
    ) -> Self {
        Self { program, reads, tap, qmp_socket, control_socket, qmp: None }
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
}

impl Hypervisor for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    /// Abstract sockets are gone with the process that had them: the next one's are new though they have the same names.
    fn launch(&mut self) -> Result<Launch, HypervisorError> {
        let control = ControlSocket::Abstract(self.control_socket.clone());
        let (mut program, reads) = (self.program.clone(), self.reads.clone());
        if let Some(tap) = &self.tap {
            // It stays where the lab is, whose sockets it has.
            let (descriptor, _namespace) = tap.connect()?;
            program = program.descriptor(descriptor, TAP_DESCRIPTOR);
        }
        Ok(Launch { program, namespace: None, control, reads, prints_console: false })
    }

    fn forget(&mut self) {
        self.qmp = None;
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
