//! The command line of QEMU for one machine (qemu(1)).
//!
//! The machine is a q35: with ACPI, and so with a power button, a microvm has no clock by which a kernel could measure the
//! processor's counter, and would run fast or slow by host; without, it has no power button. Its firmware costs 0.1 s of
//! processor time.

use std::os::fd::RawFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::limits::machines::{EMULATOR_MEMORY_MIB, HYPERVISOR_MEMORY_MIB};
use crate::machine::vm::{KERNEL_WORDS, block};
use crate::plan::MacAddress;
use crate::program::Program;

/// The emulator that the lab starts.
pub const QEMU: &str = "qemu-system-x86_64";
/// The command that gets it.
pub const QEMU_INSTALL: &str = "apt-get install qemu-system-x86";

/// As what it has the machine's state from which it goes on, if it does.
pub(super) const STATE_DESCRIPTOR: RawFd = 3;
/// As what it has the socket that listens for the machine protocol.
pub(super) const QMP_DESCRIPTOR: RawFd = 4;
/// As what it has the socket that listens for the appliance's control channel.
pub(super) const CONTROL_DESCRIPTOR: RawFd = 5;
/// As what it has what the machine's first network card is connected with; those of the others follow.
pub(super) const CARD_DESCRIPTOR: RawFd = 6;

/// What QEMU may not do, as it is told itself.
pub(crate) const SANDBOX: [&str; 2] =
    ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"];

/// A machine whose memory others can have.
const SHARED_MEMORY: &str = ",memory-backend=memory";

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
    /// Memory that QEMU takes for itself with it, in MiB.
    pub fn memory_mib(self) -> u32 {
        match self {
            Self::Kvm => HYPERVISOR_MEMORY_MIB,
            Self::Tcg => EMULATOR_MEMORY_MIB,
        }
    }

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
    /// Whether the lab serves that one, over its socket in the machine's folder.
    pub(super) is_data_served: bool,
    pub(super) console: &'a Path,
}

/// One of the machine's network cards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card {
    /// Its hardware address.
    pub(super) mac: MacAddress,
    /// What connects it with the fabric. QEMU has it as [`CARD_DESCRIPTOR`], counted on by the card's number.
    pub(super) cable: Cable,
}

/// What connects a network card with the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cable {
    /// A socket of datagrams, to the switch.
    Datagrams,
    /// A TAP, on the kernel's fabric.
    Tap,
}

impl Cable {
    fn backend(self, card: RawFd) -> String {
        let descriptor = CARD_DESCRIPTOR + card;
        match self {
            Self::Datagrams => format!("dgram,id=net{card},local.type=fd,local.str={descriptor}"),
            Self::Tap => format!("tap,id=net{card},fd={descriptor}"),
        }
    }
}

/// QEMU with a machine that has nothing but what the appliance needs.
pub(super) fn program(hardware: &Hardware<'_>) -> Program {
    let Hardware { accelerator, memory_mib, .. } = hardware;
    let socket = |id: &str, descriptor: RawFd| format!("socket,id={id},fd={descriptor},server=on,wait=off");
    // The devices stay in this order: a kernel names disks by it.
    let words = [
        "-M".to_owned(),
        format!(
            "q35,accel={}{}",
            accelerator.name(),
            if hardware.is_data_served { SHARED_MEMORY } else { "" }
        ),
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
        socket("qmp", QMP_DESCRIPTOR),
        "-mon".to_owned(),
        "chardev=qmp,mode=control".to_owned(),
        "-serial".to_owned(),
        "chardev:console".to_owned(),
        "-device".to_owned(),
        "virtio-blk-pci,drive=config,serial=aspen-config".to_owned(),
        "-device".to_owned(),
        data_device(hardware.is_data_served),
        "-device".to_owned(),
        "virtio-serial-pci".to_owned(),
        "-chardev".to_owned(),
        socket("control", CONTROL_DESCRIPTOR),
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
        .args(data_words(hardware))
}

/// The data disk, as the guest sees it.
fn data_device(is_served: bool) -> String {
    if is_served {
        // It says its name itself.
        "vhost-user-blk-pci,chardev=data,num-queues=1,config-wce=off".to_owned()
    } else {
        format!("virtio-blk-pci,drive=data,serial={}", aspen_init::layout::DATA_NAME)
    }
}

/// What is behind the data disk: a file, or the lab, which then needs the machine's memory.
fn data_words(hardware: &Hardware<'_>) -> Vec<String> {
    if !hardware.is_data_served {
        let drive = drive("data", hardware.data_disk, "discard=unmap,detect-zeroes=unmap");
        return vec!["-drive".to_owned(), drive];
    }
    vec![
        "-object".to_owned(),
        format!("memory-backend-memfd,id=memory,size={}M,share=on", hardware.memory_mib),
        "-chardev".to_owned(),
        // As its folder has it, in which QEMU works.
        format!("socket,id=data,path={}", block::SOCKET),
    ]
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
    use super::*;

    #[test]
    fn commas_in_paths_end_no_option_and_descriptors_are_those_that_it_is_given() {
        let card = |cable| Card { mac: MacAddress([2, 0, 0, 0, 0, 1]), cable };
        let hardware = Hardware {
            qemu: Path::new("/usr/bin/qemu-system-x86_64"),
            accelerator: Accelerator::Tcg,
            kernel: Path::new("/k"),
            initramfs: Path::new("/i"),
            memory_mib: 96,
            cards: &[card(Cable::Datagrams)],
            config_disk: Path::new("/a,b/config.raw"),
            data_disk: Path::new("/a,b/data.raw"),
            is_data_served: false,
            console: Path::new("/a,b/console.log"),
        };
        let line = program(&hardware).to_string();
        for want in [
            "-M q35,accel=tcg ",
            " -m 96M ",
            "mac=02:00:00:00:00:01,",
            " -netdev dgram,id=net0,local.type=fd,local.str=6 ",
            "id=qmp,fd=4,server=on,wait=off ",
            "id=control,fd=5,server=on,wait=off ",
            "file=/a,,b/config.raw ",
            "file=/a,,b/data.raw",
            "path=/a,,b/console.log ",
        ] {
            assert!(line.contains(want), "{want}: {line}");
        }
        let two = [card(Cable::Tap), card(Cable::Tap)];
        let line = program(&Hardware { cards: &two, is_data_served: true, ..hardware }).to_string();
        for want in [
            " -netdev tap,id=net0,fd=6 ",
            " -netdev tap,id=net1,fd=7 -device virtio-net-pci,netdev=net1,",
            " -M q35,accel=tcg,memory-backend=memory ",
            " -object memory-backend-memfd,id=memory,size=96M,share=on ",
            " -chardev socket,id=data,path=data.socket",
            " -device vhost-user-blk-pci,chardev=data,",
        ] {
            assert!(line.contains(want), "{want}: {line}");
        }
        assert!(!line.contains("data.raw"), "{line}");
    }
}
