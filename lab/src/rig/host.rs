//! The host's side while the guest runs: what the command prints is printed here, what is typed here is typed there.

use std::fs;
use std::io::{self, IsTerminal, PipeReader, PipeWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use super::out::{Out, OutError};
use super::terminal::{self, Raw};
use super::vmm::Started;
use super::wire::{Ended, Order, ToGuest, ToHost, pass_on, receive, send};
use crate::image::workshop::last_lines;
use crate::limits::KILL_WAIT_MAX;
use crate::limits::rig::STOP_MAX;
use crate::program::{Running, stop_signals, tail};
use crate::scratch::Scratch;

/// Why the command did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The guest takes too long.
    #[error("the guest was not up within {} s: is this host busy? {said}", .limit.as_secs())]
    NotUp {
        /// How long it was given.
        limit: Duration,
        /// The end of its console.
        said: String,
    },
    /// It ends before it is up.
    #[error("the guest ended before it was up; {said}")]
    DiedEarly {
        /// What QEMU and the console say.
        said: String,
    },
    /// It ends under the command.
    #[error("the guest ended under the command, and what it had made is lost; {said}")]
    Died {
        /// What QEMU and the console say.
        said: String,
    },
    /// The user wants an end.
    #[error("stopped, before the command came to its end")]
    Stopped,
    /// What comes is not of our making.
    #[error("cannot understand the guest; {said}")]
    Wire {
        /// What QEMU and the console say.
        said: String,
        /// Why.
        source: io::Error,
    },
    /// What comes out.
    #[error(transparent)]
    Out(#[from] OutError),
    /// The terminal's signals, or a thread.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// The terminal.
    #[error("cannot pass the keys of this terminal on")]
    Terminal(#[source] io::Error),
}

impl ServeError {
    /// The exit code that goes with it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotUp { .. } | Self::DiedEarly { .. } => 3,
            _ => 2,
        }
    }
}

/// Where to read what went wrong.
#[derive(Debug, Clone)]
pub(super) struct Logs {
    pub(super) console: PathBuf,
    pub(super) complaints: PathBuf,
}

impl Logs {
    /// The ends of both.
    fn said(&self) -> String {
        let end = |path: &Path| last_lines(&tail(path).unwrap_or_default());
        let (complaints, console) = (end(&self.complaints), end(&self.console));
        let qemu = if complaints.is_empty() { complaints } else { format!("QEMU says:\n{complaints}\n") };
        let console = if console.is_empty() { "nothing on it".to_owned() } else { format!("\n{console}") };
        format!("{qemu}its console ends: {console}")
    }
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    running: Mutex<Running>,
    to: Mutex<PipeWriter>,
    is_up: AtomicBool,
    /// Whether the user has ended it.
    is_stopped: AtomicBool,
    is_late: AtomicBool,
    /// How long the guest may take until it is up.
    limit: Duration,
}

impl Shared {
    fn send(&self, message: &ToGuest) -> io::Result<()> {
        send(message, &mut *lock(&self.to))
    }

    /// Ends the guest: everything in it ends, too.
    fn end(&self) {
        // What the kernel does not end now it ends with this process.
        let _ = lock(&self.running).kill();
    }
}

/// The signals that a rig waits for.
fn signals() -> SigSet {
    let mut signals = stop_signals();
    signals.add(Signal::SIGWINCH);
    signals
}

/// Who is told of a signal.
#[derive(Debug)]
enum Listener {
    /// There is no guest yet. What was made for it is in a folder, once there is one.
    Maker(Option<PathBuf>),
    /// The guest.
    Guest(Arc<Shared>),
}

/// What is done about signals, from the beginning of a rig to its end.
#[derive(Debug)]
pub(super) struct Signals(Arc<Mutex<Listener>>);

impl Signals {
    /// Begins to listen. No thread may have been made before, since every thread inherits the mask; what is started takes it off
    /// again.
    ///
    /// # Errors
    /// They cannot be blocked, or there is no thread.
    pub(super) fn listen() -> io::Result<Self> {
        signals().thread_block()?;
        let listener = Arc::new(Mutex::new(Listener::Maker(None)));
        let heard = listener.clone();
        // The thread ends with the process.
        thread::Builder::new().name("signals".to_owned()).spawn(move || hear(&heard))?;
        Ok(Self(listener))
    }

    /// Comes back unless a signal is about to end this process: then nothing else is to be said.
    pub(super) fn settle(&self) {
        drop(lock(&self.0));
    }

    /// Makes a folder that is removed where a signal ends everything before there is a guest.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn with<E>(&self, make: impl FnOnce() -> Result<Scratch, E>) -> Result<Scratch, E> {
        let mut listener = lock(&self.0);
        let scratch = make()?;
        *listener = Listener::Maker(Some(scratch.path().to_owned()));
        Ok(scratch)
    }
}

