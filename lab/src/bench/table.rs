//! The figures of a benchmark, as a table or as JSON.

use std::fmt::Write;
use std::time::Duration;

use super::{Figure, Interface, Results, System};
use crate::cli::{BenchArgs, BenchWork, Rival};

/// Everything that was measured.
pub(super) fn json(results: &Results) -> String {
    let text = serde_json::to_string_pretty(results).expect("figures always encode");
    format!("{text}\n")
}

/// The medians, and how they stand to each other.
pub(super) fn text(args: &BenchArgs, results: &Results) -> String {
    let interfaces: &[Interface] = match args.versus {
        None => &[Interface::AspenHttp],
        Some(Rival::Etcd) => &[Interface::AspenHttp, Interface::EtcdGateway, Interface::EtcdGrpc],
    };
    [head(args, results), rates(args, results, interfaces), remarks(args, results, interfaces)].join("\n")
}

fn head(args: &BenchArgs, results: &Results) -> String {
    let several =
        |count: u32, what: &str| if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") };
    let mut text = format!(
        "{}\n{} on loopback, every write durable on a quorum; {} keys, values of {} bytes; medians of {} of {} s, in turns\n",
        results.versions.join(", "),
        several(args.nodes, "node"),
        args.keys,
        args.value_bytes,
        several(args.rounds, "round"),
        args.seconds,
    );
    if args.fsync_delay_ms > 0 {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "every fsync takes {} ms longer, by strace", args.fsync_delay_ms);
    }
    text
}

/// A line for each work and number of clients.
fn rates(args: &BenchArgs, results: &Results, interfaces: &[Interface]) -> String {
    let mut text = "operation  clients".to_owned();
    for interface in interfaces {
        let _ = write!(text, "  {:>31}", title(*interface));
    }
    text.push_str("\n                  ");
    for interface in interfaces {
        let ratio = if *interface == Interface::AspenHttp { "" } else { "aspen is" };
        let _ = write!(text, "  {:>9} {:>11} {ratio:>9}", "per s", "p99");
    }
    text.push('\n');
    for (work, clients) in
        args.work.iter().flat_map(|work| args.clients.iter().map(move |clients| (work, clients)))
    {
        let _ = write!(text, "{:9} {clients:>8}", work.name());
        let rate = |interface| median(results, interface, *work, *clients, |figure| figure.operations_per_s);
        for interface in interfaces {
            let p99_ms = median(results, *interface, *work, *clients, |figure| millis(figure.p99_us));
            let ratio = match interface {
                Interface::AspenHttp => String::new(),
                other => format!("{:.2} x", rate(Interface::AspenHttp) / rate(*other).max(1.0)),
            };
            let _ = write!(text, "  {:>9.0} {p99_ms:>8.2} ms {ratio:>9}", rate(*interface));
        }
        text.push('\n');
    }
    text
}

/// Memory, disk, and what was out of the ordinary.
fn remarks(args: &BenchArgs, results: &Results, interfaces: &[Interface]) -> String {
    let mut text = String::new();
    for system in [System::Aspen, System::Etcd] {
        let rounds = || results.rounds.iter().filter(|round| round.system == system);
        let Some(memory) = rounds().filter_map(|round| round.memory_bytes).max() else { continue };
        let disk: Vec<String> = rounds().map(|round| format!("{:.2}", millis(round.disk_us))).collect();
        let _ = writeln!(
            text,
            "{}: at most {} MiB in one process; the disk took {} ms for 4 KiB before its rounds",
            system.name(),
            memory >> 20,
            disk.join(", ")
        );
    }
    for interface in interfaces {
        let flushes: Vec<String> = args
            .clients
            .iter()
            .filter_map(|clients| {
                let figures = of(results, *interface, BenchWork::Put, *clients);
                let flushes = middle(figures.filter_map(|figure| figure.flushes_per_1000).collect())?;
                Some(format!("{flushes:.0} with {clients}"))
            })
            .collect();
        if !flushes.is_empty() {
            let (title, flushes) = (title(*interface), flushes.join(", "));
            let _ = writeln!(text, "{title}: flushes of the disk for 1000 writes, by clients: {flushes}");
        }
    }
    let failed: u64 = results.figures.iter().map(|figure| figure.failed).sum();
    if failed > 0 {
        let _ = writeln!(text, "{failed} operations failed: --json says where");
    }
    if results.figures.iter().any(|figure| figure.is_disturbed) {
        text.push_str("the leader changed in the middle of a figure: --json says in which\n");
    }
    text
}

fn millis(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64() * 1e3
}

fn title(interface: Interface) -> &'static str {
    match interface {
        Interface::AspenHttp => "aspen, HTTP and JSON",
        Interface::EtcdGateway => "etcd, HTTP and JSON",
        Interface::EtcdGrpc => "etcd, gRPC",
    }
}

fn of(
    results: &Results,
    interface: Interface,
    work: BenchWork,
    clients: u32,
) -> impl Iterator<Item = &Figure> {
    let is_it = move |figure: &&Figure| {
        figure.interface == interface && figure.work == work && figure.clients == clients
    };
    results.figures.iter().filter(is_it)
}

fn median(
    results: &Results,
    interface: Interface,
    work: BenchWork,
    clients: u32,
    figure: impl Fn(&Figure) -> f64,
) -> f64 {
    middle(of(results, interface, work, clients).map(figure).collect()).unwrap_or_default()
}

fn middle(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}
