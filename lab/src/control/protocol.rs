//! What travels over the control socket: one JSON object a line, a call and then its reply. Every line names the version of
//! the protocol. It knows neither sockets nor clusters.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::limits::PER_MILLION;
use crate::observations::Role;
use crate::scenario::{LinkEffect, bit_rate, percent};

/// The version of the protocol. A lab and the command that talks to it are usually the same program.
pub const VERSION: u32 = 1;

/// A line to the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// [`VERSION`].
    pub version: u32,
    /// What is asked for.
    #[serde(flatten)]
    pub request: Request,
}

/// What a lab can be asked for. Nodes are words of a scenario: names, zones and roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    /// How it is: answered by [`Answer::Status`].
    Status,
    /// The same, but not before the cluster serves.
    Await,
    /// Ends nodes without warning.
    Kill {
        /// Which.
        nodes: Vec<String>,
    },
    /// Starts nodes that are down.
    Start {
        /// Which.
        nodes: Vec<String>,
    },
    /// Freezes nodes.
    Pause {
        /// Which.
        nodes: Vec<String>,
    },
    /// Lets frozen nodes go on.
    Resume {
        /// Which.
        nodes: Vec<String>,
    },
    /// Cuts the links between groups, both ways. One group is cut off from all other nodes.
    Cut {
        /// The groups, each a list of words.
        groups: Vec<Vec<String>>,
    },
    /// Changes links from some nodes to others.
    Link {
        /// The senders.
        from: Vec<String>,
        /// The receivers.
        to: Vec<String>,
        /// Whether the way back is treated alike.
        is_both_ways: bool,
        /// What is done to each link.
        change: EffectChange,
    },
    /// Takes back what was done by hand to the links between groups, or to all links where there are none.
    Heal {
        /// The groups, each a list of words.
        groups: Vec<Vec<String>>,
    },
    /// Ends the lab: answered by [`Answer::Down`] when every node has stopped.
    Down,
}

/// The parts of a link's effect that are given. What is not keeps its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EffectChange {
    /// Added to the time that a frame takes one way, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u32>,
    /// Largest deviation from the latency, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter_ms: Option<u32>,
    /// Share of frames that is lost, in parts per million; all of them is a cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_per_million: Option<u32>,
    /// Share of frames of which a copy follows, in parts per million.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate_per_million: Option<u32>,
    /// Share of frames that overtake those under way, in parts per million.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reorder_per_million: Option<u32>,
    /// Share of frames of which one bit is turned, in parts per million.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrupt_per_million: Option<u32>,
    /// Bits that pass in a second; 0 is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_s: Option<u64>,
}

impl EffectChange {
    /// What becomes of an effect.
    pub fn over(&self, effect: LinkEffect) -> LinkEffect {
        let share = |given: Option<u32>, before| given.unwrap_or(before);
        LinkEffect {
            latency_ms: share(self.latency_ms, effect.latency_ms),
            jitter_ms: share(self.jitter_ms, effect.jitter_ms),
            loss_per_million: share(self.loss_per_million, effect.loss_per_million),
            duplicate_per_million: share(self.duplicate_per_million, effect.duplicate_per_million),
            reorder_per_million: share(self.reorder_per_million, effect.reorder_per_million),
            corrupt_per_million: share(self.corrupt_per_million, effect.corrupt_per_million),
            bits_per_s: match self.bits_per_s {
                None => effect.bits_per_s,
                Some(0) => None,
                limit => limit,
            },
        }
    }

    /// Whether nothing is to pass.
    pub fn is_cut(&self) -> bool {
        self.loss_per_million == Some(PER_MILLION)
    }

    /// What is given, and nothing about what is not: `latency 50 ms, no loss`.
    pub fn in_words(&self) -> String {
        if self.is_cut() {
            return "cut".to_owned();
        }
        let part =
            |name: &str, value: Option<String>| {
                value.map(|value| {
                    if value.starts_with("0 ") { format!("no {name}") } else { format!("{name} {value}") }
                })
            };
        let ms = |ms: Option<u32>| ms.map(|ms| format!("{ms} ms"));
        let share = |share: Option<u32>| share.map(percent);
        let parts = [
            part("latency", ms(self.latency_ms)),
            part("jitter", ms(self.jitter_ms)),
            part("loss", share(self.loss_per_million)),
            part("duplicates", share(self.duplicate_per_million)),
            part("reordering", share(self.reorder_per_million)),
            part("corruption", share(self.corrupt_per_million)),
            part("rate", self.bits_per_s.map(bit_rate)),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// A line from the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// [`VERSION`].
    pub version: u32,
    /// What came of the call.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Reply {
    /// The reply to a call.
    pub fn to(result: Result<Answer, Failure>) -> Self {
        let outcome = match result {
            Ok(answer) => Outcome::Ok(answer),
            Err(failure) => Outcome::Error(failure),
        };
        Self { version: VERSION, outcome }
    }
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Ok(Answer),
    /// It was not.
    Error(Failure),
}

/// What a lab answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// How it is.
    Status(Status),
    /// What was done to nodes.
    Nodes(Vec<NodeDone>),
    /// What was done to links, and what is in force now.
    Links(LinksDone),
    /// Every node has stopped, and the lab is about to end.
    Down {
        /// What did not go as it should; empty after a clean stop.
        problems: Vec<String>,
    },
}

/// Why a call was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose fault it is.
    pub kind: FailureKind,
    /// Why, and what to do.
    pub text: String,
}

/// Whose fault it is that a call was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The call cannot be done by this lab at any time.
    Usage,
    /// It cannot be done now.
    Refused,
}

