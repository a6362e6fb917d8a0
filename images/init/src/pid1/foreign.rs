//! The four calls to the kernel for which there is no safe wrapper, and nothing else.

#![allow(
    unsafe_code,
    reason = "ioctls of one file system and of disks, the address of a packet socket, and the pace of the clocks"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, SockaddrLike, bind, socket,
};

nix::ioctl_write_ptr!(ext4_resize, b'f', 16, u64);

/// Tells a mounted ext4 to have so many blocks (`EXT4_IOC_RESIZE_FS`, fs/ext4/ioctl.c). `mount` is any directory in it.
///
/// # Errors
/// The kernel's, such as `EPERM` or `ENOTTY` for another file system.
pub(super) fn resize_ext4(mount: impl AsFd, blocks: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the kernel reads one u64 from the pointer, which is valid for the call.
    unsafe { ext4_resize(mount.as_fd().as_raw_fd(), &raw const blocks) }?;
    Ok(())
}

/// `struct blkpg_partition` (linux/blkpg.h): places in bytes, also where sectors would do.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: i32,
    names: [u8; 128],
}

/// `struct blkpg_ioctl_arg` (linux/blkpg.h).
#[repr(C)]
struct BlkpgArgument {
    operation: i32,
    flags: i32,
    bytes: i32,
    partition: *const BlkpgPartition,
}

nix::ioctl_write_ptr_bad!(blkpg, nix::request_code_none!(0x12, 105), BlkpgArgument);

/// Tells the kernel that a partition of this disk has another size now (`BLKPG_RESIZE_PARTITION`). It may be in use.
///
/// # Errors
/// The kernel's, such as `EBUSY` when it would overlap another one.
pub(super) fn resize_partition(disk: impl AsFd, number: usize, start: u64, bytes: u64) -> io::Result<()> {
    const RESIZE_PARTITION: i32 = 3;
    let partition = BlkpgPartition {
        start: i64::try_from(start).map_err(io::Error::other)?,
        length: i64::try_from(bytes).map_err(io::Error::other)?,
        number: i32::try_from(number).map_err(io::Error::other)?,
        names: [0; 128],
    };
    let bytes = i32::try_from(size_of_val(&partition)).map_err(io::Error::other)?;
    let argument =
        BlkpgArgument { operation: RESIZE_PARTITION, flags: 0, bytes, partition: &raw const partition };
    // SAFETY: the descriptor is open, and both structures are those of the kernel and live until the call is over.
    unsafe { blkpg(disk.as_fd().as_raw_fd(), &raw const argument) }?;
    Ok(())
}

/// A socket that takes and sends whole frames of one interface, and never blocks (packet(7)).
///
/// # Errors
/// The kernel has no packet sockets (`CONFIG_PACKET`), or there is no such interface.
pub(super) fn packet_socket(interface_index: u32) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be();
    address.sll_ifindex = i32::try_from(interface_index).map_err(io::Error::other)?;
    let length = u32::try_from(size_of_val(&address)).ok();
    // SAFETY: the pointer is valid for `length` bytes, and what it points to says that it is a link address.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), length) };
    let address = address.ok_or(io::ErrorKind::InvalidInput)?;
    bind(fd.as_raw_fd(), &address)?;
    Ok(fd)
}

/// Sets the pace of all clocks (adjtimex(2)): microseconds in a tick, 9,000 to 11,000, and parts per million on top, with 16
/// binary places, at most 500 either way.
///
/// # Errors
/// The kernel's, such as `EINVAL` for more than that.
pub(super) fn set_clock_pace(tick_us: i64, frequency: i64) -> io::Result<()> {
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut order: libc::timex = unsafe { std::mem::zeroed() };
    order.modes = libc::ADJ_TICK | libc::ADJ_FREQUENCY;
    order.tick = tick_us;
    order.freq = frequency;
    // SAFETY: the structure is the kernel's and lives until the call is over.
    let state = unsafe { libc::adjtimex(&raw mut order) };
    if state < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
