//! Machines whose memory is written down: ended and taken up again where they were, or put back to an earlier state.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use aspen_init::control::Order;
use aspen_init::report::Reason;

use super::disks::{self, DATA_DISK};
use super::{Hypervisor, HypervisorError, VirtualMachine};
use crate::cluster::PutBack;
use crate::limits::POLL_INTERVAL;
use crate::limits::machines::{CONTROL_ANSWER_MAX, LOAD_MAX};
use crate::machine::MachineError;

/// Where the machine's state is while it is suspended.
const SUSPENDED: &str = "suspended";
/// Where the machine's state is to which it will be put back.
const REMEMBERED: &str = "remembered";

/// What a machine is given to keep before it is saved, and after that: by it one can see that its memory is of that time. No clock
/// would do: that of a machine that goes on may go on with that of its host.
const MARK_SAVED: u64 = 1;
const MARK_BEFORE: u64 = 2;

impl VirtualMachine {
    /// Saves it and ends its process; the bytes of what was saved.
    pub(super) fn save_and_end(&mut self) -> Result<u64, MachineError> {
        self.run(false)?;
        let bytes = self.save(SUSPENDED)?;
        self.cut_power()?;
        Ok(bytes)
    }

    /// Goes on from where it was when it was saved and ended.
    pub(super) fn go_on(&mut self) -> Result<(), MachineError> {
        let saved = self.folder.join(SUSPENDED);
        self.go_on_from(&saved)?;
        self.discard(&saved)
    }

    /// Saves it and its disk, during which it stands still; the bytes of what was saved but for the disk.
    pub(super) fn save_and_go_on(&mut self) -> Result<u64, MachineError> {
        let deadline = Instant::now() + CONTROL_ANSWER_MAX;
        self.ask(Order::Mark { mark: MARK_SAVED }, deadline)?;
        self.run(false)?;
        let saved = self.save(REMEMBERED).and_then(|bytes| {
            let copy = self.folder.join(REMEMBERED).join(DATA_DISK);
            disks::copy(&self.folder.join(DATA_DISK), &copy).map_err(|source| self.unsaved(&copy, source))?;
            Ok(bytes)
        });
        self.run(true)?;
        self.ask(Order::Mark { mark: MARK_BEFORE }, Instant::now() + CONTROL_ANSWER_MAX)?;
        saved
    }

    /// Goes back to where it was when it was saved with its disk, hears of it, and goes off.
    pub(super) fn go_back(&mut self, limit: Duration) -> Result<PutBack, MachineError> {
        let deadline = Instant::now() + limit;
        let mark_before = self.health(deadline)?.mark;
        self.cut_power()?;
        let (saved, disk) = (self.folder.join(REMEMBERED), self.folder.join(DATA_DISK));
        fs::rename(saved.join(DATA_DISK), &disk).map_err(|source| self.unsaved(&disk, source))?;
        self.go_on_from(&saved)?;
        let mark_after = self.health(deadline)?.mark;
        self.ask(Order::PutBack, deadline)?;
        // Nobody probes from a machine that is about to go.
        self.prober.runs.store(false, Ordering::Relaxed);
        let Some(running) = &self.running else { return Err(MachineError::NotRunning(self.name.clone())) };
        let left = deadline.saturating_duration_since(Instant::now());
        running.wait(left).map_err(|source| self.failed(source))?;
        self.control.close();
        self.discard(&saved)?;
        let is_retired = self.said()?.exit.is_some_and(|exit| exit.reason == Reason::PutBack);
        Ok(PutBack { mark_saved: MARK_SAVED, mark_before, mark_after, is_retired })
    }

    /// Writes the state of a machine that stands still into a folder of its own; its bytes on the host's disk.
    fn save(&self, name: &str) -> Result<u64, MachineError> {
        let folder = self.folder.join(name);
        self.discard(&folder)?;
        let made = fs::DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|source| self.unsaved(&folder, source))?;
        self.tell(|hypervisor| hypervisor.save(&folder))?;
        disks::bytes_in(&folder).map_err(|source| self.unsaved(&folder, source))
    }

    /// Starts it from what was saved, and lets it go on.
    fn go_on_from(&mut self, saved: &Path) -> Result<(), MachineError> {
        self.begin(Some(saved))?;
        let start = Instant::now();
        while !self.tell(Hypervisor::is_loaded)? {
            if start.elapsed() > LOAD_MAX {
                return Err(MachineError::Load { name: self.name.clone(), waited: LOAD_MAX });
            }
            thread::sleep(POLL_INTERVAL);
        }
        self.run(true)
    }

    /// Removes what was saved, if there is anything.
    fn discard(&self, saved: &Path) -> Result<(), MachineError> {
        match fs::remove_dir_all(saved) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.unsaved(saved, error)),
            _ => Ok(()),
        }
    }

    fn unsaved(&self, path: &Path, source: io::Error) -> MachineError {
        let source = HypervisorError::Saved { path: path.to_owned(), source };
        MachineError::Hypervisor { name: self.name.clone(), source }
    }
}
