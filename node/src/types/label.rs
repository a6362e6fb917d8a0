//! Where a node is, in the operator's words.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::LABEL_BYTES_MAX;

/// The name of a region or a zone: 1 to [`LABEL_BYTES_MAX`] of `A-Z`, `a-z`, `0-9`, `_` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
// Invariant: it is such a name, wherever it comes from.
pub struct Label(String);

/// Why a text is no [`Label`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is no name of a region or zone: 1 to {LABEL_BYTES_MAX} of A-Z, a-z, 0-9, _ and - are allowed",
    shortened(.0)
)]
pub struct LabelError(String);

/// As much of a text as fits into a message.
fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(2 * LABEL_BYTES_MAX as usize).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

impl Label {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Label {
    type Error = LabelError;

    fn try_from(text: String) -> Result<Self, LabelError> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let has_length = (1..=LABEL_BYTES_MAX as usize).contains(&text.len());
        if has_length && text.bytes().all(is_allowed) { Ok(Self(text)) } else { Err(LabelError(text)) }
    }
}

impl std::str::FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        text.to_owned().try_into()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_is_a_short_word() {
        for good in ["a", "eu-west-1", "us_EAST_1a", &"x".repeat(64)] {
            assert_eq!(good.parse::<Label>().unwrap().as_str(), good);
        }
        let check = |text: &str, want: &str| {
            let rest = "is no name of a region or zone: 1 to 64 of A-Z, a-z, 0-9, _ and - are allowed";
            assert_eq!(text.parse::<Label>().unwrap_err().to_string(), format!("`{want}` {rest}"));
        };
        check("", "");
        check("eu west", "eu west");
        check("zürich", "zürich");
        check(&"x".repeat(65), &"x".repeat(65));
        check(&"x".repeat(1_000), &format!("{}…", "x".repeat(128)));
    }

    /// A peer's word is no label because it has sent it.
    #[test]
    fn label_that_travels_is_checked_where_it_arrives() {
        let sent = postcard::to_stdvec("a b").unwrap();
        assert!(postcard::from_bytes::<Label>(&sent).is_err());
        let sent = postcard::to_stdvec(&"a-b".parse::<Label>().unwrap()).unwrap();
        assert_eq!(postcard::from_bytes(&sent), Ok("a-b".parse::<Label>().unwrap()));
    }
}
