//! Messages of traffic control: a class for every sender on the receiver's port, and a netem in each.
//!
//! Pure: it makes messages and reads answers. The layouts are those of `linux/pkt_sched.h`, all integers in the host's order;
//! what they mean is told by tc-htb(8) and tc-netem(8).

use std::time::Duration;

use rtnetlink::packet_core::{DefaultNla, Nla, NlaBuffer, NlasIterator};
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage, TcOption, TcStats2};

use crate::limits::fabric::{
    CLASS_BURST_BYTES, CLASS_BYTES_PER_S, CLASS_QUANTUM_BYTES, NETEM_BYTES_PER_S_MAX,
};
use crate::limits::{LINK_DELAY_MAX, PER_MILLION};
use crate::link::LinkRule;

/// Attributes of every message (linux/rtnetlink.h).
const TCA_OPTIONS: u16 = 2;

/// Attributes of htb (`linux/pkt_sched.h`).
const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
/// The version of its interface (`TC_HTB_PROTOVER`).
const HTB_VERSION: u32 = 3;
/// `TC_LINKLAYER_ETHERNET`: the kernel counts bytes by itself and wants no table of rates.
const LINK_LAYER_ETHERNET: u8 = 1;

/// Attributes of netem (`linux/pkt_sched.h`).
const TCA_NETEM_CORR: u16 = 1;
const TCA_NETEM_REORDER: u16 = 3;
const TCA_NETEM_CORRUPT: u16 = 4;
const TCA_NETEM_RATE: u16 = 6;
const TCA_NETEM_RATE64: u16 = 8;
const TCA_NETEM_LATENCY64: u16 = 10;
const TCA_NETEM_JITTER64: u16 = 11;
const TCA_NETEM_PRNG_SEED: u16 = 14;
/// Bytes of `struct tc_netem_qopt`, which stands before the attributes.
const NETEM_QOPT_BYTES: usize = 24;

/// The qdisc at the root of every port.
const ROOT_MAJOR: u16 = 1;
/// The first qdisc below a class has this number; each class has two, taken in turns.
const LEAF_MAJOR_FIRST: u16 = 0x100;

/// The scheduler's unit of time, in nanoseconds (`PSCHED_SHIFT`).
const TICK_NS: u64 = 64;

/// What netem is told of one directed link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Netem {
    pub(super) latency: Duration,
    pub(super) jitter: Duration,
    /// Parts of `u32::MAX`, as those that follow.
    loss: u32,
    reorder: u32,
    corrupt: u32,
    limit_frames: u32,
    bytes_per_s: u64,
}

impl Netem {
    /// Whatever is done to the frames of an open link; a cut is no matter of netem's, and copies are not: netems that make
    /// copies may not be several in one tree. A link always has a rate, and be it
    /// one at which a frame takes no time: only then netem keeps the order of frames when jitter would swap them, as
    /// [`in_order`](crate::link::in_order) wants it.
    pub(super) fn of(rule: &LinkRule) -> Self {
        Self {
            latency: rule.latency.min(LINK_DELAY_MAX),
            jitter: rule.jitter,
            loss: probability(rule.loss_per_million),
            reorder: probability(rule.reorder_per_million),
            corrupt: probability(rule.corrupt_per_million),
            limit_frames: rule.queue_frames_max(),
            bytes_per_s: rule.bits_per_s.map_or(NETEM_BYTES_PER_S_MAX, |bits| (bits / 8).max(1)),
        }
    }
}

/// A probability as netem has it: `u32::MAX` is always.
fn probability(per_million: u32) -> u32 {
    let parts = u64::from(per_million.min(PER_MILLION)) * u64::from(u32::MAX);
    let rounded = (parts + u64::from(PER_MILLION) / 2) / u64::from(PER_MILLION);
    u32::try_from(rounded).expect("at most the whole")
}

/// A probability in parts per million.
fn per_million(probability: u32) -> u32 {
    let parts = u64::from(probability) * u64::from(PER_MILLION);
    let rounded = (parts + u64::from(u32::MAX) / 2) / u64::from(u32::MAX);
    u32::try_from(rounded).expect("at most a million")
}

/// The classifier of a port: an htb without a default class, which only sorts frames by their sender.
pub(super) fn root(index: u32) -> TcMessage {
    let mut init = Vec::new();
    // version, rate2quantum, defcls, debug, direct_pkts: `struct tc_htb_glob`.
    for word in [HTB_VERSION, 10, 0, 0, 0] {
        init.extend(word.to_ne_bytes());
    }
    let handle = TcHandle { major: ROOT_MAJOR, minor: 0 };
    message(index, handle, TcHandle::ROOT, "htb", attribute(TCA_HTB_INIT, &init))
}

