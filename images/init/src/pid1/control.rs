//! Answers the control channel: lines in, lines out, over whatever carries bytes.

mod probe;
mod put_back;
mod unflushed;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use aspen_init::control::{Answer, Done, Health, NodeState, Order, Outcome, Probed, Request};
use aspen_init::layout::{CONTROL_VSOCK_PORT, NODE_DATA, UNFLUSHED};
use aspen_init::limits::{CONTROL_LINE_BYTES_MAX, CONTROL_RETRY, PROBES_MAX, READ_BYTES_MAX};
use aspen_init::report::Reason;
use aspen_init::texts::head;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockListener};

use self::probe::{ProbeTurn, probe};
use super::clock;
use super::events::Event;
use super::node::NodeStatus;

/// What answers.
#[derive(Debug, Clone)]
pub(super) struct Desk {
    /// How the node is.
    pub(super) status: Arc<Mutex<NodeStatus>>,
    /// Where a stop goes.
    pub(super) events: SyncSender<Event>,
    /// Set once somebody else has set the clock: then it is theirs.
    pub(super) is_clock_taken: Arc<AtomicBool>,
    /// How many probes are under way, those of connections that have ended included.
    pub(super) probes_count: Arc<AtomicUsize>,
}

/// Whether the hypervisor gave us a vsock device.
pub(super) fn has_vsock(sys: &Path) -> bool {
    // Its virtio device id (virtio 1.2, 5.10).
    const VSOCK: &str = "0x0013";
    let devices = fs::read_dir(sys.join("bus/virtio/devices")).into_iter().flatten().flatten();
    let id = |device: fs::DirEntry| head(&device.path().join("device"), READ_BYTES_MAX).ok();
    devices.filter_map(id).any(|id| id == VSOCK)
}

/// Answers on a port, on a thread of its own, as long as the machine runs.
///
/// # Errors
/// The port cannot be opened, or no thread can be made.
pub(super) fn serve_port(path: &Path, desk: Desk) -> io::Result<()> {
    let reader = OpenOptions::new().read(true).write(true).open(path)?;
    let writer = reader.try_clone()?;
    let serve = move || {
        let (mut reader, writer): (File, File) = (reader, writer);
        loop {
            if is_attached(&reader) {
                // It begins again with whoever comes next.
                let _ = writer.try_clone().and_then(|writer| desk.serve(&mut reader, writer));
            }
            thread::sleep(CONTROL_RETRY);
        }
    };
    thread::Builder::new().name("control".to_owned()).spawn(serve).map(|_runs_on| ())
}

/// Whether somebody holds the other end of a port. Bytes may come before the kernel has heard of it, and would be followed by
/// the end of the input: whoever sent them would be taken for gone.
fn is_attached(port: &impl AsFd) -> bool {
    let mut ends = [PollFd::new(port.as_fd(), PollFlags::empty())];
    // A failure shows again when it is read.
    let looked = poll(&mut ends, PollTimeout::ZERO);
    looked.is_err() || !ends[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLHUP))
}

/// Answers whoever connects to the appliance's vsock port, on a thread of its own, as long as the machine runs.
///
/// # Errors
/// There is no vsock device, or no thread can be made.
pub(super) fn serve_vsock(desk: Desk) -> io::Result<()> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, CONTROL_VSOCK_PORT)?;
    let serve = move || {
        loop {
            let served = listener.accept().and_then(|(mut reader, peer)| {
                // Another guest, or a program of this one, has no orders to give.
                if peer.cid() != VMADDR_CID_HOST {
                    return Ok(());
                }
                let writer = reader.try_clone()?;
                desk.serve(&mut reader, writer)
            });
            if served.is_err() {
                thread::sleep(CONTROL_RETRY);
            }
        }
    };
    thread::Builder::new().name("control-vsock".to_owned()).spawn(serve).map(|_runs_on| ())
}

impl Desk {
    /// Answers until the other end goes. Probes are under way beside each other and beside everything else; one that is still
    /// under way then is not waited for, and has nobody to tell its outcome to.
    ///
    /// # Errors
    /// Nothing can be read or written.
    pub(super) fn serve(
        &self,
        reader: &mut impl Read,
        writer: impl Write + Send + 'static,
    ) -> io::Result<()> {
        let line = Arc::new(AnswerLine { writer: Mutex::new(writer), is_over: AtomicBool::new(false) });
        let served = read_lines(reader, |text| match self.answer(text) {
            Reply::Now(answer, event) => {
                // First, since whoever asked may be gone, and a port would wait for the next one.
                if let Some(event) = event {
                    // Nobody listens: the machine is going off already.
                    let _ = self.events.send(event);
                }
                line.send(&answer)
            }
            Reply::Probe { id, to, within_ms } => self.start_probe(id, to, within_ms, &line),
        });
        line.is_over.store(true, Ordering::Relaxed);
        served
    }

