//! Both sides of the interface agree: what the client writes is what the node reads, and the other way round.

use std::time::Duration;

use axum::extract::Query;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::api::{ConfirmedBy, ReadResult, ScanDetail, ScanResult, WriteResult, check_command, check_range};
use crate::client::HttpAnswer;
use crate::client::cluster::ClusterRefusal;
use crate::http::command::written;
use crate::http::error::Refusal;
use crate::http::kv::{ReadBody, ScanBody, WriteBody, page_json, read_json};
use crate::http::watches::{self, revised_json};
use crate::types::{
    Change, ChangeKind, LeaseId, OperationResult, Outcome, Previous, Record, Relation, Revised, Revision,
};

/// Text, text that JSON and queries have to escape, and bytes that are no text.
fn key() -> impl Strategy<Value = Key> {
    let keys: [&[u8]; 6] = [b"a", b"a/\"b\"\n", "gr\u{fc}n & 100 % +".as_bytes(), b"b\0", b"\xff", b"a\xc3"];
    select(keys.map(|key| Key(key.to_vec())).to_vec())
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![1 => Just(Value::default()), 4 => key().prop_map(|key| Value(key.0))]
}

fn range() -> impl Strategy<Value = KeyRange> {
    let bound = || prop_oneof![Just(Key::default()), key()];
    (bound(), bound(), bound()).prop_map(|(prefix, start, end)| KeyRange { prefix, start, end })
}

fn vault() -> impl Strategy<Value = VaultName> {
    select(vec!["v", "A_9-z"]).prop_map(|name| VaultName(name.to_owned()))
}

fn revision() -> impl Strategy<Value = Revision> {
    prop_oneof![0..9_u64, Just(u64::MAX)].prop_map(Revision)
}

fn compare() -> impl Strategy<Value = Compare> {
    let operand = prop_oneof![
        value().prop_map(Operand::Value),
        any::<u64>().prop_map(Operand::Version),
        revision().prop_map(Operand::CreateRevision),
        revision().prop_map(Operand::ModRevision),
        any::<bool>().prop_map(Operand::Exists),
    ];
    let relation = select(vec![Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater]);
    (key(), relation, operand).prop_map(|(key, relation, operand)| Compare { key, relation, operand })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (key(), value()).prop_map(|(key, value)| Operation::Put { key, value }),
        key().prop_map(|key| Operation::Delete { key }),
        key().prop_map(|key| Operation::Get { key }),
        (range(), 1..9_u32).prop_map(|(range, limit)| Operation::Range { range, limit }),
    ]
}

