//! Every fault with its receipt, and a small map of what it broke.

use super::map;
use super::markup::Markup;
use super::view::View;
use crate::limits::page::{PAGE_CARDS_MAX, PAGE_MAPS_MAX, PAGE_SENTENCE_CHARS_MAX};
use crate::report::html::view::cut;
use crate::runner::record::{FaultRecord, LinksRecord, Proof};

/// The cards of all faults, those without a receipt for certain.
pub(super) fn faults(view: &View<'_>, out: &mut Markup) {
    let links = view.record().and_then(|record| record.links.as_ref());
    let all: Vec<(usize, &FaultRecord)> = (1..).zip(view.faults()).collect();
    if all.is_empty() && links.is_none() {
        out.leaf("p", &[], "No fault was due.");
        return;
    }
    // The many that are all right make room for the few that are not.
    let missing = all.iter().filter(|(_, fault)| !fault.has_receipt()).count();
    let mut room = PAGE_CARDS_MAX.saturating_sub(missing);
    let mut left_out = 0;
    let mut maps = PAGE_MAPS_MAX;
    out.element("div", &[("class", &"cards")], |out| {
        if let Some(links) = links {
            standing(view, links, out);
        }
        let mut missing_room = PAGE_CARDS_MAX;
        for (number, fault) in all {
            let room = if fault.has_receipt() { &mut room } else { &mut missing_room };
            if *room == 0 {
                left_out += 1;
                continue;
            }
            *room -= 1;
            card(view, (number, fault), maps > 0, out);
            maps = maps.saturating_sub(1);
        }
    });
    if left_out > 0 {
        out.leaf("p", &[], format_args!("and {left_out} more, see report.json"));
    }
}

fn card(view: &View<'_>, (number, fault): (usize, &FaultRecord), has_map: bool, out: &mut Markup) {
    let class = if fault.has_receipt() { "card" } else { "card no-receipt" };
    out.element("article", &[("class", &class)], |out| {
        out.leaf("h3", &[], format_args!("F{number} {}", cut(&fault.text, PAGE_SENTENCE_CHARS_MAX)));
        let at = |ns: Option<u64>| ns.map_or_else(|| "never".to_owned(), |ns| view.instant(ns));
        let lasted = fault.began_ns.zip(fault.ended_ns).map(|(began_ns, ended_ns)| {
            format!(" ({:.1} s)", view.seconds(ended_ns) - view.seconds(began_ns))
        });
        let lasted = lasted.unwrap_or_default();
        out.leaf("p", &[], format_args!("In force {} to {}{lasted}", at(fault.began_ns), at(fault.ended_ns)));
        if has_map {
            map::fault(view, fault, out);
        }
        proofs(&fault.proofs, out);
        if let Some(problem) = &fault.problem {
            out.leaf("p", &[("class", &"bad")], format_args!("✗ no receipt: {problem}"));
        }
        if let Some(text) = election(view, fault) {
            out.leaf("p", &[("class", &"note")], text);
        }
    });
    out.line();
}

/// The links that were not perfect for the whole run.
fn standing(view: &View<'_>, links: &LinksRecord, out: &mut Markup) {
    let class = if links.has_receipt() { "card" } else { "card no-receipt" };
    out.element("article", &[("class", &class)], |out| {
        out.leaf("h3", &[], cut(&links.text, PAGE_SENTENCE_CHARS_MAX));
        out.leaf(
            "p",
            &[],
            format_args!("{} directed links, for the whole run", view.sources.plan.links.len()),
        );
        proofs(&links.proofs, out);
    });
}

fn proofs(proofs: &[Proof], out: &mut Markup) {
    if proofs.is_empty() {
        return;
    }
    out.element("ul", &[("class", &"proofs")], |out| {
        for proof in proofs {
            let (class, sign) = if proof.is_seen { ("good", "✓") } else { ("bad", "✗ not seen:") };
            out.element("li", &[], |out| {
                out.leaf("span", &[("class", &class)], sign);
                out.text(format_args!(" {} ", proof.what));
                let detail = cut(&proof.detail, PAGE_SENTENCE_CHARS_MAX);
                out.leaf("span", &[("class", &"note")], format_args!("({detail})"));
            });
        }
    });
}

/// Who led after a fault that hit the leader.
fn election(view: &View<'_>, fault: &FaultRecord) -> Option<String> {
    let term = fault.hit_leader_of_term?;
    let Some(seen) = view.record()?.election_after(fault) else {
        return Some(format!("It hit the leader of term {term}; no later leader was seen."));
    };
    let after = view.seconds(seen.at_ns) - view.seconds(fault.began_ns?);
    let (name, next) = (view.name(seen.node), seen.term);
    Some(format!("It hit the leader of term {term}; {name} led term {next}, {after:.1} s later."))
}
