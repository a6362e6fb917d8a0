//! A scenario: which cluster to boot, what load to put on it, what to break and when, and how to judge it.
//!
//! A value of type [`Scenario`] is valid: there is no way to one except through [`Scenario::load`] and
//! [`Scenario::parse`], which refuse a file with *all* of its mistakes at once. Nothing is drawn or resolved
//! here; [`crate::plan`] does that. The format is described in docs/scenario.md.

mod effect;
mod fault;
mod mistake;
mod network;
mod parse;
mod validate;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::effect::LinkEffect;
pub(crate) use self::effect::{percent, rate as bit_rate};
pub use self::fault::{ClockError, Fault, FaultAction, MemberChange, Selector, StandingLink, link_pairs};
pub use self::mistake::Mistake;
pub use self::network::{Family, Network, Subnet};
pub use self::parse::SyntaxError;
pub(crate) use self::validate::links::impossible as impossible_effect;
pub(crate) use self::validate::units::{bits_per_s_of, duration_of, per_million_of};
use crate::limits::SCENARIO_BYTES_MAX;

/// The position of a node in the scenario's list, from 0. Its Raft id is one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeIndex(pub u16);

impl NodeIndex {
    /// The index as a position in a list that has one entry for each node.
    pub fn position(self) -> usize {
        usize::from(self.0)
    }

    /// The node's id in Raft: ids begin at 1.
    pub fn raft_id(self) -> u64 {
        u64::from(self.0) + 1
    }
}

/// A valid scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    name: String,
    about: String,
    text_hash: [u8; 32],
    nodes: Vec<String>,
    zones: Vec<Option<String>>,
    memories_mib: Vec<u32>,
    networks: Vec<Network>,
    founders: u16,
    joined_voters: Option<u16>,
    links: Vec<StandingLink>,
    preferred_zones: Vec<String>,
    target: Target,
    raft: RaftSettings,
    workload: Workload,
    duration: Duration,
    faults: Vec<Fault>,
    checks: Vec<Check>,
}

/// When a leader speaks, when its followers lose patience, and how long the log may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftSettings {
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Shortest election timeout, at least three heartbeats.
    pub election_min: Duration,
    /// Longest election timeout, more than the shortest.
    pub election_max: Duration,
    /// Entries after which a snapshot is made; `None`: the node's own number.
    pub snapshot_entries: Option<u32>,
    /// How long a voter may be silent before a learner votes in its place; `None`: for ever.
    pub replace_after: Option<Duration>,
}

/// What is under test.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The node of this repository.
    #[default]
    Aspen,
    /// etcd, to compare with.
    Etcd,
}

/// How reads and scans are confirmed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reads {
    /// A quorum says that its leader is one.
    #[default]
    Linearizable,
    /// The leader's lease does, where it has one.
    Lease,
}

/// The load that clients put on the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// What the clients do.
    pub kind: WorkloadKind,
    /// How many clients read and write.
    pub clients: u32,
    /// How many keys they share.
    pub keys: u32,
    /// Operations per second over all clients; slower when the cluster is.
    pub rate_per_s: u32,
    /// How reads and scans are confirmed.
    pub reads: Reads,
    /// How old the answers to every other read of the clients that only read may be; `None`: none may.
    pub max_staleness: Option<Duration>,
    /// How often each operation is chosen.
    pub mix: Mix,
}

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadKind {
    /// Each key is a register: reads, writes of values never written before, compare-and-swap, deletes, scans.
    Register,
}

/// How often each operation is chosen, in percent. Invariant: they sum to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mix {
    /// Linearizable reads.
    pub read: u32,
    /// Writes of a value that was never written before.
    pub write: u32,
    /// Compare-and-swap from the value last seen to one never written before.
    pub cas: u32,
    /// Deletes, of the last quarter of the keys.
    #[serde(default, skip_serializing_if = "is_none")]
    pub delete: u32,
    /// Linearizable scans, each a read of every key that begins like one of them.
    #[serde(default, skip_serializing_if = "is_none")]
    pub scan: u32,
}

/// Left out, a plan reads as it did before there were these operations.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over like this")]
fn is_none(percent: &u32) -> bool {
    *percent == 0
}

impl Mix {
    /// What has to be 100.
    pub fn sum(self) -> u32 {
        self.read + self.write + self.cas + self.delete + self.scan
    }
}

/// How a run is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Every key's history has a linear order (Herlihy and Wing 1990).
    Linearizable,
    /// After the end of each fault the cluster acknowledges operations again.
    Recovers {
        /// At the latest after this time.
        within: Duration,
    },
    /// Nodes that a partition leaves without a majority acknowledge nothing.
    MinorityRefuses,
    /// No read whose age is bounded is older than that.
    BoundedStaleness,
    /// What was acknowledged is there in the end, and the same on every member.
    Durable,
    /// What Raft promises holds for every state, log and vote that was seen (Raft paper, figure 3).
    Raft,
}

