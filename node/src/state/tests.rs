//! What each command does, command by command; `storage/tests.rs` has both state machines do the same.

use super::*;
use crate::storage::memory::MemoryStore;

fn set(key: &str, value: &str) -> Command {
    Command::Set { key: key.into(), value: value.into() }
}

fn cas(key: &str, expected: Option<&str>, value: &str) -> Command {
    Command::CompareAndSwap { key: key.into(), expected: expected.map(Value::from), value: value.into() }
}

fn delete(key: &str) -> Command {
    Command::Delete { key: key.into() }
}

fn vault(name: &str) -> VaultName {
    VaultName(name.to_owned())
}

fn within(name: &str, command: Command) -> Command {
    Command::InVault { vault: vault(name), command: Box::new(command) }
}

#[track_caller]
fn check(commands: &[Command], want: &[Outcome]) -> MemoryStore {
    let mut store = MemoryStore::default();
    let outcomes: Vec<_> = (1..)
        .zip(commands)
        .map(|(index, command)| apply(&mut store, Revision(index), command).unwrap())
        .collect();
    assert_eq!(outcomes, want);
    store
}

/// What a store holds outside vaults, as text.
fn held(store: &MemoryStore) -> Vec<(&str, &str)> {
    let entries = store.entries(Space::default());
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    entries.map(|(key, record)| (text(&key.0), text(&record.value.0))).collect()
}

fn record(value: &str, create: u64, modified: u64, version: u64) -> Record {
    let (create_revision, mod_revision) = (Revision(create), Revision(modified));
    Record { value: value.into(), create_revision, mod_revision, version, lease: None }
}

#[test]
fn record_tells_its_revisions() {
    let store = check(&[set("k", "a"), set("k", "b"), set("other", "x")], &[const { Outcome::Written }; 3]);
    assert_eq!(store.entries(Space::default()).next().unwrap().1, &record("b", 1, 2, 2));
}

#[test]
fn delete_tells_whether_the_key_existed() {
    check(
        &[delete("k"), set("k", "a"), delete("k")],
        &[Outcome::Deleted { existed: false }, Outcome::Written, Outcome::Deleted { existed: true }],
    );
}

#[test]
fn swap_needs_the_expected_value() {
    let store = check(
        &[cas("k", Some("a"), "b"), cas("k", None, "b"), cas("k", None, "c"), cas("k", Some("b"), "c")],
        &[
            Outcome::NotSwapped { actual: None },
            Outcome::Swapped,
            Outcome::NotSwapped { actual: Some("b".into()) },
            Outcome::Swapped,
        ],
    );
    assert_eq!(held(&store), [("k", "c")]);
}

#[test]
fn bounds_are_refused_and_change_nothing() {
    let long = Command::Set { key: Key(vec![b'k'; 1025]), value: "v".into() };
    let large = Command::Set { key: "k".into(), value: Value(vec![0; 1024 * 1024 + 1]) };
    let many = Command::SetMulti { pairs: vec![("k".into(), "v".into()); 101] };
    let nested = within("a", within("b", set("k", "v")));
    let store = check(&[set("", "v"), long, large, many, nested], &[const { Outcome::Refused }; 5]);
    assert_eq!(store, MemoryStore::default());
}

#[test]
fn many_keys_are_written_and_removed_at_once() {
    let pairs = vec![("a".into(), "1".into()), ("b".into(), "2".into()), ("a".into(), "3".into())];
    let store = check(
        &[Command::SetMulti { pairs }, Command::DeleteMulti { keys: vec!["b".into(), "c".into()] }],
        &[Outcome::Written, Outcome::DeletedMulti { existed_count: 1 }],
    );
    let entries: Vec<_> = store.entries(Space::default()).collect();
    assert_eq!(entries, [(&"a".into(), &record("3", 1, 1, 2))]);
}

fn compare(key: &str, relation: Relation, operand: Operand) -> Compare {
    Compare { key: key.into(), relation, operand }
}

fn put(key: &str, value: &str) -> Operation {
    Operation::Put { key: key.into(), value: value.into() }
}

fn get(key: &str) -> Operation {
    Operation::Get { key: key.into() }
}

