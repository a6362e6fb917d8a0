//! The verdict as a person reads it.

use std::fmt::Write;
use std::time::Duration;

use super::violation::conflicts;
use super::{Report, exit_code};
use crate::check::{Status, Verdict, linearizable, overall, seconds};
use crate::cluster::Boot;
use crate::cluster::pace::Pace;
use crate::plan::Plan;
use crate::runner::record::{Costs, Event, EventKind, FaultRecord, Proof, RunRecord};

/// The verdict: how to replay it, what was done, what came of it.
pub fn verdict_text(report: &Report, plan: &Plan) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_verdict(&mut out, report, plan);
    out
}

fn write_verdict(out: &mut String, report: &Report, plan: &Plan) -> std::fmt::Result {
    writeln!(out, "replay: {}", report.replay)?;
    writeln!(
        out,
        "{}: {} nodes ({}), seed {}, aspen {} (node: {}), Linux {}",
        report.scenario,
        plan.nodes.len(),
        report.driver_and_pace(),
        report.seed,
        report.lab_version,
        report.node_version,
        report.kernel,
    )?;
    if let Some(record) = &report.record {
        write_record(out, record, plan, report.slowdown.unwrap_or(Pace::REAL))?;
    }
    writeln!(out)?;
    let origin_ns = report.record.as_ref().map_or(0, |record| record.origin_ns);
    for verdict in &report.verdicts {
        write_check(out, verdict, origin_ns)?;
    }
    if let Some(reason) = &report.aborted {
        writeln!(out, "  ABORTED  {}", indent(reason))?;
    }
    writeln!(out)?;
    writeln!(out, "{}", closing(report))
}

fn write_record(out: &mut String, record: &RunRecord, plan: &Plan, pace: Pace) -> std::fmt::Result {
    let load_s = seconds(record.load_ended_ns, record.origin_ns);
    let counts = &record.counts;
    writeln!(
        out,
        "{} operations answered, {} refused, {} with an open outcome, in {load_s:.1} s",
        counts.answered, counts.refused, counts.unknown,
    )?;
    if let Some(by_lease) = counts.by_lease {
        writeln!(out, "{by_lease} answers to reads and scans were confirmed by a lease")?;
    }
    if let Some(costs) = &record.costs {
        writeln!(out, "{}", came_up(costs, pace))?;
    }
    writeln!(out)?;
    if let Some(links) = &record.links {
        writeln!(out, "  {}", links.text)?;
        write_proofs(out, &links.proofs)?;
    }
    for fault in &record.faults {
        write_fault(out, record, fault, plan)?;
    }
    if record.faults.is_empty() {
        writeln!(out, "  no faults")?;
    }
    Ok(())
}

/// How long it took until the cluster answered, and what nodes took, in real times.
pub(super) fn came_up(costs: &Costs, pace: Pace) -> String {
    let up = pace.to_real(Duration::from_nanos(costs.up_ns)).as_secs_f64();
    let mut text = format!("the load began {up:.1} s after the start");
    if let Some(memory) = costs.nodes.iter().map(|(_, cost)| cost.memory_bytes).max() {
        let _ = write!(text, "; a node took {} MiB at most", memory >> 20);
    }
    let slowest = costs.nodes.iter().filter_map(|(_, cost)| cost.boot).max_by_key(Boot::total_ms);
    if let Some(boot) = slowest {
        let s = |ms: u64| Duration::from_millis(ms).as_secs_f64();
        let _ = write!(
            text,
            ", the slowest booted in {:.1} s: hypervisor {:.1} s, kernel {:.1} s, init {:.1} s, disk {:.1} s, node {:.1} s",
            s(boot.total_ms()),
            s(boot.hypervisor_ms),
            s(boot.kernel_ms),
            s(boot.init_ms),
            s(boot.disk_ms),
            s(boot.node_ms)
        );
    }
    if let Some(pressure) = costs.pressure {
        let _ = write!(
            text,
            "; in {:.0} % of the load's time a processor of the host was waited for",
            100.0 * pressure
        );
    }
    text
}

