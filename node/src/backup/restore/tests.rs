//! What a restore makes, refuses, cleans away and begins anew.

use super::super::FORMAT;
use super::*;
use crate::storage::Execution;
use crate::storage::sqlite::sample;
use crate::storage::validate::validate;

/// A folder with a backup of a cluster whose only member has this key, and a place for a data directory.
struct Bench {
    folder: tempfile::TempDir,
    bytes: Vec<u8>,
}

impl Bench {
    fn new(member: &Identity) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = "127.0.0.1:9".parse().unwrap();
        let info = NodeInfo { endpoint_id: member.endpoint_id(), raft: address, http: address };
        let membership =
            Membership::new(vec![[NodeId(3)].into()], BTreeMap::from([(NodeId(3), info)])).unwrap();
        let path = folder.path().join("sample");
        sample(&path, (7, 40), &StoredMembership::new(None, membership));
        let state = fs::read(path).unwrap();
        let header = Header {
            format: FORMAT,
            cluster_id: None,
            node: NodeId(3),
            revision: 40,
            term: 7,
            made_unix_ms: 0,
            keys: 1,
            vaults: 0,
            bytes: state.len() as u64,
            digest: blake3::hash(&state).to_hex().to_string(),
        };
        Self { folder, bytes: [header.to_line(), state].concat() }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn restore(&self, bytes: &[u8]) -> Result<Restored, RestoreError> {
        let path = self.folder.path().join("backup");
        fs::write(&path, bytes).unwrap();
        let [raft, http] = ["127.0.0.1:1", "127.0.0.1:2"].map(|address| address.parse().unwrap());
        restore(&path, &FirstNode { data_dir: self.data(), id: NodeId(1), raft, http })
    }

    /// The names in the data directory; `None` where there is no directory.
    fn names(&self) -> Option<Vec<String>> {
        let names = fs::read_dir(self.data()).ok()?;
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        Some(names)
    }
}

fn other() -> Identity {
    Identity::from_secret([9; 32])
}

#[test]
fn restored_directory_is_sound_and_of_a_node_alone_in_later_terms() {
    let bench = Bench::new(&other());
    let restored = bench.restore(&bench.bytes).unwrap();
    assert_eq!(bench.names().unwrap(), ["identity.key", "log.redb", "state.sqlite"]);
    let report = validate(&bench.data()).unwrap();
    assert!(report.faults.is_empty(), "{:?}", report.faults);
    let last = 40 + RESTORED_REVISIONS_AHEAD;
    let log = format!("log of node 1: 0 entries, the last one nothing, cut behind entry {last} of term 7");
    assert_eq!(report.seen[..2], [log, format!("state: applied up to entry {last} of term 7")]);
    let log = RedbLogStore::open(&bench.data().join(LOG_FILE), NodeId(1), Execution::Thread).unwrap();
    let vote = log.durable_vote().unwrap();
    assert!(vote.leader_id.term >= 7 + RESTORED_TERMS_AHEAD[0] && !vote.committed, "{vote}");
    log.close();
    let held = crate::storage::sqlite::inspect_backup(&bench.data().join("state.sqlite")).unwrap();
    let members: Vec<_> = held.membership.nodes().map(|(id, info)| (id.0, info.endpoint_id)).collect();
    assert_eq!(members, [(1, restored.endpoint_id)]);
    assert_ne!(restored.endpoint_id, other().endpoint_id());
}

#[test]
fn what_fails_leaves_the_directory_as_it_was() {
    let bench = Bench::new(&other());
    let mut damaged = bench.bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(bench.restore(&damaged).is_err());
    assert_eq!(bench.names(), None);
    fs::create_dir(bench.data()).unwrap();
    let cut = &bench.bytes[..bench.bytes.len() - 1];
    assert!(bench.restore(cut).is_err());
    assert_eq!(bench.names().unwrap(), [""; 0]);
    // A key that was there stays.
    let key = Identity::load_or_create(&bench.data()).unwrap();
    assert!(bench.restore(cut).is_err());
    assert!(Identity::load_or_create(&bench.data()).unwrap() == key);
    assert_eq!(bench.names().unwrap(), ["identity.key"]);
    fs::write(bench.data().join("notes"), "mine").unwrap();
    let error = bench.restore(&bench.bytes).unwrap_err().to_string();
    let want = "data has something in it, \"notes\": a new node needs a directory that is empty or not there";
    assert!(error.ends_with(want), "{error}");
    assert_eq!(bench.names().unwrap(), ["identity.key", "notes"]);
}

#[test]
fn what_was_cut_off_is_begun_anew_but_not_under_the_feet_of_another() {
    let bench = Bench::new(&other());
    fs::create_dir(bench.data()).unwrap();
    for name in [RESTORING_FILE, "state.sqlite", "state.sqlite-wal", LOG_FILE] {
        fs::write(bench.data().join(name), "half").unwrap();
    }
    let report = validate(&bench.data()).unwrap();
    assert_eq!(report.faults[0].what, "the restore of this directory has not come to its end");
    let mark = File::open(bench.data().join(RESTORING_FILE)).unwrap();
    mark.try_lock().unwrap();
    let error = bench.restore(&bench.bytes).unwrap_err().to_string();
    assert!(error.starts_with("another restore works in "), "{error}");
    drop(mark);
    bench.restore(&bench.bytes).unwrap();
    assert_eq!(bench.names().unwrap(), ["identity.key", "log.redb", "state.sqlite"]);
}

/// Its members would take the node for the one that they know.
#[test]
fn key_of_an_old_member_is_refused() {
    let bench = Bench::new(&other());
    fs::create_dir(bench.data()).unwrap();
    other().store(&bench.data()).unwrap();
    let error = bench.restore(&bench.bytes).unwrap_err().to_string();
    assert!(
        error.contains("identity.key is that of node 3 of the cluster that the backup was taken from"),
        "{error}"
    );
    assert_eq!(bench.names().unwrap(), ["identity.key"]);
}

#[test]
fn node_that_nobody_could_find_is_refused_before_anything_is_read() {
    let node = |id, raft: &str| FirstNode {
        data_dir: "nowhere".into(),
        id: NodeId(id),
        raft: raft.parse().unwrap(),
        http: "127.0.0.1:1".parse().unwrap(),
    };
    let said = |node: FirstNode| restore(Path::new("nothing"), &node).unwrap_err().to_string();
    assert_eq!(said(node(0, "127.0.0.1:1")), "id is 0, node numbers start at 1");
    let want = "0.0.0.0:1 is an address that no other node can dial: give one that it listens at";
    assert_eq!(said(node(1, "0.0.0.0:1")), want);
}

#[test]
fn restore_that_finds_no_room_says_what_to_do() {
    let (path, full) = (|| PathBuf::from("data/x"), || io::Error::from(io::ErrorKind::StorageFull));
    let errors: [RestoreError; 3] = [
        RestoreError::Io { path: path(), source: full() },
        FileError::Io { path: path(), source: full() }.into(),
        StorageError::Io { path: path(), source: full() }.into(),
    ];
    for error in errors {
        let explained = error.explained(Path::new("data"));
        assert_eq!(explained.to_string(), "the disk of data is full: make room on it, and restore again");
        let cause = std::error::Error::source(&explained).unwrap().to_string();
        assert_eq!(cause, "cannot use data/x");
    }
    let other = RestoreError::Io { path: path(), source: io::ErrorKind::PermissionDenied.into() };
    assert_eq!(other.explained(Path::new("data")).to_string(), "cannot use data/x");
}
