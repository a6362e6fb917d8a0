//! Both state machines do the same: random commands, in random batches, leave equal digests, outcomes and keys behind; and
//! whoever has followed the changes has the same keys.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::limits::SCAN_LIMIT_MAX;
use crate::state::Space;
use crate::types::{
    ChangeKind, Compare, Interest, LeaseId, Operand, Operation, Previous, Record, Relation, Revision,
    Transaction, Value, VaultName,
};
use crate::watch::{ChangeFeed, Seen, Watcher};

/// Few keys, so that commands meet; one is another's beginning, and one is no text.
fn key() -> impl Strategy<Value = Key> {
    let keys: [&[u8]; 6] = [b"a", b"ab", b"b", b"b\0", b"c", b"\xff"];
    prop::sample::select(keys.map(|key| Key(key.to_vec())).to_vec())
}

fn value() -> impl Strategy<Value = Value> {
    prop::sample::select(vec!["", "1", "2"]).prop_map(Value::from)
}

fn range() -> impl Strategy<Value = KeyRange> {
    let bound = || prop_oneof![2 => Just(Key::default()), 1 => key()];
    (bound(), bound(), bound()).prop_map(|(prefix, start, end)| KeyRange { prefix, start, end })
}

fn compare() -> impl Strategy<Value = Compare> {
    let operand = prop_oneof![
        value().prop_map(Operand::Value),
        (0..4_u64).prop_map(Operand::Version),
        (0..40_u64).prop_map(|at| Operand::CreateRevision(Revision(at))),
        (0..40_u64).prop_map(|at| Operand::ModRevision(Revision(at))),
        any::<bool>().prop_map(Operand::Exists),
    ];
    let relations = vec![Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater];
    (key(), prop::sample::select(relations), operand).prop_map(|(key, relation, operand)| Compare {
        key,
        relation,
        operand,
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (key(), value()).prop_map(|(key, value)| Operation::Put { key, value }),
        key().prop_map(|key| Operation::Delete { key }),
        key().prop_map(|key| Operation::Get { key }),
        (range(), 1..4_u32).prop_map(|(range, limit)| Operation::Range { range, limit }),
    ]
}

fn plain_command() -> impl Strategy<Value = Command> {
    let operations = || prop::collection::vec(operation(), 0..6);
    prop_oneof![
        3 => (key(), value()).prop_map(|(key, value)| Command::Set { key, value }),
        1 => key().prop_map(|key| Command::Delete { key }),
        2 => (key(), prop::option::of(value()), value())
            .prop_map(|(key, expected, value)| Command::CompareAndSwap { key, expected, value }),
        1 => prop::collection::vec((key(), value()), 0..4).prop_map(|pairs| Command::SetMulti { pairs }),
        1 => prop::collection::vec(key(), 0..4).prop_map(|keys| Command::DeleteMulti { keys }),
        4 => (prop::collection::vec(compare(), 0..2), operations(), operations())
            .prop_map(|(compare, success, failure)| Command::Transaction(Transaction { compare, success, failure })),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let vault = || prop::sample::select(vec!["x", "y"]).prop_map(|name| VaultName(name.to_owned()));
    let in_vault = || {
        (vault(), plain_command())
            .prop_map(|(vault, command)| Command::InVault { vault, command: Box::new(command) })
    };
    // Every second or third of these numbers is that of a lease, by and by.
    let lease = || (1..12_u64).prop_map(LeaseId);
    prop_oneof![
        6 => plain_command(),
        3 => in_vault(),
        2 => Just(Command::GrantLease { ttl_ms: 1_000 }),
        1 => lease().prop_map(|lease| Command::RevokeLease { lease }),
        4 => (lease(), prop_oneof![plain_command(), in_vault()])
            .prop_map(|(lease, command)| Command::WithLease { lease, command: Box::new(command) }),
        1 => vault().prop_map(|vault| Command::CreateVault { vault }),
        1 => vault().prop_map(|vault| Command::DeleteVault { vault }),
    ]
}

async fn held(readers: &ReadPool, vault: Option<VaultName>) -> Vec<(Key, Record)> {
    let page = readers.scan(ScanRequest {
        vault,
        range: KeyRange::default(),
        after: None,
        limit: SCAN_LIMIT_MAX,
        detail: ScanDetail::Records,
        consistency: Consistency::Stale,
    });
    page.await.unwrap().entries
}

/// What a watch has told, done to keys of its own.
struct Follower {
    watcher: Watcher,
    keys: BTreeMap<Key, Record>,
    seen: Revision,
}

impl Follower {
    fn new(feed: &ChangeFeed, vault: Option<&str>, range: KeyRange) -> Self {
        let interest = Interest { vault: vault.map(|name| VaultName(name.to_owned())), range };
        let watcher = feed.watch(interest, None, true).unwrap();
        Self { watcher, keys: BTreeMap::new(), seen: Revision(0) }
    }

    fn catch_up(&mut self) {
        let mut told = Vec::new();
        while let Seen { revised, is_all, .. } = self.watcher.look().unwrap()
            && !(revised.is_empty() && is_all)
        {
            told.extend(revised);
        }
        for revised in told {
            assert!(self.seen < revised.revision, "once, and in order");
            self.seen = revised.revision;
            for change in revised.changes {
                match change.kind {
                    ChangeKind::Put { key, record, previous } => {
                        let before = self.keys.insert(key, record);
                        assert_eq!(before.map_or(Previous::Absent, Previous::Record), previous);
                    }
                    ChangeKind::Deleted { key, previous } => {
                        let before = self.keys.remove(&key).expect("what was not there is not removed");
                        assert_eq!(Previous::Record(before), previous);
                    }
                    ChangeKind::VaultDeleted => self.keys.clear(),
                }
            }
        }
    }
}

async fn agree(batches: Vec<Vec<Command>>) {
    let dir = tempfile::tempdir().unwrap();
    let (mut sqlite, mut memory) = (open_state(dir.path()), InMemoryStateMachine::default());
    let (feed, of_half) =
        (sqlite.feed(), KeyRange { start: "ab".into(), end: "c".into(), ..KeyRange::default() });
    let mut followers =
        [None, Some("x"), Some("y")].map(|vault| Follower::new(&feed, vault, KeyRange::default()));
    let mut half = Follower::new(&feed, None, of_half.clone());
    let mut index = 0;
    for batch in batches {
        let entries: Vec<Entry> = batch
            .into_iter()
            .map(|command| {
                index += 1;
                Entry { log_id: log_id(1, index), payload: EntryPayload::Normal((&command).into()) }
            })
            .collect();
        let again: Vec<_> = entries.iter().cloned().map(|entry| Ok((entry, None))).collect();
        memory.apply(futures::stream::iter(again)).await.unwrap();
        apply(&mut sqlite, entries.into_iter()).await;
        // It covers every outcome.
        assert_eq!(digest_of(&sqlite).await.1, data_encoding::HEXLOWER.encode(&memory.digest()));
        // Some look often, one only at the end.
        followers[1..].iter_mut().for_each(Follower::catch_up);
        half.catch_up();
    }
    let (readers, store) = (sqlite.readers(), memory.store());
    let in_memory = |space: Space| -> Vec<_> {
        store.entries(space).map(|(key, record)| (key.clone(), record.clone())).collect()
    };
    assert_eq!(held(&readers, None).await, in_memory(Space::default()));
    assert_eq!(readers.leases().await.unwrap().leases, store.leases().collect::<Vec<_>>());
    let vaults = readers.vaults().await.unwrap().vaults;
    let want: Vec<_> = store.vaults().map(|(name, space)| (name.clone(), Revision(space.0))).collect();
    assert_eq!(vaults, want);
    followers[0].catch_up();
    let mut told: BTreeMap<Option<VaultName>, BTreeMap<Key, Record>> = BTreeMap::new();
    for (vault, follower) in [None, Some("x"), Some("y")].into_iter().zip(followers) {
        told.insert(vault.map(|name| VaultName(name.to_owned())), follower.keys);
    }
    let follows = |vault: &Option<VaultName>, held: &[(Key, Record)]| {
        assert_eq!(
            told[vault].iter().map(|(key, record)| (key.clone(), record.clone())).collect::<Vec<_>>(),
            held
        );
    };
    follows(&None, &in_memory(Space::default()));
    let mut of_none = in_memory(Space::default());
    of_none.retain(|(key, _)| of_half.contains(&key.0));
    assert_eq!(half.keys.into_iter().collect::<Vec<_>>(), of_none);
    for (name, space) in vaults {
        follows(&Some(name.clone()), &in_memory(Space(space.0)));
        assert_eq!(held(&readers, Some(name)).await, in_memory(Space(space.0)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn state_machines_agree_on_every_command(
        batches in prop::collection::vec(prop::collection::vec(command(), 1..12), 1..5)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(agree(batches));
    }
}
