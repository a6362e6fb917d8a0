//! The user-space switch: one thread, one port per machine, every frame judged by the link model.
//!
//! The thread sleeps in `ppoll(2)` until a port has a frame, an order has come or a held frame is
//! due. Orders are carried out between two frames, so that many links change at one instant.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::fabric::{FabricError, LinkCounters, Port, Sabotage, Snapshot, check_link, check_rule};
use crate::limits::{
    FABRIC_PORTS_MAX, FRAME_BYTES_MAX, PORT_BURST_FRAMES, SWITCH_ANSWER_MAX, SWITCH_ORDERS_MAX,
};
use crate::link::{LinkId, LinkRule};
use crate::plan::MacAddress;

mod core;

use self::core::Core;

/// One port and the machine behind it.
pub struct PortSpec {
    /// The machine's address. Frames from any other are dropped.
    pub mac: MacAddress,
    /// Where its frames come from and go to.
    pub port: Box<dyn Port>,
}

impl fmt::Debug for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortSpec").field("mac", &self.mac).finish_non_exhaustive()
    }
}

/// The running switch. Dropping it stops it.
#[derive(Debug)]
pub struct Switch {
    handle: SwitchHandle,
    thread: Option<JoinHandle<()>>,
}

/// Gives orders to a running switch; cheap to clone, and of use from every thread.
#[derive(Debug, Clone)]
pub struct SwitchHandle {
    orders: SyncSender<Order>,
    waker: Arc<UnixStream>,
    ports_count: usize,
}

enum Order {
    SetRules { rules: Vec<(LinkId, LinkRule)>, applied: SyncSender<Snapshot> },
    Read { answer: SyncSender<Snapshot> },
    Stop,
}

impl Switch {
    /// Starts a switch over `ports`; a port's index is its place in the list. All links are perfect.
    ///
    /// # Errors
    /// Too many ports, two of one address, or no thread or socket to be had.
    pub fn start(seed: u64, sabotage: Option<Sabotage>, ports: Vec<PortSpec>) -> Result<Self, FabricError> {
        check_ports(&ports)?;
        let ports_count = ports.len();
        let (wake, waker) = waker_pair().map_err(|source| FabricError::Io {
            doing: "making the socket pair that wakes the switch",
            source,
        })?;
        let (orders, queue) = sync_channel(SWITCH_ORDERS_MAX);
        let core = Core::new(seed, sabotage, ports);
        let thread = std::thread::Builder::new()
            .name("switch".to_owned())
            .spawn(move || Loop { core, wake, queue }.run())
            .map_err(|source| FabricError::Io { doing: "starting the switch thread", source })?;
        let handle = SwitchHandle { orders, waker: Arc::new(waker), ports_count };
        Ok(Self { handle, thread: Some(thread) })
    }

    /// A handle for orders.
    pub fn handle(&self) -> SwitchHandle {
        self.handle.clone()
    }

    /// Stops the switch and waits for its thread. Frames in flight are lost.
    ///
    /// # Errors
    /// [`FabricError::Stopped`] if the thread had ended before, which is a mistake of ours.
    pub fn stop(mut self) -> Result<Snapshot, FabricError> {
        let last = self.handle.snapshot();
        self.join();
        last
    }

    fn join(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // A thread that has ended takes no orders: then there is only the join left to do.
        let _gone = self.handle.order(Order::Stop);
        let ended = thread.join();
        debug_assert!(ended.is_ok(), "the switch thread panicked");
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.join();
    }
}

impl SwitchHandle {
    /// Sets the rules of many links at one instant and returns once they hold, with the counters of
    /// that instant: every frame after it is judged by the new rules. A link that becomes cut loses
    /// the frames in flight, like a pulled cable.
    ///
    /// # Errors
    /// A link that does not exist or a rule out of bounds: then nothing is changed. A switch that has
    /// stopped or does not answer.
    pub fn set_rules(&self, rules: Vec<(LinkId, LinkRule)>) -> Result<Snapshot, FabricError> {
        for (link, rule) in &rules {
            check_link(*link, self.ports_count)?;
            check_rule(rule)?;
        }
        let (applied, answer) = sync_channel(1);
        self.order(Order::SetRules { rules, applied })?;
        wait_for(&answer)
    }

    /// The counters of one link.
    ///
    /// # Errors
    /// No such link, or a switch that has stopped or does not answer.
    pub fn counters(&self, link: LinkId) -> Result<LinkCounters, FabricError> {
        check_link(link, self.ports_count)?;
        Ok(self.snapshot()?.link(link))
    }

    /// All counters at one instant.
    ///
    /// # Errors
    /// A switch that has stopped or does not answer.
    pub fn snapshot(&self) -> Result<Snapshot, FabricError> {
        let (reply, answer) = sync_channel(1);
        self.order(Order::Read { answer: reply })?;
        wait_for(&answer)
    }

