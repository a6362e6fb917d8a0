//! A machine: something that runs a node, can be killed, stopped and started again, and has one port
//! on the fabric.
//!
//! A machine does not know the cluster, nor what its program does.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use self::vm::HypervisorError;
use self::vm::block::BlockError;
use self::vm::control::ControlError;
use crate::cluster::{ClockReading, Footprint, PowerCut, Vitals};
use crate::fabric::{self, TapError};
use crate::plan::ClockError;
use crate::program::{Exit, ProgramError};
use crate::volume::MountError;

pub mod calibration;
pub mod cloud_hypervisor;
pub mod cluster;
pub mod driver;
pub mod kvm;
mod networks;
mod node_files;
pub mod probe;
pub mod process;
pub mod qemu;
pub mod simulation;
pub mod vm;

/// What every driver's machine can do. A machine that is dropped is killed.
pub trait Machine: Send {
    /// Its name in the scenario.
    fn name(&self) -> &str;

    /// Starts it, for the first time or again. Its disk and its port are those that it had.
    ///
    /// # Errors
    /// It runs already, or it cannot be started.
    fn start(&mut self) -> Result<(), MachineError>;

    /// Ends it at once, as a pulled plug does, and says how it ended: by signal 9, unless it had ended
    /// by itself before.
    ///
    /// # Errors
    /// It was not started, or the host cannot kill it.
    fn kill(&mut self) -> Result<Exit, MachineError>;

    /// Ends it at once, and has its disk lose what was not synced, or a part of it that `draw` decides.
    ///
    /// # Errors
    /// As [`kill`](Self::kill); its disk is none that loses anything, or cannot be mounted again.
    fn cut_power(&mut self, _draw: u32) -> Result<PowerCut, MachineError> {
        Err(MachineError::KeepsAll(self.name().to_owned()))
    }

    /// What of the lab's own does not work in it.
    fn defect(&self) -> Option<String> {
        None
    }

    /// Asks it to stop and waits.
    ///
    /// # Errors
    /// It was not started, or does not stop within `limit`: then it still runs.
    fn terminate(&mut self, limit: Duration) -> Result<Exit, MachineError>;

    /// Freezes it, and returns once it stands still.
    ///
    /// # Errors
    /// It does not run, or does not stand still within
    /// [`PAUSE_WAIT_MAX`](crate::limits::PAUSE_WAIT_MAX).
    fn pause(&mut self) -> Result<(), MachineError>;

    /// Lets it go on, and returns once it does.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    fn resume(&mut self) -> Result<(), MachineError>;

    /// Writes down what is in its memory and ends it; the bytes that were written.
    ///
    /// # Errors
    /// It does not run, is no machine of its own, or does not obey.
    fn suspend(&mut self) -> Result<u64, MachineError> {
        Err(MachineError::Process(self.name().to_owned()))
    }

    /// Starts it again as it was when it was suspended, and lets it go on from there.
    ///
    /// # Errors
    /// It was not suspended, or does not start.
    fn restore(&mut self) -> Result<(), MachineError> {
        Err(MachineError::Process(self.name().to_owned()))
    }

    /// Writes down what is in its memory and on its disk, during which it stands still, and lets it go on; the bytes that were
    /// written of its memory.
    ///
    /// # Errors
    /// As [`suspend`](Self::suspend).
    fn snapshot(&mut self) -> Result<u64, MachineError> {
        Err(MachineError::Process(self.name().to_owned()))
    }

    /// Ends it, and lets it go on from its [snapshot](Self::snapshot), which is used up.
    ///
    /// # Errors
    /// It does not run or has none, or it does not start.
    fn roll_back(&mut self) -> Result<(), MachineError> {
        Err(MachineError::Process(self.name().to_owned()))
    }

    /// Tells it that it was rolled back, and waits until it has gone off; whether it said that this is why.
    ///
    /// # Errors
    /// It does not run, or has not gone off within `limit`.
    fn retire(&mut self, _limit: Duration) -> Result<bool, MachineError> {
        Err(MachineError::Process(self.name().to_owned()))
    }

    /// Whether it has clocks of its own.
    fn has_clock(&self) -> bool {
        false
    }

    /// Reads its time of day.
    ///
    /// # Errors
    /// It does not answer, or has no clock of its own.
    fn read_clock(&self) -> Result<ClockReading, MachineError> {
        Err(MachineError::Process(self.name().to_owned()))
    }

    /// Makes its clocks wrong.
    ///
    /// # Errors
    /// As [`read_clock`](Self::read_clock).
    fn break_clock(&self, _error: ClockError) -> Result<(), MachineError> {
        Err(MachineError::Process(self.name().to_owned()))
    }

    /// Makes its clocks right, and returns how long that took: they may be behind by so much.
    ///
    /// # Errors
    /// As [`read_clock`](Self::read_clock).
    fn mend_clock(&self) -> Result<Duration, MachineError> {
        Err(MachineError::Process(self.name().to_owned()))
    }

    /// Whether the host sees its process.
    fn runs(&self) -> bool;

    /// How it ended, if it was started and has ended.
    fn exited(&self) -> Option<Exit>;

