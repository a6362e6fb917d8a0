//! What every part of the page asks for: names, the scenario's time, which faults were in force, and charts that share
//! one scale of time.

use std::fmt::Display;

use super::markup::{Markup, Px};
use super::spans::Spans;
use crate::check::seconds;
use crate::limits::page::{PAGE_BANDS_MAX, PAGE_NAME_CHARS_MAX};
use crate::plan::{FaultAction, NodeIndex};
use crate::report::Sources;
use crate::runner::record::{FaultRecord, RunRecord};

/// Width of the names beside a chart.
pub(super) const GUTTER: f64 = 110.0;
/// Width of a chart.
pub(super) const WIDTH: f64 = 970.0;

/// A run, as the page looks at it.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) sources: &'a Sources<'a>,
    /// The zero of all times that are shown.
    pub(super) origin_ns: u64,
    /// What nodes said of themselves, node by node.
    pub(super) spans: Spans,
    /// The time that all charts show.
    pub(super) scale: Scale,
}

impl<'a> View<'a> {
    pub(super) fn new(sources: &'a Sources<'a>) -> Self {
        let origin_ns = sources.report.record.as_ref().map_or(0, |record| record.origin_ns);
        let spans = Spans::new(sources.plan.nodes.len(), sources.observations);
        Self { sources, origin_ns, spans, scale: Scale::of(sources) }
    }

    pub(super) fn record(&self) -> Option<&'a RunRecord> {
        self.sources.report.record.as_ref()
    }

    /// The faults that were due, in their order; each is known by its place, counted from 1.
    pub(super) fn faults(&self) -> &'a [FaultRecord] {
        self.record().map_or(&[], |record| &record.faults)
    }

    pub(super) fn name(&self, node: NodeIndex) -> &'a str {
        self.sources.plan.nodes.get(node.position()).map_or("?", |node| &node.name)
    }

    /// The node of this name.
    pub(super) fn node(&self, name: &str) -> Option<NodeIndex> {
        self.sources.plan.node_indexes().find(|node| self.name(*node) == name)
    }

    /// Seconds of the scenario's time; before its beginning they are negative.
    pub(super) fn seconds(&self, at_ns: u64) -> f64 {
        seconds(at_ns, self.origin_ns)
    }

    /// A time of the scenario, to the millisecond.
    pub(super) fn instant(&self, at_ns: u64) -> String {
        let (sign, ms) =
            (if at_ns < self.origin_ns { "-" } else { "" }, at_ns.abs_diff(self.origin_ns) / 1_000_000);
        // Cut off like in the sentences of the checks, not rounded.
        format!("{sign}{}.{:03} s", ms / 1_000, ms % 1_000)
    }

    /// What kind of fault this is.
    pub(super) fn kind(&self, fault: &FaultRecord) -> FaultKind {
        match self.sources.plan.steps.get(fault.step).map(|step| &step.action) {
            Some(FaultAction::Link { effect, .. }) if !effect.is_cut() => FaultKind::Slow,
            Some(FaultAction::Kill { .. }) => FaultKind::Kill,
            Some(FaultAction::PowerCut { .. }) => FaultKind::PowerCut,
            Some(FaultAction::Lose { .. }) => FaultKind::Lose,
            Some(FaultAction::Restart { .. }) => FaultKind::Restart,
            Some(FaultAction::Members { .. }) => FaultKind::Members,
            Some(FaultAction::Pause { .. }) => FaultKind::Pause,
            Some(FaultAction::Suspend { .. }) => FaultKind::Suspend,
            Some(FaultAction::Rollback { .. }) => FaultKind::Rollback,
            Some(FaultAction::Clock { .. }) => FaultKind::Clock,
            Some(FaultAction::Link { .. } | FaultAction::Partition { .. }) | None => FaultKind::Cut,
        }
    }

    /// The faults that were in force at some time between two, each with its number.
    pub(super) fn faults_between(
        &self,
        from_ns: u64,
        to_ns: u64,
    ) -> impl Iterator<Item = (usize, &'a FaultRecord)> {
        let is_in_force = move |fault: &FaultRecord| {
            fault.began_ns.is_some_and(|began_ns| began_ns <= to_ns)
                && fault.ended_ns.is_none_or(|ended_ns| ended_ns >= from_ns)
        };
        (1..).zip(self.faults()).filter(move |(_, fault)| is_in_force(fault))
    }

    /// Bands where faults were in force, `x` giving the place of a time, with their numbers at the top.
    pub(super) fn bands(
        &self,
        out: &mut Markup,
        from_ns: u64,
        to_ns: u64,
        frame: Frame,
        x: impl Fn(u64) -> f64,
    ) {
        let mut free = 0.0;
        for (number, fault) in self.faults_between(from_ns, to_ns).take(PAGE_BANDS_MAX) {
            let left = x(fault.began_ns.unwrap_or(from_ns).max(from_ns));
            let right = x(fault.ended_ns.unwrap_or(to_ns).min(to_ns)).max(left + 1.0);
            let (kind, label) = (self.kind(fault), format!("F{number}"));
            out.element("g", &[("class", &"band")], |out| {
                out.leaf("title", &[], format_args!("{label}: {}", fault.text));
                let (top, width, height) = (Px(frame.top), Px(right - left), Px(frame.height));
                let fill = format!("url(#{})", kind.pattern());
                out.empty(
                    "rect",
                    &[("x", &Px(left)), ("y", &top), ("width", &width), ("height", &height), ("fill", &fill)],
                );
                if left >= free {
                    let text = if right - left > 80.0 { format!("{label} {}", kind.word()) } else { label };
                    free = left + 8.0 * float(text.chars().count() as u64) + 6.0;
                    out.leaf("text", &[("x", &Px(left + 2.0)), ("y", &Px(frame.top - 3.0))], text);
                }
            });
        }
    }
}

