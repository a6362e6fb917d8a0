//! A command to a lab that is up: finds the lab, asks, and prints the answer.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::protocol::{Answer, EffectChange, Failure, FailureKind, Request, Status};
use super::socket::{self, SocketError};
use super::{console, outer, text, words};
use crate::cli::{ControlCommand, StatusArgs};
use crate::limits::control::CONTROL_HELLO_MAX;
use crate::limits::{PER_MILLION, POLL_INTERVAL, SANDBOX_END_MAX};
use crate::program::ProcessStat;

/// How a lab is started.
const START: &str = "`cargo lab up topologies/three-nodes.yaml` starts one";

/// Why a command came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The directory of control sockets, or one of them.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// There is none.
    #[error("no lab is up: {START}")]
    NoLab,
    /// There are others.
    #[error("no lab {which:?} is up: {}", listed(labs))]
    NoSuch {
        /// What was typed.
        which: String,
        /// The names of those that are up.
        labs: Vec<String>,
    },
    /// There is more than one.
    #[error("{} labs are up, name one with --lab: {}", labs.len(), listed(labs))]
    Several {
        /// Their names.
        labs: Vec<String>,
    },
    /// A run directory whose lab has ended.
    #[error("the lab of {} is not up any more: {START}", .0.display())]
    Ended(PathBuf),
    /// The lab has ended in the middle of it.
    #[error("the lab does not answer: it may have ended, `lab status` tells")]
    Lost(#[source] io::Error),
    /// The lab stands still.
    #[error("the lab does not answer within {} s: it may be stopped, or very busy", .0.as_secs())]
    Silent(Duration),
    /// The lab is another program.
    #[error("the lab's answer cannot be understood: use the `lab` that has started it")]
    Strange(#[source] serde_json::Error),
    /// The lab has said why not.
    #[error("{}", .0.text)]
    Failed(Failure),
    /// There is no such node.
    #[error("there is no node {node:?}: nodes are {known}")]
    NoNode {
        /// What was typed.
        node: String,
        /// Those that there are.
        known: String,
    },
    /// A node's console.
    #[error("cannot read {}", path.display())]
    Console {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The lab has said that it ends, and its process is still there.
    #[error("the lab's process {} is still there after {} s", .0, SANDBOX_END_MAX.as_secs())]
    Lingers(u32),
}

fn listed(labs: &[String]) -> String {
    if labs.is_empty() { format!("none is, and {START}") } else { labs.join(", ") }
}

impl ClientError {
    /// The exit code that goes with it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(Failure { kind: FailureKind::Usage, .. }) | Self::NoNode { .. } => 64,
            Self::Failed(_) | Self::Console { .. } | Self::Lingers(_) => 1,
            _ => 2,
        }
    }
}

/// Carries a command out; the exit code.
///
/// # Errors
/// Why it came to nothing.
pub fn run(command: &ControlCommand, out: &mut impl Write) -> Result<u8, ClientError> {
    let (which, request) = match command {
        ControlCommand::Status(args) => return show(args, out),
        ControlCommand::Console(args) => return console::show(args, out),
        ControlCommand::Down(which) => return down(which.lab.as_deref(), out),
        ControlCommand::Kill(args) => (&args.which, Request::Kill { nodes: args.nodes.clone() }),
        ControlCommand::Start(args) => (&args.which, Request::Start { nodes: args.nodes.clone() }),
        ControlCommand::Pause(args) => (&args.which, Request::Pause { nodes: args.nodes.clone() }),
        ControlCommand::Resume(args) => (&args.which, Request::Resume { nodes: args.nodes.clone() }),
        ControlCommand::Heal(args) => (&args.which, Request::Heal { groups: words::groups(&args.groups) }),
        ControlCommand::Cut(args) => match (&args.from, &args.to) {
            (Some(from), Some(to)) => {
                let change = EffectChange { loss_per_million: Some(PER_MILLION), ..EffectChange::default() };
                (&args.which, link(from, to, false, change))
            }
            _ => (&args.which, Request::Cut { groups: words::groups(&args.groups) }),
        },
        ControlCommand::Link(args) => {
            let change = EffectChange {
                latency_ms: args.latency,
                jitter_ms: args.jitter,
                loss_per_million: args.loss,
                duplicate_per_million: args.duplicate,
                reorder_per_million: args.reorder,
                corrupt_per_million: args.corrupt,
                bits_per_s: args.rate,
            };
            (&args.which, link(&args.from, &args.to, !args.one_way, change))
        }
    };
    let text = match find(which.lab.as_deref())?.ask(request)? {
        Answer::Nodes(done) => {
            let lines: Vec<String> = done.iter().map(|done| format!("{} {}", done.name, done.text)).collect();
            lines.join("\n") + "\n"
        }
        Answer::Links(done) => text::links_done(&done),
        Answer::Status(status) => text::status(&status),
        Answer::Down { .. } => String::new(),
    };
    print(out, &text);
    Ok(0)
}

