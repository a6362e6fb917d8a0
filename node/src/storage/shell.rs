//! What keeps a storage loop going. The loop itself is a step function over a queue and a clock ([`Steps`]): it owns its part of the
//! disk, and knows of no thread. In a node it has a thread of its own. Where time is virtual, a task does what was queued a little later, as
//! a disk would, together with what has come meanwhile.

use std::fmt::{self, Debug};
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::host::{hosted, random};
use crate::limits::SIMULATED_DISK_MS_MAX;

/// Who runs a storage loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execution {
    /// A thread of its own: what it does to the disk holds nobody up.
    Thread,
    /// A task, after a while of virtual time, which is drawn from the seed of its machine in a simulation.
    Simulated,
}

/// A loop that owns storage.
pub(super) trait Steps: Send + 'static {
    /// What it is asked to do, with whom to tell.
    type Op: Send + 'static;
    /// Most operations that one step takes.
    const OPS_MAX: usize;

    /// Does what was queued, in order; with nothing queued, what it has put off. Also called once before anything is queued.
    fn step(&mut self, ops: Vec<Self::Op>, now: Instant) -> Next;

    /// Called once at the end, when everything queued is done.
    fn finish(&mut self, _now: Instant) {}
}

/// When a loop is to be called again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// When there is something to do.
    Idle,
    /// At once, whether or not there is.
    GoOn,
    /// After so long, or when there is something to do.
    After(Duration),
}

/// Runs a loop until it is closed or dropped, and ends it then.
pub(super) struct Shell<S: Steps>(Kind<S>);

enum Kind<S: Steps> {
    Thread {
        queue: Mutex<Option<SyncSender<S::Op>>>,
        thread: Mutex<Option<JoinHandle<()>>>,
        name: &'static str,
    },
    Simulated {
        desk: Arc<Mutex<Desk<S>>>,
        news: Arc<Notify>,
        tasks: Mutex<JoinSet<()>>,
    },
}

/// A loop in a simulation, and what waits for it.
struct Desk<S: Steps> {
    /// Absent once it is closed.
    steps: Option<S>,
    queue: Vec<S::Op>,
    /// Whether a task takes care of it.
    is_busy: bool,
}

impl<S: Steps> Debug for Shell<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let execution = match &self.0 {
            Kind::Thread { .. } => Execution::Thread,
            Kind::Simulated { .. } => Execution::Simulated,
        };
        f.debug_tuple("Shell").field(&execution).finish()
    }
}