/// Where in a drawing something is, from above.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) top: f64,
    pub(super) height: f64,
}

/// What a fault does, as far as one can see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// Links that carry nothing.
    Cut,
    /// Links that are slow, or lose something.
    Slow,
    /// A node that is dead.
    Kill,
    /// A node that is dead, and its disk not whole.
    PowerCut,
    /// A node that is dead for good.
    Lose,
    /// A node that was asked to stop.
    Restart,
    /// Members that come, vote or leave.
    Members,
    /// A node that stands still.
    Pause,
    /// A machine that is away.
    Suspend,
    /// A machine that is put back.
    Rollback,
    /// Clocks that are wrong.
    Clock,
}

impl FaultKind {
    pub(super) const ALL: [Self; 11] = [
        Self::Cut,
        Self::Slow,
        Self::Kill,
        Self::PowerCut,
        Self::Lose,
        Self::Restart,
        Self::Members,
        Self::Pause,
        Self::Suspend,
        Self::Rollback,
        Self::Clock,
    ];

    /// What it is called.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Slow => "slow links",
            Self::Kill => "kill",
            Self::PowerCut => "power cut",
            Self::Lose => "lose",
            Self::Restart => "restart",
            Self::Members => "members",
            Self::Pause => "pause",
            Self::Suspend => "suspend",
            Self::Rollback => "rollback",
            Self::Clock => "clock",
        }
    }

    /// The hatch that stands for it.
    pub(super) fn pattern(self) -> &'static str {
        match self {
            Self::Cut => "band-cut",
            Self::Slow => "band-slow",
            Self::Kill => "band-kill",
            Self::PowerCut => "band-power-cut",
            Self::Lose => "band-lose",
            Self::Restart => "band-restart",
            Self::Members => "band-members",
            Self::Pause => "band-pause",
            Self::Suspend => "band-suspend",
            Self::Rollback => "band-rollback",
            Self::Clock => "band-clock",
        }
    }
}

/// A time to a place in a chart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
}

impl Scale {
    /// From the first that is known of a run to the last.
    fn of(sources: &Sources<'_>) -> Self {
        let operations = sources.history.operations.iter();
        let operations = operations.flat_map(|one| [Some(one.call_ns), one.return_ns]).flatten();
        let observations = sources.observations.iter().map(|one| one.at_ns);
        let record = sources.report.record.iter().flat_map(|record| [record.origin_ns, record.load_ended_ns]);
        let (from, to) = operations
            .chain(observations)
            .chain(record)
            .fold((u64::MAX, 0), |(from, to), at_ns| (from.min(at_ns), to.max(at_ns)));
        // An empty run has a chart of one second.
        if from > to {
            Self { from_ns: 0, to_ns: 1_000_000_000 }
        } else {
            Self { from_ns: from, to_ns: to.max(from + 1) }
        }
    }

    pub(super) fn x(self, at_ns: u64) -> f64 {
        let share =
            float(at_ns.clamp(self.from_ns, self.to_ns) - self.from_ns) / float(self.to_ns - self.from_ns);
        share * WIDTH
    }

