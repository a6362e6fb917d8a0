//! Which start of a node this is, and how it shows that a data directory was put back to an earlier state.
//!
//! A node numbers its starts and remembers the last one, in its data directory. Whoever it connects to takes down which start it has
//! seen. A directory that was put back, such as a virtual machine's disk from a snapshot, has lost its latest starts, too: its node
//! comes with a start before which it knows of an earlier one only than others have seen. So does a copy of a directory that is run
//! beside the first. Such a node has forgotten votes that it gave and entries that it acknowledged, and may not go on as the member
//! that it was (Ongaro, "Consensus: Bridging Theory and Practice", 3.8).
//!
//! A machine that is put back while it runs, with its memory, does not start, and shows nothing of this: whoever does that has to
//! say so.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::types::EndpointKey;

/// A start of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Larger than that of every earlier start of which the data directory knows.
    pub number: u64,
    /// Drawn at random: two starts after the same one differ, whatever the clock says.
    pub mark: u64,
}

/// What a node says of its present start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// The present start.
    pub present: Start,
    /// The one before, if the node knows of it.
    pub previous: Option<Start>,
}

impl Incarnation {
    /// The first start of a node, or that of one which does not know better.
    pub fn first(number: u64) -> Self {
        Self { present: Start { number, mark: rand::random() }, previous: None }
    }

    /// The start after another one, with at least this number.
    #[must_use]
    pub fn after(previous: Start, number: u64) -> Self {
        Self { previous: Some(previous), ..Self::first(number.max(previous.number + 1)) }
    }

    /// Whether the node has forgotten that it was started as `seen`.
    fn has_forgotten(&self, seen: Start) -> bool {
        let knows = |start: Start| start.number > seen.number || start == seen;
        !knows(self.present) || self.previous.is_some_and(|previous| self.present != seen && !knows(previous))
    }
}

/// The latest start of each other node that was seen.
pub type Starts = HashMap<EndpointKey, Start>;

/// A node's own start, and the latest of others that it has seen.
#[derive(Debug)]
pub struct Incarnations {
    own: Incarnation,
    seen: watch::Sender<Starts>,
    /// Who has said that this node was put back.
    denounced: watch::Sender<Option<EndpointKey>>,
}

impl Default for Incarnations {
    /// Those of a node that keeps nothing.
    fn default() -> Self {
        Self::new(Incarnation::first(1), Starts::new())
    }
}

impl Incarnations {
    /// Those of a node that has seen these of others before.
    pub fn new(own: Incarnation, seen: Starts) -> Self {
        Self { own, seen: watch::Sender::new(seen), denounced: watch::Sender::new(None) }
    }

    /// What this node says of itself.
    pub fn own(&self) -> Incarnation {
        self.own
    }

    /// Takes down what another node has said of itself. `false`: it was put back to an earlier state.
    pub fn meet(&self, key: &EndpointKey, other: Incarnation) -> bool {
        let mut is_known = true;
        self.seen.send_if_modified(|seen| {
            is_known = seen.get(key).is_none_or(|last| !other.has_forgotten(*last));
            is_known && seen.insert(*key, other.present) != Some(other.present)
        });
        is_known
    }

    /// What was seen of the others, as it changes.
    pub fn seen(&self) -> watch::Receiver<Starts> {
        self.seen.subscribe()
    }

    /// Forgets all but these.
    pub fn retain(&self, is_kept: impl Fn(&EndpointKey) -> bool) {
        self.seen.send_if_modified(|seen| {
            let before = seen.len();
            seen.retain(|key, _| is_kept(key));
            seen.len() != before
        });
    }

    /// Takes down that another node says so of this one.
    pub fn note_denounced(&self, by: EndpointKey) {
        self.denounced.send_if_modified(|denounced| denounced.is_none() && denounced.replace(by).is_none());
    }

    /// Whether this node was put back, by the word of somebody who has seen a start of it that it has forgotten.
    pub fn is_denounced(&self) -> bool {
        self.denounced.borrow().is_some()
    }

    /// Returns once somebody says that this node was put back: who.
    pub async fn denounced(&self) -> EndpointKey {
        let mut denounced = self.denounced.subscribe();
        loop {
            if let Some(by) = *denounced.borrow_and_update() {
                return by;
            }
            // The sender is ours.
            let _ = denounced.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: EndpointKey = EndpointKey([1; 32]);

    fn start(number: u64, mark: u64) -> Start {
        Start { number, mark }
    }

    fn incarnation(present: Start, previous: impl Into<Option<Start>>) -> Incarnation {
        Incarnation { present, previous: previous.into() }
    }

    /// Whether a node of which the start 5 was seen has forgotten that.
    #[track_caller]
    fn check(incarnation: Incarnation, want: bool) {
        assert_eq!(incarnation.has_forgotten(start(5, 50)), want, "{incarnation:?}");
    }

    #[test]
    fn start_after_one_that_was_seen_or_a_later_one_is_none_of_the_past() {
        let (three, five, six) = (start(3, 30), start(5, 50), start(6, 60));
        check(incarnation(five, three), false);
        check(incarnation(six, five), false);
        check(incarnation(start(9, 90), six), false);
        // It has lost what it knew of its starts, and nothing else that was seen.
        check(incarnation(six, None), false);
    }

    #[test]
    fn start_that_does_not_know_of_one_that_was_seen_is_of_the_past() {
        let (three, six) = (start(3, 30), start(6, 60));
        check(incarnation(six, three), true);
        check(incarnation(start(4, 40), three), true);
        // A clock that says the same again.
        let again = start(5, 51);
        check(incarnation(again, three), true);
        check(incarnation(six, again), true);
    }

    #[test]
    fn starts_follow_each_other_whatever_the_clock_says() {
        let first = Incarnation::first(1_000);
        let second = Incarnation::after(first.present, 10);
        assert_eq!((second.present.number, second.previous), (1_001, Some(first.present)));
        assert!(
            !second.has_forgotten(first.present) && second.has_forgotten(Incarnation::first(1_001).present)
        );
    }

    #[test]
    fn what_was_seen_is_kept_and_what_was_forgotten_is_not() {
        let incarnations = Incarnations::new(Incarnation::first(1), Starts::from([(KEY, start(5, 50))]));
        let mut seen = incarnations.seen();
        assert!(incarnations.meet(&KEY, incarnation(start(5, 50), start(3, 30))));
        assert!(!incarnations.meet(&KEY, incarnation(start(6, 60), start(3, 30))));
        assert!(!seen.has_changed().unwrap());
        assert!(incarnations.meet(&KEY, incarnation(start(7, 70), start(5, 50))));
        assert_eq!(*seen.borrow_and_update(), Starts::from([(KEY, start(7, 70))]));
        incarnations.retain(|_| false);
        assert!(incarnations.meet(&KEY, incarnation(start(6, 60), start(3, 30))));
    }
}
