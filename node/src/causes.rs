//! Errors as texts for people.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};

/// The causes of an error, the nearest one first.
pub fn causes(error: &dyn Error) -> Vec<String> {
    let mut texts = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    texts
}

/// An error and its causes, on one line.
pub fn with_causes(error: &dyn Error) -> String {
    [vec![error.to_string()], causes(error)].concat().join(": ")
}

/// What a function returns; nothing where it panics, of which nobody hears then. redb does so where a page is none of its own.
pub fn without_panic<T>(work: impl FnOnce() -> T) -> Option<T> {
    let hook = take_hook();
    set_hook(Box::new(|_| ()));
    let worked = catch_unwind(AssertUnwindSafe(work));
    set_hook(hook);
    worked.ok()
}
