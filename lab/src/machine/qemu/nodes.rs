//! The nodes of a plan as virtual machines: their sockets, and QEMU with its arguments.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use serde::{Deserialize, Serialize};

use super::Qemu;
use super::arguments::{Accelerator, Cable, Card, Hardware, Sockets, program};
use crate::cluster::pace::Pace;
use crate::fabric::packet::MachineTap;
use crate::fabric::tap::TapConfig;
use crate::fabric::wiring::Wiring;
use crate::limits::machines::FRAMES_QUEUED_BYTES;
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
        let (mut cards, mut taps) = (Vec::new(), Vec::new());
        for Attachment { port, interface: TapConfig { mac, .. } } in networks::of_node(plan, index) {
            let cable = if let Some(tap) = wiring.tap(port)? {
                taps.push(tap);
                Cable::Tap
            } else {
                let (ours, theirs) = frame_sockets().map_err(SetUpError::Loopback)?;
                let cable = cable(&ours).map_err(SetUpError::Loopback)?;
                wiring.plug(port, mac, Box::new(ours));
                reserved.push(theirs);
                cable
            };
            cards.push(Card { mac, cable });
        }
        machines.push(machine(plan, index, settings, pace, directory, log, (cards, taps))?);
    }
    Ok(machines)
}

/// How QEMU reaches the switch's end of a machine's port.
fn cable(port: &UdpSocket) -> io::Result<Cable> {
    Ok(Cable::Datagrams { frames_in: port.peer_addr()?, frames_out: port.local_addr()? })
}

/// The switch's end of a machine's port, and a reservation of QEMU's.
fn frame_sockets() -> io::Result<(UdpSocket, UdpSocket)> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (ours, theirs) = (UdpSocket::bind(any)?, UdpSocket::bind(any)?);
    ours.connect(theirs.local_addr()?)?;
    // Where the host does not allow it, the switch has the host's default of time to take a frame.
    let _ = setsockopt(&ours, RcvBufForce, &FRAMES_QUEUED_BYTES);
    ours.set_nonblocking(true)?;
    Ok((ours, theirs))
}

fn machine(
    plan: &Plan,
    index: NodeIndex,
    settings: &QemuSettings,
    pace: Pace,
    directory: &Path,
    log: &ProgramLog,
    (cards, taps): (Vec<Card>, Vec<MachineTap>),
) -> Result<Box<dyn Machine>, SetUpError> {
    let node = &plan.nodes[index.position()];
    let name = &node.name;
    let home = Home::make(directory, plan, index, pace)?;
    let sockets = sockets(name);
    let program = program(&Hardware {
        qemu: &settings.qemu,
        accelerator: settings.accelerator,
        kernel: &settings.kernel,
        initramfs: &settings.initramfs,
        memory_mib: node.memory_mib,
        cards: &cards,
        config_disk: &home.config_disk,
        data_disk: &home.data_disk,
        console: &home.console,
        sockets: &sockets,
    });
    let reads = vec![settings.kernel.clone(), settings.initramfs.clone()];
    let hypervisor = Box::new(Qemu::new(program, reads, taps, sockets.qmp, sockets.control));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_a_machine_come_from_its_socket_only() {
        let (ours, theirs) = frame_sockets().unwrap();
        let (frames_in, frames_out) = (theirs.local_addr().unwrap(), ours.local_addr().unwrap());
        assert_eq!(cable(&ours).unwrap(), Cable::Datagrams { frames_in, frames_out });
        let stranger = UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        stranger.send_to(b"stranger", frames_out).unwrap();
        theirs.send_to(b"frame", frames_out).unwrap();
        let mut bytes = [0; 16];
        assert_eq!(ours.recv(&mut bytes).unwrap(), b"frame".len());
    }
}
