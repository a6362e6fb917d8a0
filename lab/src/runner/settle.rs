//! After the load: waits until every member holds the same state, and then reads every key from each of them.
//!
//! The reads join the history as those of clients of their own. A member's own answer (a stale read) is written down only
//! if all members stood at one and the same entry before and after all of the reads: then each answer has to fit the
//! order of everything that was acknowledged, as if it were linearizable.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use serde_json::Value as Json;

use super::Stage;
use super::observe::{contents, log_digest, state_digest};
use super::record::{Conduct, EventKind, Settled};
use crate::cluster::Response;
use crate::history::{Op, Outcome};
use crate::limits::{
    CLIENT_TIMEOUT, LOOK_INTERVAL, OBSERVE_INTERVAL, SETTLE_LOG_ENTRIES_MAX, SETTLE_MAX,
    SETTLE_READS_IN_FLIGHT, STATE_DIGEST_INTERVAL,
};
use crate::observations::{NodeState, Role};
use crate::plan::{NodeIndex, PlannedCheck, Target};
use crate::target::Dialect;
use crate::workload::client::{Load, Reading};
use crate::workload::register;

/// The name of the client whose reads here are linearizable. A member's own answers go to a client of this name, a
/// hyphen and the member's name.
pub const CLIENT: &str = "settle";

/// Why the members cannot be compared yet.
#[derive(Debug, thiserror::Error)]
enum NotSettled {
    #[error("{0} does not answer")]
    Silent(String),
    #[error("{node} does not answer a read of {key}")]
    ReadSilent { node: String, key: String },
    #[error("no member leads")]
    NoLeader,
    #[error("{node} has applied {applied}, the log goes to entry {last}")]
    Behind { node: String, applied: String, last: u64 },
    #[error("the log grew from entry {before} to {after} while the keys were read")]
    Grew { before: u64, after: u64 },
    #[error("{node} answered {key} as of {found}, not as of entry {index}")]
    OtherEntry { node: String, key: String, found: Json, index: u64 },
}

/// Waits and reads, if a check of the plan asks for it.
pub(super) async fn settle(
    stage: &Stage,
    conduct: &Conduct,
    load: &Load,
    outside: &BTreeSet<NodeIndex>,
) -> Option<Settled> {
    let is_wanted = |check: &PlannedCheck| matches!(check, PlannedCheck::Durable | PlannedCheck::Raft);
    if !stage.plan.checks.iter().any(is_wanted) {
        return None;
    }
    let retired = conduct.retired();
    let is_member = |node: &NodeIndex| !retired.contains(node) && !outside.contains(node);
    let members: Vec<NodeIndex> = stage.plan.node_indexes().filter(is_member).collect();
    let deadline = stage.clock.now() + SETTLE_MAX;
    loop {
        let problem = match round(stage, &members).await {
            Ok((held, readings)) => {
                let index = *held.end();
                load.record_reads(&readings);
                if stage.plan.target.has_digests() {
                    compare(stage, conduct, &members, held).await;
                }
                let text = format!("every member holds entry {index}, {} reads", readings.len());
                conduct.event(EventKind::Phase, "settled", text);
                let reads_count = readings.len() as u64;
                return Some(Settled { index: Some(index), reads_count, problem: None });
            }
            Err(problem) => problem.to_string(),
        };
        if *stage.interrupt.borrow() {
            return None;
        }
        if stage.clock.now() >= deadline {
            conduct.event(EventKind::Warning, "settle", problem.clone());
            return Some(Settled { index: None, reads_count: 0, problem: Some(problem) });
        }
        stage.clock.sleep(LOOK_INTERVAL).await;
    }
}

/// One try: the entries that every member holds and has applied, and every key's readings; or what stands against it.
async fn round(
    stage: &Stage,
    members: &[NodeIndex],
) -> Result<(RangeInclusive<u64>, Vec<Reading>), NotSettled> {
    let index = *common_log(stage, members).await?.end();
    let keys = 0..stage.plan.workload.keys;
    let mut readings = Vec::new();
    let own = members.iter().map(|node| {
        let node = *node;
        let client = format!("{CLIENT}-{}", stage.name(node));
        read_keys(stage, node, client, keys.clone().collect(), Some(index))
    });
    readings.extend(try_join_all(own).await?.concat());
    // Every node has its share of the linearizable ones.
    let shares = members.iter().enumerate().map(|(position, node)| {
        let share = keys.clone().skip(position).step_by(members.len()).collect();
        read_keys(stage, *node, CLIENT.to_owned(), share, None)
    });
    readings.extend(try_join_all(shares).await?.concat());
    // Some of it may have been purged meanwhile.
    let held = common_log(stage, members).await?;
    let after = *held.end();
    if after != index {
        return Err(NotSettled::Grew { before: index, after });
    }
    Ok((held, readings))
}

