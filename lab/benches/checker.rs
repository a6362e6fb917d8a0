//! How long the linearizability check takes, and how much memory: `cargo bench -p aspen-lab --bench checker`.
//!
//! Without arguments it runs each case in a process of its own, since the peak of memory is that of a process;
//! with a case's number it runs that one.

#![allow(clippy::print_stdout, reason = "it prints its table")]
#![allow(clippy::disallowed_methods, reason = "no part of the lab: it starts itself")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails says where")]

use std::process::Command;
use std::time::Instant;

use aspen_lab::check::linearizable::{Budget, check};
use aspen_lab::history::{
    ClientIndex, History, KeyIndex, NodeNameIndex, Op, OpId, Operation, Outcome, ValueIndex,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a case consists of.
struct Case {
    name: &'static str,
    keys: u32,
    operations: u32,
    clients: u32,
    /// Of 100 operations.
    cas: u32,
    delete: u32,
    /// How many distinct values are written; `None`: each is new.
    values: Option<u32>,
    /// The last read is of the value before.
    is_stale: bool,
}

const CASES: [Case; 9] = [
    Case {
        name: "unique writes",
        keys: 1,
        operations: 1_000_000,
        clients: 64,
        cas: 0,
        delete: 0,
        values: None,
        is_stale: false,
    },
    Case {
        name: "unique writes",
        keys: 100,
        operations: 1_000_000,
        clients: 32,
        cas: 0,
        delete: 0,
        values: None,
        is_stale: false,
    },
    Case {
        name: "unique, CAS",
        keys: 1,
        operations: 10_000,
        clients: 16,
        cas: 30,
        delete: 0,
        values: None,
        is_stale: false,
    },
    Case {
        name: "unique, CAS",
        keys: 1,
        operations: 1_000_000,
        clients: 64,
        cas: 30,
        delete: 0,
        values: None,
        is_stale: false,
    },
    Case {
        name: "5 values, CAS",
        keys: 1,
        operations: 10_000,
        clients: 16,
        cas: 30,
        delete: 0,
        values: Some(5),
        is_stale: false,
    },
    Case {
        name: "unique, deletes",
        keys: 1,
        operations: 100_000,
        clients: 16,
        cas: 10,
        delete: 10,
        values: None,
        is_stale: false,
    },
    Case {
        name: "5 values, CAS",
        keys: 16,
        operations: 100_000,
        clients: 64,
        cas: 30,
        delete: 5,
        values: Some(5),
        is_stale: false,
    },
    Case {
        name: "stale read",
        keys: 1,
        operations: 1_000_000,
        clients: 64,
        cas: 10,
        delete: 0,
        values: None,
        is_stale: true,
    },
    Case {
        name: "stale, 50 values",
        keys: 1,
        operations: 10_000,
        clients: 16,
        cas: 30,
        delete: 5,
        values: Some(50),
        is_stale: true,
    },
];

fn main() {
    let chosen = std::env::args().find_map(|word| word.parse::<usize>().ok());
    if let Some(case) = chosen.and_then(|index| CASES.get(index)) {
        run(case);
        return;
    }
    println!(
        "{:<18} {:>5} {:>11} {:>8} {:>9} {:>8}  verdict",
        "history", "keys", "operations", "clients", "seconds", "MiB"
    );
    let this = std::env::current_exe().unwrap();
    for index in 0..CASES.len() {
        assert!(Command::new(&this).arg(index.to_string()).status().unwrap().success());
    }
}

fn run(case: &Case) {
    let history = draw(case);
    let start = Instant::now();
    let result = check(&history, &Budget::default());
    let seconds = start.elapsed().as_secs_f64();
    let Case { name, keys, operations, clients, .. } = case;
    let summary: String = result.verdict().summary.chars().take(60).collect();
    let status = result.status();
    let mib = peak_mib();
    println!(
        "{name:<18} {keys:>5} {operations:>11} {clients:>8} {seconds:>9.3} {mib:>8}  {status:?}: {summary}"
    );
}

/// The peak of resident memory, in MiB: `VmHWM` of proc(5).
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// A run of a correct register: each client has one operation in flight at any time.
fn draw(case: &Case) -> History {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    // When each client's operation takes effect and returns.
    let mut plan = Vec::new();
    let mut now = vec![0_u64; case.clients as usize];
    for index in 0..case.operations {
        let client = index % case.clients;
        let clock = &mut now[client as usize];
        let call_ns = *clock + random.random_range(1..1_000);
        let effect_ns = call_ns + random.random_range(1..100_000);
        let return_ns = effect_ns + random.random_range(1..100_000);
        *clock = return_ns;
        plan.push((effect_ns, client, call_ns, return_ns));
    }
    plan.sort_unstable();
    let mut history = History::default();
    let mut state = vec![None; case.keys as usize];
    let mut before = None;
    for (index, (_, client, call_ns, return_ns)) in (0_u32..).zip(plan) {
        let key = random.random_range(0..case.keys);
        let state = &mut state[key as usize];
        let name = case.values.map_or(index, |values| random.random_range(0..values));
        let value = ValueIndex(history.values.intern(&format!("v{name}")).unwrap());
        let kind = random.random_range(0..100);
        let is_last = case.is_stale && index + 1 == case.operations;
        let (op, outcome) = if is_last {
            (Op::Read, Outcome::Read { value: before })
        } else if kind < case.cas {
            let expected = if random.random_bool(0.7) { *state } else { before };
            let outcome =
                if expected == *state { Outcome::Done } else { Outcome::CasFailed { actual: *state } };
            (Op::Cas { expected, value }, outcome)
        } else if kind < case.cas + case.delete {
            (Op::Delete, Outcome::Done)
        } else if kind < 60 {
            (Op::Read, Outcome::Read { value: *state })
        } else {
            (Op::Write { value }, Outcome::Done)
        };
        match (op, outcome) {
            (Op::Write { value } | Op::Cas { value, .. }, Outcome::Done) => before = state.replace(value),
            (Op::Delete, _) => *state = None,
            _ => {}
        }
        let late = if is_last { 10_000_000 } else { 0 };
        history.operations.push(Operation {
            id: OpId(u64::from(index)),
            client: ClientIndex(client),
            node: NodeNameIndex(0),
            key: KeyIndex(key),
            op,
            call_ns: call_ns + late,
            return_ns: Some(return_ns + late),
            outcome,
            max_staleness_ms: None,
        });
    }
    for (texts, prefix, count) in [
        (&mut history.clients, "c", case.clients),
        (&mut history.nodes, "n", 1),
        (&mut history.keys, "k", case.keys),
    ] {
        for index in 0..count {
            texts.intern(&format!("{prefix}{index}")).unwrap();
        }
    }
    history
}
