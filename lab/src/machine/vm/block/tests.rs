//! The disk as data: requests in a guest's memory, its own mistakes included, and what is left of them after a power cut; and the
//! whole device over its socket, with a hypervisor's side of the protocol.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::limits::machines::{DISK_REQUEST_BYTES_MAX, UNFLUSHED_CONTENTS_MAX};
use crate::volume::{Asked, SECTOR_BYTES};

mod whole;

/// Sectors of a test's disk.
const SECTORS: u64 = 64;
const MEMORY_BYTES: usize = 8 << 20;
/// Places of the queue.
const QUEUE: u16 = 16;
/// What is where in the guest's memory.
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const HEADER: u64 = 0x10_0000;
const DATA: u64 = 0x10_1000;
const STATUS: u64 = 0x70_0000;

struct Bench {
    _home: tempfile::TempDir,
    path: PathBuf,
    disk: Disk,
    memory: GuestMemoryMmap,
}

/// A disk of zeros, and a guest.
fn bench() -> Bench {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data.raw");
    fs::write(&path, vec![0; usize::try_from(SECTORS).unwrap() * SECTOR_BYTES]).unwrap();
    let disk = Disk::open(&path).unwrap();
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
    Bench { _home: home, path, disk, memory }
}

/// A buffer of the guest: where it is, its length, and whether it is the disk's to write.
type Buffer = (u64, usize, bool);

/// Puts a request into the queue as it is, after so many others (virtio 1.2, 2.7).
fn put(memory: &GuestMemoryMmap, number: u16, buffers: &[Buffer]) {
    for (place, (address, bytes, is_given)) in (0_u16..).zip(buffers) {
        let is_last = usize::from(place) + 1 == buffers.len();
        let flags =
            if is_last { 0 } else { VRING_DESC_F_NEXT } | if *is_given { VRING_DESC_F_WRITE } else { 0 };
        let at = GuestAddress(DESCRIPTORS + 16 * u64::from(place));
        memory.write_obj(*address, at).unwrap();
        memory.write_obj(u32::try_from(*bytes).unwrap(), GuestAddress(at.0 + 8)).unwrap();
        memory.write_obj(u16::try_from(flags).unwrap(), GuestAddress(at.0 + 12)).unwrap();
        memory.write_obj(place + 1, GuestAddress(at.0 + 14)).unwrap();
    }
    memory.write_obj(0_u16, GuestAddress(AVAILABLE + 4 + 2 * u64::from(number % QUEUE))).unwrap();
    memory.write_obj(number + 1, GuestAddress(AVAILABLE + 2)).unwrap();
}

/// Puts a request into the queue as Linux does: the header, then the data, then a byte for the answer.
fn put_request(memory: &GuestMemoryMmap, number: u16, kind: u32, place: u64, data: (usize, bool)) {
    memory.write_obj(kind, GuestAddress(HEADER)).unwrap();
    memory.write_obj(place, GuestAddress(HEADER + 8)).unwrap();
    memory.write_obj(0xff_u8, GuestAddress(STATUS)).unwrap();
    let data = Some((DATA, data.0, data.1)).filter(|data| data.1 > 0);
    let buffers: Vec<_> = [(HEADER, 16, false)].into_iter().chain(data).chain([(STATUS, 1, true)]).collect();
    put(memory, number, &buffers);
}

impl Bench {
    /// Has these buffers served as a request, the first of a new queue.
    fn serve(&mut self, buffers: &[Buffer]) -> Option<u32> {
        put(&self.memory, 0, buffers);
        self.serve_queue()
    }

    /// Asks for something, and returns the answer.
    fn ask(&mut self, kind: u32, place: u64, data: (usize, bool)) -> Option<u32> {
        put_request(&self.memory, 0, kind, place, data);
        self.serve_queue()?;
        Some(self.memory.read_obj::<u8>(GuestAddress(STATUS)).unwrap().into())
    }

