//! The program `aspen-node`, also reachable as a part of another program: settings, signals, exit codes.

mod failures;

use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::prelude::*;

use self::failures::Failures;
use crate::builder::{NodeBuilder, StartError, StopError, make_data_dir, serve_alone};
use crate::causes::causes;
use crate::cluster::identity::Identity;
use crate::cluster::remains::Remains;
use crate::cluster::retired::{RetiredError, check_not_retired, mark_retired};
use crate::config::{Cli, CliCommand, Config, ConfigError, Control, EXIT_USAGE, LogFormat, RunArgs};
use crate::failpoint::{self, FailPointError};
use crate::limits::{DISK_FULL_RESTART, RUNTIME_STOP_TIMEOUT};
use crate::network::secret::new_secret;
use crate::plant::{self, PlantError};
use crate::raft::{Failed, FailureKind};
use crate::storage;
use crate::storage::space::is_disk_full;

/// Under which name a supervisor is told our public key: a variable of our own, as `sd_notify(3)` has it.
pub const ENDPOINT_ID: &str = "X_ASPEN_ENDPOINT_ID";

/// The data directory is of an earlier state (`EX_DATAERR`, sysexits.h).
pub const EXIT_RETIRED: u8 = 65;

/// What is said of a node that does not start again.
const OFTEN: &str = ". It has done so several times within ten minutes: its log says more, and it does not start again by itself";

