//! Errors as texts for people.

use std::cell::Cell;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

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

thread_local! {
    /// Whether nobody is to hear of a panic of this thread.
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What a function returns; nothing where it panics, of which nobody hears then. redb does so where a page is none of its own.
pub fn without_panic<T>(work: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    // One for good: other threads may be here, too, or panic meanwhile.
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !IS_QUIET.get() {
                before(panic);
            }
        }));
    });
    IS_QUIET.set(true);
    let worked = catch_unwind(AssertUnwindSafe(work));
    IS_QUIET.set(false);
    worked.ok()
}
