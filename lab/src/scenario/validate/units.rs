//! Single values with a unit: durations, rates, percentages, whole numbers, texts.

use std::time::Duration;

use aspen_init::limits::DRIFT_PER_MILLION_MAX;

use crate::limits::machines::{MEMORY_MIB_MAX, MEMORY_MIB_MIN};
use crate::limits::{LINK_BITS_PER_S_MAX, LINK_BITS_PER_S_MIN, PER_MILLION, RATE_MAX};
use crate::scenario::mistake::Mistake;
use crate::scenario::parse::Raw;
use crate::scenario::validate::fields::{Findings, Value, wrong_type};

/// Microseconds in each unit. `us` stands before `s`, since it ends with it.
const UNITS: [(&str, u64); 4] = [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000)];

/// A text.
pub(super) fn text<'raw>(
    value: &Value<'raw>,
    key: &'static str,
    findings: &mut Findings,
) -> Option<&'raw str> {
    if let Raw::Text(text) = value.raw {
        return Some(text);
    }
    let wanted = match value.raw {
        Raw::Bool(_) | Raw::Integer(_) | Raw::Float(_) => "text (in quotes)",
        _ => "text",
    };
    findings.add(&value.path, wrong_type(key, wanted, value.raw));
    None
}

/// A whole number within bounds, both inclusive.
pub(super) fn number(
    value: &Value<'_>,
    key: &'static str,
    min: u32,
    max: u32,
    findings: &mut Findings,
) -> Option<u32> {
    let Raw::Integer(integer) = *value.raw else {
        findings.add(&value.path, wrong_type(key, "a whole number", value.raw));
        return None;
    };
    let number = u32::try_from(integer).ok().filter(|number| (min..=max).contains(number));
    if number.is_none() {
        findings.add(&value.path, Mistake::Number { key, value: integer, min: min.into(), max: max.into() });
    }
    number
}

/// A duration of whole milliseconds within bounds, both inclusive.
pub(super) fn duration(
    value: &Value<'_>,
    key: &'static str,
    min: Duration,
    max: Duration,
    findings: &mut Findings,
) -> Option<Duration> {
    let duration = match value.raw {
        Raw::Text(text) => duration_of(text, key, min, max),
        Raw::Integer(value) => Err(Mistake::NoUnit { key, value: value.to_string() }),
        Raw::Float(value) => Err(Mistake::NoUnit { key, value: value.to_string() }),
        raw => Err(wrong_type(key, "a duration such as 10s", raw)),
    };
    duration.map_err(|mistake| findings.add(&value.path, mistake)).ok()
}

/// Reads a duration such as `1.5s`.
pub(crate) fn duration_of(
    text: &str,
    key: &'static str,
    min: Duration,
    max: Duration,
) -> Result<Duration, Mistake> {
    let value = text.to_owned();
    let Some((digits, unit_us)) = UNITS.iter().find_map(|(unit, us)| Some((text.strip_suffix(unit)?, *us)))
    else {
        let is_number = text.parse::<f64>().is_ok();
        return Err(if is_number {
            Mistake::NoUnit { key, value }
        } else {
            Mistake::NotDuration { key, value }
        });
    };
    let Some(us) = decimal(digits, unit_us) else {
        return Err(Mistake::NotDuration { key, value });
    };
    match us {
        Decimal::Whole(us) if us % 1_000 == 0 => {
            let duration = Duration::from_micros(us);
            let is_allowed = (min..=max).contains(&duration);
            if is_allowed { Ok(duration) } else { Err(Mistake::Length { key, value, min, max }) }
        }
        Decimal::Whole(_) | Decimal::Broken => Err(Mistake::NotMilliseconds { key, value }),
        Decimal::Huge => Err(Mistake::Length { key, value, min, max }),
    }
}

/// A duration with or without a minus sign, in whole milliseconds. The bounds are of what stands behind the sign.
pub(super) fn signed_ms(
    value: &Value<'_>,
    key: &'static str,
    min: Duration,
    max: Duration,
    findings: &mut Findings,
) -> Option<i64> {
    let Raw::Text(text) = value.raw else { return duration(value, key, min, max, findings).map(ms) };
    let (sign, digits) = text.strip_prefix('-').map_or((1, text.as_str()), |digits| (-1, digits));
    let whole = |mistake| match mistake {
        Mistake::Length { key, min, max, .. } => Mistake::Length { key, value: text.clone(), min, max },
        mistake => mistake,
    };
    let duration = duration_of(digits, key, min, max).map_err(whole);
    duration.map(|duration| sign * ms(duration)).map_err(|mistake| findings.add(&value.path, mistake)).ok()
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).expect("it is within bounds")
}

/// A decimal number of some unit, in the smallest parts of it that count.
enum Decimal {
    Whole(u64),
    /// A fraction of such a part is left.
    Broken,
    /// More than 64 bits hold.
    Huge,
}

/// `digits` or `digits.digits`, exactly: no sign, no exponent, no rounding. A whole one has `unit` parts. `None` if it is
/// something else.
fn decimal(digits: &str, unit: u64) -> Option<Decimal> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let mut parts = whole.parse::<u64>().ok().and_then(|whole| whole.checked_mul(unit));
    let mut place = unit;
    for digit in fraction.trim_end_matches('0').bytes() {
        if !place.is_multiple_of(10) {
            return Some(Decimal::Broken);
        }
        place /= 10;
        parts = parts.and_then(|parts| parts.checked_add(place * u64::from(digit - b'0')));
    }
    Some(parts.map_or(Decimal::Huge, Decimal::Whole))
}

