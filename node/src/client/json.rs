//! The JSON of docs/http.md from the client's side: requests as they are written; `json/answer.rs` has answers as they are read.

mod answer;
#[cfg(test)]
mod tests;

use serde::Serialize;
use serde_json::{Map, Value as Json};

pub(super) use self::answer::{changes, missing, outcome, page, read, refused, vaults};
use crate::api::{Consistency, ReadRequest, ScanRequest, WatchRequest};
use crate::client::watch::WatchQuery;
use crate::http::put_bytes;
use crate::limits::KEY_BYTES_MAX;
use crate::types::{
    Command, Compare, Interest, Key, KeyRange, Operand, Operation, Transaction, Value, VaultName,
};

type Object = Map<String, Json>;

/// A request that is ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) path: String,
    body: Object,
}

impl Request {
    fn new(method: &'static str, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: Object::new() }
    }

    /// The same, with a field of its body.
    fn with(mut self, name: &str, value: impl Into<Json>) -> Self {
        self.body.insert(name.to_owned(), value.into());
        self
    }

    /// The body as it is sent; empty where nothing is said.
    pub(super) fn body(&self) -> String {
        if self.body.is_empty() {
            return String::new();
        }
        serde_json::to_string(&self.body).expect("an object with texts as names becomes JSON")
    }
}

/// The request of a command that keeps its bounds.
pub(super) fn write(command: &Command) -> Request {
    let on_keys = |name: &str, body: Object| {
        Request::new("POST", "/kv/write").with("command", Object::from_iter([(name.to_owned(), body.into())]))
    };
    match command {
        Command::Set { key, value } => on_keys("Set", pair(key, value)),
        Command::Delete { key } => on_keys("Delete", bytes("key", &key.0)),
        Command::CompareAndSwap { key, expected, value } => {
            let mut swap = pair(key, value);
            swap.extend(
                expected.as_ref().map_or_else(null_expected, |expected| bytes("expected", &expected.0)),
            );
            on_keys("CompareAndSwap", swap)
        }
        Command::SetMulti { pairs } => {
            on_keys("SetMulti", list("pairs", pairs.iter().map(|(key, value)| pair_item(key, value))))
        }
        Command::DeleteMulti { keys } => on_keys("DeleteMulti", list("keys", keys.iter().map(key_item))),
        Command::Transaction(transaction) => on_keys("Transaction", transaction_body(transaction)),
        Command::InVault { vault, command } => write(command).with("vault", vault.0.as_str()),
        Command::WithLease { lease, command } => write(command).with("lease", lease.0),
        // A name has nothing that a path would not take.
        Command::CreateVault { vault } => Request::new("PUT", format!("/vault/{vault}")),
        Command::DeleteVault { vault } => Request::new("DELETE", format!("/vault/{vault}")),
        Command::GrantLease { ttl_ms } => Request::new("POST", "/leases").with("ttl_ms", *ttl_ms),
        Command::RevokeLease { lease } => Request::new("DELETE", format!("/lease/{lease}")),
    }
}

/// The request of a read.
pub(super) fn read_request(request: &ReadRequest) -> Request {
    let ReadRequest { vault, key, consistency } = request;
    let mut read = of_vault(Request::new("POST", "/kv/read"), vault.as_ref());
    read.body.extend(bytes("key", &key.0));
    fresh(read, *consistency)
}

/// The request of a page of a scan. Where the page before has ended is a bound of its keys: a node's token says no more.
pub(super) fn scan_request(request: &ScanRequest) -> Request {
    let ScanRequest { vault, range, after, limit, detail, consistency } = request;
    let mut scan = of_vault(Request::new("POST", "/kv/scan"), vault.as_ref());
    let range = after.as_ref().map_or_else(|| range.clone(), |after| behind(range, after));
    scan.body.extend(range_body(&range));
    fresh(scan.with("limit", *limit).with("detail", word(detail)), *consistency)
}

/// What is followed, as a query.
pub(super) fn watch_query(request: &WatchRequest) -> WatchQuery {
    let WatchRequest { interest: Interest { vault, range }, from, with_previous, consistency, ends } =
        request;
    let mut query = WatchQuery::new(*consistency);
    for (text, base64, bound) in [
        ("prefix", "prefix_base64", &range.prefix),
        ("start", "start_base64", &range.start),
        ("end", "end_base64", &range.end),
    ] {
        match String::from_utf8(bound.0.clone()) {
            Ok(bound) if bound.is_empty() => {}
            Ok(bound) => query.parameters.push((text, bound)),
            Err(error) => query.parameters.push((base64, data_encoding::BASE64.encode(error.as_bytes()))),
        }
    }
    query.parameters.extend(vault.as_ref().map(|vault| ("vault", vault.0.clone())));
    query.parameters.extend(with_previous.then(|| ("previous", "true".to_owned())));
    (query.from, query.ends) = (from.map(|from| from.0), *ends);
    query
}

