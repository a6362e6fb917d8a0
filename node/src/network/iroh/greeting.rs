//! What members say to each other before anything else on a connection: which start of theirs this is. Who was put back to an
//! earlier state is told so, and nothing that it sends is read.

use iroh::endpoint::{Connection, ConnectionError, VarInt};
use tokio::time::timeout;

use super::{Admission, admitted, close_code, remote_key};
use crate::limits::{GREETING_BYTES_MAX, GREETING_TIMEOUT};
use crate::network::incarnation::{Incarnation, Incarnations};
use crate::types::EndpointKey;

/// What a node is told that was put back.
const PUT_BACK: &[u8] = b"this node has forgotten a start of it that others have seen";

/// Greets the member that was dialled.
///
/// # Errors
/// Why it is not to be spoken to.
pub(super) async fn greet(connection: &Connection, incarnations: &Incarnations) -> Result<(), String> {
    let greeted = timeout(GREETING_TIMEOUT, async {
        let (mut send, mut recv) = connection.open_bi().await.map_err(text)?;
        send.write_all(&written(incarnations)).await.map_err(text)?;
        send.finish().map_err(text)?;
        read(&recv.read_to_end(GREETING_BYTES_MAX).await.map_err(text)?)
    });
    let other = match greeted.await {
        Ok(Ok(other)) => other,
        Ok(Err(reason)) => {
            heed(connection, incarnations);
            return Err(reason);
        }
        Err(elapsed) => return Err(text(elapsed)),
    };
    if meet(connection, incarnations, other) {
        Ok(())
    } else {
        Err("it was put back to an earlier state".to_owned())
    }
}

/// The key of the member that has dialled, once it has greeted; otherwise the connection is closed.
pub(super) async fn greeted(admission: &Admission, connection: &Connection) -> Option<EndpointKey> {
    let key = admitted(admission, connection)?;
    let incarnations = admission.incarnations();
    let heard = timeout(GREETING_TIMEOUT, async {
        let (mut send, mut recv) = connection.accept_bi().await.map_err(text)?;
        let other = read(&recv.read_to_end(GREETING_BYTES_MAX).await.map_err(text)?)?;
        if !meet(connection, incarnations, other) {
            return Ok(false);
        }
        send.write_all(&written(incarnations)).await.map_err(text)?;
        send.finish().map_err(text)?;
        Ok::<_, String>(true)
    });
    let Ok(Ok(is_welcome)) = heard.await else {
        // It dials again, if it wants to.
        connection.close(VarInt::from_u32(close_code::GIVEN_UP), b"no greeting");
        return None;
    };
    is_welcome.then_some(key)
}

/// Looks at why a connection has ended: the other may have said that this node was put back.
pub(super) fn heed(connection: &Connection, incarnations: &Incarnations) {
    if let Some(ConnectionError::ApplicationClosed(close)) = connection.close_reason()
        && close.error_code == VarInt::from_u32(close_code::PUT_BACK)
    {
        incarnations.note_denounced(remote_key(connection));
    }
}

/// Whether the other is who it was; otherwise it is told.
fn meet(connection: &Connection, incarnations: &Incarnations, other: Incarnation) -> bool {
    let key = remote_key(connection);
    let is_known = incarnations.meet(&key, other);
    if !is_known {
        tracing::warn!(endpoint_id = %key, "refused a member that was put back to an earlier state");
        connection.close(VarInt::from_u32(close_code::PUT_BACK), PUT_BACK);
    }
    is_known
}

fn written(incarnations: &Incarnations) -> Vec<u8> {
    postcard::to_stdvec(&incarnations.own()).expect("plain data in memory always encodes")
}

fn read(bytes: &[u8]) -> Result<Incarnation, String> {
    postcard::from_bytes(bytes).map_err(|_| "its greeting cannot be read".to_owned())
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
