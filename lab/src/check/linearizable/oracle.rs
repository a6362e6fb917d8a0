//! The checker against an independent one: thousands of small random histories, judged by both.
//!
//! Histories come from a real register with random instants of effect, and half of them are then falsified.
//! The oracle is porcupine-rs, which shares no code and no idea with ours.

use porcupine_rs::{Model, Operation as Step, check_operations};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::tests::{Sketch, history};
use super::*;

const HISTORIES: u64 = 24_000;

const HISTORIES_LONGER: u64 = 2_000;

/// How many of one kind there must be for the comparison to be worth something.
const OFTEN: u32 = 2_000;

#[derive(Debug, Clone)]
struct Register;

impl Model for Register {
    type State = Option<String>;
    type Op = (Op<String>, Outcome<String>);
    type Metadata = ();

    fn init() -> Self::State {
        None
    }

    /// An operation of unknown outcome returns at the end of time: whether it takes effect there or not is
    /// seen by nobody. An unknown CAS whose expectation fails takes no effect.
    fn step(state: &Self::State, (op, outcome): &Self::Op) -> (bool, Self::State) {
        match (op, outcome) {
            (_, Outcome::Read { value }) => (state == value, state.clone()),
            (Op::Cas { expected, .. }, Outcome::CasFailed { actual }) => {
                (state == actual && actual != expected, state.clone())
            }
            (Op::Write { value }, _) => (true, Some(value.clone())),
            (Op::Delete, _) => (true, None),
            (Op::Cas { expected, value }, _) if state == expected => (true, Some(value.clone())),
            (_, outcome) => (*outcome == Outcome::Unknown, state.clone()),
        }
    }
}

fn is_linearizable(sketches: &[Sketch], key: &str) -> bool {
    let steps = sketches.iter().filter(|sketch| sketch.key == key).filter_map(|sketch| {
        let is_unknown = sketch.outcome == Outcome::Unknown;
        if matches!(sketch.outcome, Outcome::Refused { .. }) || (is_unknown && sketch.op == Op::Read) {
            return None;
        }
        let return_time = sketch.return_ns.filter(|_| !is_unknown).map_or(i64::MAX, u64::cast_signed);
        let op = (sketch.op.clone(), sketch.outcome.clone());
        let call_time = sketch.call_ns.cast_signed();
        Some(Step::<Register> { client_id: None, call_time, return_time, op, metadata: None })
    });
    check_operations(&steps.collect::<Vec<_>>())
}

/// What one history is made of.
struct Mix {
    is_unique: bool,
    has_cas: bool,
    has_delete: bool,
    keys: u32,
    /// Most operations of a client.
    operations_max: u32,
}

/// Draws a history of a register that works.
fn correct(random: &mut ChaCha8Rng, mix: &Mix) -> Vec<Sketch> {
    let mut planned = Vec::new();
    for client in 0..random.random_range(2..=4_u32) {
        let mut now = random.random_range(0..4_u64);
        for _ in 0..random.random_range(1..=mix.operations_max) {
            let call_ns = now;
            let mut effect = call_ns + random.random_range(0..5);
            let return_ns = effect + random.random_range(0..5);
            now = return_ns + random.random_range(0..3);
            let fate = random.random_range(0..100);
            let (is_refused, is_unknown) = (fate < 7, fate >= 85);
            if is_unknown {
                effect += random.random_range(0..15);
            }
            planned.push((effect, client, call_ns, return_ns, is_refused, is_unknown));
        }
    }
    planned.sort_unstable();
    let mut state: Vec<Option<String>> = vec![None; mix.keys as usize];
    let mut values = vec![None, Some("a".to_owned()), Some("b".to_owned())];
    let mut sketches = Vec::new();
    for (index, (_, client, call_ns, return_ns, is_refused, is_unknown)) in planned.into_iter().enumerate() {
        let key = random.random_range(0..mix.keys) as usize;
        let value = if mix.is_unique { format!("v{index}") } else { ["a", "b", "c"][index % 3].to_owned() };
        let op = match random.random_range(0..100) {
            0..40 => Op::Read,
            40..70 if mix.has_cas => {
                let any = values[random.random_range(0..values.len())].clone();
                let expected = if random.random_bool(0.6) { state[key].clone() } else { any };
                Op::Cas { expected, value: value.clone() }
            }
            70..82 if mix.has_delete => Op::Delete,
            _ => Op::Write { value: value.clone() },
        };
        values.push(Some(value));
        let outcome = if is_refused {
            Outcome::Refused { reason: "no leader".to_owned() }
        } else if is_unknown && random.random_bool(0.4) {
            Outcome::Unknown
        } else {
            let outcome = apply(&mut state[key], &op);
            if is_unknown { Outcome::Unknown } else { outcome }
        };
        let (client, node, key) = (format!("c{client}"), format!("n{}", index % 3), format!("k{key}"));
        let return_ns = (!is_unknown || random.random_bool(0.5)).then_some(return_ns);
        sketches.push(Sketch { client, node, key, call_ns, return_ns, op, outcome });
    }
    sketches
}

