//! Joining over iroh: the handler that lets newcomers in, and the question of a newcomer.

use std::fmt::Debug;
use std::sync::Arc;

use iroh::Endpoint;
use iroh::endpoint::{Connection, VarInt};
use iroh::protocol::{AcceptError, ProtocolHandler};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::{Admission, close_code, remote_key};
use crate::api::ApiError;
use crate::limits::{
    DIAL_TIMEOUT, JOIN_ANSWER_BYTES_MAX, JOIN_REQUEST_BYTES_MAX, JOIN_REQUEST_TIMEOUT, JOIN_TIMEOUT,
    JOINERS_MAX, STRANGERS_MAX,
};
use crate::network::join::{ALPN, JoinAnswer, JoinRefusal, JoinRequest, JoinService, Welcome, Wish};
use crate::network::refusals::Refusal;
use crate::network::secret::{ClusterSecret, ClusterSecrets, Prover};
use crate::network::{AddressBook, Peer};
use crate::types::{EndpointKey, NodeInfo};

/// Why one node did not grant what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// There is no connection.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// The connection was lost, or nothing came in time.
    #[error("it did not answer: {0}")]
    Lost(String),
    /// It speaks another language.
    #[error("it speaks another version of the protocol")]
    Malformed,
    /// The secrets differ.
    #[error("it has another secret")]
    WrongSecret,
    /// It has not proven that it knows the secret.
    #[error("it claims to be of this cluster and does not know the secret")]
    Impostor,
    /// It does not lead.
    #[error("it does not lead the cluster")]
    NotLeader {
        /// Who does, as far as it knows.
        leader: Option<Peer>,
    },
    /// It will not, or not now.
    #[error("it refuses")]
    Refused(#[source] ApiError),
}

/// Hears nodes that know the secret.
#[derive(Clone)]
pub(super) struct JoinHandler {
    service: Arc<dyn JoinService>,
    secrets: watch::Receiver<ClusterSecrets>,
    own_key: EndpointKey,
    admission: Arc<Admission>,
    /// One for each stranger that is heard.
    strangers: Arc<Semaphore>,
    /// One for each of them that has proven itself.
    joiners: Arc<Semaphore>,
}

impl Debug for JoinHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinHandler").field("admission", &self.admission).finish_non_exhaustive()
    }
}

impl JoinHandler {
    pub(super) fn new(
        service: Arc<dyn JoinService>,
        secrets: watch::Receiver<ClusterSecrets>,
        own_key: EndpointKey,
        admission: Arc<Admission>,
    ) -> Self {
        let strangers = Arc::new(Semaphore::new(STRANGERS_MAX as usize));
        let joiners = Arc::new(Semaphore::new(JOINERS_MAX as usize));
        Self { service, secrets, own_key, admission, strangers, joiners }
    }

    /// Hears whoever asks, and answers.
    async fn hear(&self, connection: &Connection) -> Result<(), JoinError> {
        let Ok(stranger) = self.strangers.clone().try_acquire_owned() else {
            self.admission.refusals().note(Refusal::Busy, remote_key(connection));
            connection.close(VarInt::from_u32(close_code::BUSY), b"too many nodes ask at once");
            return Ok(());
        };
        let garbled =
            |_: &JoinError| self.admission.refusals().note(Refusal::Garbled, remote_key(connection));
        let heard = timeout(JOIN_REQUEST_TIMEOUT, async {
            let (send, mut recv) = connection.accept_bi().await.map_err(lost)?;
            let bytes = recv.read_to_end(JOIN_REQUEST_BYTES_MAX).await.map_err(lost)?;
            Ok((send, decode::<JoinRequest>(&bytes)?))
        });
        let heard = heard.await.map_err(lost).and_then(|heard| heard).inspect_err(garbled);
        let (mut send, request) = heard?;
        let (key, session) = (remote_key(connection), session(connection)?);
        let known = self.secrets.borrow().proven(&request.proof, Prover::Joiner(key), &session).cloned();
        // The key is what later counts, so it has to be the asker's own.
        let known = known.filter(|_| request.info.endpoint_id == key);
        // It is none any more, or is told so at once.
        drop(stranger);
        let answer = if let Some(secret) = &known {
            let Ok(_joiner) = self.joiners.acquire().await else { return Ok(()) };
            let verdict = self.service.grant(request.wish, request.info).await;
            JoinAnswer::Proven { proof: secret.prove(Prover::Member(self.own_key), &session), verdict }
        } else {
            self.admission.refusals().note(Refusal::WrongSecret, key);
            JoinAnswer::WrongSecret
        };
        send.write_all(&encode(&answer)?).await.map_err(lost)?;
        send.finish().map_err(lost)?;
        // Whoever closes first may cut off what is under way.
        let patience = if known.is_some() { JOIN_TIMEOUT } else { JOIN_REQUEST_TIMEOUT };
        timeout(patience, connection.closed()).await.map(drop).map_err(lost)
    }
}