    /// Whether what has ended is its hypervisor, which says nothing of its node.
    fn has_lost_hypervisor(&self) -> bool {
        false
    }

    /// What the host sees of it.
    ///
    /// # Errors
    /// It does not run.
    fn observe(&self) -> Result<Vitals, MachineError>;

    /// What it takes of its host.
    ///
    /// # Errors
    /// It does not run.
    fn footprint(&self) -> Result<Footprint, MachineError>;

    /// The end of its console, over all its starts.
    fn console_tail(&self) -> String;

    /// Sends probes from its place in the network. It works beside the machine, while that is being ordered about.
    fn prober(&self) -> Arc<dyn Prober>;
}

/// Reaches out from one machine's place in the network. A probe is a TCP SYN; a SYN-ACK or a RST is its answer (RFC 9293,
/// 3.5).
pub trait Prober: Debug + Send + Sync {
    /// Returns the time until the probe was answered.
    ///
    /// # Errors
    /// [`ProbeError::Unanswered`] after `timeout` (at most [`PROBE_MAX`](crate::limits::PROBE_MAX)) of silence; anything
    /// else says nothing about the network.
    fn probe(&self, to: SocketAddr, timeout: Duration) -> Result<Duration, ProbeError>;

    /// Whether probes are sent and answered there now. A virtual machine that is off, boots or stands still does neither.
    fn takes_part(&self) -> bool;
}

/// A fault that is switched off in secret, to prove that its receipt is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The fabric does not do what it says.
    Fabric(fabric::Sabotage),
    /// A pause freezes nobody.
    IgnorePauses,
    /// A kill kills nobody.
    IgnoreKills,
    /// A disk loses nothing.
    IgnorePowerCuts,
    /// A machine that is suspended goes on.
    IgnoreSuspends,
    /// A machine is not put back.
    IgnoreRollbacks,
    /// Clocks stay right.
    IgnoreClocks,
}

/// Why a machine did not do as told.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Asked for what only a machine of its own can do.
    #[error(
        "{0} is a process on this host: only a virtual machine can be saved, put back, or have a clock of its own"
    )]
    Process(String),
    /// Its disk is the host's.
    #[error("the disk of {0} loses nothing")]
    KeepsAll(String),
    /// Its disk.
    #[error("the disk of {name}")]
    Volume {
        /// The machine.
        name: String,
        /// What went wrong.
        source: MountError,
    },
    /// Its disk, where that is the lab's own.
    #[error("the disk of {name}")]
    Disk {
        /// The machine.
        name: String,
        /// What went wrong.
        source: BlockError,
    },
    /// It does not go on from what was saved.
    #[error(
        "{name} did not go on from what was saved of it within {waited:?}; the end of its console:\n{console_end}"
    )]
    Load {
        /// The machine.
        name: String,
        /// How long it was waited for, if it did not end before.
        waited: Duration,
        /// The last that it and its hypervisor have printed.
        console_end: String,
    },
    /// The appliance in it.
    #[error("machine {name}")]
    Control {
        /// The machine.
        name: String,
        /// What went wrong.
        source: ControlError,
    },
    /// Started twice.
    #[error("{0} runs already")]
    Running(String),
    /// Not started, or ended.
    #[error("{0} does not run")]
    NotRunning(String),
    /// Nothing would be seen of a pause.
    #[error("no thread of {0}'s hypervisor runs a processor, by its names")]
    NoProcessors(String),
    /// SIGSTOP or SIGCONT had no effect in time.
    #[error("{name} is still in state {state} after {waited:?}")]
    State {
        /// The machine.
        name: String,
        /// Its process's state (proc(5)).
        state: char,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A hypervisor did not stop its processors or let them go on in time.
    #[error("{name} is still {state} after {waited:?}")]
    RunState {
        /// The machine.
        name: String,
        /// As the hypervisor names it.
        state: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The hypervisor.
    #[error("machine {name}")]
    Hypervisor {
        /// The machine.
        name: String,
        /// What went wrong.
        source: HypervisorError,
    },
    /// A virtual machine is gone, and nobody knows how its node ended.
    #[error("machine {name} went off ({exit}) and did not say that its node was asked to stop and did")]
    Unexplained {
        /// The machine.
        name: String,
        /// How its hypervisor ended.
        exit: Exit,
    },
    /// Its program.
    #[error("machine {name}")]
    Program {
        /// The machine.
        name: String,
        /// What went wrong.
        source: ProgramError,
    },
    /// Its place in the fabric.
    #[error("network of machine {name}")]
    Network {
        /// The machine.
        name: String,
        /// What went wrong.
        source: TapError,
    },
}

/// Why a probe brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Silence: neither an acceptance nor a refusal came back.
    #[error("no answer within {0:?}")]
    Unanswered(Duration),
    /// The probe itself could not be made: it says nothing about the network.
    #[error("cannot probe")]
    Local(#[source] io::Error),
    /// The machine to probe from does not obey: it says nothing about the network either.
    #[error("the machine cannot probe")]
    Machine(#[source] Box<ControlError>),
    /// The namespace to probe from cannot be entered.
    #[error("cannot probe from there")]
    Namespace(#[source] TapError),
}
