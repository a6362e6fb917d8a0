//! What the kernel says at one instant, or nearly so.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use rtnetlink::Handle;

use super::devices::port_name;
use super::nft::Way;
use super::tally::Copies;
use super::tc::{self, ClassCounts, Leaf};
use super::{KernelError, KernelFabric, State, numbered};
use crate::fabric::TapError;
use crate::fabric::netlink::answer;
use crate::link::LinkId;

/// What the kernel says.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) classes: BTreeMap<LinkId, ClassCounts>,
    pub(super) leaves: BTreeMap<LinkId, Leaf>,
    /// What each link that is cut has swallowed since then.
    pub(super) cuts: BTreeMap<Way, u64>,
    /// The rules that copy frames, by their names.
    pub(super) copies: BTreeMap<String, Copies>,
    pub(super) unclassified: u64,
}

impl KernelFabric {
    pub(super) async fn read(&self, handle: &Handle, state: &State) -> Result<Reading, KernelError> {
        let mut reading = Reading::default();
        let by_index: BTreeMap<u32, u16> =
            numbered(&self.ports).map(|(number, port)| (port.index, number)).collect();
        // First what has left a queue and then what is in it: a frame that leaves it in between is missed, and not seen twice.
        for (to, port) in numbered(&self.ports) {
            let index = i32::try_from(port.index).expect("the kernel counts interfaces by an int");
            let mut classes = handle.traffic_class(index).get().execute();
            let failed = |error| unread(&port_name(to), error);
            while let Some(message) = classes.try_next().await.map_err(failed)? {
                if let Some(class) = tc::class_counts(&message) {
                    reading.classes.insert(LinkId::new(class.sender, to), class);
                }
            }
        }
        let mut qdiscs = handle.qdisc().get().execute();
        while let Some(message) = qdiscs.try_next().await.map_err(|error| unread("all queues", error))? {
            let leaf = tc::leaf_state(&message);
            if let Some((leaf, to)) = leaf.and_then(|leaf| Some((leaf, *by_index.get(&leaf.index)?))) {
                reading.leaves.insert(LinkId::new(leaf.sender, to), leaf);
            }
            reading.unclassified += tc::unclassified(&message).unwrap_or_default();
        }
        if state.links.values().any(|link| link.rule.cut) {
            reading.cuts = self.nft.cuts()?;
        }
        // After the queues: a copy that was not seen there yet is none of the frames that came.
        if state.links.values().any(|link| link.copies_per_million() > 0) {
            reading.copies = self.nft.copies()?;
        }
        Ok(reading)
    }
}

fn unread(name: &str, error: rtnetlink::Error) -> KernelError {
    let (doing, name) = ("reading the counters", name.to_owned());
    TapError::Netlink { doing, name, source: answer(error) }.into()
}
