//! The rules of the bridge: who may send from which port, which class a sender's frames take, and which links are cut. Below:
//! which frames are copied.
//!
//! The only place that knows the crate nftables, of which it takes the words of nft's JSON (libnftables-json(5)); the program
//! `nft` is started as all programs of the lab are. What is handed over at once takes effect at one instant.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nftables::batch::Batch;
use nftables::expr::{Expression, Map, Meta, MetaKey, NamedExpression, Payload, PayloadField, SetItem};
use nftables::schema::{
    Chain, Element, NfListObject, NfObject, Nftables, Rule, Set, SetType, SetTypeValue, Table,
};
use nftables::stmt::{AnonymousCounter, Counter, Mangle, Match, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use serde_json::{Value, json};

use super::tally::Copies;
use super::tc::class_handle;
use crate::limits::fabric::{NFT_MAX, NFT_OUTPUT_BYTES_MAX};
use crate::plan::MacAddress;
use crate::program::{Program, ProgramError, ProgramLog};

mod copies;

pub(super) use self::copies::Copying;

/// The program.
pub(super) const NFT: &str = "nft";
/// Where it is on systems that keep it off a user's search path.
const FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Its own input. `-` is /dev/stdin to it, which not every system has.
const INPUT: &str = "/proc/self/fd/0";

const TABLE: &str = "aspen";
const CHAIN: &str = "forward";
/// Pairs of a port and the address of the machine behind it.
const PORTS: &str = "ports";
/// Pairs of a sender and the port of a receiver between which nothing passes.
const CUTS: &str = "cuts";

/// A directed link as a rule sees it: the sender's address, and the name of the receiver's port. Unlike the receiver's
/// address, its port is known of frames to a group, too.
pub(super) type Way = (MacAddress, String);

/// Why the rules are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// It is not installed.
    #[error("no program nft")]
    Missing,
    /// It fails.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// It says something else than it is asked for.
    #[error("nft's answer is not understood")]
    Answer(#[source] serde_json::Error),
}

/// The program, in the network namespace of the calling thread.
#[derive(Debug, Clone)]
pub(super) struct Nft {
    path: PathBuf,
    log: ProgramLog,
}

impl Nft {
    pub(super) fn find(log: ProgramLog) -> Result<Self, NftError> {
        let elsewhere = || FOLDERS.iter().map(|folder| PathBuf::from(folder).join(NFT));
        let path = Program::find(NFT).or_else(|| elsewhere().find(|path| path.is_file()));
        Ok(Self { path: path.ok_or(NftError::Missing)?, log })
    }

    /// Makes everything: the machines by their ports, network by network, of which none is cut off.
    pub(super) fn set_up(&self, networks: &[Vec<(String, MacAddress)>]) -> Result<(), NftError> {
        self.apply(&base(networks), &[])
    }

    /// Cuts these links and heals those, and copies frames by these rules instead of those before, if there are any; all of it
    /// at one instant.
    pub(super) fn change(
        &self,
        cut: &[Way],
        healed: &[Way],
        copying: Option<&[Copying]>,
    ) -> Result<(), NftError> {
        let mut batch = Batch::new();
        if !cut.is_empty() {
            batch.add(ways(cut));
        }
        if !healed.is_empty() {
            batch.delete(ways(healed));
        }
        if let Some(rules) = copying {
            copies::rewrite(&mut batch, rules);
        }
        self.apply(&document(batch), &[])
    }

    /// Whether the kernel knows everything that such a rule needs. Nothing is changed.
    pub(super) fn try_copying(&self, rule: &Copying) -> Result<(), NftError> {
        let mut batch = Batch::new();
        copies::rewrite(&mut batch, std::slice::from_ref(rule));
        self.apply(&document(batch), &["-c"])
    }

    /// The rules by which frames are copied, by their names.
    pub(super) fn copies(&self) -> Result<BTreeMap<String, Copies>, NftError> {
        let output = self.list(["table", "netdev", TABLE].as_slice())?;
        copies::counts(&output).map_err(NftError::Answer)
    }

    /// The links that are cut, with the frames that each has swallowed since it was.
    pub(super) fn cuts(&self) -> Result<BTreeMap<Way, u64>, NftError> {
        counts(&self.list(["set", "bridge", TABLE, CUTS].as_slice())?).map_err(NftError::Answer)
    }

    fn list(&self, what: &[&str]) -> Result<String, NftError> {
        let words = ["-j", "list"].iter().chain(what).map(ToString::to_string);
        let program = Program::new(&self.path).args(words);
        Ok(program.run_with_input(&[], NFT_OUTPUT_BYTES_MAX, NFT_MAX, &self.log)?.stdout)
    }

    fn apply(&self, document: &Value, options: &[&str]) -> Result<(), NftError> {
        let words = ["-j"].iter().chain(options).chain(&["-f", INPUT]).map(ToString::to_string);
        let program = Program::new(&self.path).args(words);
        program.run_with_input(document.to_string().as_bytes(), NFT_OUTPUT_BYTES_MAX, NFT_MAX, &self.log)?;
        Ok(())
    }
}

/// The rules with which a fabric begins. Only the first network has classes.
fn base(networks: &[Vec<(String, MacAddress)>]) -> Value {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(Table { family: NfFamily::Bridge, name: TABLE.into(), handle: None }));
    let ports: Vec<_> =
        networks.iter().flatten().map(|(port, mac)| both(text(port), text(&mac.to_string()))).collect();
    batch.add(set(PORTS, [SetType::Ifname, SetType::EtherAddr], ports));
    batch.add(set(CUTS, [SetType::EtherAddr, SetType::Ifname], Vec::new()));
    batch.add(NfListObject::Chain(Chain {
        family: NfFamily::Bridge,
        table: TABLE.into(),
        name: CHAIN.into(),
        _type: Some(NfChainType::Filter),
        hook: Some(NfHook::Forward),
        prio: Some(0),
        policy: Some(NfChainPolicy::Accept),
        ..Chain::default()
    }));
    let is_stranger = is(Operator::NEQ, both(meta(MetaKey::Iifname), sender()), PORTS);
    batch.add(rule(NfFamily::Bridge, CHAIN, vec![is_stranger, Statement::Drop(None)], None));
    let is_cut = is(Operator::EQ, both(sender(), meta(MetaKey::Oifname)), CUTS);
    batch.add(rule(NfFamily::Bridge, CHAIN, vec![is_cut, Statement::Drop(None)], None));
    batch.add(rule(NfFamily::Bridge, CHAIN, vec![classify(&networks[0])], None));
    let mut document = document(batch);
    count_elements(&mut document, CUTS);
    document
}

