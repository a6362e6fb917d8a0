//! Runs the node: starts it, starts it again after a while when it ends unasked, keeps its last words, stops it.
//!
//! The one file of the appliance that starts a program.

mod back_off;
mod secret;
mod words;

use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, PipeReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use aspen_init::control::NodeState;
use aspen_init::layout::{
    LAST_WORDS, NODE, NODE_CONFIG, NODE_DATA, NODE_NOTIFY, NODE_PRIVATE, NODE_SECRET_FILE,
};
use aspen_init::limits::{
    NODE_KILL_MAX, NODE_LINE_BYTES_MAX, NODE_LOOK_INTERVAL, NODE_STOP_MAX, OUTPUT_DRAIN_MAX, RESTART_WAIT_MAX,
};
use aspen_init::report::{Line, NodeExit};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use self::back_off::{BackOff, Verdict};
use self::secret::{is_secret_key, keep_secret, write_private};
use self::words::LastWords;
use super::clock;
use super::console::Console;
use super::disk::make_private;
use super::events::Event;
use super::ready::{self, Ear};

/// Why the node cannot be run.
#[derive(Debug, thiserror::Error)]
pub(super) enum NodeError {
    /// A file for it.
    #[error("cannot write {path} for the node")]
    File {
        /// Which one.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// What the config disk has for a key.
    #[error(
        "secret.key on the config disk is no secret key: write 64 hexadecimal digits in lower case, as the node's own {NODE_SECRET_FILE} has them"
    )]
    SecretKey,
    /// The program.
    #[error("cannot start {NODE}: build the image again")]
    Program(#[source] io::Error),
    /// What it needs from the kernel.
    #[error("cannot start {NODE}")]
    Start(#[source] io::Error),
    /// It does not like what it is told.
    #[error("the node refuses its settings, see its words above: correct node.toml or the node.* keys")]
    Settings,
    /// It was put back to an earlier state.
    #[error(
        "the node does not run any more on this disk, see its words above: rejoin as a new member, with an empty disk"
    )]
    Retired,
    /// It ends again and again.
    #[error("the node ended {0} times in a row before it served, see its words above and in {LAST_WORDS}")]
    Failures(u32),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(Signal),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "code {code}"),
            Self::Signal(signal) => write!(f, "signal {}", *signal as i32),
        }
    }
}

/// What others may know of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeStatus {
    /// What it does.
    pub(super) state: NodeState,
    /// Its process.
    pub(super) pid: Option<u32>,
    /// How often it was started again.
    pub(super) restarts: u64,
}

/// What the node is started with. It cannot be printed, since a part of it is secret.
pub(super) struct NodeSettings {
    /// Its flags: name without dashes, value.
    pub(super) flags: Vec<(String, String)>,
    /// Its file.
    pub(super) config: String,
    /// Its secret key, for a node that has none.
    pub(super) secret: Option<String>,
    /// Files that its settings may name, by their names: certificates, tokens, the cluster's secret.
    pub(super) private: Vec<(String, String)>,
}

/// The node and its past. It cannot be printed, either: flags are what the node is told.
pub(super) struct Supervisor {
    flags: Vec<(String, String)>,
    http: SocketAddr,
    console: Arc<Console>,
    events: SyncSender<Event>,
    status: Arc<Mutex<NodeStatus>>,
    running: Option<Running>,
    back_off: BackOff,
    starts: u64,
    start_at: Option<Instant>,
    last_exit: Option<Exit>,
}

struct Running {
    pid: Pid,
    started: Instant,
    words: Arc<Mutex<LastWords>>,
    output_ended: Receiver<()>,
    /// Open as long as it runs, and never read here.
    _ear: Ear,
    has_served: bool,
}

