//! The outer process of `lab up`: checks everything that can be checked before anything starts, opens what the host gives,
//! and holds the sandbox.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, setsid};

use super::client::ClientError;
use super::connection::Connection;
use super::inner::{INNER, Message, Order, asked_by_hand};
use super::protocol::Status;
use super::publish::{self, PublishError};
use super::socket::{self, SocketError};
use super::{inherit, text};
use crate::causes::lacks_room;
use crate::cli::{DriverArg, UpArgs};
use crate::limits::SANDBOX_END_MAX;
use crate::plan::{self, Plan, Target};
use crate::program::{Exit, Program, ProgramError, stop_signals, tail};
use crate::report::event_line;
use crate::sandbox::{self, Sandbox, SandboxError};
use crate::scenario::{Scenario, ScenarioErrors};
use crate::session::OuterError;
use crate::session::driver::{choose, remove_boot_files};
use crate::session::outer::{
    absolute, check_plants, copy_scenario, default_directory, discard, make_directory, pass_signals, write,
};

/// First argument of the process that holds a lab without a terminal; the second is its order.
pub const HOLDER: &str = "__up-holder";

/// The file of the run directory that names the control socket.
const CONTROL_FILE: &str = "control";

/// The file of the run directory with what a lab without a terminal says.
const LOG_FILE: &str = "lab.log";

