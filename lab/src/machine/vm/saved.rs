//! Machines whose memory is written down: suspended and taken up again where they were, or rolled back to an earlier state.

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
use super::{Hypervisor, HypervisorError, VirtualMachine, clock, lock};
use crate::limits::POLL_INTERVAL;
use crate::limits::machines::LOAD_MAX;
use crate::machine::{Machine, MachineError};

/// Where the machine's state is while it is suspended.
const SUSPENDED: &str = "suspended";
/// Where the machine's state and disk are to which it can be rolled back.
const SNAPSHOT: &str = "snapshot";

/// Saves it and ends its process; the bytes of what was saved.
pub(super) fn suspend(machine: &mut VirtualMachine) -> Result<u64, MachineError> {
    machine.run(false)?;
    let bytes = save(machine, SUSPENDED)?;
    machine.end()?;
    Ok(bytes)
}

/// Goes on from where it was when it was suspended.
pub(super) fn restore(machine: &mut VirtualMachine) -> Result<(), MachineError> {
    let saved = machine.folder.join(SUSPENDED);
    load(machine, &saved)?;
    discard(machine, &saved)
}

/// Saves it and its disk, during which it stands still; the bytes of what was saved but for the disk.
pub(super) fn snapshot(machine: &mut VirtualMachine) -> Result<u64, MachineError> {
    machine.run(false)?;
    let saved = save(machine, SNAPSHOT).and_then(|bytes| {
        let copy = machine.folder.join(SNAPSHOT).join(DATA_DISK);
        disks::copy(&machine.folder.join(DATA_DISK), &copy)
            .map_err(|source| unsaved(machine, &copy, source))?;
        Ok(bytes)
    });
    let goes_on = machine.run(true);
    saved.and_then(|bytes| goes_on.map(|()| bytes))
}

/// Ends it, and goes on from where it was at its snapshot.
pub(super) fn roll_back(machine: &mut VirtualMachine) -> Result<(), MachineError> {
    machine.end()?;
    let (saved, disk) = (machine.folder.join(SNAPSHOT), machine.folder.join(DATA_DISK));
    fs::rename(saved.join(DATA_DISK), &disk).map_err(|source| unsaved(machine, &disk, source))?;
    load(machine, &saved)?;
    discard(machine, &saved)
}

/// Tells it that it was rolled back, and waits until it is off; whether it said that this is why.
pub(super) fn retire(machine: &mut VirtualMachine, limit: Duration) -> Result<bool, MachineError> {
    let deadline = Instant::now() + limit;
    // It may be off before its answer is here: what it has said decides.
    let answer = clock::ask(machine, || Order::PutBack, deadline);
    // Nobody probes from a machine that is about to go.
    machine.prober.runs.store(false, Ordering::Relaxed);
    if machine.runs() {
        answer?;
    }
    let Some(running) = &machine.running else { return Err(MachineError::NotRunning(machine.name.clone())) };
    let left = deadline.saturating_duration_since(Instant::now());
    running.wait(left).map_err(|source| machine.failed(source))?;
    lock(&machine.hypervisor).forget();
    machine.control.close();
    Ok(machine.said()?.exit.is_some_and(|exit| exit.reason == Reason::PutBack))
}

/// Removes everything that was saved, as far as that goes.
pub(super) fn discard_all(machine: &VirtualMachine) {
    for name in [SUSPENDED, SNAPSHOT] {
        let _ = discard(machine, &machine.folder.join(name));
    }
}

/// Writes the state of a machine that stands still into a folder of its own; its bytes on the host's disk.
fn save(machine: &VirtualMachine, name: &str) -> Result<u64, MachineError> {
    let folder = machine.folder.join(name);
    discard(machine, &folder)?;
    let made = fs::DirBuilder::new().mode(0o700).create(&folder);
    made.map_err(|source| unsaved(machine, &folder, source))?;
    machine.tell(|hypervisor| hypervisor.save(&folder))?;
    disks::bytes_in(&folder).map_err(|source| unsaved(machine, &folder, source))
}

/// Starts it from what was saved, and lets it go on.
fn load(machine: &mut VirtualMachine, saved: &Path) -> Result<(), MachineError> {
    machine.begin(Some(saved))?;
    let start = Instant::now();
    while !machine.tell(Hypervisor::is_loaded).or_else(|error| failed_to_load(machine, start, error))? {
        if start.elapsed() > LOAD_MAX {
            return Err(not_loaded(machine, start));
        }
        thread::sleep(POLL_INTERVAL);
    }
    machine.run(true)
}

/// One whose process has ended has said why.
fn failed_to_load(
    machine: &VirtualMachine,
    start: Instant,
    error: MachineError,
) -> Result<bool, MachineError> {
    Err(if machine.runs() { error } else { not_loaded(machine, start) })
}

fn not_loaded(machine: &VirtualMachine, start: Instant) -> MachineError {
    let (name, console_end) = (machine.name.clone(), machine.console_tail());
    MachineError::Load { name, waited: start.elapsed(), console_end }
}

/// Removes what was saved, if there is anything.
fn discard(machine: &VirtualMachine, saved: &Path) -> Result<(), MachineError> {
    match fs::remove_dir_all(saved) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unsaved(machine, saved, error)),
        _ => Ok(()),
    }
}

fn unsaved(machine: &VirtualMachine, path: &Path, source: io::Error) -> MachineError {
    let source = HypervisorError::Saved { path: path.to_owned(), source };
    MachineError::Hypervisor { name: machine.name.clone(), source }
}
