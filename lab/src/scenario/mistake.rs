//! What can be wrong with a scenario, in words for whoever wrote it.
//!
//! A mistake knows the values and the bounds, not its place in the file.

use std::fmt;
use std::time::Duration;

use aspen_init::limits::DRIFT_PER_MILLION_MAX;

use crate::limits::machines::{CLOCK_DRIFTED_MIN, MEMORY_MIB_MAX, MEMORY_MIB_MIN};
use crate::limits::{
    ABOUT_BYTES_MAX, ELECTION_HEARTBEATS_MIN, FAULTS_MAX, LINK_BITS_PER_S_MAX, LINK_BITS_PER_S_MIN,
    LINK_REORDER_MAX, LINKS_MAX, NETWORKS_MAX, NODE_NAME_BYTES_MAX, OPERATIONS_MAX, PER_MILLION,
    PROBES_TIMED, SCENARIO_NAME_BYTES_MAX,
};
use crate::scenario::parse::SyntaxError;

/// One mistake. Texts that come from the file are quoted and cut to a readable length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are the words of the messages")]
pub enum Mistake {
    /// Nothing else is known about a file whose syntax is wrong.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),

    /// A key that this part of the grammar does not have.
    #[error("unknown key {}{} {section} has {}", quoted(key), did_you_mean(*close), allowed.join(", "))]
    UnknownKey {
        key: String,
        close: Option<&'static str>,
        section: &'static str,
        allowed: &'static [&'static str],
    },
    /// A map in YAML would keep one of them and forget the other.
    #[error("key {key} is given twice")]
    DoubledKey { key: &'static str },
    /// YAML allows it, a scenario has no use for it.
    #[error("a key must be text, not {found}")]
    KeyNotText { found: String },
    /// Part of the design, and of a later version.
    #[error("{what} is not there yet")]
    NotThereYet { what: String },
    /// Placed at the beginning of the map that lacks it.
    #[error("{section} needs {key}")]
    MissingKey { section: &'static str, key: &'static str },
    /// A list where a text belongs, and so on.
    #[error("{key} must be {wanted}, not {found}")]
    WrongType { key: &'static str, wanted: &'static str, found: String },

    #[error("{key} is {value}, {min} to {max} are allowed")]
    Number { key: &'static str, value: i128, min: i128, max: i128 },
    #[error("{key} is {value}, a duration needs a unit: {value}s, {value}ms, {value}us or {value}m")]
    NoUnit { key: &'static str, value: String },
    #[error("{key} is {}, which is not a duration: write 200ms, 1.5s or 2m", quoted(value))]
    NotDuration { key: &'static str, value: String },
    #[error("{key} is {value}, which is not a whole number of milliseconds")]
    NotMilliseconds { key: &'static str, value: String },
    #[error("{key} is {value}, {} to {} are allowed", human(*min), human(*max))]
    Length { key: &'static str, value: String, min: Duration, max: Duration },
    #[error("nodes.memory is {}, which is not a size: write 256MiB or 1GiB", quoted(value))]
    NotMemory { value: String },
    #[error("nodes.memory is {value}, {MEMORY_MIB_MIN}MiB to {}GiB are allowed", MEMORY_MIB_MAX / 1024)]
    Memory { value: String },
    #[error("workload.rate is {}, which is not a rate: write 200/s", quoted(value))]
    NotRate { value: String },
    #[error("{key} is {}, which is not a rate: write 64kbit/s, 10Mbit/s or 1Gbit/s", quoted(value))]
    NotBitRate { key: &'static str, value: String },
    #[error("{key} is {value}, {}kbit/s to {}Gbit/s are allowed, in whole bits", LINK_BITS_PER_S_MIN / 1_000, LINK_BITS_PER_S_MAX / 1_000_000_000)]
    BitRate { key: &'static str, value: String },
    #[error("{key} is {}, which is not a percentage: write 0.1% or 100%", quoted(value))]
    NotPercent { key: &'static str, value: String },
    #[error("{key} is {value}, 0% to 100% are allowed")]
    Percent { key: &'static str, value: String },
    #[error("{key} is {value}, which is finer than parts per million: steps of 0.0001% are allowed")]
    NotPerMillion { key: &'static str, value: String },

    #[error("name is {}, 1 to {SCENARIO_NAME_BYTES_MAX} of a-z, 0-9 and - are allowed", quoted(value))]
    Name { value: String },
    #[error("about is empty, say in a sentence what the scenario shows")]
    AboutEmpty,
    #[error("about has {bytes} bytes, 1 to {ABOUT_BYTES_MAX} are allowed")]
    AboutLong { bytes: usize },
    #[error("about holds the control character U+{0:04X}, only line breaks and tabs are allowed")]
    AboutControl(u32),

    #[error("nodes: {count}, 1 to {max} are allowed")]
    NodeCount { count: usize, max: u16 },
    #[error(
        "{of} name {} is not allowed: a letter a-z, then a-z, 0-9 and -, 1 to {NODE_NAME_BYTES_MAX} bytes",
        quoted(value)
    )]
    NodeName { of: NameOf, value: String },
    #[error("{value} is not allowed as a {of} name, it has a meaning of its own")]
    NodeNameReserved { of: NameOf, value: String },
    #[error(
        "nodes.founders is not for nodes that join by a ticket: the first founds the cluster, leave it out"
    )]
    FoundersWhoJoin,
    #[error("nodes.join is {}, ticket is allowed", quoted(value))]
    Join { value: String },
    #[error("{of} {name} is named twice")]
    NameTwice { of: NameOf, name: String },
    #[error("zone {name} has the name of a node, nobody could tell which one is meant")]
    ZoneIsNode { name: String },
    #[error("unknown node {}{} {known}", quoted(name), did_you_mean(close.as_deref()))]
    UnknownNode { name: String, close: Option<String>, known: String },

    #[error("networks: {count}, 1 to {NETWORKS_MAX} are allowed; without the key there is one")]
    NetworkCount { count: usize },
    #[error("nodes belongs to further networks: all nodes are on the first, over which they replicate")]
    FirstNetwork,
    #[error("{who} is on the network twice")]
    NetworkNodeTwice { who: String },
    #[error("nodes is empty, a network without nodes connects nobody: leave it out for all nodes")]
    NetworkEmpty,
    #[error(
        "networks.subnet is {}, which is no subnet: write 10.7.0.0/24, fd00:7::/64, ipv4 or ipv6",
        quoted(value)
    )]
    NotSubnet { value: String },
    #[error("networks.subnet is {value}, which is an address in a network: write {network}")]
    SubnetHost { value: String, network: String },
    #[error("networks.subnet is {value}, prefixes of {min} to {max} bits are allowed")]
    SubnetSize { value: String, min: u8, max: u8 },
    #[error(
        "networks.subnet is {value}, whose addresses are not for machines: take one of 10.0.0.0/8 or fd00::/8"
    )]
    SubnetKind { value: String },
    #[error("networks.subnet is {value}, which overlaps {other}: a machine could not tell them apart")]
    SubnetOverlap { value: String, other: String },
    #[error(
        "networks.subnet has one subnet of each family at most, and one at least: [fd00:7::/64, 10.7.0.0/24]"
    )]
    SubnetFamilies,

    #[error("raft.election is {}, which is not a range: write 1s..2s", quoted(value))]
    NotRange { value: String },
    #[error("raft.election begins at {}, at least {} is needed: {ELECTION_HEARTBEATS_MIN} heartbeats of {}", human(*min), human(*heartbeat * ELECTION_HEARTBEATS_MIN), human(*heartbeat))]
    ElectionShort { min: Duration, heartbeat: Duration },
    #[error("raft.election is {}..{}, its end must be later than its beginning", human(*min), human(*max))]
    ElectionOrder { min: Duration, max: Duration },

    #[error(
        "raft.preferred_zones names {}, which {}: name zones of nodes, each once, the best one first",
        quoted(value),
        if *is_zone { "is named before" } else { "is no zone" }
    )]
    PreferredZone { value: String, is_zone: bool },
    #[error("target is {}, aspen and etcd are allowed", quoted(value))]
    Target { value: String },
    #[error("{what} is not for target etcd, {why}: leave it out")]
    EtcdLacks { what: &'static str, why: &'static str },
    #[error("workload.reads is {}, linearizable and lease are allowed", quoted(value))]
    Reads { value: String },
    #[error("workload.kind is {}, register is allowed", quoted(value))]
    WorkloadKind { value: String },
    #[error("workload.mix sums to {sum}, its parts must sum to 100")]
    MixSum { sum: i128 },
    #[error("{operations} operations are planned ({rate}/s for {}), 1 to {OPERATIONS_MAX} are allowed", human(*duration))]
    Operations { operations: u64, rate: u32, duration: Duration },

    #[error("faults: {count}, 0 to {FAULTS_MAX} are allowed; every and times repeat one")]
    FaultCount { count: usize },
    #[error(
        "a fault must say what breaks or changes: partition, kill, power_cut, lose, restart, link, pause, suspend, rollback, clock, add, promote or remove"
    )]
    FaultKindMissing,
    #[error("a fault breaks one thing: {second} besides {first}")]
    FaultKindTwice { first: &'static str, second: &'static str },
    #[error("{kind} has no {key}, write {instead}")]
    MisplacedKey { kind: &'static str, key: &'static str, instead: &'static str },
    #[error("{kind} has no {key}: it is done at once")]
    LastsNot { kind: &'static str, key: &'static str },
    #[error("{key} wants a node by its name, not {word}")]
    ByName { key: &'static str, word: String },
    #[error("a change of the members is made once: it has neither every nor times")]
    ChangedTwice,
    #[error("{name} is a member by then")]
    MemberAlready { name: String },
    #[error("{name} was removed before, and could only come back as a new node with another key")]
    MemberNoMore { name: String },
    #[error("{name} is no learner by then: add it first")]
    NoLearner { name: String },
    #[error("{name} does not vote by then, so nobody would be put in its place")]
    NoVoter { name: String },
    #[error("{name} may vote by then, in the place of one that was lost")]
    MayVote { name: String },
    #[error("which nodes vote shows when they have joined: {kind} wants a role here, not {name}")]
    JoinsByItself { kind: &'static str, name: String },
    #[error("{what} does not go together with nodes that only learn yet: let all of them vote")]
    CutWhileLearning { what: &'static str },
    #[error("nobody can be put in the place of the one that is lost: add a learner for each before")]
    NobodyInstead,
    #[error("{}", lost_for_good(*within, *replace_after))]
    LostForGood { within: Duration, replace_after: Option<Duration> },
    #[error("{name} is no member by then")]
    NoMember { name: String },
    #[error(
        "{name} may be the one that was removed by its role before: name the nodes, or use a role here, too"
    )]
    MayBeGone { name: String },
    #[error("{what} does not go together with changes of the members yet")]
    CutWhileChanging { what: &'static str },
    #[error(
        "nobody would be left to vote: of {left} voters that are named, {anonymous} leave by their roles"
    )]
    NobodyVotes { left: usize, anonymous: usize },
    #[error("{kind} has no {key}, it belongs to clock")]
    ClockKey { kind: &'static str, key: &'static str },
    #[error("clock has {} of step and drift, it needs one", if *count == 0 { "none" } else { "both" })]
    ClockErrors { count: usize },
    #[error("drift is {value}, 0.0001% to {}% are allowed, fast or slow", DRIFT_PER_MILLION_MAX / (PER_MILLION / 100))]
    Drift { value: String },
    #[error("drift makes {} in {}, less than {} cannot be measured", human(*gained), human(*lasts), human(CLOCK_DRIFTED_MIN))]
    DriftSmall { lasts: Duration, gained: Duration },
    #[error("rollbacks: {out}, of {nodes_count} nodes, and those that are left have to be a majority: at most {}", (nodes_count - 1) / 2)]
    Rollbacks { out: u32, nodes_count: usize },
    #[error("{name} is out of the cluster after its rollback, and another fault is aimed at it")]
    HitAfterRollback { name: String },
    #[error(
        "{kind} does not go together with power_cut: no hypervisor saves a machine whose disk can lose its power, so write two scenarios"
    )]
    SavedAndCut { kind: &'static str },
    #[error("{given} needs {missing} beside it")]
    Alone { given: &'static str, missing: &'static str },

    #[error("groups: {groups_count}, at least 2 are needed, or the partition separates nothing")]
    GroupCount { groups_count: usize },
    #[error("a group is empty, a cut from nobody separates nothing")]
    GroupEmpty,
    #[error("{who} is in the partition twice, groups must not overlap")]
    Overlap { who: String },
    #[error("followers needed: {named}, the cluster has {}", nodes_count - 1)]
    Followers { named: usize, nodes_count: usize },
    #[error("the groups name {named} nodes, the cluster has {nodes_count}")]
    Members { named: usize, nodes_count: usize },
    #[error(
        "nothing is left for rest, the other selectors take all {nodes_count} nodes: the cut separates nothing"
    )]
    RestEmpty { nodes_count: usize },
    #[error("{key} cannot be {word}, it is one node")]
    OneNode { key: &'static str, word: String },

    #[error("links: {count}, 0 to {LINKS_MAX} are allowed")]
    LinkCount { count: usize },
    #[error("{section} goes from nowhere to nowhere: write from and to, or between")]
    LinkEnds { section: &'static str },
    #[error("{section} has between, which says both ends and both ways: leave {key} out")]
    LinkBetween { section: &'static str, key: &'static str },
    #[error("{key} names {count}, two are needed: [eu, us]")]
    BetweenCount { key: &'static str, count: usize },
    #[error("link goes from {who} to itself, there is no such link")]
    LinkToItself { who: String },
    #[error("a link needs two nodes, the cluster has {nodes_count}")]
    LinkAlone { nodes_count: usize },
    #[error("{word} has no place in links, they hold before anybody has a role: name nodes or zones")]
    LinksRole { word: String },
    #[error(
        "{section} changes nothing: latency, jitter, loss, duplicate, reorder, corrupt or rate must differ from what was there"
    )]
    LinkIdle { section: &'static str },
    #[error("jitter is {}, more than the latency of {}: frames cannot arrive before they were sent", human(*jitter), human(*latency))]
    Jitter { jitter: Duration, latency: Duration },
    #[error("loss is 100%, no frame is left to which anything else could be done: leave the other keys out")]
    LossAndMore,
    #[error("reorder is {}, and without latency no frame is under way to be overtaken: give latency, too", percent_of(*share))]
    ReorderAtOnce { share: u32 },
    #[error("reorder is {}, 0% to {} are allowed: where most overtake, none are overtaken", percent_of(*share), percent_of(LINK_REORDER_MAX))]
    ReorderMost { share: u32 },
    #[error("links.loss is 100%, which is a cut for ever: write a fault with link and for")]
    LinksCut,
    #[error("for is {}, at least {} is needed to measure {} there and back {PROBES_TIMED} times", human(*lasts), human(*min), human(*delay))]
    LinkShort { lasts: Duration, min: Duration, delay: Duration },

    #[error("duration is {}, but a fault ends at {}", human(*duration), human(*end))]
    DurationShort { duration: Duration, end: Duration },
    #[error("the run is planned to take {}, {} to {} are allowed", human(*planned), human(*min), human(*max))]
    PlannedLong { planned: Duration, min: Duration, max: Duration },

    #[error("checks is empty, a run that nothing judges shows nothing")]
    NoChecks,
    #[error("unknown check {}{} checks are linearizable, durable, raft, recovers, minority_refuses, bounded_staleness", quoted(name), did_you_mean(*close))]
    UnknownCheck { name: String, close: Option<&'static str> },
    #[error("check {name} is given twice")]
    CheckTwice { name: &'static str },
    #[error("a check is one name, with or without settings, not a map of {count}")]
    CheckMap { count: usize },
    #[error("check {name} needs settings: {example}")]
    CheckBare { name: &'static str, example: &'static str },
    #[error("check {name} has no settings, write its name alone")]
    CheckSettings { name: &'static str },
    #[error("minority_refuses is {found}, true is allowed; leave the check out otherwise")]
    MinorityRefusesNotTrue { found: String },
    #[error("minority_refuses needs a partition that leaves a group without a majority, no fault does")]
    NoMinority,
    #[error("bounded_staleness needs reads that may be old: give workload.max_staleness")]
    NothingStale,
    #[error(
        "bounded_staleness does not go together with clock: a node measures the age of what it has with its own"
    )]
    StalenessByWrongClock,
    #[error("recovers needs a fault to recover from, the scenario has none")]
    NothingToRecover,
}

/// What a name is given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameOf {
    /// A node.
    Node,
    /// A zone.
    Zone,
    /// A network.
    Network,
}

impl fmt::Display for NameOf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Node => "node",
            Self::Zone => "zone",
            Self::Network => "network",
        })
    }
}