    /// Sends a probe on a thread of its own; says so when it cannot.
    fn start_probe<W: Write + Send + 'static>(
        &self,
        id: u64,
        to: SocketAddr,
        within_ms: u64,
        line: &Arc<AnswerLine<W>>,
    ) -> io::Result<()> {
        let refused = |text| line.send(&json(id, Outcome::<Probed>::Error(text)));
        let Some(turn) = ProbeTurn::take(&self.probes_count) else {
            return refused(format!(
                "{PROBES_MAX} probes are under way, at most {PROBES_MAX} are allowed: ask again when one is answered"
            ));
        };
        let answers = Arc::clone(line);
        let probing = move || {
            let answer = json(id, probe(to, within_ms));
            drop(turn);
            // Where nothing can be written, reading will end, too.
            let _ = answers.send(&answer);
        };
        match thread::Builder::new().name("probe".to_owned()).spawn(probing) {
            Ok(_runs_on) => Ok(()),
            Err(error) => refused(format!("cannot start a probe: {error}")),
        }
    }

    /// The answer to a line, and what follows from it; nothing stands for a line that is too long.
    fn answer(&self, line: Option<&[u8]>) -> Reply {
        let refused = |id, text| Reply::Now(json(id, Outcome::<Done>::Error(text)), None);
        let Some(line) = line else {
            return refused(0, format!("a request has at most {CONTROL_LINE_BYTES_MAX} bytes"));
        };
        let Request { id, order } = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => {
                // Whoever asked can tell which question it was, if there is a number at all.
                let value = serde_json::from_slice::<serde_json::Value>(line).ok();
                let id = value.and_then(|value| value.get("id")?.as_u64()).unwrap_or_default();
                return refused(id, format!("this is no request: {error}"));
            }
        };
        let answer = match order {
            Order::Health => json(id, Outcome::Ok(self.health())),
            Order::SetClock { unix_ms } => json(id, self.clock(clock::set_unix_ms(unix_ms))),
            Order::StepClock { by_ms } => json(id, self.clock(clock::step_ms(by_ms))),
            Order::DriftClock { per_million } => json(id, self.clock(clock::drift(per_million))),
            Order::MendClock { unix_ms } => {
                let mended = self.clock(clock::drift(0).and_then(|()| clock::set_unix_ms(unix_ms)));
                self.is_clock_taken.store(false, Ordering::Relaxed);
                json(id, mended)
            }
            Order::PutBack => return self.put_back(id),
            Order::WriteUnflushed { word } => json(id, write_unflushed(word)),
            Order::Probe { to, within_ms } => return Reply::Probe { id, to, within_ms },
            Order::Stop => {
                return Reply::Now(json(id, Outcome::Ok(Done {})), Some(Event::Stop(Reason::Control)));
            }
        };
        Reply::Now(answer, None)
    }

    fn put_back(&self, id: u64) -> Reply {
        let pid = {
            let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
            // From now on none is started any more.
            status.state = NodeState::Stopped;
            status.pid
        };
        let outcome = match put_back::retire(Path::new(NODE_DATA), || put_back::kill_now(pid)) {
            Ok(()) => Outcome::Ok(Done {}),
            // Better no node than one that has forgotten: the machine goes off all the same.
            Err(error) => Outcome::Error(format!("the node is not ended for good on this disk: {error}")),
        };
        Reply::Now(json(id, outcome), Some(Event::Stop(Reason::PutBack)))
    }

    fn health(&self) -> Health {
        let NodeStatus { state, pid, restarts } = *self.status.lock().unwrap_or_else(PoisonError::into_inner);
        Health {
            node: state,
            node_pid: pid,
            restarts,
            uptime_ms: clock::uptime_ms(),
            clock_ms: clock::unix_ms(),
        }
    }

    fn clock(&self, set: io::Result<()>) -> Outcome<Done> {
        match set {
            Ok(()) => {
                self.is_clock_taken.store(true, Ordering::Relaxed);
                Outcome::Ok(Done {})
            }
            Err(error) => Outcome::Error(format!("cannot set the clock: {error}")),
        }
    }
}