    fn serve_queue(&mut self) -> Option<u32> {
        let mut queue = Queue::new(QUEUE).unwrap();
        queue.try_set_desc_table_address(GuestAddress(DESCRIPTORS)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(AVAILABLE)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(USED)).unwrap();
        queue.set_ready(true);
        let chain = queue.pop_descriptor_chain(&self.memory).unwrap();
        request::serve(&mut self.disk, &self.memory, chain)
    }

    fn write(&mut self, place: u64, sectors: usize, byte: u8) -> Option<u32> {
        self.memory.write_slice(&vec![byte; sectors * SECTOR_BYTES], GuestAddress(DATA)).unwrap();
        self.ask(VIRTIO_BLK_T_OUT, place, (sectors * SECTOR_BYTES, false))
    }

    fn read(&mut self, place: u64, sectors: usize) -> Vec<u8> {
        let bytes = sectors * SECTOR_BYTES;
        assert_eq!(self.ask(VIRTIO_BLK_T_IN, place, (bytes, true)), Some(VIRTIO_BLK_S_OK));
        self.data(bytes)
    }

    fn data(&self, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.memory.read_slice(&mut data, GuestAddress(DATA)).unwrap();
        data
    }

    fn flush(&mut self) -> Option<u32> {
        self.ask(VIRTIO_BLK_T_FLUSH, 0, (0, false))
    }

    /// The first byte of every sector, where all of it is the same.
    fn sectors(&self) -> Vec<u8> {
        let bytes = fs::read(&self.path).unwrap();
        let sectors = bytes.chunks(SECTOR_BYTES);
        sectors
            .map(|sector| {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is torn");
                sector[0]
            })
            .collect()
    }
}