impl<S: Steps> Shell<S> {
    /// Starts a loop, whose thread has this name and a queue of so many operations.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(
        steps: S,
        execution: Execution,
        name: &'static str,
        queue_max: usize,
    ) -> io::Result<Self> {
        Ok(Self(match execution {
            Execution::Thread => {
                let (queue, ops) = sync_channel(queue_max);
                let thread = std::thread::Builder::new().name(name.into()).spawn(move || run(steps, &ops))?;
                Kind::Thread { queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)), name }
            }
            Execution::Simulated => {
                let desk = Desk { steps: Some(steps), queue: Vec::new(), is_busy: false };
                let desk = Arc::new(Mutex::new(desk));
                let shell = Self(Kind::Simulated { desk, news: Arc::default(), tasks: Mutex::default() });
                shell.wake();
                return Ok(shell);
            }
        }))
    }

    /// Has the loop do something, some time; waits while its queue is full.
    ///
    /// # Errors
    /// It is closed, or has crashed.
    pub(super) fn submit(&self, op: S::Op) -> io::Result<()> {
        match &self.0 {
            Kind::Thread { queue, name, .. } => {
                let queue =
                    lock(queue).clone().ok_or_else(|| io::Error::other(format!("{name} is closed")))?;
                queue.send(op).map_err(|_| io::Error::other(format!("{name} has ended")))
            }
            Kind::Simulated { desk, .. } => {
                {
                    let mut desk = lock(desk);
                    if desk.steps.is_none() {
                        return Err(io::Error::other("it is closed"));
                    }
                    desk.queue.push(op);
                }
                self.wake();
                Ok(())
            }
        }
    }

    /// In a simulation: has a task take care of what waits, unless one does.
    fn wake(&self) {
        let Kind::Simulated { desk, news, tasks } = &self.0 else { return };
        if std::mem::replace(&mut lock(desk).is_busy, true) {
            news.notify_one();
            return;
        }
        let mut tasks = lock(tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(hosted(attend(desk.clone(), news.clone())));
    }

    /// Has the loop look at something, unless its queue is full: then it is about to look anyway.
    pub(super) fn nudge(&self, op: S::Op) {
        match &self.0 {
            Kind::Thread { queue, .. } => {
                if let Some(queue) = &*lock(queue) {
                    let _ = queue.try_send(op);
                }
            }
            // Where it is closed there is nothing to look at.
            Kind::Simulated { .. } => drop(self.submit(op)),
        }
    }

    /// Does what is queued, and ends the loop. Later operations fail.
    pub(super) fn close(&self) {
        match &self.0 {
            Kind::Thread { queue, thread, name } => {
                drop(lock(queue).take());
                let thread = lock(thread).take();
                if thread.is_some_and(|thread| thread.join().is_err()) {
                    tracing::error!("the thread {name} panicked");
                }
            }
            Kind::Simulated { desk, .. } => {
                let (steps, ops) = {
                    let mut desk = lock(desk);
                    (desk.steps.take(), std::mem::take(&mut desk.queue))
                };
                if let Some(mut steps) = steps {
                    for op in ops {
                        steps.step(vec![op], now());
                    }
                    steps.finish(now());
                }
            }
        }
    }
}

impl<S: Steps> Drop for Shell<S> {
    fn drop(&mut self) {
        // Where a machine of a simulation ends, nothing is put in order.
        if !matches!(self.0, Kind::Simulated { .. }) {
            self.close();
        }
    }
}

