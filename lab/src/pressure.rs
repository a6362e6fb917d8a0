//! How much this host's processors are waited for: where others keep a cluster from running, what its clients waited for says little of it.

use std::fs;
use std::time::{Duration, Instant};

/// For how long somebody has waited for a processor of this host, at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Pressure {
    at: Instant,
    /// Since the host's start.
    waited: Duration,
}

impl Pressure {
    /// The present one (`/proc/pressure/cpu`, Documentation/accounting/psi.rst of the kernel); `None`: this kernel does not count it.
    pub fn now() -> Option<Self> {
        let waited = parse(&fs::read_to_string("/proc/pressure/cpu").ok()?)?;
        Some(Self { at: Instant::now(), waited })
    }

    /// In which share of the time since an earlier moment somebody has waited, from 0 to 1.
    pub fn share_since(&self, before: &Self) -> f64 {
        let (waited, passed) = (self.waited.saturating_sub(before.waited), self.at - before.at);
        if passed.is_zero() { 0.0 } else { waited.div_duration_f64(passed).min(1.0) }
    }
}

fn parse(text: &str) -> Option<Duration> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let total = some.split_whitespace().find_map(|word| word.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_is_what_was_waited_of_what_has_passed() {
        let text = "some avg10=9.61 avg60=6.08 avg300=10.50 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(parse(text), Some(Duration::from_millis(2_500)));
        assert_eq!(parse("some avg10=9.61\n"), None);
        let at = Instant::now();
        let before = Pressure { at, waited: Duration::from_secs(7) };
        let after = Pressure { at: at + Duration::from_secs(4), waited: Duration::from_secs(8) };
        assert!((after.share_since(&before) - 0.25).abs() < 1e-9);
        assert!(before.share_since(&before).abs() < 1e-9);
    }
}