    /// Lines at round seconds, with the times below `frame`.
    pub(super) fn axis(self, view: &View<'_>, out: &mut Markup, frame: Frame) {
        let (from, to) = (view.seconds(self.from_ns), view.seconds(self.to_ns));
        let step = round_step((to - from) / 10.0);
        let bottom = frame.top + frame.height;
        out.element("g", &[("class", &"axis")], |out| {
            let mut at = (from / step).ceil() * step;
            while at <= to {
                let x = (at - from) / (to - from) * WIDTH;
                let (place, top, end) = (Px(x), Px(frame.top), Px(bottom));
                out.empty("line", &[("x1", &place), ("x2", &place), ("y1", &top), ("y2", &end)]);
                // `-0` would look like a mistake.
                let label = format!("{} s", (at / step).round() * step + 0.0);
                let anchor = if x < 15.0 {
                    "start"
                } else if x > WIDTH - 15.0 {
                    "end"
                } else {
                    "middle"
                };
                out.leaf(
                    "text",
                    &[("x", &place), ("y", &Px(bottom + 14.0)), ("text-anchor", &anchor)],
                    label,
                );
                at += step;
            }
        });
    }
}

/// The least of 1, 2 and 5 times a power of ten that is not below `step`.
pub(super) fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|round| *round >= step)
        .unwrap_or(10.0 * power)
}

/// Names on the left that stay in sight, and a drawing that scrolls behind them where there is no room.
#[derive(Debug, Default)]
pub(super) struct Chart {
    pub(super) gutter: Markup,
    pub(super) plot: Markup,
}

impl Chart {
    /// A name beside the drawing.
    pub(super) fn label(&mut self, y: f64, class: &'static str, text: &str) {
        let x = Px(GUTTER - 8.0);
        let attributes: [(&'static str, &dyn Display); 4] =
            [("x", &x), ("y", &Px(y)), ("text-anchor", &"end"), ("class", &class)];
        self.gutter.element("text", &attributes, |out| {
            let short = cut(text, PAGE_NAME_CHARS_MAX);
            if short != text {
                out.leaf("title", &[], text);
            }
            out.text(short);
        });
    }

    /// Puts it into the page; `text` says in words what it shows.
    pub(super) fn finish(self, out: &mut Markup, height: f64, text: &str) {
        let scrolls = format!("{text} (scrolls sideways)");
        let attributes: [(&'static str, &dyn Display); 4] =
            [("class", &"scroll chart"), ("tabindex", &"0"), ("role", &"group"), ("aria-label", &scrolls)];
        out.element("div", &attributes, |out| {
            for (class, width, content) in [("gutter", GUTTER, self.gutter), ("plot", WIDTH, self.plot)] {
                let view_box = format!("0 0 {} {}", Px(width), Px(height));
                let size = (Px(width), Px(height));
                let mut attributes: Vec<(&'static str, &dyn Display)> =
                    vec![("class", &class), ("width", &size.0), ("height", &size.1), ("viewBox", &view_box)];
                if class == "plot" {
                    attributes.extend([("role", &"img" as &dyn Display), ("aria-label", &text)]);
                } else {
                    attributes.push(("aria-hidden", &"true"));
                }
                out.element("svg", &attributes, |out| out.append(content));
            }
        });
        out.line();
    }
}

/// A text of at most so many characters, the last a sign that there are more.
pub(super) fn cut(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    text.chars().take(chars_max - 1).chain(['…']).collect()
}

/// A length of time in the unit that fits, to three digits.
pub(super) fn duration(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000_000 => (float(ns) / 1e3, "us"),
        1_000_000..1_000_000_000 => (float(ns) / 1e6, "ms"),
        _ => (float(ns) / 1e9, "s"),
    };
    let digits = match value {
        0.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// For drawings: a count, or a time in nanoseconds.
#[allow(clippy::cast_precision_loss, reason = "times and counts are drawn, and 2^53 ns are a hundred days")]
pub(super) fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        for (step, want) in [(0.7, 1.0), (1.0, 1.0), (1.1, 2.0), (3.0, 5.0), (7.0, 10.0), (360.0, 500.0)] {
            assert!((round_step(step) - want).abs() < 1e-9, "{step}: {}", round_step(step));
        }
    }

    #[test]
    fn durations_take_the_unit_that_fits() {
        for (ns, want) in
            [(900, "0.90 us"), (13_712_000, "13.7 ms"), (7_791_000_000, "7.79 s"), (123_456_000, "123 ms")]
        {
            assert_eq!(duration(ns), want);
        }
    }

    #[test]
    fn long_names_say_that_they_are_cut() {
        assert_eq!(cut("n1", 4), "n1");
        assert_eq!(cut("north-1", 4), "nor…");
    }
}
