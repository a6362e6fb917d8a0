//! Decides registers whose values are unique in O(n log n), CAS included.
//!
//! Gibbons and Korach ("Testing shared memories", 1997) decide reads and writes of unique values so: the
//! write of a value and its reads form a *cluster*, which any valid order keeps together. From the first
//! return (`first`) to the last call (`last`) of a cluster is its *zone*, forward if `first < last`. Cluster A
//! must come before B if A's first return is before B's last call; there is a valid order if no read comes
//! before its write and no two clusters must each come before the other.
//!
//! A CAS from x to y belongs to two clusters: it ends x's and starts y's. So the clusters that CAS link form a
//! *chain* that any valid order keeps together, in the order of its links, and a chain is to chains what a
//! cluster is to clusters. What is needed beyond the classic check: at most one CAS starts from each value, no
//! chain is a ring, and within a chain nothing returns before something that belongs earlier was called.
//!
//! Why it is enough to look at pairs of chains: were A before B before C before A the shortest cycle, take the
//! chain M with the last `last` in it, and N, which M comes before, so that N need not come before M:
//! `N.first >= M.last`. Then N comes before no chain of the cycle, all of whose `last` are at most `M.last`.

use super::register::{ABSENT, Interval, Register, Step, Value};

const NONE: u32 = u32::MAX;

/// `Err`: indices of intervals that conflict, perhaps more than needed.
///
/// An optional interval counts as having happened: [`Register`] keeps it only if its value was seen, and no
/// other operation explains that.
pub(super) fn check(register: &Register) -> Result<(), Vec<u32>> {
    debug_assert!(register.unique, "the zone check needs unique values");
    let clusters = Clusters::collect(register)?;
    let chains = clusters.chains()?;
    let mut zones = Vec::with_capacity(chains.len());
    for &root in &chains {
        zones.extend(clusters.zone(root)?);
    }
    let Some((a, b)) = find_conflict(&mut zones) else { return Ok(()) };
    Err(clusters.explain(a, b))
}

/// What touches one value. Indices of intervals; [`NONE`]: there is none.
#[derive(Debug, Clone, Copy)]
struct Cluster {
    creator: u32,
    /// The CAS that starts from this value.
    consumer: u32,
    read_first_return: u32,
    read_last_call: u32,
}

struct Clusters<'a> {
    intervals: &'a [Interval],
    /// By value.
    clusters: Vec<Cluster>,
}

/// A chain's zone, and the value it starts with.
#[derive(Debug, Clone, Copy)]
struct Zone {
    first_return: u64,
    last_call: u64,
    root: Value,
}

impl<'a> Clusters<'a> {
    fn collect(register: &'a Register) -> Result<Self, Vec<u32>> {
        let empty = Cluster { creator: NONE, consumer: NONE, read_first_return: NONE, read_last_call: NONE };
        let mut clusters = vec![empty; register.value_count as usize];
        let intervals = &register.intervals[..];
        for (index, interval) in (0_u32..).zip(intervals) {
            if let Some(value) = interval.step.creates() {
                clusters[value as usize].creator = index;
            }
            match interval.step {
                Step::Read(value) => {
                    let cluster = &mut clusters[value as usize];
                    let first = cluster.read_first_return;
                    if first == NONE || interval.ret < intervals[first as usize].ret {
                        cluster.read_first_return = index;
                    }
                    let last = cluster.read_last_call;
                    if last == NONE || interval.call > intervals[last as usize].call {
                        cluster.read_last_call = index;
                    }
                }
                Step::Cas { from, .. } => {
                    let consumer = std::mem::replace(&mut clusters[from as usize].consumer, index);
                    if consumer != NONE {
                        return Err(vec![index, consumer]);
                    }
                }
                Step::Write(_) => {}
                Step::Never => return Err(vec![index]),
            }
        }
        let clusters = Self { intervals, clusters };
        clusters.all_created()?;
        Ok(clusters)
    }

    /// Nothing saw a value that nobody created.
    fn all_created(&self) -> Result<(), Vec<u32>> {
        for cluster in &self.clusters[1..] {
            for observer in [cluster.read_first_return, cluster.consumer] {
                if cluster.creator == NONE && observer != NONE {
                    return Err(vec![observer]);
                }
            }
        }
        Ok(())
    }

    /// The value with which each chain starts.
    fn chains(&self) -> Result<Vec<Value>, Vec<u32>> {
        let mut linked = vec![false; self.clusters.len()];
        let mut roots = Vec::new();
        for (value, cluster) in (0_u32..).zip(&self.clusters) {
            let is_written = cluster.creator != NONE && matches!(self.step(cluster.creator), Step::Write(_));
            if value == ABSENT || is_written {
                roots.push(value);
                for value in self.links(value) {
                    linked[value as usize] = true;
                }
            }
        }
        let ring = (0_u32..)
            .zip(&self.clusters)
            .find(|&(value, cluster)| cluster.creator != NONE && !linked[value as usize]);
        let Some((start, _)) = ring else { return Ok(roots) };
        // Every value in it was created by a CAS from another one in it.
        let mut conflict = vec![self.clusters[start as usize].consumer];
        let around = self.links(start).skip(1).take_while(|&value| value != start);
        conflict.extend(around.map(|value| self.clusters[value as usize].consumer));
        Err(conflict)
    }