impl Supervisor {
    /// Writes the node's files. It is not started yet.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(super) fn new(
        settings: NodeSettings,
        console: Arc<Console>,
        events: SyncSender<Event>,
    ) -> Result<Self, NodeError> {
        let failed = |path: &str| {
            let path = path.to_owned();
            move |source| NodeError::File { path, source }
        };
        let folder = Path::new(NODE_CONFIG).parent().unwrap_or(Path::new("/"));
        make_private(folder)
            .and_then(|()| fs::write(NODE_CONFIG, &settings.config))
            .map_err(failed(NODE_CONFIG))?;
        for (name, text) in &settings.private {
            let path = format!("{NODE_PRIVATE}/{name}");
            write_private(Path::new(&path), text).map_err(failed(&path))?;
        }
        make_private(Path::new(NODE_DATA)).map_err(failed(NODE_DATA))?;
        if let Some(secret) = &settings.secret {
            // Kept, a wrong one would be the node's for good.
            if !is_secret_key(secret) {
                return Err(NodeError::SecretKey);
            }
            let kept = keep_secret(Path::new(NODE_DATA), secret);
            if !kept.map_err(failed(&format!("{NODE_DATA}/{NODE_SECRET_FILE}")))? {
                console.say("the node has a secret key already: secret.key of the config disk is not used");
            }
        }
        let status = NodeStatus { state: NodeState::Stopped, pid: None, restarts: 0 };
        Ok(Self {
            http: ready::http_address(&settings.flags, &settings.config),
            flags: settings.flags,
            console,
            events,
            status: Arc::new(Mutex::new(status)),
            running: None,
            back_off: BackOff::default(),
            starts: 0,
            start_at: None,
            last_exit: None,
        })
    }

    /// Where the node's HTTP interface is.
    pub(super) fn http(&self) -> SocketAddr {
        self.http
    }

    /// What others may know of it, kept up to date.
    pub(super) fn status(&self) -> Arc<Mutex<NodeStatus>> {
        Arc::clone(&self.status)
    }

    /// When it is to be started again, if it is.
    pub(super) fn start_at(&self) -> Option<Instant> {
        // Somebody may have ended it for good meanwhile.
        self.start_at.filter(|_| lock(&self.status).state != NodeState::Stopped)
    }

    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(&mut self) -> Result<(), NodeError> {
        (self.start_at, self.last_exit) = (None, None);
        self.starts += 1;
        match self.launch() {
            // It was started before, and may be again when there is room.
            Err(NodeError::Start(error)) if self.starts > 1 => {
                self.console.say(format_args!("cannot start the node again yet: {error}"));
                self.start_at = Some(Instant::now() + RESTART_WAIT_MAX);
                Ok(())
            }
            launched => launched,
        }
    }

    fn launch(&mut self) -> Result<(), NodeError> {
        let (output, input) = io::pipe().map_err(NodeError::Start)?;
        let errors = input.try_clone().map_err(NodeError::Start)?;
        let word = Path::new(NODE_NOTIFY);
        let ear = ready::watch(self.starts, word, self.events.clone()).map_err(NodeError::Start)?;
        #[allow(
            clippy::disallowed_methods,
            reason = "this is the file of the appliance that starts a program"
        )]
        let mut command = Command::new(NODE);
        command.args(["--config", NODE_CONFIG, "--data-dir", NODE_DATA]);
        command.args(self.flags.iter().map(|(flag, value)| format!("--{flag}={value}")));
        command
            .env_clear()
            .env("NOTIFY_SOCKET", word)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(input)
            .stderr(errors);
        let words = Arc::new(Mutex::new(LastWords::default()));
        let (ended, output_ended) = sync_channel(1);
        let (console, kept) = (Arc::clone(&self.console), Arc::clone(&words));
        let relay = move || {
            relay(output, &console, &kept);
            let _ = ended.send(());
        };
        thread::Builder::new().name("output".to_owned()).spawn(relay).map_err(NodeError::Start)?;
        // Nobody waits for this handle: whatever ends is reaped in one place.
        let child = command.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::ExecutableFileBusy => {
                NodeError::Program(error)
            }
            _ if error.raw_os_error() == Some(Errno::ENOEXEC as i32) => NodeError::Program(error),
            _ => NodeError::Start(error),
        })?;
        // Our copies of the pipe's end go, so that it ends with the node.
        drop(command);
        let pid = Pid::from_raw(child.id().cast_signed());
        let started = Instant::now();
        self.running = Some(Running { pid, started, words, output_ended, _ear: ear, has_served: false });
        let mut status = lock(&self.status);
        // Somebody may have ended it for good meanwhile.
        let is_ended = self.starts > 1 && status.state == NodeState::Stopped;
        let state = if is_ended { NodeState::Stopped } else { NodeState::Running };
        *status = NodeStatus { state, pid: Some(child.id()), restarts: self.starts - 1 };
        if is_ended {
            let _ = kill(pid, Signal::SIGKILL);
        }
        Ok(())
    }

    /// Takes note that a start of it serves, and says whether that is the first of all.
    pub(super) fn serves(&mut self, start: u64) -> bool {
        match &mut self.running {
            Some(running) if start == self.starts => running.has_served = true,
            // It ended meanwhile.
            _ => return false,
        }
        self.back_off.note_first_service()
    }

    /// Reaps whatever ended. When the node did, decides what comes of it.
    ///
    /// # Errors
    /// It is not started again.
    pub(super) fn reap(&mut self) -> Result<(), NodeError> {
        let Some(exit) = self.collect() else { return Ok(()) };
        let Some(running) = self.running.take() else { return Ok(()) };
        self.finish(&running, exit);
        let ran = running.started.elapsed();
        {
            let mut status = lock(&self.status);
            status.pid = None;
            if status.state == NodeState::Stopped {
                // Somebody has ended it for good.
                return Ok(());
            }
            status.state = NodeState::Restarting;
        }
        let restarts = self.starts - 1;
        self.console.report(&Line::NodeExit(NodeExit { node_exit: exit.to_string(), restarts }));
        self.console.say(format_args!("the node ended with {exit} after {} ms", clock::millis(ran)));
        let header =
            format!("# ended with {exit} at unix time {} ms, start {}", clock::unix_ms(), self.starts);
        if let Err(error) = lock(&running.words).append_to(Path::new(LAST_WORDS), &header) {
            self.console.say(format_args!("cannot write {LAST_WORDS}: {error}"));
        }
        match self.back_off.ended(exit, ran, running.has_served) {
            Verdict::Again(wait) => {
                self.console.say(format_args!("the node is started again in {} ms", clock::millis(wait)));
                self.start_at = Some(Instant::now() + wait);
                Ok(())
            }
            Verdict::Settings => Err(NodeError::Settings),
            Verdict::Retired => Err(NodeError::Retired),
            Verdict::Failures(count) => Err(NodeError::Failures(count)),
        }
    }

    /// Stops it, by force when it does not stop by itself, and returns how it ended.
    pub(super) fn stop(&mut self, events: &Receiver<Event>) -> Option<Exit> {
        self.start_at = None;
        let Some(running) = self.running.take() else {
            self.set_stopped();
            return self.last_exit;
        };
        for (signal, limit) in [(Signal::SIGTERM, NODE_STOP_MAX), (Signal::SIGKILL, NODE_KILL_MAX)] {
            let _ = kill(running.pid, signal);
            if let Some(exit) = self.wait(events, limit) {
                self.finish(&running, exit);
                break;
            }
            self.console
                .say(format_args!("the node did not end within {} s after {signal}", limit.as_secs()));
        }
        self.set_stopped();
        self.last_exit
    }

    fn set_stopped(&self) {
        let mut status = lock(&self.status);
        (status.state, status.pid) = (NodeState::Stopped, None);
    }

    /// Waits for the node's end; nothing when it does not come in time.
    fn wait(&mut self, events: &Receiver<Event>, limit: Duration) -> Option<Exit> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(exit) = self.collect() {
                return Some(exit);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            // Whatever happens, look again.
            let _ = events.recv_timeout(left.min(NODE_LOOK_INTERVAL));
        }
    }

    /// Reaps all processes that ended; the node's exit, if it is among them.
    fn collect(&mut self) -> Option<Exit> {
        let mut found = None;
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return found,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => return found,
            };
            let status = *lock(&self.status);
            if status.pid == u32::try_from(pid.as_raw()).ok() {
                self.last_exit = Some(exit);
                found = Some(exit);
            }
        }
    }

    /// Ends what belonged to a run of the node, and waits for its last line.
    fn finish(&mut self, running: &Running, exit: Exit) {
        self.last_exit = Some(exit);
        let _ = running.output_ended.recv_timeout(OUTPUT_DRAIN_MAX);
    }
}

