//! The state of the switch: links, frames in flight, counters. It sends, but takes the time as an
//! argument and never waits.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::fabric::{LinkCounters, Port, PortCounters, Sabotage, Snapshot};
use crate::limits::{FABRIC_QUEUE_BYTES_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MIN};
use crate::link::{DropReason, Fate, LinkId, LinkRule, PortIndex, copy_fate, fate, in_order};
use crate::plan::MacAddress;

use super::PortSpec;

pub(super) struct Core {
    seed: u64,
    sabotage: Option<Sabotage>,
    ports: Vec<PortState>,
    by_mac: HashMap<MacAddress, usize>,
    /// Invariant: the link from port f to port t is at f * `ports.len()` + t.
    links: Vec<Link>,
    /// When the frames in flight are due, and on which link. Invariant: as many entries of a link as
    /// it has frames in flight, with the same times.
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Invariant: the sum of the bytes of all frames in flight, and of [`HELD_BYTES`] for each.
    held_bytes: usize,
}

/// What a frame in flight takes besides its bytes: what is known of it, its timer, and what the allocator adds.
const HELD_BYTES: usize = size_of::<Held>() + size_of::<Reverse<(Instant, usize)>>() + 2 * size_of::<usize>();

struct PortState {
    mac: MacAddress,
    port: Box<dyn Port>,
    counters: PortCounters,
}

#[derive(Default)]
struct Link {
    rule: LinkRule,
    counters: LinkCounters,
    /// Invariant: in the order of arrival, which is also that of `due`.
    in_flight: VecDeque<Held>,
    /// Invariant: the sum of the bytes of the frames in flight.
    held_bytes: usize,
}

struct Held {
    arrived: Instant,
    due: Instant,
    frame: Box<[u8]>,
}

impl Core {
    pub(super) fn new(seed: u64, sabotage: Option<Sabotage>, ports: Vec<PortSpec>) -> Self {
        let by_mac = ports.iter().enumerate().map(|(index, spec)| (spec.mac, index)).collect();
        let links = (0..ports.len() * ports.len()).map(|_| Link::default()).collect();
        let ports = ports
            .into_iter()
            .map(|spec| PortState { mac: spec.mac, port: spec.port, counters: PortCounters::default() })
            .collect();
        Self { seed, sabotage, ports, by_mac, links, timers: BinaryHeap::new(), held_bytes: 0 }
    }

    /// Judges a frame on every link that it takes, and sends or holds it.
    pub(super) fn on_frame(&mut self, now: Instant, from: usize, frame: &[u8]) {
        let counters = &mut self.ports[from].counters;
        counters.received += 1;
        if frame.len() < FRAME_BYTES_MIN || frame.len() > FRAME_BYTES_MAX {
            counters.dropped_malformed += 1;
            return;
        }
        if mac_at(frame, 6) != self.ports[from].mac {
            self.ports[from].counters.dropped_source += 1;
            return;
        }
        let destination = mac_at(frame, 0);
        if destination.is_group() {
            for to in (0..self.ports.len()).filter(|to| *to != from) {
                self.judge(now, from, to, frame);
            }
            return;
        }
        match self.by_mac.get(&destination) {
            Some(&to) if to != from => self.judge(now, from, to, frame),
            Some(_) | None => self.ports[from].counters.dropped_unknown += 1,
        }
    }

    /// Decides about a frame on one link, and about its copy, if it has one.
    fn judge(&mut self, now: Instant, from: usize, to: usize, frame: &[u8]) {
        let id = self.link_id(from, to);
        let link = &mut self.links[from * self.ports.len() + to];
        let rule = self.sabotage.map_or(link.rule, |sabotage| sabotage.of(link.rule));
        let n = link.counters.judged;
        link.counters.judged += 1;
        self.pass(now, (from, to), frame, &rule, fate(&rule, self.seed, id, n));
        if let Some(fate) = copy_fate(&rule, self.seed, id, n) {
            self.links[from * self.ports.len() + to].counters.duplicated += 1;
            self.pass(now, (from, to), frame, &rule, fate);
        }
    }