/// Why there is no lab.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The scenario file.
    #[error(transparent)]
    Scenario(#[from] ScenarioErrors),
    /// The run directory, or the program of the nodes.
    #[error(transparent)]
    Outer(#[from] OuterError),
    /// What is under test.
    #[error("the scenario's target is etcd, which `lab run` alone can do: leave target out")]
    Target,
    /// What runs the nodes.
    #[error("the driver sim is on virtual time, in which nobody can type: take another one, or `lab run`")]
    Virtual,
    /// The published ports.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The control socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The sockets cannot be handed on.
    #[error("cannot hand the sockets on to the sandbox")]
    Inherit(#[source] io::Error),
    /// What is handed on to another process.
    #[error("the order cannot be passed on")]
    Order(#[source] serde_json::Error),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The process that would hold the lab.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The terminal's signals.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// The inner process ended without a word.
    #[error("the lab ended without a word ({0}); what it left is in {1}")]
    Died(String, PathBuf),
    /// The lab in the background does not say that it serves.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The lab in the background did not come up.
    #[error("{reason}; {log} says:\n{log_end}")]
    Background {
        /// What the control socket said.
        reason: String,
        /// The exit code of the lab.
        exit_code: u8,
        /// What the lab has said.
        log: String,
        /// The end of it.
        log_end: String,
    },
}

impl UpError {
    /// The exit code that goes with it.
    pub fn exit_code(&self) -> u8 {
        match self {
            error if lacks_room(error) => 3,
            Self::Outer(error) => error.exit_code(),
            Self::Scenario(_) | Self::Publish(_) | Self::Target | Self::Virtual => 64,
            Self::Sandbox(error) if error.is_refused() => 3,
            Self::Background { exit_code, .. } => *exit_code,
            _ => 2,
        }
    }
}

/// What a lab needs, ready to be handed on.
struct Prepared {
    order: Order,
    /// Open until the sandbox has them.
    _sockets: (UnixListener, Vec<TcpListener>),
}

/// Boots a cluster, and keeps it up or returns when it serves; the exit code.
///
/// # Errors
/// Everything that is wrong before the cluster serves.
pub fn up(args: &UpArgs) -> Result<u8, UpError> {
    let scenario = Scenario::load(&args.file)?;
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let plan = Plan::new(&scenario, seed);
    if plan.target != Target::Aspen {
        return Err(UpError::Target);
    }
    if args.machines.driver == DriverArg::Sim {
        return Err(UpError::Virtual);
    }
    let names = plan.nodes.iter().map(|node| node.name.as_str());
    // Before anything is made.
    let published = args.publish.map_or(Ok(vec![]), |first| publish::listen(first, names))?;
    let directory = args.out.clone().unwrap_or_else(|| default_directory(&plan));
    make_directory(&directory)?;
    let directory = absolute(&directory)?;
    let prepared = prepare(args, &plan, directory.clone(), published).inspect_err(|_| discard(&directory))?;
    say(&format!("{}: {}", plan.scenario, scenario.about()));
    say(&format!("seed: {seed}, run directory: {}", directory.display()));
    if args.detach { detach(prepared) } else { hold(prepared.order.clone()) }
}

fn prepare(
    args: &UpArgs,
    plan: &Plan,
    directory: PathBuf,
    published: Vec<TcpListener>,
) -> Result<Prepared, UpError> {
    // Of what the scenario does by itself nothing is done, and nothing of it has to be possible.
    let choice = choose(&args.machines, &asked_by_hand(plan), &directory, &mut |text| say(text))?;
    say(&choice.reason);
    check_plants(choice.node_version)?;
    write(&directory.join(plan::FILE), plan.to_json().as_bytes())?;
    copy_scenario(&args.file, &directory)?;
    let name = format!("{}-{}", plan.scenario, std::process::id());
    let (control, socket) = socket::listen(&socket::directory()?, &name)?;
    let left = || {
        write(&directory.join(CONTROL_FILE), format!("{}\n", socket.display()).as_bytes())?;
        let numbers = published.iter().map(inherit::leave).collect::<io::Result<Vec<_>>>();
        let control = inherit::leave(&control).map_err(UpError::Inherit)?;
        Ok::<_, UpError>((control, numbers.map_err(UpError::Inherit)?))
    };
    let (control_number, numbers) = left().inspect_err(|_| remove(&socket))?;
    let order = Order {
        directory,
        driver: choice.driver,
        fabric: args.machines.fabric.into(),
        pace: args.machines.slowdown,
        is_detached: args.detach,
        pid: std::process::id(),
        socket,
        control: control_number,
        publish: args.publish,
        published: numbers,
    };
    Ok(Prepared { order, _sockets: (control, published) })
}

/// The control socket of the lab with this run directory, if it is one.
pub(super) fn socket_of(directory: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(directory.join(CONTROL_FILE)).ok()?;
    Some(PathBuf::from(text.trim_end_matches('\n')))
}

/// Starts a process that holds the lab, and returns when the cluster serves. Should this process be killed meanwhile, the lab
/// comes up nevertheless, and `lab status` and `lab down` know it from its beginning.
fn detach(prepared: Prepared) -> Result<u8, UpError> {
    let Prepared { order, _sockets: sockets } = prepared;
    let log = order.directory.join(LOG_FILE);
    let signals = stop_signals();
    let mut child = start_holder(&order, &log, signals).inspect_err(|_| {
        // There is no lab that could do it.
        remove(&order.socket);
        discard(&order.directory);
    })?;
    // When the holder ends there is nobody any more who could answer.
    drop(sockets);
    match pass_on(signals, &child).and_then(|()| await_serving(&order)) {
        Ok(status) => {
            // A closed terminal is no reason to end the lab.
            let _ = write!(io::stdout(), "{}", text::welcome(&status));
            Ok(0)
        }
        // What is wrong with the lab is in its log.
        Err(UpError::Client(_)) => Err(background(&mut child, &order, &log)),
        Err(error) => {
            // Nobody would know of it. If it has ended already, all the better.
            let _ = kill(pid_of(&child), Signal::SIGTERM);
            let _ended = background(&mut child, &order, &log);
            Err(error)
        }
    }
}

fn start_holder(order: &Order, log: &Path, signals: SigSet) -> Result<Child, UpError> {
    let argument = serde_json::to_string(order).map_err(UpError::Order)?;
    signals.thread_block().map_err(|errno| UpError::Signals(errno.into()))?;
    let holder = Program::new("/proc/self/exe").arg(HOLDER).arg(argument).inherit_environment();
    Ok(holder.start_apart(log)?)
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// Passes the user's wish to stop on to the process that holds the lab.
fn pass_on(signals: SigSet, child: &Child) -> Result<(), UpError> {
    let pid = pid_of(child);
    // The thread ends with the process.
    let listener = std::thread::Builder::new().name("signals".into()).spawn(move || {
        while signals.wait().is_ok() {
            // It stops in order, or has ended.
            let _ = kill(pid, Signal::SIGTERM);
        }
    });
    listener.map(|_| ()).map_err(UpError::Signals)
}

/// Waits until the cluster serves, however long it takes: a lab that ends closes the connection.
fn await_serving(order: &Order) -> Result<Status, UpError> {
    let stream = socket::open(&order.socket)?;
    let stream = stream.ok_or_else(|| ClientError::Ended(order.directory.clone()))?;
    Ok(Connection::new(stream).await_serving()?)
}

/// Why a lab in the background did not come up.
fn background(child: &mut Child, order: &Order, log: &Path) -> UpError {
    // It is about to end: whoever answered calls has.
    let exit = child.wait().map(Exit::from);
    let exit_code = match exit {
        // It was ended in order, but there is no lab.
        Ok(Exit::Code(0)) => 1,
        Ok(Exit::Code(code)) => u8::try_from(code).unwrap_or(2),
        Ok(Exit::Signal(_)) | Err(_) => 2,
    };
    remove(&order.socket);
    let log_end = tail(log).unwrap_or_default().trim_end().to_owned();
    let is_refused = exit_code == 3;
    if is_refused {
        discard(&order.directory);
    }
    let reason = exit.map_or_else(|error| error.to_string(), |exit| exit.to_string());
    let reason = format!("the lab did not come up and ended with {reason}");
    let log = if is_refused { LOG_FILE.to_owned() } else { log.display().to_string() };
    UpError::Background { reason, exit_code, log, log_end }
}

/// Holds a lab without a terminal; the exit code.
///
/// # Errors
/// As [`up`].
pub fn run_holder(order: Option<std::ffi::OsString>) -> Result<u8, UpError> {
    // The end of the terminal, and its Ctrl-C, are not for this process. It leads no group, so that it may.
    setsid().map_err(|errno| UpError::Signals(errno.into()))?;
    let text = order.unwrap_or_default().to_string_lossy().into_owned();
    let order: Order = serde_json::from_str(&text).map_err(UpError::Order)?;
    hold(Order { pid: std::process::id(), ..order })
}

/// Starts the sandbox and holds it until the lab has ended; the exit code.
fn hold(order: Order) -> Result<u8, UpError> {
    let held = start(&order).and_then(|(sandbox, signals)| follow(sandbox, signals, &order));
    remove(&order.socket);
    remove(&order.directory.join(CONTROL_FILE));
    remove_boot_files(&order.directory);
    held
}

fn start(order: &Order) -> Result<(Sandbox, SigSet), UpError> {
    let argument = serde_json::to_string(order).map_err(UpError::Order)?;
    // Before any thread, since every thread inherits the mask. The sandbox takes it off again.
    let signals = stop_signals();
    signals.thread_block().map_err(|errno| UpError::Signals(errno.into()))?;
    let sandbox = sandbox::start([INNER.into(), argument.into()]).inspect_err(|_| {
        // In the background its log is still needed.
        if !order.is_detached {
            discard(&order.directory);
        }
    })?;
    Ok((sandbox, signals))
}

/// Shows what the inner process tells, and passes the user's wish to stop on.
fn follow(mut sandbox: Sandbox, signals: SigSet, order: &Order) -> Result<u8, UpError> {
    let events = sandbox.take_events();
    let sandbox = Arc::new(Mutex::new(sandbox));
    pass_signals(signals, &sandbox).map_err(UpError::Signals)?;
    let mut done = None;
    for line in events.into_iter().flat_map(|events| BufReader::new(events).lines()).map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(Message::Event(event)) => say(&event_line(&event, Some(0))),
            // In the background it is printed by the process that waits for it.
            Ok(Message::Serving(_)) if order.is_detached => {}
            Ok(Message::Serving(status)) => {
                let _ = write!(io::stdout(), "{}\nCtrl-C ends it.\n\n", text::welcome(&status));
            }
            Ok(Message::Done { problems, exit_code }) => done = Some((problems, exit_code)),
            Err(_) => say(&line),
        }
    }
    let ended = sandbox.lock().expect("nothing panics while it holds this lock").wait(SANDBOX_END_MAX);
    let Some((problems, exit_code)) = done else {
        let how = ended.map_or_else(|error| error.to_string(), |exit| exit.to_string());
        return Err(UpError::Died(how, order.directory.clone()));
    };
    for problem in problems {
        say(&format!("lab: {problem}"));
    }
    if exit_code == 3 && !order.is_detached {
        // It was refused before there was anything.
        discard(&order.directory);
    } else {
        say(&format!("the lab has ended; what it has written is in {}", order.directory.display()));
    }
    Ok(exit_code)
}

/// A line for the user. A closed terminal is no reason to end anything.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn remove(path: &Path) {
    // What is gone already is what is wanted.
    let _ = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::fabric::FabricKind;
    use crate::machine::driver::{Driver, NodeProgram};

    /// A run directory in which no log can be made, since its place is taken, once left a socket on which nobody listened.
    #[test]
    fn lab_whose_holder_cannot_be_started_leaves_neither_socket_nor_directory() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("run");
        fs::create_dir_all(directory.join(LOG_FILE)).unwrap();
        let (control, socket) = socket::listen(home.path(), "early").unwrap();
        let order = Order {
            directory: directory.clone(),
            driver: Driver::Process(NodeProgram::Own),
            fabric: FabricKind::Switch,
            pace: None,
            is_detached: true,
            pid: std::process::id(),
            socket: socket.clone(),
            control: control.as_raw_fd(),
            publish: None,
            published: vec![],
        };
        let error = detach(Prepared { order, _sockets: (control, vec![]) }).unwrap_err();
        let want = format!("cannot use {}", directory.join(LOG_FILE).display());
        assert_eq!((error.exit_code(), error.to_string()), (2, want));
        assert!(!socket.exists() && !directory.exists());
    }
}
