//! What a crash leaves, what a damaged file is, and what need not be sent again.

use super::*;
use crate::types::NodeId;

fn meta(index: u64) -> SnapshotMeta {
    use openraft::vote::RaftLeaderIdExt;
    type LeaderId = <crate::types::TypeConfig as openraft::RaftTypeConfig>::LeaderId;
    let last = LogId::new(LeaderId::new_committed(1, NodeId(1)), index);
    SnapshotMeta { last_log_id: Some(last), ..SnapshotMeta::default() }
}

fn open(dir: &Path) -> SnapshotStore {
    SnapshotStore::open(dir, |path| {
        let (index, _) = parse_name(path.file_name().unwrap().to_str().unwrap()).unwrap();
        Ok(meta(index))
    })
    .unwrap()
}

/// Three regions and a bit of a chunk, every chunk another one.
fn content(seed: u8) -> Vec<u8> {
    let chunk = SNAPSHOT_CHUNK_BYTES as usize;
    let count = 3 * SNAPSHOT_REGION_CHUNKS as usize;
    let mut bytes: Vec<u8> =
        (0..count).flat_map(|number| [seed, number.to_le_bytes()[0]].repeat(chunk / 2)).collect();
    bytes.extend([seed; 100]);
    bytes
}

fn publish(store: &SnapshotStore, index: u64, bytes: &[u8]) -> SnapshotFile {
    let path = store.building().unwrap();
    fs::write(&path, bytes).unwrap();
    store.publish(&path, meta(index)).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Sends regions until `chunks_max` chunks were sent; whether it came to the end.
fn transfer(from: &SnapshotFile, to: &mut Incoming, chunks_max: usize) -> bool {
    let mut sent = 0;
    for region in 0..region_count(from.seal().bytes) {
        let mut wanted = to.next_region(from.region(region).unwrap()).unwrap();
        let first = region_chunks(from.seal().bytes, region).start;
        while wanted != 0 {
            if sent == chunks_max {
                return false;
            }
            to.write_chunk(&from.chunk(first + u64::from(wanted.trailing_zeros())).unwrap()).unwrap();
            wanted &= wanted - 1;
            sent += 1;
        }
    }
    true
}

#[test]
fn newest_snapshot_stays_and_what_a_crash_left_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = publish(&store, 5, &content(1));
    let second = publish(&store, 9, &content(2));
    assert_eq!(names(dir.path()), [name(meta(9).last_log_id, &second.seal().digest)]);
    assert_eq!(first.chunk(0).unwrap()[0], 1, "whoever reads the one before goes on");
    assert_eq!(publish(&store, 7, &content(3)).meta(), &meta(9), "an older one does not displace it");

    // Killed after the rename of a third one, before the second was removed, and while a fourth was built.
    let third = dir.path().join(name(meta(12).last_log_id, &second.seal().digest));
    fs::copy(dir.path().join(&names(dir.path())[0]), &third).unwrap();
    fs::write(dir.path().join("building"), b"half").unwrap();
    fs::write(dir.path().join("incoming"), b"half").unwrap();
    let store = open(dir.path());
    assert_eq!(store.current().unwrap().meta(), &meta(12));
    assert_eq!(names(dir.path()), [third.file_name().unwrap().to_str().unwrap(), "incoming"]);
    assert!(is_intact(&third).unwrap());
    let mut damaged = content(2);
    damaged[70_000] ^= 1;
    fs::write(&third, damaged).unwrap();
    assert!(!is_intact(&third).unwrap());
}

#[test]
fn broken_transfer_goes_on_where_it_was() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (sender, receiver) = (open(here.path()), open(there.path()));
    let snapshot = publish(&sender, 5, &content(1));
    let receive = || receiver.receive(meta(5), snapshot.seal(), Vec::new());
    let mut incoming = receive().unwrap();
    assert_eq!(receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert!(!transfer(&snapshot, &mut incoming, 100));
    assert!(!incoming.is_complete());
    drop(incoming);

    let mut incoming = receive().unwrap();
    assert!(transfer(&snapshot, &mut incoming, usize::MAX));
    assert_eq!(incoming.received_bytes(), snapshot.seal().bytes - 100 * u64::from(SNAPSHOT_CHUNK_BYTES));
    let taken = incoming.finish().unwrap();
    assert_eq!((taken.seal(), taken.meta()), (snapshot.seal(), &meta(5)));
    assert!(is_intact(&there.path().join(&names(there.path())[0])).unwrap());
}