    /// Drops a frame, sends it or holds it.
    fn pass(&mut self, now: Instant, (from, to): (usize, usize), frame: &[u8], rule: &LinkRule, fate: Fate) {
        let index = from * self.ports.len() + to;
        let link = &mut self.links[index];
        let passage = match fate {
            Fate::Drop(DropReason::Cut) => return link.counters.dropped_cut += 1,
            Fate::Drop(DropReason::Loss) => return link.counters.dropped_loss += 1,
            Fate::Deliver(passage) => passage,
        };
        let turned;
        let frame = match passage.turned_bit(frame.len()) {
            Some(bit) => {
                link.counters.corrupted += 1;
                turned = with_bit_turned(frame, bit);
                &turned
            }
            None => frame,
        };
        let at_once = passage.delay.is_zero() && link.in_flight.is_empty() && rule.bits_per_s.is_none();
        if passage.is_early || at_once {
            link.counters.early += u64::from(passage.is_early);
            send(&mut self.ports[to], link, frame);
            return;
        }
        if !rule.has_room(link.in_flight.len() as u64, (link.held_bytes + frame.len()) as u64)
            || self.held_bytes + frame.len() + HELD_BYTES > FABRIC_QUEUE_BYTES_MAX
        {
            link.counters.dropped_queue += 1;
            return;
        }
        let arrives = in_order(now + passage.delay, link.in_flight.back().map(|held| held.due));
        let due = arrives + rule.transmission(frame.len());
        link.in_flight.push_back(Held { arrived: now, due, frame: frame.into() });
        link.counters.in_flight += 1;
        link.held_bytes += frame.len();
        self.held_bytes += frame.len() + HELD_BYTES;
        self.timers.push(Reverse((due, index)));
    }

    /// When the next held frame is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((due, _link))| *due)
    }

    /// Sends every held frame that is due.
    pub(super) fn release(&mut self, now: Instant) {
        while let Some(&Reverse((due, index))) = self.timers.peek() {
            if due > now {
                return;
            }
            self.timers.pop();
            let to = index % self.ports.len();
            let link = &mut self.links[index];
            let held = link.in_flight.pop_front().expect("a timer per frame in flight");
            assert!(held.due == due);
            link.held_bytes -= held.frame.len();
            self.held_bytes -= held.frame.len() + HELD_BYTES;
            let counters = &mut link.counters;
            counters.in_flight -= 1;
            counters.late_max = counters.late_max.max(now - due);
            if send(&mut self.ports[to], link, &held.frame) {
                link.counters.held_total += now - held.arrived;
            }
        }
    }

    /// Sets rules; the links must exist. What is in flight on a link that becomes cut is lost.
    pub(super) fn set_rules(&mut self, rules: &[(LinkId, LinkRule)]) {
        let cuts_work = self.sabotage != Some(Sabotage::IgnoreCuts);
        let mut emptied = false;
        for (id, rule) in rules {
            let index = usize::from(id.from.0) * self.ports.len() + usize::from(id.to.0);
            let link = &mut self.links[index];
            link.rule = *rule;
            if rule.cut && cuts_work && !link.in_flight.is_empty() {
                emptied = true;
                self.held_bytes -= std::mem::take(&mut link.held_bytes) + link.in_flight.len() * HELD_BYTES;
                link.counters.dropped_cut += link.counters.in_flight;
                link.counters.in_flight = 0;
                link.in_flight.clear();
            }
        }
        if emptied {
            self.timers.retain(|Reverse((_due, index))| !self.links[*index].in_flight.is_empty());
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let count = self.ports.len();
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        let links = pairs
            .filter(|(from, to)| from != to)
            .map(|(from, to)| (self.link_id(from, to), self.links[from * count + to].counters))
            .collect();
        Snapshot { links, ports: self.ports.iter().map(|port| port.counters).collect() }
    }

    pub(super) fn open_ports(&self) -> impl Iterator<Item = usize> + '_ {
        let open = |(index, port): (usize, &PortState)| (!port.counters.failed).then_some(index);
        self.ports.iter().enumerate().filter_map(open)
    }

    pub(super) fn port_fd(&self, port: usize) -> BorrowedFd<'_> {
        self.ports[port].port.as_fd()
    }

    pub(super) fn port_mut(&mut self, port: usize) -> &mut dyn Port {
        &mut *self.ports[port].port
    }

    pub(super) fn fail_port(&mut self, port: usize) {
        self.ports[port].counters.failed = true;
    }

    fn link_id(&self, from: usize, to: usize) -> LinkId {
        debug_assert!(from < self.ports.len());
        debug_assert!(to < self.ports.len());
        let index = |port| PortIndex(u16::try_from(port).expect("the number of ports is bounded by a u16"));
        LinkId { from: index(from), to: index(to) }
    }
}

/// Hands a frame to its port and counts; says whether it was taken.
fn send(port: &mut PortState, link: &mut Link, frame: &[u8]) -> bool {
    // A port that cannot take it (its machine does not read, its interface is down) loses it, as a
    // network card does.
    match port.port.send(frame) {
        Ok(()) => {
            link.counters.delivered += 1;
            link.counters.delivered_bytes += frame.len() as u64;
            true
        }
        Err(_refused) => {
            link.counters.dropped_port += 1;
            false
        }
    }
}

fn with_bit_turned(frame: &[u8], bit: usize) -> Vec<u8> {
    let mut turned = frame.to_vec();
    turned[bit / 8] ^= 1 << (bit % 8);
    turned
}

fn mac_at(frame: &[u8], offset: usize) -> MacAddress {
    let mut mac = [0; 6];
    mac.copy_from_slice(&frame[offset..offset + 6]);
    MacAddress(mac)
}
