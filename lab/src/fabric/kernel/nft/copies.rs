//! Rules that copy frames: on the sender's port, before the bridge. A copy goes to the queue of its class on the receiver's
//! port, and is delayed and lost there on its own.
//!
//! netem could copy, too, but a kernel may refuse several that do on one port.

use std::collections::BTreeMap;

use nftables::batch::Batch;
use nftables::expr::{Expression, NamedExpression, NgMode, Numgen, SetItem};
use nftables::schema::{Chain, NfListObject, NfObject, Nftables, Rule, Table};
use nftables::stmt::{AnonymousCounter, Counter, Dup, Mangle, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::{Copies, MetaKey, TABLE, class, compare, ether, meta, rule, text};
use crate::limits::PER_MILLION;
use crate::plan::MacAddress;

/// A link of which frames are copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fabric::kernel) struct Copying {
    /// By which it is found again.
    pub(in crate::fabric::kernel) name: String,
    /// The sender's place among the ports.
    pub(in crate::fabric::kernel) sender: u16,
    /// The sender's port.
    pub(in crate::fabric::kernel) from: String,
    /// The receiver's address.
    pub(in crate::fabric::kernel) receiver: MacAddress,
    /// The receiver's port.
    pub(in crate::fabric::kernel) to: String,
    pub(in crate::fabric::kernel) per_million: u32,
}

/// These rules, in place of all that there were.
pub(super) fn rewrite(batch: &mut Batch<'static>, rules: &[Copying]) {
    let table = || NfListObject::Table(Table { family: NfFamily::NetDev, name: TABLE.into(), handle: None });
    // What is not there cannot be deleted.
    batch.add(table());
    batch.delete(table());
    if rules.is_empty() {
        return;
    }
    batch.add(table());
    let mut ports: Vec<&str> = rules.iter().map(|rule| rule.from.as_str()).collect();
    ports.sort_unstable();
    ports.dedup();
    for port in ports {
        batch.add(chain(port));
    }
    for Copying { name, sender, from, receiver, to, per_million } in rules {
        let one = compare(Operator::EQ, ether("daddr"), text(&receiver.to_string()));
        let groups = ["broadcast", "multicast"].map(|kind| SetItem::Element(text(kind)));
        let groups = Expression::Named(NamedExpression::Set(groups.to_vec()));
        let everybody = compare(Operator::EQ, meta(MetaKey::Pkttype), groups);
        for whom in [one, everybody] {
            let mut statements = vec![whom];
            statements.extend(drawn(*per_million));
            let priority = Mangle { key: meta(MetaKey::Priority), value: text(&class(*sender)) };
            statements.push(Statement::Mangle(priority));
            let none = AnonymousCounter { packets: Some(0), bytes: Some(0) };
            statements.push(Statement::Counter(Counter::Anonymous(Some(none))));
            statements.push(Statement::Dup(Dup { addr: text(to), dev: None }));
            batch.add(rule(NfFamily::NetDev, from, statements, Some(name)));
        }
    }
}

fn chain(port: &str) -> NfListObject<'static> {
    NfListObject::Chain(Chain {
        family: NfFamily::NetDev,
        table: TABLE.into(),
        name: port.to_owned().into(),
        _type: Some(NfChainType::Filter),
        hook: Some(NfHook::Ingress),
        prio: Some(0),
        dev: Some(port.to_owned().into()),
        policy: Some(NfChainPolicy::Accept),
        ..Chain::default()
    })
}

/// Whether a frame is drawn; nothing where all are.
fn drawn(per_million: u32) -> Option<Statement<'static>> {
    let numgen = Numgen { mode: NgMode::Random, ng_mod: PER_MILLION, offset: Some(0) };
    let number = Expression::Named(NamedExpression::Numgen(numgen));
    // What the crate calls greater is written `<`.
    let is_below = || compare(Operator::GT, number, Expression::Number(per_million));
    (per_million < PER_MILLION).then(is_below)
}

/// Reads the rules: by name, what they have copied and which share they copy.
pub(super) fn counts(text: &str) -> Result<BTreeMap<String, Copies>, serde_json::Error> {
    let document: Nftables<'_> = serde_json::from_str(text)?;
    let mut found: BTreeMap<String, Copies> = BTreeMap::new();
    for object in document.objects.iter() {
        let NfObject::ListObject(NfListObject::Rule(Rule { comment: Some(name), expr, .. })) = object else {
            continue;
        };
        let copies = found.entry(name.clone().into_owned()).or_default();
        copies.per_million = PER_MILLION;
        for statement in expr.iter() {
            match statement {
                Statement::Counter(Counter::Anonymous(Some(AnonymousCounter { packets, .. }))) => {
                    copies.made += packets.unwrap_or_default() as u64;
                }
                Statement::Match(comparison) => {
                    let is_draw = matches!(comparison.left, Expression::Named(NamedExpression::Numgen(_)));
                    if let (true, Expression::Number(share)) = (is_draw, &comparison.right) {
                        copies.per_million = *share;
                    }
                }
                _ => {}
            }
        }
    }
    Ok(found)
}
