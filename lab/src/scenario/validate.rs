//! The raw tree to a [`Scenario`], or every mistake in it.
//!
//! A part that is wrong becomes `None` and is not looked at again, so that one mistake is one message. Places
//! are found last, and only for the mistakes that are shown.

mod checks;
mod faults;
mod fields;
pub(crate) mod links;
mod networks;
mod nodes;
mod selectors;
pub(crate) mod units;

use std::time::Duration;

use self::fields::{Fields, Findings, Section, Value};
use self::nodes::Nodes;
use crate::limits::{
    ABOUT_BYTES_MAX, CLIENTS_DEFAULT, CLIENTS_MAX, ELECTION_HEARTBEATS_MIN, ELECTION_MAX,
    ELECTION_MAX_DEFAULT, ELECTION_MIN_DEFAULT, HEARTBEAT_DEFAULT, HEARTBEAT_MAX, HEARTBEAT_MIN,
    KEYS_DEFAULT, KEYS_MAX, LOAD_AFTER_FAULTS, LOAD_DURATION_MIN, MISTAKES_MAX, MTU_BYTES, OPERATIONS_MAX,
    PLANNED_DURATION_MAX, RATE_DEFAULT, REPLACE_AFTER_MAX, REPLACE_AFTER_MIN, SCENARIO_NAME_BYTES_MAX,
    SNAPSHOT_ENTRIES_MAX, SNAPSHOT_ENTRIES_MIN, STALENESS_MIN,
};
use crate::scenario::mistake::Mistake;
use crate::scenario::parse::{self, Path, Position, Raw};
use crate::scenario::{
    Check, Fault, Located, Mix, Network, RaftSettings, Reads, Scenario, Target, Workload, WorkloadKind,
};

const SCENARIO: Section = Section {
    name: "a scenario",
    keys: &[
        "name", "about", "target", "nodes", "networks", "links", "raft", "workload", "duration", "faults",
        "checks",
    ],
    keys_later: &[],
};
const RAFT: Section = Section {
    name: "raft",
    keys: &["heartbeat", "election", "snapshot_entries", "preferred_zones", "replace_after"],
    keys_later: &[],
};
const WORKLOAD: Section = Section {
    name: "workload",
    keys: &["kind", "clients", "keys", "rate", "reads", "max_staleness", "mix"],
    keys_later: &[],
};
const MIX: Section =
    Section { name: "workload.mix", keys: &["read", "write", "cas", "delete", "scan"], keys_later: &[] };

const MIX_DEFAULT: Mix = Mix { read: 50, write: 30, cas: 20, delete: 0, scan: 0 };
const WORKLOAD_DEFAULT: Workload = Workload {
    kind: WorkloadKind::Register,
    clients: CLIENTS_DEFAULT,
    keys: KEYS_DEFAULT,
    rate_per_s: RATE_DEFAULT,
    reads: Reads::Linearizable,
    max_staleness: None,
    mix: MIX_DEFAULT,
};

/// Reads and validates a text.
///
/// # Errors
/// The mistakes in the order of the file, at most [`MISTAKES_MAX`], and how many were left out.
pub(super) fn scenario(text: &str) -> Result<Scenario, (Vec<Located>, usize)> {
    // A byte order mark is no part of the first line.
    let whole = text;
    let text = whole.strip_prefix('\u{feff}').unwrap_or(whole);
    let raw = parse::tree(text).map_err(|(Position { line, column }, syntax)| {
        let mistake = Mistake::Syntax(syntax);
        (vec![Located { line, column, mistake }], 0)
    })?;
    let mut findings = Findings::default();
    let scenario = root(whole, &raw, &mut findings);
    match scenario {
        Some(scenario) if findings.list.is_empty() => Ok(scenario),
        _ => {
            assert!(!findings.list.is_empty(), "a part is missing only because of a mistake");
            Err(located(text, findings.list))
        }
    }
}