fn on_keys() -> impl Strategy<Value = Command> {
    let operations = || vec(operation(), 0..5);
    prop_oneof![
        (key(), value()).prop_map(|(key, value)| Command::Set { key, value }),
        key().prop_map(|key| Command::Delete { key }),
        (key(), prop::option::of(value()), value())
            .prop_map(|(key, expected, value)| Command::CompareAndSwap { key, expected, value }),
        vec((key(), value()), 1..4).prop_map(|pairs| Command::SetMulti { pairs }),
        vec(key(), 1..4).prop_map(|keys| Command::DeleteMulti { keys }),
        (vec(compare(), 0..4), operations(), operations()).prop_map(|(compare, success, failure)| {
            Command::Transaction(Transaction { compare, success, failure })
        }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let in_vault = || {
        (vault(), on_keys())
            .prop_map(|(vault, command)| Command::InVault { vault, command: Box::new(command) })
    };
    let lease = || any::<u64>().prop_map(LeaseId);
    prop_oneof![
        4 => on_keys(),
        2 => in_vault(),
        2 => (lease(), prop_oneof![on_keys(), in_vault()])
            .prop_map(|(lease, command)| Command::WithLease { lease, command: Box::new(command) }),
        1 => (1_000..9_000_u64).prop_map(|ttl_ms| Command::GrantLease { ttl_ms }),
        1 => lease().prop_map(|lease| Command::RevokeLease { lease }),
        1 => vault().prop_map(|vault| Command::CreateVault { vault }),
        1 => vault().prop_map(|vault| Command::DeleteVault { vault }),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    let lease = prop::option::of(any::<u64>().prop_map(LeaseId));
    (value(), revision(), revision(), any::<u64>(), lease).prop_map(
        |(value, create_revision, mod_revision, version, lease)| Record {
            value,
            create_revision,
            mod_revision,
            version,
            lease,
        },
    )
}

/// What an operation may have done.
fn result(operation: &Operation) -> BoxedStrategy<OperationResult> {
    match operation {
        Operation::Put { .. } => Just(OperationResult::Written).boxed(),
        Operation::Delete { .. } => {
            any::<bool>().prop_map(|existed| OperationResult::Deleted { existed }).boxed()
        }
        Operation::Get { .. } => prop::option::of(record()).prop_map(OperationResult::Got).boxed(),
        Operation::Range { .. } => (vec((key(), record()), 0..3), any::<bool>())
            .prop_map(|(entries, is_truncated)| OperationResult::Found { entries, is_truncated })
            .boxed(),
    }
}

fn transaction_outcome(transaction: &Transaction) -> BoxedStrategy<Outcome> {
    let branch = |succeeded, operations: &[Operation]| {
        let results = operations.iter().map(result).collect::<Vec<_>>();
        results.prop_map(move |results| Outcome::Transaction { succeeded, results })
    };
    let too_large = Just(Outcome::AnswerTooLarge);
    prop_oneof![branch(true, &transaction.success), branch(false, &transaction.failure), too_large].boxed()
}

/// What a command may have done.
fn outcome_of(command: &Command) -> BoxedStrategy<Outcome> {
    match command {
        Command::Set { .. } | Command::SetMulti { .. } => {
            select(vec![Outcome::Written, Outcome::Refused]).boxed()
        }
        Command::Delete { .. } | Command::DeleteVault { .. } => {
            any::<bool>().prop_map(|existed| Outcome::Deleted { existed }).boxed()
        }
        Command::DeleteMulti { .. } => {
            any::<u32>().prop_map(|existed_count| Outcome::DeletedMulti { existed_count }).boxed()
        }
        Command::CompareAndSwap { .. } => {
            let other = prop::option::of(value()).prop_map(|actual| Outcome::NotSwapped { actual });
            prop_oneof![Just(Outcome::Swapped), other].boxed()
        }
        Command::Transaction(transaction) => transaction_outcome(transaction),
        Command::InVault { command, .. } => {
            prop_oneof![5 => outcome_of(command), 1 => Just(Outcome::TooManyVaults)].boxed()
        }
        Command::WithLease { command, .. } => {
            let without = select(vec![Outcome::LeaseNotFound, Outcome::LeaseFull]);
            prop_oneof![5 => outcome_of(command), 1 => without].boxed()
        }
        Command::CreateVault { .. } => {
            let ready = any::<bool>().prop_map(|is_new| Outcome::VaultReady { is_new });
            prop_oneof![ready, Just(Outcome::TooManyVaults)].boxed()
        }
        Command::GrantLease { .. } => select(vec![Outcome::LeaseGranted, Outcome::TooManyLeases]).boxed(),
        Command::RevokeLease { .. } => {
            let ended = any::<u32>().prop_map(|key_count| Outcome::LeaseEnded { existed: true, key_count });
            prop_oneof![ended, Just(Outcome::LeaseEnded { existed: false, key_count: 0 })].boxed()
        }
    }
}

fn consistency() -> impl Strategy<Value = Consistency> {
    prop_oneof![
        select(vec![Consistency::Linearizable, Consistency::Lease, Consistency::Stale]),
        (0..86_400_000_u64).prop_map(|ms| Consistency::Bounded(Duration::from_millis(ms))),
    ]
}

/// How a node keeps what was asked.
fn kept(consistency: Consistency) -> impl Strategy<Value = (ConfirmedBy, Option<u64>)> {
    (any::<bool>(), any::<u64>()).prop_map(move |(by_lease, ms)| match consistency {
        Consistency::Lease if by_lease => (ConfirmedBy::Lease, None),
        Consistency::Linearizable | Consistency::Lease => (ConfirmedBy::Quorum, None),
        Consistency::Stale => (ConfirmedBy::Nobody, None),
        Consistency::Bounded(_) => (ConfirmedBy::Quorum, Some(ms)),
    })
}

fn read_and_result() -> impl Strategy<Value = (ReadRequest, ReadResult)> {
    let request = (prop::option::of(vault()), key(), consistency())
        .prop_map(|(vault, key, consistency)| ReadRequest { vault, key, consistency });
    request.prop_flat_map(|request| {
        let result = (kept(request.consistency), revision(), prop::option::of(record()));
        (Just(request), result).prop_map(|(request, ((confirmed_by, staleness_ms), revision, record))| {
            (request, ReadResult { confirmed_by, staleness_ms, revision, record })
        })
    })
}

fn scan() -> impl Strategy<Value = ScanRequest> {
    let detail = select(vec![ScanDetail::Records, ScanDetail::Keys, ScanDetail::Count]);
    (prop::option::of(vault()), range(), 1..99_u32, detail, consistency()).prop_map(
        |(vault, range, limit, detail, consistency)| ScanRequest {
            vault,
            range,
            after: None,
            limit,
            detail,
            consistency,
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    let previous = || {
        prop_oneof![
            Just(Previous::NotNoted),
            Just(Previous::Absent),
            record().prop_map(|record| Previous::Record(Record { lease: None, ..record })),
        ]
    };
    let kind = prop_oneof![
        (key(), record(), previous()).prop_map(|(key, record, previous)| ChangeKind::Put {
            key,
            record,
            previous
        }),
        (key(), previous()).prop_map(|(key, previous)| ChangeKind::Deleted { key, previous }),
        Just(ChangeKind::VaultDeleted),
    ];
    kind.prop_map(|kind| Change { vault: Some(VaultName("v".into())), kind })
}

/// A refusal as it comes out at the client's end.
fn received(refusal: Refusal) -> ClusterRefusal {
    // The status says nothing that the code does not.
    ClusterRefusal::new(HttpAnswer { status: 400, body: refusal.json().to_string().into() }, true)
}

fn body_of(object: &Object) -> Vec<u8> {
    serde_json::to_vec(object).unwrap()
}

proptest! {
    #[test]
    fn command_that_is_written_is_read_as_it_was(command in command()) {
        prop_assert_eq!(check_command(&command), Ok(()));
        let request = write(&command);
        if request.path == "/kv/write" {
            let read: WriteBody = serde_json::from_str(&request.body()).unwrap();
            prop_assert_eq!(read.command(), Ok(command));
        }
    }

    #[test]
    fn outcome_comes_back_as_it_was(
        (command, outcome) in command().prop_flat_map(|command| {
            let outcome = outcome_of(&command);
            (Just(command), outcome)
        }),
        revision in revision(),
    ) {
        let result = WriteResult { revision, outcome };
        let got = match written(result.clone()) {
            Ok(answer) => super::outcome(&command, &body_of(&answer)).unwrap(),
            Err(refusal) => refused(&command, &received(refusal)).unwrap(),
        };
        prop_assert_eq!(got, result);
    }

    #[test]
    fn read_is_asked_and_answered_as_it_was((request, result) in read_and_result()) {
        let asked: ReadBody = serde_json::from_str(&read_request(&request).body()).unwrap();
        prop_assert_eq!(asked.request(), Ok(request.clone()));
        let got = match read_json(request.clone(), result.clone()) {
            Ok(answer) => read(&request, &body_of(&answer)).unwrap(),
            Err(refusal) => missing(&request, &received(refusal)).unwrap(),
        };
        prop_assert_eq!(got, result);
    }

    #[test]
    fn scan_is_asked_and_answered_as_it_was(
        (request, kept) in scan().prop_flat_map(|request| {
            let kept = kept(request.consistency);
            (Just(request), kept)
        }),
        revision in revision(),
        entries in vec((key(), record()), 1..4),
        is_truncated in any::<bool>(),
    ) {
        let asked: ScanBody = serde_json::from_str(&scan_request(&request).body()).unwrap();
        prop_assert_eq!(asked.request(), Ok(request.clone()));
        let (confirmed_by, staleness_ms) = kept;
        let mut result = ScanResult { confirmed_by, staleness_ms, revision, entries, is_truncated, count: None };
        if request.detail == ScanDetail::Count {
            result = ScanResult { entries: Vec::new(), is_truncated: false, count: Some(7), ..result };
        }
        let answer = page_json(&request, result.clone());
        if request.detail == ScanDetail::Keys {
            for (_, record) in &mut result.entries {
                *record = Record { value: Value::default(), create_revision: Revision(0), mod_revision: Revision(0), version: 0, lease: None };
            }
        }
        prop_assert_eq!(page(&request, &body_of(&answer)).unwrap(), result);
    }

    #[test]
    fn watch_is_asked_and_told_as_it_was(
        range in range(),
        vault in prop::option::of(vault()),
        from in prop::option::of(revision()),
        (with_previous, ends) in any::<(bool, bool)>(),
        consistency in select(vec![Consistency::Linearizable, Consistency::Lease, Consistency::Stale]),
        changes in vec(change(), 1..4),
    ) {
        let interest = Interest { vault, range };
        let request = WatchRequest { interest, from, with_previous, consistency, ends };
        let path = watch_query(&request).path();
        let Query(asked) = Query::<watches::WatchQuery>::try_from_uri(&path.parse().unwrap()).unwrap();
        prop_assert_eq!(asked.request(), Ok(request));

        let mut revised = Revised { revision: Revision(9), changes };
        let told = revised_json(revised.clone(), with_previous).to_string();
        for change in &mut revised.changes {
            if let ChangeKind::Put { previous, .. } | ChangeKind::Deleted { previous, .. } = &mut change.kind
                && !with_previous
            {
                *previous = Previous::NotNoted;
            }
        }
        let vault = VaultName("v".into());
        prop_assert_eq!(super::changes(Some(&vault), &told).unwrap(), revised);
    }

    /// The next page has every key of the range behind the last one, and no other.
    #[test]
    fn next_page_begins_behind_the_last_key(range in range(), after in long_key(), key in long_key()) {
        let rest = behind(&range, &after);
        prop_assert_eq!(rest.contains(&key.0), range.contains(&key.0) && key > after, "{:?}", rest);
        prop_assert_eq!(check_range(&rest), Ok(()));
    }
}

/// Keys up to the longest, near each other.
fn long_key() -> impl Strategy<Value = Key> {
    let longest = KEY_BYTES_MAX as usize;
    let end = vec(select(vec![0, b'a', b'b', u8::MAX]), 1..4);
    let length = select(vec![0, longest - 4, longest - 3, longest - 2, longest - 1]);
    (select(vec![b'a', u8::MAX]), length, end).prop_map(move |(byte, length, end)| {
        let mut key = vec![byte; length];
        key.extend(end);
        key.truncate(longest);
        Key(key)
    })
}

#[track_caller]
fn check(command: Command, want: (&str, &str, &str)) {
    let request = write(&command);
    assert_eq!((request.method, request.path.as_str(), request.body().as_str()), want);
}

#[test]
fn requests_are_those_of_the_document() {
    let vault = || VaultName("cfg".into());
    check(Command::CreateVault { vault: vault() }, ("PUT", "/vault/cfg", ""));
    check(Command::DeleteVault { vault: vault() }, ("DELETE", "/vault/cfg", ""));
    check(Command::GrantLease { ttl_ms: 10_000 }, ("POST", "/leases", r#"{"ttl_ms":10000}"#));
    check(Command::RevokeLease { lease: LeaseId(25) }, ("DELETE", "/lease/25", ""));
    let set =
        |key: &[u8], value: &[u8]| Command::Set { key: Key(key.to_vec()), value: Value(value.to_vec()) };
    let write = |body| ("POST", "/kv/write", body);
    check(set(b"k", b"v"), write(r#"{"command":{"Set":{"key":"k","value":"v"}}}"#));
    check(
        set(b"\xff\0", b"\0\xff"),
        write(r#"{"command":{"Set":{"key_base64":"/wA=","value_base64":"AP8="}}}"#),
    );
    let swap = Command::CompareAndSwap { key: "leader".into(), expected: None, value: "me".into() };
    let in_vault = Command::InVault { vault: vault(), command: Box::new(swap) };
    check(
        Command::WithLease { lease: LeaseId(25), command: Box::new(in_vault) },
        write(
            r#"{"command":{"CompareAndSwap":{"expected":null,"key":"leader","value":"me"}},"lease":25,"vault":"cfg"}"#,
        ),
    );
    let pairs = vec![("a".into(), "1".into()), ("b".into(), Value(b"\0\xff".to_vec()))];
    check(
        Command::SetMulti { pairs },
        write(r#"{"command":{"SetMulti":{"pairs":[["a","1"],{"key":"b","value_base64":"AP8="}]}}}"#),
    );
    let keys = vec!["a".into(), Key(b"\xff\0".to_vec())];
    check(
        Command::DeleteMulti { keys },
        write(r#"{"command":{"DeleteMulti":{"keys":["a",{"key_base64":"/wA="}]}}}"#),
    );
}

#[test]
fn answer_that_is_none_is_no_outcome() {
    let swap = Command::CompareAndSwap { key: "k".into(), expected: None, value: "v".into() };
    let wrong = |command: &Command, body: &str| {
        crate::causes::with_causes(&outcome(command, body.as_bytes()).unwrap_err())
    };
    assert_eq!(
        wrong(&swap, r#"{"revision":7,"swapped":false}"#),
        "nothing was swapped, and nothing else was found"
    );
    assert_eq!(
        wrong(&swap, r#"{"revision":7}"#),
        "the field `swapped` is wrong: invalid type: null, expected a boolean"
    );
    let get = Operation::Get { key: "k".into() };
    let transaction = Command::Transaction(Transaction { success: vec![get], ..Transaction::default() });
    assert_eq!(
        wrong(&transaction, r#"{"revision":7,"succeeded":true,"results":[]}"#),
        "0 results of 1 operations"
    );
    let refusal =
        |body: &'static str| ClusterRefusal::new(HttpAnswer { status: 409, body: body.into() }, true);
    // Without a revision nothing says that an entry has done this.
    assert_eq!(refused(&swap, &refusal(r#"{"error":{"code":"cas_failed","actual":"x"}}"#)), None);
    assert_eq!(refused(&swap, &refusal(r#"{"error":{"code":"cas_failed","revision":7}}"#)), None);
    assert_eq!(refused(&swap, &refusal(r#"{"error":{"code":"not_leader","revision":7}}"#)), None);
}