    fn order(&self, order: Order) -> Result<(), FabricError> {
        self.orders.send(order).map_err(|_order| FabricError::Stopped)?;
        match (&*self.waker).write(&[1]) {
            Ok(_one) => Ok(()),
            // So many wake-ups wait already that one more changes nothing.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(_peer_closed) => Err(FabricError::Stopped),
        }
    }
}

fn check_ports(ports: &[PortSpec]) -> Result<(), FabricError> {
    if ports.is_empty() || ports.len() > usize::from(FABRIC_PORTS_MAX) {
        return Err(FabricError::PortCount(ports.len()));
    }
    for (port, spec) in ports.iter().enumerate() {
        if spec.mac.is_group() || ports[..port].iter().any(|earlier| earlier.mac == spec.mac) {
            return Err(FabricError::Mac { port, mac: spec.mac });
        }
    }
    Ok(())
}

fn wait_for(answer: &Receiver<Snapshot>) -> Result<Snapshot, FabricError> {
    answer.recv_timeout(SWITCH_ANSWER_MAX).map_err(|error| match error {
        RecvTimeoutError::Timeout => FabricError::NoAnswer,
        RecvTimeoutError::Disconnected => FabricError::Stopped,
    })
}

fn waker_pair() -> io::Result<(UnixStream, UnixStream)> {
    let (wake, waker) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    waker.set_nonblocking(true)?;
    Ok((wake, waker))
}

/// What the thread owns.
struct Loop {
    core: Core,
    wake: UnixStream,
    queue: Receiver<Order>,
}

impl Loop {
    fn run(mut self) {
        // Held frames leave within microseconds of their time instead of the default 50. A kernel that
        // refuses makes delays coarser, which `late_max` shows.
        let _coarse = nix::sys::prctl::set_timerslack(1);
        let mut frame = vec![0; FRAME_BYTES_MAX + 1];
        let mut ready = Vec::new();
        loop {
            let woken = self.sleep(&mut ready);
            if woken && !self.obey() {
                return;
            }
            self.core.release(Instant::now());
            for (port, broken) in ready.drain(..) {
                self.receive(port, broken, &mut frame);
            }
        }
    }

    /// Waits for something to do: fills `ready` with the ports to read, and says whether orders wait.
    fn sleep(&self, ready: &mut Vec<(usize, bool)>) -> bool {
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        let open: Vec<usize> = self.core.open_ports().collect();
        fds.extend(open.iter().map(|port| PollFd::new(self.core.port_fd(*port), PollFlags::POLLIN)));
        let timeout = self.core.next_due().map(|due| due.saturating_duration_since(Instant::now()));
        // The only error that a correct call can have is EINTR: then nothing is ready, and it is
        // called again.
        let woken = ppoll(&mut fds, timeout.map(TimeSpec::from_duration), None).unwrap_or(0);
        if woken == 0 {
            return false;
        }
        for (port, fd) in open.iter().zip(&fds[1..]) {
            let events = fd.revents().unwrap_or(PollFlags::empty());
            if !events.is_empty() {
                ready.push((*port, !events.contains(PollFlags::POLLIN)));
            }
        }
        fds[0].any().unwrap_or(false)
    }

    /// Carries out the orders that wait; `false` means stop.
    fn obey(&mut self) -> bool {
        let mut wakes = [0; SWITCH_ORDERS_MAX];
        if let Ok(0) = self.wake.read(&mut wakes) {
            return false; // every handle is gone
        }
        // Bounded by the queue's length; whoever orders next wakes the thread again.
        for _ in 0..SWITCH_ORDERS_MAX {
            match self.queue.try_recv() {
                Ok(Order::SetRules { rules, applied }) => {
                    self.core.set_rules(&rules);
                    let _caller_gave_up = applied.send(self.core.snapshot());
                }
                Ok(Order::Read { answer }) => {
                    let _caller_gave_up = answer.send(self.core.snapshot());
                }
                Ok(Order::Stop) => return false,
                Err(_empty) => return true,
            }
        }
        true
    }

    /// Takes a burst of frames from a port that has some. `broken`: the poll named no frames, only an
    /// error.
    fn receive(&mut self, port: usize, mut broken: bool, frame: &mut [u8]) {
        for _ in 0..PORT_BURST_FRAMES {
            match self.core.port_mut(port).recv(frame) {
                Ok(bytes) => self.core.on_frame(Instant::now(), port, &frame[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if broken && !self.core.port_mut(port).outlives_errors() {
                        self.core.fail_port(port);
                    }
                    return;
                }
                // That was the error which the poll named.
                Err(error) if is_passing(&error) => broken = false,
                Err(_ended) => return self.core.fail_port(port),
            }
        }
    }
}

/// Whether a port lives on after this error: a signal, or the other end of a datagram socket that went
/// away, and comes back when its machine is started again.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests;
