//! PID 1: from a kernel that has just started to a node that serves, and from there to a machine that is off.
//!
//! Straight on, step after step; whatever fails ends in a line that says why, and in a machine that goes off.

mod clock;
mod console;
mod control;
mod devices;
mod disk;
mod events;
mod finish;
mod foreign;
mod kernel_log;
mod mounts;
mod network;
mod node;
mod ready;
mod sources;

use std::io;
use std::panic;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use aspen_init::layout::{CONTROL_PORT, MODULES};
use aspen_init::limits::{CLOCK_INTERVAL, CLOCK_OFF_MS_MAX, EVENTS_MAX};
use aspen_init::modules;
use aspen_init::ports;
use aspen_init::report::{Exit, Line, Ready, Reason};
use aspen_init::texts::with_causes;
use nix::errno::Errno;
use nix::sys::reboot::set_cad_enabled;

use self::clock::{HostClock, millis, uptime};
use self::console::Console;
use self::control::Desk;
use self::devices::Uevents;
use self::disk::DiskError;
use self::events::Event;
use self::mounts::MountError;
use self::network::{Network, NetworkError};
use self::node::{NodeError, NodeSettings, Supervisor};
use self::sources::{SourceError, Told};

/// Why the machine goes off without having been asked to.
#[derive(Debug, thiserror::Error)]
enum BootError {
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("cannot set the host name")]
    Hostname(#[source] Errno),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("cannot watch for signals")]
    Signals(#[source] io::Error),
}

impl BootError {
    fn reason(&self) -> Reason {
        match self {
            Self::Network(error) if error.is_of_the_kernel() => Reason::Kernel,
            Self::Disk(error) if error.is_of_the_kernel() => Reason::Kernel,
            Self::Mount(_) | Self::Signals(_) | Self::Source(SourceError::Uevents(_)) => Reason::Kernel,
            Self::Source(_) | Self::Hostname(_) | Self::Node(NodeError::SecretKey) => Reason::Config,
            Self::Network(_) => Reason::Network,
            Self::Disk(_) => Reason::Disk,
            Self::Node(NodeError::Retired) => Reason::PutBack,
            Self::Node(_) => Reason::Node,
        }
    }
}

const SYS: &str = "/sys";

/// Everything, to the end of the machine.
pub(crate) fn run() -> ! {
    let started = uptime();
    // First of all: until then the kernel restarts at once on ctrl-alt-del.
    let cad = set_cad_enabled(false);
    let mounted = mounts::mount_all();
    let console = Arc::new(Console::open());
    end_on_panic(&console);
    if let Err(errno) = cad {
        console.say(format_args!("ctrl-alt-del restarts the machine at once: {}", errno.desc()));
    }
    let mut supervisor = None;
    let ending =
        match mounted.map_err(BootError::from).and_then(|()| serve(started, &console, &mut supervisor)) {
            Ok(reason) => reason,
            Err(error) => {
                console.report(&Line::Error(with_causes(&error)));
                error.reason()
            }
        };
    if ending == Reason::PutBack {
        console.say(
            "the machine was put back to an earlier state: its node has forgotten what it promised since, and has to rejoin as a new \
             member, with an empty disk",
        );
    }
    let node_exit = supervisor.and_then(|(mut supervisor, events)| supervisor.stop(&events));
    disk::release(&console);
    let node_exit = node_exit.map(|exit| exit.to_string());
    console.report(&Line::Exit(Exit { reason: ending, node_exit, uptime_ms: clock::uptime_ms() }));
    finish::go_off(&console)
}

/// A mistake of ours ends the machine as any other error does, instead of in the kernel's panic.
fn end_on_panic(console: &Arc<Console>) {
    let console = Arc::clone(console);
    panic::set_hook(Box::new(move |panic| {
        console.report(&Line::Error(format!("a mistake of aspen-init itself: {panic}").replace('\n', " ")));
        disk::release(&console);
        let exit = Exit { reason: Reason::Panic, node_exit: None, uptime_ms: clock::uptime_ms() };
        console.report(&Line::Exit(exit));
        finish::go_off(&console)
    }));
}

/// What is still to be stopped when the machine ends.
type Running = Option<(Supervisor, Receiver<Event>)>;

/// Starts everything, and goes on until there is a reason to stop.
fn serve(started: Duration, console: &Arc<Console>, running: &mut Running) -> Result<Reason, BootError> {
    let sys = Path::new(SYS);
    let (sender, events) = sync_channel(EVENTS_MAX);
    // From now on an early signal is a clean stop, too.
    events::watch_signals(sender.clone()).map_err(BootError::Signals)?;
    mounts::quiet_kernel(console);
    let uevents = Uevents::listen().map_err(SourceError::Uevents)?;
    modules::load(Path::new(MODULES), &mut |text| console.say(text));
    let clock = Clock::start(console);
    match events::watch_power_button(sys, &sender) {
        Ok(count) if count > 0 => {}
        Ok(_none) => {
            console.say("no power button: the kernel needs CONFIG_ACPI_BUTTON and CONFIG_INPUT_EVDEV");
        }
        Err(error) => console.say(format_args!("cannot watch the power button: {error}")),
    }
    let told = sources::gather(sys, &uevents, console)?;
    let hostname = sources::set_hostname(&told.settings).map_err(BootError::Hostname)?;
    let interfaces = (0..).zip(&told.settings.interfaces);
    let networks: Vec<Network> = interfaces
        .map(|interface| network::set_up(sys, interface, &uevents, console))
        .collect::<Result<_, _>>()?;
    let network_at = uptime();
    let config_device = told.disk.as_ref().map(|disk| disk.device.as_path());
    disk::prepare(sys, &told.settings, config_device, &uevents, console)?;
    let disk_at = uptime();
    for network in &networks {
        if let Some(reason) = network.wait_for_address(&events)? {
            return Ok(reason);
        }
    }
    let supervisor = supervisor(told, console, &sender)?;
    let machine = Machine {
        console: Arc::clone(console),
        hostname,
        networks,
        steps: Steps { started, network_at, disk_at, node_at: uptime() },
        clock,
    };
    let (supervisor, events) = running.insert((supervisor, events));
    machine.open_control(sys, supervisor, sender);
    supervisor.start()?;
    machine.watch(supervisor, events)
}

fn supervisor(
    told: Told,
    console: &Arc<Console>,
    events: &SyncSender<Event>,
) -> Result<Supervisor, BootError> {
    let (config, secret, private) =
        told.disk.map(|disk| (disk.node_config, disk.secret, disk.private)).unwrap_or_default();
    let flags = told.settings.node_flags;
    let settings = NodeSettings { flags, config: config.unwrap_or_default(), secret, private };
    Ok(Supervisor::new(settings, Arc::clone(console), events.clone())?)
}

/// `CLOCK_BOOTTIME` at the end of each step.
#[derive(Debug, Clone, Copy)]
struct Steps {
    started: Duration,
    network_at: Duration,
    disk_at: Duration,
    node_at: Duration,
}

/// A machine whose node runs.
struct Machine {
    console: Arc<Console>,
    hostname: String,
    networks: Vec<Network>,
    steps: Steps,
    clock: Clock,
}

impl Machine {
    /// Goes on until there is a reason to stop.
    fn watch(&self, supervisor: &mut Supervisor, events: &Receiver<Event>) -> Result<Reason, BootError> {
        loop {
            let now = Instant::now();
            let next = supervisor.start_at().map_or(CLOCK_INTERVAL, |at| at.saturating_duration_since(now));
            match events.recv_timeout(next.min(CLOCK_INTERVAL)) {
                Ok(Event::Stop(reason)) => return Ok(reason),
                Ok(Event::ChildEnded) => supervisor.reap()?,
                Ok(Event::Serves { start, endpoint_id }) => {
                    if supervisor.serves(start) {
                        self.report_ready(supervisor, endpoint_id);
                    }
                }
                // Those who send live as long as the machine.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    self.clock.follow(&self.console);
                }
            }
            if supervisor.start_at().is_some_and(|at| at <= Instant::now()) {
                supervisor.start()?;
            }
        }
    }

    fn open_control(&self, sys: &Path, supervisor: &Supervisor, events: SyncSender<Event>) {
        let is_clock_taken = Arc::clone(&self.clock.is_taken);
        let probes_count = Arc::default();
        let desk = Desk { status: supervisor.status(), events, is_clock_taken, probes_count };
        if control::has_vsock(sys)
            && let Err(error) = control::serve_vsock(desk.clone())
        {
            self.console.say(format_args!("no control channel over vsock: {error}"));
        }
        if let Some(port) = ports::find(sys, CONTROL_PORT)
            && let Err(error) = control::serve_port(&port, desk)
        {
            self.console.say(format_args!("no control channel on {}: {error}", port.display()));
        }
    }

    fn report_ready(&self, supervisor: &Supervisor, endpoint_id: String) {
        let now = uptime();
        let Steps { started, network_at, disk_at, node_at } = self.steps;
        let addresses: Vec<_> = self.networks.iter().flat_map(Network::addresses).collect();
        let http = ready::public_address(supervisor.http(), &addresses);
        self.console.report(&Line::Ready(Ready {
            hostname: self.hostname.clone(),
            addresses: addresses.iter().map(|(address, bits)| format!("{address}/{bits}")).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            http: http.to_string(),
            endpoint_id,
            kernel_ms: millis(started),
            init_ms: millis(network_at.saturating_sub(started)),
            disk_ms: millis(disk_at.saturating_sub(network_at)),
            node_ms: millis(now.saturating_sub(node_at)),
            uptime_ms: millis(now),
        }));
    }
}

