//! The checks: each with its sentence and what it looked at; those that did not pass with everything they found.

use serde::Deserialize;

use super::conflict::{conflict, violations};
use super::markup::{Markup, table};
use super::view::{View, cut, duration};
use crate::check::linearizable::{Undecided, shown};
use crate::check::{Status, Verdict, alive, counted, raft, receipts, recovers};
use crate::limits::page::{
    PAGE_CONFLICTS_MAX, PAGE_LISTED_MAX, PAGE_SENTENCE_CHARS_MAX, PAGE_TAIL_CHARS_MAX,
};
use crate::plan::PlannedCheck;
use crate::runner::record::Death;

/// The sign of a status: its shape tells it without colour.
pub(super) fn sign(status: Status) -> &'static str {
    match status {
        Status::Pass => "✓",
        Status::Fail => "✗",
        Status::Unknown => "?",
        Status::Invalid => "!",
    }
}

/// The class of a status.
pub(super) fn class(status: Status) -> &'static str {
    match status {
        Status::Pass => "pass",
        Status::Fail => "fail",
        Status::Unknown | Status::Invalid => "doubt",
    }
}

/// A status as a badge: sign and word.
pub(super) fn badge(out: &mut Markup, status: Status) {
    let class = format!("badge {}", class(status));
    out.leaf("span", &[("class", &class)], format_args!("{} {}", sign(status), status.word()));
}

/// Every check in a line or two.
pub(super) fn list(view: &View<'_>, out: &mut Markup) {
    out.element("ul", &[("class", &"checks")], |out| {
        for verdict in &view.sources.report.verdicts {
            out.element("li", &[], |out| {
                badge(out, verdict.status);
                out.text(" ");
                out.leaf("strong", &[], &verdict.check);
                out.text(": ");
                if verdict.status == Status::Pass {
                    out.text(format_args!("{} ", sentence(view, verdict)));
                } else {
                    out.leaf("a", &[("href", &format!("#{}", verdict.check))], "what it found");
                    out.text(" ");
                }
                if !verdict.looked_at.is_empty() {
                    let counts = verdict
                        .looked_at
                        .iter()
                        .map(|(what, count)| format!("{count} {}", what.replace('_', " ")));
                    let counts: Vec<String> = counts.collect();
                    out.leaf("span", &[("class", &"note")], format_args!("looked at {}", counts.join(", ")));
                }
            });
        }
    });
    out.line();
}

/// The verdict's own words; not those that the page shows elsewhere.
fn sentence(view: &View<'_>, verdict: &Verdict) -> String {
    if verdict.check == alive::NAME && verdict.status != Status::Pass {
        let deaths = view.record().map_or(&[][..], |record| &record.deaths);
        let deaths =
            deaths.iter().map(|death| format!("{} {}", death.subject(view.name(death.node)), death.exit));
        return cut(&deaths.collect::<Vec<_>>().join("; "), PAGE_SENTENCE_CHARS_MAX);
    }
    cut(&verdict.summary, PAGE_SENTENCE_CHARS_MAX)
}

/// A check that did not pass, with what it found.
pub(super) fn failure(view: &View<'_>, verdict: &Verdict, out: &mut Markup) {
    out.element("section", &[("class", &"failure"), ("id", &verdict.check)], |out| {
        out.element("h3", &[], |out| {
            badge(out, verdict.status);
            out.text(format_args!(" {}", verdict.check));
        });
        out.leaf("p", &[("class", &"sentence")], sentence(view, verdict));
        details(view, verdict, out);
    });
    out.line();
}

fn details(view: &View<'_>, verdict: &Verdict, out: &mut Markup) {
    let texts = |name: &str| -> Vec<String> {
        serde_json::from_value(verdict.details[name].clone()).unwrap_or_default()
    };
    conflicts(view, verdict, out);
    let more_keys: Vec<String> = texts("more_keys").iter().map(|key| shown(key)).collect();
    bullets(out, "Further keys that no order explains:", &more_keys);
    let undecided: Vec<Undecided> =
        serde_json::from_value(verdict.details["undecided"].clone()).unwrap_or_default();
    let undecided: Vec<String> =
        undecided.iter().map(|one| format!("key {}: {}", shown(&one.key), one.reason)).collect();
    bullets(out, "Not decided:", &undecided);
    bullets(out, "Keys in which members differ after the load:", &texts("differences"));
    bullets(out, "What is missing:", &texts("missing"));
    if verdict.check == receipts::NAME && view.record().is_some_and(|record| !record.faults.is_empty()) {
        out.element("p", &[], |out| {
            out.leaf("a", &[("href", &"#faults")], "Each fault and its receipt");
            out.text(" are below.");
        });
    }
    let answered = texts("answered");
    if !answered.is_empty() {
        bullets(out, "Answers of nodes without a majority, the first of them:", &answered);
    }
    findings(view, verdict, out);
    recoveries(view, verdict, out);
    if verdict.check == alive::NAME {
        deaths(view, out);
    }
}

