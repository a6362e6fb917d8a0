//! Leases: how a leader confirms a read without asking anybody (Raft thesis 6.4.1), and what has to hold for it.
//!
//! A member that has heard from a leader promises not to elect another one for the length of the lease. What the leader
//! needs for its part is a clock that counts all of that time. A process that is stopped has one; a machine that is paused
//! has none of its own, and only the hypervisor's clock tells it of the pause. Without that one there is no lease, and reads
//! are confirmed by a quorum.

use std::collections::VecDeque;
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::time::ClockId;
use openraft::vote::RaftLeaderId;
use rand::RngExt;
use serde::Deserialize;
use tokio::time::Instant;

use crate::host::random;
use crate::limits::{LEASE_CLOCK_LOOKS, LEASE_MARGIN, LEASE_MARKS};
use crate::types::NodeId;
use crate::types::raft_types::Vote;

/// Which clock leases are measured with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LeaseClock {
    /// This machine's own, or the hypervisor's as well where the machine may be virtual; none if it has none
    #[default]
    Auto,
    /// This machine's own, also where it is virtual: nobody pauses it
    Own,
    /// None: no leases
    Off,
}

impl LeaseClock {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Own => "own",
            Self::Off => "off",
        }
    }
}

/// Whether this node's lease counts.
#[derive(Debug)]
pub(super) struct Leases {
    /// Without one there are no leases.
    witness: Option<Witness>,
    length: Duration,
    /// What the clocks showed, from older to newer.
    marks: Mutex<VecDeque<Mark>>,
}

/// A clock that goes on where openraft's, `CLOCK_MONOTONIC`, stands still.
#[derive(Debug)]
enum Witness {
    /// While the machine is suspended.
    BootTime,
    /// While the hypervisor has paused it.
    Host(HostClock),
}

/// Two clocks at one moment, in nanoseconds from when it does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) own_ns: i128,
    pub(super) witness_ns: i128,
}

/// Why there is no clock of a hypervisor.
#[derive(Debug, thiserror::Error)]
enum HostClockError {
    #[error("no clock in /sys/class/ptp is a hypervisor's")]
    None,
    #[error("{}", .0.display())]
    Device(PathBuf, #[source] io::Error),
}

impl Leases {
    /// Leases of this length, as openraft has them, by this clock.
    pub(super) fn open(clock: LeaseClock, length: Duration) -> Self {
        let witness = match clock {
            LeaseClock::Off => None,
            LeaseClock::Own => Some(Witness::BootTime),
            LeaseClock::Auto if !may_be_virtual() => Some(Witness::BootTime),
            LeaseClock::Auto => match HostClock::open() {
                Ok(clock) => Some(Witness::Host(clock)),
                Err(error) => {
                    let source = error.source();
                    tracing::info!(%error, source, "there are no leases, a quorum confirms reads: this machine may be virtual");
                    None
                }
            },
        };
        Self { witness, length, marks: Mutex::default() }
    }

    /// How old the last word of a quorum may be, in openraft's time; nothing without leases. Two clocks do not run equally fast.
    pub(super) fn age_max(&self) -> Option<Duration> {
        self.witness.as_ref().map(|_| self.length * (LEASE_MARGIN - 1) / LEASE_MARGIN)
    }

    /// Whether openraft's time was the true one from a lease before `asked_ns` until now, by [`own_ns`]. It is asked after
    /// openraft was, and openraft after `asked_ns`: so what openraft has counted lies in between.
    pub(super) fn has_true_time(&self, asked_ns: i128) -> bool {
        self.mark().is_some_and(|now| {
            let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
            no_time_is_missing(&marks, asked_ns, now, self.length)
        })
    }

    /// What the clocks show now; nothing without a clock that counts all of the time.
    pub(super) fn mark(&self) -> Option<Mark> {
        self.witness.as_ref().and_then(|witness| witness.mark(tolerance(self.length)))
    }

    /// How much time has passed between two marks; nothing where the clocks do not agree on it.
    pub(super) fn passed(&self, from: Mark, to: Mark) -> Option<Duration> {
        passed(from, to, tolerance(self.length))
    }