/// Why the program ends with an error.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Plant(#[from] PlantError),
    #[error(transparent)]
    FailPoint(#[from] FailPointError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the log filter `{filter}` is refused: {reason}")]
    LogFilter { filter: String, reason: String },
    #[error("cannot say whether the node's memory may be written to a file")]
    Memory(#[source] std::io::Error),
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{} is no directory: name the node's data directory", .0.display())]
    NoDataDir(PathBuf),
    #[error("{}", faults_text(*.0))]
    Faults(usize),
    #[error("the node failed: {reason}{}", if *is_often { OFTEN } else { "" })]
    Failed {
        reason: String,
        /// Whether it was its own fault, and nothing that it has stored.
        is_fault: bool,
        /// Whether it has failed too often to start again.
        is_often: bool,
    },
    #[error("the node had no room on its disk: {0}")]
    NoRoom(String),
    #[error(transparent)]
    Retired(RetiredError),
    #[error("cannot mark the data directory as that of a node which its cluster has removed")]
    Mark(#[source] std::io::Error),
    #[error("the node cannot start again")]
    Again(#[source] std::io::Error),
    #[error(transparent)]
    Stop(StopError),
}

impl RunError {
    /// Whether the node may not go on as the member that it was.
    fn is_retired(&self) -> bool {
        matches!(
            self,
            Self::Retired(RetiredError::Marked { .. })
                | Self::Start(StartError::Retired(RetiredError::Marked { .. }))
        )
    }

    /// Whether nothing is wrong but that the disk was full.
    fn is_for_room(&self) -> bool {
        match self {
            Self::NoRoom(_) => true,
            Self::Start(error) => error.is_disk_full(),
            // Others say it again.
            Self::Mark(error) => is_disk_full(error),
            _ => false,
        }
    }
}

fn faults_text(count: usize) -> String {
    if count == 1 { "one thing is wrong".to_owned() } else { format!("{count} things are wrong") }
}

/// Does what was typed.
pub fn main(cli: Cli) -> ExitCode {
    let mut format = LogFormat::Text;
    let result = match cli.command {
        Some(CliCommand::Identity { data_dir }) => print_identity(&data_dir),
        Some(CliCommand::Validate { data_dir }) => validate(&data_dir),
        Some(CliCommand::Config { run }) => print_config(*run),
        Some(CliCommand::Secret) => {
            // A closed pipe is no error of ours.
            let _ = writeln!(std::io::stdout(), "{}", new_secret());
            Ok(())
        }
        None => settings(cli.run).and_then(|config| {
            format = config.log_format;
            run(config)
        }),
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    report(&error, format);
    match error {
        error if error.is_retired() => ExitCode::from(EXIT_RETIRED),
        RunError::Plant(_)
        | RunError::FailPoint(_)
        | RunError::Config(_)
        | RunError::LogFilter { .. }
        | RunError::Start(StartError::Config(_) | StartError::Secret(_) | StartError::Credentials(_)) => {
            ExitCode::from(EXIT_USAGE)
        }
        _ => ExitCode::FAILURE,
    }
}

/// Everything that was asked of the node, by flags, file and environment.
fn settings(args: RunArgs) -> Result<Config, RunError> {
    plant::from_environment()?;
    failpoint::from_environment()?;
    Ok(Config::load(args)?)
}

/// Prints what was found; an error if anything is wrong.
fn validate(data_dir: &Path) -> Result<(), RunError> {
    if !data_dir.is_dir() {
        return Err(RunError::NoDataDir(data_dir.to_owned()));
    }
    let mut remains = Remains::look(data_dir).map_err(StartError::from)?;
    let report = storage::validate::validate(data_dir).map_err(StartError::from)?;
    let mut text = String::new();
    for line in remains.seen.iter().chain(&report.seen) {
        let _ = writeln!(text, "{line}");
    }
    remains.compare(report.node);
    let faults: Vec<String> =
        remains.faults.into_iter().chain(report.faults.iter().map(ToString::to_string)).collect();
    for fault in &faults {
        let _ = writeln!(text, "WRONG {fault}");
    }
    if faults.is_empty() {
        text.push_str("nothing is wrong\n");
    }
    let _ = std::io::stdout().write_all(text.as_bytes());
    if faults.is_empty() { Ok(()) } else { Err(RunError::Faults(faults.len())) }
}

/// Prints the settings as a file would have them.
fn print_config(args: RunArgs) -> Result<(), RunError> {
    let (_, settings) = Config::load_with_sources(args)?;
    let text: String = settings.iter().flat_map(|setting| [setting.to_string(), "\n".to_owned()]).collect();
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn print_identity(data_dir: &Path) -> Result<(), RunError> {
    make_data_dir(data_dir)?;
    let identity = Identity::load_or_create(data_dir).map_err(StartError::from)?;
    // A closed pipe is no error of ours.
    let _ = writeln!(std::io::stdout(), "{}", identity.endpoint_id());
    Ok(())
}

fn run(config: Config) -> Result<(), RunError> {
    // Nor may others of the same user read its memory, or the variables that it was given.
    if let Err(error) = set_dumpable(config.core_dumps) {
        return Err(RunError::Memory(error.into()));
    }
    let filter = config
        .log
        .parse::<Targets>()
        .map_err(|error| RunError::LogFilter { filter: config.log.clone(), reason: error.to_string() })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let lines = match config.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    if config.log_format == LogFormat::Json {
        std::panic::set_hook(Box::new(log_panic));
    }
    raise_open_files();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(RunError::Runtime)?;
    let result = runtime.block_on(serve(config));
    runtime.shutdown_timeout(RUNTIME_STOP_TIMEOUT);
    match result? {
        End::Stopped => Ok(()),
        End::Again(failures) => Err(RunError::Again(failures.start_again())),
    }
}

/// Says in the log what a panic says, for machines that read it.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let said = panic.payload_as_str().unwrap_or("no text");
    tracing::error!(thread = thread.name().unwrap_or_default(), place, "panicked: {said}");
}

/// As many open files as the system lets it have: each client is one.
fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "the node may have fewer open files than the system would let it");
    }
}

/// What came of a node that has not failed for good.
enum End {
    Stopped,
    /// Its disk was full: what has failed for want of room is whole, and opened anew it goes on where it was. Or it has failed by a
    /// fault of its own, and has not done so often.
    Again(Failures),
}

async fn serve(config: Config) -> Result<End, RunError> {
    // Before anything else, so that an early signal is a clean stop, too.
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Runtime)?;
    let mut stop = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let (began, format, restarts) = (Instant::now(), config.log_format, config.restart_on_failure);
    let (rejoins, data_dir) = (config.rejoins(), config.data_dir.clone());
    let Err(mut error) = serve_until(config, &mut stop).await else { return Ok(End::Stopped) };
    let mut failures = Failures::before();
    let [short, long] = DISK_FULL_RESTART;
    let pause = match &mut error {
        error if error.is_for_room() => {
            if began.elapsed() > long {
                short
            } else {
                long
            }
        }
        error if rejoins && error.is_retired() => short,
        // What a disk has not kept may look as if it had, to whoever reads it again.
        RunError::Failed { is_fault: true, is_often, .. } if restarts => {
            *is_often = !failures.note().map_err(RunError::Again)?;
            if *is_often {
                return Err(error);
            }
            short
        }
        _ => return Err(error),
    };
    report(&error, format);
    if error.is_for_room() {
        tracing::warn!(path = %data_dir.display(), "the disk is full: make room on it, until then the node starts again and again");
    }
    tracing::warn!(again_s = pause.as_secs(), "the node starts again");
    tokio::select! {
        () = stop() => Ok(End::Stopped),
        () = tokio::time::sleep(pause) => Ok(End::Again(failures)),
    }
}

