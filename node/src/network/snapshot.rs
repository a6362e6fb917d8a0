//! How a snapshot travels: the sender names the digests of a region, is told which of its chunks are missing, and sends
//! those. Neither side holds more than a few regions' digests and one chunk in memory, and each waits for the other's next
//! word for [`SNAPSHOT_STEP_TIMEOUT`] at most.

use std::collections::VecDeque;

use irpc::channel::mpsc;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{RaftService, TransportError, millis};
use crate::failpoint::FailPoint;
use crate::host::blocking;
use crate::limits::{
    SNAPSHOT_ALIVE_INTERVAL, SNAPSHOT_REGION_CHUNKS, SNAPSHOT_REGIONS_AHEAD, SNAPSHOT_STEP_TIMEOUT,
};
use crate::storage::snapshot::{Digest, Incoming, Seal, SealDigest, SnapshotFile, region_count};
use crate::types::raft_types::{SnapshotMeta, SnapshotResponse, Vote};
use crate::types::{ChunkBytes, NodeId};

/// What is to be sent: Raft's `InstallSnapshot` (Raft thesis 5.1), its data apart.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InstallSnapshot {
    /// By what right.
    pub vote: Vote,
    /// What it covers.
    pub meta: SnapshotMeta,
    /// Its size and digest.
    pub seal: Seal,
}

/// What the sender says next.
#[derive(Debug, Serialize, Deserialize)]
pub enum SnapshotPart {
    /// The digests of the next region's chunks.
    Region(Vec<Digest>),
    /// The lowest chunk that was asked for and not sent yet.
    Chunk(ChunkBytes),
}

/// What the receiver says next.
#[derive(Debug, Serialize, Deserialize)]
pub enum SnapshotAnswer {
    /// The chunks to send of the next region, the first one in the lowest bit.
    Wanted(u64),
    /// It is being installed.
    Alive,
    /// It is installed, or the receiver knows of a higher vote.
    Done(SnapshotResponse),
    /// The receiver cannot take it.
    Refused(String),
}

/// What a node does about a snapshot that it is offered.
#[derive(Debug)]
pub enum SnapshotStart {
    /// It takes it.
    Receive(Box<Incoming>),
    /// It has it, from a transfer that broke off at its end.
    Here(SnapshotFile),
    /// It knows of a higher vote.
    Stale(SnapshotResponse),
}

/// Why a snapshot did not get through.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Nothing was heard for too long.
    #[error("no progress for {} s", SNAPSHOT_STEP_TIMEOUT.as_secs())]
    Silent,
    /// The stream ended.
    #[error("the stream was cut off: {0}")]
    Lost(String),
    /// The receiver cannot take it.
    #[error("refused: {0}")]
    Refused(String),
    /// Our own file.
    #[error("the snapshot cannot be read or written")]
    Io(#[from] std::io::Error),
    /// Our own file is not what it was.
    #[error("the snapshot is damaged")]
    Damaged,
}

impl SnapshotError {
    /// The same of a transport to this peer.
    pub(super) fn of(self, peer: NodeId) -> TransportError {
        let reason = self.to_string();
        match self {
            Self::Silent => TransportError::Timeout { peer, within_ms: millis(SNAPSHOT_STEP_TIMEOUT) },
            Self::Lost(_) => TransportError::Lost { peer, reason },
            Self::Refused(_) | Self::Io(_) => TransportError::Refused { peer, reason },
            Self::Damaged => TransportError::Damaged { peer },
        }
    }
}

/// Sends a snapshot whose [`InstallSnapshot`] is on its way. What is read for that is compared with its seal: a receiver takes no other
/// bytes, and cannot know whose fault they are.
///
/// # Errors
/// It did not get through; another try goes on where this one ended. Or the file is damaged, which is taken down.
pub async fn send(
    snapshot: &SnapshotFile,
    parts: &mpsc::Sender<SnapshotPart>,
    answers: &mut mpsc::Receiver<SnapshotAnswer>,
) -> Result<SnapshotResponse, SnapshotError> {
    match send_parts(snapshot, parts, answers).await {
        // A receiver that refuses closes the stream behind its reason.
        Err(SnapshotError::Lost(reason)) => loop {
            match next(answers).await {
                Ok(SnapshotAnswer::Refused(reason)) => return Err(SnapshotError::Refused(reason)),
                Ok(SnapshotAnswer::Done(response)) => return Ok(response),
                Ok(SnapshotAnswer::Wanted(_) | SnapshotAnswer::Alive) => {}
                Err(_) => return Err(SnapshotError::Lost(reason)),
            }
        },
        result => result,
    }
}

