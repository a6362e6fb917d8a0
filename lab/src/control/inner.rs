//! The inner process of `lab up`: boots the cluster, keeps it up, answers calls, and stops it when it is asked to.

use std::io;
use std::net::TcpListener;
use std::os::fd::RawFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::about::{About, Prospect};
use super::lab::Lab;
use super::protocol::Status;
use super::{inherit, publish, server};
use crate::causes::causes;
use crate::cluster::ClusterError;
use crate::cluster::pace::Pace;
use crate::fabric::FabricKind;
use crate::limits::control::{CONTROL_FAREWELL_MAX, HAND_RATE, PUBLISH_IDLE_MAX};
use crate::limits::{BOOT_WAIT_MAX, LOOK_INTERVAL};
use crate::machine::driver::{Driver, DriverError, World, set_up};
use crate::plan::{self, NodeIndex, Plan};
use crate::program::Exit;
use crate::runner::boot::{self, BootError};
use crate::runner::record::{Conduct, Event, EventKind};
use crate::runner::{EventSink, Stage};
use crate::sandbox::{Control, Inner};
use crate::session::wire::{self, EVENTS, Wire};

/// First argument of the inner process of `lab up`; the second is its order.
pub const INNER: &str = "__up";

/// What the outer tells the inner to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    /// The run directory, absolute; plan.json is in it.
    pub(super) directory: PathBuf,
    /// What runs the nodes.
    pub(super) driver: Driver,
    /// What connects them.
    pub(super) fabric: FabricKind,
    /// How much slower than planned, if that is not left to the driver.
    pub(super) pace: Option<Pace>,
    /// Whether it has no terminal.
    pub(super) is_detached: bool,
    /// The process that the user can end.
    pub(super) pid: u32,
    /// The path of the control socket.
    pub(super) socket: PathBuf,
    /// The descriptor on which calls arrive.
    pub(super) control: RawFd,
    /// The port of the first node on the host.
    pub(super) publish: Option<u16>,
    /// The descriptors on which connections to the nodes arrive, one for each node where a port is published.
    pub(super) published: Vec<RawFd>,
}

/// What the inner tells the outer, a line each.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Message {
    /// Something happened.
    Event(Event),
    /// The cluster serves.
    Serving(Status),
    /// It is over.
    Done {
        /// What did not go as it should.
        problems: Vec<String>,
        /// The exit code.
        exit_code: u8,
    },
}