/// A node from its start to its end.
async fn serve_until(config: Config, stop: &mut impl AsyncFnMut()) -> Result<(), RunError> {
    let (raft, http) = (config.raft_listen, config.http_listen);
    let (data_dir, rejoins) = (config.data_dir.clone(), config.rejoins());
    if config.control == Control::Deterministic {
        let ready = || {
            tracing::info!(%http, version = crate::BUILD, "ready, in memory alone: nothing is kept");
            tell(&[NotifyState::Ready]);
        };
        Box::pin(serve_alone(config, ready, stop())).await?;
        tracing::info!("stopped");
        return Ok(());
    }
    let Some(node) = Box::pin(NodeBuilder::from(config).start_until(stop())).await? else {
        tracing::info!("stopped");
        return Ok(());
    };
    tracing::info!(id = %node.id(), endpoint_id = %node.endpoint_id(), %raft, %http, version = crate::BUILD, "ready");
    let endpoint_id = format!("{ENDPOINT_ID}={}", node.endpoint_id());
    tell(&[NotifyState::Ready, NotifyState::Custom(&endpoint_id)]);
    let failed = tokio::select! {
        () = stop() => None,
        failed = node.failed() => Some(failed),
        () = node.removed(), if rejoins => {
            Some(Failed { reason: "its cluster has removed it".to_owned(), kind: FailureKind::Retired })
        }
    };
    let is_for_room = failed.is_some() && node.ran_out_of_room();
    tracing::info!("stopping");
    if !is_for_room {
        tell(&[NotifyState::Stopping]);
    }
    let stopped = node.stop().await;
    match (failed, stopped) {
        (Some(Failed { reason, .. }), _) if is_for_room => Err(RunError::NoRoom(reason)),
        (Some(Failed { reason, kind: FailureKind::Retired }), _) => {
            if check_not_retired(&data_dir).is_ok() {
                mark_retired(&data_dir, &reason).map_err(RunError::Mark)?;
            }
            check_not_retired(&data_dir).map_err(RunError::Retired)
        }
        (Some(Failed { reason, kind }), _) => {
            Err(RunError::Failed { reason, is_fault: kind == FailureKind::Fault, is_often: false })
        }
        (None, Err(error)) => Err(RunError::Stop(error)),
        (None, Ok(())) => {
            tracing::info!("stopped");
            Ok(())
        }
    }
}

/// Tells whoever has started us how far we are, if they want to know: systemd, or the appliance.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot tell the supervisor behind NOTIFY_SOCKET: {error}");
    }
}

/// Prints an error, each cause on a line of its own; or as a line of a log that machines read.
fn report(error: &RunError, format: LogFormat) {
    let causes = causes(error);
    let text = match format {
        LogFormat::Text => {
            let mut lines = vec![format!("aspen-node: {error}")];
            lines.extend(causes.iter().map(|cause| format!("  because: {cause}")));
            format!("{}\n", lines.join("\n"))
        }
        LogFormat::Json => {
            let mut timestamp = String::new();
            // A clock that cannot be written leaves it empty.
            let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
            let error = serde_json::json!({
                "timestamp": timestamp,
                "level": "ERROR",
                "message": error.to_string(),
                "because": causes,
                "target": module_path!(),
            });
            format!("{error}\n")
        }
    };
    // Nobody reads: nobody can be told.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
