//! Bounds of virtual machines, and of the pace at which they go.

use std::time::Duration;

use super::{CUT_PROBE_WAIT, LINK_DELAY_MAX, LINK_LATENCY_MAX, PROBE_MAX};

/// Least factor by which a driver stretches planned time: machines that are faster than planned are not held up.
pub const SLOWDOWN_MIN: u32 = 1;
/// Greatest such factor. A run of half a minute takes five then; a host that would need more is of no use for it.
pub const SLOWDOWN_MAX: u32 = 10;

/// Size of a machine's data disk, in bytes: a thousand bytes for each operation of the longest history, in the log and in the
/// state. It is sparse.
pub const DATA_DISK_BYTES: u64 = 2 << 30;
/// How much of what a machine sends may wait for the switch, and of what it is sent for a machine of QEMU, in bytes as the kernel
/// counts them: two thousand frames, as long a queue as that of a TAP and the host's in front of it.
pub const FRAMES_QUEUED_BYTES: usize = 4 << 20;
/// By how much QEMU may be later with its first line than with any other, since it has yet to start: it takes 0.1 s on an idle
/// host.
pub const QEMU_START_MAX: Duration = Duration::from_secs(10);
/// How often the power button is pressed until a machine goes off: one that boots may not see the first press.
pub const POWER_BUTTON_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time in which a hypervisor has to name its version.
pub const HYPERVISOR_VERSION_MAX: Duration = Duration::from_secs(10);
/// Longest time in which the smallest guest has to run to its end: where KVM works it takes 0.3 s, most of it the start of QEMU
/// and its firmware. With four busy programs a core the same trial has taken nine times as long as on an idle host (measured
/// emulated: 0.08 s and 0.7 s), and this is three times that. Where KVM opens and runs nothing, a run waits so long for it, once.
pub const KVM_TRIAL_MAX: Duration = Duration::from_secs(10);
/// The same, emulated: 0.8 s on an idle host, several beside compilers.
pub const EMULATED_TRIAL_MAX: Duration = Duration::from_secs(20);
/// Longest time in which a kernel without anything to do has to give up: on KVM it takes a second, emulated four.
pub const KERNEL_TRIAL_MAX: Duration = Duration::from_secs(20);
/// Longest wait for the machine that is measured to serve: emulated, beside compilers, it has taken 20 s.
pub const CALIBRATION_BOOT_MAX: Duration = Duration::from_mins(1);
/// How long a machine is asked for as much as it can do: some hundred operations, and less than anybody waits for.
pub const CALIBRATION_TIME: Duration = Duration::from_secs(3);
/// Clients that ask at the same time: as many as keep one machine busy.
pub const CALIBRATION_CLIENTS: u32 = 4;
/// Most of what all machines together can do that a run may ask of them, in percent: the rest is for elections, catching up
/// and looking at them.
pub const UTILIZATION_PERCENT_MAX: u32 = 50;
/// Processes of nodes that a core carries at the pace of any plan, without being measured: topologies have five, CI two cores.
pub const PROCESSES_PER_CORE_MAX: usize = 4;
/// Longest boot of a machine in planned time, beside all others at work: well below half of what scenarios give a cluster to
/// recover from a restart, since it has to catch up, too.
pub const PLANNED_BOOT_MAX: Duration = Duration::from_secs(4);
/// Longest wait for one line of QEMU's machine protocol: an answer takes less than a millisecond, beside busy emulators some
/// tenths of a second.
pub const QMP_ANSWER_MAX: Duration = Duration::from_secs(10);
/// Longest line of the machine protocol, in bytes: the longest answer that is asked for has 300.
pub const QMP_LINE_BYTES_MAX: u64 = 64 << 10;
/// Most lines that are read for one answer: what else happens in a machine comes as an event, a few in its life.
pub const QMP_LINES_MAX: usize = 1_000;
/// Longest wait for Cloud Hypervisor to open its API socket after its start.
pub const CLOUD_HYPERVISOR_START_MAX: Duration = Duration::from_secs(10);
/// Longest wait for an answer of its API: one takes some milliseconds, beside busy machines some tenths of a second.
pub const API_ANSWER_MAX: Duration = Duration::from_secs(10);
/// Oldest QEMU that is taken, by its major and minor version: the first one whose network cards take frames as datagrams.
pub const QEMU_VERSION_MIN: (u32, u32) = (7, 2);
/// Oldest Cloud Hypervisor that is taken, by its major version: the API and the words of its command line are those of this one,
/// and older ones were not tried.
pub const CLOUD_HYPERVISOR_VERSION_MIN: u32 = 53;
/// Longest time in which a machine's memory is written down: that of the largest on a disk that takes 100 MiB/s.
pub const SAVE_MAX: Duration = Duration::from_mins(3);
/// Longest time in which it is read again.
pub const LOAD_MAX: Duration = SAVE_MAX;
/// How fast QEMU may write a machine down that stands still, in bytes a second: as fast as it can.
pub const SAVE_BYTES_PER_S: u64 = 1 << 40;
/// Between looks at whether QEMU has written a machine down.
pub const SAVE_LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Longest description of a machine that Cloud Hypervisor saves, in bytes: its own has 4 KiB.
pub const SAVED_CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// Requests that a guest may have under way at its disk, where the lab serves it: as many as QEMU's own disks take.
pub const DISK_QUEUE_MAX: u16 = 128;
/// Parts of which a request's data may consist: as many as fit into a queue, less its header and its answer.
pub const DISK_SEGMENTS_MAX: u32 = DISK_QUEUE_MAX as u32 - 2;
/// Most data of one request, in bytes: Linux asks for 1280 KiB at most (`BLK_DEF_MAX_SECTORS_CAP`).
pub const DISK_REQUEST_BYTES_MAX: usize = 4 << 20;
/// Contents of sectors that a disk keeps which the guest has not flushed: 32 MiB, a node flushes after some KiB. Of more
/// everything is taken for flushed.
pub const UNFLUSHED_CONTENTS_MAX: usize = 65_536;
/// Moments at which a machine's power may fail, once it is to: as many as the writes with which the appliance makes sure that
/// something is lost.
pub const POWER_CUT_CHANCES_MAX: u32 = 8;
/// Longest wait for such a moment. Those writes take some milliseconds, on slow machines some tenths of a second.
pub const POWER_CUT_WAIT_MAX: Duration = Duration::from_secs(5);
/// Smallest step of a clock that can be told from the time that it takes to ask it, on a slow machine.
pub const CLOCK_STEP_MIN: Duration = Duration::from_millis(500);
/// Largest step of a clock: as long as anything that is planned.
pub const CLOCK_STEP_MAX: Duration = super::PLANNED_DURATION_MAX;
/// What a clock has to gain or lose by its drift until the fault is over, so that it can be measured.
pub const CLOCK_DRIFTED_MIN: Duration = Duration::from_millis(200);
/// By what share of what was asked for a clock may be more or less wrong, in percent, beside the time that it takes to ask it: what
/// is further off is another fault.
pub const CLOCK_TOLERANCE_PERCENT: u64 = 20;
/// How far a clock may be off that was just set, beside the time that it took to ask it.
pub const CLOCK_RIGHT_MAX: Duration = Duration::from_millis(100);
/// How long the node of a machine that was rolled back is asked what it knows, in planned time, before it is told.
pub const ROLLED_BACK_ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a machine has to hear that it was rolled back and to go off, in planned time: its disk is written out first.
pub const RETIRE_MAX: Duration = Duration::from_mins(1);
/// Longest wait for the appliance to take a request from its control channel.
pub const CONTROL_ANSWER_MAX: Duration = Duration::from_secs(10);
/// Longest wait for the appliance to say how its node is before it is stopped: one that still boots does not answer.
pub const HEALTH_ANSWER_MAX: Duration = Duration::from_secs(2);
/// Longest wait for a hypervisor to connect the lab with a vsock port of its machine: it takes a millisecond once the appliance
/// listens, and one that boots does not say no.
pub const VSOCK_ANSWER_MAX: Duration = Duration::from_secs(2);
/// Longest answer to the request for a vsock port, in bytes: `OK` and a number of ten digits.
pub const VSOCK_LINE_BYTES_MAX: usize = 64;
/// By how much a machine may be late with the outcome of a probe before it is taken to be none: an emulated one that was
/// not scheduled for a while.
pub const SILENT_MACHINE_MARGIN: Duration = Duration::from_secs(5);
/// How much of a console is read at once, in bytes, and the longest line on it that may say something to programs.
pub const CONSOLE_READ_BYTES: usize = 16 << 10;
/// Memory that QEMU takes for itself beside its machine's where it emulates, in MiB: with all that it has translated it had 235
/// at the end of the topology three-nodes.
pub const EMULATOR_MEMORY_MIB: u32 = 256;
/// Memory that a hypervisor takes for itself where the processor runs its machine, in MiB: an allowance for its program and its
/// devices, which was not measured.
pub const HYPERVISOR_MEMORY_MIB: u32 = 64;
/// Memory of a virtual machine where a scenario does not say, in MiB: a node needs a third of it, the rest is page cache.
pub const MEMORY_MIB_DEFAULT: u32 = 256;
/// Least memory of a virtual machine, in MiB: the least in which the appliance serves.
pub const MEMORY_MIB_MIN: u32 = 96;
/// Most memory of a virtual machine, in MiB: more is no part of any story.
pub const MEMORY_MIB_MAX: u32 = 16 * 1024;

