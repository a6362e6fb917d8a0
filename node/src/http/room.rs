//! Room for the bodies of requests: how many bytes of them a node holds at once, however many requests there are.

use std::sync::Arc;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::StatusCode;
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Refusal;
use super::malformed;
use crate::api::{ApiError, BadRequest};
use crate::limits::{BODIES_BYTES_MAX, HTTP_BODY_BYTES_MAX, MIB};

/// The room for all bodies. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct BodyRoom(Arc<Semaphore>);

/// What one body takes of it, until this is dropped.
#[derive(Debug)]
pub(super) struct Held(OwnedSemaphorePermit);

impl Default for BodyRoom {
    fn default() -> Self {
        Self::of(BODIES_BYTES_MAX)
    }
}

impl BodyRoom {
    fn of(bytes: u32) -> Self {
        Self(Arc::new(Semaphore::new(bytes as usize)))
    }

    /// Reads a body to its end. What has come counts, and not what the client says that there will be: one that says much and sends
    /// nothing takes no room from others. What is refused is read as well, and not kept: a client that still sends would not see the
    /// answer.
    pub(super) async fn read(&self, body: Body) -> Result<(Bytes, Held), Refusal> {
        let mut held = self.take(0)?;
        let (mut first, mut whole, mut bytes) = (None, Vec::new(), 0);
        let mut arriving = body.into_data_stream();
        while let Some(part) = arriving.next().await {
            let part: Bytes = part.map_err(|error| malformed(format!("the body is cut off: {error}")))?;
            bytes += part.len();
            if bytes > HTTP_BODY_BYTES_MAX as usize {
                return Err(ApiError::from(BadRequest::BodyTooLarge).into());
            }
            match self.take(part.len()) {
                Ok(more) => held.0.merge(more.0),
                Err(refusal) => {
                    drop((first, whole, held));
                    drain(arriving, bytes).await;
                    return Err(refusal);
                }
            }
            // A small body comes as one. Of others no part is held by itself: it may be a byte in a buffer of its own.
            if bytes == part.len() {
                first = Some(part);
            } else {
                whole.extend_from_slice(&first.take().unwrap_or_default());
                whole.extend_from_slice(&part);
            }
        }
        Ok((first.unwrap_or_else(|| whole.into()), held))
    }

    fn take(&self, bytes: usize) -> Result<Held, Refusal> {
        let taken =
            u32::try_from(bytes).ok().and_then(|bytes| self.0.clone().try_acquire_many_owned(bytes).ok());
        taken.map(Held).ok_or_else(|| {
            let room_mib = u64::from(BODIES_BYTES_MAX) / MIB;
            let text = format!(
                "nothing was done, the bodies of the requests under way on this node have {room_mib} MiB, which is all that it holds at \
                 once: try again later"
            );
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too_many_operations", text)
        })
    }
}

/// Reads the rest of a body of which so many bytes have come, up to the longest that may be.
async fn drain(mut arriving: BodyDataStream, mut bytes: usize) {
    while let Some(Ok(part)) = arriving.next().await {
        bytes += part.len();
        if bytes > HTTP_BODY_BYTES_MAX as usize {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::Extension;
    use axum::response::IntoResponse;
    use axum::routing::post;
    use axum::{Router, serve};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Notify;
    use tokio::task::JoinSet;

    use super::super::body::RawBody;
    use super::*;

    /// Answers once it is told to, and how long the body was.
    async fn length(going: Extension<Arc<Notify>>, body: RawBody) -> String {
        going.notified().await;
        body.0.len().to_string()
    }

    async fn ask(to: std::net::SocketAddr, request: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{request}\r\n\r\n");
        stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
        stream
    }

    async fn answer(mut stream: TcpStream) -> String {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn bodies_beyond_the_bound_are_told_to_come_again() {
        let (room, going) = (BodyRoom::of(1_000), Arc::new(Notify::new()));
        let layers = (Extension(room.clone()), Extension(going.clone()));
        let routes = Router::new().route("/", post(length)).layer(layers);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move { serve(listener, routes).await });

        // What is announced takes no room, what has come does; whether its length is known beforehand or not.
        let announced = ask(to, "content-length: 900", &[b'x'; 100]).await;
        let chunked = ask(
            to,
            "transfer-encoding: chunked",
            format!("258\r\n{}\r\n0\r\n\r\n", "x".repeat(600)).as_bytes(),
        )
        .await;
        while room.0.available_permits() != 300 {
            tokio::task::yield_now().await;
        }
        let refused = answer(ask(to, "content-length: 301", &[b'x'; 301]).await).await;
        assert!(refused.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{refused}");
        assert!(refused.contains("\r\nretry-after: 1\r\n"), "{refused}");
        let text = "nothing was done, the bodies of the requests under way on this node have 256 MiB, which is all that it holds at \
                    once: try again later";
        assert!(refused.contains(text), "{refused}");
        let small = ask(to, "content-length: 300", &[b'x'; 300]).await;
        while room.0.available_permits() != 0 {
            tokio::task::yield_now().await;
        }
        drop(announced);
        going.notify_one();
        going.notify_one();
        assert!(answer(chunked).await.ends_with("\r\n\r\n600"));
        assert!(answer(small).await.ends_with("\r\n\r\n300"));
        while room.0.available_permits() != 1_000 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn parts_make_a_whole_and_a_refused_body_is_read_to_its_end() {
        let parts = |count: usize| {
            let read = Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let counted = read.clone();
            let part = move |_| {
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Ok::<_, std::io::Error>("ab")
            };
            (Body::from_stream(futures::stream::iter(0..count).map(part)), read)
        };
        let room = BodyRoom::of(7);
        let (body, held) = room.read(parts(3).0).await.unwrap();
        assert_eq!((&body[..], room.0.available_permits()), (&b"ababab"[..], 1));
        drop(held);
        let (body, read) = parts(9);
        room.read(body).await.unwrap_err();
        assert_eq!((read.load(std::sync::atomic::Ordering::Relaxed), room.0.available_permits()), (9, 7));
    }

    #[tokio::test]
    async fn body_that_is_too_large_is_refused_for_that() {
        let body = Body::from(vec![0; HTTP_BODY_BYTES_MAX as usize + 1]);
        let refused = BodyRoom::default().read(body).await.unwrap_err();
        assert_eq!(refused.into_response().status(), StatusCode::BAD_REQUEST);
    }
}