/// Waits for the guest, `limit` at most, gives it its order, and stays until the command has ended and all has come out. `up`
/// is called when the guest is up.
///
/// # Errors
/// [`ServeError`].
pub(super) fn serve(
    signals: &Signals,
    started: Started,
    order: Order,
    out: &mut Out,
    logs: &Logs,
    limit: Duration,
    up: &mut dyn FnMut(&str),
) -> Result<Ended, ServeError> {
    let Started { running, from, to } = started;
    let shared = Arc::new(Shared {
        running: Mutex::new(running),
        to: Mutex::new(to),
        is_up: AtomicBool::new(false),
        is_stopped: AtomicBool::new(false),
        is_late: AtomicBool::new(false),
        limit,
    });
    *lock(&signals.0) = Listener::Guest(shared.clone());
    let in_time = watch_the_clock(&shared).map_err(ServeError::Signals)?;
    let ended = follow(&shared, from, order, out, logs, up, in_time);
    shared.end();
    ended
}

fn follow(
    shared: &Arc<Shared>,
    mut from: PipeReader,
    order: Order,
    out: &mut Out,
    logs: &Logs,
    up: &mut dyn FnMut(&str),
    in_time: SyncSender<()>,
) -> Result<Ended, ServeError> {
    let mut in_time = Some(in_time);
    let mut raw = None;
    loop {
        let message = match receive::<ToHost>(&mut from) {
            Ok(Some(message)) => message,
            Ok(None) => return Err(shared.why_ended(logs)),
            // It was ended in the middle of a message.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(shared.why_ended(logs)),
            Err(source) => return Err(ServeError::Wire { said: logs.said(), source }),
        };
        match message {
            ToHost::Up(release) => {
                drop(in_time.take());
                up(&release);
                if order.is_interactive {
                    raw = Some(Raw::begin().map_err(ServeError::Terminal)?);
                }
                match begin(shared, &order) {
                    // It has just ended, and there is more to be read of why.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                    begun => begun.map_err(|source| ServeError::Wire { said: logs.said(), source })?,
                }
                // From now on the command hears of signals, and not before it has its order.
                shared.is_up.store(true, Ordering::Relaxed);
            }
            // A closed pipe does not end the command: its exit code counts.
            ToHost::Output(bytes) => drop(write(io::stdout(), &bytes)),
            ToHost::Errors(bytes) => drop(write(io::stderr(), &bytes)),
            ToHost::Entry(entry) => out.begin(entry)?,
            ToHost::Data(place, bytes) => out.data(place, &bytes)?,
            ToHost::Ended(ended) => {
                drop(raw);
                return Ok(ended);
            }
        }
    }
}

fn write(mut to: impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// Gives the guest its order, and from then on what is typed here.
fn begin(shared: &Arc<Shared>, order: &Order) -> io::Result<()> {
    shared.send(&ToGuest::Order(Box::new(order.clone())))?;
    if !order.has_input {
        return Ok(());
    }
    let shared = shared.clone();
    // The thread ends with the process.
    let typed = move || {
        let passed = pass_on(io::stdin(), |bytes| shared.send(&ToGuest::Input(bytes)));
        // A guest that takes no more has ended, which is seen elsewhere.
        let _ = passed.and_then(|()| shared.send(&ToGuest::Input(vec![])));
    };
    thread::Builder::new().name("input".to_owned()).spawn(typed).map(drop)
}

impl Shared {
    /// Why nothing comes any more.
    fn why_ended(&self, logs: &Logs) -> ServeError {
        // QEMU closes its end a moment before it is gone.
        let _ = lock(&self.running).wait(KILL_WAIT_MAX);
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if is(&self.is_stopped) {
            return ServeError::Stopped;
        }
        let said = logs.said();
        if is(&self.is_late) {
            ServeError::NotUp { limit: self.limit, said }
        } else if is(&self.is_up) {
            ServeError::Died { said }
        } else {
            ServeError::DiedEarly { said }
        }
    }
}

/// Ends a guest that is not up in time. It is when the value that comes back goes.
fn watch_the_clock(shared: &Arc<Shared>) -> io::Result<SyncSender<()>> {
    let (in_time, waiting) = sync_channel::<()>(0);
    let shared = shared.clone();
    let watch = move || {
        if waiting.recv_timeout(shared.limit) == Err(RecvTimeoutError::Timeout) {
            shared.is_late.store(true, Ordering::Relaxed);
            shared.end();
        }
    };
    thread::Builder::new().name("clock".to_owned()).spawn(watch)?;
    Ok(in_time)
}

/// Passes signals on as long as the guest runs. Who wants an end twice gets it: from the command, or else from here. Before there is a
/// guest everything ends at once.
fn hear(listener: &Mutex<Listener>) {
    let mut wishes = 0;
    while let Ok(signal) = signals().wait() {
        // As long as this is locked, no guest is served; one that has just been started dies with this process.
        let heard = lock(listener);
        let shared = match &*heard {
            Listener::Guest(shared) => shared.clone(),
            Listener::Maker(_) if signal == Signal::SIGWINCH => continue,
            Listener::Maker(folder) => {
                // Something may be made in it meanwhile, and what is left is removed by the next rig.
                let remove =
                    |folder: &PathBuf| fs::remove_dir_all(folder).or_else(|_| fs::remove_dir_all(folder));
                let _ = folder.as_ref().map(remove);
                let _ = writeln!(io::stderr(), "lab: {}", ServeError::Stopped);
                std::process::exit(ServeError::Stopped.exit_code().into());
            }
        };
        drop(heard);
        let is_up = shared.is_up.load(Ordering::Relaxed);
        match signal {
            Signal::SIGWINCH => {
                // One that cannot be told is drawn badly, and no more.
                let _ = shared.send(&ToGuest::Size(terminal_size()));
            }
            // The end of a terminal is told more than once, and says nothing of haste.
            Signal::SIGHUP if is_up => {
                if shared.send(&ToGuest::Signal(signal as i32)).is_err() {
                    shared.stop();
                }
            }
            Signal::SIGINT | Signal::SIGTERM if is_up && wishes < 2 => {
                wishes += 1;
                let told = shared.send(&ToGuest::Signal(signal as i32));
                if told.is_err() || wishes == 2 && end_later(&shared).is_err() {
                    shared.stop();
                }
            }
            _ => shared.stop(),
        }
    }
}

/// Ends the guest if the command does not end by itself now.
fn end_later(shared: &Arc<Shared>) -> io::Result<()> {
    let shared = shared.clone();
    let (begin, limit): (Instant, Duration) = (Instant::now(), STOP_MAX);
    // The thread ends with the process.
    let wait = move || {
        while begin.elapsed() < limit {
            thread::sleep(limit.saturating_sub(begin.elapsed()));
        }
        shared.stop();
    };
    thread::Builder::new().name("end".to_owned()).spawn(wait).map(drop)
}

impl Shared {
    fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.end();
    }
}

