//! The links of a simulation: what becomes of each message between nodes is the [fate](crate::link::fate) of a frame, and is counted like
//! one.
//!
//! Nodes speak over connections that lose nothing for good. A message that is lost, changed or met by a cut is therefore sent once more after a
//! while, as another frame, and its copy is of no use to anybody.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use aspen_node::network::memory::{Flight, LinkModel, Passage};
use aspen_node::types::NodeId;
use tokio::time::Instant;

use crate::cluster::{FrameCounts, Held, NodePair, link_id};
use crate::fabric::Sabotage;
use crate::limits::machines::SIMULATED_RESEND;
use crate::link::{DropReason, Fate, LinkRule, copy_fate, fate, in_order};
use crate::plan::NodeIndex;

/// Every directed link between nodes.
#[derive(Debug)]
pub(super) struct SimulatedLinks {
    seed: u64,
    sabotage: Option<Sabotage>,
    links: Mutex<BTreeMap<NodePair, Link>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Link {
    rule: LinkRule,
    counts: FrameCounts,
    held: Duration,
    in_flight: u64,
    in_flight_bytes: u64,
    /// When the last frame comes that is under way in order.
    last_due: Option<Instant>,
    /// How often it was cut: what is under way then is lost.
    cuts: u64,
}

impl Link {
    /// Decides about a frame that sets out.
    fn judge(&mut self, rule: &LinkRule, fate: Fate, bytes: u64, now: Instant) -> Passage {
        let again = Passage::Again(SIMULATED_RESEND + 2 * rule.latency);
        let passage = match fate {
            Fate::Drop(DropReason::Cut) => {
                self.counts.dropped_cut += 1;
                return again;
            }
            Fate::Drop(DropReason::Loss) => {
                self.counts.dropped_loss += 1;
                return again;
            }
            Fate::Deliver(passage) => passage,
        };
        // A message may be longer than any frame, and sets out where one byte would.
        if !rule.has_room(self.in_flight, self.in_flight_bytes + 1) {
            self.counts.dropped_queue += 1;
            return again;
        }
        if passage.is_corrupt() {
            self.counts.corrupted += 1;
        }
        let took = if passage.is_early {
            self.counts.early += 1;
            Duration::ZERO
        } else {
            let arrives = in_order(now + passage.delay, self.last_due);
            let due = arrives + rule.transmission(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.last_due = Some(due);
            due.duration_since(now)
        };
        if passage.is_corrupt() {
            // Whoever gets it throws it away.
            self.deliver(bytes, took);
            return Passage::Again(took + SIMULATED_RESEND);
        }
        self.in_flight += 1;
        self.in_flight_bytes += bytes;
        Passage::After(took, Flight { number: self.cuts, bytes, took })
    }

    /// What was under way is no longer.
    fn arrive(&mut self, bytes: u64, took: Duration) {
        self.in_flight -= 1;
        self.in_flight_bytes -= bytes;
        self.deliver(bytes, took);
    }

    fn deliver(&mut self, bytes: u64, took: Duration) {
        self.counts.delivered += 1;
        self.counts.delivered_bytes += bytes;
        self.held += took;
    }

    fn counts(&self) -> FrameCounts {
        FrameCounts { held: Held::Counted { total: self.held }, ..self.counts }
    }
}

impl SimulatedLinks {
    /// Perfect links between so many nodes.
    pub(super) fn new(seed: u64, sabotage: Option<Sabotage>, nodes_count: u16) -> Self {
        let nodes = move || (0..nodes_count).map(NodeIndex);
        let pairs =
            nodes().flat_map(move |from| nodes().filter(move |to| *to != from).map(move |to| (from, to)));
        let links = Mutex::new(pairs.map(|pair| (pair, Link::default())).collect());
        Self { seed, sabotage, links }
    }

    /// Sets the rules of these links, and makes all others perfect.
    pub(super) fn set_rules(&self, rules: &BTreeMap<NodePair, LinkRule>) {
        for (pair, link) in &mut *self.links() {
            let rule = rules.get(pair).copied().unwrap_or_default();
            if rule.cut && !link.rule.cut && self.sabotage != Some(Sabotage::IgnoreCuts) {
                link.cuts += 1;
                link.counts.dropped_cut += std::mem::take(&mut link.in_flight);
                link.in_flight_bytes = 0;
                link.last_due = None;
            }
            link.rule = rule;
        }
    }

    /// What was counted on every link.
    pub(super) fn counts(&self) -> BTreeMap<NodePair, FrameCounts> {
        self.links().iter().map(|(pair, link)| (*pair, link.counts())).collect()
    }