/// In quotes, escaped, and not longer than a line can hold.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 40;
    let shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    let cut = if shown.len() < text.len() { "..." } else { "" };
    format!("{shown:?}{cut}")
}

/// `0.1%`, as it is written.
fn percent_of(per_million: u32) -> String {
    format!("{}%", f64::from(per_million) / 1e4)
}

/// In the largest unit that keeps the number whole.
pub(super) fn human(duration: Duration) -> String {
    let us = duration.as_micros();
    match us {
        0 => "0s".to_owned(),
        _ if us.is_multiple_of(60_000_000) => format!("{}m", us / 60_000_000),
        _ if us.is_multiple_of(1_000_000) => format!("{}s", us / 1_000_000),
        _ if us.is_multiple_of(1_000) => format!("{}ms", us / 1_000),
        _ => format!("{us}us"),
    }
}

fn lost_for_good(within: Duration, replace_after: Option<Duration>) -> String {
    match replace_after {
        None => "nobody is put in the place of the one that is lost: set raft.replace_after".to_owned(),
        Some(after) => format!(
            "within is {}, more than raft.replace_after is needed, which is {}: the cluster waits for so long before it does anything",
            human(within),
            human(after)
        ),
    }
}

/// What joins a word nobody knows to the list of those that are known.
fn did_you_mean(close: Option<&str>) -> String {
    close.map_or_else(|| ":".to_owned(), |close| format!(", did you mean {close}?"))
}