    /// The values of a chain from this one on, in order. Endless in a ring.
    fn links(&self, value: Value) -> impl Iterator<Item = Value> {
        std::iter::successors(Some(value), |&value| {
            let consumer = self.clusters[value as usize].consumer;
            if consumer == NONE { None } else { self.step(consumer).creates() }
        })
    }

    fn step(&self, index: u32) -> Step {
        self.intervals[index as usize].step
    }

    /// The zone of a chain whose inner order is possible; `None`: nothing happened in it.
    fn zone(&self, root: Value) -> Result<Option<Zone>, Vec<u32>> {
        let mut zone = Zone { first_return: if root == ABSENT { 0 } else { u64::MAX }, last_call: 0, root };
        // The interval with the last call so far, and the place in the chain of its value.
        let (mut late, mut late_place) = (NONE, 0);
        for (place, value) in self.links(root).enumerate() {
            let Cluster { creator, read_first_return, read_last_call, .. } = self.clusters[value as usize];
            for (first, last) in [(creator, creator), (read_first_return, read_last_call)] {
                if first == NONE {
                    continue;
                }
                let first_return = self.intervals[first as usize].ret;
                if late != NONE && first_return < zone.last_call {
                    let mut conflict = vec![first, late];
                    let between = self.links(root).take(place + 1).skip(late_place + 1);
                    conflict.extend(between.map(|value| self.clusters[value as usize].creator));
                    return Err(conflict);
                }
                zone.first_return = zone.first_return.min(first_return);
                let last_call = self.intervals[last as usize].call;
                if last_call > zone.last_call {
                    (zone.last_call, late, late_place) = (last_call, last, place);
                }
            }
        }
        Ok((late != NONE).then_some(zone))
    }

    /// The operations through which two chains must each come before the other.
    fn explain(&self, a: Zone, b: Zone) -> Vec<u32> {
        let (mut conflict, first_return, last_call) = self.closest(a.root, b.first_return, b.last_call);
        let (others, _, _) = self.closest(b.root, first_return, last_call);
        conflict.extend(others);
        conflict
    }

    /// Of one chain, the fewest operations in a row of which one returned before `other_last_call` and one
    /// was called after `other_first_return`; and that return and that call.
    fn closest(&self, root: Value, other_first_return: u64, other_last_call: u64) -> (Vec<u32>, u64, u64) {
        let places: Vec<Value> = self.links(root).collect();
        let mut place_of = vec![NONE; self.clusters.len()];
        for (place, &value) in (0_u32..).zip(&places) {
            place_of[value as usize] = place;
        }
        let mut members: Vec<(u32, u32)> = (0_u32..)
            .zip(self.intervals)
            .filter_map(|(index, interval)| {
                let value = interval.step.creates().or(interval.step.observes())?;
                let place = place_of[value as usize];
                (place != NONE).then_some((place, index))
            })
            .collect();
        members.sort_unstable();
        // The nearest of each kind so far; the initial value counts as returned at time 0.
        let mut returned = (root == ABSENT).then_some((0, NONE));
        let mut called: Option<(u32, u32)> = None;
        let mut best: Option<((u32, u32), (u32, u32))> = None;
        for &(place, index) in &members {
            let interval = &self.intervals[index as usize];
            if interval.ret < other_last_call {
                returned = Some((place, index));
            }
            if interval.call > other_first_return {
                called = Some((place, index));
            }
            if let (Some(returned), Some(called)) = (returned, called)
                && best.is_none_or(|(x, y)| returned.0.abs_diff(called.0) < x.0.abs_diff(y.0))
            {
                best = Some((returned, called));
            }
        }
        let Some((returned, called)) = best else { return (Vec::new(), 0, u64::MAX) };
        let mut conflict: Vec<u32> =
            [returned.1, called.1].into_iter().filter(|&index| index != NONE).collect();
        let (from, to) = (returned.0.min(called.0) as usize, returned.0.max(called.0) as usize);
        conflict.extend(places[from + 1..=to].iter().map(|&value| self.clusters[value as usize].creator));
        let first_return = if returned.1 == NONE { 0 } else { self.intervals[returned.1 as usize].ret };
        (conflict, first_return, self.intervals[called.1 as usize].call)
    }
}

/// Two zones that must each come before the other: two forward zones that overlap, or a backward zone inside
/// a forward one. Two backward zones never do.
fn find_conflict(zones: &mut [Zone]) -> Option<(Zone, Zone)> {
    zones.sort_unstable_by_key(|zone| zone.first_return);
    let forward: Vec<Zone> =
        zones.iter().copied().filter(|zone| zone.first_return < zone.last_call).collect();
    for pair in forward.windows(2) {
        if pair[1].first_return < pair[0].last_call {
            return Some((pair[0], pair[1]));
        }
    }
    for backward in zones.iter().filter(|zone| zone.first_return >= zone.last_call) {
        // They do not overlap, so only the last one that begins before this zone can hold it.
        let before = forward.partition_point(|zone| zone.first_return < backward.last_call);
        if let Some(&holder) = before.checked_sub(1).map(|index| &forward[index])
            && backward.first_return < holder.last_call
        {
            return Some((holder, *backward));
        }
    }
    None
}
