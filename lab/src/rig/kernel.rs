//! The guest's kernel, and what it has to have so that the guest is a complete host.

use std::path::{Path, PathBuf};

use crate::image::debian;
use crate::image::kernel::options::Needs;
use crate::image::kernel::{Kernel, KernelError};
use crate::image::modules::{self, Module, ModulesError, Wanted};
use crate::image::workshop::Workshop;

/// Who needs it all, in the middle of a sentence.
const WHOSE: &str = "a rig";

/// What has to be built in, or to be a module: the guest's devices and disks; taps, bridges, what shapes and cuts links; KVM.
const NEEDS: Needs = Needs {
    whose: WHOSE,
    built_in: &[
        "64BIT",
        "SMP",
        "BLK_DEV_INITRD",
        "BINFMT_ELF",
        "DEVTMPFS",
        "PROC_FS",
        "SYSFS",
        "TMPFS",
        "UNIX",
        "INET",
        "FUTEX",
        "EPOLL",
        "UNIX98_PTYS",
        "NAMESPACES",
        "USER_NS",
        "PID_NS",
        "NET_NS",
    ],
    any: &[
        "VIRTIO_PCI",
        "VIRTIO_BLK",
        "VIRTIO_CONSOLE",
        "EXT4_FS",
        "OVERLAY_FS",
        "SERIAL_8250",
        "PACKET",
        "TUN",
        "VETH",
        "BRIDGE",
        "NET_SCH_NETEM",
        "NET_SCH_HTB",
        "NET_CLS_U32",
        "NET_CLS_FLOWER",
        "NF_TABLES",
        "KVM",
        "KVM_AMD",
        "KVM_INTEL",
    ],
};

/// The module that is tried where another has found no virtualisation.
pub(super) const OTHER_KVM: &str = "kvm_intel";

/// The same as modules, and what a host has besides.
const MODULES: Wanted = Wanted {
    whose: WHOSE,
    required: &[
        "virtio_pci",
        "virtio_blk",
        "virtio_console",
        "ext4",
        "overlay",
        "tun",
        "veth",
        "bridge",
        "sch_netem",
        "sch_htb",
        "cls_u32",
        "cls_flower",
        "nf_tables",
        "kvm_amd",
        OTHER_KVM,
    ],
    optional: &[
        "virtio_rng",
        "virtio_net",
        "af_packet",
        "sch_tbf",
        "sch_prio",
        "sch_fq",
        "sch_ingress",
        "cls_bpf",
        "cls_matchall",
        "act_mirred",
        "act_gact",
        "ifb",
        "dummy",
        "nft_meta_bridge",
        "nft_reject_bridge",
        "nf_conntrack_bridge",
        "nft_ct",
        "nft_limit",
        "nft_numgen",
        "nft_hash",
        "nft_log",
        "nft_quota",
        "nft_fwd_netdev",
        "nft_dup_netdev",
        "fuse",
        "loop",
        "vsock_loopback",
        "crc32c_intel",
    ],
};

