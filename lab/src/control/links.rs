//! The links of a lab: what the scenario says for good and what was done by hand on top of it. It changes no link itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use super::protocol::{EffectChange, LinkStatus};
use crate::cluster::{FrameCounts, NodePair};
use crate::link::LinkRule;
use crate::plan::{LinkEffect, Plan};
use crate::scenario::{Mistake, impossible_effect};

/// What was done by hand to some links.
pub(super) type ByHand = BTreeMap<NodePair, Hand>;

/// What was done by hand to one directed link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Hand {
    /// Whether it was cut; it stays cut until it is healed.
    is_cut: bool,
    effect: LinkEffect,
}

impl Hand {
    fn rule(&self) -> LinkRule {
        if self.is_cut { LinkRule::CUT } else { self.effect.rule() }
    }
}

/// What can be done by hand.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// Nothing passes any more.
    Cut,
    /// Frames are late or lost.
    Effect(EffectChange),
    /// What was done by hand is taken back.
    Heal,
}

/// The links of a lab.
#[derive(Debug)]
pub(super) struct LinkTable {
    standing: BTreeMap<NodePair, LinkRule>,
    by_hand: ByHand,
    /// Since when a link is what it is, of those that are not perfect.
    marks: BTreeMap<NodePair, Mark>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    at: Duration,
    counts: FrameCounts,
}

impl LinkTable {
    /// The links as the scenario has them.
    pub(super) fn new(plan: &Plan) -> Self {
        let standing = plan.links.iter().map(|link| ((link.from, link.to), link.effect.rule())).collect();
        Self { standing, by_hand: ByHand::new(), marks: BTreeMap::new() }
    }

    /// The links to which something was done by hand.
    pub(super) fn touched(&self) -> BTreeSet<NodePair> {
        self.by_hand.keys().copied().collect()
    }

    /// What is done by hand after a change.
    ///
    /// # Errors
    /// No link can do that.
    pub(super) fn changed(&self, pairs: &BTreeSet<NodePair>, change: Change) -> Result<ByHand, Mistake> {
        let mut by_hand = self.by_hand.clone();
        for pair in pairs {
            let before = by_hand.get(pair).copied().unwrap_or_default();
            let after = match change {
                Change::Cut => Hand { is_cut: true, ..before },
                Change::Heal => Hand::default(),
                Change::Effect(change) => {
                    let effect = change.over(before.effect);
                    if let Some(mistake) = impossible_effect(effect) {
                        return Err(mistake);
                    }
                    if effect.is_cut() {
                        Hand { is_cut: true, effect: before.effect }
                    } else {
                        Hand { effect, ..before }
                    }
                }
            };
            if after == Hand::default() {
                by_hand.remove(pair)
            } else {
                by_hand.insert(*pair, after)
            };
        }
        Ok(by_hand)
    }

    /// The rules of all links that are not perfect, with this done by hand.
    pub(super) fn rules(&self, by_hand: &ByHand) -> BTreeMap<NodePair, LinkRule> {
        let pairs: BTreeSet<NodePair> = self.standing.keys().chain(by_hand.keys()).copied().collect();
        let rule = |pair: NodePair| {
            let standing = self.standing.get(&pair).copied();
            let parts: Vec<LinkRule> =
                standing.into_iter().chain(by_hand.get(&pair).map(Hand::rule)).collect();
            LinkRule::composed(&parts)
        };
        pairs.into_iter().map(|pair| (pair, rule(pair))).collect()
    }

    /// Notes that this is in force from now on.
    pub(super) fn commit(&mut self, by_hand: ByHand, at: Duration, counts: &BTreeMap<NodePair, FrameCounts>) {
        let (before, after) = (self.rules(&self.by_hand), self.rules(&by_hand));
        self.marks.retain(|pair, _| after.get(pair) == before.get(pair));
        for pair in after.keys() {
            let counts = counts.get(pair).copied().unwrap_or_default();
            self.marks.entry(*pair).or_insert(Mark { at, counts });
        }
        self.by_hand = by_hand;
    }

