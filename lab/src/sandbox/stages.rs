//! The middle and the inner process.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{getegid, geteuid, getppid, setsid};

use super::SandboxError;
use super::privileges::keep_what_is_needed;
use super::refusal::{Greeting, Refusal, Step, has_capabilities};
use crate::fabric::TapError;
use crate::fabric::namespace::Namespace;
use crate::fabric::tap::{self, TapConfig};
use crate::limits::REAP_INTERVAL;
use crate::plan::MacAddress;
use crate::program::{Exit, ProcessStat, Program, reap_orphans};

/// First argument of the middle process; the second is the outer's process id.
pub(super) const MIDDLE: &str = "__sandbox-middle";
/// First argument of the inner process; the second is the middle's process id, as /proc shows it.
const INNER: &str = "__sandbox-inner";

/// First argument of an inner process that needs no namespaces; the second is the outer's process id.
pub(super) const OUTSIDE: &str = "__sandbox-outside";

/// Exit code of a stage that the host refused.
const EXIT_REFUSED: u8 = 3;
/// Exit code of a stage whose parent is gone. Nobody is left to see it.
const EXIT_ORPHANED: u8 = 125;

/// A process that is a stage of the sandbox.
#[derive(Debug)]
pub enum Stage {
    /// The middle stage has run to its end: leave main with this code.
    Finished(u8),
    /// The inner stage: [`enter`](InnerStage::enter), and then do the work.
    Inner(InnerStage),
}

/// The inner process before it has set itself up.
#[derive(Debug)]
pub struct InnerStage {
    /// Process id of whoever has started it, as the outer /proc shows it.
    parent: u32,
    /// Whether it is in namespaces of its own.
    is_inside: bool,
    arguments: Vec<OsString>,
}

/// The inner process: PID 1 of the sandbox.
#[derive(Debug)]
pub struct Inner {
    /// What the outer gave to [`start`](super::start).
    pub arguments: Vec<OsString>,
    /// What the outer asks for.
    pub control: Receiver<Control>,
    /// What the outer reads from [`Sandbox::take_events`](super::Sandbox::take_events).
    pub events: File,
}

/// What the outer asks of the inner process. The end of the outer is not among it: it ends the inner at
/// once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Come to an end, in order.
    Stop,
}

/// Runs the stage that the arguments (without the program's name) name, if they do. The first thing
/// that main does: the middle stage must have no other thread.
pub fn dispatch(arguments: impl IntoIterator<Item = OsString>) -> Option<Stage> {
    let mut arguments = arguments.into_iter();
    let stage = arguments.next()?;
    let stage = stage.to_str().filter(|stage| [MIDDLE, INNER, OUTSIDE].contains(stage))?;
    // Nobody types these arguments: without a process id they are of no stage.
    let parent = arguments.next()?.to_str()?.parse().ok()?;
    let arguments = arguments.collect();
    if stage == MIDDLE {
        return Some(Stage::Finished(middle(parent, arguments)));
    }
    Some(Stage::Inner(InnerStage { parent, is_inside: stage == INNER, arguments }))
}

fn middle(outer: u32, arguments: Vec<OsString>) -> u8 {
    if let Err(refusal) = make_namespaces(outer) {
        return refuse(refusal);
    }
    // Through /proc and not by getpid: the inner reads its parent there, and /proc may belong to
    // another pid namespace than this process.
    let me = fs::read_link("/proc/self").unwrap_or_default();
    let inner = Program::new("/proc/self/exe").arg(INNER).arg(me).args(arguments).inherit_environment();
    match inner.run_in_place() {
        Ok(Exit::Code(code)) => u8::try_from(code).unwrap_or(u8::MAX),
        Ok(Exit::Signal(signal)) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        Err(error) => refuse(Refusal::new(Step::NextStage, &error)),
    }
}

fn make_namespaces(outer: u32) -> Result<(), Refusal> {
    // The outer may wait for its signals behind a mask, and a mask is inherited, by every machine in the end.
    SigSet::empty().thread_set_mask().map_err(Refusal::of(Step::Process))?;
    die_with_parent()?;
    exit_unless(getppid().as_raw().cast_unsigned() == outer);
    // Ctrl-C is for the outer alone.
    setsid().map_err(Refusal::of(Step::Process))?;
    let (user, group) = (geteuid(), getegid());
    let mut flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    let needs_user = !has_capabilities();
    flags.set(CloneFlags::CLONE_NEWUSER, needs_user);
    unshare(flags).map_err(Refusal::of(Step::Namespaces))?;
    if needs_user {
        let maps = [
            ("setgroups", "deny".to_owned()), // before gid_map: user_namespaces(7)
            ("uid_map", format!("0 {user} 1")),
            ("gid_map", format!("0 {group} 1")),
        ];
        for (file, map) in maps {
            let written = fs::write(format!("/proc/self/{file}"), map);
            written.map_err(|error| Refusal::new(Step::IdMaps, &error))?;
        }
    }
    // A change of ids clears the signal; the parent may have ended while there was none.
    die_with_parent()?;
    exit_unless(getppid().as_raw().cast_unsigned() == outer);
    Ok(())
}

