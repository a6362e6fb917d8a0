//! Places at which a node can be made to die, to see that it comes back from there. This is the one list of them.
//!
//! Without the feature `failpoints`, which no default build has, they are nothing. With it, `ASPEN_FAIL=POINT:N` aborts the
//! process, as SIGKILL would end it, when it comes by that point for the Nth time.

use std::ffi::OsStr;
#[cfg(feature = "failpoints")]
use std::io::Write;

/// The variable that names the point and the passage.
pub const VARIABLE: &str = "ASPEN_FAIL";

/// What a node says when it dies at a point, before the point's name in the code.
pub const DIES_AT: &str = "dies at ";

/// A place at which a node can be made to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailPoint {
    /// Entries are about to be committed to the log.
    AppendBefore,
    /// They are durable, and nobody knows it yet.
    AppendAfter,
    /// A vote is about to be committed.
    VoteBefore,
    /// It is durable, and nobody knows it yet.
    VoteAfter,
    /// Entries that another leader does not have are about to be removed.
    TruncateBefore,
    /// They are gone, and nobody knows it yet.
    TruncateAfter,
    /// It is about to be written how far the log is purged.
    PurgeBefore,
    /// It is written; most of the rows are still there.
    PurgeAfter,
    /// Entries have been committed by a quorum; none of the batch is applied.
    ApplyBefore,
    /// All of a batch is applied, but not committed to the state.
    ApplyUncommitted,
    /// It is committed to the state, and nobody knows it yet.
    ApplyAfter,
    /// The journal of the state is about to be emptied into its database.
    CheckpointBefore,
    /// It was.
    CheckpointAfter,
    /// A snapshot was begun.
    BuildBegun,
    /// All pages are copied, and not flushed.
    BuildCopied,
    /// A snapshot, built or received, is flushed and not named yet.
    SnapshotFlushed,
    /// It has its name, and the one before is still there.
    SnapshotNamed,
    /// The digests of a region are about to be sent.
    SendRegion,
    /// A chunk is about to be sent.
    SendChunk,
    /// A chunk has come.
    ReceiveChunk,
    /// All chunks have come.
    ReceiveComplete,
    /// A snapshot was copied to where it becomes the state, which it is not yet.
    InstallPrepared,
    /// It is the state; the one before is still there.
    InstallNamed,
    /// The one before is removed.
    InstallDone,
    /// Raft is handed entries to append, and panics: a fault of the program, which goes on without it.
    AppendPanics,
}

/// Every point with its name.
pub const FAIL_POINTS: [(&str, FailPoint); 25] = [
    ("append-before", FailPoint::AppendBefore),
    ("append-after", FailPoint::AppendAfter),
    ("vote-before", FailPoint::VoteBefore),
    ("vote-after", FailPoint::VoteAfter),
    ("truncate-before", FailPoint::TruncateBefore),
    ("truncate-after", FailPoint::TruncateAfter),
    ("purge-before", FailPoint::PurgeBefore),
    ("purge-after", FailPoint::PurgeAfter),
    ("apply-before", FailPoint::ApplyBefore),
    ("apply-uncommitted", FailPoint::ApplyUncommitted),
    ("apply-after", FailPoint::ApplyAfter),
    ("checkpoint-before", FailPoint::CheckpointBefore),
    ("checkpoint-after", FailPoint::CheckpointAfter),
    ("build-begun", FailPoint::BuildBegun),
    ("build-copied", FailPoint::BuildCopied),
    ("snapshot-flushed", FailPoint::SnapshotFlushed),
    ("snapshot-named", FailPoint::SnapshotNamed),
    ("send-region", FailPoint::SendRegion),
    ("send-chunk", FailPoint::SendChunk),
    ("receive-chunk", FailPoint::ReceiveChunk),
    ("receive-complete", FailPoint::ReceiveComplete),
    ("install-prepared", FailPoint::InstallPrepared),
    ("install-named", FailPoint::InstallNamed),
    ("install-done", FailPoint::InstallDone),
    ("append-panics", FailPoint::AppendPanics),
];

/// Why a node refuses the point that it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FailPointError {
    /// There is no such point.
    #[error(
        "{VARIABLE} is `{0}`, which is no POINT:N with a known point and N of 1 and up: correct or unset it"
    )]
    Unknown(String),
    /// The points are not compiled in.
    #[error(
        "{VARIABLE} is set to `{0}`, but this program has no failpoints: unset it, or build the node with --features failpoints"
    )]
    NotBuilt(String),
}

/// The point, and at which passage of it the process ends, that the environment asks for.
///
/// # Errors
/// An unknown point, or any point in a program that has none.
pub fn from_environment() -> Result<Option<(FailPoint, u64)>, FailPointError> {
    chosen(std::env::var_os(VARIABLE).as_deref(), cfg!(feature = "failpoints"))
}

fn chosen(asked: Option<&OsStr>, is_built: bool) -> Result<Option<(FailPoint, u64)>, FailPointError> {
    let Some(asked) = asked.map(OsStr::to_string_lossy) else { return Ok(None) };
    if !is_built {
        return Err(FailPointError::NotBuilt(asked.into_owned()));
    }
    let parsed = asked.split_once(':').and_then(|(name, passage)| {
        let (_, point) = FAIL_POINTS.iter().find(|(known, _)| *known == name)?;
        Some((*point, passage.parse().ok().filter(|passage| *passage > 0)?))
    });
    parsed.map(Some).ok_or_else(|| FailPointError::Unknown(asked.into_owned()))
}

impl FailPoint {
    /// Comes by this point.
    #[cfg(feature = "failpoints")]
    pub(crate) fn pass(self) {
        use std::sync::OnceLock;
        use std::sync::atomic::{AtomicU64, Ordering};
        static WANTED: OnceLock<Option<(FailPoint, AtomicU64)>> = OnceLock::new();
        // A node has refused to start for an error.
        let read = || {
            from_environment().unwrap_or_default().map(|(point, passage)| (point, AtomicU64::new(passage)))
        };
        if let Some((point, left)) = WANTED.get_or_init(read)
            && *point == self
            && left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            assert!(self != Self::AppendPanics, "as {VARIABLE} has it");
            // Whoever waits for it wants to know that it is this.
            let _ = writeln!(std::io::stderr(), "{DIES_AT}{self:?}");
            std::process::abort();
        }
    }

    /// Comes by this point.
    #[cfg(not(feature = "failpoints"))]
    #[expect(clippy::unused_self, reason = "the call is the same in both builds")]
    pub(crate) const fn pass(self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn point_and_passage_are_read_where_they_have_an_effect() {
        let asked = |text: &str| chosen(Some(OsStr::new(text)), true);
        assert_eq!(asked("append-after:3"), Ok(Some((FailPoint::AppendAfter, 3))));
        for wrong in ["append-after", "append-after:0", "append-after:x", "appendafter:1"] {
            assert_eq!(asked(wrong), Err(FailPointError::Unknown(wrong.to_owned())));
        }
        assert_eq!(chosen(None, false), Ok(None));
        let error = chosen(Some(OsStr::new("append-after:1")), false).unwrap_err().to_string();
        assert!(error.contains("this program has no failpoints: unset it"), "{error}");
    }
}
