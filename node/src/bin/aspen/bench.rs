//! `aspen bench`: load on a cluster, measured.

use std::fmt::Write;
use std::time::Duration;

use aspen_node::client::aspen::AspenTarget;
use aspen_node::client::load::{self, KEY_PREFIX, Load, Measured, Work, is_key_name};
use aspen_node::limits::{
    BENCH_CLIENTS_MAX, BENCH_KEYS_MAX, BENCH_SECONDS_MAX, KEYS_PER_COMMAND_MAX, OPERATIONS_IN_FLIGHT_MAX,
    SCAN_LIMIT_MAX, VALUE_BYTES_MAX,
};
use clap::{Args, ValueEnum, value_parser};
use serde_json::{Map, Value as Json, json};

use super::access::Access;
use super::kv::{ConsistencyArg, bytes, printed};
use super::session::{Failure, Session};

/// What `aspen bench` is asked.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What clients do
    #[arg(value_enum)]
    work: WorkArg,
    /// Clients at once, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u32).range(1..=i64::from(BENCH_CLIENTS_MAX)))]
    clients: u32,
    /// Keys to choose from
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = value_parser!(u64).range(1..=BENCH_KEYS_MAX))]
    keys: u64,
    /// Size of a value, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = value_parser!(u32).range(0..=i64::from(VALUE_BYTES_MAX)))]
    value_bytes: u32,
    /// For how long it is measured, in seconds
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = value_parser!(u64).range(1..=BENCH_SECONDS_MAX))]
    seconds: u64,
    /// For how long it runs before, in seconds
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = value_parser!(u64).range(0..=BENCH_SECONDS_MAX))]
    warm_up: u64,
    /// Who confirms reads
    #[arg(long, value_enum, default_value_t = ConsistencyArg::Linearizable)]
    consistency: ConsistencyArg,
    /// Where chance begins
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WorkArg {
    /// Write keys
    Put,
    /// Read keys
    Get,
    /// Read nine times out of ten, write otherwise
    Mixed,
    /// Replace the value that was last seen
    Cas,
    /// Remove the keys that the others have left
    Clean,
}

/// Why there is nothing to print.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] std::io::Error),
    #[error("no operation was answered: {0}")]
    Nothing(String),
}

impl BenchArgs {
    /// What is measured; nothing where there is only to be tidied up.
    pub(crate) fn load(&self) -> Option<Work> {
        Some(match self.work {
            WorkArg::Put => Work::Put,
            WorkArg::Get => Work::Get,
            WorkArg::Mixed => Work::Mixed,
            WorkArg::Cas => Work::CompareAndSwap,
            WorkArg::Clean => return None,
        })
    }
}

/// Removes the keys of earlier benchmarks; what to print.
pub(crate) async fn clean(session: &mut Session) -> Result<Vec<u8>, Failure> {
    let mut removed = 0;
    let mut scan = json!({ "prefix": KEY_PREFIX, "detail": "keys", "limit": SCAN_LIMIT_MAX });
    loop {
        let mut page = session.post("/kv/scan", &scan).await?;
        let found = page["entries"].as_array().into_iter().flatten().map(|entry| bytes(entry, "key"));
        let found: Vec<String> =
            found.filter_map(|key| String::from_utf8(key).ok()).filter(|key| is_key_name(key)).collect();
        for keys in found.chunks(KEYS_PER_COMMAND_MAX as usize) {
            let command = json!({ "command": { "DeleteMulti": { "keys": keys } } });
            removed += session.post("/kv/write", &command).await?["deleted"].as_u64().unwrap_or_default();
        }
        scan["continuation_token"] = page["continuation_token"].take();
        if page["is_truncated"] != true {
            return Ok(printed(&json!({ "deleted": removed }), session, |_| {
                format!("{removed} keys removed\n")
            }));
        }
    }
}

/// Measures, and returns what to print. Several nodes share the clients.
pub(crate) fn run(
    args: &BenchArgs,
    work: Work,
    access: &Access,
    is_json: bool,
) -> Result<String, BenchError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(BenchError::Runtime)?;
    let load = Load {
        work,
        clients: args.clients,
        keys: args.keys,
        value_bytes: args.value_bytes,
        duration: Duration::from_secs(args.seconds),
        warm_up: Duration::from_secs(args.warm_up),
        seed: args.seed,
    };
    let consistency = args.consistency.into();
    let measured = runtime.block_on(load::run(&load, |number| {
        let node = access.nodes[number as usize % access.nodes.len()];
        AspenTarget::new(node, consistency).with_credentials(access.credentials.clone())
    }));
    if measured.latencies_us.is_empty() {
        let failures = measured.failures.iter().map(|(code, count)| format!("{count} times {code}"));
        let failures: Vec<String> = failures.collect();
        return Err(BenchError::Nothing(failures.join(", ")));
    }
    Ok(if is_json { json_text(args, &measured) } else { text(args, &measured) })
}

/// The percentiles that are shown, and their names.
const PERCENTILES: [(f64, &str); 4] = [(50.0, "p50"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99.9")];

fn text(args: &BenchArgs, measured: &Measured) -> String {
    let name = args.work.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    let mut text = format!(
        "{name}: {} clients, {} keys, values of {} bytes, {} s\n",
        args.clients, args.keys, args.value_bytes, args.seconds
    );
    let rate = measured.rate();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {rate:.0} operations/s, {} answered", measured.latencies_us.len());
    text.push_str("  latency");
    for (percent, name) in PERCENTILES {
        let _ = write!(text, "  {name} {}", millis(measured.percentile(percent)));
    }
    let _ = writeln!(text, "  max {}", millis(measured.longest()));
    for (code, count) in &measured.failures {
        let _ = writeln!(text, "  {count} times {code}");
    }
    if args.work != WorkArg::Get {
        let _ = writeln!(text, "  the keys {KEY_PREFIX}... are left, `aspen bench clean` removes them");
    }
    if measured.failures.contains_key("too_many_operations") {
        let _ = writeln!(text, "  a node takes {OPERATIONS_IN_FLIGHT_MAX} operations at once");
    }
    text
}

fn json_text(args: &BenchArgs, measured: &Measured) -> String {
    let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let mut latency: Map<String, Json> = PERCENTILES
        .iter()
        .map(|(percent, name)| ((*name).to_owned(), us(measured.percentile(*percent)).into()))
        .collect();
    latency.insert("max".to_owned(), us(measured.longest()).into());
    let report = json!({
        "work": args.work.to_possible_value().map(|value| value.get_name().to_owned()),
        "clients": args.clients,
        "keys": args.keys,
        "value_bytes": args.value_bytes,
        "seconds": args.seconds,
        "operations_per_s": measured.rate(),
        "answered": measured.latencies_us.len(),
        "latency_us": latency,
        "failures": measured.failures,
    });
    format!("{report:#}\n")
}

fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}
