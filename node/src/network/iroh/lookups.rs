//! Relays and lookups of the endpoint: what the settings switch on, and nothing else.
//!
//! A lookup is asked for a peer now and then, not with every dial, and its answer is cut: no relay is used that the settings do not
//! have, and nobody makes the node send to many addresses.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::StreamExt;
use futures::future::ready;
use futures::stream::{BoxStream, once};
use iroh::address_lookup::{
    AddrFilter, AddressLookup, AddressLookupBuilder, AddressLookupBuilderError, DnsAddressLookup,
    EndpointData, EndpointInfo, Error, Item, PkarrPublisher, PkarrResolver,
};
use iroh::dns::{DnsResolver, NameserverConfig};
use iroh::endpoint::Builder;
use iroh::{
    Endpoint, EndpointId, NetReportConfig, RelayConfig, RelayMap, RelayMode, RelayUrl, TransportAddr,
};
use iroh_mdns_address_lookup::MdnsAddressLookup;
use url::Url;

use super::EndpointError;
use crate::limits::{LOOKED_UP_ADDRESSES_MAX, LOOKUP_INTERVAL, PUBLISHED_ADDRESSES_MAX};
use crate::network::lookups::{Lookups, Reach, Relays, ServerUrl};

/// Names our nodes among others that say by multicast DNS where they are: `_aspen._udp.local`.
const MDNS_SERVICE: &str = "aspen";

/// Gives the endpoint with this key its relays and lookups.
pub(super) fn equip(builder: Builder, reach: &Reach, id: EndpointId) -> Result<Builder, EndpointError> {
    let Lookups { relays, mdns, dns, dns_server, pkarr } = &reach.lookups;
    let mode = relay_mode(relays);
    let known = Arc::new(mode.relay_map().urls::<BTreeSet<RelayUrl>>());
    // Whether somebody between this machine and the web wants a password changes nothing.
    let mut net_report = NetReportConfig::default();
    net_report.captive_portal_check = false;
    let mut builder =
        builder.relay_mode(mode).net_report_config(net_report).dns_resolver(resolver(*dns_server));
    if !known.is_empty() {
        builder = builder.address_lookup(SharedRelays(known.clone()));
    }
    if *mdns {
        let lookup = MdnsAddressLookup::builder().service_name(MDNS_SERVICE);
        let lookup = lookup.addr_filter(published(reach.published)).build(id);
        let lookup = lookup.map_err(|error| EndpointError::Mdns { reason: error.to_string() })?;
        builder = builder.address_lookup(Sparing::new(lookup, known.clone()));
    }
    if let Some(origin) = dns {
        let lookup = DnsAddressLookup::builder(origin.absolute());
        builder = builder.address_lookup(Sparingly { lookup, relays: known.clone() });
    }
    if let Some(url) = pkarr {
        let url = without_final_slash(url);
        let lookup = PkarrResolver::builder(url.clone());
        builder = builder.address_lookup(Sparingly { lookup, relays: known });
        builder =
            builder.address_lookup(PkarrPublisher::builder(url).addr_filter(published(reach.published)));
    }
    Ok(builder)
}

fn relay_mode(relays: &Relays) -> RelayMode {
    match relays {
        Relays::Disabled => RelayMode::Disabled,
        Relays::Default => RelayMode::Default,
        Relays::Custom(urls) => {
            let relay = |url: &ServerUrl| {
                let mut relay = RelayConfig::from(RelayUrl::from(url.url().clone()));
                // A relay without a certificate cannot tell by QUIC at which address it sees a node.
                relay.quic = relay.quic.filter(|_| url.url().scheme() == "https");
                relay
            };
            RelayMode::Custom(urls.iter().map(relay).collect::<RelayMap>())
        }
    }
}

/// Asks the machine's name servers, or this one. iroh would ask public ones where they fail.
fn resolver(server: Option<SocketAddr>) -> DnsResolver {
    let builder = DnsResolver::builder().disable_fallback();
    match server {
        Some(server) => {
            builder.add_nameserver_config(NameserverConfig::udp(server.ip()).with_port(server.port())).build()
        }
        None => builder.with_system_defaults().build(),
    }
}

