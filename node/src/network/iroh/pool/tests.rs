//! When connections are closed, and when peers are left alone.

use std::net::{Ipv4Addr, SocketAddr};

use super::super::{RaftEndpoint, endpoint_id};
use super::*;
use crate::api::{ApiError, WriteResult};
use crate::network::RaftService;
use crate::network::about::About;
use crate::network::incarnation::Incarnations;
use crate::network::lookups::{Lookups, Reach};
use crate::network::rpc::{Confirmed, KeepLease, ReadIndex, RequestVote, StreamAppended};
use crate::network::snapshot::SnapshotStart;
use crate::types::raft_types::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, TransferLeaderResponse, Vote,
    VoteRequest, VoteResponse,
};
use crate::types::{EncodedCommand, LeaseId, NodeId};

/// A node that takes everything and answers nothing.
struct Silent;

type Never<'a, T> = BoxFuture<'a, T>;

fn never<'a, T: Send + 'a>() -> Never<'a, T> {
    futures::future::pending().boxed()
}

impl RaftService for Silent {
    fn append_stream(
        &self,
        _requests: BoxStream<'static, AppendEntriesRequest>,
    ) -> BoxStream<'static, StreamAppended> {
        Box::pin(futures::stream::pending())
    }

    fn append_entries(
        &self,
        _request: AppendEntriesRequest,
    ) -> Never<'_, Result<AppendEntriesResponse, String>> {
        never()
    }

    fn vote(&self, _request: VoteRequest) -> Never<'_, Result<VoteResponse, String>> {
        never()
    }

    fn pre_vote(&self, _request: VoteRequest) -> Never<'_, Result<VoteResponse, String>> {
        never()
    }

    fn transfer_leader(
        &self,
        _request: TransferLeaderRequest,
    ) -> Never<'_, Result<TransferLeaderResponse, String>> {
        never()
    }

    fn begin_snapshot(&self, _request: InstallSnapshot) -> Result<SnapshotStart, String> {
        Err("it takes none".to_owned())
    }

    fn install_snapshot(
        &self,
        _vote: Vote,
        _snapshot: SnapshotFile,
    ) -> Never<'_, Result<SnapshotResponse, String>> {
        never()
    }

    fn read_index(&self, _request: ReadIndex) -> Never<'_, Result<Confirmed, ApiError>> {
        never()
    }

    fn keep_lease(&self, _request: KeepLease) -> Never<'_, Result<Duration, ApiError>> {
        never()
    }

    fn forwarded(&self, _command: EncodedCommand) -> Never<'_, Result<WriteResult, ApiError>> {
        never()
    }
}

/// The endpoint of a node with this secret, which lets the other one in.
async fn endpoint(secret: u8, other: u8) -> RaftEndpoint {
    let admission = Admission::new([endpoint_id(&[other; 32])], Incarnations::default());
    let reach = Reach { lookups: Lookups::default(), published: None };
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    RaftEndpoint::bind([secret; 32], any, AddressBook::default(), Arc::new(admission), reach).await.unwrap()
}

/// Long enough for a dial, which is a part of the first request.
const WITHIN: Duration = Duration::from_millis(500);

#[tokio::test]
async fn connection_on_which_raft_is_not_answered_is_dropped_and_one_on_which_clients_wait_is_kept() {
    let (own, other) = (endpoint(1, 2).await, endpoint(2, 1).await);
    let _server = other.serve(Arc::new(Silent), &About::default(), None, None);
    let raft = other.endpoint.bound_sockets()[0];
    let info = NodeInfo { endpoint_id: endpoint_id(&[2; 32]), raft, http: raft };
    let peer = Peer { id: NodeId(2), info };
    let pool = own.transport(NetworkMetrics::default()).pool;
    let present = || held(&pool.state).peers.values().next().map(|slot| slot.number);
    let raft = async || {
        let request = VoteRequest::new(Vote::new(1, NodeId(1)), None);
        let asked = pool.rpc(Class::Raft, &peer, RequestVote(request), WITHIN, OnTimeout::Drop).await;
        assert!(matches!(asked, Err(TransportError::Timeout { within_ms: 500, .. })), "{asked:?}");
    };
    let client = async || {
        let request = KeepLease(LeaseId(1));
        let asked = pool.rpc(Class::Raft, &peer, request, WITHIN, OnTimeout::Keep).await;
        assert!(matches!(asked, Err(TransportError::Timeout { within_ms: 500, .. })), "{asked:?}");
    };
    client().await;
    client().await;
    assert_eq!(present(), Some(1), "what a client has asked for may take long");
    raft().await;
    assert_eq!(present(), None, "it was there, and Raft was not answered on it");
    raft().await;
    assert_eq!(present(), Some(2), "it has waited for the dial, and had not all of its time");
    raft().await;
    assert_eq!(present(), None);
}

#[test]
fn connection_is_closed_that_was_not_used_for_long_and_that_nobody_holds() {
    let long_ago = Instant::now() - PEER_UNUSED_MAX;
    let dial = futures::future::ready(Err("a test".to_owned())).boxed().shared();
    let (used, retry_at) = (Arc::new(Mutex::new(long_ago)), Arc::default());
    let slot = Slot { number: 1, class: Class::Raft, dial, used, failures: 0, retry_at };
    assert!(slot.is_idle());
    // A stream of entries is one request, however long it goes on.
    let stream = slot.clone();
    assert!(!slot.is_idle());
    drop(stream);
    *held(&slot.used) = Instant::now();
    assert!(!slot.is_idle());
}

#[test]
fn peer_that_cannot_be_dialled_is_left_alone_longer_and_longer() {
    let [first, most] = DIAL_BACKOFF;
    for (failures, longest) in [(0, first), (1, 2 * first), (2, 4 * first), (40, most)] {
        let pause = pause_after(failures);
        assert!(pause >= longest / 2 && pause <= longest, "{failures}: {pause:?}");
    }
}
