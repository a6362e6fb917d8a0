//! Walking the raw tree: a value with its place, a map with a fixed set of keys, and the list of what is
//! wrong.

use crate::scenario::mistake::{Mistake, quoted};
use crate::scenario::parse::{Path, Raw};

/// What was found wrong so far, each with its path.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) list: Vec<(Path, Mistake)>,
}

impl Findings {
    /// Notes a mistake at a place.
    pub(super) fn add(&mut self, path: &Path, mistake: Mistake) {
        self.list.push((path.clone(), mistake));
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Value<'raw> {
    pub(super) raw: &'raw Raw,
    pub(super) path: Path,
}

/// The keys of one kind of map.
#[derive(Debug)]
pub(super) struct Section {
    /// As it stands in messages: `a fault`.
    pub(super) name: &'static str,
    /// The keys it has.
    pub(super) keys: &'static [&'static str],
    /// Keys of the design that it does not have yet.
    pub(super) keys_later: &'static [&'static str],
}

/// A map whose keys were checked.
#[derive(Debug)]
pub(super) struct Fields<'raw> {
    section: &'static Section,
    path: Path,
    /// The known keys, in the order of the file, each once.
    pairs: Vec<(&'static str, usize, &'raw Raw)>,
    /// Keys that are not missing but misspelt.
    misspelt: Vec<&'static str>,
    /// Whether a key was there that a later version will have.
    pub(super) has_later: bool,
}

impl<'raw> Fields<'raw> {
    /// Checks that `value` is a map, and its keys. The first of doubled keys counts.
    pub(super) fn open(
        value: &Value<'raw>,
        key: &'static str,
        section: &'static Section,
        findings: &mut Findings,
    ) -> Option<Self> {
        let Raw::Map(pairs) = value.raw else {
            findings.add(&value.path, wrong_type(key, "a map", value.raw));
            return None;
        };
        let path = value.path.clone();
        let mut fields = Self { section, path, pairs: Vec::new(), misspelt: Vec::new(), has_later: false };
        for (index, (key, raw)) in pairs.iter().enumerate() {
            fields.admit(index, key, raw, findings);
        }
        Some(fields)
    }

    fn admit(&mut self, index: usize, key: &Raw, raw: &'raw Raw, findings: &mut Findings) {
        let path = self.path.key(index);
        let Raw::Text(key) = key else {
            return findings.add(&path, Mistake::KeyNotText { found: describe(key) });
        };
        let Section { name: section, keys: allowed, keys_later } = self.section;
        if keys_later.contains(&key.as_str()) {
            self.has_later = true;
            return findings.add(&path, Mistake::NotThereYet { what: format!("key {key}") });
        }
        let Some(known) = allowed.iter().find(|known| *known == key) else {
            let close = closest(key, allowed);
            self.misspelt.extend(close);
            return findings.add(&path, Mistake::UnknownKey { key: key.clone(), close, section, allowed });
        };
        if self.key_path(known).is_some() {
            return findings.add(&path, Mistake::DoubledKey { key: known });
        }
        self.pairs.push((known, index, raw));
    }

    /// The value of a key, if it was given.
    pub(super) fn get(&self, key: &str) -> Option<Value<'raw>> {
        let (_, index, raw) = self.pairs.iter().find(|(known, ..)| *known == key)?;
        Some(Value { raw, path: self.path.value(*index) })
    }

    /// The value of a key that must be given.
    pub(super) fn require(&self, key: &'static str, findings: &mut Findings) -> Option<Value<'raw>> {
        let value = self.get(key);
        if value.is_none() && !self.misspelt.contains(&key) {
            findings.add(&self.path, Mistake::MissingKey { section: self.section.name, key });
        }
        value
    }

    /// The place of a key, if it was given.
    pub(super) fn key_path(&self, key: &str) -> Option<Path> {
        let (_, index, _) = self.pairs.iter().find(|(known, ..)| *known == key)?;
        Some(self.path.key(*index))
    }

    /// The keys that were given and are known, in the order of the file.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.pairs.iter().map(|(key, ..)| *key)
    }

    /// Whether a key was misspelt, so that it is neither there nor missing.
    pub(super) fn is_misspelt(&self, key: &str) -> bool {
        self.misspelt.contains(&key)
    }
}

/// The items of a list, each with its place.
pub(super) fn items<'raw>(
    value: &Value<'raw>,
    key: &'static str,
    wanted: &'static str,
    findings: &mut Findings,
) -> Option<Vec<Value<'raw>>> {
    let Raw::List(list) = value.raw else {
        findings.add(&value.path, wrong_type(key, wanted, value.raw));
        return None;
    };
    let items = list.iter().enumerate();
    Some(items.map(|(index, raw)| Value { raw, path: value.path.value(index) }).collect())
}

/// A mistake about the type of a value.
pub(super) fn wrong_type(key: &'static str, wanted: &'static str, found: &Raw) -> Mistake {
    Mistake::WrongType { key, wanted, found: describe(found) }
}

/// What a value is, in words.
pub(super) fn describe(raw: &Raw) -> String {
    match raw {
        Raw::Null => "nothing".to_owned(),
        Raw::Bool(value) => value.to_string(),
        Raw::Integer(value) => format!("the number {value}"),
        Raw::Float(value) => format!("the number {value}"),
        Raw::Text(text) => format!("the text {}", quoted(text)),
        Raw::List(_) => "a list".to_owned(),
        Raw::Map(_) => "a map".to_owned(),
        Raw::Tagged(tag) => format!("a value with the tag {}", quoted(tag)),
    }
}

/// The one of `candidates` that `word` was probably meant to be: at most a third of its letters are wrong.
pub(super) fn closest<'name>(word: &str, candidates: &[&'name str]) -> Option<&'name str> {
    /// Longer words are not compared: the distance takes quadratic time, and no key is that long.
    const COMPARED_BYTES_MAX: usize = 64;
    if word.len() > COMPARED_BYTES_MAX {
        return None;
    }
    let measured = candidates.iter().map(|&candidate| (strsim::osa_distance(word, candidate), candidate));
    let (distance, candidate) = measured.min_by_key(|&(distance, _)| distance)?;
    (distance <= candidate.len().div_ceil(3)).then_some(candidate)
}
