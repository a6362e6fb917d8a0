//! Which start of a node this is, and how it shows that its data directory was put back to an earlier state.
//!
//! A node numbers its starts, says now and then while it runs that it is still there, and keeps both in its data directory before
//! it shows them to anybody. Whoever it connects to takes down what it was shown last. A directory that was put back, such as a
//! virtual machine's disk from a snapshot, has lost what it has shown since: its node does not know of it any more. So does a copy
//! of a directory that is run beside the first. Such a node has forgotten votes that it gave and entries that it acknowledged, and may
//! not go on as the member that it was (Ongaro, "Consensus: Bridging Theory and Practice", 3.8).
//!
//! What is put back to a moment of the last quarter of a minute may not be noticed: so long it takes until a beat is shown to
//! everybody.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::limits::STARTS_KEPT_MAX;
use crate::types::EndpointKey;

/// A start of a node, and how long it has lasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Larger than that of every earlier start of which the data directory knows.
    pub number: u64,
    /// Drawn at random: two starts after the same one differ, whatever the clock says.
    pub mark: u64,
    /// How often the node has said since that it is still there.
    pub beat: u64,
}

impl Start {
    fn new(number: u64) -> Self {
        Self { number, mark: rand::random(), beat: 0 }
    }

    /// Whether both are the same start, however long it has lasted.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.number, self.mark) == (other.number, other.mark)
    }
}

/// What a node says of itself: its present start, and those before it that it remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// The present start.
    pub present: Start,
    /// The latest of those before, the last one first; at most [`STARTS_KEPT_MAX`].
    pub earlier: VecDeque<Start>,
}

impl Incarnation {
    /// The first start of a node, or of one that does not know better.
    pub fn first(number: u64) -> Self {
        Self { present: Start::new(number), earlier: VecDeque::new() }
    }

    /// The start after this one, with at least this number.
    #[must_use]
    pub fn next(mut self, number: u64) -> Self {
        self.earlier.push_front(self.present);
        self.earlier.truncate(STARTS_KEPT_MAX as usize);
        Self { present: Start::new(number.max(self.present.number + 1)), earlier: self.earlier }
    }

    /// The same start, a beat later.
    #[must_use]
    pub fn later(mut self) -> Self {
        self.present.beat += 1;
        self
    }

    /// Whether the node has forgotten that it has shown itself as `seen`. Of what is longer ago than it remembers nobody can say.
    fn has_forgotten(&self, seen: Start) -> bool {
        let mut known = [self.present].into_iter().chain(self.earlier.iter().copied());
        match (known.find(|start| start.is_same(&seen)), self.earlier.back()) {
            (Some(start), _) => start.beat < seen.beat,
            (None, Some(oldest)) => seen.number >= oldest.number,
            (None, None) => false,
        }
    }
}

/// What was seen last of each other node.
pub type Starts = HashMap<EndpointKey, Start>;

/// A node's own start, and the latest of others that it has seen.
#[derive(Debug)]
pub struct Incarnations {
    own: Mutex<Incarnation>,
    /// Changes whenever a start is seen that is another one.
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
        Self { own: Mutex::new(own), seen: watch::Sender::new(seen), denounced: watch::Sender::new(None) }
    }

    /// What this node says of itself.
    pub fn own(&self) -> Incarnation {
        self.held().clone()
    }

    /// What it says of itself from now on, and has kept already.
    pub fn set_own(&self, own: Incarnation) {
        *self.held() = own;
    }

    fn held(&self) -> MutexGuard<'_, Incarnation> {
        self.own.lock().expect("nothing panics while it holds this lock")
    }

    /// Takes down what another node has said of itself.
    ///
    /// # Errors
    /// What was seen of it that it does not remember: it was put back to an earlier state, or what it has said comes late.
    pub fn meet(&self, key: &EndpointKey, other: &Incarnation) -> Result<(), Start> {
        let mut met = Ok(());
        self.seen.send_if_modified(|seen| {
            if let Some(last) = seen.get(key).filter(|last| other.has_forgotten(**last)) {
                met = Err(*last);
                return false;
            }
            let before = seen.insert(*key, other.present);
            before.is_none_or(|before| !before.is_same(&other.present))
        });
        met
    }

    /// What was seen of the others, as it changes.
    pub fn seen(&self) -> watch::Receiver<Starts> {
        self.seen.subscribe()
    }

    /// Whether another start of a node was seen since this one.
    pub fn is_replaced(&self, key: &EndpointKey, start: &Start) -> bool {
        is_another(&self.seen.borrow(), key, start)
    }

    /// Returns once that is so.
    pub async fn replaced(&self, key: &EndpointKey, start: &Start) {
        // The sender is ours.
        let _ = self.seen.subscribe().wait_for(|seen| is_another(seen, key, start)).await;
    }

    /// Forgets all but these.
    pub fn retain(&self, is_kept: impl Fn(&EndpointKey) -> bool) {
        self.seen.send_if_modified(|seen| {
            let before = seen.len();
            seen.retain(|key, _| is_kept(key));
            seen.len() != before
        });
    }

    /// Takes down that another node has seen of this one what it did not remember. It may do so by now: of two greetings the first may
    /// come last.
    pub fn note_denounced(&self, by: EndpointKey, seen: Start) {
        if !self.held().has_forgotten(seen) {
            return;
        }
        self.denounced.send_if_modified(|denounced| denounced.is_none() && denounced.replace(by).is_none());
    }

    /// Whether this node was put back, by the word of somebody who has seen what it has forgotten.
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