#[test]
fn comparisons_hold_as_documented() {
    use Relation::{Equal, Greater, Less, NotEqual};
    let there = record("b", 3, 5, 2);
    let check = |relation, operand: Operand, present: bool, absent: bool| {
        let compare = compare("k", relation, operand);
        assert_eq!((holds(&compare, Some(&there)), holds(&compare, None)), (present, absent), "{compare:?}");
    };
    check(Equal, Operand::Value("b".into()), true, false);
    check(NotEqual, Operand::Value("b".into()), false, true);
    check(Less, Operand::Value("c".into()), true, false);
    check(Greater, Operand::Value("a".into()), true, false);
    check(Equal, Operand::Version(2), true, false);
    check(Less, Operand::Version(1), false, true);
    check(Equal, Operand::CreateRevision(Revision(3)), true, false);
    check(Greater, Operand::ModRevision(Revision(4)), true, false);
    check(Equal, Operand::ModRevision(Revision(0)), false, true);
    check(Equal, Operand::Exists(true), true, false);
    check(NotEqual, Operand::Exists(true), false, true);
}

#[test]
fn transaction_does_one_branch_and_each_operation_sees_those_before() {
    let range = Operation::Range { range: KeyRange { prefix: "a".into(), ..KeyRange::default() }, limit: 2 };
    let transaction = |exists| {
        Command::Transaction(Transaction {
            compare: vec![compare("a1", Relation::Equal, Operand::Exists(exists))],
            success: vec![
                put("a2", "new"),
                Operation::Delete { key: "a1".into() },
                get("a1"),
                get("a2"),
                put("a0", "first"),
                range.clone(),
                put("a2", "newer"),
            ],
            failure: vec![put("never", "x")],
        })
    };
    let entries = vec![("a0".into(), record("first", 3, 3, 1)), ("a2".into(), record("new", 3, 3, 1))];
    let results = vec![
        OperationResult::Written,
        OperationResult::Deleted { existed: true },
        OperationResult::Got(None),
        OperationResult::Got(Some(record("new", 3, 3, 1))),
        OperationResult::Written,
        OperationResult::Found { entries, is_truncated: true },
        OperationResult::Written,
    ];
    let store = check(
        &[set("a1", "old"), set("a3", "far"), transaction(true), transaction(true)],
        &[
            Outcome::Written,
            Outcome::Written,
            Outcome::Transaction { succeeded: true, results },
            Outcome::Transaction { succeeded: false, results: vec![OperationResult::Written] },
        ],
    );
    assert_eq!(held(&store), [("a0", "first"), ("a2", "newer"), ("a3", "far"), ("never", "x")]);
}

#[test]
fn transaction_that_would_answer_too_much_changes_nothing() {
    let large = Command::Set { key: "k".into(), value: Value(vec![b'v'; 1 << 20]) };
    let success = [vec![put("other", "x")], vec![get("k"); 5]].concat();
    let greedy = Command::Transaction(Transaction { success, ..Transaction::default() });
    let store = check(&[large, greedy], &[Outcome::Written, Outcome::AnswerTooLarge]);
    assert_eq!(store.entries(Space::default()).count(), 1);
}

#[test]
fn vaults_are_made_by_writing_and_keep_their_keys_apart() {
    let store = check(
        &[
            set("k", "outside"),
            within("a", delete("k")),
            within("d", cas("k", Some("nothing"), "x")),
            within("a", set("k", "in a")),
            within("b", cas("k", None, "in b")),
            within("a", cas("k", Some("outside"), "x")),
            Command::CreateVault { vault: vault("a") },
            Command::DeleteVault { vault: vault("a") },
            Command::DeleteVault { vault: vault("a") },
            within("a", cas("k", None, "again")),
            Command::CreateVault { vault: vault("c") },
        ],
        &[
            Outcome::Written,
            Outcome::Deleted { existed: false },
            Outcome::NotSwapped { actual: None },
            Outcome::Written,
            Outcome::Swapped,
            Outcome::NotSwapped { actual: Some("in a".into()) },
            Outcome::VaultReady { is_new: false },
            Outcome::Deleted { existed: true },
            Outcome::Deleted { existed: false },
            Outcome::Swapped,
            Outcome::VaultReady { is_new: true },
        ],
    );
    assert_eq!(held(&store), [("k", "outside")]);
    let vaults: Vec<_> = store.vaults().map(|(name, space)| (name.0.as_str(), space.0)).collect();
    assert_eq!(vaults, [("a", 10), ("b", 5), ("c", 11)]);
}