fn apply(state: &mut Option<String>, op: &Op<String>) -> Outcome<String> {
    match op {
        Op::Read => return Outcome::Read { value: state.clone() },
        Op::Write { value } => *state = Some(value.clone()),
        Op::Delete => *state = None,
        Op::Cas { expected, value } if state == expected => *state = Some(value.clone()),
        Op::Cas { .. } => return Outcome::CasFailed { actual: state.clone() },
    }
    Outcome::Done
}

/// Makes one thing in it untrue, perhaps.
fn falsify(random: &mut ChaCha8Rng, sketches: &mut [Sketch]) {
    let values: Vec<Option<String>> = sketches
        .iter()
        .filter_map(|sketch| match &sketch.op {
            Op::Write { value } | Op::Cas { value, .. } => Some(Some(value.clone())),
            _ => None,
        })
        .chain([None])
        .collect();
    let any = values[random.random_range(0..values.len())].clone();
    let index = random.random_range(0..sketches.len());
    let sketch = &mut sketches[index];
    let lasts = sketch.return_ns.unwrap_or(sketch.call_ns) - sketch.call_ns;
    match (&mut sketch.outcome, random.random_range(0..4)) {
        (Outcome::Read { value }, _) => *value = any,
        (Outcome::CasFailed { actual }, 0 | 1) => *actual = any,
        (outcome @ Outcome::CasFailed { .. }, _) => *outcome = Outcome::Done,
        (outcome @ Outcome::Done, 0) if matches!(sketch.op, Op::Cas { .. }) => {
            *outcome = Outcome::CasFailed { actual: any };
        }
        (Outcome::Done, _) => {
            // It happened at another time.
            sketch.call_ns = random.random_range(0..25);
            sketch.return_ns = Some(sketch.call_ns + lasts);
        }
        (outcome @ Outcome::Unknown, _) if sketch.op != Op::Read => {
            *outcome = Outcome::Done;
            sketch.return_ns = Some(sketch.call_ns + lasts);
        }
        (Outcome::Unknown | Outcome::Refused { .. }, _) => {}
    }
}

fn draw(seed: u64, operations_max: u32) -> Vec<Sketch> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mix = Mix {
        is_unique: random.random_bool(0.5),
        has_cas: random.random_bool(0.6),
        has_delete: random.random_bool(0.3),
        keys: if random.random_bool(0.2) { 2 } else { 1 },
        operations_max,
    };
    let mut sketches = correct(&mut random, &mix);
    for _ in 0..random.random_range(0..=3_u32).saturating_sub(1) {
        falsify(&mut random, &mut sketches);
    }
    sketches
}

#[derive(Debug, Default)]
struct Tally {
    linearizable: u32,
    not_linearizable: u32,
    by_zones: u32,
    by_search: u32,
    with_cas: u32,
    with_unknown: u32,
    with_both: u32,
    witnesses: u32,
}

#[test]
fn small_random_histories_are_judged_as_by_the_oracle() {
    let long = std::env::var("ASPEN_LONG").ok().and_then(|text| text.parse::<u64>().ok());
    let mut tally = Tally::default();
    for seed in 0..HISTORIES * long.unwrap_or(1) {
        compare(seed, &mut tally);
    }
    let Tally { linearizable, not_linearizable, by_zones, by_search, with_cas, with_unknown, .. } = tally;
    for count in [linearizable, not_linearizable, by_zones, by_search, with_cas, with_unknown] {
        assert!(count >= OFTEN, "{tally:?}");
    }
    assert!(tally.witnesses >= OFTEN / 2 && tally.with_both >= OFTEN / 2, "{tally:?}");
}

/// Longer ones, where more is in flight over time and operations of unknown outcome pile up.
#[test]
fn longer_random_histories_are_judged_as_by_the_oracle() {
    let mut tally = Tally::default();
    for seed in 0..HISTORIES_LONGER {
        let sketches = draw(seed, 12);
        let (history, result) = compare_verdicts(&sketches, seed);
        agree_with_each_other(&history, seed, &mut tally);
        tally.linearizable += u32::from(result.violations.is_empty());
    }
    assert!(tally.linearizable >= 500 && tally.by_zones >= 500 && tally.by_search >= 500, "{tally:?}");
}

