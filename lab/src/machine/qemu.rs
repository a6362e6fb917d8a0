//! The QEMU driver: a node is a virtual machine that boots the appliance, on the processor or emulated.
//!
//! A machine is a process of QEMU. To kill it is to cut its power; its disks are files and stay. It does not know what its node
//! does: how that ended is on the console.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use aspen_init::control::{Health, Order};

use self::console::{ConsoleWatch, Said};
use self::control::ControlChannel;
use self::prober::MachineProber;
use self::qmp::{Qmp, QmpError};
use super::{Machine, MachineError, Prober};
use crate::cluster::Vitals;
use crate::limits::machines::{HEALTH_ANSWER_MAX, POWER_BUTTON_INTERVAL, QEMU_START_MAX};
use crate::limits::{PAUSE_WAIT_MAX, POLL_INTERVAL};
use crate::program::{Exit, ProcessStat, Program, ProgramError, ProgramLog, Running, tail};

pub mod arguments;
pub mod console;
pub mod control;
mod ending;
pub mod nodes;
mod prober;
pub mod qmp;
pub mod trial;

/// A node as a virtual machine.
#[derive(Debug)]
pub struct QemuMachine {
    name: String,
    program: Program,
    /// What QEMU itself says.
    complaints: PathBuf,
    console: PathBuf,
    watch: Arc<Mutex<ConsoleWatch>>,
    log: ProgramLog,
    /// The abstract socket of the machine protocol.
    qmp_socket: String,
    control: Arc<ControlChannel>,
    prober: Arc<MachineProber>,
    running: Option<Running>,
    /// The connection to the process that runs.
    qmp: Mutex<Option<Qmp>>,
}

/// What a machine is made from.
#[derive(Debug)]
pub struct QemuParts {
    /// QEMU with all its arguments.
    pub program: Program,
    /// The file to which QEMU's own output is appended.
    pub complaints: PathBuf,
    /// The file to which the machine's console is appended.
    pub console: PathBuf,
    /// The abstract socket of the machine protocol.
    pub qmp_socket: String,
    /// The abstract socket of the control channel.
    pub control_socket: String,
}

impl QemuMachine {
    /// A machine that was not started yet.
    pub fn new(name: &str, parts: QemuParts, log: ProgramLog) -> Self {
        let QemuParts { program, complaints, console, qmp_socket, control_socket } = parts;
        let watch = Arc::new(Mutex::new(ConsoleWatch::new(&console)));
        let control = Arc::new(ControlChannel::new(control_socket));
        let runs = AtomicBool::new(false);
        let prober = MachineProber { control: control.clone(), watch: watch.clone(), runs };
        Self {
            name: name.to_owned(),
            program,
            complaints,
            watch,
            console,
            log,
            qmp_socket,
            control,
            prober: Arc::new(prober),
            running: None,
            qmp: Mutex::new(None),
        }
    }

    /// What its console has said since its last start.
    ///
    /// # Errors
    /// The console cannot be read.
    pub fn said(&self) -> Result<Said, MachineError> {
        let source = |source| MachineError::Program {
            name: self.name.clone(),
            source: ProgramError::File { path: self.console.clone(), source },
        };
        lock(&self.watch).look().cloned().map_err(source)
    }

    fn alive(&self) -> Result<&Running, MachineError> {
        let alive = self.running.as_ref().filter(|running| running.exited().is_none());
        alive.ok_or_else(|| MachineError::NotRunning(self.name.clone()))
    }

    fn failed(&self, source: ProgramError) -> MachineError {
        MachineError::Program { name: self.name.clone(), source }
    }

    /// Talks with QEMU, over the connection that there is or a new one.
    fn qmp<T>(&self, talk: impl FnOnce(&mut Qmp) -> Result<T, QmpError>) -> Result<T, MachineError> {
        self.alive()?;
        let mut slot = lock(&self.qmp);
        let failed = |source: QmpError| MachineError::Qmp { name: self.name.clone(), source };
        let mut qmp = match slot.take() {
            Some(qmp) => qmp,
            None => Qmp::connect(&self.qmp_socket, QEMU_START_MAX).map_err(failed)?,
        };
        let answer = talk(&mut qmp).map_err(failed)?;
        // A connection on which something went wrong may hold the rest of an answer.
        *slot = Some(qmp);
        Ok(answer)
    }