fn is_another(seen: &Starts, key: &EndpointKey, start: &Start) -> bool {
    seen.get(key).is_some_and(|last| !last.is_same(start))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const KEY: EndpointKey = EndpointKey([1; 32]);

    /// The start with this number, after so many beats.
    fn start(number: u64, beat: u64) -> Start {
        Start { number, mark: 10 * number, beat }
    }

    fn incarnation(present: Start, earlier: &[Start]) -> Incarnation {
        Incarnation { present, earlier: earlier.iter().copied().collect() }
    }

    /// Whether a node that has shown itself as start 5 after seven beats has forgotten that.
    #[track_caller]
    fn check(present: Start, earlier: &[Start], want: bool) {
        assert_eq!(incarnation(present, earlier).has_forgotten(start(5, 7)), want);
    }

    #[test]
    fn node_that_remembers_what_it_has_shown_is_who_it_was() {
        check(start(5, 7), &[start(3, 0)], false);
        check(start(5, 8), &[start(3, 0)], false);
        check(start(6, 0), &[start(5, 7)], false);
        check(start(9, 0), &[start(6, 2), start(5, 9), start(3, 0)], false);
        // It has lost what it knew of its starts, and nothing else that was shown.
        check(start(6, 0), &[], false);
        check(start(4, 0), &[], false);
        // Longer ago than it remembers.
        check(start(9, 0), &[start(8, 0), start(6, 0)], false);
    }

    #[test]
    fn node_that_does_not_remember_what_it_has_shown_was_put_back() {
        check(start(6, 0), &[start(3, 0)], true);
        check(start(4, 0), &[start(3, 0)], true);
        // It has been started again since, where nobody could tell.
        check(start(9, 0), &[start(6, 0), start(3, 0)], true);
        // Put back to an earlier moment of the same start, with its memory or without.
        check(start(5, 6), &[start(3, 0)], true);
        check(start(5, 6), &[], true);
        check(start(6, 0), &[start(5, 6), start(3, 0)], true);
        // A clock that says the same again.
        let again = Start { mark: 51, ..start(5, 0) };
        check(again, &[start(3, 0)], true);
        check(start(6, 0), &[again, start(3, 0)], true);
    }

    #[test]
    fn starts_follow_each_other_whatever_the_clock_says() {
        let first = Incarnation::first(1_000).later();
        let second = first.clone().next(10);
        assert_eq!((second.present.number, second.present.beat), (1_001, 0));
        assert!(second.earlier.iter().eq([&first.present]));
        let many = (0..100).fold(second, |last, _| last.next(0));
        assert_eq!((many.present.number, many.earlier.len()), (1_101, STARTS_KEPT_MAX as usize));
        let bytes = postcard::to_stdvec(&Incarnation {
            present: Start { number: u64::MAX, mark: u64::MAX, beat: u64::MAX },
            earlier: many
                .earlier
                .iter()
                .map(|_| Start { number: u64::MAX, mark: u64::MAX, beat: u64::MAX })
                .collect(),
        });
        assert!(bytes.unwrap().len() <= crate::limits::GREETING_BYTES_MAX);
    }

    #[test]
    fn what_was_seen_counts_until_it_is_forgotten() {
        let incarnations = Incarnations::new(Incarnation::first(1), Starts::from([(KEY, start(5, 7))]));
        let mut seen = incarnations.seen();
        incarnations.meet(&KEY, &incarnation(start(5, 9), &[])).unwrap();
        assert!(!seen.has_changed().unwrap());
        let put_back = incarnation(start(6, 0), &[start(5, 8)]);
        assert_eq!(incarnations.meet(&KEY, &put_back), Err(start(5, 9)));
        let five = start(5, 0);
        let mut replaced = std::pin::pin!(incarnations.replaced(&KEY, &five));
        assert_eq!(replaced.as_mut().now_or_never(), None);
        incarnations.meet(&KEY, &incarnation(start(7, 0), &[start(5, 9)])).unwrap();
        assert_eq!(replaced.now_or_never(), Some(()));
        assert_eq!(*seen.borrow_and_update(), Starts::from([(KEY, start(7, 0))]));
        incarnations.retain(|_| false);
        incarnations.meet(&KEY, &incarnation(start(6, 0), &[start(3, 0)])).unwrap();
    }

    /// What it said first may have come last.
    #[test]
    fn node_is_not_put_back_that_remembers_by_now_what_was_seen() {
        let incarnations = Incarnations::new(incarnation(start(5, 7), &[start(3, 2)]), Starts::new());
        for seen in [start(5, 7), start(5, 6), start(3, 2)] {
            incarnations.note_denounced(KEY, seen);
            assert!(!incarnations.is_denounced(), "{seen:?}");
        }
        incarnations.note_denounced(KEY, start(5, 8));
        assert!(incarnations.is_denounced());
    }
}