/// A key is added as one more part of the path.
fn without_final_slash(url: &ServerUrl) -> Url {
    let mut url = url.url().clone();
    // Every URL of HTTP has a path.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty();
    }
    url
}

/// What others are told of the addresses that iroh knows of this endpoint.
fn published(address: Option<SocketAddr>) -> AddrFilter {
    AddrFilter::new(move |known| {
        let relays = known.iter().filter(|address| address.is_relay()).cloned();
        let direct = known.iter().filter(|address| !address.is_relay()).cloned();
        let direct: Vec<TransportAddr> = match address {
            Some(address) => vec![TransportAddr::Ip(address)],
            None => direct.take(PUBLISHED_ADDRESSES_MAX).collect(),
        };
        Cow::Owned(relays.chain(direct).collect())
    })
}

/// Says that any peer may be at any relay that this node knows: those of a cluster have the same.
#[derive(Debug)]
struct SharedRelays(Arc<BTreeSet<RelayUrl>>);

impl AddressLookup for SharedRelays {
    fn resolve(&self, id: EndpointId) -> Option<BoxStream<'static, Result<Item, Error>>> {
        let relays = self.0.iter().cloned().map(TransportAddr::Relay).collect();
        let info = EndpointInfo::from_parts(id, EndpointData::new(relays));
        Some(once(ready(Ok(Item::new(info, "relays", None)))).boxed())
    }
}

/// A lookup that needs the endpoint, to become a [`Sparing`] one.
#[derive(Debug)]
struct Sparingly<B> {
    lookup: B,
    relays: Arc<BTreeSet<RelayUrl>>,
}

impl<B: AddressLookupBuilder> AddressLookupBuilder for Sparingly<B> {
    fn into_address_lookup(
        self,
        endpoint: &Endpoint,
    ) -> Result<impl AddressLookup, AddressLookupBuilderError> {
        Ok(Sparing::new(self.lookup.into_address_lookup(endpoint)?, self.relays))
    }
}

/// A lookup that is not asked often, and not believed everything.
#[derive(Debug)]
struct Sparing<L> {
    lookup: L,
    relays: Arc<BTreeSet<RelayUrl>>,
    /// When it was last asked, where that was not long ago.
    asked: Mutex<HashMap<EndpointId, Instant>>,
}

impl<L> Sparing<L> {
    fn new(lookup: L, relays: Arc<BTreeSet<RelayUrl>>) -> Self {
        Self { lookup, relays, asked: Mutex::default() }
    }

    /// Whether it is time to ask for this peer. iroh keeps what was found for as long as the peer is dialled.
    fn is_due(&self, id: EndpointId) -> bool {
        let mut asked = self.asked.lock().expect("nothing panics while it holds this lock");
        asked.retain(|_, last| last.elapsed() < LOOKUP_INTERVAL);
        if asked.contains_key(&id) {
            return false;
        }
        asked.insert(id, Instant::now());
        true
    }
}

/// What of an answer is used.
fn cut(item: &Item, relays: &BTreeSet<RelayUrl>) -> Item {
    let is_used = |address: &&TransportAddr| match address {
        TransportAddr::Relay(url) => relays.contains(url),
        _ => true,
    };
    let addresses = item.addrs().filter(is_used).take(LOOKED_UP_ADDRESSES_MAX).cloned().collect();
    let info = EndpointInfo::from_parts(item.endpoint_id(), EndpointData::new(addresses));
    Item::new(info, item.provenance(), item.last_updated())
}

impl<L: AddressLookup> AddressLookup for Sparing<L> {
    fn publish(&self, data: &EndpointData) {
        self.lookup.publish(data);
    }

    fn resolve(&self, id: EndpointId) -> Option<BoxStream<'static, Result<Item, Error>>> {
        if !self.is_due(id) {
            return None;
        }
        let relays = self.relays.clone();
        let found = self.lookup.resolve(id)?;
        Some(found.map(move |item| item.map(|item| cut(&item, &relays))).boxed())
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;
    use crate::network::AddressBook;
    use crate::network::incarnation::Incarnations;
    use crate::network::iroh::{Admission, RaftEndpoint};

