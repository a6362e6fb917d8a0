//! Changes of the rules, in an order in which nothing passes that should not, and every counter is that of the right instant.

use std::collections::BTreeMap;

use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;

use super::build::tell;
use super::nft::Copying;
use super::reading::Reading;
use super::tc::{self, Netem};
use super::{
    KernelCounters, KernelError, KernelFabric, KernelSnapshot, LinkState, State, copies_per_million,
    copying_name, draw, is_alike,
};
use crate::link::{LinkId, LinkRule};

impl KernelFabric {
    /// Makes these rules hold, each other than before; the counters when they took hold.
    pub(super) async fn change(
        &self,
        handle: &Handle,
        state: &mut State,
        wanted: &[(LinkId, LinkRule)],
    ) -> Result<KernelSnapshot, KernelError> {
        let reading = self.read(handle, state).await?;
        let mut snapshot = self.count(state, &reading);
        for (link, rule) in wanted.iter().filter(|(_, rule)| !rule.cut) {
            self.shape(handle, state, *link, *rule).await?;
        }
        let (cut, healed) = self.cut(state, wanted, &reading)?;
        self.empty(handle, state, &cut).await?;
        for (link, rule) in wanted {
            state.links.get_mut(link).expect("it was checked").rule = *rule;
        }
        if wanted.is_empty() {
            return Ok(snapshot);
        }
        let reading = self.read(handle, state).await?;
        let after = self.count(state, &reading);
        for (link, asked) in wanted {
            let found = after.link(*link).in_force;
            if !is_alike(asked, &found) {
                let (asked, found) = (Box::new(*asked), Box::new(found));
                return Err(KernelError::NotInForce { link: *link, asked, found });
            }
        }
        // What a healed link says is what it was while it was cut; what is in force is that of now.
        debug_assert!(healed.iter().all(|link| !after.link(*link).in_force.cut));
        for (link, counters) in &mut snapshot.links {
            let after = after.link(*link);
            *counters = if cut.contains(link) {
                after
            } else {
                KernelCounters { in_force: after.in_force, ..*counters }
            };
        }
        Ok(snapshot)
    }

    /// Tells the netem of an open link what to do.
    async fn shape(
        &self,
        handle: &Handle,
        state: &mut State,
        link: LinkId,
        rule: LinkRule,
    ) -> Result<(), KernelError> {
        let link_state = state.links.get_mut(&link).expect("it was checked");
        if !self.has_netem || Netem::of(&link_state.shaped) == Netem::of(&rule) {
            return Ok(());
        }
        link_state.changes_count += 1;
        link_state.shaped = rule;
        // It is changed and not replaced: the frames that it holds leave when they were to leave.
        self.tell(handle, link, link_state, 0).await
    }

    /// Sends a link's netem as it is to be.
    async fn tell(
        &self,
        handle: &Handle,
        link: LinkId,
        state: &LinkState,
        flags: u16,
    ) -> Result<(), KernelError> {
        let index = self.ports[usize::from(link.to.0)].index;
        let seed = draw(self.seed, link, state.changes_count);
        let message = tc::leaf(index, link.from.0, state.turn, &Netem::of(&state.shaped), seed);
        Ok(tell(
            handle,
            link.to.0,
            "telling a netem what to do",
            RouteNetlinkMessage::NewQueueDiscipline(message),
            flags,
        )
        .await?)
    }

    /// Cuts, heals and copies, at one instant; which links became cut, and which were healed.
    fn cut(
        &self,
        state: &mut State,
        wanted: &[(LinkId, LinkRule)],
        reading: &Reading,
    ) -> Result<(Vec<LinkId>, Vec<LinkId>), KernelError> {
        let which = |is_cut: bool| {
            let changed = wanted
                .iter()
                .filter(|(link, rule)| rule.cut == is_cut && state.links[link].rule.cut != is_cut);
            changed.map(|(link, _)| *link).collect::<Vec<_>>()
        };
        let (cut, healed) = (which(true), which(false));
        let copying = self.copying_after(state, wanted);
        if !cut.is_empty() || !healed.is_empty() || copying.is_some() {
            let ways = |links: &[LinkId]| links.iter().map(|link| self.way(*link)).collect::<Vec<_>>();
            self.nft.change(&ways(&cut), &ways(&healed), copying.as_deref())?;
        }
        for link in &healed {
            let swallowed = reading.cuts.get(&self.way(*link)).copied().unwrap_or_default();
            state.links.get_mut(link).expect("it was checked").tally.heal(swallowed);
        }
        if copying.is_some() {
            // All rules are new, and their counters with them.
            for (link, link_state) in &mut state.links {
                let copies = reading.copies.get(&copying_name(*link)).copied().unwrap_or_default();
                link_state.tally.forget_copies(copies.made);
            }
        }
        Ok((cut, healed))
    }

    /// The rules that copy frames, if any of them changes.
    fn copying_after(&self, state: &State, wanted: &[(LinkId, LinkRule)]) -> Option<Vec<Copying>> {
        let before: BTreeMap<LinkId, u32> =
            state.links.iter().map(|(link, state)| (*link, state.copies_per_million())).collect();
        let mut after = before.clone();
        after.extend(wanted.iter().map(|(link, rule)| (*link, copies_per_million(rule))));
        let copied = after.iter().filter(|(_, share)| **share > 0);
        (after != before).then(|| copied.map(|(link, share)| self.copying(*link, *share)).collect())
    }

    /// Takes away the frames that links hold which are cut now: nothing joins them any more.
    async fn empty(&self, handle: &Handle, state: &mut State, cut: &[LinkId]) -> Result<(), KernelError> {
        if cut.is_empty() || !self.has_netem {
            return Ok(());
        }
        let before = self.read(handle, state).await?;
        let mut emptied = Vec::new();
        for link in cut {
            let Some(leaf) = before.leaves.get(link).filter(|leaf| leaf.held > 0) else { continue };
            let link_state = state.links.get_mut(link).expect("it was checked");
            link_state.turn = !link_state.turn;
            link_state.changes_count += 1;
            self.tell(handle, *link, link_state, NLM_F_CREATE | NLM_F_REPLACE).await?;
            emptied.push((*link, *leaf));
        }
        let after = self.read(handle, state).await?;
        for (link, leaf) in emptied {
            let passed = |reading: &Reading| reading.classes.get(&link).map_or(0, |class| class.frames);
            let escaped = passed(&after).saturating_sub(passed(&before));
            let tally = &mut state.links.get_mut(&link).expect("it was checked").tally;
            tally.empty(&leaf, leaf.held.saturating_sub(escaped));
        }
        Ok(())
    }
}