/// The class of one sender: as fast as anything that a host can send.
pub(super) fn class(index: u32, sender: u16) -> TcMessage {
    let burst_ticks = CLASS_BURST_BYTES * 1_000_000_000 / u64::from(CLASS_BYTES_PER_S) / TICK_NS;
    let burst_ticks = u32::try_from(burst_ticks).expect("a few milliseconds");
    let mut parms = Vec::new();
    for _rate_and_ceil in 0..2 {
        // cell_log, linklayer, overhead, cell_align, mpu, rate: `struct tc_ratespec`.
        parms.extend([3, LINK_LAYER_ETHERNET, 0, 0]);
        parms.extend((-1_i16).to_ne_bytes());
        parms.extend([0, 0]);
        parms.extend(CLASS_BYTES_PER_S.to_ne_bytes());
    }
    // buffer, cbuffer, quantum, level, prio: the rest of `struct tc_htb_opt`.
    for word in [burst_ticks, burst_ticks, CLASS_QUANTUM_BYTES, 0, 0] {
        parms.extend(word.to_ne_bytes());
    }
    let parent = TcHandle { major: ROOT_MAJOR, minor: 0 };
    message(index, class_handle(sender), parent, "htb", attribute(TCA_HTB_PARMS, &parms))
}

/// The netem in the class of one sender. `turn` names one of its two numbers: one that is put in place of the other
/// begins without frames.
pub(super) fn leaf(index: u32, sender: u16, turn: bool, netem: &Netem, seed: u64) -> TcMessage {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).expect("a few minutes");
    let ticks = |time: Duration| u32::try_from(ns(time) / TICK_NS).expect("a few minutes");
    let Netem { latency, jitter, loss, reorder, corrupt, limit_frames, bytes_per_s } = *netem;
    // Each frame is drawn for, however many came before it.
    let gap = u32::from(reorder > 0);
    let mut options = Vec::new();
    // latency, limit, loss, gap, duplicate, jitter: `struct tc_netem_qopt`.
    for word in [ticks(latency), limit_frames, loss, gap, 0, ticks(jitter)] {
        options.extend(word.to_ne_bytes());
    }
    // What is not given stays what it was: everything is given. Nothing depends on the frame before.
    options.extend(attribute(TCA_NETEM_CORR, &[0; 12]));
    options.extend(attribute(TCA_NETEM_REORDER, &pair(reorder)));
    options.extend(attribute(TCA_NETEM_CORRUPT, &pair(corrupt)));
    // rate, packet_overhead, cell_size, cell_overhead: `struct tc_netem_rate`.
    let mut rate = Vec::from(u32::try_from(bytes_per_s).unwrap_or(u32::MAX).to_ne_bytes());
    rate.extend([0; 12]);
    options.extend(attribute(TCA_NETEM_RATE64, &bytes_per_s.to_ne_bytes()));
    options.extend(attribute(TCA_NETEM_RATE, &rate));
    options.extend(attribute(TCA_NETEM_LATENCY64, &ns(latency).to_ne_bytes()));
    options.extend(attribute(TCA_NETEM_JITTER64, &ns(jitter).to_ne_bytes()));
    // A kernel before 6.7 does not know it, and draws as it likes.
    options.extend(attribute(TCA_NETEM_PRNG_SEED, &seed.to_ne_bytes()));
    message(index, leaf_handle(sender, turn), class_handle(sender), "netem", options)
}

/// A probability and its correlation.
fn pair(probability: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&probability.to_ne_bytes());
    bytes
}

/// What a class has passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClassCounts {
    pub(super) sender: u16,
    pub(super) frames: u64,
    pub(super) bytes: u64,
}

/// Reads a class of the kernel's answer; nothing if it is none of ours.
pub(super) fn class_counts(message: &TcMessage) -> Option<ClassCounts> {
    let sender = sender_of(message.header.handle)?;
    let basic = stats(message).find_map(|stats| match stats {
        TcStats2::Basic(basic) => Some(basic),
        _ => None,
    })?;
    Some(ClassCounts { sender, frames: basic.packets.into(), bytes: basic.bytes })
}

/// A netem as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leaf {
    /// The interface that has it.
    pub(super) index: u32,
    pub(super) sender: u16,
    /// What it was told, but for cuts and copies.
    pub(super) rule: LinkRule,
    /// Frames that overtook others.
    pub(super) early: u64,
    /// Frames that it has dropped: those that were drawn, and those for which its queue had no place.
    pub(super) dropped: u64,
    /// Frames that it holds.
    pub(super) held: u64,
}

