//! TAP devices: one in each machine's network namespace, and one for the lab.
//!
//! The only file that knows tun-tap and rtnetlink. A device lives as long as its [`TapPort`] and its
//! namespace are held; there is nothing to clean up. Neighbours are permanent: with ARP over the
//! fabric a one-way cut would become a two-way cut as soon as an entry aged.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use futures::TryStreamExt;
use nix::libc;
use rtnetlink::{Handle, LinkUnspec};

use super::namespace::Namespace;
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
    /// Its only IPv4 address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix, in bits, 0 to 32.
    pub prefix_bits: u8,
    /// The other machines: entered as permanent neighbours, so that no ARP crosses the fabric.
    pub neighbours: Vec<(Ipv4Addr, MacAddress)>,
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
/// is off in the whole namespace, so that no router solicitation strays over the fabric: never call this
/// with a namespace that the lab did not make.
///
/// # Errors
/// `/dev/net/tun` is missing or closed to the user, or the kernel refuses the device or a setting.
pub fn create(namespace: &Namespace, config: &TapConfig) -> Result<TapPort, TapError> {
    if config.name.is_empty() || config.name.len() > IFACE_NAME_BYTES_MAX {
        return Err(TapError::Name(config.name.clone()));
    }
    namespace.run(|| {
        ipv6_off()?;
        let port = open(&config.name)?;
        configure(config)?;
        Ok(port)
    })?
}

/// Sets the loopback interface of the calling thread's namespace up.
///
/// # Errors
/// No permission, or no netlink socket.
pub fn loopback_up() -> Result<(), TapError> {
    with_netlink(async |handle| Interface::find(handle, "lo").await?.set_up().await)
}

fn ipv6_off() -> Result<(), TapError> {
    for which in ["all", "default"] {
        match fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1") {
            Ok(()) => {}
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(TapError::Io { doing: "switching ipv6 off in a namespace", source }),
        }
    }
    Ok(())
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
    if name.is_empty() || name.len() > IFACE_NAME_BYTES_MAX {
        return Err(TapError::Name(name.to_owned()));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: the descriptor is open, and the request is whole, its name ended by a zero, and outlives the call.
    unsafe { tun::set_iff(file.as_raw_fd(), &raw const request) }.map_err(|errno| failed(errno.into()))?;
    Ok(OwnedFd::from(file))
}

/// Sets an interface up that has no address and does not answer ARP.
pub(super) fn set_up_bare(name: &str) -> Result<(), TapError> {
    ipv6_off()?;
    with_netlink(async |handle| {
        let interface = Interface::find(handle, name).await?;
        let message = LinkUnspec::new_with_index(interface.index).arp(false).mtu(MTU_BYTES).build();
        let outcome = interface.handle.link().set(message).execute().await;
        outcome.map_err(|error| refused("switching arp off", name, error))?;
        interface.set_up().await
    })
}

fn configure(config: &TapConfig) -> Result<(), TapError> {
    with_netlink(async |handle| {
        Interface::find(handle.clone(), "lo").await?.set_up().await?;
        let tap = Interface::find(handle, &config.name).await?;
        tap.set_link_address(config.mac).await?;
        tap.add_address(config.address, config.prefix_bits).await?;
        tap.set_up().await?;
        // Only an interface that is up takes neighbours.
        for (address, mac) in &config.neighbours {
            tap.add_neighbour(*address, *mac).await?;
        }
        Ok(())
    })
}

/// Runs `work` with a netlink socket of the calling thread's namespace.
fn with_netlink<T>(work: impl AsyncFnOnce(Handle) -> Result<T, TapError>) -> Result<T, TapError> {
    let doing = "opening a netlink socket";
    let failed = |source| TapError::Io { doing, source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    runtime.block_on(async {
        let (connection, handle, _unasked) = rtnetlink::new_connection().map_err(failed)?;
        tokio::select! {
            outcome = work(handle) => outcome,
            () = connection => Err(failed(io::ErrorKind::ConnectionAborted.into())),
        }
    })
}

/// One interface, by its index.
struct Interface<'a> {
    handle: Handle,
    name: &'a str,
    index: u32,
}

impl<'a> Interface<'a> {
    async fn find(handle: Handle, name: &'a str) -> Result<Self, TapError> {
        let mut links = handle.link().get().match_name(name.to_owned()).execute();
        let found = links.try_next().await.map_err(|error| refused("finding the index", name, error))?;
        drop(links);
        let Some(link) = found else {
            let source = io::ErrorKind::NotFound.into();
            return Err(TapError::Netlink { doing: "finding the index", name: name.to_owned(), source });
        };
        Ok(Self { handle, name, index: link.header.index })
    }

    async fn set_up(&self) -> Result<(), TapError> {
        let message = LinkUnspec::new_with_index(self.index).up().build();
        let outcome = self.handle.link().set(message).execute().await;
        outcome.map_err(|error| refused("setting up", self.name, error))
    }

    async fn set_link_address(&self, mac: MacAddress) -> Result<(), TapError> {
        let message = LinkUnspec::new_with_index(self.index).address(mac.0.to_vec()).mtu(MTU_BYTES).build();
        let outcome = self.handle.link().set(message).execute().await;
        outcome.map_err(|error| refused("setting the mac address and the mtu", self.name, error))
    }

    async fn add_address(&self, address: Ipv4Addr, prefix_bits: u8) -> Result<(), TapError> {
        let outcome = self.handle.address().add(self.index, IpAddr::V4(address), prefix_bits).execute().await;
        outcome.map_err(|error| refused("setting the address", self.name, error))
    }

    async fn add_neighbour(&self, address: Ipv4Addr, mac: MacAddress) -> Result<(), TapError> {
        let request = self.handle.neighbours().add(self.index, IpAddr::V4(address));
        // Without a state of its own the request makes a permanent entry.
        let outcome = request.link_layer_address(&mac.0).execute().await;
        outcome.map_err(|error| refused("adding a neighbour", self.name, error))
    }
}

fn refused(doing: &'static str, name: &str, error: rtnetlink::Error) -> TapError {
    let source = match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    };
    TapError::Netlink { doing, name: name.to_owned(), source }
}