    /// Tells QEMU to stop the processors or not, and waits until it is so.
    fn run(&self, is_running: bool) -> Result<(), MachineError> {
        let start = Instant::now();
        self.prober.runs.store(is_running, Ordering::Relaxed);
        self.qmp(|qmp| if is_running { qmp.cont() } else { qmp.stop() })?;
        loop {
            let state = self.qmp(Qmp::query_status)?;
            if state.running == is_running {
                return Ok(());
            }
            if start.elapsed() > PAUSE_WAIT_MAX {
                let (name, state) = (self.name.clone(), state.status);
                return Err(MachineError::RunState { name, state, waited: PAUSE_WAIT_MAX });
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Presses the power button until the machine is off: one that boots may not have seen it.
    fn press_until_off(&self, limit: Duration) -> Result<Exit, MachineError> {
        let deadline = Instant::now() + limit;
        loop {
            match self.qmp(Qmp::system_powerdown) {
                // It has just gone off.
                Err(_) if !self.runs() => {}
                pressed => pressed?,
            }
            let running = self.running.as_ref().ok_or_else(|| MachineError::NotRunning(self.name.clone()))?;
            let left = deadline.saturating_duration_since(Instant::now());
            match running.wait(POWER_BUTTON_INTERVAL.min(left)) {
                Ok(exit) => return Ok(exit),
                Err(ProgramError::TimedOut { .. }) if Instant::now() < deadline => {}
                Err(source) => return Err(self.failed(source)),
            }
        }
    }

    /// Whether the appliance has started its node again. The console may not tell: a line of the kernel may have come into that
    /// of the appliance.
    fn has_restarted(&self) -> bool {
        // A machine that does not answer still boots, or has come to an end of its own.
        let answer = self.control.ask(Order::Health, HEALTH_ANSWER_MAX).ok();
        let health = answer.and_then(|answer| serde_json::from_value::<Health>(answer).ok());
        health.is_some_and(|health| health.restarts > 0)
    }

    /// How the node of a machine that is off ended.
    fn node_exit(&self, exit: Exit) -> Result<Exit, MachineError> {
        let unexplained = || MachineError::Unexplained { name: self.name.clone(), exit };
        ending::of_machine(&self.said()?).ok_or_else(unexplained)
    }

    /// Ends the process; its disks stay.
    fn cut_power(&mut self) -> Result<Exit, MachineError> {
        let Some(running) = &mut self.running else {
            return Err(MachineError::NotRunning(self.name.clone()));
        };
        self.prober.runs.store(false, Ordering::Relaxed);
        let killed = running.kill();
        *lock(&self.qmp) = None;
        self.control.close();
        killed.map_err(|source| self.failed(source))
    }
}

impl Machine for QemuMachine {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self) -> Result<(), MachineError> {
        if self.alive().is_ok() {
            return Err(MachineError::Running(self.name.clone()));
        }
        *lock(&self.qmp) = None;
        self.control.close();
        lock(&self.watch).begin();
        let started = self.program.start(None, &self.complaints, &self.log);
        self.running = Some(started.map_err(|source| self.failed(source))?);
        self.prober.runs.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn kill(&mut self) -> Result<Exit, MachineError> {
        let exited = self.exited();
        let killed = self.cut_power()?;
        // A node that had ended by itself was not killed by anybody. It may have said so in the last moment.
        let ended = ending::unasked(&self.said()?);
        Ok(exited.or(ended).unwrap_or(killed))
    }

    fn terminate(&mut self, limit: Duration) -> Result<Exit, MachineError> {
        if let Some(exit) = self.exited().filter(|_| !self.runs()) {
            return Ok(exit);
        }
        if !self.qmp(Qmp::query_status)?.running {
            // A machine that stands still sees no button.
            self.run(true)?;
        }
        let has_restarted = self.has_restarted();
        let exit = self.press_until_off(limit)?;
        let exit = self.node_exit(exit)?;
        Ok(if has_restarted && exit == Exit::Code(0) { ending::UNCLEAR } else { exit })
    }

    fn pause(&mut self) -> Result<(), MachineError> {
        self.run(false)
    }

    fn resume(&mut self) -> Result<(), MachineError> {
        self.run(true)
    }

    fn runs(&self) -> bool {
        let stat = self.alive().ok().and_then(|running| ProcessStat::read(running.pid()));
        stat.is_some_and(|stat| stat.state != 'Z')
    }

    fn exited(&self) -> Option<Exit> {
        let running = self.running.as_ref()?;
        let exited = running.exited();
        // A node that ended unasked has ended, though the machine starts it again.
        let said = self.said().ok();
        if let Some(exit) = said.as_ref().and_then(ending::unasked) {
            return Some(exit);
        }
        let exit = exited?;
        // Killed, or ended without a word: the console says what there is to say.
        let told = said.as_ref().and_then(ending::of_machine);
        Some(told.unwrap_or(if exit == Exit::Code(0) { ending::UNCLEAR } else { exit }))
    }

    fn observe(&self) -> Result<Vitals, MachineError> {
        let pid = self.alive()?.pid();
        // How its node is would stay hidden if the console could not be read.
        self.said()?;
        let state = self.qmp(Qmp::query_status)?;
        let processors = self.qmp(Qmp::query_cpus)?;
        let ticks = processors.iter().map(|processor| {
            let stat = ProcessStat::read_thread(pid, processor.thread_id);
            stat.map(|stat| stat.cpu_ticks).ok_or_else(|| MachineError::NotRunning(self.name.clone()))
        });
        let cpu_ticks = ticks.sum::<Result<u64, _>>()?;
        Ok(Vitals { is_paused: !state.running, cpu_ticks })
    }

    fn console_tail(&self) -> String {
        let console = tail(&self.console).unwrap_or_default();
        let complaints = tail(&self.complaints).unwrap_or_default();
        if complaints.is_empty() { console } else { format!("{console}\nqemu says:\n{complaints}") }
    }

    fn prober(&self) -> Arc<dyn Prober> {
        self.prober.clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
