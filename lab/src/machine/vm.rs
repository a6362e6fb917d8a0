//! A node as a virtual machine that boots the appliance, whatever the hypervisor.
//!
//! A machine is a process of its hypervisor. To kill it is to cut its power; its disks are files and stay. It does not know what
//! its node does: how that ended is on the console.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use aspen_init::control::{Health, Order};

use self::block::ServedDisk;
use self::console::{ConsoleWatch, Said};
use self::control::{ControlChannel, ControlSocket};
use self::disks::Home;
use self::prober::MachineProber;
use super::cloud_hypervisor::api::ApiError;
use super::qemu::qmp::QmpError;
use super::{Machine, MachineError, Prober};
use crate::cluster::{Boot, ClockReading, Footprint, PowerCut, Vitals};
use crate::fabric::TapError;
use crate::fabric::namespace::Namespace;
use crate::limits::machines::{HEALTH_ANSWER_MAX, POWER_BUTTON_INTERVAL};
use crate::limits::{PAUSE_WAIT_MAX, POLL_INTERVAL};
use crate::plan::ClockError;
use crate::program::confine::Confinement;
use crate::program::{Exit, ProcessStat, Program, ProgramError, ProgramLog, Running, tail};

pub(super) mod block;
mod clock;
pub mod console;
pub mod control;
pub(super) mod disks;
mod ending;
mod power;
mod prober;
mod saved;

/// Words for the guest's kernel. Of a kernel that panics nothing is left but its last words: it restarts at once, and a
/// machine that restarts ends. A busy host can be so late with the first ticks that the kernel takes the timer for broken, and
/// panics: virtual timers need no check.
pub(super) const KERNEL_WORDS: &str = "console=ttyS0 quiet panic=-1 no_timer_check";

/// What a kernel says last that was given nothing to boot from.
pub(super) const NO_DISK: &str = "VFS: Unable to mount root fs";

/// The hypervisor of one machine, over all its starts: what only it knows how to do.
pub(super) trait Hypervisor: Debug + Send {
    /// As messages name it.
    fn name(&self) -> &'static str;

    /// What to start for the machine's next life, which goes on from what [`save`](Self::save) has written where that is given.
    /// Every socket is a new one.
    ///
    /// # Errors
    /// Descriptors cannot be had, or what was saved cannot be read.
    fn launch(&mut self, saved: Option<&Path>) -> Result<Launch, HypervisorError>;

    /// Writes the state of a machine that stands still, all but its disks, into a folder that is empty.
    ///
    /// # Errors
    /// It refuses, does not answer, or there is no room.
    fn save(&mut self, folder: &Path) -> Result<(), HypervisorError>;

    /// Whether a machine that was launched from what was saved has read it and stands still.
    ///
    /// # Errors
    /// It does not answer.
    fn is_loaded(&mut self) -> Result<bool, HypervisorError>;

    /// The process of the last launch is gone.
    fn forget(&mut self);

    /// Whether the processors run.
    ///
    /// # Errors
    /// It does not answer.
    fn state(&mut self) -> Result<RunState, HypervisorError>;

    /// Stops the processors, or lets them go on; they may still be at it when this returns.
    ///
    /// # Errors
    /// It refuses or does not answer.
    fn run(&mut self, is_running: bool) -> Result<(), HypervisorError>;

    /// Presses the power button.
    ///
    /// # Errors
    /// It refuses or does not answer.
    fn press_power_button(&mut self) -> Result<(), HypervisorError>;

    /// The threads of process `pid` that run the processors.
    ///
    /// # Errors
    /// It does not answer.
    fn processors(&mut self, pid: u32) -> Result<Vec<u32>, HypervisorError>;
}

/// One life of a machine, before it begins.
#[derive(Debug)]
pub(super) struct Launch {
    /// The hypervisor with all its arguments.
    pub(super) program: Program,
    /// Where it runs, if not where the lab does.
    pub(super) namespace: Option<Namespace>,
    /// Where the appliance's control channel will be.
    pub(super) control: ControlSocket,
    /// What it may read beside the machine's own folder, in which it works.
    pub(super) reads: Vec<PathBuf>,
    /// Whether its output is the machine's console, which it writes elsewhere otherwise.
    pub(super) prints_console: bool,
}

