//! `--publish`: each node's HTTP at a port of the host's loopback. Bytes are passed on as they are, over the lab's own port of
//! the fabric, so that cuts between nodes do not touch them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::protocol::Power;
use crate::limits::LOOK_INTERVAL;
use crate::limits::control::{PUBLISH_BLOCK_BYTES, PUBLISH_CONNECTIONS_MAX};

/// Why ports cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// There are not so many ports.
    #[error(
        "--publish {first} would need the ports up to {last} for {nodes_count} nodes, at most 65535 is allowed: choose a \
         lower one"
    )]
    Range {
        /// The first node's.
        first: u16,
        /// The last node's.
        last: u32,
        /// How many nodes there are.
        nodes_count: u32,
    },
    /// Somebody has it, or the user may not have it.
    #[error("cannot publish node {name} at 127.0.0.1:{port}: choose other ports with --publish")]
    Port {
        /// The node.
        name: String,
        /// Its port.
        port: u16,
        /// Why.
        source: io::Error,
    },
}

/// The port of the node at this position, from 0.
pub(super) fn port(first: u16, position: usize) -> u16 {
    // Checked when the sockets were opened.
    first.saturating_add(u16::try_from(position).unwrap_or(u16::MAX))
}

/// Opens a listening socket for each node, in order.
///
/// # Errors
/// [`PublishError`].
pub(super) fn listen<'name>(
    first: u16,
    names: impl ExactSizeIterator<Item = &'name str>,
) -> Result<Vec<TcpListener>, PublishError> {
    let nodes_count = u32::try_from(names.len()).unwrap_or(u32::MAX);
    let last = u32::from(first) + nodes_count - 1;
    if last > u16::MAX.into() {
        return Err(PublishError::Range { first, last, nodes_count });
    }
    let bound = names.enumerate().map(|(position, name)| {
        let port = port(first, position);
        let failed = |source| PublishError::Port { name: name.to_owned(), port, source };
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(failed)
    });
    bound.collect()
}

/// The permits for all connections of a lab.
pub(super) fn permits() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(PUBLISH_CONNECTIONS_MAX))
}

/// Passes the connections of one node on, as long as it is polled.
///
/// # Errors
/// The socket cannot be used.
pub(super) async fn serve(
    listener: TcpListener,
    node: SocketAddr,
    power: watch::Receiver<Power>,
    permits: Arc<Semaphore>,
    idle_max: Duration,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return Ok(()) };
        // Those that have ended are let go.
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((client, _)) => {
                let power = power.clone();
                connections.spawn(async move {
                    relay(client, node, power, idle_max).await;
                    drop(permit);
                });
            }
            // Descriptors may have run out; some will be closed.
            Err(_) => sleep(LOOK_INTERVAL).await,
        }
    }
}

/// One connection, until an end of it is closed or the node goes down. A node that is down answers with a closed one.
async fn relay(
    mut client: TcpStream,
    node: SocketAddr,
    mut power: watch::Receiver<Power>,
    idle_max: Duration,
) {
    let (blocks_count, state) = (AtomicU64::new(0), power.clone());
    let passed = async {
        // One that stands still, or boots, takes it when it goes on.
        let mut server = connected(node, idle_max).await?;
        // Small requests must not wait for more of them.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let there = pass(from_client, to_server, &blocks_count);
        let back = pass(from_server, to_client, &blocks_count);
        tokio::try_join!(there, back).ok()
    };
    tokio::select! {
        biased;
        // A machine that has lost its power does not close its connections.
        _ = power.wait_for(|power| *power == Power::Down) => {}
        () = idle(&blocks_count, state, idle_max) => {}
        // However it ends, both connections are closed.
        _ = passed => {}
    }
}

/// Passes one way on until its end, which is passed on too.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    blocks_count: &AtomicU64,
) -> io::Result<()> {
    let mut block = vec![0; PUBLISH_BLOCK_BYTES];
    loop {
        let length = from.read(&mut block).await?;
        blocks_count.fetch_add(1, Ordering::Relaxed);
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&block[..length]).await?;
    }
}

