//! Whether what was heard is what was asked for. Pure.
//!
//! Shares have to be within five standard deviations; on the switch, the very frames have to be those that the seed says. Times
//! have to be within a tenth and a millisecond, beyond what an untouched link takes here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::cases::Case;
use super::traffic::Arrival;
use crate::cluster::FrameCounts;
use crate::fabric::FabricKind;
use crate::limits::LOSS_SIGMA_MAX;
use crate::limits::fabric::{CHECK_NOTICEABLE, CHECK_RATE_PERCENT, CHECK_TIME_ADD, CHECK_TIME_PERCENT};
use crate::link::{Fate, Passage, copy_fate, fate};

/// Bits of a frame that may be turned without anybody noticing: the sender's Ethernet address, and in the receiver's the one that
/// says that it is a group's (IEEE 802, 8.2.2). Everything else is covered by a checksum.
const HARMLESS_BITS: u32 = 48 + 1;

/// Something that is not as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) text: String,
    /// Whether a host that is busy with something else could be the reason, so that it is worth another look.
    pub(super) is_of_time: bool,
}

impl Complaint {
    fn of_time(text: String) -> Self {
        Self { text, is_of_time: true }
    }

    fn of_frames(text: String) -> Self {
        Self { text, is_of_time: false }
    }
}

/// What was heard of one case.
#[derive(Debug)]
pub(super) struct Heard<'a> {
    pub(super) case: &'a Case,
    pub(super) fabric: FabricKind,
    pub(super) seed: u64,
    /// What arrived over the link, in the order of hearing.
    pub(super) arrivals: &'a [Arrival],
    /// What the fabric had counted before and has counted after.
    pub(super) counts: [FrameCounts; 2],
    /// The median time over an untouched link.
    pub(super) baseline: Duration,
}

/// What was measured, in words, and what is not as it should be.
pub(super) fn judge(heard: &Heard<'_>) -> (String, Vec<Complaint>) {
    let mut complaints = Vec::new();
    let late: Vec<Arrival> =
        heard.arrivals.iter().copied().filter(|arrival| !heard.is_early(arrival)).collect();
    let mut words = vec![heard.shares(&mut complaints)];
    words.extend(heard.times(&late, &mut complaints));
    words.extend(heard.rate(&mut complaints));
    if late.windows(2).any(|pair| pair[1].number < pair[0].number) {
        let text = "frames have overtaken others that were to keep their order".to_owned();
        // A frame that was to be early and was held up looks like one that was not.
        complaints.push(Complaint { text, is_of_time: heard.case.rule.reorder_per_million > 0 });
    }
    heard.books(&mut complaints);
    (words.join(", "), complaints)
}

/// Whether a link noticed that something was done to another one.
pub(super) fn is_untouched(
    arrivals: &[Arrival],
    count: u32,
    baseline: Duration,
    latency_beside: Duration,
) -> Option<Complaint> {
    let is_each_once = arrivals.iter().map(|arrival| arrival.number).eq(0..count);
    if !is_each_once {
        let text = format!("{} of {count} arrived, or not in their order", arrivals.len());
        return Some(Complaint::of_frames(text));
    }
    let late = added(median(arrivals).unwrap_or_default(), baseline);
    let most = if latency_beside.is_zero() { CHECK_NOTICEABLE } else { latency_beside / 2 };
    (late > most).then(|| Complaint::of_time(format!("its frames take {} longer", ms(late))))
}

/// The median time of what arrived.
pub(super) fn median(arrivals: &[Arrival]) -> Option<Duration> {
    quantile(arrivals, 50)
}

fn quantile(arrivals: &[Arrival], percent: usize) -> Option<Duration> {
    let mut delays: Vec<Duration> = arrivals.iter().map(|arrival| arrival.delay).collect();
    delays.sort_unstable();
    delays.get(delays.len() * percent / 100).copied()
}

fn added(time: Duration, baseline: Duration) -> Duration {
    time.saturating_sub(baseline)
}

