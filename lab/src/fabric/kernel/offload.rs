//! Switches off what an interface leaves to hardware, so that what the bridge sees are frames as a cable carries them: none
//! longer than the MTU, each with its checksums.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::fabric::TapError;

/// `struct ethtool_value` (linux/ethtool.h).
#[repr(C)]
struct Setting {
    command: u32,
    value: u32,
}

/// Each by its `ETHTOOL_S…` command (linux/ethtool.h): checksums received and sent, scatter and gather, segmentation of TCP,
/// generic segmentation, generic reassembly.
const SETTINGS: [u32; 6] = [0x15, 0x17, 0x19, 0x1f, 0x24, 0x2c];

/// Asks the driver of an interface (linux/sockios.h).
const SIOCETHTOOL: u32 = 0x8946;

nix::ioctl_write_ptr_bad!(
    /// netdevice(7).
    siocethtool,
    SIOCETHTOOL,
    libc::ifreq
);

/// Switches everything off that the interface of the calling thread's namespace has.
pub(super) fn off(name: &str) -> Result<(), TapError> {
    let failed =
        |source| TapError::Netlink { doing: "switching offloads off", name: name.to_owned(), source };
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|errno| failed(errno.into()))?;
    for command in SETTINGS {
        match set(&socket, name, command) {
            // It has nothing of the kind.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            outcome => outcome.map_err(failed)?,
        }
    }
    Ok(())
}

#[allow(unsafe_code, reason = "no safe wrapper knows SIOCETHTOOL")]
fn set(socket: &OwnedFd, name: &str, command: u32) -> io::Result<()> {
    let mut setting = Setting { command, value: 0 };
    // SAFETY: zeros are a valid ifreq: no name, and a null pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays NUL.
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut setting).cast();
    // SAFETY: the kernel reads and writes the name and the setting, both of which outlive the call.
    unsafe { siocethtool(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}
