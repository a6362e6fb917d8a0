//! Leases whose owner is gone.

use super::*;

/// A host that is lost has many: they end together, and none waits for the commits of the others.
#[tokio::test(start_paused = true)]
async fn leases_that_are_over_at_once_end_at_once() {
    const COUNT: usize = 300;
    let cluster = Cluster::founded(3).await;
    let leader = cluster.leader(1, &[1, 2, 3]).await;
    let node = cluster.raft(leader);
    let keeper = node.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { keeper.keep_leases().await });
    let grants = (0..COUNT).map(|_| node.write(Command::GrantLease { ttl_ms: 2_000 }));
    for granted in join_all(grants).await {
        granted.unwrap();
    }
    let there = async || node.leases(Consistency::Linearizable).await.unwrap().leases.len();
    assert_eq!(there().await, COUNT);
    // A commit takes 40 ms from now on: one after the other they would end in twelve seconds.
    cluster.router.set_delay(&ids(&[1, 2, 3]), Duration::from_millis(20));
    let granted = Instant::now();
    while there().await > 0 {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(granted.elapsed() < Duration::from_secs(4), "{:?}", granted.elapsed());
}