async fn send_parts(
    snapshot: &SnapshotFile,
    parts: &mpsc::Sender<SnapshotPart>,
    answers: &mut mpsc::Receiver<SnapshotAnswer>,
) -> Result<SnapshotResponse, SnapshotError> {
    let regions = region_count(snapshot.seal().bytes);
    let (mut named, mut sent, mut sealed) = (0, 0, SealDigest::default());
    loop {
        while named < regions.min(sent + u64::from(SNAPSHOT_REGIONS_AHEAD)) {
            let digests = read(snapshot, move |file| file.region(named)).await?;
            for digest in &digests {
                sealed.add(digest);
            }
            if named + 1 == regions && !snapshot.is_sealed_by(&sealed) {
                return Err(SnapshotError::Damaged);
            }
            FailPoint::SendRegion.pass();
            put(parts, SnapshotPart::Region(digests)).await?;
            named += 1;
        }
        match next(answers).await? {
            SnapshotAnswer::Wanted(mut wanted) if sent < named => {
                while wanted != 0 {
                    let chunk = sent * u64::from(SNAPSHOT_REGION_CHUNKS) + u64::from(wanted.trailing_zeros());
                    let bytes = read(snapshot, move |file| file.chunk(chunk)).await?;
                    FailPoint::SendChunk.pass();
                    put(parts, SnapshotPart::Chunk(ChunkBytes(bytes))).await?;
                    wanted &= wanted - 1;
                }
                sent += 1;
            }
            SnapshotAnswer::Wanted(_) => {
                return Err(SnapshotError::Lost("a region was asked for that was not named".to_owned()));
            }
            SnapshotAnswer::Alive => {}
            SnapshotAnswer::Done(response) => return Ok(response),
            SnapshotAnswer::Refused(reason) => return Err(SnapshotError::Refused(reason)),
        }
    }
}

/// Receives a snapshot and has it installed.
pub async fn receive(
    service: &dyn RaftService,
    request: InstallSnapshot,
    mut parts: mpsc::Receiver<SnapshotPart>,
    answers: mpsc::Sender<SnapshotAnswer>,
) {
    let vote = request.vote;
    let last = match service.begin_snapshot(request) {
        Ok(SnapshotStart::Stale(response)) => SnapshotAnswer::Done(response),
        // It may have been here for long.
        Ok(SnapshotStart::Here(snapshot)) => {
            match while_alive(read(&snapshot, SnapshotFile::whole_digest), &answers).await {
                Ok(_) => install(service, vote, snapshot, &answers).await,
                Err(SnapshotError::Damaged) => SnapshotAnswer::Refused(
                    "the copy that is here is damaged: it has to be sent once more".to_owned(),
                ),
                Err(error) => SnapshotAnswer::Refused(text(&error)),
            }
        }
        Ok(SnapshotStart::Receive(incoming)) => match take(incoming, &mut parts, &answers).await {
            Ok(snapshot) => install(service, vote, snapshot, &answers).await,
            Err(error) => SnapshotAnswer::Refused(text(&error)),
        },
        Err(reason) => SnapshotAnswer::Refused(reason),
    };
    if let SnapshotAnswer::Refused(reason) = &last {
        tracing::warn!(%reason, "a snapshot was not taken");
    }
    // A sender that is gone tries again by itself.
    let _ = answers.send(last).await;
}

