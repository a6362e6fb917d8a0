//! What a lab knows of one node: whether it runs, and what it has last said of itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::protocol::{NodeRole, Power, Unreachable};
use crate::limits::{OBSERVE_INTERVAL, OBSERVE_TIMEOUT};
use crate::observations::{NodeState, Role};

/// An order to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// End it without warning.
    Kill,
    /// Start it again.
    Start,
    /// Freeze it.
    Pause,
    /// Let it go on.
    Resume,
}

/// Why an order makes no sense to a node in this state, and what would; nothing if it does.
pub(super) fn objection(name: &str, power: Power, order: Order) -> Option<String> {
    let text = match (order, power) {
        (Order::Kill, Power::Running | Power::Paused)
        | (Order::Start, Power::Down)
        | (Order::Pause, Power::Running)
        | (Order::Resume, Power::Paused) => return None,
        (Order::Kill, Power::Down) => format!("{name} is down already: `lab start {name}` starts it"),
        (Order::Pause, Power::Down) => {
            format!("{name} is down and cannot be paused: `lab start {name}` starts it")
        }
        (Order::Resume, Power::Down) => format!("{name} is down, not paused: `lab start {name}` starts it"),
        (Order::Start | Order::Resume, Power::Running) => format!("{name} runs already"),
        (Order::Start | Order::Pause, Power::Paused) => {
            format!("{name} is paused: `lab resume {name}` lets it go on")
        }
    };
    Some(text)
}

/// One node of a lab.
#[derive(Debug)]
pub(super) struct Desk {
    power: watch::Sender<Power>,
    /// Held while an order is carried out.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Whether its node has ended by itself since its start, though its machine is on.
    has_ended: AtomicBool,
    /// When it last answered, and what.
    seen: Mutex<Option<(Duration, NodeState)>>,
}

impl Desk {
    /// A node that is not started yet.
    pub(super) fn new() -> Self {
        Self {
            power: watch::Sender::new(Power::Down),
            turn: tokio::sync::Mutex::default(),
            has_ended: AtomicBool::new(false),
            seen: Mutex::default(),
        }
    }

    pub(super) fn power(&self) -> Power {
        *self.power.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Power> {
        self.power.subscribe()
    }

    /// Notes that it runs or does not; whether that is news. What it has said before does not count any more.
    pub(super) fn set_power(&self, power: Power) -> bool {
        *self.seen() = None;
        if power == Power::Down {
            self.has_ended.store(false, Ordering::Relaxed);
        }
        self.power.send_if_modified(|before| std::mem::replace(before, power) != power)
    }

    /// Notes that its node has ended while its machine is on; whether that is news.
    pub(super) fn note_end(&self) -> bool {
        !self.has_ended.swap(true, Ordering::Relaxed)
    }

    /// Notes what it has said.
    pub(super) fn see(&self, at: Duration, state: NodeState) {
        // What it said just before it was stopped does not count.
        if self.power() == Power::Running {
            *self.seen() = Some((at, state));
        }
    }

    /// What it has said lately, while it runs.
    pub(super) fn said(&self, now: Duration) -> Option<NodeState> {
        // An answer that took its time, and the pause before the next question.
        let fresh = OBSERVE_INTERVAL * 2 + OBSERVE_TIMEOUT;
        self.seen().filter(|(at, _)| now.saturating_sub(*at) < fresh).map(|(_, state)| state)
    }

    /// What it is, if it runs.
    pub(super) fn role(&self, now: Duration) -> Option<NodeRole> {
        let said = self.said(now).map(|state| NodeRole::Known(state.role));
        (self.power() == Power::Running)
            .then(|| said.unwrap_or(NodeRole::Unreachable(Unreachable::Unreachable)))
    }

    /// The term that it leads, if it does.
    pub(super) fn leads(&self, now: Duration) -> Option<u64> {
        self.said(now).filter(|state| state.role == Role::Leader).map(|state| state.term)
    }

    fn seen(&self) -> MutexGuard<'_, Option<(Duration, NodeState)>> {
        self.seen.lock().expect("nothing panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observations::{Incarnation, NodeVote};

    #[test]
    fn order_that_makes_no_sense_says_which_one_would() {
        let check = |order, power, want: Option<&str>| {
            assert_eq!(objection("n1", power, order).as_deref(), want, "{order:?} {power:?}");
        };
        check(Order::Kill, Power::Running, None);
        check(Order::Kill, Power::Paused, None);
        check(Order::Kill, Power::Down, Some("n1 is down already: `lab start n1` starts it"));
        check(Order::Start, Power::Down, None);
        check(Order::Start, Power::Running, Some("n1 runs already"));
        check(Order::Start, Power::Paused, Some("n1 is paused: `lab resume n1` lets it go on"));
        check(Order::Pause, Power::Running, None);
        check(Order::Pause, Power::Paused, Some("n1 is paused: `lab resume n1` lets it go on"));
        check(Order::Pause, Power::Down, Some("n1 is down and cannot be paused: `lab start n1` starts it"));
        check(Order::Resume, Power::Paused, None);
        check(Order::Resume, Power::Running, Some("n1 runs already"));
        check(Order::Resume, Power::Down, Some("n1 is down, not paused: `lab start n1` starts it"));
    }

    #[test]
    fn what_a_node_said_does_not_count_once_it_stands_still_or_is_silent() {
        let desk = Desk::new();
        let vote = Some(NodeVote { term: 3, voted_for: 1, is_committed: true });
        let state = NodeState {
            incarnation: Incarnation(1),
            role: Role::Leader,
            term: 3,
            vote,
            leader: Some(1),
            last_log_index: None,
            committed: None,
            applied: None,
            snapshot: None,
            purged: None,
        };
        let at = Duration::from_secs(1);
        desk.see(at, state);
        assert_eq!((desk.role(at), desk.leads(at)), (None, None), "it is down");
        assert!(desk.set_power(Power::Running));
        assert!(!desk.set_power(Power::Running), "no news");
        let silent = Some(NodeRole::Unreachable(Unreachable::Unreachable));
        assert_eq!(desk.role(at), silent);
        desk.see(at, state);
        assert_eq!((desk.role(at), desk.leads(at)), (Some(NodeRole::Known(Role::Leader)), Some(3)));
        assert_eq!(desk.role(at + Duration::from_secs(5)), silent);
        desk.set_power(Power::Paused);
        assert_eq!((desk.role(at), desk.leads(at)), (None, None));
        desk.set_power(Power::Running);
        assert_eq!(desk.role(at), silent, "it has to speak again");
    }
}