fn write_unflushed(word: u32) -> Outcome<Done> {
    match unflushed::write(Path::new(UNFLUSHED), word) {
        Ok(()) => Outcome::Ok(Done {}),
        Err(error) => Outcome::Error(format!("cannot write to the data disk: {error}")),
    }
}

/// What comes of a line.
enum Reply {
    /// An answer, and what follows from the request.
    Now(String, Option<Event>),
    /// A probe, whose outcome is the answer.
    Probe { id: u64, to: SocketAddr, within_ms: u64 },
}

/// Hands every line over, until there are no more; nothing in place of one that is too long.
fn read_lines(
    reader: &mut impl Read,
    mut take: impl FnMut(Option<&[u8]>) -> io::Result<()>,
) -> io::Result<()> {
    let mut line = Vec::new();
    let mut is_too_long = false;
    let mut bytes = [0; 1024];
    loop {
        let count = match reader.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for byte in &bytes[..count] {
            if *byte == b'\n' {
                take((!is_too_long).then_some(&line))?;
                line.clear();
                is_too_long = false;
            } else if line.len() < CONTROL_LINE_BYTES_MAX {
                line.push(*byte);
            } else {
                is_too_long = true;
            }
        }
    }
}

/// Where answers go, whoever sends them.
struct AnswerLine<W> {
    writer: Mutex<W>,
    // Set once the other end is gone: the next one must not get the answers to its questions.
    is_over: AtomicBool,
}

impl<W: Write> AnswerLine<W> {
    /// Writes a line as a whole.
    fn send(&self, answer: &str) -> io::Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_over.load(Ordering::Relaxed) {
            return Ok(());
        }
        writer.write_all(format!("{answer}\n").as_bytes())?;
        writer.flush()
    }
}

