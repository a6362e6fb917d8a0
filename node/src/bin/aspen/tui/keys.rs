//! The keys as the terminal shows them: a list that grows as one walks down, and the record that is selected.

use serde_json::{Value as Json, json};

use super::{KEYS_MAX, KEYS_PAGE, SHOWN_BYTES_MAX};
use crate::kv::{bytes, visible};

/// A key and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) create_revision: u64,
    pub(crate) mod_revision: u64,
    pub(crate) version: u64,
}

/// The keys that are shown.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// What they begin with.
    pub(crate) prefix: String,
    pub(crate) entries: Vec<Entry>,
    pub(crate) selected: usize,
    /// Where the next page begins, if there is one.
    token: Option<Json>,
    /// Whether a page is on its way.
    pub(crate) is_loading: bool,
    pub(crate) error: Option<String>,
}

impl Keys {
    /// What to ask for the first page.
    pub(crate) fn first_page(&mut self) -> Json {
        self.token = None;
        self.is_loading = true;
        json!({ "prefix": self.prefix, "limit": KEYS_PAGE })
    }

    /// What to ask for the next page, where the end of what is known is near and there is more.
    pub(crate) fn next_page(&mut self) -> Option<Json> {
        if self.is_loading
            || self.entries.len() >= KEYS_MAX
            || self.selected + usize::from(KEYS_PAGE) / 4 < self.entries.len()
        {
            return None;
        }
        let token = self.token.take()?;
        self.is_loading = true;
        Some(json!({ "prefix": self.prefix, "limit": KEYS_PAGE, "continuation_token": token }))
    }

    /// Takes in the page that was asked for.
    pub(crate) fn take(&mut self, asked: &Json, answer: Result<&Json, String>) {
        self.is_loading = false;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.error = Some(error);
                self.token = Some(asked["continuation_token"].clone()).filter(|token| !token.is_null());
                return;
            }
        };
        // Another prefix was typed meanwhile.
        if asked["prefix"] != *self.prefix {
            return;
        }
        self.error = None;
        if asked["continuation_token"].is_null() {
            self.entries.clear();
        }
        let entries = answer["entries"].as_array().into_iter().flatten();
        self.entries.extend(entries.map(entry));
        self.token = Some(answer["continuation_token"].clone()).filter(|token| !token.is_null());
        self.selected = self.selected.min(self.entries.len().saturating_sub(1));
    }

    /// Whether there are more than are known.
    pub(crate) fn is_truncated(&self) -> bool {
        self.token.is_some() || self.is_loading
    }

    pub(crate) fn select(&mut self, by: isize) {
        self.selected = self.selected.saturating_add_signed(by).min(self.entries.len().saturating_sub(1));
    }

    /// The record that is selected.
    pub(crate) fn entry(&self) -> Option<&Entry> {
        self.entries.get(self.selected)
    }
}

impl Entry {
    /// The key as a line shows it.
    pub(crate) fn name(&self) -> String {
        visible(&self.key)
    }

    /// The value as text, with its lines; other bytes in hexadecimal.
    pub(crate) fn text(&self) -> String {
        let shown = &self.value[..self.value.len().min(SHOWN_BYTES_MAX)];
        // What was cut off in the middle of a character is still text.
        let (text, is_text) = match std::str::from_utf8(shown) {
            Ok(text) => (text, true),
            Err(error) if error.error_len().is_none() && shown.len() < self.value.len() => {
                (std::str::from_utf8(&shown[..error.valid_up_to()]).unwrap_or_default(), true)
            }
            Err(_) => ("", false),
        };
        let mut lines = match text {
            text if is_text && !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t' | '\r')) => {
                text.replace('\t', "    ").replace('\r', "")
            }
            _ => {
                let line = |bytes: &[u8]| {
                    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                    hex.join(" ")
                };
                shown.chunks(16).map(line).collect::<Vec<_>>().join("\n")
            }
        };
        if shown.len() < self.value.len() {
            lines.push_str("\n(more is not shown)");
        }
        lines
    }
}

fn entry(entry: &Json) -> Entry {
    let number = |name: &str| entry[name].as_u64().unwrap_or(0);
    Entry {
        key: bytes(entry, "key"),
        value: bytes(entry, "value"),
        create_revision: number("create_revision"),
        mod_revision: number("mod_revision"),
        version: number("version"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(range: std::ops::Range<u32>, token: Option<&str>) -> Json {
        let entries: Vec<Json> =
            range.map(|number| json!({ "key": format!("k{number:04}"), "value": "v" })).collect();
        json!({ "entries": entries, "continuation_token": token })
    }

    #[test]
    fn next_page_is_asked_for_near_the_end_of_what_is_known() {
        let mut keys = Keys::default();
        let asked = keys.first_page();
        keys.take(&asked, Ok(&page(0..u32::from(KEYS_PAGE), Some("t"))));
        assert_eq!(keys.next_page(), None);
        keys.select(isize::try_from(KEYS_PAGE).unwrap() - 10);
        let asked = keys.next_page().unwrap();
        assert_eq!(asked["continuation_token"], "t");
        assert_eq!(keys.next_page(), None, "one page at a time");
        keys.take(&asked, Ok(&page(u32::from(KEYS_PAGE)..u32::from(KEYS_PAGE) + 5, None)));
        assert_eq!((keys.entries.len(), keys.is_truncated()), (usize::from(KEYS_PAGE) + 5, false));
    }

    #[test]
    fn page_of_another_prefix_does_not_count() {
        let mut keys = Keys::default();
        let asked = keys.first_page();
        keys.prefix = "other".to_owned();
        keys.take(&asked, Ok(&page(0..3, None)));
        assert_eq!(keys.entries, []);
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_in_hexadecimal() {
        let shown = |json: Json| entry(&json).text();
        assert_eq!(shown(json!({ "value": "one\n\ttwo" })), "one\n    two");
        assert_eq!(shown(json!({ "value_base64": "/wAB" })), "ff 00 01");
        assert_eq!(shown(json!({ "value": "\u{1b}[31m" })), "1b 5b 33 31 6d");
    }
}