impl ProtocolHandler for JoinHandler {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        match timeout(JOIN_TIMEOUT, self.hear(&connection)).await {
            Ok(Ok(())) => {}
            // It asks again, if it wants to.
            Ok(Err(error)) => tracing::debug!(%error, "a node that asked to join was lost"),
            Err(_) => tracing::debug!("a node that asked to join took too long"),
        }
        connection.close(VarInt::from_u32(close_code::DONE), b"");
        Ok(())
    }
}

/// Asks one node of the cluster for something.
///
/// # Errors
/// Why it was not granted.
pub(super) async fn ask(
    endpoint: &Endpoint,
    book: &AddressBook,
    secret: &ClusterSecret,
    at: &NodeInfo,
    info: &NodeInfo,
    wish: Wish,
) -> Result<Welcome, JoinError> {
    let unreachable = JoinError::Unreachable;
    let address = book.dial(at).ok_or_else(|| unreachable("its key is none".to_owned()))?;
    let dialled = timeout(DIAL_TIMEOUT, endpoint.connect(address, ALPN)).await;
    let dialled = dialled.map_err(|_| unreachable(format!("no handshake with {}", at.raft)))?;
    let connection = dialled.map_err(|error| unreachable(error.to_string()))?;
    let asked = async {
        let session = session(&connection)?;
        let proof = secret.prove(Prover::Joiner(info.endpoint_id), &session);
        let (mut send, mut recv) = connection.open_bi().await.map_err(lost)?;
        let request = JoinRequest { proof, info: info.clone(), wish };
        send.write_all(&encode(&request)?).await.map_err(lost)?;
        send.finish().map_err(lost)?;
        let answer = recv.read_to_end(JOIN_ANSWER_BYTES_MAX).await.map_err(lost)?;
        let (proof, verdict) = match decode(&answer)? {
            JoinAnswer::WrongSecret => return Err(JoinError::WrongSecret),
            JoinAnswer::Proven { proof, verdict } => (proof, verdict),
        };
        // Nothing that it says counts before.
        if !secret.accepts(&proof, Prover::Member(at.endpoint_id), &session) {
            return Err(JoinError::Impostor);
        }
        verdict.map_err(|refusal| match refusal {
            JoinRefusal::NotLeader { leader } => JoinError::NotLeader { leader },
            JoinRefusal::Refused(error) => JoinError::Refused(error),
        })
    };
    let answer = timeout(JOIN_TIMEOUT, asked).await;
    connection.close(VarInt::from_u32(close_code::DONE), b"");
    answer.unwrap_or_else(|elapsed| Err(lost(elapsed)))
}

/// Bytes that both ends of this connection have, and nobody else (RFC 5705).
fn session(connection: &Connection) -> Result<[u8; 32], JoinError> {
    let mut session = [0; 32];
    let exported = connection.export_keying_material(&mut session, ALPN, b"");
    exported.map_err(|error| JoinError::Lost(format!("{error:?}")))?;
    Ok(session)
}

fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, JoinError> {
    postcard::to_stdvec(message).map_err(|_| JoinError::Malformed)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JoinError> {
    postcard::from_bytes(bytes).map_err(|_| JoinError::Malformed)
}

fn lost(error: impl ToString) -> JoinError {
    JoinError::Lost(error.to_string())
}
