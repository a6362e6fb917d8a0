//! The QEMU machine protocol, as far as the driver needs it (qemu-qmp-ref(7)): one JSON object a line over a Unix socket,
//! one command at a time, every wait bounded.

use std::fmt::Debug;
use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::connect::connect;
use crate::limits::machines::{
    QEMU_START_MAX, QMP_ANSWER_MAX, QMP_LINE_BYTES_MAX, QMP_LINES_MAX, SAVE_BYTES_PER_S,
};

/// Why QEMU did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Nobody listens, or the connection has broken.
    #[error("qemu's control socket: {doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// What came is not of the protocol.
    #[error("qemu's control socket sent `{0}`, a line of the machine protocol was to come")]
    Malformed(String),
    /// Longer than any answer.
    #[error("qemu's control socket sent a line of more than {QMP_LINE_BYTES_MAX} bytes")]
    TooLong,
    /// Events without end.
    #[error("qemu sent {QMP_LINES_MAX} lines and no answer to {0}")]
    NoAnswer(&'static str),
    /// It takes too long.
    #[error("qemu is not done with {doing} within {limit:?}")]
    Slow {
        /// With what.
        doing: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// QEMU refuses.
    #[error("qemu refuses {command}: {reason}")]
    Refused {
        /// What it was told.
        command: &'static str,
        /// What it says.
        reason: String,
    },
}

/// A connection on which commands are understood.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

/// What QEMU does with its machine (`query-status`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RunState {
    /// `running`, `paused`, `shutdown` and more.
    pub status: String,
    /// Whether its processors run.
    pub running: bool,
}

/// A processor of the machine (`query-cpus-fast`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Processor {
    /// The thread that runs it.
    #[serde(rename = "thread-id")]
    pub thread_id: u32,
}

/// What may come on a line.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    event: Option<String>,
    #[serde(rename = "return")]
    returned: Option<Value>,
    error: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    desc: String,
}

#[derive(Debug, Serialize)]
struct Command<'a> {
    execute: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<Value>,
}

/// How far QEMU is with writing its machine down (`query-migrate`).
#[derive(Debug, Deserialize)]
struct Migration {
    status: Option<String>,
    #[serde(rename = "error-desc")]
    error: Option<String>,
}

/// The name of a descriptor that QEMU was given.
const STATE: &str = "state";

