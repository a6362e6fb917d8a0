//! Who is gossiped with: nobody but those who are let in, whichever side dials. iroh-gossip itself dials everybody of whom it hears.

use std::sync::{Arc, Mutex};

use iroh::EndpointAddr;
use iroh::endpoint::{
    AfterHandshakeOutcome, BeforeConnectOutcome, Connection, EndpointHooks, VarInt, WeakConnectionHandle,
};

use super::{Admission, GOSSIP_ALPN, NO_MEMBER, close_code, remote_key};
use crate::types::EndpointKey;

/// Watches the connections of gossip. Clones share them.
#[derive(Debug, Clone)]
pub struct GossipGate {
    admission: Arc<Admission>,
    open: Arc<Mutex<Vec<(EndpointKey, WeakConnectionHandle)>>>,
}

impl GossipGate {
    pub(super) fn new(admission: Arc<Admission>) -> Self {
        Self { admission, open: Arc::default() }
    }

    /// Ends the connections to those who are not let in any more.
    pub fn close_expelled(&self) {
        let mut open = self.open.lock().expect("nothing panics while it holds this lock");
        open.retain(|(key, handle)| {
            let is_admitted = self.admission.admits(key);
            match handle.upgrade() {
                Some(connection) if !is_admitted => {
                    connection.close(VarInt::from_u32(close_code::REMOVED), NO_MEMBER);
                    false
                }
                connection => connection.is_some(),
            }
        });
    }
}

impl EndpointHooks for GossipGate {
    async fn before_connect<'a>(&'a self, remote: &'a EndpointAddr, alpn: &'a [u8]) -> BeforeConnectOutcome {
        let key = EndpointKey(*remote.id.as_bytes());
        if alpn == GOSSIP_ALPN && !self.admission.admits(&key) {
            return BeforeConnectOutcome::Reject;
        }
        BeforeConnectOutcome::Accept
    }

    async fn after_handshake<'a>(&'a self, connection: &'a Connection) -> AfterHandshakeOutcome {
        if connection.alpn() == GOSSIP_ALPN {
            let mut open = self.open.lock().expect("nothing panics while it holds this lock");
            open.retain(|(_, handle)| handle.upgrade().is_some());
            open.push((remote_key(connection), connection.weak_handle()));
        }
        AfterHandshakeOutcome::accept()
    }
}