fn link(from: &str, to: &str, is_both_ways: bool, change: EffectChange) -> Request {
    let words = |text: &str| words::groups(&[text.to_owned()]).concat();
    Request::Link { from: words(from), to: words(to), is_both_ways, change }
}

fn show(args: &StatusArgs, out: &mut impl Write) -> Result<u8, ClientError> {
    let status = find(args.which.lab.as_deref())?.status()?;
    let text = if args.json {
        let json =
            serde_json::to_string_pretty(&status).expect("a status holds nothing that JSON cannot express");
        json + "\n"
    } else {
        text::status(&status)
    };
    print(out, &text);
    Ok(0)
}

fn down(which: Option<&str>, out: &mut impl Write) -> Result<u8, ClientError> {
    let mut lab = find(which)?;
    let status = lab.status()?;
    let answer = lab.ask(Request::Down)?;
    let problems = if let Answer::Down { problems } = answer { problems } else { Vec::new() };
    await_end(status.pid)?;
    let Status { name, directory, .. } = status;
    for problem in &problems {
        print(out, &format!("{problem}\n"));
    }
    print(out, &format!("{name} is down; what it has written is in {}\n", directory.display()));
    Ok(u8::from(!problems.is_empty()))
}

/// Waits until the process that holds a lab is gone.
fn await_end(pid: u32) -> Result<(), ClientError> {
    let deadline = Instant::now() + SANDBOX_END_MAX;
    // One that nobody collects has ended, too.
    while ProcessStat::read(pid).is_some_and(|stat| !stat.has_ended()) {
        if Instant::now() > deadline {
            return Err(ClientError::Lingers(pid));
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// A terminal that is closed cannot be told anything.
fn print(out: &mut impl Write, text: &str) {
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The lab that is meant: the one that was named, or the only one.
pub(super) fn find(which: Option<&str>) -> Result<Connection, ClientError> {
    if let Some(path) = which.and_then(|which| outer::socket_of(Path::new(which))) {
        let stream = socket::open(&path)?;
        return stream
            .map(Connection::new)
            .ok_or_else(|| ClientError::Ended(which.unwrap_or_default().into()));
    }
    let mut open: Vec<Connection> = socket::open_all(&socket::directory()?)?
        .into_iter()
        .map(|(_, stream)| Connection::new(stream))
        .collect();
    let Some(which) = which else {
        return match open.len() {
            0 => Err(ClientError::NoLab),
            1 => Ok(open.remove(0)),
            _ => Err(ClientError::Several { labs: open.iter_mut().map(name).collect() }),
        };
    };
    let mut meant = Vec::new();
    let mut labs = Vec::new();
    for mut lab in open {
        // One that does not answer has no name.
        let Ok(status) = lab.status_within(CONTROL_HELLO_MAX) else { continue };
        if status.name == which || status.scenario == which {
            meant.push((status.name.clone(), lab));
        }
        labs.push(status.name);
    }
    match meant.len() {
        0 => Err(ClientError::NoSuch { which: which.to_owned(), labs }),
        1 => Ok(meant.remove(0).1),
        _ => Err(ClientError::Several { labs: meant.into_iter().map(|(name, _)| name).collect() }),
    }
}

/// What a lab calls itself.
fn name(lab: &mut Connection) -> String {
    let status = lab.status_within(CONTROL_HELLO_MAX);
    status.map_or_else(|_| "one that does not answer".to_owned(), |status| status.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: ClientError, exit_code: u8, text: &str) {
        assert_eq!((error.exit_code(), error.to_string().as_str()), (exit_code, text));
    }

    #[test]
    fn errors_say_what_to_do() {
        let start = "`cargo lab up topologies/three-nodes.yaml` starts one";
        check(ClientError::NoLab, 2, &format!("no lab is up: {start}"));
        let labs = vec!["a-1".to_owned(), "b-2".to_owned()];
        check(ClientError::Several { labs: labs.clone() }, 2, "2 labs are up, name one with --lab: a-1, b-2");
        let which = "c".to_owned();
        check(ClientError::NoSuch { which: which.clone(), labs }, 2, "no lab \"c\" is up: a-1, b-2");
        check(
            ClientError::NoSuch { which, labs: vec![] },
            2,
            &format!("no lab \"c\" is up: none is, and {start}"),
        );
        check(
            ClientError::Ended("runs/a".into()),
            2,
            &format!("the lab of runs/a is not up any more: {start}"),
        );
        let failure = |kind| ClientError::Failed(Failure { kind, text: "n1 runs already".to_owned() });
        check(
            ClientError::Silent(CONTROL_HELLO_MAX),
            2,
            "the lab does not answer within 2 s: it may be stopped, or very busy",
        );
        check(failure(FailureKind::Refused), 1, "n1 runs already");
        check(failure(FailureKind::Usage), 64, "n1 runs already");
        let no_node = ClientError::NoNode { node: "n9".to_owned(), known: "n1, n2".to_owned() };
        check(no_node, 64, "there is no node \"n9\": nodes are n1, n2");
    }
}
