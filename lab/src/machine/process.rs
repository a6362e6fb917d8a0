//! The process driver: a node is a process in a network namespace of its own, with an interface on the
//! fabric. The namespace and the interface outlive the process, so that a restart finds the same network.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::probe::NamespaceProber;
use super::{Machine, MachineError, Prober};
use crate::cluster::{Footprint, PowerCut, Vitals};
use crate::fabric::namespace::Namespace;
use crate::limits::{PAUSE_WAIT_MAX, POLL_INTERVAL};
use crate::program::{Exit, ProcessStat, Program, ProgramError, ProgramLog, Running, tail};

mod disk;
pub(super) mod nodes;

pub use self::disk::LossyDisk;

/// A node as a process.
#[derive(Debug)]
pub struct ProcessMachine {
    name: String,
    namespace: Namespace,
    prober: Arc<NamespaceProber>,
    program: Program,
    console: PathBuf,
    log: ProgramLog,
    /// Where its node keeps everything, if that may be lost.
    disk: Option<LossyDisk>,
    running: Option<Running>,
}

impl ProcessMachine {
    /// A machine whose place in the network is this namespace. Nothing is started yet. `console` is the file to which all
    /// its output is appended.
    ///
    /// # Errors
    /// [`MachineError::Network`].
    pub fn new(
        name: &str,
        namespace: Namespace,
        program: Program,
        console: PathBuf,
        log: ProgramLog,
    ) -> Result<Self, MachineError> {
        // A machine that is being ordered about keeps its namespace.
        let prober = namespace.try_clone().map(|namespace| Arc::new(NamespaceProber::new(namespace)));
        let prober = prober.map_err(|source| MachineError::Network { name: name.to_owned(), source })?;
        Ok(Self {
            name: name.to_owned(),
            namespace,
            prober,
            program,
            console,
            log,
            disk: None,
            running: None,
        })
    }

    /// The same, whose power can be cut.
    #[must_use]
    pub fn with_disk(self, disk: Option<LossyDisk>) -> Self {
        Self { disk, ..self }
    }

    /// Its network namespace: where probes from this machine start.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its process, once it was started.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Running::pid)
    }

    fn alive(&self) -> Result<&Running, MachineError> {
        let alive = self.running.as_ref().filter(|running| running.exited().is_none());
        alive.ok_or_else(|| MachineError::NotRunning(self.name.clone()))
    }

    fn failed(&self, source: ProgramError) -> MachineError {
        MachineError::Program { name: self.name.clone(), source }
    }

    fn stat(&self) -> Result<ProcessStat, MachineError> {
        let not_running = || MachineError::NotRunning(self.name.clone());
        ProcessStat::read(self.alive()?.pid()).filter(|stat| !stat.has_ended()).ok_or_else(not_running)
    }

    /// Sends the signal and waits until the process is stopped or not, as it should be.
    fn signal_until(&self, signal: Signal, is_paused: bool) -> Result<(), MachineError> {
        let start = Instant::now();
        self.alive()?.signal(signal).map_err(|source| self.failed(source))?;
        loop {
            let state = self.stat()?.state;
            if (state == 'T') == is_paused {
                return Ok(());
            }
            if start.elapsed() > PAUSE_WAIT_MAX {
                return Err(MachineError::State { name: self.name.clone(), state, waited: PAUSE_WAIT_MAX });
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Machine for ProcessMachine {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self) -> Result<(), MachineError> {
        if self.alive().is_ok() {
            return Err(MachineError::Running(self.name.clone()));
        }
        let started = self.program.start(Some(&self.namespace), &self.console, &self.log);
        self.running = Some(started.map_err(|source| self.failed(source))?);
        Ok(())
    }

    fn kill(&mut self) -> Result<Exit, MachineError> {
        let Some(running) = &mut self.running else {
            return Err(MachineError::NotRunning(self.name.clone()));
        };
        let killed = running.kill();
        killed.map_err(|source| self.failed(source))
    }

    fn cut_power(&mut self, draw: u32) -> Result<PowerCut, MachineError> {
        let name = self.name.clone();
        let failed = |source| MachineError::Volume { name: name.clone(), source };
        let Some(mut disk) = self.disk.take() else { return Err(MachineError::KeepsAll(name)) };
        // Whatever the node does, there is something to lose.
        let written = disk.write_unsynced();
        let ended = self.kill();
        let lost = written.and_then(|()| disk.cut(draw));
        self.disk = Some(disk);
        let (exit, lost) = (ended?, lost.map_err(failed)?);
        Ok(PowerCut { exit, lost })
    }

    fn terminate(&mut self, limit: Duration) -> Result<Exit, MachineError> {
        let Some(running) = &self.running else {
            return Err(MachineError::NotRunning(self.name.clone()));
        };
        let asked = running.signal(Signal::SIGTERM).and_then(|exit| match exit {
            Some(exit) => Ok(Some(exit)),
            // A frozen process takes no signal before it goes on.
            None => running.signal(Signal::SIGCONT),
        });
        let ended = asked.and_then(|exit| exit.map_or_else(|| running.wait(limit), Ok));
        ended.map_err(|source| self.failed(source))
    }

    fn pause(&mut self) -> Result<(), MachineError> {
        self.signal_until(Signal::SIGSTOP, true)
    }

    fn resume(&mut self) -> Result<(), MachineError> {
        self.signal_until(Signal::SIGCONT, false)
    }

    fn runs(&self) -> bool {
        self.stat().is_ok()
    }

    fn exited(&self) -> Option<Exit> {
        self.running.as_ref().and_then(Running::exited)
    }

    fn observe(&self) -> Result<Vitals, MachineError> {
        let stat = self.stat()?;
        Ok(Vitals { is_paused: stat.state == 'T', cpu_ticks: stat.cpu_ticks })
    }

    fn footprint(&self) -> Result<Footprint, MachineError> {
        let running = self.running.as_ref().filter(|running| running.exited().is_none());
        let memory_bytes = running.and_then(|running| ProcessStat::peak_memory(running.pid()));
        let memory_bytes = memory_bytes.ok_or_else(|| MachineError::NotRunning(self.name.clone()))?;
        Ok(Footprint { memory_bytes, boot: None })
    }

    fn console_tail(&self) -> String {
        tail(&self.console).unwrap_or_default()
    }

    fn prober(&self) -> Arc<dyn Prober> {
        self.prober.clone()
    }
}

#[cfg(test)]
mod tests;
