//! Over iroh: a member that connects is told what this node is, in one stream, and closes the connection.

use std::fmt::Debug;
use std::sync::Arc;

use iroh::Endpoint;
use iroh::endpoint::{Connection, VarInt};
use iroh::protocol::{AcceptError, ProtocolHandler};
use tokio::time::timeout;

use super::{Admission, close_code, greeting};
use crate::limits::{ABOUT_BYTES_MAX, ABOUT_TIMEOUT, DIAL_TIMEOUT};
use crate::network::AddressBook;
use crate::network::about::{ALPN, About, AboutError};
use crate::types::NodeInfo;

/// Why a node has not said what it is.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no connection, or it speaks no such protocol.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// The two have not greeted each other.
    #[error("it is not to be spoken to: {0}")]
    Refused(String),
    /// The connection was lost, or nothing came in time.
    #[error("it did not answer: {0}")]
    Lost(String),
    /// What came is no answer.
    #[error("its answer does not count")]
    Answer(#[from] AboutError),
}

/// Tells members what this node is.
#[derive(Debug, Clone)]
pub(super) struct AboutHandler {
    /// As it is sent.
    about: Arc<[u8]>,
    admission: Arc<Admission>,
}

impl AboutHandler {
    pub(super) fn new(about: &About, admission: Arc<Admission>) -> Self {
        let about = postcard::to_stdvec(about).expect("plain data in memory always encodes");
        Self { about: about.into(), admission }
    }

    async fn tell(&self, connection: &Connection) -> Result<(), AskError> {
        let mut send = connection.open_uni().await.map_err(lost)?;
        send.write_all(&self.about).await.map_err(lost)?;
        send.finish().map_err(lost)?;
        // Whoever closes first may cut off what is under way.
        connection.closed().await;
        Ok(())
    }
}

impl ProtocolHandler for AboutHandler {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        if greeting::greeted(&self.admission, &connection).await.is_none() {
            return Ok(());
        }
        // It asks again, if it wants to.
        if !matches!(timeout(ABOUT_TIMEOUT, self.tell(&connection)).await, Ok(Ok(()))) {
            connection.close(VarInt::from_u32(close_code::GIVEN_UP), b"not heard in time");
        }
        greeting::heed(&connection, self.admission.incarnations());
        Ok(())
    }
}

/// Asks a member what it is.
pub(super) async fn ask(
    endpoint: &Endpoint,
    book: &AddressBook,
    admission: &Admission,
    of: &NodeInfo,
) -> Result<About, AskError> {
    let unreachable = AskError::Unreachable;
    let address = book.dial(of).ok_or_else(|| unreachable("its key is none".to_owned()))?;
    let dialled = timeout(DIAL_TIMEOUT, endpoint.connect(address, ALPN)).await;
    let dialled = dialled.map_err(|_| unreachable(format!("no handshake with {}", of.raft)))?;
    let connection = dialled.map_err(|error| unreachable(error.to_string()))?;
    greeting::greet(&connection, admission).await.map_err(AskError::Refused)?;
    let heard = timeout(ABOUT_TIMEOUT, async {
        let mut recv = connection.accept_uni().await.map_err(lost)?;
        recv.read_to_end(ABOUT_BYTES_MAX).await.map_err(lost)
    });
    let heard = heard.await;
    connection.close(VarInt::from_u32(close_code::DONE), b"");
    Ok(About::read(&heard.map_err(lost)??)?)
}

fn lost(error: impl ToString) -> AskError {
    AskError::Lost(error.to_string())
}
