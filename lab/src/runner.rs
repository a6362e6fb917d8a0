//! The one loop of a run, and all its control flow: boot, load, break, heal, settle, judge.
//!
//! It drives any [`Cluster`] by any [`Clock`], and knows neither processes nor files beyond the run directory.

pub mod boot;
mod faults;
mod links;
mod observe;
mod proofs;
pub mod record;
pub mod settle;
mod standing;

use std::fmt::Debug;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::faults::Breaker;
use self::links::Links;
use self::observe::Observer;
use self::record::{Conduct, Costs, Event, EventKind, RunRecord};
use self::standing::Standing;
use crate::causes::causes;
use crate::cluster::{Clock, Cluster, ClusterError, Footprint};
use crate::limits::{DRAIN_MAX, FIRST_ANSWER_MAX, LOOK_INTERVAL, PROGRESS_INTERVAL};
use crate::plan::{NodeIndex, Plan, PlannedCheck, PlannedClient};
use crate::program::Exit;
use crate::target::Dialect;
use crate::workload::client::{Client, Load, LoadCounts, nanos};
use crate::workload::register::RegisterClient;

/// Takes what happens, while it happens.
pub trait EventSink: Send + Sync {
    /// Something happened that a person may want to read.
    fn event(&self, event: &Event);

    /// How far a run with a load is.
    fn progress(&self, _at: Duration, _of: Duration, _counts: LoadCounts) {}
}

/// What a run needs from outside.
pub struct Stage {
    /// The plan.
    pub plan: Arc<Plan>,
    /// The cluster, with its network up and no node started.
    pub cluster: Arc<dyn Cluster>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What was measured of a host that is too slow for the plan at any pace.
    pub shortage: Option<String>,
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
    /// The observations could not be written.
    #[error("the observations cannot be written")]
    Observations(#[source] std::io::Error),
}

/// Where a run writes what it need not keep in memory.
pub struct Files {
    /// Every call and every answer of the clients.
    pub history: Box<dyn Write + Send>,
    /// What was seen of the nodes.
    pub observations: Box<dyn Write + Send>,
}

impl Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").finish_non_exhaustive()
    }
}

/// Runs a plan to its end, and returns what happened.
///
/// # Errors
/// The cluster does not come up, or the driver or one of the files fails.
pub async fn run(stage: Stage, files: Files) -> Result<RunRecord, RunError> {
    let conduct = Arc::new(Conduct::new(stage.clock.clone(), stage.sink.clone(), files.observations));
    let load = Arc::new(Load::new(stage.clock.clone(), files.history, stage.plan.workload.reads));
    let links = Arc::new(Links::new(&stage));
    let began = stage.clock.now();
    let standing = match boot(&stage, &conduct, &links).await {
        Ok(standing) => standing,
        // A node that ends at its start is judged like one that ends later.
        Err(RunError::Boot(boot::BootError::Ended)) => {
            return Ok(conduct.record(
                stage.clock.now(),
                stage.clock.now(),
                load.counts(),
                None,
                None,
                false,
            ));
        }
        Err(error) => return Err(error),
    };
    let observer = Observer::start(&stage, &conduct);
    let mut clients = start_clients(&stage, &load);
    let origin = first_answer(&stage, &load).await;
    let pressure_before = stage.cluster.pressure();
    conduct.event(EventKind::Phase, "load", format!("{} clients", clients.len()));
    let breaker = Breaker::new(&stage, conduct.clone(), observer.watch(), origin, links);
    let held = hold(&stage, &load, &conduct, breaker, origin).await;
    load.stop();
    let load_ended = stage.clock.now();
    let pressure =
        stage.cluster.pressure().zip(pressure_before).map(|(now, before)| now.share_since(&before));
    conduct.event(EventKind::Phase, "settle", "the load ends");
    drain(&stage, &conduct, &mut clients).await;
    let outside = observer.watch().outside();
    let settled = if *stage.interrupt.borrow() || conduct.has_deaths() || held.is_err() {
        None
    } else {
        settle::settle(&stage, &conduct, &load, &outside).await
    };
    if let Err(error) = standing.end(&conduct) {
        conduct.defect(causes(&error));
    }
    observer.stop().await;
    note_deaths(&stage, &conduct);
    let costs =
        Costs { up_ns: nanos(origin.saturating_sub(began)), nodes: footprints(&stage).await, pressure };
    stop_nodes(&stage, &conduct).await;
    for defect in stage.cluster.defects() {
        conduct.defect(defect);
    }
    if let Err(error) = held {
        conduct.defect(causes(&error));
    }
    load.finish().map_err(RunError::History)?;
    conduct.finish_observations().map_err(RunError::Observations)?;
    let is_interrupted = *stage.interrupt.borrow();
    let shortage = stage.shortage.clone();
    let record = conduct.record(origin, load_ended, load.counts(), settled, Some(costs), is_interrupted);
    Ok(RunRecord { shortage, ..record })
}

