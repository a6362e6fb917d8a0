//! The links of a run: what standing links and faults do to each of them together, what was counted whenever that changed,
//! and probes over them. It decides nothing and proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::join_all;

use super::Stage;
use crate::cluster::{Clock, Cluster, ClusterError, FrameCounts, NodePair, Probe};
use crate::fabric::FabricKind;
use crate::limits::{
    CUT_PROBE_WAIT, LOSSY_PROBE_TRIES_MAX, LOSSY_PROBES_AT_ONCE, PROBE_TRIES_MAX, REACH_MAX,
};
use crate::link::LinkRule;
use crate::plan::Plan;

/// The rules of some links.
pub(super) type Rules = BTreeMap<NodePair, LinkRule>;
/// The round trips that were measured over some links.
pub(super) type RoundTrips = BTreeMap<NodePair, Vec<Duration>>;
/// What was counted on some links, for each in the order of time.
pub(super) type Counted = BTreeMap<NodePair, Vec<Piece>>;

/// A time during which a link had one rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Piece {
    /// The rule: everything that was done to the link, together.
    pub(super) rule: LinkRule,
    /// The frames when it took hold.
    pub(super) began: FrameCounts,
    /// The frames when it ended.
    pub(super) ended: FrameCounts,
}

/// The links of one run.
pub(super) struct Links {
    cluster: Arc<dyn Cluster>,
    clock: Arc<dyn Clock>,
    table: Mutex<Table>,
    /// Held while a fault begins and measures what it does, so that no other one begins then.
    striking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Table {
    /// What holds for the whole run.
    standing: Rules,
    /// What each fault does that is in force, by its number in the notebook.
    faults: BTreeMap<usize, Struck>,
    /// What was counted when a fault began or ended that changes the link. As long as the plan has such moments.
    readings: BTreeMap<NodePair, Vec<Reading>>,
}

struct Struck {
    rules: Rules,
    /// The position of the reading with which it began, for each of its links.
    marks: BTreeMap<NodePair, usize>,
}

/// From here on a link has this rule.
struct Reading {
    rule: LinkRule,
    counts: FrameCounts,
}

impl Table {
    /// Everything that is done to a link.
    fn parts(&self, pair: NodePair) -> impl Iterator<Item = LinkRule> + '_ {
        let faults = self.faults.values().filter_map(move |struck| struck.rules.get(&pair));
        self.standing.get(&pair).into_iter().chain(faults).copied()
    }

    fn rule(&self, pair: NodePair) -> LinkRule {
        LinkRule::composed(&self.parts(pair).collect::<Vec<_>>())
    }

    /// The rules of all links to which anything is done.
    fn rules(&self) -> Rules {
        let faults = self.faults.values().flat_map(|struck| struck.rules.keys());
        self.standing.keys().chain(faults).map(|pair| (*pair, self.rule(*pair))).collect()
    }

    /// What was counted from a reading on.
    fn pieces(&self, pair: NodePair, mark: usize) -> Vec<Piece> {
        let readings = self.readings.get(&pair).map(Vec::as_slice).unwrap_or_default();
        let pairs = readings.windows(2).skip(mark);
        pairs.map(|pair| Piece { rule: pair[0].rule, began: pair[0].counts, ended: pair[1].counts }).collect()
    }
}

impl Links {
    pub(super) fn new(stage: &Stage) -> Self {
        Self {
            cluster: stage.cluster.clone(),
            clock: stage.clock.clone(),
            table: Mutex::default(),
            striking: tokio::sync::Mutex::default(),
        }
    }