/// In file order. What an alias repeats is said once.
fn located(text: &str, mut list: Vec<(Path, Mistake)>) -> (Vec<Located>, usize) {
    list.sort_by(|(left, _), (right, _)| left.cmp(right));
    let left_out_count = list.len().saturating_sub(MISTAKES_MAX);
    list.truncate(MISTAKES_MAX);
    let place = |(path, mistake)| {
        let Position { line, column } = parse::locate(text, &path);
        Located { line, column, mistake }
    };
    let mut located: Vec<Located> = list.into_iter().map(place).collect();
    located.sort_by_key(|at| (at.line, at.column));
    located.dedup_by(|left, right| {
        (left.line, left.column) == (right.line, right.column) && left.mistake == right.mistake
    });
    (located, left_out_count)
}

fn root(text: &str, raw: &Raw, findings: &mut Findings) -> Option<Scenario> {
    let value = Value { raw, path: Path::default() };
    let fields = Fields::open(&value, "a scenario", &SCENARIO, findings)?;
    let name = fields.require("name", findings).and_then(|value| name(&value, findings));
    let about = fields.require("about", findings).and_then(|value| about(&value, findings));
    let target = fields.get("target").map_or(Some(Target::Aspen), |value| target(&value, findings));
    let nodes = fields.require("nodes", findings).and_then(|value| nodes::nodes(&value, findings));
    let networks = match fields.get("networks") {
        Some(value) => networks::networks(&value, nodes.as_ref(), findings),
        None => nodes.as_ref().map(networks::default),
    };
    let links = fields
        .get("links")
        .map_or_else(|| Some(Vec::new()), |value| links::standing(&value, nodes.as_ref(), findings));
    let preferred_zones = fields.get("raft").and_then(|value| zones(&value, nodes.as_ref(), findings));
    let raft = fields.get("raft").map_or_else(|| Some(raft_default()), |value| raft(&value, findings));
    let workload = fields.get("workload").map_or(Some(WORKLOAD_DEFAULT), |value| workload(&value, findings));
    let faults = fields
        .get("faults")
        .map_or_else(|| Some(Vec::new()), |value| faults::faults(&value, nodes.as_ref(), raft, findings));
    let names = nodes.as_ref().map(|nodes| nodes.names.as_slice());
    let checks = fields
        .require("checks", findings)
        .and_then(|value| checks::checks(&value, names, workload.as_ref(), faults.as_deref(), findings));
    if target == Some(Target::Etcd) {
        etcd_lacks_members(&fields, nodes.as_ref(), networks.as_deref(), preferred_zones.is_some(), findings);
        etcd_lacks(&fields, raft, workload.as_ref(), faults.as_deref(), checks.as_deref(), findings);
    }
    let duration = duration(&fields, faults.as_deref(), findings);
    if let (Some(workload), Some(duration)) = (&workload, duration) {
        operations(&fields, workload.rate_per_s, duration, findings);
    }
    let Nodes { names, zones, memories_mib, founders, joined_voters } = nodes?;
    Some(Scenario {
        name: name?,
        about: about?,
        text_hash: *blake3::hash(text.as_bytes()).as_bytes(),
        nodes: names,
        zones,
        memories_mib,
        networks: networks?,
        founders,
        joined_voters,
        target: target?,
        links: links?,
        preferred_zones: preferred_zones.unwrap_or_default(),
        raft: raft?,
        workload: workload?,
        duration: duration?,
        faults: faults?,
        checks: checks?,
    })
}

fn name(value: &Value<'_>, findings: &mut Findings) -> Option<String> {
    let name = units::text(value, "name", findings)?;
    let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let fits = (1..=SCENARIO_NAME_BYTES_MAX).contains(&name.len());
    if !fits || !name.bytes().all(is_allowed) {
        findings.add(&value.path, Mistake::Name { value: name.to_owned() });
        return None;
    }
    Some(name.to_owned())
}

fn about(value: &Value<'_>, findings: &mut Findings) -> Option<String> {
    let about = units::text(value, "about", findings)?.trim();
    let control = about.chars().find(|char| char.is_control() && !matches!(char, '\n' | '\t'));
    let mistake = match (about.len(), control) {
        (0, _) => Mistake::AboutEmpty,
        (bytes, _) if bytes > ABOUT_BYTES_MAX => Mistake::AboutLong { bytes },
        (_, Some(control)) => Mistake::AboutControl(control as u32),
        (_, None) => return Some(about.to_owned()),
    };
    findings.add(&value.path, mistake);
    None
}

