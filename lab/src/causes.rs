//! Errors as texts for people.

use std::error::Error;

/// An error and its causes, each on a line of its own.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str("\nbecause: ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
