//! The load under the timeline: throughput, what was not answered, and latency, all in the same scale of time.

use std::fmt::Write;

use super::buckets::{Bucket, Buckets, Kind, Latency};
use super::markup::{Markup, Px};
use super::view::{Chart, Frame, Scale, View, WIDTH, duration, float, round_step};

/// Shortest and longest latency of the plots: a tenth of a millisecond to ten seconds, in decades.
const DECADES: [(u64, &str); 6] = [
    (100_000, "0.1 ms"),
    (1_000_000, "1 ms"),
    (10_000_000, "10 ms"),
    (100_000_000, "100 ms"),
    (1_000_000_000, "1 s"),
    (10_000_000_000, "10 s"),
];

/// Throughput, with what was refused or stayed open below.
pub(super) fn throughput(view: &View<'_>, buckets: &Buckets, out: &mut Markup) {
    let mut chart = Chart::default();
    let frame = Frame { top: 16.0, height: 110.0 };
    let Scale { from_ns, to_ns } = view.scale;
    view.bands(&mut chart.plot, from_ns, to_ns, frame, |at_ns| view.scale.x(at_ns));
    let per_s = |count: u64| float(count) * 1e9 / float(buckets.width_ns);
    let highest = Kind::ALL.into_iter().flat_map(|kind| counts(buckets, kind)).max().unwrap_or_default();
    let step = round_step(per_s(highest).max(1.0) / 3.0);
    let top = (per_s(highest) / step).ceil().max(1.0) * step;
    let y = |value: f64| frame.top + frame.height * (1.0 - value / top);
    for line in [0.0, 1.0, 2.0, 3.0].map(|count| count * step).into_iter().filter(|line| *line <= top) {
        grid(&mut chart, y(line), &format!("{line} /s"));
    }
    for kind in Kind::ALL {
        let values: Vec<Option<f64>> = counts(buckets, kind).map(|count| Some(y(per_s(count)))).collect();
        steps(view, buckets, &mut chart.plot, kind.word(), &values);
    }
    let mut top = frame.top + frame.height + 6.0;
    for (class, word, count) in [
        ("refused", "refused", (|bucket| bucket.refused) as fn(&Bucket) -> u64),
        ("unknown", "unknown", |bucket| bucket.unknown),
    ] {
        top = strip(view, buckets, &mut chart, (class, word, count), top);
    }
    view.scale.axis(view, &mut chart.plot, Frame { top: frame.top, height: top - frame.top });
    hints(view, buckets, &mut chart.plot, Frame { top: frame.top, height: top - frame.top });
    let text = format!(
        "Throughput: {} reads and {} updates answered, {} operations refused, {} with an unknown outcome.",
        buckets.all[0].count,
        buckets.all[1].count,
        buckets.sum(|bucket| bucket.refused),
        buckets.sum(|bucket| bucket.unknown),
    );
    chart.finish(out, top + 20.0, &text);
}

fn counts(buckets: &Buckets, kind: Kind) -> impl Iterator<Item = u64> {
    buckets.columns.iter().map(move |bucket| bucket.answered[kind as usize].count)
}

