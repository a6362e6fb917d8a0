//! The device as a hypervisor sees it.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::time::Instant;

use vhost::VhostBackend;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{FileOffset, GuestMemoryBackend};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::limits::POLL_INTERVAL;

/// Longest wait for the device.
const ANSWER_MAX: Duration = Duration::from_mins(1);

/// A machine that has the disk.
struct Guest {
    memory: GuestMemoryMmap,
    kick: EventFd,
    call: EventFd,
    /// How often it has asked.
    asked_count: Cell<u16>,
    _frontend: Frontend,
}

impl Guest {
    /// Connects with the disk, as QEMU and Cloud Hypervisor do.
    fn boot(home: &Path) -> Self {
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(true).open(home.join("memory")).unwrap();
        file.set_len(MEMORY_BYTES as u64).unwrap();
        let place = (GuestAddress(0), MEMORY_BYTES, Some(FileOffset::new(file, 0)));
        let memory = GuestMemoryMmap::from_ranges_with_files([place]).unwrap();
        let mut frontend = Frontend::connect(home.join(SOCKET), 1).unwrap();
        frontend.set_owner().unwrap();
        let features = frontend.get_features().unwrap();
        frontend.set_features(features).unwrap();
        let protocol = frontend.get_protocol_features().unwrap();
        assert!(protocol.contains(VhostUserProtocolFeatures::CONFIG));
        frontend.set_protocol_features(protocol).unwrap();
        // As much as QEMU asks for.
        let asked = [0; 60];
        let (_, config) = frontend.get_config(0, 60, VhostUserConfigFlags::empty(), &asked).unwrap();
        assert_eq!(config.len(), 60);
        assert_eq!(config[..8], SECTORS.to_le_bytes());
        let regions: Vec<_> = memory
            .iter()
            .map(|region| VhostUserMemoryRegionInfo::from_guest_region(region).unwrap())
            .collect();
        frontend.set_mem_table(&regions).unwrap();
        let address = |at| memory.get_host_address(GuestAddress(at)).unwrap() as u64;
        let vring = VringConfigData {
            queue_max_size: QUEUE,
            queue_size: QUEUE,
            flags: 0,
            desc_table_addr: address(DESCRIPTORS),
            used_ring_addr: address(USED),
            avail_ring_addr: address(AVAILABLE),
            log_addr: None,
        };
        frontend.set_vring_num(0, QUEUE).unwrap();
        frontend.set_vring_base(0, 0).unwrap();
        frontend.set_vring_addr(0, &vring).unwrap();
        let (kick, call) = (EventFd::new(0).unwrap(), EventFd::new(EFD_NONBLOCK).unwrap());
        frontend.set_vring_call(0, &call).unwrap();
        frontend.set_vring_kick(0, &kick).unwrap();
        frontend.set_vring_enable(0, true).unwrap();
        Self { memory, kick, call, asked_count: Cell::new(0), _frontend: frontend }
    }

    /// Asks the device and waits for its answer; there is none when the disk has no power any more.
    fn ask(&self, disk: &ServedDisk, kind: u32, place: u64, data: (usize, bool)) -> Option<u32> {
        let number = self.asked_count.replace(self.asked_count.get() + 1);
        put_request(&self.memory, number, kind, place, data);
        self.kick.write(1).unwrap();
        let deadline = Instant::now() + ANSWER_MAX;
        while self.call.read().is_err() {
            if disk.shared.disk().is_off() {
                return None;
            }
            assert!(Instant::now() < deadline, "no answer came");
            thread::sleep(POLL_INTERVAL);
        }
        Some(self.memory.read_obj::<u8>(GuestAddress(STATUS)).unwrap().into())
    }
}

#[test]
fn machine_after_machine_has_the_disk_and_one_that_loses_its_power_what_it_flushed() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data.raw");
    fs::write(&path, vec![0; usize::try_from(SECTORS).unwrap() * SECTOR_BYTES]).unwrap();
    let mut disk = ServedDisk::open(&path).unwrap();
    // One that never connects.
    disk.connect().unwrap();
    disk.connect().unwrap();
    let (sector, done) = ((SECTOR_BYTES, false), Some(VIRTIO_BLK_S_OK));
    let guest = Guest::boot(home.path());
    assert_eq!(guest.ask(&disk, VIRTIO_BLK_T_GET_ID, 0, (20, true)), done);
    guest.memory.write_slice(&[1; SECTOR_BYTES], GuestAddress(DATA)).unwrap();
    assert_eq!(guest.ask(&disk, VIRTIO_BLK_T_OUT, 0, sector), done);
    assert_eq!(guest.ask(&disk, VIRTIO_BLK_T_FLUSH, 0, (0, false)), done);
    assert_eq!(guest.ask(&disk, VIRTIO_BLK_T_OUT, 1, sector), done);
    // Killed, which its disk does not notice.
    drop(guest);
    disk.connect().unwrap();
    let guest = Guest::boot(home.path());
    assert_eq!(guest.ask(&disk, VIRTIO_BLK_T_IN, 1, (SECTOR_BYTES, true)), done);
    let mut read = [0; SECTOR_BYTES];
    guest.memory.read_slice(&mut read, GuestAddress(DATA)).unwrap();
    assert_eq!(read, [1; SECTOR_BYTES]);
    // Its power fails at one of the next moments, and it answers no more.
    disk.fail(7);
    let mut answers = (2..)
        .take(POWER_CUT_CHANCES_MAX as usize)
        .map(|place| guest.ask(&disk, VIRTIO_BLK_T_OUT, place, sector));
    assert!(answers.any(|answer| answer.is_none()));
    disk.await_failure(ANSWER_MAX);
    drop(answers);
    drop(guest);
    assert!(disk.cut(7).unwrap().sectors > 0);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes[..SECTOR_BYTES], [1; SECTOR_BYTES], "what was flushed is gone");
    disk.connect().unwrap();
    let guest = Guest::boot(home.path());
    assert_eq!(guest.ask(&disk, VIRTIO_BLK_T_IN, 0, (SECTOR_BYTES, true)), done);
    drop(guest);
    drop(disk);
    assert!(!home.path().join(SOCKET).exists());
}
