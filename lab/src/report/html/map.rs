//! Maps: the cluster with its addresses, zones and links, and for each fault what it broke.

use std::collections::{BTreeMap, BTreeSet};
use std::f64::consts::TAU;

use super::markup::{Markup, Px};
use super::view::{FaultKind, View, cut, float};
use crate::limits::page::{PAGE_LINKS_MAX, PAGE_NAME_CHARS_MAX};
use crate::plan::NodeIndex;
use crate::runner::record::FaultRecord;

/// Up to so many nodes a map shows links that are as they should be, and addresses.
const DETAILED_NODES_MAX: usize = 9;

/// Up to so many nodes the small map of a fault names all of them; of more, those that it hits.
const NAMED_NODES_MAX: usize = 16;

/// A place in a drawing.
type Point = (f64, f64);

/// The nodes on a circle, those of a zone beside each other.
struct Circle {
    center: Point,
    places: Vec<Point>,
}

impl Circle {
    fn new(view: &View<'_>, center: Point, radius: f64) -> Self {
        let nodes = &view.sources.plan.nodes;
        let mut order: Vec<usize> = (0..nodes.len()).collect();
        order.sort_by_key(|place| (nodes[*place].zone.clone(), *place));
        let mut places = vec![center; nodes.len()];
        for (turn, place) in (0..).zip(order) {
            let angle = TAU * float(turn) / float(nodes.len() as u64) - TAU / 4.0;
            places[place] = (center.0 + radius * angle.cos(), center.1 + radius * angle.sin());
        }
        Self { center, places }
    }

    /// Where the name of a node has room: outside the circle.
    fn outside(&self, node: NodeIndex) -> Point {
        let (x, y) = self.of(node);
        let (dx, dy) = (x - self.center.0, y - self.center.1);
        let away = 24.0 / dx.hypot(dy).max(1.0);
        (x + dx * away, y + dy * away + 4.0)
    }

    fn of(&self, node: NodeIndex) -> Point {
        self.places.get(node.position()).copied().unwrap_or_default()
    }
}

/// The cluster.
pub(super) fn cluster(view: &View<'_>, out: &mut Markup) {
    let plan = view.sources.plan;
    let (size, is_detailed) = ((540.0, 400.0), plan.nodes.len() <= DETAILED_NODES_MAX);
    let circle = Circle::new(view, (size.0 / 2.0, size.1 / 2.0), if is_detailed { 145.0 } else { 170.0 });
    let effects = effects(view);
    let text = format!("Map of {} nodes; the table beside it has the same in words.", plan.nodes.len());
    let view_box = format!("0 0 {} {}", Px(size.0), Px(size.1));
    out.element(
        "svg",
        &[("class", &"map"), ("viewBox", &view_box), ("role", &"img"), ("aria-label", &text)],
        |out| {
            if is_detailed {
                healthy(view, &circle, &BTreeSet::new(), out);
            }
            for (letter, (_, pairs)) in ('a'..).zip(&effects) {
                for (from, to) in pairs
                    .iter()
                    .filter(|(from, to)| from < to || !pairs.contains(&(*to, *from)))
                    .take(PAGE_LINKS_MAX)
                {
                    let (start, end) = (circle.of(*from), circle.of(*to));
                    line(out, "slow", start, end);
                    if is_detailed {
                        let (x, y) = between(start, end, 0.35);
                        out.leaf(
                            "text",
                            &[
                                ("class", &"letter"),
                                ("x", &Px(x)),
                                ("y", &Px(y + 4.0)),
                                ("text-anchor", &"middle"),
                            ],
                            letter,
                        );
                    }
                }
            }
            for node in plan.node_indexes() {
                if is_detailed {
                    plate(view, circle.of(node), node, out);
                } else {
                    dot(view, &circle, node, ("", true), out);
                }
            }
        },
    );
}