/// How a lab is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its name: that of its run directory.
    pub name: String,
    /// The scenario's name.
    pub scenario: String,
    /// The run directory.
    pub directory: PathBuf,
    /// The process that holds it.
    pub pid: u32,
    /// All randomness comes from it.
    pub seed: u64,
    /// What runs the nodes.
    pub driver: String,
    /// How many times slower than planned it goes: times of links and of Raft are so many times longer.
    /// Nothing as long as it is being measured.
    pub slowdown: Option<String>,
    /// How far it is.
    pub phase: Phase,
    /// For how long it has been up, in milliseconds.
    pub up_ms: u64,
    /// Every node.
    pub nodes: Vec<NodeStatus>,
    /// The directed links that are not perfect.
    pub links: Vec<LinkStatus>,
}

/// How far a lab is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The machines are being made, and measured where they are emulated.
    Calibrating,
    /// The nodes are being started.
    Booting,
    /// The cluster serves, or would if nobody had broken it by hand.
    Serving,
    /// The nodes are being stopped.
    Stopping,
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Whether it runs.
    pub state: Power,
    /// What it says that it is; nothing while it does not run.
    pub role: Option<NodeRole>,
    /// Its term, by its own words.
    pub term: Option<u64>,
    /// The last entry that it has applied, by its own words.
    pub applied_index: Option<u64>,
    /// The address of its HTTP interface inside the lab.
    pub address: String,
    /// The address of its HTTP interface on the host.
    pub url: Option<String>,
    /// The file with everything that it has printed.
    pub console: PathBuf,
}

/// Whether a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// It runs.
    Running,
    /// It stands still.
    Paused,
    /// It was killed, or has ended by itself.
    Down,
}

/// What a running node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", untagged)]
pub enum NodeRole {
    /// By its own words.
    Known(Role),
    /// It does not answer.
    Unreachable(Unreachable),
}

/// The word for a node that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unreachable {
    /// It does not answer.
    Unreachable,
}

/// A directed link that is not perfect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The node that sends.
    pub from: String,
    /// The node that receives.
    pub to: String,
    /// Whether nothing passes.
    pub is_cut: bool,
    /// Everything else that is done to it, by the scenario and by hand together.
    #[serde(flatten)]
    pub effect: LinkEffect,
    /// Whether something was done to it by hand; otherwise it is the scenario alone.
    pub is_by_hand: bool,
    /// For how long this has been in force, in milliseconds.
    pub in_force_ms: u64,
    /// Frames that wanted to cross since then.
    pub frames: u64,
    /// Frames that were lost or swallowed since then.
    pub frames_dropped: u64,
}

/// What was done to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDone {
    /// Its name.
    pub name: String,
    /// What.
    pub text: String,
}

/// What was done to links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinksDone {
    /// What, with names.
    pub text: String,
    /// How long it took from the arrival of the call until the change was in force, in microseconds.
    pub took_us: u64,
    /// The links that are not perfect now.
    pub links: Vec<LinkStatus>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_other_programs_can_rely_on() {
        let call =
            Call { version: VERSION, request: Request::Cut { groups: vec![vec!["leader".to_owned()]] } };
        let line = serde_json::to_string(&call).unwrap();
        assert_eq!(line, r#"{"version":1,"do":"cut","groups":[["leader"]]}"#);
        assert_eq!(serde_json::from_str::<Call>(&line).unwrap(), call);
        let down = serde_json::to_string(&Call { version: VERSION, request: Request::Down }).unwrap();
        assert_eq!(down, r#"{"version":1,"do":"down"}"#);
        let failure = Failure { kind: FailureKind::Refused, text: "n1 is down".to_owned() };
        let reply = Reply::to(Err(failure));
        let line = serde_json::to_string(&reply).unwrap();
        assert_eq!(line, r#"{"version":1,"error":{"kind":"refused","text":"n1 is down"}}"#);
        assert_eq!(serde_json::from_str::<Reply>(&line).unwrap(), reply);
    }

    #[test]
    fn role_is_a_word_whether_the_node_answers_or_not() {
        let known = serde_json::to_string(&NodeRole::Known(Role::Leader)).unwrap();
        let silent = serde_json::to_string(&NodeRole::Unreachable(Unreachable::Unreachable)).unwrap();
        assert_eq!((known.as_str(), silent.as_str()), (r#""leader""#, r#""unreachable""#));
        assert_eq!(
            serde_json::from_str::<NodeRole>(&silent).unwrap(),
            NodeRole::Unreachable(Unreachable::Unreachable)
        );
    }

    #[test]
    fn a_change_replaces_what_it_gives_and_nothing_else() {
        let effect = LinkEffect { latency_ms: 40, jitter_ms: 5, ..LinkEffect::default() };
        let change = EffectChange { loss_per_million: Some(10_000), ..EffectChange::default() };
        assert_eq!(change.over(effect), LinkEffect { loss_per_million: 10_000, ..effect });
        let check = |latency_ms, jitter_ms, loss_per_million, want: &str| {
            let change = EffectChange { latency_ms, jitter_ms, loss_per_million, ..EffectChange::default() };
            assert_eq!(change.in_words(), want);
        };
        check(Some(50), Some(5), Some(12_500), "latency 50 ms, jitter 5 ms, loss 1.25 %");
        check(Some(0), None, Some(0), "no latency, no loss");
        let limited = EffectChange { bits_per_s: Some(10_000_000), ..EffectChange::default() };
        assert_eq!(
            (limited.in_words().as_str(), limited.over(effect).bits_per_s),
            ("rate 10 Mbit/s", Some(10_000_000))
        );
        let unlimited = EffectChange { bits_per_s: Some(0), duplicate_per_million: Some(0), ..limited };
        assert_eq!(unlimited.in_words(), "no duplicates, no rate");
        assert_eq!(unlimited.over(limited.over(effect)), effect);
        check(None, None, Some(PER_MILLION), "cut");
    }
}
