//! From the text of a source to entries: keys and values, not yet understood.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, Entry, Place, Source};
use crate::layout::KEY_PREFIX;

/// The entries of an `aspen.conf`: TOML, whose tables `data` and `node` are the keys that begin so.
///
/// # Errors
/// No TOML, or a value of a kind that no key has.
pub fn file(text: &str) -> Result<Vec<Entry>, ConfigError> {
    let place = |at: usize| Place { source: Source::ConfigDisk, line: Some(line_of(text, at)) };
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        place: place(error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    })?;
    let mut entries = Vec::new();
    // Tables that were met and are still to be walked, each with what stands before its keys.
    let mut tables: Vec<(String, &DeTable<'_>)> = vec![(String::new(), table.get_ref())];
    while let Some((prefix, table)) = tables.pop() {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let place = place(name.span().start);
            match value.get_ref() {
                DeValue::Table(inner) => tables.push((format!("{key}."), inner)),
                DeValue::Array(items) => {
                    let values =
                        items.iter().map(|item| scalar(item, place, &key)).collect::<Result<_, _>>()?;
                    entries.push(Entry { key, values, place });
                }
                _ => entries.push(Entry { values: vec![scalar(value, place, &key)?], key, place }),
            }
        }
    }
    Ok(entries)
}

fn scalar(value: &Spanned<DeValue<'_>>, place: Place, key: &str) -> Result<String, ConfigError> {
    let found = match value.get_ref() {
        DeValue::String(text) => return Ok(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => return Ok(number.as_str().to_owned()),
        DeValue::Boolean(truth) => return Ok(truth.to_string()),
        DeValue::Integer(_) => "a number that is not decimal",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list in a list",
        DeValue::Table(_) => "a table in a list",
    };
    Err(ConfigError::Type { place, key: key.to_owned(), found })
}

fn line_of(text: &str, at: usize) -> u32 {
    let before = text.get(..at).unwrap_or(text);
    u32::try_from(before.matches('\n').count() + 1).unwrap_or(u32::MAX)
}

/// The entries of a kernel command line. A key that is given several times is a list.
///
/// # Errors
/// A word `aspen.KEY` without a value.
pub fn command_line(text: &str) -> Result<Vec<Entry>, ConfigError> {
    let place = Place { source: Source::CommandLine, line: None };
    let mut entries: Vec<Entry> = Vec::new();
    for word in words(text) {
        let Some(rest) = word.strip_prefix(KEY_PREFIX) else { continue };
        let pair = rest.split_once('=').filter(|(key, _)| !key.is_empty());
        let (key, value) = pair.ok_or_else(|| ConfigError::NoValue { place, word: word.clone() })?;
        add(&mut entries, key, value, place);
    }
    Ok(entries)
}

/// Adds the entry of an SMBIOS string, if it is one of ours: `aspen.KEY=value`.
///
/// # Errors
/// A string `aspen.KEY` without a value.
pub fn smbios_string(entries: &mut Vec<Entry>, text: &str) -> Result<(), ConfigError> {
    let place = Place { source: Source::Smbios, line: None };
    let Some(rest) = text.strip_prefix(KEY_PREFIX) else { return Ok(()) };
    let pair = rest.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or_else(|| ConfigError::NoValue { place, word: text.to_owned() })?;
    add(entries, key, value, place);
    Ok(())
}

/// The entry of a source that names its key otherwise. Space at the end is not part of a value: files end in a line end.
pub fn text(source: Source, key: &str, value: &str) -> Entry {
    let place = Place { source, line: None };
    Entry { key: key.to_owned(), values: vec![value.trim_end().to_owned()], place }
}

fn add(entries: &mut Vec<Entry>, key: &str, value: &str, place: Place) {
    match entries.iter_mut().find(|entry| entry.key == key && entry.place == place) {
        Some(entry) => entry.values.push(value.to_owned()),
        None => entries.push(Entry { key: key.to_owned(), values: vec![value.to_owned()], place }),
    }
}

/// The words of a command line as the kernel parts them: by white space outside double quotes, which go (`next_arg` in
/// lib/cmdline.c).
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for c in text.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            c if c.is_whitespace() && !is_quoted => words.push(String::new()),
            c => {
                if let Some(word) = words.last_mut() {
                    word.push(c);
                }
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}
