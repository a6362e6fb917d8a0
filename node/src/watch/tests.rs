use futures::FutureExt;

use super::*;
use crate::types::{ChangeKind, KeyRange, Previous, Record, Value};

fn put(revision: u64, key: &str, value_bytes: usize) -> Revised {
    let revision = Revision(revision);
    let record = Record {
        value: Value(vec![b'v'; value_bytes]),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        lease: None,
    };
    let kind = ChangeKind::Put { key: key.into(), record, previous: Previous::NotNoted };
    Revised { revision, changes: vec![Change { vault: None, kind }] }
}

fn prefix(prefix: &str) -> Interest {
    Interest { vault: None, range: KeyRange { prefix: prefix.into(), ..KeyRange::default() } }
}

fn publish(feed: &ChangeFeed, revised: Revised) {
    let revision = revised.revision;
    feed.publish(vec![revised], revision);
}

/// What a watcher sees without waiting; `None`: nothing.
fn seen(watcher: &mut Watcher) -> Option<Vec<u64>> {
    let seen = watcher.changed().now_or_never()?.unwrap();
    Some(seen.revised.iter().map(|revised| revised.revision.0).collect())
}

#[test]
fn watcher_sees_what_it_follows_once_and_in_order() {
    let feed = ChangeFeed::new(Revision(4), 1 << 20);
    let mut of_a = feed.watch(prefix("a"), None, false).unwrap();
    publish(&feed, put(5, "a", 1));
    publish(&feed, put(6, "b", 1));
    publish(&feed, put(8, "ab", 1));
    assert_eq!(seen(&mut of_a), Some(vec![5, 8]));
    assert_eq!(seen(&mut of_a), None);
    publish(&feed, put(9, "b", 1));
    assert_eq!(seen(&mut of_a), None);
    assert_eq!(of_a.look().unwrap().up_to, Revision(9));
    // From before, from in between, and from what is still to come.
    let from = |from| seen(&mut feed.watch(prefix(""), Some(Revision(from)), false).unwrap());
    assert_eq!(from(5), Some(vec![5, 6, 8, 9]));
    assert_eq!(from(7), Some(vec![8, 9]));
    let mut late = feed.watch(prefix(""), Some(Revision(11)), false).unwrap();
    publish(&feed, put(10, "a", 1));
    assert_eq!(seen(&mut late), None);
    publish(&feed, put(11, "a", 1));
    assert_eq!(seen(&mut late), Some(vec![11]));
    let compacted = feed.watch(prefix(""), Some(Revision(4)), false).unwrap_err();
    assert_eq!(compacted, ApiError::Compacted { oldest: Revision(5) });
}

#[tokio::test]
async fn watcher_that_waits_is_woken() {
    let feed = ChangeFeed::new(Revision(0), 1 << 20);
    let mut watcher = feed.watch(prefix("a"), None, false).unwrap();
    let publisher = async {
        for revision in 1..=100 {
            publish(&feed, put(revision, if revision % 3 == 0 { "a" } else { "b" }, 1));
            tokio::task::yield_now().await;
        }
    };
    let mut told = Vec::new();
    let follower = async {
        while told.last() != Some(&99) {
            told.extend(watcher.changed().await.unwrap().revised.iter().map(|revised| revised.revision.0));
        }
    };
    tokio::join!(follower, publisher);
    assert_eq!(told, (1..=33).map(|third| 3 * third).collect::<Vec<u64>>());
}

