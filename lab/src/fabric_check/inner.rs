//! The inner process: three machines on a fabric, and every case, one after the other.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use super::cases::{self, Case, MACHINES, links};
use super::judge::{Complaint, Heard, is_untouched, judge, median};
use super::traffic::{Arrival, Flow, Sockets, interface, mac};
use super::{FabricCheckError, Message, Order, Row};
use crate::causes::causes;
use crate::cluster::FrameCounts;
use crate::fabric::kernel::PortKind;
use crate::fabric::namespace::Namespace;
use crate::fabric::wiring::{Fabric, Wiring};
use crate::fabric::{FabricError, NetworkPort, NetworkPorts};
use crate::limits::fabric::{CHECK_BESIDE_COUNT, CHECK_BYTES_BESIDE, CHECK_TRIES_MAX};
use crate::link::{LinkId, LinkRule};
use crate::program::ProgramLog;
use crate::sandbox::Inner;
use crate::scenario::LinkEffect;

/// Measures what the outer has ordered, and tells it; the exit code.
///
/// # Errors
/// The order cannot be read. What cannot be measured is told, not returned.
pub fn run_inner(inner: Inner) -> Result<u8, FabricCheckError> {
    let text = inner.arguments.get(1).map(|argument| argument.to_string_lossy().into_owned());
    let order: Order = serde_json::from_str(&text.unwrap_or_default()).map_err(FabricCheckError::Order)?;
    let mut events = &inner.events;
    let mut tell = |message: &Message| {
        let line = serde_json::to_string(message).map_err(FabricCheckError::Order)?;
        writeln!(events, "{line}").map_err(FabricCheckError::Table)
    };
    match measure(&order, &mut tell) {
        Ok(()) => return Ok(0),
        Err(FabricCheckError::Fabric(FabricError::Kernel(error))) if error.is_refused() => {
            tell(&Message::Refused { why: causes(&error) })?;
        }
        Err(error) => tell(&Message::Failed { why: causes(&error) })?,
    }
    Ok(1)
}

/// One measurement.
struct Looked {
    row: Row,
    /// Whether a busy host may be the reason of everything that is wrong. What is wrong each time is wrong.
    is_worth_another_look: bool,
}

struct Bench {
    order: Order,
    fabric: Fabric,
    sockets: Sockets,
    /// Where the machines live.
    _machines: Vec<Namespace>,
}

fn measure(
    order: &Order,
    tell: &mut dyn FnMut(&Message) -> Result<(), FabricCheckError>,
) -> Result<(), FabricCheckError> {
    let bench = Bench::build(order)?;
    let mut baseline = None;
    for case in cases::all() {
        let mut row = bench.row(&case, &mut baseline)?;
        for _ in 1..CHECK_TRIES_MAX {
            if !row.is_worth_another_look {
                break;
            }
            row = bench.row(&case, &mut baseline)?;
        }
        tell(&Message::Row(row.row))?;
    }
    Ok(())
}

impl Bench {
    fn build(order: &Order) -> Result<Self, FabricCheckError> {
        let log = ProgramLog::open(Path::new("/dev/null"))?;
        let networks = [NetworkPorts::usual((0..MACHINES).map(|port| (mac(port), PortKind::Veth)))];
        let mut wiring = Wiring::begin(order.fabric, order.seed, None, &networks, &log)?;
        wiring.require(cases::all().iter().map(|case| case.rule))?;
        let mut machines = Vec::new();
        for port in 0..MACHINES {
            let machine = Namespace::create()?;
            wiring.connect(NetworkPort::first(port), &machine, &interface(port))?;
            machines.push(machine);
        }
        let sockets = Sockets::open(&machines)?;
        Ok(Self { order: order.clone(), fabric: wiring.finish()?, sockets, _machines: machines })
    }

    /// Does one thing to one link, and measures that and all the others. The first case, of an untouched link, says how long
    /// such a link takes.
    fn row(&self, case: &Case, baseline: &mut Option<Duration>) -> Result<Looked, FabricCheckError> {
        let rules = links().into_iter().map(|link| {
            let rule = if link == case.link { case.rule } else { LinkRule::PERFECT };
            (link, rule)
        });
        let all_before = self.fabric.set_rules(rules.collect())?;
        let main = Flow { link: case.link, count: case.count, spacing: case.spacing, bytes: case.bytes };
        let lasts = case.spacing * case.count;
        let beside = links().into_iter().filter(|link| *link != case.link).map(|link| Flow {
            link,
            count: CHECK_BESIDE_COUNT,
            spacing: lasts / CHECK_BESIDE_COUNT,
            bytes: CHECK_BYTES_BESIDE,
        });
        let flows: Vec<Flow> = std::iter::once(main).chain(beside).collect();
        let queue = case.rule.transmission(case.frame_bytes()) * case.rule.queue_frames_max().min(case.count);
        let is_seen = || {
            let now = self.fabric.counts()?;
            let judged =
                |link| counts_of(&now, link).judged.saturating_sub(counts_of(&all_before, link).judged);
            Ok(flows.iter().all(|flow| judged(flow.link) >= u64::from(flow.count)))
        };
        let heard = self.sockets.exchange(&flows, case.rule.latency + case.rule.jitter + queue, is_seen)?;
        let [before, after] =
            [&all_before, &self.fabric.counts()?].map(|counts| counts_of(counts, case.link));
        let baseline = *baseline.get_or_insert_with(|| {
            let all: Vec<Arrival> = heard.iter().flatten().copied().collect();
            median(&all).unwrap_or_default()
        });
        let (measured, mut complaints) = judge(&Heard {
            case,
            fabric: self.order.fabric,
            seed: self.order.seed,
            arrivals: &heard[0],
            counts: [before, after],
            baseline,
        });
        for (flow, arrivals) in flows.iter().zip(&heard).skip(1) {
            let suffers = is_untouched(arrivals, flow.count, baseline, case.rule.latency);
            complaints.extend(suffers.map(|complaint| Complaint {
                text: format!("{}, to which nothing was done: {}", name(flow.link), complaint.text),
                ..complaint
            }));
        }
        let is_of_time = |complaint: &Complaint| complaint.is_of_time;
        let is_worth_another_look = !complaints.is_empty() && complaints.iter().all(is_of_time);
        let complaints = complaints.into_iter().map(|complaint| complaint.text).collect();
        let row = Row { link: name(case.link), asked: asked(&case.rule), measured, complaints };
        Ok(Looked { row, is_worth_another_look })
    }
}

fn counts_of(counts: &BTreeMap<LinkId, FrameCounts>, link: LinkId) -> FrameCounts {
    counts.get(&link).copied().unwrap_or_default()
}

fn name(link: LinkId) -> String {
    format!("n{} -> n{}", link.from.0 + 1, link.to.0 + 1)
}

fn asked(rule: &LinkRule) -> String {
    match rule {
        rule if rule.cut => "cut".to_owned(),
        rule if *rule == LinkRule::PERFECT => "nothing".to_owned(),
        rule => LinkEffect::of(rule).to_string(),
    }
}
