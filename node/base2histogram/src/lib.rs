//! Histograms of whole numbers by powers of two, with the interface of the crate base2histogram as far as openraft uses it.
//!
//! That crate builds tables for every width a histogram could have, 26 MB of them, as soon as one is made: more than the rest
//! of a node that has just started, and five sixths of the instructions of its start. A histogram of one width needs none.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that fails says where"))]

use std::fmt;
use std::marker::PhantomData;

/// Buckets of each power of two: values are told apart to a quarter.
const BUCKETS_PER_POWER: usize = 4;
/// Bits of a value that choose one of them.
const BITS_PER_POWER: u32 = BUCKETS_PER_POWER.ilog2();
/// Values below [`BUCKETS_PER_POWER`] have a bucket each, and so has each quarter of every power above.
const BUCKETS: usize = BUCKETS_PER_POWER * (u64::BITS - BITS_PER_POWER + 1) as usize;

/// How often values of each size were recorded. The parameter is of no use here; openraft leaves it at its default.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Vec<u64>,
    unused: PhantomData<T>,
}

/// Values below which given shares of all that was recorded are, each the least of its bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values were recorded.
    pub samples: u64,
    /// One in a thousand is no larger.
    pub p0_1: u64,
    /// One in a hundred.
    pub p1: u64,
    /// One in twenty.
    pub p5: u64,
    /// One in ten.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// Nine in ten.
    pub p90: u64,
    /// Ninety-nine in a hundred.
    pub p99: u64,
    /// Nine hundred and ninety-nine in a thousand.
    pub p99_9: u64,
}

/// Histograms side by side, to be printed.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart<T = ()> {
    rows: Vec<(String, PercentileStats)>,
    unused: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// Without any value.
    pub fn new() -> Self {
        Self { counts: vec![0; BUCKETS], unused: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value that came so many times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        self.counts[bucket(value)] += count;
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How they are spread.
    pub fn percentile_stats(&self) -> PercentileStats {
        let below = |per_thousand| self.quantile(per_thousand);
        PercentileStats {
            samples: self.total(),
            p0_1: below(1),
            p1: below(10),
            p5: below(50),
            p10: below(100),
            p50: below(500),
            p90: below(900),
            p99: below(990),
            p99_9: below(999),
        }
    }

    /// The least value of the bucket that holds the one below or at which so many thousandths are; 0 without any.
    fn quantile(&self, per_thousand: u64) -> u64 {
        let rank = u128::from(self.total()) * u128::from(per_thousand);
        let mut passed = 0;
        let found = self.counts.iter().position(|count| {
            passed += u128::from(*count) * 1_000;
            *count > 0 && passed >= rank
        });
        found.map_or(0, least)
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Histogram<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        f.debug_map().entries(filled.map(|(bucket, count)| (least(bucket), count))).finish()
    }
}

impl<T> AsciiChart<T> {
    /// Without any row.
    pub fn new() -> Self {
        Self { rows: Vec::new(), unused: PhantomData }
    }

    /// Adds a row.
    #[must_use]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "the interface is that of the crate in whose place this is"
    )]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.rows.push((name.to_owned(), histogram.percentile_stats()));
        self
    }
}

impl<T> fmt::Display for AsciiChart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, stats) in &self.rows {
            writeln!(f, "{name}: {stats}")?;
        }
        Ok(())
    }
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p0_1, p1, p5, p10, p50, p90, p99, p99_9 } = self;
        write!(
            f,
            "{samples} values, 0.1 %: {p0_1}, 1 %: {p1}, 5 %: {p5}, 10 %: {p10}, 50 %: {p50}, 90 %: {p90}, 99 %: {p99}, \
             99.9 %: {p99_9}"
        )
    }
}

fn bucket(value: u64) -> usize {
    if value < BUCKETS_PER_POWER as u64 {
        return usize::try_from(value).unwrap_or_default();
    }
    // The highest bit tells the power, and those after it the quarter.
    let shift = value.ilog2() - BITS_PER_POWER;
    let quarter = usize::try_from(value >> shift).unwrap_or_default() % BUCKETS_PER_POWER;
    (shift as usize + 1) * BUCKETS_PER_POWER + quarter
}

/// The least value of a bucket.
fn least(bucket: usize) -> u64 {
    if bucket < BUCKETS_PER_POWER {
        return bucket as u64;
    }
    let (power, quarter) = (bucket / BUCKETS_PER_POWER, bucket % BUCKETS_PER_POWER);
    ((BUCKETS_PER_POWER + quarter) as u64) << (power - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap_and_hold_every_value() {
        for bucket_index in 0..BUCKETS {
            assert_eq!(bucket(least(bucket_index)), bucket_index);
            if bucket_index > 0 {
                assert_eq!(bucket(least(bucket_index) - 1), bucket_index - 1);
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_those_of_what_was_recorded_to_a_quarter() {
        let mut histogram: Histogram = Histogram::new();
        assert_eq!(histogram.percentile_stats(), PercentileStats::default());
        (1..=1_000).for_each(|value| histogram.record(value));
        let stats = histogram.percentile_stats();
        assert_eq!(stats.samples, 1_000);
        for (got, want) in [(stats.p0_1, 1), (stats.p10, 100), (stats.p50, 500), (stats.p99, 990)] {
            assert!(got <= want && want <= got + got / 4, "{got} for {want}");
        }
        let chart = AsciiChart::new().add("a", histogram).to_string();
        assert!(chart.starts_with("a: 1000 values, 0.1 %: 1, "), "{chart}");
    }
}