/// Why there is no kernel for the guest.
#[derive(Debug, thiserror::Error)]
pub enum GuestKernelError {
    /// The kernel.
    #[error("there is no kernel for the guest; {REMEDY}")]
    Kernel(#[source] KernelError),
    /// Its modules.
    #[error("the kernel lacks what makes a complete host; {REMEDY}")]
    Modules(#[source] ModulesError),
    /// Only the modules are there.
    #[error("{0} brings no bzImage, and its vmlinux cannot be entered as PVH guests are; {REMEDY}")]
    Unbootable(String),
}

/// What always works, where there is apt.
const REMEDY: &str = "on Debian and Ubuntu the lab fetches one that has it all: `apt-get update`, and leave --kernel out; elsewhere \
give --kernel with their package linux-image-…-cloud-amd64";

/// A kernel that the guest can boot.
#[derive(Debug)]
pub(super) struct GuestKernel {
    /// The file that QEMU boots.
    pub(super) image: Vec<u8>,
    /// `uname -r`.
    pub(super) release: String,
    /// What is loaded, in this order.
    pub(super) modules: Vec<Module>,
}

impl GuestKernel {
    /// The kernel of this path, or Debian's newest for virtual machines.
    ///
    /// # Errors
    /// [`GuestKernelError`].
    pub(super) fn find(path: Option<&Path>, workshop: &mut Workshop<'_>) -> Result<Self, GuestKernelError> {
        let path = path.map_or_else(|| fetch(workshop), |path| Ok(path.to_owned()));
        let kernel = path.and_then(|path| Kernel::load(&path, &NEEDS, workshop));
        let kernel = kernel.map_err(GuestKernelError::Kernel)?;
        let modules = match &kernel.modules {
            Some(folder) => modules::select(folder, &MODULES).map_err(GuestKernelError::Modules)?.modules,
            None => vec![],
        };
        let image = match kernel.bzimage {
            Some(image) => image,
            None if kernel.has_pvh => kernel.vmlinux,
            None => return Err(GuestKernelError::Unbootable(kernel.origin)),
        };
        Ok(Self { image, release: kernel.release, modules })
    }
}

fn fetch(workshop: &mut Workshop<'_>) -> Result<PathBuf, KernelError> {
    const INSTEAD: &str = "--kernel PATH";
    let named = debian::newest_kernel(INSTEAD, workshop)?;
    Ok(debian::fetch(&named, INSTEAD, workshop)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::image::kernel::build::{FRAGMENT, LAB_FRAGMENT};
    use crate::image::kernel::options;

    /// A kernel of a few bytes in a folder, with all options that are needed but for one, and with modules or without.
    fn of(lacks: &str, has_modules: bool) -> GuestKernelError {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("kernel");
        let modules = folder.join("lib/modules/6.1.0-test");
        fs::create_dir_all(if has_modules { modules.join("kernel") } else { folder.clone() }).unwrap();
        if has_modules {
            fs::write(modules.join("modules.builtin"), "kernel/virtio_pci.ko\n").unwrap();
        }
        // An ELF file for this machine that calls itself a kernel.
        let mut bytes = vec![0; 64];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        bytes[0x12] = 62;
        bytes.extend(b"Linux version 6.1.0-test (a@b) #1 SMP\n\0");
        fs::write(folder.join("vmlinux"), bytes).unwrap();
        let options = NEEDS.built_in.iter().chain(NEEDS.any).filter(|name| **name != lacks);
        let config: Vec<String> = options.map(|name| format!("CONFIG_{name}=y\n")).collect();
        fs::write(folder.join("config"), config.concat()).unwrap();
        let mut tell = |_: &str| {};
        let mut workshop = Workshop::open(&home.path().join("cache"), &mut tell).unwrap();
        GuestKernel::find(Some(&folder), &mut workshop).unwrap_err()
    }

    #[track_caller]
    fn check(error: &GuestKernelError, want: &str, cause: &str) {
        assert_eq!(error.to_string(), format!("{want}; {REMEDY}"));
        let found = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        assert!(found.ends_with(cause), "{found}");
    }

    /// Such a kernel was once without namespaces of the network.
    #[test]
    fn kernel_that_the_lab_builds_for_itself_has_everything() {
        let fragments = [FRAGMENT, LAB_FRAGMENT].concat();
        options::check(&fragments, Path::new("images"), &NEEDS, false).unwrap();
    }

    #[test]
    fn kernel_that_makes_no_complete_host_is_refused_with_what_it_lacks() {
        let lacks = of("NET_SCH_NETEM", false);
        check(&lacks, "there is no kernel for the guest", "cannot run a rig, it lacks CONFIG_NET_SCH_NETEM");
        let without = of("", true);
        let cause = "has no module virtio_blk, and it is not built in: a rig cannot do without it";
        check(&without, "the kernel lacks what makes a complete host", cause);
        check(
            &of("", false),
            "Linux 6.1.0-test (a@b) #1 SMP brings no bzImage, and its vmlinux cannot be entered as PVH guests are",
            "",
        );
    }
}