/// Takes in part after part until the file is complete.
async fn take(
    mut incoming: Box<Incoming>,
    parts: &mut mpsc::Receiver<SnapshotPart>,
    answers: &mpsc::Sender<SnapshotAnswer>,
) -> Result<SnapshotFile, SnapshotError> {
    let mut named: VecDeque<Vec<Digest>> = VecDeque::new();
    let mut missing = 0;
    while !incoming.is_complete() {
        if missing == 0
            && let Some(digests) = named.pop_front()
        {
            (incoming, missing) = apart(move || {
                let missing = incoming.next_region(digests)?;
                Ok((incoming, missing))
            })
            .await?;
            put(answers, SnapshotAnswer::Wanted(missing)).await?;
            continue;
        }
        match next(parts).await? {
            SnapshotPart::Region(digests) if named.len() < SNAPSHOT_REGIONS_AHEAD as usize => {
                named.push_back(digests);
            }
            SnapshotPart::Region(_) => {
                return Err(SnapshotError::Lost("more regions were named than may wait".to_owned()));
            }
            SnapshotPart::Chunk(bytes) => {
                FailPoint::ReceiveChunk.pass();
                incoming = apart(move || incoming.write_chunk(&bytes.0).map(|()| incoming)).await?;
                missing &= missing.saturating_sub(1);
            }
        }
    }
    FailPoint::ReceiveComplete.pass();
    let received = incoming.received_bytes();
    let snapshot = while_alive(apart(move || incoming.finish()), answers).await?;
    tracing::info!(bytes = snapshot.seal().bytes, received, "a snapshot is here");
    Ok(snapshot)
}

/// Has a snapshot installed.
async fn install(
    service: &dyn RaftService,
    vote: Vote,
    snapshot: SnapshotFile,
    answers: &mpsc::Sender<SnapshotAnswer>,
) -> SnapshotAnswer {
    match while_alive(service.install_snapshot(vote, snapshot), answers).await {
        Ok(response) => SnapshotAnswer::Done(response),
        Err(reason) => SnapshotAnswer::Refused(reason),
    }
}

/// Waits for something that takes long, and tells the sender all along that it is under way.
async fn while_alive<T>(work: impl Future<Output = T>, answers: &mpsc::Sender<SnapshotAnswer>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        match timeout(SNAPSHOT_ALIVE_INTERVAL, &mut work).await {
            Ok(done) => return done,
            // Whether the sender still listens does not matter: it is done in any case.
            Err(_) => drop(answers.send(SnapshotAnswer::Alive).await),
        }
    }
}

async fn put<T: irpc::RpcMessage>(to: &mpsc::Sender<T>, message: T) -> Result<(), SnapshotError> {
    let sent = timeout(SNAPSHOT_STEP_TIMEOUT, to.send(message)).await.map_err(|_| SnapshotError::Silent)?;
    sent.map_err(|error| SnapshotError::Lost(error.to_string()))
}

async fn next<T: irpc::RpcMessage>(from: &mut mpsc::Receiver<T>) -> Result<T, SnapshotError> {
    let received = timeout(SNAPSHOT_STEP_TIMEOUT, from.recv()).await.map_err(|_| SnapshotError::Silent)?;
    let received = received.map_err(|error| SnapshotError::Lost(error.to_string()))?;
    received.ok_or_else(|| SnapshotError::Lost("the other side has closed it".to_owned()))
}

/// Reads a part of our own file. One that cannot be read is of no use either.
async fn read<T: Send + 'static>(
    snapshot: &SnapshotFile,
    part: impl FnOnce(&SnapshotFile) -> std::io::Result<T> + Send + 'static,
) -> Result<T, SnapshotError> {
    let file = snapshot.clone();
    let done = apart(move || part(&file).inspect_err(|error| file.note_damage(error))).await;
    done.map_err(|error| if snapshot.damage().is_some() { SnapshotError::Damaged } else { error })
}

async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, SnapshotError> {
    let done = blocking(work).await;
    Ok(done.map_err(std::io::Error::other)??)
}

/// An error with its cause, for the other side.
fn text(error: &SnapshotError) -> String {
    match error {
        SnapshotError::Io(cause) => format!("{error}: {cause}"),
        error => error.to_string(),
    }
}