#[test]
fn only_what_has_changed_is_sent() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (sender, receiver) = (open(here.path()), open(there.path()));
    publish(&receiver, 5, &content(1));
    let mut changed = content(1);
    changed[70_000] ^= 1;
    // A chunk that only the state itself has.
    let base = there.path().join("building");
    changed[140_000] ^= 1;
    let mut state = content(9);
    state[131_072..196_608].copy_from_slice(&changed[131_072..196_608]);
    fs::write(&base, state).unwrap();
    let snapshot = publish(&sender, 6, &changed);
    let bases = vec![Arc::new(File::open(&base).unwrap())];
    let mut incoming = receiver.receive(meta(6), snapshot.seal(), bases).unwrap();
    assert!(transfer(&snapshot, &mut incoming, usize::MAX));
    assert_eq!(incoming.received_bytes(), u64::from(SNAPSHOT_CHUNK_BYTES));
    incoming.finish().unwrap();
    assert_eq!(receiver.current().unwrap().seal(), snapshot.seal());
}

#[test]
fn damaged_snapshot_is_removed_once_and_counts_until_another_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let snapshot = publish(&store, 5, &content(1));
    assert_eq!(store.remove_damaged().unwrap(), None);
    let path = store.path(&snapshot);
    // Into its place, as a disk does it: whoever has it open sees it as well.
    File::options().write(true).open(&path).unwrap().write_all_at(b"!", 70_000).unwrap();
    assert!(snapshot.whole_digest().is_err());
    let why = "its bytes are not those of its digest".to_owned();
    assert_eq!(store.remove_damaged().unwrap(), Some((path.clone(), why)));
    assert_eq!(store.remove_damaged().unwrap(), None, "it is removed once");
    assert!(!path.exists() && store.current().unwrap().damage().is_some());

    // Of the same state, and so of the same name.
    publish(&store, 5, &content(1));
    assert_eq!((store.current().unwrap().damage(), store.remove_damaged().unwrap()), (None, None));
    assert!(is_intact(&path).unwrap());
    // One that cannot be read, though it is the newest.
    store.current().unwrap().note_damage("it cannot be read");
    let older = publish(&store, 3, &content(2));
    assert_eq!(store.current().unwrap().meta(), older.meta());
    assert_eq!(names(dir.path()), [name(meta(3).last_log_id, &older.seal().digest)]);
}

#[test]
fn what_does_not_fit_its_digest_is_refused() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (sender, receiver) = (open(here.path()), open(there.path()));
    let snapshot = publish(&sender, 5, &content(1));
    let mut incoming = receiver.receive(meta(5), snapshot.seal(), Vec::new()).unwrap();
    let error = incoming.write_chunk(b"unasked").unwrap_err().to_string();
    assert_eq!(error, "the sender has sent a chunk that does not have its digest");
    let region = snapshot.region(0).unwrap();
    assert_eq!(incoming.next_region(region.clone()).unwrap(), u64::MAX);
    assert!(incoming.write_chunk(&snapshot.chunk(1).unwrap()).is_err(), "the first one is due");
    assert!(incoming.next_region(region.clone()).is_err(), "the first region is not complete");
    assert!(incoming.finish().is_err());

    // The right chunks, under another name.
    let seal = Seal { digest: [7; 32], ..snapshot.seal() };
    let mut incoming = receiver.receive(meta(5), seal, Vec::new()).unwrap();
    assert!(transfer(&snapshot, &mut incoming, usize::MAX));
    assert!(incoming.finish().is_err());
    assert!(receiver.current().is_none());
}
