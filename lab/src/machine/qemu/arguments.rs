//! The command line of QEMU for one machine (qemu(1)).
//!
//! The machine is a q35: with ACPI, and so with a power button, a microvm has no clock by which a kernel could measure the
//! processor's counter, and would run fast or slow by host; without, it has no power button. Its firmware costs 0.1 s of
//! processor time.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::machine::vm::KERNEL_WORDS;
use crate::plan::MacAddress;
use crate::program::Program;

/// The emulator that the lab starts.
pub const QEMU: &str = "qemu-system-x86_64";
/// The command that gets it.
pub const QEMU_INSTALL: &str = "apt-get install qemu-system-x86";

/// As what it has the machine's state from which it goes on, if it does.
pub(super) const STATE_DESCRIPTOR: RawFd = 3;
/// As what it has the machine's first TAP, if it has one; the others follow.
pub(super) const TAP_DESCRIPTOR: RawFd = 4;

/// What QEMU may not do, as it is told itself.
pub(crate) const SANDBOX: [&str; 2] =
    ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"];

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU's translator, which is slower than the processor and runs everywhere.
    Tcg,
}

impl Accelerator {
    /// As QEMU names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// A machine before it is started.
#[derive(Debug)]
pub(super) struct Hardware<'a> {
    pub(super) qemu: &'a Path,
    pub(super) accelerator: Accelerator,
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    pub(super) memory_mib: u32,
    pub(super) cards: &'a [Card],
    pub(super) config_disk: &'a Path,
    pub(super) data_disk: &'a Path,
    pub(super) console: &'a Path,
    pub(super) sockets: &'a Sockets,
}

/// Where QEMU talks with the lab, inside the lab's own network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sockets {
    /// Abstract Unix socket of the machine protocol.
    pub(super) qmp: String,
    /// Abstract Unix socket of the appliance's control channel.
    pub(super) control: String,
}

/// One of the machine's network cards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card {
    /// Its hardware address.
    pub(super) mac: MacAddress,
    /// What it is connected with.
    pub(super) cable: Cable,
}

/// What connects a network card with the fabric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cable {
    /// The switch.
    Datagrams {
        /// Where QEMU takes frames.
        frames_in: SocketAddr,
        /// Where QEMU sends frames.
        frames_out: SocketAddr,
    },
    /// The kernel's fabric: a TAP that QEMU has as [`TAP_DESCRIPTOR`], counted on by the card's number.
    Tap,
}

impl Cable {
    fn backend(&self, card: RawFd) -> String {
        match self {
            Self::Datagrams { frames_in, frames_out } => format!(
                "dgram,id=net{card},local.type=inet,local.host={},local.port={},remote.type=inet,remote.host={},remote.port={}",
                frames_in.ip(),
                frames_in.port(),
                frames_out.ip(),
                frames_out.port(),
            ),
            Self::Tap => format!("tap,id=net{card},fd={}", TAP_DESCRIPTOR + card),
        }
    }
}

