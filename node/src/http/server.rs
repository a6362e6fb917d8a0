//! Takes connections within bounds, over TLS if the node has a certificate, and serves HTTP/1.1 on them.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use futures::FutureExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::browser::Local;
use super::{Credentials, HttpState, newcomer_router, router};
use crate::limits::{
    HTTP_BODY_BYTES_MAX, HTTP_CONNECTIONS_MAX, HTTP_DRAIN_TIMEOUT, HTTP_HEAD_BYTES_MAX, HTTP_IDLE_TIMEOUT,
    HTTP_STALL_TIMEOUT, TLS_HANDSHAKE_TIMEOUT,
};
use crate::network::iroh::ClientStream;
use crate::network::refusals::{Refusal, Refusals};

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
    let (credentials, refusals) = (state.credentials.clone(), state.metrics.refusals().clone());
    let shown = (credentials, &refusals);
    let (served, mut ending) = take_all(&listener, &mut streams, shown, router(state), stop).await;
    drop((listener, streams));
    served.end().await;
    while ending.join_next().await.is_some() {}
}

/// Says to whoever asks over TCP that the node is not let in yet, until `let_in` resolves, and returns what that does.
pub async fn serve_newcomer<T: Send>(
    listener: &TcpListener,
    shown: (watch::Receiver<Credentials>, &Refusals),
    let_in: impl Future<Output = T> + Send,
) -> T {
    let (_clients, mut streams) = mpsc::channel(1);
    let mut found = None;
    let stop = async { found = Some(let_in.await) };
    let (served, _ending) = take_all(listener, &mut streams, shown, newcomer_router(), stop).await;
    // Whoever still keeps an answer waiting is cut off.
    let _ = timeout(HTTP_DRAIN_TIMEOUT, served.end()).await;
    found.expect("it is what has stopped it")
}

/// Takes connections and streams until `stop` resolves: those that are being served then, and those that end.
async fn take_all(
    listener: &TcpListener,
    streams: &mut mpsc::Receiver<ClientStream>,
    (mut credentials, refusals): (watch::Receiver<Credentials>, &Refusals),
    routes: Router,
    stop: impl Future<Output = ()> + Send,
) -> (Served, JoinSet<()>) {
    let routes = TowerToHyperService::new(routes);
    let room = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX as usize));
    let (mut served, mut ending) = (Served::default(), JoinSet::new());
    let mut stop = pin!(stop);
    loop {
        served.forget_ended();
        while ending.try_join_next().is_some() {}
        tokio::select! {
            biased;
            () = &mut stop => return (served, ending),
            (stream, place) = take(listener, &room) => {
                let tls = credentials.borrow().tls.clone();
                served.serve(stream, tls, routes.clone(), place, refusals.clone());
            }
            Some(stream) = streams.recv() => served.serve_stream(stream, routes.clone()),
            // Who is connected has shown what does not count any more.
            Ok(()) = credentials.changed() => {
                let before = std::mem::take(&mut served);
                ending.spawn(timeout(HTTP_DRAIN_TIMEOUT, before.end()).map(drop));
            }
        };
    }
}

/// Connections that are being served. Dropped, they are cut off.
#[derive(Default)]
struct Served {
    graceful: GracefulShutdown,
    connections: JoinSet<()>,
    /// Dropped, it ends handshakes.
    handshakes: watch::Sender<()>,
}

impl Served {
    fn serve(
        &mut self,
        stream: TcpStream,
        tls: Option<TlsAcceptor>,
        routes: TowerToHyperService<Router>,
        place: Option<OwnedSemaphorePermit>,
        refusals: Refusals,
    ) {
        let (watcher, mut ended) = (self.graceful.watcher(), self.handshakes.subscribe());
        self.connections.spawn(async move {
            let client = stream.peer_addr().ok();
            let is_local = stream.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
            let routes = marked(routes, is_local.then_some(Local));
            // Answers are small, and written at once.
            let _ = stream.set_nodelay(true);
            match tls {
                None => serve_on(patient(stream), client, http(), routes, watcher).await,
                Some(tls) => {
                    let shaken = tokio::select! {
                        shaken = shake_hands(stream, tls, client, &refusals) => shaken,
                        _ = ended.changed() => None,
                    };
                    if let Some(stream) = shaken {
                        serve_on(stream, client, http(), routes, watcher).await;
                    }
                }
            }
            drop(place);
        });
    }

