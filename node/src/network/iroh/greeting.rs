//! What members say to each other before anything else on a connection: which start of theirs this is. Who was put back to an
//! earlier state is told so, and nothing that it sends is read.

use iroh::endpoint::{Connection, ConnectionError, VarInt};
use tokio::time::timeout;

use super::{Admission, admitted, close_code, remote_key};
use crate::limits::{GREETING_BYTES_MAX, GREETING_TIMEOUT};
use crate::network::incarnation::{Incarnation, Incarnations, Start};
use crate::network::refusals::Refusal;
use crate::types::EndpointKey;

/// A member at the other end that has greeted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guest {
    /// Its key.
    pub(super) key: EndpointKey,
    /// Its present start.
    pub(super) start: Start,
}

/// Greets the member that was dialled; its present start.
///
/// # Errors
/// Why it is not to be spoken to.
pub(super) async fn greet(connection: &Connection, admission: &Admission) -> Result<Start, String> {
    let greeted = timeout(GREETING_TIMEOUT, async {
        let (mut send, mut recv) = connection.open_bi().await.map_err(text)?;
        send.write_all(&written(admission.incarnations())).await.map_err(text)?;
        send.finish().map_err(text)?;
        read(&recv.read_to_end(GREETING_BYTES_MAX).await.map_err(text)?)
    });
    let reason = match greeted.await {
        Ok(Ok(other)) if meet(connection, admission, &other) => return Ok(other.present),
        Ok(Ok(_)) => "it does not remember what was seen of it".to_owned(),
        Ok(Err(reason)) => reason,
        Err(elapsed) => text(elapsed),
    };
    heed(connection, admission.incarnations());
    let is_refused = closed_with(connection) == Some(VarInt::from_u32(close_code::NOT_A_MEMBER));
    Err(if is_refused { "it does not take this node for a member".to_owned() } else { reason })
}

/// The member that has dialled, once it has greeted; otherwise the connection is closed.
pub(super) async fn greeted(admission: &Admission, connection: &Connection) -> Option<Guest> {
    let key = admitted(admission, connection)?;
    let heard = timeout(GREETING_TIMEOUT, async {
        let (mut send, mut recv) = connection.accept_bi().await.map_err(text)?;
        let other = read(&recv.read_to_end(GREETING_BYTES_MAX).await.map_err(text)?)?;
        if !meet(connection, admission, &other) {
            return Ok(None);
        }
        send.write_all(&written(admission.incarnations())).await.map_err(text)?;
        send.finish().map_err(text)?;
        Ok::<_, String>(Some(Guest { key, start: other.present }))
    });
    let Ok(Ok(guest)) = heard.await else {
        heed(connection, admission.incarnations());
        // It dials again, if it wants to.
        connection.close(VarInt::from_u32(close_code::GIVEN_UP), b"no greeting");
        return None;
    };
    guest
}

/// Looks at why a connection has ended: the other may have said that this node was put back.
pub(super) fn heed(connection: &Connection, incarnations: &Incarnations) {
    let Some(ConnectionError::ApplicationClosed(close)) = connection.close_reason() else { return };
    if close.error_code == VarInt::from_u32(close_code::PUT_BACK)
        && let Ok(seen) = postcard::from_bytes(&close.reason)
    {
        incarnations.note_denounced(remote_key(connection), seen);
    }
}

/// The code with which the other has closed a connection.
fn closed_with(connection: &Connection) -> Option<VarInt> {
    match connection.close_reason() {
        Some(ConnectionError::ApplicationClosed(close)) => Some(close.error_code),
        _ => None,
    }
}

/// Whether the other is who it was; otherwise it is told what was seen of it.
fn meet(connection: &Connection, admission: &Admission, other: &Incarnation) -> bool {
    let key = remote_key(connection);
    let Err(seen) = admission.incarnations().meet(&key, other) else { return true };
    admission.refusals().note(Refusal::PutBack, key);
    let seen = postcard::to_stdvec(&seen).expect("plain data in memory always encodes");
    connection.close(VarInt::from_u32(close_code::PUT_BACK), &seen);
    false
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
