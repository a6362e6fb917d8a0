//! What nodes said of themselves while a run went on: `observations.jsonl`, one object a line, readable again.
//!
//! A line is written when a node has answered, or has not in time; nothing is judged here. The checks see the list as
//! it was written.

use std::fmt;
use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::limits::{OBSERVATION_LINE_BYTES_MAX, OBSERVATIONS_MAX};
use crate::plan::{Bytes32, NodeIndex};

/// One thing that was seen of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// When the answer had come, in nanoseconds since the start of the run.
    pub at_ns: u64,
    /// Of which node.
    pub node: NodeIndex,
    /// What.
    #[serde(flatten)]
    pub seen: Seen,
}

/// What can be seen of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// It did not answer in time.
    Silent {},
    /// Where it stands in Raft.
    State(NodeState),
    /// The hash over everything that it has applied up to an index.
    StateDigest {
        /// The last entry that the hash covers.
        index: u64,
        /// BLAKE3 over (index, term, command, outcome) of each entry in turn.
        digest: Bytes32,
    },
    /// The hash over all that it holds as of an index.
    Contents {
        /// The last entry applied to it.
        index: u64,
        /// BLAKE3 over every key with its value, revisions and version, in the order of the keys.
        digest: Bytes32,
    },
    /// The hash over all changes that it tells of those entries.
    Changes {
        /// The first entry.
        from: u64,
        /// The last entry.
        to: u64,
        /// BLAKE3 over the changes of each entry that has any, in order.
        digest: Bytes32,
    },
    /// The hash over a range of its log, all of it committed.
    LogDigest {
        /// The first entry.
        from: u64,
        /// The last entry.
        to: u64,
        /// BLAKE3, chained over the entries.
        chain: Bytes32,
    },
}

/// Where a node stands in Raft, in its own words (`/raft/state` in docs/http.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// Another one at each start.
    pub incarnation: Incarnation,
    /// What it is.
    pub role: Role,
    /// Its present term.
    pub term: u64,
    /// Its last durable vote, where it shows it.
    pub vote: Option<NodeVote>,
    /// The Raft id of the leader that it knows of.
    pub leader: Option<u64>,
    /// The last entry of its log.
    pub last_log_index: Option<u64>,
    /// The last entry that it knows to be committed.
    pub committed: Option<LogPosition>,
    /// The last entry that it has applied.
    pub applied: Option<LogPosition>,
    /// The last entry that its newest snapshot covers.
    pub snapshot: Option<LogPosition>,
    /// The last entry that has left its log.
    pub purged: Option<LogPosition>,
}

/// A node's vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeVote {
    /// In which term.
    pub term: u64,
    /// The Raft id of the node that got it.
    pub voted_for: u64,
    /// Whether a quorum has granted it, so that the candidate leads the term.
    pub is_committed: bool,
}

/// The place of an entry in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogPosition {
    /// The term in which a leader appended it.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It takes writes.
    Leader,
    /// It follows a leader, or waits for one.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It follows without a vote.
    Learner,
    /// It has stopped, or is about to.
    Shutdown,
}

/// Which start of a node's program this is. Written in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Incarnation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Incarnation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Self).map_err(de::Error::custom)
    }
}

/// Why observations cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ObservationsError {
    /// The file itself failed.
    #[error("line {line}: cannot be read")]
    Read {
        /// The line that was to come.
        line: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Not an observation.
    #[error("line {line}: not an observation of a run")]
    Malformed {
        /// The line.
        line: u64,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// More than a run makes.
    #[error("line {line}: more than {OBSERVATIONS_MAX} observations")]
    Count {
        /// The line that is one too many.
        line: u64,
    },
}

/// Writes one line.
///
/// # Errors
/// `out` does not take it.
pub fn write_observation(out: &mut impl Write, observation: &Observation) -> io::Result<()> {
    let mut line = serde_json::to_vec(observation)?;
    line.push(b'\n');
    out.write_all(&line)
}

/// Reads what [`write_observation`] has written, line by line.
///
/// # Errors
/// The first line that is none.
pub fn read_observations(input: impl BufRead) -> Result<Vec<Observation>, ObservationsError> {
    let mut input = input;
    let mut observations = Vec::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let part = input.by_ref().take(OBSERVATION_LINE_BYTES_MAX).read_until(b'\n', &mut bytes);
        if part.map_err(|source| ObservationsError::Read { line, source })? == 0 {
            break;
        }
        if observations.len() >= OBSERVATIONS_MAX {
            return Err(ObservationsError::Count { line });
        }
        let observation = serde_json::from_slice(&bytes);
        observations.push(observation.map_err(|source| ObservationsError::Malformed { line, source })?);
    }
    Ok(observations)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: NodeState = NodeState {
        incarnation: Incarnation(0x0000_017d_7db9_a55b),
        role: Role::Follower,
        term: 3,
        vote: Some(NodeVote { term: 3, voted_for: 2, is_committed: true }),
        leader: Some(2),
        last_log_index: Some(12),
        committed: Some(LogPosition { term: 3, index: 12 }),
        applied: None,
        snapshot: None,
        purged: None,
    };

    fn all() -> Vec<Observation> {
        let digest = Bytes32([7; 32]);
        let seen = [
            Seen::Silent {},
            Seen::State(STATE),
            Seen::StateDigest { index: 64, digest },
            Seen::Contents { index: 70, digest },
            Seen::LogDigest { from: 0, to: 1023, chain: digest },
        ];
        (1..).zip(seen).map(|(at_ns, seen)| Observation { at_ns, node: NodeIndex(1), seen }).collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut text = Vec::new();
        for observation in all() {
            write_observation(&mut text, &observation).unwrap();
        }
        assert_eq!(read_observations(&text[..]).unwrap(), all());
        assert!(text.starts_with(b"{\"at_ns\":1,\"node\":1,\"silent\":{}}\n"));
    }

    #[test]
    fn answer_of_a_node_is_a_state() {
        let answer = r#"{"id":3,"incarnation":"0000017d7db9a55b","role":"follower","term":3,
            "vote":{"term":3,"voted_for":2,"is_committed":true},"leader":2,"last_log_index":12,
            "committed":{"term":3,"index":12},"applied":null}"#;
        assert_eq!(serde_json::from_str::<NodeState>(answer).unwrap(), STATE);
    }

    #[test]
    fn bad_line_is_named() {
        let text = "{\"at_ns\":1,\"node\":1,\"silent\":{}}\n{\"at_ns\":1}\n";
        let error = read_observations(text.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "line 2: not an observation of a run");
    }
}
