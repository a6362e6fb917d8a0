//! What goes on, and what does not, where the cluster is in parts.

use super::*;
use crate::limits::OPERATIONS_IN_FLIGHT_MAX;
use crate::network::{Peer, TransportError};

#[tokio::test(start_paused = true)]
async fn minority_writes_nothing_and_the_majority_goes_on() {
    let cluster = Cluster::founded(5).await;
    let old = cluster.leader(1, &[1, 2, 3, 4, 5]).await;
    let other = cluster.others(&[old])[0];
    let majority = cluster.others(&[old, other]);
    cluster.cut(&[old, other], &majority);
    let new = cluster.leader(majority[0], &majority).await;
    let (lost, kept) = tokio::join!(cluster.set(other, "lost", "v"), cluster.set(new, "kept", "v"));
    kept.unwrap();
    assert!(lost.is_err(), "{lost:?}");
    cluster.router.heal();
    cluster.agree(&[1, 2, 3, 4, 5]).await;
    assert_eq!(cluster.held(old, "kept").await.as_deref(), Some("v"));
    assert_eq!(cluster.held(new, "lost").await, None);
}

#[tokio::test(start_paused = true)]
async fn nobody_writes_where_no_part_is_a_majority() {
    let cluster = Cluster::founded(4).await;
    let leader = cluster.leader(1, &[1, 2, 3, 4]).await;
    let with = cluster.others(&[leader])[0];
    let others = cluster.others(&[leader, with]);
    cluster.cut(&[leader, with], &others);
    let (one, other) = tokio::join!(cluster.set(leader, "a", "v"), cluster.set(others[0], "b", "v"));
    assert!(one.is_err() && other.is_err(), "{one:?}, {other:?}");
    for id in others.iter().copied() {
        assert_ne!(cluster.raft(id).metrics().state, ServerState::Leader, "node {id}");
    }
    cluster.router.heal();
    cluster.agree(&[1, 2, 3, 4]).await;
    assert_eq!(cluster.held(leader, "b").await, None);
}

/// As many wait as may, and whoever comes then is told to come again.
#[tokio::test(start_paused = true)]
async fn operations_beyond_the_bound_are_refused_at_once() {
    let cluster = Cluster::founded(3).await;
    let leader = cluster.leader(1, &[1, 2, 3]).await;
    cluster.isolate(leader);
    let waiting = join_all((0..OPERATIONS_IN_FLIGHT_MAX).map(|_| cluster.set(leader, "k", "v")));
    let began = Instant::now();
    let late = async {
        // All others are counted in by then.
        tokio::task::yield_now().await;
        let refused = cluster.set(leader, "k", "late").await;
        (refused, began.elapsed())
    };
    let (waited, (refused, took)) = tokio::join!(waiting, late);
    assert!(
        matches!(refused, Err(ApiError::TooManyOperations { limit }) if limit == OPERATIONS_IN_FLIGHT_MAX),
        "{refused:?}"
    );
    assert_eq!(took, Duration::ZERO);
    assert!(waited.iter().all(|waited| !matches!(waited, Ok(_) | Err(ApiError::TooManyOperations { .. }))));
    cluster.router.heal();
    cluster.agree(&[1, 2, 3]).await;
    cluster.set(leader, "k", "again").await.unwrap();
}

/// Two groups that reach each other by way of one member only.
#[tokio::test(start_paused = true)]
async fn cluster_with_a_bridge_has_one_leader_that_writes() {
    let cluster = Cluster::founded(5).await;
    let leader = cluster.leader(1, &[1, 2, 3, 4, 5]).await;
    let [with, bridge, third, fourth] = cluster.others(&[leader])[..] else { panic!("there are five") };
    cluster.cut(&[leader, with], &[third, fourth]);
    // It has three of five: itself, its neighbour and the bridge.
    let term = cluster.raft(leader).raft_state().term;
    for number in 0..20 {
        cluster.set(bridge, &format!("k{number}"), "v").await.unwrap();
        sleep(TIMING.heartbeat).await;
    }
    assert_eq!(cluster.leader(bridge, &[1, 2, 3, 4, 5]).await, leader);
    assert_eq!(cluster.raft(leader).raft_state().term, term, "the others could not win");
    cluster.router.heal();
    cluster.agree(&[1, 2, 3, 4, 5]).await;
}

/// Again and again another member is cut off, while all are written to.
#[tokio::test(start_paused = true)]
async fn what_is_acknowledged_outlives_every_partition() {
    let cluster = Cluster::founded(3).await;
    let mut acknowledged = Vec::new();
    for round in 0..6 {
        let alone = 1 + round % 3;
        cluster.isolate(alone);
        let others = cluster.others(&[alone]);
        for number in 0..5 {
            let key = format!("{round}/{number}");
            let leader = cluster.leader(others[0], &others).await;
            if cluster.set(leader, &key, "v").await.is_ok() {
                acknowledged.push(key);
            }
        }
        cluster.router.heal();
    }
    assert!(acknowledged.len() >= 20, "{acknowledged:?}");
    cluster.agree(&[1, 2, 3]).await;
    for key in acknowledged {
        for id in 1..=3 {
            assert_eq!(cluster.held(id, &key).await.as_deref(), Some("v"), "{key} on node {id}");
        }
    }
}

/// What was sent over a link that is cut, and given up, does not come when that is whole again.
#[tokio::test(start_paused = true)]
async fn message_that_was_given_up_over_a_cut_link_never_comes() {
    let cluster = Cluster::founded(3).await;
    let leader = cluster.leader(1, &[1, 2, 3]).await;
    cluster.agree(&[1, 2, 3]).await;
    let from = cluster.others(&[leader])[0];
    let to = Peer { id: NodeId(leader), info: info(leader) };
    let transport = cluster.router.transport(NodeId(from));
    let command =
        |key: &str| EncodedCommand::from(&Command::Set { key: Key::from(key), value: Value::from("v") });
    let within = TIMING.heartbeat;
    transport.forward(&to, command("sent"), within).await.unwrap().unwrap();
    cluster.cut(&[from], &[leader]);
    let given_up = transport.forward(&to, command("given up"), within).await;
    assert!(matches!(given_up, Err(TransportError::Timeout { .. })), "{given_up:?}");
    cluster.router.heal();
    sleep(TIMING.election_max).await;
    assert_eq!(cluster.held(leader, "sent").await.as_deref(), Some("v"));
    assert_eq!(cluster.held(leader, "given up").await, None);
}
