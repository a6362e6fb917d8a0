//! A machine whose power is cut, and its disk's with it.

use std::thread;

use aspen_init::control::Order;

use super::VirtualMachine;
use super::block::ServedDisk;
use crate::cluster::PowerCut;
use crate::limits::machines::POWER_CUT_WAIT_MAX;
use crate::machine::{Machine, MachineError};
use crate::program::Exit;

/// Ends it while its disk has something to lose, and has the disk lose that, or a part of it that `draw` decides.
pub(super) fn cut(machine: &mut VirtualMachine, draw: u32) -> Result<PowerCut, MachineError> {
    let name = machine.name.clone();
    let Some(mut disk) = machine.disk.take() else { return Err(MachineError::KeepsAll(name)) };
    let cut = end(machine, &disk, draw).and_then(|exit| {
        let lost = disk.cut(draw).map_err(|source| MachineError::Disk { name, source })?;
        Ok(PowerCut { exit, lost })
    });
    machine.disk = Some(disk);
    cut
}

/// Has the disk's power fail, and the machine's right after.
fn end(machine: &mut VirtualMachine, disk: &ServedDisk, draw: u32) -> Result<Exit, MachineError> {
    if !machine.runs() {
        return machine.kill();
    }
    disk.fail(draw);
    let control = machine.control.clone();
    thread::scope(|scope| {
        // Whatever the node does, there is something to lose. No answer comes, since the disk gives none: the wait ends with the machine.
        let write = move || drop(control.ask(Order::WriteUnflushed { word: draw }, POWER_CUT_WAIT_MAX));
        // Where there can be no thread, the node may write by itself.
        let _writing = thread::Builder::new().name("unflushed".to_owned()).spawn_scoped(scope, write);
        disk.await_failure(POWER_CUT_WAIT_MAX);
        machine.kill()
    })
}
