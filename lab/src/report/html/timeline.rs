//! The timeline: what every node was, second by second, with its term, and the faults behind it.

use super::conflict::violations;
use super::markup::{Markup, Px};
use super::spans::{Condition, Span};
use super::view::{Chart, FaultKind, Frame, View, WIDTH, cut, float};
use crate::check::{Status, raft};
use crate::limits::page::{PAGE_MARKS_MAX, PAGE_NAME_CHARS_MAX, PAGE_SPANS_MAX};
use crate::observations::Role;
use crate::plan::NodeIndex;
use crate::runner::record::FaultRecord;

/// Above the lanes: the numbers of the faults.
const TOP: f64 = 18.0;
/// Width from which the time of a leader is drawn, however many nodes there are.
const LEADER_PX: f64 = 3.0;

/// Draws the lanes of all nodes.
pub(super) fn timeline(view: &View<'_>, out: &mut Markup) {
    let nodes: Vec<NodeIndex> = view.sources.plan.node_indexes().collect();
    let lane = if nodes.len() > 12 { 16.0 } else { 26.0 };
    let mut chart = Chart::default();
    let frame = Frame { top: TOP, height: lane * float(nodes.len() as u64) };
    let scale = view.scale;
    view.bands(&mut chart.plot, scale.from_ns, scale.to_ns, frame, |at_ns| scale.x(at_ns));
    let marks = marks(view);
    let rows = if marks.is_empty() { 0.0 } else { 16.0 };
    // Behind the lanes, so that no line crosses what is written in them.
    scale.axis(view, &mut chart.plot, Frame { top: frame.top, height: frame.height + rows });
    draw_marks(view, &mut chart, &marks, frame);
    for (place, node) in (0..).zip(&nodes) {
        let top = TOP + lane * float(place);
        chart.label(top + lane / 2.0 + 4.0, "name", view.name(*node));
        draw_lane(view, &mut chart.plot, *node, Frame { top: top + 4.0, height: lane - 8.0 });
    }
    let text = format!(
        "What each of {} nodes was over time; the table of leaders below says it in words.",
        nodes.len()
    );
    chart.finish(out, frame.top + frame.height + rows + 20.0, &text);
}

fn draw_lane(view: &View<'_>, out: &mut Markup, node: NodeIndex, frame: Frame) {
    let nodes_count = view.sources.plan.nodes.len();
    // Where a fault is aimed at every node, only who is left without a majority stands out.
    let stands_out = |fault: &FaultRecord| {
        fault.minority.contains(&node) || (fault.touched.contains(&node) && fault.touched.len() < nodes_count)
    };
    let faults = view.faults_between(view.scale.from_ns, view.scale.to_ns);
    for (number, fault) in faults.filter(|(_, fault)| stands_out(fault)).take(PAGE_MARKS_MAX) {
        touched(view, out, (number, fault.minority.contains(&node)), fault, frame);
    }
    // With many nodes each has few pixels, and so few spans.
    let shortest_px = (WIDTH * float(nodes_count as u64) / PAGE_SPANS_MAX).max(1.0);
    let time_ns = view.scale.to_ns - view.scale.from_ns;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a run's time")]
    let time_of = |px: f64| (float(time_ns) * px / WIDTH) as u64;
    let (shortest_ns, shortest_leader_ns) = (time_of(shortest_px), time_of(shortest_px.min(LEADER_PX)));
    for span in view.spans.coarse(node, shortest_ns, shortest_leader_ns) {
        draw_span(view, out, &span, frame);
    }
    for at_ns in view.spans.restarts(node).iter().take(PAGE_MARKS_MAX) {
        let title = format!("{} serves again, {}", view.name(node), view.instant(*at_ns));
        restart(out, view.scale.x(*at_ns), frame, Some(title));
    }
    let deaths = view.record().map_or(&[][..], |record| &record.deaths);
    for one in deaths.iter().filter(|death| death.node == node) {
        let title = format!("{} ended by itself, {}", view.name(node), view.instant(one.at_ns));
        death(out, view.scale.x(one.at_ns), frame.top + frame.height / 2.0, Some(title));
    }
}