/// Why a file is not a scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioErrors {
    /// The operating system's reason is the source.
    #[error("{file}: cannot be read")]
    Unreadable {
        /// The path as it was typed.
        file: String,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// Not read any further.
    #[error("{file}: longer than {SCENARIO_BYTES_MAX} bytes, a scenario may have 0 to {SCENARIO_BYTES_MAX}")]
    TooLong {
        /// The path as it was typed.
        file: String,
    },
    /// YAML is text.
    #[error("{file}:{line}:{column}: byte 0x{byte:02x} is not utf-8")]
    NotUtf8 {
        /// The path as it was typed.
        file: String,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// The first byte that is wrong.
        byte: u8,
    },
    /// All mistakes of the file, one a line.
    #[error("{0}")]
    Mistakes(Mistakes),
}

/// Every mistake of one file, in the order of the file. Printed one a line.
#[derive(Debug)]
pub struct Mistakes {
    /// The file's name, as it was typed.
    pub file: String,
    /// At least one, at most [`crate::limits::MISTAKES_MAX`].
    pub list: Vec<Located>,
    /// How many more there are.
    pub left_out_count: usize,
}

/// A mistake and its place.
#[derive(Debug)]
pub struct Located {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub mistake: Mistake,
}

impl fmt::Display for Mistakes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Located { line, column, mistake }) in self.list.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(formatter, "{newline}{}:{line}:{column}: {mistake}", self.file)?;
        }
        if self.left_out_count > 0 {
            write!(formatter, "\n{}: {} more mistakes are not shown", self.file, self.left_out_count)?;
        }
        Ok(())
    }
}

impl Scenario {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// The file cannot be read, is too long, is not UTF-8, or has mistakes: then all of them.
    pub fn load(path: &Path) -> Result<Self, ScenarioErrors> {
        let file = path.display().to_string();
        let bytes = match read_at_most(path, SCENARIO_BYTES_MAX + 1) {
            Ok(bytes) => bytes,
            Err(source) => return Err(ScenarioErrors::Unreadable { file, source }),
        };
        if bytes.len() as u64 > SCENARIO_BYTES_MAX {
            return Err(ScenarioErrors::TooLong { file });
        }
        match String::from_utf8(bytes) {
            Ok(text) => Self::parse(&file, &text),
            Err(error) => Err(not_utf8(file, &error)),
        }
    }

    /// Validates a text. `file` stands before every mistake.
    ///
    /// # Errors
    /// The text is too long, or has mistakes: then all of them.
    pub fn parse(file: &str, text: &str) -> Result<Self, ScenarioErrors> {
        if text.len() as u64 > SCENARIO_BYTES_MAX {
            return Err(ScenarioErrors::TooLong { file: file.to_owned() });
        }
        validate::scenario(text).map_err(|(list, left_out_count)| {
            ScenarioErrors::Mistakes(Mistakes { file: file.to_owned(), list, left_out_count })
        })
    }

    /// What the scenario is called: `[a-z0-9-]`, 1 to 40 bytes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it shows, in sentences.
    pub fn about(&self) -> &str {
        &self.about
    }

    /// BLAKE3 of the file's text.
    pub fn text_hash(&self) -> &[u8; 32] {
        &self.text_hash
    }

    /// The nodes' names, 1 to [`crate::limits::NODES_MAX`]; [`NodeIndex`] is a position in this list.
    pub fn nodes(&self) -> &[String] {
        &self.nodes
    }

    /// The zone of each node that has one, in the order of [`Self::nodes`].
    pub fn zones(&self) -> &[Option<String>] {
        &self.zones
    }

    /// Where the nodes join by a ticket: how many of them are to vote.
    pub fn joined_voters(&self) -> Option<u16> {
        self.joined_voters
    }

    /// How many nodes, the first ones, found the cluster; the others wait outside.
    pub fn founders(&self) -> u16 {
        self.founders
    }

    /// The memory of each node, in MiB, if it is a virtual machine.
    pub fn memories_mib(&self) -> &[u32] {
        &self.memories_mib
    }

    /// The networks, at least one. All nodes are on the first, over which they replicate.
    pub fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// The directed links that are not perfect, for the whole run; each pair at most once, in order.
    pub fn links(&self) -> &[StandingLink] {
        &self.links
    }

    /// Where the leader should be, the best zone first.
    pub fn preferred_zones(&self) -> &[String] {
        &self.preferred_zones
    }

    /// What is under test.
    pub fn target(&self) -> Target {
        self.target
    }

    /// Heartbeat and election timeouts of every node.
    pub fn raft(&self) -> RaftSettings {
        self.raft
    }

    /// The load.
    pub fn workload(&self) -> Workload {
        self.workload
    }

    /// How long the load runs at least. No fault's planned end lies beyond it.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// What breaks, in the order of the file.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// How the run is judged; at least one, none twice.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }
}

/// Bounded, so that `/dev/zero` is an error and not the end of the memory.
fn read_at_most(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn not_utf8(file: String, error: &std::string::FromUtf8Error) -> ScenarioErrors {
    let (valid, rest) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
    let at = parse::Position::after(&String::from_utf8_lossy(valid));
    ScenarioErrors::NotUtf8 { file, line: at.line, column: at.column, byte: rest[0] }
}

#[cfg(test)]
mod tests;