fn random(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

#[test]
fn what_was_written_is_read_and_the_disk_says_its_name() {
    let mut bench = bench();
    assert_eq!(bench.write(3, 2, 7), Some(VIRTIO_BLK_S_OK));
    let read = bench.read(2, 4);
    let want = [0, 7, 7, 0].map(|byte| vec![byte; SECTOR_BYTES]).concat();
    assert_eq!(read, want);
    assert_eq!(bench.ask(VIRTIO_BLK_T_GET_ID, 0, (20, true)), Some(VIRTIO_BLK_S_OK));
    assert_eq!(bench.data(20), b"aspen-data\0\0\0\0\0\0\0\0\0\0");
    // Less room than the standard asks for.
    assert_eq!(bench.ask(VIRTIO_BLK_T_GET_ID, 0, (4, true)), Some(VIRTIO_BLK_S_OK));
    assert_eq!(bench.data(5), b"aspen");
    assert_eq!(bench.flush(), Some(VIRTIO_BLK_S_OK));
}

#[track_caller]
fn check_refused(kind: u32, place: u64, data: (usize, bool), want: u32) {
    let mut bench = bench();
    assert_eq!(bench.ask(kind, place, data), Some(want));
    assert_eq!(bench.sectors(), vec![0; 64], "the disk has changed");
}

#[test]
fn requests_for_what_is_not_there_are_refused() {
    for (kind, is_given) in [(VIRTIO_BLK_T_IN, true), (VIRTIO_BLK_T_OUT, false)] {
        let failed = |place, bytes| check_refused(kind, place, (bytes, is_given), VIRTIO_BLK_S_IOERR);
        failed(SECTORS, SECTOR_BYTES);
        failed(SECTORS - 1, 2 * SECTOR_BYTES);
        failed(u64::MAX, SECTOR_BYTES);
        failed(u64::MAX / 512, 2 * SECTOR_BYTES);
        failed(0, SECTOR_BYTES - 1);
        failed(0, 0);
        failed(0, DISK_REQUEST_BYTES_MAX + SECTOR_BYTES);
        // In the other direction.
        check_refused(kind, 0, (SECTOR_BYTES, !is_given), VIRTIO_BLK_S_IOERR);
    }
    check_refused(VIRTIO_BLK_T_DISCARD, 0, (16, false), VIRTIO_BLK_S_UNSUPP);
    check_refused(u32::MAX, 0, (SECTOR_BYTES, false), VIRTIO_BLK_S_UNSUPP);
}

#[test]
fn buffers_that_make_no_request_are_given_back() {
    let mut bench = bench();
    let outside = MEMORY_BYTES as u64;
    for buffers in [
        // No place for an answer.
        &[(HEADER, 16, false)][..],
        &[(HEADER, 16, false), (DATA, 512, false)],
        // Nowhere, in part or as a whole.
        &[(outside, 16, false), (STATUS, 1, true)],
        &[(HEADER, 16, false), (outside - 1, 512, true), (STATUS, 1, true)],
        &[(HEADER, 16, false), (u64::MAX, 512, true), (STATUS, 1, true)],
        &[(HEADER, 16, false), (u64::MAX, 1, true)],
    ] {
        assert_eq!(bench.serve(buffers), Some(0), "{buffers:x?}");
    }
    // A header that is too short has an answer.
    bench.memory.write_obj(0xff_u8, GuestAddress(STATUS)).unwrap();
    assert_eq!(bench.serve(&[(HEADER, 15, false), (STATUS, 1, true)]), Some(1));
    assert_eq!(u32::from(bench.memory.read_obj::<u8>(GuestAddress(STATUS)).unwrap()), VIRTIO_BLK_S_IOERR);
}

#[test]
fn header_and_data_may_lie_in_pieces() {
    let mut bench = bench();
    bench.memory.write_obj(VIRTIO_BLK_T_OUT, GuestAddress(HEADER)).unwrap();
    bench.memory.write_obj(5_u64, GuestAddress(HEADER + 8)).unwrap();
    bench.memory.write_slice(&[9; SECTOR_BYTES], GuestAddress(DATA)).unwrap();
    let pieces = [
        (HEADER, 7, false),
        (HEADER + 7, 9, false),
        (DATA, 100, false),
        (DATA + 100, 412, false),
        (STATUS, 1, true),
    ];
    assert_eq!(bench.serve(&pieces), Some(1));
    assert_eq!(bench.sectors()[4..7], [0, 9, 0]);
}

#[test]
fn what_was_flushed_stays_and_the_rest_is_lost_as_was_drawn() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let mut bench = bench();
        bench.write(0, 4, 1);
        bench.flush();
        bench.write(2, 4, 2);
        bench.write(4, 4, 3);
        assert_eq!(bench.disk.unflushed_count(), 6);
        let Lost { sectors: lost, asked, .. } = bench.disk.cut(Loss::Some(50), &mut random(seed)).unwrap();
        assert_eq!(asked, Asked { writes: 3, syncs: 1 });
        let sectors = bench.sectors();
        assert_eq!(sectors[..2], [1, 1], "what was flushed is gone");
        assert!(sectors[2..4].iter().all(|byte| matches!(byte, 1 | 2)), "{sectors:?}");
        assert!(sectors[4..6].iter().all(|byte| matches!(byte, 0 | 2 | 3)), "{sectors:?}");
        assert!(sectors[6..8].iter().all(|byte| matches!(byte, 0 | 3)), "{sectors:?}");
        let kept = [2, 2, 3, 3, 3, 3];
        let changed = sectors[2..8].iter().zip(kept).filter(|(byte, want)| *byte != want).count();
        assert_eq!(lost, changed as u64, "what is counted is what was lost");
        seen.insert(sectors[2..8].to_vec());
    }
    assert!(seen.len() > 15, "{seen:?}");
    let mut bench = bench();
    bench.write(0, 8, 1);
    assert_eq!(bench.disk.cut(Loss::All, &mut random(1)).unwrap().sectors, 8);
    assert_eq!(bench.sectors(), [0; 64]);
}

