//! GET /cluster/backup: the state as one file, while writes go on. It is read no faster than the client takes it.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::HttpState;
use super::body::query_error;
use super::error::Refusal;
use crate::api::{Consistency, StateChunks, StateCopy};
use crate::backup::{FORMAT, Header};
use crate::limits::{BACKUP_CHUNKS_AHEAD, BACKUP_RATE_MIN, BACKUP_STALL_TIMEOUT};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackupQuery {
    #[serde(default)]
    consistency: Consistency,
}

/// GET /cluster/backup
pub(super) async fn backup(
    State(state): State<HttpState>,
    query: Result<Query<BackupQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(BackupQuery { consistency }) = query.map_err(query_error)?;
    let StateCopy { last, keys, vaults, bytes, digest, chunks } =
        state.cluster.copy_state(consistency).await?;
    let header = Header {
        format: FORMAT,
        cluster_id: state.cluster_id().map(|id| id.to_string()),
        node: state.cluster.status().id,
        revision: last.index,
        term: last.term,
        made_unix_ms: unix_ms(),
        keys,
        vaults,
        bytes,
        digest: data_encoding::HEXLOWER.encode(&digest),
    };
    let line = header.to_line();
    let length = line.len() as u64 + bytes;
    let first = stream::iter([Ok(Bytes::from(line))]);
    let mut response = Body::from_stream(first.chain(parts(chunks, bytes))).into_response();
    let told = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, HeaderValue::from(length)),
    ];
    response.headers_mut().extend(told);
    Ok(response)
}

/// Milliseconds since 1970.
#[allow(
    clippy::disallowed_methods,
    reason = "a person wants to know when a backup was made; nothing depends on it"
)]
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The chunks, read by a task that ends with the stream, or when nobody takes one for too long: then what it holds is free again.
fn parts(chunks: Box<dyn StateChunks>, bytes: u64) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let (sender, receiver) = channel(BACKUP_CHUNKS_AHEAD);
    let within = BACKUP_STALL_TIMEOUT + Duration::from_secs(bytes / BACKUP_RATE_MIN);
    let mut reader = JoinSet::new();
    reader.spawn(async move {
        if timeout(within, read(chunks.into(), sender)).await.is_err() {
            tracing::warn!("whoever takes a backup is too slow, so it ends");
        }
    });
    stream::unfold((receiver, reader), async |(mut receiver, reader): (Receiver<_>, JoinSet<()>)| {
        receiver.recv().await.map(|part| (part, (receiver, reader)))
    })
}

async fn read(chunks: Arc<dyn StateChunks>, parts: Sender<io::Result<Bytes>>) {
    for number in 0..chunks.count() {
        let from = chunks.clone();
        let chunk = tokio::task::spawn_blocking(move || from.chunk(number)).await;
        let part = chunk.unwrap_or_else(|error| Err(io::Error::other(error))).map(Bytes::from);
        let has_failed = part.is_err();
        match timeout(BACKUP_STALL_TIMEOUT, parts.send(part)).await {
            Ok(Ok(())) if !has_failed => {}
            Err(_) => return tracing::warn!("whoever takes a backup has stopped to read it, so it ends"),
            // It has gone.
            Ok(_) => return,
        }
    }
}