fn raft_default() -> RaftSettings {
    RaftSettings {
        heartbeat: HEARTBEAT_DEFAULT,
        election_min: ELECTION_MIN_DEFAULT,
        election_max: ELECTION_MAX_DEFAULT,
        snapshot_entries: None,
        replace_after: None,
    }
}

fn raft(value: &Value<'_>, findings: &mut Findings) -> Option<RaftSettings> {
    let fields = Fields::open(value, "raft", &RAFT, findings)?;
    let heartbeat = fields.get("heartbeat").map_or(Some(HEARTBEAT_DEFAULT), |value| {
        units::duration(&value, "raft.heartbeat", HEARTBEAT_MIN, HEARTBEAT_MAX, findings)
    });
    let election = fields
        .get("election")
        .map_or(Some((ELECTION_MIN_DEFAULT, ELECTION_MAX_DEFAULT)), |value| election(&value, findings));
    let snapshot_entries = fields.get("snapshot_entries").map_or(Some(None), |value| {
        units::number(&value, "raft.snapshot_entries", SNAPSHOT_ENTRIES_MIN, SNAPSHOT_ENTRIES_MAX, findings)
            .map(Some)
    });
    let replace_after = fields.get("replace_after").map_or(Some(None), |value| {
        units::duration(&value, "raft.replace_after", REPLACE_AFTER_MIN, REPLACE_AFTER_MAX, findings)
            .map(Some)
    });
    let (heartbeat, (election_min, election_max)) = (heartbeat?, election?);
    if election_min < heartbeat * ELECTION_HEARTBEATS_MIN {
        let place = fields.get("election").or_else(|| fields.get("heartbeat"))?;
        findings.add(&place.path, Mistake::ElectionShort { min: election_min, heartbeat });
        return None;
    }
    let (snapshot_entries, replace_after) = (snapshot_entries?, replace_after?);
    Some(RaftSettings { heartbeat, election_min, election_max, snapshot_entries, replace_after })
}

/// `raft.preferred_zones`, if they are given and right: zones that there are, none twice.
fn zones(value: &Value<'_>, nodes: Option<&Nodes>, findings: &mut Findings) -> Option<Vec<String>> {
    // What else is wrong with it, `raft` says.
    let fields = Fields::open(value, "raft", &RAFT, &mut Findings::default())?;
    let value = fields.get("preferred_zones")?;
    let mut zones: Vec<String> = Vec::new();
    let mut is_whole = true;
    for item in fields::items(&value, "raft.preferred_zones", "a list of zones", findings)? {
        let Some(zone) = units::text(&item, "raft.preferred_zones", findings) else {
            is_whole = false;
            continue;
        };
        // Nodes that are wrong themselves have no zones that are known.
        let is_zone = nodes.is_none_or(|nodes| nodes.is_zone(zone));
        if !is_zone || zones.iter().any(|before| before == zone) {
            findings.add(&item.path, Mistake::PreferredZone { value: zone.to_owned(), is_zone });
            is_whole = false;
        }
        zones.push(zone.to_owned());
    }
    (is_whole && !zones.is_empty()).then_some(zones)
}

/// `1s..2s`: the shortest and the longest election timeout.
fn election(value: &Value<'_>, findings: &mut Findings) -> Option<(Duration, Duration)> {
    let text = units::text(value, "raft.election", findings)?;
    let Some((min, max)) = text.split_once("..") else {
        findings.add(&value.path, Mistake::NotRange { value: text.to_owned() });
        return None;
    };
    let duration = |text: &str| units::duration_of(text.trim(), "raft.election", HEARTBEAT_MIN, ELECTION_MAX);
    let mistake = match (duration(min), duration(max)) {
        (Ok(min), Ok(max)) if min < max => return Some((min, max)),
        (Ok(min), Ok(max)) => Mistake::ElectionOrder { min, max },
        (Err(mistake), _) | (_, Err(mistake)) => mistake,
    };
    findings.add(&value.path, mistake);
    None
}