    fn id() -> EndpointId {
        SecretKey::from_bytes(&[1; 32]).public()
    }

    fn relay(name: &str) -> RelayUrl {
        format!("http://{name}").parse().unwrap()
    }

    fn direct(host: u8) -> TransportAddr {
        TransportAddr::Ip(([10, 0, 0, host], 4001).into())
    }

    async fn bind(lookups: Lookups) -> Endpoint {
        let reach = Reach { lookups, published: None };
        let (any, admission) =
            (([127, 0, 0, 1], 0).into(), Arc::new(Admission::new([], Incarnations::default())));
        RaftEndpoint::bind([1; 32], any, AddressBook::default(), admission, reach).await.unwrap().endpoint
    }

    #[tokio::test]
    async fn endpoint_has_what_is_switched_on_and_nothing_else() {
        let closed = bind(Lookups::default()).await;
        assert_eq!(closed.address_lookup().unwrap().len(), 1, "its own book");
        assert_eq!(relay_mode(&Relays::Disabled), RelayMode::Disabled);
        let nowhere: ServerUrl = "http://127.0.0.1:9".parse().unwrap();
        let dns = Lookups { dns: Some("nodes.test".parse().unwrap()), ..Lookups::default() };
        assert_eq!(bind(dns).await.address_lookup().unwrap().len(), 2);
        let pkarr = Lookups { pkarr: Some(nowhere.clone()), ..Lookups::default() };
        assert_eq!(bind(pkarr).await.address_lookup().unwrap().len(), 3);
        let relays = Lookups { relays: Relays::Custom(vec![nowhere]), ..Lookups::default() };
        assert_eq!(bind(relays).await.address_lookup().unwrap().len(), 2);
    }

    #[test]
    fn public_relays_are_used_only_where_the_settings_say_so() {
        let count = |relays: Relays| relay_mode(&relays).relay_map().len();
        assert_eq!(count(Relays::Disabled), 0);
        assert_eq!(count(Relays::Custom(vec!["https://relay.test".parse().unwrap()])), 1);
        assert!((1..=crate::limits::RELAYS_MAX as usize).contains(&count(Relays::Default)));
    }

    #[test]
    fn answer_of_a_lookup_names_no_relay_of_its_own_and_not_many_addresses() {
        let known = [relay("ours")].into();
        let relays = ["ours", "theirs"].map(|name| TransportAddr::Relay(relay(name)));
        let addresses = relays.into_iter().chain((1..=100).map(direct)).collect();
        let info = EndpointInfo::from_parts(id(), EndpointData::new(addresses));
        let used = cut(&Item::new(info, "test", None), &known);
        assert_eq!(used.addrs().count(), LOOKED_UP_ADDRESSES_MAX);
        assert_eq!(used.relay_urls().collect::<Vec<_>>(), [&relay("ours")]);
    }

    #[test]
    fn peer_is_not_looked_up_with_every_dial() {
        let sparing = Sparing::new((), Arc::default());
        assert!(sparing.is_due(id()));
        assert!(!sparing.is_due(id()));
        assert!(sparing.is_due(SecretKey::from_bytes(&[2; 32]).public()));
    }

    #[test]
    fn address_that_is_said_to_reach_the_node_is_the_only_one_that_is_published() {
        let home = TransportAddr::Relay(relay("home"));
        let known: Vec<TransportAddr> = (1..=100).map(direct).chain([home.clone()]).collect();
        let said = ([192, 0, 2, 1], 4001).into();
        let told = published(Some(said)).apply(&known).into_owned();
        assert_eq!(told, [home.clone(), TransportAddr::Ip(said)]);
        let told = published(None).apply(&known).into_owned();
        assert_eq!((told.len(), &told[0]), (1 + PUBLISHED_ADDRESSES_MAX, &home));
    }
}