/// Hands the node's output to the console, line by line, and keeps the end of it.
fn relay(output: PipeReader, console: &Console, kept: &Mutex<LastWords>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut output).take(NODE_LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\n', '\r']);
        console.relay(text);
        lock(kept).push(text);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn output_is_relayed_line_by_line_and_its_end_is_kept() {
        let (output, mut input) = io::pipe().unwrap();
        input.write_all(b"one\ntwo\r\nand the rest").unwrap();
        drop(input);
        let out = tempfile::NamedTempFile::new().unwrap();
        let kept = Mutex::new(LastWords::default());
        relay(output, &Console::at(out.path()), &kept);
        assert_eq!(fs::read_to_string(out.path()).unwrap(), "one\ntwo\nand the rest\n");
        assert_eq!(lock(&kept).to_string(), "one\ntwo\nand the rest\n");
    }

    #[test]
    fn exits_are_named() {
        assert_eq!(Exit::Code(64).to_string(), "code 64");
        assert_eq!(Exit::Signal(Signal::SIGKILL).to_string(), "signal 9");
    }

    #[test]
    fn errors_say_where_to_look() {
        assert_eq!(
            NodeError::Failures(10).to_string(),
            "the node ended 10 times in a row before it served, see its words above and in /data/last-words"
        );
        assert_eq!(
            NodeError::Settings.to_string(),
            "the node refuses its settings, see its words above: correct node.toml or the node.* keys"
        );
    }
}
