//! What a node runs on: this process as it is, or one of the machines of a simulation, which can stand still, end between any two
//! steps, and draws its chances from a seed.
//!
//! A simulated machine is a scope: whatever is begun within [`Host::run`] belongs to it, what that begins as well, and nothing of it goes on
//! while it stands still. Outside of any such scope, as in every node that serves, all of this is nothing.

pub(crate) mod watch;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::Stream;
use openraft::AsyncRuntime;
use openraft::impls::TokioRuntime;
use rand::{Rng, SeedableRng, TryRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinError;

use self::watch::OrderedWatch;

thread_local! {
    /// The machine whose work this thread does.
    static CURRENT: RefCell<Option<Host>> = const { RefCell::new(None) };
}

/// A machine of a simulation. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Host {
    name: Arc<str>,
    machine: Arc<Mutex<Machine>>,
}

#[derive(Debug)]
struct Machine {
    is_frozen: bool,
    is_dead: bool,
    /// What goes on on it: whom to wake, once it has waited for anything.
    tasks: BTreeMap<u64, Option<Waker>>,
    next_task: u64,
    /// How often anything was done.
    steps: u64,
    random: ChaCha8Rng,
}

impl Host {
    /// A machine of this name, whose chances come from this seed.
    pub fn new(name: &str, seed: [u8; 32]) -> Self {
        let machine = Machine {
            is_frozen: false,
            is_dead: false,
            tasks: BTreeMap::new(),
            next_task: 0,
            steps: 0,
            random: ChaCha8Rng::from_seed(seed),
        };
        Self { name: name.into(), machine: Arc::new(Mutex::new(machine)) }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The one whose work is done here, if it is that of any.
    pub(crate) fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Does something on it. It ends without a result where the machine ends first.
    pub async fn run<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut work = Hosted::on(Some(self.clone()), work);
        std::future::poll_fn(|context| match Pin::new(&mut work).poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.is_dead() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Has it stand still from now on.
    pub fn freeze(&self) {
        self.machine().is_frozen = true;
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        let mut machine = self.machine();
        machine.is_frozen = false;
        machine.wake_all();
    }

    /// Ends it at once, and returns when nothing of it is left: it does nothing more of what it has begun.
    pub async fn kill(&self) {
        {
            let mut machine = self.machine();
            machine.is_dead = true;
            machine.wake_all();
        }
        while !self.machine().tasks.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    /// Whether it has ended.
    pub fn is_dead(&self) -> bool {
        self.machine().is_dead
    }

    /// Whether it stands still.
    pub fn is_frozen(&self) -> bool {
        self.machine().is_frozen
    }

    /// How many steps it has done.
    pub fn steps(&self) -> u64 {
        self.machine().steps
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().expect("nothing panics while it holds this lock")
    }

    /// Does something in its name, at once.
    fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        let _before = Before(CURRENT.replace(Some(self.clone())));
        work()
    }
}

/// Whose work was done before, and is again when this is dropped: also where something panics.
struct Before(Option<Host>);

impl Drop for Before {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

impl Machine {
    fn wake_all(&mut self) {
        self.tasks.values_mut().filter_map(Option::take).for_each(Waker::wake);
    }
}

/// Something that goes on on a machine, and with it.
#[derive(Debug)]
pub struct Hosted<F> {
    /// Invariant: present until the machine has ended.
    work: Option<Pin<Box<F>>>,
    place: Option<Place>,
}

/// One task of a machine.
#[derive(Debug)]
struct Place {
    host: Host,
    task: u64,
}

impl<F> Hosted<F> {
    /// Something on this machine, or on none.
    pub(crate) fn on(host: Option<Host>, work: F) -> Self {
        let place = host.map(|host| {
            let mut machine = host.machine();
            let task = machine.next_task;
            machine.next_task += 1;
            machine.tasks.insert(task, None);
            drop(machine);
            Place { host, task }
        });
        Self { work: Some(Box::pin(work)), place }
    }

    /// Polls it, unless its machine stands still or has ended.
    fn step<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut F>, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let (Some(work), place) = (&mut self.work, &self.place) else { return Poll::Pending };
        let Some(Place { host, task }) = place else { return poll(work.as_mut(), context) };
        {
            let mut machine = host.machine();
            if machine.is_dead {
                drop(machine);
                self.end();
                return Poll::Pending;
            }
            machine.tasks.insert(*task, Some(context.waker().clone()));
            if machine.is_frozen {
                return Poll::Pending;
            }
            machine.steps += 1;
        }
        host.within(|| poll(work.as_mut(), context))
    }

    /// Drops what was to be done.
    fn end(&mut self) {
        let Some(Place { host, task }) = self.place.take() else { return };
        host.within(|| drop(self.work.take()));
        host.machine().tasks.remove(&task);
    }
}

impl<F> Drop for Hosted<F> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<F: Future> Future for Hosted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.step(context, F::poll)
    }
}

