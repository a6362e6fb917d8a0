//! The requests of a guest to its disk (virtio 1.2, 5.2.6), as they lie in its memory.
//!
//! A guest may write anything there, and change it at any time: everything is copied before it is looked at, and what does not fit
//! is refused. Nothing but reads, writes, flushes and the disk's name is offered.

use std::io::{self, Read, Write};
use std::ops::Deref;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_queue::{DescriptorChain, Reader, Writer};
use vm_memory::GuestMemoryMmap;

use super::disk::Disk;
use crate::limits::machines::DISK_REQUEST_BYTES_MAX;
use crate::volume::SECTOR_BYTES;

/// Bytes in front of every request: what is asked for, and from which sector on.
const HEADER_BYTES: usize = 16;
/// What follows the data that the guest is given.
const STATUS_BYTES: usize = 1;

/// Why a request is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// It asks for what is not there, is malformed, or the disk's file fails.
    Failed,
    /// It asks for something that is not offered.
    Unsupported,
}

impl From<io::Error> for Refusal {
    fn from(_why: io::Error) -> Self {
        Self::Failed
    }
}

/// Does what a request asks for and answers it. Returns how many bytes of the guest's memory were written, and nothing when the
/// disk has no power, or has lost it just now: then nobody is answered.
pub(super) fn serve<M>(disk: &mut Disk, memory: &GuestMemoryMmap, chain: DescriptorChain<M>) -> Option<u32>
where
    M: Deref<Target = GuestMemoryMmap> + Clone,
{
    if disk.is_off() {
        return None;
    }
    // Buffers that are nowhere, or that have no place for an answer, are given back as they are.
    let Ok(mut asked) = chain.clone().reader(memory) else { return Some(0) };
    let Ok(mut given) = chain.writer(memory) else { return Some(0) };
    let Some(data_bytes) = given.available_bytes().checked_sub(STATUS_BYTES) else { return Some(0) };
    let Ok(mut status) = given.split_at(data_bytes) else { return Some(0) };
    let done = execute(disk, &mut asked, &mut given);
    if disk.is_off() {
        return None;
    }
    let code = match done {
        Ok(()) => VIRTIO_BLK_S_OK,
        Err(Refusal::Failed) => VIRTIO_BLK_S_IOERR,
        Err(Refusal::Unsupported) => VIRTIO_BLK_S_UNSUPP,
    };
    // There is room for one byte.
    let _written = status.write_all(&code.to_le_bytes()[..STATUS_BYTES]);
    u32::try_from(given.bytes_written() + status.bytes_written()).ok()
}

fn execute(disk: &mut Disk, asked: &mut Reader<'_>, given: &mut Writer<'_>) -> Result<(), Refusal> {
    let mut header = [0; HEADER_BYTES];
    asked.read_exact(&mut header)?;
    let [k0, k1, k2, k3, _, _, _, _, place @ ..] = header;
    let place = u64::from_le_bytes(place);
    match u32::from_le_bytes([k0, k1, k2, k3]) {
        VIRTIO_BLK_T_IN => {
            let mut bytes = sectors(given.available_bytes())?;
            disk.read(place, &mut bytes)?;
            given.write_all(&bytes)?;
        }
        VIRTIO_BLK_T_OUT => {
            let mut bytes = sectors(asked.available_bytes())?;
            asked.read_exact(&mut bytes)?;
            disk.write(place, &bytes)?;
        }
        VIRTIO_BLK_T_FLUSH => disk.flush(),
        VIRTIO_BLK_T_GET_ID => {
            let mut name = [0; VIRTIO_BLK_ID_BYTES as usize];
            name[..NAME.len()].copy_from_slice(NAME);
            let room = given.available_bytes().min(name.len());
            given.write_all(&name[..room])?;
        }
        _ => return Err(Refusal::Unsupported),
    }
    Ok(())
}

/// By which the appliance knows it.
const NAME: &[u8] = aspen_init::layout::DATA_NAME.as_bytes();
const _: () = {
    // A shorter one ends with zeros.
    assert!(NAME.len() <= VIRTIO_BLK_ID_BYTES as usize);
};

/// Room for whole sectors.
fn sectors(bytes: usize) -> Result<Vec<u8>, Refusal> {
    let is_allowed = bytes > 0 && bytes.is_multiple_of(SECTOR_BYTES) && bytes <= DISK_REQUEST_BYTES_MAX;
    if is_allowed { Ok(vec![0; bytes]) } else { Err(Refusal::Failed) }
}
