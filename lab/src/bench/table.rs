//! The figures of a benchmark, as a table or as JSON.

use std::fmt::Write;
use std::time::Duration;

use super::round::{Figure, Round};
use super::{Interface, Results};
use crate::cli::BenchWork;

/// Everything that was measured.
pub(super) fn json(results: &Results<'_>) -> String {
    let text = serde_json::to_string_pretty(results).expect("figures always encode");
    format!("{text}\n")
}

/// The medians, and how they stand to each other.
pub(super) fn text(interfaces: &[Interface], results: &Results<'_>) -> String {
    [head(results), rates(interfaces, results), remarks(interfaces, results)].join("\n")
}

/// So many of something.
pub(super) fn several(count: u32, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn head(results: &Results<'_>) -> String {
    let settings = results.settings;
    let mut text = format!(
        "{}\n{} on loopback, every write durable on a quorum; {} keys, values of {} bytes; medians of {} of {} s, in turns\n",
        results.versions.join(", "),
        several(settings.nodes, "node"),
        settings.keys,
        settings.value_bytes,
        several(settings.rounds, "round"),
        settings.seconds,
    );
    if settings.fsync_delay_ms > 0 {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "every fsync takes {} ms longer, by strace", settings.fsync_delay_ms);
    }
    text
}

/// A line for each work and number of clients.
fn rates(interfaces: &[Interface], results: &Results<'_>) -> String {
    let mut text = "operation  clients".to_owned();
    for interface in interfaces {
        let _ = write!(text, "  {:>31}", interface.title());
    }
    text.push_str("\n                  ");
    for interface in interfaces {
        let ratio = if *interface == Interface::AspenHttp { "" } else { "aspen is" };
        let _ = write!(text, "  {:>9} {:>11} {ratio:>9}", "per s", "p99");
    }
    text.push('\n');
    for (work, clients) in results.settings.figures() {
        let _ = write!(text, "{:9} {clients:>8}", work.name());
        let figures = |interface| judged(results, interface, work, clients);
        let rate = |interface| median(figures(interface).map(|figure| figure.operations_per_s));
        for interface in interfaces {
            let p99 = median(figures(*interface).map(|figure| millis(figure.p99_us)));
            let ratio = match interface {
                Interface::AspenHttp => None,
                other => rate(Interface::AspenHttp).zip(rate(*other)).map(|(own, other)| own / other),
            };
            let shown = |value: Option<f64>, digits: usize, unit: &str| {
                value.map_or_else(String::new, |value| format!("{value:.digits$}{unit}"))
            };
            let (rate, p99, ratio) =
                (shown(rate(*interface), 0, ""), shown(p99, 2, " ms"), shown(ratio, 2, " x"));
            let _ = write!(text, "  {rate:>9} {p99:>11} {ratio:>9}");
        }
        text.push('\n');
    }
    text
}

/// Memory, disk, and what was out of the ordinary.
fn remarks(interfaces: &[Interface], results: &Results<'_>) -> String {
    let mut text = String::new();
    for interface in interfaces {
        let rounds = || results.rounds.iter().filter(|round| round.interface == *interface);
        let title = interface.title();
        if let Some(memory) = rounds().filter_map(|round| round.memory_bytes).max() {
            let _ = writeln!(text, "{title}: at most {} MiB of memory in one process", memory >> 20);
        }
        let flushes = results.settings.clients.iter().filter_map(|clients| {
            let figures = judged(results, *interface, BenchWork::Put, *clients);
            let flushes = median(figures.filter_map(|figure| figure.flushes_per_1000))?;
            Some(format!("{flushes:.0} with {clients}"))
        });
        let flushes: Vec<String> = flushes.collect();
        if !flushes.is_empty() {
            let flushes = flushes.join(", ");
            let _ = writeln!(text, "{title}: flushes of the disk for 1000 writes, by clients: {flushes}");
        }
        let of_it = results.syncs.iter().filter(|syncs| syncs.interface == *interface);
        let syncs: Vec<String> =
            of_it.map(|syncs| format!("{:.0} with {}", syncs.per_1000, syncs.clients)).collect();
        if !syncs.is_empty() {
            let syncs = syncs.join(", ");
            let _ = writeln!(text, "{title}: fsyncs of each member for 1000 writes, by clients: {syncs}");
        }
    }
    if let Some(why) = &results.syncs_not_measured {
        let _ = writeln!(text, "fsyncs of each member for 1000 writes: not measured: {why}");
    }
    let disk: Vec<String> =
        results.rounds.iter().map(|round| format!("{:.2}", millis(round.disk_us))).collect();
    let _ = writeln!(text, "a write of 4 KiB and its sync, before each round: {} ms", disk.join(", "));
    let all = || results.rounds.iter().flat_map(|round| &round.figures);
    let failed: u64 = all().flat_map(|figure| figure.failures.values()).sum();
    if failed > 0 {
        let _ = writeln!(text, "{failed} operations failed: --json says where, and how");
    }
    let slow = results.rounds.iter().filter(|round| round.is_slow).count();
    if slow > 0 {
        let _ = writeln!(text, "left out: {slow} rounds, before which the disk was slow");
    }
    let disturbed = all().filter(|figure| figure.is_disturbed).count();
    if disturbed > 0 {
        let _ = writeln!(text, "left out: {disturbed} figures, in which the leader changed");
    }
    text
}

/// The figures that count.
fn judged<'a>(
    results: &'a Results<'_>,
    interface: Interface,
    work: BenchWork,
    clients: u32,
) -> impl Iterator<Item = &'a Figure> {
    let counts = move |round: &&Round| round.interface == interface && !round.is_slow;
    let is_it = move |figure: &&Figure| {
        let was_answered = figure.operations_per_s > 0.0 && !figure.is_disturbed;
        figure.work == work && figure.clients == clients && was_answered
    };
    results.rounds.iter().filter(counts).flat_map(|round| &round.figures).filter(is_it)
}

/// The one in the middle, or half-way between the two that are.
fn median(figures: impl Iterator<Item = f64>) -> Option<f64> {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_unstable_by(f64::total_cmp);
    let last = figures.len().checked_sub(1)?;
    Some(f64::midpoint(figures[last / 2], figures[last.div_ceil(2)]))
}

fn millis(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_in_the_middle() {
        let check = |figures: &[f64], want| assert_eq!(median(figures.iter().copied()), want);
        check(&[], None);
        check(&[3.0], Some(3.0));
        check(&[3.0, 1.0], Some(2.0));
        check(&[3.0, 9.0, 1.0], Some(3.0));
    }
}
