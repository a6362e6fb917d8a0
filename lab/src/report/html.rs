//! report.html: the whole run on one page that explains itself, for whoever has nothing but this file.
//!
//! Pure, and complete in itself: no script, nothing that is fetched, and a policy that forbids both. The drawings are
//! made here; shapes, hatches and words carry what colours show. Whatever the run, the page stays small: what is too much
//! to be drawn is counted.

mod axis;
mod buckets;
mod checks;
mod conflict;
mod faults;
mod map;
mod markup;
mod plots;
mod spans;
mod timeline;
mod view;

#[cfg(test)]
mod tests;

use self::buckets::{Buckets, Kind};
use self::markup::{Markup, table};
use self::view::{FaultKind, View, cut, duration};
use super::text::{came_up, reason};
use super::{Report, Sources};
use crate::check::Status;
use crate::cluster::pace::Pace;
use crate::limits::page::{PAGE_EVENTS_MAX, PAGE_SENTENCE_CHARS_MAX};
use crate::runner::record::EventKind;

/// Nothing is fetched and nothing is run: only the style of the page itself applies.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// Up to so many leaders are told without being asked.
const LEADERS_UNFOLDED_MAX: usize = 12;

/// The page.
pub fn page(sources: &Sources<'_>) -> String {
    let view = View::new(sources);
    let report = sources.report;
    let mut out = Markup::default();
    // The first line of every report, for those who look at the file itself.
    out.comment(format_args!("replay: {}", report.replay.replace('\n', " ")));
    out.doctype();
    out.element("html", &[("lang", &"en")], |out| {
        out.element("head", &[], |out| head(report, out));
        out.line();
        out.element("body", &[], |out| {
            patterns(out);
            out.element("main", &[], |out| body(&view, out));
        });
    });
    out.line();
    out.into_string()
}

fn head(report: &Report, out: &mut Markup) {
    out.empty("meta", &[("charset", &"utf-8")]);
    out.empty("meta", &[("http-equiv", &"Content-Security-Policy"), ("content", &POLICY)]);
    out.empty("meta", &[("name", &"viewport"), ("content", &"width=device-width, initial-scale=1")]);
    out.empty("meta", &[("name", &"color-scheme"), ("content", &"light dark")]);
    let sign = checks::sign(report.status);
    out.leaf(
        "title",
        &[],
        format_args!("{sign} {} {} seed {}", report.status.word(), report.scenario, report.seed),
    );
    out.style(include_str!("html/style.css"));
}

fn body(view: &View<'_>, out: &mut Markup) {
    let report = view.sources.report;
    top(view, out);
    let failures: Vec<_> = report.verdicts.iter().filter(|verdict| verdict.status != Status::Pass).collect();
    if !failures.is_empty() {
        let has_failed = failures.iter().any(|verdict| verdict.status == Status::Fail);
        section(out, "wrong", if has_failed { "What went wrong" } else { "What is in doubt" }, |out| {
            for verdict in failures {
                checks::failure(view, verdict, out);
            }
        });
    }
    if !report.verdicts.is_empty() {
        section(out, "checks", "Checks", |out| checks::list(view, out));
    }
    section(out, "timeline", "Timeline", |out| times(view, out));
    if view.record().is_some() {
        section(out, "faults", "Faults and their receipts", |out| faults::faults(view, out));
    }
    section(out, "cluster", "Cluster", |out| cluster(view, out));
    section(out, "events", "Events", |out| events(view, out));
    section(out, "scenario", "Scenario", |out| scenario(view, out));
    out.element("footer", &[], |out| {
        out.text(
            "Beside this file: verdict.txt and report.json say the same, plan.json what was planned, history.jsonl every \
             call and answer, observations.jsonl what nodes said of themselves (both count from the start of the run), nodes/NAME/console.log what they printed. \
             The history can be judged again with ",
        );
        out.leaf("code", &[], "lab verify DIRECTORY");
        out.text(".");
    });
}

fn section(out: &mut Markup, id: &'static str, title: &str, content: impl FnOnce(&mut Markup)) {
    out.line();
    out.element("section", &[("id", &id)], |out| {
        out.leaf("h2", &[], title);
        content(out);
    });
}

/// How to have it again, the verdict in a sentence, and what was run.
fn top(view: &View<'_>, out: &mut Markup) {
    let report = view.sources.report;
    out.element("header", &[], |out| {
        out.element("p", &[("class", &"replay")], |out| {
            out.text("replay: ");
            out.leaf("code", &[], &report.replay);
        });
        out.leaf("h1", &[], &report.scenario);
        let class = format!("verdict {}", checks::class(report.status));
        out.element("div", &[("class", &class), ("role", &"status")], |out| {
            out.element("p", &[], |out| {
                checks::badge(out, report.status);
                out.text(format_args!(
                    " {}{}, exit code {}.",
                    capital(reason(report.status)),
                    which(report),
                    report.exit_code
                ));
            });
            if let Some(aborted) = &report.aborted {
                out.leaf("p", &[], "The run was aborted:");
                out.leaf("pre", &[("tabindex", &"0")], aborted);
            }
        });
        out.leaf("p", &[("class", &"about")], &report.about);
        facts(view, out);
    });
}

