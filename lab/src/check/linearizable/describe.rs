//! A conflict in a sentence or two that a person understands.

use super::violation::{Role, WitnessOperation};
use crate::history::{Op, Outcome};

/// Most operations that a sentence lists.
const LISTED_MAX: usize = 5;

/// Longest part of a value that is shown, in characters.
const VALUE_CHARS_MAX: usize = 40;

/// Who saw or did what, when, and why that is impossible.
pub(super) fn summary(key: &str, operations: &[WitnessOperation]) -> String {
    let members: Vec<&WitnessOperation> = operations.iter().filter(|o| o.role == Role::Conflict).collect();
    let text = match members[..] {
        [one] => alone(one, operations),
        [first, second] => pair(first, second, operations).or_else(|| pair(second, first, operations)),
        _ => None,
    };
    let text = text.unwrap_or_else(|| listed(&members));
    format!("key {}: {text}", shown(key))
}

/// One operation that is impossible whatever the others did.
fn alone(one: &WitnessOperation, operations: &[WitnessOperation]) -> Option<String> {
    let did = did(one);
    if let (Outcome::CasFailed { actual }, Op::Cas { expected, .. }) = (&one.outcome, &one.op)
        && actual == expected
    {
        return Some(format!("{did}, which is what it expected"));
    }
    let value = observed(one)??;
    let Some(source) = operations.iter().find(|o| created(o) == Some(Some(value))) else {
        return Some(format!("{did}, but nobody ever wrote {}", shown(value)));
    };
    let early = gap(one, source)?;
    Some(format!("{did}, {early} before {} first asked {} to write it", source.client, source.node))
}

/// `late` saw something that `early`, which came before, rules out.
fn pair(
    early: &WitnessOperation,
    late: &WitnessOperation,
    operations: &[WitnessOperation],
) -> Option<String> {
    let value = observed(late)?;
    if let (Op::Cas { .. }, Op::Cas { .. }, Outcome::Done | Outcome::Unknown) =
        (&early.op, &late.op, &early.outcome)
        && observed(early) == Some(value)
    {
        let from = value.map_or_else(|| "its absence".to_owned(), shown);
        return Some(format!(
            "{}, and {}: both started from {from}, which was there once",
            did(early),
            did(late)
        ));
    }
    let after = gap(early, late)?;
    let mut text = format!("{}, although {}, {after} before {} asked", did(late), did(early), late.client);
    let source = operations.iter().find(|o| created(o) == Some(value) && o.id != late.id);
    match (source, value) {
        (Some(source), _) if gap(source, early).is_some() => {
            text = format!("{text}. That was older: {}", did(source));
        }
        (None, None) => text += ". It was never made absent again",
        _ => {}
    }
    Some(text)
}

/// What one cannot say shorter.
fn listed(members: &[&WitnessOperation]) -> String {
    let mut parts: Vec<String> = members.iter().take(LISTED_MAX).map(|one| did(one)).collect();
    if members.len() > LISTED_MAX {
        parts.push(format!("and {} more", members.len() - LISTED_MAX));
    }
    format!("no order explains these {} operations together: {}", members.len(), parts.join("; "))
}

/// The time from the return of one to the call of the other, if it came later.
fn gap(early: &WitnessOperation, late: &WitnessOperation) -> Option<String> {
    let return_ns = early.return_ns.filter(|_| early.outcome != Outcome::Unknown)?;
    (return_ns < late.call_ns).then(|| span(late.call_ns - return_ns))
}

/// The value that it saw; the inner `None`: that the key was absent.
#[expect(clippy::option_option, reason = "nothing seen, and absence seen, are different")]
fn observed(one: &WitnessOperation) -> Option<Option<&str>> {
    match (&one.outcome, &one.op) {
        (Outcome::Read { value } | Outcome::CasFailed { actual: value }, _) => Some(value.as_deref()),
        (Outcome::Done | Outcome::Unknown, Op::Cas { expected, .. }) => Some(expected.as_deref()),
        _ => None,
    }
}

/// The value that it left; the inner `None`: that the key is absent.
#[expect(clippy::option_option, reason = "nothing left, and absence left, are different")]
fn created(one: &WitnessOperation) -> Option<Option<&str>> {
    match (&one.outcome, &one.op) {
        (Outcome::Done | Outcome::Unknown, Op::Write { value } | Op::Cas { value, .. }) => Some(Some(value)),
        (Outcome::Done | Outcome::Unknown, Op::Delete) => Some(None),
        _ => None,
    }
}

/// Who did what, where and when.
fn did(one: &WitnessOperation) -> String {
    let WitnessOperation { client, node, op, outcome, call_ns, return_ns, .. } = one;
    let at = match (outcome, return_ns) {
        (Outcome::Unknown, _) | (_, None) => format!("called at {}, outcome unknown", instant(*call_ns)),
        (Outcome::Read { .. } | Outcome::CasFailed { .. }, Some(at)) => format!("at {}", instant(*at)),
        (_, Some(at)) => format!("acknowledged at {}", instant(*at)),
    };
    match (outcome, op) {
        (Outcome::Read { value: Some(value) }, _) => {
            format!("{client} read {} from {node} {at}", shown(value))
        }
        (Outcome::Read { value: None }, _) => {
            format!("{client} read from {node} {at} that the key is absent")
        }
        (Outcome::CasFailed { actual }, _) => {
            let actual = actual.as_deref().map_or_else(|| "an absent key".to_owned(), shown);
            format!("the compare-and-swap of {client} on {node} failed {at} because it found {actual}")
        }
        (_, Op::Read) => format!("{client} read from {node}, {at}"),
        (_, Op::Write { value }) => format!("{client} wrote {} through {node}, {at}", shown(value)),
        (_, Op::Delete) => format!("{client} deleted the key through {node}, {at}"),
        (_, Op::Cas { expected: Some(expected), value }) => {
            format!("{client} swapped {} for {} through {node}, {at}", shown(expected), shown(value))
        }
        (_, Op::Cas { expected: None, value }) => {
            format!("{client} created {} where nothing was through {node}, {at}", shown(value))
        }
    }
}

/// A value as it is, if that cannot be misread; else quoted and cut.
pub(crate) fn shown(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    if !value.is_empty() && value.chars().count() <= VALUE_CHARS_MAX && value.chars().all(is_plain) {
        return value.to_owned();
    }
    let cut: String = value.chars().take(VALUE_CHARS_MAX).collect();
    let dots = if cut.len() < value.len() { "…" } else { "" };
    format!("{cut:?}{dots}")
}

/// A time of the run: seconds, to the millisecond.
fn instant(at_ns: u64) -> String {
    format!("{}.{:03} s", at_ns / 1_000_000_000, at_ns / 1_000_000 % 1000)
}

/// A length of time, in the unit that fits.
fn span(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{}.{:03} us", ns / 1_000, ns % 1_000),
        1_000_000..1_000_000_000 => format!("{}.{:03} ms", ns / 1_000_000, ns / 1_000 % 1_000),
        _ => instant(ns),
    }
}
