//! Takes connections within bounds, over TLS if the node has a certificate, and serves HTTP/1.1 on them.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use super::{HttpState, router};
use crate::limits::{
    HTTP_CONNECTIONS_MAX, HTTP_HEAD_BYTES_MAX, HTTP_IDLE_TIMEOUT, HTTP_STALL_TIMEOUT, TLS_HANDSHAKE_TIMEOUT,
};
use crate::network::iroh::ClientStream;

/// How long a listener that cannot take a connection, as there are no more descriptors, waits before it tries again.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);
/// The first byte of a TLS handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// What a client gets that speaks plain HTTP to a node which does not.
const PLAIN_REFUSED: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n\
    {\"error\":{\"code\":\"tls_needed\",\"message\":\"this node speaks HTTPS: ask at https://\"}}";

/// Serves connections over TCP and streams over QUIC until `stop` resolves; then answers what is under way.
pub async fn serve(
    listener: TcpListener,
    mut streams: mpsc::Receiver<ClientStream>,
    state: HttpState,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let credentials = state.credentials.clone();
    let routes = TowerToHyperService::new(router(state));
    let room = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX as usize));
    let (graceful, mut connections) = (GracefulShutdown::new(), JoinSet::new());
    let mut stop = pin!(stop);
    loop {
        let (stream, place) = tokio::select! {
            taken = take(&listener, &room) => taken,
            Some(stream) = streams.recv() => {
                let (routes, watcher) = (routes.clone(), graceful.watcher());
                connections.spawn(serve_on(patient(stream), None, routes, watcher));
                while connections.try_join_next().is_some() {}
                continue;
            }
            () = &mut stop => break,
        };
        while connections.try_join_next().is_some() {}
        let tls = credentials.borrow().tls.clone();
        let (routes, watcher) = (routes.clone(), graceful.watcher());
        connections.spawn(async move {
            serve_one(stream, tls, routes, watcher).await;
            drop(place);
        });
    }
    drop((listener, streams));
    graceful.shutdown().await;
}

/// The next connection, once there is room for it.
async fn take(listener: &TcpListener, room: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // Nobody closes it.
    let place = room.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) if is_of_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "a connection of a client cannot be taken");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Whether one connection has failed, rather than the listener.
fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn serve_one(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    routes: TowerToHyperService<Router>,
    watcher: Watcher,
) {
    let client = stream.peer_addr().ok();
    // Answers are small, and written at once.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return serve_on(patient(stream), client, routes, watcher).await };
    let shaken = timeout(TLS_HANDSHAKE_TIMEOUT, async {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
            let mut stream = stream;
            // What was not read when a connection is closed takes the answer with it.
            let _ = stream.read(&mut [0; 4096]).await?;
            stream.write_all(PLAIN_REFUSED).await?;
            stream.shutdown().await?;
            return Ok(None);
        }
        tls.accept(patient(stream)).await.map(Some)
    });
    match shaken.await {
        Ok(Ok(Some(stream))) => serve_on(stream, client, routes, watcher).await,
        Ok(Ok(None)) => tracing::debug!(?client, "a client speaks plain HTTP"),
        Ok(Err(error)) => tracing::debug!(?client, %error, "a TLS handshake has failed"),
        Err(_) => tracing::debug!(?client, "a TLS handshake has taken too long"),
    }
}

/// A connection whose other end has to take what it is sent.
fn patient<S: AsyncRead + AsyncWrite>(stream: S) -> Pin<Box<TimeoutStream<S>>> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(HTTP_STALL_TIMEOUT));
    Box::pin(stream)
}

async fn serve_on(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: Option<SocketAddr>,
    routes: TowerToHyperService<Router>,
    watcher: Watcher,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HTTP_IDLE_TIMEOUT)
        .max_buf_size(HTTP_HEAD_BYTES_MAX as usize);
    let connection = http.serve_connection(TokioIo::new(stream), routes);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(?client, %error, "a connection of a client has ended");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::*;

    /// The client's end of a connection with room for some bytes, and when the other end is done with it.
    fn connection() -> (DuplexStream, JoinHandle<Duration>) {
        let routes = Router::new().route("/", get(async || "x".repeat(100_000)));
        let (ours, theirs) = duplex(64);
        let begun = Instant::now();
        let serve = async move {
            // Dropped, it would tell all connections to end.
            let graceful = GracefulShutdown::new();
            serve_on(patient(theirs), None, TowerToHyperService::new(routes), graceful.watcher()).await;
            begun.elapsed()
        };
        (ours, tokio::spawn(serve))
    }

    #[track_caller]
    fn check_about(took: Duration, want: Duration) {
        assert!((want..want + Duration::from_secs(1)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_asks_nothing_is_left() {
        let (mut client, served) = connection();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a").await.unwrap();
        check_about(served.await.unwrap(), HTTP_IDLE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_reads_nothing_is_left() {
        let (mut client, served) = connection();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        check_about(served.await.unwrap(), HTTP_STALL_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_reads_slowly_gets_all() {
        let (mut client, served) = connection();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut read = 0;
        let mut some = [0; 10_000];
        loop {
            match client.read(&mut some).await.unwrap() {
                0 => break,
                more => read += more,
            }
            sleep(HTTP_STALL_TIMEOUT / 2).await;
        }
        assert!(read > 100_000, "{read}");
        assert!(served.await.unwrap() > 4 * HTTP_STALL_TIMEOUT);
    }
}