/// What a hypervisor does with its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunState {
    /// As the hypervisor names it.
    pub name: String,
    /// Whether its processors run.
    pub is_running: bool,
}

/// Why a hypervisor did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// QEMU.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// Cloud Hypervisor.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The machine's place in the network.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// What was saved of a machine.
    #[error("cannot use what was saved in {}", .path.display())]
    Saved {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// A node as a virtual machine.
#[derive(Debug)]
pub struct VirtualMachine {
    name: String,
    hypervisor: Mutex<Box<dyn Hypervisor>>,
    /// Its disks and what it says: all that its hypervisor may write.
    folder: PathBuf,
    /// What the hypervisor itself says.
    complaints: PathBuf,
    console: PathBuf,
    watch: Arc<Mutex<ConsoleWatch>>,
    log: ProgramLog,
    control: Arc<ControlChannel>,
    prober: Arc<MachineProber>,
    /// Its data disk, if that can lose its power.
    disk: Option<ServedDisk>,
    running: Option<Running>,
}

impl VirtualMachine {
    /// A machine that was not started yet. Its console is appended to a file, and so is what the hypervisor says.
    pub(super) fn new(name: &str, hypervisor: Box<dyn Hypervisor>, home: Home, log: ProgramLog) -> Self {
        let Home { folder, console, served_disk: disk, .. } = home;
        let complaints = folder.join(format!("{}.log", hypervisor.name()));
        let watch = Arc::new(Mutex::new(ConsoleWatch::new(&console)));
        let control = Arc::new(ControlChannel::default());
        let runs = AtomicBool::new(false);
        let prober = MachineProber { control: control.clone(), watch: watch.clone(), runs };
        Self {
            name: name.to_owned(),
            hypervisor: Mutex::new(hypervisor),
            folder,
            complaints,
            console,
            watch,
            log,
            control,
            prober: Arc::new(prober),
            disk,
            running: None,
        }
    }

    /// What its console has said since its last start.
    ///
    /// # Errors
    /// The console cannot be read.
    pub fn said(&self) -> Result<Said, MachineError> {
        let source = |source| self.failed(ProgramError::File { path: self.console.clone(), source });
        lock(&self.watch).look().cloned().map_err(source)
    }

    fn alive(&self) -> Result<&Running, MachineError> {
        let alive = self.running.as_ref().filter(|running| running.exited().is_none());
        alive.ok_or_else(|| MachineError::NotRunning(self.name.clone()))
    }

    fn failed(&self, source: ProgramError) -> MachineError {
        MachineError::Program { name: self.name.clone(), source }
    }

    /// Talks with the hypervisor of a machine that runs.
    fn tell<T>(
        &self,
        talk: impl FnOnce(&mut (dyn Hypervisor + 'static)) -> Result<T, HypervisorError>,
    ) -> Result<T, MachineError> {
        self.alive()?;
        let answer = talk(lock(&self.hypervisor).as_mut());
        answer.map_err(|source| MachineError::Hypervisor { name: self.name.clone(), source })
    }

    /// Has the processors stopped or not, and waits until it is so.
    fn run(&self, is_running: bool) -> Result<(), MachineError> {
        let start = Instant::now();
        self.prober.runs.store(is_running, Ordering::Relaxed);
        self.tell(|hypervisor| hypervisor.run(is_running))?;
        loop {
            let state = self.tell(Hypervisor::state)?;
            if state.is_running == is_running {
                return Ok(());
            }
            if start.elapsed() > PAUSE_WAIT_MAX {
                let (name, state) = (self.name.clone(), state.name);
                return Err(MachineError::RunState { name, state, waited: PAUSE_WAIT_MAX });
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Presses the power button until the machine is off: one that boots may not have seen it.
    fn press_until_off(&self, limit: Duration) -> Result<Exit, MachineError> {
        let deadline = Instant::now() + limit;
        loop {
            let pressed = self.tell(Hypervisor::press_power_button);
            let running = self.running.as_ref().ok_or_else(|| MachineError::NotRunning(self.name.clone()))?;
            let left = deadline.saturating_duration_since(Instant::now());
            match running.wait(POWER_BUTTON_INTERVAL.min(left)) {
                Ok(exit) => return Ok(exit),
                // Whoever does not answer may be going off: what it said counts if it is there in the end.
                Err(ProgramError::TimedOut { .. }) if Instant::now() < deadline => {}
                Err(source) => return Err(pressed.err().unwrap_or_else(|| self.failed(source))),
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

    /// Starts it, from nothing or from what was saved.
    fn begin(&mut self, saved: Option<&Path>) -> Result<(), MachineError> {
        if self.alive().is_ok() {
            return Err(MachineError::Running(self.name.clone()));
        }
        let launch = {
            let mut hypervisor = lock(&self.hypervisor);
            hypervisor.forget();
            hypervisor.launch(saved)
        };
        let failed = |source| MachineError::Hypervisor { name: self.name.clone(), source };
        let Launch { program, namespace, control, reads, prints_console } = launch.map_err(failed)?;
        if let Some(disk) = &mut self.disk {
            let failed = |source| MachineError::Disk { name: self.name.clone(), source };
            disk.connect().map_err(failed)?;
        }
        self.control.open(control);
        if saved.is_none() {
            // One that goes on has said already what it says when it begins.
            lock(&self.watch).begin();
        }
        let output = if prints_console { &self.console } else { &self.complaints };
        let confinement =
            Confinement { reads, writes: vec![self.folder.clone()], devices: vec!["/dev/kvm".into()] };
        let program = program.in_folder(&self.folder).confined(confinement).errors_to(&self.complaints);
        let started = program.start(namespace.as_ref(), output, &self.log);
        self.running = Some(started.map_err(|source| self.failed(source))?);
        Ok(())
    }

    /// Ends the process; its disks stay.
    fn end(&mut self) -> Result<Exit, MachineError> {
        let Some(running) = &mut self.running else {
            return Err(MachineError::NotRunning(self.name.clone()));
        };
        self.prober.runs.store(false, Ordering::Relaxed);
        let killed = running.kill();
        lock(&self.hypervisor).forget();
        self.control.close();
        // One that is still there has its disk.
        if let Some(disk) = self.disk.as_mut().filter(|_| killed.is_ok()) {
            disk.disconnect();
        }
        killed.map_err(|source| self.failed(source))
    }
}

impl Machine for VirtualMachine {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self) -> Result<(), MachineError> {
        self.begin(None)?;
        self.prober.runs.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn kill(&mut self) -> Result<Exit, MachineError> {
        let exited = self.exited();
        let killed = self.end()?;
        // A node that had ended by itself was not killed by anybody. It may have said so in the last moment.
        let ended = ending::unasked(&self.said()?);
        Ok(exited.or(ended).unwrap_or(killed))
    }

    fn cut_power(&mut self, draw: u32) -> Result<PowerCut, MachineError> {
        power::cut(self, draw)
    }

    fn terminate(&mut self, limit: Duration) -> Result<Exit, MachineError> {
        if let Some(exit) = self.exited().filter(|_| !self.runs()) {
            return Ok(exit);
        }
        if !self.tell(Hypervisor::state)?.is_running {
            // A machine that stands still sees no button.
            self.run(true)?;
        }
        let has_restarted = self.has_restarted();
        let exit = self.press_until_off(limit)?;
        lock(&self.hypervisor).forget();
        let exit = self.node_exit(exit)?;
        Ok(if has_restarted && exit == Exit::Code(0) { ending::UNCLEAR } else { exit })
    }

    fn pause(&mut self) -> Result<(), MachineError> {
        self.run(false)
    }

    fn resume(&mut self) -> Result<(), MachineError> {
        self.run(true)
    }

    fn suspend(&mut self) -> Result<u64, MachineError> {
        saved::suspend(self)
    }

    fn restore(&mut self) -> Result<(), MachineError> {
        saved::restore(self)
    }

    fn snapshot(&mut self) -> Result<u64, MachineError> {
        saved::snapshot(self)
    }

    fn roll_back(&mut self) -> Result<(), MachineError> {
        saved::roll_back(self)
    }

    fn retire(&mut self, limit: Duration) -> Result<bool, MachineError> {
        saved::retire(self, limit)
    }

    fn has_clock(&self) -> bool {
        true
    }

    fn read_clock(&self) -> Result<ClockReading, MachineError> {
        clock::read(self)
    }

    fn break_clock(&self, error: ClockError) -> Result<(), MachineError> {
        clock::make_wrong(self, error)
    }

    fn mend_clock(&self) -> Result<Duration, MachineError> {
        clock::mend(self)
    }

    fn runs(&self) -> bool {
        let stat = self.alive().ok().and_then(|running| ProcessStat::read(running.pid()));
        stat.is_some_and(|stat| !stat.has_ended())
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

    fn defect(&self) -> Option<String> {
        self.disk.as_ref().and_then(ServedDisk::failure)
    }

    fn has_lost_hypervisor(&self) -> bool {
        let exit = self.running.as_ref().and_then(Running::exited);
        // A machine that goes off, for whatever reason, has a hypervisor that ends well.
        let is_told = || {
            let said = self.said().ok();
            said.is_some_and(|said| ending::unasked(&said).or_else(|| ending::of_machine(&said)).is_some())
        };
        exit.is_some_and(|exit| exit != Exit::Code(0)) && !is_told()
    }

    fn observe(&self) -> Result<Vitals, MachineError> {
        let pid = self.alive()?.pid();
        // How its node is would stay hidden if the console could not be read.
        self.said()?;
        let (state, processors) =
            self.tell(|hypervisor| Ok((hypervisor.state()?, hypervisor.processors(pid)?)))?;
        if processors.is_empty() {
            // Nothing would be seen of them whether they run or not.
            return Err(MachineError::NoProcessors(self.name.clone()));
        }
        let ticks = processors.iter().map(|thread| {
            let stat = ProcessStat::read_thread(pid, *thread);
            stat.map(|stat| stat.cpu_ticks).ok_or_else(|| MachineError::NotRunning(self.name.clone()))
        });
        let cpu_ticks = ticks.sum::<Result<u64, _>>()?;
        Ok(Vitals { is_paused: !state.is_running, cpu_ticks })
    }

    fn footprint(&self) -> Result<Footprint, MachineError> {
        let gone = || MachineError::NotRunning(self.name.clone());
        let memory_bytes = ProcessStat::peak_memory(self.alive()?.pid()).ok_or_else(gone)?;
        let ready = self.said()?.ready;
        let boot = ready.zip(lock(&self.watch).ready_after()).map(|(ready, after)| Boot {
            hypervisor_ms: u64::try_from(after.as_millis())
                .unwrap_or(u64::MAX)
                .saturating_sub(ready.uptime_ms),
            kernel_ms: ready.kernel_ms,
            init_ms: ready.init_ms,
            disk_ms: ready.disk_ms,
            node_ms: ready.node_ms,
        });
        Ok(Footprint { memory_bytes, boot })
    }

    fn console_tail(&self) -> String {
        let console = tail(&self.console).unwrap_or_default();
        let complaints = tail(&self.complaints).unwrap_or_default();
        let hypervisor = lock(&self.hypervisor).name();
        if complaints.is_empty() { console } else { format!("{console}\n{hypervisor} says:\n{complaints}") }
    }

    fn prober(&self) -> Arc<dyn Prober> {
        self.prober.clone()
    }
}

impl Drop for VirtualMachine {
    fn drop(&mut self) {
        // First, so that it makes nothing anew. Most have ended already.
        let _ended = self.end();
        // As large as its memory; where it cannot be removed it stays.
        saved::discard_all(self);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
