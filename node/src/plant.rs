//! Bugs planted on purpose, to measure what the lab's checks catch. This is the one list of them.
//!
//! Without the feature `planted-bugs`, which no default build has, `Plant::is_on` is `false` when it is compiled, and
//! a node that is asked for a bug refuses to start: a run that was meant to break and did not must not look like a
//! sound one.

use std::ffi::OsStr;

/// The variable that names the bug.
pub const VARIABLE: &str = "ASPEN_PLANT";

/// A bug that [`VARIABLE`] can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// A node that believes it leads serves linearizable reads without asking a quorum.
    StaleRead,
    /// A leader answers a plain set once its own log has it, before a quorum has it.
    AckBeforeQuorum,
    /// A compare-and-swap takes effect whatever the key holds, on every member alike.
    CasIgnoresExpected,
    /// A node that starts again does not know whom it has voted for.
    VoteNotPersisted,
    /// A node that starts again applies its last entry once more.
    ApplyTwiceAfterRestart,
    /// The last key is missing in a snapshot.
    SnapshotDropsTail,
    /// The log is written and not synced: what was answered is lost with the power.
    AckBeforeFsync,
    /// A delete is answered and does nothing, on every member alike.
    LostDelete,
    /// A scan leaves out the second key of each page.
    ScanSkips,
    /// Those who follow changes are not told of the first of a batch that is applied together.
    WatchSkips,
    /// A node that believes it leads takes that for a lease.
    LeaseUnchecked,
    /// A read whose age is bounded is answered however old what the node has is.
    BoundUnchecked,
}

/// Every bug with its name.
pub const PLANTS: [(&str, Plant); 12] = [
    ("stale-read", Plant::StaleRead),
    ("ack-before-quorum", Plant::AckBeforeQuorum),
    ("cas-ignores-expected", Plant::CasIgnoresExpected),
    ("lost-delete", Plant::LostDelete),
    ("scan-skips", Plant::ScanSkips),
    ("watch-skips", Plant::WatchSkips),
    ("lease-unchecked", Plant::LeaseUnchecked),
    ("bound-unchecked", Plant::BoundUnchecked),
    ("vote-not-persisted", Plant::VoteNotPersisted),
    ("apply-twice-after-restart", Plant::ApplyTwiceAfterRestart),
    ("snapshot-drops-tail", Plant::SnapshotDropsTail),
    ("ack-before-fsync", Plant::AckBeforeFsync),
];

/// Why a node refuses the bug that it is asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlantError {
    /// There is no such bug.
    #[error("{VARIABLE} names `{0}`, which is no planted bug: take one of {names}, or unset {VARIABLE}", names = names())]
    Unknown(String),
    /// The bugs are not compiled in.
    #[error(
        "{VARIABLE} is set to `{0}`, but this program has no planted bugs: unset it, or build the node with --features planted-bugs"
    )]
    NotBuilt(String),
}

/// The bug that the environment asks for, in a program that has them.
///
/// # Errors
/// An unknown name, or any name in a program without planted bugs.
pub fn from_environment() -> Result<Option<Plant>, PlantError> {
    chosen(std::env::var_os(VARIABLE).as_deref(), cfg!(feature = "planted-bugs"))
}

fn chosen(asked: Option<&OsStr>, is_built: bool) -> Result<Option<Plant>, PlantError> {
    let Some(asked) = asked.map(OsStr::to_string_lossy) else { return Ok(None) };
    if !is_built {
        return Err(PlantError::NotBuilt(asked.into_owned()));
    }
    let found = PLANTS.iter().find(|(name, _)| *name == asked);
    found.map(|(_, plant)| Some(*plant)).ok_or_else(|| PlantError::Unknown(asked.into_owned()))
}

fn names() -> String {
    PLANTS.map(|(name, _)| name).join(", ")
}

impl Plant {
    /// Whether this bug is in force in this process.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn is_on(self) -> bool {
        static PLANTED: std::sync::OnceLock<Option<Plant>> = std::sync::OnceLock::new();
        // A node has refused to start for an error.
        *PLANTED.get_or_init(|| from_environment().unwrap_or_default()) == Some(self)
    }

    /// Whether this bug is in force in this process.
    #[cfg(not(feature = "planted-bugs"))]
    #[expect(clippy::unused_self, reason = "the question is the same in both builds")]
    pub(crate) const fn is_on(self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(asked: Option<&str>, is_built: bool, want: Result<Option<Plant>, &str>) {
        let got = chosen(asked.map(OsStr::new), is_built).map_err(|error| error.to_string());
        assert_eq!(got, want.map_err(str::to_owned));
    }

    #[test]
    fn a_name_is_taken_only_where_it_has_its_effect() {
        check(None, true, Ok(None));
        check(None, false, Ok(None));
        check(Some("stale-read"), true, Ok(Some(Plant::StaleRead)));
        check(Some("ack-before-quorum"), true, Ok(Some(Plant::AckBeforeQuorum)));
        check(Some("cas-ignores-expected"), true, Ok(Some(Plant::CasIgnoresExpected)));
        check(
            Some("stale-reads"),
            true,
            Err("ASPEN_PLANT names `stale-reads`, which is no planted bug: take one of stale-read, \
                 ack-before-quorum, cas-ignores-expected, lost-delete, scan-skips, watch-skips, lease-unchecked, bound-unchecked, vote-not-persisted, \
                 apply-twice-after-restart, snapshot-drops-tail, ack-before-fsync, or unset ASPEN_PLANT"),
        );
        check(
            Some("stale-read"),
            false,
            Err(
                "ASPEN_PLANT is set to `stale-read`, but this program has no planted bugs: unset it, or build the \
                 node with --features planted-bugs",
            ),
        );
    }
}