/// Why the inner process cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum InnerError {
    /// What the outer has sent.
    #[error("the order cannot be read")]
    Order(#[source] serde_json::Error),
    /// A file of the run directory.
    #[error("cannot use {name}")]
    File {
        /// Which.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A socket that the outer has opened.
    #[error("cannot use {what}, which was opened before the split")]
    Socket {
        /// Which.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The runtime.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// The machines.
    #[error("cannot set the cluster up")]
    SetUp(#[from] DriverError),
    /// The links.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The cluster.
    #[error("the cluster did not come up")]
    Boot(#[from] BootError),
    /// A node has ended; which, and its last words.
    #[error("{0}")]
    Ended(String),
    /// Nobody leads, or not everybody follows.
    #[error(
        "the nodes do not follow a leader within {} s; what each of them said is in {}",
        BOOT_WAIT_MAX.as_secs(),
        .0.join("nodes/NAME/console.log").display()
    )]
    NoLeader(PathBuf),
}

/// Sockets that were opened on the host.
struct Sockets {
    control: UnixListener,
    published: Vec<TcpListener>,
}

/// The exit code of a lab that this host cannot have.
const REFUSED: u8 = 3;

/// Does what the outer has ordered; the exit code.
///
/// # Errors
/// The order or the plan cannot be read. A cluster that does not come up is told to the outer, not returned.
pub fn run_inner(inner: Inner) -> Result<u8, InnerError> {
    let text = inner.arguments.get(1).map(|argument| argument.to_string_lossy().into_owned());
    let order: Order = serde_json::from_str(&text.unwrap_or_default()).map_err(InnerError::Order)?;
    // First of all, so that no program that is started gets them.
    let sockets = take_sockets(&order)?;
    let plan = wire::read_plan(&order.directory);
    let plan = Arc::new(plan.map_err(|source| InnerError::File { name: plan::FILE, source })?);
    let diary = Wire::create(&order.directory, inner.events).map(Diary);
    let diary = Arc::new(diary.map_err(|source| InnerError::File { name: EVENTS, source })?);
    let stop = Arc::new(watch::Sender::new(false));
    let (control, stopped) = (inner.control, stop.clone());
    let listener = std::thread::Builder::new().name("stop".into()).spawn(move || {
        while let Ok(Control::Stop) = control.recv() {
            stopped.send_replace(true);
        }
    });
    listener.map_err(InnerError::Runtime)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(InnerError::Runtime)?;
    let ended = runtime.block_on(keep(&order, plan, diary.clone(), sockets, stop));
    // A machine that is being started when the lab is to end is not waited for: it ends with the sandbox.
    runtime.shutdown_background();
    let (problems, exit_code) = match ended {
        Ok(problems) => {
            let exit_code = u8::from(!problems.is_empty());
            (problems, exit_code)
        }
        Err(error) => {
            let is_refused = matches!(&error, InnerError::SetUp(error) if error.is_refused());
            (vec![causes(&error)], if is_refused { REFUSED } else { 1 })
        }
    };
    diary.0.send(&Message::Done { problems, exit_code });
    Ok(exit_code)
}

fn take_sockets(order: &Order) -> Result<Sockets, InnerError> {
    let failed = |what| move |source| InnerError::Socket { what, source };
    let control = inherit::take(order.control).map_err(failed("the control socket"))?.into();
    let take = |fd: &RawFd| Ok(inherit::take(*fd).map_err(failed("a published port"))?.into());
    Ok(Sockets { control, published: order.published.iter().map(take).collect::<Result<_, InnerError>>()? })
}

/// Boots the cluster and keeps it up until it is to end; what did not go as it should at its stop.
async fn keep(
    order: &Order,
    plan: Arc<Plan>,
    diary: Arc<Diary>,
    sockets: Sockets,
    stop: Arc<watch::Sender<bool>>,
) -> Result<Vec<String>, InnerError> {
    // A sender for everybody who still has to send a reply.
    let (pending, mut answered) = mpsc::channel(1);
    let (announce, coming) = watch::channel(None);
    let about = about(order);
    let prospect = Arc::new(Prospect::new(about.clone(), plan.clone()));
    let porter = server::Porter { lab: coming, prospect, stop: stop.clone(), pending: pending.downgrade() };
    let failed = |what| move |source| InnerError::Socket { what, source };
    let mut tasks: Tasks = JoinSet::new();
    tasks.spawn(
        async move { server::serve(sockets.control, porter).await.map_err(failed("the control socket")) },
    );
    let ended = match make(order, &plan, &diary, stop.subscribe()).await {
        Ok(Some(World { cluster, clock, pace, shortage })) => {
            let about = About { slowdown: Some(pace.to_string()), ..about };
            let (sink, interrupt) = (diary.clone(), stop.subscribe());
            let stage = Stage { plan, cluster, clock, shortage, sink, interrupt };
            let lab = Arc::new(Lab::new(&stage, about, stop));
            announce.send_replace(Some(lab.clone()));
            work(&stage, &lab, &diary, sockets.published, &mut tasks).await
        }
        Ok(None) => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    // Whoever waits for a lab that never came learns that there is none.
    drop(announce);
    drop(pending);
    // Who does not take its answer must not keep the lab.
    let _ = timeout(CONTROL_FAREWELL_MAX, answered.recv()).await;
    ended
}

/// What goes on while a lab is up. Each goes on for ever, unless something is broken.
type Tasks = JoinSet<Result<(), InnerError>>;

/// What can be said of the lab as soon as it is ordered.
fn about(order: &Order) -> About {
    About {
        directory: order.directory.clone(),
        pid: order.pid,
        driver: order.fabric.beside(&order.driver.name()),
        slowdown: order.pace.map(|pace| pace.to_string()),
        publish: order.publish,
    }
}

/// Makes the machines, and measures them where that is needed; nothing if the lab is to end before that.
async fn make(
    order: &Order,
    plan: &Plan,
    diary: &Diary,
    mut interrupt: watch::Receiver<bool>,
) -> Result<Option<World>, InnerError> {
    let mut tell = |text: String| {
        let (kind, subject) = (EventKind::Phase, "slowdown".to_owned());
        diary.event(&Event { at_ns: 0, kind, subject, text });
    };
    let asked = Arc::new(asked_by_hand(plan));
    tokio::select! {
        made = set_up(&order.driver, order.fabric, order.pace, &asked, &order.directory, None, &mut tell) => Ok(Some(made?)),
        // The sender lives as long as the lab.
        _ = interrupt.wait_for(|is_wanted| *is_wanted) => Ok(None),
    }
}

/// From no node to a cluster that serves, and to its end.
async fn work(
    stage: &Stage,
    lab: &Arc<Lab>,
    diary: &Diary,
    published: Vec<TcpListener>,
    tasks: &mut Tasks,
) -> Result<Vec<String>, InnerError> {
    let mut interrupt = stage.interrupt.clone();
    start_tasks(lab, &stage.plan, published, tasks);
    let up = tokio::select! {
        up = bring_up(stage, lab, diary) => up,
        // Whatever is waited for. The sender lives as long as the lab.
        _ = interrupt.wait_for(|is_wanted| *is_wanted) => Err(BootError::Interrupted.into()),
    };
    if let Err(error) = up {
        lab.let_go();
        return match error {
            InnerError::Boot(BootError::Interrupted) => Ok(Vec::new()),
            error => Err(error),
        };
    }
    let deaths = lab.clone();
    tasks.spawn(async move {
        deaths.watch_deaths().await;
        Ok(())
    });
    let held = tokio::select! {
        // The sender lives as long as the lab.
        _ = interrupt.wait_for(|is_wanted| *is_wanted) => Ok(()),
        Some(ended) = tasks.join_next() => match ended {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        },
    };
    let problems = lab.stop_nodes().await;
    held.map(|()| problems)
}

/// The plan without its load: nobody but the user asks anything of the nodes.
pub(super) fn asked_by_hand(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    plan.workload.rate_per_s = HAND_RATE;
    plan.workload.readers.clear();
    // Nothing breaks but by hand.
    plan.steps.clear();
    plan
}

/// What goes on beside the boot and after it.
fn start_tasks(lab: &Arc<Lab>, plan: &Plan, published: Vec<TcpListener>, tasks: &mut Tasks) {
    let failed = |source| InnerError::Socket { what: "a published port", source };
    let permits = publish::permits();
    for (node, listener) in plan.node_indexes().zip(published) {
        let relay = publish::serve(
            listener,
            lab.address(node),
            lab.watch_power(node),
            permits.clone(),
            PUBLISH_IDLE_MAX,
        );
        tasks.spawn(async move { relay.await.map_err(failed) });
    }
    for node in plan.node_indexes() {
        let lab = lab.clone();
        tasks.spawn(async move {
            lab.watch(node).await;
            Ok(())
        });
    }
}

/// Starts every node and founds the cluster; returns when somebody leads, and the outer has been told.
async fn bring_up(stage: &Stage, lab: &Lab, diary: &Diary) -> Result<(), InnerError> {
    lab.note_started();
    let conduct = Conduct::new(stage.clock.clone(), stage.sink.clone(), Box::new(io::sink()));
    let failed = |error| match error {
        BootError::Ended => InnerError::Ended(last_words(stage)),
        error => error.into(),
    };
    boot::start(stage, &conduct).await.map_err(failed)?;
    // They meet for the first time over links as the scenario has them.
    lab.stand()?;
    boot::found(stage, &conduct).await.map_err(failed)?;
    let deadline = stage.clock.now() + BOOT_WAIT_MAX;
    while !lab.is_settled() {
        if stage.clock.now() >= deadline {
            return Err(InnerError::NoLeader(lab.directory().to_owned()));
        }
        stage.clock.sleep(LOOK_INTERVAL).await;
    }
    lab.note_serving();
    if let Ok(status) = lab.status() {
        diary.0.send(&Message::Serving(status));
    }
    Ok(())
}

/// How the nodes that have ended at their start ended, and the last that they printed.
fn last_words(stage: &Stage) -> String {
    let words = |(node, exit): (NodeIndex, Exit)| {
        let name = &stage.plan.nodes[node.position()].name;
        format!(
            "node {name} ended at its start: {exit}; the end of its console:\n{}",
            stage.cluster.console_end(node)
        )
    };
    stage.cluster.deaths().into_iter().map(words).collect::<Vec<_>>().join("\n")
}

/// Keeps events.jsonl, and tells the outer.
struct Diary(Wire);

impl EventSink for Diary {
    fn event(&self, event: &Event) {
        self.0.keep(event);
        self.0.send(&Message::Event(event.clone()));
    }
}