/// Gives every frame the class of its sender.
fn classify(machines: &[(String, MacAddress)]) -> Statement<'static> {
    let item = |(position, (_, mac)): (usize, &(String, MacAddress))| {
        let sender = u16::try_from(position).expect("the number of ports is bounded by a u16");
        SetItem::Mapping(text(&mac.to_string()), text(&class(sender)))
    };
    let classes = machines.iter().enumerate().map(item).collect();
    let data = Expression::Named(NamedExpression::Set(classes));
    let value = Expression::Named(NamedExpression::Map(Box::new(Map { key: sender(), data })));
    Statement::Mangle(Mangle { key: meta(MetaKey::Priority), value })
}

/// The class of a sender, as nft writes it.
fn class(sender: u16) -> String {
    let handle = class_handle(sender);
    format!("{:x}:{:x}", handle.major, handle.minor)
}

/// Lets a set count the frames that meet each of its elements. The crate has no word for it.
fn count_elements(document: &mut Value, name: &str) {
    let objects = document["nftables"].as_array_mut().expect("a document is a list");
    let sets = objects.iter_mut().filter_map(|object| object["add"].get_mut("set"));
    for set in sets.filter(|set| set["name"] == name) {
        set["stmt"] = json!([{ "counter": null }]);
    }
}

/// Reads the elements of the set of cuts.
fn counts(text: &str) -> Result<BTreeMap<Way, u64>, serde_json::Error> {
    let document: Nftables<'_> = serde_json::from_str(text)?;
    let mut counts = BTreeMap::new();
    for object in document.objects.iter() {
        let NfObject::ListObject(NfListObject::Set(set)) = object else { continue };
        for element in set.elem.iter().flat_map(|elements| elements.iter()) {
            let Expression::Named(NamedExpression::Elem(element)) = element else { continue };
            let Some(Counter::Anonymous(Some(AnonymousCounter { packets, .. }))) = element.counter else {
                continue;
            };
            if let Some(way) = way(&element.val) {
                counts.insert(way, packets.unwrap_or_default() as u64);
            }
        }
    }
    Ok(counts)
}

fn way(value: &Expression<'_>) -> Option<Way> {
    let Expression::Named(NamedExpression::Concat(parts)) = value else { return None };
    let [Expression::String(mac), Expression::String(port)] = parts.as_slice() else { return None };
    let mac = serde_json::from_value(Value::from(mac.as_ref())).ok()?;
    Some((mac, port.clone().into_owned()))
}

fn document(batch: Batch<'_>) -> Value {
    serde_json::to_value(batch.to_nftables()).expect("its keys are words")
}

fn ways(ways: &[Way]) -> NfListObject<'static> {
    let elements: Vec<_> = ways.iter().map(|(mac, port)| both(text(&mac.to_string()), text(port))).collect();
    NfListObject::Element(Element {
        family: NfFamily::Bridge,
        table: TABLE.into(),
        name: CUTS.into(),
        elem: elements.into(),
    })
}

fn set(name: &'static str, kind: [SetType; 2], elements: Vec<Expression<'static>>) -> NfListObject<'static> {
    NfListObject::Set(Box::new(Set {
        family: NfFamily::Bridge,
        table: TABLE.into(),
        name: name.into(),
        set_type: SetTypeValue::Concatenated(kind.to_vec().into()),
        elem: (!elements.is_empty()).then(|| elements.into()),
        ..Set::default()
    }))
}

fn rule(
    family: NfFamily,
    chain: &str,
    statements: Vec<Statement<'static>>,
    name: Option<&str>,
) -> NfListObject<'static> {
    NfListObject::Rule(Rule {
        family,
        table: TABLE.into(),
        chain: chain.to_owned().into(),
        expr: statements.into(),
        comment: name.map(|name| name.to_owned().into()),
        ..Rule::default()
    })
}

fn is(op: Operator, left: Expression<'static>, set: &str) -> Statement<'static> {
    compare(op, left, text(&format!("@{set}")))
}

fn compare(op: Operator, left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op })
}

fn both(first: Expression<'static>, second: Expression<'static>) -> Expression<'static> {
    Expression::Named(NamedExpression::Concat(vec![first, second]))
}

fn text(text: &str) -> Expression<'static> {
    Expression::String(text.to_owned().into())
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

/// The address from which a frame comes.
fn sender() -> Expression<'static> {
    ether("saddr")
}

fn ether(field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: "ether".into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

#[cfg(test)]
mod tests;
