//! Links of a scenario: those that are not perfect for the whole run, and those that a fault changes for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::limits::{LINK_LATENCY_MAX, LINK_REORDER_MAX, LINKS_MAX, PER_MILLION, PROBES_TIMED};
use crate::scenario::mistake::Mistake;
use crate::scenario::parse::Path;
use crate::scenario::validate::fields::{Fields, Findings, Section, Value, items};
use crate::scenario::validate::nodes::Nodes;
use crate::scenario::validate::selectors::{ROLES, Selected, fits, selectors};
use crate::scenario::validate::units;
use crate::scenario::{FaultAction, LinkEffect, NodeIndex, Selector, StandingLink, link_pairs};

/// The same keys in a fault and in a line of `links`, and what messages call them.
struct Grammar {
    section: Section,
    from: &'static str,
    to: &'static str,
    between: &'static str,
    /// What an end may be called besides a name.
    roles: &'static [&'static str],
    latency: &'static str,
    jitter: &'static str,
    loss: &'static str,
    duplicate: &'static str,
    reorder: &'static str,
    corrupt: &'static str,
    rate: &'static str,
}

const ENDS: [&str; 3] = ["between", "from", "to"];
const EFFECTS: [&str; 7] = ["latency", "jitter", "loss", "duplicate", "reorder", "corrupt", "rate"];
const KEYS: &[&str] = &[
    ENDS[0], ENDS[1], ENDS[2], EFFECTS[0], EFFECTS[1], EFFECTS[2], EFFECTS[3], EFFECTS[4], EFFECTS[5],
    EFFECTS[6],
];
const IN_FAULT: Grammar = Grammar {
    section: Section { name: "link", keys: KEYS, keys_later: &[] },
    from: "link.from",
    to: "link.to",
    between: "link.between",
    roles: &ROLES,
    latency: "link.latency",
    jitter: "link.jitter",
    loss: "link.loss",
    duplicate: "link.duplicate",
    reorder: "link.reorder",
    corrupt: "link.corrupt",
    rate: "link.rate",
};
const IN_LINKS: Grammar = Grammar {
    section: Section { name: "a line of links", keys: KEYS, keys_later: &[] },
    from: "links.from",
    to: "links.to",
    between: "links.between",
    roles: &[],
    latency: "links.latency",
    jitter: "links.jitter",
    loss: "links.loss",
    duplicate: "links.duplicate",
    reorder: "links.reorder",
    corrupt: "links.corrupt",
    rate: "links.rate",
};

/// Both ends, as they are written.
struct Ends {
    from: Selected,
    to: Selected,
    is_both_ways: bool,
}

/// The keys of an effect that are given, each with its place.
#[derive(Default)]
struct Given {
    latency: Option<(u32, Path)>,
    jitter: Option<(u32, Path)>,
    loss: Option<(u32, Path)>,
    duplicate: Option<(u32, Path)>,
    reorder: Option<(u32, Path)>,
    corrupt: Option<(u32, Path)>,
    rate: Option<(u64, Path)>,
}

impl Given {
    fn is_empty(&self) -> bool {
        let Self { latency, jitter, loss, duplicate, reorder, corrupt, rate } = self;
        [latency, jitter, loss, duplicate, reorder, corrupt].into_iter().all(Option::is_none)
            && rate.is_none()
    }

    /// `effect` with what is given in place of what was there.
    fn over(&self, effect: LinkEffect) -> LinkEffect {
        let value = |given: &Option<(u32, Path)>, before| given.as_ref().map_or(before, |(value, _)| *value);
        LinkEffect {
            latency_ms: value(&self.latency, effect.latency_ms),
            jitter_ms: value(&self.jitter, effect.jitter_ms),
            loss_per_million: value(&self.loss, effect.loss_per_million),
            duplicate_per_million: value(&self.duplicate, effect.duplicate_per_million),
            reorder_per_million: value(&self.reorder, effect.reorder_per_million),
            corrupt_per_million: value(&self.corrupt, effect.corrupt_per_million),
            bits_per_s: self.rate.as_ref().map_or(effect.bits_per_s, |(rate, _)| Some(*rate)),
        }
    }

    /// Where to point at what cannot be.
    fn place(&self) -> Option<&Path> {
        let given = self.jitter.as_ref().or(self.reorder.as_ref()).or(self.latency.as_ref());
        given.map(|(_, path)| path)
    }
}

/// The link of a fault that lasts for `lasts`, if that is known.
pub(super) fn fault(
    value: &Value<'_>,
    nodes: Option<&Nodes>,
    lasts: Option<Duration>,
    findings: &mut Findings,
) -> Option<FaultAction> {
    let fields = Fields::open(value, "link", &IN_FAULT.section, findings)?;
    let ends = ends(value, &fields, &IN_FAULT, nodes, findings);
    let given = given(value, &fields, &IN_FAULT, findings);
    let effect = given.and_then(|given| fault_effect(value, &given, lasts, findings));
    let (ends, effect) = (ends?, effect?);
    if !nodes.is_none_or(|nodes| connects(value, &ends, nodes, findings)) {
        return None;
    }
    let Ends { from, to, is_both_ways, .. } = ends;
    Some(FaultAction::Link { from: from.selectors, to: to.selectors, is_both_ways, effect })
}

