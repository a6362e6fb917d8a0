//! The nodes of a plan as virtual machines: their disks, their sockets, and QEMU with its arguments.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aspen_init::layout;
use data_encoding::HEXLOWER;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use serde::{Deserialize, Serialize};

use super::arguments::{Accelerator, Hardware, Sockets, program};
use super::{QemuMachine, QemuParts};
use crate::cluster::pace::Pace;
use crate::image::config_disk;
use crate::image::fat::FatFile;
use crate::limits::machines::{DATA_DISK_BYTES, FRAMES_QUEUED_BYTES};
use crate::machine::cluster::{MachineSpec, SetUpError};
use crate::machine::node_files::{node_toml, tap_config};
use crate::plan::{Plan, PlannedNode};
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
) -> Result<Vec<MachineSpec>, SetUpError> {
    let mut machines = Vec::new();
    // QEMU's ends are let go when all have one, so that no two machines are given the same. In a namespace of the lab's own
    // nobody else takes them.
    let mut reserved = Vec::new();
    for node in &plan.nodes {
        let (ours, theirs) = frame_sockets().map_err(SetUpError::Loopback)?;
        machines.push(machine(plan, node, settings, pace, directory, log, ours)?);
        reserved.push(theirs);
    }
    Ok(machines)
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
    node: &PlannedNode,
    settings: &QemuSettings,
    pace: Pace,
    directory: &Path,
    log: &ProgramLog,
    port: UdpSocket,
) -> Result<MachineSpec, SetUpError> {
    let name = &node.name;
    let home = directory.join("nodes").join(name);
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&home);
    made.map_err(|source| SetUpError::Io { path: home.clone(), source })?;
    let (config_disk, data_disk) = (home.join("config.raw"), home.join("data.raw"));
    write_config_disk(&config_disk, plan, node, pace)?;
    make_data_disk(&data_disk).map_err(|source| SetUpError::Io { path: data_disk.clone(), source })?;
    let sockets = sockets(name, &port).map_err(SetUpError::Loopback)?;
    let console = home.join("console.log");
    let program = program(&Hardware {
        qemu: &settings.qemu,
        accelerator: settings.accelerator,
        kernel: &settings.kernel,
        initramfs: &settings.initramfs,
        memory_mib: node.memory_mib,
        mac: node.mac,
        config_disk: &config_disk,
        data_disk: &data_disk,
        console: &console,
        sockets: &sockets,
    });
    let parts = QemuParts {
        program,
        complaints: home.join("qemu.log"),
        console,
        qmp_socket: sockets.qmp,
        control_socket: sockets.control,
    };
    let machine = QemuMachine::new(name, parts, log.clone());
    Ok(MachineSpec { machine: Box::new(machine), port: Box::new(port) })
}

/// What the appliance is told, on a disk.
fn write_config_disk(path: &Path, plan: &Plan, node: &PlannedNode, pace: Pace) -> Result<(), SetUpError> {
    let settings = aspen_conf(plan, node);
    let node_settings = node_toml(plan, node, Path::new(layout::NODE_DATA), pace);
    let secret = HEXLOWER.encode(&node.secret_key_seed.0) + "\n";
    let files = [
        FatFile { path: layout::CONFIG_FILE, bytes: settings.as_bytes() },
        FatFile { path: layout::CONFIG_NODE_FILE, bytes: node_settings.as_bytes() },
        FatFile { path: layout::CONFIG_SECRET_FILE, bytes: secret.as_bytes() },
    ];
    Ok(config_disk::write(path, &files)?)
}

/// The text of aspen.conf. Neighbours are permanent, as on every port of the switch: no ARP crosses the fabric.
fn aspen_conf(plan: &Plan, node: &PlannedNode) -> String {
    let PlannedNode { name, mac, ip, .. } = node;
    let interface = tap_config(plan, "eth0", *mac, *ip);
    let neighbours: Vec<String> =
        interface.neighbours.iter().map(|(ip, mac)| format!("\"{ip}={mac}\"")).collect();
    format!(
        "hostname = \"{name}\"\naddress = \"{ip}/{}\"\nmac = \"{mac}\"\nneighbours = [{}]\n\n[data]\nformat = \"if-blank\"\n",
        interface.prefix_bits,
        neighbours.join(", "),
    )
}

/// An empty disk, of which nothing is on the host's before it is written. What a disk already holds stays.
fn make_data_disk(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    if bytes == 0 {
        // It is new, and nobody need look whether it holds anything.
        file.write_all_at(layout::UNFINISHED, 0)?;
    }
    if bytes < DATA_DISK_BYTES { file.set_len(DATA_DISK_BYTES) } else { Ok(()) }
}

/// The sockets of the machine behind a port of the switch.
fn sockets(name: &str, port: &UdpSocket) -> io::Result<Sockets> {
    Ok(Sockets {
        qmp: format!("aspen-lab/{}/{name}/qmp", std::process::id()),
        control: format!("aspen-lab/{}/{name}/control", std::process::id()),
        frames_in: port.peer_addr()?,
        frames_out: port.local_addr()?,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom, Write};

    use aspen_init::config::{DataFormat, Settings, file};

    use super::*;
    use crate::scenario::Scenario;

    fn plan() -> Plan {
        let text = "name: a\nabout: A test.\nnodes: { count: 3 }\nchecks: [raft]\n";
        Plan::new(&Scenario::parse("a.yaml", text).unwrap(), 1)
    }

    #[test]
    fn appliance_understands_what_it_is_told() {
        let plan = plan();
        let text = aspen_conf(&plan, &plan.nodes[1]);
        let settings = Settings::from_entries(file(&text).unwrap()).unwrap();
        assert_eq!(settings.hostname.as_deref(), Some("n2"));
        assert_eq!(settings.data_format, DataFormat::IfBlank);
        assert_eq!(settings.addresses.len(), 1);
        // The two other nodes and the lab.
        assert_eq!(settings.neighbours.len(), 3);
        assert!(settings.gateways.is_empty());
    }

    #[test]
    fn data_disk_keeps_what_it_holds() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("data.raw");
        make_data_disk(&path).unwrap();
        let mut disk = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        assert_eq!(disk.metadata().unwrap().len(), DATA_DISK_BYTES);
        disk.write_all(b"written").unwrap();
        make_data_disk(&path).unwrap();
        let mut bytes = [0; 7];
        disk.seek(SeekFrom::Start(0)).unwrap();
        disk.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"written");
    }

    #[test]
    fn frames_of_a_machine_come_from_its_socket_only() {
        let (ours, theirs) = frame_sockets().unwrap();
        let sockets = sockets("n1", &ours).unwrap();
        assert_eq!(theirs.local_addr().unwrap(), sockets.frames_in);
        assert_eq!(ours.local_addr().unwrap(), sockets.frames_out);
        let stranger = UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        stranger.send_to(b"stranger", sockets.frames_out).unwrap();
        theirs.send_to(b"frame", sockets.frames_out).unwrap();
        let mut bytes = [0; 16];
        assert_eq!(ours.recv(&mut bytes).unwrap(), b"frame".len());
    }
}
