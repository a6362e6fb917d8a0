//! The lab's end of the appliance's control channel: probes from inside the machine, and how its node is.
//!
//! Many may ask at once; each gets its own answer, whenever it comes.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use aspen_init::control::{Answer, Order, Outcome, Request};
use nix::sys::socket::UnixAddr;
use serde_json::Value;

use crate::connect::connect as unix_connect;
use crate::limits::machines::{CONTROL_ANSWER_MAX, VSOCK_ANSWER_MAX, VSOCK_LINE_BYTES_MAX};

/// Why a machine did not say what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens, or the connection has broken.
    #[error("the control channel: {doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The machine stands still, or has not come so far.
    #[error("the machine did not answer on its control channel within {0:?}")]
    Silent(Duration),
    /// It refuses.
    #[error("the machine refuses: {0}")]
    Refused(String),
    /// What came is no answer to what was asked.
    #[error("the control channel sent `{0}`, another answer was to come")]
    Malformed(String),
}

impl ControlError {
    /// Whether the order cannot have reached the machine.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Io { doing: CONNECTING, .. })
    }
}

/// What is being done before anything is sent.
const CONNECTING: &str = "connecting";

/// Where a hypervisor offers the control channel of its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlSocket {
    /// An abstract Unix socket that is the channel itself.
    Abstract(String),
    /// A Unix socket behind which the machine listens on many vsock ports: one is asked for by name, and the answer is a line
    /// (Cloud Hypervisor and Firecracker have it so).
    Vsock(PathBuf),
}

/// The control channel of one machine, over all its starts: connected when needed, and anew when it has broken.
#[derive(Debug, Default)]
pub struct ControlChannel {
    next_id: AtomicU64,
    link: Mutex<Slot>,
}

/// The connection, if there is one, and where the next one is to be had: nowhere while the machine is off.
#[derive(Debug, Default)]
struct Slot {
    socket: Option<ControlSocket>,
    link: Option<Link>,
}

/// One connection. Its reader ends with it.
#[derive(Debug)]
struct Link {
    stream: UnixStream,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    is_closed: bool,
    /// Who waits for the answer of this number.
    answers: BTreeMap<u64, SyncSender<Outcome<Value>>>,
}

impl ControlChannel {
    /// Has it behind this socket from now on: the machine starts.
    pub fn open(&self, socket: ControlSocket) {
        *lock(&self.link) = Slot { socket: Some(socket), link: None };
    }

    /// Lets the connection go: the machine behind it is gone.
    pub fn close(&self) {
        *lock(&self.link) = Slot::default();
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn ask(&self, order: Order, within: Duration) -> Result<Value, ControlError> {
        // 0 is the number of an answer to what was no request.
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, reply) = sync_channel(1);
        let waiting = self.send(&Request { id, order }, sender)?;
        let outcome = reply.recv_timeout(within);
        lock(&waiting).answers.remove(&id);
        match outcome {
            Ok(Outcome::Ok(value)) => Ok(value),
            Ok(Outcome::Error(reason)) => Err(ControlError::Refused(reason)),
            Err(RecvTimeoutError::Timeout) => Err(ControlError::Silent(within)),
            Err(RecvTimeoutError::Disconnected) => Err(ControlError::Io {
                doing: "waiting for an answer",
                source: io::ErrorKind::BrokenPipe.into(),
            }),
        }
    }