fn write_fault(out: &mut String, record: &RunRecord, fault: &FaultRecord, plan: &Plan) -> std::fmt::Result {
    let at =
        |ns: Option<u64>| ns.map_or("-".to_owned(), |ns| format!("{:.1} s", seconds(ns, record.origin_ns)));
    writeln!(out, "  {} to {}: {}", at(fault.began_ns), at(fault.ended_ns), fault.text)?;
    write_proofs(out, &fault.proofs)?;
    if let Some(problem) = &fault.problem {
        writeln!(out, "      NO RECEIPT: {problem}")?;
    }
    if let Some(term) = fault.hit_leader_of_term {
        match record.election_after(fault) {
            Some(seen) => {
                let name = &plan.nodes[seen.node.position()].name;
                writeln!(
                    out,
                    "      election: {name} leads term {} after term {term}, {:.1} s later",
                    seen.term,
                    seconds(seen.at_ns, fault.began_ns.unwrap_or(seen.at_ns)),
                )?;
            }
            None => writeln!(out, "      election: none was seen after term {term}")?,
        }
    }
    Ok(())
}

fn write_proofs(out: &mut String, proofs: &[Proof]) -> std::fmt::Result {
    for proof in proofs {
        let mark = if proof.is_seen { "receipt" } else { "NOT SEEN" };
        writeln!(out, "      {mark}: {} ({})", proof.what, proof.detail)?;
    }
    Ok(())
}

fn write_check(out: &mut String, verdict: &Verdict, origin_ns: u64) -> std::fmt::Result {
    let looked_at: Vec<String> =
        verdict.looked_at.iter().map(|(what, count)| format!("{count} {}", what.replace('_', " "))).collect();
    writeln!(out, "  {:<8} {}: {}", verdict.status.word(), verdict.check, indent(&verdict.summary))?;
    if !looked_at.is_empty() {
        writeln!(out, "           looked at {}", looked_at.join(", "))?;
    }
    write!(out, "{}", conflicts(verdict, "           ", origin_ns))
}

fn closing(report: &Report) -> String {
    format!("{} ({}), exit code {}", report.status.word(), reason(report.status), report.exit_code)
}

/// The verdict on a run in a few words.
pub(super) fn reason(status: Status) -> &'static str {
    match status {
        Status::Pass => "every check holds, and every fault had its effect",
        Status::Fail => "a promise was broken",
        Status::Unknown => "a check could not decide",
        Status::Invalid => "the run does not allow a verdict",
    }
}

/// The verdicts on a history alone, below a line that says which.
pub fn history_text(head: &str, verdicts: &[Verdict]) -> String {
    let mut out = format!("{head}\n\n");
    // Writing to a String cannot fail.
    for verdict in verdicts {
        let _ = write_check(&mut out, verdict, 0);
    }
    let status = overall(verdicts);
    let is_strict = |verdict: &Verdict| verdict.check == linearizable::NAME && verdict.status == Status::Pass;
    let reason = match status {
        Status::Pass => "the history is linearizable",
        Status::Fail if verdicts.iter().any(is_strict) => {
            "but for a read that is older than it may be, the history is linearizable"
        }
        Status::Fail => "the history is not linearizable",
        Status::Unknown => "the check could not decide, see --time and --configurations",
        Status::Invalid => "the history does not allow a verdict",
    };
    let (word, exit_code) = (status.word(), exit_code(status));
    let _ = writeln!(out, "\n{word} ({reason}), exit code {exit_code}");
    out
}

/// One line for an event, as it happens.
pub fn event_line(event: &Event, origin_ns: Option<u64>) -> String {
    let at = match origin_ns {
        Some(origin_ns) => format!("{:>7.1} s", seconds(event.at_ns, origin_ns)),
        None => " ".repeat(9),
    };
    match event.kind {
        EventKind::Phase | EventKind::Hand => format!("{at}  {}: {}", event.subject, event.text),
        EventKind::Fault | EventKind::Leader | EventKind::Death => {
            format!("{at}  {} {}", event.subject, event.text)
        }
        EventKind::Warning => format!("{at}  warning: {} {}", event.subject, event.text),
    }
}

/// Further lines under the first.
fn indent(text: &str) -> String {
    text.trim_end().replace('\n', "\n           ")
}