fn workload(value: &Value<'_>, findings: &mut Findings) -> Option<Workload> {
    let fields = Fields::open(value, "workload", &WORKLOAD, findings)?;
    let kind =
        fields.get("kind").map_or(Some(WorkloadKind::Register), |value| workload_kind(&value, findings));
    let clients = fields.get("clients").map_or(Some(CLIENTS_DEFAULT), |value| {
        units::number(&value, "workload.clients", 1, CLIENTS_MAX, findings)
    });
    let keys = fields
        .get("keys")
        .map_or(Some(KEYS_DEFAULT), |value| units::number(&value, "workload.keys", 1, KEYS_MAX, findings));
    let rate_per_s = fields.get("rate").map_or(Some(RATE_DEFAULT), |value| units::rate(&value, findings));
    let mix = fields.get("mix").map_or(Some(MIX_DEFAULT), |value| mix(&value, findings));
    let reads = fields.get("reads").map_or(Some(Reads::Linearizable), |value| reads(&value, findings));
    let max_staleness = fields.get("max_staleness").map_or(Some(None), |value| {
        let (min, max) = (STALENESS_MIN, PLANNED_DURATION_MAX);
        units::duration(&value, "workload.max_staleness", min, max, findings).map(Some)
    });
    Some(Workload {
        kind: kind?,
        clients: clients?,
        keys: keys?,
        rate_per_s: rate_per_s?,
        reads: reads?,
        max_staleness: max_staleness?,
        mix: mix?,
    })
}

fn workload_kind(value: &Value<'_>, findings: &mut Findings) -> Option<WorkloadKind> {
    let kind = units::text(value, "workload.kind", findings)?;
    let mistake = match kind {
        "register" => return Some(WorkloadKind::Register),
        "append" | "set" | "bank" => Mistake::NotThereYet { what: format!("workload kind {kind}") },
        _ => Mistake::WorkloadKind { value: kind.to_owned() },
    };
    findings.add(&value.path, mistake);
    None
}

fn target(value: &Value<'_>, findings: &mut Findings) -> Option<Target> {
    match units::text(value, "target", findings)? {
        "aspen" => return Some(Target::Aspen),
        "etcd" => return Some(Target::Etcd),
        other => findings.add(&value.path, Mistake::Target { value: other.to_owned() }),
    }
    None
}

fn reads(value: &Value<'_>, findings: &mut Findings) -> Option<Reads> {
    match units::text(value, "workload.reads", findings)? {
        "linearizable" => return Some(Reads::Linearizable),
        "lease" => return Some(Reads::Lease),
        other => findings.add(&value.path, Mistake::Reads { value: other.to_owned() }),
    }
    None
}

/// What is asked of the members of etcd and only those of Aspen have.
fn etcd_lacks_members(
    fields: &Fields<'_>,
    nodes: Option<&Nodes>,
    networks: Option<&[Network]>,
    has_preferred_zones: bool,
    findings: &mut Findings,
) {
    if nodes.is_some_and(|nodes| usize::from(nodes.founders) < nodes.names.len())
        && let Some(place) = fields.get("nodes")
    {
        let (what, why) = ("nodes.founders", "whose members are those that it begins with");
        findings.add(&place.path, Mistake::EtcdLacks { what, why });
    }
    if nodes.is_some_and(|nodes| nodes.joined_voters.is_some())
        && let Some(place) = fields.get("nodes")
    {
        let (what, why) = ("nodes.join", "whose members are told of each other");
        findings.add(&place.path, Mistake::EtcdLacks { what, why });
    }
    if networks.and_then(<[Network]>::first).is_some_and(|first| first.mtu > MTU_BYTES)
        && let Some(place) = fields.get("networks")
    {
        let (what, why) = ("an mtu above 1500 on the first network", "whose members fill every frame");
        findings.add(&place.path, Mistake::EtcdLacks { what, why });
    }
    if has_preferred_zones && let Some(place) = fields.get("raft") {
        let (what, why) = ("raft.preferred_zones", "whose leader is wherever it is elected");
        findings.add(&place.path, Mistake::EtcdLacks { what, why });
    }
}