    /// Marks what the clocks show, for as long as it runs.
    pub(super) async fn keep_marks(&self) {
        if self.witness.is_none() {
            return;
        }
        loop {
            if let Some(mark) = self.mark() {
                let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
                if marks.len() == LEASE_MARKS as usize {
                    marks.pop_front();
                }
                marks.push_back(mark);
            }
            tokio::time::sleep(2 * self.length / LEASE_MARKS).await;
        }
    }
}

/// How far apart two clocks may go in a lease: half of what it is shorter by than it could be.
fn tolerance(lease: Duration) -> Duration {
    lease / LEASE_MARGIN / 2
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

/// Whether both clocks have gone equally far since the last mark that is a lease older than `asked_ns`.
fn no_time_is_missing(marks: &VecDeque<Mark>, asked_ns: i128, now: Mark, lease: Duration) -> bool {
    let before = marks.iter().rev().find(|mark| asked_ns - mark.own_ns >= nanos(lease));
    before.is_some_and(|before| {
        let missing = (now.witness_ns - before.witness_ns) - (now.own_ns - before.own_ns);
        missing.abs() <= nanos(tolerance(lease))
    })
}

/// How much time has passed between two marks: the longer one of what the clocks have counted, nothing if they differ by more than
/// `tolerance`.
fn passed(from: Mark, to: Mark, tolerance: Duration) -> Option<Duration> {
    let (own_ns, witness_ns) = (to.own_ns - from.own_ns, to.witness_ns - from.witness_ns);
    let counted = u64::try_from(own_ns.max(witness_ns).max(0)).unwrap_or(u64::MAX);
    ((own_ns - witness_ns).abs() <= nanos(tolerance)).then(|| Duration::from_nanos(counted))
}

impl Witness {
    /// Both clocks at one moment; nothing where this thread was held up in between.
    fn mark(&self, tolerance: Duration) -> Option<Mark> {
        (0..LEASE_CLOCK_LOOKS).find_map(|_| {
            let before = own_ns();
            let witness_ns = match self {
                Self::BootTime => nanoseconds(ClockId::CLOCK_BOOTTIME.now().ok()?),
                Self::Host(clock) => clock.now_ns().ok()?,
            };
            let own_ns = own_ns();
            (own_ns - before < nanos(tolerance) / 4).then_some(Mark { own_ns, witness_ns })
        })
    }
}

/// The hypervisor's clock, a device of the kernel (`ptp_kvm` and its like).
#[derive(Debug)]
struct HostClock {
    device: File,
}

/// What the kernel calls those that ask the hypervisor each time. That of Hyper-V does not: it counts on from its last sample
/// with a counter of the guest (Linux, `drivers/hv/hv_util.c`).
const HOST_CLOCKS: [&str; 2] = ["KVM virtual PTP", "ptp_vmw"];

impl HostClock {
    /// The first such clock.
    fn open() -> Result<Self, HostClockError> {
        let is_host = |clock: &Path| {
            let name = fs::read_to_string(clock.join("clock_name")).unwrap_or_default();
            HOST_CLOCKS.contains(&name.trim())
        };
        let found = fs::read_dir("/sys/class/ptp").into_iter().flatten().flatten();
        let clock = found.map(|entry| entry.path()).find(|clock| is_host(clock));
        let name = clock.as_deref().and_then(Path::file_name).ok_or(HostClockError::None)?;
        let path = Path::new("/dev").join(name);
        let failed = |source| HostClockError::Device(path.clone(), source);
        let clock = Self { device: File::open(&path).map_err(failed)? };
        clock.now_ns().map_err(failed)?;
        Ok(clock)
    }

    fn now_ns(&self) -> io::Result<i128> {
        // FD_TO_CLOCKID (clock_gettime(2)).
        Ok(nanoseconds(ClockId::from_raw((!self.device.as_raw_fd() << 3) | 3).now()?))
    }
}

/// `CLOCK_MONOTONIC`, by which openraft measures time.
pub(super) fn own_ns() -> i128 {
    nanoseconds(ClockId::CLOCK_MONOTONIC.now().expect("Linux has this clock"))
}

fn nanoseconds(time: nix::sys::time::TimeSpec) -> i128 {
    i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec())
}

/// Whether this could be a virtual machine, which somebody could pause.
fn may_be_virtual() -> bool {
    // Only here does the processor tell (CPUID leaf 1, ECX bit 31).
    !cfg!(target_arch = "x86_64")
        || fs::read_to_string("/proc/cpuinfo").map_or(true, |text| names_a_hypervisor(&text))
}

fn names_a_hypervisor(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_none_or(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

/// Until when a node that starts keeps its promise to elect nobody. It may have made one just before it ended, and no longer
/// knows when; to itself it promised nothing.
#[derive(Debug)]
pub(super) struct Promise {
    until: Option<Instant>,
    lease: Duration,
}

impl Promise {
    /// What a node that starts now may have promised for the length of a lease, as its last durable vote has it.
    pub(super) fn of(vote: Option<&Vote>, id: NodeId, lease: Duration) -> Self {
        let is_open = vote.is_some_and(|vote| vote.committed && vote.leader_id.node_id() != &id);
        Self { until: is_open.then(|| Instant::now() + lease), lease }
    }

    /// Whether it binds the node now.
    pub(super) fn binds(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether it bound the node when it started.
    pub(super) fn was_made(&self) -> bool {
        self.until.is_some()
    }

    /// Returns when the node may stand for election itself: nodes that have started together do not do so together.
    pub(super) async fn passed(&self) {
        if let Some(until) = self.until {
            let apart = random().random_range(Duration::ZERO..=self.lease / 2);
            tokio::time::sleep_until(until + apart).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(1);

    fn mark(own_ms: i128, witness_ms: i128) -> Mark {
        Mark { own_ns: own_ms * 1_000_000, witness_ns: witness_ms * 1_000_000 }
    }

    #[track_caller]
    fn check(marks: &[(i128, i128)], asked_ms: i128, now: (i128, i128), want: bool) {
        let marks = marks.iter().map(|(own, witness)| mark(*own, *witness)).collect();
        assert_eq!(no_time_is_missing(&marks, asked_ms * 1_000_000, mark(now.0, now.1), LEASE), want);
    }

    #[test]
    fn a_pause_since_the_lease_began_is_seen() {
        check(&[(0, 50_000)], 1_000, (1_000, 51_000), true);
        // Clocks differ a little.
        check(&[(0, 50_000)], 1_000, (1_000, 51_040), true);
        check(&[(0, 50_000)], 1_000, (1_000, 50_960), true);
        // The machine stood still for three seconds.
        check(&[(0, 50_000)], 1_000, (1_000, 54_000), false);
        // The host's clock was put back meanwhile.
        check(&[(0, 50_000)], 1_000, (1_000, 48_000), false);
        // The pause was before the lease began.
        check(&[(0, 50_000), (200, 53_200)], 1_300, (1_300, 54_300), true);
        // The newest mark that is old enough counts: a pause after an older one is over as well.
        check(&[(0, 50_000), (900, 53_900)], 1_300, (1_300, 54_300), false);
        // openraft was asked long before the clocks were: what it counted began before the last mark that is a lease old now.
        check(&[(-200, 49_800), (60, 55_060)], 880, (1_080, 56_080), false);
    }

    #[test]
    fn nothing_is_known_of_the_time_before_the_first_mark() {
        check(&[], 1_000, (1_000, 51_000), false);
        check(&[(1, 50_001)], 1_000, (1_000, 51_000), false);
    }

    #[test]
    fn time_between_two_marks_is_that_of_the_slower_clock_and_unknown_after_a_pause() {
        let tolerance = Duration::from_millis(50);
        let check = |from: (i128, i128), to: (i128, i128), want_ms: Option<u64>| {
            let got = passed(mark(from.0, from.1), mark(to.0, to.1), tolerance);
            assert_eq!(got, want_ms.map(Duration::from_millis));
        };
        check((0, 50_000), (1_000, 51_000), Some(1_000));
        check((0, 50_000), (1_000, 51_040), Some(1_040));
        check((0, 50_000), (1_000, 50_960), Some(1_000));
        check((0, 50_000), (1_000, 54_000), None);
        check((0, 50_000), (1_000, 49_000), None);
        // The other way round: nothing has passed yet.
        check((1_000, 51_000), (0, 50_000), Some(0));
    }

    #[test]
    fn virtual_machine_is_known_by_its_processor() {
        assert!(names_a_hypervisor("processor\t: 0\nflags\t\t: fpu sse hypervisor lahf_lm\n"));
        assert!(!names_a_hypervisor("processor\t: 0\nflags\t\t: fpu sse lahf_lm\n"));
        assert!(names_a_hypervisor(""), "nothing says that it is none");
    }

    #[test]
    fn lease_counts_once_its_time_was_watched() {
        let off = Leases::open(LeaseClock::Off, LEASE);
        assert_eq!((off.age_max(), off.has_true_time(own_ns())), (None, false));
        let on = Leases::open(LeaseClock::Own, LEASE);
        assert_eq!((on.age_max(), on.has_true_time(own_ns())), (Some(Duration::from_millis(900)), false));
        let began = Witness::BootTime.mark(LEASE).unwrap();
        on.marks.lock().unwrap().push_back(Mark {
            own_ns: began.own_ns - nanos(LEASE),
            witness_ns: began.witness_ns - nanos(LEASE),
        });
        assert!(on.has_true_time(own_ns()));
    }

    #[tokio::test(start_paused = true)]
    async fn node_that_starts_keeps_what_it_may_have_promised() {
        let led_by = |node: u64, committed: bool| {
            let mut vote = openraft::Vote::new(3, NodeId(node));
            vote.committed = committed;
            vote
        };
        for nothing in [None, Some(led_by(2, false)), Some(led_by(1, true))] {
            let promise = Promise::of(nothing.as_ref(), NodeId(1), LEASE);
            assert!(!promise.was_made() && !promise.binds());
            promise.passed().await;
        }
        let start = Instant::now();
        let promise = Promise::of(Some(&led_by(2, true)), NodeId(1), LEASE);
        assert!(promise.was_made() && promise.binds());
        promise.passed().await;
        assert!(!promise.binds());
        assert!((LEASE..=LEASE * 3 / 2).contains(&start.elapsed()));
    }
}
