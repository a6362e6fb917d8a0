//! The thread on which Raft and its network run, apart from HTTP: what clients ask is read, checked and answered elsewhere, and what
//! Raft's tasks say to each other wakes no other thread.

use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::limits::RUNTIME_STOP_TIMEOUT;

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct RaftThread {
    handle: Handle,
    /// Never sent on: dropped to end the thread.
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl RaftThread {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("raft".into()).spawn(move || {
            // An error: the sender was dropped.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(RUNTIME_STOP_TIMEOUT);
        })?;
        Ok(Self { handle, stop, thread })
    }

    /// Where to spawn tasks.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Does something on it.
    ///
    /// # Panics
    /// If that does.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.handle.spawn(work).await.expect("it does not panic, and the thread is there as long as this is")
    }

    /// Ends it, and waits for its end.
    pub(super) fn join(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("Raft's thread panicked");
        }
    }
}