fn compare(seed: u64, tally: &mut Tally) {
    let sketches = draw(seed, 3);
    let (history, result) = compare_verdicts(&sketches, seed);
    agree_with_each_other(&history, seed, tally);
    *(if result.violations.is_empty() { &mut tally.linearizable } else { &mut tally.not_linearizable }) += 1;
    let has_cas = sketches.iter().any(|sketch| matches!(sketch.op, Op::Cas { .. }));
    let has_unknown = sketches.iter().any(|sketch| sketch.outcome == Outcome::Unknown);
    tally.with_cas += u32::from(has_cas);
    tally.with_unknown += u32::from(has_unknown);
    tally.with_both += u32::from(has_cas && has_unknown && !result.violations.is_empty());
    for violation in &result.violations {
        tally.witnesses += 1;
        explains(violation, &sketches, seed);
    }
}

/// The oracle and the whole check say the same.
fn compare_verdicts(sketches: &[Sketch], seed: u64) -> (History, LinearizableResult) {
    let history = history(sketches);
    let want: Vec<&str> = ["k0", "k1"].into_iter().filter(|key| !is_linearizable(sketches, key)).collect();
    let result = check(&history, &Budget::default());
    let mut got: Vec<&str> = result.violations.iter().map(|violation| violation.key.as_str()).collect();
    got.sort_unstable();
    assert_eq!(got, want, "seed {seed}: {sketches:#?}");
    assert!(result.undecided.is_empty(), "seed {seed}");
    (history, result)
}

/// Where both of our methods apply, both must say the same.
fn agree_with_each_other(history: &History, seed: u64, tally: &mut Tally) {
    let deadline = Deadline::new(CHECK_TIME_MAX, CHECK_CONFIGURATIONS_MAX);
    let mut registers = Registers::new(history, BoundedReads::LeftOut);
    for index in 0..u32::try_from(history.keys.count()).unwrap() {
        let register = registers.register(KeyIndex(index));
        let found = search::search(&register.intervals, &deadline);
        if register.unique {
            tally.by_zones += 1;
            let by_zones = zones::check(&register).is_ok();
            assert_eq!(by_zones, found == Found::Linearizable, "seed {seed}, key {index}");
        } else {
            tally.by_search += 1;
        }
    }
}

/// The operations in conflict cannot be explained, whatever the others did, and without any one of them they
/// can: by the oracle, for every choice of the other operations that left a value.
fn explains(violation: &Violation, sketches: &[Sketch], seed: u64) {
    assert!(violation.is_minimal, "seed {seed}");
    let members: Vec<usize> = violation
        .operations
        .iter()
        .filter(|operation| operation.role == Role::Conflict)
        .map(|operation| usize::try_from(operation.id.0).unwrap())
        .collect();
    assert!(!is_explained(&members, sketches, &violation.key), "seed {seed}: {violation:#?}\n{sketches:#?}");
    for &left_out in &members {
        let fewer: Vec<usize> = members.iter().copied().filter(|&member| member != left_out).collect();
        assert!(
            is_explained(&fewer, sketches, &violation.key),
            "seed {seed}: {left_out} is not needed: {violation:#?}\n{sketches:#?}"
        );
    }
    let all: Vec<Sketch> =
        violation.operations.iter().map(|o| sketches[usize::try_from(o.id.0).unwrap()].clone()).collect();
    assert!(!is_linearizable(&all, &violation.key), "seed {seed}: the shown operations do not conflict");
}

fn is_explained(members: &[usize], sketches: &[Sketch], key: &str) -> bool {
    let kept: Vec<Sketch> = members.iter().map(|&member| sketches[member].clone()).collect();
    let mut others = Vec::new();
    for (index, sketch) in sketches.iter().enumerate() {
        let is_done = matches!(sketch.outcome, Outcome::Done | Outcome::Unknown);
        if sketch.key != key || !is_done || members.contains(&index) {
            continue;
        }
        let op = match &sketch.op {
            // It leaves what was there already.
            Op::Cas { expected, value } if expected.as_ref() == Some(value) => continue,
            Op::Write { value } | Op::Cas { value, .. } => Op::Write { value: value.clone() },
            Op::Delete => Op::Delete,
            Op::Read => continue,
        };
        others.push(Sketch { op, ..sketch.clone() });
    }
    (0..1_u32 << others.len()).any(|chosen| {
        let chosen = others.iter().enumerate().filter(|&(bit, _)| chosen & (1 << bit) != 0);
        let mut all = kept.clone();
        all.extend(chosen.map(|(_, sketch)| sketch.clone()));
        is_linearizable(&all, key)
    })
}
