//! Operations that conflict, drawn on a timeline of their own and listed in a table.
//!
//! What conflicts is often milliseconds in a run of minutes, so time is not to scale here: every gap between two calls or
//! answers gets its room, and its length is written under it.

use super::axis::Axis;
use super::markup::{Markup, Px, table};
use super::spans::Condition;
use super::timeline::describe;
use super::view::{Chart, Frame, View, WIDTH, cut, float};
use crate::check::Verdict;
use crate::check::linearizable::{Role, Violation, WitnessOperation, shown};
use crate::history::Outcome;
use crate::limits::REPORT_OPERATIONS_MAX;
use crate::limits::page::{
    PAGE_ARROWS_MAX, PAGE_LABEL_CHARS_MAX, PAGE_LANES_MAX, PAGE_LISTED_MAX, PAGE_NAME_CHARS_MAX,
    PAGE_SENTENCE_CHARS_MAX,
};
use crate::report::violation::{instant, what};

/// Height of the line of one operation.
const LANE: f64 = 42.0;
/// Above the lines: the numbers of the faults.
const TOP: f64 = 20.0;

/// The conflicts that a verdict holds; none for one that holds none.
pub(super) fn violations(verdict: &Verdict) -> Vec<Violation> {
    serde_json::from_value(verdict.details["violations"].clone()).unwrap_or_default()
}

/// Draws a conflict, and lists it.
pub(super) fn conflict(view: &View<'_>, violation: &Violation, out: &mut Markup) {
    let drawn: Vec<&WitnessOperation> = violation.operations.iter().take(PAGE_LANES_MAX).collect();
    if let Some(axis) = Axis::new(view, &drawn) {
        let mut chart = Chart::default();
        let frame = Frame { top: TOP, height: LANE * float(drawn.len() as u64) };
        let (from_ns, to_ns) = axis.ends_ns();
        view.bands(&mut chart.plot, from_ns, to_ns, frame, |at_ns| axis.x(at_ns));
        axis.draw(view, &mut chart.plot, frame);
        arrows(&axis, &drawn, &mut chart.plot);
        for (place, one) in (0..).zip(&drawn) {
            let top = TOP + LANE * float(place);
            let names = format!(
                "{} → {}",
                cut(&one.client, PAGE_NAME_CHARS_MAX / 2),
                cut(&one.node, PAGE_NAME_CHARS_MAX / 2)
            );
            chart.label(top + 18.0, "name", &names);
            let part = if one.role == Role::Source { "source" } else { "✗ conflict" };
            chart.label(top + 34.0, if one.role == Role::Source { "muted" } else { "bad" }, part);
            bar(view, &axis, one, &mut chart.plot, top);
        }
        let text =
            format!("The operations on key {} that conflict, from call to answer.", shown(&violation.key));
        chart.finish(out, frame.top + frame.height + 40.0, &text);
    }
    if let Some(more) = violation.operations.len().checked_sub(PAGE_LANES_MAX + 1) {
        out.leaf("p", &[], format_args!("{} more operations are not drawn.", more + 1));
    }
    around(view, &drawn, out);
    out.element("p", &[("class", &"note")], |out| {
        let minimal = if violation.is_minimal {
            "Without any one of the operations in conflict the others could be explained."
        } else {
            "The time to make the conflict as small as possible ended: not every operation may be needed."
        };
        out.text(minimal);
        if violation.operations.iter().any(|one| one.role == Role::Source) {
            out.text(" A source, dashed, is where a value came from that one of them saw.");
        }
        out.text(" An arrow goes from an answer to a call that came after it: that order is certain.");
        out.text(" Distances are not to scale, their lengths stand below.");
    });
    operations(view, violation, out);
}

/// The faults behind the drawing, in words.
fn around(view: &View<'_>, drawn: &[&WitnessOperation], out: &mut Markup) {
    let times = || drawn.iter().flat_map(|one| [Some(one.call_ns), one.return_ns]).flatten();
    let (Some(from_ns), Some(to_ns)) = (times().min(), times().max()) else { return };
    let faults: Vec<_> = view.faults_between(from_ns, to_ns).take(PAGE_LISTED_MAX).collect();
    if faults.is_empty() {
        return;
    }
    let at = |ns: Option<u64>| ns.map_or_else(|| "the end".to_owned(), |ns| view.instant(ns));
    out.element("ul", &[], |out| {
        for (number, fault) in faults {
            let text = cut(&fault.text, PAGE_SENTENCE_CHARS_MAX);
            let (began, ended) = (at(fault.began_ns), at(fault.ended_ns));
            out.leaf("li", &[], format_args!("F{number}: {text}, {began} to {ended}"));
        }
    });
}