fn facts(view: &View<'_>, out: &mut Markup) {
    let report = view.sources.report;
    let mut facts = vec![
        ("seed", report.seed.to_string()),
        ("nodes", format!("{} ({})", view.sources.plan.nodes.len(), report.driver_and_pace())),
        ("lab", report.lab_version.clone()),
        ("node", report.node_version.clone()),
        ("kernel", report.kernel.clone()),
    ];
    if let Some(record) = view.record() {
        let counts = &record.counts;
        facts.push(("load", format!("{:.1} s", view.seconds(record.load_ended_ns))));
        facts.push((
            "operations",
            format!("{} answered, {} refused, {} unknown", counts.answered, counts.refused, counts.unknown),
        ));
        facts.push(("faults", record.faults.len().to_string()));
        if let Some(costs) = &record.costs {
            facts.push(("start", came_up(costs, report.slowdown.unwrap_or(Pace::REAL))));
        }
        if record.is_interrupted {
            facts.push(("ended early", "by the user".to_owned()));
        }
    }
    out.element("dl", &[("class", &"facts")], |out| {
        for (name, value) in facts {
            out.element("div", &[], |out| {
                out.leaf("dt", &[], name);
                out.leaf("dd", &[], value);
            });
        }
    });
}

/// The lanes of the nodes, and the load below, all in one scale of time.
fn times(view: &View<'_>, out: &mut Markup) {
    out.leaf(
        "p",
        &[("class", &"note")],
        if view.record().is_some() {
            "Seconds since the first answered operation, as in the scenario. Point at anything to read more."
        } else {
            "Seconds since the start of the run."
        },
    );
    timeline::timeline(view, out);
    timeline::legend(out);
    leaders(view, out);
    let buckets = Buckets::new(view.sources.history, view.scale.from_ns, view.scale.to_ns);
    if view.sources.history.operations.is_empty() {
        out.leaf("p", &[], "No operation was called.");
        return;
    }
    let width = duration(buckets.width_ns);
    out.leaf("h3", &[], "Throughput");
    out.leaf(
        "p",
        &[("class", &"note")],
        format_args!(
            "Answers per second, by {width}: reads as a solid line, updates (writes, swaps) dashed."
        ),
    );
    plots::throughput(view, &buckets, out);
    for kind in Kind::ALL {
        out.leaf("h3", &[], format_args!("Latency of {}", kind.word()));
        let all = buckets.all[kind as usize];
        if all.count == 0 {
            out.leaf("p", &[], "None was answered.");
            continue;
        }
        out.leaf(
            "p",
            &[("class", &"note")],
            format_args!(
                "By {width}: median as a solid line, 99th percentile dashed, the longest as dots. Over the whole run \
                 ({} answers): median {}, 99th percentile {}, longest {}.",
                all.count,
                duration(all.median_ns),
                duration(all.p99_ns),
                duration(all.max_ns),
            ),
        );
        plots::latency(view, &buckets, kind, out);
    }
}

/// Who led which term.
fn leaders(view: &View<'_>, out: &mut Markup) {
    let Some(record) = view.record() else { return };
    if record.leaders.is_empty() {
        out.leaf("p", &[], "No leader was seen.");
        return;
    }
    let all: Vec<String> = record
        .leaders
        .iter()
        .take(PAGE_EVENTS_MAX)
        .map(|seen| format!("{} led term {} ({})", view.name(seen.node), seen.term, view.instant(seen.at_ns)))
        .collect();
    let more = record.leaders.len() - all.len();
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let text = format!("First seen to lead: {}{more}.", all.join("; "));
    if all.len() <= LEADERS_UNFOLDED_MAX {
        out.leaf("p", &[], text);
    } else {
        out.element("details", &[], |out| {
            out.leaf("summary", &[], format_args!("{} leaders, in order", record.leaders.len()));
            out.leaf("p", &[], text);
        });
    }
}

fn cluster(view: &View<'_>, out: &mut Markup) {
    let plan = view.sources.plan;
    out.element("div", &[("class", &"side-by-side")], |out| {
        map::cluster(view, out);
        out.element("div", &[], |out| {
            map::effects_list(view, out);
            nodes(view, out);
        });
    });
    let raft = plan.raft;
    out.leaf(
        "p",
        &[("class", &"note")],
        format_args!(
            "Heartbeat {} ms, election time-out {} to {} ms. {} clients and {} readers, one pinned to each node, share {} keys.",
            raft.heartbeat_ms,
            raft.election_ms_min,
            raft.election_ms_max,
            plan.workload.clients.len(),
            plan.workload.readers.len(),
            plan.workload.keys,
        ),
    );
}

