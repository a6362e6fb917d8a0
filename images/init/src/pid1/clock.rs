//! Clocks: how long the machine has been up, and what time it is, also by the clock of the hypervisor.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use aspen_init::limits::{DRIFT_PER_MILLION_MAX, UNIX_MS_MAX};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::ClockId;

use super::foreign;

/// Time since the machine started, pauses that it noticed included.
pub(super) fn uptime() -> Duration {
    // Linux has this clock since 2.6.39; a number that is wrong is better than no machine.
    ClockId::CLOCK_BOOTTIME.now().map_or(Duration::ZERO, Duration::from)
}

/// The same, in milliseconds.
pub(super) fn uptime_ms() -> u64 {
    millis(uptime())
}

/// A duration in milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970-01-01 UTC.
pub(super) fn unix_ms() -> i64 {
    ClockId::CLOCK_REALTIME.now().map_or(0, |now| now.num_milliseconds())
}

/// Sets the clock.
///
/// # Errors
/// A time that the kernel does not take, such as one before 1970.
pub(super) fn set_unix_ms(unix_ms: i64) -> io::Result<()> {
    check(unix_ms)?;
    Ok(ClockId::CLOCK_REALTIME.set_time(TimeSpec::milliseconds(unix_ms))?)
}

/// Moves the clock, back when negative.
///
/// # Errors
/// As [`set_unix_ms`].
pub(super) fn step_ms(by_ms: i64) -> io::Result<()> {
    let now = ClockId::CLOCK_REALTIME.now()?;
    check(now.num_milliseconds().saturating_add(by_ms))?;
    Ok(ClockId::CLOCK_REALTIME.set_time(now + TimeSpec::milliseconds(by_ms))?)
}

/// Lets all clocks run fast by so many parts per million, slow when negative.
///
/// # Errors
/// More than the kernel takes.
pub(super) fn drift(per_million: i32) -> io::Result<()> {
    if per_million.unsigned_abs() > DRIFT_PER_MILLION_MAX {
        let text = format!(
            "a drift of {per_million} parts per million, {DRIFT_PER_MILLION_MAX} are allowed either way"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let (tick_us, frequency) = pace(per_million);
    foreign::set_clock_pace(tick_us, frequency)
}

/// A drift as the kernel is told of it (adjtimex(2)): microseconds in a tick of a hundredth of a second, and what is left, in
/// parts per million with 16 binary places.
fn pace(per_million: i32) -> (i64, i64) {
    const TICK_US: i64 = 10_000;
    const PER_MILLION_OF_A_US: i64 = 100;
    let per_million = i64::from(per_million);
    let ticks = per_million / PER_MILLION_OF_A_US;
    (TICK_US + ticks, (per_million - ticks * PER_MILLION_OF_A_US) << 16)
}

fn check(unix_ms: i64) -> io::Result<()> {
    if (0..=UNIX_MS_MAX).contains(&unix_ms) {
        return Ok(());
    }
    let text = format!("unix time {unix_ms} ms, 0 to {UNIX_MS_MAX} are allowed");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

/// The hypervisor's clock, which goes on while the machine is paused.
#[derive(Debug)]
pub(super) struct HostClock {
    file: File,
}

impl HostClock {
    /// The clock `/dev/ptp0`, where there is one.
    pub(super) fn open() -> Option<Self> {
        File::open(Path::new("/dev/ptp0")).ok().map(|file| Self { file })
    }

    /// How far this machine's clock is behind, in milliseconds; negative when it is ahead.
    ///
    /// # Errors
    /// The device does not answer.
    pub(super) fn behind_ms(&self) -> io::Result<i64> {
        // FD_TO_CLOCKID (clock_gettime(2)).
        let id = ClockId::from_raw((!self.file.as_raw_fd() << 3) | 3);
        let host = id.now()?;
        Ok((host - ClockId::CLOCK_REALTIME.now()?).num_milliseconds())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_forward_and_agree_on_their_unit() {
        let (before, up) = (unix_ms(), uptime());
        assert!(before > 1_700_000_000_000, "{before}");
        assert!(uptime() >= up && up > Duration::ZERO);
        assert!(uptime_ms() >= millis(up));
    }

    #[test]
    fn drift_is_told_in_ticks_and_a_rest() {
        assert_eq!(pace(0), (10_000, 0));
        assert_eq!(pace(50_000), (10_500, 0));
        assert_eq!(pace(-100_000), (9_000, 0));
        assert_eq!(pace(123), (10_001, 23 << 16));
        assert_eq!(pace(-123), (9_999, -23 << 16));
        let error = drift(100_001).unwrap_err().to_string();
        assert_eq!(error, "a drift of 100001 parts per million, 100000 are allowed either way");
    }

    #[test]
    fn step_out_of_time_is_refused() {
        for by_ms in [i64::MIN, i64::MAX, -UNIX_MS_MAX] {
            let error = step_ms(by_ms).unwrap_err().to_string();
            assert!(error.ends_with("ms, 0 to 253402300799999 are allowed"), "{error}");
        }
        assert_eq!(
            set_unix_ms(-1).unwrap_err().to_string(),
            "unix time -1 ms, 0 to 253402300799999 are allowed"
        );
    }
}