const _: () = {
    // However late its power fails, there is something to lose.
    assert!(POWER_CUT_CHANCES_MAX <= aspen_init::limits::UNFLUSHED_WRITES);
    // A machine is allowed to wait as long as the lab asks it to.
    assert!(PROBE_MAX.as_millis() <= aspen_init::limits::PROBE_MS_MAX as u128);
    // A probe can wait for the slowest round trip of a file: latency and jitter, there and back.
    assert!(
        SLOWDOWN_MAX as u128 * (4 * LINK_LATENCY_MAX.as_millis() + CUT_PROBE_WAIT.as_millis())
            <= PROBE_MAX.as_millis()
    );
    assert!(SLOWDOWN_MAX as u128 * 2 * LINK_LATENCY_MAX.as_millis() <= LINK_DELAY_MAX.as_millis());
    assert!(
        MEMORY_MIB_MIN <= MEMORY_MIB_DEFAULT && MEMORY_MIB_DEFAULT <= MEMORY_MIB_MAX,
        "a default is allowed"
    );
};

// ---- simulation ----

/// After so long a message of a simulation that was lost is sent once more, besides twice the latency of its link: QUIC's probe time-out for
/// a quick link (RFC 9002, 6.2), rounded up.
pub const SIMULATED_RESEND: Duration = Duration::from_millis(50);
/// Most milliseconds of a client's way to a node, or back.
pub const SIMULATED_CLIENT_DELAY_MS_MAX: u64 = 2;
/// Bytes of a probe in a simulation, as an echo request has them.
pub const SIMULATED_PROBE_BYTES: u64 = 98;
