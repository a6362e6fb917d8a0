//! Members that have missed what nobody has in the log any more.

use std::os::unix::fs::FileExt;

use super::*;
use crate::storage::snapshot::is_intact;

/// Cuts a follower off, and writes until what it lacks is purged from every other log; the leader, and the follower.
async fn follower_left_behind(cluster: &Cluster, count: u64, value: &str) -> (u64, u64) {
    let leader = cluster.leader(1, &[1, 2, 3]).await;
    let behind = cluster.others(&[leader])[0];
    cluster.isolate(behind);
    for number in 0..count {
        cluster.set(leader, &format!("k{number}"), value).await.unwrap();
    }
    let has = cluster.raft(behind).raft_state().last_log_index;
    for id in cluster.others(&[behind]) {
        cluster.raft(id).trigger_snapshot().await.unwrap();
        let is_purged = |metrics: &Metrics| metrics.purged.map(|purged| purged.index) > has;
        cluster.wait(id).metrics(is_purged, "a log that begins later").await.unwrap();
    }
    (leader, behind)
}

#[tokio::test(start_paused = true)]
async fn member_that_missed_what_was_purged_is_sent_a_snapshot() {
    let cluster = Cluster::founded(3).await;
    let (_, behind) = follower_left_behind(&cluster, 50, "v").await;
    cluster.router.heal();
    cluster.agree(&[1, 2, 3]).await;
    assert!(cluster.raft(behind).raft_state().snapshot.is_some());
    assert_eq!(cluster.held(behind, "k49").await.as_deref(), Some("v"));
}

#[tokio::test(start_paused = true)]
async fn snapshot_that_was_cut_off_comes_in_the_end() {
    let cluster = Cluster::founded(3).await;
    // A hundred chunks and more, each of which takes a while.
    let (leader, behind) = follower_left_behind(&cluster, 100, &"v".repeat(100_000)).await;
    cluster.router.set_delay(&ids(&[leader, behind]), Duration::from_millis(5));
    let received = || cluster.raft(behind).inner.snapshots.received_bytes();
    for part in 1..=3 {
        cluster.router.heal();
        // The third that comes next.
        let third = timeout(PATIENCE, async {
            while received() < part * 2_000_000 {
                sleep(Duration::from_millis(5)).await;
            }
        });
        third.await.unwrap();
        assert_eq!(cluster.raft(behind).raft_state().snapshot, None, "it was cut off before");
        cluster.isolate(behind);
    }
    cluster.router.heal();
    cluster.agree(&[1, 2, 3]).await;
    assert!(cluster.raft(behind).raft_state().snapshot.is_some());
    assert_eq!(cluster.held(behind, "k99").await.unwrap().len(), 100_000);
}

/// A leader had sent such a file again and again, and the receiver had refused it each time.
#[tokio::test(start_paused = true)]
async fn leader_whose_snapshot_is_damaged_makes_another_and_sends_that() {
    let cluster = Cluster::founded(3).await;
    // More regions than are named ahead, so that it is noticed once some of it is sent.
    let (leader, behind) = follower_left_behind(&cluster, 250, &"v".repeat(100_000)).await;
    let snapshots = &cluster.raft(leader).inner.snapshots;
    let damaged = snapshots.current().unwrap();
    let path = snapshots.path(&damaged);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"!", damaged.seal().bytes - 50_000).unwrap();
    assert!(!is_intact(&path).unwrap());
    cluster.router.heal();
    let has_one = |metrics: &Metrics| metrics.snapshot.is_some();
    cluster.wait(behind).metrics(has_one, "a snapshot").await.unwrap();
    cluster.agree(&[1, 2, 3]).await;
    assert_eq!(cluster.held(behind, "k249").await.unwrap().len(), 100_000);
    assert!(damaged.damage().is_some());
    let present = snapshots.current().unwrap();
    assert!(present.damage().is_none() && is_intact(&snapshots.path(&present)).unwrap());
}

/// What a transfer that broke off at its end had left was installed without a look.
#[tokio::test(start_paused = true)]
async fn follower_whose_own_copy_is_damaged_is_sent_the_snapshot_once_more() {
    let cluster = Cluster::founded(3).await;
    let (leader, behind) = follower_left_behind(&cluster, 100, &"v".repeat(100_000)).await;
    let snapshots = &cluster.raft(behind).inner.snapshots;
    snapshots.adopt(cluster.raft(leader).inner.snapshots.current().unwrap()).unwrap();
    let copy = snapshots.current().unwrap();
    let file = std::fs::File::options().write(true).open(snapshots.path(&copy)).unwrap();
    file.write_all_at(b"!", copy.seal().bytes - 50_000).unwrap();
    cluster.router.heal();
    cluster.agree(&[1, 2, 3]).await;
    assert_eq!(cluster.held(behind, "k99").await.unwrap().len(), 100_000);
    assert!(copy.damage().is_some());
    let present = snapshots.current().unwrap();
    assert!(present.damage().is_none() && is_intact(&snapshots.path(&present)).unwrap());
}

#[tokio::test(start_paused = true)]
async fn empty_learner_begins_with_a_snapshot_and_goes_on_from_it_after_a_restart() {
    let mut cluster = Cluster::founded(3).await;
    let leader = cluster.leader(1, &[1, 2, 3]).await;
    for number in 0..50 {
        cluster.set(leader, &format!("k{number}"), "v").await.unwrap();
    }
    cluster.raft(leader).trigger_snapshot().await.unwrap();
    let is_purged = |metrics: &Metrics| metrics.purged.is_some();
    cluster.wait(leader).metrics(is_purged, "a log that begins later").await.unwrap();
    cluster.start(4).await;
    cluster.raft(leader).add_learner(NodeId(4), info(4)).await.unwrap();
    let has_one = |metrics: &Metrics| metrics.snapshot.is_some();
    cluster.wait(4).metrics(has_one, "a snapshot").await.unwrap();
    cluster.agree(&[1, 2, 3, 4]).await;
    assert!(cluster.raft(4).inner.log.first_index() > 40, "the entries before it have not come");
    cluster.stop(4).await;
    cluster.set(leader, "k50", "v").await.unwrap();
    cluster.start(4).await;
    cluster.agree(&[1, 2, 3, 4]).await;
    for key in ["k0", "k49", "k50"] {
        assert_eq!(cluster.held(4, key).await.as_deref(), Some("v"), "{key}");
    }
}
