//! What breaks: faults, the nodes that they choose, and what is done to links, by faults and for a whole run.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::effect::percent;
use super::mistake::human;
use super::{LinkEffect, NodeIndex};

/// One thing that is broken, once or several times, and mended again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// When it is due the first time, from the first answered operation on.
    pub at: Duration,
    /// What breaks.
    pub action: FaultAction,
    /// `for`: how long a link or a node suffers; `restart_after`: how long a victim stays dead; `by`: how far it is put back; `within`: how
    /// long another may take to be in its place. A change of the members has none.
    pub lasts: Duration,
    /// How often, 1 or more.
    pub times: u32,
    /// From the end of one repetition (healed, the last victim serves again) to the next; zero if it happens
    /// once.
    pub every: Duration,
}

impl Fault {
    /// When the last repetition ends, as far as that can be planned: restarts take as long as they take.
    pub fn planned_end(&self) -> Duration {
        self.at + self.lasts * self.times + self.every * (self.times - 1)
    }
}

/// What breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultAction {
    /// No frame passes, either way, between nodes of different groups. A node in no group keeps all its
    /// links.
    Partition {
        /// At least two, none empty, none overlapping.
        groups: Vec<Vec<Selector>>,
    },
    /// Frames from some nodes to others are delayed, lost, or do not pass at all.
    Link {
        /// The senders: one selector, or the nodes of a zone.
        from: Vec<Selector>,
        /// The receivers: one selector, or the nodes of a zone. A node that is on both sides has no link to itself.
        to: Vec<Selector>,
        /// Whether the way back is treated alike.
        is_both_ways: bool,
        /// What is done to each link; never nothing.
        effect: LinkEffect,
    },
    /// A node gets SIGKILL, or its machine loses power.
    Kill {
        /// The victim.
        who: Selector,
    },
    /// A node gets SIGKILL, and its disk loses what was not synced, or a part of it.
    PowerCut {
        /// The victim.
        who: Selector,
    },
    /// A node gets SIGKILL, or its machine loses power, and is never started again: the cluster puts another in its place.
    Lose {
        /// The victim, which votes.
        who: Selector,
    },
    /// A node is asked to stop, and started again.
    Restart {
        /// The victim.
        who: Selector,
    },
    /// The cluster's members are changed while it serves.
    Members {
        /// How.
        change: MemberChange,
        /// Who comes, votes or leaves.
        who: Selector,
    },
    /// A node stands still (SIGSTOP) and goes on later (SIGCONT), without knowing of it.
    Pause {
        /// The victim.
        who: Selector,
    },
    /// A machine is saved and ended, and goes on later from where it was, without knowing of it.
    Suspend {
        /// The victim.
        who: Selector,
    },
    /// A machine is put back to how it was when the fault was due, memory and disk: its node has forgotten what it promised
    /// since. It is told, and out of the cluster for good.
    Rollback {
        /// The victim.
        who: Selector,
    },
    /// The clocks of a machine are wrong.
    Clock {
        /// The victim.
        who: Selector,
        /// How.
        error: ClockError,
    },
}

/// What becomes of a node in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberChange {
    /// A node that waits outside comes in, and learns.
    Add,
    /// A learner votes.
    Promote,
    /// A member leaves.
    Remove,
}

impl MemberChange {
    /// The key that names it in a file.
    pub fn key(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Promote => "promote",
            Self::Remove => "remove",
        }
    }
}

/// How clocks are wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockError {
    /// The time of day has jumped.
    Step {
        /// By so many milliseconds, back when negative; never 0.
        by_ms: i64,
    },
    /// All clocks run fast, and so do timers.
    Drift {
        /// By so many parts per million, slow when negative; never 0.
        per_million: i32,
    },
}

impl fmt::Display for ClockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Step { by_ms } => {
                let side = if by_ms < 0 { "behind" } else { "ahead" };
                write!(f, "{} {side}", human(Duration::from_millis(by_ms.unsigned_abs())))
            }
            Self::Drift { per_million } => {
                let side = if per_million < 0 { "slow" } else { "fast" };
                write!(f, "{} {side}", percent(per_million.unsigned_abs()))
            }
        }
    }
}

impl FaultAction {
    /// Whether a machine's state is written down for it.
    pub fn saves_machine(&self) -> bool {
        match self {
            Self::Suspend { .. } | Self::Rollback { .. } => true,
            Self::Partition { .. }
            | Self::Link { .. }
            | Self::Kill { .. }
            | Self::PowerCut { .. }
            | Self::Lose { .. }
            | Self::Restart { .. }
            | Self::Members { .. }
            | Self::Pause { .. }
            | Self::Clock { .. } => false,
        }
    }