/// QEMU with a machine that has nothing but what the appliance needs.
pub(super) fn program(hardware: &Hardware<'_>) -> Program {
    let Hardware { accelerator, memory_mib, sockets, .. } = hardware;
    let socket =
        |id: &str, name: &str| format!("socket,id={id},path={name},abstract=on,tight=on,server=on,wait=off");
    // The devices stay in this order: a kernel names disks by it.
    let words = [
        "-M".to_owned(),
        format!("q35,accel={}", accelerator.name()),
        // Everything that the accelerator can do; the default lacks what the node's cryptography asks for.
        "-cpu".to_owned(),
        "max".to_owned(),
        "-m".to_owned(),
        format!("{memory_mib}M"),
        "-nodefaults".to_owned(),
        "-no-user-config".to_owned(),
        "-display".to_owned(),
        "none".to_owned(),
        "-no-reboot".to_owned(),
        "-append".to_owned(),
        KERNEL_WORDS.to_owned(),
        "-chardev".to_owned(),
        socket("qmp", &sockets.qmp),
        "-mon".to_owned(),
        "chardev=qmp,mode=control".to_owned(),
        "-serial".to_owned(),
        "chardev:console".to_owned(),
        "-device".to_owned(),
        "virtio-blk-pci,drive=config,serial=aspen-config".to_owned(),
        "-device".to_owned(),
        format!("virtio-blk-pci,drive=data,serial={}", aspen_init::layout::DATA_NAME),
        "-device".to_owned(),
        "virtio-serial-pci".to_owned(),
        "-chardev".to_owned(),
        socket("control", &sockets.control),
        "-device".to_owned(),
        format!("virtserialport,chardev=control,name={}", aspen_init::layout::CONTROL_PORT),
        "-device".to_owned(),
        "virtio-rng-pci".to_owned(),
    ];
    Program::new(hardware.qemu)
        .args(SANDBOX)
        .args(words)
        .args((0..).zip(hardware.cards).flat_map(|(number, card)| card_words(number, card)))
        .arg("-kernel")
        .arg(hardware.kernel)
        .arg("-initrd")
        .arg(hardware.initramfs)
        .args(["-chardev".to_owned(), format!("file,id=console,append=on,path={}", option(hardware.console))])
        .args(["-drive".to_owned(), drive("config", hardware.config_disk, "readonly=on")])
        .args(["-drive".to_owned(), drive("data", hardware.data_disk, "discard=unmap,detect-zeroes=unmap")])
}

/// A network card and what is behind it.
fn card_words(number: RawFd, Card { mac, cable }: &Card) -> [String; 4] {
    // Without the ROM that would boot from the network. Frames are complete when they leave the machine: nobody behind a TAP
    // would add their checksums or cut them up.
    let device =
        format!("virtio-net-pci,netdev=net{number},mac={mac},romfile=,csum=off,gso=off,guest_csum=off");
    ["-netdev".to_owned(), cable.backend(number), "-device".to_owned(), device]
}

/// A raw file as a disk. The guest's flush reaches the host's disk; what it has not flushed may be lost with it.
fn drive(id: &str, path: &Path, more: &str) -> String {
    format!("if=none,id={id},format=raw,cache=writeback,{more},file={}", option(path))
}

/// A path as the value of an option: a comma would end it.
pub(crate) fn option(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn commas_in_paths_end_no_option_and_addresses_are_those_of_the_plan() {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let card = |cable| Card { mac: MacAddress([2, 0, 0, 0, 0, 1]), cable };
        let sockets = Sockets { qmp: "q".to_owned(), control: "c".to_owned() };
        let hardware = Hardware {
            qemu: Path::new("/usr/bin/qemu-system-x86_64"),
            accelerator: Accelerator::Tcg,
            kernel: Path::new("/k"),
            initramfs: Path::new("/i"),
            memory_mib: 96,
            cards: &[card(Cable::Datagrams { frames_in: at(7), frames_out: at(8) })],
            config_disk: Path::new("/a,b/config.raw"),
            data_disk: Path::new("/a,b/data.raw"),
            console: Path::new("/a,b/console.log"),
            sockets: &sockets,
        };
        let line = program(&hardware).to_string();
        for want in [
            "-M q35,accel=tcg ",
            " -m 96M ",
            "mac=02:00:00:00:00:01,",
            "local.port=7,remote.type=inet,remote.host=127.0.0.1,remote.port=8 ",
            "file=/a,,b/config.raw ",
            "file=/a,,b/data.raw",
            "path=/a,,b/console.log ",
        ] {
            assert!(line.contains(want), "{want}: {line}");
        }
        let two = [card(Cable::Tap), card(Cable::Tap)];
        let line = program(&Hardware { cards: &two, ..hardware }).to_string();
        for want in
            [" -netdev tap,id=net0,fd=4 ", " -netdev tap,id=net1,fd=5 -device virtio-net-pci,netdev=net1,"]
        {
            assert!(line.contains(want), "{want}: {line}");
        }
    }
}