    /// What becomes of a message that sets out now.
    pub(super) fn send_over(&self, pair: NodePair, bytes: u64) -> Passage {
        let mut links = self.links();
        let Some(link) = links.get_mut(&pair) else { return Passage::Again(SIMULATED_RESEND) };
        let rule = self.sabotage.map_or(link.rule, |sabotage| sabotage.of(link.rule));
        let (id, n, now) = (link_id(pair), link.counts.judged, Instant::now());
        link.counts.judged += 1;
        let passage = link.judge(&rule, fate(&rule, self.seed, id, n), bytes, now);
        if let Some(fate) = copy_fate(&rule, self.seed, id, n) {
            link.counts.duplicated += 1;
            if let Passage::After(took, _) = link.judge(&rule, fate, bytes, now) {
                link.arrive(bytes, took);
            }
        }
        passage
    }

    /// Whether a message arrives whose time has come.
    pub(super) fn arrives_over(&self, pair: NodePair, flight: Flight) -> bool {
        let mut links = self.links();
        let Some(link) = links.get_mut(&pair).filter(|link| link.cuts == flight.number) else { return false };
        link.arrive(flight.bytes, flight.took);
        true
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<NodePair, Link>> {
        self.links.lock().expect("nothing panics while it holds this lock")
    }
}

/// The position of a node by its number in the cluster.
fn index(id: NodeId) -> NodeIndex {
    NodeIndex(u16::try_from(id.0.saturating_sub(1)).unwrap_or(u16::MAX))
}

impl LinkModel for SimulatedLinks {
    fn send(&self, from: NodeId, to: NodeId, bytes: u64) -> Passage {
        self.send_over((index(from), index(to)), bytes)
    }

    fn arrives(&self, from: NodeId, to: NodeId, flight: Flight) -> bool {
        self.arrives_over((index(from), index(to)), flight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: NodePair = (NodeIndex(0), NodeIndex(1));

    fn links(rule: LinkRule) -> SimulatedLinks {
        let links = SimulatedLinks::new(1, None, 2);
        links.set_rules(&BTreeMap::from([(LINK, rule)]));
        links
    }

    #[tokio::test(start_paused = true)]
    async fn message_takes_the_time_of_its_link_and_is_lost_where_that_is_cut_meanwhile() {
        let slow = LinkRule { latency: Duration::from_millis(40), ..LinkRule::PERFECT };
        let links = links(slow);
        let Passage::After(took, first) = links.send_over(LINK, 10) else { panic!("nothing is in its way") };
        assert_eq!(took, slow.latency);
        assert!(links.arrives_over(LINK, first));
        let Passage::After(_, second) = links.send_over(LINK, 10) else { panic!("nothing is in its way") };
        links.set_rules(&BTreeMap::from([(LINK, LinkRule::CUT)]));
        assert!(matches!(links.send_over(LINK, 10), Passage::Again(_)));
        links.set_rules(&BTreeMap::new());
        assert!(!links.arrives_over(LINK, second));
        let counts = links.counts()[&LINK];
        let Held::Counted { total } = counts.held else { panic!("it measures") };
        assert_eq!((counts.judged, counts.delivered, counts.dropped_cut), (3, 1, 2));
        assert_eq!((counts.delivered_bytes, total), (10, slow.latency));
    }

    #[tokio::test(start_paused = true)]
    async fn frames_are_lost_doubled_and_changed_that_the_seed_says() {
        let rule = LinkRule {
            loss_per_million: 200_000,
            duplicate_per_million: 100_000,
            corrupt_per_million: 50_000,
            ..LinkRule::PERFECT
        };
        let links = links(rule);
        let arrived = (0..1000).filter(|_| match links.send_over(LINK, 1) {
            Passage::After(_, flight) => links.arrives_over(LINK, flight),
            Passage::Again(_) => false,
        });
        let arrived = arrived.count() as u64;
        let counts = links.counts()[&LINK];
        let fates = (0..1000)
            .flat_map(|n| [Some(fate(&rule, 1, link_id(LINK), n)), copy_fate(&rule, 1, link_id(LINK), n)]);
        let (mut lost, mut changed, mut all) = (0, 0, 0);
        for fate in fates.flatten() {
            all += 1;
            match fate {
                Fate::Drop(_) => lost += 1,
                Fate::Deliver(passage) => changed += u64::from(passage.is_corrupt()),
            }
        }
        assert_eq!((counts.judged, counts.duplicated), (1000, all - 1000));
        assert_eq!((counts.dropped_loss, counts.corrupted), (lost, changed));
        assert_eq!(counts.delivered, all - lost);
        assert!((700..820).contains(&arrived), "{arrived}");
    }
}