/// What is done to links for the whole run, each letter of the map with its meaning.
pub(super) fn effects_list(view: &View<'_>, out: &mut Markup) {
    let effects = effects(view);
    if !effects.is_empty() {
        out.element("ul", &[], |out| {
            for (letter, (effect, pairs)) in ('a'..).zip(&effects) {
                out.leaf(
                    "li",
                    &[],
                    format_args!("{letter}: {effect}, on {} directed links, for the whole run", pairs.len()),
                );
            }
        });
    }
}

/// The directed links that are not perfect for the whole run, by what is done to them.
fn effects(view: &View<'_>) -> BTreeMap<String, BTreeSet<(NodeIndex, NodeIndex)>> {
    let mut effects: BTreeMap<String, BTreeSet<(NodeIndex, NodeIndex)>> = BTreeMap::new();
    for link in &view.sources.plan.links {
        effects.entry(link.effect.to_string()).or_default().insert((link.from, link.to));
    }
    effects
}

/// A node with its name, address and zone.
fn plate(view: &View<'_>, (x, y): Point, node: NodeIndex, out: &mut Markup) {
    let Some(planned) = view.sources.plan.nodes.get(node.position()) else { return };
    let (left, top) = (Px(x - 62.0), Px(y - 24.0));
    out.element("g", &[("class", &"plate")], |out| {
        out.empty("rect", &[("x", &left), ("y", &top), ("width", &124), ("height", &48), ("rx", &6)]);
        let zone = planned.zone.as_ref().map(|zone| format!(" · {zone}")).unwrap_or_default();
        let name = cut(&format!("{}{zone}", planned.name), PAGE_NAME_CHARS_MAX + 2);
        out.leaf(
            "text",
            &[("class", &"name"), ("x", &Px(x)), ("y", &Px(y - 5.0)), ("text-anchor", &"middle")],
            name,
        );
        let address = planned.http_address();
        // One of IPv6 is as long as three plates.
        let address =
            if address.is_ipv4() { address.to_string() } else { format!("port {}", address.port()) };
        out.leaf(
            "text",
            &[("class", &"address"), ("x", &Px(x)), ("y", &Px(y + 13.0)), ("text-anchor", &"middle")],
            address,
        );
    });
}

/// A node as a dot with its name beside it.
fn dot(view: &View<'_>, circle: &Circle, node: NodeIndex, (class, is_named): (&str, bool), out: &mut Markup) {
    let ((x, y), (name_x, name_y)) = (circle.of(node), circle.outside(node));
    let class = format!("dot {class}");
    out.element("g", &[("class", &class)], |out| {
        out.empty("circle", &[("cx", &Px(x)), ("cy", &Px(y)), ("r", &"8")]);
        if !is_named {
            return;
        }
        let name = cut(view.name(node), PAGE_NAME_CHARS_MAX / 2);
        out.leaf("text", &[("x", &Px(name_x)), ("y", &Px(name_y)), ("text-anchor", &"middle")], name);
    });
}

