//! The nodes of a plan as virtual machines: their sockets, and QEMU with its arguments.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::arguments::{Accelerator, Cable, Card, Hardware, program};
use super::frames::FramePort;
use super::{Port, Qemu, Sockets};
use crate::cluster::pace::Pace;
use crate::fabric::tap::TapConfig;
use crate::fabric::wiring::Wiring;
use crate::machine::Machine;
use crate::machine::cluster::SetUpError;
use crate::machine::networks::{self, Attachment};
use crate::machine::vm::VirtualMachine;
use crate::machine::vm::disks::Home;
use crate::plan::{NodeIndex, Plan};
use crate::program::ProgramLog;

/// What all machines of a cluster have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QemuSettings {
    /// QEMU's program.
    pub qemu: PathBuf,
    /// What executes their instructions.
    pub accelerator: Accelerator,
    /// The kernel that they boot.
    pub kernel: PathBuf,
    /// The initramfs with the node.
    pub initramfs: PathBuf,
}

/// One machine for each node of the plan.
pub(in crate::machine) fn machines(
    plan: &Plan,
    settings: &QemuSettings,
    pace: Pace,
    directory: &Path,
    log: &ProgramLog,
    wiring: &mut Wiring,
) -> Result<Vec<Box<dyn Machine>>, SetUpError> {
    let mut machines: Vec<Box<dyn Machine>> = Vec::new();
    // QEMU's ends are let go when all have one, so that no two machines are given the same. In a namespace of the lab's own
    // nobody else takes them.
    let mut reserved = Vec::new();
    for index in plan.node_indexes() {
        let (mut cards, mut ports) = (Vec::new(), Vec::new());
        for Attachment { port, interface: TapConfig { mac, .. } } in networks::of_node(plan, index) {
            let (cable, end) = if let Some(tap) = wiring.tap(port)? {
                (Cable::Tap, Port::Tap(tap))
            } else {
                let (near, switch, theirs) = FramePort::create().map_err(SetUpError::Loopback)?;
                wiring.plug(port, mac, Box::new(switch));
                reserved.push(theirs);
                (Cable::Datagrams, Port::Frames(near))
            };
            cards.push(Card { mac, cable });
            ports.push(end);
        }
        machines.push(machine(plan, index, settings, pace, directory, log, (cards, ports))?);
    }
    Ok(machines)
}

fn machine(
    plan: &Plan,
    index: NodeIndex,
    settings: &QemuSettings,
    pace: Pace,
    directory: &Path,
    log: &ProgramLog,
    (cards, ports): (Vec<Card>, Vec<Port>),
) -> Result<Box<dyn Machine>, SetUpError> {
    let node = &plan.nodes[index.position()];
    let name = &node.name;
    let home = Home::make(directory, plan, index, pace)?;
    let program = program(&Hardware {
        qemu: &settings.qemu,
        accelerator: settings.accelerator,
        kernel: &settings.kernel,
        initramfs: &settings.initramfs,
        memory_mib: node.memory_mib,
        cards: &cards,
        config_disk: &home.config_disk,
        data_disk: &home.data_disk,
        is_data_served: home.served_disk.is_some(),
        console: &home.console,
    });
    let reads = vec![settings.kernel.clone(), settings.initramfs.clone()];
    let hypervisor = Box::new(Qemu::new(program, reads, ports, sockets(name))?);
    let machine = VirtualMachine::new(name, hypervisor, home, log.clone());
    Ok(Box::new(machine))
}

/// The sockets of a machine.
fn sockets(name: &str) -> Sockets {
    Sockets {
        qmp: format!("aspen-lab/{}/{name}/qmp", std::process::id()),
        control: format!("aspen-lab/{}/{name}/control", std::process::id()),
    }
}
