//! Messages beside those that `tc` of iproute2 6.1 sends, as strace(1) shows them (`x86_64`).

use rtnetlink::packet_core::Emitable;
use rtnetlink::packet_route::tc::{TcStatsBasic, TcStatsQueue};

use super::*;

/// The message's head and its options.
fn parts(message: &TcMessage) -> (TcHeader, String, Vec<u8>) {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    // What the kernel reads, and not what was meant.
    let kind = match &message.attributes[0] {
        TcAttribute::Kind(kind) => kind.clone(),
        other => panic!("{other:?}"),
    };
    let options = &bytes[20 + 4 + (kind.len() + 1).next_multiple_of(4)..];
    assert_eq!(options[2..4], TCA_OPTIONS.to_ne_bytes());
    assert_eq!(usize::from(u16::from_ne_bytes([options[0], options[1]])), options.len());
    (message.header.clone(), kind, options[4..].to_vec())
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<u8> = hexadecimal.bytes().filter(u8::is_ascii_hexdigit).collect();
    data_encoding::HEXLOWER.decode(&digits).unwrap()
}

fn rule(latency_ms: u64, jitter_ms: u64, loss_per_million: u32) -> LinkRule {
    let ms = Duration::from_millis;
    LinkRule { loss_per_million, latency: ms(latency_ms), jitter: ms(jitter_ms), ..LinkRule::PERFECT }
}

/// `tc qdisc add dev port1 root handle 1: htb default 0`.
#[test]
fn root_is_what_tc_sends() {
    let (header, kind, options) = parts(&root(7));
    assert_eq!(
        (header.index, u32::from(header.handle), u32::from(header.parent)),
        (7, 65_536, 4_294_967_295)
    );
    assert_eq!(kind, "htb");
    assert_eq!(options, bytes("18000200 03000000 0a000000 00000000 00000000 00000000"));
}

/// `tc class add dev port1 parent 1: classid 1:2 htb rate 32gbit burst 4000000 cburst 4000000 quantum 60000`. Behind it tc has two
/// tables of rates, which the kernel reads only where the link layer is unknown.
#[test]
fn class_is_what_tc_sends() {
    let (header, kind, options) = parts(&class(7, 1));
    assert_eq!((u32::from(header.handle), u32::from(header.parent), kind.as_str()), (65_538, 65_536, "htb"));
    let want = "30000100 03010000 ffff0000 00286bee 03010000 ffff0000 00286bee 093d0000 093d0000 60ea0000 00000000 00000000";
    assert_eq!(options, bytes(want));
}

/// `tc qdisc add dev port1 parent 1:2 handle 102: netem limit 8192 delay 40ms 5ms loss 1% reorder 25% 0% corrupt 0.1% 0% rate
/// 10gbit` sends the same but for three attributes that are older than all kernels here: no correlations, and no exact times.
#[test]
fn netem_is_what_tc_sends() {
    let all = LinkRule {
        reorder_per_million: 250_000,
        corrupt_per_million: 1_000,
        bits_per_s: Some(10_000_000_000),
        ..rule(40, 5, 10_000)
    };
    let (header, kind, options) = parts(&leaf(7, 1, false, &Netem::of(&all), 9));
    assert_eq!(u32::from(header.handle), 0x0102_0000);
    assert_eq!((u32::from(header.parent), kind.as_str()), (65_538, "netem"));
    let qopt = "68890900 00200000 295c8f02 01000000 00000000 2d310100";
    let correlations = "10000100 00000000 00000000 00000000";
    let reorder_and_corrupt = "0c000300 00000040 00000000 0c000400 37894100 00000000";
    let rate64 = "0c000800 807c814a00000000";
    let rate = "14000600 807c814a 00000000 00000000 00000000";
    // 40,000,000 and 5,000,000 nanoseconds, and the seed.
    let exact = "0c000a00 005a620200000000 0c000b00 404b4c0000000000 0c000e00 0900000000000000";
    assert_eq!(options, bytes(&[qopt, correlations, reorder_and_corrupt, rate64, rate, exact].concat()));
}

