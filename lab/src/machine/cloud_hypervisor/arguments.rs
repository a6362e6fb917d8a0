//! The command line of Cloud Hypervisor for one machine.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use super::api::file_url;
use crate::limits::machines::DISK_QUEUE_MAX;
use crate::machine::vm::{KERNEL_WORDS, block};
use crate::plan::MacAddress;
use crate::program::Program;

/// The hypervisor that the lab starts.
pub const CLOUD_HYPERVISOR: &str = "cloud-hypervisor";
/// How the threads are called that run the processors.
pub(super) const VCPU_THREADS: &str = "vcpu";
/// As what it has the machine's first TAP; the others follow.
pub(super) const TAP_DESCRIPTOR: RawFd = 3;
/// The machine's vsock address. Its device is Cloud Hypervisor's own and seen by nobody else: all machines can have the same.
const VSOCK_CID: u32 = 3;

/// The name of a network card.
fn card_name(number: RawFd) -> String {
    format!("net{number}")
}

/// A machine before it is started.
#[derive(Debug)]
pub(super) struct Hardware {
    pub(super) program: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    pub(super) memory_mib: u32,
    /// Of its network cards, in the order of its TAPs; at least one.
    pub(super) macs: Vec<MacAddress>,
    pub(super) config_disk: PathBuf,
    pub(super) data_disk: PathBuf,
    /// Whether the lab serves that one, over its socket in the machine's folder.
    pub(super) is_data_served: bool,
}

/// Cloud Hypervisor with a machine that has nothing but what the appliance needs. The sockets are named as its folder has them.
pub(super) fn program(hardware: &Hardware, api: &str, vsock: &str) -> Program {
    let Hardware { memory_mib, .. } = hardware;
    // What the machine prints is the program's output, to which more is appended at every start: a file of its own it would
    // begin anew.
    Program::new(&hardware.program)
        .args(["--api-socket".to_owned(), format!("path={api}")])
        .args(["--cpus", "boot=1", "--memory"])
        .arg(format!("size={memory_mib}M{}", if hardware.is_data_served { ",shared=on" } else { "" }))
        .arg("--kernel")
        .arg(&hardware.kernel)
        .arg("--initramfs")
        .arg(&hardware.initramfs)
        .args(["--cmdline", KERNEL_WORDS, "--disk"])
        .arg(disk(&hardware.config_disk, "id=config,serial=aspen-config,readonly=on"))
        .arg(data_disk(hardware))
        .arg("--net")
        .args((0..).zip(&hardware.macs).map(|(number, mac)| card(number, *mac)))
        .arg("--vsock")
        .arg(format!("id=vsock,cid={VSOCK_CID},socket={vsock}"))
        .args([
            "--rng",
            "src=/dev/urandom",
            "--serial",
            "tty",
            "--console",
            "off",
            "--pvpanic",
            "--seccomp",
            "true",
        ])
}

/// Frames are complete when they leave the machine: nobody behind the TAP would add their checksums.
fn card(number: RawFd, mac: MacAddress) -> String {
    let (name, descriptor) = (card_name(number), TAP_DESCRIPTOR + number);
    format!("id={name},fd={descriptor},mac={mac},offload_tso=off,offload_ufo=off,offload_csum=off")
}

/// Cloud Hypervisor with a machine that goes on from what was saved of it, which says what hardware it has.
pub(super) fn saved_program(hardware: &Hardware, api: &str, saved: &Path) -> Program {
    let url = file_url(saved);
    let cards = (0..).zip(&hardware.macs);
    let cards: Vec<_> =
        cards.map(|(number, _)| format!("{}@[{}]", card_name(number), TAP_DESCRIPTOR + number)).collect();
    Program::new(&hardware.program)
        .args(["--api-socket".to_owned(), format!("path={api}")])
        .arg("--restore")
        .arg(format!("source_url={url},net_fds=[{}]", cards.join(",")))
        .args(["--seccomp", "true"])
}

/// The data disk: a file, or what the lab serves, which says its name itself.
fn data_disk(hardware: &Hardware) -> OsString {
    if hardware.is_data_served {
        format!("id=data,vhost_user=on,socket={},num_queues=1,queue_size={DISK_QUEUE_MAX}", block::SOCKET)
            .into()
    } else {
        disk(&hardware.data_disk, &format!("id=data,serial={}", aspen_init::layout::DATA_NAME))
    }
}

/// A raw file as a disk.
fn disk(path: &Path, more: &str) -> OsString {
    let mut words = OsString::from("path=");
    words.push(quoted(path));
    words.push(format!(",image_type=raw,{more}"));
    words
}

/// A path as the value of an option: a comma would end it, but for quotation marks.
fn quoted(path: &Path) -> OsString {
    let mut text = OsString::from("\"");
    text.push(path);
    text.push("\"");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_paths_end_no_option_and_sockets_are_those_of_this_start() {
        let hardware = Hardware {
            program: "/usr/bin/cloud-hypervisor".into(),
            kernel: "/k".into(),
            initramfs: "/i".into(),
            memory_mib: 96,
            macs: vec![MacAddress([2, 0, 0, 0, 0, 1]), MacAddress([2, 0, 0, 0, 1, 1])],
            config_disk: "/a,b/config.raw".into(),
            data_disk: "/a,b/data.raw".into(),
            is_data_served: false,
        };
        let line = program(&hardware, "api-2", "vsock-2").to_string();
        for want in [
            " path=api-2 ",
            " size=96M ",
            "--net id=net0,fd=3,mac=02:00:00:00:00:01,offload_tso=off",
            " id=net1,fd=4,mac=02:00:00:00:01:01,offload_tso=off",
            "path=\"/a,b/config.raw\",image_type=raw,id=config",
            "path=\"/a,b/data.raw\",image_type=raw,id=data",
            "cid=3,socket=vsock-2 ",
        ] {
            assert!(line.contains(want), "{want}: {line}");
        }
        let line = program(&Hardware { is_data_served: true, ..hardware }, "api-2", "vsock-2").to_string();
        for want in
            [" size=96M,shared=on ", " id=data,vhost_user=on,socket=data.socket,num_queues=1,queue_size=128 "]
        {
            assert!(line.contains(want), "{want}: {line}");
        }
        assert!(!line.contains("data.raw"), "{line}");
    }
}