/// Does what waits at a desk, as slowly as a disk, until nothing does.
async fn attend<S: Steps>(desk: Arc<Mutex<Desk<S>>>, news: Arc<Notify>) {
    let mut pause = None;
    loop {
        if let Some(pause) = pause.take() {
            tokio::select! {
                biased;
                () = news.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        let drawn = Duration::from_millis(random().random_range(0..=SIMULATED_DISK_MS_MAX));
        if !drawn.is_zero() {
            tokio::time::sleep(drawn).await;
        }
        let mut desk = lock(&desk);
        let Desk { steps: Some(steps), queue, is_busy } = &mut *desk else { return };
        let ops: Vec<S::Op> = queue.drain(..queue.len().min(S::OPS_MAX)).collect();
        match steps.step(ops, now()) {
            Next::Idle if queue.is_empty() => {
                *is_busy = false;
                return;
            }
            Next::Idle | Next::GoOn => {}
            Next::After(later) => pause = Some(later),
        }
    }
}

/// A thread's life.
fn run<S: Steps>(mut steps: S, ops: &Receiver<S::Op>) {
    let mut next = Next::GoOn;
    loop {
        let first = match next {
            Next::Idle => ops.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Next::GoOn => ops.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            }),
            Next::After(pause) => ops.recv_timeout(pause),
        };
        let mut batch = match first {
            Ok(first) => vec![first],
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        batch.extend(ops.try_iter().take(S::OPS_MAX - batch.len()));
        next = steps.step(batch, Instant::now());
    }
    steps.finish(Instant::now());
}

/// The caller's time, which may be virtual.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A poisoned lock means that another thread has crashed while it held it: so do we.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("the other thread has crashed with a storage loop in its hands")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;

    /// How many numbers each step has had, and their sum.
    type Seen = Arc<Mutex<Vec<(usize, u64)>>>;

    /// Takes numbers, and puts those off that are odd.
    struct Sums {
        seen: Seen,
        put_off: Option<Instant>,
    }

    const PAUSE: Duration = Duration::from_millis(20);

    impl Steps for Sums {
        type Op = u64;
        const OPS_MAX: usize = 3;

        fn step(&mut self, ops: Vec<u64>, now: Instant) -> Next {
            assert!(ops.len() <= Self::OPS_MAX);
            if ops.iter().any(|number| number % 2 == 1) {
                self.put_off = Some(now);
            }
            if !ops.is_empty() {
                self.seen.lock().unwrap().push((ops.len(), ops.iter().sum()));
            }
            match self.put_off {
                Some(since) if now < since + PAUSE => Next::After(since + PAUSE - now),
                Some(_) => {
                    self.put_off = None;
                    self.seen.lock().unwrap().push((0, 1000));
                    Next::GoOn
                }
                None => Next::Idle,
            }
        }

        fn finish(&mut self, _now: Instant) {
            self.seen.lock().unwrap().push((0, 0));
        }
    }

    fn started(execution: Execution) -> (Shell<Sums>, Seen) {
        let seen = Arc::default();
        let sums = Sums { seen: Arc::clone(&seen), put_off: None };
        (Shell::start(sums, execution, "sums", 8).unwrap(), seen)
    }

    #[test]
    fn thread_does_all_that_is_queued_before_it_ends() {
        let (shell, seen) = started(Execution::Thread);
        (1..=7).for_each(|number| shell.submit(2 * number).unwrap());
        shell.close();
        assert_eq!(shell.submit(2).unwrap_err().to_string(), "sums is closed");
        let seen = seen.lock().unwrap().clone();
        assert_eq!(seen.last(), Some(&(0, 0)));
        assert_eq!(seen.iter().fold((0, 0), |all, step| (all.0 + step.0, all.1 + step.1)), (7, 56));
    }

    #[test]
    fn thread_comes_back_to_what_it_has_put_off() {
        let (shell, seen) = started(Execution::Thread);
        shell.submit(1).unwrap();
        let give_up = Instant::now() + Duration::from_secs(20);
        while seen.lock().unwrap().last() != Some(&(0, 1000)) {
            assert!(Instant::now() < give_up, "it does not come back");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn simulated_disk_comes_back_to_what_it_has_put_off() {
        let (shell, seen) = started(Execution::Simulated);
        shell.submit(3).unwrap();
        let began = tokio::time::Instant::now();
        while seen.lock().unwrap().last() != Some(&(0, 1000)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(began.elapsed() >= PAUSE, "it came back after {:?}", began.elapsed());
        shell.submit(2).unwrap();
        shell.close();
        assert_eq!(*seen.lock().unwrap(), [(1, 3), (0, 1000), (1, 2), (0, 0)]);
        assert_eq!(shell.submit(2).unwrap_err().to_string(), "it is closed");
    }

    #[tokio::test(start_paused = true)]
    async fn simulated_disk_takes_what_has_come_meanwhile_and_loses_what_waits_when_its_machine_ends() {
        let host = Host::new("n1", [1; 32]);
        let wrote = async {
            let (shell, seen) = started(Execution::Simulated);
            for number in 0..20 {
                (0..3).for_each(|_| shell.submit(2 * number).unwrap());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            let steps = seen.lock().unwrap().clone();
            shell.submit(7).unwrap();
            (shell, seen, steps)
        };
        let (shell, seen, steps) = host.run(wrote).await.unwrap();
        assert_eq!(steps.iter().fold((0, 0), |all, step| (all.0 + step.0, all.1 + step.1)), (60, 1140));
        assert!(steps.len() < 40 && steps.iter().any(|step| step.0 == 3), "{steps:?}");
        host.kill().await;
        drop(shell);
        assert_eq!(*seen.lock().unwrap(), steps);
    }
}