/// Every node, for those who cannot see the map.
fn nodes(view: &View<'_>, out: &mut Markup) {
    table(out, "Nodes", &["name", "zone", "Raft id", "HTTP", "Raft (UDP)"], |out| {
        for node in &view.sources.plan.nodes {
            let zone = node.zone.clone().unwrap_or_else(|| "-".to_owned());
            let (http, raft) = (node.http_address().to_string(), node.raft_address().to_string());
            checks::cells(out, &[node.name.clone(), zone, node.raft_id.to_string(), http, raft]);
        }
    });
}

fn events(view: &View<'_>, out: &mut Markup) {
    let events = view.record().map_or(view.sources.events, |record| &record.events);
    if events.is_empty() {
        out.leaf("p", &[], "Nothing happened.");
        return;
    }
    out.element("details", &[], |out| {
        out.leaf("summary", &[], format_args!("{} events, in order", events.len()));
        table(out, "Events", &["at", "about", "what"], |out| {
            for event in events.iter().take(PAGE_EVENTS_MAX) {
                let warning = if event.kind == EventKind::Warning { "! " } else { "" };
                let text = cut(&event.text, PAGE_SENTENCE_CHARS_MAX);
                checks::cells(
                    out,
                    &[view.instant(event.at_ns), event.subject.clone(), format!("{warning}{text}")],
                );
            }
        });
        if let Some(more) = events.len().checked_sub(PAGE_EVENTS_MAX + 1) {
            out.leaf("p", &[], format_args!("and {} more, in events.jsonl", more + 1));
        }
    });
}

fn scenario(view: &View<'_>, out: &mut Markup) {
    out.element("details", &[], |out| {
        out.leaf("summary", &[], "scenario.yaml, as it was run");
        out.leaf("pre", &[("tabindex", &"0")], view.sources.scenario.trim_end());
    });
}

/// The hatches that all drawings share. Hidden by its size: a drawing that is not displayed lends no hatches.
fn patterns(out: &mut Markup) {
    let hatches = [
        (FaultKind::Cut.pattern(), 12, "M-3 3l6 -6M0 12l12 -12M9 15l6 -6"),
        (FaultKind::Slow.pattern(), 10, "M2 2h1M7 7h1"),
        (FaultKind::Kill.pattern(), 12, "M0 0l12 12M12 0l-12 12"),
        (FaultKind::PowerCut.pattern(), 12, "M7 1l-3 5h4l-3 5"),
        (FaultKind::Lose.pattern(), 12, "M3 3l6 6M9 3l-6 6"),
        (FaultKind::Restart.pattern(), 12, "M2 6a4 4 0 1 0 2 -3"),
        (FaultKind::Members.pattern(), 12, "M6 3v6M3 6h6"),
        (FaultKind::Pause.pattern(), 10, "M0 5h10"),
        (FaultKind::Suspend.pattern(), 10, "M0 5h4M6 5h2"),
        (FaultKind::Rollback.pattern(), 12, "M8 2l-4 4l4 4"),
        (FaultKind::Clock.pattern(), 12, "M6 2v4h3"),
        ("hatch-candidate", 6, "M-1 1l2 -2M0 6l6 -6M5 7l2 -2"),
        ("hatch-learner", 5, "M1 1h1M3 3h1"),
        ("hatch-many", 5, "M0 0l5 5M5 0l-5 5"),
        ("hatch-source", 7, "M-1 1l2 -2M0 7l7 -7M6 8l2 -2"),
    ];
    out.element(
        "svg",
        &[("class", &"patterns"), ("width", &0), ("height", &0), ("aria-hidden", &"true")],
        |out| {
            out.element("defs", &[], |out| {
                for (id, size, path) in hatches {
                    let units = "userSpaceOnUse";
                    let attributes: markup::Attributes<'_> =
                        &[("id", &id), ("width", &size), ("height", &size), ("patternUnits", &units)];
                    out.element("pattern", attributes, |out| out.empty("path", &[("d", &path)]));
                }
            });
        },
    );
}

/// The checks behind a verdict that is no pass.
fn which(report: &Report) -> String {
    let names = report.verdicts.iter().filter(|verdict| verdict.status == report.status);
    let names: Vec<&str> = names.map(|verdict| verdict.check.as_str()).collect();
    if report.status == Status::Pass || names.is_empty() {
        return String::new();
    }
    format!(" ({})", names.join(", "))
}

/// A sentence begins with a capital.
fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