/// Bars in a line of their own; where it ends. Nothing to show takes no room.
fn strip(
    view: &View<'_>,
    buckets: &Buckets,
    chart: &mut Chart,
    (class, word, count): (&'static str, &str, fn(&Bucket) -> u64),
    top: f64,
) -> f64 {
    const HEIGHT: f64 = 20.0;
    let most = buckets.columns.iter().map(count).max().unwrap_or_default();
    if most == 0 {
        return top;
    }
    chart.label(top + 14.0, "muted", word);
    for (at_ns, bucket) in buckets.iter().filter(|(_, bucket)| count(bucket) > 0) {
        let height = (HEIGHT * float(count(bucket)) / float(most)).max(3.0);
        let left = view.scale.x(at_ns);
        let width = (view.scale.x(at_ns + buckets.width_ns) - left - 0.5).max(1.5);
        let (x, y) = (Px(left), Px(top + HEIGHT - height));
        let size = (Px(width), Px(height));
        chart.plot.empty(
            "rect",
            &[("class", &class), ("x", &x), ("y", &y), ("width", &size.0), ("height", &size.1)],
        );
    }
    top + HEIGHT + 4.0
}

/// Latency of reads, or of updates: median, 99th percentile, longest.
pub(super) fn latency(view: &View<'_>, buckets: &Buckets, kind: Kind, out: &mut Markup) {
    let mut chart = Chart::default();
    let frame = Frame { top: 16.0, height: 110.0 };
    let Scale { from_ns, to_ns } = view.scale;
    view.bands(&mut chart.plot, from_ns, to_ns, frame, |at_ns| view.scale.x(at_ns));
    let y = |ns: u64| frame.top + frame.height * (1.0 - height(ns));
    for (ns, text) in DECADES {
        grid(&mut chart, y(ns), text);
    }
    let answered = |bucket: &Bucket| bucket.answered[kind as usize];
    let values = |figure: fn(Latency) -> u64| -> Vec<Option<f64>> {
        let latencies = buckets.columns.iter().map(answered);
        latencies.map(|one| (one.count > 0).then(|| y(figure(one)))).collect()
    };
    steps(view, buckets, &mut chart.plot, "median", &values(|one| one.median_ns));
    steps(view, buckets, &mut chart.plot, "p99", &values(|one| one.p99_ns));
    for (at_ns, bucket) in buckets.iter().filter(|(_, bucket)| answered(bucket).count > 0) {
        let x = Px(view.scale.x(at_ns + buckets.width_ns / 2));
        let y = Px(y(answered(bucket).max_ns));
        chart.plot.empty("circle", &[("class", &"longest"), ("cx", &x), ("cy", &y), ("r", &"1.8")]);
    }
    view.scale.axis(view, &mut chart.plot, frame);
    hints(view, buckets, &mut chart.plot, frame);
    let Latency { count, median_ns, p99_ns, max_ns } = buckets.all[kind as usize];
    let text = format!(
        "Latency of {count} {}: median {}, 99th percentile {}, longest {}.",
        kind.word(),
        duration(median_ns),
        duration(p99_ns),
        duration(max_ns),
    );
    chart.finish(out, frame.top + frame.height + 20.0, &text);
}

/// Where a latency is between the lowest decade, 0, and the highest, 1.
fn height(ns: u64) -> f64 {
    let (low, high) = (DECADES[0].0, DECADES[DECADES.len() - 1].0);
    (float(ns.clamp(low, high)) / float(low)).log10() / (float(high) / float(low)).log10()
}

/// A line across a plot, and what it stands for.
fn grid(chart: &mut Chart, y: f64, text: &str) {
    chart.label(y + 4.0, "muted", text);
    let place = Px(y);
    chart
        .plot
        .empty("line", &[("class", &"grid"), ("x1", &0), ("x2", &Px(WIDTH)), ("y1", &place), ("y2", &place)]);
}

/// A line of steps, one for each bucket, interrupted where there is no value.
fn steps(view: &View<'_>, buckets: &Buckets, out: &mut Markup, class: &'static str, values: &[Option<f64>]) {
    // Writing to a String cannot fail.
    let mut path = String::new();
    let mut is_drawing = false;
    for ((at_ns, _), value) in buckets.iter().zip(values) {
        if let Some(y) = value {
            let end = Px(view.scale.x(at_ns + buckets.width_ns));
            if is_drawing {
                let _ = write!(path, "V{}H{end}", Px(*y));
            } else {
                let _ = write!(path, "M{} {}H{end}", Px(view.scale.x(at_ns)), Px(*y));
            }
        }
        is_drawing = value.is_some();
    }
    let class = format!("line {class}");
    out.empty("path", &[("class", &class), ("d", &path)]);
}

/// What each bucket holds, for those who point at it.
fn hints(view: &View<'_>, buckets: &Buckets, out: &mut Markup, frame: Frame) {
    out.element("g", &[("class", &"hints")], |out| {
        for (at_ns, bucket) in buckets.iter() {
            let left = view.scale.x(at_ns);
            let width = Px((view.scale.x(at_ns + buckets.width_ns) - left).max(0.5));
            let (x, y, height) = (Px(left), Px(frame.top), Px(frame.height));
            out.element("rect", &[("x", &x), ("y", &y), ("width", &width), ("height", &height)], |out| {
                out.leaf("title", &[], hint(view, buckets, at_ns, bucket));
            });
        }
    });
}

fn hint(view: &View<'_>, buckets: &Buckets, at_ns: u64, bucket: &Bucket) -> String {
    let mut text = format!("{:.1} s, {} long", view.seconds(at_ns), duration(buckets.width_ns));
    for (kind, one) in Kind::ALL.into_iter().zip(bucket.answered).filter(|(_, one)| one.count > 0) {
        let (median, p99, max) = (duration(one.median_ns), duration(one.p99_ns), duration(one.max_ns));
        let _ = write!(text, "\n{} {}: median {median}, p99 {p99}, longest {max}", one.count, kind.word());
    }
    for (count, word) in [(bucket.refused, "refused"), (bucket.unknown, "with an unknown outcome")] {
        if count > 0 {
            let _ = write!(text, "\n{count} {word}");
        }
    }
    text
}