/// One operation: what it was above, from call to answer below.
fn bar(view: &View<'_>, axis: &Axis, one: &WitnessOperation, out: &mut Markup, top: f64) {
    let left = axis.x(one.call_ns);
    let is_open = one.outcome == Outcome::Unknown || one.return_ns.is_none();
    let right = if is_open { WIDTH } else { axis.x(one.return_ns.unwrap_or(one.call_ns)).max(left + 2.0) };
    let class = match (one.role, is_open) {
        (Role::Conflict, false) => "operation in-conflict",
        (Role::Conflict, true) => "operation in-conflict open",
        (Role::Source, false) => "operation source",
        (Role::Source, true) => "operation source open",
    };
    out.element("g", &[("class", &class)], |out| {
        out.leaf("title", &[], format_args!("{}: {}", one.id.0, what(one)));
        let (x, y, width) = (Px(left), Px(top + 20.0), Px(right - left));
        out.empty("rect", &[("x", &x), ("y", &y), ("width", &width), ("height", &"14")]);
        if !is_open {
            for end in [left, right] {
                let end = Px(end);
                let (high, low) = (Px(top + 17.0), Px(top + 37.0));
                out.empty("line", &[("x1", &end), ("x2", &end), ("y1", &high), ("y2", &low)]);
            }
        }
        let state =
            stand(view, one).map(|state| format!("  ({} then: {state})", one.node)).unwrap_or_default();
        let text = cut(&format!("{}{state}", what(one)), PAGE_LABEL_CHARS_MAX);
        let (place, anchor) = if left < WIDTH * 0.5 { (left, "start") } else { (right, "end") };
        out.leaf("text", &[("x", &Px(place)), ("y", &Px(top + 13.0)), ("text-anchor", &anchor)], text);
    });
}

/// What the node said of itself when it was called, and which faults it was under.
fn stand(view: &View<'_>, one: &WitnessOperation) -> Option<String> {
    let node = view.node(&one.node)?;
    let state = view.spans.at(node, one.call_ns).map(|condition| match condition {
        Condition::State { .. } => describe(view, condition).1,
        _ => "silent".to_owned(),
    });
    let until_ns = one.return_ns.unwrap_or(one.call_ns);
    let faults =
        view.faults_between(one.call_ns, until_ns).filter(|(_, fault)| fault.touched.contains(&node));
    let faults = faults.map(|(number, fault)| {
        let majority = if fault.minority.contains(&node) { ", without a majority" } else { "" };
        format!("under F{number}{majority}")
    });
    let parts: Vec<String> = state.into_iter().chain(faults).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Arrows from answers to calls that came later, leaving out what follows from others.
fn arrows(axis: &Axis, drawn: &[&WitnessOperation], out: &mut Markup) {
    let members: Vec<(usize, &WitnessOperation)> =
        drawn.iter().copied().enumerate().filter(|(_, one)| one.role == Role::Conflict).collect();
    let returned = |one: &WitnessOperation| one.return_ns.filter(|_| one.outcome != Outcome::Unknown);
    let is_before = |early: &WitnessOperation, late: &WitnessOperation| {
        returned(early).is_some_and(|return_ns| return_ns < late.call_ns)
    };
    let mut count = 0;
    for (from, early) in &members {
        for (to, late) in &members {
            let follows =
                || members.iter().any(|(_, between)| is_before(early, between) && is_before(between, late));
            if count < PAGE_ARROWS_MAX && is_before(early, late) && !follows() {
                count += 1;
                let y = |place: usize| TOP + LANE * float(place as u64) + 27.0;
                let (x1, x2) = (axis.x(returned(early).unwrap_or_default()), axis.x(late.call_ns));
                let (y1, y2) = (y(*from), y(*to));
                let path = format!(
                    "M{} {}C{} {} {} {} {} {}",
                    Px(x1),
                    Px(y1),
                    Px(f64::midpoint(x1, x2)),
                    Px(y1),
                    Px(f64::midpoint(x1, x2)),
                    Px(y2),
                    Px(x2 - 7.0),
                    Px(y2),
                );
                out.empty("path", &[("class", &"arrow"), ("d", &path)]);
                let head = format!(
                    "{},{} {},{} {},{}",
                    Px(x2),
                    Px(y2),
                    Px(x2 - 8.0),
                    Px(y2 - 4.0),
                    Px(x2 - 8.0),
                    Px(y2 + 4.0)
                );
                out.empty("polygon", &[("class", &"arrow-head"), ("points", &head)]);
            }
        }
    }
}

/// The same as a table.
fn operations(view: &View<'_>, violation: &Violation, out: &mut Markup) {
    const HEAD: [&str; 8] =
        ["part", "id", "client", "node", "called", "answered", "what", "the node at that time"];
    let caption = format!("Operations on key {}", shown(&violation.key));
    table(out, &caption, &HEAD, |out| {
        for one in violation.operations.iter().take(REPORT_OPERATIONS_MAX) {
            row(view, one, out);
        }
    });
    if let Some(more) = violation.operations.len().checked_sub(REPORT_OPERATIONS_MAX + 1) {
        out.leaf("p", &[], format_args!("and {} more, see report.json", more + 1));
    }
    out.line();
}

fn row(view: &View<'_>, one: &WitnessOperation, out: &mut Markup) {
    let (class, part) = match one.role {
        Role::Conflict => ("in-conflict", "✗ conflict"),
        Role::Source => ("source", "source"),
    };
    let answered = one.return_ns.map_or_else(|| "never".to_owned(), |at_ns| instant(at_ns, view.origin_ns));
    out.element("tr", &[("class", &class)], |out| {
        out.leaf("td", &[], part);
        out.leaf("th", &[("scope", &"row")], one.id.0);
        out.leaf("td", &[], shown(&one.client));
        out.leaf("td", &[], shown(&one.node));
        out.leaf("td", &[("class", &"number")], instant(one.call_ns, view.origin_ns));
        out.leaf("td", &[("class", &"number")], answered);
        out.leaf("td", &[], what(one));
        out.leaf("td", &[], stand(view, one).unwrap_or_else(|| "not seen".to_owned()));
    });
}