/// The effect of a fault, if it has one that can be seen within the fault's time.
fn fault_effect(
    value: &Value<'_>,
    given: &Given,
    lasts: Option<Duration>,
    findings: &mut Findings,
) -> Option<LinkEffect> {
    let effect = given.over(LinkEffect::default());
    if effect == LinkEffect::default() {
        findings.add(&value.path, Mistake::LinkIdle { section: IN_FAULT.section.name });
        return None;
    }
    let path = given.place().unwrap_or(&value.path);
    if let Some(mistake) = impossible(effect) {
        findings.add(path, mistake);
        return None;
    }
    let delay = Duration::from_millis(u64::from(effect.latency_ms) + u64::from(effect.jitter_ms));
    let min = 2 * delay * u32::try_from(PROBES_TIMED).expect("a few");
    if let Some(lasts) = lasts.filter(|lasts| *lasts < min) {
        findings.add(path, Mistake::LinkShort { lasts, min, delay });
        return None;
    }
    Some(effect)
}

/// What no link can do.
pub(crate) fn impossible(effect: LinkEffect) -> Option<Mistake> {
    let duration = |ms: u32| Duration::from_millis(ms.into());
    let cut = LinkEffect { loss_per_million: PER_MILLION, ..LinkEffect::default() };
    if effect.jitter_ms > effect.latency_ms {
        Some(Mistake::Jitter { jitter: duration(effect.jitter_ms), latency: duration(effect.latency_ms) })
    } else if effect.is_cut() && effect != cut {
        Some(Mistake::LossAndMore)
    } else if effect.reorder_per_million > LINK_REORDER_MAX {
        Some(Mistake::ReorderMost { share: effect.reorder_per_million })
    } else if effect.reorder_per_million > 0 && effect.latency_ms == 0 {
        Some(Mistake::ReorderAtOnce { share: effect.reorder_per_million })
    } else {
        None
    }
}

/// Whether there can be a link between the ends.
fn connects(value: &Value<'_>, ends: &Ends, nodes: &Nodes, findings: &mut Findings) -> bool {
    let nodes_count = nodes.names.len();
    let (from, to) = (&ends.from.selectors, &ends.to.selectors);
    let is_rest = |selectors: &Vec<Selector>| matches!(selectors.as_slice(), [Selector::Rest]);
    let is_drawn = |selector: &Selector| matches!(selector, Selector::Follower | Selector::Random);
    let is_itself = match (named(from), named(to)) {
        (Some(from), Some(to)) => link_pairs(&from, &to, true).is_empty(),
        _ => from == to && !from.iter().any(is_drawn),
    };
    let mistake = if nodes_count < 2 {
        Mistake::LinkAlone { nodes_count }
    } else if is_itself {
        findings.add(&ends.to.path, Mistake::LinkToItself { who: ends.to.word.clone() });
        return false;
    } else if !ends.from.is_zone && !ends.to.is_zone {
        return fits(value, &[from.as_slice(), to].concat(), nodes_count, findings);
    } else if (is_rest(from) || is_rest(to)) && from.len().max(to.len()) == nodes_count {
        Mistake::RestEmpty { nodes_count }
    } else {
        // A role may be played within the zone of the other end: that is seen when the fault is due.
        return true;
    };
    findings.add(&value.path, mistake);
    false
}

/// The nodes, if no role is among them.
fn named(selectors: &[Selector]) -> Option<Vec<NodeIndex>> {
    let node = |selector: &Selector| match selector {
        Selector::Node(node) => Some(*node),
        _ => None,
    };
    selectors.iter().map(node).collect()
}

/// `from` and `to`, or `between`.
fn ends(
    value: &Value<'_>,
    fields: &Fields<'_>,
    grammar: &'static Grammar,
    nodes: Option<&Nodes>,
    findings: &mut Findings,
) -> Option<Ends> {
    let section = grammar.section.name;
    let Some(between) = fields.get("between") else {
        if fields.is_misspelt("between") {
            return None;
        }
        let is_nowhere =
            ["from", "to"].iter().all(|key| fields.get(key).is_none() && !fields.is_misspelt(key));
        if is_nowhere {
            findings.add(&value.path, Mistake::LinkEnds { section });
            return None;
        }
        let from = fields.require("from", findings);
        let from = from.and_then(|value| selectors(&value, grammar.from, nodes, grammar.roles, findings));
        let to = fields.require("to", findings);
        let to = to.and_then(|value| selectors(&value, grammar.to, nodes, grammar.roles, findings));
        return Some(Ends { from: from?, to: to?, is_both_ways: false });
    };
    for key in ["from", "to"] {
        if let Some(path) = fields.key_path(key) {
            findings.add(&path, Mistake::LinkBetween { section, key });
        }
    }
    let list = items(&between, grammar.between, "a list of two", findings)?;
    let [from, to] = list.as_slice() else {
        findings.add(&between.path, Mistake::BetweenCount { key: grammar.between, count: list.len() });
        return None;
    };
    let first = selectors(from, grammar.between, nodes, grammar.roles, findings);
    let second = selectors(to, grammar.between, nodes, grammar.roles, findings);
    Some(Ends { from: first?, to: second?, is_both_ways: true })
}

