//! The one loop of a run, and all its control flow: boot, load, break, heal, settle, judge.
//!
//! It drives any [`Cluster`] by any [`Clock`], and knows neither processes nor files beyond the run directory.

pub mod boot;
mod faults;
mod observe;
pub mod record;

use std::fmt::Debug;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::faults::Breaker;
use self::observe::Observer;
use self::record::{Conduct, Event, EventKind, RunRecord};
use crate::cluster::{Clock, Cluster, ClusterError};
use crate::limits::{CLIENT_TIMEOUT, LOOK_INTERVAL, PROGRESS_INTERVAL};
use crate::plan::{NodeIndex, Plan, PlannedClient};
use crate::workload::client::{Client, Load, LoadCounts};
use crate::workload::register::RegisterClient;

/// Takes what happens, while it happens.
pub trait EventSink: Send + Sync {
    /// Something happened that a person may want to read.
    fn event(&self, event: &Event);

    /// How far the run is.
    fn progress(&self, at: Duration, of: Duration, counts: LoadCounts);
}

/// What a run needs from outside.
pub struct Stage {
    /// The plan.
    pub plan: Arc<Plan>,
    /// The cluster, with its network up and no node started.
    pub cluster: Arc<dyn Cluster>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who is told.
    pub sink: Arc<dyn EventSink>,
    /// Turns true when the run is to end early.
    pub interrupt: watch::Receiver<bool>,
}

impl Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("scenario", &self.plan.scenario).finish_non_exhaustive()
    }
}

impl Stage {
    fn name(&self, node: NodeIndex) -> &str {
        &self.plan.nodes[node.position()].name
    }
}

/// Why a run came to no end that could be judged.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The cluster did not come up.
    #[error(transparent)]
    Boot(#[from] boot::BootError),
    /// The driver failed.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The history could not be written.
    #[error("the history cannot be written")]
    History(#[source] std::io::Error),
}

/// Runs a plan to its end, and returns what happened; the history is written to `history`.
///
/// # Errors
/// The cluster does not come up, or the driver or the history's file fails.
pub async fn run(stage: Stage, history: Box<dyn Write + Send>) -> Result<RunRecord, RunError> {
    let conduct = Arc::new(Conduct::new(stage.clock.clone(), stage.sink.clone()));
    boot::boot(&stage, &conduct).await?;
    let load = Arc::new(Load::new(stage.clock.clone(), history));
    let observer = Observer::start(&stage, &conduct);
    let mut clients = start_clients(&stage, &load);
    conduct.event(EventKind::Phase, "load", format!("{} clients", clients.len()));
    let origin = first_answer(&stage, &load).await;
    let breaker = Breaker::new(&stage, conduct.clone(), observer.watch(), origin);
    let held = hold(&stage, &load, &conduct, breaker, origin).await;
    load.stop();
    let load_ended = stage.clock.now();
    conduct.event(EventKind::Phase, "settle", "the load ends");
    // Every client finishes its last operation, which is bounded.
    let drained = async { while clients.join_next().await.is_some() {} };
    if tokio::time::timeout(CLIENT_TIMEOUT * 2, drained).await.is_err() {
        conduct.event(EventKind::Warning, "clients", "some clients did not finish");
    }
    observer.stop().await;
    stop_nodes(&stage, &conduct).await;
    load.finish().map_err(RunError::History)?;
    held?;
    let is_interrupted = *stage.interrupt.borrow();
    Ok(conduct.record(origin, load_ended, load.counts(), is_interrupted))
}

/// Keeps the load up until its time is over and every fault is done, or until the run is to end early. Faults run
/// beside it; one that is cut short leaves no receipt.
async fn hold(
    stage: &Stage,
    load: &Load,
    conduct: &Conduct,
    breaker: Breaker,
    origin: Duration,
) -> Result<(), RunError> {
    let duration = Duration::from_millis(stage.plan.duration_ms);
    let mut interrupt = stage.interrupt.clone();
    let breaking = breaker.run();
    tokio::pin!(breaking);
    let mut is_broken = false;
    let mut next_progress = origin;
    loop {
        let now = stage.clock.now();
        if now >= next_progress {
            stage.sink.progress(now.saturating_sub(origin), duration, load.counts());
            next_progress = now + PROGRESS_INTERVAL;
        }
        note_deaths(stage, conduct);
        let is_over = now >= origin + duration && is_broken;
        if is_over || conduct.has_deaths() || *interrupt.borrow() {
            return Ok(());
        }
        tokio::select! {
            done = &mut breaking, if !is_broken => {
                done?;
                is_broken = true;
            }
            () = stage.clock.sleep(LOOK_INTERVAL) => {}
            // The sender lives as long as the run.
            _ = interrupt.changed() => {}
        }
    }
}

/// Notes nodes that ended by themselves.
fn note_deaths(stage: &Stage, conduct: &Conduct) {
    for (node, exit) in stage.cluster.deaths() {
        let name = stage.name(node).to_owned();
        conduct.death(node, name, exit, stage.cluster.console_end(node));
    }
}

/// The time of the first answered operation, with which a scenario's time begins.
async fn first_answer(stage: &Stage, load: &Load) -> Duration {
    loop {
        if let Some(time) = load.first_answer() {
            return time;
        }
        // A cluster that answers nothing is judged like any other, from now on.
        if stage.clock.now() > crate::limits::BOOT_WAIT_MAX * 2 || *stage.interrupt.borrow() {
            return stage.clock.now();
        }
        stage.clock.sleep(LOOK_INTERVAL).await;
    }
}

fn start_clients(stage: &Stage, load: &Arc<Load>) -> JoinSet<()> {
    let plan = &stage.plan;
    let names: Arc<[String]> = plan.nodes.iter().map(|node| node.name.clone()).collect();
    let workload = &plan.workload;
    let per_client = |rate: u32, count: usize| {
        Duration::from_secs(1) * u32::try_from(count).unwrap_or(u32::MAX) / rate.max(1)
    };
    let mut clients = JoinSet::new();
    let mut start = |planned: &PlannedClient, is_pinned: bool, interval: Duration| {
        let name = format!("{}{}", if is_pinned { "r" } else { "c" }, planned.id);
        let mut mix = workload.mix;
        if is_pinned {
            (mix.read, mix.write, mix.cas) = (100, 0, 0);
        }
        let random = ChaCha8Rng::from_seed(planned.seed.0);
        let client = Client {
            choices: RegisterClient::new(name.clone(), workload.keys, mix, random),
            name,
            node: planned.node,
            is_pinned,
            interval,
            node_names: names.clone(),
        };
        clients.spawn(client.run(load.clone(), stage.cluster.clone()));
    };
    for client in &workload.clients {
        start(client, false, per_client(workload.rate_per_s, workload.clients.len()));
    }
    for reader in &workload.readers {
        start(reader, true, per_client(workload.reader_rate_per_s, 1));
    }
    clients
}

async fn stop_nodes(stage: &Stage, conduct: &Conduct) {
    for node in stage.plan.node_indexes() {
        // A node that is dead already has been noted.
        if let Err(error) = stage.cluster.stop(node).await
            && !conduct.has_deaths()
        {
            conduct.event(EventKind::Warning, "stop", error.to_string());
        }
    }
}