/// From a network without nodes to a cluster that serves. Its nodes meet for the first time over links as the scenario has
/// them.
async fn boot(stage: &Stage, conduct: &Conduct, links: &Arc<Links>) -> Result<Standing, RunError> {
    boot::start(stage, conduct).await?;
    let standing = Standing::begin(stage, links.clone()).await?;
    boot::found(stage, conduct).await?;
    Ok(standing)
}

/// What every node takes of its host that runs.
async fn footprints(stage: &Stage) -> Vec<(NodeIndex, Footprint)> {
    let asked = stage.plan.node_indexes().map(|node| async move {
        let footprint = stage.cluster.footprint(node).await.ok()?;
        Some((node, footprint))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Lets every client finish its last operation, which is bounded.
async fn drain(stage: &Stage, conduct: &Conduct, clients: &mut JoinSet<()>) {
    let finished = async {
        while let Some(ended) = clients.join_next().await {
            if let Err(error) = ended {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    };
    tokio::select! {
        biased;
        () = finished => {}
        () = stage.clock.sleep(DRAIN_MAX) => conduct.defect("some clients did not finish".to_owned()),
    }
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
    let mut end = origin + duration;
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
        let is_over = now >= end && is_broken;
        if is_over || conduct.has_deaths() || *interrupt.borrow() {
            return Ok(());
        }
        tokio::select! {
            biased;
            done = &mut breaking, if !is_broken => {
                done?;
                is_broken = true;
                // Long enough to see a recovery that is still in time.
                end = end.max(stage.clock.now() + recovery_time(&stage.plan));
            }
            () = stage.clock.sleep(LOOK_INTERVAL) => {}
            // The sender lives as long as the run.
            _ = interrupt.changed() => {}
        }
    }
}

/// How long after the last fault the load has to go on.
fn recovery_time(plan: &Plan) -> Duration {
    let within = plan.checks.iter().map(|check| match check {
        PlannedCheck::Recovers { within_ms } => Duration::from_millis(*within_ms),
        _ => Duration::ZERO,
    });
    within.max().unwrap_or_default()
}

/// Notes nodes that ended by themselves.
fn note_deaths(stage: &Stage, conduct: &Conduct) {
    for (node, exit) in stage.cluster.deaths() {
        conduct.death(&*stage.cluster, node, stage.name(node), &exit.to_string());
    }
}

/// The time of the first answered operation, with which a scenario's time begins.
async fn first_answer(stage: &Stage, load: &Load) -> Duration {
    let deadline = stage.clock.now() + FIRST_ANSWER_MAX;
    loop {
        if let Some(time) = load.first_answer() {
            return time;
        }
        // A cluster that answers nothing is judged like any other, from now on.
        let is_dead = !stage.cluster.deaths().is_empty();
        if stage.clock.now() >= deadline || is_dead || *stage.interrupt.borrow() {
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
            // Those who only read: what the others learn has to be what is there.
            max_staleness_ms: workload.max_staleness_ms.filter(|_| is_pinned),
            dialect: Dialect::of(plan),
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

/// Asks every node to stop, all at once. One that does not stop cleanly has failed.
async fn stop_nodes(stage: &Stage, conduct: &Conduct) {
    let stops = stage.plan.node_indexes().map(|node| async move {
        if conduct.is_dead(node) || conduct.retired().contains(&node) {
            return;
        }
        match stage.cluster.stop(node).await {
            Ok(exit) if exit == stage.plan.target.clean_exit() => {}
            // A run that is cut short may have left it dead, as the plan wanted.
            Ok(Exit::Signal(9)) | Err(_) if conduct.is_cut_short(node) => {}
            Ok(exit) => {
                conduct.death(&*stage.cluster, node, stage.name(node), &exit.to_string());
            }
            Err(error) => {
                conduct.death(&*stage.cluster, node, stage.name(node), &causes(&error));
            }
        }
    });
    join_all(stops).await;
}
