//! The inner process: sets the cluster up, runs the plan, judges, and writes the report.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::wire::{self, EVENTS, Wire};
use super::{Message, Order};
use crate::causes::causes;
use crate::check::linearizable::Budget;
use crate::check::{self, Evidence, Status, Verdict};
use crate::cli::SabotageArg;
use crate::cluster::pace::Pace;
use crate::fabric;
use crate::history::{History, read_history};
use crate::machine::Sabotage;
use crate::machine::driver::{Driver, DriverError, World, set_up};
use crate::observations::{Observation, ObservationsError, read_observations};
use crate::plan::{self, Plan};
use crate::report::{self, Report, Sources};
use crate::runner::boot::BootError;
use crate::runner::record::{Event, EventKind, RunRecord};
use crate::runner::{self, EventSink, Files, RunError, Stage};
use crate::sandbox::{Control, Inner};
use crate::workload::client::LoadCounts;

/// Why the inner process cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum InnerError {
    /// What the outer has sent.
    #[error("the order cannot be read")]
    Order(#[source] serde_json::Error),
    /// plan.json or history.jsonl.
    #[error("cannot use {name}")]
    File {
        /// Which file of the run directory.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The history that was just written cannot be read.
    #[error("history.jsonl cannot be judged")]
    History(#[from] crate::history::HistoryError),
    /// The observations that were just written cannot be read.
    #[error("observations.jsonl cannot be judged")]
    Observations(#[from] ObservationsError),
    /// The runtime.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// The machines.
    #[error("cannot set the cluster up")]
    SetUp(#[from] DriverError),
    /// The run.
    #[error("the run was aborted")]
    Run(#[from] RunError),
}

/// The exit code of a run that this host cannot begin.
const REFUSED: u8 = 3;

/// Does what the outer has ordered; the exit code of the run.
///
/// # Errors
/// The order or the plan cannot be read. A run that fails is reported, not returned.
pub fn run_inner(inner: Inner) -> Result<u8, InnerError> {
    let text = inner.arguments.first().map(|argument| argument.to_string_lossy().into_owned());
    let order: Order = serde_json::from_str(&text.unwrap_or_default()).map_err(InnerError::Order)?;
    let plan = wire::read_plan(&order.directory);
    let plan = Arc::new(plan.map_err(|source| InnerError::File { name: plan::FILE, source })?);
    let wire = Wire::create(&order.directory, inner.events);
    let sink = Arc::new(wire.map_err(|source| InnerError::File { name: EVENTS, source })?);
    let (interrupt, interrupted) = watch::channel(false);
    let control = inner.control;
    let listener = std::thread::Builder::new().name("stop".into()).spawn(move || {
        while let Ok(Control::Stop) = control.recv() {
            // The run may be over already.
            let _ = interrupt.send(true);
        }
    });
    listener.map_err(InnerError::Runtime)?;
    let mut pace = order.pace;
    let result = perform(&order, &plan, sink.clone(), interrupted, &mut pace);
    if let Err(InnerError::SetUp(error)) = &result
        && error.is_refused()
    {
        sink.send(&Message::Refused { why: causes(error) });
        return Ok(REFUSED);
    }
    let seen = Seen::read(&order.directory);
    let mut report = judge(&order, &plan, pace, result, &seen);
    // A verdict that cannot be kept is still told, but it is no pass.
    if let Err(error) = report::write(&seen.sources(&report, &plan), &order.directory) {
        report.aborted = Some(causes(&error));
        report.exit_code = report.exit_code.max(report::exit_code(Status::Invalid));
    }
    let verdict = report::verdict_text(&report, &plan);
    sink.send(&Message::Done { verdict, exit_code: report.exit_code });
    Ok(report.exit_code)
}

fn perform(
    order: &Order,
    plan: &Arc<Plan>,
    sink: Arc<Wire>,
    interrupt: watch::Receiver<bool>,
    used: &mut Option<Pace>,
) -> Result<RunRecord, InnerError> {
    let sabotage = order.sabotage.map(sabotage);
    let create = |name: &'static str| -> Result<Box<BufWriter<File>>, InnerError> {
        let file = File::create_new(order.directory.join(name));
        Ok(Box::new(BufWriter::new(file.map_err(|source| InnerError::File { name, source })?)))
    };
    let files = Files { history: create("history.jsonl")?, observations: create("observations.jsonl")? };
    // One thread: a call and its place in the history cannot be torn apart.
    let is_simulation = order.driver == Driver::Simulation;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(is_simulation).build();
    let runtime = runtime.map_err(InnerError::Runtime)?;
    runtime.block_on(async {
        let mut tell = |text| {
            let (kind, subject) = (EventKind::Phase, "slowdown".to_owned());
            sink.event(&Event { at_ns: 0, kind, subject, text });
        };
        let making =
            set_up(&order.driver, order.fabric, order.pace, plan, &order.directory, sabotage, &mut tell);
        let mut ending = interrupt.clone();
        let World { cluster, clock, pace, shortage } = tokio::select! {
            made = making => made?,
            // The sender lives as long as the run.
            _ = ending.wait_for(|is_wanted| *is_wanted) => {
                return Err(RunError::Boot(BootError::Interrupted).into());
            }
        };
        if pace != Pace::REAL {
            let planned = Duration::from_millis(plan.duration_ms);
            let text = format!(
                "the {} s of the plan take {}",
                planned.as_secs(),
                on_the_wall(pace.to_real(planned))
            );
            sink.event(&Event { at_ns: 0, kind: EventKind::Phase, subject: "time".to_owned(), text });
        }
        *used = Some(pace);
        let stage = Stage { plan: plan.clone(), cluster, clock, shortage, sink, interrupt };
        Ok(runner::run(stage, files).await?)
    })
}

/// What is switched off in secret.
fn sabotage(argument: SabotageArg) -> Sabotage {
    match argument {
        SabotageArg::IgnoreCuts => Sabotage::Fabric(fabric::Sabotage::IgnoreCuts),
        SabotageArg::IgnoreLatency => Sabotage::Fabric(fabric::Sabotage::IgnoreLatency),
        SabotageArg::IgnoreLoss => Sabotage::Fabric(fabric::Sabotage::IgnoreLoss),
        SabotageArg::IgnorePauses => Sabotage::IgnorePauses,
        SabotageArg::IgnoreSuspends => Sabotage::IgnoreSuspends,
        SabotageArg::IgnoreRollbacks => Sabotage::IgnoreRollbacks,
        SabotageArg::IgnoreClocks => Sabotage::IgnoreClocks,
        SabotageArg::IgnoreKills => Sabotage::IgnoreKills,
        SabotageArg::IgnorePowerCuts => Sabotage::IgnorePowerCuts,
    }
}

/// What a run has left in its files.
struct Seen {
    history: History,
    observations: Vec<Observation>,
    events: Vec<Event>,
    scenario: String,
    /// Why the history or the observations cannot be judged. What can be read is shown all the same.
    unreadable: Option<InnerError>,
}

impl Seen {
    fn read(directory: &Path) -> Self {
        let open = |name: &'static str| {
            let file = File::open(directory.join(name));
            file.map(BufReader::new).map_err(|source| InnerError::File { name, source })
        };
        let history = open("history.jsonl").and_then(|file| Ok(read_history(file)?));
        let observations = open("observations.jsonl").and_then(|file| Ok(read_observations(file)?));
        // Shown where there is no record, and missed by no check.
        let events = std::fs::read_to_string(directory.join(EVENTS)).unwrap_or_default();
        let events = events.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let scenario = std::fs::read_to_string(directory.join("scenario.yaml")).unwrap_or_default();
        let (history, history_error) =
            history.map_or_else(|error| (None, Some(error)), |it| (Some(it), None));
        let (observations, observations_error) =
            observations.map_or_else(|error| (None, Some(error)), |it| (Some(it), None));
        Self {
            history: history.unwrap_or_default(),
            observations: observations.unwrap_or_default(),
            events,
            scenario,
            unreadable: history_error.or(observations_error),
        }
    }

    fn sources<'a>(&'a self, report: &'a Report, plan: &'a Plan) -> Sources<'a> {
        let Self { history, observations, events, scenario, .. } = self;
        Sources { report, plan, history, observations, events, scenario }
    }
}

/// Turns what happened into a report, whatever it was.
fn judge(
    order: &Order,
    plan: &Plan,
    pace: Option<Pace>,
    result: Result<RunRecord, InnerError>,
    seen: &Seen,
) -> Report {
    let Seen { history, observations, unreadable, .. } = seen;
    let judged = result.map_err(|error| causes(&error)).and_then(|record| {
        if let Some(error) = unreadable {
            return Err(causes(error));
        }
        let evidence = Evidence { plan, history, record: &record, observations };
        Ok((check::judge(&evidence, &Budget::default()), record))
    });
    let (verdicts, record, aborted): (Vec<Verdict>, _, _) = match judged {
        Ok((verdicts, record)) => (verdicts, Some(record), None),
        Err(error) => (Vec::new(), None, Some(error)),
    };
    let is_too_slow = record.as_ref().is_some_and(|record| record.shortage.is_some());
    let slowdown = pace.filter(|pace| *pace != Pace::REAL || order.pace.is_some());
    let status = if aborted.is_some() { Status::Invalid } else { check::overall(&verdicts) };
    Report {
        // Where even the largest is not enough, it is measured again: a pace that is given is taken for one that is enough.
        replay: replay(order, slowdown.filter(|_| !is_too_slow)),
        scenario: plan.scenario.clone(),
        about: order.about.clone(),
        seed: plan.seed,
        driver: order.driver.name(),
        fabric: order.fabric,
        slowdown,
        lab_version: aspen_node::VERSION.to_owned(),
        node_version: order.node_version.clone(),
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        status,
        exit_code: report::exit_code(status),
        verdicts,
        record,
        aborted,
    }
}

/// A time that one waits for: `45 s`, `8 min`.
fn on_the_wall(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}

/// The command that replays the run at the same pace, be it asked for or measured.
fn replay(order: &Order, slowdown: Option<Pace>) -> String {
    match slowdown {
        Some(pace) if !order.replay.contains(" --slowdown ") => format!("{} --slowdown {pace}", order.replay),
        _ => order.replay.clone(),
    }
}

impl EventSink for Wire {
    fn event(&self, event: &Event) {
        self.keep(event);
        self.send(&Message::Event(event.clone()));
    }

    fn progress(&self, at: Duration, of: Duration, counts: LoadCounts) {
        self.send(&Message::Progress { at, of, counts });
    }
}