#[test]
fn there_are_only_so_many_vaults() {
    let mut store = MemoryStore::default();
    let mut done = |index, command: Command| apply(&mut store, Revision(index), &command).unwrap();
    for index in 1..=u64::from(VAULTS_MAX) {
        let made = done(index, Command::CreateVault { vault: VaultName(index.to_string()) });
        assert_eq!(made, Outcome::VaultReady { is_new: true });
    }
    assert_eq!(done(2_000, within("more", set("k", "v"))), Outcome::TooManyVaults);
    assert_eq!(done(2_001, within("1", set("k", "v"))), Outcome::Written);
}

fn grant() -> Command {
    Command::GrantLease { ttl_ms: 1_000 }
}

fn with(lease: u64, command: Command) -> Command {
    Command::WithLease { lease: LeaseId(lease), command: Box::new(command) }
}

fn revoke(lease: u64) -> Command {
    Command::RevokeLease { lease: LeaseId(lease) }
}

#[test]
fn keys_end_with_the_lease_that_wrote_them_last() {
    let put = Operation::Put { key: "e".into(), value: "v".into() };
    let transaction = Command::Transaction(Transaction { success: vec![put], ..Transaction::default() });
    let store = check(
        &[
            grant(),
            grant(),
            with(1, set("a", "v")),
            with(1, Command::SetMulti { pairs: vec![("b".into(), "v".into()), ("c".into(), "v".into())] }),
            with(1, within("x", set("d", "v"))),
            with(1, transaction),
            // One stays, one ends with another.
            set("b", "w"),
            with(2, cas("c", Some("v"), "w")),
            revoke(1),
            revoke(1),
            with(1, set("a", "late")),
        ],
        &[
            Outcome::LeaseGranted,
            Outcome::LeaseGranted,
            Outcome::Written,
            Outcome::Written,
            Outcome::Written,
            Outcome::Transaction { succeeded: true, results: vec![OperationResult::Written] },
            Outcome::Written,
            Outcome::Swapped,
            Outcome::LeaseEnded { existed: true, key_count: 3 },
            Outcome::LeaseEnded { existed: false, key_count: 0 },
            Outcome::LeaseNotFound,
        ],
    );
    assert_eq!(held(&store), [("b", "w"), ("c", "w")]);
    assert_eq!(store.entries(Space(5)).count(), 0);
    let leases: Vec<_> = store.leases().map(|info| (info.lease, info.ttl_ms, info.key_count)).collect();
    assert_eq!(leases, [(LeaseId(2), 1_000, 1)]);
}

#[test]
fn lease_has_a_bounded_number_of_keys_and_there_are_so_many_leases() {
    let mut store = MemoryStore::default();
    let mut apply_at = |index, command: &Command| apply(&mut store, Revision(index), command).unwrap();
    assert_eq!(apply_at(1, &grant()), Outcome::LeaseGranted);
    for tenth in 0..10 {
        let pairs = (0..100).map(|key| (format!("{tenth}/{key}").as_str().into(), "v".into())).collect();
        assert_eq!(apply_at(2, &with(1, Command::SetMulti { pairs })), Outcome::Written);
    }
    assert_eq!(apply_at(3, &with(1, set("one more", "v"))), Outcome::LeaseFull);
    assert_eq!(apply_at(4, &with(1, within("x", set("0/0", "v")))), Outcome::LeaseFull);
    // It has this one already.
    assert_eq!(apply_at(5, &with(1, set("0/0", "w"))), Outcome::Written);
    for lease in 0..u64::from(LEASES_MAX) - 1 {
        assert_eq!(apply_at(6 + lease, &grant()), Outcome::LeaseGranted);
    }
    assert_eq!(apply_at(20_000, &grant()), Outcome::TooManyLeases);
    assert_eq!(apply_at(20_001, &revoke(1)), Outcome::LeaseEnded { existed: true, key_count: 1_000 });
    assert_eq!(apply_at(20_002, &grant()), Outcome::LeaseGranted);
}
