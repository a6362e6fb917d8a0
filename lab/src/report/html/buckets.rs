//! The load in buckets of time, so that a plot of a million operations has no more points than one of a hundred.

use crate::history::{History, Op, Operation, Outcome};
use crate::limits::page::{PAGE_BUCKET_MIN, PAGE_BUCKETS_MAX};
use crate::workload::client::nanos;

/// What kind of operation, as far as the plots tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Answered reads.
    Reads,
    /// Answered writes, deletes, and compare-and-swaps, successful or not.
    Updates,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Reads, Self::Updates];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Reads => "reads",
            Self::Updates => "updates",
        }
    }
}

/// How long answers took: each figure in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Latency {
    pub(super) count: u64,
    pub(super) median_ns: u64,
    pub(super) p99_ns: u64,
    pub(super) max_ns: u64,
}

impl Latency {
    fn of(mut times_us: Vec<u32>) -> Self {
        times_us.sort_unstable();
        // The nearest rank: the smallest time that so many percent do not exceed.
        let at = |percent: usize| {
            let rank = (times_us.len() * percent).div_ceil(100).saturating_sub(1);
            times_us.get(rank).map_or(0, |time_us| u64::from(*time_us) * 1_000)
        };
        Self { count: times_us.len() as u64, median_ns: at(50), p99_ns: at(99), max_ns: at(100) }
    }
}

/// One bucket: a column of every plot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bucket {
    /// By [`Kind`].
    pub(super) answered: [Latency; 2],
    pub(super) refused: u64,
    /// Operations of unknown outcome, where they were called.
    pub(super) unknown: u64,
}

/// The load of a run.
#[derive(Debug)]
pub(super) struct Buckets {
    pub(super) from_ns: u64,
    pub(super) width_ns: u64,
    pub(super) columns: Vec<Bucket>,
    /// Over the whole run, by [`Kind`].
    pub(super) all: [Latency; 2],
}

impl Buckets {
    pub(super) fn new(history: &History, from_ns: u64, to_ns: u64) -> Self {
        let time_ns = to_ns.saturating_sub(from_ns).max(1);
        let width_ns = time_ns.div_ceil(PAGE_BUCKETS_MAX as u64).max(nanos(PAGE_BUCKET_MIN));
        let place =
            |at_ns: u64| usize::try_from(at_ns.clamp(from_ns, to_ns).saturating_sub(from_ns) / width_ns);
        let count = place(to_ns).map_or(1, |last| last + 1);
        let mut times: [Vec<Vec<u32>>; 2] = [vec![Vec::new(); count], vec![Vec::new(); count]];
        let mut buckets = vec![Bucket::default(); count];
        for operation in &history.operations {
            let is_unknown = operation.outcome == Outcome::Unknown;
            let at_ns = operation.return_ns.filter(|_| !is_unknown).unwrap_or(operation.call_ns);
            let place = place(at_ns).unwrap_or_default().min(count - 1);
            match (kind(operation), operation.return_ns) {
                (Some(kind), Some(return_ns)) => {
                    let took_us = return_ns.saturating_sub(operation.call_ns) / 1_000;
                    times[kind as usize][place].push(u32::try_from(took_us).unwrap_or(u32::MAX));
                }
                _ if matches!(operation.outcome, Outcome::Refused { .. }) => buckets[place].refused += 1,
                _ => buckets[place].unknown += 1,
            }
        }
        let all = times.each_ref().map(|times| Latency::of(times.concat()));
        for (kind, times) in times.into_iter().enumerate() {
            for (bucket, times_us) in buckets.iter_mut().zip(times) {
                bucket.answered[kind] = Latency::of(times_us);
            }
        }
        Self { from_ns, width_ns, columns: buckets, all }
    }

    /// When each bucket begins, and the bucket.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Bucket)> {
        (0..).map(|place| self.from_ns + place * self.width_ns).zip(&self.columns)
    }

    pub(super) fn sum(&self, count: impl Fn(&Bucket) -> u64) -> u64 {
        self.columns.iter().map(count).sum()
    }
}

/// What an answered operation counts as; none if it was not answered.
fn kind(operation: &Operation) -> Option<Kind> {
    match (operation.outcome, operation.op) {
        (Outcome::Refused { .. } | Outcome::Unknown, _) => None,
        (_, Op::Read) => Some(Kind::Reads),
        _ => Some(Kind::Updates),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::read_history;

    #[test]
    fn operations_are_counted_where_they_were_answered() {
        let text = r#"{"call":1,"client":"c","node":"n","at_ns":0,"op":"read","key":"k"}
{"answer":1,"at_ns":2000000,"outcome":"ok","value":null}
{"call":2,"client":"c","node":"n","at_ns":100000000,"op":"write","key":"k","value":"a"}
{"answer":2,"at_ns":1900000000,"outcome":"ok"}
{"call":3,"client":"c","node":"n","at_ns":1950000000,"op":"write","key":"k","value":"b"}
{"answer":3,"at_ns":1960000000,"outcome":"refused","reason":"no"}
{"call":4,"client":"d","node":"n","at_ns":100000000,"op":"write","key":"k","value":"c"}
{"answer":4,"at_ns":1970000000,"outcome":"unknown"}
{"call":5,"client":"e","node":"n","at_ns":600000000,"op":"read","key":"k"}
"#;
        let buckets = Buckets::new(&read_history(text.as_bytes()).unwrap(), 0, 1_999_999_999);
        assert_eq!((buckets.width_ns, buckets.columns.len()), (500_000_000, 4));
        let counts = |bucket: &Bucket| (bucket.answered.map(|one| one.count), bucket.refused, bucket.unknown);
        let counts: Vec<_> = buckets.columns.iter().map(counts).collect();
        assert_eq!(counts, [([1, 0], 0, 1), ([0, 0], 0, 1), ([0, 0], 0, 0), ([0, 1], 1, 0)]);
        assert_eq!(buckets.all[1].median_ns, 1_800_000_000);
    }

    #[test]
    fn an_hour_has_as_many_buckets_as_a_page_can_show() {
        let history = History::default();
        let hour_ns = 3_600_000_000_000;
        let buckets = Buckets::new(&history, 0, hour_ns);
        assert!(buckets.columns.len() <= PAGE_BUCKETS_MAX + 1, "{}", buckets.columns.len());
        assert_eq!(Buckets::new(&history, 5, 5).columns.len(), 1);
    }

    #[test]
    fn percentiles_are_times_that_were_seen() {
        let latency = Latency::of((1..=200).rev().collect());
        let want = Latency { count: 200, median_ns: 100_000, p99_ns: 198_000, max_ns: 200_000 };
        assert_eq!(latency, want);
        assert_eq!(Latency::of(vec![7]).p99_ns, 7_000);
        assert_eq!(Latency::of(Vec::new()), Latency::default());
    }
}