/// This machine's clock, and the hypervisor's where there is one.
struct Clock {
    host: Option<HostClock>,
    is_taken: Arc<AtomicBool>,
}

impl Clock {
    fn start(console: &Console) -> Self {
        let clock = Self { host: HostClock::open(), is_taken: Arc::default() };
        clock.follow(console);
        clock
    }

    /// Sets our clock when it is off: no clock of a guest notices that the guest was paused. Not any more once somebody
    /// set it on purpose.
    fn follow(&self, console: &Console) {
        let Some(host) = self.host.as_ref().filter(|_| !self.is_taken.load(Ordering::Relaxed)) else {
            return;
        };
        let followed = host.behind_ms().and_then(|behind_ms| {
            if behind_ms.abs() <= CLOCK_OFF_MS_MAX {
                return Ok(());
            }
            console.say(format_args!("the clock was {behind_ms} ms behind the hypervisor's"));
            clock::step_ms(behind_ms)
        });
        if let Err(error) = followed {
            console.say(format_args!("cannot follow the hypervisor's clock: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_the_reason_of_its_cause() {
        let check = |error: BootError, want: Reason| assert_eq!(error.reason(), want, "{error}");
        check(SourceError::Nothing { missing: None }.into(), Reason::Config);
        check(SourceError::Uevents(io::ErrorKind::Other.into()).into(), Reason::Kernel);
        check(NetworkError::None(None).into(), Reason::Network);
        check(NetworkError::None(Some("no driver")).into(), Reason::Kernel);
        check(DiskError::NoExt4.into(), Reason::Kernel);
        check(DiskError::Blank { path: "/dev/vdb".into() }.into(), Reason::Disk);
        check(NodeError::Settings.into(), Reason::Node);
        check(NodeError::Retired.into(), Reason::PutBack);
        check(NodeError::SecretKey.into(), Reason::Config);
    }
}