impl Heard<'_> {
    /// Whether a frame has overtaken those under way.
    fn is_early(&self, arrival: &Arrival) -> bool {
        let rule = &self.case.rule;
        rule.reorder_per_million > 0 && added(arrival.delay, self.baseline) < rule.latency / 2
    }

    /// How many arrived, twice or early.
    fn shares(&self, complaints: &mut Vec<Complaint>) -> String {
        let Case { rule, count, .. } = self.case;
        let mut times: BTreeMap<u32, u32> = BTreeMap::new();
        for arrival in self.arrivals {
            *times.entry(arrival.number).or_default() += 1;
        }
        let seen = number_of(times.len());
        let twice = number_of(self.arrivals.len()) - seen;
        let early = number_of(self.arrivals.iter().filter(|arrival| self.is_early(arrival)).count());
        if self.fabric == FabricKind::Switch {
            self.as_seeded(&times, early, complaints);
        }
        let share = |per_million: u32| f64::from(per_million) / 1e6;
        let unnoticed = f64::from(HARMLESS_BITS) / f64::from(number_of(self.case.frame_bytes() * 8));
        let whole = (1.0 - share(rule.loss_per_million))
            * (1.0 - share(rule.corrupt_per_million) * (1.0 - unnoticed));
        let whole = if rule.cut { 0.0 } else { whole };
        let copied = share(rule.duplicate_per_million) * whole;
        about("arrived", seen, *count, 1.0 - (1.0 - whole) * (1.0 - copied), complaints);
        about("arrived twice", twice, *count, whole * copied, complaints);
        let mut of_time = Vec::new();
        about("early", early, seen + twice, share(rule.reorder_per_million), &mut of_time);
        complaints.extend(of_time.into_iter().map(|complaint| Complaint::of_time(complaint.text)));
        let mut words = format!("{seen} of {count} arrived");
        for (what, number) in
            [("twice", twice), ("early", early)].into_iter().filter(|(_, number)| *number > 0)
        {
            // Writing to a String cannot fail.
            let _ = write!(words, ", {number} {what}");
        }
        words
    }

    /// On the switch it is known of every frame what becomes of it.
    fn as_seeded(&self, times: &BTreeMap<u32, u32>, early: u32, complaints: &mut Vec<Complaint>) {
        let Case { rule, link, count, .. } = self.case;
        let (mut wrong, mut early_drawn) = (0, 0);
        for number in 0..*count {
            let n = self.counts[0].judged + u64::from(number);
            let fates = [Some(fate(rule, self.seed, *link, n)), copy_fate(rule, self.seed, *link, n)];
            let passages = fates.into_iter().flatten().filter_map(|fate| match fate {
                Fate::Deliver(passage) => Some(passage),
                Fate::Drop(_) => None,
            });
            let whole: Vec<Passage> = passages.filter(|passage| self.is_taken(passage)).collect();
            early_drawn += number_of(whole.iter().filter(|passage| passage.is_early).count());
            wrong += u32::from(times.get(&number).copied().unwrap_or_default() != number_of(whole.len()));
        }
        if wrong > 0 {
            let text = format!("{wrong} frames fared otherwise than the seed says");
            complaints.push(Complaint::of_frames(text));
        }
        if early != early_drawn {
            let text = format!("{early} frames were early, the seed says {early_drawn}");
            // A frame that was held up may look as if it had not been early.
            complaints.push(Complaint::of_time(text));
        }
    }

    /// Whether the receiver takes a frame that arrives so.
    fn is_taken(&self, passage: &Passage) -> bool {
        match passage.turned_bit(self.case.frame_bytes()) {
            None | Some(0) => true,
            Some(bit) => (48..96).contains(&bit),
        }
    }

    /// How late they were.
    fn times(&self, late: &[Arrival], complaints: &mut Vec<Complaint>) -> Option<String> {
        let rule = &self.case.rule;
        let part = |percent| quantile(late, percent).map(|delay| added(delay, self.baseline));
        let (low, middle, high) = (part(5)?, part(50)?, part(95)?);
        if rule.latency.is_zero() || rule.bits_per_s.is_some() {
            return None;
        }
        let most_off = rule.latency * CHECK_TIME_PERCENT / 100 + CHECK_TIME_ADD;
        let mut near = |what: &str, time: Duration, asked: Duration| {
            if time.abs_diff(asked) > most_off {
                let text = format!("{what} {} are added, {} were asked for", ms(time), ms(asked));
                complaints.push(Complaint::of_time(text));
            }
        };
        let (least, most) = (rule.latency.saturating_sub(rule.jitter), rule.latency + rule.jitter);
        if rule.jitter.is_zero() {
            near("in the middle", middle, rule.latency);
        } else if self.case.is_sparse() {
            // All times between the two are equally likely.
            near("in the middle", middle, rule.latency);
            near("at the least", low, least + rule.jitter / 10);
            near("at the most", high, most.saturating_sub(rule.jitter / 10));
        } else if low + most_off < least
            || middle > most + most_off
            || high + most_off < rule.latency + rule.jitter / 2
        {
            // Whoever is held long holds up those behind it, so that long times are more likely than short ones.
            let [low, high, least, most] = [low, high, least, most].map(ms);
            let text = format!("{low} to {high} are added, {least} to {most} were asked for");
            complaints.push(Complaint::of_time(text));
        }
        let spread = format!("+{} (90 % between {} and {})", ms(middle), ms(low), ms(high));
        Some(if rule.jitter.is_zero() { format!("+{}", ms(middle)) } else { spread })
    }

    /// How fast they followed each other.
    fn rate(&self, complaints: &mut Vec<Complaint>) -> Option<String> {
        let rule = &self.case.rule;
        let asked = rule.bits_per_s?;
        let (first, last) = (self.arrivals.first()?, self.arrivals.last()?);
        let bits = (self.arrivals.len() - 1) * self.case.frame_bytes() * 8;
        let seconds = last.at.saturating_sub(first.at).as_secs_f64().max(1e-9);
        let (measured, asked) = (f64::from(number_of(bits)) / seconds, f64::from(u32::try_from(asked).ok()?));
        if (measured - asked).abs() > asked * f64::from(CHECK_RATE_PERCENT) / 100.0 {
            let text = format!("{:.2} Mbit/s pass, {:.2} were asked for", measured / 1e6, asked / 1e6);
            complaints.push(Complaint::of_time(text));
        }
        // One frame alone says little, but none is faster than that.
        let alone = rule.latency + rule.transmission(self.case.frame_bytes());
        let fastest = self.arrivals.iter().map(|arrival| added(arrival.delay, self.baseline)).min()?;
        if fastest + alone * CHECK_TIME_PERCENT / 100 + CHECK_TIME_ADD < alone {
            let [fastest, alone] = [fastest, alone].map(ms);
            let text = format!("a frame takes {fastest}, and {alone} at the least were asked for");
            complaints.push(Complaint::of_time(text));
        }
        Some(format!("{:.2} Mbit/s, at the least +{}", measured / 1e6, ms(fastest)))
    }

    /// Whether the fabric has counted what was sent and heard.
    fn books(&self, complaints: &mut Vec<Complaint>) {
        let Case { rule, count, .. } = self.case;
        let [before, after] = &self.counts;
        let since = |of: fn(&FrameCounts) -> u64| of(after).saturating_sub(of(before));
        let (judged, copies) = (since(|counts| counts.judged), since(|counts| counts.duplicated));
        let delivered = since(|counts| counts.delivered);
        let gone = since(|counts| counts.dropped_cut + counts.dropped_loss + counts.dropped_queue);
        if judged != u64::from(*count) || judged + copies != delivered + gone {
            let text = format!(
                "the fabric counts {judged} frames and {copies} copies, {delivered} delivered and {gone} dropped, of {count}"
            );
            complaints.push(Complaint::of_frames(text));
        }
        if rule.corrupt_per_million == 0 && delivered != self.arrivals.len() as u64 {
            let heard = self.arrivals.len();
            let text = format!("the fabric counts {delivered} frames delivered, {heard} were heard");
            complaints.push(Complaint::of_frames(text));
        }
        if rule.cut && since(|counts| counts.dropped_cut) != u64::from(*count) {
            let text = "the fabric does not count every frame that the cut swallowed";
            complaints.push(Complaint::of_frames(text.to_owned()));
        }
    }
}

/// Whether so many of so many is the share, as far as chance lets it be.
fn about(what: &str, seen: u32, of: u32, share: f64, complaints: &mut Vec<Complaint>) {
    let mean = f64::from(of) * share;
    let sigma = (mean * (1.0 - share)).sqrt();
    // What cannot happen does not, and what must happen does.
    if (f64::from(seen) - mean).abs() > LOSS_SIGMA_MAX * sigma + 1e-6 {
        let text = format!("{seen} of {of} {what}, {mean:.1} were to be expected");
        complaints.push(Complaint::of_frames(text));
    }
}

fn number_of(count: usize) -> u32 {
    u32::try_from(count).expect("a check sends thousands")
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests;