/// A strip along a lane for as long as a fault was aimed at the node: doubled where it had no majority.
fn touched(
    view: &View<'_>,
    out: &mut Markup,
    (number, is_minority): (usize, bool),
    fault: &FaultRecord,
    frame: Frame,
) {
    let left = view.scale.x(fault.began_ns.unwrap_or_default());
    let right = view.scale.x(fault.ended_ns.unwrap_or(view.scale.to_ns));
    let class = if is_minority { "touched minority" } else { "touched" };
    let (x, width) = (Px(left), Px((right - left).max(1.0)));
    let (y, height) = (Px(frame.top - 3.0), Px(frame.height + 6.0));
    out.element(
        "rect",
        &[("class", &class), ("x", &x), ("y", &y), ("width", &width), ("height", &height)],
        |out| {
            let majority = if is_minority { ", without a majority" } else { "" };
            out.leaf("title", &[], format_args!("F{number} is aimed at this node{majority}: {}", fault.text));
        },
    );
}

fn draw_span(view: &View<'_>, out: &mut Markup, span: &Span, frame: Frame) {
    let left = view.scale.x(span.from_ns);
    let width = (view.scale.x(span.to_ns) - left).max(0.5);
    let (class, title, texts) = describe(view, span.condition);
    let (x, y) = (Px(left), Px(frame.top));
    out.element("g", &[("class", &class)], |out| {
        let time = format!("{} to {}", view.instant(span.from_ns), view.instant(span.to_ns));
        out.leaf("title", &[], format_args!("{title}, {time}"));
        let size = (Px(width), Px(frame.height));
        out.empty("rect", &[("x", &x), ("y", &y), ("width", &size.0), ("height", &size.1)]);
        let room = |text: &&String| float(text.chars().count() as u64) * 6.6 + 6.0 <= width;
        if let Some(text) = texts.iter().find(room).filter(|_| frame.height >= 12.0) {
            let baseline = Px(frame.top + frame.height / 2.0 + 4.0);
            out.leaf("text", &[("x", &Px(left + 3.0)), ("y", &baseline)], text);
        }
    });
}

/// The class of a span, what it is in words, and texts for it, the longest first.
pub(super) fn describe(view: &View<'_>, condition: Condition) -> (&'static str, String, Vec<String>) {
    match condition {
        Condition::Silent => ("span silent", "does not answer".to_owned(), vec!["silent".to_owned()]),
        Condition::Many(count) => {
            ("span many", format!("{count} changes"), vec![format!("{count} changes"), count.to_string()])
        }
        Condition::State { role, term, leader } => {
            let (class, word) = match role {
                Role::Leader => ("span leader", "leader"),
                Role::Follower => ("span follower", "follower"),
                Role::Candidate => ("span candidate", "candidate"),
                Role::Learner => ("span learner", "learner"),
                Role::Shutdown => ("span shutdown", "stopping"),
            };
            let leader = leader.filter(|_| role != Role::Leader).and_then(|leader| {
                let nodes = &view.sources.plan.nodes;
                nodes
                    .iter()
                    .find(|node| node.raft_id == leader)
                    .map(|node| cut(&node.name, PAGE_NAME_CHARS_MAX))
            });
            let of = leader.as_ref().map(|leader| format!(" of {leader}")).unwrap_or_default();
            let title = format!("{word}{of} in term {term}");
            let short = format!("{word}, t{term}");
            (class, title.clone(), vec![title, short, format!("t{term}")])
        }
    }
}

/// A moment that a check has something against.
struct Mark {
    at_ns: u64,
    text: String,
}

/// The moments at which promises were broken, as far as they have one.
fn marks(view: &View<'_>) -> Vec<Mark> {
    let failed = view.sources.report.verdicts.iter().filter(|verdict| verdict.status == Status::Fail);
    let mut marks: Vec<Mark> = failed
        .flat_map(|verdict| {
            let conflicts = violations(verdict).into_iter().filter_map(|violation| {
                let last = violation.operations.iter().map(|one| one.call_ns).max()?;
                let text = format!("{}: key {}", verdict.check, cut(&violation.key, PAGE_NAME_CHARS_MAX));
                Some(Mark { at_ns: last, text })
            });
            let findings = raft::findings(verdict).into_iter();
            let findings = findings
                .map(|one| Mark { at_ns: one.at_ns, text: format!("{}: {}", raft::NAME, one.promise) });
            conflicts.chain(findings).collect::<Vec<_>>()
        })
        .collect();
    marks.sort_by_key(|mark| mark.at_ns);
    marks.truncate(PAGE_MARKS_MAX);
    marks
}

