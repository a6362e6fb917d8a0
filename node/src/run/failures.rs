//! How often a node that has failed by a fault of its own starts again: what fails again and again is for people to look at.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::limits::{RESTART_WINDOW, RESTARTS_MAX};

/// The variable by which a node that starts again is told when it has failed: in seconds since the host was started, with commas in
/// between.
const VARIABLE: &str = "ASPEN_FAILED_AT_S";

/// When this node has failed, not long ago.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Failures(Vec<u64>);

impl Failures {
    /// What the start before this one has said.
    pub(super) fn before() -> Self {
        Self::parse(&std::env::var_os(VARIABLE).unwrap_or_default())
    }

    fn parse(text: &OsStr) -> Self {
        let text = text.to_string_lossy();
        Self(
            text.split(',')
                .filter_map(|second| second.parse().ok())
                .take(RESTARTS_MAX as usize + 1)
                .collect(),
        )
    }

    /// Notes that it has failed now; whether it starts again.
    pub(super) fn note(&mut self) -> io::Result<bool> {
        let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
        Ok(self.note_at(now.as_secs()))
    }

    fn note_at(&mut self, now_s: u64) -> bool {
        self.0.retain(|failed| now_s.saturating_sub(*failed) < RESTART_WINDOW.as_secs());
        self.0.push(now_s);
        self.0.len() <= RESTARTS_MAX as usize
    }

    /// Becomes the same program with the same arguments: whatever is still open is closed with that, and nobody has to know what it
    /// is. It returns only where that fails.
    pub(super) fn start_again(&self) -> io::Error {
        let failed: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        let own = (OsString::from(VARIABLE), OsString::from(failed.join(",")));
        let variables = std::env::vars_os().filter(|(name, _)| name != VARIABLE).chain([own]);
        let variables = variables.map(|(name, value)| {
            let mut variable = name;
            variable.push("=");
            variable.push(value);
            variable
        });
        let text = |words: &mut dyn Iterator<Item = OsString>| {
            words.map(|word| CString::new(word.into_vec())).collect::<Result<Vec<_>, _>>()
        };
        match (text(&mut std::env::args_os()), text(&mut { variables })) {
            (Ok(words), Ok(variables)) => nix::unistd::execve(c"/proc/self/exe", &words, &variables)
                .map_or_else(Into::into, |never| match never {}),
            (Err(error), _) | (_, Err(error)) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_starts_again_three_times_in_ten_minutes() {
        let mut failures = Failures::parse(OsStr::new(""));
        let outcomes = [100, 101, 102, 103].map(|now_s| failures.note_at(now_s));
        assert_eq!(outcomes, [true, true, true, false]);
        // What was long ago does not count.
        assert!(failures.note_at(702));
        assert_eq!(failures, Failures(vec![103, 702]));
    }

    #[test]
    fn nonsense_in_the_variable_does_not_count() {
        assert_eq!(Failures::parse(OsStr::new("1,x,,3")), Failures(vec![1, 3]));
        assert_eq!(Failures::parse(OsStr::new("1,2,3,4,5,6")).0.len(), 4);
    }
}
