//! From a network without nodes to a cluster with a leader.

use std::time::Duration;

use super::Stage;
use super::record::{Conduct, EventKind};
use crate::check::counted;
use crate::cluster::{ClusterError, Request};
use crate::limits::{BOOT_WAIT_MAX, LOOK_INTERVAL, OBSERVE_TIMEOUT};
use crate::plan::NodeIndex;
use crate::target::{HEALTH, cluster_status};

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A node could not be started.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A node does not answer.
    #[error("node {name} does not answer within {} s; the end of its console:\n{console_end}", BOOT_WAIT_MAX.as_secs())]
    Silent {
        /// Which node.
        name: String,
        /// The last that it printed.
        console_end: String,
    },
    /// A node has ended; the notebook says which.
    #[error("a node ended at its start")]
    Ended,
    /// The cluster could not be founded.
    #[error("node {name} does not found the cluster: {answer}")]
    Init {
        /// Which node was asked.
        name: String,
        /// What it answered.
        answer: String,
    },
    /// The nodes have not all found each other, or not enough of them vote.
    #[error(
        "{members} members have joined and {voters} vote within {} s, {want} were to vote: see the nodes' consoles",
        BOOT_WAIT_MAX.as_secs()
    )]
    Apart {
        /// Who has joined.
        members: usize,
        /// Who votes.
        voters: usize,
        /// How many were to.
        want: usize,
    },
    /// The user has ended the run.
    #[error("the run was ended before the cluster was up")]
    Interrupted,
}

/// Starts every node, and waits until all of them answer. They are no cluster yet, and have nothing to say to each other, unless they join
/// one by themselves: then they do not answer before they are members.
pub(crate) async fn start(stage: &Stage, conduct: &Conduct) -> Result<(), BootError> {
    conduct.event(EventKind::Phase, "boot", counted(stage.plan.nodes.len() as u64, "node"));
    let deadline = stage.clock.now() + BOOT_WAIT_MAX;
    for node in stage.plan.node_indexes() {
        stage.cluster.start(node).await?;
    }
    for node in stage.plan.node_indexes() {
        await_ok(stage, conduct, node, &stage.plan.target.alive_request(), deadline).await?;
    }
    Ok(())
}

/// Founds the cluster, and waits until every founder serves.
pub(crate) async fn found(stage: &Stage, conduct: &Conduct) -> Result<(), BootError> {
    let deadline = stage.clock.now() + BOOT_WAIT_MAX;
    let first = NodeIndex(0);
    if let Some(init) = stage.plan.target.found_request(&stage.plan) {
        let refusal = match stage.cluster.channel(first).request(init, BOOT_WAIT_MAX).await {
            Ok(response) if response.status == 200 => None,
            Ok(response) => Some(format!("{} {}", response.status, response.body)),
            Err(error) => Some(error.to_string()),
        };
        if let Some(answer) = refusal {
            return Err(BootError::Init { name: stage.name(first).to_owned(), answer });
        }
    }
    for node in stage.plan.founders() {
        await_ok(stage, conduct, node, &Request::get(HEALTH), deadline).await?;
    }
    match stage.plan.joins {
        Some(joins) => await_voters(stage, conduct, joins.voters.into(), deadline).await,
        None => Ok(()),
    }
}

/// Waits until every node is a member and as many vote as should, by the first one's word.
async fn await_voters(
    stage: &Stage,
    conduct: &Conduct,
    want: usize,
    deadline: Duration,
) -> Result<(), BootError> {
    let mut channel = stage.cluster.channel(NodeIndex(0));
    // Before a change is done, a voter of before may not be missed.
    let (mut seen, mut is_changing) = ((0, 0), true);
    loop {
        if let Some(status) = cluster_status(channel.as_mut()).await {
            seen = (status.members.len(), status.members.iter().filter(|member| member.is_voter).count());
            is_changing = status.is_changing;
        }
        if seen == (stage.plan.nodes.len(), want) && !is_changing {
            conduct.event(EventKind::Phase, "joined", format!("{} members, {want} of them vote", seen.0));
            return Ok(());
        }
        go_on(stage, conduct)?;
        if stage.clock.now() >= deadline {
            let (members, voters) = seen;
            return Err(BootError::Apart { members, voters, want });
        }
        stage.clock.sleep(LOOK_INTERVAL).await;
    }
}

/// Whether there is still something to wait for.
fn go_on(stage: &Stage, conduct: &Conduct) -> Result<(), BootError> {
    if *stage.interrupt.borrow() {
        return Err(BootError::Interrupted);
    }
    super::note_deaths(stage, conduct);
    if conduct.has_deaths() { Err(BootError::Ended) } else { Ok(()) }
}

/// Asks a node until it answers with 200.
async fn await_ok(
    stage: &Stage,
    conduct: &Conduct,
    node: NodeIndex,
    request: &Request,
    deadline: Duration,
) -> Result<(), BootError> {
    let mut channel = stage.cluster.channel(node);
    loop {
        let answer = channel.request(request.clone(), OBSERVE_TIMEOUT).await;
        if answer.is_ok_and(|response| response.status == 200) {
            return Ok(());
        }
        go_on(stage, conduct)?;
        if stage.clock.now() >= deadline {
            return Err(BootError::Silent {
                name: stage.name(node).to_owned(),
                console_end: stage.cluster.console_end(node),
            });
        }
        stage.clock.sleep(LOOK_INTERVAL).await;
    }
}
