//! Joining over iroh: the handler that lets newcomers in, and the question of a newcomer.

use std::fmt::Debug;
use std::sync::Arc;

use iroh::Endpoint;
use iroh::endpoint::{Connection, VarInt};
use iroh::protocol::{AcceptError, ProtocolHandler};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Admission, close_code};
use crate::limits::{DIAL_TIMEOUT, JOIN_ANSWER_BYTES_MAX, JOIN_REQUEST_BYTES_MAX, JOIN_TIMEOUT, JOINERS_MAX};
use crate::network::join::{ALPN, JoinAnswer, JoinRefusal, JoinRequest, JoinService, Welcome};
use crate::network::secret::{ClusterSecret, Prover};
use crate::network::{AddressBook, Peer};
use crate::types::{EndpointKey, NodeId, NodeInfo};

/// Why one node did not let a newcomer in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It could not be asked, or its answer not be read: another may do, or the same one later.
    #[error("{0}")]
    Unreachable(String),
    /// It does not lead.
    #[error("it does not lead the cluster")]
    NotLeader {
        /// Who does, as far as it knows.
        leader: Option<Peer>,
    },
    /// The secrets differ.
    #[error("it has another secret")]
    WrongSecret,
    /// It has not proven that it knows the secret.
    #[error("it claims to be of this cluster and does not know the secret")]
    Impostor,
    /// It will not, or not now.
    #[error("it refuses: {0}")]
    Refused(crate::api::ApiError),
}

/// Lets nodes in that know the secret.
#[derive(Clone)]
pub(super) struct JoinHandler {
    service: Arc<dyn JoinService>,
    secret: ClusterSecret,
    own_key: EndpointKey,
    admission: Arc<Admission>,
    /// One for each newcomer that is heard at a time.
    permits: Arc<Semaphore>,
}

impl Debug for JoinHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinHandler").field("admission", &self.admission).finish_non_exhaustive()
    }
}

impl JoinHandler {
    pub(super) fn new(
        service: Arc<dyn JoinService>,
        secret: ClusterSecret,
        own_key: EndpointKey,
        admission: Arc<Admission>,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(JOINERS_MAX as usize));
        Self { service, secret, own_key, admission, permits }
    }

    /// Hears a newcomer, and answers it.
    async fn hear(&self, connection: &Connection) -> Result<(), JoinError> {
        let (mut send, mut recv) = connection.accept_bi().await.map_err(unreachable)?;
        let request = recv.read_to_end(JOIN_REQUEST_BYTES_MAX).await.map_err(unreachable)?;
        let answer = self.answer(&decode::<JoinRequest>(&request)?, connection).await?;
        send.write_all(&encode(&answer)?).await.map_err(unreachable)?;
        send.finish().map_err(unreachable)?;
        // Whoever closes first may cut off what is under way.
        connection.closed().await;
        Ok(())
    }

    async fn answer(&self, request: &JoinRequest, connection: &Connection) -> Result<JoinAnswer, JoinError> {
        let (key, session) = (remote_key(connection), session(connection)?);
        let is_known = self.secret.accepts(&request.proof, Prover::Joiner(key), &session);
        // The key is what later counts, so it has to be the newcomer's own.
        if !is_known || request.info.endpoint_id != key {
            self.admission.refused(&key, "it does not know the cluster's secret");
            return Ok(JoinAnswer::WrongSecret);
        }
        Ok(match self.service.join(request.id, request.info.clone()).await {
            Ok(welcome) => JoinAnswer::Joined {
                proof: self.secret.prove(Prover::Member(self.own_key), &session),
                welcome,
            },
            Err(JoinRefusal::NotLeader { leader }) => JoinAnswer::NotLeader { leader },
            Err(JoinRefusal::Refused(error)) => JoinAnswer::Refused(error),
        })
    }
}

impl ProtocolHandler for JoinHandler {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let Ok(_permit) = self.permits.clone().try_acquire_owned() else {
            connection.close(VarInt::from_u32(close_code::BUSY), b"too many nodes ask to join at once");
            return Ok(());
        };
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

/// Asks one node of the cluster to be let in.
///
/// # Errors
/// Why it was not.
pub(super) async fn ask(
    endpoint: &Endpoint,
    book: &AddressBook,
    secret: &ClusterSecret,
    at: &NodeInfo,
    id: Option<NodeId>,
    info: &NodeInfo,
) -> Result<Welcome, JoinError> {
    let address = book.dial(at).ok_or_else(|| unreachable("its key is none"))?;
    let dialled = timeout(DIAL_TIMEOUT, endpoint.connect(address, ALPN)).await;
    let connection =
        dialled.map_err(|_| unreachable(format!("no handshake with {}", at.raft)))?.map_err(unreachable)?;
    let asked = async {
        let session = session(&connection)?;
        let proof = secret.prove(Prover::Joiner(info.endpoint_id), &session);
        let (mut send, mut recv) = connection.open_bi().await.map_err(unreachable)?;
        let request = JoinRequest { proof, id, info: info.clone() };
        send.write_all(&encode(&request)?).await.map_err(unreachable)?;
        send.finish().map_err(unreachable)?;
        let answer = recv.read_to_end(JOIN_ANSWER_BYTES_MAX).await.map_err(unreachable)?;
        match decode(&answer)? {
            JoinAnswer::Joined { proof, welcome } => {
                let prover = Prover::Member(at.endpoint_id);
                if secret.accepts(&proof, prover, &session) { Ok(welcome) } else { Err(JoinError::Impostor) }
            }
            JoinAnswer::WrongSecret => Err(JoinError::WrongSecret),
            JoinAnswer::NotLeader { leader } => Err(JoinError::NotLeader { leader }),
            JoinAnswer::Refused(error) => Err(JoinError::Refused(error)),
        }
    };
    let answer = timeout(JOIN_TIMEOUT, asked).await;
    connection.close(VarInt::from_u32(close_code::DONE), b"");
    answer.unwrap_or_else(|_| Err(unreachable(format!("no answer within {} s", JOIN_TIMEOUT.as_secs()))))
}

fn remote_key(connection: &Connection) -> EndpointKey {
    EndpointKey(*connection.remote_id().as_bytes())
}

/// Bytes that both ends of this connection have, and nobody else.
fn session(connection: &Connection) -> Result<[u8; 32], JoinError> {
    let mut session = [0; 32];
    let exported = connection.export_keying_material(&mut session, ALPN, b"");
    exported.map_err(|error| JoinError::Unreachable(format!("{error:?}")))?;
    Ok(session)
}

fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, JoinError> {
    postcard::to_stdvec(message).map_err(unreachable)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JoinError> {
    postcard::from_bytes(bytes).map_err(|_| unreachable("it speaks another version of the protocol"))
}

fn unreachable(reason: impl ToString) -> JoinError {
    JoinError::Unreachable(reason.to_string())
}
