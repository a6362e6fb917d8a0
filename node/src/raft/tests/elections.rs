//! Who leads, and who does not.

use super::*;

#[tokio::test(start_paused = true)]
async fn leader_that_is_cut_off_is_replaced_and_follows_once_it_is_back() {
    let cluster = Cluster::founded(3).await;
    let old = cluster.leader(1, &[1, 2, 3]).await;
    let term = cluster.raft(old).raft_state().term;
    cluster.isolate(old);
    let others = cluster.others(&[old]);
    let new = cluster.leader(others[0], &others).await;
    assert!(cluster.raft(new).raft_state().term > term);
    cluster.router.heal();
    assert_eq!(cluster.leader(old, &others).await, new);
    cluster.wait(old).state(ServerState::Follower, "a follower").await.unwrap();
    cluster.agree(&[1, 2, 3]).await;
}

/// Raft thesis 3.6.1: a candidate whose log is behind gets no vote.
#[tokio::test(start_paused = true)]
async fn member_without_the_latest_entries_does_not_lead() {
    let cluster = Cluster::founded(3).await;
    let leader = cluster.leader(1, &[1, 2, 3]).await;
    let [behind, ahead] = cluster.others(&[leader])[..] else { panic!("there are three") };
    cluster.isolate(behind);
    let written = cluster.set(leader, "k", "v").await.unwrap();
    cluster.wait(ahead).log_index_at_least(Some(written.revision.0), "the entry").await.unwrap();
    // The two that are left are a majority, and one of them would lose what was acknowledged.
    cluster.isolate(leader);
    for (from, to) in [(behind, ahead), (ahead, behind)] {
        cluster.router.set_link(NodeId(from), NodeId(to), MemoryLink::default());
    }
    assert_eq!(cluster.leader(behind, &[behind, ahead]).await, ahead);
    cluster.agree(&[behind, ahead]).await;
    assert_eq!(cluster.held(behind, "k").await.as_deref(), Some("v"));
}

/// Raft thesis 9.6: who cannot win disturbs nobody once it is back.
#[tokio::test(start_paused = true)]
async fn member_that_hears_nobody_raises_no_term() {
    let cluster = Cluster::founded(3).await;
    let leader = cluster.leader(1, &[1, 2, 3]).await;
    let alone = cluster.others(&[leader])[0];
    let term = cluster.raft(leader).raft_state().term;
    cluster.isolate(alone);
    // It has wanted to lead several times, and has asked whether it might.
    cluster.alone_for(alone, 3 * TIMING.election_max).await;
    assert_eq!(cluster.raft(alone).raft_state().term, term);
    cluster.router.heal();
    cluster.agree(&[1, 2, 3]).await;
    let state = cluster.raft(alone).raft_state();
    assert_eq!((state.term, state.leader), (term, Some(NodeId(leader))));
}

/// Raft thesis 3.10.
#[tokio::test(start_paused = true)]
async fn leadership_goes_to_whom_it_is_handed() {
    let cluster = Cluster::founded(3).await;
    for _ in 0..3 {
        let leader = cluster.leader(1, &[1, 2, 3]).await;
        let next = leader % 3 + 1;
        cluster.set(leader, "k", &next.to_string()).await.unwrap();
        ClusterController::transfer_leader(cluster.raft(leader), NodeId(next)).await.unwrap();
        for id in 1..=3 {
            cluster.leader(id, &[next]).await;
        }
    }
    cluster.agree(&[1, 2, 3]).await;
}

#[tokio::test(start_paused = true)]
async fn cluster_that_was_stopped_goes_on_where_it_was() {
    let mut cluster = Cluster::founded(3).await;
    cluster.set(2, "k", "v").await.unwrap();
    let term = cluster.raft(1).raft_state().term;
    let before = cluster.agree(&[1, 2, 3]).await.index;
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    // Two of three are enough, and the third comes later.
    cluster.start(1).await;
    cluster.start(2).await;
    let leader = cluster.leader(1, &[1, 2]).await;
    cluster.set(leader, "l", "v").await.unwrap();
    cluster.start(3).await;
    let after = cluster.agree(&[1, 2, 3]).await.index;
    assert!(after > before && cluster.raft(1).raft_state().term > term);
    assert_eq!(cluster.held(3, "k").await.as_deref(), Some("v"));
}
