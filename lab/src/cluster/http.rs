//! A [`Channel`] over TCP: HTTP/1.1 by hyper, one connection, kept alive.

use std::net::SocketAddr;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::pace::Pace;
use super::{Channel, Request, RequestError, Response};
use crate::limits::{CONNECT_TIMEOUT, RESPONSE_BYTES_MAX};

/// A connection to one address.
#[derive(Debug)]
pub struct HttpChannel {
    address: SocketAddr,
    pace: Pace,
    connection: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Drives the connection; ends with it.
    _driver: JoinSet<()>,
}

impl HttpChannel {
    /// A channel to `address`, not connected yet. It waits as long as it is told, at this pace.
    pub fn new(address: SocketAddr, pace: Pace) -> Self {
        Self { address, pace, connection: None }
    }

    /// The open connection, or a new one.
    async fn connected(&mut self) -> Result<&mut Connection, RequestError> {
        let is_usable = match &mut self.connection {
            Some(connection) => connection.sender.ready().await.is_ok(),
            None => false,
        };
        if !is_usable {
            self.connection = Some(connect(self.address, self.pace).await?);
        }
        self.connection.as_mut().ok_or_else(|| RequestError::NotSent("no connection".to_owned()))
    }

    async fn exchange(&mut self, request: Request) -> Result<Response, RequestError> {
        let address = self.address;
        let connection = self.connected().await?;
        let method = if request.body.is_some() { "POST" } else { "GET" };
        let built = hyper::Request::builder()
            .method(method)
            .uri(request.path)
            .header(HOST, address.to_string())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(request.body.unwrap_or_default())))
            .map_err(|error| RequestError::NotSent(error.to_string()))?;
        let lost = |error: &dyn std::fmt::Display| RequestError::Lost(error.to_string());
        let response = connection.sender.send_request(built).await.map_err(|error| lost(&error))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), RESPONSE_BYTES_MAX).collect().await;
        let body = body.map_err(|error| lost(&error))?.to_bytes();
        Ok(Response::new(status, &body))
    }
}

impl Channel for HttpChannel {
    fn request(
        &mut self,
        request: Request,
        within: Duration,
    ) -> BoxFuture<'_, Result<Response, RequestError>> {
        async move {
            let deadline = Instant::now() + self.pace.to_real(within);
            let result = timeout_at(deadline, self.exchange(request)).await;
            let result = result.unwrap_or_else(|_| {
                Err(RequestError::Lost(format!("nothing within {} ms", within.as_millis())))
            });
            if result.is_err() {
                // An answer that comes late must not be taken for the answer to the next request.
                self.connection = None;
            }
            result
        }
        .boxed()
    }
}

async fn connect(address: SocketAddr, pace: Pace) -> Result<Connection, RequestError> {
    let not_sent = |reason: String| RequestError::NotSent(reason);
    let within = pace.to_real(CONNECT_TIMEOUT);
    let connected = tokio::time::timeout(within, TcpStream::connect(address)).await;
    let stream = connected
        .map_err(|_| not_sent(format!("{address} did not answer within {} ms", CONNECT_TIMEOUT.as_millis())))?
        .map_err(|error| not_sent(error.to_string()))?;
    stream.set_nodelay(true).map_err(|error| not_sent(error.to_string()))?;
    let shaken = handshake(TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(|error| not_sent(error.to_string()))?;
    let mut driver = JoinSet::new();
    // Its error reaches the request that is under way.
    driver.spawn(connection.map(drop));
    Ok(Connection { sender, _driver: driver })
}
