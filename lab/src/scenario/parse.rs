//! YAML text to a raw tree, and the place of any part of that tree in the text.
//!
//! The fence round `serde_yaml`: no other file names it. Nothing here knows what a scenario is.

use std::cell::Cell;
use std::fmt;

use serde::de::{
    DeserializeSeed, EnumAccess, Error as _, IgnoredAny, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use crate::limits::SCENARIO_VALUES_MAX;

/// A YAML value. A map is a list of pairs, so that a key given twice is seen.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Raw {
    /// `null`, `~`, or nothing at all.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i128),
    /// Any other number.
    Float(f64),
    /// Text, quoted or not.
    Text(String),
    /// `[a, b]`, or lines that begin with `-`.
    List(Vec<Raw>),
    /// `{ a: b }`, or lines of `a: b`.
    Map(Vec<(Raw, Raw)>),
    /// Anything behind a local tag such as `!secret`, which has no meaning in a scenario.
    Tagged(String),
}

/// One step from a value to a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    /// The position, from 0, of the item or the pair.
    pub(super) index: usize,
    /// Which half of the pair.
    pub(super) part: Part,
}

/// The half of a map's pair, or a list's item, which counts as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The key of a pair: the end of a path.
    Key,
    /// The value of a pair, or an item.
    Value,
}

/// The way from the root to a part of the tree. Paths compare in the order in which the parts stand in the
/// file.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path(Vec<Turn>);

impl Path {
    /// The path to the key of the pair at `index`.
    pub(super) fn key(&self, index: usize) -> Self {
        self.then(Turn { index, part: Part::Key })
    }

    /// The path to the value of the pair, or to the item, at `index`.
    pub(super) fn value(&self, index: usize) -> Self {
        self.then(Turn { index, part: Part::Value })
    }

    fn then(&self, turn: Turn) -> Self {
        let mut turns = self.0.clone();
        turns.push(turn);
        Self(turns)
    }
}

/// A place in a text. Both count from 1; a column is a character, not a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    /// The line.
    pub(super) line: usize,
    /// The character within the line.
    pub(super) column: usize,
}

impl Position {
    /// The beginning of a file.
    pub(super) const START: Self = Self { line: 1, column: 1 };

    /// The place that follows `text`.
    pub(super) fn after(text: &str) -> Self {
        let line_start = text.rfind('\n').map_or(0, |newline| newline + 1);
        Self { line: text.matches('\n').count() + 1, column: text[line_start..].chars().count() + 1 }
    }
}

/// Why a text is not one YAML document. Only the first such problem is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// YAML's own grammar, in its parser's words.
    #[error("not valid yaml: {0}")]
    Yaml(String),
    /// A character that YAML 1.2, 5.1 does not allow in a text.
    #[error("character U+{0:04X} is not allowed in yaml")]
    Character(u32),
    /// A second `---`.
    #[error("a second document begins here, a scenario is one document")]
    SecondDocument,
}

/// Reads the one document of `text`.
///
/// # Errors
/// The first problem of YAML's grammar, and its place.
pub(super) fn tree(text: &str) -> Result<Raw, (Position, SyntaxError)> {
    if let Some((at, character)) = text.char_indices().find(|&(_, character)| !is_printable(character)) {
        return Err((Position::after(&text[..at]), SyntaxError::Character(character as u32)));
    }
    let values_count = Cell::new(0);
    let mut documents = serde_yaml::Deserializer::from_str(text);
    let Some(first) = documents.next() else {
        return Ok(Raw::Null);
    };
    let raw = Tree { values_count: &values_count }.deserialize(first).map_err(|error| syntax(&error))?;
    match documents.next() {
        None => Ok(raw),
        Some(second) => Err(match (Find { turns: &[] }).deserialize(second) {
            Ok(()) => (Position::START, SyntaxError::SecondDocument),
            Err(error) => (position(&error), SyntaxError::SecondDocument),
        }),
    }
}

/// The place of a part of the tree that [`tree`] read from the same text.
///
/// `serde_yaml` keeps no spans, but it reports the exact place of the value whose reading fails: so the text
/// is read again, and the reading fails on purpose at `path`. A part reached through an alias is placed where
/// its anchor stands.
pub(super) fn locate(text: &str, path: &Path) -> Position {
    let Some(first) = serde_yaml::Deserializer::from_str(text).next() else {
        return Position::START;
    };
    match (Find { turns: &path.0 }).deserialize(first) {
        Ok(()) => Position::START,
        Err(error) => position(&error),
    }
}

/// YAML 1.2, 5.1: `c-printable`, without the byte order mark, which may only stand at the beginning of a
/// file.
fn is_printable(character: char) -> bool {
    match character {
        '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' => true,
        '\u{feff}' | '\u{fffe}' | '\u{ffff}' => false,
        _ => character >= '\u{a0}',
    }
}

fn position(error: &serde_yaml::Error) -> Position {
    error.location().map_or(Position::START, |at| Position { line: at.line(), column: at.column() })
}

fn syntax(error: &serde_yaml::Error) -> (Position, SyntaxError) {
    let at = position(error);
    let place = format!(" at line {} column {}", at.line, at.column);
    (at, SyntaxError::Yaml(error.to_string().replacen(&place, "", 1)))
}

/// Builds the tree, and counts its values: an alias can stand for many.
#[derive(Clone, Copy)]
struct Tree<'count> {
    values_count: &'count Cell<u32>,
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Raw;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        let values_count = self.values_count.get() + 1;
        if values_count > SCENARIO_VALUES_MAX {
            let problem = format!("more than {SCENARIO_VALUES_MAX} values, aliases multiply them");
            return Err(D::Error::custom(problem));
        }
        self.values_count.set(values_count);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Raw;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(i128::try_from(value).map_or_else(|_| Raw::Text(value.to_string()), Raw::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = pairs.next_key_seed(self)? {
            map.push((key, pairs.next_value_seed(self)?));
        }
        Ok(Raw::Map(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Raw, A::Error> {
        let (tag, content) = tagged.variant::<String>()?;
        content.newtype_variant::<IgnoredAny>()?;
        Ok(Raw::Tagged(tag))
    }
}

/// Follows the turns, and fails where they end.
#[derive(Clone, Copy)]
struct Find<'path> {
    turns: &'path [Turn],
}

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Every method that is not written here fails by default, and `serde_yaml` adds the place.
impl<'de> Visitor<'de> for Find<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the end of the path")
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        Err(E::custom("found"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((turn, turns)) = self.turns.split_first() else {
            return Err(A::Error::custom("found"));
        };
        for _ in 0..turn.index {
            items.next_element::<IgnoredAny>()?;
        }
        items.next_element_seed(Find { turns })?;
        Err(A::Error::custom("not found"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<(), A::Error> {
        let Some((turn, turns)) = self.turns.split_first() else {
            return Err(A::Error::custom("found"));
        };
        for _ in 0..turn.index {
            pairs.next_entry::<IgnoredAny, IgnoredAny>()?;
        }
        match turn.part {
            Part::Key => {
                pairs.next_key_seed(Find { turns: &[] })?;
            }
            Part::Value => {
                if pairs.next_key::<IgnoredAny>()?.is_some() {
                    pairs.next_value_seed(Find { turns })?;
                }
            }
        }
        Err(A::Error::custom("not found"))
    }
}

#[cfg(test)]
mod tests;
