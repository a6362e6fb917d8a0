//! Who belongs to a cluster, as that changes.

use openraft::ChangeMembers;

use super::*;

#[tokio::test(start_paused = true)]
async fn learner_takes_the_place_of_a_voter_that_is_gone() {
    let mut cluster = Cluster::founded(3).await;
    cluster.start(4).await;
    cluster.set(1, "before", "v").await.unwrap();
    let leader = cluster.leader(1, &[1, 2, 3]).await;
    cluster.raft(leader).add_learner(NodeId(4), info(4)).await.unwrap();
    cluster.wait(4).state(ServerState::Learner, "a learner").await.unwrap();
    cluster.agree(&[1, 2, 3, 4]).await;
    let gone = cluster.others(&[leader, 4])[0];
    cluster.stop(gone).await;
    cluster.raft(leader).promote_learner(NodeId(4), false).await.unwrap();
    cluster.raft(leader).remove_member(NodeId(gone)).await.unwrap();
    let members = cluster.others(&[]);
    let voters: BTreeSet<NodeId> = ids(&members).into_iter().collect();
    for id in &members {
        cluster.wait(*id).voter_ids(voters.clone(), "the voters").await.unwrap();
    }
    cluster.agree(&members).await;
    // It counts: with another one gone, it is one of the two that are needed.
    let next = cluster.others(&[leader, 4])[0];
    cluster.stop(next).await;
    cluster.set(leader, "after", "v").await.unwrap();
    cluster.agree(&[leader, 4]).await;
}

#[tokio::test(start_paused = true)]
async fn leader_that_is_removed_leaves_the_others_with_all_that_was_written() {
    let cluster = Cluster::founded(3).await;
    let leader = cluster.leader(1, &[1, 2, 3]).await;
    cluster.set(leader, "k", "v").await.unwrap();
    // It hands leadership over first, and leaves the change to its successor.
    let others = cluster.others(&[leader]);
    let handed = cluster.raft(leader).remove_member(NodeId(leader)).await;
    let Err(ApiError::NotLeader { leader: Some(next) }) = handed else { panic!("{handed:?}") };
    cluster.raft(next.id.0).remove_member(NodeId(leader)).await.unwrap();
    let new = cluster.leader(others[0], &others).await;
    cluster.set(new, "l", "v").await.unwrap();
    cluster.agree(&others).await;
    assert_eq!(cluster.held(others[1], "k").await.as_deref(), Some("v"));
}

/// Until a new leader has its first entry, the members of the term before it may not be committed: that was taken for a change that is
/// under way.
#[tokio::test(start_paused = true)]
async fn members_are_changed_by_a_leader_that_was_elected_just_now() {
    // How soon the first entry is committed is left to chance.
    for _ in 0..100 {
        let cluster = Cluster::started(3).await;
        let founders = [1, 2, 3].map(|id| (NodeId(id), info(id)));
        cluster.raft(1).init(founders.into()).await.unwrap();
        let elected = timeout(PATIENCE, async {
            loop {
                match [1, 2, 3].into_iter().find(|id| cluster.raft(*id).metrics().state.is_leader()) {
                    Some(id) => return id,
                    None => sleep(Duration::from_millis(1)).await,
                }
            }
        });
        let leader = elected.await.unwrap();
        cluster.raft(leader).add_learner(NodeId(4), info(4)).await.unwrap();
    }
}

/// A change of the members is an entry like others: it takes a majority of those before and of those after (Raft thesis 4.3).
#[tokio::test(start_paused = true)]
async fn change_of_members_waits_for_a_majority() {
    let mut cluster = Cluster::founded(3).await;
    let leader = cluster.leader(1, &[1, 2, 3]).await;
    cluster.start(4).await;
    cluster.start(5).await;
    for id in [4, 5] {
        cluster.raft(leader).add_learner(NodeId(id), info(id)).await.unwrap();
    }
    cluster.agree(&[1, 2, 3, 4, 5]).await;
    let before = cluster.others(&[leader, 4, 5]);
    cluster.cut(&[leader, 4, 5], &before);
    // Three of the five are there, but only one of the three that vote before.
    let voters: BTreeSet<NodeId> = ids(&[1, 2, 3, 4, 5]).into_iter().collect();
    cluster.alone_for(leader, TIMING.election_min).await;
    let change = cluster.raft(leader).change_membership(voters.clone(), true, true).await;
    assert_eq!(change, Err(ApiError::NoQuorum));
    // Nor is one made that is begun all the same.
    let change = cluster.raft(leader).change(move |turn| async move { turn.make_voters(voters, true).await });
    let change = timeout(Duration::from_secs(1), change).await;
    assert!(change.is_err(), "{change:?}");
    let committed = cluster.raft(leader).metrics().committed_membership_config.voter_ids().count();
    assert_eq!(committed, 3, "nothing was changed by a minority");
    cluster.router.heal();
    cluster.agree(&[1, 2, 3, 4, 5]).await;
}

/// What was decided about members that are others by now is refused, whoever has changed them.
#[tokio::test(start_paused = true)]
async fn change_that_was_meant_for_other_members_is_not_made() {
    let cluster = Cluster::founded(3).await;
    let leader = cluster.raft(cluster.leader(1, &[1, 2, 3]).await);
    let before = leader.membership().unwrap();
    leader.add_learner(NodeId(4), info(4)).await.unwrap();
    let fifth = ChangeMembers::AddNodes([(NodeId(5), info(5))].into());
    let change = |of, fifth| leader.change(move |turn| async move { turn.write(&of, fifth, true).await });
    assert_eq!(change(before, fifth.clone()).await, Err(ApiError::ChangeInProgress));
    assert_eq!(leader.membership().unwrap().nodes().count(), 4);
    change(leader.membership().unwrap(), fifth).await.unwrap();
    assert_eq!(leader.membership().unwrap().nodes().count(), 5);
}
