//! Raft's time-outs, and openraft's other settings with their reasons.

use std::time::Duration;

use openraft::Config;

use crate::limits::{SNAPSHOT_BYTES_MAX_DEFAULT, SNAPSHOT_ENTRIES_DEFAULT, SNAPSHOT_LOG_BYTES_DEFAULT};

/// Heartbeat interval and election time-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftTiming {
    /// A leader speaks at least this often.
    pub heartbeat: Duration,
    /// Shortest silence after which a follower stands for election.
    pub election_min: Duration,
    /// Longest such silence; each election draws one in between.
    pub election_max: Duration,
}

/// When snapshots are made, and how large they may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// Applied entries after which one is made.
    pub entries: u64,
    /// Bytes of log after which one is made, unless the state is larger: then as many as that.
    pub log_bytes: u64,
    /// Larger ones, in bytes, are neither made nor taken.
    pub bytes_max: u64,
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        Self {
            entries: SNAPSHOT_ENTRIES_DEFAULT,
            log_bytes: SNAPSHOT_LOG_BYTES_DEFAULT,
            bytes_max: SNAPSHOT_BYTES_MAX_DEFAULT,
        }
    }
}

impl Default for RaftTiming {
    /// 200 ms, and 1 to 2 s: a disk that stalls for half a second costs no election.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(200),
            election_min: Duration::from_secs(1),
            election_max: Duration::from_secs(2),
        }
    }
}

/// Time-outs that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// No heartbeat at all.
    #[error("heartbeat_ms is {0}, 10 to 60000 are allowed")]
    Heartbeat(u128),
    /// One lost heartbeat would cost an election.
    #[error("election_ms_min is {election_ms}, at least 3 heartbeats of {heartbeat_ms} ms are needed")]
    ElectionTooShort {
        /// The time-out, in milliseconds.
        election_ms: u128,
        /// The heartbeat, in milliseconds.
        heartbeat_ms: u128,
    },
    /// Without a range, candidates collide for ever.
    #[error("election_ms_max is {max_ms}, more than election_ms_min, {min_ms}, is needed")]
    ElectionRange {
        /// The shortest, in milliseconds.
        min_ms: u128,
        /// The longest, in milliseconds.
        max_ms: u128,
    },
    /// openraft has a reason of its own.
    #[error("raft refuses its settings: {0}")]
    Refused(String),
}

impl RaftTiming {
    /// Refuses time-outs that do not fit together.
    ///
    /// # Errors
    /// Which of them.
    pub fn check(&self) -> Result<(), TimingError> {
        let (heartbeat_ms, min_ms, max_ms) =
            (self.heartbeat.as_millis(), self.election_min.as_millis(), self.election_max.as_millis());
        if !(10..=60_000).contains(&heartbeat_ms) {
            return Err(TimingError::Heartbeat(heartbeat_ms));
        }
        if min_ms < 3 * heartbeat_ms {
            return Err(TimingError::ElectionTooShort { election_ms: min_ms, heartbeat_ms });
        }
        if max_ms <= min_ms {
            return Err(TimingError::ElectionRange { min_ms, max_ms });
        }
        Ok(())
    }

    /// openraft's settings with these time-outs.
    pub(super) fn config(&self) -> Result<Config, TimingError> {
        self.check()?;
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        // openraft's follower first waits for the leader's lease, which is as long as the longest time-out, and then
        // for a time-out: so half of ours is the lease, and the silence ends within our bounds.
        let lease = (millis(self.election_max) / 2).max(2);
        let drawn_min = millis(self.election_min).saturating_sub(lease).max(lease / 2);
        let drawn_min = drawn_min.max(millis(self.heartbeat) + 1).min(lease - 1);
        let config = Config {
            cluster_name: "aspen".to_owned(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: drawn_min,
            election_timeout_max: lease,
            // A node that was cut off must not depose the leader when it comes back (Raft thesis 9.6).
            enable_pre_vote: Some(true),
            // A leader that restarts stands for election like anybody else.
            enable_leader_restore: Some(false),
            // Both are decided in `compaction`, which also knows of bytes.
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            ..Config::default()
        };
        config.validate().map_err(|error| TimingError::Refused(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(heartbeat: u64, min: u64, max: u64, want: Result<(), &str>) {
        let timing = RaftTiming {
            heartbeat: Duration::from_millis(heartbeat),
            election_min: Duration::from_millis(min),
            election_max: Duration::from_millis(max),
        };
        let got = timing.config().map(drop).map_err(|error| error.to_string());
        assert_eq!(got, want.map_err(str::to_owned));
    }

    #[track_caller]
    fn check_silence(min: u64, max: u64, want: std::ops::RangeInclusive<u64>) {
        let timing = RaftTiming {
            heartbeat: Duration::from_millis(min / 5),
            election_min: Duration::from_millis(min),
            election_max: Duration::from_millis(max),
        };
        let config = timing.config().unwrap();
        let lease = config.election_timeout_max;
        assert_eq!(lease + config.election_timeout_min..=lease + config.election_timeout_max, want);
    }

    #[test]
    fn silence_before_an_election_is_within_the_bounds() {
        check_silence(1000, 2000, 1500..=2000);
        check_silence(1900, 2000, 1900..=2000);
        check_silence(50, 52, 50..=52);
        // The narrowest that is allowed.
        let timing = RaftTiming {
            heartbeat: Duration::from_millis(200),
            election_min: Duration::from_millis(600),
            election_max: Duration::from_millis(601),
        };
        assert!(timing.config().is_ok());
    }

    #[test]
    fn time_outs_must_fit_together() {
        check(200, 1000, 2000, Ok(()));
        check(0, 1000, 2000, Err("heartbeat_ms is 0, 10 to 60000 are allowed"));
        check(200, 599, 2000, Err("election_ms_min is 599, at least 3 heartbeats of 200 ms are needed"));
        check(200, 1000, 1000, Err("election_ms_max is 1000, more than election_ms_min, 1000, is needed"));
    }
}