/// The size of the terminal that the user looks at.
pub(super) fn terminal_size() -> super::wire::Size {
    if io::stdout().is_terminal() { terminal::size_of(io::stdout()) } else { terminal::size_of(io::stderr()) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::super::wire::Size;
    use super::*;
    use crate::program::Program;

    /// What comes of a guest that is this script of a shell, and whether it was up.
    fn of(script: &str, limit: Duration) -> (Result<Ended, ServeError>, Option<String>) {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        let logs = Logs { console: path("console.log"), complaints: path("qemu.log") };
        fs::write(&logs.console, "Kernel panic: no init\n").unwrap();
        fs::write(&logs.complaints, "").unwrap();
        let (input, to) = io::pipe().unwrap();
        let (from, output) = io::pipe().unwrap();
        let program = Program::new("/bin/sh").arg("-c").arg(script);
        let running = program.start_on([input.into(), output.into(), Stdio::null()]).unwrap();
        let order = Order {
            words: vec![],
            environment: vec![],
            folder: Path::new("/").into(),
            out: vec![],
            terminals: [false; 3],
            size: Size { rows: 1, columns: 1 },
            is_interactive: false,
            has_input: false,
        };
        let mut release = None;
        let started = Started { running, from, to };
        let mut up = |said: &str| release = Some(said.to_owned());
        let signals = Signals(Arc::new(Mutex::new(Listener::Maker(None))));
        (serve(&signals, started, order, &mut Out::new(vec![]), &logs, limit, &mut up), release)
    }

    const LONG: Duration = Duration::from_secs(20);
    const UP: &str = "printf 'u\\3\\0\\0\\0'; printf 6.1;";

    #[test]
    fn guest_that_does_what_it_should_ends_with_the_exit_code_of_the_command() {
        // It waits for its order first.
        let ended = "head -c 5 > /dev/null; printf 'e\\30\\0\\0\\0'; printf '{\"code\":7,\"notes\":[\"n\"]}'; sleep 60";
        let (ended, release) = of(&format!("{UP} {ended}"), LONG);
        assert_eq!(ended.unwrap(), Ended { code: 7, notes: vec!["n".to_owned()] });
        assert_eq!(release.as_deref(), Some("6.1"));
    }

    #[track_caller]
    fn check(script: &str, limit: Duration, code: u8, want: &str) {
        let error = of(script, limit).0.unwrap_err();
        let text = error.to_string();
        assert_eq!(
            (error.exit_code(), text.as_str()),
            (code, format!("{want}its console ends: \nKernel panic: no init").as_str())
        );
    }

    #[test]
    fn guest_that_does_not_is_told_with_the_end_of_its_console() {
        check("exit 1", LONG, 3, "the guest ended before it was up; ");
        let late = Duration::from_millis(50);
        check("exec sleep 60", late, 3, "the guest was not up within 0 s: is this host busy? ");
        check(UP, LONG, 2, "the guest ended under the command, and what it had made is lost; ");
        check("printf 'hello world'; exec sleep 60", LONG, 2, "cannot understand the guest; ");
    }
}
