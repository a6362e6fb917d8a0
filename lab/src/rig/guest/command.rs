//! Runs the one command: its outputs go to the host as they come, input and signals come from there.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use nix::sys::signal::Signal;
use nix::unistd::setsid;

use super::super::terminal;
use super::super::wire::{Order, ToGuest, ToHost, pass_on, receive};
use super::{GuestError, Link};
use crate::limits::{KILL_WAIT_MAX, REAP_INTERVAL};
use crate::program::{Exit, Program, ProgramError, Running, reap_orphans};

/// First argument of the process that gives a program a terminal of its own; the others are its command line.
pub(in crate::rig) const SESSION: &str = "__rig-session";

/// Becomes a program whose terminal is its standard input. Comes back only if that fails.
pub(in crate::rig) fn become_session(mut words: impl Iterator<Item = OsString>) -> io::Error {
    let Some(program) = words.next() else { return io::ErrorKind::InvalidInput.into() };
    if let Err(errno) = setsid() {
        return errno.into();
    }
    // The first terminal that the leader of a session opens becomes that of the session (credentials(7)).
    let terminal = std::fs::read_link("/proc/self/fd/0").and_then(File::open);
    match terminal {
        Ok(_terminal) => Program::new(PathBuf::from(program)).args(words).inherit_environment().become_it(),
        Err(error) => error,
    }
}

/// Where input goes.
enum Input {
    Pipe(PipeWriter),
    Terminal(File),
}

/// A command that was started.
struct Begun {
    running: Arc<Running>,
    input: Option<Input>,
    terminal: Option<OwnedFd>,
    /// One word for each output that has come to its end.
    ended: Receiver<()>,
    outputs: usize,
}

/// Carries out an order to its end: its exit code, and the thread that hears the host.
pub(super) fn run(order: &Order, from: File, link: &Link) -> Result<(u8, JoinHandle<()>), GuestError> {
    let Begun { running, input, terminal, ended, outputs } = begin(order, link)?;
    let obeyed = running.clone();
    let obey = move || obey(from, input, terminal, &obeyed);
    let orders = thread::Builder::new().name("orders".to_owned()).spawn(obey).map_err(GuestError::Thread)?;
    let exit = loop {
        match running.wait(REAP_INTERVAL) {
            Ok(exit) => break exit,
            Err(ProgramError::TimedOut { .. }) => reap_orphans(),
            Err(error) => return Err(error.into()),
        }
    };
    for _ in 0..outputs {
        // Somebody in the background may hold an output, and is not waited for.
        let _ = ended.recv_timeout(KILL_WAIT_MAX);
    }
    let code = match exit {
        Exit::Code(code) => u8::try_from(code).unwrap_or(u8::MAX),
        Exit::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
    };
    Ok((code, orders))
}

fn begin(order: &Order, link: &Link) -> Result<Begun, GuestError> {
    let mut words = order.words.iter().cloned().map(OsString::from);
    let program = words.next().unwrap_or_default();
    let program = if order.is_interactive {
        Program::new("/proc/self/exe").arg(SESSION).arg(program)
    } else {
        Program::new(PathBuf::from(program))
    };
    let folder = PathBuf::from(order.folder.clone());
    let program = program.args(words).in_folder(&folder);
    let set = order.environment.iter().cloned();
    let program = set.fold(program, |program, (name, value)| program.env(name, OsString::from(value)));

    let (sender, ended) = sync_channel(2);
    let mut outputs = 0;
    let mut terminal = None;
    let mut slave = None;
    if order.terminals.contains(&true) {
        let (ours, theirs) =
            terminal::open(order.size, order.is_interactive).map_err(GuestError::Terminal)?;
        let reader = File::from(ours.try_clone().map_err(GuestError::Terminal)?);
        let kind = if order.terminals[1] { ToHost::Output } else { ToHost::Errors };
        pass_out(reader, kind, link, &sender)?;
        outputs += 1;
        (terminal, slave) = (Some(ours), Some(theirs));
    }
    let of_terminal = |slave: &Option<OwnedFd>| -> Result<Stdio, GuestError> {
        let slave = slave.as_ref().map(OwnedFd::try_clone).transpose().map_err(GuestError::Terminal)?;
        Ok(slave.map_or_else(Stdio::null, Stdio::from))
    };
    let pipe = |_| GuestError::Terminal(io::ErrorKind::BrokenPipe.into());
    let (stdin, input) = match (order.has_input, order.terminals[0], &terminal) {
        (false, ..) => (Stdio::null(), None),
        (true, true, Some(ours)) => {
            let ours = ours.try_clone().map_err(GuestError::Terminal)?;
            (of_terminal(&slave)?, Some(Input::Terminal(ours.into())))
        }
        (true, ..) => {
            let (theirs, ours) = io::pipe().map_err(pipe)?;
            (Stdio::from(theirs), Some(Input::Pipe(ours)))
        }
    };
    let mut out = [Stdio::null(), Stdio::null()];
    for (place, kind) in [ToHost::Output, ToHost::Errors].into_iter().enumerate() {
        out[place] = if order.terminals[place + 1] {
            of_terminal(&slave)?
        } else {
            let (ours, theirs) = io::pipe().map_err(pipe)?;
            pass_out(ours, kind, link, &sender)?;
            outputs += 1;
            Stdio::from(theirs)
        };
    }
    let [stdout, stderr] = out;
    let running = Arc::new(program.start_on([stdin, stdout, stderr])?);
    Ok(Begun { running, input, terminal, ended, outputs })
}

/// Passes an output on, on a thread of its own.
fn pass_out(
    from: impl io::Read + Send + 'static,
    kind: fn(Vec<u8>) -> ToHost,
    link: &Link,
    ended: &SyncSender<()>,
) -> Result<(), GuestError> {
    let (link, ended) = (link.clone(), ended.clone());
    let pass = move || {
        // A host that takes nothing any more has ended, and this machine with it.
        let _ = pass_on(from, |bytes| link.send(&kind(bytes)));
        let _ = ended.try_send(());
    };
    thread::Builder::new().name("output".to_owned()).spawn(pass).map(drop).map_err(GuestError::Thread)
}

/// Does what the host says, as long as it says something.
fn obey(mut from: File, mut input: Option<Input>, terminal: Option<OwnedFd>, running: &Running) {
    while let Ok(Some(message)) = receive::<ToGuest>(&mut from) {
        match message {
            ToGuest::Input(bytes) if bytes.is_empty() => {
                if let Some(Input::Terminal(mut terminal)) = input.take() {
                    // A terminal has no end, but a key for it.
                    let _ = terminal.write_all(&[END_OF_INPUT]);
                }
            }
            ToGuest::Input(bytes) => {
                let written = match &mut input {
                    Some(Input::Pipe(pipe)) => pipe.write_all(&bytes),
                    Some(Input::Terminal(terminal)) => terminal.write_all(&bytes),
                    None => Ok(()),
                };
                if written.is_err() {
                    // Nobody reads any more.
                    input = None;
                }
            }
            ToGuest::Signal(signal) => {
                // One that has ended needs none.
                let _ = Signal::try_from(signal).map(|signal| running.signal(signal));
            }
            ToGuest::Size(size) => {
                let _ = terminal.as_ref().map(|terminal| terminal::set_size(terminal, size));
            }
            ToGuest::Order(_) => {}
        }
    }
}

/// What ^D sends (`VEOF`, termios(3)).
const END_OF_INPUT: u8 = 4;
