//! The axis of a conflict: calls, answers and the limits of faults in their order, each gap wide enough to be seen.

use std::collections::BTreeSet;

use super::markup::{Markup, Px};
use super::view::{Frame, View, WIDTH, duration, float};
use crate::check::linearizable::WitnessOperation;

/// Room on both sides, in which what is open may go on.
const MARGIN: f64 = 14.0;

/// Places for times, in order but not to scale.
#[derive(Debug)]
pub(super) struct Axis {
    /// Times in order, each with its place. Invariant: two at least.
    points: Vec<(u64, f64)>,
}

impl Axis {
    /// An axis for these operations and the faults around them; none for no operation.
    pub(super) fn new(view: &View<'_>, operations: &[&WitnessOperation]) -> Option<Self> {
        let own = operations.iter().flat_map(|one| [Some(one.call_ns), one.return_ns]).flatten();
        let mut times: BTreeSet<u64> = own.collect();
        let (from_ns, to_ns) = (*times.first()?, *times.last()?);
        let limits =
            view.faults_between(from_ns, to_ns).flat_map(|(_, fault)| [fault.began_ns, fault.ended_ns]);
        times.extend(limits.flatten().filter(|at_ns| (from_ns..to_ns).contains(at_ns)));
        Some(Self::of(times))
    }

    fn of(times: BTreeSet<u64>) -> Self {
        let times: Vec<u64> = times.into_iter().collect();
        let gaps = times.windows(2).map(|pair| room(pair[1] - pair[0]));
        let all: f64 = gaps.clone().sum();
        let mut place = MARGIN;
        let mut points = vec![(times[0], place)];
        for (at_ns, gap) in times[1..].iter().zip(gaps) {
            place += gap / all * (WIDTH - 2.0 * MARGIN);
            points.push((*at_ns, place));
        }
        if points.len() == 1 {
            points.push((times[0] + 1, WIDTH - MARGIN));
        }
        Self { points }
    }

    /// The first and the last time.
    pub(super) fn ends_ns(&self) -> (u64, u64) {
        let at_ns = |point: Option<&(u64, f64)>| point.map_or(0, |point| point.0);
        (at_ns(self.points.first()), at_ns(self.points.last()))
    }

    /// The place of a time: exact for those that the axis knows, in between for others, the edge outside.
    pub(super) fn x(&self, at_ns: u64) -> f64 {
        let after = self.points.partition_point(|point| point.0 <= at_ns);
        match (after.checked_sub(1).and_then(|place| self.points.get(place)), self.points.get(after)) {
            (Some(before), Some(after)) => {
                let share = float(at_ns - before.0) / float(after.0 - before.0);
                before.1 + share * (after.1 - before.1)
            }
            (Some(last), None) => last.1,
            (None, _) => 0.0,
        }
    }

    /// Lines at every time, the lengths of the gaps, and the times at both ends.
    pub(super) fn draw(&self, view: &View<'_>, out: &mut Markup, frame: Frame) {
        let bottom = frame.top + frame.height;
        out.element("g", &[("class", &"axis")], |out| {
            for (_, x) in &self.points {
                let (place, top, end) = (Px(*x), Px(frame.top), Px(bottom));
                out.empty("line", &[("x1", &place), ("x2", &place), ("y1", &top), ("y2", &end)]);
            }
            for pair in self.points.windows(2) {
                let text = duration(pair[1].0 - pair[0].0);
                if float(text.len() as u64) * 6.6 < pair[1].1 - pair[0].1 {
                    let middle = Px(f64::midpoint(pair[0].1, pair[1].1));
                    out.leaf(
                        "text",
                        &[("x", &middle), ("y", &Px(bottom + 14.0)), ("text-anchor", &"middle")],
                        text,
                    );
                }
            }
            let ends = [(self.points.first(), "start"), (self.points.last(), "end")];
            for (point, anchor) in ends.into_iter().filter_map(|(point, anchor)| Some((point?, anchor))) {
                let (x, text) = (Px(point.1), view.instant(point.0));
                out.leaf("text", &[("x", &x), ("y", &Px(bottom + 32.0)), ("text-anchor", &anchor)], text);
            }
        });
    }
}

/// How much room a gap gets: a microsecond is seen, and a minute does not take it all.
fn room(gap_ns: u64) -> f64 {
    1.0 + (1.0 + float(gap_ns) / 10_000.0).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_nothing_is_too_narrow_to_be_seen() {
        let axis = Axis::of(BTreeSet::from([1_000, 2_000, 3_000, 60_000_000_000]));
        let places: Vec<f64> = [1_000, 2_000, 3_000, 60_000_000_000].map(|at_ns| axis.x(at_ns)).to_vec();
        assert!(
            (places[0] - MARGIN).abs() < 1e-9 && (places[3] - (WIDTH - MARGIN)).abs() < 1e-9,
            "{places:?}"
        );
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] > 80.0), "{places:?}");
        let between = axis.x(30_000_000_000);
        assert!(places[2] < between && between < places[3]);
        assert!(axis.x(0).abs() < 1e-9 && (axis.x(u64::MAX) - places[3]).abs() < 1e-9);
    }

    #[test]
    fn a_single_time_has_an_axis() {
        let axis = Axis::of(BTreeSet::from([7]));
        assert!(axis.x(7) < axis.x(8));
    }
}
