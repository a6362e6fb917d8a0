//! `AddressBook`: where the peers are, whoever says so.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

use iroh::address_lookup::memory::MemoryLookup;
use iroh::{EndpointAddr, EndpointId, TransportAddr};

use crate::types::{EndpointKey, NodeInfo};

/// Who says where a peer is. Each of them has one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressSource {
    /// The settings of this node.
    Settings,
    /// The membership.
    Membership,
    /// The peer itself, or whoever let this node in.
    Word,
}

/// UDP addresses of peers, by key. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct AddressBook {
    addresses: Arc<RwLock<HashMap<EndpointKey, BTreeMap<AddressSource, SocketAddr>>>>,
    /// The same, for what dials by the key alone.
    lookup: MemoryLookup,
}

impl AddressBook {
    /// Takes down where somebody says that a peer is. It is dialled there from now on, too.
    pub fn learn(&self, key: &EndpointKey, source: AddressSource, raft: SocketAddr) {
        let mut addresses = self.addresses.write().expect("nothing panics while it holds this lock");
        let said = addresses.entry(*key).or_default();
        if said.insert(source, raft) == Some(raft) {
            return;
        }
        if let Ok(id) = EndpointId::from_bytes(&key.0) {
            let said = said.values().copied().map(TransportAddr::Ip);
            self.lookup.set_endpoint_info(EndpointAddr::from_parts(id, said));
        }
    }

    /// For what dials by the key alone.
    pub(super) fn lookup(&self) -> MemoryLookup {
        self.lookup.clone()
    }

    /// Where to dial a peer: wherever anybody says that it is. Nobody else can answer for it, since it proves its key.
    pub(super) fn dial(&self, peer: &NodeInfo) -> Option<EndpointAddr> {
        let id = EndpointId::from_bytes(&peer.endpoint_id.0).ok()?;
        let addresses = self.addresses.read().expect("nothing panics while it holds this lock");
        let said = addresses.get(&peer.endpoint_id).into_iter().flat_map(BTreeMap::values);
        Some(EndpointAddr::from_parts(id, said.copied().chain([peer.raft]).map(TransportAddr::Ip)))
    }
}