    /// The right to begin a fault of links. One that ends needs none: it cannot close what another has found open.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.striking.lock().await
    }

    /// Makes the links what they are for the whole run.
    pub(super) fn stand(&self, rules: Rules) -> Result<(), ClusterError> {
        let mut table = self.table();
        let pairs: Vec<NodePair> = rules.keys().copied().collect();
        table.standing = rules;
        self.apply(&mut table, &pairs)
    }

    /// What was counted on the standing links so far.
    pub(super) fn stood(&self) -> Result<Counted, ClusterError> {
        let mut table = self.table();
        let pairs: Vec<NodePair> = table.standing.keys().copied().collect();
        self.apply(&mut table, &pairs)?;
        Ok(pairs.into_iter().map(|pair| (pair, table.pieces(pair, 0))).collect())
    }

    /// Does what a fault does, on top of everything else.
    pub(super) fn strike(&self, number: usize, rules: Rules) -> Result<(), ClusterError> {
        let mut table = self.table();
        let pairs: Vec<NodePair> = rules.keys().copied().collect();
        let mark = |pair: &NodePair| (*pair, table.readings.get(pair).map_or(0, Vec::len));
        let marks = pairs.iter().map(mark).collect();
        table.faults.insert(number, Struck { rules, marks });
        self.apply(&mut table, &pairs)
    }

    /// Takes back what a fault did, and nothing else; what was counted on its links.
    pub(super) fn heal(&self, number: usize) -> Result<Counted, ClusterError> {
        let mut table = self.table();
        let Some(Struck { rules, marks }) = table.faults.remove(&number) else { return Ok(Counted::new()) };
        let pairs: Vec<NodePair> = rules.into_keys().collect();
        self.apply(&mut table, &pairs)?;
        Ok(marks.into_iter().map(|(pair, mark)| (pair, table.pieces(pair, mark))).collect())
    }

    /// The rule that a link has now.
    pub(super) fn rule(&self, pair: NodePair) -> LinkRule {
        self.table().rule(pair)
    }

    /// Whether a frame can go over a link and an answer come back.
    pub(super) fn is_open(&self, (from, to): NodePair) -> bool {
        !self.rule((from, to)).cut && !self.rule((to, from)).cut
    }

    /// Whether a probe over a link says something about it: a frame can go and an answer come back, and both ends are there to
    /// send them.
    pub(super) fn can_be_probed(&self, (from, to): NodePair) -> bool {
        self.is_open((from, to)) && self.cluster.takes_part(from) && self.cluster.takes_part(to)
    }

    /// Those of some links over which nobody sends anything, since their machine is off or stands still.
    pub(super) fn silent(&self, pairs: &[NodePair]) -> BTreeSet<NodePair> {
        pairs.iter().copied().filter(|(from, _)| !self.cluster.takes_part(*from)).collect()
    }

    /// Which fabric they are of: what it leaves as a receipt.
    pub(super) fn fabric(&self) -> FabricKind {
        self.cluster.fabric()
    }

    /// The frames of every link.
    pub(super) fn counts(&self) -> Result<BTreeMap<NodePair, FrameCounts>, ClusterError> {
        self.cluster.frame_counts()
    }

    /// Probes that have to be answered, over each link: a late or lost answer is no proof of anything, so it is asked for
    /// again.
    pub(super) async fn reach(&self, pairs: &[NodePair]) -> Result<Vec<(NodePair, Probe)>, ClusterError> {
        let reached = self.round_trips(pairs, 1, self.clock.now() + REACH_MAX).await?;
        let probe =
            |times: Vec<Duration>| times.first().map_or(Probe::Unanswered, |time| Probe::Answered(*time));
        Ok(reached.into_iter().map(|(pair, times)| (pair, probe(times))).collect())
    }

    /// One probe over each link.
    pub(super) async fn probe_once(
        &self,
        pairs: &[NodePair],
    ) -> Result<Vec<(NodePair, Probe)>, ClusterError> {
        let probes = pairs.iter().map(|pair| async move { Ok((*pair, self.probe(*pair).await?)) });
        join_all(probes).await.into_iter().collect()
    }

    /// How often a link's rule was set: who measures it has measured one rule if this has not changed.
    pub(super) fn changes(&self, (from, to): NodePair) -> usize {
        let table = self.table();
        [(from, to), (to, from)].iter().filter_map(|pair| table.readings.get(pair)).map(Vec::len).sum()
    }

    /// Times so many round trips over each link. Over links that lose frames, and when `until` has come, it may be fewer.
    pub(super) async fn round_trips(
        &self,
        pairs: &[NodePair],
        count: usize,
        until: Duration,
    ) -> Result<RoundTrips, ClusterError> {
        let measured = pairs.iter().map(|pair| async move {
            let (tries, at_once) = self.tries(*pair);
            let mut times = Vec::new();
            for _ in 0..(count + tries).div_ceil(at_once) {
                if times.len() >= count {
                    break;
                }
                let volley = vec![*pair; at_once];
                let probed = tokio::select! {
                    biased;
                    probed = self.probe_once(&volley) => probed?,
                    () = self.clock.sleep_until(until) => break,
                };
                for (_, probe) in probed {
                    if let Probe::Answered(time) = probe {
                        times.push(time);
                    }
                }
            }
            Ok((*pair, times))
        });
        join_all(measured).await.into_iter().collect()
    }

    /// Waits as long as the answer may take where nothing is cut, and somewhat longer.
    async fn probe(&self, (from, to): NodePair) -> Result<Probe, ClusterError> {
        let round_trip: Duration = {
            let table = self.table();
            let planned = |pair| {
                let rules: Vec<LinkRule> = table.parts(pair).filter(|rule| !rule.cut).collect();
                let rule = LinkRule::composed(&rules);
                rule.latency + rule.jitter
            };
            planned((from, to)) + planned((to, from))
        };
        self.cluster.probe(from, to, CUT_PROBE_WAIT + round_trip).await
    }

    /// How often a probe is repeated until it is answered, and how many are under way at once.
    fn tries(&self, (from, to): NodePair) -> (usize, usize) {
        // A frame that was changed is refused by its receiver.
        let is_lossy = |pair| {
            let rule = self.rule(pair);
            rule.loss_per_million > 0 || rule.corrupt_per_million > 0
        };
        if is_lossy((from, to)) || is_lossy((to, from)) {
            (LOSSY_PROBE_TRIES_MAX, LOSSY_PROBES_AT_ONCE)
        } else {
            (PROBE_TRIES_MAX, 1)
        }
    }

    /// Sets every rule anew, and notes what was counted on the links that have changed.
    fn apply(&self, table: &mut Table, pairs: &[NodePair]) -> Result<(), ClusterError> {
        let counts = self.cluster.set_links(&table.rules())?;
        for pair in pairs {
            let reading =
                Reading { rule: table.rule(*pair), counts: counts.get(pair).copied().unwrap_or_default() };
            table.readings.entry(*pair).or_default().push(reading);
        }
        Ok(())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("nothing panics while it holds this lock")
    }
}