impl InnerStage {
    /// Sets the inner process up: a session, mounts and a /proc of its own, the loopback interface, a
    /// trial TAP; then tells the outer that the sandbox is ready.
    ///
    /// # Errors
    /// [`SandboxError::Refused`]: the outer has been told and says so to the user; leave with exit
    /// code 3.
    pub fn enter(self) -> Result<Inner, SandboxError> {
        if let Err(refusal) = self.set_up() {
            refuse(refusal);
            return Err(SandboxError::refused(refusal));
        }
        let events = io::stdout().as_fd().try_clone_to_owned().map_err(SandboxError::Pipe)?;
        let events = File::from(events);
        let (orders, control) = sync_channel(1);
        let reader = thread::Builder::new().name("control".to_owned()).spawn(move || obey(&orders));
        reader.map_err(SandboxError::Pipe)?;
        greet(&Greeting::Ready).map_err(SandboxError::Pipe)?;
        Ok(Inner { arguments: self.arguments, control, events })
    }

    fn set_up(&self) -> Result<(), Refusal> {
        // The outer may wait for its signals behind a mask, which is inherited.
        SigSet::empty().thread_set_mask().map_err(Refusal::of(Step::Process))?;
        die_with_parent()?;
        // getppid is 0 in a new pid namespace; the /proc of the outer still tells.
        let parent = if self.is_inside { parent_in_proc() } else { Some(getppid().as_raw().cast_unsigned()) };
        exit_unless(parent == Some(self.parent));
        setsid().map_err(Refusal::of(Step::Process))?;
        if !self.is_inside {
            return Ok(());
        }
        let nothing: Option<&str> = None;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(nothing, "/", nothing, private, nothing).map_err(Refusal::of(Step::Mounts))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), flags, nothing).map_err(Refusal::of(Step::Proc))?;
        tap::loopback_up().map_err(|error| tap_refusal(Step::Loopback, &error))?;
        // Before there is another thread, which would keep its own.
        keep_what_is_needed().map_err(|error| Refusal::new(Step::Privileges, &io::Error::other(error)))?;
        try_tap()
    }
}

/// Makes a TAP in a namespace of its own and lets it go again: whether one may is found out by doing.
fn try_tap() -> Result<(), Refusal> {
    let namespace = Namespace::create().map_err(|error| tap_refusal(Step::MachineNamespace, &error))?;
    let config = TapConfig::ipv4("trial", MacAddress([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(10, 0, 0, 1), []);
    tap::create(&namespace, &config).map(drop).map_err(|error| tap_refusal(Step::Tap, &error))
}

fn tap_refusal(step: Step, error: &TapError) -> Refusal {
    match error {
        TapError::Create { source, .. } => Refusal::new(Step::Tap, source),
        TapError::Netlink { source, .. } | TapError::Io { source, .. } => Refusal::new(step, source),
        TapError::Name(_) => Refusal { step, errno: Errno::EINVAL as i32 },
    }
}

/// The inner's control thread: reads orders, collects orphans, and ends the process with the outer.
fn obey(orders: &SyncSender<Control>) {
    let mut lines = io::stdin().lock();
    let timeout = PollTimeout::try_from(REAP_INTERVAL).unwrap_or(PollTimeout::MAX);
    loop {
        // The buffer holds nothing here: the outer writes whole lines and rarely.
        let ready = poll(&mut [PollFd::new(lines.as_fd(), PollFlags::POLLIN)], timeout);
        reap_orphans();
        // EINTR is a reason to look again, as a timeout is.
        if ready.unwrap_or(0) > 0 && !obey_line(&mut lines, orders) {
            // The kernel ends every process of the sandbox with this one.
            process::exit(i32::from(EXIT_ORPHANED));
        }
    }
}

/// Carries out one order; `false` means that the outer is gone, or that it is not our outer.
fn obey_line(lines: &mut impl BufRead, orders: &SyncSender<Control>) -> bool {
    let mut line = String::new();
    match lines.read_line(&mut line) {
        Ok(_) if line == "stop\n" => {
            // One stop that waits is as good as many.
            let _stops_already = orders.try_send(Control::Stop);
            true
        }
        Ok(_) | Err(_) => false,
    }
}

/// Ends this process with the one that started it: for a lab that runs below another one.
pub fn end_with(parent: u32) {
    // A kernel without it leaves a run behind that comes to its own end.
    let _not_set = die_with_parent();
    exit_unless(getppid().as_raw().cast_unsigned() == parent);
}

fn die_with_parent() -> Result<(), Refusal> {
    set_pdeathsig(Signal::SIGKILL).map_err(Refusal::of(Step::Process))
}

/// Ends the process quietly when its parent has ended before the death signal was set.
fn exit_unless(parent_lives: bool) {
    if !parent_lives {
        process::exit(i32::from(EXIT_ORPHANED));
    }
}

fn parent_in_proc() -> Option<u32> {
    let me = fs::read_link("/proc/self").ok()?;
    Some(ProcessStat::read(me.to_str()?.parse().ok()?)?.parent)
}

fn greet(greeting: &Greeting) -> io::Result<()> {
    let mut line = serde_json::to_vec(greeting)?;
    line.push(b'\n');
    let mut events = io::stdout().lock();
    events.write_all(&line)?;
    events.flush()
}

fn refuse(refusal: Refusal) -> u8 {
    // If the outer does not listen any more there is nobody to tell.
    let _outer_gone = greet(&Greeting::Refused(refusal));
    EXIT_REFUSED
}