/// Returns once nothing has been passed on for so long, and at most twice as long. Time in which the node stands still does not
/// count: whoever waits for it waits for whoever lets it go on.
async fn idle(blocks_count: &AtomicU64, mut power: watch::Receiver<Power>, idle_max: Duration) {
    loop {
        let before = blocks_count.load(Ordering::Relaxed);
        tokio::select! {
            () = sleep(idle_max) => {
                if blocks_count.load(Ordering::Relaxed) == before && *power.borrow() == Power::Running {
                    return;
                }
            }
            // It stands still, or goes on: from now on it is waited for anew.
            Ok(()) = power.changed() => {}
        }
    }
}

async fn connected(to: SocketAddr, within: Duration) -> Option<TcpStream> {
    timeout(within, TcpStream::connect(to)).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::control::PUBLISH_IDLE_MAX;

    #[test]
    fn ports_that_do_not_exist_or_are_taken_are_refused_by_number() {
        let three = ["n1", "n2", "n3"];
        let error = listen(65_534, three.into_iter()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--publish 65534 would need the ports up to 65536 for 3 nodes, at most 65535 is allowed: choose a lower one"
        );
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = listen(port, ["n1"].into_iter()).unwrap_err();
        let want = format!("cannot publish node n1 at 127.0.0.1:{port}: choose other ports with --publish");
        assert_eq!(error.to_string(), want);
    }

    /// A node that sends back what it gets, published.
    async fn echo(
        power: watch::Receiver<Power>,
        permits: Arc<Semaphore>,
        idle_max: Duration,
        tasks: &mut JoinSet<()>,
    ) -> SocketAddr {
        let node = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node_address = node.local_addr().unwrap();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = node.accept().await {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        tasks.spawn(async move { serve(listener, node_address, power, permits, idle_max).await.unwrap() });
        address
    }

    #[tokio::test]
    async fn bytes_go_there_and_back_and_a_node_that_goes_down_closes_its_connections() {
        let (power, seen) = watch::channel(Power::Running);
        let mut tasks = JoinSet::new();
        let address = echo(seen, permits(), PUBLISH_IDLE_MAX, &mut tasks).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello");
        power.send(Power::Down).unwrap();
        // The end of the stream, or a reset: not silence.
        let end = timeout(Duration::from_secs(5), client.read(&mut answer)).await.expect("it does not hang");
        assert_eq!(end.unwrap_or(0), 0);
        let mut late = TcpStream::connect(address).await.unwrap();
        let end = timeout(Duration::from_secs(5), late.read(&mut answer)).await.expect("it does not hang");
        assert_eq!(end.unwrap_or(0), 0);
    }

    /// 256 connections that somebody had forgotten once kept everybody else waiting for ever.
    #[tokio::test]
    async fn connection_that_carries_nothing_is_closed_unless_its_node_is_paused() {
        let (power, seen) = watch::channel(Power::Paused);
        let mut tasks = JoinSet::new();
        // It answers the next one only when the first is closed.
        let address = echo(seen, Arc::new(Semaphore::new(1)), Duration::from_millis(50), &mut tasks).await;
        let mut forgotten = TcpStream::connect(address).await.unwrap();
        let mut next = TcpStream::connect(address).await.unwrap();
        next.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        let early = timeout(Duration::from_millis(300), next.read(&mut answer)).await;
        assert!(early.is_err(), "who waits for a node that is paused keeps its place");
        power.send(Power::Running).unwrap();
        let limit = Duration::from_secs(5);
        timeout(limit, next.read_exact(&mut answer)).await.expect("it does not hang").unwrap();
        assert_eq!(&answer, b"hello");
        let end = timeout(limit, forgotten.read(&mut answer)).await.expect("it does not hang");
        assert_eq!(end.unwrap_or(0), 0);
    }
}