/// Nothing is held for who does not look: it loses its place, and nobody else does.
#[test]
fn watcher_that_stalls_is_told_and_costs_no_memory() {
    let feed = ChangeFeed::new(Revision(0), 10_000);
    let mut stalled = feed.watch(prefix("a"), None, false).unwrap();
    let mut idle = feed.watch(prefix("c"), None, false).unwrap();
    let mut busy = feed.watch(prefix("a"), None, false).unwrap();
    for revision in 1..=1_000 {
        publish(&feed, put(revision, "a", 100));
        assert_eq!(seen(&mut busy), Some(vec![revision]));
        assert!(feed.measures().1 <= 10_000);
    }
    let oldest = feed.watch(prefix(""), Some(Revision(1)), false).unwrap_err();
    assert_eq!(stalled.changed().now_or_never().unwrap().unwrap_err(), oldest);
    assert_eq!(oldest, ApiError::Compacted { oldest: Revision(1_000 - 10_000 / 301 + 1) });
    // What it follows did not change.
    publish(&feed, put(1_001, "c", 1));
    assert_eq!(seen(&mut idle), Some(vec![1_001]));
    drop((stalled, idle, busy));
    assert_eq!(feed.measures().0, 0);
}

#[test]
fn one_look_takes_a_bounded_part_and_the_next_goes_on() {
    let feed = ChangeFeed::new(Revision(0), 1 << 30);
    let mut watcher = feed.watch(prefix(""), None, false).unwrap();
    for revision in 1..=100 {
        publish(&feed, put(revision, "a", 10_000));
    }
    let (mut told, mut looks) = (Vec::new(), 0);
    while let Some(seen) = seen(&mut watcher) {
        told.extend(seen);
        looks += 1;
    }
    assert_eq!(told, (1..=100).collect::<Vec<u64>>());
    // Seven changes of 10,201 bytes each.
    assert_eq!(looks, 15);
}

/// Most of what is held is not what is followed.
#[test]
fn few_changes_behind_many_others_are_found_at_once() {
    let feed = ChangeFeed::new(Revision(0), 1 << 30);
    for revision in 1..=300 {
        publish(&feed, put(revision, if revision == 299 { "a" } else { "b" }, 10_000));
    }
    let mut watcher = feed.watch(prefix("a"), Some(Revision(1)), false).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let seen = runtime.block_on(watcher.changed()).unwrap();
    assert_eq!(seen.revised.iter().map(|revised| revised.revision.0).collect::<Vec<_>>(), [299]);
}

#[test]
fn state_that_was_replaced_ends_those_that_followed_the_old_one() {
    let feed = ChangeFeed::new(Revision(0), 1 << 20);
    let mut before = feed.watch(prefix("a"), None, false).unwrap();
    let mut after = feed.watch(prefix("a"), Some(Revision(51)), false).unwrap();
    feed.restart(Revision(50));
    assert_eq!(
        before.changed().now_or_never().unwrap().unwrap_err(),
        ApiError::Compacted { oldest: Revision(51) }
    );
    publish(&feed, put(51, "a", 1));
    assert_eq!(seen(&mut after), Some(vec![51]));
}

#[test]
fn what_was_held_before_is_noted_once_somebody_asks() {
    let feed = ChangeFeed::new(Revision(0), 1 << 20);
    publish(&feed, put(1, "a", 1));
    assert!(!feed.notes_previous());
    let error = feed.watch(prefix(""), Some(Revision(1)), true).unwrap_err();
    assert_eq!(error, ApiError::PreviousNotNoted { since: Revision(2) });
    // That has asked: from now on it is noted, also for who comes back later.
    assert!(feed.notes_previous());
    publish(&feed, put(2, "a", 1));
    assert_eq!(seen(&mut feed.watch(prefix(""), Some(Revision(2)), true).unwrap()), Some(vec![2]));
}

#[test]
fn closed_feed_ends_everybody() {
    let feed = ChangeFeed::new(Revision(0), 1 << 20);
    let mut watcher = feed.watch(prefix(""), None, false).unwrap();
    publish(&feed, put(1, "a", 1));
    feed.close();
    assert!(matches!(watcher.changed().now_or_never(), Some(Err(ApiError::Stopping { .. }))));
    assert!(matches!(feed.watch(prefix(""), None, false), Err(ApiError::Stopping { .. })));
}