/// What is done, at least one key of it.
fn given(
    value: &Value<'_>,
    fields: &Fields<'_>,
    grammar: &'static Grammar,
    findings: &mut Findings,
) -> Option<Given> {
    let mut is_right = true;
    let mut time = |key: &str, name: &'static str, findings: &mut Findings| {
        let value = fields.get(key)?;
        let time = units::duration(&value, name, Duration::ZERO, LINK_LATENCY_MAX, findings);
        is_right &= time.is_some();
        Some((u32::try_from(time?.as_millis()).expect("at most LINK_LATENCY_MAX"), value.path))
    };
    let latency = time("latency", grammar.latency, findings);
    let jitter = time("jitter", grammar.jitter, findings);
    let mut share = |key: &str, name: &'static str, findings: &mut Findings| {
        let value = fields.get(key)?;
        let share = units::per_million(&value, name, findings);
        is_right &= share.is_some();
        Some((share?, value.path))
    };
    let loss = share("loss", grammar.loss, findings);
    let duplicate = share("duplicate", grammar.duplicate, findings);
    let reorder = share("reorder", grammar.reorder, findings);
    let corrupt = share("corrupt", grammar.corrupt, findings);
    let rate = fields.get("rate").and_then(|value| {
        let rate = units::bits_per_s(&value, grammar.rate, findings);
        is_right &= rate.is_some();
        Some((rate?, value.path))
    });
    let given = Given { latency, jitter, loss, duplicate, reorder, corrupt, rate };
    let is_misspelt = EFFECTS.iter().any(|key| fields.is_misspelt(key));
    if is_right && given.is_empty() && !is_misspelt {
        findings.add(&value.path, Mistake::LinkIdle { section: grammar.section.name });
    }
    (is_right && !given.is_empty()).then_some(given)
}

/// The links that are not perfect for the whole run. A later line replaces, for the directed links that it names, the keys
/// that it gives.
pub(super) fn standing(
    value: &Value<'_>,
    nodes: Option<&Nodes>,
    findings: &mut Findings,
) -> Option<Vec<StandingLink>> {
    let list = items(value, "links", "a list", findings)?;
    if list.len() > LINKS_MAX {
        findings.add(&value.path, Mistake::LinkCount { count: list.len() });
        return None;
    }
    let mut effects: BTreeMap<(NodeIndex, NodeIndex), LinkEffect> = BTreeMap::new();
    let mut is_right = true;
    for item in &list {
        is_right &= line(item, nodes, &mut effects, findings).is_some();
    }
    let links = effects.into_iter().filter(|(_, effect)| *effect != LinkEffect::default());
    let links = links.map(|((from, to), effect)| StandingLink { from, to, effect });
    is_right.then(|| links.collect())
}

/// One line of `links`.
fn line(
    value: &Value<'_>,
    nodes: Option<&Nodes>,
    effects: &mut BTreeMap<(NodeIndex, NodeIndex), LinkEffect>,
    findings: &mut Findings,
) -> Option<()> {
    let section = &IN_LINKS.section;
    let fields = Fields::open(value, section.name, section, findings)?;
    let ends = ends(value, &fields, &IN_LINKS, nodes, findings);
    let given = given(value, &fields, &IN_LINKS, findings);
    let pairs = ends.and_then(|ends| pairs(&ends, findings));
    let (pairs, given) = (pairs?, given?);
    if let Some((_, path)) = given.loss.as_ref().filter(|(loss, _)| *loss == PER_MILLION) {
        findings.add(path, Mistake::LinksCut);
        return None;
    }
    let before = effects.clone();
    for pair in pairs {
        let effect = effects.entry(pair).or_default();
        *effect = given.over(*effect);
    }
    let is_idle =
        effects.iter().all(|(pair, effect)| *effect == before.get(pair).copied().unwrap_or_default());
    let impossible = effects.values().find_map(|effect| impossible(*effect));
    let mistake = match impossible {
        Some(impossible) => impossible,
        None if is_idle => Mistake::LinkIdle { section: section.name },
        None => return Some(()),
    };
    findings.add(given.place().unwrap_or(&value.path), mistake);
    None
}

/// The directed links of a line.
fn pairs(ends: &Ends, findings: &mut Findings) -> Option<Vec<(NodeIndex, NodeIndex)>> {
    let mut side = |end: &Selected| {
        let nodes = named(&end.selectors);
        if nodes.is_none() {
            findings.add(&end.path, Mistake::LinksRole { word: end.word.clone() });
        }
        nodes
    };
    let (from, to) = (side(&ends.from), side(&ends.to));
    let pairs = link_pairs(&from?, &to?, ends.is_both_ways);
    if pairs.is_empty() {
        findings.add(&ends.to.path, Mistake::LinkToItself { who: ends.to.word.clone() });
        return None;
    }
    Some(pairs.into_iter().collect())
}