impl<S: Stream> Stream for Hosted<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.step(context, S::poll_next)
    }
}

/// Something that goes on on the machine that begins it, to be spawned.
pub(crate) fn hosted<F>(work: F) -> Hosted<F> {
    Hosted::on(Host::current(), work)
}

/// Does what keeps a thread busy: apart from the async ones, or in a simulation at once.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    if Host::current().is_some() { Ok(work()) } else { tokio::task::spawn_blocking(work).await }
}

/// Chances: the system's, or in a simulation those of the machine.
pub(crate) fn random() -> Random {
    match Host::current() {
        Some(host) => Random::Seeded(Box::new(ChaCha8Rng::from_rng(&mut host.machine().random))),
        None => Random::System(rand::rng()),
    }
}

/// Where chances come from.
#[derive(Debug)]
pub enum Random {
    /// The operating system.
    System(rand::rngs::ThreadRng),
    /// A seed.
    Seeded(Box<ChaCha8Rng>),
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(match self {
            Self::System(random) => random.next_u32(),
            Self::Seeded(random) => random.next_u32(),
        })
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(match self {
            Self::System(random) => random.next_u64(),
            Self::Seeded(random) => random.next_u64(),
        })
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        match self {
            Self::System(random) => random.fill_bytes(bytes),
            Self::Seeded(random) => random.fill_bytes(bytes),
        }
        Ok(())
    }
}

/// openraft's runtime: tokio, on the machine that begins a task.
#[derive(Debug)]
pub struct AspenRuntime(TokioRuntime);

impl AsyncRuntime for AspenRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + Send> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Random;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = OrderedWatch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        TokioRuntime::spawn(hosted(future))
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Random {
        random()
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use openraft::testing::runtime::Suite;

    use tokio::task::JoinSet;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// Counts every 10 ms, in a task of its own.
    fn counting(host: &Host, tasks: &mut JoinSet<()>) -> Arc<AtomicU32> {
        let count = Arc::new(AtomicU32::new(0));
        let counted = count.clone();
        host.within(|| {
            tasks.spawn(hosted(async move {
                loop {
                    sleep(Duration::from_millis(10)).await;
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }))
        });
        count
    }

    #[tokio::test(start_paused = true)]
    async fn machine_stands_still_and_goes_on() {
        let (host, mut tasks) = (Host::new("n1", [1; 32]), JoinSet::new());
        let count = counting(&host, &mut tasks);
        sleep(Duration::from_millis(35)).await;
        host.freeze();
        let (steps, asked) = (host.steps(), host.run(async { 7 }));
        tokio::pin!(asked);
        assert!(futures::poll!(&mut asked).is_pending());
        sleep(Duration::from_secs(1)).await;
        assert_eq!((count.load(Ordering::Relaxed), host.steps()), (3, steps));
        host.thaw();
        assert_eq!(asked.await, Some(7));
        sleep(Duration::from_millis(15)).await;
        assert_eq!(count.load(Ordering::Relaxed), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn machine_that_ends_does_nothing_more_and_keeps_nothing() {
        let (host, mut tasks) = (Host::new("n1", [1; 32]), JoinSet::new());
        let count = counting(&host, &mut tasks);
        let held = count.clone();
        let began = Instant::now();
        let asked = host.run(async move {
            sleep(Duration::from_mins(1)).await;
            drop(held);
        });
        let killed = async {
            sleep(Duration::from_millis(25)).await;
            host.kill().await;
        };
        assert_eq!(futures::join!(asked, killed).0, None);
        assert_eq!(began.elapsed(), Duration::from_millis(25));
        assert_eq!((count.load(Ordering::Relaxed), Arc::strong_count(&count)), (2, 1));
    }

    #[test]
    fn runtime_passes_the_suite_of_openraft() {
        Suite::<AspenRuntime>::test_all();
    }

    #[tokio::test]
    async fn chances_are_those_of_the_seed_and_what_is_done_is_done_at_once() {
        let draw = async |seed: u8| {
            let host = Host::new("n1", [seed; 32]);
            let drawn = async {
                let outer = random().next_u64();
                let inner = blocking(|| random().next_u64()).await.unwrap();
                [outer, inner, AspenRuntime::thread_rng().next_u64()]
            };
            host.run(drawn).await.unwrap()
        };
        let [one, again, other] = [draw(1).await, draw(1).await, draw(2).await];
        assert_eq!(one, again);
        assert!(one[0] != one[1] && one[1] != one[2] && one != other);
    }
}
