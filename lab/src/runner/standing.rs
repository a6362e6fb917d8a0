//! The links that are not perfect for the whole run, and the proof that they were not.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Stage;
use super::links::{Links, RoundTrips, Rules};
use super::proofs::{self, Share};
use super::record::{Conduct, LinksRecord};
use crate::cluster::{ClusterError, FrameCounts, NodePair};
use crate::limits::{PROBES_TIMED, RESTART_WAIT_MAX};
use crate::link::LinkRule;
use crate::plan::Plan;

/// What was measured before the cluster was founded.
pub(super) struct Standing {
    links: Arc<Links>,
    plan: Arc<Plan>,
    rules: Rules,
    before: RoundTrips,
    during: RoundTrips,
    /// The frames when the first round trips under the rules were over.
    began: BTreeMap<NodePair, FrameCounts>,
}

impl Standing {
    /// Makes the links what they are for the whole run. Every node runs by now: a virtual machine answers no probe before.
    pub(super) async fn begin(stage: &Stage, links: Arc<Links>) -> Result<Self, ClusterError> {
        let rules: Rules =
            stage.plan.links.iter().map(|link| ((link.from, link.to), link.effect.rule())).collect();
        let slow: Vec<NodePair> =
            rules.iter().filter(|(_, rule)| !rule.latency.is_zero()).map(|(pair, _)| *pair).collect();
        let until = stage.clock.now() + RESTART_WAIT_MAX;
        let before = links.round_trips(&slow, PROBES_TIMED, until).await?;
        links.stand(rules.clone())?;
        links.round_trips(&slow, 1, until).await?;
        let began = links.counts()?;
        let during = links.round_trips(&slow, PROBES_TIMED, until).await?;
        Ok(Self { links, plan: stage.plan.clone(), rules, before, during, began })
    }

    /// Notes what the links did to the run, before its nodes are stopped.
    pub(super) fn end(&self, conduct: &Conduct) -> Result<(), ClusterError> {
        if self.rules.is_empty() {
            return Ok(());
        }
        let counted = self.links.stood()?;
        let mut proofs = Vec::new();
        let of = |is_one: &dyn Fn(&LinkRule) -> bool| {
            let mut some = counted.clone();
            some.retain(|pair, _| self.rules.get(pair).is_some_and(is_one));
            some
        };
        let late = of(&|rule| !rule.latency.is_zero() || rule.bits_per_s.is_some());
        if !late.is_empty() {
            let trips = [(&self.before, &Rules::new()), (&self.during, &self.rules)];
            proofs.extend(proofs::round_trips(&self.plan, &self.rules, trips));
            proofs.push(proofs::late(&self.plan, self.links.fabric(), &late, &self.began));
        }
        for share in Share::ALL {
            let some = of(&|rule| share.per_million(rule) > 0);
            if !some.is_empty() {
                proofs.push(proofs::share(&self.plan, self.links.fabric(), &some, share));
            }
        }
        let links = self.rules.keys().copied().collect();
        conduct.links(LinksRecord { text: text(&self.plan), links, proofs });
        Ok(())
    }
}

/// The links with what is done to them, those that are treated alike together.
fn text(plan: &Plan) -> String {
    let mut alike: BTreeMap<String, Vec<NodePair>> = BTreeMap::new();
    for link in &plan.links {
        alike.entry(link.effect.to_string()).or_default().push((link.from, link.to));
    }
    let name = |pair: &NodePair| super::links::link_name(plan, *pair);
    let groups = alike.into_iter().map(|(effect, pairs)| match pairs.as_slice() {
        [pair] => format!("{} {effect}", name(pair)),
        pairs => format!("{} links {effect}", pairs.len()),
    });
    format!("links for the whole run: {}", groups.collect::<Vec<_>>().join("; "))
}