/// A rate such as `200/s`.
pub(super) fn rate(value: &Value<'_>, findings: &mut Findings) -> Option<u32> {
    let number = match value.raw {
        Raw::Text(text) => text.strip_suffix("/s").and_then(|number| number.parse::<u64>().ok()),
        Raw::Integer(_) => None,
        raw => {
            findings.add(&value.path, wrong_type("workload.rate", "a rate such as 200/s", raw));
            return None;
        }
    };
    let Some(number) = number else {
        let text = match value.raw {
            Raw::Integer(value) => value.to_string(),
            Raw::Text(text) => text.clone(),
            _ => String::new(),
        };
        findings.add(&value.path, Mistake::NotRate { value: text });
        return None;
    };
    let rate = u32::try_from(number).ok().filter(|rate| (1..=RATE_MAX).contains(rate));
    if rate.is_none() {
        let (min, max) = (1, RATE_MAX.into());
        findings.add(&value.path, Mistake::Number { key: "workload.rate", value: number.into(), min, max });
    }
    rate
}

/// Bits per second in each unit. `bit/s` stands last, since the others end with it.
const BIT_RATES: [(&str, u64); 4] =
    [("kbit/s", 1_000), ("Mbit/s", 1_000_000), ("Gbit/s", 1_000_000_000), ("bit/s", 1)];

/// The rate of a link such as `10Mbit/s`, in bits per second.
pub(super) fn bits_per_s(value: &Value<'_>, key: &'static str, findings: &mut Findings) -> Option<u64> {
    let text = match value.raw {
        Raw::Text(text) => text.clone(),
        Raw::Integer(value) => value.to_string(),
        Raw::Float(value) => value.to_string(),
        raw => {
            findings.add(&value.path, wrong_type(key, "a rate such as 10Mbit/s", raw));
            return None;
        }
    };
    bits_per_s_of(&text, key).map_err(|mistake| findings.add(&value.path, mistake)).ok()
}

/// Reads a rate such as `10Mbit/s`, in bits per second.
pub(crate) fn bits_per_s_of(text: &str, key: &'static str) -> Result<u64, Mistake> {
    let value = text.to_owned();
    let unit = BIT_RATES.iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, *bits)));
    match unit.and_then(|(digits, bits)| decimal(digits, bits)) {
        None => Err(Mistake::NotBitRate { key, value }),
        Some(Decimal::Whole(bits)) if (LINK_BITS_PER_S_MIN..=LINK_BITS_PER_S_MAX).contains(&bits) => Ok(bits),
        Some(_) => Err(Mistake::BitRate { key, value }),
    }
}

/// The memory of a node such as `256MiB`, in MiB.
pub(super) fn memory_mib(value: &Value<'_>, findings: &mut Findings) -> Option<u32> {
    let text = match value.raw {
        Raw::Text(text) => text.clone(),
        Raw::Integer(value) => value.to_string(),
        raw => {
            findings.add(&value.path, wrong_type("nodes.memory", "a size such as 256MiB", raw));
            return None;
        }
    };
    let parts = [("MiB", 1), ("GiB", 1024)].iter().find_map(|(unit, mib)| {
        let number: u32 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*mib)
    });
    let mistake = match parts {
        Some(mib) if (MEMORY_MIB_MIN..=MEMORY_MIB_MAX).contains(&mib) => return Some(mib),
        Some(_) => Mistake::Memory { value: text },
        None => Mistake::NotMemory { value: text },
    };
    findings.add(&value.path, mistake);
    None
}

/// A percentage such as `0.1%`, in parts per million.
pub(super) fn per_million(value: &Value<'_>, key: &'static str, findings: &mut Findings) -> Option<u32> {
    let text = match value.raw {
        Raw::Text(text) => text.clone(),
        Raw::Integer(value) => value.to_string(),
        Raw::Float(value) => value.to_string(),
        raw => {
            findings.add(&value.path, wrong_type(key, "a percentage such as 0.1%", raw));
            return None;
        }
    };
    per_million_of(&text, key).map_err(|mistake| findings.add(&value.path, mistake)).ok()
}

/// A drift of clocks: a percentage with or without a minus sign, in parts per million.
pub(super) fn signed_per_million(
    value: &Value<'_>,
    key: &'static str,
    findings: &mut Findings,
) -> Option<i32> {
    let Raw::Text(text) = value.raw else {
        findings.add(&value.path, wrong_type(key, "a percentage such as 2% or -2%", value.raw));
        return None;
    };
    let (sign, digits) = text.strip_prefix('-').map_or((1, text.as_str()), |digits| (-1, digits));
    let parts = per_million_of(digits, key).and_then(|parts| match i32::try_from(parts) {
        Ok(parts) if (1..=DRIFT_PER_MILLION_MAX).contains(&parts.unsigned_abs()) => Ok(sign * parts),
        _ => Err(Mistake::Drift { value: text.clone() }),
    });
    parts.map_err(|mistake| findings.add(&value.path, mistake)).ok()
}

/// Reads a percentage such as `0.1%`, in parts per million.
pub(crate) fn per_million_of(text: &str, key: &'static str) -> Result<u32, Mistake> {
    let value = text.to_owned();
    let parts = text.strip_suffix('%').and_then(|number| decimal(number, u64::from(PER_MILLION) / 100));
    match parts {
        None => Err(Mistake::NotPercent { key, value }),
        Some(Decimal::Broken) => Err(Mistake::NotPerMillion { key, value }),
        Some(Decimal::Huge) => Err(Mistake::Percent { key, value }),
        Some(Decimal::Whole(parts)) => match u32::try_from(parts) {
            Ok(parts) if parts <= PER_MILLION => Ok(parts),
            _ => Err(Mistake::Percent { key, value }),
        },
    }
}