/// Conflicts, the first one in full and the next ones folded.
fn conflicts(view: &View<'_>, verdict: &Verdict, out: &mut Markup) {
    let violations = violations(verdict);
    if violations.is_empty() {
        return;
    }
    for (place, violation) in violations.iter().enumerate() {
        let head = format!("Key {}", shown(&violation.key));
        let sentence = cut(&violation.summary, PAGE_SENTENCE_CHARS_MAX);
        if place == 0 {
            // The verdict's own sentence tells the first conflict already.
            out.leaf("h4", &[], head);
            conflict(view, violation, out);
        } else if place < PAGE_CONFLICTS_MAX {
            out.element("details", &[], |out| {
                out.leaf("summary", &[], sentence);
                conflict(view, violation, out);
            });
        }
    }
    let rest: Vec<String> =
        violations.iter().skip(PAGE_CONFLICTS_MAX).map(|one| one.summary.clone()).collect();
    if !rest.is_empty() {
        out.element("details", &[], |out| {
            out.leaf("summary", &[], counted(rest.len() as u64, "further conflict"));
            bullets(out, "In full they are in report.json:", &rest);
        });
    }
}

/// Lines of their own, below a line that says what they are; nothing for none.
fn bullets(out: &mut Markup, head: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    out.leaf("p", &[], head);
    out.element("ul", &[], |out| {
        for line in lines.iter().take(PAGE_LISTED_MAX) {
            out.leaf("li", &[], cut(line, PAGE_SENTENCE_CHARS_MAX));
        }
        if let Some(more) = lines.len().checked_sub(PAGE_LISTED_MAX + 1) {
            out.leaf("li", &[], format_args!("and {} more", more + 1));
        }
    });
}

/// Promises of Raft that were broken.
fn findings(view: &View<'_>, verdict: &Verdict, out: &mut Markup) {
    let findings = raft::findings(verdict);
    if findings.is_empty() {
        return;
    }
    table(out, "Broken promises of Raft", &["seen at", "promise", "what was seen"], |out| {
        for one in findings.iter().take(PAGE_LISTED_MAX) {
            cells(
                out,
                &[view.instant(one.at_ns), one.promise.clone(), cut(&one.text, PAGE_SENTENCE_CHARS_MAX)],
            );
        }
    });
    if let Some(more) = verdict.details["more"].as_u64().filter(|more| *more > 0) {
        out.leaf("p", &[], format_args!("and {more} more"));
    }
}

/// What had to come back after a fault.
#[derive(Debug, Deserialize)]
struct Recovery {
    fault: String,
    what: String,
    took_ms: Option<u64>,
}

fn recoveries(view: &View<'_>, verdict: &Verdict, out: &mut Markup) {
    if verdict.check != recovers::NAME {
        return;
    }
    let within_ms = view.sources.plan.checks.iter().find_map(|check| match check {
        PlannedCheck::Recovers { within_ms } => Some(*within_ms),
        _ => None,
    });
    let mut wanted: Vec<Recovery> = serde_json::from_value(verdict.details.clone()).unwrap_or_default();
    // The latest first: those are why the check did not pass.
    wanted.sort_by_key(|one| std::cmp::Reverse(one.took_ms.unwrap_or(u64::MAX)));
    table(out, "What had to come back after a fault", &["", "after", "what", "it took", "allowed"], |out| {
        for one in wanted.iter().take(PAGE_LISTED_MAX) {
            let is_late =
                within_ms.is_some_and(|within_ms| one.took_ms.is_none_or(|took_ms| took_ms > within_ms));
            let took = one.took_ms.map_or_else(|| "never".to_owned(), |ms| duration(ms * 1_000_000));
            let allowed = within_ms.map_or_else(String::new, |ms| duration(ms * 1_000_000));
            let mark = if is_late { "✗ late" } else { "✓" };
            cells(out, &[mark.to_owned(), one.fault.clone(), one.what.clone(), took, allowed]);
        }
    });
}

/// Nodes that ended by themselves, each with the end of its console.
fn deaths(view: &View<'_>, out: &mut Markup) {
    let deaths: &[Death] = view.record().map_or(&[], |record| &record.deaths);
    for death in deaths.iter().take(PAGE_LISTED_MAX) {
        let name = view.name(death.node);
        out.leaf(
            "h4",
            &[],
            format_args!("{} {}, {}", death.subject(name), death.exit, view.instant(death.at_ns)),
        );
        let chars = death.console_end.chars().count();
        let end: String = death.console_end.chars().skip(chars.saturating_sub(PAGE_TAIL_CHARS_MAX)).collect();
        out.leaf("p", &[], format_args!("The end of nodes/{name}/console.log:"));
        out.leaf("pre", &[("tabindex", &"0")], end.trim_end());
    }
}

/// A row of a table.
pub(super) fn cells(out: &mut Markup, texts: &[String]) {
    out.element("tr", &[], |out| texts.iter().for_each(|text| out.leaf("td", &[], text)));
}