/// What is asked of etcd and only Aspen has.
fn etcd_lacks(
    fields: &Fields<'_>,
    raft: Option<RaftSettings>,
    workload: Option<&Workload>,
    faults: Option<&[Fault]>,
    checks: Option<&[Check]>,
    findings: &mut Findings,
) {
    let mut lacks = |key: &str, what: &'static str, why: &'static str| {
        if let Some(place) = fields.get(key) {
            findings.add(&place.path, Mistake::EtcdLacks { what, why });
        }
    };
    if raft.is_some_and(|raft| raft.snapshot_entries.is_some()) {
        lacks("raft", "raft.snapshot_entries", "which keeps 5000 entries behind a snapshot");
    }
    if raft.is_some_and(|raft| raft.replace_after.is_some()) {
        lacks("raft", "raft.replace_after", "whose members are those that it begins with");
    }
    if workload.is_some_and(|workload| workload.reads == Reads::Lease) {
        lacks("workload", "reads: lease", "which has no such reads");
    }
    if workload.is_some_and(|workload| workload.max_staleness.is_some()) {
        lacks("workload", "workload.max_staleness", "which has no such reads");
    }
    let machine = faults.into_iter().flatten().find(|fault| fault.action.needs_machine());
    if let Some(fault) = machine {
        lacks("faults", fault.action.key(), "whose members are processes without a machine of their own");
    }
    let change = faults.into_iter().flatten().find(|fault| fault.action.changes_members());
    if let Some(fault) = change {
        lacks("faults", fault.action.key(), "whose members are those that it begins with");
    }
    if checks.is_some_and(|checks| checks.contains(&Check::Raft)) {
        lacks("checks", "the check raft", "which shows neither its log nor its votes");
    }
}

fn mix(value: &Value<'_>, findings: &mut Findings) -> Option<Mix> {
    let fields = Fields::open(value, "workload.mix", &MIX, findings)?;
    let mut percent = |key: &str, name: &'static str| {
        fields.get(key).map_or(Some(0), |value| units::number(&value, name, 0, 100, findings))
    };
    let read = percent("read", "workload.mix.read");
    let write = percent("write", "workload.mix.write");
    let cas = percent("cas", "workload.mix.cas");
    let delete = percent("delete", "workload.mix.delete");
    let scan = percent("scan", "workload.mix.scan");
    let mix = Mix { read: read?, write: write?, cas: cas?, delete: delete?, scan: scan? };
    let sum = mix.sum();
    if sum != 100 {
        findings.add(&value.path, Mistake::MixSum { sum: sum.into() });
        return None;
    }
    Some(mix)
}

/// How long the load runs: as given, but not shorter than the faults take; otherwise somewhat longer than
/// they take.
fn duration(fields: &Fields<'_>, faults: Option<&[Fault]>, findings: &mut Findings) -> Option<Duration> {
    let (min, max) = (LOAD_DURATION_MIN, PLANNED_DURATION_MAX);
    let given = fields.get("duration");
    let duration = given.as_ref().map(|value| units::duration(value, "duration", min, max, findings));
    let faults_end = faults?.iter().map(Fault::planned_end).max().unwrap_or_default();
    let duration = match duration {
        Some(duration) => duration?,
        None => faults_end + LOAD_AFTER_FAULTS,
    };
    let mistake = if faults_end > PLANNED_DURATION_MAX || duration > PLANNED_DURATION_MAX {
        Mistake::PlannedLong { planned: faults_end.max(duration), min, max }
    } else if duration < faults_end {
        Mistake::DurationShort { duration, end: faults_end }
    } else {
        return Some(duration);
    };
    let place = given.or_else(|| fields.get("faults"))?;
    findings.add(&place.path, mistake);
    None
}

fn operations(fields: &Fields<'_>, rate: u32, duration: Duration, findings: &mut Findings) {
    let operations = u64::from(rate) * duration.as_secs();
    if operations > OPERATIONS_MAX {
        let place = ["workload", "duration", "faults"].iter().find_map(|key| fields.get(key));
        let path = place.map_or_else(Path::default, |value| value.path);
        findings.add(&path, Mistake::Operations { operations, rate, duration });
    }
}
