//! What of a stream of AppendEntries is under way, and which answers may be passed on; pure.
//!
//! openraft takes an answer for one to every request before it that ends where the answer does, with the time at which
//! it made the latest of these requests. A request without entries ends where the one before it does: so the answer to that one is
//! kept back until the peer has answered the later one, too. Otherwise a leader would count a peer as heard of at a time
//! when that may have followed another one already.

use std::collections::VecDeque;

/// What of a request matters here. `P` is the position of a log entry, or of nothing before the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent<P> {
    /// Where the requests end in whose stead it was sent. They had no entries.
    instead_of: Vec<P>,
    /// Where it ends itself, if it has no entries.
    empty_at: Option<P>,
    /// About its size.
    bytes: u64,
}

/// Requests from the first that has no answer, and answers that are kept back.
#[derive(Debug)]
pub(super) struct Window<P> {
    ahead: VecDeque<Sent<P>>,
    /// Where the requests without entries end that wait to be sent; the last one would be.
    held: Vec<P>,
    kept: VecDeque<P>,
}

impl<P> Default for Window<P> {
    fn default() -> Self {
        Self { ahead: VecDeque::new(), held: Vec::new(), kept: VecDeque::new() }
    }
}

impl<P: Copy + PartialOrd> Window<P> {
    /// How many requests have no answer.
    pub(super) fn count(&self) -> usize {
        self.ahead.len()
    }

    /// About how many bytes those have.
    pub(super) fn bytes(&self) -> u64 {
        self.ahead.iter().map(|sent| sent.bytes).sum()
    }

    /// A request without entries, which ends at `end`, is held back.
    pub(super) fn hold(&mut self, end: P) {
        self.held.push(end);
    }

    /// The request that is held back is sent.
    pub(super) fn send_held(&mut self) {
        let empty_at = self.held.pop();
        let instead_of = std::mem::take(&mut self.held);
        self.ahead.push_back(Sent { instead_of, empty_at, bytes: 0 });
    }

    /// A request is sent, in the stead of all that are held back; one without entries ends at `empty_at`.
    pub(super) fn send(&mut self, empty_at: Option<P>, bytes: u64) {
        let instead_of = std::mem::take(&mut self.held);
        self.ahead.push_back(Sent { instead_of, empty_at, bytes });
    }

    /// The oldest request has its answer: all up to `matching` is there.
    pub(super) fn answered(&mut self, matching: P) {
        self.kept.extend(self.ahead.pop_front().into_iter().flat_map(|sent| sent.instead_of));
        self.kept.push_back(matching);
    }

    /// The next answer that may be passed on.
    pub(super) fn due(&mut self) -> Option<P> {
        let matching = *self.kept.front()?;
        let without_entries = self.ahead.iter().flat_map(|sent| sent.instead_of.iter().chain(&sent.empty_at));
        let is_early = self.held.iter().chain(without_entries).any(|end| *end <= matching);
        if is_early { None } else { self.kept.pop_front() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [u64; 0] = [];

    fn due(window: &mut Window<u64>) -> Vec<u64> {
        std::iter::from_fn(|| window.due()).collect()
    }

    #[test]
    fn answers_to_entries_come_at_once_and_in_order() {
        let mut window = Window::default();
        window.send(None, 10);
        window.send(None, 5);
        assert_eq!((window.count(), window.bytes()), (2, 15));
        window.answered(3);
        assert_eq!(due(&mut window), [3]);
        window.answered(7);
        assert_eq!(due(&mut window), [7]);
        assert_eq!((window.count(), window.bytes()), (0, 0));
    }

    /// What a peer said before a later request was made is no answer to that one.
    #[test]
    fn answer_waits_for_that_of_a_later_request_that_ends_where_it_does() {
        let mut window = Window::default();
        window.send(None, 10);
        window.send(Some(3), 0);
        window.answered(3);
        assert_eq!(due(&mut window), NOTHING);
        window.answered(3);
        assert_eq!(due(&mut window), [3, 3]);
    }

    #[test]
    fn request_that_is_held_is_answered_by_the_one_in_its_stead() {
        let mut window = Window::default();
        window.send(None, 10);
        window.hold(3);
        window.answered(3);
        assert_eq!(due(&mut window), NOTHING, "the held one is not answered yet");
        window.hold(3);
        window.send(None, 20);
        // Of entries behind it nothing waits.
        window.send(None, 20);
        window.answered(5);
        assert_eq!(due(&mut window), [3, 3, 3, 5]);
        window.hold(9);
        window.answered(9);
        assert_eq!(due(&mut window), NOTHING);
        window.send_held();
        window.answered(9);
        assert_eq!(due(&mut window), [9, 9]);
    }

    #[test]
    fn answer_to_a_part_waits_for_nothing_that_ends_later() {
        let mut window = Window::default();
        window.send(None, 10);
        window.send(Some(9), 0);
        window.answered(4);
        assert_eq!(due(&mut window), [4]);
    }
}
