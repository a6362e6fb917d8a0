use futures::StreamExt;

use super::*;
use crate::api::WatchEvent;
use crate::types::{EndpointKey, Value};

const OWN: NodeId = NodeId(1);

fn info(id: u8) -> NodeInfo {
    let address = ([10, 0, 0, id], 4001).into();
    NodeInfo { endpoint_id: EndpointKey([id; 32]), raft: address, http: address }
}

/// A cluster of one.
async fn alone() -> (DeterministicClusterController, DeterministicKeyValueStore) {
    let (cluster, store) = deterministic(OWN, info(1), 1 << 20);
    cluster.init(BTreeMap::from([(OWN, info(1))])).await.unwrap();
    (cluster, store)
}

fn set(key: &str, value: &str) -> Command {
    Command::Set { key: Key::from(key), value: Value::from(value) }
}

fn read(key: &str) -> ReadRequest {
    ReadRequest { vault: None, key: Key::from(key), consistency: Consistency::Linearizable }
}

#[tokio::test]
async fn nothing_is_answered_before_there_is_a_cluster() {
    let (cluster, store) = deterministic(OWN, info(1), 1 << 20);
    assert_eq!(store.write(set("k", "v")).await, Err(ApiError::NotLeader { leader: None }));
    assert!(!cluster.status().is_initialized && cluster.status().leader.is_none());
    let others = BTreeMap::from([(NodeId(2), info(2))]);
    assert_eq!(cluster.init(others).await, Err(BadRequest::NotAMember(OWN).into()));
    let both = BTreeMap::from([(OWN, info(1)), (NodeId(2), info(2))]);
    cluster.init(both.clone()).await.unwrap();
    assert_eq!(cluster.init(both).await, Err(ApiError::AlreadyInitialized));
    assert_eq!(cluster.status().members.len(), 2);
    store.write(set("k", "v")).await.unwrap();
}

/// Twice, from the beginning: the same requests get the same answers.
#[tokio::test]
async fn what_was_written_is_read_and_told_and_always_the_same() {
    let mut answers = Vec::new();
    for _ in 0..2 {
        let (_, store) = alone().await;
        let request = WatchRequest {
            interest: crate::types::Interest { vault: None, range: KeyRange::default() },
            from: None,
            with_previous: true,
            consistency: Consistency::Linearizable,
            ends: false,
        };
        let mut told = store.watch(request).await.unwrap();
        let written = store.write(set("k", "v")).await.unwrap();
        let deleted = store.delete(Key::from("k")).await.unwrap();
        assert!(store.read(read("k")).await.unwrap().record.is_none());
        let begun = told.next().await.unwrap();
        assert_eq!(begun, Ok(WatchEvent::Begun { revision: Revision(1) }));
        let events = [told.next().await.unwrap().unwrap(), told.next().await.unwrap().unwrap()];
        let at = |event: &WatchEvent| match event {
            WatchEvent::Changed(revised) => revised.revision,
            other => panic!("{other:?}"),
        };
        assert_eq!(events.each_ref().map(at), [written.revision, deleted.revision]);
        store.end_watches();
        assert!(told.next().await.unwrap().is_err());
        answers.push((written, deleted, events));
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn requests_are_checked_as_on_any_node() {
    let (_, store) = alone().await;
    let large = Key(vec![b'k'; crate::limits::KEY_BYTES_MAX as usize + 1]);
    let refused = store.write(Command::Delete { key: large.clone() }).await.unwrap_err();
    assert!(matches!(refused, ApiError::BadRequest(BadRequest::KeyTooLarge(_))), "{refused}");
    let refused = store.read(ReadRequest { key: large, ..read("k") }).await.unwrap_err();
    assert!(matches!(refused, ApiError::BadRequest(BadRequest::KeyTooLarge(_))), "{refused}");
    let lease = LeaseId(7);
    assert_eq!(store.keep_lease(lease).await, Err(ApiError::LeaseNotFound { lease }));
}

#[tokio::test]
async fn members_come_and_go_and_what_there_is_not_is_said() {
    let (cluster, _) = alone().await;
    let other = NodeId(2);
    cluster.add_learner(other, info(2)).await.unwrap();
    assert_eq!(cluster.add_learner(other, info(3)).await, Err(ApiError::MemberExists { id: other }));
    assert_eq!(cluster.transfer_leader(other).await, Err(BadRequest::NotAVoter(other).into()));
    cluster.promote_learner(other, false).await.unwrap();
    assert_eq!(cluster.transfer_leader(other).await, Err(ApiError::Unsupported));
    assert_eq!(cluster.remove_member(OWN).await, Err(ApiError::Unsupported));
    cluster.remove_member(other).await.unwrap();
    assert_eq!(cluster.status().members.len(), 1);
    assert_eq!(cluster.trigger_snapshot().await.unwrap_err(), ApiError::Unsupported);
    assert_eq!(cluster.get_metrics().unwrap_err(), ApiError::Unsupported);
    assert!(cluster.copy_state(Consistency::Stale).await.is_err());
}

/// An answer holds so many bytes: what does not fit is on the next page, and not forgotten.
#[tokio::test]
async fn scan_of_more_than_an_answer_holds_goes_on() {
    let (_, store) = alone().await;
    let value = "v".repeat(1 << 20);
    for number in 0..10 {
        store.write(set(&number.to_string(), &value)).await.unwrap();
    }
    let (mut found, mut pages, mut after) = (Vec::new(), 0, None);
    loop {
        let request = ScanRequest {
            vault: None,
            range: KeyRange::default(),
            limit: 1_000,
            after: after.take(),
            consistency: Consistency::Linearizable,
            detail: ScanDetail::default(),
        };
        let page = store.scan(request).await.unwrap();
        pages += 1;
        found.extend(page.entries.iter().map(|(key, _)| key.clone()));
        if !page.is_truncated {
            break;
        }
        after = page.entries.last().map(|(key, _)| key.clone());
    }
    let want: Vec<Key> = (0..10).map(|number: u8| Key::from(&*number.to_string())).collect();
    assert_eq!(found, want);
    assert!(pages > 1);
}
