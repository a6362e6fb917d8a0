//! How fast a run goes: what the plan calls a second takes as long or longer on the wall.
//!
//! Emulated machines do in several seconds what the host does in one. A driver of such machines stretches every time of the
//! plan by one factor, its slowdown, and squeezes every time that it measures by the same: so plan, checks and proofs speak of
//! planned time, whatever the driver.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::machines::{SLOWDOWN_MAX, SLOWDOWN_MIN};

/// The factor between planned time and that of the wall, to three decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pace {
    slowdown_thousandths: u32,
}

/// Why a text is no slowdown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the slowdown is {0}, {SLOWDOWN_MIN} to {SLOWDOWN_MAX} are allowed")]
pub struct PaceError(String);

impl Pace {
    /// A planned second takes a second.
    pub const REAL: Self = Self { slowdown_thousandths: 1_000 };

    /// So many times slower than planned, as far as the limits allow it.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the factor is bounded first")]
    pub fn slower(factor: f64) -> Self {
        let bounded = factor.clamp(f64::from(SLOWDOWN_MIN), f64::from(SLOWDOWN_MAX));
        Self { slowdown_thousandths: (bounded * 1e3).round() as u32 }
    }

    /// How many times slower than planned.
    pub fn factor(self) -> f64 {
        f64::from(self.slowdown_thousandths) / 1e3
    }

    /// How long a planned time takes.
    pub fn to_real(self, planned: Duration) -> Duration {
        scaled(planned, self.slowdown_thousandths, 1_000)
    }

    /// How much planned time has passed in a time of the wall.
    pub fn to_planned(self, real: Duration) -> Duration {
        scaled(real, 1_000, self.slowdown_thousandths)
    }

    /// How much of what is planned for a second passes in one of the wall; of something, it is never nothing.
    pub fn to_real_rate(self, planned_per_s: u64) -> u64 {
        let real = u128::from(planned_per_s) * 1_000 / u128::from(self.slowdown_thousandths);
        u64::try_from(real).expect("no more than was planned").max(1)
    }

    /// What passes in a planned second, where so much passes in one of the wall.
    pub fn to_planned_rate(self, real_per_s: u64) -> u64 {
        let planned = u128::from(real_per_s) * u128::from(self.slowdown_thousandths) / 1_000;
        u64::try_from(planned).unwrap_or(u64::MAX)
    }
}

/// Multiplies and divides in whole nanoseconds. A time that has no end keeps none.
fn scaled(time: Duration, multiplier: u32, divisor: u32) -> Duration {
    let nanos = time.as_nanos() * u128::from(multiplier) / u128::from(divisor);
    u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
}

impl FromStr for Pace {
    type Err = PaceError;

    fn from_str(text: &str) -> Result<Self, PaceError> {
        let factor: Option<f64> = text.parse().ok();
        let range = f64::from(SLOWDOWN_MIN)..=f64::from(SLOWDOWN_MAX);
        factor
            .filter(|factor| range.contains(factor))
            .map(Self::slower)
            .ok_or_else(|| PaceError(text.to_owned()))
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.factor())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planned_times_are_stretched_and_measured_ones_squeezed() {
        let pace: Pace = "2.5".parse().unwrap();
        assert_eq!(pace.to_real(Duration::from_millis(40)), Duration::from_millis(100));
        assert_eq!(pace.to_planned(Duration::from_millis(100)), Duration::from_millis(40));
        assert_eq!(pace.to_real(Duration::MAX), Duration::MAX);
        assert_eq!((pace.to_real_rate(1_000_000), pace.to_planned_rate(400_000)), (400_000, 1_000_000));
        assert_eq!(pace.to_real_rate(1), 1);
        for time in [Duration::ZERO, Duration::from_nanos(1), Duration::from_hours(24)] {
            assert_eq!(Pace::REAL.to_real(time), time);
            assert_eq!(Pace::REAL.to_planned(time), time);
        }
    }

    #[track_caller]
    fn check(text: &str, want: Result<&str, &str>) {
        let got = text.parse::<Pace>().map(|pace| pace.to_string()).map_err(|error| error.to_string());
        assert_eq!(got, want.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn slowdown_is_read_as_it_is_written() {
        check("1", Ok("1"));
        check("2.50", Ok("2.5"));
        check("10", Ok("10"));
        check("3.1416", Ok("3.142"));
        check("0.9", Err("the slowdown is 0.9, 1 to 10 are allowed"));
        check("10.1", Err("the slowdown is 10.1, 1 to 10 are allowed"));
        check("NaN", Err("the slowdown is NaN, 1 to 10 are allowed"));
        check("twice", Err("the slowdown is twice, 1 to 10 are allowed"));
        assert_eq!(Pace::slower(0.2), Pace::REAL);
        assert_eq!(Pace::slower(99.0).to_string(), "10");
    }
}
