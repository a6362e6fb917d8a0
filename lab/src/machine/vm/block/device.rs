//! The disk as a device of a virtual machine: its hypervisor has the queue of its requests from the guest, and the lab answers
//! them (vhost-user; virtio 1.2, 5.2).
//!
//! What moves a machine from host to host is not offered: neither hypervisor saves a machine with such a disk.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringMutex, VringT};
use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_SEG_MAX};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
use virtio_queue::QueueT;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use super::disk::Disk;
use super::request;
use crate::limits::machines::{DISK_QUEUE_MAX, DISK_SEGMENTS_MAX};

/// Fields of the device's configuration (virtio 1.2, 5.2.4), by their offsets in bytes.
const CAPACITY: usize = 0;
const SEG_MAX: usize = 12;
/// All of it that any field is in that this device offers.
const CONFIG_BYTES: usize = 16;

/// The disk, for the device and for whoever cuts its power.
#[derive(Debug)]
pub(super) struct Shared {
    disk: Mutex<Disk>,
    /// Told when the disk has lost its power.
    went_off: Condvar,
}

impl Shared {
    pub(super) fn new(disk: Disk) -> Self {
        Self { disk: Mutex::new(disk), went_off: Condvar::new() }
    }

    pub(super) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the disk has no power, or so long.
    pub(super) fn await_off(&self, limit: std::time::Duration) {
        // Whether it has none shows when it is cut.
        let _guard = self.went_off.wait_timeout_while(self.disk(), limit, |disk| !disk.is_off());
    }
}

/// One life of the device.
#[derive(Debug)]
pub(super) struct Device {
    shared: Arc<Shared>,
    memory: GuestMemoryAtomic<GuestMemoryMmap>,
    exit: (EventConsumer, EventNotifier),
}

impl Device {
    /// A device of a machine of which nothing is known yet.
    ///
    /// # Errors
    /// No eventfd can be had.
    pub(super) fn new(shared: Arc<Shared>, memory: GuestMemoryAtomic<GuestMemoryMmap>) -> io::Result<Self> {
        Ok(Self { shared, memory, exit: new_event_consumer_and_notifier(EventFlag::NONBLOCK)? })
    }

    /// Answers all requests that are in the queue.
    fn serve(&self, vring: &VringMutex) {
        let mut vring = vring.get_mut();
        let memory = self.memory.memory();
        let mut is_answered = false;
        while let Some(chain) = vring.get_queue_mut().pop_descriptor_chain(memory.clone()) {
            let head = chain.head_index();
            let mut disk = self.shared.disk();
            let served = request::serve(&mut disk, &memory, chain);
            drop(disk);
            let Some(bytes) = served else {
                self.shared.went_off.notify_all();
                return;
            };
            if vring.add_used(head, bytes).is_err() {
                // The queue is not where it should be: this guest has no disk any more.
                return;
            }
            is_answered = true;
        }
        if is_answered {
            // Of a machine that is gone nobody hears it.
            let _told = vring.signal_used_queue();
        }
    }
}

impl VhostUserBackend for Device {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        1
    }

    fn max_queue_size(&self) -> usize {
        DISK_QUEUE_MAX.into()
    }

    fn features(&self) -> u64 {
        let bits = [
            VIRTIO_F_VERSION_1,
            VIRTIO_RING_F_INDIRECT_DESC,
            VIRTIO_BLK_F_SEG_MAX,
            // A cache that the guest has to flush, and cannot switch off.
            VIRTIO_BLK_F_FLUSH,
        ];
        bits.into_iter().fold(VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits(), |set, bit| set | 1 << bit)
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::REPLY_ACK
    }

    fn set_event_idx(&self, _is_enabled: bool) {
        // Not offered.
    }

    /// Zeros stand for everything that is not offered.
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut config = vec![0; CONFIG_BYTES];
        config[CAPACITY..][..8].copy_from_slice(&self.shared.disk().sectors_count().to_le_bytes());
        config[SEG_MAX..][..4].copy_from_slice(&DISK_SEGMENTS_MAX.to_le_bytes());
        // Both are at most 256, or the protocol's own bounds have refused them.
        config.into_iter().chain(std::iter::repeat(0)).skip(offset as usize).take(size as usize).collect()
    }

    fn update_memory(&self, _memory: GuestMemoryAtomic<GuestMemoryMmap>) -> io::Result<()> {
        // The one that it was made with.
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        // Without one its thread would never end. The library keeps its end open for good: a descriptor for each start of a machine.
        let (consumer, notifier) = &self.exit;
        consumer.try_clone().ok().zip(notifier.try_clone().ok())
    }

    fn handle_event(
        &self,
        queue: u16,
        _events: EventSet,
        vrings: &[VringMutex],
        _thread: usize,
    ) -> io::Result<()> {
        if let Some(vring) = vrings.get(usize::from(queue)) {
            self.serve(vring);
        }
        Ok(())
    }
}
