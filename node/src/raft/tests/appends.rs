//! What is appended, in which order, and what gives way to it.

use openraft::EntryPayload;
use openraft::vote::RaftLeaderIdExt;

use super::*;
use crate::types::raft_types::{Entry, LogId};

type LeaderId = openraft::type_config::alias::LeaderIdOf<TypeConfig>;

#[tokio::test(start_paused = true)]
async fn entries_are_appended_in_the_same_order_everywhere() {
    let cluster = Cluster::founded(3).await;
    let mut last = 0;
    for number in 0..20 {
        let by = 1 + number % 3;
        let written = cluster.set(by, &format!("one/{number}"), "v").await.unwrap();
        assert!(written.revision.0 > last, "{number}");
        last = written.revision.0;
    }
    let keys: Vec<String> = (0..100).map(|number| format!("all/{number}")).collect();
    let writes = (0..).zip(&keys).map(|(number, key)| cluster.set(1 + number % 3, key, "v"));
    let revisions: BTreeSet<u64> =
        join_all(writes).await.into_iter().map(|written| written.unwrap().revision.0).collect();
    assert_eq!(revisions.len(), keys.len(), "each has an entry of its own");
    cluster.agree(&[1, 2, 3]).await;
}

#[tokio::test(start_paused = true)]
async fn entries_travel_over_slow_links() {
    let cluster = Cluster::founded(3).await;
    cluster.router.set_delay(&ids(&[1, 2, 3]), Duration::from_millis(15));
    let keys: Vec<String> = (0..50).map(|number| format!("slow/{number}")).collect();
    for written in join_all(keys.iter().map(|key| cluster.set(1, key, "v"))).await {
        written.unwrap();
    }
    cluster.agree(&[1, 2, 3]).await;
}

/// Raft thesis 3.5: a leader that comes back finds that others have led since.
#[tokio::test(start_paused = true)]
async fn entries_that_reached_no_majority_give_way() {
    let cluster = Arc::new(Cluster::founded(3).await);
    let old = cluster.leader(1, &[1, 2, 3]).await;
    // A leader that nobody has confirmed yet appends nothing.
    let before = Some(cluster.set(old, "before", "v").await.unwrap().revision.0);
    cluster.isolate(old);
    let mut doomed = JoinSet::new();
    for _ in 0..5 {
        let cluster = cluster.clone();
        doomed.spawn(async move { cluster.set(old, "lost", "v").await });
    }
    cluster
        .wait(old)
        .log_index_at_least(before.map(|index| index + 1), "entries of the old leader")
        .await
        .unwrap();
    let others = cluster.others(&[old]);
    let new = cluster.leader(others[0], &others).await;
    cluster.set(new, "kept", "v").await.unwrap();
    cluster.router.heal();
    cluster.leader(old, &others).await;
    cluster.agree(&[1, 2, 3]).await;
    assert_eq!(cluster.held(old, "kept").await.as_deref(), Some("v"));
    assert_eq!(cluster.held(old, "lost").await, None);
    // Nobody was told that they were written, or that they were not.
    for written in doomed.join_all().await {
        assert!(matches!(written, Err(ApiError::LeaderLost | ApiError::Timeout { .. })), "{written:?}");
    }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new_committed(term, NodeId(2)), index)
}

fn entry(term: u64, index: u64, key: &str) -> Entry {
    let command = Command::Set { key: Key::from(key), value: Value::from("v") };
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal((&command).into()) }
}

/// Raft thesis 3.5, figure 3.1: the rules of AppendEntries, one by one, on a node that has heard of nobody yet.
#[tokio::test(start_paused = true)]
async fn append_is_taken_only_where_it_fits() {
    let cluster = Cluster::started(1).await;
    let node = cluster.raft(1);
    let append = async |term: u64, previous: Option<LogId>, entries: Vec<Entry>| {
        let vote = Vote::new_committed(term, NodeId(2));
        let request = AppendEntriesRequest { vote, prev_log_id: previous, entries, leader_commit: None };
        node.append_entries(request).await.unwrap()
    };
    let last = || node.raft_state().last_log_index;
    // There is nothing to append it to.
    let gap = append(2, Some(log_id(1, 4)), vec![entry(2, 5, "gap")]).await;
    assert!(matches!(gap, AppendEntriesResponse::Conflict), "{gap:?}");
    // From the start.
    let first = append(2, None, vec![entry(1, 0, "a"), entry(1, 1, "b"), entry(1, 2, "c")]).await;
    assert!(matches!(first, AppendEntriesResponse::Success), "{first:?}");
    cluster.wait(1).log_index(Some(2), "three entries").await.unwrap();
    // The same again changes nothing.
    let again = append(2, Some(log_id(1, 0)), vec![entry(1, 1, "b")]).await;
    assert!(matches!(again, AppendEntriesResponse::Success), "{again:?}");
    assert_eq!(last(), Some(2));
    // What is before it is another leader's.
    let other = append(2, Some(log_id(2, 2)), vec![entry(2, 3, "d")]).await;
    assert!(matches!(other, AppendEntriesResponse::Conflict), "{other:?}");
    // A later leader's entry takes the place of two.
    let later = append(3, Some(log_id(1, 0)), vec![entry(3, 1, "e")]).await;
    assert!(matches!(later, AppendEntriesResponse::Success), "{later:?}");
    cluster.wait(1).log_index(Some(1), "two entries").await.unwrap();
    let terms: Vec<u64> =
        node.log_digest(0, 1).await.unwrap().entries.iter().map(|entry| entry.term).collect();
    assert_eq!(terms, [1, 3]);
    // Who led before is told so.
    let old = append(2, Some(log_id(3, 1)), vec![entry(2, 2, "f")]).await;
    assert!(
        matches!(old, AppendEntriesResponse::HigherVote(vote) if vote == Vote::new_committed(3, NodeId(2))),
        "{old:?}"
    );
    assert_eq!(last(), Some(1));
}