/// Without a rate netem would let frames overtake that jitter makes late, and links keep order.
#[test]
fn link_without_a_rate_has_one_at_which_no_frame_takes_time() {
    let (_, _, options) = parts(&leaf(7, 1, false, &Netem::of(&rule(40, 5, 0)), 9));
    // Above what 32 bits hold, it says so with all bits set.
    let rate = bytes("0c000800 0080c6a47e8d0300 14000600 ffffffff 00000000 00000000 00000000");
    assert!(options.windows(rate.len()).any(|part| part == rate), "{options:02x?}");
}

#[test]
fn two_netems_of_a_class_take_turns_and_no_two_classes_share_them() {
    let netem = Netem::of(&LinkRule::default());
    let handle = |sender, turn| u32::from(leaf(7, sender, turn, &netem, 0).header.handle);
    let mut handles: Vec<u32> =
        (0..64).flat_map(|sender| [handle(sender, false), handle(sender, true)]).collect();
    handles.sort_unstable();
    handles.dedup();
    assert_eq!(handles.len(), 128);
}

#[test]
fn probability_is_read_back_as_it_was_told() {
    for per_million_asked in (0..=PER_MILLION).step_by(997).chain([1, 999_999, PER_MILLION]) {
        assert_eq!(per_million(probability(per_million_asked)), per_million_asked);
    }
    assert_eq!(probability(PER_MILLION), u32::MAX);
}

/// The answer of a kernel, made of what it was told.
fn answered(mut message: TcMessage, stats: Vec<TcStats2>) -> TcMessage {
    let (_, _, options) = parts(&message);
    let options = TcOption::Other(DefaultNla::new(TCA_OPTIONS, options));
    message.attributes[1] = TcAttribute::Options(vec![options]);
    message.attributes.push(TcAttribute::Stats2(stats));
    message
}

#[test]
fn answers_are_read() {
    let mut queue = TcStatsQueue::default();
    (queue.qlen, queue.drops) = (3, 5);
    (queue.requeues, queue.overlimits) = (2, 9);
    let all = LinkRule {
        reorder_per_million: 250_000,
        corrupt_per_million: 1_000,
        bits_per_s: Some(10_000_000_000),
        ..rule(40, 5, 10_000)
    };
    let told = leaf(7, 4, true, &Netem::of(&all), 9);
    let read = leaf_state(&answered(told.clone(), vec![TcStats2::Queue(queue)])).unwrap();
    let want = Leaf { index: 7, sender: 4, rule: all, early: 2, dropped: 5, held: 3 };
    assert_eq!(read, want);
    let mut basic = TcStatsBasic::default();
    (basic.bytes, basic.packets) = (1_400, 10);
    let read = class_counts(&answered(class(7, 4), vec![TcStats2::Basic(basic)])).unwrap();
    assert_eq!(read, ClassCounts { sender: 4, frames: 10, bytes: 1_400 });
    assert_eq!(unclassified(&answered(root(7), vec![])), Some(0));
    // Each is read as what it is.
    assert_eq!(leaf_state(&answered(class(7, 4), vec![TcStats2::Queue(queue)])), None);
    assert_eq!(unclassified(&answered(told, vec![])), None);
}

/// A kernel before 4.15 knows ticks only.
#[test]
fn ticks_will_do_where_the_kernel_says_nothing_finer() {
    let rule = LinkRule { jitter: Duration::from_micros(7), ..rule(40, 0, 0) };
    let mut message = leaf(7, 4, true, &Netem::of(&rule), 9);
    let (_, _, mut options) = parts(&message);
    options.truncate(NETEM_QOPT_BYTES);
    message.attributes[1] =
        TcAttribute::Options(vec![TcOption::Other(DefaultNla::new(TCA_OPTIONS, options))]);
    message.attributes.push(TcAttribute::Stats2(vec![TcStats2::Queue(TcStatsQueue::default())]));
    let read = leaf_state(&message).unwrap();
    let ticks = Duration::from_nanos(109 * TICK_NS);
    assert_eq!((read.rule.latency, read.rule.jitter), (Duration::from_millis(40), ticks));
}