/// The entries that every member's log holds, if all have applied the last one and one of them leads. Where each has
/// purged others, none but the last may be left.
async fn common_log(stage: &Stage, members: &[NodeIndex]) -> Result<RangeInclusive<u64>, NotSettled> {
    let asked = members.iter().map(|node| async move {
        let node = *node;
        let answer = stage.plan.target.state(stage.cluster.channel(node).as_mut()).await;
        answer.ok_or_else(|| NotSettled::Silent(stage.name(node).to_owned()))
    });
    let states: Vec<NodeState> = join_all(asked).await.into_iter().collect::<Result<_, _>>()?;
    if !states.iter().any(|state| state.role == Role::Leader) {
        return Err(NotSettled::NoLeader);
    }
    let last = states.iter().filter_map(|state| state.last_log_index).max().unwrap_or(0);
    for (node, state) in members.iter().copied().zip(&states) {
        let applied = state.applied.map(|position| position.index);
        if applied != Some(last) || state.last_log_index != applied {
            let applied = applied.map_or_else(|| "nothing".to_owned(), |applied| format!("entry {applied}"));
            return Err(NotSettled::Behind { node: stage.name(node).to_owned(), applied, last });
        }
    }
    let purged = states.iter().filter_map(|state| state.purged).map(|purged| purged.index).max();
    Ok(purged.map_or(0, |purged| (purged + 1).min(last))..=last)
}

/// Reads keys through one node: its own answers, all of entry `index`, or linearizably.
async fn read_keys(
    stage: &Stage,
    node: NodeIndex,
    client: String,
    keys: Vec<u32>,
    index: Option<u64>,
) -> Result<Vec<Reading>, NotSettled> {
    let dialect = Dialect::of_lab(&stage.plan);
    // Where an answer does not name its entry, those before and after it must: nothing was applied in between.
    let named = index.filter(|_| stage.plan.target == Target::Aspen);
    let per_worker = keys.len().div_ceil(SETTLE_READS_IN_FLIGHT).max(1);
    let request = |dialect: Dialect, key: &str| match index {
        None => dialect.request(key, &Op::Read),
        Some(_) => dialect.stale_request(key),
    };
    let workers = keys.chunks(per_worker).map(|keys| {
        let client = &client;
        async move {
            let mut channel = stage.cluster.channel(node);
            let mut readings = Vec::new();
            for key in keys {
                let key = register::key(*key);
                let called = stage.clock.now();
                let answer = channel.request(request(dialect, &key), CLIENT_TIMEOUT).await;
                let returned = stage.clock.now();
                if let (Ok(response), Some(index)) = (&answer, named) {
                    is_of_entry(response, index).map_err(|found| {
                        let (node, key) = (stage.name(node).to_owned(), key.clone());
                        NotSettled::OtherEntry { node, key, found, index }
                    })?;
                }
                let Outcome::Read { value } = dialect.outcome(&Op::Read, answer) else {
                    return Err(NotSettled::ReadSilent { node: stage.name(node).to_owned(), key });
                };
                let (client, node) = (client.clone(), stage.name(node).to_owned());
                readings.push(Reading { client, node, key, called, returned, value });
            }
            Ok(readings)
        }
    });
    Ok(try_join_all(workers).await?.concat())
}

/// Whether an answer is of the state right after an entry; if not, of which it is.
fn is_of_entry(response: &Response, index: u64) -> Result<(), Json> {
    let found = match &response.body["revision"] {
        Json::Null => &response.body["error"]["revision"],
        found => found,
    };
    if found.as_u64() == Some(index) { Ok(()) } else { Err(found.clone()) }
}

/// Asks every member for the same digests, of the entries that they all hold.
async fn compare(stage: &Stage, conduct: &Conduct, members: &[NodeIndex], held: RangeInclusive<u64>) {
    let index = *held.end();
    let first = (index + 1).saturating_sub(SETTLE_LOG_ENTRIES_MAX).max(*held.start());
    let range_max = aspen_node::limits::LOG_DIGEST_RANGE_MAX;
    let asked = members.iter().map(|node| async move {
        let node = *node;
        let mut channel = stage.cluster.channel(node);
        for at in [index, index - index % STATE_DIGEST_INTERVAL] {
            if let Some(seen) = state_digest(channel.as_mut(), at).await {
                conduct.observe(node, seen);
            }
        }
        if let Some(seen) = contents(channel.as_mut(), index).await {
            conduct.observe(node, seen);
        }
        let mut from = first;
        while from <= index {
            let to = index.min(from + range_max - 1);
            if let Some(seen) = log_digest(channel.as_mut(), from, to).await {
                conduct.observe(node, seen);
            }
            from = to + 1;
        }
    });
    join_all(asked).await;
    // The last states are among the observations, too.
    stage.clock.sleep(OBSERVE_INTERVAL + Duration::from_millis(1)).await;
}