/// Reads a qdisc of the kernel's answer; nothing if it is no netem of ours.
pub(super) fn leaf_state(message: &TcMessage) -> Option<Leaf> {
    let sender = sender_of(message.header.parent)?;
    let is_netem = |attribute: &TcAttribute| matches!(attribute, TcAttribute::Kind(kind) if kind == "netem");
    if !message.attributes.iter().any(is_netem) {
        return None;
    }
    let queue = stats(message).find_map(|stats| match stats {
        TcStats2::Queue(queue) => Some(queue),
        _ => None,
    })?;
    let options = options(message)?;
    Some(Leaf {
        index: u32::try_from(message.header.index).ok()?,
        sender,
        rule: told(&options)?,
        early: queue.requeues.into(),
        dropped: queue.drops.into(),
        held: queue.qlen.into(),
    })
}

/// What a netem's options say.
fn told(options: &[u8]) -> Option<LinkRule> {
    let word_of = |bytes: &[u8], position: usize| {
        let bytes = bytes.get(position * 4..position * 4 + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let word = |position: usize| word_of(options, position);
    let nested = options.get(NETEM_QOPT_BYTES..).unwrap_or_default();
    let value = |kind: u16| {
        let mut nested = NlasIterator::new(nested).filter_map(Result::ok);
        let found: NlaBuffer<&[u8]> = nested.find(|attribute| attribute.kind() == kind)?;
        Some(found.value().to_vec())
    };
    let exact = |kind: u16| Some(u64::from_ne_bytes(value(kind)?.try_into().ok()?));
    // Ticks where the kernel tells nothing finer.
    let time = |kind: u16, ticks: u32| {
        Duration::from_nanos(exact(kind).unwrap_or_else(|| u64::from(ticks) * TICK_NS))
    };
    // What is not told is not done.
    let first = |kind: u16| value(kind).and_then(|value| word_of(&value, 0)).unwrap_or_default();
    let bytes_per_s = exact(TCA_NETEM_RATE64).unwrap_or_else(|| first(TCA_NETEM_RATE).into());
    Some(LinkRule {
        latency: time(TCA_NETEM_LATENCY64, word(0)?),
        jitter: time(TCA_NETEM_JITTER64, word(5)?),
        loss_per_million: per_million(word(2)?),
        reorder_per_million: per_million(first(TCA_NETEM_REORDER)),
        corrupt_per_million: per_million(first(TCA_NETEM_CORRUPT)),
        bits_per_s: (bytes_per_s < NETEM_BYTES_PER_S_MAX).then_some(bytes_per_s * 8),
        ..LinkRule::PERFECT
    })
}

/// Frames that no class of a port wanted, if this is a port's root.
pub(super) fn unclassified(message: &TcMessage) -> Option<u64> {
    if message.header.handle != (TcHandle { major: ROOT_MAJOR, minor: 0 }) {
        return None;
    }
    let options = options(message)?;
    let mut nested = NlasIterator::new(options.as_slice()).filter_map(Result::ok);
    let init: NlaBuffer<&[u8]> = nested.find(|attribute| attribute.kind() == TCA_HTB_INIT)?;
    // The last word of `struct tc_htb_glob`.
    Some(u32::from_ne_bytes(init.value().get(16..20)?.try_into().ok()?).into())
}

fn options(message: &TcMessage) -> Option<Vec<u8>> {
    message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => match options.as_slice() {
            [TcOption::Other(raw)] => {
                let mut bytes = vec![0; raw.value_len()];
                raw.emit_value(&mut bytes);
                Some(bytes)
            }
            _ => None,
        },
        _ => None,
    })
}

fn stats(message: &TcMessage) -> impl Iterator<Item = &TcStats2> {
    message.attributes.iter().flat_map(|attribute| match attribute {
        TcAttribute::Stats2(stats) => stats.as_slice(),
        _ => &[],
    })
}

/// The class of a sender, by its position among the ports, from 0. A class has a number from 1.
pub(super) fn class_handle(sender: u16) -> TcHandle {
    TcHandle { major: ROOT_MAJOR, minor: sender + 1 }
}

fn sender_of(class: TcHandle) -> Option<u16> {
    (class.major == ROOT_MAJOR).then(|| class.minor.checked_sub(1)).flatten()
}

fn leaf_handle(sender: u16, turn: bool) -> TcHandle {
    TcHandle { major: LEAF_MAJOR_FIRST + 2 * sender + u16::from(turn), minor: 0 }
}

fn message(index: u32, handle: TcHandle, parent: TcHandle, kind: &str, options: Vec<u8>) -> TcMessage {
    let index = i32::try_from(index).expect("the kernel counts interfaces by an int");
    let header = TcHeader { index, handle, parent, ..TcHeader::default() };
    let options = TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options));
    TcMessage::from_parts(header, vec![TcAttribute::Kind(kind.to_owned()), options])
}

/// An attribute with its head, whose value's length is a multiple of four (linux/netlink.h).
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    assert!(value.len().is_multiple_of(4));
    let length = u16::try_from(value.len() + 4).expect("a few words");
    [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
}

#[cfg(test)]
mod tests;
