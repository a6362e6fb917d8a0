//! Errors as texts for people.

use std::error::Error;

/// An error and its causes, each on a line of its own.
pub fn causes(error: &dyn Error) -> String {
    [vec![error.to_string()], aspen_node::causes::causes(error)].concat().join("\nbecause: ")
}