    fn send(
        &self,
        request: &Request,
        reply: SyncSender<Outcome<Value>>,
    ) -> Result<Arc<Mutex<Waiting>>, ControlError> {
        let failed = |doing| move |source| ControlError::Io { doing, source };
        let mut slot = lock(&self.link);
        let Slot { socket, link: connection } = &mut *slot;
        let is_usable = connection.as_ref().is_some_and(|link| !lock(&link.waiting).is_closed);
        if !is_usable {
            *connection = None;
        }
        let link = match &mut *connection {
            Some(link) => link,
            none => none.insert(connect(socket.as_ref()).map_err(failed(CONNECTING))?),
        };
        lock(&link.waiting).answers.insert(request.id, reply);
        let mut bytes =
            serde_json::to_vec(request).map_err(|error| failed("writing a request")(error.into()))?;
        bytes.push(b'\n');
        let waiting = link.waiting.clone();
        let sent = (&link.stream).write_all(&bytes);
        if sent.is_err() {
            // It may hold half of the request.
            *connection = None;
        }
        sent.map_err(failed("sending a request"))?;
        Ok(waiting)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Ends the reader; a connection that is closed already has none.
        let _closed = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

fn connect(socket: Option<&ControlSocket>) -> io::Result<Link> {
    let stream = match socket {
        None => return Err(io::ErrorKind::NotConnected.into()),
        Some(ControlSocket::Abstract(name)) => {
            unix_connect(&UnixAddr::new_abstract(name.as_bytes())?, CONTROL_ANSWER_MAX)?
        }
        Some(ControlSocket::Vsock(path)) => connect_vsock(path)?,
    };
    stream.set_write_timeout(Some(CONTROL_ANSWER_MAX))?;
    let waiting = Arc::new(Mutex::new(Waiting::default()));
    let (reading, answered) = (stream.try_clone()?, waiting.clone());
    thread::Builder::new().name("control".to_owned()).spawn(move || {
        read_answers(reading, &answered);
        let mut waiting = lock(&answered);
        waiting.is_closed = true;
        waiting.answers.clear();
    })?;
    Ok(Link { stream, waiting })
}

/// Asks for the appliance's port of a machine's vsock device; a machine that has not come so far does not have it yet.
fn connect_vsock(path: &Path) -> io::Result<UnixStream> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // By the folder's descriptor: the path of a socket has 107 bytes at most, and that of a run may have more.
    let folder = File::open(folder)?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    let mut stream = unix_connect(&UnixAddr::new(&short)?, VSOCK_ANSWER_MAX)?;
    stream.set_read_timeout(Some(VSOCK_ANSWER_MAX))?;
    stream.set_write_timeout(Some(VSOCK_ANSWER_MAX))?;
    writeln!(stream, "CONNECT {}", aspen_init::layout::CONTROL_VSOCK_PORT)?;
    // Byte by byte: what follows the line is the appliance's.
    let mut line = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" && line.len() < VSOCK_LINE_BYTES_MAX {
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    if !line.starts_with(b"OK ") {
        let said = String::from_utf8_lossy(&line).trim_end().to_owned();
        return Err(io::Error::other(format!("`{said}` came, OK and a port were to come")));
    }
    stream.set_read_timeout(None)?;
    Ok(stream)
}

/// Hands every answer to whoever waits for it, until the connection ends.
fn read_answers(stream: UnixStream, waiting: &Mutex<Waiting>) {
    let mut stream = BufReader::new(stream);
    let bound = aspen_init::limits::CONTROL_LINE_BYTES_MAX as u64;
    loop {
        let mut line = String::new();
        match (&mut stream).take(bound).read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        // A guest that was cut off in the middle of a line begins its next life with the rest of it.
        let Ok(Answer { id, outcome }) = serde_json::from_str::<Answer<Value>>(&line) else { continue };
        if let Some(sender) = lock(waiting).answers.remove(&id) {
            let _gave_up = sender.send(outcome);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};

    use super::*;

    fn channel(socket: ControlSocket) -> ControlChannel {
        let channel = ControlChannel::default();
        channel.open(socket);
        channel
    }

    /// A machine that takes a request and sends these lines.
    fn machine(name: &str, lines: &'static str) -> (ControlChannel, thread::JoinHandle<()>) {
        let socket = format!("aspen-test/{}/{name}", std::process::id());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&socket).unwrap()).unwrap();
        let answering = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            stream.write_all(lines.as_bytes()).unwrap();
        });
        (channel(ControlSocket::Abstract(socket)), answering)
    }

    #[track_caller]
    fn check(name: &str, lines: &'static str, want: Result<Value, &str>) {
        let (channel, answering) = machine(name, lines);
        let got = channel.ask(Order::Health, Duration::from_secs(5)).map_err(|error| error.to_string());
        assert_eq!(got, want.map_err(str::to_owned));
        answering.join().unwrap();
    }

    #[test]
    fn answers_are_told_from_each_other_and_from_what_is_none() {
        check("other", "the rest of a line\n{\"id\":9,\"ok\":{}}\n{\"id\":1,\"ok\":7}\n", Ok(7.into()));
        check("refused", "{\"id\":1,\"error\":\"not now\"}\n", Err("the machine refuses: not now"));
        check("gone", "{\"id\":9,\"ok\":{}}\n", Err("the control channel: waiting for an answer"));
    }

    #[test]
    fn machine_that_is_not_there_is_told() {
        let channel = channel(ControlSocket::Abstract(format!("aspen-test/{}/nobody", std::process::id())));
        let error = channel.ask(Order::Health, Duration::from_secs(5)).unwrap_err();
        assert_eq!(error.to_string(), "the control channel: connecting");
    }

    /// What comes of asking a machine behind a vsock device that answers the request for the port with this.
    fn ask_over_vsock(answer: &'static str) -> Result<Value, String> {
        let home = tempfile::tempdir().unwrap();
        let bound = home.path().join("vsock");
        let listener = UnixListener::bind(&bound).unwrap();
        // Where a run's folders have long names.
        let folder = home.path().join("n".repeat(120));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("vsock");
        std::fs::rename(bound, &path).unwrap();
        let answering = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            if answer.starts_with("OK") {
                reader.read_line(&mut line).unwrap();
                stream.write_all(b"{\"id\":1,\"ok\":7}\n").unwrap();
            }
            line
        });
        let channel = channel(ControlSocket::Vsock(path));
        let outcome = channel.ask(Order::Health, Duration::from_secs(5));
        assert!(answering.join().unwrap().starts_with("CONNECT 7400\n"));
        outcome.map_err(|error| crate::causes::causes(&error))
    }

    #[test]
    fn port_of_a_vsock_device_is_asked_for() {
        assert_eq!(ask_over_vsock("OK 1073741824\n"), Ok(7.into()));
        let refused = ask_over_vsock("NO\n").unwrap_err();
        assert!(refused.contains("`NO` came"), "{refused}");
        assert!(ask_over_vsock("").unwrap_err().contains("connecting"));
    }
}