    /// How many of these links are cut after a change that has not cut them, and what mends that; nothing if none is.
    pub(super) fn still_cut(&self, pairs: &BTreeSet<NodePair>) -> String {
        let is_cut_by_hand = |pair: &&NodePair| self.by_hand.get(*pair).is_some_and(|hand| hand.is_cut);
        let is_cut_for_good = |pair: &&NodePair| self.standing.get(*pair).is_some_and(|rule| rule.cut);
        let mut text = String::new();
        match pairs.iter().filter(is_cut_by_hand).count() {
            0 => {}
            count => {
                let _ = write!(text, "; {count} still cut, until `lab heal`");
            }
        }
        match pairs.iter().filter(is_cut_for_good).count() {
            0 => {}
            count => {
                let _ = write!(text, "; {count} cut by the scenario, for good");
            }
        }
        text
    }

    /// The links that are not perfect, in order.
    pub(super) fn status(
        &self,
        plan: &Plan,
        now: Duration,
        counts: &BTreeMap<NodePair, FrameCounts>,
    ) -> Vec<LinkStatus> {
        let name = |node: crate::plan::NodeIndex| plan.nodes[node.position()].name.clone();
        let status = |(pair, rule): (NodePair, LinkRule)| {
            let mark = self.marks.get(&pair).copied().unwrap_or_default();
            let counts = counts.get(&pair).copied().unwrap_or_default();
            let dropped = |counts: FrameCounts| counts.dropped_cut + counts.dropped_loss;
            LinkStatus {
                from: name(pair.0),
                to: name(pair.1),
                is_cut: rule.cut,
                effect: LinkEffect::of(&rule),
                is_by_hand: self.by_hand.contains_key(&pair),
                in_force_ms: millis(now.saturating_sub(mark.at)),
                frames: counts.judged.saturating_sub(mark.counts.judged),
                frames_dropped: dropped(counts).saturating_sub(dropped(mark.counts)),
            }
        };
        self.rules(&self.by_hand).into_iter().map(status).collect()
    }
}

/// Whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::NodeIndex;
    use crate::scenario::Scenario;

    const THERE: NodePair = (NodeIndex(0), NodeIndex(1));
    const BACK: NodePair = (NodeIndex(1), NodeIndex(0));

    fn plan() -> Plan {
        let text = "name: links\nabout: Links.\nnodes: { count: 2 }\nlinks: [{ from: n1, to: n2, latency: 40ms }]\n\
                    checks: [linearizable]\n";
        Plan::new(&Scenario::parse("links.yaml", text).unwrap(), 1)
    }

    fn latency(ms: u32) -> Change {
        Change::Effect(EffectChange { latency_ms: Some(ms), ..EffectChange::default() })
    }

    fn counts(dropped_cut: u64) -> BTreeMap<NodePair, FrameCounts> {
        BTreeMap::from([(THERE, FrameCounts { judged: dropped_cut, dropped_cut, ..FrameCounts::default() })])
    }

    fn change(table: &mut LinkTable, pairs: &[NodePair], change: Change, at_s: u64, dropped: u64) {
        let by_hand = table.changed(&pairs.iter().copied().collect(), change).unwrap();
        table.commit(by_hand, Duration::from_secs(at_s), &counts(dropped));
    }

    /// Every link that is not perfect: which, what, by whom, for how long, frames dropped.
    fn lines(table: &LinkTable, at_s: u64, dropped: u64) -> Vec<String> {
        let status = table.status(&plan(), Duration::from_secs(at_s), &counts(dropped));
        let line = |link: &LinkStatus| {
            let what = if link.is_cut { "cut".to_owned() } else { link.effect.to_string() };
            let who = if link.is_by_hand { "by hand" } else { "scenario" };
            format!("{}>{} {what} {who} {} {}", link.from, link.to, link.in_force_ms, link.frames_dropped)
        };
        status.iter().map(line).collect()
    }

    #[test]
    fn what_is_done_by_hand_lies_on_what_the_scenario_says_and_healing_leaves_that() {
        let mut table = LinkTable::new(&plan());
        change(&mut table, &[], Change::Heal, 0, 0);
        assert_eq!(lines(&table, 1, 0), ["n1>n2 40 ms scenario 1000 0"]);
        change(&mut table, &[THERE, BACK], Change::Cut, 2, 10);
        assert_eq!(lines(&table, 5, 17), ["n1>n2 cut by hand 3000 7", "n2>n1 cut by hand 3000 0"]);
        // A cut wins, and what else is done counts once it is healed.
        change(&mut table, &[BACK], latency(5), 6, 17);
        assert_eq!(lines(&table, 6, 17), ["n1>n2 cut by hand 4000 7", "n2>n1 cut by hand 4000 0"]);
        change(&mut table, &[THERE], Change::Heal, 7, 20);
        assert_eq!(lines(&table, 8, 20), ["n1>n2 40 ms scenario 1000 0", "n2>n1 cut by hand 6000 0"]);
        change(&mut table, &[THERE], latency(2), 9, 20);
        assert_eq!(lines(&table, 9, 20)[0], "n1>n2 42 ms by hand 0 0");
        let touched = table.touched();
        assert_eq!(touched, BTreeSet::from([THERE, BACK]));
        change(&mut table, &[THERE, BACK], Change::Heal, 10, 20);
        assert_eq!(lines(&table, 10, 20), ["n1>n2 40 ms scenario 0 0"]);
    }

    #[test]
    fn a_later_change_replaces_what_it_gives_and_zero_takes_it_away() {
        let mut table = LinkTable::new(&plan());
        change(&mut table, &[BACK], latency(20), 0, 0);
        let loss = EffectChange { loss_per_million: Some(10_000), ..EffectChange::default() };
        change(&mut table, &[BACK], Change::Effect(loss), 1, 0);
        assert_eq!(lines(&table, 1, 0)[1], "n2>n1 20 ms, 1 % loss by hand 0 0");
        let none = EffectChange { latency_ms: Some(0), loss_per_million: Some(0), ..EffectChange::default() };
        change(&mut table, &[BACK], Change::Effect(none), 2, 0);
        assert_eq!(lines(&table, 2, 0).len(), 1);
    }

    /// `lab link n1 n2 --loss 0%` on a cut link once said that the link was as the scenario has it.
    #[test]
    fn cut_that_outlasts_a_change_of_the_link_is_told() {
        let mut table = LinkTable::new(&plan());
        let both = BTreeSet::from([THERE, BACK]);
        change(&mut table, &[THERE, BACK], Change::Cut, 0, 0);
        let none = EffectChange { loss_per_million: Some(0), ..EffectChange::default() };
        change(&mut table, &[BACK], Change::Effect(none), 1, 0);
        assert_eq!(table.still_cut(&both), "; 2 still cut, until `lab heal`");
        change(&mut table, &[THERE], Change::Heal, 2, 0);
        assert_eq!(table.still_cut(&BTreeSet::from([THERE])), "");
        table.standing.insert(BACK, LinkRule::CUT);
        let want = "; 1 still cut, until `lab heal`; 1 cut by the scenario, for good";
        assert_eq!(table.still_cut(&both), want);
    }

    #[test]
    fn what_no_link_can_do_is_refused_and_changes_nothing() {
        let table = LinkTable::new(&plan());
        let jitter = EffectChange { jitter_ms: Some(5), ..EffectChange::default() };
        let refused = table.changed(&BTreeSet::from([BACK]), Change::Effect(jitter)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "jitter is 5ms, more than the latency of 0s: frames cannot arrive before they were sent"
        );
        let whole = EffectChange { loss_per_million: Some(1_000_000), ..EffectChange::default() };
        let cut = table.changed(&BTreeSet::from([BACK]), Change::Effect(whole)).unwrap();
        assert_eq!(table.rules(&cut)[&BACK], LinkRule::CUT);
    }
}
