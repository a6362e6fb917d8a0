//! `AddressBook`: where the peers are, whoever says so.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

use iroh::address_lookup::memory::MemoryLookup;
use iroh::{EndpointAddr, EndpointId, TransportAddr};

use crate::limits::MAX_PEERS;
use crate::types::{EndpointKey, NodeInfo};

/// Who says where a peer is, whoever is kept longest first. Each of them has one word.
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
        if addresses.len() >= MAX_PEERS as usize && !addresses.contains_key(key) {
            // First those of which only a word was heard. Where that is not enough, most are members that have gone, and Raft has
            // the addresses of the others.
            for weak in [AddressSource::Word, AddressSource::Membership] {
                let is_weak = |said: &mut BTreeMap<_, _>| said.keys().next().is_none_or(|best| *best >= weak);
                for (gone, _) in addresses.extract_if(|_, said| is_weak(said)) {
                    if let Ok(id) = EndpointId::from_bytes(&gone.0) {
                        self.lookup.remove_endpoint_info(id);
                    }
                }
                if addresses.len() < MAX_PEERS as usize {
                    break;
                }
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_peers_are_kept_than_may_be_and_members_and_those_of_the_settings_stay() {
        let book = AddressBook::default();
        let address = SocketAddr::from(([10, 0, 0, 1], 1));
        let key = |number: u32| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_le_bytes());
            EndpointKey(key)
        };
        book.learn(&key(0), AddressSource::Settings, address);
        let known = || book.addresses.read().unwrap().len();
        for number in 1..MAX_PEERS {
            book.learn(&key(number), AddressSource::Word, address);
        }
        assert_eq!(known(), MAX_PEERS as usize);
        // One that is known already takes nobody's place.
        book.learn(&key(1), AddressSource::Membership, address);
        assert_eq!(known(), MAX_PEERS as usize);
        book.learn(&key(MAX_PEERS), AddressSource::Word, address);
        let kept = |want: &[u32]| {
            let kept = book.addresses.read().unwrap();
            assert_eq!(kept.len(), want.len());
            assert!(want.iter().all(|number| kept.contains_key(&key(*number))));
        };
        // A member, with all that was said of it.
        kept(&[0, 1, MAX_PEERS]);
        assert_eq!(book.addresses.read().unwrap()[&key(1)].len(), 2);
        // Members of many years.
        for number in 1..MAX_PEERS {
            book.learn(&key(number), AddressSource::Membership, address);
        }
        assert_eq!(known(), MAX_PEERS as usize);
        book.learn(&key(MAX_PEERS + 1), AddressSource::Membership, address);
        kept(&[0, MAX_PEERS + 1]);
    }
}