impl Qmp {
    /// Connects to an abstract socket, which listens before QEMU starts, and makes commands understood.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn connect(name: &str) -> Result<Self, QmpError> {
        let failed = |source| QmpError::Io { doing: "connecting", source };
        let address = UnixAddr::new_abstract(name.as_bytes()).map_err(|errno| failed(errno.into()))?;
        Self::greet(connect(&address, QMP_ANSWER_MAX).map_err(failed)?)
    }

    fn greet(stream: UnixStream) -> Result<Self, QmpError> {
        let failed = |source| QmpError::Io { doing: "setting its time-outs", source };
        stream.set_read_timeout(Some(QEMU_START_MAX + QMP_ANSWER_MAX)).map_err(failed)?;
        stream.set_write_timeout(Some(QMP_ANSWER_MAX)).map_err(failed)?;
        let mut qmp = Self { stream: BufReader::new(stream) };
        let (line, text) = qmp.line()?;
        if line.greeting.is_none() {
            return Err(QmpError::Malformed(text));
        }
        qmp.stream.get_ref().set_read_timeout(Some(QMP_ANSWER_MAX)).map_err(failed)?;
        qmp.order("qmp_capabilities")?;
        Ok(qmp)
    }

    /// Stops the processors.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn stop(&mut self) -> Result<(), QmpError> {
        self.order("stop")
    }

    /// Lets the processors go on.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn cont(&mut self) -> Result<(), QmpError> {
        self.order("cont")
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn system_powerdown(&mut self) -> Result<(), QmpError> {
        self.order("system_powerdown")
    }

    /// Whether the processors run.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn query_status(&mut self) -> Result<RunState, QmpError> {
        self.execute("query-status")
    }

    /// The processors.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn query_cpus(&mut self) -> Result<Vec<Processor>, QmpError> {
        self.execute("query-cpus-fast")
    }

    /// Begins to write the state of the machine, all but its disks, to a socket.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn save_to(&mut self, socket: BorrowedFd<'_>) -> Result<(), QmpError> {
        let limit = json!({ "max-bandwidth": SAVE_BYTES_PER_S });
        self.execute_with::<Value>("migrate-set-parameters", Some(limit), None)?;
        self.execute_with::<Value>("getfd", Some(json!({ "fdname": STATE })), Some(socket))?;
        let to = json!({ "uri": format!("fd:{STATE}") });
        self.execute_with::<Value>("migrate", Some(to), None).map(drop)
    }

    /// Whether that is done.
    ///
    /// # Errors
    /// [`QmpError`]; it has failed.
    pub fn is_saved(&mut self) -> Result<bool, QmpError> {
        const COMMAND: &str = "query-migrate";
        let Migration { status, error } = self.execute(COMMAND)?;
        match status.as_deref() {
            Some("completed") => Ok(true),
            Some("failed" | "cancelled") => {
                let reason = error.unwrap_or_else(|| "it does not say why".to_owned());
                Err(QmpError::Refused { command: "migrate", reason })
            }
            _ => Ok(false),
        }
    }

    /// A command whose answer holds nothing.
    fn order(&mut self, command: &'static str) -> Result<(), QmpError> {
        self.execute::<Value>(command).map(drop)
    }

    fn execute<T: DeserializeOwned>(&mut self, command: &'static str) -> Result<T, QmpError> {
        self.execute_with(command, None, None)
    }

    /// Sends a command, with a descriptor beside its text, and waits for the answer.
    fn execute_with<T: DeserializeOwned>(
        &mut self,
        command: &'static str,
        arguments: Option<Value>,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<T, QmpError> {
        let failed = |source| QmpError::Io { doing: "sending a command", source };
        let order = Command { execute: command, arguments };
        let mut text = serde_json::to_vec(&order).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        let mut rest = text.as_slice();
        if let Some(descriptor) = descriptor {
            let descriptors = [descriptor.as_raw_fd()];
            let (io, rights) = ([IoSlice::new(rest)], [ControlMessage::ScmRights(&descriptors)]);
            let socket = self.stream.get_ref().as_raw_fd();
            let sent = sendmsg::<()>(socket, &io, &rights, MsgFlags::empty(), None);
            rest = &rest[sent.map_err(|errno| failed(errno.into()))?..];
        }
        self.stream.get_mut().write_all(rest).map_err(failed)?;
        for _ in 0..QMP_LINES_MAX {
            let (line, text) = self.line()?;
            match line {
                // What else happens is of no interest here.
                Line { event: Some(_), .. } => {}
                Line { error: Some(Refusal { desc }), .. } => {
                    return Err(QmpError::Refused { command, reason: desc });
                }
                Line { returned: Some(value), .. } => {
                    return serde_json::from_value(value).map_err(|_| QmpError::Malformed(text));
                }
                Line { .. } => return Err(QmpError::Malformed(text)),
            }
        }
        Err(QmpError::NoAnswer(command))
    }

    fn line(&mut self) -> Result<(Line, String), QmpError> {
        let failed = |source| QmpError::Io { doing: "waiting for a line", source };
        let mut text = String::new();
        let mut bounded = (&mut self.stream).take(QMP_LINE_BYTES_MAX);
        if bounded.read_line(&mut text).map_err(failed)? == 0 {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        if !text.ends_with('\n') && text.len() as u64 >= QMP_LINE_BYTES_MAX {
            return Err(QmpError::TooLong);
        }
        let text = text.trim_end().to_owned();
        serde_json::from_str(&text).map(|line| (line, text.clone())).map_err(|_| QmpError::Malformed(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str =
        r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": []}}"#;

    /// What comes of a connection whose other end sends these lines.
    fn told(lines: &str) -> Result<RunState, String> {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(lines.as_bytes()).unwrap();
        far.shutdown(std::net::Shutdown::Write).unwrap();
        let status = Qmp::greet(near).and_then(|mut qmp| qmp.query_status());
        status.map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check(lines: &[&str], want: &str) {
        assert_eq!(told(&(lines.join("\n") + "\n")).unwrap_err(), want);
    }

    #[test]
    fn events_before_an_answer_are_passed_over() {
        let lines = [
            GREETING,
            r#"{"return": {}}"#,
            r#"{"timestamp": {"seconds": 1}, "event": "STOP"}"#,
            r#"{"return": {"status": "paused", "running": false}}"#,
            "",
        ];
        let want = RunState { status: "paused".to_owned(), running: false };
        assert_eq!(told(&lines.join("\n")), Ok(want));
    }

    #[test]
    fn what_is_no_answer_is_told() {
        check(&["hello"], "qemu's control socket sent `hello`, a line of the machine protocol was to come");
        check(
            &[r#"{"return": {}}"#],
            "qemu's control socket sent `{\"return\": {}}`, a line of the machine protocol was to come",
        );
        check(
            &[GREETING, r#"{"return": {}}"#, r#"{"return": {"status": 7}}"#],
            "qemu's control socket sent `{\"return\": {\"status\": 7}}`, a line of the machine protocol was to come",
        );
        let refused = r#"{"error": {"class": "CommandNotFound", "desc": "The command query-status has not been found"}}"#;
        check(
            &[GREETING, r#"{"return": {}}"#, refused],
            "qemu refuses query-status: The command query-status has not been found",
        );
        check(&[GREETING, r#"{"return": {}}"#], "qemu's control socket: waiting for a line");
        let event = r#"{"event": "RESUME"}"#;
        let mut lines = vec![GREETING, r#"{"return": {}}"#];
        lines.extend([event; QMP_LINES_MAX]);
        check(&lines, "qemu sent 1000 lines and no answer to query-status");
        assert_eq!(
            told(&"x".repeat(70_000)).unwrap_err(),
            "qemu's control socket sent a line of more than 65536 bytes"
        );
    }
}