#[test]
fn cut_takes_something_wherever_there_is_anything() {
    for seed in 0..50 {
        let mut bench = bench();
        // Nobody could tell whether this was lost.
        bench.write(0, 8, 0);
        assert_eq!(bench.disk.unflushed_count(), 0);
        assert_eq!(bench.disk.cut(Loss::Some(99), &mut random(seed)).unwrap().sectors, 0);
        bench.disk.turn_on();
        bench.write(0, 1, 1);
        assert_eq!(bench.disk.cut(Loss::Some(99), &mut random(seed)).unwrap().sectors, 1);
    }
}

#[test]
fn power_fails_at_the_chosen_moment_and_nobody_is_answered_after_it() {
    let mut bench = bench();
    bench.disk.fail_at(3);
    // Nothing to lose: no such moment.
    assert_eq!(bench.flush(), Some(VIRTIO_BLK_S_OK));
    assert_eq!(bench.write(0, 1, 1), Some(VIRTIO_BLK_S_OK));
    assert_eq!(bench.write(1, 1, 1), Some(VIRTIO_BLK_S_OK));
    assert_eq!(bench.flush(), None, "the power fails before the flush has begun");
    assert_eq!(bench.ask(VIRTIO_BLK_T_IN, 0, (SECTOR_BYTES, true)), None);
    assert_eq!(bench.write(2, 1, 1), None);
    assert_eq!(bench.sectors()[..3], [1, 1, 0], "it writes without power");
    assert_eq!(bench.disk.cut(Loss::All, &mut random(1)).unwrap().sectors, 2);
    bench.disk.turn_on();
    assert_eq!(bench.write(2, 1, 1), Some(VIRTIO_BLK_S_OK));
    assert_eq!(bench.sectors()[..3], [0, 0, 1]);
    // A flush at the very moment before it fails counts.
    bench.disk.fail_at(2);
    assert_eq!(bench.flush(), Some(VIRTIO_BLK_S_OK));
    assert_eq!(bench.write(3, 1, 1), None);
    bench.disk.cut(Loss::All, &mut random(1)).unwrap();
    assert_eq!(bench.sectors()[..4], [0, 0, 1, 0]);
}

#[test]
fn disk_with_too_much_in_its_cache_makes_it_durable() {
    let mut bench = bench();
    let per_write = usize::try_from(SECTORS).unwrap();
    let writes = UNFLUSHED_CONTENTS_MAX / per_write + 8;
    for number in 0..writes {
        bench.write(0, per_write, u8::try_from(number % 251).unwrap() + 1);
    }
    // Of every sector the latest contents are kept only, so it never came to that.
    bench.disk.cut(Loss::All, &mut random(1)).unwrap();
    assert_eq!(bench.sectors(), [0; 64]);
    let large = tempfile::tempdir().unwrap();
    let path = large.path().join("data.raw");
    File::create(&path).unwrap().set_len(((UNFLUSHED_CONTENTS_MAX + 1) * SECTOR_BYTES) as u64).unwrap();
    let mut disk = Disk::open(&path).unwrap();
    for place in 0..=UNFLUSHED_CONTENTS_MAX as u64 {
        disk.write(place, &[1; SECTOR_BYTES]).unwrap();
    }
    assert_eq!(disk.cut(Loss::All, &mut random(1)).unwrap().sectors, 1, "all but the last one are for good");
}