    /// Whether only a machine of its own can have it happen to it: a process has no memory of its own to save, and shares its
    /// host's clocks.
    pub fn needs_machine(&self) -> bool {
        match self {
            Self::Suspend { .. } | Self::Rollback { .. } | Self::Clock { .. } => true,
            Self::Partition { .. }
            | Self::Link { .. }
            | Self::Kill { .. }
            | Self::PowerCut { .. }
            | Self::Lose { .. }
            | Self::Restart { .. }
            | Self::Members { .. }
            | Self::Pause { .. } => false,
        }
    }

    /// Whether who is a member is another one afterwards.
    pub fn changes_members(&self) -> bool {
        matches!(self, Self::Members { .. } | Self::Lose { .. })
    }

    /// The one node that it is aimed at, if it is a fault of one.
    pub fn victim(&self) -> Option<Selector> {
        match self {
            Self::Partition { .. } | Self::Link { .. } => None,
            Self::Kill { who }
            | Self::PowerCut { who }
            | Self::Lose { who }
            | Self::Restart { who }
            | Self::Members { who, .. }
            | Self::Pause { who }
            | Self::Suspend { who }
            | Self::Rollback { who }
            | Self::Clock { who, .. } => Some(*who),
        }
    }

    /// The key that names it in a file.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Partition { .. } => "partition",
            Self::Link { .. } => "link",
            Self::Kill { .. } => "kill",
            Self::PowerCut { .. } => "power_cut",
            Self::Lose { .. } => "lose",
            Self::Restart { .. } => "restart",
            Self::Members { change, .. } => change.key(),
            Self::Pause { .. } => "pause",
            Self::Suspend { .. } => "suspend",
            Self::Rollback { .. } => "rollback",
            Self::Clock { .. } => "clock",
        }
    }
}

impl fmt::Display for FaultAction {
    /// As a person would say it, with roles where the file has roles.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |selectors: &Vec<Selector>| {
            selectors.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        match self {
            Self::Partition { groups } => {
                write!(f, "partition {}", groups.iter().map(names).collect::<Vec<_>>().join(" | "))
            }
            Self::Link { from, to, is_both_ways, effect } => {
                write!(f, "{}", effect.text(&names(from), &names(to), *is_both_ways))
            }
            Self::Kill { who } => write!(f, "kill {who}"),
            Self::PowerCut { who } => write!(f, "power cut {who}"),
            Self::Lose { who } => write!(f, "lose {who}"),
            Self::Restart { who } => write!(f, "restart {who}"),
            Self::Members { change, who } => write!(f, "{} {who}", change.key()),
            Self::Pause { who } => write!(f, "pause {who}"),
            Self::Suspend { who } => write!(f, "suspend {who}"),
            Self::Rollback { who } => write!(f, "rollback {who}"),
            Self::Clock { who, error } => write!(f, "clock {who}: {error}"),
        }
    }
}

/// A directed link that is not perfect, from before the nodes become a cluster to the end of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingLink {
    /// The node that sends.
    pub from: NodeIndex,
    /// The node that receives.
    pub to: NodeIndex,
    /// What is done to the link; never nothing, never a cut.
    #[serde(flatten)]
    pub effect: LinkEffect,
}

/// The directed links from some nodes to others, or also those back. No node has a link to itself.
pub fn link_pairs(
    from: &[NodeIndex],
    to: &[NodeIndex],
    is_both_ways: bool,
) -> BTreeSet<(NodeIndex, NodeIndex)> {
    let there = from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to)));
    let there = there.filter(|(from, to)| from != to);
    there.flat_map(|(from, to)| [Some((from, to)), is_both_ways.then_some((to, from))]).flatten().collect()
}

/// A node by name or by the role that it has when the fault is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// The leader of that moment.
    Leader,
    /// A live node that is not the leader; another one each time it is written.
    Follower,
    /// A live node; another one each time it is written.
    Random,
    /// Every node that no other selector of the fault took, alive or not.
    Rest,
    /// This node.
    Node(NodeIndex),
}

impl fmt::Display for Selector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader => formatter.write_str("leader"),
            Self::Follower => formatter.write_str("follower"),
            Self::Random => formatter.write_str("random"),
            Self::Rest => formatter.write_str("rest"),
            Self::Node(node) => write!(formatter, "node {}", node.raft_id()),
        }
    }
}
