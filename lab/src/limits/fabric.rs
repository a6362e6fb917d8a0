//! Bounds of the kernel fabric.

use std::time::Duration;

use super::{FABRIC_PORTS_MAX, IFACE_NAME_BYTES_MAX, LINK_QUEUE_FRAMES_MAX, MTU_BYTES};

/// Rate of the class of each sender, in bytes per second: 32 Gbit/s, an order above what a host bridges in frames of
/// [`MTU_BYTES`], and the most that 32 bits hold in round numbers. A class sorts frames and holds none up.
pub const CLASS_BYTES_PER_S: u32 = 4_000_000_000;
/// What a class may send in one go, in bytes: a millisecond at its rate, a scheduler's tick on slow hosts.
pub const CLASS_BURST_BYTES: u64 = 4_000_000;
/// What a class sends before the next one has its turn, in bytes: some tens of frames.
pub const CLASS_QUANTUM_BYTES: u32 = 60_000;
/// Rate of a link that has none, in bytes per second: at this one no frame takes a nanosecond.
pub const NETEM_BYTES_PER_S_MAX: u64 = 1_000_000_000_000_000;
/// Largest jitter that netem can be told: it draws from 32 bits of nanoseconds (`tabledist` in `net/sched/sch_netem.c`).
pub const NETEM_JITTER_MAX: Duration = Duration::from_nanos(i32::MAX as u64);
/// Longest time until a port of the bridge carries frames after both its ends were set up: the kernel tells a bridge so at most
/// once a second.
pub const PORT_UP_MAX: Duration = Duration::from_secs(10);
/// Longest time that nft may take: 10 ms on an idle host, and half a second in an emulated guest beside busy machines.
pub const NFT_MAX: Duration = Duration::from_secs(20);
/// Most output of nft that is read, in bytes: a cut of every link of the largest fabric has a hundred bytes each.
pub const NFT_OUTPUT_BYTES_MAX: usize = 1 << 20;

// ---- lab fabric-check ----

/// How often a machine that hears nothing looks whether the others are done.
pub const CHECK_LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long nothing may be heard, beyond the time that the slowest frame takes, until nothing is taken to come any more.
pub const CHECK_SILENCE: Duration = Duration::from_millis(400);
/// Datagrams over each link to which nothing is done: enough to notice what would be done to a whole port.
pub const CHECK_BESIDE_COUNT: u32 = 50;
/// Bytes of each of those.
pub const CHECK_BYTES_BESIDE: usize = 100;
/// How far a time may be from what was asked, in percent of it, and how much more on top of that.
pub const CHECK_TIME_PERCENT: u32 = 10;
/// See [`CHECK_TIME_PERCENT`].
pub const CHECK_TIME_ADD: Duration = Duration::from_millis(1);
/// How far a rate may be from what was asked, in percent of it.
pub const CHECK_RATE_PERCENT: u32 = 10;
/// By how much a link may be later than before while another one is not made slow, only lossy and the like: the host itself is as
/// uneven when it is busy.
pub const CHECK_NOTICEABLE: Duration = Duration::from_millis(20);
/// Longest time until a fabric has seen everything that was sent: on an idle host it has at once.
pub const CHECK_SETTLE_MAX: Duration = Duration::from_secs(10);
/// How often a link is measured whose times are not right: a busy host delays frames, too, but not each time.
pub const CHECK_TRIES_MAX: u32 = 4;
/// Longest time that the inner process may take to end when it has told everything.
pub const CHECK_MAX: Duration = Duration::from_secs(20);

const _: () = {
    assert!("port65535".len() <= IFACE_NAME_BYTES_MAX);
    assert!(FABRIC_PORTS_MAX as usize * FABRIC_PORTS_MAX as usize * 100 <= NFT_OUTPUT_BYTES_MAX);
    // One full frame at the rate of a link that has none takes no time that netem could tell.
    assert!((MTU_BYTES as u64 + 18) * 1_000_000_000 / NETEM_BYTES_PER_S_MAX == 0);
    // The kernel takes the length of a queue as a u32.
    assert!(LINK_QUEUE_FRAMES_MAX <= u32::MAX as usize);
};