/// Lines through all lanes, with their names below as far as there is room.
fn draw_marks(view: &View<'_>, chart: &mut Chart, marks: &[Mark], frame: Frame) {
    let bottom = frame.top + frame.height;
    if !marks.is_empty() {
        chart.label(bottom + 12.0, "bad", "✗ broken");
    }
    let mut free = 0.0;
    for mark in marks {
        let x = view.scale.x(mark.at_ns);
        chart.plot.element("g", &[("class", &"mark")], |out| {
            out.leaf("title", &[], format_args!("{}, {}", mark.text, view.instant(mark.at_ns)));
            let (place, top, end) = (Px(x), Px(frame.top), Px(bottom + 4.0));
            out.empty("line", &[("x1", &place), ("x2", &place), ("y1", &top), ("y2", &end)]);
            let width = float(mark.text.chars().count() as u64) * 6.6 + 10.0;
            let (left, anchor) = if x + width > WIDTH { (x - width, "end") } else { (x, "start") };
            if left >= free {
                free = left + width;
                let text = format!("✗ {}", mark.text);
                out.leaf("text", &[("x", &place), ("y", &Px(bottom + 14.0)), ("text-anchor", &anchor)], text);
            }
        });
    }
}

/// What the marks of the timeline mean, each beside a sample of it.
pub(super) fn legend(out: &mut Markup) {
    const SAMPLES: [(&str, &str); 6] = [
        ("span leader", "leader"),
        ("span follower", "follower"),
        ("span candidate", "candidate"),
        ("span learner", "learner"),
        ("span silent", "does not answer"),
        ("span many", "many changes"),
    ];
    out.element("ul", &[("class", &"legend")], |out| {
        for (class, word) in SAMPLES {
            sample(out, word, |out| {
                out.element("g", &[("class", &class)], |out| {
                    out.empty("rect", &[("x", &1), ("y", &1), ("width", &26), ("height", &12)]);
                });
            });
        }
        for kind in FaultKind::ALL {
            let fill = format!("url(#{})", kind.pattern());
            sample(out, &format!("fault: {}", kind.word()), |out| {
                out.element("g", &[("class", &"band")], |out| {
                    out.empty("rect", &[("width", &28), ("height", &14), ("fill", &fill)]);
                });
            });
        }
        sample(out, "serves again after a restart", |out| {
            restart(out, 10.0, Frame { top: 1.0, height: 12.0 }, None);
        });
        sample(out, "ended by itself", |out| death(out, 14.0, 7.0, None));
        for (class, word) in
            [("touched", "aimed at by a fault"), ("touched minority", "left without a majority")]
        {
            sample(out, word, |out| {
                out.empty(
                    "rect",
                    &[("class", &class), ("x", &1), ("y", &1), ("width", &26), ("height", &12)],
                );
            });
        }
    });
}

/// A node that serves again, its tip to the right.
fn restart(out: &mut Markup, x: f64, frame: Frame, title: Option<String>) {
    let Frame { top, height } = frame;
    let points = format!(
        "{},{} {},{} {},{}",
        Px(x),
        Px(top),
        Px(x + 8.0),
        Px(top + height / 2.0),
        Px(x),
        Px(top + height)
    );
    out.element("polygon", &[("class", &"restart"), ("points", &points)], |out| {
        if let Some(title) = title {
            out.leaf("title", &[], title);
        }
    });
}

/// A node that has ended by itself.
fn death(out: &mut Markup, x: f64, y: f64, title: Option<String>) {
    let path = format!("M{} {}l10 10m0 -10l-10 10", Px(x - 5.0), Px(y - 5.0));
    out.element("path", &[("class", &"death"), ("d", &path)], |out| {
        if let Some(title) = title {
            out.leaf("title", &[], title);
        }
    });
}

fn sample(out: &mut Markup, word: &str, draw: impl FnOnce(&mut Markup)) {
    out.element("li", &[], |out| {
        out.element("svg", &[("width", &28), ("height", &14), ("aria-hidden", &"true")], draw);
        out.text(format_args!(" {word}"));
    });
}