/// A link as a person writes it.
pub(super) fn link_name(plan: &Plan, (from, to): NodePair) -> String {
    format!("{} -> {}", plan.nodes[from.position()].name, plan.nodes[to.position()].name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::NodeIndex;

    const LINK: NodePair = (NodeIndex(0), NodeIndex(1));
    const BACK: NodePair = (NodeIndex(1), NodeIndex(0));

    fn slow(latency_ms: u64) -> LinkRule {
        LinkRule { latency: Duration::from_millis(latency_ms), ..LinkRule::default() }
    }

    fn struck(rules: &[(NodePair, LinkRule)]) -> Struck {
        Struck { rules: rules.iter().copied().collect(), marks: BTreeMap::new() }
    }

    #[test]
    fn healing_one_fault_leaves_what_the_others_and_the_whole_run_say() {
        let mut table = Table::default();
        table.standing.insert(LINK, slow(40));
        assert_eq!(table.rules(), Rules::from([(LINK, slow(40))]));
        table.faults.insert(7, struck(&[(LINK, slow(2)), (BACK, slow(3))]));
        table.faults.insert(8, struck(&[(LINK, LinkRule::CUT)]));
        table.faults.insert(9, struck(&[(LINK, LinkRule::CUT)]));
        assert_eq!(table.rules(), Rules::from([(LINK, LinkRule::CUT), (BACK, slow(3))]));
        table.faults.remove(&8);
        assert_eq!(table.rule(LINK), LinkRule::CUT);
        table.faults.remove(&9);
        assert_eq!(table.rules(), Rules::from([(LINK, slow(42)), (BACK, slow(3))]));
        table.faults.remove(&7);
        assert_eq!(table.rules(), Rules::from([(LINK, slow(40))]));
        assert_eq!(table.rule(BACK), LinkRule::default());
    }

    #[test]
    fn what_was_counted_is_cut_where_the_rule_changed() {
        let reading = |latency_ms, judged| Reading {
            rule: slow(latency_ms),
            counts: FrameCounts { judged, ..FrameCounts::default() },
        };
        let mut table = Table::default();
        table.readings.insert(LINK, vec![reading(1, 5), reading(2, 7), reading(3, 7), reading(1, 20)]);
        let pieces = |mark| {
            let pieces = table.pieces(LINK, mark).into_iter();
            pieces.map(|piece| (piece.rule, piece.began.judged, piece.ended.judged)).collect::<Vec<_>>()
        };
        assert_eq!(pieces(0), [(slow(1), 5, 7), (slow(2), 7, 7), (slow(3), 7, 20)]);
        assert_eq!(pieces(1), [(slow(2), 7, 7), (slow(3), 7, 20)]);
        assert_eq!(pieces(3), []);
        assert_eq!(table.pieces(BACK, 0), []);
    }
}