/// What one fault broke.
pub(super) fn fault(view: &View<'_>, fault: &FaultRecord, out: &mut Markup) {
    let kind = view.kind(fault);
    let circle = Circle::new(view, (130.0, 85.0), 55.0);
    let broken: BTreeSet<(NodeIndex, NodeIndex)> = fault.links.iter().copied().collect();
    let text = format!("Map of the fault: {}", fault.text);
    out.element(
        "svg",
        &[("class", &"map small"), ("viewBox", &"0 0 260 170"), ("role", &"img"), ("aria-label", &text)],
        |out| {
            if view.sources.plan.nodes.len() <= DETAILED_NODES_MAX {
                healthy(view, &circle, &broken, out);
            }
            for (from, to) in broken.iter().take(PAGE_LINKS_MAX) {
                let is_both_ways = broken.contains(&(*to, *from));
                // One line for both ways.
                if is_both_ways && from > to {
                    continue;
                }
                let (start, end) = (circle.of(*from), circle.of(*to));
                if kind == FaultKind::Slow {
                    line(out, "slow", start, end);
                } else {
                    cut_line(out, start, end);
                }
                if !is_both_ways {
                    arrow(out, start, end);
                }
            }
            for node in view.sources.plan.node_indexes() {
                let is_victim = !matches!(kind, FaultKind::Cut | FaultKind::Slow)
                    && (fault.touched.contains(&node) || fault.removed.contains(&node));
                let is_minority = fault.minority.contains(&node);
                let is_named = is_minority || is_victim || view.sources.plan.nodes.len() <= NAMED_NODES_MAX;
                dot(view, &circle, node, (if is_minority { "minority" } else { "" }, is_named), out);
                if is_victim {
                    let (x, y) = circle.of(node);
                    let path = match kind {
                        FaultKind::Kill | FaultKind::PowerCut | FaultKind::Lose | FaultKind::Rollback => {
                            format!("M{} {}l16 16m0 -16l-16 16", Px(x - 8.0), Px(y - 8.0))
                        }
                        FaultKind::Members if fault.removed.contains(&node) => {
                            format!("M{} {}h14", Px(x - 7.0), Px(y))
                        }
                        FaultKind::Members => format!("M{} {}h14m-7 -7v14", Px(x - 7.0), Px(y)),
                        // Most of a circle.
                        FaultKind::Restart => format!("M{} {}a6 6 0 1 1 -5 -3", Px(x + 6.0), Px(y)),
                        // The hands of a clock.
                        FaultKind::Clock => format!("M{} {}v7h5", Px(x), Px(y - 7.0)),
                        _ => format!("M{} {}v12m6 -12v12", Px(x - 3.0), Px(y - 6.0)),
                    };
                    out.empty("path", &[("class", &"victim"), ("d", &path)]);
                }
            }
        },
    );
}

/// Links to which nothing is done.
fn healthy(view: &View<'_>, circle: &Circle, broken: &BTreeSet<(NodeIndex, NodeIndex)>, out: &mut Markup) {
    for from in view.sources.plan.node_indexes() {
        for to in view.sources.plan.node_indexes().filter(|to| from < *to) {
            if !broken.contains(&(from, to)) && !broken.contains(&(to, from)) {
                line(out, "healthy", circle.of(from), circle.of(to));
            }
        }
    }
}

fn line(out: &mut Markup, class: &'static str, start: Point, end: Point) {
    let (x1, y1, x2, y2) = (Px(start.0), Px(start.1), Px(end.0), Px(end.1));
    let class = format!("link {class}");
    out.empty("line", &[("class", &class), ("x1", &x1), ("y1", &y1), ("x2", &x2), ("y2", &y2)]);
}

/// A line with a gap, and a cross in it.
fn cut_line(out: &mut Markup, start: Point, end: Point) {
    line(out, "cut", start, between(start, end, 0.42));
    line(out, "cut", between(start, end, 0.58), end);
    let (x, y) = between(start, end, 0.5);
    let cross = format!("M{} {}l6 6m0 -6l-6 6", Px(x - 3.0), Px(y - 3.0));
    out.empty("path", &[("class", &"link cut"), ("d", &cross)]);
}

/// A head near the end of a line, for a link of which only one direction is meant.
fn arrow(out: &mut Markup, start: Point, end: Point) {
    let (tip, base) = (between(start, end, 0.8), between(start, end, 0.7));
    let (dx, dy) = ((tip.0 - base.0) / 2.0, (tip.1 - base.1) / 2.0);
    let points = format!(
        "{},{} {},{} {},{}",
        Px(tip.0),
        Px(tip.1),
        Px(base.0 - dy),
        Px(base.1 + dx),
        Px(base.0 + dy),
        Px(base.1 - dx),
    );
    out.empty("polygon", &[("class", &"one-way"), ("points", &points)]);
}

fn between(start: Point, end: Point, share: f64) -> Point {
    (start.0 + (end.0 - start.0) * share, start.1 + (end.1 - start.1) * share)
}
