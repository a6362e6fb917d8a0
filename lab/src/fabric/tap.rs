//! TAP devices: one in each machine's network namespace, and one for the lab.
//!
//! The only file that knows tun-tap. A device lives as long as its [`TapPort`] and its
//! namespace are held; there is nothing to clean up. Neighbours are permanent: with ARP over the
//! fabric a one-way cut would become a two-way cut as soon as an entry aged. IPv6 is on where an interface has such an address,
//! and little is said there unasked: there is no link-local address, no router is heard, no address is tried out, and only which groups
//! are listened to is told.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;
use rtnetlink::LinkUnspec;

use super::namespace::Namespace;
use super::netlink::{Interface, with_netlink};
use super::{Port, TapError};
use crate::limits::{IFACE_NAME_BYTES_MAX, MTU_BYTES};
use crate::plan::MacAddress;

/// The interface of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapConfig {
    /// Its name, 1 to [`IFACE_NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Its MAC address.
    pub mac: MacAddress,
    /// Its addresses, each with the length of its network's prefix, in bits.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Longest packet, in bytes.
    pub mtu: u32,
    /// The other machines: entered as permanent neighbours, so that no ARP crosses the fabric.
    pub neighbours: Vec<(IpAddr, MacAddress)>,
}

impl TapConfig {
    /// An interface of a plain IPv4 network whose prefix has 24 bits.
    pub fn ipv4(
        name: &str,
        mac: MacAddress,
        address: Ipv4Addr,
        neighbours: impl IntoIterator<Item = (Ipv4Addr, MacAddress)>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            mac,
            addresses: vec![(address.into(), 24)],
            mtu: MTU_BYTES,
            neighbours: neighbours.into_iter().map(|(address, mac)| (address.into(), mac)).collect(),
        }
    }
}

/// The switch's end of a TAP.
#[derive(Debug)]
pub struct TapPort {
    file: File,
}

impl AsFd for TapPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Port for TapPort {
    fn recv(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        self.file.read(frame)
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        // A TAP takes a frame whole or not at all.
        self.file.write(frame).map(|_bytes| ())
    }
}

/// Makes a TAP in `namespace`, gives it its addresses and sets it and the loopback interface up. IPv6
/// is off for all interfaces that have no such address, so that no router solicitation strays over the fabric: never call this
/// with a namespace that the lab did not make.
///
/// # Errors
/// `/dev/net/tun` is missing or closed to the user, or the kernel refuses the device or a setting.
pub fn create(namespace: &Namespace, config: &TapConfig) -> Result<TapPort, TapError> {
    check_name(&config.name)?;
    namespace.run(|| {
        ipv6_off()?;
        let port = open(&config.name)?;
        configure(config)?;
        Ok(port)
    })?
}

pub(super) fn check_name(name: &str) -> Result<(), TapError> {
    let fits = !name.is_empty() && name.len() <= IFACE_NAME_BYTES_MAX;
    if fits { Ok(()) } else { Err(TapError::Name(name.to_owned())) }
}

/// Sets the loopback interface of the calling thread's namespace up.
///
/// # Errors
/// No permission, or no netlink socket.
pub fn loopback_up() -> Result<(), TapError> {
    with_netlink(async |handle| Interface::find(handle, "lo").await?.set_up().await)
}

/// Switches IPv6 off in the calling thread's namespace, for the loopback interface and for all that are made from now on.
pub(super) fn ipv6_off() -> Result<(), TapError> {
    for which in ["default", "lo"] {
        match set_ipv6(which, "disable_ipv6", "1") {
            Ok(()) => {}
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(TapError::Io { doing: "switching ipv6 off in a namespace", source }),
        }
    }
    Ok(())
}

/// Switches it on for one interface, which says next to nothing by itself, and for the loopback interface, by which a machine reaches
/// its own address.
fn ipv6_on(name: &str) -> Result<(), TapError> {
    let settings = [
        (name, "accept_ra", "0"),
        (name, "addr_gen_mode", "1"),
        (name, "dad_transmits", "0"),
        (name, "disable_ipv6", "0"),
        ("lo", "disable_ipv6", "0"),
    ];
    for (name, setting, value) in settings {
        let doing = "switching ipv6 on";
        set_ipv6(name, setting, value).map_err(|source| TapError::Netlink {
            doing,
            name: name.to_owned(),
            source,
        })?;
    }
    Ok(())
}

fn set_ipv6(which: &str, setting: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/net/ipv6/conf/{which}/{setting}"), value)
}

#[allow(unsafe_code, reason = "tun-tap is older than OwnedFd and hands out a bare number")]
fn open(name: &str) -> Result<TapPort, TapError> {
    let failed = |source| TapError::Create { name: name.to_owned(), source };
    let iface = tun_tap::Iface::without_packet_info(name, tun_tap::Mode::Tap).map_err(failed)?;
    iface.set_non_blocking().map_err(failed)?;
    // SAFETY: into_raw_fd gives up the descriptor, which is open and owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(iface.into_raw_fd()) };
    Ok(TapPort { file: File::from(fd) })
}

mod tun {
    use nix::libc;

    nix::ioctl_write_ptr_bad!(
        /// Makes a device behind a descriptor of `/dev/net/tun`.
        set_iff,
        libc::TUNSETIFF,
        libc::ifreq
    );
}

/// Opens a TAP whose frames have the header in front that hypervisors want, which tun-tap's have not.
#[allow(unsafe_code, reason = "an ioctl(2) whose argument holds a union")]
pub(super) fn open_for_hypervisor(name: &str) -> Result<OwnedFd, TapError> {
    let failed = |source| TapError::Create { name: name.to_owned(), source };
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
    let file = file.map_err(failed)?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: libc::c_short::try_from(flags).unwrap_or_default(),
        },
    };
    check_name(name)?;
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: the descriptor is open, and the request is whole, its name ended by a zero, and outlives the call.
    unsafe { tun::set_iff(file.as_raw_fd(), &raw const request) }.map_err(|errno| failed(errno.into()))?;
    Ok(OwnedFd::from(file))
}

/// Sets an interface up that has no address and does not answer ARP.
pub(super) fn set_up_bare(name: &str, mtu: u32) -> Result<(), TapError> {
    with_netlink(async |handle| {
        let interface = Interface::find(handle, name).await?;
        let message = LinkUnspec::new_with_index(interface.index).arp(false).mtu(mtu).build();
        interface.change("switching arp off", message).await?;
        interface.set_up().await
    })
}

/// Sets the loopback interface and this one up, in the calling thread's namespace.
pub(super) fn configure(config: &TapConfig) -> Result<(), TapError> {
    if config.addresses.iter().any(|(address, _)| address.is_ipv6()) {
        ipv6_on(&config.name)?;
    }
    with_netlink(async |handle| {
        Interface::find(handle.clone(), "lo").await?.set_up().await?;
        Interface::find(handle, &config.name).await?.configure(config).await
    })
}
