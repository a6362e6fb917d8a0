//! The nodes of a plan as virtual machines of Cloud Hypervisor: their TAPs, and its arguments.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::CloudHypervisor;
use super::arguments::Hardware;
use crate::cluster::pace::Pace;
use crate::fabric::namespace::Namespace;
use crate::fabric::packet::MachineTap;
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
pub struct CloudHypervisorSettings {
    /// Cloud Hypervisor's program.
    pub program: PathBuf,
    /// The kernel that they boot.
    pub kernel: PathBuf,
    /// The initramfs with the node.
    pub initramfs: PathBuf,
}

/// One machine for each node of the plan.
pub(in crate::machine) fn machines(
    plan: &Plan,
    settings: &CloudHypervisorSettings,
    pace: Pace,
    directory: &Path,
    log: &ProgramLog,
    wiring: &mut Wiring,
) -> Result<Vec<Box<dyn Machine>>, SetUpError> {
    let machine = |index: NodeIndex| -> Result<Box<dyn Machine>, SetUpError> {
        let node = &plan.nodes[index.position()];
        let home = Home::make(directory, plan, index, pace)?;
        let namespace = Namespace::create()?;
        let (mut macs, mut taps) = (Vec::new(), Vec::new());
        for Attachment { port, interface } in networks::of_node(plan, index) {
            let tap = if let Some(tap) = wiring.tap(port)? {
                tap
            } else {
                let (tap, end) = MachineTap::create(&namespace, port.network, interface.mtu)?;
                wiring.plug(port, interface.mac, Box::new(end));
                tap
            };
            macs.push(interface.mac);
            taps.push(tap);
        }
        let hardware = Hardware {
            program: settings.program.clone(),
            kernel: settings.kernel.clone(),
            initramfs: settings.initramfs.clone(),
            memory_mib: node.memory_mib,
            macs,
            config_disk: home.config_disk.clone(),
            data_disk: home.data_disk.clone(),
            is_data_served: home.served_disk.is_some(),
        };
        let hypervisor = Box::new(CloudHypervisor::new(hardware, home.folder.clone(), taps));
        let machine = VirtualMachine::new(&node.name, hypervisor, home, log.clone());
        Ok(Box::new(machine))
    };
    plan.node_indexes().map(machine).collect()
}