/// What a guest does to its disk.
#[derive(Debug, Clone)]
enum Step {
    Write { place: u64, sectors: usize, byte: u8 },
    Flush,
    Cut { loss: Loss, seed: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let loss = prop_oneof![Just(Loss::All), (1_u8..100).prop_map(Loss::Some)];
    prop_oneof![
        4 => (0..SECTORS - 8, 1_usize..8, 1_u8..).prop_map(|(place, sectors, byte)| Step::Write { place, sectors, byte }),
        1 => Just(Step::Flush),
        1 => (loss, any::<u64>()).prop_map(|(loss, seed)| Step::Cut { loss, seed }),
    ]
}

/// A buffer anywhere, of any length.
fn buffer() -> impl Strategy<Value = Buffer> {
    let address = prop_oneof![
        Just(HEADER),
        Just(DATA),
        Just(STATUS),
        Just(DESCRIPTORS),
        Just(MEMORY_BYTES as u64 - 1),
        any::<u64>()
    ];
    let bytes =
        prop_oneof![Just(1), Just(16), Just(SECTOR_BYTES), 0..8 * SECTOR_BYTES, Just(u32::MAX as usize)];
    (address, bytes, any::<bool>())
}

proptest! {
    /// Whatever a guest puts into its queue, it gets back, and no more of the disk has changed than it could have written.
    #[test]
    fn nothing_that_a_guest_asks_breaks_the_disk(
        buffers in proptest::collection::vec(buffer(), 1..8),
        kind in prop_oneof![0_u32..16, any::<u32>()],
        place in prop_oneof![0..2 * SECTORS, any::<u64>()],
    ) {
        let mut bench = bench();
        bench.memory.write_obj(kind, GuestAddress(HEADER)).unwrap();
        bench.memory.write_obj(place, GuestAddress(HEADER + 8)).unwrap();
        bench.memory.write_slice(&[5; 8 * SECTOR_BYTES], GuestAddress(DATA)).unwrap();
        prop_assert!(bench.serve(&buffers).is_some());
        let changed = fs::read(&bench.path).unwrap();
        prop_assert_eq!(changed.len(), usize::try_from(SECTORS).unwrap() * SECTOR_BYTES);
        // A header in pieces may begin with a part of that.
        prop_assert!(kind.to_le_bytes()[0] == 1 || changed.iter().all(|byte| *byte == 0));
        // It still does what it should.
        prop_assert_eq!(bench.write(0, 1, 9), Some(VIRTIO_BLK_S_OK));
        prop_assert_eq!(bench.read(0, 1), vec![9; SECTOR_BYTES]);
    }

    /// Whatever is written, flushed and cut: a sector holds what it held at the last flush, or what it was given since.
    #[test]
    fn every_sector_holds_what_it_could(steps in proptest::collection::vec(step(), 1..40)) {
        let mut bench = bench();
        // What each sector may hold after a cut, its content on the disk first.
        let mut could: BTreeMap<u64, Vec<u8>> = (0..SECTORS).map(|place| (place, vec![0])).collect();
        for step in steps {
            match step {
                Step::Write { place, sectors, byte } => {
                    prop_assert_eq!(bench.write(place, sectors, byte), Some(VIRTIO_BLK_S_OK));
                    for place in place..place + sectors as u64 {
                        could.get_mut(&place).unwrap().push(byte);
                    }
                }
                Step::Flush => {
                    prop_assert_eq!(bench.flush(), Some(VIRTIO_BLK_S_OK));
                    for contents in could.values_mut() {
                        *contents = contents.split_off(contents.len() - 1);
                    }
                }
                Step::Cut { loss, seed } => {
                    let has_anything = could.values().any(|contents| contents.last() != contents.first());
                    let lost = bench.disk.cut(loss, &mut random(seed)).unwrap().sectors;
                    prop_assert!(lost > 0 || !has_anything);
                    bench.disk.turn_on();
                    for (place, byte) in (0..).zip(bench.sectors()) {
                        let contents = could.get_mut(&place).unwrap();
                        prop_assert!(contents.contains(&byte), "sector {place} holds {byte}, not of {contents:?}");
                        if loss == Loss::All {
                            prop_assert_eq!(byte, contents[0]);
                        }
                        *contents = vec![byte];
                    }
                }
            }
            for (place, byte) in (0..).zip(bench.sectors()) {
                prop_assert_eq!(Some(&byte), could[&place].last());
            }
        }
    }
}