    fn serve_stream(&mut self, stream: ClientStream, routes: TowerToHyperService<Router>) {
        let mut http = http();
        // On a stream it is usual to say that all is asked.
        http.half_close(true);
        let routes = marked(routes, stream.standing());
        self.connections.spawn(serve_on(patient(stream), None, http, routes, self.graceful.watcher()));
    }

    fn forget_ended(&mut self) {
        while self.connections.try_join_next().is_some() {}
    }

    /// Answers what is under way.
    async fn end(self) {
        let Self { graceful, connections, handshakes } = self;
        drop(handshakes);
        graceful.shutdown().await;
        drop(connections);
    }
}

/// The routes, for requests of one connection: each says of itself what is known of that.
fn marked<T: Clone + Send + Sync + 'static>(
    routes: TowerToHyperService<Router>,
    mark: Option<T>,
) -> impl HttpService<Incoming, ResBody = Body, Error = Infallible, Future: Send> + Send + 'static {
    service_fn(move |mut request: Request<Incoming>| {
        if let Some(mark) = mark.clone() {
            request.extensions_mut().insert(mark);
        }
        routes.call(request)
    })
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

/// TLS on a connection, if the other end speaks it; if not, it is told.
async fn shake_hands(
    mut stream: TcpStream,
    tls: TlsAcceptor,
    client: Option<SocketAddr>,
    refusals: &Refusals,
) -> Option<TlsStream<Patient<TcpStream>>> {
    let shaken = timeout(TLS_HANDSHAKE_TIMEOUT, async {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            // Whoever only looks whether the port is there.
            return Ok(None);
        }
        if first[0] != TLS_HANDSHAKE {
            stream.write_all(PLAIN_REFUSED).await?;
            stream.shutdown().await?;
            // What was not read when a connection is closed takes the answer with it.
            copy(&mut stream.take(HTTP_BODY_BYTES_MAX.into()), &mut sink()).await?;
            return Ok(None);
        }
        tls.accept(patient(stream)).await.map(Some)
    });
    match shaken.await {
        Ok(Ok(Some(stream))) => return Some(stream),
        Ok(Ok(None)) => {
            tracing::debug!(?client, "a client says nothing, or speaks plain HTTP");
            return None;
        }
        Ok(Err(error)) => tracing::debug!(?client, %error, "a TLS handshake has failed"),
        Err(_) => tracing::debug!(?client, "a TLS handshake has taken too long"),
    }
    refusals.note(Refusal::Handshake, client.map_or_else(String::new, |client| client.to_string()));
    None
}

type Patient<S> = Pin<Box<TimeoutStream<S>>>;

/// A connection whose other end has to take what it is sent.
fn patient<S: AsyncRead + AsyncWrite>(stream: S) -> Patient<S> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(HTTP_STALL_TIMEOUT));
    Box::pin(stream)
}

/// How HTTP is spoken.
fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HTTP_IDLE_TIMEOUT)
        .max_buf_size(HTTP_HEAD_BYTES_MAX as usize);
    http
}

async fn serve_on(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: Option<SocketAddr>,
    http: http1::Builder,
    routes: impl HttpService<Incoming, ResBody = Body, Error = Infallible, Future: Send> + Send + 'static,
    watcher: Watcher,
) {
    let connection = http.serve_connection(TokioIo::new(stream), routes);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(?client, %error, "a connection of a client has ended");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;

    /// The client's end of a connection with room for some bytes, and when the other end is done with it.
    fn connection() -> (DuplexStream, JoinSet<Duration>) {
        let routes = Router::new().route("/", get(async || "x".repeat(100_000)));
        let (ours, theirs) = duplex(64);
        let begun = Instant::now();
        let mut served = JoinSet::new();
        served.spawn(async move {
            // Dropped, it would tell all connections to end.
            let graceful = GracefulShutdown::new();
            let routes = TowerToHyperService::new(routes);
            serve_on(patient(theirs), None, http(), routes, graceful.watcher()).await;
            begun.elapsed()
        });
        (ours, served)
    }

    #[track_caller]
    fn check_about(took: Duration, want: Duration) {
        assert!((want..want + Duration::from_secs(1)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_asks_nothing_is_left() {
        let (mut client, mut served) = connection();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a").await.unwrap();
        check_about(served.join_next().await.unwrap().unwrap(), HTTP_IDLE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_reads_nothing_is_left() {
        let (mut client, mut served) = connection();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        check_about(served.join_next().await.unwrap().unwrap(), HTTP_STALL_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_reads_slowly_gets_all() {
        let (mut client, mut served) = connection();
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
        assert!(served.join_next().await.unwrap().unwrap() > 4 * HTTP_STALL_TIMEOUT);
    }
}
