//! Every bound of the lab, with its reason.

use std::time::Duration;

// ---- the fabric ----

/// Most ports of one switch: 64 machines and the lab itself. A scan of all ports per wake-up stays
/// below 5 us.
pub const FABRIC_PORTS_MAX: u16 = 65;

/// Longest frame that the switch carries, in bytes: 9000 of a jumbo frame, the Ethernet header and
/// a VLAN tag. What is longer is cut off by the kernel's read and then refused.
pub const FRAME_BYTES_MAX: usize = 9018;

/// Shortest frame that the switch carries, in bytes: an Ethernet header (IEEE 802.3, 3.1.1).
pub const FRAME_BYTES_MIN: usize = 14;

/// MTU of every machine's interface, in bytes: what the Internet grants.
pub const MTU_BYTES: u32 = 1500;

/// Most frames in flight on one directed link: 100 ms at 1 Gbit/s in full frames. More would be a
/// queue that no real link has.
pub const LINK_QUEUE_FRAMES_MAX: usize = 8192;

/// Most bytes in flight in the whole switch. A slow link is allowed to be slow, not to eat the host.
pub const FABRIC_QUEUE_BYTES_MAX: usize = 64 << 20;

/// Most frames taken from one port before the next port has its turn: a machine that floods must
/// not keep the others waiting longer than about 1 ms.
pub const PORT_BURST_FRAMES: usize = 64;

/// Most orders that wait for the switch thread. Each caller waits for its answer, so that this is
/// also the number of callers that do not block each other.
pub const SWITCH_ORDERS_MAX: usize = 16;

/// Longest wait for the switch thread to answer an order. It answers within one burst of every
/// port (65 x 64 frames, some 50 ms); a host that is this much slower cannot run a cluster.
pub const SWITCH_ANSWER_MAX: Duration = Duration::from_secs(10);

/// Longest delay that a link may have. Raft's timeouts are seconds; more is a cut.
pub const LINK_DELAY_MAX: Duration = Duration::from_mins(1);

/// The whole of a probability, in parts per million.
pub const PER_MILLION: u32 = 1_000_000;

/// Longest interface name, in bytes: `IFNAMSIZ` less the final NUL (linux/if.h).
pub const IFACE_NAME_BYTES_MAX: usize = 15;

// ---- programs and machines ----

/// Longest end of a console or of an error output that is kept in memory, in bytes: the last
/// hundred lines or so.
pub const TAIL_BYTES_MAX: usize = 16 << 10;

/// Longest wait for a process to be gone after SIGKILL. The kernel needs milliseconds; a process
/// in uninterruptible sleep would need more, and is then a fault of the host.
pub const KILL_WAIT_MAX: Duration = Duration::from_secs(10);

/// Longest time that one probe may take.
pub const PROBE_MAX: Duration = Duration::from_mins(1);

/// Longest wait for a process to stop or to go on after SIGSTOP or SIGCONT.
pub const PAUSE_WAIT_MAX: Duration = Duration::from_secs(5);

/// How often a condition without an event to wait for is looked at again.
pub const POLL_INTERVAL: Duration = Duration::from_millis(2);

// ---- the sandbox ----

/// Longest time from the start of the sandbox until it is ready: three program starts and a few
/// dozen system calls, 20 ms when idle.
pub const SANDBOX_START_MAX: Duration = Duration::from_secs(20);

/// Longest line of the control and event pipes that the sandbox itself reads, in bytes.
pub const SANDBOX_LINE_BYTES_MAX: usize = 4096;

/// How often PID 1 of the sandbox collects orphans.
pub const REAP_INTERVAL: Duration = Duration::from_secs(1);

// ---- lab doctor ----

/// Longest wait for an answer over a whole link: a SYN may be repeated twice on a busy host.
pub const DOCTOR_ANSWER_MAX: Duration = Duration::from_secs(5);

/// How long a probe over a cut link waits: many round trips, and less than the first repetition.
pub const DOCTOR_SILENCE: Duration = Duration::from_millis(300);

const _: () = {
    // Room for every machine's number in every name.
    assert!("lab-tap".len() + "65535".len() <= IFACE_NAME_BYTES_MAX);
    // A full frame of every machine fits the switch.
    assert!(MTU_BYTES as usize + FRAME_BYTES_MIN <= FRAME_BYTES_MAX);
    // One burst of full frames from every port fits the queue.
    assert!(PORT_BURST_FRAMES * MTU_BYTES as usize * FABRIC_PORTS_MAX as usize <= FABRIC_QUEUE_BYTES_MAX);
    assert!(PORT_BURST_FRAMES <= LINK_QUEUE_FRAMES_MAX);
};