fn json<T: Serialize>(id: u64, outcome: Outcome<T>) -> String {
    // Numbers and texts always have a JSON form.
    serde_json::to_string(&Answer { id, outcome }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{Receiver, sync_channel};
    use std::time::{Duration, Instant};

    use aspen_init::control::NodeState;

    use super::super::devices::tests::sysfs;
    use super::*;

    fn desk() -> (Desk, Receiver<Event>) {
        let (sender, events) = sync_channel(4);
        let status = NodeStatus { state: NodeState::Running, pid: Some(7), restarts: 2 };
        let status = Arc::new(Mutex::new(status));
        let (is_clock_taken, probes_count) = (Arc::default(), Arc::default());
        (Desk { status, events: sender, is_clock_taken, probes_count }, events)
    }

    /// Asks, and waits for as many answers as there are questions.
    fn ask(desk: &Desk, requests: &str) -> Vec<String> {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let count = requests.lines().count();
        let mut reader = far.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| desk.serve(&mut reader, far).unwrap());
            near.write_all(requests.as_bytes()).unwrap();
            let lines = BufReader::new(near.try_clone().unwrap()).lines().take(count);
            let answers = lines.map(Result::unwrap).collect();
            near.shutdown(Shutdown::Both).unwrap();
            answers
        })
    }

    #[test]
    fn requests_are_answered_in_their_order_but_for_probes() {
        let (desk, events) = desk();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let answers = ask(
            &desk,
            &format!(
                "{{\"id\":2,\"do\":\"probe\",\"to\":\"{open}\",\"within_ms\":5000}}\n{{\"id\":1,\"do\":\"health\"}}\n\
                 {{\"id\":3,\"do\":\"stop\"}}\n"
            ),
        );
        let (probes, others): (Vec<_>, Vec<_>) =
            answers.iter().partition(|answer| answer.starts_with(r#"{"id":2,"#));
        let health: Answer<Health> = serde_json::from_str(others[0]).unwrap();
        let Outcome::Ok(health) = health.outcome else { panic!("{answers:?}") };
        assert_eq!((health.node, health.node_pid, health.restarts), (NodeState::Running, Some(7), 2));
        assert_eq!(others[1..], [r#"{"id":3,"ok":{}}"#]);
        assert_eq!(events.try_recv().unwrap(), Event::Stop(Reason::Control));
        let [answer] = probes[..] else { panic!("{answers:?}") };
        let outcome: Answer<Probed> = serde_json::from_str(answer).unwrap();
        assert!(matches!(outcome.outcome, Outcome::Ok(Probed::AnsweredUs(_))), "{answers:?}");
    }

    /// A listener whose queue is full: the kernel answers no further SYN. What fills it is kept.
    fn silent_listener() -> (TcpListener, SocketAddr, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let connect = || TcpStream::connect_timeout(&to, Duration::from_millis(200)).ok();
        let filled = std::iter::from_fn(connect).take(64).collect();
        (listener, to, filled)
    }

    /// Found when a lab went away with probes under way: nobody could reach the appliance until the last had ended.
    #[test]
    fn probe_that_hangs_keeps_no_channel_and_answers_nobody_else() {
        let (desk, _events) = desk();
        let (_listener, to, _filled) = silent_listener();
        let (mut near, far) = UnixStream::pair().unwrap();
        writeln!(near, "{{\"id\":1,\"do\":\"probe\",\"to\":\"{to}\",\"within_ms\":2000}}").unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        let start = Instant::now();
        desk.serve(&mut far.try_clone().unwrap(), far).unwrap();
        assert!(start.elapsed() < Duration::from_secs(2), "it waited for the probe");
        assert_eq!(desk.probes_count.load(Ordering::Relaxed), 1, "there is a probe that hangs");
        // The thread lets go of the line when it has seen that nobody listens.
        let mut rest = String::new();
        near.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "it answered whoever came next");
        assert_eq!(desk.probes_count.load(Ordering::Relaxed), 0);
    }

    /// A writer whose other end is gone.
    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn stop_is_one_though_nobody_waits_for_the_answer() {
        let (desk, events) = desk();
        desk.serve(&mut &b"{\"id\":1,\"do\":\"stop\"}\n"[..], Gone).unwrap_err();
        assert_eq!(events.try_recv().unwrap(), Event::Stop(Reason::Control));
    }

    /// Found when a lab's first probes of a loaded machine stayed without an answer, one time in five.
    #[test]
    fn port_that_nobody_holds_is_left_alone_though_there_are_bytes_in_it() {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"hello").unwrap();
        assert!(is_attached(&far));
        drop(near);
        assert!(!is_attached(&far));
    }

    #[test]
    fn one_probe_too_many_is_refused_at_once() {
        let (desk, _events) = desk();
        let turns: Vec<_> = (0..PROBES_MAX).map(|_| ProbeTurn::take(&desk.probes_count).unwrap()).collect();
        let probe = "{\"id\":9,\"do\":\"probe\",\"to\":\"127.0.0.1:1\",\"within_ms\":5000}\n";
        let refused = r#"{"id":9,"error":"256 probes are under way, at most 256 are allowed: ask again when one is answered"}"#;
        assert_eq!(ask(&desk, probe), [refused]);
        drop(turns);
        assert!(ask(&desk, probe)[0].contains("answered_us"), "there is room again");
    }

    #[test]
    fn what_is_no_request_is_answered_too() {
        let (desk, _events) = desk();
        let long = "x".repeat(CONTROL_LINE_BYTES_MAX + 1);
        let answers = ask(
            &desk,
            &format!("hello\n{long}\n{{\"id\":4,\"do\":\"probe\",\"to\":\"127.0.0.1:1\",\"within_ms\":0}}\n"),
        );
        assert_eq!(
            answers,
            [
                r#"{"id":0,"error":"this is no request: expected value at line 1 column 1"}"#,
                r#"{"id":0,"error":"a request has at most 4096 bytes"}"#,
                r#"{"id":4,"error":"within_ms is 0, 1 to 300000 are allowed"}"#,
            ]
        );
    }

    #[test]
    fn refusal_bears_the_number_of_its_request() {
        let (desk, _events) = desk();
        let answers = ask(&desk, "{\"id\":13,\"do\":\"dance\"}\n");
        let want =
            r#"{"id":13,"error":"this is no request: unknown variant `dance`, expected one of `health`"#;
        assert!(answers[0].starts_with(want), "{answers:?}");
    }

    #[test]
    fn vsock_device_is_found_by_its_number() {
        let network = ("bus/virtio/devices/virtio0/device", "0x0001\n");
        assert!(!has_vsock(sysfs(&[network]).path()));
        assert!(has_vsock(sysfs(&[network, ("bus/virtio/devices/virtio1/device", "0x0013\n")]).path()));
    }
}