/// What is left of a range behind one of its keys.
fn behind(range: &KeyRange, key: &Key) -> KeyRange {
    let mut next = key.0.clone();
    if next.len() < KEY_BYTES_MAX as usize {
        next.push(0);
    } else {
        // No key is longer: the next one is greater in a byte, and ends there.
        while next.last() == Some(&u8::MAX) {
            next.pop();
        }
        match next.last_mut() {
            Some(last) => *last += 1,
            // It was the last of all: there is none before it that is not before it.
            None => return KeyRange { start: key.clone(), end: key.clone(), ..range.clone() },
        }
    }
    KeyRange { start: Key(next).max(range.start.clone()), ..range.clone() }
}

fn of_vault(request: Request, vault: Option<&VaultName>) -> Request {
    match vault {
        None => request,
        Some(vault) => request.with("vault", vault.0.as_str()),
    }
}

/// Says how fresh a read is to be.
fn fresh(request: Request, consistency: Consistency) -> Request {
    match consistency {
        Consistency::Bounded(age) => {
            let ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            request.with("max_staleness_ms", ms)
        }
        other => request.with("consistency", other.as_str()),
    }
}

/// Bytes under their name where they are text, otherwise under that of their Base64.
fn bytes(name: &str, bytes: &[u8]) -> Object {
    let mut object = Object::new();
    put_bytes(&mut object, name, bytes.to_vec());
    object
}

fn pair(key: &Key, value: &Value) -> Object {
    let mut pair = bytes("key", &key.0);
    pair.extend(bytes("value", &value.0));
    pair
}

/// It has to be said that a key is to be absent.
fn null_expected() -> Object {
    Object::from_iter([("expected".to_owned(), Json::Null)])
}

/// Texts stand in lists as they are.
fn pair_item(key: &Key, value: &Value) -> Json {
    match (str::from_utf8(&key.0), str::from_utf8(&value.0)) {
        (Ok(key), Ok(value)) => vec![key, value].into(),
        _ => pair(key, value).into(),
    }
}

fn key_item(key: &Key) -> Json {
    str::from_utf8(&key.0).map_or_else(|_| bytes("key", &key.0).into(), Json::from)
}

fn list(name: &str, items: impl Iterator<Item = Json>) -> Object {
    Object::from_iter([(name.to_owned(), items.collect())])
}

/// A value of an enum whose JSON is a word.
fn word(of: impl Serialize) -> Json {
    serde_json::to_value(of).expect("a word becomes JSON")
}

/// An empty bound is none.
fn range_body(KeyRange { prefix, start, end }: &KeyRange) -> Object {
    let bounds = [("prefix", prefix), ("start", start), ("end", end)];
    bounds
        .into_iter()
        .filter(|(_, bound)| !bound.0.is_empty())
        .flat_map(|(name, bound)| bytes(name, &bound.0))
        .collect()
}

fn transaction_body(Transaction { compare, success, failure }: &Transaction) -> Object {
    let mut body = list("compare", compare.iter().map(|compare| compare_body(compare).into()));
    body.extend(list("success", success.iter().map(|operation| operation_body(operation).into())));
    body.extend(list("failure", failure.iter().map(|operation| operation_body(operation).into())));
    body
}

fn compare_body(Compare { key, relation, operand }: &Compare) -> Object {
    let number = |name: &str, number: u64| (name.to_owned(), Json::from(number));
    let mut body = bytes("key", &key.0);
    body.insert("relation".to_owned(), word(relation));
    match operand {
        Operand::Value(value) => body.extend(bytes("value", &value.0)),
        Operand::Version(version) => body.extend([number("version", *version)]),
        Operand::CreateRevision(revision) => body.extend([number("create_revision", revision.0)]),
        Operand::ModRevision(revision) => body.extend([number("mod_revision", revision.0)]),
        Operand::Exists(exists) => drop(body.insert("exists".to_owned(), (*exists).into())),
    }
    body
}

fn operation_body(operation: &Operation) -> Object {
    let (name, body) = match operation {
        Operation::Put { key, value } => ("Put", pair(key, value)),
        Operation::Delete { key } => ("Delete", bytes("key", &key.0)),
        Operation::Get { key } => ("Get", bytes("key", &key.0)),
        Operation::Range { range, limit } => {
            let mut body = range_body(range);
            body.insert("limit".to_owned(), (*limit).into());
            ("Range", body)
        }
    };
    Object::from_iter([(name.to_owned(), body.into())])
}
